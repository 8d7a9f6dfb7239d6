//! `pgmq_mail.token_file`: what a copy of the data directory does not have.

use pgmq_mail_tests::{
    Cluster, ClusterOptions, Folder, SOON, Sink, code, eventually, one, run_sql,
};
use postgres::error::SqlState;

use crate::clones::{original, started};
use crate::{ails, health, options, put, reaches, wait_for, worker_has_looked};

fn with(file: &str) -> ClusterOptions {
    options().setting("pgmq_mail.token_file", file)
}

/// A server with a token, mail that waits in it, and the folder of the token.
fn guarded(sink: &Sink) -> (Cluster, i64, Folder) {
    let folder = Folder::new("token");
    let file = folder.write("token", "a token of production\n");
    let (cluster, mut client) = original(&with(file.to_str().expect("UTF-8")), sink);
    let sent = put(&mut client, "alice@example.test", "sent", "");
    reaches(&mut client, sent, "sent");
    let waiting = put(
        &mut client,
        "alice@example.test",
        "waiting",
        ", queue => 'waiting'",
    );
    (cluster, waiting, folder)
}

#[test]
fn a_clone_without_the_token_sends_nothing_and_one_with_it_does() {
    let sink = Sink::start();
    let (cluster, waiting, folder) = guarded(&sink);
    let other = folder.write("other", "a token of staging");
    folder.write("empty", " \n");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    for (file, why) in [
        (path("missing"), "cannot be used: No such file or directory"),
        (path(""), "cannot be used: it is not a regular file"),
        (path("empty"), "cannot be used: it is empty"),
        (
            "/dev/zero".to_owned(),
            "cannot be used: it is not a regular file",
        ),
        (
            other.to_str().expect("UTF-8").to_owned(),
            "armed with another pgmq_mail.token_file, or without one",
        ),
        (
            String::new(),
            "armed with another pgmq_mail.token_file, or without one",
        ),
    ] {
        let (_clone, mut copy) = started(&cluster, &with(&file));
        ails(&mut copy, "armed", why);
        worker_has_looked(&mut copy);
        assert_eq!(
            pgmq_mail_tests::state(&mut copy, waiting),
            "queued",
            "{file}"
        );
        assert_eq!(sink.count(), 1, "{file}");
        let armed: bool = one(&mut copy, "SELECT armed FROM mail.relay_stats", &[]);
        assert!(!armed, "{file}");
        let tried = code(copy.batch_execute("SELECT mail.test_relay('main')"));
        assert_eq!(tried, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        if why.contains("cannot be used") {
            let refused = code(copy.batch_execute("SELECT mail.arm()"));
            assert_eq!(refused, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
            run_sql(
                &mut copy,
                "INSERT INTO mail.relay (name, url) VALUES ('new', 'smtp://127.0.0.1:9')",
            );
            ails(&mut copy, "armed", "\"new\" delivers nothing");
        }
    }
    let (_clone, mut copy) = started(&cluster, &with(&path("token")));
    reaches(&mut copy, waiting, "sent");
    assert_eq!(sink.count(), 2);
    assert_eq!(health(&mut copy), [""; 0]);
}

#[test]
fn a_token_within_the_data_directory_is_none() {
    let sink = Sink::start();
    let (cluster, waiting, folder) = guarded(&sink);
    let mut clone = Cluster::clone_of(&cluster, &options());
    let inside = clone.data().join("token");
    std::fs::copy(folder.path().join("token"), &inside).expect("it is ours");
    clone.set("pgmq_mail.token_file", inside.to_str().expect("UTF-8"));
    clone.resume();
    let mut copy = clone.connect("postgres");
    run_sql(&mut copy, "SELECT mail.resume('waiting')");
    ails(&mut copy, "armed", "it is in the data directory");
    worker_has_looked(&mut copy);
    assert_eq!(pgmq_mail_tests::state(&mut copy, waiting), "queued");
}

#[test]
fn a_token_is_set_and_changed_by_reload_and_arm() {
    let sink = Sink::start();
    let (mut cluster, mut client) = original(&options(), &sink);
    let folder = Folder::new("token");
    let file = folder.write("token", "first");
    cluster.set("pgmq_mail.token_file", file.to_str().expect("UTF-8"));
    cluster.reload();
    ails(&mut client, "armed", "without one");
    // The worker may be told of the reload later than this session.
    let first = eventually("the worker sends nothing more", SOON, || {
        let id = put(&mut client, "alice@example.test", "first", "");
        worker_has_looked(&mut client);
        (pgmq_mail_tests::state(&mut client, id) == "queued").then_some(id)
    });
    assert_eq!(one::<i64>(&mut client, "SELECT mail.arm()", &[]), 1);
    reaches(&mut client, first, "sent");

    folder.write("token", "second");
    ails(&mut client, "armed", "another");
    assert_eq!(one::<i64>(&mut client, "SELECT mail.arm()", &[]), 1);
    wait_for(&mut client, "SELECT armed FROM mail.relay_stats");

    // While it cannot be read, disarming counts all the same.
    std::fs::remove_file(&file).expect("it is ours");
    ails(&mut client, "armed", "cannot be used");
    assert_eq!(
        one::<i64>(&mut client, "SELECT mail.disarm('for a test')", &[]),
        1
    );
    folder.write("token", "second");
    ails(&mut client, "armed", "was disarmed: for a test");
    let stamp: String = one(&mut client, "SELECT mail._stamp()", &[]);
    assert!(!stamp.contains("second"), "{stamp}");
}
