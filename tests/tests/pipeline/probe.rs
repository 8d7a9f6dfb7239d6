//! `mail.test_relay`: the whole conversation with a relay, whatever it does, and nothing that must not be told.

use std::fs;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{
    Action, Certificates, Cluster, LOGIN, Phase, Sink, Stop, code, free_port, until,
};
use postgres::Client;
use postgres::error::SqlState;

use crate::servers::Server;
use crate::world::options;
use crate::{SOON, World, on_real_servers};

const SECRET: &str = "Tr0ub4dor-and-3-horses";
/// What stands in the base64 of PLAIN and of LOGIN, whatever stands beside it.
const SIGNS: [&str; 3] = [
    "Tr0ub4",
    "VHIwdWI0ZG9yLWFuZC0zLWhvcnNlc",
    "FRyMHViNGRvci1hbmQtMy1ob3JzZX",
];

/// The conversation, each line as `who: text`.
#[track_caller]
fn told(client: &mut Client, relay: &str, recipient: Option<&str>) -> Vec<String> {
    let rows = client
        .query(
            "SELECT who || ': ' || text, elapsed >= '0' AND elapsed >= coalesce(lag(elapsed) OVER (ORDER BY n), '0')
             FROM mail.test_relay($1, $2) WITH ORDINALITY AS t (elapsed, who, text, n) ORDER BY n",
            &[&relay, &recipient],
        )
        .unwrap_or_else(|error| panic!("a relay's trouble is no error: {error:?}"));
    assert!(rows.iter().all(|row| row.get(1)), "time goes forward");
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for sign in SIGNS {
        assert!(!lines.iter().any(|line| line.contains(sign)), "{lines:#?}");
    }
    lines
}

#[track_caller]
fn last(lines: &[String]) -> &str {
    lines.last().expect("something is always said")
}

/// The SQLSTATE, when the test is refused.
#[track_caller]
fn refused(client: &mut Client, relay: &str, recipient: Option<&str>) -> SqlState {
    let query = "SELECT * FROM mail.test_relay($1, $2)";
    code(client.query(query, &[&relay, &recipient]))
}

fn guarded(certificates: &Certificates) -> Sink {
    Sink::builder()
        .starttls(certificates)
        .auth("app", SECRET)
        .start()
}

#[test]
fn the_whole_conversation_is_told_in_order_and_without_the_secret() {
    let certificates = Certificates::new();
    let sink = guarded(&certificates);
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, SECRET);
    // As configured, even by a change that is not committed.
    world.run(
        "UPDATE mail.relay SET enabled = false;
         BEGIN; UPDATE mail.relay SET helo_name = 'app.example.test'",
    );
    let lines = told(&mut world.client, "main", None);
    let port = sink.port();
    let begin: Vec<&str> = lines.iter().map(String::as_str).take(3).collect();
    let greeted = format!("note: 127.0.0.1:{port}: connected");
    assert_eq!(begin[0], greeted);
    assert!(begin[1].starts_with("relay: 220"), "{lines:#?}");
    assert_eq!(begin[2], "us: EHLO app.example.test");
    // In this order, whatever stands between them.
    let mut rest = lines.iter();
    for step in [
        "us: EHLO ",
        "relay: 250 STARTTLS",
        "us: STARTTLS",
        "relay: 220 ",
        "note: TLSv1.3 with ",
        "us: EHLO ",
        "relay: 250-",
        "relay: 250 AUTH PLAIN LOGIN",
        "us: AUTH PLAIN",
        "relay: 235 ",
        "us: QUIT",
        "relay: 221 ",
        "note: the relay takes mail, as far as can be told without sending any",
    ] {
        let found = rest
            .any(|line| line.starts_with(step) || line.replace("250-", "250 ").starts_with(step));
        assert!(found, "no {step} in its place: {lines:#?}");
    }
    assert_eq!(rest.next(), None);
    assert!(!lines.iter().any(|line| line.contains("MAIL FROM")));
    assert_eq!(sink.count(), 0);
}

#[test]
fn with_a_recipient_a_message_is_sent_once_from_where_mail_is_from() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let lines = told(
        &mut world.client,
        "main",
        Some("Alice <alice@example.test>"),
    );
    assert_eq!(last(&lines), "note: the relay takes mail");
    let verdict = "note: alice@example.test: accepted (250 2.0.0 Ok: queued)".to_owned();
    assert_eq!(lines[lines.len() - 2], verdict);
    let mails = sink.wait_for(1, SOON);
    let mail = &mails[0];
    assert_eq!(
        mail.header("Subject").as_deref(),
        Some("pgmq_mail test of relay main")
    );
    assert_eq!(
        mail.header("From").as_deref(),
        Some("App <app@example.test>")
    );
    assert_eq!(
        (&*mail.sender, &*mail.recipients),
        ("app@example.test", &["alice@example.test".to_owned()][..])
    );
    assert!(mail.body().contains("mail.test_relay"));
    assert_eq!(sink.count(), 1);
    let kept: i64 = world.one("SELECT count(*) FROM mail.message", &[]);
    assert_eq!(kept, 0, "it is not of the queue");

    // A queue that names the relay comes first; without any queue, it is this host's superuser.
    world.queue(
        "named",
        &[
            ("relays", "{main}"),
            ("default_sender", "named@example.test"),
            ("return_path", "bounces@example.test"),
        ],
    );
    told(&mut world.client, "main", Some("alice@example.test"));
    let mail = sink.mails().pop().expect("another");
    assert_eq!(mail.header("From").as_deref(), Some("named@example.test"));
    assert_eq!(mail.sender, "bounces@example.test");
    world.run(
        "UPDATE mail.queue SET transport = 'capture';
         UPDATE mail.relay SET helo_name = 'db.example.test'",
    );
    told(&mut world.client, "main", Some("alice@example.test"));
    let mail = sink.mails().pop().expect("another");
    assert_eq!(mail.sender, "postgres@db.example.test");
    assert_eq!(sink.count(), 3);
}

#[test]
fn each_recipient_gets_a_verdict_of_its_own() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "gone@example.test") => {
            Action::reply("550-5.1.1 No such user\r\n550 5.1.1 here")
        }
        (Phase::Rcpt, "later@example.test") => Action::reply("450 4.2.1 Later"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let all = "alice@example.test, gone@example.test, later@example.test";
    let lines = told(&mut world.client, "main", Some(all));
    assert_eq!(
        lines[lines.len() - 4..],
        [
            "note: alice@example.test: accepted (250 2.0.0 Ok: queued)",
            "note: gone@example.test: refused (550 5.1.1 No such user 5.1.1 here)",
            "note: later@example.test: not accepted for now (450 4.2.1 Later)",
            "note: the relay takes mail, but not for all of these recipients",
        ]
    );
    assert_eq!(sink.wait_for(1, SOON)[0].recipients, ["alice@example.test"]);
    let lines = told(&mut world.client, "main", Some("gone@example.test"));
    assert_eq!(last(&lines), "note: the relay did not accept the message");
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_refused_login_is_told_even_by_a_relay_that_repeats_it() {
    let certificates = Certificates::new();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", "another")
        .script(|event| match event.phase {
            Phase::Auth => Action::Reply(format!("535 5.7.8 What is {}?", event.command)),
            _ => Action::Accept,
        })
        .start();
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, SECRET);
    for recipient in [None, Some("alice@example.test")] {
        let lines = told(&mut world.client, "main", recipient);
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("relay: 535 5.7.8")),
            "{lines:#?}"
        );
        assert!(
            last(&lines).starts_with("note: ") && last(&lines).contains("535"),
            "{lines:#?}"
        );
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn trouble_with_the_connection_is_told_and_no_error() {
    let mut world = World::new();
    let port = free_port();
    world.relay("dead", &format!("smtp://127.0.0.1:{port}"), &[]);
    let lines = told(&mut world.client, "dead", None);
    assert!(
        last(&lines).contains("could not connect to") && last(&lines).contains("refused"),
        "{lines:#?}"
    );

    let certificates = Certificates::valid_for(&["other.test"]);
    let sink = guarded(&certificates);
    world.relay_with_login("misnamed", &sink.url(), &certificates, SECRET);
    let lines = told(&mut world.client, "misnamed", Some("alice@example.test"));
    assert!(
        last(&lines).contains("certificate") && last(&lines).contains("another name"),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|line| line.starts_with("us: AUTH")),
        "{lines:#?}"
    );

    let sink = Sink::scripted(|_| Action::ReplyAndDrop("421 4.3.2 Closed".to_owned()));
    world.relay("closed", &sink.url(), &[]);
    let lines = told(&mut world.client, "closed", None);
    assert!(last(&lines).contains("421 4.3.2 Closed"), "{lines:#?}");

    let sink = Sink::scripted(|event| match event.phase {
        Phase::Mail => Action::Silence,
        _ => Action::Accept,
    });
    world.relay(
        "slow",
        &sink.url(),
        &[("command_timeout", "300 milliseconds")],
    );
    let lines = told(&mut world.client, "slow", Some("alice@example.test"));
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("note: ") && line.contains("timed out")),
        "{lines:#?}"
    );
}

/// The threads of a process of the server.
fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

#[test]
fn a_relay_that_hangs_is_left_when_the_statement_is_cancelled() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::Silence,
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let pid: i32 = world.one("SELECT pg_backend_pid()", &[]);
    world.run("SET statement_timeout = '300ms'");
    for recipient in ["alice@example.test", "bob@example.test"] {
        let began = Instant::now();
        let state = refused(&mut world.client, "main", Some(recipient));
        assert_eq!(state, SqlState::QUERY_CANCELED);
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(threads(pid), 1);
    }
    world.run("RESET statement_timeout");
    until("the relay is left", SOON, || sink.open() == 0);
    sink.clear_script();
    let lines = told(&mut world.client, "main", Some("alice@example.test"));
    assert_eq!(last(&lines), "note: the relay takes mail");
    // In a subtransaction the error is caught, and all goes on.
    sink.set_script(|_| Action::Silence);
    world.run(
        "SET statement_timeout = '300ms';
         DO $$ BEGIN PERFORM mail.test_relay('main'); EXCEPTION WHEN query_canceled THEN PERFORM 1; END $$",
    );
    assert_eq!(threads(pid), 1);
}

#[test]
fn a_session_that_is_terminated_in_a_test_ends_and_the_server_goes_on() {
    let sink = Sink::scripted(|_| Action::Silence);
    let cluster = Cluster::with(&options());
    let mut world = World::on(&cluster);
    world.relay("main", &sink.url(), &[]);
    let mut session = world.database.connect();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a session")
        .get(0);
    // The client may find the connection closed before it has read why.
    let testing = std::thread::spawn(move || {
        session
            .query("SELECT mail.test_relay('main')", &[])
            .is_err()
    });
    until("it speaks with the relay", SOON, || sink.open() == 1);
    let ended: bool = world.one("SELECT pg_terminate_backend($1, 5000)", &[&pid]);
    assert!(ended);
    assert!(testing.join().expect("a client"));
    until("the relay is left", SOON, || sink.open() == 0);
    // A process that crashes takes every session along.
    let alive: i32 = world.one("SELECT 1", &[]);
    assert_eq!(alive, 1);
    assert!(!cluster.log().contains("terminated by signal"));
}

#[test]
fn an_administrator_tests_with_a_secret_that_he_cannot_read_and_nobody_else_does() {
    let certificates = Certificates::new();
    let sink = guarded(&certificates);
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, SECRET);
    let mut admin = world.database.connect_as("probe_admin", &["mail_admin"]);
    let lines = told(&mut admin, "main", Some("alice@example.test"));
    assert_eq!(last(&lines), "note: the relay takes mail");
    let denied = SqlState::INSUFFICIENT_PRIVILEGE;
    assert_eq!(
        code(admin.query("SELECT * FROM mail.relay_secret", &[])),
        denied
    );
    let who: String = admin
        .query_one("SELECT current_user::text", &[])
        .expect("a session")
        .get(0);
    assert_eq!(who, "probe_admin");
    // Nor can he have it sent elsewhere, or see it by an operator of his own.
    let elsewhere = "UPDATE mail.relay SET url = 'smtp://127.0.0.1:1?starttls=never'";
    assert_eq!(
        code(admin.batch_execute(elsewhere)),
        SqlState::INVALID_PARAMETER_VALUE
    );
    admin
        .batch_execute(
            "CREATE TEMP TABLE seen (secret text);
             CREATE FUNCTION pg_temp.see(text, text) RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO seen VALUES ($1), ($2); RETURN true; END $$;
             CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.see);
             SET search_path = pg_temp, pg_catalog",
        )
        .expect("his own");
    told(&mut admin, "main", None);
    let seen: i64 = admin
        .query_one("SELECT pg_catalog.count(*) FROM seen", &[])
        .expect("his own")
        .get(0);
    assert_eq!(seen, 0);
    for role in ["mail_sender", "mail_consumer", "mail_reader"] {
        let mut other = world.database.connect_as(&format!("probe_{role}"), &[role]);
        assert_eq!(refused(&mut other, "main", None), denied, "{role}");
    }
}

#[test]
fn what_cannot_be_tested_is_an_error() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let wrong_state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    let client = &mut world.client;
    assert_eq!(refused(client, "Main", None), SqlState::UNDEFINED_OBJECT);
    let state = code(client.query("SELECT mail.test_relay(NULL)", &[]));
    assert_eq!(state, SqlState::INVALID_PARAMETER_VALUE);
    for recipient in [
        "",
        "nobody",
        "a@b@c",
        "a@example.test\nDATA",
        "a@example.test,,b",
    ] {
        let state = refused(client, "main", Some(recipient));
        assert_eq!(state, SqlState::INVALID_PARAMETER_VALUE, "{recipient:?}");
    }
    world.run("SELECT mail.disarm('a test')");
    assert_eq!(refused(&mut world.client, "main", None), wrong_state);
    world.run("SELECT mail.arm()");
    told(&mut world.client, "main", None);
    let columns = [("username", "app"), ("secret", "file:not_there")];
    world.relay("unusable", &sink.url(), &columns);
    world.relay("secretless", &sink.url(), &[("username", "app")]);
    for (relay, why) in [
        ("unusable", "not_there"),
        ("secretless", "secret is missing"),
    ] {
        let query = "SELECT * FROM mail.test_relay($1)";
        let error = world.client.query(query, &[&relay]).expect_err("unusable");
        let error = error.as_db_error().expect("an answer of the server");
        assert_eq!(*error.code(), wrong_state);
        assert!(error.message().contains(why), "{error:?}");
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_server_that_holds_its_mail_or_is_a_standby_tests_without_sending() {
    let sink = Sink::start();
    let mut cluster = Cluster::with(&options().setting("pgmq_mail.delivery", "hold"));
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(&format!(
            "CREATE EXTENSION pgmq_mail; INSERT INTO mail.relay (name, url) VALUES ('main', '{}')",
            sink.url()
        ))
        .expect("a relay");
    let fine = "note: the relay takes mail, as far as can be told without sending any";
    assert_eq!(last(&told(&mut client, "main", None)), fine);
    let state = refused(&mut client, "main", Some("alice@example.test"));
    assert_eq!(state, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    drop(client);

    cluster.stop(Stop::Fast);
    fs::write(cluster.data().join("standby.signal"), "").expect("it is ours");
    cluster.resume();
    let mut client = cluster.connect("postgres");
    assert_eq!(last(&told(&mut client, "main", None)), fine);
    let state = refused(&mut client, "main", Some("alice@example.test"));
    assert_eq!(state, SqlState::READ_ONLY_SQL_TRANSACTION);
    assert_eq!(sink.count(), 0);
}

on_real_servers! {
    a_real_server_is_tested_with_tls_and_login_and_delivers
}

fn a_real_server_is_tested_with_tls_and_login_and_delivers(server: &Server) {
    let mut world = server.world_with_login(&server.submission(), LOGIN.1, &[]);
    let mark = format!("{}-probe", world.database.name());
    world.run(&format!(
        "UPDATE mail.relay SET name = '{mark}', secret = '{}'",
        LOGIN.1
    ));
    let lines = told(&mut world.client, &mark, Some("alice@example.test"));
    assert_eq!(last(&lines), "note: the relay takes mail", "{lines:#?}");
    assert!(
        !lines.iter().any(|line| line.contains(LOGIN.1)),
        "{lines:#?}"
    );
    let subject = format!("pgmq_mail test of relay {mark}");
    assert_eq!(server.wait_for("alice", &subject, 1).len(), 1);
    world.run("UPDATE mail.relay SET secret = 'wrong'");
    let lines = told(&mut world.client, &mark, None);
    assert!(last(&lines).contains("535"), "{lines:#?}");
}
