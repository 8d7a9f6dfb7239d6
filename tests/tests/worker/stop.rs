//! A stop in bounded time, whatever the relay does; nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pgmq_mail_tests::{
    Action, Cluster, ClusterOptions, Phase, SOON, Sink, one, reaches, run_sql, state, until,
};

use crate::{delivering, put};

const IN_TIME: Duration = Duration::from_secs(3);

struct Stopped {
    cluster: Cluster,
    sink: Sink,
    many: Vec<i64>,
    /// Messages of a queue that holds what is uncertain.
    once: Vec<i64>,
    /// How many connections hung.
    hanging: usize,
}

/// Stops the server while messages are in flight to a relay that hangs at that step, starts it again with the relay
/// well.
fn stopped_while_it_hangs(phase: Phase) -> Stopped {
    let hanging = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&hanging);
    let sink = Sink::scripted(move |event| {
        if event.phase == phase {
            counter.fetch_add(1, SeqCst);
            return Action::Silence;
        }
        Action::Accept
    });
    let mut cluster = Cluster::with(&ClusterOptions::new());
    let mut client = cluster.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    delivering(&mut client, &sink);
    run_sql(
        &mut client,
        "INSERT INTO mail.queue (name, transport, default_sender, on_uncertain) VALUES ('once', 'smtp', 'a@b.test', 'hold')",
    );
    let many: Vec<i64> = (0..5)
        .map(|n| put(&mut client, &format!("out {n}"), ", queue => 'out'"))
        .collect();
    let once: Vec<i64> = (0..2)
        .map(|n| put(&mut client, &format!("once {n}"), ", queue => 'once'"))
        .collect();
    until("all are in flight", SOON, || {
        one(
            &mut client,
            "SELECT coalesce(sum(in_flight), 0) = 7 FROM mail.workers",
            &[],
        )
    });
    until("the relay hangs", SOON, || hanging.load(SeqCst) > 0);
    drop(client);
    let took = cluster.stop_within(pgmq_mail_tests::Stop::Fast, Cluster::PATIENCE);
    assert!(took < IN_TIME, "{took:.1?}\n{}", cluster.log_tail());
    sink.drop_connections();
    sink.clear_script();
    cluster.resume();
    Stopped {
        cluster,
        sink,
        many,
        once,
        hanging: hanging.load(SeqCst),
    }
}

#[test]
fn a_relay_that_never_greets() {
    let Stopped {
        cluster,
        sink,
        many,
        once,
        ..
    } = stopped_while_it_hangs(Phase::Connect);
    let mut client = cluster.connect("postgres");
    for id in many.iter().chain(&once) {
        reaches(&mut client, *id, "sent");
        let attempts: i32 = one(
            &mut client,
            "SELECT attempts FROM mail.messages WHERE id = $1",
            &[id],
        );
        assert_eq!(attempts, 1, "the stop counted none");
    }
    assert_eq!(sink.count(), 7);
}

#[test]
fn a_relay_that_is_silent_in_the_middle() {
    let Stopped {
        cluster,
        sink,
        many,
        once,
        ..
    } = stopped_while_it_hangs(Phase::Data);
    let mut client = cluster.connect("postgres");
    for id in many.iter().chain(&once) {
        reaches(&mut client, *id, "sent");
    }
    assert_eq!(sink.count(), 7, "nothing had been accepted before");
}

#[test]
fn a_relay_that_is_silent_after_the_dot() {
    let Stopped {
        cluster,
        sink,
        many,
        once,
        hanging,
    } = stopped_while_it_hangs(Phase::Dot);
    let mut client = cluster.connect("postgres");
    for id in &many {
        reaches(&mut client, *id, "sent");
    }
    until("nothing is pending", SOON, || {
        one(&mut client, "SELECT count(*) = 0 FROM mail.pending", &[])
    });
    let held = once
        .iter()
        .filter(|id| state(&mut client, **id) == "uncertain")
        .count();
    let retried: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.events WHERE kind = 'uncertain'",
        &[],
    );
    assert_eq!(
        held + retried as usize,
        hanging,
        "what may have been accepted is said to be uncertain"
    );
    let interrupted: i64 = one(
        &mut client,
        "SELECT count(*) FROM mail.events WHERE kind = 'interrupted'",
        &[],
    );
    assert_eq!(interrupted, 0);
    assert_eq!(sink.count(), 7 - held, "what is held was not sent again");
    let attempts: i64 = one(&mut client, "SELECT sum(attempts) FROM mail.messages", &[]);
    assert_eq!(
        attempts as usize,
        7 + retried as usize,
        "what only waited for the relay has one attempt"
    );
}
