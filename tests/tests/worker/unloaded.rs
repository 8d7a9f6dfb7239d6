//! Without `shared_preload_libraries`.

use std::sync::OnceLock;
use std::time::Duration;

use pgmq_mail_tests::{
    Cluster, ClusterOptions, Database, SOON, all, one, reaches, run_sql, until, worker_of,
};

use crate::{findings, put};

const START: &str = "SELECT mail.start_worker()";
const STOP: &str = "SELECT mail.stop_worker()";

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::with(&ClusterOptions::new().preload(false)))
}

#[test]
fn a_worker_that_is_started_by_hand_delivers() {
    let database = Database::new(cluster());
    let mut client = database.connect();
    // This session has looked for a worker before there was one.
    let waiting = put(&mut client, "x", "");
    assert_eq!(findings(&mut client), ["worker"]);
    assert!(one::<bool>(&mut client, START, &[]));
    reaches(&mut client, waiting, "sent");
    let preloaded: Vec<bool> = all(&mut client, "SELECT preloaded FROM mail.workers", &[]);
    assert_eq!(preloaded, [false]);
    assert_eq!(findings(&mut client), ["preload"]);
    assert!(!one::<bool>(&mut client, START, &[]), "one runs already");
    for _ in 0..3 {
        let id = put(&mut client, "x", "");
        reaches(&mut client, id, "sent");
    }
    assert!(one::<bool>(&mut client, STOP, &[]));
    until("it ends", SOON, || {
        one(
            &mut client,
            "SELECT NOT EXISTS (SELECT FROM mail.workers)",
            &[],
        )
    });
    assert!(!one::<bool>(&mut client, STOP, &[]));
    let id = put(&mut client, "x", "");
    assert!(one::<bool>(&mut client, START, &[]));
    reaches(&mut client, id, "sent");
}

#[test]
fn sessions_that_start_a_worker_at_once_start_one() {
    let database = Database::new(cluster());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = database.connect();
            scope.spawn(move || one::<bool>(&mut client, START, &[]));
        }
    });
    let mut client = database.connect();
    worker_of(&mut client);
    until("the others have left", SOON, || {
        one(
            &mut client,
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pgmq_mail worker' AND datname = current_database()",
            &[],
        )
    });
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn what_commits_behind_its_cursor_is_found() {
    let database = Database::new(cluster());
    let mut client = database.connect();
    assert!(one::<bool>(&mut client, START, &[]));
    let mut slow = database.connect();
    let mut long = slow.transaction().unwrap();
    let early = put(&mut long, "early", "");
    for n in 0..50 {
        put(&mut client, "later", &format!(", priority => {}", n % 40));
    }
    until("the later ones are sent", SOON, || {
        one(&mut client, "SELECT count(*) = 50 FROM mail.captured", &[])
    });
    long.commit().unwrap();
    reaches(&mut client, early, "sent");
}

#[test]
fn a_waiting_claim_is_woken() {
    let database = Database::new(cluster());
    let mut client = database.connect();
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'external', 'a@b.test')",
    );
    let mut waiting = database.connect();
    let process = pgmq_mail_tests::pid(&mut waiting);
    let thread = std::thread::spawn(move || {
        all::<i64>(
            &mut waiting,
            "SELECT id FROM mail.claim('work', wait => '30 seconds')",
            &[],
        )
    });
    pgmq_mail_tests::sleeps(&mut client, process);
    let begin = std::time::Instant::now();
    let id = put(&mut client, "x", ", queue => 'work'");
    assert_eq!(thread.join().unwrap(), [id]);
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn the_database_can_be_dropped_when_the_worker_was_stopped() {
    let database = Database::new(cluster());
    let mut client = database.connect();
    assert!(one::<bool>(&mut client, START, &[]));
    worker_of(&mut client);
    assert!(one::<bool>(&mut client, STOP, &[]));
    drop(client);
    run_sql(
        &mut cluster().connect("postgres"),
        &format!("DROP DATABASE {}", database.name()),
    );
}

#[test]
fn the_database_can_be_dropped_with_force_while_the_worker_runs() {
    let database = Database::new(cluster());
    let mut client = database.connect();
    assert!(one::<bool>(&mut client, START, &[]));
    worker_of(&mut client);
    drop(client);
    run_sql(
        &mut cluster().connect("postgres"),
        &format!("DROP DATABASE {} WITH (FORCE)", database.name()),
    );
}

#[test]
fn the_worker_leaves_with_its_extension() {
    let database = Database::new(cluster());
    let mut client = database.connect();
    assert!(one::<bool>(&mut client, START, &[]));
    worker_of(&mut client);
    run_sql(&mut client, "DROP EXTENSION pgmq_mail");
    until("it leaves", SOON, || {
        one(
            &mut client,
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pgmq_mail worker' AND datname = current_database()",
            &[],
        )
    });
}

#[test]
fn roles_that_are_no_superusers_enqueue_and_configure() {
    let database = Database::new(cluster());
    let mut owner = database.connect();
    assert!(one::<bool>(&mut owner, START, &[]));
    let mut admin = database.connect_as("unloaded_admin", &["mail_admin"]);
    run_sql(
        &mut admin,
        "UPDATE mail.queue SET max_attempts = 7 WHERE name = 'default'",
    );
    let mut sender = database.connect_as("unloaded_sender", &["mail_sender"]);
    let id = put(&mut sender, "x", "");
    reaches(&mut owner, id, "sent");
}
