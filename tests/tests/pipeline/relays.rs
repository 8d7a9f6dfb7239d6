//! Relays that are down, several of them, and queues that do not hold up each other.

use std::time::Duration;

use pgmq_mail_tests::{Action, Cluster, Phase, Sink, free_port};

use crate::world::options;
use crate::{SOON, World};

#[test]
fn a_mail_waits_for_a_relay_that_is_down_and_goes_when_it_is_up() {
    let port = free_port();
    let mut world = World::new();
    world.relay("main", &format!("smtp://127.0.0.1:{port}"), &[]);
    let ids = world.put_many(5, "");
    world.ails("relay", "could not connect");
    world.until(
        "SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 2 AND state <> 'up')",
    );
    for id in &ids {
        world.waits(*id);
    }
    let sink = Sink::builder().port(port).start();
    for id in &ids {
        world.reaches(*id, "sent");
        assert_eq!(world.attempts(*id), 1, "{}", world.story(*id));
    }
    assert_eq!(sink.count(), 5);
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    let state: String = world.one("SELECT state FROM mail.relay_stats", &[]);
    assert_eq!(state, "up");
}

#[test]
fn the_second_tier_takes_over_while_the_first_is_down() {
    let port = free_port();
    let spare = Sink::start();
    let mut world = World::new();
    world.relay("spare", &spare.url(), &[("tier", "2")]);
    world.relay(
        "first",
        &format!("smtp://127.0.0.1:{port}"),
        &[("tier", "1")],
    );
    let ids = world.put_many(20, "");
    for id in ids {
        world.reaches(id, "sent");
        assert_eq!(world.attempts(id), 1, "{}", world.story(id));
    }
    assert_eq!(spare.count(), 20);
    world.ails("relay", "first");
    let first = Sink::builder().port(port).start();
    let mut sent = 20;
    pgmq_mail_tests::until("the first relay is used again", SOON, || {
        let id = world.put("alice@example.test", "which way", "");
        world.reaches(id, "sent");
        sent += 1;
        first.count() > 0
    });
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    world.put_many(20, "");
    world.idle("default");
    assert_eq!(first.count() + spare.count(), sent + 20);
    assert!(first.count() > 20, "{} of {sent}", first.count());
}

#[test]
fn a_queue_uses_only_the_relays_that_it_names_by_their_tiers() {
    let sinks = [Sink::start(), Sink::start(), Sink::start()];
    let mut world = World::new();
    for (n, sink) in sinks.iter().enumerate() {
        world.relay(
            &format!("relay{n}"),
            &sink.url(),
            &[("tier", &(n + 1).to_string())],
        );
    }
    world.queue("default", &[("relays", "{relay2,relay1}")]);
    let id = world.put("alice@example.test", "which way", "");
    world.reaches(id, "sent");
    assert_eq!(sinks.each_ref().map(Sink::count), [0, 1, 0]);
    world.run("UPDATE mail.relay SET enabled = false WHERE name = 'relay1'");
    let id = world.put("alice@example.test", "which way", "");
    world.reaches(id, "sent");
    assert_eq!(sinks.each_ref().map(Sink::count), [0, 1, 1]);
    world.run("UPDATE mail.relay SET enabled = false WHERE name = 'relay2'");
    let id = world.put("alice@example.test", "which way", "");
    world.ails("relays", "default");
    assert_eq!(world.state(id), "queued");
    world.run("UPDATE mail.queue SET relays = '{}' WHERE name = 'default'");
    world.reaches(id, "sent");
    assert_eq!(sinks.each_ref().map(Sink::count), [1, 1, 1]);
}

#[test]
fn a_mail_enqueued_before_there_is_a_relay_goes_when_there_is_one() {
    let mut world = World::new();
    let id = world.put("alice@example.test", "early", "");
    world.ails("relays", "no relay");
    assert_eq!(world.state(id), "queued");
    let sink = Sink::start();
    world.relay("main", &sink.url(), &[]);
    world.reaches(id, "sent");
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_relay_that_hangs_holds_up_no_other_queue() {
    for step in [Phase::Connect, Phase::Ehlo, Phase::Mail, Phase::Dot] {
        let stuck = Sink::scripted(move |event| {
            if event.phase == step {
                Action::Silence
            } else {
                Action::Accept
            }
        });
        let sink = Sink::start();
        let mut world = World::new();
        world.relay("stuck", &stuck.url(), &[]);
        world.relay("main", &sink.url(), &[]);
        world.queue("default", &[("relays", "{main}")]);
        world.queue("slow", &[("transport", "smtp"), ("relays", "{stuck}")]);
        world.queue("kept", &[("transport", "capture")]);
        world.put_many(2000, ", queue => 'slow'");
        pgmq_mail_tests::until("the relay is busy", SOON, || stuck.open() > 0);
        let count: i64 = world.one("SELECT count(*) FROM mail.captured", &[]);
        assert_eq!(count, 0);
        let ids = world.put_many(100, "");
        let kept = world.put_many(100, ", queue => 'kept'");
        for id in ids.iter().chain(&kept) {
            world.reaches(*id, "sent");
        }
        assert_eq!(sink.count(), 100);
        assert_eq!(
            world.one::<i64>("SELECT count(*) FROM mail.captured", &[]),
            100
        );
        assert_eq!(
            world.one::<i64>(
                "SELECT count(*) FROM mail.messages WHERE queue = 'slow' AND attempts = 0
                   AND state IN ('queued', 'sending')",
                &[]
            ),
            2000
        );
        stuck.clear_script();
    }
}

#[test]
fn what_is_captured_is_what_would_have_been_sent_and_does_not_leave() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.queue("kept", &[("transport", "capture")]);
    let id = world.put(
        "Alice <alice@example.test>, bob@example.test",
        "captured",
        ", queue => 'kept'",
    );
    world.reaches(id, "sent");
    let row = world
        .client
        .query_one(
            "SELECT recipients, sender, subject, mime, queue FROM mail.captured WHERE message_id = $1",
            &[&id],
        )
        .expect("it is there");
    let recipients: Vec<String> = row.get(0);
    assert_eq!(recipients, ["alice@example.test", "bob@example.test"]);
    assert_eq!(row.get::<_, &str>(1), "app@example.test");
    let mime: &str = row.get(3);
    let mail = crate::servers::parsed(mime);
    assert_eq!(
        (mail.subject(), row.get(2)),
        (Some("captured"), Some("captured"))
    );
    let text = mime.to_owned();
    let sent = world.put(
        "Alice <alice@example.test>, bob@example.test",
        "captured",
        "",
    );
    world.reaches(sent, "sent");
    let mails = sink.wait_for(1, SOON);
    // Line by line the same, but for what is each message's own.
    let own = |line: &&str| !line.starts_with("Date:") && !line.starts_with("Message-ID:");
    let there = mails[0].text();
    assert!(
        text.split("\r\n")
            .filter(own)
            .eq(there.split("\r\n").filter(own).map(|line| {
                if line.starts_with("From:") {
                    "From: app@example.test"
                } else {
                    line
                }
            })),
        "{text}\n{there}"
    );
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_paused_queue_sends_nothing_until_it_is_resumed() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.queue("other", &[("transport", "smtp")]);
    assert!(world.one::<bool>("SELECT mail.pause('default')", &[]));
    let waiting = world.put_many(10, "");
    let other = world.put("alice@example.test", "other", ", queue => 'other'");
    world.reaches(other, "sent");
    assert_eq!(sink.count(), 1);
    assert_eq!(world.state(waiting[0]), "queued");
    world.ails("paused", "10 messages wait");
    assert!(world.one::<bool>("SELECT mail.resume('default')", &[]));
    sink.wait_for(11, SOON);
}

#[test]
fn slow_relays_work_side_by_side() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::Accept.after(Duration::from_millis(200)),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.put_many(40, "");
    sink.wait_for(40, SOON);
    // One by one it would have been one connection.
    assert!(sink.most_open() >= 8, "{}", sink.most_open());
}

#[test]
fn a_relay_that_hangs_can_be_taken_out_of_service() {
    for change in [
        "DELETE FROM mail.relay WHERE name = 'stuck'",
        "UPDATE mail.relay SET enabled = false WHERE name = 'stuck'",
        "UPDATE mail.queue SET relays = '{spare}'; DELETE FROM mail.relay WHERE name = 'stuck'",
    ] {
        let stuck = Sink::scripted(|_| Action::Silence);
        let spare = Sink::start();
        let mut world = World::new();
        world.relay("stuck", &stuck.url(), &[]);
        world.relay("spare", &spare.url(), &[("tier", "2")]);
        let ids = world.put_many(50, "");
        pgmq_mail_tests::until("the relay is busy", SOON, || stuck.open() > 0);
        world.reaches(ids[0], "sending");
        world.run(change);
        for id in ids {
            world.reaches(id, "sent");
            assert_eq!(world.attempts(id), 1, "{}", world.story(id));
        }
        assert_eq!(spare.count(), 50);
    }
}

#[test]
fn a_relay_that_moves_gets_what_waited_for_it() {
    let stuck = Sink::scripted(|_| Action::Silence);
    let sink = Sink::start();
    let mut world = World::with(&stuck);
    let ids = world.put_many(50, "");
    pgmq_mail_tests::until("the relay is busy", SOON, || stuck.open() > 0);
    let change = "UPDATE mail.relay SET url = $1, name = 'moved'";
    world
        .client
        .execute(change, &[&sink.url()])
        .expect("it can move");
    for id in ids {
        world.reaches(id, "sent");
    }
    assert_eq!(sink.count(), 50);
    let relays: Vec<String> = world.all(
        "SELECT DISTINCT relay FROM mail.events WHERE kind = 'sent'",
        &[],
    );
    assert_eq!(relays, ["moved"]);
}

#[test]
fn a_server_that_holds_delivery_keeps_what_would_leave_and_nothing_else() {
    let sink = Sink::start();
    let cluster = Cluster::with(&options().setting("pgmq_mail.delivery", "hold"));
    let mut world = World::on(&cluster);
    world.relay("main", &sink.url(), &[]);
    world.queue("kept", &[("transport", "capture")]);
    let id = world.put("alice@example.test", "held", "");
    let kept = world.put("alice@example.test", "kept", ", queue => 'kept'");
    world.reaches(kept, "sent");
    world.ails("delivery", "hold");
    assert_eq!(
        (world.state(id).as_str(), sink.connections()),
        ("queued", 0)
    );
    world.run("ALTER SYSTEM SET pgmq_mail.delivery = 'on'");
    world.run("SELECT pg_reload_conf()");
    world.reaches(id, "sent");
    world.run("ALTER SYSTEM SET pgmq_mail.delivery = 'hold'");
    world.run("SELECT pg_reload_conf()");
    world.ails("delivery", "hold");
    let id = world.put("alice@example.test", "held", "");
    let kept = world.put("alice@example.test", "kept", ", queue => 'kept'");
    world.reaches(kept, "sent");
    assert_eq!((world.state(id).as_str(), sink.count()), ("queued", 1));
}

#[test]
fn a_host_whose_name_is_not_qualified_greets_with_its_address() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("this is Linux");
    let expected = match host.trim() {
        name if name.contains('.') => format!("EHLO {name}"),
        _ => "EHLO [127.0.0.1]".to_owned(),
    };
    let heard = |world: &mut World<'_>| -> Vec<String> {
        let query = "SELECT text FROM mail.test_relay('main') WHERE text LIKE 'EHLO %'";
        world.all(query, &[])
    };
    assert_eq!(heard(&mut world), [expected.as_str()]);
    // One that is configured is given as it is.
    world.run("UPDATE mail.relay SET helo_name = 'app'");
    assert_eq!(heard(&mut world), ["EHLO app"]);
    world.run("UPDATE mail.relay SET helo_name = NULL");
    let id = world.put("alice@example.test", "greeted", "");
    world.reaches(id, "sent");
    let greetings = sink.commands();
    let same = greetings.iter().filter(|(_, line)| *line == expected);
    assert_eq!(same.count(), 2);
}
