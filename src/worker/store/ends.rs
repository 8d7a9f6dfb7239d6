//! Statements that settle what came of messages.

use pgrx::{datum::Interval, pg_sys::BuiltinOid};

use super::{Result, Statement, run, timestamp};
use crate::{
    pg::{self, Row},
    queues,
};

/// A recipient accepted by a relay.
#[derive(Debug)]
pub struct Sent {
    pub id: i64,
    pub queue: i32,
    pub attempt: i32,
    pub code: Option<i32>,
    /// Of its message.
    pub last: bool,
    pub recipient: String,
    pub relay: Option<String>,
    pub phase: Option<&'static str>,
    pub status: Option<String>,
    pub text: Option<String>,
    /// How long the attempt took, in microseconds.
    pub duration: i64,
    pub tls: Option<String>,
    /// JSON.
    pub detail: Option<String>,
}

/// Ends messages that every recipient's relay accepted.
pub fn sent(ids: &[i64], events: Vec<Sent>) -> Result<()> {
    let delete = Statement {
        sql: "DELETE FROM mail.pending WHERE id = ANY ($1)",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    run(&delete, &[ids.to_vec().into()])?;
    let queues = queues::get();
    let rows: Vec<Row> = events
        .into_iter()
        .map(|event| {
            Row::default()
                .with(c"id", pg::next_value(queues.event_sequence))
                .with(c"at", timestamp(pg::now()))
                .with(c"message_id", event.id)
                .with(c"queue_id", event.queue)
                .with(c"attempt", event.attempt)
                .with(c"code", event.code)
                .with(c"kind", "sent")
                .with(c"state", event.last.then_some("sent"))
                .with(c"recipient", event.recipient)
                .with(c"relay", event.relay)
                .with(c"phase", event.phase)
                .with(c"status", event.status)
                .with(c"text", event.text)
                .with(c"duration", Interval::from_micros(event.duration))
                .with(c"tls", event.tls)
                .with_json(c"detail", event.detail.as_deref())
        })
        .collect();
    pg::insert(queues.partitions.event(), &rows, &[]);
    Ok(())
}

/// How an attempt ended that did not simply succeed.
pub struct Ending<'a> {
    /// What is left is due now, and the attempt is not counted.
    pub at_once: bool,
    /// The attempt is counted.
    pub counted: bool,
    /// Some recipients were not tried, and may be after so many seconds…
    pub untried: Option<f64>,
    /// …or when this domain asks for more.
    pub waits_for: Option<&'a str>,
}

/// Any other end of an attempt; `results` as `mail._settle` has them.
pub fn settle(id: i64, results: &str, ending: &Ending<'_>) -> Result<()> {
    use BuiltinOid::{BOOLOID, FLOAT8OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._settle($1, $2::jsonb, NULL, NULL, CASE WHEN $3 THEN interval '0' END, $4 AND NOT $3,
                                  make_interval(secs => $5), $6)",
        types: &[INT8OID, TEXTOID, BOOLOID, BOOLOID, FLOAT8OID, TEXTOID],
    };
    run(
        &statement,
        &[
            id.into(),
            results.into(),
            ending.at_once.into(),
            ending.counted.into(),
            ending.untried.into(),
            ending.waits_for.into(),
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

/// Messages, none of which was tried, and when they may be.
#[derive(Default)]
pub struct PutOff {
    pub ids: Vec<i64>,
    /// In so many seconds…
    pub seconds: Vec<f64>,
    /// …or when this domain asks for more.
    pub waits_for: Vec<Option<String>>,
}

/// Gives messages their next time.
pub fn put_off(messages: PutOff) -> Result<()> {
    use BuiltinOid::{FLOAT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID};
    let statement = Statement {
        sql: "UPDATE mail.pending p
              SET due_at = least(clock_timestamp() + make_interval(secs => u.seconds), p.expires_at),
                  waits_for = coalesce(hashtext(u.waits_for), 0)
              FROM unnest($1, $2, $3) AS u (id, seconds, waits_for) WHERE p.id = u.id",
        types: &[INT8ARRAYOID, FLOAT8ARRAYOID, TEXTARRAYOID],
    };
    let args = [
        messages.ids.into(),
        messages.seconds.into(),
        messages.waits_for.into(),
    ];
    run(&statement, &args)
}

/// Makes messages of a queue due that wait for a domain: at most so many, those first that would be next.
pub fn call_in(queue: i32, domain: &str, count: usize) -> Result<()> {
    use BuiltinOid::{INT4OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "UPDATE mail.pending p SET due_at = clock_timestamp(), waits_for = NULL
              FROM (SELECT w.id FROM mail.pending w
                    WHERE w.queue_id = $1 AND w.waits_for = hashtext($2) AND w.due_at > clock_timestamp()
                    ORDER BY w.rank, w.due_at, w.id LIMIT $3 FOR UPDATE SKIP LOCKED) AS c
              WHERE p.id = c.id",
        types: &[INT4OID, TEXTOID, INT8OID],
    };
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    run(&statement, &[queue.into(), domain.into(), count.into()])
}

/// Records that a message was given back without an attempt; `facts` are one result as `mail._settle` has them. With a
/// pause it stands behind others for so many seconds, unless it is too old.
pub fn released(id: i64, facts: &str, pause: Option<f64>) -> Result<()> {
    use BuiltinOid::{FLOAT8OID, INT8OID, TEXTOID};
    let statement = Statement {
        sql: "SELECT mail._released($1, $2::jsonb, make_interval(secs => $3))",
        types: &[INT8OID, TEXTOID, FLOAT8OID],
    };
    run(&statement, &[id.into(), facts.into(), pause.into()])
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
