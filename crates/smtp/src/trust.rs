//! Whose certificates are trusted, and which flaw a certificate has, in words.
//!
//! The words are found while the certificate is at hand: what the handshake reports later does not hold it.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use webpki::EndEntityCert;

use crate::read_file;

/// At most so many of a certificate's names are told.
const MAX_NAMES: usize = 5;

/// The octets of a file of trust anchors: several times those of a whole system.
const MOST_ANCHORS: u64 = 4 << 20;

/// What is wrong with a certificate; completes `the certificate of "…" …`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Flaw(String);

/// The flaw of a certificate that made a handshake with `host` fail.
pub(crate) fn explain(error: &CertificateError, host: &str) -> String {
    let flaw = match error {
        CertificateError::Other(OtherError(inner)) => inner.downcast_ref::<Flaw>(),
        _ => None,
    };
    match flaw {
        Some(Flaw(text)) => format!("the certificate of \"{host}\" {text}"),
        None => format!("the certificate of \"{host}\" cannot be trusted: {error}"),
    }
}

/// Trusts what a set of authorities has signed, and names the flaw of what it does not trust.
#[derive(Debug)]
pub(crate) struct Trust {
    inner: Arc<WebPkiServerVerifier>,
    /// Where the authorities stand.
    source: String,
}

impl Trust {
    /// The authorities of a PEM file, or the system's.
    pub(crate) fn new(provider: Arc<CryptoProvider>, file: Option<&Path>) -> Result<Self, String> {
        let anchors = Arc::new(anchors(file)?);
        let inner = WebPkiServerVerifier::builder_with_provider(anchors, provider)
            .build()
            .map_err(|error| error.to_string())?;
        let source = match file {
            Some(path) => format!("in \"{}\"", path.display()),
            None => "among this system's authorities".to_owned(),
        };
        Ok(Self { inner, source })
    }

    /// The flaw in words, if there are any for it.
    fn words(&self, error: &CertificateError, certificate: &CertificateDer<'_>) -> Option<String> {
        use CertificateError as E;
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let (issuer, self_signed) = (parsed.issuer(), parsed.issuer() == parsed.subject());
        Some(match error {
            E::ExpiredContext { time, not_after } => {
                format!("has expired, {} ago", span(*not_after, *time))
            }
            E::Expired => "has expired".to_owned(),
            E::NotValidYetContext { time, not_before } => {
                let wait = span(*time, *not_before);
                format!("is not yet valid, it will be in {wait}; is the clock right?")
            }
            E::NotValidYet => "is not yet valid".to_owned(),
            E::NotValidForName | E::NotValidForNameContext { .. } => {
                let names = names(parsed.valid_dns_names(), error);
                format!("is for another name: {names}")
            }
            // Refused before anyone asks who signed it, wherever it stands.
            E::Other(OtherError(inner)) if is_an_authoritys(inner.as_ref()) && self_signed => {
                "is self-signed and says CA:TRUE, which a server's must not".to_owned()
            }
            E::UnknownIssuer if self_signed => format!("is self-signed and not {}", self.source),
            E::UnknownIssuer => {
                let authority = authority(issuer);
                format!(
                    "was issued by {authority}, which is not {}; or the relay leaves out a certificate between",
                    self.source
                )
            }
            E::BadSignature => {
                let authority = authority(issuer);
                format!(
                    "says it was issued by {authority}, but the key of that name {} is another",
                    self.source
                )
            }
            _ => return None,
        })
    }
}

fn is_an_authoritys(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// A time span for a person.
fn span(from: UnixTime, to: UnixTime) -> String {
    let hours = to.as_secs().saturating_sub(from.as_secs()) / 3600;
    match hours {
        0 => "less than an hour".to_owned(),
        1..48 => format!("{hours} h"),
        _ => format!("{} days", hours / 24),
    }
}

/// Which names a certificate carries, and which was asked for.
fn names<'a>(dns: impl Iterator<Item = &'a str>, error: &CertificateError) -> String {
    let mut carried: Vec<String> = dns.map(|name| format!("\"{name}\"")).collect();
    let mut asked = String::new();
    if let CertificateError::NotValidForNameContext {
        expected,
        presented,
    } = error
    {
        asked = format!(", not \"{}\"", expected.to_str());
        if carried.is_empty() {
            carried.clone_from(presented); // addresses, perhaps
        }
    }
    let more = carried.len().saturating_sub(MAX_NAMES);
    carried.truncate(MAX_NAMES);
    let mut text = match carried.as_slice() {
        [] => "it carries none".to_owned(),
        names => names.join(", "),
    };
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    text + &asked
}

/// An issuer for a person: its common name, if it has one.
fn authority(name: &[u8]) -> String {
    common_name(name).map_or_else(|| "an authority".to_owned(), |name| format!("\"{name}\""))
}

/// The common name in the DER of a distinguished name (RFC 5280 §4.1.2.4), for telling only.
fn common_name(name: &[u8]) -> Option<String> {
    const OID: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let at = name.windows(OID.len()).position(|w| w == OID)?;
    let [_, length, rest @ ..] = &name[at + OID.len()..] else {
        return None;
    };
    let text = String::from_utf8_lossy(rest.get(..usize::from(*length))?);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    Some(text.chars().map(clean).collect())
}

pub(crate) fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "could not read trust anchors from \"{}\": {error}",
        path.display()
    )
}

/// The trust anchors of a PEM file, or the system's.
fn anchors(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(path) = file {
        let pem = read_file(path, MOST_ANCHORS).map_err(|e| unreadable(path, &e))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| unreadable(path, &error))?;
            store
                .add(certificate)
                .map_err(|error| unreadable(path, &error))?;
        }
        if store.is_empty() {
            return Err(unreadable(path, &"it holds no certificate"));
        }
    } else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err("the system has no trust anchors; install its CA certificates".to_owned());
        }
    }
    Ok(store)
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .inner
            .verify_server_cert(certificate, others, name, ocsp, now);
        verified.map_err(|error| {
            let Error::InvalidCertificate(flaw) = &error else {
                return error;
            };
            match self.words(flaw, certificate) {
                Some(text) => CertificateError::Other(OtherError(Arc::new(Flaw(text)))).into(),
                None => error,
            }
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate, but its holder must have its key.
#[derive(Debug)]
pub(crate) struct Anyone(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn spans_are_told_in_hours_and_days() {
        let at = |hours: u64| UnixTime::since_unix_epoch(Duration::from_secs(hours * 3600));
        assert_eq!(span(at(5), at(5)), "less than an hour");
        assert_eq!(span(at(5), at(52)), "47 h");
        assert_eq!(span(at(0), at(49)), "2 days");
        assert_eq!(span(at(9), at(0)), "less than an hour");
    }

    #[test]
    fn a_common_name_is_found_and_garbage_is_survived() {
        let name = b"\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02CA";
        assert_eq!(common_name(name).as_deref(), Some("CA"));
        for end in 0..name.len() {
            assert_eq!(common_name(&name[..end]), None);
        }
    }

    #[test]
    fn many_names_are_counted() {
        let error = CertificateError::NotValidForName;
        let names = |n| super::names(vec!["a.example"; n].into_iter(), &error);
        assert_eq!(names(0), "it carries none");
        assert_eq!(names(2), "\"a.example\", \"a.example\"");
        assert!(names(8).ends_with("\"a.example\" and 3 more"));
    }
}
