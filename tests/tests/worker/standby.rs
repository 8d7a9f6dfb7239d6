//! Streaming replication.

use pgmq_mail_tests::{
    Cluster, ClusterOptions, SOON, Sink, Stop, one, reaches, run_sql, until, worker_of,
};

use crate::{delivering, put};

#[test]
fn a_standby_is_silent_and_delivers_after_its_promotion() {
    let sink = Sink::start();
    let mut primary = Cluster::with(&ClusterOptions::new().setting("pgmq_mail.delivery", "hold"));
    let mut client = primary.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    delivering(&mut client, &sink);
    let before = put(&mut client, "before", ", queue => 'out'");
    let mut standby = primary.standby(&ClusterOptions::new());
    standby.resume();
    let after = put(&mut client, "after", ", queue => 'out'");

    let mut reader = standby.connect("postgres");
    until("the standby has it", SOON, || {
        one(
            &mut reader,
            "SELECT EXISTS (SELECT FROM mail.pending WHERE id = $1)",
            &[&after],
        )
    });
    assert!(one::<bool>(&mut reader, "SELECT pg_is_in_recovery()", &[]));
    let processes: i64 = one(
        &mut reader,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgmq_mail%'",
        &[],
    );
    assert_eq!(processes, 0);
    let findings: i64 = one(
        &mut reader,
        "SELECT count(*) FROM mail.health() WHERE \"check\" = 'worker'",
        &[],
    );
    assert_eq!(findings, 0, "it is as it should be");
    assert_eq!(sink.count(), 0);

    drop(client);
    primary.stop(Stop::Immediate);
    assert!(one::<bool>(&mut reader, "SELECT pg_promote()", &[]));
    worker_of(&mut reader);
    for id in [before, after] {
        reaches(&mut reader, id, "sent");
    }
    assert_eq!(sink.count(), 2);
    let id = put(&mut reader, "new", ", queue => 'out'");
    reaches(&mut reader, id, "sent");
}
