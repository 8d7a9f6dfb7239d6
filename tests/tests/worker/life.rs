//! Starting, and starting again.

use pgmq_mail_tests::{
    Cluster, Database, SOON, Stop, database, one, reaches, run_sql, shared, until, worker_of,
};

use crate::{attached, findings, put};

#[test]
fn it_starts_by_itself_in_each_database_with_the_extension() {
    let databases = [database(), database()];
    let workers = databases.each_ref().map(|database| {
        let mut client = database.connect();
        let worker = worker_of(&mut client);
        let preloaded: bool = one(&mut client, "SELECT preloaded FROM mail.workers", &[]);
        assert!(preloaded);
        assert_eq!(findings(&mut client), [""; 0]);
        worker
    });
    assert_ne!(workers[0], workers[1]);
    for database in &databases {
        let mut client = database.connect();
        let id = put(&mut client, "x", "");
        reaches(&mut client, id, "sent");
    }
}

#[test]
fn a_database_without_the_extension_keeps_none() {
    let empty = Database::empty(shared());
    let served = database();
    let mut client = served.connect();
    worker_of(&mut client);
    until("the worker that looked has left", SOON, || {
        !attached(&mut client, empty.name())
    });
    let others: Vec<String> = pgmq_mail_tests::all(
        &mut client,
        "SELECT datname FROM pg_stat_activity WHERE backend_type = 'pgmq_mail worker' AND datname IN ('postgres', 'template1')",
        &[],
    );
    assert_eq!(others, [""; 0]);
}

#[test]
fn it_is_back_after_it_was_terminated_and_delivers() {
    let database = database();
    let mut client = database.connect();
    for _ in 0..2 {
        let worker = worker_of(&mut client);
        assert!(one::<bool>(
            &mut client,
            "SELECT pg_terminate_backend($1)",
            &[&worker]
        ));
        until("it ends", SOON, || {
            one(
                &mut client,
                "SELECT NOT EXISTS (SELECT FROM mail.workers WHERE pid = $1)",
                &[&worker],
            )
        });
        let id = put(&mut client, "x", "");
        reaches(&mut client, id, "sent");
        assert_ne!(worker_of(&mut client), worker);
    }
}

#[test]
fn it_survives_a_cancelled_statement() {
    let database = database();
    let mut client = database.connect();
    let worker = worker_of(&mut client);
    for _ in 0..3 {
        run_sql(&mut client, &format!("SELECT pg_cancel_backend({worker})"));
        let id = put(&mut client, "x", "");
        reaches(&mut client, id, "sent");
    }
    assert_eq!(worker_of(&mut client), worker);
}

#[test]
fn it_starts_with_the_server_and_delivers_what_waits() {
    let mut cluster = Cluster::start();
    let mut ids = Vec::new();
    for stop in [Stop::Fast, Stop::Immediate] {
        run_once(&cluster, &mut ids);
        cluster.restart(stop);
        let mut client = cluster.connect("served");
        worker_of(&mut client);
        for id in ids.drain(..) {
            reaches(&mut client, id, "sent");
        }
    }
}

/// Messages that fall due while the server is down, most likely, or soon after.
fn run_once(cluster: &Cluster, ids: &mut Vec<i64>) {
    if cluster.try_connect("served").is_err() {
        cluster.create_database("served");
        run_sql(&mut cluster.connect("served"), "CREATE EXTENSION pgmq_mail");
    }
    let mut client = cluster.connect("served");
    for n in 0..5 {
        let more = format!(", send_at => clock_timestamp() + interval '{n}00 milliseconds'");
        ids.push(put(&mut client, "x", &more));
    }
}

#[test]
fn a_message_whose_row_comes_later_is_waited_for() {
    let database = database();
    let mut client = database.connect();
    run_sql(&mut client, "SELECT mail.pause('default')");
    let id = put(&mut client, "later", "");
    // As in the middle of a restore.
    run_sql(
        &mut client,
        "CREATE TABLE kept AS SELECT * FROM mail.message;
         DELETE FROM mail.message;
         SELECT mail.resume('default')",
    );
    let other = put(&mut client, "other", "");
    reaches(&mut client, other, "sent");
    let leases: i64 = one(&mut client, "SELECT count(*) FROM mail.lease", &[]);
    assert_eq!(leases, 0);
    run_sql(&mut client, "INSERT INTO mail.message SELECT * FROM kept");
    reaches(&mut client, id, "sent");
}
