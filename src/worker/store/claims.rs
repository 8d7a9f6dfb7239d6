//! Statements of the claim.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use mail_lanes::{Key, LaneId};
use pgrx::pg_sys::BuiltinOid;

use super::{QueueConfig, Result, Statement, microseconds, rows, run, timestamp};
use crate::{
    pg::{self, Row},
    queues,
};

/// Every lane that has a row.
pub fn lanes() -> Result<Vec<LaneId>> {
    let statement = Statement {
        sql: "WITH RECURSIVE lane AS (
                (SELECT p.queue_id, p.rank FROM mail.pending p ORDER BY p.queue_id, p.rank LIMIT 1)
                UNION ALL
                SELECT n.queue_id, n.rank FROM lane l, LATERAL (
                    SELECT p.queue_id, p.rank FROM mail.pending p WHERE (p.queue_id, p.rank) > (l.queue_id, l.rank)
                    ORDER BY p.queue_id, p.rank LIMIT 1) n)
              SELECT queue_id, rank FROM lane",
        types: &[],
    };
    rows(&statement, &[], |row| {
        Ok(LaneId {
            queue: row.get(1)?.unwrap_or_default(),
            rank: row.get(2)?.unwrap_or_default(),
        })
    })
}

/// A row of `mail.pending` that this transaction has locked.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: i64,
    pub key: Key,
    pub size: i32,
    pub attempts: i32,
    pub ordering: Option<i64>,
}

/// Locks what is due in a lane behind the cursor, in order, skipping what others have locked and messages whose ordering
/// key is `busy`.
pub fn lock_due(
    lane: LaneId,
    cursor: Key,
    now: i64,
    limit: usize,
    busy: &[i64],
) -> Result<Vec<Candidate>> {
    use BuiltinOid::{INT4OID, INT8ARRAYOID, INT8OID, TIMESTAMPTZOID};
    let statement = Statement {
        sql: "SELECT p.id, p.due_at, p.size, p.attempts, p.ordering_hash FROM mail.pending p
              WHERE p.queue_id = $1 AND p.rank = $2 AND (p.due_at, p.id) > ($3, $4) AND p.due_at <= $5
                AND (p.ordering_hash IS NULL OR p.ordering_hash <> ALL ($7) AND NOT EXISTS (
                      SELECT FROM mail.pending e
                      WHERE e.ordering_hash = p.ordering_hash AND e.ordering_seq < p.ordering_seq))
              ORDER BY p.due_at, p.id LIMIT $6 FOR UPDATE OF p SKIP LOCKED",
        types: &[INT4OID, INT4OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8ARRAYOID],
    };
    let args = [
        lane.queue.into(),
        lane.rank.into(),
        timestamp(cursor.due).into(),
        cursor.id.into(),
        timestamp(now).into(),
        i64::try_from(limit).unwrap_or(i64::MAX).into(),
        busy.to_vec().into(),
    ];
    rows(&statement, &args, |row| {
        let id = row.get(1)?.unwrap_or_default();
        Ok(Candidate {
            id,
            key: Key {
                due: microseconds(row.get(2)?).unwrap_or_default(),
                id,
            },
            size: row.get(3)?.unwrap_or_default(),
            attempts: row.get(4)?.unwrap_or_default(),
            ordering: row.get(5)?,
        })
    })
}

/// The earliest due time behind a lane's cursor.
pub fn next_due(lane: LaneId, cursor: Key) -> Result<Option<i64>> {
    use BuiltinOid::{INT4OID, INT8OID, TIMESTAMPTZOID};
    let statement = Statement {
        sql: "SELECT p.due_at FROM mail.pending p
              WHERE p.queue_id = $1 AND p.rank = $2 AND (p.due_at, p.id) > ($3, $4) ORDER BY p.due_at, p.id LIMIT 1",
        types: &[INT4OID, INT4OID, TIMESTAMPTZOID, INT8OID],
    };
    let args = [
        lane.queue.into(),
        lane.rank.into(),
        timestamp(cursor.due).into(),
        cursor.id.into(),
    ];
    Ok(
        rows(&statement, &args, |row| Ok(microseconds(row.get(1)?)))?
            .into_iter()
            .flatten()
            .next(),
    )
}

/// Messages that claimers outside this process have in flight.
pub fn foreign() -> Result<HashSet<i64>> {
    let statement = Statement {
        sql: "SELECT i FROM mail.lease l, unnest(l.ids) AS i WHERE l.holder IS DISTINCT FROM pg_backend_pid()",
        types: &[],
    };
    Ok(rows(&statement, &[], |row| row.get(1))?
        .into_iter()
        .flatten()
        .collect())
}

/// Of locked rows, those that nobody has in flight and whose ordering key is free; and those whose key another claimer is
/// just deciding on.
pub fn claimable(ids: &[i64]) -> Result<(HashSet<i64>, HashSet<i64>)> {
    let statement = Statement {
        sql: "SELECT c.id, c.free FROM mail._claimable($1) c",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    let found = rows(&statement, &[ids.to_vec().into()], |row| {
        Ok((
            row.get::<i64>(1)?.unwrap_or_default(),
            row.get::<bool>(2)?.unwrap_or_default(),
        ))
    })?;
    let (free, contended): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, free)| *free);
    let ids = |found: Vec<(i64, bool)>| found.into_iter().map(|(id, _)| id).collect();
    Ok((ids(free), ids(contended)))
}

/// The first message of each ordering key: its lane and due time.
pub fn heads(keys: &[i64]) -> Result<Vec<(LaneId, i64)>> {
    let statement = Statement {
        sql: "SELECT p.queue_id, p.rank, p.due_at FROM unnest($1::bigint[]) AS k (hash), LATERAL (
                SELECT e.queue_id, e.rank, e.due_at FROM mail.pending e WHERE e.ordering_hash = k.hash
                ORDER BY e.ordering_seq LIMIT 1) p",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    rows(&statement, &[keys.to_vec().into()], |row| {
        let id = LaneId {
            queue: row.get(1)?.unwrap_or_default(),
            rank: row.get(2)?.unwrap_or_default(),
        };
        Ok((id, microseconds(row.get(3)?).unwrap_or_default()))
    })
}

/// Leases messages, each with its queue, to this process; returns the token of each queue.
pub fn lease<'a>(messages: impl Iterator<Item = (&'a QueueConfig, i64)>) -> HashMap<i32, i64> {
    let tables = queues::get();
    let now = pg::now();
    let mut of_queue: HashMap<i32, (i64, Vec<i64>)> = HashMap::new();
    for (queue, id) in messages {
        let (_, ids) = of_queue
            .entry(queue.id)
            .or_insert_with(|| (now.saturating_add(queue.lease), Vec::new()));
        ids.push(id);
    }
    let mut tokens = HashMap::new();
    let mut rows = Vec::new();
    for (queue, (until, ids)) in of_queue {
        let token = pg::next_value(tables.lease_sequence);
        tokens.insert(queue, token);
        rows.push(
            Row::default()
                .with(c"token", token)
                .with(c"queue_id", queue)
                .with(c"holder", pg::pid())
                .with(c"claimed_at", timestamp(now))
                .with(c"lease_until", timestamp(until))
                .with(c"ids", ids),
        );
    }
    pg::insert(tables.lease, &rows, &[]);
    tokens
}

/// What is sent of a message.
#[derive(Debug)]
pub struct Body {
    pub id: i64,
    pub from: String,
    pub to: Vec<String>,
    pub content: Option<String>,
    pub date: i64,
    pub expired: bool,
    pub recipients: usize,
    pub files: i32,
}

/// The bodies of messages, in any order; of those that were tried before, only the outstanding recipients.
pub fn bodies(ids: &[i64]) -> Result<Vec<Body>> {
    let statement = Statement {
        sql: "SELECT m.id, m.envelope_from,
                     CASE WHEN cardinality(m.recipients) > 1 AND EXISTS (SELECT FROM mail.event e WHERE e.message_id = m.id)
                          THEN mail._outstanding(m.id) ELSE m.recipients END,
                     m.content, floor(extract(epoch FROM greatest(m.enqueued_at, m.send_at)))::int8,
                     coalesce(m.expires_at <= clock_timestamp(), false), cardinality(m.recipients), m.files
              FROM mail.message m WHERE m.id = ANY ($1)",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    rows(&statement, &[ids.to_vec().into()], |row| {
        Ok(Body {
            id: row.get(1)?.unwrap_or_default(),
            from: row.get(2)?.unwrap_or_default(),
            to: row.get(3)?.unwrap_or_default(),
            content: row.get(4)?,
            date: row.get(5)?.unwrap_or_default(),
            expired: row.get(6)?.unwrap_or_default(),
            recipients: usize::try_from(row.get::<i32>(7)?.unwrap_or_default()).unwrap_or_default(),
            files: row.get(8)?.unwrap_or_default(),
        })
    })
}

/// Messages whose time is over.
pub fn expire(ids: &[i64]) -> Result<()> {
    let statement = Statement {
        sql: "SELECT mail._drop_pending($1, 'expired', 'expired', 'expired before it could be sent')",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    run(&statement, &[ids.to_vec().into()])
}

/// So much of a file is read at a time: what base64 turns into whole lines of 76 characters.
const PIECE: i32 = 57 * 18 * 1024;

/// The files that go with a message, in order, each in blocks: `count` of them. `None`: they are not all there.
pub fn files(id: i64, count: i32) -> Result<Option<Vec<Vec<Bytes>>>> {
    (0..count).map(|ordinal| file(id, ordinal)).collect()
}

fn file(id: i64, ordinal: i32) -> Result<Option<Vec<Bytes>>> {
    let statement = Statement {
        sql: "SELECT substring(f.content FROM $3 + 1 FOR $4)
              FROM mail.message_attachment a JOIN mail.attachment f ON f.id = a.attachment_id
              WHERE a.message_id = $1 AND a.ordinal = $2",
        types: &[
            BuiltinOid::INT8OID,
            BuiltinOid::INT4OID,
            BuiltinOid::INT4OID,
            BuiltinOid::INT4OID,
        ],
    };
    let (mut blocks, mut read) = (Vec::new(), 0);
    loop {
        let args = [id.into(), ordinal.into(), read.into(), PIECE.into()];
        let found = rows(&statement, &args, |row| row.get::<Vec<u8>>(1))?;
        let Some(block) = found.into_iter().flatten().next() else {
            return Ok(None);
        };
        let size = i32::try_from(block.len()).unwrap_or(PIECE);
        read += size;
        blocks.push(Bytes::from(block));
        if size < PIECE {
            return Ok(Some(blocks));
        }
    }
}
