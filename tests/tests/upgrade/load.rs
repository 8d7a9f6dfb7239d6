//! An update while mail is enqueued, claimed, looked at and delivered: nothing is lost, and nobody sees an error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use pgmq_mail_tests::{
    Cluster, SOON, Sink, all, code, one, pid, reaches, run_sql, sleeps, until, worker_of,
};
use postgres::Client;
use postgres::error::SqlState;

use crate::{served, trouble};

/// What each of the sessions does before and after the update.
const ROUNDS: usize = 10;

/// A database with an old version, a queue that goes to the sink and one for consumers outside.
fn database(cluster: &Cluster, name: &str, version: &str, sink: &Sink) -> Client {
    cluster.create_database(name);
    let mut client = cluster.connect(name);
    run_sql(
        &mut client,
        &format!(
            "CREATE EXTENSION pgmq_mail VERSION '{version}';
             DO $$ BEGIN CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT mail_sender, mail_consumer, mail_reader TO app;
             INSERT INTO mail.relay (name, url) VALUES ('sink', '{}');
             INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'smtp', 'a@b.test');
             INSERT INTO mail.queue (name, transport) VALUES ('outside', 'external');
             INSERT INTO mail.template (name, subject, text) VALUES ('hello', 'x', 'Hello {{{{ name }}}}')",
            sink.url()
        ),
    );
    worker_of(&mut client);
    client
}

/// Enqueues in every way; returns what it was told of each mail.
fn produce(client: &mut Client, name: &str, round: usize) -> i64 {
    let to = format!("{name}-{round}@b.test");
    let enqueue = match round % 4 {
        0 => "SELECT mail.enqueue($1, 'x', 'x', queue => 'work', idempotency_key => $1)",
        1 => {
            "SELECT mail.enqueue(message => jsonb_build_object('to', $1::text, 'template', 'hello', 'params', '{\"name\": 1}'::jsonb), queue => 'work')"
        }
        2 => {
            "SELECT mail.enqueue_batch(ARRAY[jsonb_build_object('to', $1::text, 'text', 'x')], queue => 'work')"
        }
        _ => {
            "SELECT mail.enqueue($1, 'x', 'x', queue => 'work', ordering_key => 'k', options => '{\"tags\": [\"t\"]}')"
        }
    };
    let id = one(client, enqueue, &[&to]);
    let later = "SELECT mail.enqueue('never@b.test', 'x', 'x', queue => 'work', send_at => now() + interval '1 hour')";
    let later: i64 = one(client, later, &[]);
    assert!(one::<bool>(client, "SELECT mail.cancel($1)", &[&later]));
    let outside = "SELECT mail.enqueue(message => '{}', queue => 'outside')";
    one::<i64>(client, outside, &[]);
    id
}

/// Claims, acknowledges, and enqueues in the same transaction: in another order than all others.
fn consume(client: &mut Client) {
    let mut transaction = client.transaction().expect("the server is there");
    let claimed =
        "SELECT mail.ack(c.id, c.token) FROM mail.claim('outside', 3, wait => '20 milliseconds') c";
    for acknowledged in all::<bool>(&mut transaction, claimed, &[]) {
        assert!(acknowledged);
        let enqueue = "SELECT mail.enqueue('consumer@b.test', 'x', 'x')";
        one::<i64>(&mut transaction, enqueue, &[]);
    }
    transaction.commit().expect("nothing stands in the way");
}

fn watch(client: &mut Client, round: usize) {
    all::<i64>(
        client,
        "SELECT id FROM mail.messages ORDER BY id DESC LIMIT 10",
        &[],
    );
    all::<String>(client, "SELECT queue FROM mail.queue_stats", &[]);
    all::<String>(client, "SELECT relay FROM mail.relay_stats", &[]);
    if round.is_multiple_of(20) {
        all::<String>(client, "SELECT detail FROM mail.health()", &[]);
    }
}

/// Sessions at work, until all have done their rounds before and after the update.
struct Load<'a> {
    cluster: &'a Cluster,
    database: &'a str,
    rounds: [AtomicUsize; 5],
    over: AtomicBool,
}

impl Load<'_> {
    fn work(&self, number: usize, mut round: impl FnMut(&mut Client, usize)) {
        let mut client = self.cluster.connect_as(self.database, "app");
        while !self.over.load(Ordering::SeqCst) {
            round(
                &mut client,
                self.rounds[number].fetch_add(1, Ordering::SeqCst),
            );
        }
    }

    fn all_have_done(&self, more: usize) {
        let begin: Vec<usize> = self
            .rounds
            .iter()
            .map(|n| n.load(Ordering::SeqCst))
            .collect();
        until("all go on", 4 * SOON, || {
            self.rounds
                .iter()
                .zip(&begin)
                .all(|(n, begin)| n.load(Ordering::SeqCst) > begin + more)
        });
    }
}

/// Ends the load also where the test fails, so that its threads end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn under_load_nothing_is_lost_and_nobody_sees_an_error() {
    for (cluster, version) in served() {
        for run in ["first", "second", "third"] {
            let sink = Sink::start();
            let mut client = database(&cluster, run, &version, &sink);
            let load = Load {
                cluster: &cluster,
                database: run,
                rounds: Default::default(),
                over: AtomicBool::new(false),
            };
            let ids: Vec<i64> = thread::scope(|scope| {
                let producers = [0, 1, 2].map(|number| {
                    let load = &load;
                    scope.spawn(move || {
                        let mut ids = Vec::new();
                        load.work(number, |client, round| {
                            ids.push(produce(client, &format!("p{number}"), round));
                        });
                        ids
                    })
                });
                scope.spawn(|| load.work(3, |client, _| consume(client)));
                scope.spawn(|| load.work(4, watch));
                let over = Ends(&load.over);
                load.all_have_done(ROUNDS);
                run_sql(&mut client, "ALTER EXTENSION pgmq_mail UPDATE");
                load.all_have_done(ROUNDS);
                drop(over);
                let ids = producers.map(|thread| thread.join().expect("it saw no error"));
                ids.concat()
            });
            all_arrive_once(&mut client, &sink, ids);
        }
        assert_eq!(trouble(&cluster.log(), &[]), [""; 0]);
    }
}

fn all_arrive_once(client: &mut Client, sink: &Sink, ids: Vec<i64>) {
    let count = ids.len();
    for id in ids {
        reaches(client, id, "sent");
    }
    let mut arrived: HashMap<String, usize> = HashMap::new();
    for mail in sink.mails() {
        *arrived.entry(mail.recipients.concat()).or_default() += 1;
    }
    assert_eq!(arrived.len(), count);
    assert!(arrived.values().all(|times| *times == 1), "{arrived:?}");
    while !all::<bool>(
        client,
        "SELECT mail.ack(c.id, c.token) FROM mail.claim('outside', 1000) c",
        &[],
    )
    .is_empty()
    {}
    let left = "SELECT count(*) FROM mail.messages WHERE state NOT IN ('sent', 'cancelled')";
    assert_eq!(one::<i64>(client, left, &[]), 0);
}

#[test]
fn sessions_that_were_there_before_go_on_and_hold_up_nobody_else() {
    for (cluster, version) in served() {
        let sink = Sink::start();
        let mut client = database(&cluster, "sessions", &version, &sink);
        let worker = worker_of(&mut client);
        let enqueue = "SELECT mail.enqueue('a@b.test', 'x', 'x', queue => 'work')";
        let mut open = cluster.connect_as("sessions", "app");
        let prepared = open.prepare(enqueue).expect("it is right");
        let put = |client: &mut Client| -> i64 {
            client.query_one(&prepared, &[]).expect("it goes on").get(0)
        };
        let before = put(&mut open);
        // One that is rolled back leaves nothing behind, in its own session either.
        run_sql(
            &mut client,
            &format!("BEGIN; ALTER EXTENSION pgmq_mail UPDATE; {enqueue}; ROLLBACK; {enqueue}"),
        );
        let mut old = cluster.connect_as("sessions", "app");
        run_sql(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
        let mut claimer = cluster.connect_as("sessions", "app");
        let waiting = pid(&mut claimer);
        thread::scope(|scope| {
            // It holds a lock on mail.queue until it has found something.
            let claim = scope.spawn(move || {
                let query = "SELECT c.id FROM mail.claim('outside', wait => '1 minute') c";
                one::<i64>(&mut claimer, query, &[])
            });
            sleeps(&mut client, waiting);
            let mut other = cluster.connect("sessions");
            let updating = pid(&mut other);
            let update =
                scope.spawn(move || run_sql(&mut other, "ALTER EXTENSION pgmq_mail UPDATE"));
            until("it has begun", SOON, || {
                let query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND query LIKE 'ALTER%' AND backend_xid IS NOT NULL)";
                one(&mut client, query, &[&updating])
            });
            for _ in 0..20 {
                let id = put(&mut open);
                reaches(&mut client, id, "sent");
            }
            assert!(!update.is_finished(), "it waits for the claim");
            let outside = "SELECT mail.enqueue(message => '{}', queue => 'outside')";
            let outside: i64 = one(&mut client, outside, &[]);
            assert_eq!(claim.join().expect("it saw no error"), outside);
            update.join().expect("it saw no error");
        });
        let after = put(&mut open);
        let of_old: i64 = one(&mut old, enqueue, &[]);
        run_sql(&mut old, "COMMIT");
        for id in [before, after, of_old] {
            reaches(&mut client, id, "sent");
        }
        assert_eq!(worker_of(&mut client), worker, "it goes on");
        // What is new holds for those who were there before.
        run_sql(
            &mut client,
            "UPDATE mail.queue SET restrict_senders = true WHERE name = 'work'",
        );
        let as_another =
            "SELECT mail.enqueue('a@b.test', 'x', 'x', queue => 'work', sender => 'c@d.test')";
        let refused = open.query(as_another, &[]);
        assert_eq!(code(refused), SqlState::INSUFFICIENT_PRIVILEGE);
        assert_eq!(trouble(&cluster.log(), &["may not send as"]), [""; 0]);
    }
}
