//! The worker's life: it starts by itself, is there when it is needed, gets out of the way, and stops in time.

mod clock;
mod databases;
mod extension;
mod life;
mod locks;
mod partitions;
mod role;
mod settings;
mod standby;
mod stop;
mod unloaded;

use pgmq_mail_tests::{Sink, one, run_sql};
use postgres::{Client, GenericClient};

/// Enqueues a message; `more` is added to the arguments.
#[track_caller]
fn put(client: &mut impl GenericClient, subject: &str, more: &str) -> i64 {
    let query = format!("SELECT mail.enqueue('a@example.test', $1, 'x'{more})");
    one(client, &query, &[&subject])
}

/// Adds the queue `out`, which delivers to the sink.
#[track_caller]
fn delivering(client: &mut Client, sink: &Sink) {
    run_sql(
        client,
        &format!(
            "INSERT INTO mail.relay (name, url) VALUES ('sink', '{}');
             INSERT INTO mail.queue (name, transport, default_sender, retry_base, retry_max)
             VALUES ('out', 'smtp', 'app@example.test', '100 milliseconds', '100 milliseconds')",
            sink.url()
        ),
    );
}

/// Whether a delivery worker is attached to a database.
#[track_caller]
fn attached(client: &mut Client, database: &str) -> bool {
    one(
        client,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'pgmq_mail worker')",
        &[&database],
    )
}

/// What `mail.health()` finds.
#[track_caller]
fn findings(client: &mut Client) -> Vec<String> {
    pgmq_mail_tests::all(
        client,
        "SELECT \"check\" FROM mail.health() ORDER BY 1",
        &[],
    )
}
