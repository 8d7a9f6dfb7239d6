//! Commands that want a database for themselves.

use std::time::{Duration, Instant};

use pgmq_mail_tests::{
    Database, SOON, Sink, code, database, one, reaches, run_sql, shared, until, worker_of,
};
use postgres::error::SqlState;

use crate::{delivering, findings, put};

/// Postgres itself waits up to five seconds for others to leave.
const QUICKLY: Duration = Duration::from_secs(4);

fn elsewhere(statement: &str) -> Duration {
    let mut client = shared().connect("postgres");
    let begin = Instant::now();
    run_sql(&mut client, statement);
    begin.elapsed()
}

#[test]
fn it_does_not_block_drop_database() {
    let database = database();
    worker_of(&mut database.connect());
    let took = elsewhere(&format!("DROP DATABASE {}", database.name()));
    assert!(took < QUICKLY, "{took:.1?}");
}

#[test]
fn it_does_not_block_drop_database_while_it_starts() {
    for _ in 0..8 {
        let database = database();
        let took = elsewhere(&format!("DROP DATABASE {}", database.name()));
        assert!(took < QUICKLY, "{took:.1?}");
    }
}

#[test]
fn it_does_not_block_drop_database_with_force() {
    let database = database();
    worker_of(&mut database.connect());
    let took = elsewhere(&format!("DROP DATABASE {} WITH (FORCE)", database.name()));
    assert!(took < QUICKLY, "{took:.1?}");
}

#[test]
fn a_drop_of_a_database_that_is_not_there_disturbs_nobody() {
    run_sql(
        &mut shared().connect("postgres"),
        "DROP DATABASE IF EXISTS there_is_none",
    );
    let database = database();
    let mut client = database.connect();
    let id = put(&mut client, "x", "");
    until("it is sent", Duration::from_secs(6), || {
        one(
            &mut client,
            "SELECT state = 'sent' FROM mail.messages WHERE id = $1",
            &[&id],
        )
    });
}

#[test]
fn it_is_back_after_a_drop_that_failed() {
    let database = database();
    let mut client = database.connect();
    worker_of(&mut client);
    let mut other = shared().connect("postgres");
    let dropped = other.batch_execute(&format!("DROP DATABASE {}", database.name()));
    assert_eq!(
        code(dropped),
        SqlState::OBJECT_IN_USE,
        "the test's own session is there"
    );
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn a_role_that_may_not_drop_the_database_does_not_send_it_away() {
    let database = database();
    let mut client = database.connect();
    let worker = worker_of(&mut client);
    let mut nobody = database.connect_as("may_not_drop", &[]);
    let name = database.name();
    for statement in [
        format!("DROP DATABASE {name}"),
        format!("ALTER DATABASE {name} RENAME TO other"),
        format!("CREATE DATABASE other TEMPLATE {name}"),
    ] {
        let refused = code(nobody.batch_execute(&statement));
        assert_eq!(refused, SqlState::INSUFFICIENT_PRIVILEGE, "{statement}");
    }
    assert_eq!(worker_of(&mut client), worker);
}

#[test]
fn a_copy_delivers_nothing_until_it_is_armed() {
    let sink = Sink::start();
    let original = database();
    let mut client = original.connect();
    delivering(&mut client, &sink);
    let sent = put(&mut client, "sent by the original", ", queue => 'out'");
    reaches(&mut client, sent, "sent");
    let later = put(
        &mut client,
        "later",
        ", queue => 'out', send_at => clock_timestamp() + interval '1 day'",
    );
    drop(client);
    let copy = format!("{}_copy", original.name());
    let took = elsewhere(&format!(
        "CREATE DATABASE {copy} TEMPLATE {}",
        original.name()
    ));
    assert!(took < QUICKLY, "{took:.1?}");

    let mut client = shared().connect(&copy);
    let waits = put(&mut client, "waits", ", queue => 'out'");
    let captured = put(&mut client, "captured", "");
    reaches(&mut client, captured, "sent");
    assert_eq!(pgmq_mail_tests::state(&mut client, waits), "queued");
    assert_eq!(sink.count(), 1);
    assert!(findings(&mut client).contains(&"armed".to_owned()));
    assert_eq!(one::<i64>(&mut client, "SELECT mail.arm()", &[]), 1);
    reaches(&mut client, waits, "sent");
    assert!(!findings(&mut client).contains(&"armed".to_owned()));
    assert_eq!(pgmq_mail_tests::state(&mut client, later), "queued");
    drop(client);
    elsewhere(&format!("DROP DATABASE {copy}"));

    let mut client = original.connect();
    let id = put(&mut client, "and the original goes on", ", queue => 'out'");
    reaches(&mut client, id, "sent");
    assert_eq!(sink.count(), 3);
}

#[test]
fn it_follows_a_database_that_is_renamed() {
    let database = Database::empty(shared());
    run_sql(&mut database.connect(), "CREATE EXTENSION pgmq_mail");
    worker_of(&mut database.connect());
    let renamed = format!("{}_renamed", database.name());
    let took = elsewhere(&format!(
        "ALTER DATABASE {} RENAME TO {renamed}",
        database.name()
    ));
    assert!(took < QUICKLY, "{took:.1?}");
    let mut client = shared().connect(&renamed);
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
    drop(client);
    elsewhere(&format!(
        "ALTER DATABASE {renamed} RENAME TO {}",
        database.name()
    ));
}

#[test]
fn a_database_that_is_dropped_with_mail_in_flight_is_gone() {
    let sink = Sink::scripted(|event| match event.phase {
        pgmq_mail_tests::Phase::Dot => pgmq_mail_tests::Action::Silence,
        _ => pgmq_mail_tests::Action::Accept,
    });
    let database = database();
    let mut client = database.connect();
    delivering(&mut client, &sink);
    put(&mut client, "x", ", queue => 'out'");
    until("it is in flight", SOON, || {
        one(
            &mut client,
            "SELECT EXISTS (SELECT FROM mail.workers WHERE in_flight = 1)",
            &[],
        )
    });
    drop(client);
    let took = elsewhere(&format!("DROP DATABASE {}", database.name()));
    assert!(took < QUICKLY, "{took:.1?}");
}
