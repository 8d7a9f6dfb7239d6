//! A certificate authority and a server certificate for the loopback interface.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::guard::Folder;

/// Fresh for each use: nothing else on the machine trusts it, and it trusts nothing else.
pub struct Certificates {
    ca: String,
    certificate: String,
    key: String,
    folder: Folder,
}

impl Certificates {
    /// For `localhost` and `127.0.0.1`.
    pub fn new() -> Self {
        Self::valid_for(&["localhost", "127.0.0.1"])
    }

    /// For other names, so that a client must refuse it.
    pub fn valid_for(names: &[&str]) -> Self {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name
            .push(DnType::CommonName, "pgmq_mail test authority");
        let ca_certificate = ca.self_signed(&ca_key).expect("parameters are sound");
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut server = CertificateParams::new(names).expect("names are sound");
        server
            .distinguished_name
            .push(DnType::CommonName, "pgmq_mail test server");
        let certificate = server
            .signed_by(&key, &issuer)
            .expect("parameters are sound");

        let folder = Folder::new("tls");
        let this = Self {
            ca: ca_certificate.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            folder,
        };
        this.folder.write("ca.pem", &this.ca);
        this.folder.write("server.pem", &this.certificate);
        this.folder.write("server.key", &this.key);
        this
    }

    /// A file with the authority's certificate, for `ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// Writes certificate and key into a folder as `server.pem` and `server.key`.
    pub(crate) fn write(&self, folder: &Folder, below: &str) -> (PathBuf, PathBuf) {
        let below = Path::new(below);
        let name = |file: &str| below.join(file).to_str().expect("ASCII").to_owned();
        (
            folder.write(&name("server.pem"), &self.certificate),
            folder.write(&name("server.key"), &self.key),
        )
    }

    /// The TLS settings of a server.
    pub fn server(&self) -> Arc<ServerConfig> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("our own PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("our own PEM");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they fit each other");
        Arc::new(config)
    }

    /// The TLS settings of a client that trusts this authority only.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("our own PEM"))
            .expect("an authority");
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
