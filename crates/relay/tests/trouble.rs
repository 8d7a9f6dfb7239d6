//! Relays in trouble: failover, suspension, probing, shrinking, changes of configuration.

mod common;

use std::{net::TcpListener, sync::atomic::Ordering::SeqCst, time::Duration};

use common::{Harness, dead_port, job, jobs, only, quick, relay, sink::Sink, slow};

#[test]
fn a_dead_relay_is_suspended_once_and_its_jobs_go_to_the_next() {
    let sink = Sink::start();
    let relays = vec![relay(1, dead_port(), 4), relay(2, sink.port, 4)];
    let mut pool = Harness::start(slow(), relays);
    pool.pool.submit(jobs(0..50, &[1, 2]));
    pool.until_finished(50);
    assert!((0..50).all(|id| pool.delivered(id) && pool.finished[&id].relay == Some(2)));
    assert_eq!(pool.downs.len(), 1);
    pool.pool
        .submit(vec![job(50, &[1]), job(51, &[2, 1]), job(52, &[9])]);
    pool.until_finished(53);
    assert!(
        pool.returned(50)
            .starts_with("relay \"r1\" is suspended: could not connect")
    );
    assert!(pool.delivered(51));
    assert_eq!(pool.returned(52), "none of its relays is configured");
}

#[test]
fn without_another_relay_the_one_tried_was_not_tried_and_the_others_come_back() {
    let mut pool = Harness::start(slow(), vec![relay(1, dead_port(), 1)]);
    pool.pool.submit(jobs(0..5, &[1]));
    pool.until_finished(5);
    assert!(pool.not_tried(0));
    assert_eq!(pool.finished[&0].relay, Some(1));
    for id in 1..5 {
        assert!(
            pool.returned(id).starts_with("relay \"r1\" is suspended"),
            "{:?}",
            pool.result(id)
        );
    }
    let pause = pool.downs[0].1;
    assert!((48..=72).contains(&pause.as_secs()), "{pause:?}");
}

#[test]
fn after_the_pause_one_connection_probes_until_it_delivers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sink = Sink::on(listener);
    sink.does.refuse.store(true, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, port, 4)]);
    let mut id = 0;
    // Each failed probe makes the pause longer.
    while pool.downs.len() < 3 {
        let before = pool.finished.len();
        pool.pool.submit(vec![job(id, &[1])]);
        id += 1;
        pool.until_finished(before + 1);
    }
    let pauses: Vec<_> = pool.downs.iter().map(|down| down.1.as_millis()).collect();
    assert!((80..=120).contains(&pauses[0]), "{pauses:?}");
    assert!((160..=240).contains(&pauses[1]), "{pauses:?}");
    assert!((320..=480).contains(&pauses[2]), "{pauses:?}");
    assert!(pool.ups.is_empty());
    sink.does.refuse.store(false, SeqCst);
    sink.does.hang_at_mail.store(true, SeqCst);
    let probed = || sink.seen.connections.load(SeqCst) == 1;
    while !probed() {
        let before = pool.finished.len();
        pool.pool.submit(jobs(id..id + 40, &[1]));
        id += 40;
        pool.until("they come back, or one is tried", |pool| {
            probed() || pool.finished.len() == before + 40
        });
    }
    let (rest, _) = pool.stop(Duration::ZERO);
    assert_eq!(sink.seen.most_open.load(SeqCst), 1, "one probe only");
    assert_eq!(rest.finished.len(), usize::try_from(id).unwrap());
}

#[test]
fn a_relay_that_answers_again_is_up_and_grows_back() {
    let sink = Sink::start();
    sink.does.refuse.store(true, SeqCst);
    sink.does.delay.store(2, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 4)]);
    pool.pool.submit(vec![job(0, &[1])]);
    pool.until("the relay goes down", |h| h.downs.len() == 1);
    sink.does.refuse.store(false, SeqCst);
    let mut id = 0;
    while pool.ups.is_empty() {
        id += 1;
        pool.pool.submit(vec![job(id, &[1])]);
        pool.until_finished(usize::try_from(id).unwrap() + 1);
    }
    assert!(pool.delivered(id));
    pool.pool.submit(jobs(id + 1..id + 101, &[1]));
    pool.until_finished(usize::try_from(id).unwrap() + 101);
    assert!((id + 1..id + 101).all(|id| pool.delivered(id)));
    // All but the one that is left for other domains.
    assert_eq!(sink.seen.most_open.load(SeqCst), 3);
    assert_eq!(pool.downs.len(), 1);
}

#[test]
fn a_relay_with_room_for_two_gets_two_and_loses_nothing() {
    let sink = Sink::start();
    sink.does.max_open.store(2, SeqCst);
    sink.does.delay.store(1, SeqCst);
    let mut pool = Harness::start(slow(), vec![relay(1, sink.port, 8)]);
    pool.pool.submit(jobs(0..300, &[1]));
    pool.until_finished(300);
    assert!((0..300).all(|id| pool.delivered(id)));
    assert!(pool.downs.is_empty());
    let refused = sink.seen.refused.load(SeqCst);
    // The first eight, and then once for each ten that were delivered at most.
    assert!((1..=6 + 30).contains(&refused), "{refused} refused");
}

#[test]
fn a_421_in_the_middle_moves_to_another_connection() {
    let sink = Sink::start();
    sink.does.close_after.store(5, SeqCst);
    sink.does.politely.store(true, SeqCst);
    sink.does.delay.store(1, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 3)]);
    pool.pool.submit(jobs(0..12, &[1]));
    pool.until_finished(12);
    let (mut delivered, mut back) = (0, 0);
    for id in 0..12 {
        if pool.delivered(id) {
            delivered += 1;
        } else {
            assert!(pool.not_tried(id) || !pool.returned(id).is_empty());
            back += 1;
        }
    }
    assert_eq!((delivered + back, delivered), (12, sink.messages()));
}

#[test]
fn a_removed_relay_returns_what_waits_and_finishes_what_is_in_flight() {
    let sink = Sink::start();
    sink.does.delay.store(300, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 1)]);
    pool.pool.submit(jobs(0..10, &[1]));
    sink.wait("the first body", |seen| seen.bodies.load(SeqCst) == 1);
    pool.pool.configure(only(vec![]));
    pool.until_finished(10);
    assert!(pool.delivered(0));
    assert!(pool.delivered(1), "its commands were already written");
    assert!((2..10).all(|id| pool.returned(id) == "relay \"r1\" was removed"));
    pool.pool.submit(vec![job(10, &[1])]);
    pool.until_finished(11);
    assert_eq!(pool.returned(10), "none of its relays is configured");
}

#[test]
fn a_changed_relay_reconnects_and_an_unchanged_one_does_not() {
    let (old, new, same) = (Sink::start(), Sink::start(), Sink::start());
    let mut pool = Harness::start(quick(), vec![relay(1, old.port, 2), relay(2, same.port, 2)]);
    pool.pool.submit(vec![job(0, &[1]), job(1, &[2])]);
    pool.until_finished(2);
    pool.pool
        .configure(only(vec![relay(1, new.port, 2), relay(2, same.port, 2)]));
    pool.pool.submit(vec![job(2, &[1]), job(3, &[2])]);
    pool.until_finished(4);
    assert!((0..4).all(|id| pool.delivered(id)));
    assert_eq!((old.messages(), new.messages(), same.messages()), (1, 1, 2));
    assert_eq!(same.seen.connections.load(SeqCst), 1);
    old.wait("QUIT", |seen| seen.quits.load(SeqCst) == 1);
}

#[test]
fn jobs_that_wait_for_a_hanging_connect_move_with_the_change_of_address() {
    let (hanging, working) = (Sink::start(), Sink::start());
    hanging.does.hang_at_greeting.store(true, SeqCst);
    let mut pool = Harness::start(quick(), vec![relay(1, hanging.port, 8)]);
    pool.pool.submit(jobs(0..10, &[1]));
    hanging.wait("its connections", |seen| seen.open.load(SeqCst) == 3);
    pool.pool.configure(only(vec![relay(1, working.port, 2)]));
    pool.until_finished(10);
    assert!((0..10).all(|id| pool.delivered(id)));
    hanging.wait("they are called off", |seen| {
        seen.connections.load(SeqCst) == 0
    });
}
