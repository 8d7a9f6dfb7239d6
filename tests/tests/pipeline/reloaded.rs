//! A dump in the custom format, restored by `pg_restore` in its own order and at its own pace: what waits never meets
//! another queue than its own.

use std::path::{Path, PathBuf};

use pgmq_mail_tests::{Cluster, Database, Folder, Sink, run};

use crate::World;

/// `pg_dump -Fc` of a database, and its table of contents.
struct Archive {
    folder: Folder,
    file: PathBuf,
    contents: String,
}

impl Archive {
    fn of(world: &World<'_>) -> Self {
        let cluster = world.database.cluster();
        let folder = Folder::new("archive");
        let mut dump = cluster.program("pg_dump");
        let dump = run(
            dump.arg("-Fc").arg(world.database.name()),
            Cluster::PATIENCE,
        );
        let file = folder.write("dump", dump.stdout);
        let list = run(
            cluster.program("pg_restore").arg("-l").arg(&file),
            Cluster::PATIENCE,
        );
        Self {
            folder,
            file,
            contents: String::from_utf8(list.stdout).expect("a list in UTF-8"),
        }
    }

    /// A list of those entries for which `wanted` holds.
    fn list(&self, name: &str, wanted: impl Fn(&str) -> bool) -> PathBuf {
        let lines: Vec<&str> = self.contents.lines().filter(|line| wanted(line)).collect();
        self.folder.write(name, lines.join("\n") + "\n")
    }
}

fn restore(archive: &Archive, into: &Database<'_>, options: &[&str], list: Option<&Path>) {
    let mut command = into.cluster().program("pg_restore");
    command.arg("--exit-on-error").args(options);
    if let Some(list) = list {
        command.arg("-L").arg(list);
    }
    run(
        command.args(["-d", into.name()]).arg(&archive.file),
        Cluster::PATIENCE,
    );
}

/// A session in a database that something is restored into.
fn into(database: Database<'static>) -> World<'static> {
    World {
        client: database.connect(),
        database,
    }
}

const IDS: &str =
    "SELECT id || ' ' || state FROM mail.messages WHERE subject <> 'probe' ORDER BY id";

/// Whether this is the entry with the rows of `mail.queue`.
fn is_queue(line: &str) -> bool {
    line.contains(" TABLE DATA mail queue ")
}

/// Sends a message through the worker, in a queue of its own: what waits otherwise, it has seen.
#[track_caller]
fn probe(world: &mut World<'_>) {
    world.run(
        "INSERT INTO mail.queue (id, name, transport, default_sender)
         VALUES (1000, 'probe', 'capture', 'app@example.test') ON CONFLICT DO NOTHING",
    );
    let id = world.put("alice@example.test", "probe", ", queue => 'probe'");
    world.reaches(id, "sent");
}

#[test]
fn a_default_queue_that_was_smtp_and_paused_is_restored_with_what_waits_in_it() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.queue("default", &[("paused", "true")]);
    for subject in ["one", "two"] {
        world.put("alice@example.test", subject, "");
    }
    world.put("alice@example.test", "three", ", ordering_key => 'k'");
    let there: Vec<String> = world.all(IDS, &[]);
    assert_eq!(there.len(), 3);
    let archive = Archive::of(&world);
    for options in [&["--jobs=1"], &["--jobs=3"], &["--single-transaction"]] {
        let before = sink.count();
        let mut copy = into(Database::empty(world.database.cluster()));
        restore(&archive, &copy.database, options, None);
        let columns =
            "SELECT concat_ws(' ', id, name, transport, default_sender, paused) FROM mail.queue";
        let queues: Vec<String> = world.all(columns, &[]);
        assert_eq!(copy.all::<String>(columns, &[]), queues, "{options:?}");
        assert_eq!(copy.all::<String>(IDS, &[]), there, "{options:?}");
        probe(&mut copy);
        assert_eq!(copy.all::<String>(IDS, &[]), there, "{options:?}");
        assert_eq!(
            copy.one::<i64>("SELECT count(*) FROM mail.captured", &[]),
            1
        );
        let health = copy.health();
        assert!(
            !health.iter().any(|line| line.starts_with("queue:")),
            "{health:?}"
        );
        assert_eq!(sink.count(), before);

        copy.run("SELECT mail.arm(), mail.resume('default')");
        copy.idle("default");
        let states: Vec<String> = copy.all(
            "SELECT DISTINCT state FROM mail.messages WHERE subject <> 'probe'",
            &[],
        );
        assert_eq!(states, ["sent"], "{options:?}");
        assert_eq!(sink.count(), before + 3, "{options:?}");
    }
}

#[test]
fn what_is_restored_before_its_queue_waits_for_it_and_goes_then() {
    let mut world = World::new();
    world.queue("default", &[("transport", "capture")]);
    let later = ", send_at => clock_timestamp() + interval '1 hour'";
    let ids = [1, 2, 3].map(|n| world.put("alice@example.test", &n.to_string(), later));
    let queue: i32 = world.one("SELECT id FROM mail.queue", &[]);
    let there: Vec<String> = world.all(IDS, &[]);
    let archive = Archive::of(&world);
    assert_eq!(
        archive
            .contents
            .lines()
            .filter(|line| is_queue(line))
            .count(),
        1
    );

    let mut copy = into(Database::empty(world.database.cluster()));
    let list = archive.list("first", |line| !is_queue(line));
    restore(&archive, &copy.database, &[], Some(&list));
    copy.run("UPDATE mail.pending SET due_at = clock_timestamp()");
    probe(&mut copy);
    assert_eq!(copy.all::<String>(IDS, &[]), there);
    assert_eq!(
        copy.one::<i64>("SELECT count(*) FROM mail.captured", &[]),
        1
    );
    assert_eq!(
        copy.all::<String>(
            "SELECT DISTINCT queue FROM mail.messages WHERE subject <> 'probe'",
            &[]
        ),
        [format!("({queue})")]
    );
    copy.ails("queue", &queue.to_string());
    let severity = "SELECT severity FROM mail.health() WHERE \"check\" = 'queue'";
    assert_eq!(copy.all::<String>(severity, &[]), ["critical"]);

    let list = archive.list("second", is_queue);
    restore(&archive, &copy.database, &[], Some(&list));
    for id in ids {
        copy.reaches(id, "sent");
        let times: i64 = copy.one(
            "SELECT count(*) FROM mail.captured WHERE message_id = $1",
            &[&id],
        );
        assert_eq!((times, world.state(id).as_str()), (1, "queued"));
    }
    let queues: Vec<String> = copy.all(
        "SELECT concat_ws(' ', id, name, transport) FROM mail.queue ORDER BY name",
        &[],
    );
    assert_eq!(
        queues,
        [
            format!("{queue} default capture"),
            "1000 probe capture".to_owned()
        ]
    );
    let health = copy.health();
    assert!(
        !health.iter().any(|line| line.starts_with("queue:")),
        "{health:?}"
    );
}

#[test]
fn a_restore_does_not_replace_a_default_queue_that_is_in_use() {
    let mut world = World::new();
    world.queue("default", &[("paused", "true")]);
    let archive = Archive::of(&world);
    let mut copy = into(Database::new(world.database.cluster()));
    let own = copy.put("alice@example.test", "own", "");
    copy.reaches(own, "sent");
    let mut command = copy.database.cluster().program("pg_restore");
    let output = command
        .args(["--exit-on-error", "-d", copy.database.name(), "-L"])
        .arg(archive.list("queues", is_queue))
        .arg(&archive.file)
        .output()
        .expect("pg_restore starts");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("queue \"default\" holds messages"), "{said}");
    assert_eq!(copy.state(own), "sent");
    let queues: Vec<String> = copy.all("SELECT name || ' ' || transport FROM mail.queue", &[]);
    assert_eq!(queues, ["default capture"]);
    probe(&mut copy);
    assert_eq!(
        copy.one::<i64>("SELECT count(*) FROM mail.captured", &[]),
        2
    );
}
