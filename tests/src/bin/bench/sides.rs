//! What is measured, and what it is measured against.

use std::process::Command;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Certificates, Cluster, Folder, Sink, run, until};
use postgres::Client;

use crate::{MINUTES, deliver_to};

pub const ROUNDS: usize = 5;

/// What is measured by a name, and how.
pub type Side<'a> = (&'static str, Box<dyn FnMut() -> f64 + 'a>);

/// Runs each side so many times, by turns.
pub fn by_turns(rounds: usize, sides: &mut [Side<'_>]) -> Vec<crate::Series> {
    let mut values = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        for ((_, side), values) in sides.iter_mut().zip(&mut values) {
            values.push(side());
        }
    }
    sides
        .iter()
        .zip(values)
        .map(|((name, _), values)| crate::Series::new(*name, values))
        .collect()
}

/// Words that no compression makes much smaller, as of a letter; always the same.
pub fn text(bytes: usize) -> String {
    let mut state = 7_u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = String::new();
    while text.len() < bytes {
        for _ in 0..2 + next(8) {
            text.push(char::from(b"etaoinshrdlucmfwypvbgkjqxz"[next(26) as usize]));
        }
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

/// Mails of 2 KB that wait in the queue `default`, which is paused.
pub fn enqueue(client: &mut Client, mails: usize) {
    client
        .batch_execute("SELECT mail.pause('default')")
        .expect("paused");
    client
        .execute(
            "SELECT count(mail.enqueue('a@example.test', 'Mail ' || i, $2)) FROM generate_series(1, $1::bigint) i",
            &[&(mails as i64), &text(2048)],
        )
        .expect("accepted");
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
}

/// From the moment that a backlog may go until the sink has accepted it all. It is recorded as sent then, too.
pub fn drain(client: &mut Client, sink: &Sink, mails: usize) -> Duration {
    let all = sink.count() + mails;
    let begin = Instant::now();
    client
        .batch_execute("SELECT mail.resume('default')")
        .expect("resumed");
    sink.wait_for(all, MINUTES);
    let took = begin.elapsed();
    settled(client);
    took
}

/// Waits until nothing is pending.
pub fn settled(client: &mut Client) {
    until("all are recorded", MINUTES, || {
        client
            .query_one("SELECT NOT EXISTS (SELECT FROM mail.pending)", &[])
            .expect("a table")
            .get(0)
    });
}

/// `smtp-source` with connections that it keeps, of Postfix: how many mails of 2 KB a second the sink takes from it.
pub fn smtp_source(sink: &Sink, mails: usize) -> f64 {
    let mut command = Command::new("/usr/sbin/smtp-source");
    command
        .args(["-d", "-s", "8", "-l", "2048", "-m", &mails.to_string()])
        .args(["-f", "sender@example.com", "-t", "recipient@example.com"])
        .arg(format!("127.0.0.1:{}", sink.port()));
    let begin = Instant::now();
    run(&mut command, MINUTES);
    mails as f64 / begin.elapsed().as_secs_f64()
}

/// A sink that counts, with TLS from the first byte on or without.
pub fn counting(certificates: Option<&Certificates>) -> Sink {
    let sink = Sink::builder().count_only();
    match certificates {
        Some(certificates) => sink.smtps(certificates).start(),
        None => sink.start(),
    }
}

/// The drain of so many mails, in a database of its own: mails a second.
pub fn drained(cluster: &Cluster, certificates: Option<&Certificates>, mails: usize) -> f64 {
    let sink = counting(certificates);
    let (_database, mut client) = deliver_to(cluster, &sink);
    if let Some(certificates) = certificates {
        client
            .execute(
                "UPDATE mail.relay SET ca_file = $1",
                &[&certificates.ca_file().to_string_lossy()],
            )
            .expect("a relay");
    }
    enqueue(&mut client, mails);
    mails as f64 / drain(&mut client, &sink, mails).as_secs_f64()
}

/// The rate that `pgbench` gets out of a script, with 8 clients.
pub fn pgbench(cluster: &Cluster, database: &str, script: &str, seconds: u32) -> f64 {
    let folder = Folder::new("bench");
    let file = folder.write("script", script);
    let output = run(
        cluster
            .program("pgbench")
            .env("PGDATABASE", database)
            .args(["-n", "-c", "8", "-j", "2", "-M", "prepared", "-T"])
            .args([&seconds.to_string(), "-f"])
            .arg(file),
        MINUTES,
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no rate in {text}"))
}

/// As a server is after a quiet hour.
pub fn tidy(client: &mut Client) {
    for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
        client.batch_execute(statement).expect("tidy");
    }
}
