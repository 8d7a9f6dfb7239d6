//! Prepared transactions: nothing announces their commit, so the sweep finds them.

use pgmq_mail_tests::{Cluster, ClusterOptions, Database, one, reaches, run_sql};

use crate::{pass, put};

#[test]
fn what_a_prepared_transaction_enqueued_is_delivered_after_its_commit_and_not_before() {
    let options = ClusterOptions::new()
        .setting("pgmq_mail.sweep_interval", "300ms")
        .setting("max_prepared_transactions", "5");
    let cluster = Cluster::with(&options);
    let database = Database::new(&cluster);
    let mut client = database.connect();
    pass(&mut client, "");
    run_sql(&mut client, "BEGIN");
    let id = put(&mut client, "x", "");
    run_sql(&mut client, "PREPARE TRANSACTION 'kept'; BEGIN");
    put(&mut client, "gone", "");
    run_sql(&mut client, "PREPARE TRANSACTION 'gone'");
    // Hundreds of later ones pass, and their cursor with them.
    run_sql(
        &mut client,
        "SELECT mail.enqueue('a@b.test', 'later', 'x') FROM generate_series(1, 300)",
    );
    pass(&mut client, "");
    assert_eq!(
        one::<i64>(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE subject IN ('x', 'gone')",
            &[]
        ),
        0
    );
    run_sql(&mut client, "COMMIT PREPARED 'kept'");
    reaches(&mut client, id, "sent");
    run_sql(&mut client, "ROLLBACK PREPARED 'gone'");
    pass(&mut client, "");
    assert_eq!(
        one::<i64>(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE subject = 'gone'",
            &[]
        ),
        0
    );
    drop(client);
}
