//! Stopping: in bounded time, every job reported exactly once.

mod common;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use common::{Harness, jobs, only, quick, relay, sink::Sink, verdict};
use mail_relay::{JobResult, Pool, Report};
use mail_smtp::Verdict;

#[test]
fn a_relay_that_hangs_after_the_dot_leaves_its_job_uncertain() {
    let sink = Sink::start();
    sink.does.hang_at_dot.store(true, SeqCst);
    // Half of them and more are left for other domains.
    let pool = Harness::start(quick(), vec![relay(1, sink.port, 8)]);
    pool.pool.submit(jobs(0..20, &[1]));
    sink.wait("bodies", |seen| seen.bodies.load(SeqCst) == 3);
    let (rest, took) = pool.stop(Duration::from_millis(200));
    assert!((200..1500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(rest.finished.len(), 20);
    let uncertain = rest
        .finished
        .values()
        .filter(|f| verdict(&f.result) == Some(Verdict::Uncertain));
    assert_eq!(uncertain.count(), 3);
    let returned = rest
        .finished
        .values()
        .filter(|f| matches!(f.result, JobResult::Returned(_)));
    assert_eq!(returned.count(), 17, "those chained behind them, too");
}

#[test]
fn a_relay_that_hangs_before_the_dot_returns_its_jobs() {
    let sink = Sink::start();
    sink.does.hang_at_mail.store(true, SeqCst);
    let pool = Harness::start(quick(), vec![relay(1, sink.port, 8)]);
    pool.pool.submit(jobs(0..20, &[1]));
    sink.wait("connections", |seen| seen.connections.load(SeqCst) == 3);
    let (rest, took) = pool.stop(Duration::ZERO);
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(rest.finished.len(), 20);
    assert!(
        rest.finished
            .values()
            .all(|f| matches!(f.result, JobResult::Returned(_)))
    );
}

#[test]
fn a_connect_that_hangs_is_called_off_at_once() {
    let sink = Sink::start();
    sink.does.hang_at_greeting.store(true, SeqCst);
    let pool = Harness::start(quick(), vec![relay(1, sink.port, 8)]);
    pool.pool.submit(jobs(0..5, &[1]));
    sink.wait("connections", |seen| seen.open.load(SeqCst) == 3);
    let (rest, took) = pool.stop(Duration::from_secs(30));
    assert!(
        took < Duration::from_secs(5),
        "no grace is needed: {took:?}"
    );
    assert!(rest.finished.len() == 5);
}

#[test]
fn what_is_in_flight_may_finish_within_the_grace() {
    let sink = Sink::start();
    sink.does.delay.store(100, SeqCst);
    let pool = Harness::start(quick(), vec![relay(1, sink.port, 1)]);
    pool.pool.submit(jobs(0..10, &[1]));
    sink.wait("a body", |seen| seen.bodies.load(SeqCst) == 1);
    let (rest, took) = pool.stop(Duration::from_secs(10));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(verdict(&rest.finished[&0].result), Some(Verdict::Delivered));
    assert_eq!(
        verdict(&rest.finished[&1].result),
        Some(Verdict::Delivered),
        "chained"
    );
    assert_eq!((sink.messages(), rest.finished.len()), (2, 10));
}

#[test]
fn a_second_stop_shortens_the_grace() {
    let sink = Sink::start();
    sink.does.hang_at_dot.store(true, SeqCst);
    let pool = Harness::start(quick(), vec![relay(1, sink.port, 1)]);
    pool.pool.submit(jobs(0..2, &[1]));
    sink.wait("a body", |seen| seen.bodies.load(SeqCst) == 1);
    pool.pool.stop(Duration::from_mins(10));
    pool.pool.submit(jobs(2..4, &[1]));
    let (rest, took) = pool.stop(Duration::ZERO);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(rest.finished.len(), 4);
}

#[test]
fn a_pool_that_is_dropped_ends_and_returns_its_jobs() {
    let sink = Sink::start();
    sink.does.hang_at_dot.store(true, SeqCst);
    let (sender, reports) = std::sync::mpsc::channel();
    let pool = Pool::start(move |report| drop(sender.send(report)), quick()).unwrap();
    pool.configure(only(vec![relay(1, sink.port, 1)]));
    pool.submit(jobs(0..5, &[1]));
    sink.wait("a body", |seen| seen.bodies.load(SeqCst) == 1);
    drop(pool);
    // The sender is dropped with the thread, which ends the iteration.
    let ends = reports.iter().filter(|r| matches!(r, Report::Finished(_)));
    assert_eq!(ends.count(), 5);
}

#[test]
fn join_does_not_wait_longer_than_it_is_told() {
    let sink = Sink::start();
    sink.does.hang_at_dot.store(true, SeqCst);
    let pool = Pool::start(drop, quick()).unwrap();
    pool.configure(only(vec![relay(1, sink.port, 1)]));
    pool.submit(jobs(0..1, &[1]));
    sink.wait("a body", |seen| seen.bodies.load(SeqCst) == 1);
    pool.stop(Duration::from_secs(3));
    assert!(!pool.join(Duration::from_millis(50)));
}

#[test]
fn a_report_that_panics_loses_no_other_job() {
    let sink = Sink::start();
    let (sender, reports) = std::sync::mpsc::channel();
    let first = std::cell::Cell::new(true);
    let report = move |report| {
        assert!(!first.take(), "a bug in the caller");
        drop(sender.send(report));
    };
    let pool = Pool::start(report, quick()).unwrap();
    pool.configure(only(vec![relay(1, sink.port, 2)]));
    pool.submit(jobs(0..50, &[1]));
    let received = reports.iter().take(49).count();
    assert_eq!(received, 49);
    pool.stop(Duration::ZERO);
    assert!(pool.join(common::PATIENCE));
}
