//! Crashes with mail in flight: nothing is lost, and what is sent again is bounded by what was in flight and told by
//! the events.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgmq_mail_tests::{
    Action, Cluster, ClusterOptions, Phase, SOON, Sink, Stop, all, eventually, one, run_sql, until,
    worker_of,
};
use postgres::Client;

/// What each of the two queues gets for each crash.
const EACH: usize = 40;

struct World {
    cluster: Cluster,
    sink: Sink,
    ids: Vec<i64>,
}

impl World {
    fn new() -> Self {
        let sink = Sink::scripted(|event| match event.phase {
            Phase::Dot => Action::Accept.after(Duration::from_millis(10)),
            _ => Action::Accept,
        });
        let cluster = Cluster::with(&ClusterOptions::new().fsync(true));
        run_sql(
            &mut cluster.connect("postgres"),
            &format!(
                "CREATE EXTENSION pgmq_mail;
                 INSERT INTO mail.relay (name, url, max_connections) VALUES ('sink', '{}', 4);
                 INSERT INTO mail.queue (name, transport, default_sender, retry_base, retry_max, on_uncertain)
                 VALUES ('again', 'smtp', 'a@b.test', '50 milliseconds', '50 milliseconds', 'retry'),
                        ('once', 'smtp', 'a@b.test', '50 milliseconds', '50 milliseconds', 'hold')",
                sink.url()
            ),
        );
        Self {
            cluster,
            sink,
            ids: Vec::new(),
        }
    }

    fn connect(&self) -> Client {
        eventually("the server is back", Cluster::PATIENCE, || {
            self.cluster.try_connect("postgres").ok()
        })
    }

    /// Enqueues, each in a transaction of its own, and returns when the relay has some of them.
    fn produce(&mut self) {
        let mut client = self.connect();
        let before = self.sink.count();
        for n in 0..EACH {
            for queue in ["again", "once"] {
                let id = one(
                    &mut client,
                    "SELECT mail.enqueue('a@example.test', 'm' || $1, 'x', queue => $2)",
                    &[&n.to_string(), &queue],
                );
                self.ids.push(id);
            }
        }
        until("mail is on its way", SOON, || {
            self.sink.count() > before + 5
        });
        // One more, a moment before the crash.
        self.ids.push(one(
            &mut client,
            "SELECT mail.enqueue('a@example.test', 'last', 'x', queue => 'again')",
            &[],
        ));
    }

    /// Waits for every message's end, and checks what became of it.
    fn check(&self) {
        let mut client = self.connect();
        worker_of(&mut client);
        until("nothing is pending", Cluster::PATIENCE, || {
            one(&mut client, "SELECT count(*) = 0 FROM mail.pending", &[])
        });
        let mut copies: HashMap<String, i64> = HashMap::new();
        for mail in self.sink.mails() {
            let name = mail.header("Message-ID").expect("it is fixed at enqueue");
            *copies.entry(name).or_default() += 1;
        }
        let known: i64 = one(
            &mut client,
            "SELECT count(*) FROM mail.messages WHERE id = ANY ($1)",
            &[&self.ids],
        );
        assert_eq!(known, self.ids.len() as i64, "what was committed is there");
        let rows = client
            .query(
                "SELECT m.message_id, m.queue, m.state, count(e.id) FILTER (WHERE e.kind = 'interrupted')
                 FROM mail.messages m LEFT JOIN mail.events e ON e.message_id = m.id
                 WHERE m.id = ANY ($1) GROUP BY 1, 2, 3",
                &[&self.ids],
            )
            .unwrap();
        assert_eq!(rows.len(), self.ids.len());
        let mut repeats = 0;
        for row in rows {
            let (name, queue, state): (String, String, String) =
                (row.get(0), row.get(1), row.get(2));
            let interrupted: i64 = row.get(3);
            let copies = copies
                .get(name.trim_matches(['<', '>']))
                .or_else(|| copies.get(&name))
                .copied()
                .unwrap_or(0);
            match (queue.as_str(), state.as_str()) {
                ("again", "sent") => {
                    assert!(
                        (1..=1 + interrupted).contains(&copies),
                        "{name}: {copies} copies, {interrupted} interrupted"
                    );
                }
                ("once", "sent") => assert_eq!(copies, 1, "{name}"),
                ("once", "uncertain") => {
                    assert!(
                        copies <= 1 && interrupted == 1,
                        "{name}: {copies} copies, {interrupted} interrupted"
                    );
                }
                _ => panic!("{name} of {queue} is {state}"),
            }
            repeats += (copies - 1).max(0);
        }
        let interrupted: i64 = one(
            &mut client,
            "SELECT count(*) FROM mail.events WHERE kind = 'interrupted'",
            &[],
        );
        assert!(repeats <= interrupted);
        assert_eq!(
            one::<i64>(&mut client, "SELECT count(*) FROM mail.lease", &[]),
            0
        );
        eprintln!(
            "{} messages, {interrupted} interrupted, {repeats} repeated",
            self.ids.len()
        );
    }
}

#[test]
fn after_the_worker_was_killed_every_message_has_its_end() {
    let mut world = World::new();
    for _ in 0..3 {
        world.produce();
        let mut client = world.connect();
        let worker = worker_of(&mut client);
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it runs");
        until("the server ends its sessions", SOON, || {
            client.simple_query("SELECT 1").is_err()
        });
    }
    world.check();
}

#[test]
fn after_an_immediate_shutdown_every_message_has_its_end() {
    let mut world = World::new();
    for _ in 0..3 {
        world.produce();
        world.cluster.restart(Stop::Immediate);
    }
    world.check();
}

#[test]
fn after_the_death_of_all_processes_every_message_has_its_end() {
    let mut world = World::new();
    for _ in 0..3 {
        world.produce();
        world.cluster.restart(Stop::Crash);
    }
    world.check();
}

#[test]
fn after_a_fast_shutdown_nothing_was_interrupted() {
    let mut world = World::new();
    for _ in 0..2 {
        world.produce();
        world.cluster.restart(Stop::Fast);
    }
    world.check();
    let mut client = world.connect();
    let events: Vec<String> = all(
        &mut client,
        "SELECT DISTINCT kind FROM mail.events WHERE kind NOT IN ('sent', 'released')",
        &[],
    );
    assert_eq!(events, [""; 0]);
}
