//! The configuration, and what the worker notes of relays.

use mail_relay::{Action, DomainLimit, Rate, Rule, Transport};
use pgrx::pg_sys::BuiltinOid;

use super::{Result, Statement, rows, run};
use crate::{
    dkim::KeyRow,
    relays::{Access, RelayRow, Secret, seconds},
};

/// A queue that the worker serves.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    pub id: i32,
    pub transport: Transport,
    pub concurrency: Option<usize>,
    pub rate: Option<Rate>,
    pub paused: bool,
    pub hold_uncertain: bool,
    /// How long a lease of it is, in microseconds.
    pub lease: i64,
}

/// A limit as two columns have it.
fn rate(count: Option<i32>, window: Option<f64>) -> Option<Rate> {
    Some(Rate {
        count: u32::try_from(count?).ok().filter(|count| *count > 0)?,
        window: seconds(window?),
    })
}

/// The relays that are enabled and armed.
pub fn relays() -> Result<Vec<RelayRow>> {
    let statement = Statement {
        sql: "SELECT r.id, r.name, r.url, r.username, coalesce(s.secret, r.secret), r.auth, r.helo_name, r.ca_file,
                     r.tier, r.weight, r.sender_domains, r.recipient_domains, r.max_connections, r.max_messages_per_connection,
                     extract(epoch FROM r.max_connection_age)::float8, extract(epoch FROM r.max_connection_idle)::float8,
                     r.rate_limit, extract(epoch FROM r.rate_window)::float8,
                     ARRAY(SELECT extract(epoch FROM t)::float8 FROM unnest(ARRAY[r.connect_timeout, r.greeting_timeout,
                         r.command_timeout, r.data_timeout, r.block_timeout, r.dot_timeout]) AS t)
              FROM mail.relay r LEFT JOIN mail.relay_secret s ON s.relay = r.name
              WHERE r.enabled AND r.stamp = mail._stamp() ORDER BY r.tier, r.name",
        types: &[],
    };
    rows(&statement, &[], |row| {
        let timeouts: Vec<f64> = row.get(19)?.unwrap_or_default();
        Ok(RelayRow {
            id: row.get(1)?.unwrap_or_default(),
            name: row.get(2)?.unwrap_or_default(),
            access: Access {
                url: row.get(3)?.unwrap_or_default(),
                username: row.get(4)?,
                secret: Secret(row.get::<String>(5)?.filter(|secret| secret != "(stored)")),
                auth: row.get(6)?.unwrap_or_default(),
                helo_name: row.get(7)?,
                ca_file: row.get(8)?,
                timeouts: std::array::from_fn(|n| timeouts.get(n).copied().unwrap_or_default()),
            },
            tier: row.get(9)?.unwrap_or_default(),
            weight: row.get(10)?.unwrap_or_default(),
            sender_domains: row.get(11)?.unwrap_or_default(),
            recipient_domains: row.get(12)?.unwrap_or_default(),
            max_connections: row.get(13)?.unwrap_or(1),
            max_messages_per_connection: row.get(14)?.unwrap_or(1),
            max_connection_age: row.get(15)?.unwrap_or_default(),
            max_connection_idle: row.get(16)?.unwrap_or_default(),
            rate: rate(row.get(17)?, row.get(18)?),
        })
    })
}

/// The queues that the worker serves; `usable` are the relays that can be used.
pub fn queues(usable: &[(i32, String)]) -> Result<Vec<QueueConfig>> {
    let statement = Statement {
        sql: "SELECT q.id, q.transport, q.relays, q.concurrency, q.paused, q.on_uncertain = 'hold',
                     q.rate_limit, extract(epoch FROM q.rate_window)::float8, (extract(epoch FROM q.lease) * 1000000)::int8
              FROM mail.queue q WHERE q.transport <> 'external' ORDER BY q.id",
        types: &[],
    };
    rows(&statement, &[], |row| {
        let wanted: Vec<String> = row.get(3)?.unwrap_or_default();
        let may_use = |name: &String| wanted.is_empty() || wanted.contains(name);
        let transport = if row.get::<String>(2)?.as_deref() == Some("capture") {
            Transport::Capture
        } else {
            let relays = usable.iter().filter(|(_, name)| may_use(name));
            Transport::Smtp(relays.map(|(id, _)| *id).collect())
        };
        Ok(QueueConfig {
            id: row.get(1)?.unwrap_or_default(),
            transport,
            concurrency: row.get::<i32>(4)?.and_then(|n| usize::try_from(n).ok()),
            rate: rate(row.get(7)?, row.get(8)?),
            paused: row.get(5)?.unwrap_or_default(),
            hold_uncertain: row.get(6)?.unwrap_or_default(),
            lease: row.get(9)?.unwrap_or_default(),
        })
    })
}

/// The DKIM keys that are to be used.
pub fn dkim_keys() -> Result<Vec<KeyRow>> {
    let statement = Statement {
        sql: "SELECT k.domain, k.selector, coalesce(s.private_key, CASE WHEN k.private_key LIKE 'file:%' THEN k.private_key END)
              FROM mail.dkim_key k LEFT JOIN mail.dkim_secret s ON k.private_key = format('(stored %s)', s.id)
              WHERE k.enabled ORDER BY k.domain, k.selector",
        types: &[],
    };
    rows(&statement, &[], |row| {
        Ok(KeyRow {
            domain: row.get(1)?.unwrap_or_default(),
            selector: row.get(2)?.unwrap_or_default(),
            private_key: Secret(row.get(3)?),
        })
    })
}

/// Notes which keys cannot be used, and why: domain, selector, error.
pub fn dkim_trouble(found: &[(String, String, String)]) -> Result<()> {
    use BuiltinOid::TEXTARRAYOID;
    let clear = Statement {
        sql: "DELETE FROM mail.dkim_trouble",
        types: &[],
    };
    run(&clear, &[])?;
    let column = |read: fn(&(String, String, String)) -> &String| -> Vec<String> {
        found.iter().map(|row| read(row).clone()).collect()
    };
    let insert = Statement {
        sql: "INSERT INTO mail.dkim_trouble (domain, selector, error) SELECT * FROM unnest($1, $2, $3)",
        types: &[TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
    };
    let args = [
        column(|row| &row.0).into(),
        column(|row| &row.1).into(),
        column(|row| &row.2).into(),
    ];
    run(&insert, &args)
}

/// What recipient domains may get.
pub fn domain_limits() -> Result<Vec<DomainLimit>> {
    let statement = Statement {
        sql: "SELECT d.domain, d.concurrency, d.rate_limit, extract(epoch FROM d.rate_window)::float8 FROM mail.domain_limit d",
        types: &[],
    };
    rows(&statement, &[], |row| {
        Ok(DomainLimit {
            domain: row.get(1)?.unwrap_or_default(),
            concurrency: row.get::<i32>(2)?.and_then(|n| usize::try_from(n).ok()),
            rate: rate(row.get(3)?, row.get(4)?),
        })
    })
}

/// What replies ask for, in order. A rule whose relay cannot be used, or whose pattern is none (as after an update of the
/// library), is left out.
pub fn reply_rules(usable: &[(i32, String)]) -> Result<Vec<Rule>> {
    let statement = Statement {
        sql: "SELECT r.name, r.relay, r.code, r.status, r.pattern, r.action, extract(epoch FROM r.duration)::float8
              FROM mail.reply_rule r WHERE r.enabled ORDER BY r.position, r.name",
        types: &[],
    };
    let found = rows(&statement, &[], |row| {
        let relay: Option<String> = row.get(2)?;
        let id = |name: &String| {
            usable
                .iter()
                .find(|(_, known)| known == name)
                .map(|(id, _)| *id)
        };
        let text: Option<String> = row.get(5)?;
        let Ok(text) = text.as_deref().map(mail_relay::pattern).transpose() else {
            return Ok(None);
        };
        let only = relay.as_ref().map(id);
        if only == Some(None) {
            return Ok(None);
        }
        Ok(Some(Rule {
            name: row.get(1)?.unwrap_or_default(),
            relay: only.flatten(),
            code: row.get(3)?,
            status: row.get(4)?,
            text,
            action: match row.get::<String>(6)?.as_deref() {
                Some("suspend_relay") => Action::SuspendRelay,
                Some("suspend_domain") => Action::SuspendDomain,
                Some("fail") => Action::Fail,
                Some("hold") => Action::Hold,
                _ => Action::Retry,
            },
            duration: row.get::<f64>(7)?.map(seconds),
        }))
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// Makes due all that was put off untried.
pub fn reconsider() -> Result<()> {
    let statement = Statement {
        sql: "UPDATE mail.pending SET due_at = clock_timestamp(), waits_for = NULL WHERE waits_for IS NOT NULL",
        types: &[],
    };
    run(&statement, &[])
}

/// Notes that a relay is suspended, perhaps by a rule; without seconds: until it is configured differently.
pub fn relay_down(relay: i32, seconds: Option<f64>, error: &str, rule: Option<&str>) -> Result<()> {
    use BuiltinOid::{FLOAT8OID, INT4OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._relay_down($1, make_interval(secs => $2), $3, $4)",
        types: &[INT4OID, FLOAT8OID, TEXTOID, TEXTOID],
    };
    let args = [relay.into(), seconds.into(), error.into(), rule.into()];
    run(&statement, &args)
}

/// Notes that mail for a domain waits for so many seconds.
pub fn domain_paused(
    domain: &str,
    seconds: f64,
    relay: &str,
    rule: &str,
    reason: &str,
) -> Result<()> {
    use BuiltinOid::{FLOAT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._domain_paused($1, make_interval(secs => $2), $3, $4, $5)",
        types: &[TEXTOID, FLOAT8OID, TEXTOID, TEXTOID, TEXTOID],
    };
    let args = [
        domain.into(),
        seconds.into(),
        relay.into(),
        rule.into(),
        reason.into(),
    ];
    run(&statement, &args)
}

/// Notes that a relay works.
pub fn relay_up(relay: i32) -> Result<()> {
    let statement = Statement {
        sql: "DELETE FROM mail.relay_trouble WHERE relay_id = $1",
        types: &[BuiltinOid::INT4OID],
    };
    run(&statement, &[relay.into()])
}
