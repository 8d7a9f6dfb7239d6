//! What a session remembers of the queues: read once, forgotten when `mail.queue` changes (the table's trigger sends
//! an invalidation at commit, which a rollback undoes).

use std::{
    ffi::{CStr, CString},
    rc::Rc,
};

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::{
    cached::Cached,
    error,
    look::look,
    partitions::{self, Partitions},
    pg,
    senders::{self, Grant},
};

/// One queue, as far as accepting a message needs it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "columns of the table")]
pub struct Queue {
    pub id: i32,
    pub name: String,
    pub external: bool,
    pub default_sender: Option<String>,
    pub return_path: Option<String>,
    pub notify: bool,
    /// Its own limit for a message, in bytes.
    pub max_size: Option<usize>,
    pub bulk: bool,
    /// Whether only those may be sent as that are granted, even where nothing is.
    pub restrict_senders: bool,
    /// The role that it belongs to; `None`: everybody may use it.
    owner: Option<CString>,
}

/// All queues, and what else the functions need to find.
#[derive(Debug)]
pub struct Queues {
    /// Owner of the extension: the role that its tables are written with.
    pub owner: pg_sys::Oid,
    pub id_sequence: pg_sys::Oid,
    pub ordering_sequence: pg_sys::Oid,
    pub partitions: Partitions,
    pub pending: Pending,
    pub event_sequence: pg_sys::Oid,
    /// The table `mail.lease`.
    pub lease: pg_sys::Oid,
    pub lease_sequence: pg_sys::Oid,
    /// Who may send as whom.
    pub grants: Vec<Grant>,
    /// Whether the SQL that is installed is that of 0.2.0 or later. Until ALTER EXTENSION UPDATE it may be older than this
    /// library; the update changes `mail.queue`, so that this is read anew. Goes when 0.1.0 is served no longer.
    pub since_0_2: bool,
    /// The same of 0.3.0. Goes when 0.2.0 is served no longer.
    pub since_0_3: bool,
    table: pg_sys::Oid,
    all: Vec<Queue>,
}

/// The table `mail.pending`, and its partial indexes.
#[derive(Debug)]
pub struct Pending {
    pub table: pg_sys::Oid,
    pub by_ordering: pg_sys::Oid,
    pub by_expiry: pg_sys::Oid,
    pub by_what_it_waits_for: pg_sys::Oid,
}

thread_local! {
    static CACHE: Cached<Queues> = const { Cached::new() };
}

/// Forgets what was read.
pub fn forget() {
    CACHE.with(Cached::forget);
}

/// The queues, read if need be.
pub fn get() -> Rc<Queues> {
    CACHE.with(|cache| cache.get(read))
}

/// The queues, none of which can be deleted before this transaction has ended; and the table that messages are written to
/// is not gone through to be emptied without what this transaction writes, whose ids are newer than this.
pub fn held() -> Rc<Queues> {
    loop {
        let queues = get();
        pg::lock_against_deletion(queues.table);
        pg::lock_to_write(queues.partitions.message_in_turn());
        // Waiting for the lock may have brought news.
        if Rc::ptr_eq(&queues, &get()) {
            return queues;
        }
    }
}

fn read() -> Queues {
    // CREATE EXTENSION comes here before it makes the tables of messages; what it does later changes mail.queue again.
    let named = look(
        "SELECT c.relowner, c.oid, 'mail.ordering_seq'::pg_catalog.regclass::pg_catalog.oid, \
                'mail.queue'::pg_catalog.regclass::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.message')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.pending')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.pending_ordering_idx')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.pending_expires_at_idx')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.pending_waits_for_idx')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.event')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.event_id_seq')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.lease')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.lease_seq')::pg_catalog.oid, \
                pg_catalog.to_regclass('mail.sender_grant') IS NOT NULL, \
                pg_catalog.to_regclass('mail.partition') IS NOT NULL \
         FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) 'mail.id_seq'::pg_catalog.regclass",
        &[],
        |rows| {
            let row = rows.first();
            let mut oids = [pg_sys::InvalidOid; 13];
            for (at, oid) in oids.iter_mut().enumerate() {
                *oid = row.get(at + 1)?.unwrap_or(pg_sys::InvalidOid);
            }
            let since = |column| row.get::<bool>(column).map(Option::unwrap_or_default);
            Ok((oids, since(14)?, since(15)?))
        },
    );
    let Ok((oids, since_0_2, since_0_3)) = named else {
        let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        error::raise(
            code,
            "extension \"pgmq_mail\" is not installed in this database".into(),
            None,
        );
    };
    let [
        owner,
        id_sequence,
        ordering_sequence,
        table,
        message,
        pending,
        by_ordering,
        by_expiry,
        by_what_it_waits_for,
        event,
        event_sequence,
        lease,
        lease_sequence,
    ] = oids;
    pg::watch(table);
    let read = || {
        let grants = if since_0_2 {
            senders::read()?
        } else {
            Vec::new()
        };
        let partitions = if since_0_3 {
            partitions::read(message, event)?
        } else {
            Partitions::none(message, event)
        };
        Ok((read_all(since_0_2)?, grants, partitions))
    };
    let (all, grants, partitions) = pg::as_role(owner, read)
        .unwrap_or_else(|e| error::internal("could not read mail.queue", &e));
    Queues {
        owner,
        id_sequence,
        ordering_sequence,
        partitions,
        pending: Pending {
            table: pending,
            by_ordering,
            by_expiry,
            by_what_it_waits_for,
        },
        event_sequence,
        lease,
        lease_sequence,
        grants,
        since_0_2,
        since_0_3,
        table,
        all,
    }
}

fn read_all(since_0_2: bool) -> pgrx::spi::Result<Vec<Queue>> {
    let newer = if since_0_2 {
        "q.restrict_senders, q.owner"
    } else {
        "false, NULL::pg_catalog.text"
    };
    let query = format!(
        "SELECT q.id, q.name, q.transport OPERATOR(pg_catalog.=) 'external', q.default_sender, q.return_path, \
                     coalesce(q.notify, false), q.max_message_size, q.bulk, {newer} FROM mail.queue q"
    );
    look(&query, &[], |rows| {
        let mut all = Vec::new();
        for row in rows {
            all.push(Queue {
                id: row.get(1)?.unwrap_or_default(),
                name: row.get(2)?.unwrap_or_default(),
                external: row.get(3)?.unwrap_or_default(),
                default_sender: row.get(4)?,
                return_path: row.get(5)?,
                notify: row.get(6)?.unwrap_or_default(),
                max_size: row
                    .get::<i32>(7)?
                    .and_then(|size| usize::try_from(size).ok()),
                bulk: row.get(8)?.unwrap_or_default(),
                restrict_senders: row.get(9)?.unwrap_or_default(),
                owner: row
                    .get::<String>(10)?
                    .map(|owner| CString::new(owner).unwrap_or_default()),
            });
        }
        Ok(all)
    })
}

/// Its members may use every queue.
const ADMIN: &CStr = c"mail_admin";

impl Queue {
    fn may_be_used_by(&self, caller: &pg::Role) -> bool {
        self.owner
            .as_ref()
            .is_none_or(|owner| caller.is_member_of(owner) || caller.is_member_of(ADMIN))
    }

    /// Raises 40001 if it was deleted since this transaction's snapshot was taken.
    pub fn check_it_is_there(&self) {
        let query = c"SELECT FROM mail.queue q WHERE q.id OPERATOR(pg_catalog.=) $1";
        if pg::keeps_snapshot() && !pg::holds_now(query, i64::from(self.id)) {
            let code = PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE;
            error::raise(
                code,
                format!("queue \"{}\" was deleted concurrently", self.name),
                None,
            );
        }
    }
}

impl Queues {
    /// The queue of that name, which a role may use; raises 42704.
    pub fn by_name(&self, name: &str, caller: &pg::Role) -> &Queue {
        self.all
            .iter()
            .find(|queue| queue.name == name && queue.may_be_used_by(caller))
            .unwrap_or_else(|| {
                let hint = "The table mail.queue lists the queues; one that has an owner is there for its members only.";
                error::missing(format!("queue \"{name}\" does not exist"), Some(hint))
            })
    }
}

/// Numbers of all queues.
pub fn ids() -> Vec<i32> {
    get().all.iter().map(|queue| queue.id).collect()
}

/// The table whose invalidation stands for a change of the configuration.
pub fn table() -> pg_sys::Oid {
    get().table
}

/// Sends NOTIFY for the queue if it wants that; Postgres drops repeats within a transaction.
pub fn notify(id: i32) {
    let queues = get();
    if let Some(queue) = queues.all.iter().find(|queue| queue.id == id)
        && queue.notify
    {
        pg::notify("mail_queue", &queue.name);
    }
}
