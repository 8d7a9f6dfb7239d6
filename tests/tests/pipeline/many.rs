//! Many mails at once: each arrives, and only once.

use std::collections::HashSet;
use std::sync::Mutex;

use pgmq_mail_tests::{Event, Phase, Sink};

use crate::on_real_servers;
use crate::servers::{Server, parsed};
use crate::{SOON, World};

on_real_servers! {
    five_hundred_mails_of_four_sessions_arrive_once_each
}

fn five_hundred_mails_of_four_sessions_arrive_once_each(server: &Server) {
    let mut world = server.world();
    let tag = world.database.name().to_owned();
    std::thread::scope(|scope| {
        for session in 0..4 {
            let mut client = world.database.connect();
            let tag = &tag;
            scope.spawn(move || {
                for n in 0..125 {
                    let subject = format!("{tag} is {session}-{n}");
                    client
                        .execute(
                            "SELECT mail.enqueue('carol@example.test', $1, 'hello')",
                            &[&subject],
                        )
                        .expect("it can be enqueued");
                }
            });
        }
    });
    world.idle("default");
    let mails = server.wait_for("carol", &format!("Subject: {tag} is "), 500);
    let arrived: HashSet<String> = mails
        .iter()
        .map(|mail| parsed(mail).message_id().expect("Message-ID").to_owned())
        .collect();
    assert_eq!((mails.len(), arrived.len()), (500, 500));
    let sent: Vec<String> = world.all(
        "SELECT btrim(message_id, '<>') FROM mail.messages WHERE state = 'sent' AND attempts = 1",
        &[],
    );
    assert_eq!(sent.into_iter().collect::<HashSet<_>>(), arrived);
    assert_eq!(
        world.one::<i64>("SELECT count(*) FROM mail.events", &[]),
        500
    );
}

#[test]
fn a_thousand_mails_share_four_connections_that_end_after_fifty_each() {
    let sink = Sink::start();
    let mut world = World::new();
    let columns = [
        ("max_connections", "4"),
        ("max_messages_per_connection", "50"),
    ];
    world.relay("main", &sink.url(), &columns);
    world.put_many(1000, "");
    let mails = sink.wait_for(1000, SOON);
    world.idle("default");
    let subjects: HashSet<String> = mails
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    assert_eq!((subjects.len(), sink.count()), (1000, 1000));
    let (mut open, mut most) = (0, 0);
    for (_, command) in sink.commands() {
        open += usize::from(command.starts_with("EHLO"));
        most = most.max(open);
        open -= usize::from(command == "QUIT");
    }
    assert!(most <= 4, "{most} connections at once");
    assert!(
        sink.connections() >= 20,
        "{} connections",
        sink.connections()
    );
    for connection in 0..sink.connections() {
        let carried = mails
            .iter()
            .filter(|mail| mail.connection == connection)
            .count();
        assert!(carried <= 50, "{carried} mails over one connection");
    }
    // Those that are full say goodbye; others may still wait for more.
    pgmq_mail_tests::until("connections that are full end", SOON, || {
        let commands = sink.commands();
        commands.iter().filter(|(_, line)| line == "QUIT").count() >= sink.connections() - 4
    });
    assert_eq!(
        world.one::<i64>(
            "SELECT count(*) FROM mail.messages WHERE state = 'sent' AND attempts = 1",
            &[]
        ),
        1000
    );
}

#[test]
fn mails_that_come_while_others_are_in_flight_arrive_once_each() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    std::thread::scope(|scope| {
        for session in 0..3 {
            let mut client = world.database.connect();
            scope.spawn(move || {
                let statement = client
                    .prepare("SELECT mail.enqueue('a@example.test', $1, 'hello', priority => $2)")
                    .expect("sound");
                for n in 0..700 {
                    client
                        .execute(&statement, &[&format!("{session}-{n}"), &(n % 3)])
                        .expect("it can be enqueued");
                }
            });
        }
    });
    let mails = sink.wait_for(2100, SOON);
    world.idle("default");
    let subjects: HashSet<String> = mails
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    assert_eq!((subjects.len(), sink.count()), (2100, 2100));
    assert_eq!(
        world.one::<i64>(
            "SELECT count(*) FROM mail.messages WHERE state = 'sent'",
            &[]
        ),
        2100
    );
}

#[test]
fn every_mail_is_sent_once_though_every_tenth_is_put_off_and_every_seventh_refused() {
    static PUT_OFF: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let sink = Sink::scripted(|event: &Event<'_>| {
        let number: u32 = match event.phase {
            Phase::Rcpt => event
                .address()
                .split('@')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(1),
            _ => 1,
        };
        let mut seen = PUT_OFF.lock().expect("nobody panics");
        if number.is_multiple_of(7) {
            pgmq_mail_tests::Action::reply("550 5.1.1 No")
        } else if number.is_multiple_of(10)
            && seen
                .get_or_insert_default()
                .insert(event.address().to_owned())
        {
            pgmq_mail_tests::Action::reply("451 4.2.0 Later")
        } else {
            pgmq_mail_tests::Action::Accept
        }
    });
    let mut world = World::with(&sink);
    world.put_many(700, "");
    let mails = sink.wait_for(600, SOON);
    world.until(
        "SELECT NOT EXISTS (SELECT FROM mail.messages WHERE state NOT IN ('sent', 'failed'))",
    );
    assert_eq!((mails.len(), sink.count()), (600, 600));
    let subjects: HashSet<String> = mails
        .iter()
        .filter_map(|mail| mail.header("Subject"))
        .collect();
    assert_eq!(subjects.len(), 600);
    let states: Vec<String> = world.all(
        "SELECT state || ' ' || attempts || ' ' || count(*) FROM mail.messages GROUP BY state, attempts ORDER BY 1",
        &[],
    );
    assert_eq!(states, ["failed 1 100", "sent 1 540", "sent 2 60"]);
}
