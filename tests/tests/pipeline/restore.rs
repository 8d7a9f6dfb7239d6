//! A dump that is restored: complete, and silent until somebody says otherwise.

use std::path::Path;
use std::time::Duration;

use pgmq_mail_tests::{Action, Certificates, Database, Phase, Sink, run};

use crate::World;

/// `pg_dump` of a database as SQL.
fn dump(world: &World<'_>) -> String {
    let output = run(
        world
            .database
            .cluster()
            .program("pg_dump")
            .arg(world.database.name()),
        Duration::from_mins(1),
    );
    String::from_utf8(output.stdout).expect("a dump in UTF-8")
}

fn restore(into: &Database<'_>, file: &Path) {
    run(
        into.cluster()
            .program("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", into.name(), "-f"])
            .arg(file),
        Duration::from_mins(1),
    );
}

const SECRET: &str = "s3cret of the dump";

/// A relay that wants a login, refuses one recipient and puts off another.
fn guarded(certificates: &Certificates) -> Sink {
    Sink::builder()
        .starttls(certificates)
        .auth("app", SECRET)
        .script(|event| match (event.phase, event.address()) {
            (Phase::Rcpt, "gone@example.test") => Action::reply("550 5.1.1 No"),
            (Phase::Rcpt, "later@example.test") => Action::reply("450 4.2.1 Later"),
            _ => Action::Accept,
        })
        .start()
}

/// One message of every kind.
struct Ids {
    failed: i64,
    deferred: i64,
    waiting: i64,
    scheduled: i64,
    keyed: i64,
}

fn fill(world: &mut World<'_>) -> Ids {
    world.run("INSERT INTO mail.sender_grant (role, queue, sender) VALUES ('postgres', 'kept', 'b.test'), ('postgres', NULL, '*')");
    world.queue("kept", &[("transport", "capture"), ("owner", "postgres")]);
    world.queue("waiting", &[("transport", "smtp"), ("paused", "true")]);
    world.queue(
        "default",
        &[("retry_base", "1 hour"), ("retry_max", "1 hour")],
    );
    let sent = world.put("alice@example.test", "sent", "");
    world.reaches(sent, "sent");
    let failed = world.put("gone@example.test", "failed", "");
    world.reaches(failed, "failed");
    let deferred = world.put("alice@example.test, later@example.test", "deferred", "");
    world.reaches(deferred, "deferred");
    let captured = world.put("alice@example.test", "captured", ", queue => 'kept'");
    world.reaches(captured, "sent");
    let more = ", queue => 'waiting', ordering_key => 'k'";
    let waiting = world.put("alice@example.test", "waiting", more);
    let more = ", send_at => clock_timestamp() + interval '1 hour'";
    let scheduled = world.put("alice@example.test", "scheduled", more);
    let keyed = world.put("alice@example.test", "keyed", ", idempotency_key => 'once'");
    world.reaches(keyed, "sent");
    Ids {
        failed,
        deferred,
        waiting,
        scheduled,
        keyed,
    }
}

/// A copy restored from a dump of `world`.
fn copy_of(world: &World<'static>, dump: &str) -> World<'static> {
    let folder = pgmq_mail_tests::Folder::new("dump");
    let file = folder.write("dump.sql", dump);
    let database = Database::empty(world.database.cluster());
    restore(&database, &file);
    World {
        client: database.connect(),
        database,
    }
}

#[test]
fn a_restored_dump_is_complete_but_for_the_secrets() {
    let certificates = Certificates::new();
    let sink = guarded(&certificates);
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, SECRET);
    let ids = fill(&mut world);
    let dump = dump(&world);
    assert!(!dump.contains(SECRET), "the secret is in the dump");
    assert!(
        !dump.contains("mail.relay_secret"),
        "relay_secret is in the dump"
    );
    let mut copy = copy_of(&world, &dump);
    let everything = "SELECT id || ' ' || queue || ' ' || state || ' ' || attempts || ' ' || message_id
        || ' ' || recipients::text || coalesce(next_attempt_at::text, '') FROM mail.messages ORDER BY id";
    let there: Vec<String> = world.all(everything, &[]);
    assert_eq!(copy.all::<String>(everything, &[]), there);
    for table in [
        "relay",
        "queue",
        "sender_grant",
        "message",
        "pending",
        "event",
        "dead_letter",
        "capture",
        "idempotency",
    ] {
        let rows = format!("SELECT t::text FROM mail.{table} t ORDER BY 1");
        let there: Vec<String> = world.all(&rows, &[]);
        assert_eq!(copy.all::<String>(&rows, &[]), there, "{table}");
    }
    assert_eq!(
        copy.one::<i64>("SELECT count(*) FROM mail.relay_secret", &[]),
        0
    );
    // The sequences go on where they were.
    let last: i32 = world.one(
        "SELECT max(id) FROM mail.queue WHERE name <> 'default'",
        &[],
    );
    let query = "INSERT INTO mail.queue (name) VALUES ('new') RETURNING id";
    assert_eq!(copy.one::<i32>(query, &[]), last + 1);
    let again = copy.put("alice@example.test", "keyed", ", idempotency_key => 'once'");
    assert_eq!(again, ids.keyed);
    for n in 1..=2 {
        let kept = copy.put("alice@example.test", "kept", ", queue => 'kept'");
        copy.reaches(kept, "sent");
        assert_eq!(
            copy.one::<i64>("SELECT count(*) FROM mail.captured", &[]),
            1 + n
        );
    }
}

#[test]
fn a_restored_dump_sends_nothing_until_it_is_armed_and_has_its_secret_again() {
    let certificates = Certificates::new();
    let sink = guarded(&certificates);
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, SECRET);
    let ids = fill(&mut world);
    let mut copy = copy_of(&world, &dump(&world));
    let before = sink.connections();
    copy.ails("armed", "main");
    copy.ails("secret", "main");
    let new = copy.put("alice@example.test", "new", "");
    copy.run("UPDATE mail.pending SET due_at = clock_timestamp(); SELECT mail.resume('waiting')");
    // What is captured shows that the worker has seen all that.
    let kept = copy.put("alice@example.test", "kept", ", queue => 'kept'");
    copy.reaches(kept, "sent");
    for id in [new, ids.scheduled, ids.waiting] {
        assert_eq!(copy.state(id), "queued");
    }
    assert_eq!(
        sink.connections(),
        before,
        "the copy has talked to the relay"
    );

    assert_eq!(copy.one::<i64>("SELECT mail.arm()", &[]), 1);
    copy.ails("relay", "secret is missing");
    let kept = copy.put("alice@example.test", "kept", ", queue => 'kept'");
    copy.reaches(kept, "sent");
    assert_eq!(
        sink.connections(),
        before,
        "the copy has talked to the relay"
    );

    sink.clear_script();
    copy.run(&format!("UPDATE mail.relay SET secret = '{SECRET}'"));
    for id in [new, ids.scheduled, ids.waiting, ids.deferred] {
        copy.reaches(id, "sent");
    }
    assert!(copy.one::<bool>("SELECT mail.retry($1)", &[&ids.failed]));
    copy.reaches(ids.failed, "sent");
    copy.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    // Of the deferred one only who was outstanding got it.
    let mails = sink.mails();
    let last = mails
        .iter()
        .rfind(|mail| mail.header("Subject").as_deref() == Some("deferred"));
    assert_eq!(
        last.expect("it was sent").recipients,
        ["later@example.test"]
    );
    assert_eq!(
        world.state(ids.scheduled),
        "queued",
        "the original is untouched"
    );
}

#[test]
fn a_fresh_database_can_be_dumped_and_restored() {
    let database = pgmq_mail_tests::database();
    let mut world = World {
        client: database.connect(),
        database,
    };
    let id = world.put("alice@example.test", "captured", "");
    world.reaches(id, "sent");
    let folder = pgmq_mail_tests::Folder::new("dump");
    let file = folder.write("dump.sql", dump(&world));
    let database = Database::empty(world.database.cluster());
    restore(&database, &file);
    let mut copy = World {
        client: database.connect(),
        database,
    };
    assert_eq!(copy.state(id), "sent");
    let queues: Vec<String> = copy.all("SELECT name || ' ' || transport FROM mail.queue", &[]);
    assert_eq!(queues, ["default capture"]);
    let next = copy.put("alice@example.test", "captured", "");
    assert_ne!(next, id);
    copy.reaches(next, "sent");
    assert_eq!(
        copy.one::<i64>("SELECT count(*) FROM mail.captured", &[]),
        2
    );
    assert_eq!(
        copy.one::<i64>("SELECT count(DISTINCT id) FROM mail.events", &[]),
        2
    );
}

#[test]
fn a_copied_database_is_silent_too() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let id = world.put("alice@example.test", "once", "");
    world.reaches(id, "sent");
    world.run("SELECT mail.pause('default')");
    let waiting = world.put("alice@example.test", "waiting", "");
    let cluster = world.database.cluster();
    let name = format!("{}_copy", world.database.name());
    let template = world.database.name().to_owned();
    let World { client, database } = world;
    drop(client);
    let mut admin = cluster.connect("postgres");
    pgmq_mail_tests::until("the database can be copied", crate::SOON, || {
        admin
            .batch_execute(&format!(
                "CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""
            ))
            .is_ok()
    });
    let mut copy = cluster.connect(&name);
    copy.batch_execute("SELECT mail.resume('default'); SELECT mail.start_worker()")
        .expect("a copy works");
    pgmq_mail_tests::until("the copy has a worker", crate::SOON, || {
        let row = copy.query_one("SELECT count(*) = 1 FROM mail.workers", &[]);
        row.is_ok_and(|row| row.get(0))
    });
    let check: String = copy
        .query_one(
            "SELECT \"check\" FROM mail.health() WHERE \"check\" = 'armed'",
            &[],
        )
        .expect("it says so")
        .get(0);
    assert_eq!((check.as_str(), sink.count()), ("armed", 1));
    copy.batch_execute("SELECT mail.arm()")
        .expect("it can be armed");
    sink.wait_for(2, crate::SOON);
    let state: String = copy
        .query_one(
            "SELECT coalesce(min(state), '') FROM mail.messages WHERE id = $1",
            &[&waiting],
        )
        .expect("a message")
        .get(0);
    assert!(["sent", "sending"].contains(&&*state), "{state}");
    drop(copy);
    admin
        .batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)"))
        .expect("it can be dropped");
    drop(database);
}
