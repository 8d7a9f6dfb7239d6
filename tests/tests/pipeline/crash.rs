//! A worker, or a whole server, that ends while a mail is on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgmq_mail_tests::{Action, Cluster, ClusterOptions, Gate, Phase, Sink, Stop};
use postgres::Client;

use crate::World;
use crate::world::options;

/// A sink that answers mails only when the gate is opened.
struct Gated {
    sink: Sink,
    gate: Gate,
}

impl Gated {
    fn start() -> Self {
        let gate = Gate::new();
        let closed = gate.clone();
        let sink = Sink::scripted(move |event| {
            if event.phase == Phase::Dot {
                closed.pass();
            }
            Action::Accept
        });
        Self { sink, gate }
    }

    /// Waits until it has a mail that it has not answered.
    fn is_busy(&self) {
        pgmq_mail_tests::until("a mail is on its way", crate::SOON, || {
            self.gate.waiting() > 0
        });
    }

    fn open(&self) {
        self.gate.open();
    }
}

/// A server of the test's own, whose database `app` delivers to a sink, and a session in it.
fn cluster(options: &ClusterOptions, sink: &Sink) -> (Cluster, Client) {
    let cluster = Cluster::with(options);
    cluster.create_database("app");
    let mut client = cluster.connect("app");
    client
        .batch_execute(&format!(
            "CREATE EXTENSION pgmq_mail;
             INSERT INTO mail.relay (name, url) VALUES ('main', '{}');
             UPDATE mail.queue SET transport = 'smtp'",
            sink.url()
        ))
        .expect("it can be set up");
    (cluster, client)
}

#[test]
fn a_mail_in_flight_when_the_server_dies_is_sent_again_and_its_record_says_why() {
    let gated = Gated::start();
    let (mut cluster, mut client) = cluster(&options().fsync(true), &gated.sink);
    let id: i64 = client
        .query_one(
            "SELECT mail.enqueue('alice@example.test', 'in flight', 'x')",
            &[],
        )
        .expect("it can be enqueued")
        .get(0);
    gated.is_busy();
    cluster.restart(Stop::Crash);
    gated.open();
    let mut client = cluster.connect("app");
    pgmq_mail_tests::until("it is sent", crate::SOON, || {
        let row = client.query_one(
            "SELECT state = 'sent' FROM mail.messages WHERE id = $1",
            &[&id],
        );
        row.is_ok_and(|row| row.get(0))
    });
    let kinds: Vec<String> = client
        .query(
            "SELECT kind FROM mail.events WHERE message_id = $1 ORDER BY id",
            &[&id],
        )
        .expect("events")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(kinds, ["interrupted", "sent"]);
    let mails = gated.sink.mails();
    assert_eq!(mails.len(), 2, "once before the crash, once after it");
    assert_eq!(mails[0].data, mails[1].data);
}

#[test]
fn a_mail_in_flight_when_the_server_dies_waits_for_a_person_where_the_queue_holds() {
    let gated = Gated::start();
    let (mut cluster, mut client) = cluster(&options().fsync(true), &gated.sink);
    client
        .batch_execute("UPDATE mail.queue SET on_uncertain = 'hold'")
        .expect("a queue");
    client
        .query_one(
            "SELECT mail.enqueue('alice@example.test', 'in flight', 'x')",
            &[],
        )
        .expect("it can be enqueued");
    gated.is_busy();
    cluster.restart(Stop::Crash);
    gated.open();
    let mut client = cluster.connect("app");
    pgmq_mail_tests::until("it is held", crate::SOON, || {
        let row = client.query_one(
            "SELECT count(*) = 1 FROM mail.dead_letters WHERE state = 'uncertain' AND last_error <> ''",
            &[],
        );
        row.is_ok_and(|row| row.get(0))
    });
    client
        .query_one(
            "SELECT mail.enqueue('alice@example.test', 'next', 'x')",
            &[],
        )
        .expect("it can be enqueued");
    let mails = gated.sink.wait_for(2, crate::SOON);
    let subjects: Vec<_> = mails
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    assert_eq!(subjects, ["in flight", "next"]);
}

#[test]
fn a_mail_in_flight_when_its_worker_is_told_to_end_is_uncertain_and_sent_again() {
    let gated = Gated::start();
    let mut world = World::with(&gated.sink);
    let id = world.put("alice@example.test", "in flight", "");
    gated.is_busy();
    let ended: i64 = world.one(
        "SELECT count(pg_terminate_backend(pid)) FROM mail.workers",
        &[],
    );
    assert_eq!(ended, 1);
    world.until(&format!(
        "SELECT EXISTS (SELECT FROM mail.events WHERE message_id = {id} AND kind = 'uncertain')"
    ));
    gated.open();
    world.reaches(id, "sent");
    assert_eq!(
        world.kinds(id),
        ["uncertain", "sent"],
        "{}",
        world.story(id)
    );
    assert_eq!(gated.sink.wait_for(2, crate::SOON).len(), 2);
}

#[test]
fn a_mail_that_is_not_yet_at_the_dot_when_its_worker_ends_costs_no_attempt() {
    let hang = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&hang);
    let sink = Sink::scripted(move |event| {
        if event.phase == Phase::Rcpt && gate.load(Ordering::Relaxed) {
            Action::Silence
        } else {
            Action::Accept
        }
    });
    let mut world = World::with(&sink);
    let ids = world.put_many(30, "");
    pgmq_mail_tests::until("the relay is busy", crate::SOON, || sink.open() > 0);
    world.reaches(ids[0], "sending");
    let ended: i64 = world.one(
        "SELECT count(pg_terminate_backend(pid)) FROM mail.workers",
        &[],
    );
    assert_eq!(ended, 1);
    hang.store(false, Ordering::Relaxed);
    for id in ids {
        world.reaches(id, "sent");
        assert_eq!(world.attempts(id), 1, "{}", world.story(id));
    }
    assert_eq!(sink.count(), 30);
}

#[test]
fn a_fast_stop_of_the_server_loses_and_repeats_nothing() {
    let sink = Sink::start();
    let (mut cluster, mut client) = cluster(&options(), &sink);
    client
        .batch_execute(
            "SELECT mail.enqueue('a@example.test', n::text, 'x') FROM generate_series(1, 3000) AS n",
        )
        .expect("they can be enqueued");
    pgmq_mail_tests::until("delivery has begun", crate::SOON, || sink.count() > 100);
    cluster.restart(Stop::Fast);
    sink.wait_for(3000, crate::SOON);
    let mut client = cluster.connect("app");
    let idle: bool = client
        .query_one("SELECT mail.wait_idle('default', '30 seconds')", &[])
        .expect("it can be waited for")
        .get(0);
    assert!(idle);
    assert_eq!(sink.count(), 3000);
    let odd: i64 = client
        .query_one(
            "SELECT count(*) FROM mail.messages WHERE state <> 'sent' OR attempts <> 1",
            &[],
        )
        .expect("messages")
        .get(0);
    assert_eq!(odd, 0);
}

#[test]
fn recipients_who_have_the_mail_do_not_get_it_again_when_the_server_dies_while_others_wait() {
    let gated = Gated::start();
    let quick = Sink::start();
    let (mut cluster, mut client) = cluster(&options().fsync(true), &quick);
    client
        .execute(
            &format!(
                "INSERT INTO mail.relay (name, url, recipient_domains) VALUES ('slow', '{}', '{{slow.test}}')",
                gated.sink.url()
            ),
            &[],
        )
        .expect("a second relay");
    client
        .execute(
            "SELECT mail.enqueue('a@example.test, b@slow.test, c@example.test', 'both', 'x')",
            &[],
        )
        .expect("it can be enqueued");
    gated.is_busy();
    let recorded =
        "SELECT array_agg(recipient ORDER BY recipient) = '{a@example.test,c@example.test}'
                    FROM mail.events WHERE kind = 'sent' AND attempt = 1";
    pgmq_mail_tests::until("two are recorded", crate::SOON, || {
        client
            .query_one(recorded, &[])
            .is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
    });
    let state: String = client
        .query_one("SELECT state FROM mail.messages", &[])
        .expect("a message")
        .get(0);
    assert_eq!(state, "sending");
    cluster.restart(Stop::Crash);
    gated.open();
    let mut client = cluster.connect("app");
    pgmq_mail_tests::until("all have it", crate::SOON, || {
        let row = client.query_one("SELECT state = 'sent' FROM mail.messages", &[]);
        row.is_ok_and(|row| row.get(0))
    });
    let sent: Vec<String> = client
        .query(
            "SELECT concat_ws(' ', recipient, attempt, relay, state) FROM mail.events
             WHERE kind = 'sent' ORDER BY recipient",
            &[],
        )
        .expect("events")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        sent,
        [
            "a@example.test 1 main",
            "b@slow.test 2 slow sent",
            "c@example.test 1 main"
        ]
    );
    assert_eq!((quick.count(), gated.sink.count()), (1, 2));
}
