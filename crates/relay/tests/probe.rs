//! A relay tried on a person's behalf: told what happened, ended when it is not wanted any longer.

mod common;

use std::{
    sync::{atomic::Ordering::SeqCst, mpsc},
    time::{Duration, Instant},
};

use common::{PATIENCE, dead_port, relay, sink::Sink};
use mail_relay::Probe;
use mail_smtp::{Message, Who};

fn message(to: &[&str]) -> Message {
    Message {
        from: "s@example.com".to_owned(),
        to: to.iter().map(|&to| to.to_owned()).collect(),
        data: b"Subject: a test\r\n\r\nhello\r\n".to_vec().into(),
        ..Message::default()
    }
}

fn start(port: u16, message: Option<Message>) -> (Probe, mpsc::Receiver<()>) {
    let (done, over) = mpsc::channel();
    let endpoint = relay(1, port, 1).endpoint;
    let ring = move || {
        // Nobody listens where the trial was given up.
        let _ = done.send(());
    };
    let probe = Probe::start(endpoint, message, ring).unwrap();
    (probe, over)
}

/// The conversation in short: who spoke, and what.
fn conversation(port: u16, message: Option<Message>) -> Vec<String> {
    let (probe, over) = start(port, message);
    over.recv_timeout(PATIENCE).unwrap();
    let lines = probe.conversation().unwrap();
    assert!(lines.is_sorted_by_key(|line| line.elapsed), "{lines:?}");
    assert_eq!(lines.last().unwrap().who, Who::Note);
    lines.iter().map(ToString::to_string).collect()
}

#[test]
fn without_a_message_nothing_is_sent() {
    let sink = Sink::start();
    let told = conversation(sink.port, None);
    assert!(
        told.contains(&"C: EHLO test.example".to_owned()),
        "{told:?}"
    );
    assert!(told.contains(&"C: QUIT".to_owned()), "{told:?}");
    assert!(!told.iter().any(|line| line.starts_with("C: MAIL")));
    assert!(
        told.last()
            .unwrap()
            .starts_with("-- the relay takes mail, as far as")
    );
    assert_eq!((sink.messages(), sink.seen.quits.load(SeqCst)), (0, 1));
}

#[test]
fn every_recipient_gets_a_word() {
    let sink = Sink::start();
    sink.does
        .answer("RCPT TO:<gone@", Some("550 5.1.1 No such user\r\n"));
    let told = conversation(
        sink.port,
        Some(message(&["a@example.org", "gone@example.org"])),
    );
    let [.., first, second, last] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(
        first.starts_with("-- a@example.org: accepted (250"),
        "{told:?}"
    );
    assert_eq!(
        second,
        "-- gone@example.org: refused (550 5.1.1 No such user)"
    );
    assert_eq!(
        last,
        "-- the relay takes mail, but not for all of these recipients"
    );
    assert_eq!(sink.messages(), 1);
    let told = conversation(sink.port, Some(message(&["gone@example.org"])));
    assert_eq!(
        told.last().unwrap(),
        "-- the relay did not accept the message"
    );
    let told = conversation(sink.port, Some(message(&["a@example.org"])));
    assert_eq!(told.last().unwrap(), "-- the relay takes mail");
}

#[test]
fn a_fault_is_the_last_word_and_said_once() {
    let port = dead_port();
    let told = conversation(port, None);
    let last = told.last().unwrap();
    assert!(
        last.starts_with(&format!("-- could not connect to 127.0.0.1:{port}: ")),
        "{told:?}"
    );
    assert_eq!(told.iter().filter(|line| *line == last).count(), 1);
    let sink = Sink::start();
    sink.does.refuse.store(true, SeqCst);
    let told = conversation(sink.port, Some(message(&["a@example.org"])));
    assert!(told.last().unwrap().contains("421"), "{told:?}");
}

#[test]
fn one_that_hangs_ends_when_it_is_dropped() {
    let sink = Sink::start();
    sink.does.hang_at_dot.store(true, SeqCst);
    let (probe, over) = start(sink.port, Some(message(&["a@example.org"])));
    sink.wait("the text", |seen| seen.bodies.load(SeqCst) == 1);
    assert!(probe.conversation().is_none());
    let began = Instant::now();
    drop(probe);
    assert!(began.elapsed() < Duration::from_millis(450));
    over.recv_timeout(Duration::ZERO)
        .expect("the thread has ended");
}
