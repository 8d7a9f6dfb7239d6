//! The URL of a relay: `smtp://host[:port]` or `smtps://host[:port]`, with `?starttls=required|opportunistic|never`.

use mail_smtp::TlsMode;
use url::{Host, Url};

/// What a relay's URL says.
#[derive(Debug, PartialEq, Eq)]
pub struct RelayUrl {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Protection of the connection.
    pub tls: TlsMode,
}

/// What is wrong with a relay's URL.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Not a URL.
    #[error("invalid relay URL: {0}")]
    Syntax(#[from] url::ParseError),
    /// Neither smtp nor smtps.
    #[error("invalid relay URL: scheme \"{0}\" is not smtp or smtps")]
    Scheme(String),
    /// No host.
    #[error("invalid relay URL: no host")]
    NoHost,
    #[error(
        "invalid relay URL: credentials do not belong there, use the columns username and secret"
    )]
    /// A user name or password within the URL.
    Credentials,
    /// More than a host and a port.
    #[error("invalid relay URL: unexpected path or fragment")]
    Path,
    /// A parameter other than starttls.
    #[error("invalid relay URL: unknown parameter \"{0}\"")]
    Parameter(String),
    /// An unknown value of starttls.
    #[error("invalid relay URL: starttls must be required, opportunistic or never")]
    StartTls,
}

impl RelayUrl {
    /// Reads a relay's URL. The default for STARTTLS is `required` where a username is configured (RFC 8314 section 3.3),
    /// else `opportunistic`.
    pub fn parse(url: &str, with_username: bool) -> Result<Self, UrlError> {
        let url = Url::parse(url)?;
        let implicit = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials);
        }
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(UrlError::Path);
        }
        let mut tls = match (implicit, with_username) {
            (true, _) => TlsMode::Implicit,
            (false, true) => TlsMode::StartTlsRequired,
            (false, false) => TlsMode::StartTlsOpportunistic,
        };
        for (name, value) in url.query_pairs() {
            if name != "starttls" || implicit {
                return Err(UrlError::Parameter(name.into_owned()));
            }
            tls = match value.as_ref() {
                "required" => TlsMode::StartTlsRequired,
                "opportunistic" => TlsMode::StartTlsOpportunistic,
                "never" => TlsMode::Never,
                _ => return Err(UrlError::StartTls),
            };
        }
        let host = match url.host().ok_or(UrlError::NoHost)? {
            Host::Domain("") => return Err(UrlError::NoHost),
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let default_port = match (implicit, with_username) {
            (true, _) => 465,
            (false, true) => 587,
            (false, false) => 25,
        };
        Ok(RelayUrl {
            host,
            port: url.port().unwrap_or(default_port),
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str, with_username: bool) -> (String, u16, TlsMode) {
        let url = RelayUrl::parse(url, with_username).expect("a good URL");
        (url.host, url.port, url.tls)
    }

    #[test]
    fn the_defaults_follow_scheme_and_username() {
        let host = || "mx.example".to_owned();
        assert_eq!(
            parsed("smtp://mx.example", false),
            (host(), 25, TlsMode::StartTlsOpportunistic)
        );
        assert_eq!(
            parsed("smtp://mx.example", true),
            (host(), 587, TlsMode::StartTlsRequired)
        );
        assert_eq!(
            parsed("smtps://mx.example/", true),
            (host(), 465, TlsMode::Implicit)
        );
        assert_eq!(
            parsed("smtp://[::1]:2525?starttls=never", true),
            ("::1".to_owned(), 2525, TlsMode::Never)
        );
    }

    #[test]
    fn what_is_not_a_relay_is_refused() {
        for url in [
            "mx.example",
            "http://mx.example",
            "smtp://",
            "smtp://user:secret@mx.example",
            "smtp://mx.example/path",
            "smtp://mx.example#fragment",
            "smtp://mx.example?starttls=maybe",
            "smtp://mx.example?tls=1",
            "smtps://mx.example?starttls=never",
            "smtp://mx.example:99999",
        ] {
            assert!(RelayUrl::parse(url, false).is_err(), "{url}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_credentials() {
        let error = RelayUrl::parse("smtp://user:hunter2@mx.example", true).expect_err("refused");
        assert!(!error.to_string().contains("hunter2"));
    }
}
