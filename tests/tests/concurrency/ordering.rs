//! `ordering_key`: one at a time and in enqueue order for each key, side by side across keys.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use pgmq_mail_tests::{
    Action, Cluster, Gate, Phase, SOON, Sink, all, one, reaches, run_sql, state, until,
};

use crate::{delivering, external, pass, put, served};

const ACK: &str = "SELECT mail.ack($1::bigint, $2)";

/// The key and number in a subject such as `k3 n17`.
fn parts(subject: &str) -> (String, usize) {
    let (key, number) = subject.split_once(" n").expect("a subject of these tests");
    (key.to_owned(), number.parse().expect("a number"))
}

#[test]
fn several_claimers_take_each_key_in_order_and_one_at_a_time() {
    const KEYS: usize = 12;
    const EACH: usize = 40;
    let (database, mut client) = external();
    run_sql(
        &mut client,
        &format!(
            "SELECT mail.enqueue('a@example.test', 'k' || k || ' n' || n, 'x', queue => 'work', ordering_key => 'k' || k,
                                 priority => (n % 3)::int)
             FROM generate_series(1, {EACH}) n, generate_series(1, {KEYS}) k"
        ),
    );
    let in_flight = Mutex::new(HashSet::new());
    let seen: Mutex<HashMap<String, Vec<usize>>> = Mutex::default();
    let done = AtomicUsize::new(0);
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (in_flight, seen, done, most) = (&in_flight, &seen, &done, &most);
        for me in 0..6 {
            let mut client = database.connect();
            scope.spawn(move || {
                let claim = "SELECT id, token, message ->> 'subject' FROM mail.claim('work', batch => 3, wait => '50 milliseconds')";
                let begin = Instant::now();
                while done.load(SeqCst) < KEYS * EACH {
                    assert!(begin.elapsed() < Cluster::PATIENCE, "{}", done.load(SeqCst));
                    let rows = client.query(claim, &[]).unwrap();
                    for row in &rows {
                        let (key, number) = parts(row.get(2));
                        let mut flying = in_flight.lock().unwrap();
                        assert!(flying.insert(key.clone()), "{key} is in flight twice (claimer {me})");
                        most.fetch_max(flying.len(), SeqCst);
                        seen.lock().unwrap().entry(key).or_default().push(number);
                    }
                    for row in &rows {
                        let (id, token): (i64, i64) = (row.get(0), row.get(1));
                        in_flight.lock().unwrap().remove(&parts(row.get(2)).0);
                        assert!(one::<bool>(&mut client, ACK, &[&id, &token]));
                        done.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), KEYS);
    for (key, numbers) in seen {
        assert_eq!(numbers, (1..=EACH).collect::<Vec<_>>(), "{key}");
    }
    assert!(most.load(SeqCst) > 3, "keys go side by side");
}

#[test]
fn the_worker_delivers_each_key_in_order_and_one_at_a_time() {
    const KEYS: usize = 8;
    const EACH: usize = 25;
    let in_flight: &'static Mutex<HashSet<String>> = Box::leak(Box::default());
    let twice: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    let sink = Sink::scripted(|event| {
        let key = event.recipients.first().cloned().unwrap_or_default();
        if event.phase == Phase::Data && !in_flight.lock().unwrap().insert(key.clone()) {
            twice.lock().unwrap().push(key);
        } else if event.phase == Phase::Dot {
            in_flight.lock().unwrap().remove(&key);
        }
        Action::Accept
    });
    let (_database, mut client) = served();
    delivering(&mut client, &sink);
    in_flight.lock().unwrap().clear();
    let before = sink.count();
    run_sql(
        &mut client,
        &format!(
            "SELECT mail.enqueue('k' || k || '@example.test', 'k' || k || ' n' || n, 'x', queue => 'out', ordering_key => 'k' || k)
             FROM generate_series(1, {EACH}) n, generate_series(1, {KEYS}) k"
        ),
    );
    let mails = sink.wait_for(before + KEYS * EACH, Cluster::PATIENCE);
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    for mail in &mails[before..] {
        let (key, number) = parts(&mail.header("Subject").unwrap());
        seen.entry(key).or_default().push(number);
    }
    assert_eq!(*twice.lock().unwrap(), [""; 0]);
    for (key, numbers) in seen {
        assert_eq!(numbers, (1..=EACH).collect::<Vec<_>>(), "{key}");
    }
}

#[test]
fn a_head_that_waits_for_its_retry_holds_up_its_key_and_no_other() {
    let (_database, mut client) = external();
    for subject in ["a n1", "a n2", "b n1", "b n2"] {
        let more = format!(", queue => 'work', ordering_key => '{}'", &subject[..1]);
        put(&mut client, subject, &more);
    }
    let row = client
        .query_one("SELECT id, token FROM mail.claim('work')", &[])
        .unwrap();
    let (head, token): (i64, i64) = (row.get(0), row.get(1));
    let answer: String = one(
        &mut client,
        "SELECT mail.nack($1, $2, retry_after => '1 hour')",
        &[&head, &token],
    );
    assert_eq!(answer, "deferred");
    let mut others = Vec::new();
    while let Some(row) = client
        .query_opt(
            "SELECT id, token, message ->> 'subject' FROM mail.claim('work')",
            &[],
        )
        .unwrap()
    {
        others.push(row.get::<_, String>(2));
        assert!(one::<bool>(
            &mut client,
            ACK,
            &[&row.get::<_, i64>(0), &row.get::<_, i64>(1)]
        ));
    }
    assert_eq!(others, ["b n1", "b n2"]);
    assert!(one::<bool>(&mut client, "SELECT mail.cancel($1)", &[&head]));
    let next: String = one(
        &mut client,
        "SELECT message ->> 'subject' FROM mail.claim('work')",
        &[],
    );
    assert_eq!(next, "a n2");
}

#[test]
fn a_message_that_commits_late_waits_for_a_later_one_of_its_key_that_is_in_flight() {
    let (database, mut client) = external();
    let mut slow = database.connect();
    let mut late = slow.transaction().unwrap();
    let first = put(&mut late, "k n1", ", queue => 'work', ordering_key => 'k'");
    put(
        &mut client,
        "k n2",
        ", queue => 'work', ordering_key => 'k'",
    );
    put(
        &mut client,
        "k n3",
        ", queue => 'work', ordering_key => 'k'",
    );
    let claim = "SELECT id, token, message ->> 'subject' FROM mail.claim('work')";
    let row = client.query_one(claim, &[]).unwrap();
    assert_eq!(row.get::<_, &str>(2), "k n2");
    late.commit().unwrap();
    assert!(
        client.query(claim, &[]).unwrap().is_empty(),
        "one of the key is in flight"
    );
    assert!(one::<bool>(
        &mut client,
        ACK,
        &[&row.get::<_, i64>(0), &row.get::<_, i64>(1)]
    ));
    let row = client.query_one(claim, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), first, "now it is the first");
    assert!(client.query(claim, &[]).unwrap().is_empty());
}

#[test]
fn two_claimers_at_once_never_take_two_of_a_key_of_which_one_commits_late() {
    let (database, mut client) = external();
    for round in 0..30 {
        let more = format!(", queue => 'work', ordering_key => 'k{round}'");
        let mut slow = database.connect();
        let mut late = slow.transaction().unwrap();
        put(&mut late, "early number", &more);
        put(&mut client, "late number", &more);
        let taken: Vec<i64> = std::thread::scope(|scope| {
            let claimers: Vec<_> = (0..3)
                .map(|_| {
                    let mut client = database.connect();
                    let claim = "SELECT id FROM mail.claim('work', batch => 2)";
                    scope.spawn(move || {
                        let mut got = all::<i64>(&mut client, claim, &[]);
                        got.extend(all::<i64>(&mut client, claim, &[]));
                        got
                    })
                })
                .collect();
            late.commit().unwrap();
            claimers
                .into_iter()
                .flat_map(|claimer| claimer.join().unwrap())
                .collect()
        });
        assert_eq!(taken.len(), 1, "round {round}: {taken:?}");
        let leases = "SELECT bool_and(mail.ack(l.ids[1], l.token)) FROM mail.lease l";
        assert!(one::<bool>(&mut client, leases, &[]));
        assert_eq!(one::<i64>(&mut client, "SELECT mail.purge('work')", &[]), 1);
    }
}

#[test]
fn a_head_that_waits_for_a_later_one_of_its_key_holds_up_no_other() {
    let (database, mut client) = external();
    let mut slow = database.connect();
    let mut late = slow.transaction().unwrap();
    put(&mut late, "k n1", ", queue => 'work', ordering_key => 'k'");
    put(
        &mut client,
        "k n2",
        ", queue => 'work', ordering_key => 'k'",
    );
    let claim = "SELECT message ->> 'subject' FROM mail.claim('work')";
    assert_eq!(all::<String>(&mut client, claim, &[]), ["k n2"]);
    late.commit().unwrap();
    put(&mut client, "other", ", queue => 'work'");
    put(
        &mut client,
        "q n1",
        ", queue => 'work', ordering_key => 'q'",
    );
    assert_eq!(all::<String>(&mut client, claim, &[]), ["other"]);
    assert_eq!(all::<String>(&mut client, claim, &[]), ["q n1"]);
}

#[test]
fn a_claim_locks_the_keys_that_it_takes_and_no_others() {
    let (_database, mut client) = external();
    run_sql(
        &mut client,
        "SELECT count(mail.enqueue('a@example.test', 'x', 'x', queue => 'work', ordering_key => 'k' || n))
         FROM generate_series(1, 20000) n",
    );
    let mut transaction = client.transaction().unwrap();
    let ids: Vec<i64> = all(
        &mut transaction,
        "SELECT id FROM mail.claim('work', batch => 100)",
        &[],
    );
    assert_eq!(ids.len(), 100);
    let locks: i64 = one(
        &mut transaction,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        &[],
    );
    assert!(
        locks <= 100,
        "{locks} locks: the server has room for a few thousand"
    );
    transaction.rollback().unwrap();
    let ids: Vec<i64> = all(
        &mut client,
        "SELECT id FROM mail.claim('work', batch => 10000)",
        &[],
    );
    assert_eq!(ids.len(), 10_000, "the largest batch");
}

#[test]
fn the_worker_has_one_of_a_key_in_flight_even_if_an_earlier_one_commits_late() {
    let gate = Gate::new();
    let hold = gate.clone();
    let sink = Sink::scripted(move |event| {
        if event.phase == Phase::Dot && event.data.windows(9).any(|text| text == b"held here") {
            hold.pass();
        }
        Action::Accept
    });
    let (database, mut client) = served();
    delivering(&mut client, &sink);
    let mut slow = database.connect();
    let mut late = slow.transaction().unwrap();
    let more = ", queue => 'out', ordering_key => 'k'";
    let first = put(&mut late, "late commit", more);
    let second = put(&mut client, "held here", more);
    until("the second is in flight", SOON, || gate.waiting() == 1);
    late.commit().unwrap();
    pass(&mut client, ", queue => 'out'");
    assert_eq!(state(&mut client, first), "queued");
    gate.open();
    reaches(&mut client, second, "sent");
    reaches(&mut client, first, "sent");
}
