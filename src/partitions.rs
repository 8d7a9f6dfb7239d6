//! Which tables messages and events are written to: `mail.partition`, read and forgotten with the queues.

use std::cell::RefCell;

use pgrx::{Spi, pg_sys};

use crate::{error, look::look, pg, queues::Queues};

/// A table, and the partition of it that is written in this turn.
#[derive(Debug)]
struct Target {
    table: pg_sys::Oid,
    partition: pg_sys::Oid,
    /// How many triggers and indexes the table comes with.
    own: (i32, i32),
}

impl Target {
    /// Whether rows go into partitions. Triggers and indexes of somebody's own on the table concern every row: then not.
    fn takes_turns(&self, write: bool) -> bool {
        self.partition != self.table && pg::triggers_and_indexes(self.table, write) == self.own
    }

    fn goes(&self) -> pg_sys::Oid {
        if self.takes_turns(true) {
            self.partition
        } else {
            self.table
        }
    }
}

/// What a session needs to know of the partitions.
#[derive(Debug)]
pub struct Partitions {
    message: Target,
    event: Target,
    /// All tables that are written in this turn.
    current: Vec<pg_sys::Oid>,
    /// Names of all tables that hold messages, those first that hold fresh ones.
    pub messages: Vec<String>,
}

impl Partitions {
    /// Without any: everything is in the tables themselves, as it was before 0.3.0. Goes when 0.2.0 is served no longer.
    pub fn none(message: pg_sys::Oid, event: pg_sys::Oid) -> Self {
        let target = |table, own| Target {
            table,
            partition: table,
            own,
        };
        Self {
            message: target(message, (1, 1)),
            event: target(event, (2, 2)),
            current: Vec::new(),
            messages: vec!["mail.message".to_owned()],
        }
    }

    /// Whether what such partitions hold goes into them.
    pub fn take_turns(&self, holds: &str) -> bool {
        let target = if holds == "event" {
            &self.event
        } else {
            &self.message
        };
        target.takes_turns(false)
    }

    /// The partition whose turn it is, also where they go into the table itself.
    pub fn message_in_turn(&self) -> pg_sys::Oid {
        self.message.partition
    }

    /// The table that messages are written to.
    pub fn message(&self) -> pg_sys::Oid {
        self.message.goes()
    }

    /// The table that events are written to.
    pub fn event(&self) -> pg_sys::Oid {
        self.event.goes()
    }
}

thread_local! {
    /// Those that this session knew to be written before it read last, and those that it then read.
    static KNOWN: RefCell<[Vec<pg_sys::Oid>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// The partitions of these tables; none where a snapshot is older than they are. With the rights of the current role.
pub fn read(message: pg_sys::Oid, event: pg_sys::Oid) -> pgrx::spi::Result<Partitions> {
    let query = "SELECT p.holds, r.name, r.name::pg_catalog.regclass::pg_catalog.oid, p.current \
                 FROM mail.partition p, LATERAL (SELECT pg_catalog.format('mail.%I', p.name)) AS r (name) \
                 ORDER BY p.current DESC, p.turn IS NULL, p.holds, p.since DESC NULLS LAST, p.turn DESC";
    look(query, &[], |rows| {
        let mut found = Partitions::none(message, event);
        if !rows.is_empty() {
            found.messages.clear();
        }
        for row in rows {
            let holds: String = row.get(1)?.unwrap_or_default();
            let table: pg_sys::Oid = row.get(3)?.unwrap_or(pg_sys::InvalidOid);
            if row.get(4)?.unwrap_or_default() {
                found.current.push(table);
                match holds.as_str() {
                    "message" => found.message.partition = table,
                    "event" => found.event.partition = table,
                    _ => {}
                }
            }
            if holds != "event" {
                found.messages.push(row.get(2)?.unwrap_or_default());
            }
        }
        KNOWN.with_borrow_mut(|[before, last]| {
            *before = std::mem::replace(last, found.current.clone());
        });
        Ok(found)
    })
}

/// Notes that a partition is written: if it is not its turn, it is gone through anew before it is emptied, and not within
/// a day.
pub fn written(queues: &Queues, table: pg_sys::Oid) {
    // Its turn may have ended since this session chose it: what is newer than all else there has it gone through anew.
    let its_turn = queues.partitions.current.contains(&table)
        || KNOWN.with_borrow(|[before, _]| before.contains(&table));
    if its_turn {
        return;
    }
    let query = "UPDATE mail.partition SET behind = 0, clearing = false, cleared = NULL, since = pg_catalog.clock_timestamp() \
                 WHERE name OPERATOR(pg_catalog.=) (SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1)";
    let noted = pg::as_role(queues.owner, || Spi::run_with_args(query, &[table.into()]));
    noted.unwrap_or_else(|e| error::internal("could not note that a partition is written", &e));
}
