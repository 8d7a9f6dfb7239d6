//! Statements of the claim.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use bytes::Bytes;
use mail_lanes::{Key, LaneId};
use pgrx::{datum::DatumWithOid, pg_sys::BuiltinOid};

use super::{QueueConfig, Result, Statement, microseconds, rows, run, timestamp, unix_seconds};
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

/// A look into a lane: at most so many rows behind the cursor.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub lane: LaneId,
    pub cursor: Key,
    pub limit: usize,
}

/// The lanes and cursors of several looks, each a parameter.
fn places(looks: impl Iterator<Item = (LaneId, Key)> + Clone) -> [DatumWithOid<'static>; 4] {
    let lanes = looks.clone().map(|(lane, _)| lane);
    let cursors = looks.map(|(_, cursor)| cursor);
    [
        lanes
            .clone()
            .map(|lane| lane.queue)
            .collect::<Vec<_>>()
            .into(),
        lanes.map(|lane| lane.rank).collect::<Vec<_>>().into(),
        cursors
            .clone()
            .map(|key| timestamp(key.due))
            .collect::<Vec<_>>()
            .into(),
        cursors.map(|key| key.id).collect::<Vec<_>>().into(),
    ]
}

/// A statement that finds and locks what is due: the look, and what of a row makes a [`Candidate`]. The lane, the cursor and
/// the limit are these expressions; `$1` is the time, and `$2` the ordering keys that are busy.
fn due(look: &str, [queue, rank, due_at, id, limit]: [&str; 5]) -> String {
    format!(
        "SELECT {look}, p.id, p.due_at, p.size, p.attempts, p.ordering_hash FROM mail.pending p
         WHERE p.queue_id = {queue} AND p.rank = {rank} AND (p.due_at, p.id) > ({due_at}, {id}) AND p.due_at <= $1
           AND (p.ordering_hash IS NULL OR p.ordering_hash <> ALL ($2) AND NOT EXISTS (
                 SELECT FROM mail.pending e
                 WHERE e.ordering_hash = p.ordering_hash AND e.ordering_seq < p.ordering_seq))
         ORDER BY p.due_at, p.id LIMIT {limit} FOR UPDATE OF p SKIP LOCKED"
    )
}

/// A mail that is on its own waits for this: less time than what looks into several lanes.
static DUE_IN_ONE: LazyLock<String> =
    LazyLock::new(|| due("1::bigint", ["$3", "$4", "$5", "$6", "$7"]));
static DUE_IN_SEVERAL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT d.* FROM unnest($3, $4, $5, $6, $7) WITH ORDINALITY AS l (queue_id, rank, due_at, id, room, look), LATERAL ({}) d",
        due(
            "l.look",
            ["l.queue_id", "l.rank", "l.due_at", "l.id", "l.room"]
        )
    )
});

/// For each look: locks what is due, in order, skipping what others have locked and messages whose ordering key is `busy`.
pub fn lock_due(looks: &[Look], now: i64, busy: &[i64]) -> Result<Vec<Vec<Candidate>>> {
    use BuiltinOid::{
        INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID,
    };
    let room = |look: &Look| i64::try_from(look.limit).unwrap_or(i64::MAX);
    let mut args = vec![timestamp(now).into(), busy.to_vec().into()];
    let statement = if let [look] = looks {
        args.extend([
            look.lane.queue.into(),
            look.lane.rank.into(),
            timestamp(look.cursor.due).into(),
            look.cursor.id.into(),
            room(look).into(),
        ]);
        Statement {
            sql: &DUE_IN_ONE,
            types: &[
                TIMESTAMPTZOID,
                INT8ARRAYOID,
                INT4OID,
                INT4OID,
                TIMESTAMPTZOID,
                INT8OID,
                INT8OID,
            ],
        }
    } else {
        args.extend(places(looks.iter().map(|look| (look.lane, look.cursor))));
        args.push(looks.iter().map(room).collect::<Vec<_>>().into());
        Statement {
            sql: &DUE_IN_SEVERAL,
            types: &[
                TIMESTAMPTZOID,
                INT8ARRAYOID,
                INT4ARRAYOID,
                INT4ARRAYOID,
                TIMESTAMPTZARRAYOID,
                INT8ARRAYOID,
                INT8ARRAYOID,
            ],
        }
    };
    let mut found: Vec<Vec<Candidate>> = looks.iter().map(|_| Vec::new()).collect();
    let locked = rows(&statement, &args, |row| {
        let id = row.get(2)?.unwrap_or_default();
        let candidate = Candidate {
            id,
            key: Key {
                due: microseconds(row.get(3)?).unwrap_or_default(),
                id,
            },
            size: row.get(4)?.unwrap_or_default(),
            attempts: row.get(5)?.unwrap_or_default(),
            ordering: row.get(6)?,
        };
        Ok((row.get::<i64>(1)?.unwrap_or_default(), candidate))
    })?;
    for (look, candidate) in locked {
        let place = usize::try_from(look - 1).unwrap_or(usize::MAX);
        if let Some(found) = found.get_mut(place) {
            found.push(candidate);
        }
    }
    Ok(found)
}

/// The earliest due time behind each lane's cursor.
pub fn next_due(lanes: &[(LaneId, Key)]) -> Result<Vec<Option<i64>>> {
    use BuiltinOid::{INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID};
    let statement = Statement {
        sql: "SELECT (SELECT p.due_at FROM mail.pending p
                      WHERE p.queue_id = l.queue_id AND p.rank = l.rank AND (p.due_at, p.id) > (l.due_at, l.id)
                      ORDER BY p.due_at, p.id LIMIT 1)
              FROM unnest($1, $2, $3, $4) AS l (queue_id, rank, due_at, id)",
        types: &[INT4ARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID],
    };
    rows(&statement, &places(lanes.iter().copied()), |row| {
        Ok(microseconds(row.get(1)?))
    })
}

/// Messages that claimers outside this process have in flight. What workers before it had, it has ended at its start.
pub fn foreign() -> Result<HashSet<i64>> {
    let statement = Statement {
        sql: "SELECT i FROM mail.lease l, unnest(l.ids) AS i WHERE l.holder IS NULL",
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
    let mut found = Vec::with_capacity(ids.len());
    let mut missing: HashSet<i64> = ids.iter().copied().collect();
    // Where most are, all are; a look into every table each time would cost more than the rest of the claim.
    for table in &queues::get().partitions.messages {
        if missing.is_empty() {
            break;
        }
        let here = bodies_in(table, &missing)?;
        for body in &here {
            missing.remove(&body.id);
        }
        found.extend(here);
    }
    only_outstanding(&mut found)?;
    Ok(found)
}

fn bodies_in(table: &str, ids: &HashSet<i64>) -> Result<Vec<Body>> {
    let sql = format!(
        "SELECT m.id, m.envelope_from, m.recipients, m.content, greatest(m.enqueued_at, m.send_at),
                coalesce(m.expires_at <= clock_timestamp(), false), m.files
         FROM ONLY {table} m WHERE m.id = ANY ($1)"
    );
    let statement = Statement {
        sql: &sql,
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    let ids: Vec<i64> = ids.iter().copied().collect();
    rows(&statement, &[ids.into()], |row| {
        let to: Vec<String> = row.get(3)?.unwrap_or_default();
        Ok(Body {
            id: row.get(1)?.unwrap_or_default(),
            from: row.get(2)?.unwrap_or_default(),
            recipients: to.len(),
            to,
            content: row.get(4)?,
            date: unix_seconds(microseconds(row.get(5)?).unwrap_or_default()),
            expired: row.get(6)?.unwrap_or_default(),
            files: row.get(7)?.unwrap_or_default(),
        })
    })
}

/// Leaves out recipients for whom nothing is to be done any more, of messages that have several and were tried before.
fn only_outstanding(bodies: &mut [Body]) -> Result<()> {
    let several: Vec<i64> = bodies
        .iter()
        .filter(|body| body.recipients > 1)
        .map(|body| body.id)
        .collect();
    if several.is_empty() {
        return Ok(());
    }
    let statement = Statement {
        sql: "SELECT m.id, mail._outstanding(m.id) FROM unnest($1) AS m (id)
              WHERE EXISTS (SELECT FROM mail.event e WHERE e.message_id = m.id)",
        types: &[BuiltinOid::INT8ARRAYOID],
    };
    let mut outstanding: HashMap<i64, Vec<String>> = rows(&statement, &[several.into()], |row| {
        Ok((
            row.get(1)?.unwrap_or_default(),
            row.get(2)?.unwrap_or_default(),
        ))
    })?
    .into_iter()
    .collect();
    for body in bodies {
        if let Some(to) = outstanding.remove(&body.id) {
            body.to = to;
        }
    }
    Ok(())
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
