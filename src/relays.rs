//! Relays as configured: from a row to what the pool wants, with the secret behind a reference.

use std::{
    io::Error,
    path::{Path, PathBuf},
    time::Duration,
};

use mail_relay::{Rate, RelayConfig, RelayUrl};
use mail_smtp::{AuthMechanism, Credentials, Endpoint, Timeouts, qualified_name, read_file};

use crate::{guc, pg};

/// The octets of a secret file: a private key of the longest kind takes a twentieth of it.
const MOST_SECRET: u64 = 64 * 1024;

/// What is wrong with a relay's row.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Url(#[from] mail_relay::UrlError),
    #[error("pgmq_mail.secrets_directory is not set")]
    NoSecretsDirectory,
    #[error("secret file \"{name}\" cannot be read: {error}")]
    SecretFile { name: String, error: Error },
    #[error("its secret is missing")]
    NoSecret,
}

/// One row of `mail.relay`, with its stored secret.
#[derive(Debug)]
pub struct RelayRow {
    pub id: i32,
    pub name: String,
    pub access: Access,
    pub tier: i32,
    pub weight: i32,
    pub sender_domains: Vec<String>,
    pub recipient_domains: Vec<String>,
    pub max_connections: i32,
    pub max_messages_per_connection: i32,
    /// In seconds, like all that follow.
    pub max_connection_age: f64,
    pub max_connection_idle: f64,
    pub rate: Option<Rate>,
}

/// How a relay is reached, as its row has it.
#[derive(Debug)]
pub struct Access {
    pub url: String,
    pub username: Option<String>,
    pub secret: Secret,
    pub auth: String,
    pub helo_name: Option<String>,
    pub ca_file: Option<String>,
    /// Connect, greeting, command, data, block and dot, in seconds.
    pub timeouts: [f64; 6],
}

/// Seconds as the database has them.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
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

/// The way to a relay, with the secret itself.
pub fn endpoint(access: Access) -> Result<Endpoint, RelayError> {
    let mechanism = match access.auth.as_str() {
        "plain" => Some(AuthMechanism::Plain),
        "login" => Some(AuthMechanism::Login),
        "xoauth2" => Some(AuthMechanism::XOAuth2),
        "oauthbearer" => Some(AuthMechanism::OAuthBearer),
        "none" => None,
        _ => Some(AuthMechanism::Auto),
    };
    let url = RelayUrl::parse(&access.url, access.username.is_some())?;
    let credentials = match (access.username, mechanism) {
        (Some(username), Some(mechanism)) => {
            let secret = resolve(access.secret.0.ok_or(RelayError::NoSecret)?)?;
            Some(Credentials {
                username,
                secret,
                mechanism,
            })
        }
        _ => None,
    };
    let [connect, greeting, command, data, block, dot] = access.timeouts.map(seconds);
    Ok(Endpoint {
        protocol: url.protocol,
        host: url.host,
        port: url.port,
        socket: url.socket,
        tls: url.tls,
        ca_file: access.ca_file.map(PathBuf::from),
        credentials,
        helo_name: access.helo_name.unwrap_or_else(own_name),
        timeouts: Timeouts {
            connect,
            greeting,
            command,
            envelope: command,
            data_init: data,
            data_block: block,
            data_done: dot,
        },
    })
}

/// The name to greet with where none is configured; empty: our address, by each connection's own end.
fn own_name() -> String {
    qualified_name(&pg::host_name()).to_owned()
}

/// The relay as the pool wants it.
pub fn config(row: RelayRow) -> Result<RelayConfig, RelayError> {
    let endpoint = endpoint(row.access)?;
    let positive = |n: i32| usize::try_from(n).unwrap_or(1).max(1);
    Ok(RelayConfig {
        id: row.id,
        name: row.name,
        endpoint,
        tier: row.tier,
        weight: u32::try_from(row.weight).unwrap_or(0),
        sender_domains: row.sender_domains,
        recipient_domains: row.recipient_domains,
        max_connections: positive(row.max_connections),
        max_messages_per_connection: positive(row.max_messages_per_connection),
        idle: seconds(row.max_connection_idle),
        lifetime: seconds(row.max_connection_age),
        rate: row.rate,
    })
}

/// The secret itself, or the first line of the file that `file:NAME` names.
fn resolve(secret: String) -> Result<String, RelayError> {
    let Some(name) = secret.strip_prefix("file:") else {
        return Ok(secret);
    };
    let text = secret_file(name)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(unreadable(name, Error::other("its first line is empty")));
    }
    Ok(line.to_owned())
}

/// What a file in the secrets' directory holds. A link is followed as long as it stays there. No error shows any of the
/// content.
pub fn secret_file(name: &str) -> Result<String, RelayError> {
    let directory = guc::SECRETS_DIRECTORY
        .get()
        .ok_or(RelayError::NoSecretsDirectory)?;
    let directory = Path::new(&*directory.to_string_lossy()).to_owned();
    read_within(&directory, name).map_err(|error| unreadable(name, error))
}

fn read_within(directory: &Path, name: &str) -> std::io::Result<String> {
    let directory = directory.canonicalize()?;
    let path = directory.join(name).canonicalize()?;
    if !path.starts_with(&directory) {
        let error = "it leads out of pgmq_mail.secrets_directory";
        return Err(Error::other(error));
    }
    let content = read_file(&path, MOST_SECRET)?;
    String::from_utf8(content).map_err(|_| Error::other("it is not text in UTF-8"))
}

fn unreadable(name: &str, error: Error) -> RelayError {
    RelayError::SecretFile {
        name: name.to_owned(),
        error,
    }
}
