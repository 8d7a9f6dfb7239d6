//! What a relay's trouble costs others, and how well limits are kept.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Action, Cluster, Sink, until};

use crate::{deliver_to, one_by_one, percentile};

/// What stands beside a healthy queue.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    /// As much mail as with the third, in a queue that is paused.
    Paused,
    /// A queue full of mail whose relay never answers.
    Hanging,
}

const WAITING: i32 = 20_000;

/// A healthy queue alone, and beside one whose relay never answers: by turns, so that what else this machine does
/// concerns all.
pub fn isolation(cluster: &Cluster) {
    const MAILS: usize = 1000;
    const ROUNDS: usize = 9;
    let sides = [Beside::Nothing, Beside::Paused, Beside::Hanging];
    let mut rounds = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (beside, rounds) in sides.into_iter().zip(&mut rounds) {
            let mut times = healthy(cluster, beside, MAILS);
            rounds.push([50, 99].map(|percent| percentile(&mut times, percent)));
        }
    }
    let figures = rounds.map(|rounds| {
        [0, 1].map(|n| {
            let mut of_rounds: Vec<Duration> = rounds.iter().map(|round| round[n]).collect();
            percentile(&mut of_rounds, 50)
        })
    });
    let names = [
        "alone".to_owned(),
        format!("beside {WAITING} mails in a paused queue"),
        format!("beside {WAITING} mails for a relay that hangs"),
    ];
    for (name, [middle, most]) in names.iter().zip(figures) {
        let growth = |n: usize, now: Duration| {
            100.0 * (now.as_secs_f64() / figures[0][n].as_secs_f64() - 1.0)
        };
        println!(
            "isolation: {name}: from COMMIT sent to the final dot p50 {middle:.3?} ({:+.1} %), p99 {most:.3?} ({:+.1} %) \
             (the middle of {ROUNDS} times {MAILS} mails one by one)",
            growth(0, middle),
            growth(1, most)
        );
    }
}

/// How long mails of a healthy queue take.
fn healthy(cluster: &Cluster, beside: Beside, mails: usize) -> Vec<Duration> {
    let sink = Sink::start();
    let hanging = Sink::scripted(|_| Action::Silence);
    let (_database, mut client) = deliver_to(cluster, &sink);
    client
        .batch_execute(&format!(
            "UPDATE mail.queue SET relays = '{{sink}}' WHERE name = 'default';
             INSERT INTO mail.relay (name, url) VALUES ('hanging', '{}');
             INSERT INTO mail.queue (name, transport, default_sender, relays, paused)
             VALUES ('stuck', 'smtp', 'app@example.test', '{{hanging}}', {})",
            hanging.url(),
            !matches!(beside, Beside::Hanging)
        ))
        .expect("a relay and a queue");
    if !matches!(beside, Beside::Nothing) {
        client
            .execute(
                "SELECT count(mail.enqueue('a@' || i % 50 || '.example.test', 'Mail ' || i, 'A short text.', queue => 'stuck'))
                 FROM generate_series(1, $1) i",
                &[&WAITING],
            )
            .expect("accepted");
    }
    if matches!(beside, Beside::Hanging) {
        until("the relay hangs", Duration::from_mins(1), || {
            hanging.open() >= 4
        });
    }
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
    one_by_one(&mut client, &sink, mails).from_commit
}

/// A relay, a queue and a domain with limits, all at once.
pub fn rates(cluster: &Cluster) {
    const WARM_UP: Duration = Duration::from_secs(2);
    const SPAN: Duration = Duration::from_secs(10);
    let sinks = [Sink::start(), Sink::start(), Sink::start()];
    let (_database, mut client) = deliver_to(cluster, &sinks[0]);
    let limits = [("relay", 14), ("queue", 50), ("domain", 20)];
    let mut setup = "DELETE FROM mail.relay;".to_owned();
    for ((name, _), sink) in limits.iter().zip(&sinks) {
        write!(
            setup,
            "INSERT INTO mail.relay (name, url) VALUES ('{name}', '{}');
             INSERT INTO mail.queue (name, transport, default_sender, relays)
             VALUES ('{name}', 'smtp', 'app@example.test', '{{{name}}}');",
            sink.url()
        )
        .expect("a string grows");
    }
    setup += "UPDATE mail.relay SET rate_limit = 14 WHERE name = 'relay';
              UPDATE mail.queue SET rate_limit = 50 WHERE name = 'queue';
              INSERT INTO mail.domain_limit (domain, rate_limit) VALUES ('domain.test', 20);";
    client.batch_execute(&setup).expect("relays and queues");
    for (name, limit) in limits {
        client
            .execute(
                "SELECT count(mail.enqueue('a@' || $1 || '.test', 'Mail ' || i, 'A short text.', queue => $1))
                 FROM generate_series(1, $2) i",
                &[&name, &(limit * 20_i32)],
            )
            .expect("accepted");
    }
    until("all have begun", Duration::from_mins(1), || {
        sinks.iter().all(|sink| sink.count() > 0)
    });
    let begin = Instant::now() + WARM_UP;
    let end = begin + SPAN;
    std::thread::sleep(WARM_UP + SPAN + Duration::from_millis(500));
    for ((name, limit), sink) in limits.iter().zip(&sinks) {
        let times: Vec<Instant> = sink.mails().iter().map(|mail| mail.at).collect();
        let count = times.iter().filter(|&at| (begin..end).contains(at)).count();
        let within = |from: &Instant| {
            let second = *from..*from + Duration::from_secs(1);
            times.iter().filter(|&at| second.contains(at)).count()
        };
        let most = times.iter().map(within).max().unwrap_or(0);
        let allowed = limit * 10;
        let more = i32::try_from(count).unwrap_or(i32::MAX) - allowed;
        println!(
            "rates: a {name} with {limit}/s: {count} mails in {} s, {:+.1} %; at most {most} in any second",
            SPAN.as_secs(),
            100.0 * f64::from(more) / f64::from(allowed)
        );
    }
}
