//! What a session remembers of the queues: read once, forgotten when `mail.queue` changes (the table's trigger sends
//! an invalidation at commit, which a rollback undoes).

use std::{cell::RefCell, rc::Rc};

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use crate::{error, pg};

/// One queue, as far as accepting a message needs it.
#[derive(Clone, Debug)]
pub struct Queue {
    pub id: i32,
    pub name: String,
    pub external: bool,
    pub default_sender: Option<String>,
    pub return_path: Option<String>,
    pub notify: bool,
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
    static CACHE: RefCell<Option<Rc<Queues>>> = const { RefCell::new(None) };
}

/// Forgets what was read.
pub fn forget() {
    CACHE.with_borrow_mut(|cache| *cache = None);
}

/// The queues, read if need be.
pub fn get() -> Rc<Queues> {
    if let Some(known) = CACHE.with_borrow(Clone::clone) {
        return known;
    }
    let read = Rc::new(read());
    CACHE.with_borrow_mut(|cache| *cache = Some(Rc::clone(&read)));
    read
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
                     coalesce(q.notify, false) FROM mail.queue q";
        let mut all = Vec::new();
        for row in client.select(query, None, &[])? {
            all.push(Queue {
                id: row.get(1)?.unwrap_or_default(),
                name: row.get(2)?.unwrap_or_default(),
                external: row.get(3)?.unwrap_or_default(),
                default_sender: row.get(4)?,
                return_path: row.get(5)?,
                notify: row.get(6)?.unwrap_or_default(),
            });
        }
        Ok(all)
    })
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
