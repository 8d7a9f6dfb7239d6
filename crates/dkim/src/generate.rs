//! New keys, with entropy from the operating system.

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::rand_core::OsRng;
use thiserror::Error;

use crate::encode;
use crate::key::{Algorithm, PrivateKey};

/// The length that RFC 8301 §3.2 tells signers to use at least; longer ones make DNS answers that some networks drop.
const RSA_BITS: usize = 2048;

/// A new key pair. `Debug` leaves the private part out.
pub struct Generated {
    /// The private key, PKCS #8 in PEM, unencrypted.
    pub private_pem: String,
    /// What to publish: see [`PrivateKey::dns_record`].
    pub dns_record: String,
}

impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generated")
            .field("dns_record", &self.dns_record)
            .finish_non_exhaustive()
    }
}

/// A key could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no key could be generated")]
pub struct GenerateError;

/// Makes a key for `algorithm`; RSA with 2048 bits, which takes about 0.1 s of CPU and now and then half a second.
pub fn generate(algorithm: Algorithm) -> Result<Generated, GenerateError> {
    let private_pem = match algorithm {
        Algorithm::RsaSha256 => rsa_pem()?,
        Algorithm::Ed25519Sha256 => ed25519_pem()?,
    };
    let dns_record = PrivateKey::from_pem(&private_pem)
        .map_err(|_| GenerateError)?
        .dns_record();
    Ok(Generated {
        private_pem,
        dns_record,
    })
}

/// `ring` signs but makes no RSA keys; the `rsa` crate is used for this alone.
fn rsa_pem() -> Result<String, GenerateError> {
    let key = RsaPrivateKey::new(&mut OsRng, RSA_BITS).map_err(|_| GenerateError)?;
    let der = key.to_pkcs8_der().map_err(|_| GenerateError)?;
    Ok(encode::private_key_pem(der.as_bytes()))
}

fn ed25519_pem() -> Result<String, GenerateError> {
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| GenerateError)?;
    Ok(encode::private_key_pem(&encode::ed25519_pkcs8(&seed)))
}
