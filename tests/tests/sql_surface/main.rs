//! The SQL surface, as a user of the extension sees it: what each call answers, and how it refuses.

mod additions;
mod administer;
mod cancel;
mod claim;
mod comments;
mod enqueue;
mod guards;
mod hidden;
mod hostile;
mod keys;
mod leases;
mod refusals;
mod relay_secrets;
mod rights;
mod rules;
mod senders;
mod tenants;
mod watch;

use std::time::Duration;

use pgmq_mail_tests::Database;
use postgres::Client;
use postgres::types::{FromSqlOwned, ToSql};

/// Long enough for a loaded machine, short enough for a test that fails.
const SOON: Duration = Duration::from_secs(10);

/// The first column of the only row.
#[track_caller]
fn one<T: FromSqlOwned>(client: &mut Client, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> T {
    client
        .query_one(query, parameters)
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

/// The first column of all rows.
#[track_caller]
fn all<T: FromSqlOwned>(
    client: &mut Client,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Vec<T> {
    client
        .query(query, parameters)
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// A session on a database with the queue `work`, which nothing but the test takes messages from.
#[track_caller]
fn work(database: &Database<'_>) -> Client {
    let mut client = database.connect();
    client
        .batch_execute(
            "INSERT INTO mail.queue (name, transport, default_sender)
             VALUES ('work', 'external', 'app@example.test')",
        )
        .expect("a queue can be made");
    client
}

/// Enqueues a message with this subject into `work`; `more` is added to the arguments.
#[track_caller]
fn put(client: &mut Client, subject: &str, more: &str) -> i64 {
    let query = format!("SELECT mail.enqueue('a@example.test', $1, 'x', queue => 'work' {more})");
    one(client, &query, &[&subject])
}

/// The subjects of what a claim of this size takes, in its order.
#[track_caller]
fn claimed(client: &mut Client, batch: i32) -> Vec<String> {
    all(
        client,
        "SELECT message ->> 'subject' FROM mail.claim('work', batch => $1, lease => '1 minute')",
        &[&batch],
    )
}

/// The id and token of one claimed message.
#[track_caller]
fn take(client: &mut Client, lease: &str) -> Option<(i64, i64)> {
    let query = format!("SELECT id, token FROM mail.claim('work', lease => '{lease}')");
    client
        .query_opt(&query, &[])
        .expect("claim works")
        .map(|row| (row.get(0), row.get(1)))
}

/// The state of a message.
#[track_caller]
fn state(client: &mut Client, id: i64) -> String {
    one(
        client,
        "SELECT state FROM mail.messages WHERE id = $1",
        &[&id],
    )
}

/// How many messages there are records of.
#[track_caller]
fn messages(client: &mut Client) -> i64 {
    one(client, "SELECT count(*) FROM mail.messages", &[])
}
