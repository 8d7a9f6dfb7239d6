//! Locks that others hold for a while.

use pgmq_mail_tests::{
    Action, Cluster, ClusterOptions, Gate, Phase, SOON, Sink, one, reaches, run_sql, until,
    worker_of,
};

use crate::{delivering, put};

#[test]
fn a_locked_table_delays_and_loses_nothing() {
    let gate = Gate::new();
    let hold = gate.clone();
    let sink = Sink::scripted(move |event| {
        if event.phase == Phase::Dot {
            hold.pass();
        }
        Action::Accept
    });
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    delivering(&mut client, &sink);
    let ids: Vec<i64> = (0..6)
        .map(|n| put(&mut client, &n.to_string(), ", queue => 'out'"))
        .collect();
    until("they are in flight", SOON, || {
        gate.waiting() > 0
            && one(
                &mut client,
                "SELECT coalesce(sum(in_flight), 0) = 6 FROM mail.workers",
                &[],
            )
    });
    let worker = worker_of(&mut client);
    let mut other = cluster.connect("postgres");
    for table in ["mail.pending", "mail.event", "mail.lease"] {
        let mut lock = other.transaction().unwrap();
        run_sql(
            &mut lock,
            &format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
        );
        let before = cluster.log().matches("lock timeout").count();
        gate.open();
        // A message that waits for the lock itself, too.
        let mut late = cluster.connect("postgres");
        let process = pgmq_mail_tests::pid(&mut late);
        let thread = (table == "mail.pending")
            .then(|| std::thread::spawn(move || put(&mut late, "late", ", queue => 'out'")));
        if thread.is_some() {
            pgmq_mail_tests::blocks(&mut client, process);
        }
        if table == "mail.pending" {
            until("the worker has given up waiting once", SOON, || {
                cluster.log().matches("lock timeout").count() > before
            });
        }
        lock.commit().unwrap();
        if let Some(thread) = thread {
            let late = thread.join().unwrap();
            reaches(&mut client, late, "sent");
        }
        for id in &ids {
            reaches(&mut client, *id, "sent");
        }
        let id = put(&mut client, "and on", ", queue => 'out'");
        reaches(&mut client, id, "sent");
    }
    assert_eq!(worker_of(&mut client), worker, "it has survived");
    let twice: i64 = one(
        &mut client,
        "SELECT count(*) FROM (SELECT FROM mail.events WHERE kind = 'sent' GROUP BY message_id HAVING count(*) > 1) t",
        &[],
    );
    assert_eq!(twice, 0);
    assert_eq!(sink.count(), 10);
}

#[test]
fn a_session_that_reads_the_tables_for_long_holds_up_nothing() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    let mut reader = cluster.connect("postgres");
    let mut transaction = reader
        .build_transaction()
        .isolation_level(postgres::IsolationLevel::RepeatableRead)
        .start()
        .unwrap();
    let before: i64 = one(&mut transaction, "SELECT count(*) FROM mail.messages", &[]);
    run_sql(
        &mut client,
        "SELECT mail.enqueue('a@b.test', 'x', 'x') FROM generate_series(1, 3000)",
    );
    until("all are sent", Cluster::PATIENCE, || {
        one(
            &mut client,
            "SELECT count(*) = 3000 FROM mail.captured",
            &[],
        )
    });
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
    assert_eq!(
        one::<i64>(&mut transaction, "SELECT count(*) FROM mail.messages", &[]),
        before
    );
    transaction.commit().unwrap();
}

#[test]
fn a_look_around_that_had_to_wait_does_not_put_off_the_next_one() {
    let cluster =
        Cluster::with(&ClusterOptions::new().setting("pgmq_mail.sweep_interval", "100ms"));
    let mut client = cluster.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    let worker = worker_of(&mut client);
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport) VALUES ('outside', 'external')",
    );
    let id = put(&mut client, "so that the worker knows the queues", "");
    reaches(&mut client, id, "sent");
    let mut other = cluster.connect("postgres");
    let mut lock = other.transaction().unwrap();
    run_sql(
        &mut lock,
        "LOCK TABLE mail.pending IN ACCESS EXCLUSIVE MODE",
    );
    // Almost as long as it has patience for.
    until("the worker has waited", SOON, || {
        one(
            &mut client,
            "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted
                                   AND clock_timestamp() - waitstart > interval '700 milliseconds')",
            &[&worker],
        )
    });
    lock.commit().unwrap();
    let expires = ", queue => 'outside', expires_at => clock_timestamp() + interval '1 second'";
    let id = put(&mut client, "x", expires);
    reaches(&mut client, id, "expired");
}
