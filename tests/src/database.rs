//! A server that the tests of one binary share, and a database for each of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::Client;
use postgres::error::SqlState;

use crate::cluster::Cluster;

/// The server that the tests of this binary share, with the extension preloaded.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    // Where the first test could not start it, the others need not try.
    SHARED
        .get_or_init(|| std::panic::catch_unwind(Cluster::start).ok())
        .as_ref()
        .expect("the shared server starts; the first test that failed says why it did not")
}

/// A fresh database on the shared server with the extension in it.
#[track_caller]
pub fn database() -> Database<'static> {
    Database::new(shared())
}

/// A database that is dropped in the end.
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Database<'a> {
    /// A fresh database with the extension in it.
    #[track_caller]
    pub fn new(cluster: &'a Cluster) -> Self {
        let database = Self::empty(cluster);
        database
            .connect()
            .batch_execute("CREATE EXTENSION pgmq_mail")
            .unwrap_or_else(|error| panic!("no extension: {error:?}\n{}", cluster.log_tail()));
        database
    }

    /// A fresh database without the extension.
    #[track_caller]
    pub fn empty(cluster: &'a Cluster) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.create_database(&name);
        Self { cluster, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its server.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// A connection as the superuser.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.cluster.connect(&self.name)
    }

    /// A connection as a role that is created where it is missing, a member of `roles`. Roles belong
    /// to the whole server: each test names its own.
    #[track_caller]
    pub fn connect_as(&self, user: &str, roles: &[&str]) -> Client {
        let mut client = self.connect();
        let exists = client
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)",
                &[&user],
            )
            .expect("the catalog can be read");
        if !exists.get::<_, bool>(0) {
            client
                .batch_execute(&format!("CREATE ROLE \"{user}\" LOGIN"))
                .expect("a fresh role");
        }
        for role in roles {
            client
                .batch_execute(&format!("GRANT \"{role}\" TO \"{user}\""))
                .unwrap_or_else(|error| panic!("cannot grant {role}: {error:?}"));
        }
        self.cluster.connect_as(&self.name, user)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let dropped = self.cluster.try_connect("postgres").and_then(|mut client| {
            client.batch_execute(&format!(
                "DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)",
                self.name
            ))
        });
        if std::thread::panicking() {
            eprintln!("the server's log ends with:\n{}", self.cluster.log_tail());
        } else if let Err(error) = dropped {
            panic!(
                "cannot drop {}: {error:?}\n{}",
                self.name,
                self.cluster.log_tail()
            );
        }
    }
}

/// The SQLSTATE of a statement that must fail.
#[track_caller]
pub fn code<T>(result: Result<T, postgres::Error>) -> SqlState {
    let Err(error) = result else {
        panic!("the statement was expected to fail")
    };
    error
        .code()
        .cloned()
        .unwrap_or_else(|| panic!("not an answer of the server: {error:?}"))
}
