//! TLS (RFC 3207, RFC 8314): whom to trust, and what went wrong in words an operator can act on.
//!
//! Configurations are kept per process and with them the sessions to resume. Those that verify and those
//! that do not are apart, so that a session opened without verification is never resumed with it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Endpoint, Phase, RelayFault, TlsInfo, TlsMode, connect::fault};

/// What a configuration depends on: the trust anchors' file, and whether to verify at all.
type Key = (Option<PathBuf>, bool);
/// A configuration, and when the file it was made from was last changed.
type Entry = (Option<SystemTime>, Arc<ClientConfig>);

static CONFIGS: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Mutex::default);

/// Opportunistic TLS protects against listeners only, and takes any certificate, unless a secret is going
/// to be sent through it.
fn verifies(endpoint: &Endpoint) -> bool {
    endpoint.tls != TlsMode::StartTlsOpportunistic || endpoint.credentials.is_some()
}

/// Shakes hands with the relay over `tcp`.
pub(crate) async fn handshake(
    tcp: TcpStream,
    endpoint: &Endpoint,
) -> Result<(TlsStream<TcpStream>, TlsInfo), RelayFault> {
    let key = (endpoint.ca_file.clone(), verifies(endpoint));
    // Reading trust anchors takes milliseconds, once; other sessions share this thread.
    let config = tokio::task::spawn_blocking(move || config(key))
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
        .map_err(|detail| fault(Phase::Tls, None, detail))?;
    let name = endpoint.host.trim_end_matches('.').to_owned();
    let name = ServerName::try_from(name).map_err(|_| {
        fault(
            Phase::Tls,
            None,
            format!("no certificate can name \"{}\"", endpoint.host),
        )
    })?;
    let patience = endpoint.timeouts.connect;
    let stream = match timeout(patience, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(fault(Phase::Tls, None, explain(&error, endpoint))),
        Err(_) => {
            let detail = format!(
                "timed out after {} s in the TLS handshake",
                patience.as_secs_f64()
            );
            return Err(fault(Phase::Tls, None, detail));
        }
    };
    let connection = stream.get_ref().1;
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3", // rustls knows no other
    };
    let suite = connection
        .negotiated_cipher_suite()
        .map(|suite| suite.suite());
    let cipher = suite
        .and_then(|suite| suite.as_str())
        .unwrap_or("unknown")
        .to_owned();
    Ok((stream, TlsInfo { version, cipher }))
}

/// The configuration for a key, made anew only if its file has changed.
fn config(key: Key) -> Result<Arc<ClientConfig>, String> {
    let changed = match &key.0 {
        Some(path) => {
            let changed = std::fs::metadata(path).and_then(|file| file.modified());
            Some(changed.map_err(|error| unreadable(path, &error))?)
        }
        None => None,
    };
    let lock = || CONFIGS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((made_from, config)) = lock().get(&key)
        && *made_from == changed
    {
        return Ok(Arc::clone(config));
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if key.1 {
        builder.with_root_certificates(anchors(key.0.as_deref())?)
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    };
    let config = Arc::new(builder.with_no_client_auth());
    lock().insert(key, (changed, Arc::clone(&config)));
    Ok(config)
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "could not read trust anchors from \"{}\": {error}",
        path.display()
    )
}

/// The trust anchors of a PEM file, or the system's.
fn anchors(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(path) = file {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(path, &e))?;
        for certificate in certificates {
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

/// A failed handshake in words.
fn explain(error: &io::Error, endpoint: &Endpoint) -> String {
    use CertificateError as E;
    let host = &endpoint.host;
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(flaw)) = inner else {
        return format!("TLS handshake with \"{host}\" failed: {error}");
    };
    match flaw {
        E::Expired | E::ExpiredContext { .. } => {
            format!("the certificate of \"{host}\" has expired")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("the certificate of \"{host}\" is not yet valid")
        }
        E::UnknownIssuer => {
            let known = match &endpoint.ca_file {
                Some(path) => format!("not in \"{}\"", path.display()),
                None => "unknown to this system".to_owned(),
            };
            format!("the certificate of \"{host}\" is self-signed or its issuer is {known}")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("the certificate is for another name than \"{host}\": {flaw}")
        }
        _ => format!("the certificate of \"{host}\" cannot be trusted: {flaw}"),
    }
}

/// Takes any certificate, but its holder must have its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
