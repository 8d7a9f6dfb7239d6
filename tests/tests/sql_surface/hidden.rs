//! What a sender must not learn: others' messages, by functions that tell what they are given, and the server's insides.

use std::sync::{Arc, Mutex};

use pgmq_mail_tests::{Cluster, ClusterOptions, Database, database, run};
use postgres::{Client, NoTls};

use crate::{all, one, put, take, work};

/// A message of `client` that failed, and one that waits.
#[track_caller]
fn fail_and_wait(client: &mut Client, claimer: &mut Client, who: &str) {
    let dead = put(
        client,
        &format!("dead of {who}"),
        ", options => '{\"tags\": [\"t\"]}'",
    );
    let (id, token) = take(claimer, "1 minute").expect("a message");
    assert_eq!(id, dead);
    let query = "SELECT mail.nack($1, $2, $3, permanent => true)";
    let _: String = one(claimer, query, &[&id, &token, &format!("error of {who}")]);
    put(
        client,
        &format!("waiting of {who}"),
        ", send_at => now() + interval '1 hour'",
    );
}

/// A session of a member of `mail_sender`, and the notices that it gets.
fn listening(database: &Database<'_>, user: &str) -> (Client, Arc<Mutex<Vec<String>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&notices);
    let client = database
        .cluster()
        .config(database.name(), user)
        .notice_callback(move |notice| {
            heard
                .lock()
                .expect("no panic")
                .push(notice.message().to_owned());
        })
        .connect(NoTls)
        .expect("the role is there");
    (client, notices)
}

#[test]
fn a_function_that_leaks_what_it_is_given_shows_a_sender_nothing_of_others() {
    let database = database();
    let mut root = work(&database);
    let mut sender = database.connect_as("hidden_sender", &["mail_sender"]);
    fail_and_wait(&mut sender, &mut database.connect(), "mine");
    fail_and_wait(&mut root, &mut database.connect(), "theirs");
    for _ in 0..3 {
        put(&mut root, "more of theirs", "");
    }
    root.batch_execute(
        "INSERT INTO mail.queue (name, transport) VALUES ('queue-of-theirs', 'external');
         CREATE SCHEMA leaks AUTHORIZATION hidden_sender; ANALYZE",
    )
    .unwrap();
    let (mut sender, notices) = listening(&database, "hidden_sender");
    sender
        .batch_execute(
            "CREATE FUNCTION leaks.leak(anyelement) RETURNS boolean LANGUAGE plpgsql STABLE STRICT COST 1e-7 AS $$
             BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;
             CREATE FUNCTION leaks.refuse(anyelement) RETURNS boolean LANGUAGE plpgsql STABLE STRICT COST 1e-7 AS $$
             BEGIN RAISE NOTICE '%', $1; RETURN false; END $$",
        )
        .unwrap();
    let foreign: Vec<String> = all(
        &mut root,
        "SELECT id::text FROM mail.message WHERE enqueued_by <> 'hidden_sender'",
        &[],
    );
    assert_eq!(foreign.len(), 5);
    let mut told = 0;
    // However the planner goes about it.
    for (planner, view) in [
        "",
        "SET jit = off; SET enable_nestloop = off",
        "SET enable_nestloop = off; SET enable_hashjoin = off",
    ]
    .into_iter()
    .flat_map(|planner| ["dead_letters", "messages", "events"].map(|view| (planner, view)))
    {
        sender.batch_execute(planner).unwrap();
        let columns: Vec<String> = all(
            &mut root,
            "SELECT attname::text FROM pg_attribute WHERE attrelid = ('mail.' || $1)::regclass AND attnum > 0",
            &[&view],
        );
        for column in columns {
            for function in ["leak", "refuse"] {
                let query = format!("SELECT FROM mail.{view} v WHERE leaks.{function}(v.{column})");
                sender
                    .query(&query, &[])
                    .unwrap_or_else(|error| panic!("{query}: {error:?}"));
                let heard = std::mem::take(&mut *notices.lock().expect("no panic"));
                let leaked = heard
                    .iter()
                    .find(|text| text.contains("theirs") || foreign.contains(text));
                assert_eq!(leaked, None, "{query}");
                assert!(
                    heard.len() <= 2,
                    "{query} was shown more rows than there are: {heard:?}"
                );
                told += heard.len();
            }
        }
    }
    assert!(told > 0, "the functions were called");
    let subjects: Vec<String> = all(&mut sender, "SELECT subject FROM mail.dead_letters", &[]);
    assert_eq!(subjects, ["dead of mine"]);
}

#[test]
fn those_who_may_see_all_dead_letters_do() {
    let database = database();
    let mut root = work(&database);
    fail_and_wait(&mut root, &mut database.connect(), "theirs");
    for (user, role) in [
        ("hidden_reader", "mail_reader"),
        ("hidden_admin", "mail_admin"),
    ] {
        let mut client = database.connect_as(user, &[role]);
        let subjects: Vec<String> = all(&mut client, "SELECT subject FROM mail.dead_letters", &[]);
        assert_eq!(subjects, ["dead of theirs"], "{role}");
    }
}

#[test]
fn an_error_shows_no_backtrace_whatever_the_servers_environment_asks_for() {
    let cluster = Cluster::create(&ClusterOptions::new());
    let log = cluster.data().join("log");
    run(
        cluster
            .program("pg_ctl")
            .env("RUST_BACKTRACE", "1")
            .args(["start", "-w", "-D"])
            .arg(cluster.data())
            .arg("-l")
            .arg(&log),
        Cluster::PATIENCE,
    );
    let database = Database::new(&cluster);
    let mut root = work(&database);
    let theirs = put(&mut root, "theirs", "");
    let mut sender = database.connect_as("hidden_sender", &["mail_sender"]);
    let cases = [
        (format!("SELECT mail.cancel({theirs})"), "42501"),
        ("SELECT mail.enqueue('nobody')".to_owned(), "22023"),
        (
            "SELECT mail.enqueue('a@example.test', queue => 'none')".to_owned(),
            "42704",
        ),
        (
            "SELECT mail.enqueue('a@example.test', template => 'none')".to_owned(),
            "42704",
        ),
    ];
    for (query, code) in cases {
        let error = sender.execute(&query, &[]).expect_err(&query);
        let error = error.as_db_error().expect("an answer of the server");
        assert_eq!(error.code().code(), code, "{query}: {error:?}");
        assert_eq!(error.detail(), None, "{query}");
    }
    let logged = std::fs::read_to_string(&log).expect("the server has a log");
    assert!(logged.contains("was enqueued by another role"), "{logged}");
    assert!(
        !logged.contains("stack backtrace") && !logged.contains("::produce"),
        "{logged}"
    );
    drop((root, sender));
    drop(database);
    run(
        cluster
            .program("pg_ctl")
            .args(["stop", "-w", "-m", "fast", "-D"])
            .arg(cluster.data()),
        Cluster::PATIENCE,
    );
}

#[test]
fn who_may_read_all_tables_reads_no_secret() {
    let database = database();
    let mut root = database.connect();
    let mut reader = database.connect_as("hidden_backup", &["pg_read_all_data"]);
    root.batch_execute(
        "INSERT INTO mail.relay (name, url, username, secret) VALUES ('r', 'smtp://127.0.0.1:1', 'app', 'hidden');
         SELECT mail.generate_dkim_key('b.test', 's', 'ed25519')",
    )
    .unwrap();
    for table in ["relay_secret", "dkim_secret"] {
        let count = format!("SELECT count(*) FROM mail.{table}");
        assert_eq!(one::<i64>(&mut root, &count, &[]), 1, "{table}");
        assert_eq!(one::<i64>(&mut reader, &count, &[]), 0, "{table}");
    }
}
