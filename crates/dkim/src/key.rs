//! Private keys: read, checked once, and used for signatures. Their text never leaves this module.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use ring::{digest, error::KeyRejected};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use thiserror::Error;

use crate::encode;

/// How a message is signed: the `a=` of a signature, and the kind of key that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `rsa-sha256` (RFC 6376 §3.3.1), with keys of 2048 to 4096 bits. Every receiver knows it.
    RsaSha256,
    /// `ed25519-sha256` (RFC 8463). Some receivers do not know it, so it is used beside an RSA signature.
    Ed25519Sha256,
}

impl Algorithm {
    /// The name in a signature's `a=`: `rsa-sha256` or `ed25519-sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

/// Why a private key cannot be used. Holds nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Neither PEM with a private key nor the base64 of an Ed25519 seed.
    #[error(
        "no private key found: PEM (PKCS #8 or PKCS #1) or the base64 of an Ed25519 seed is expected"
    )]
    Missing,
    /// PEM of a public key or of a certificate.
    #[error("this is a public key or a certificate, not a private key")]
    Public,
    /// PEM that needs a passphrase.
    #[error("the private key is encrypted with a passphrase")]
    Encrypted,
    /// A private key of another kind, as of an elliptic curve of NIST.
    #[error("the private key is neither RSA nor Ed25519")]
    Algorithm,
    /// An RSA key below 2048 bits (RFC 8301 §3.2), or with a public exponent below 65537.
    #[error(
        "the RSA key is too weak: at least 2048 bits and a public exponent of 65537 are needed"
    )]
    TooWeak,
    /// An RSA key above 4096 bits: receivers need not verify those (RFC 6376 §3.3.3), and DNS answers grow too long.
    #[error("the RSA key is too long: at most 4096 bits are possible")]
    TooLong,
    /// An RSA key whose length is no multiple of 512 bits.
    #[error("the RSA key has an unusual length: 2048, 3072 or 4096 bits are needed")]
    Length,
    /// The key cannot be decoded, or its parts do not fit together.
    #[error("the private key is damaged or of an unknown form")]
    Damaged,
}

impl From<KeyRejected> for KeyError {
    fn from(rejected: KeyRejected) -> Self {
        // The words of `ring`, which has no enum for them; a test holds them.
        match rejected.to_string().as_str() {
            "WrongAlgorithm" => Self::Algorithm,
            "TooSmall" => Self::TooWeak,
            "TooLarge" => Self::TooLong,
            "PrivateModulusLenNotMultipleOf512Bits" => Self::Length,
            _ => Self::Damaged,
        }
    }
}

/// A private key that signs messages. `Debug` shows its algorithm alone.
pub struct PrivateKey(Pair);

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// Reads the first private key of `text`: PEM of PKCS #8 (RSA or Ed25519) or of PKCS #1 (RSA), or the bare base64
    /// of an Ed25519 seed (32 octets, or 64 with the public key after it), as the tools of mail signers write it. White
    /// space around lines does not matter.
    ///
    /// The key makes one signature here, so that parts that do not fit together are found before a message is sent.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let pair = if text.contains("-----BEGIN ") {
            pem_pair(text)?
        } else {
            seed_pair(text)?
        };
        let key = Self(pair);
        key.sign(b"").map_err(|_| KeyError::Damaged)?;
        Ok(key)
    }

    /// What this key signs with.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Pair::Rsa(_) => Algorithm::RsaSha256,
            Pair::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// The text of the TXT record at `<selector>._domainkey.<domain>`: `v=DKIM1; k=…; p=…` (RFC 6376 §3.6.1, RFC 8463 §4).
    ///
    /// That of an RSA key is longer than the 255 octets of one string in a TXT record; it goes there as several.
    pub fn dns_record(&self) -> String {
        let (kind, public) = match &self.0 {
            Pair::Rsa(pair) => (
                "rsa",
                encode::rsa_public_key_info(pair.public_key().as_ref()),
            ),
            Pair::Ed25519(pair) => ("ed25519", pair.public_key().as_ref().to_vec()),
        };
        format!("v=DKIM1; k={kind}; p={}", encode::base64(&public))
    }

    /// The signature over `data` (RFC 6376 §3.7, "sig-alg"), where Ed25519 signs the SHA-256 of it (RFC 8463 §3).
    ///
    /// Fails for an RSA key whose parts do not fit together: none that was read by [`Self::from_pem`].
    pub(crate) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                // PKCS #1 v1.5 takes nothing random, the interface asks for it all the same.
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    data,
                    &mut signature,
                )?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => {
                let digest = digest::digest(&digest::SHA256, data);
                Ok(pair.sign(digest.as_ref()).as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.algorithm().name())
    }
}

fn pem_pair(text: &str) -> Result<Pair, KeyError> {
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    // Indented as in a literal of SQL or YAML.
    let text: String = text.lines().flat_map(|line| [line.trim(), "\n"]).collect();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|_| KeyError::Damaged)?;
        match PrivateKeyDer::from_pem(kind, der) {
            Some(PrivateKeyDer::Pkcs8(der)) => return pkcs8_pair(der.secret_pkcs8_der()),
            Some(PrivateKeyDer::Pkcs1(der)) => {
                return rsa_pair(RsaKeyPair::from_der(der.secret_pkcs1_der()));
            }
            Some(_) => return Err(KeyError::Algorithm),
            None => {} // looked at below, when there is no private key after it
        }
    }
    let is_public = ["PUBLIC KEY-----", "CERTIFICATE-----"]
        .iter()
        .any(|label| text.contains(label));
    Err(if is_public {
        KeyError::Public
    } else {
        KeyError::Missing
    })
}

fn pkcs8_pair(der: &[u8]) -> Result<Pair, KeyError> {
    match rsa_pair(RsaKeyPair::from_pkcs8(der)) {
        // An Ed25519 key is refused for its algorithm, or before that for its version, where that is 2.
        Err(as_rsa @ (KeyError::Algorithm | KeyError::Damaged)) => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519);
            pair.map_err(|rejected| match KeyError::from(rejected) {
                KeyError::Algorithm => as_rsa,
                as_ed25519 => as_ed25519,
            })
        }
        pair => pair,
    }
}

fn rsa_pair(pair: Result<RsaKeyPair, KeyRejected>) -> Result<Pair, KeyError> {
    Ok(Pair::Rsa(Box::new(pair?)))
}

fn seed_pair(text: &str) -> Result<Pair, KeyError> {
    let octets = encode::from_base64(text).ok_or(KeyError::Missing)?;
    let pair = match octets.len() {
        32 => Ed25519KeyPair::from_seed_unchecked(&octets),
        64 => Ed25519KeyPair::from_seed_and_public_key(&octets[..32], &octets[32..]),
        _ => return Err(KeyError::Missing),
    };
    Ok(Pair::Ed25519(pair?))
}
