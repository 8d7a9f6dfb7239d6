//! The URL of a relay: `smtp://host[:port]`, `smtps://host[:port]` or `lmtp://host[:port]`, with
//! `?starttls=required|opportunistic|never`, or `lmtp:///path/of/socket`.

use std::path::PathBuf;

use mail_smtp::{Protocol, TlsMode};
use url::{Host, Url};

/// What a relay's URL says.
#[derive(Debug, PartialEq, Eq)]
pub struct RelayUrl {
    /// What is spoken there.
    pub protocol: Protocol,
    /// A Unix socket instead of a host.
    pub socket: Option<PathBuf>,
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
    /// None of the schemes above.
    #[error("invalid relay URL: scheme \"{0:.40}\" is not smtp, smtps or lmtp")]
    Scheme(String),
    /// No host.
    #[error("invalid relay URL: no host")]
    NoHost,
    #[error(
        "invalid relay URL: credentials do not belong there, use the columns username and secret"
    )]
    /// A user name or password within the URL.
    Credentials,
    /// A name that needs another form before it can be looked up.
    #[error(
        "invalid relay URL: the host is not a name in ASCII (A-labels, as xn--bcher-kva.example) or an address"
    )]
    Host,
    /// Port 0, which nobody listens on.
    #[error("invalid relay URL: port 0")]
    Port,
    /// More than a host and a port.
    #[error("invalid relay URL: unexpected path or fragment")]
    Path,
    /// The path of a socket that is not absolute, or has characters that a URL escapes.
    #[error(
        "invalid relay URL: the path of a socket begins with / and has no characters that a URL escapes"
    )]
    Socket,
    /// A parameter other than starttls.
    #[error("invalid relay URL: unknown parameter, only starttls is known")]
    Parameter,
    /// An unknown value of starttls.
    #[error("invalid relay URL: starttls must be required, opportunistic or never")]
    StartTls,
}

impl RelayUrl {
    /// Reads a relay's URL. The default for STARTTLS is `required` where a username is configured (RFC 8314 section 3.3),
    /// else `opportunistic`.
    pub fn parse(url: &str, with_username: bool) -> Result<Self, UrlError> {
        let url = Url::parse(url)?;
        let (protocol, implicit) = match url.scheme() {
            "smtp" => (Protocol::Smtp, false),
            "smtps" => (Protocol::Smtp, true),
            "lmtp" => (Protocol::Lmtp, false),
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        let local = protocol == Protocol::Lmtp;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials);
        }
        let has_path = !matches!(url.path(), "" | "/");
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        if url.fragment().is_some() || has_path && (has_host || !local) {
            return Err(UrlError::Path);
        }
        let mut tls = match (implicit, with_username) {
            (true, _) => TlsMode::Implicit,
            (false, true) => TlsMode::StartTlsRequired,
            (false, false) if local => TlsMode::Never,
            (false, false) => TlsMode::StartTlsOpportunistic,
        };
        if has_path {
            if url.query().is_some() {
                return Err(UrlError::Path);
            }
            if !url.path().starts_with('/') || url.path().contains('%') {
                return Err(UrlError::Socket);
            }
            return Ok(Self {
                protocol,
                socket: Some(PathBuf::from(url.path())),
                host: "localhost".to_owned(),
                port: 0,
                tls: TlsMode::Never,
            });
        }
        for (name, value) in url.query_pairs() {
            if name != "starttls" || implicit {
                return Err(UrlError::Parameter);
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
            Host::Domain(name) if !is_name(name) => return Err(UrlError::Host),
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let default_port = match (implicit, with_username) {
            _ if local => 24,
            (true, _) => 465,
            (false, true) => 587,
            (false, false) => 25,
        };
        let port = url.port().unwrap_or(default_port);
        if port == 0 {
            return Err(UrlError::Port);
        }
        Ok(RelayUrl {
            protocol,
            socket: None,
            host,
            port,
            tls,
        })
    }
}

/// Whether a host can be looked up as it is: schemes that URLs do not know keep it with its escapes. Underscores are no
/// letters of host names, but of names that containers have.
fn is_name(host: &str) -> bool {
    host.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
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
    fn lmtp_goes_to_a_host_or_a_socket() {
        let url = RelayUrl::parse("lmtp://localhost", false).expect("a good URL");
        assert_eq!((url.port, url.tls, url.socket), (24, TlsMode::Never, None));
        let url = RelayUrl::parse("lmtp:///var/run/dovecot/lmtp", false).expect("a good URL");
        assert_eq!(url.protocol, Protocol::Lmtp);
        assert_eq!(url.socket, Some(PathBuf::from("/var/run/dovecot/lmtp")));
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
            "smtp://mx.example:0",
            "smtp:///var/run/socket",
            "lmtp://mx.example/var/run/socket",
            "lmtp://",
            "lmtp:run/lmtp",
            "lmtp:///var/run/a b",
            "lmtp:///var/run/a%00",
            "smtp://müller.example",
            "smtp://mx%0a.example",
        ] {
            assert!(RelayUrl::parse(url, false).is_err(), "{url}");
        }
    }

    #[test]
    fn a_refusal_is_one_short_line() {
        let long = format!("smtp://mx.example?{}=1", "a".repeat(5000));
        for url in [
            "smtp://mx.example?%0asecret=never",
            &long,
            &format!("{}://x", "a".repeat(5000)),
        ] {
            let error = RelayUrl::parse(url, false)
                .expect_err("refused")
                .to_string();
            assert!(!error.contains('\n') && error.len() < 200, "{error}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_credentials() {
        let error = RelayUrl::parse("smtp://user:hunter2@mx.example", true).expect_err("refused");
        assert!(!error.to_string().contains("hunter2"));
    }
}
