//! Short ways to ask a server.

use std::time::Duration;

use postgres::GenericClient;
use postgres::types::{FromSqlOwned, ToSql};

use crate::wait::{eventually, until};

/// Long enough for a loaded machine, short enough for a test that fails; shorter than an hour's sweep, longer than
/// the five seconds after which a waiting claim looks by itself.
pub const SOON: Duration = Duration::from_secs(15);

/// The first column of the only row.
#[track_caller]
pub fn one<T: FromSqlOwned>(
    client: &mut impl GenericClient,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> T {
    client
        .query_one(query, parameters)
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

/// The first column of all rows.
#[track_caller]
pub fn all<T: FromSqlOwned>(
    client: &mut impl GenericClient,
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

/// Statements without an answer.
#[track_caller]
pub fn run_sql(client: &mut impl GenericClient, statements: &str) {
    client
        .batch_execute(statements)
        .unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// The process of a session.
#[track_caller]
pub fn pid(client: &mut impl GenericClient) -> i32 {
    one(client, "SELECT pg_backend_pid()", &[])
}

/// The state of a message.
#[track_caller]
pub fn state(client: &mut impl GenericClient, id: i64) -> String {
    one(
        client,
        "SELECT state FROM mail.messages WHERE id = $1",
        &[&id],
    )
}

/// Waits until a message is in that state.
#[track_caller]
pub fn reaches(client: &mut impl GenericClient, id: i64, wanted: &str) {
    let mut last = String::new();
    let begin = std::time::Instant::now();
    while begin.elapsed() < SOON {
        last = state(client, id);
        if last == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    let events: Vec<String> = all(
        client,
        "SELECT concat_ws(' ', e.at::time, e.kind, e.code, e.text) FROM mail.events e WHERE e.message_id = $1
         ORDER BY e.id",
        &[&id],
    );
    panic!("message {id} is {last}, not {wanted}; its events: {events:#?}");
}

/// Waits until the session with that process waits for a lock.
#[track_caller]
pub fn blocks(observer: &mut impl GenericClient, pid: i32) {
    until("the session waits for a lock", SOON, || {
        one(
            observer,
            "SELECT coalesce(bool_or(wait_event_type = 'Lock'), false) FROM pg_stat_activity WHERE pid = $1",
            &[&pid],
        )
    });
}

/// Waits until the session with that process sleeps in `mail.claim`.
#[track_caller]
pub fn sleeps(observer: &mut impl GenericClient, pid: i32) {
    until("the session sleeps in mail.claim", SOON, || {
        one(
            observer,
            "SELECT coalesce(bool_or(wait_event_type = 'Extension'), false) FROM pg_stat_activity WHERE pid = $1",
            &[&pid],
        )
    });
}

/// Waits for the process of the database's delivery worker.
#[track_caller]
pub fn worker_of(client: &mut impl GenericClient) -> i32 {
    eventually("the worker runs", SOON, || {
        all(client, "SELECT pid FROM mail.workers", &[]).pop()
    })
}
