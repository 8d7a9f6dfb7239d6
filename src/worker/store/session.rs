//! What the worker does as a whole: start, take over, end leases, let go.

use pgrx::{Spi, pg_sys::BuiltinOid};

use super::{Result, Statement, lock, microseconds, rows, run, timestamp};
use crate::pg::{self, Failure};

/// Whether the extension is there, and its oid: a new one means a new installation.
pub fn extension() -> Result<Option<u32>> {
    let found = rows(
        &Statement {
            sql: "SELECT e.oid::int8 FROM pg_extension e WHERE e.extname = 'pgmq_mail'",
            types: &[],
        },
        &[],
        |row| row.get::<i64>(1),
    )?;
    Ok(found
        .into_iter()
        .flatten()
        .next()
        .and_then(|oid| u32::try_from(oid).ok()))
}

/// Whether another session waits for or holds a lock on this database that no worker may stand in the way of: it drops,
/// renames, moves or copies it.
pub fn wanted_by_another() -> Result<bool> {
    let statement = Statement {
        sql: "SELECT EXISTS (
                SELECT FROM pg_locks k
                WHERE k.locktype = 'object' AND k.classid = 'pg_database'::regclass AND k.pid <> pg_backend_pid()
                  AND k.objid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                  AND k.mode IN ('AccessExclusiveLock', 'ShareLock'))",
        types: &[],
    };
    Ok(rows(&statement, &[], |row| row.get(1))?
        .into_iter()
        .flatten()
        .next()
        .unwrap_or(false))
}

/// For this transaction: rather fail than wait.
pub fn hurry() -> Result<()> {
    Spi::run("SET LOCAL lock_timeout = '10ms'").map_err(Failure::from)
}

/// What the session needs before its first statement, whatever the database's settings say: the rights of the worker's
/// role, a fixed search path, plans that walk the indexes whatever the statistics say, and commits that wait for synchronous
/// standbys.
pub fn prepare_session(connected_as_worker: bool) -> Result<()> {
    if !connected_as_worker {
        Spi::run("SET SESSION AUTHORIZATION mail_worker").map_err(Failure::from)?;
    }
    let settings = "SET search_path = pg_catalog, pg_temp; \
        SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET enable_hashjoin = off; \
        SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan; SET lock_timeout = '1s'; \
        SET row_security = on; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = off; \
        SET default_transaction_isolation = 'read committed'; \
        SET synchronous_commit = on; SET application_name = 'pgmq_mail worker'";
    Spi::run(settings).map_err(Failure::from)
}

/// Takes over from a worker that is gone.
pub fn recover(extension: u32) -> Result<()> {
    pg::insist(|| {
        lock(extension);
        forget_the_worker_before()
    })
}

fn forget_the_worker_before() -> Result<()> {
    run(
        &Statement {
            sql: "SELECT mail._recover()",
            types: &[],
        },
        &[],
    )?;
    run(
        &Statement {
            sql: "DELETE FROM mail.relay_trouble",
            types: &[],
        },
        &[],
    )?;
    run(
        &Statement {
            sql: "DELETE FROM mail.domain_pause",
            types: &[],
        },
        &[],
    )
}

/// Ends leases from outside that are over; returns when the next one ends.
pub fn reap() -> Result<Option<i64>> {
    run(
        &Statement {
            sql: "SELECT mail._reap(NULL)",
            types: &[],
        },
        &[],
    )?;
    let next = Statement {
        sql: "SELECT min(l.lease_until) FROM mail.lease l WHERE l.holder IS NULL",
        types: &[],
    };
    Ok(rows(&next, &[], |row| Ok(microseconds(row.get(1)?)))?
        .into_iter()
        .flatten()
        .next())
}

/// Ends messages whose time is over, at most so many; returns how many.
pub fn end_expired(batch: i32) -> Result<i32> {
    let statement = Statement {
        sql: "SELECT mail._expire($1)",
        types: &[BuiltinOid::INT4OID],
    };
    let ended = rows(&statement, &[batch.into()], |row| row.get(1))?;
    Ok(ended.into_iter().flatten().next().unwrap_or(0))
}

/// Lets go of what need not be kept any longer, a bounded piece of it, in tables that were not gone through since then; false
/// when that was all.
pub fn retain(batch: i32, before: i64) -> Result<bool> {
    let statement = Statement {
        sql: "SELECT mail._retain($1, $2)",
        types: &[BuiltinOid::INT4OID, BuiltinOid::TIMESTAMPTZOID],
    };
    let args = [batch.into(), timestamp(before).into()];
    let more = rows(&statement, &args, |row| row.get(1))?;
    Ok(more.into_iter().flatten().next().unwrap_or(false))
}

/// The same before 0.3.0, behind a message; returns the last of those looked at, `None` when that was all.
pub fn retain_until_0_2(behind: i64, batch: i32) -> Result<Option<i64>> {
    next_piece(
        "SELECT r.last FROM mail._retain($1, $2) r WHERE r.looked_at = $2",
        behind,
        batch,
    )
}

/// The same for files.
pub fn retain_files(behind: i64, batch: i32) -> Result<Option<i64>> {
    next_piece(
        "SELECT r.last FROM mail._retain_files($1, $2) r WHERE r.looked_at = $2",
        behind,
        batch,
    )
}

fn next_piece(sql: &'static str, behind: i64, batch: i32) -> Result<Option<i64>> {
    let statement = Statement {
        sql,
        types: &[BuiltinOid::INT8OID, BuiltinOid::INT4OID],
    };
    let last = rows(&statement, &[behind.into(), batch.into()], |row| row.get(1))?;
    Ok(last.into_iter().flatten().next())
}
