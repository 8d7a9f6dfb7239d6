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
        sql: "INSERT INTO mail.event (message_id, queue_id, attempt, code, kind, state, recipient, relay, phase, status, text, duration)
              SELECT u.id, u.queue, u.attempt, u.code, 'sent', CASE WHEN u.last THEN 'sent' END, u.recipient, u.relay, u.phase,
                     u.status, u.text, make_interval(secs => u.seconds)
              FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                AS u (id, queue, attempt, code, last, recipient, relay, phase, status, text, seconds)",
        types: &[
            INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, BOOLARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
            TEXTARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID,
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
    ];
    run(&insert, &args)
}

/// Any other end of an attempt; `results` as `mail._settle` has them. With `at_once` what is left is due now, and the attempt is
/// not counted.
pub fn settle(
    id: i64,
    results: &str,
    relay: Option<&str>,
    seconds: f64,
    at_once: bool,
) -> Result<()> {
    use BuiltinOid::{BOOLOID, FLOAT8OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._settle($1, $2::jsonb, $3, make_interval(secs => $4), CASE WHEN $5 THEN interval '0' END, NOT $5)",
        types: &[INT8OID, TEXTOID, TEXTOID, FLOAT8OID, BOOLOID],
    };
    run(
        &statement,
        &[
            id.into(),
            results.into(),
            relay.into(),
            seconds.into(),
            at_once.into(),
        ],
    )
}

/// Notes that a message was given back without an attempt.
pub fn released(id: i64, queue: i32, attempt: i32, relay: Option<&str>, text: &str) -> Result<()> {
    use BuiltinOid::{INT4OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "INSERT INTO mail.event (message_id, queue_id, attempt, kind, relay, text) VALUES ($1, $2, $3, 'released', $4, $5)",
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
