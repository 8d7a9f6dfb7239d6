//! Relays that look after themselves: which of them gets what, how much of it, what their replies ask for, and that the
//! trouble of one relay or domain is nobody else's.
//!
//! Sinks that limit something are looked at through what arrives there: a limiter may be slower than allowed on a busy
//! machine, and never faster.

mod isolation;
mod limits;
mod logins;
mod pauses;
mod rules;
mod slow;
mod tiers;
mod turns;

use pgmq_mail_tests::{Mail, Sink};

use crate::{SOON, World};

/// How far arrivals may bunch together because this machine is busy, in seconds.
const JITTER: f64 = 0.15;

/// Checks that no stretch of what arrived holds more than a rate allows.
#[track_caller]
pub fn no_faster_than(per_second: f64, mails: &[Mail]) {
    for (first, mail) in mails.iter().enumerate() {
        for (n, later) in (1..).zip(&mails[first + 1..]) {
            let stretch = later.at.saturating_duration_since(mail.at).as_secs_f64();
            let allowed = per_second * (stretch + JITTER) + 1.0;
            assert!(
                f64::from(n) <= allowed,
                "{n} mails after number {first} within {stretch:.3} s, of at most {per_second}/s"
            );
        }
    }
}

/// Enqueues that many to one domain, to `n@domain` with the subject `n`, from 1, in one transaction.
#[track_caller]
pub fn put_to(world: &mut World<'_>, domain: &str, count: i32, more: &str) -> Vec<i64> {
    let query = format!(
        "SELECT mail.enqueue(n || '@' || $2::text, n::text, 'hello' {more})
         FROM generate_series(1, $1) AS n"
    );
    world.all(&query, &[&count, &domain])
}

/// Waits until all are sent, and checks that each took one attempt.
#[track_caller]
pub fn all_sent_at_once(world: &mut World<'_>, ids: &[i64]) {
    all_sent(world, ids);
    for id in ids {
        assert_eq!(world.attempts(*id), 1, "{}", world.story(*id));
    }
}

/// Waits until all are sent.
#[track_caller]
pub fn all_sent(world: &mut World<'_>, ids: &[i64]) {
    let left = "SELECT count(*) FROM mail.messages WHERE id = ANY ($1) AND state <> 'sent'";
    let begin = std::time::Instant::now();
    loop {
        let left: i64 = world.one(left, &[&ids]);
        if left == 0 {
            return;
        }
        if begin.elapsed() > SOON {
            let states: Vec<String> = world.all(
                "SELECT concat_ws(' ', count(*), state, min(next_attempt_at)) FROM mail.messages
                 WHERE id = ANY ($1) GROUP BY state",
                &[&ids],
            );
            panic!("{left} are not sent: {states:#?}\n{:#?}", world.health());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The relay of each recipient that was sent to, as `recipient by relay`, in order.
#[track_caller]
pub fn ways(world: &mut World<'_>, id: i64) -> Vec<String> {
    world.all(
        "SELECT recipient || ' by ' || relay FROM mail.events
         WHERE message_id = $1 AND kind = 'sent' ORDER BY recipient",
        &[&id],
    )
}

/// Who got copies, one line for each recipient of each mail, in order.
pub fn copies(sink: &Sink) -> Vec<String> {
    let mails = sink.mails();
    let mut all: Vec<String> = mails.into_iter().flat_map(|mail| mail.recipients).collect();
    all.sort();
    all
}
