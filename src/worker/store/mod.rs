//! All of the worker's SQL. Each function runs within the caller's transaction.

mod claims;
mod ends;
mod session;
mod settings;

use std::{cell::RefCell, collections::HashMap};

use pgrx::{
    PgOid, Spi,
    datum::{DatumWithOid, TimestampWithTimeZone},
    pg_sys::BuiltinOid,
    spi::{OwnedPreparedStatement, SpiHeapTupleData},
};

use crate::pg::{self, Failure};

pub use claims::{
    Body, Candidate, Look, bodies, claimable, expire, files, foreign, heads, lanes, lease,
    lock_due, next_due,
};
pub use ends::{
    Ending, PutOff, Sent, call_in, capture, drop_leases, part, put_off, released, sent, settle,
    shrink_leases,
};
pub use session::{
    end_expired, extension, hurry, prepare_session, reap, recover, retain, retain_files,
    retain_until_0_2, wanted_by_another,
};
pub use settings::{
    QueueConfig, dkim_keys, dkim_trouble, domain_limits, domain_paused, queues, reconsider,
    relay_down, relay_up, relays, reply_rules,
};

thread_local! {
    static STATEMENTS: RefCell<HashMap<String, OwnedPreparedStatement>> = RefCell::new(HashMap::new());
}

type Result<T> = std::result::Result<T, Failure>;

/// Runs `work` in a transaction that locks the extension before anything else, and then `mail.queue`. DROP EXTENSION and an
/// update do the same, so that they never wait for a lock of a worker that waits for one of theirs.
pub fn transaction<T>(extension: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    pg::transaction(|| {
        lock(extension);
        work()
    })
}

fn lock(extension: u32) {
    pg::lock_extension(extension);
    pg::lock_watched();
}

/// A statement with the types of its arguments, prepared at its first use.
struct Statement<'a> {
    sql: &'a str,
    types: &'static [BuiltinOid],
}

/// Runs a statement and reads every row.
fn rows<T>(
    statement: &Statement<'_>,
    args: &[DatumWithOid<'_>],
    mut read: impl FnMut(&SpiHeapTupleData<'_>) -> pgrx::spi::Result<T>,
) -> Result<Vec<T>> {
    Spi::connect_mut(|client| {
        STATEMENTS.with_borrow_mut(|statements| {
            if !statements.contains_key(statement.sql) {
                let types: Vec<PgOid> = statement
                    .types
                    .iter()
                    .map(|oid| PgOid::from(*oid))
                    .collect();
                statements.insert(
                    statement.sql.to_owned(),
                    client.prepare_mut(statement.sql, &types)?.keep(),
                );
            }
            let Some(prepared) = statements.get(statement.sql) else {
                return Ok(Vec::new());
            };
            client
                .update(prepared, None, args)?
                .map(|row| read(&row))
                .collect()
        })
    })
    .map_err(|e: pgrx::spi::Error| Failure::from(e))
}

fn run(statement: &Statement<'_>, args: &[DatumWithOid<'_>]) -> Result<()> {
    rows(statement, args, |_| Ok(())).map(|_| ())
}

fn timestamp(microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(microseconds).unwrap_or_else(|_| {
        if microseconds > 0 {
            TimestampWithTimeZone::positive_infinity()
        } else {
            TimestampWithTimeZone::negative_infinity()
        }
    })
}

fn microseconds(at: Option<TimestampWithTimeZone>) -> Option<i64> {
    at.map(i64::from)
}

/// Postgres counts from 2000.
fn unix_seconds(microseconds: i64) -> i64 {
    const FROM_1970_TO_2000: i64 = 946_684_800;
    microseconds.div_euclid(1_000_000) + FROM_1970_TO_2000
}
