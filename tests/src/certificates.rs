//! A certificate authority and a server certificate for the loopback interface.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
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
        Self::issue(|_| (), false)
    }

    /// For other names, so that a client must refuse it.
    pub fn valid_for(names: &[&str]) -> Self {
        let names = names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>();
        let other = CertificateParams::new(names).expect("names are sound");
        Self::issue(
            |server| server.subject_alt_names = other.subject_alt_names,
            false,
        )
    }

    /// Valid until some years ago.
    pub fn expired() -> Self {
        let period = |server: &mut CertificateParams| {
            server.not_before = date_time_ymd(2019, 1, 1);
            server.not_after = date_time_ymd(2020, 1, 1);
        };
        Self::issue(period, false)
    }

    /// Valid from some hundred years on.
    pub fn not_yet_valid() -> Self {
        let period = |server: &mut CertificateParams| {
            server.not_before = date_time_ymd(2400, 1, 1);
            server.not_after = date_time_ymd(2500, 1, 1);
        };
        Self::issue(period, false)
    }

    /// Signed by nobody but itself: the authority has nothing to do with it.
    pub fn self_signed() -> Self {
        Self::issue(|_| (), true)
    }

    /// [`self_signed`](Self::self_signed), and marked as an authority's, as simple tools make them.
    pub fn self_signed_authority() -> Self {
        let mark = |server: &mut CertificateParams| {
            server.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        };
        Self::issue(mark, true)
    }

    /// Each authority has a name of its own.
    fn issue(change: impl FnOnce(&mut CertificateParams), self_signed: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name = DistinguishedName::new();
        ca.distinguished_name
            .push(DnType::CommonName, format!("Test Root {number}"));
        let ca_certificate = ca.self_signed(&ca_key).expect("parameters are sound");
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().expect("a key");
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut server = CertificateParams::new(names).expect("names are sound");
        server.distinguished_name = DistinguishedName::new();
        server
            .distinguished_name
            .push(DnType::CommonName, format!("Test Server {number}"));
        change(&mut server);
        let certificate = if self_signed {
            server.self_signed(&key)
        } else {
            server.signed_by(&key, &issuer)
        };
        let certificate = certificate.expect("parameters are sound");

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

    /// The folder of its files.
    pub fn folder(&self) -> &str {
        self.folder.text()
    }

    /// A file with the authority's certificate, for `ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A file with the server's certificate.
    pub fn server_file(&self) -> PathBuf {
        self.folder.path().join("server.pem")
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
