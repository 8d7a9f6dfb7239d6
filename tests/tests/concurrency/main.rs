//! Several sessions at once: exactly once each, in order where order was asked for, and nothing forgotten that commits
//! behind the worker's cursor.
//!
//! The worker of these tests sweeps once an hour, so that the sweep cannot hide that it missed something.

mod behind;
mod bystanders;
mod cancel;
mod claimers;
mod expiry;
mod fences;
mod keys;
mod lanes;
mod locked;
mod notify;
mod ordering;
mod passed_by;
mod prepared;
mod queues;
mod retries;
mod snapshots;
mod successor;
mod waiting;

use std::sync::OnceLock;

use pgmq_mail_tests::{
    Cluster, ClusterOptions, Database, Sink, blocks, one, reaches, run_sql, worker_of,
};
use postgres::{Client, GenericClient};

/// The server of these tests.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::with(&ClusterOptions::new().setting("pgmq_mail.sweep_interval", "1h"))
    })
}

/// A fresh database whose worker has done its first sweep, and a session there.
#[track_caller]
fn served() -> (Database<'static>, Client) {
    let database = Database::new(cluster());
    let mut client = database.connect();
    pass(&mut client, "");
    (database, client)
}

/// A fresh database with the queue `work`, which the worker leaves alone, and a session there.
#[track_caller]
fn external() -> (Database<'static>, Client) {
    let (database, mut client) = served();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'external', 'app@example.test')",
    );
    (database, client)
}

/// Adds the queue `out`, which delivers to the sink; its worker has taken notice when this returns.
#[track_caller]
fn delivering(client: &mut Client, sink: &Sink) {
    run_sql(
        client,
        &format!(
            "INSERT INTO mail.relay (name, url) VALUES ('sink', '{}');
             INSERT INTO mail.queue (name, transport, default_sender) VALUES ('out', 'smtp', 'app@example.test')",
            sink.url()
        ),
    );
    pass(client, ", queue => 'out'");
}

/// Enqueues a message with this subject; `more` is added to the arguments.
#[track_caller]
fn put(client: &mut impl GenericClient, subject: &str, more: &str) -> i64 {
    let query = format!("SELECT mail.enqueue('a@example.test', $1, 'x'{more})");
    one(client, &query, &[&subject])
}

/// Sends a message through the worker, so that its cursor stands behind everything committed so far in that lane.
#[track_caller]
fn pass(client: &mut Client, more: &str) {
    let id = put(client, "pass", more);
    reaches(client, id, "sent");
}

/// Enqueues a message and claims it in the same transaction: nobody else can be first. Returns id and token.
#[track_caller]
fn put_claimed(client: &mut Client, queue: &str, lease: &str, more: &str) -> (i64, i64) {
    let mut transaction = client.transaction().expect("a transaction");
    let id = put(
        &mut transaction,
        "held",
        &format!(", queue => '{queue}'{more}"),
    );
    let row = transaction
        .query_one(
            &format!("SELECT id, token FROM mail.claim('{queue}', lease => '{lease}')"),
            &[],
        )
        .expect("its own message");
    assert_eq!(row.get::<_, i64>(0), id, "the queue holds nothing else");
    let token = row.get(1);
    transaction.commit().expect("it commits");
    (id, token)
}

/// The worker, stopped within a turn: it has claimed a message of the queue `stall` and not committed yet.
struct Stalled {
    holder: Client,
}

impl Stalled {
    #[track_caller]
    fn new(database: &Database<'_>, client: &mut Client) -> Self {
        Self::with(database, client, |_| ())
    }

    /// With something that is committed together with the message that the worker stops at.
    #[track_caller]
    fn with(
        database: &Database<'_>,
        client: &mut Client,
        also: impl FnOnce(&mut postgres::Transaction<'_>),
    ) -> Self {
        run_sql(
            client,
            "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('stall', 'capture', 'app@example.test');
             CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 IF NEW.holder IS NOT NULL AND NEW.queue_id = (SELECT id FROM mail.queue WHERE name = 'stall') THEN
                     SET LOCAL lock_timeout = 0;
                     PERFORM pg_advisory_xact_lock(1, 1);
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER stall BEFORE INSERT ON mail.lease FOR EACH ROW EXECUTE FUNCTION stall()",
        );
        pass(client, ", queue => 'stall'");
        let mut holder = database.connect();
        run_sql(&mut holder, "SELECT pg_advisory_lock(1, 1)");
        let mut transaction = client.transaction().expect("a transaction");
        also(&mut transaction);
        put(&mut transaction, "stall", ", queue => 'stall'");
        transaction.commit().expect("it commits");
        let worker = worker_of(client);
        blocks(client, worker);
        Self { holder }
    }

    fn go_on(mut self) {
        run_sql(&mut self.holder, "SELECT pg_advisory_unlock(1, 1)");
    }
}
