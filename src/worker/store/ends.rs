//! Statements that settle what came of messages.

use pgrx::pg_sys::BuiltinOid;

use super::{Result, Statement, run};

/// A recipient accepted by a relay.
#[derive(Debug, Default)]
pub struct Sent {
    pub id: Vec<Option<i64>>,
    pub queue: Vec<Option<i32>>,
    pub attempt: Vec<Option<i32>>,
    pub code: Vec<Option<i32>>,
    pub last: Vec<Option<bool>>,
    pub recipient: Vec<Option<String>>,
    pub relay: Vec<Option<String>>,
    pub phase: Vec<Option<String>>,
    pub status: Vec<Option<String>>,
    pub text: Vec<Option<String>>,
    pub seconds: Vec<Option<f64>>,
    pub tls: Vec<Option<String>>,
}

/// Ends messages that every recipient's relay accepted.
pub fn sent(ids: &[i64], events: Sent) -> Result<()> {
    use BuiltinOid::{BOOLARRAYOID, FLOAT8ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID};
    let delete = Statement {
        sql: "DELETE FROM mail.pending WHERE id = ANY ($1)",
        types: &[INT8ARRAYOID],
    };
    run(&delete, &[ids.to_vec().into()])?;
    let insert = Statement {
        sql: "INSERT INTO mail.event (message_id, queue_id, attempt, code, kind, state, recipient, relay, phase, status, text, duration, tls)
              SELECT u.id, u.queue, u.attempt, u.code, 'sent', CASE WHEN u.last THEN 'sent' END, u.recipient, u.relay, u.phase,
                     u.status, u.text, make_interval(secs => u.seconds), u.tls
              FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                AS u (id, queue, attempt, code, last, recipient, relay, phase, status, text, seconds, tls)",
        types: &[
            INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, BOOLARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
            TEXTARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID, TEXTARRAYOID,
        ],
    };
    let args = [
        events.id.into(),
        events.queue.into(),
        events.attempt.into(),
        events.code.into(),
        events.last.into(),
        events.recipient.into(),
        events.relay.into(),
        events.phase.into(),
        events.status.into(),
        events.text.into(),
        events.seconds.into(),
        events.tls.into(),
    ];
    run(&insert, &args)
}

/// How an attempt ended that did not simply succeed.
pub struct Ending {
    /// What is left is due now, and the attempt is not counted.
    pub at_once: bool,
    /// The attempt is counted.
    pub counted: bool,
    /// Some recipients were not tried, and may be after so many seconds.
    pub untried: Option<f64>,
}

/// Any other end of an attempt; `results` as `mail._settle` has them.
pub fn settle(id: i64, results: &str, ending: &Ending) -> Result<()> {
    use BuiltinOid::{BOOLOID, FLOAT8OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._settle($1, $2::jsonb, NULL, NULL, CASE WHEN $3 THEN interval '0' END, $4 AND NOT $3,
                                  make_interval(secs => $5))",
        types: &[INT8OID, TEXTOID, BOOLOID, BOOLOID, FLOAT8OID],
    };
    run(
        &statement,
        &[
            id.into(),
            results.into(),
            ending.at_once.into(),
            ending.counted.into(),
            ending.untried.into(),
        ],
    )
}

/// Records recipients that nothing more is to be done about, of a message that goes on for others; `results` as
/// `mail._settle` has them.
pub fn part(id: i64, attempt: i32, results: &str) -> Result<()> {
    use BuiltinOid::{INT4OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._log_results(p.id, p.queue_id, $2, $3::jsonb, clock_timestamp(), true)
              FROM mail.pending p WHERE p.id = $1",
        types: &[INT8OID, INT4OID, TEXTOID],
    };
    run(&statement, &[id.into(), attempt.into(), results.into()])
}

/// Gives messages, none of which was tried, their next time: in so many seconds.
pub fn put_off(ids: Vec<i64>, seconds: Vec<f64>) -> Result<()> {
    use BuiltinOid::{FLOAT8ARRAYOID, INT8ARRAYOID};
    let statement = Statement {
        sql: "UPDATE mail.pending p
              SET due_at = least(clock_timestamp() + make_interval(secs => u.seconds), p.expires_at), put_off = true
              FROM unnest($1, $2) AS u (id, seconds) WHERE p.id = u.id",
        types: &[INT8ARRAYOID, FLOAT8ARRAYOID],
    };
    run(&statement, &[ids.into(), seconds.into()])
}

/// Notes that a message was given back without an attempt.
pub fn released(id: i64, queue: i32, attempt: i32, relay: Option<&str>, text: &str) -> Result<()> {
    use BuiltinOid::{INT4OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "INSERT INTO mail.event (message_id, queue_id, attempt, kind, relay, text)
              VALUES ($1, $2, $3, 'released', $4, $5)",
        types: &[INT8OID, INT4OID, INT4OID, TEXTOID, TEXTOID],
    };
    run(
        &statement,
        &[
            id.into(),
            queue.into(),
            attempt.into(),
            relay.into(),
            text.into(),
        ],
    )
}

/// Gives a message that was not judged a time behind others, perhaps by a rule, unless it has waited for too long.
pub fn step_back(
    id: i64,
    seconds: f64,
    relay: Option<&str>,
    text: &str,
    rule: Option<&str>,
) -> Result<()> {
    use BuiltinOid::{FLOAT8OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._step_back($1, make_interval(secs => $2), $3, $4, $5)",
        types: &[INT8OID, FLOAT8OID, TEXTOID, TEXTOID, TEXTOID],
    };
    run(
        &statement,
        &[
            id.into(),
            seconds.into(),
            relay.into(),
            text.into(),
            rule.into(),
        ],
    )
}

/// Stores a captured message.
pub fn capture(id: i64, recipients: &[String], mime: &[u8]) -> Result<()> {
    use BuiltinOid::{BYTEAOID, INT8OID, TEXTARRAYOID};
    let statement = Statement {
        sql: "INSERT INTO mail.capture (message_id, recipients, mime) VALUES ($1, $2, $3)",
        types: &[INT8OID, TEXTARRAYOID, BYTEAOID],
    };
    run(
        &statement,
        &[id.into(), recipients.to_vec().into(), mime.into()],
    )
}

/// Drops leases that have nothing in flight any more.
pub fn drop_leases(tokens: &[i64]) -> Result<()> {
    let statement = Statement {
        sql: "DELETE FROM mail.lease WHERE token = ANY ($1)",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    run(&statement, &[tokens.to_vec().into()])
}

/// Takes messages out of leases that go on.
pub fn shrink_leases(ids: &[i64], tokens: &[i64]) -> Result<()> {
    let statement = Statement {
        sql: "SELECT mail._drop_from_leases($1, $2)",
        types: &[BuiltinOid::INT8ARRAYOID, BuiltinOid::INT8ARRAYOID],
    };
    run(&statement, &[ids.to_vec().into(), tokens.to_vec().into()])
}
