//! Domains that are slow, or narrowed down by a limit: they keep in the pool what they can use, and ask for the rest.

mod common;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use common::{Harness, PATIENCE, job_to, only, quick, relay, sink::Sink, slow};
use mail_relay::{Config, DomainLimit, Job, JobResult, Rate, RelayConfig, Settings};

/// Queue 2 has the ids from 1000 on.
fn queue_of(id: i64) -> i32 {
    if id < 1000 { 1 } else { 2 }
}

fn to(ids: std::ops::Range<i64>, domain: &str) -> Vec<Job> {
    let job = |id| Job {
        queue: queue_of(id),
        ..job_to(id, &[1, 2], &[&format!("u@{domain}")])
    };
    ids.map(job).collect()
}

/// Those that wait outside until they are asked for, in order.
fn parked(pool: &Harness) -> Vec<i64> {
    let waiting = pool
        .finished
        .values()
        .filter(|end| matches!(end.result, JobResult::PutOff { .. }) && end.waits_for.is_some());
    let mut ids: Vec<i64> = waiting.map(|end| end.id).collect();
    ids.sort_unstable();
    ids
}

/// Does what the worker does until all of these are delivered: brings what is asked for.
fn all_delivered(pool: &mut Harness, ids: std::ops::Range<i64>) {
    nearly_all_delivered(pool, ids, 0);
}

/// The same, but for so many of them.
fn nearly_all_delivered(pool: &mut Harness, ids: std::ops::Range<i64>, but: usize) {
    let deadline = Instant::now() + PATIENCE;
    let is_left =
        |pool: &Harness, id: &i64| !pool.finished.contains_key(id) || !pool.delivered(*id);
    let is_done = |pool: &Harness| ids.clone().filter(|id| is_left(pool, id)).count() <= but;
    while !is_done(pool) {
        assert!(Instant::now() < deadline, "{} wait", parked(pool).len());
        pool.until("it is asked for more, or all are done", |pool| {
            !pool.roomy.is_empty() || is_done(pool)
        });
        for (queue, domain, count) in std::mem::take(&mut pool.roomy) {
            let mut come: Vec<i64> = parked(pool);
            come.retain(|id| {
                queue_of(*id) == queue && pool.finished[id].waits_for.as_ref() == Some(&domain)
            });
            come.truncate(count);
            for id in come {
                pool.finished.remove(&id);
                pool.pool.submit(to(id..id + 1, &domain));
            }
        }
    }
}

#[test]
fn a_slow_domain_keeps_what_it_can_use_and_asks_for_the_rest() {
    let sink = Sink::start();
    sink.does.slow_about("slow.test", 400);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 4)]);
    pool.pool.submit(to(0..200, "slow.test"));
    pool.until("what is too much leaves", |pool| parked(pool).len() >= 140);
    let wait = |end: &JobResult| match end {
        JobResult::PutOff { wait, .. } => wait.as_secs(),
        _ => 0,
    };
    let waits: Vec<u64> = parked(&pool)
        .iter()
        .map(|id| wait(pool.result(*id)))
        .collect();
    assert!(waits.iter().all(|wait| *wait == 15 * 60), "{waits:?}");
    // What came first stays.
    let kept: Vec<i64> = (0..16).filter(|id| parked(&pool).contains(id)).collect();
    assert!(kept.is_empty(), "{kept:?}");
    // More of it is sent away at once; not so another queue's.
    let before = parked(&pool).len();
    pool.pool.submit(to(200..210, "slow.test"));
    pool.until("it leaves, too", |pool| parked(pool).len() >= before + 4);
    pool.pool.submit(to(1000..1016, "slow.test"));
    pool.pool.submit(to(300..400, "good.test"));
    pool.until("the others are delivered", |pool| {
        let others = (1000..1016).chain(300..400);
        others.into_iter().all(|id| pool.finished.contains_key(&id))
    });
    assert!((1000..1016).chain(300..400).all(|id| pool.delivered(id)));
    assert!(!parked(&pool).is_empty());
    sink.does.slow_about("slow.test", 0);
    all_delivered(&mut pool, 0..210);
    assert_eq!(sink.messages(), 210 + 16 + 100);
}

#[test]
fn a_domain_that_may_have_one_at_a_time_keeps_few_from_the_beginning() {
    let sink = Sink::start();
    let config = Config {
        domains: vec![DomainLimit {
            domain: "narrow.test".to_owned(),
            concurrency: Some(1),
            rate: None,
        }],
        ..only(vec![relay(1, sink.port, 4)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(to(0..500, "narrow.test"));
    pool.until("all that is too much leaves", |pool| {
        pool.finished.len() >= 500 - 16
    });
    assert!(parked(&pool).len() >= 500 - 16 - 4);
    all_delivered(&mut pool, 0..500);
    assert_eq!(sink.seen.most_at_work.load(SeqCst), 1);
}

#[test]
fn mail_of_a_domain_that_is_slow_at_one_relay_goes_by_another_of_its_tier() {
    let (tardy, brisk) = (Sink::start(), Sink::start());
    tardy.does.slow_about("x.test", 400);
    let relays = vec![
        relay(1, tardy.port, 2),
        RelayConfig {
            tier: 1,
            ..relay(2, brisk.port, 2)
        },
    ];
    let mut pool = Harness::start(quick(), relays);
    pool.pool.submit(to(0..200, "x.test"));
    pool.until("those that are too many go by the other", |_| {
        brisk.messages() >= 170
    });
    pool.pool.submit(to(200..300, "x.test"));
    pool.until_finished(300);
    assert!((0..300).all(|id| pool.delivered(id)));
    assert!(tardy.messages() <= 30, "{}", tardy.messages());
}

#[test]
fn what_waits_outside_for_a_relay_may_come_once_that_is_out_of_service() {
    let (silent, next) = (Sink::start(), Sink::start());
    silent.does.answer("x.test", None);
    let settings = Settings {
        silence: Duration::from_secs(2),
        ..slow()
    };
    let relays = vec![relay(1, silent.port, 4), relay(2, next.port, 4)];
    let mut pool = Harness::start(settings, relays);
    pool.pool.submit(to(0..300, "x.test"));
    pool.until("the relay is known to be silent", |pool| {
        !pool.silent.is_empty()
    });
    // All but those that connections have in hand: no domain gets more than two of four at first, and four more are there
    // to try the relay with.
    nearly_all_delivered(&mut pool, 0..300, 6);
    assert!(next.messages() >= 294);
}

#[test]
fn a_limit_that_does_not_get_what_it_put_off_asks_for_it_before_its_time() {
    let sink = Sink::start();
    let config = Config {
        domains: vec![DomainLimit {
            domain: "paced.test".to_owned(),
            concurrency: None,
            rate: Some(Rate {
                count: 10,
                window: Duration::from_secs(1),
            }),
        }],
        ..only(vec![relay(1, sink.port, 4)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(to(0..100, "paced.test"));
    pool.until_finished(100);
    let waiting = parked(&pool);
    assert!(waiting.len() >= 75, "{}", waiting.len());
    // As if those whose time comes first had been cancelled.
    for id in &waiting[..waiting.len() - 5] {
        pool.finished.remove(id);
    }
    all_delivered(&mut pool, 95..100);
}
