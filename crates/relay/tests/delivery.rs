//! Delivery: throughput over a few connections, chaining, capture, limits of a connection.

mod common;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use common::{Harness, job, jobs, quick, relay, sink::Sink};
use mail_relay::{JobResult, Made, Source, Transport};

#[test]
fn a_thousand_jobs_over_four_connections_arrive_exactly_once() {
    let sink = Sink::start();
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 4)]);
    pool.pool.submit(jobs(0..500, &[1]));
    pool.pool.submit(jobs(500..1000, &[1]));
    pool.until_finished(1000);
    assert!((0..1000).all(|id| pool.delivered(id)));
    let mut ids = sink.seen.messages.lock().unwrap().clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), sink.messages()), (1000, 1000));
    assert!(sink.seen.most_open.load(SeqCst) <= 4);
    assert!(sink.seen.chained.load(SeqCst) > 500, "most are chained");
    let finished = &pool.finished[&7];
    assert_eq!(
        (finished.relay, finished.to[0].as_str()),
        (Some(1), "u7@example.org")
    );
    assert!(finished.duration > Duration::ZERO);
}

#[test]
fn one_job_opens_one_connection_and_the_next_uses_it() {
    let sink = Sink::start();
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 8)]);
    for id in 0..5 {
        pool.pool.submit(vec![job(id, &[1])]);
        pool.until_finished(usize::try_from(id).unwrap() + 1);
    }
    assert_eq!(sink.seen.connections.load(SeqCst), 1);
}

#[test]
fn an_idle_connection_says_goodbye() {
    let sink = Sink::start();
    let mut config = relay(1, sink.port, 8);
    config.idle = Duration::from_millis(50);
    let mut pool = Harness::start(quick(), vec![config]);
    pool.pool.submit(vec![job(1, &[1])]);
    pool.until_finished(1);
    sink.wait("QUIT", |seen| {
        seen.quits.load(SeqCst) == 1 && seen.open.load(SeqCst) == 0
    });
    pool.pool.submit(vec![job(2, &[1])]);
    pool.until_finished(2);
    assert!(pool.delivered(2));
}

#[test]
fn a_connection_carries_no_more_messages_than_it_may() {
    let sink = Sink::start();
    let mut config = relay(1, sink.port, 1);
    config.max_messages_per_connection = 3;
    let mut pool = Harness::start(quick(), vec![config]);
    pool.pool.submit(jobs(0..10, &[1]));
    pool.until_finished(10);
    assert!((0..10).all(|id| pool.delivered(id)));
    assert_eq!(sink.seen.connections.load(SeqCst), 4);
    assert_eq!(sink.seen.most_open.load(SeqCst), 1);
    sink.wait("QUIT", |seen| seen.quits.load(SeqCst) == 3);
}

#[test]
fn a_server_without_pipelining_gets_one_after_the_other() {
    let sink = Sink::start();
    sink.does.plain.store(true, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 2)]);
    pool.pool.submit(jobs(0..50, &[1]));
    pool.until_finished(50);
    assert!((0..50).all(|id| pool.delivered(id)));
    assert_eq!(sink.seen.chained.load(SeqCst), 0);
}

#[derive(Debug)]
struct Unmakeable;

impl Source for Unmakeable {
    fn make(&self) -> Result<Made, String> {
        Err("its template is not there".to_owned())
    }
}

#[test]
fn what_cannot_be_made_does_not_stop_the_others() {
    let sink = Sink::start();
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 1)]);
    let mut batch = jobs(0..20, &[1]);
    for job in batch.iter_mut().step_by(2) {
        job.source = Arc::new(Unmakeable);
    }
    pool.pool.submit(batch);
    pool.until_finished(20);
    for id in 0..20 {
        match pool.result(id) {
            JobResult::Unrenderable(_) => assert_eq!(id % 2, 0),
            _ => assert!(id % 2 == 1 && pool.delivered(id)),
        }
    }
}

#[test]
fn a_capture_job_gives_the_message_and_needs_no_relay() {
    let mut pool = Harness::start(quick(), vec![]);
    let mut batch = jobs(0..200, &[]);
    for job in &mut batch {
        job.transport = Transport::Capture;
    }
    batch[1].source = Arc::new(Unmakeable);
    pool.pool.submit(batch);
    pool.until_finished(200);
    let JobResult::Captured(bytes) = pool.result(0) else {
        panic!("{:?}", pool.result(0))
    };
    assert!(String::from_utf8_lossy(bytes).contains("Subject: job 0\r\n"));
    assert!(matches!(pool.result(1), JobResult::Unrenderable(_)));
}

#[test]
fn a_connection_gone_stale_costs_no_attempt() {
    for politely in [false, true] {
        let sink = Sink::start();
        sink.does.close_after.store(1, SeqCst);
        sink.does.politely.store(politely, SeqCst);
        let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 1)]);
        for id in 0..3 {
            pool.pool.submit(vec![job(id, &[1])]);
            pool.until_finished(usize::try_from(id).unwrap() + 1);
            assert!(pool.delivered(id), "{:?}", pool.result(id));
        }
        assert_eq!(sink.seen.connections.load(SeqCst), 3);
        assert!(pool.downs.is_empty());
    }
}

#[test]
fn a_relay_that_closes_behind_a_chained_job_gets_it_again() {
    let sink = Sink::start();
    sink.does.close_after.store(2, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 1)]);
    pool.pool.submit(jobs(0..20, &[1]));
    pool.until_finished(20);
    let delivered = (0..20).filter(|id| pool.delivered(*id)).count();
    assert_eq!((delivered, sink.messages()), (20, 20), "{:?}", pool.downs);
}
