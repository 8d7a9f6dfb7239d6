//! Advisory locks of roles that have no right to anything here hold up nothing.

use pgmq_mail_tests::{Database, all, one, reaches, run_sql};

use crate::{cluster, put};

#[test]
fn an_advisory_lock_of_anybody_does_not_keep_a_worker_from_starting() {
    let database = Database::empty(cluster());
    let mut holders = Vec::new();
    for lock in [
        "pg_advisory_lock_shared(1835100524, 0)",
        "pg_advisory_lock_shared((1835100524::bigint << 32) + 0)",
    ] {
        let mut holder = database.connect_as("bystander", &[]);
        run_sql(&mut holder, &format!("SELECT {lock}"));
        holders.push(holder);
    }
    let mut client = database.connect();
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
    // Nor is its holder taken for the worker, shared or not.
    let mut holder = database.connect_as("bystander", &[]);
    drop(holders);
    run_sql(&mut holder, "SELECT pg_advisory_lock(1835100524, 0)");
    let kinds: Vec<String> = all(
        &mut client,
        "SELECT a.backend_type FROM mail.workers w JOIN pg_stat_activity a USING (pid)",
        &[],
    );
    assert_eq!(kinds, ["pgmq_mail worker"]);
    let id = put(&mut client, "y", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn advisory_locks_of_anybody_do_not_hold_up_ordering_keys() {
    let (database, mut client) = crate::external();
    let mut holder = database.connect_as("bystander", &[]);
    run_sql(
        &mut holder,
        "SELECT pg_advisory_lock(1835100526, n), pg_advisory_lock_shared((1835100526::bigint << 32) + n)
         FROM generate_series(0, 1023) AS n",
    );
    let locks: i64 = one(
        &mut client,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1835100526 AND granted",
        &[],
    );
    assert_eq!(locks, 2048);
    for key in ["a", "b"] {
        let first = put(
            &mut client,
            "1",
            &format!(", queue => 'work', ordering_key => '{key}'"),
        );
        put(
            &mut client,
            "2",
            &format!(", queue => 'work', ordering_key => '{key}'"),
        );
        let ids: Vec<i64> = all(
            &mut client,
            "SELECT id FROM mail.claim('work', batch => 10)",
            &[],
        );
        assert_eq!(ids, [first], "{key}");
        let delivered = put(&mut client, "x", &format!(", ordering_key => '{key}'"));
        reaches(&mut client, delivered, "sent");
    }
}
