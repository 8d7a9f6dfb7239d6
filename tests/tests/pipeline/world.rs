//! A database with the extension, set up for delivery, and the questions that tests ask it.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Certificates, Cluster, ClusterOptions, Database, Folder, Guard, Sink};
use postgres::Client;
use postgres::types::{FromSqlOwned, ToSql};

/// Long enough for a loaded machine, short enough for a test that fails.
pub const SOON: Duration = Duration::from_secs(40);

/// The server that the tests share.
pub fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::with(&options()))
}

/// How it is set up.
pub fn options() -> ClusterOptions {
    ClusterOptions::new()
        .setting("pgmq_mail.sweep_interval", "10min")
        .setting("pgmq_mail.secrets_directory", secrets_directory().text())
}

/// Where `file:` secrets are. What is static is never dropped: the guard removes it.
pub fn secrets_directory() -> &'static Folder {
    static FOLDER: OnceLock<(Folder, Guard)> = OnceLock::new();
    let make = || {
        let folder = Folder::new("secrets");
        let guard = Guard::new(r#"rm -rf "$1""#, &[folder.text()]);
        (folder, guard)
    };
    &FOLDER.get_or_init(make).0
}

/// A literal.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A fresh database, and a session in it as the superuser.
pub struct World<'a> {
    /// The session.
    pub client: Client,
    /// Dropped in the end.
    pub database: Database<'a>,
}

impl World<'static> {
    /// On the shared server. The queue `default` delivers by SMTP through all relays, of which there are
    /// none yet, and retries after a fraction of a second.
    #[track_caller]
    pub fn new() -> Self {
        Self::on(shared())
    }

    /// [`new`](Self::new), with the relay `main` for a sink.
    #[track_caller]
    pub fn with(sink: &Sink) -> Self {
        let mut world = Self::new();
        world.relay("main", &sink.url(), &[]);
        world
    }
}

impl<'a> World<'a> {
    /// On another server.
    #[track_caller]
    pub fn on(cluster: &'a Cluster) -> Self {
        Self::on_with(cluster, |_, _| ())
    }

    /// [`on`](Self::on), after this was done in the empty database of that name.
    #[track_caller]
    pub fn on_with(cluster: &'a Cluster, prepare: impl FnOnce(&mut Client, &str)) -> Self {
        let database = Database::empty(cluster);
        let mut client = database.connect();
        prepare(&mut client, database.name());
        let mut world = Self { client, database };
        world.run("CREATE EXTENSION pgmq_mail");
        world.queue(
            "default",
            &[
                ("transport", "smtp"),
                ("default_sender", "App <app@example.test>"),
                ("retry_base", "200 milliseconds"),
                ("retry_max", "1 second"),
            ],
        );
        world
    }

    /// Statements without an answer.
    #[track_caller]
    pub fn run(&mut self, statements: &str) {
        self.client
            .batch_execute(statements)
            .unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The first column of the only row.
    #[track_caller]
    pub fn one<T: FromSqlOwned>(&mut self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> T {
        self.client
            .query_one(query, parameters)
            .unwrap_or_else(|error| panic!("{query}: {error:?}"))
            .get(0)
    }

    /// The first column of all rows.
    #[track_caller]
    pub fn all<T: FromSqlOwned>(
        &mut self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Vec<T> {
        let rows = self.client.query(query, parameters);
        let rows = rows.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Inserts a relay.
    #[track_caller]
    pub fn relay(&mut self, name: &str, url: &str, columns: &[(&str, &str)]) {
        let mut names = String::from("name, url");
        let mut values = format!("{}, {}", quoted(name), quoted(url));
        for (column, value) in columns {
            write!(names, ", {column}").expect("a string grows");
            write!(values, ", {}", quoted(value)).expect("a string grows");
        }
        self.run(&format!(
            "INSERT INTO mail.relay ({names}) VALUES ({values})"
        ));
    }

    /// Inserts a relay that logs in as `app` where a certificate of this authority is shown.
    #[track_caller]
    pub fn relay_with_login(&mut self, name: &str, url: &str, ca: &Certificates, secret: &str) {
        let ca_file = ca.ca_file();
        let columns = [
            ("username", "app"),
            ("secret", secret),
            ("ca_file", ca_file.to_str().expect("a path in UTF-8")),
        ];
        self.relay(name, url, &columns);
    }

    /// Changes a queue, which is made if it does not exist.
    #[track_caller]
    pub fn queue(&mut self, name: &str, columns: &[(&str, &str)]) {
        let changes: Vec<String> = columns
            .iter()
            .map(|(column, value)| format!("{column} = {}", quoted(value)))
            .collect();
        self.run(&format!(
            "INSERT INTO mail.queue (name, default_sender) SELECT {name}, 'app@example.test'
                 WHERE NOT EXISTS (SELECT FROM mail.queue WHERE name = {name});
             UPDATE mail.queue SET {} WHERE name = {name}",
            changes.join(", "),
            name = quoted(name),
        ));
    }

    /// Enqueues a mail with the text `hello`; `more` is added to the arguments.
    #[track_caller]
    pub fn put(&mut self, recipient: &str, subject: &str, more: &str) -> i64 {
        let query = format!("SELECT mail.enqueue($1, $2, 'hello' {more})");
        self.one(&query, &[&recipient, &subject])
    }

    /// Enqueues that many, to `n@example.test` with the subject `n`, from 1, in one transaction.
    #[track_caller]
    pub fn put_many(&mut self, count: i32, more: &str) -> Vec<i64> {
        let query = format!(
            "SELECT mail.enqueue(n || '@example.test', n::text, 'hello' {more})
             FROM generate_series(1, $1) AS n"
        );
        self.all(&query, &[&count])
    }

    /// The state of a message.
    #[track_caller]
    pub fn state(&mut self, id: i64) -> String {
        self.one("SELECT state FROM mail.messages WHERE id = $1", &[&id])
    }

    /// How many attempts are counted.
    #[track_caller]
    pub fn attempts(&mut self, id: i64) -> i32 {
        self.one("SELECT attempts FROM mail.messages WHERE id = $1", &[&id])
    }

    /// Checks that a message waits for a relay, having been tried by none: it may just be on its way to try.
    #[track_caller]
    pub fn waits(&mut self, id: i64) {
        let state = self.state(id);
        let told = (["queued", "sending"].contains(&&*state), self.attempts(id));
        assert_eq!(told, (true, 0), "{state}: {}", self.story(id));
    }

    /// Waits until a message is in a state.
    #[track_caller]
    pub fn reaches(&mut self, id: i64, state: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let now = self.state(id);
            if now == state {
                return;
            }
            if Instant::now() > deadline {
                let (events, health) = (self.story(id), self.health());
                panic!("message {id} is {now}, not {state}\n{events}\n{health:#?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a query says true.
    #[track_caller]
    pub fn until(&mut self, query: &str) {
        let deadline = Instant::now() + SOON;
        while !self.one::<bool>(query, &[]) {
            assert!(
                Instant::now() < deadline,
                "waited in vain for {query}\n{:#?}",
                self.health()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing of a queue is due or in flight.
    #[track_caller]
    pub fn idle(&mut self, queue: &str) {
        let idle: bool = self.one("SELECT mail.wait_idle($1, '40 seconds')", &[&queue]);
        assert!(idle, "\"{queue}\" has work left: {:#?}", self.health());
    }

    /// What happened to a message: the kinds of its events.
    #[track_caller]
    pub fn kinds(&mut self, id: i64) -> Vec<String> {
        self.all(
            "SELECT kind FROM mail.events WHERE message_id = $1 ORDER BY id",
            &[&id],
        )
    }

    /// What happened to a message, for a person.
    #[track_caller]
    pub fn story(&mut self, id: i64) -> String {
        let events: Vec<String> = self.all(
            "SELECT concat_ws(' ', at, kind, 'attempt', attempt, recipient, relay, phase, code, status, text)
             FROM mail.events WHERE message_id = $1 ORDER BY id",
            &[&id],
        );
        events.join("\n")
    }

    /// The findings of `mail.health()`, as `check: detail`.
    #[track_caller]
    pub fn health(&mut self) -> Vec<String> {
        self.all("SELECT \"check\" || ': ' || detail FROM mail.health()", &[])
    }

    /// Waits until `mail.health()` has a finding that begins and goes on like this.
    #[track_caller]
    pub fn ails(&mut self, check: &str, text: &str) {
        self.until(&format!(
            "SELECT EXISTS (SELECT FROM mail.health()
             WHERE \"check\" = {} AND position({} IN detail) > 0)",
            quoted(check),
            quoted(text)
        ));
    }
}
