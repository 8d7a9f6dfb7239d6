//! `CREATE DATABASE … TEMPLATE` of a database in which mail waits.

use pgmq_mail_tests::{all, one, run_sql};

use crate::everything::{Everything, each_once, waiting};
use crate::{SOON, ails, health, put, reaches, server, worker_has_looked};

#[test]
fn a_copy_of_a_database_with_waiting_mail_sends_it_once_it_is_armed_and_the_original_goes_on() {
    let Everything {
        client,
        database,
        sink,
        certificates: _files,
        ..
    } = Everything::on(server());
    let name = format!("{}_copy", database.name());
    drop(client); // the template must have no session
    let mut admin = server().connect("postgres");
    pgmq_mail_tests::until("the database can be copied", SOON, || {
        let copy = format!("CREATE DATABASE {name} TEMPLATE {}", database.name());
        admin.batch_execute(&copy).is_ok()
    });
    let mut copy = server().connect(&name);
    for table in ["relay_secret", "dkim_secret"] {
        let count = format!("SELECT count(*) FROM mail.{table}");
        assert_ne!(
            one::<i64>(&mut copy, &count, &[]),
            0,
            "{table} is part of the copy"
        );
    }
    // The worker left for the copy, and what was in flight waits again, in both.
    let connections = sink.connections();
    sink.forget();
    for relay in ["main", "slow", "filed"] {
        ails(&mut copy, "armed", relay);
    }
    run_sql(
        &mut copy,
        "SELECT mail.resume(name) FROM mail.queue; UPDATE mail.pending SET due_at = clock_timestamp() WHERE due_at > clock_timestamp()",
    );
    worker_has_looked(&mut copy);
    let states: Vec<String> = all(
        &mut copy,
        "SELECT DISTINCT state FROM mail.messages WHERE queue NOT IN ('kept', 'theirs') AND finished_at IS NULL ORDER BY 1",
        &[],
    );
    assert_eq!(states, ["deferred", "queued"]);

    // The original goes on meanwhile. Its worker connects again with what was in flight.
    let mut original = database.connect();
    assert!(
        !health(&mut original)
            .iter()
            .any(|finding| finding.starts_with("armed"))
    );
    let id = put(&mut original, "alice@example.test", "original", "");
    reaches(&mut original, id, "sent");
    let subjects = sink
        .mails()
        .into_iter()
        .filter_map(|mail| mail.header("Subject"));
    assert_eq!(subjects.collect::<Vec<_>>(), ["original"]);
    assert_ne!(sink.connections(), connections);
    run_sql(&mut original, "SELECT mail.disarm('the copy is to send')");

    sink.clear_script();
    sink.forget();
    assert_eq!(one::<i64>(&mut copy, "SELECT mail.arm()", &[]), 4);
    each_once(&mut copy, &sink, waiting());
    drop(copy);
    run_sql(&mut admin, &format!("DROP DATABASE {name} WITH (FORCE)"));

    // And what waits in the original is its own.
    sink.forget();
    assert_eq!(one::<i64>(&mut original, "SELECT mail.arm()", &[]), 4);
    run_sql(
        &mut original,
        "SELECT mail.resume(name) FROM mail.queue; UPDATE mail.pending SET due_at = clock_timestamp() WHERE due_at > clock_timestamp()",
    );
    each_once(&mut original, &sink, waiting());
}
