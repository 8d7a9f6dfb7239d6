//! What a session remembers of the queues: read once, forgotten when `mail.queue` changes (the table's trigger sends
//! an invalidation at commit, which a rollback undoes).

use std::rc::Rc;

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use crate::{cached::Cached, error, pg};

/// One queue, as far as accepting a message needs it.
#[derive(Clone, Debug)]
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
}

/// All queues, and what else the functions need to find.
#[derive(Debug)]
pub struct Queues {
    /// Owner of the extension: the role that its tables are written with.
    pub owner: pg_sys::Oid,
    pub id_sequence: pg_sys::Oid,
    pub ordering_sequence: pg_sys::Oid,
    table: pg_sys::Oid,
    all: Vec<Queue>,
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

/// The queues, none of which can be deleted before this transaction has ended.
pub fn held() -> Rc<Queues> {
    loop {
        let queues = get();
        pg::lock_against_deletion(queues.table);
        // Waiting for the lock may have brought news.
        if Rc::ptr_eq(&queues, &get()) {
            return queues;
        }
    }
}

fn read() -> Queues {
    let ids = Spi::get_three::<pg_sys::Oid, pg_sys::Oid, pg_sys::Oid>(
        "SELECT c.relowner, c.oid, 'mail.ordering_seq'::pg_catalog.regclass::pg_catalog.oid \
         FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) 'mail.id_seq'::pg_catalog.regclass",
    );
    let (Ok((Some(owner), Some(id_sequence), Some(ordering_sequence))), Ok(table)) = (
        ids,
        Spi::get_one::<pg_sys::Oid>("SELECT 'mail.queue'::pg_catalog.regclass::pg_catalog.oid"),
    ) else {
        let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        error::raise(
            code,
            "extension \"pgmq_mail\" is not installed in this database".into(),
            None,
        );
    };
    let table = table.unwrap_or(pg_sys::InvalidOid);
    pg::watch(table);
    let all = pg::as_role(owner, read_all).unwrap_or_else(|e| {
        error::raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not read mail.queue: {e}"),
            None,
        )
    });
    Queues {
        owner,
        id_sequence,
        ordering_sequence,
        table,
        all,
    }
}

fn read_all() -> pgrx::spi::Result<Vec<Queue>> {
    Spi::connect(|client| {
        let query = "SELECT q.id, q.name, q.transport OPERATOR(pg_catalog.=) 'external', q.default_sender, q.return_path, \
                     coalesce(q.notify, false), q.max_message_size, q.bulk FROM mail.queue q";
        let mut all = Vec::new();
        for row in client.select(query, None, &[])? {
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
            });
        }
        Ok(all)
    })
}

impl Queue {
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
    /// The queue of that name; raises 42704.
    pub fn by_name(&self, name: &str) -> &Queue {
        self.all
            .iter()
            .find(|queue| queue.name == name)
            .unwrap_or_else(|| {
                let hint = "The table mail.queue lists the queues; insert a row to make one.";
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
