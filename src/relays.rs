//! Relays as configured: from a row to what the pool wants, with the secret behind a reference.

use std::path::{Path, PathBuf};

use mail_relay::{RelayConfig, RelayUrl};
use mail_smtp::{AuthMechanism, Credentials, Endpoint, Timeouts};

use crate::{guc, pg};

/// What is wrong with a relay's row.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Url(#[from] mail_relay::UrlError),
    #[error("pgmq_mail.secrets_directory is not set")]
    NoSecretsDirectory,
    #[error("secret file \"{name}\" cannot be read: {error}")]
    SecretFile { name: String, error: std::io::Error },
    #[error("its secret is missing")]
    NoSecret,
}

/// One row of `mail.relay`, with its stored secret.
#[derive(Debug)]
pub struct RelayRow {
    pub id: i32,
    pub name: String,
    pub url: String,
    pub username: Option<String>,
    pub secret: Secret,
    pub auth: String,
    pub helo_name: Option<String>,
    pub ca_file: Option<String>,
    pub max_connections: i32,
    pub max_messages_per_connection: i32,
}

/// A secret that `Debug` does not show.
pub struct Secret(pub Option<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "(secret)"
        } else {
            "(none)"
        })
    }
}

/// The relay as the pool wants it.
pub fn config(row: RelayRow) -> Result<RelayConfig, RelayError> {
    let mechanism = match row.auth.as_str() {
        "plain" => Some(AuthMechanism::Plain),
        "login" => Some(AuthMechanism::Login),
        "none" => None,
        _ => Some(AuthMechanism::Auto),
    };
    let url = RelayUrl::parse(&row.url, row.username.is_some())?;
    let credentials = match (row.username, mechanism) {
        (Some(username), Some(mechanism)) => {
            let secret = resolve(row.secret.0.ok_or(RelayError::NoSecret)?)?;
            Some(Credentials {
                username,
                secret,
                mechanism,
            })
        }
        _ => None,
    };
    let endpoint = Endpoint {
        host: url.host,
        port: url.port,
        tls: url.tls,
        ca_file: row.ca_file.map(PathBuf::from),
        credentials,
        helo_name: row.helo_name.unwrap_or_else(pg::host_name),
        timeouts: Timeouts::default(),
    };
    let positive = |n: i32| usize::try_from(n).unwrap_or(1).max(1);
    Ok(RelayConfig {
        id: row.id,
        endpoint,
        max_connections: positive(row.max_connections),
        max_messages_per_connection: positive(row.max_messages_per_connection),
    })
}

/// The secret itself, or the first line of the file that `file:NAME` names. The table's trigger has checked that NAME
/// holds no path.
fn resolve(secret: String) -> Result<String, RelayError> {
    let Some(name) = secret.strip_prefix("file:") else {
        return Ok(secret);
    };
    let directory = guc::SECRETS_DIRECTORY
        .get()
        .ok_or(RelayError::NoSecretsDirectory)?;
    let path = Path::new(&*directory.to_string_lossy()).join(name);
    let text = std::fs::read_to_string(path).map_err(|error| RelayError::SecretFile {
        name: name.to_owned(),
        error,
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
