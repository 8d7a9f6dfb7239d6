//! TLS (RFC 3207, RFC 8314): whom to shake hands with, and what went wrong in words an operator can act on.
//!
//! Configurations are kept per process and with them the sessions to resume. Those that verify and those
//! that do not are apart, so that a session opened without verification is never resumed with it.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{AlertDescription, ClientConfig, Error, crypto::ring, pki_types::ServerName};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Endpoint, Phase, RelayFault, TlsInfo, TlsMode,
    connect::fault,
    stream::Socket,
    trust::{self, Anyone, Trust},
};

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

/// Shakes hands with the relay over `socket`.
pub(crate) async fn handshake(
    socket: Socket,
    endpoint: &Endpoint,
) -> Result<(TlsStream<Socket>, TlsInfo), RelayFault> {
    let verifies = verifies(endpoint);
    let key = (endpoint.ca_file.clone().filter(|_| verifies), verifies);
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
    let stream = match timeout(patience, TlsConnector::from(config).connect(name, socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(fault(Phase::Tls, None, explain(&error, &endpoint.host))),
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
            Some(changed.map_err(|error| trust::unreadable(path, &error))?)
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
    let builder = builder.dangerous();
    let builder = if key.1 {
        let trust = Trust::new(provider, key.0.as_deref())?;
        builder.with_custom_certificate_verifier(Arc::new(trust))
    } else {
        builder.with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    };
    let config = Arc::new(builder.with_no_client_auth());
    lock().insert(key, (changed, Arc::clone(&config)));
    Ok(config)
}

/// A failed handshake in words.
fn explain(error: &io::Error, host: &str) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let why = match inner {
        Some(Error::InvalidCertificate(flaw)) => return trust::explain(flaw, host),
        Some(Error::InvalidMessage(_)) => {
            "what the relay sends is not TLS; does this port want STARTTLS?".to_owned()
        }
        Some(Error::PeerIncompatible(why)) => format!("nothing in common with the relay: {why:?}"),
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => {
            "the relay speaks no version of TLS that is safe".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("the relay refused it: {alert:?}"),
        Some(other) => other.to_string(),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => "the relay closed the connection".to_owned(),
            _ => error.to_string(),
        },
    };
    format!("TLS handshake with \"{host}\" failed: {why}")
}
