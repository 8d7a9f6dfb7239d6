//! DKIM keys as configured: from a row to a signer.

use mail_dkim::{Algorithm, PrivateKey, Signer};

use crate::relays::{RelayError, Secret, secret_file};

/// One row of `mail.dkim_key`, with its stored key.
#[derive(Debug)]
pub struct KeyRow {
    pub domain: String,
    pub selector: String,
    pub private_key: Secret,
}

/// What is wrong with a key's row.
#[derive(Debug, thiserror::Error)]
pub enum DkimError {
    #[error(transparent)]
    File(#[from] RelayError),
    #[error("its private key is missing")]
    NoKey,
    #[error(transparent)]
    Key(#[from] mail_dkim::KeyError),
    #[error(transparent)]
    Signer(#[from] mail_dkim::SignerError),
}

/// The signer of a row.
pub fn signer(row: KeyRow) -> Result<Signer, DkimError> {
    let given = row.private_key.0.ok_or(DkimError::NoKey)?;
    let key = match given.strip_prefix("file:") {
        Some(name) => PrivateKey::from_pem(&secret_file(name)?)?,
        None => PrivateKey::from_pem(&given)?,
    };
    Ok(Signer::new(&row.domain, &row.selector, key)?)
}

/// As the column `algorithm` has it.
pub fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RsaSha256 => "rsa",
        Algorithm::Ed25519Sha256 => "ed25519",
    }
}

#[allow(unsafe_code, reason = "expansions of pg_extern")]
mod functions {
    use mail_dkim::{Algorithm, PrivateKey, Signer};
    use pgrx::{iter::TableIterator, name, pg_extern};

    use crate::error;

    #[pg_extern(sql = false)]
    fn dkim_facts(
        private_key: &str,
    ) -> TableIterator<'static, (name!(algorithm, &'static str), name!(dns_record, String))> {
        match PrivateKey::from_pem(private_key) {
            Ok(key) => {
                let algorithm = super::algorithm_name(key.algorithm());
                TableIterator::once((algorithm, key.dns_record()))
            }
            Err(e) => error::bad_argument(
                format!("private_key cannot be used: {e}"),
                Some(
                    "Give a private key in PEM: RSA with 2048 to 4096 bits, or Ed25519; or file:NAME.",
                ),
            ),
        }
    }

    #[pg_extern(sql = false)]
    fn check_dkim_names(domain: &str, selector: &str) -> bool {
        match Signer::check_names(domain, selector) {
            Ok(()) => true,
            Err(e) => error::bad_argument(
                e.to_string(),
                Some(
                    "The domain is in lower case and A-labels, as example.com; the selector as s2026.",
                ),
            ),
        }
    }

    #[pg_extern(sql = false)]
    fn new_dkim_key(algorithm: &str) -> String {
        let algorithm = match algorithm {
            "rsa" => Algorithm::RsaSha256,
            "ed25519" => Algorithm::Ed25519Sha256,
            other => error::bad_argument(
                format!("unknown algorithm \"{other}\""),
                Some("It is rsa or ed25519."),
            ),
        };
        match mail_dkim::generate(algorithm) {
            Ok(made) => made.private_pem,
            Err(e) => error::raise(
                pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("could not make a key: {e}"),
                None,
            ),
        }
    }
}
