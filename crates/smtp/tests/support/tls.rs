//! Certificates for the scripted server, made for each test.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version,
};

/// An authority, and the file that says to trust it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub file: PathBuf,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    Expired,
    NotYetValid,
    SelfSigned,
    /// And marked as an authority's.
    SelfSignedAuthority,
    OtherName,
    /// Signed by an authority of another name than the trusted one.
    OtherAuthority,
    /// Signed by an authority of the same name as the trusted one, but with another key.
    OtherKey,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("Test Authority")
    }

    fn named(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("mail-smtp-{}-{n}.pem", std::process::id()));
        std::fs::write(&file, pem).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }

    /// A server's configuration with a certificate for `localhost`.
    pub fn server(&self, flaw: Flaw) -> Arc<ServerConfig> {
        self.server_with(flaw, &[&version::TLS13, &version::TLS12])
    }

    pub fn server_with(
        &self,
        flaw: Flaw,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let name = if flaw == Flaw::OtherName {
            "other.example"
        } else {
            "localhost"
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        match flaw {
            Flaw::Expired => params.not_after = date_time_ymd(2001, 1, 1),
            Flaw::NotYetValid => params.not_before = date_time_ymd(3000, 1, 1),
            Flaw::SelfSignedAuthority => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            _ => {}
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match flaw {
            Flaw::SelfSigned | Flaw::SelfSignedAuthority => params.self_signed(&key),
            Flaw::OtherAuthority => params.signed_by(&key, &Self::named("Another").issuer),
            Flaw::OtherKey => params.signed_by(&key, &Self::new().issuer),
            _ => params.signed_by(&key, &self.issuer),
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.unwrap().der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
