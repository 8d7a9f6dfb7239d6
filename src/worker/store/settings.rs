//! The configuration, and what the worker notes of relays.

use mail_relay::Transport;
use pgrx::pg_sys::BuiltinOid;

use super::{Result, Statement, rows, run};
use crate::relays::{RelayRow, Secret};

/// A queue that the worker serves.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    pub id: i32,
    pub transport: Transport,
    pub concurrency: Option<usize>,
    pub paused: bool,
    pub hold_uncertain: bool,
}

/// The relays that are enabled and armed, in order of preference.
pub fn relays() -> Result<Vec<RelayRow>> {
    let statement = Statement {
        sql: "SELECT r.id, r.name, r.url, r.username, coalesce(s.secret, r.secret), r.auth, r.helo_name, r.ca_file,
                     r.max_connections, r.max_messages_per_connection
              FROM mail.relay r LEFT JOIN mail.relay_secret s ON s.relay = r.name
              WHERE r.enabled AND r.stamp = mail._stamp() ORDER BY r.tier, r.name",
        types: &[],
    };
    rows(&statement, &[], |row| {
        Ok(RelayRow {
            id: row.get(1)?.unwrap_or_default(),
            name: row.get(2)?.unwrap_or_default(),
            url: row.get(3)?.unwrap_or_default(),
            username: row.get(4)?,
            secret: Secret(row.get::<String>(5)?.filter(|secret| secret != "(stored)")),
            auth: row.get(6)?.unwrap_or_default(),
            helo_name: row.get(7)?,
            ca_file: row.get(8)?,
            max_connections: row.get(9)?.unwrap_or(1),
            max_messages_per_connection: row.get(10)?.unwrap_or(1),
        })
    })
}

/// The queues that the worker serves; `usable` are the relays that can be used, in order of preference.
pub fn queues(usable: &[(i32, String)]) -> Result<Vec<QueueConfig>> {
    let statement = Statement {
        sql: "SELECT q.id, q.transport, q.relays, q.concurrency, q.paused, q.on_uncertain = 'hold'
              FROM mail.queue q WHERE q.transport <> 'external' ORDER BY q.id",
        types: &[],
    };
    rows(&statement, &[], |row| {
        let wanted: Vec<String> = row.get(3)?.unwrap_or_default();
        let transport = if row.get::<String>(2)?.as_deref() == Some("capture") {
            Transport::Capture
        } else if wanted.is_empty() {
            Transport::Smtp(usable.iter().map(|(id, _)| *id).collect())
        } else {
            let id_of = |name: &String| {
                usable
                    .iter()
                    .find(|(_, known)| known == name)
                    .map(|(id, _)| *id)
            };
            Transport::Smtp(wanted.iter().filter_map(id_of).collect())
        };
        Ok(QueueConfig {
            id: row.get(1)?.unwrap_or_default(),
            transport,
            concurrency: row.get::<i32>(4)?.and_then(|n| usize::try_from(n).ok()),
            paused: row.get(5)?.unwrap_or_default(),
            hold_uncertain: row.get(6)?.unwrap_or_default(),
        })
    })
}

/// Notes that a relay is suspended; without seconds: until it is configured differently.
pub fn relay_down(relay: i32, seconds: Option<f64>, error: &str) -> Result<()> {
    use BuiltinOid::{FLOAT8OID, INT4OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._relay_down($1, make_interval(secs => $2), $3)",
        types: &[INT4OID, FLOAT8OID, TEXTOID],
    };
    run(&statement, &[relay.into(), seconds.into(), error.into()])
}

/// Notes that a relay works.
pub fn relay_up(relay: i32) -> Result<()> {
    let statement = Statement {
        sql: "DELETE FROM mail.relay_trouble WHERE relay_id = $1",
        types: &[BuiltinOid::INT4OID],
    };
    run(&statement, &[relay.into()])
}
