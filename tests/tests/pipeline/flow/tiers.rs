//! Which relay a mail goes by.

use pgmq_mail_tests::{Action, Phase, Sink, free_port};

use super::{all_sent, all_sent_at_once, copies, put_to, ways};
use crate::{SOON, World};

fn at(port: u16) -> String {
    format!("smtp://127.0.0.1:{port}")
}

#[test]
fn mail_goes_by_the_lowest_tier_that_is_up_and_comes_back_to_it() {
    let ports = [free_port(), free_port()];
    let third = Sink::start();
    let mut world = World::new();
    world.relay("first", &at(ports[0]), &[("tier", "1")]);
    world.relay("second", &at(ports[1]), &[("tier", "2")]);
    world.relay("third", &third.url(), &[("tier", "3")]);
    let ids = world.put_many(40, "");
    all_sent_at_once(&mut world, &ids);
    assert_eq!(third.count(), 40);
    world.ails("relay", "\"first\" has been down");
    world.ails("relay", "\"second\" has been down");

    let second = Sink::builder().port(ports[1]).start();
    returns(&mut world, "second", &second);
    let ids = put_to(&mut world, "back.test", 40, "");
    all_sent_at_once(&mut world, &ids);
    let to_back = |sink: &Sink| {
        let all = copies(sink);
        all.iter().filter(|to| to.ends_with("@back.test")).count()
    };
    assert_eq!((to_back(&second), to_back(&third)), (40, 0));

    let first = Sink::builder().port(ports[0]).start();
    returns(&mut world, "first", &first);
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    let before = (second.count(), third.count());
    let ids = put_to(&mut world, "back.test", 40, "");
    all_sent_at_once(&mut world, &ids);
    assert_eq!(to_back(&first), 40);
    assert_eq!((second.count(), third.count()), before);
}

/// Sends mail until a relay that was down gets some, and is known to be up.
#[track_caller]
fn returns(world: &mut World<'_>, relay: &str, sink: &Sink) {
    pgmq_mail_tests::until("the relay is used again", SOON, || {
        let id = world.put("alice@example.test", "which way", "");
        world.reaches(id, "sent");
        sink.count() > 0
    });
    let state = format!("SELECT state = 'up' FROM mail.relay_stats WHERE relay = '{relay}'");
    world.until(&state);
}

#[test]
fn relays_of_a_tier_share_its_mail_by_weight_and_weight_0_gets_some_when_the_others_are_down() {
    let [three, one, none, next] = [Sink::start(), Sink::start(), Sink::start(), Sink::start()];
    let mut world = World::new();
    world.relay("three", &three.url(), &[("weight", "3")]);
    world.relay("one", &one.url(), &[("weight", "1")]);
    world.relay("none", &none.url(), &[("weight", "0")]);
    world.relay("next", &next.url(), &[("tier", "2")]);
    let ids = world.put_many(80, "");
    all_sent_at_once(&mut world, &ids);
    let counts = [three.count(), one.count(), none.count(), next.count()];
    assert_eq!(counts, [60, 20, 0, 0]);

    drop((three, one));
    let ids = world.put_many(40, "");
    all_sent_at_once(&mut world, &ids);
    assert_eq!([none.count(), next.count()], [40, 0]);
    drop(none);
    let ids = world.put_many(40, "");
    all_sent_at_once(&mut world, &ids);
    assert_eq!(next.count(), 40);
}

#[test]
fn a_relay_that_names_domains_serves_these_and_they_go_nowhere_else() {
    let [any, ours, theirs] = [Sink::start(), Sink::start(), Sink::start()];
    let mut world = World::new();
    world.relay("any", &any.url(), &[("tier", "1")]);
    let columns = [("tier", "2"), ("sender_domains", "{ours.test}")];
    world.relay("ours", &ours.url(), &columns);
    let columns = [("tier", "3"), ("recipient_domains", "{.theirs.test}")];
    world.relay("theirs", &theirs.url(), &columns);
    let from_us = ", sender => 'app@ours.test'";
    let mut ids = put_to(&mut world, "any.test", 20, "");
    ids.extend(put_to(&mut world, "any.test", 20, from_us));
    for domain in ["theirs.test", "deep.sub.theirs.test", "THEIRS.test"] {
        ids.extend(put_to(&mut world, domain, 10, ""));
    }
    ids.extend(put_to(&mut world, "nottheirs.test", 10, ""));
    all_sent_at_once(&mut world, &ids);
    assert_eq!(
        [any.count(), ours.count(), theirs.count()],
        [30, 20, 30],
        "{:#?}",
        [copies(&any), copies(&ours), copies(&theirs)]
    );

    // While theirs is down their mail waits, and all other mail goes.
    let port = theirs.port();
    drop(theirs);
    let waiting = put_to(&mut world, "theirs.test", 10, "");
    let going = put_to(&mut world, "any.test", 10, "");
    let going_from_us = put_to(&mut world, "any.test", 10, from_us);
    all_sent_at_once(&mut world, &going);
    all_sent_at_once(&mut world, &going_from_us);
    world.ails("relay", "\"theirs\" has been down");
    for id in &waiting {
        world.waits(*id);
    }
    let theirs = Sink::builder().port(port).start();
    all_sent_at_once(&mut world, &waiting);
    assert_eq!([any.count(), ours.count(), theirs.count()], [40, 30, 10]);
}

#[test]
fn mail_that_no_relay_serves_is_a_finding_until_one_does() {
    let sink = Sink::start();
    let mut world = World::new();
    let columns = [("recipient_domains", "{theirs.test}")];
    world.relay("theirs", &sink.url(), &columns);
    let ids = put_to(&mut world, "any.test", 3, "");
    world.ails(
        "relays",
        "3 messages in queue \"default\" wait: no relay of its queue serves any.test",
    );
    world.run("UPDATE mail.relay SET recipient_domains = '{}'");
    all_sent_at_once(&mut world, &ids);
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
}

#[test]
fn a_mail_to_two_domains_with_relays_of_their_own_is_one_message_in_one_attempt() {
    let [any, theirs] = [Sink::start(), Sink::start()];
    let mut world = World::new();
    world.relay("any", &any.url(), &[]);
    let columns = [("recipient_domains", "{.theirs.test}")];
    world.relay("theirs", &theirs.url(), &columns);
    let to = "a@one.test, b@theirs.test, c@two.test, d@sub.theirs.test";
    let id = world.put(to, "both", "");
    world.reaches(id, "sent");
    assert_eq!(world.attempts(id), 1);
    assert_eq!(world.kinds(id), ["sent"; 4], "{}", world.story(id));
    let expected = [
        "a@one.test by any",
        "b@theirs.test by theirs",
        "c@two.test by any",
        "d@sub.theirs.test by theirs",
    ];
    assert_eq!(ways(&mut world, id), expected);
    let attempts: Vec<i32> = world.all(
        "SELECT DISTINCT attempt FROM mail.events WHERE message_id = $1",
        &[&id],
    );
    assert_eq!(attempts, [1]);
    assert_eq!(copies(&any), ["a@one.test", "c@two.test"]);
    assert_eq!(copies(&theirs), ["b@theirs.test", "d@sub.theirs.test"]);
    let mails = [any.mails(), theirs.mails()];
    assert_eq!(mails.each_ref().map(Vec::len), [1, 1]);
    let ids = mails.each_ref().map(|mails| mails[0].header("Message-ID"));
    assert!(ids[0].is_some() && ids[0] == ids[1], "{ids:?}");
}

#[test]
fn of_a_mail_to_two_domains_the_part_whose_relay_is_down_waits_alone_and_without_an_attempt() {
    let any = Sink::start();
    let port = free_port();
    let mut world = World::new();
    world.relay("any", &any.url(), &[]);
    let columns = [("recipient_domains", "{theirs.test}")];
    world.relay("theirs", &at(port), &columns);
    let id = world.put("a@one.test, b@theirs.test", "both", "");
    any.wait_for(1, SOON);
    world.ails("relay", "\"theirs\" has been down");
    world.until(&format!(
        "SELECT count(*) = 1 FROM mail.events WHERE message_id = {id} AND kind = 'sent'"
    ));
    world.waits(id);
    let theirs = Sink::builder().port(port).start();
    world.reaches(id, "sent");
    assert_eq!(world.attempts(id), 1, "{}", world.story(id));
    let expected = ["a@one.test by any", "b@theirs.test by theirs"];
    assert_eq!(ways(&mut world, id), expected);
    assert_eq!(copies(&any), ["a@one.test"]);
    assert_eq!(copies(&theirs), ["b@theirs.test"]);
}

#[test]
fn messages_wait_while_all_relays_of_a_queue_are_down_and_go_when_one_is_up() {
    let ports = [free_port(), free_port()];
    let other = Sink::start();
    let mut world = World::new();
    world.relay("first", &at(ports[0]), &[("tier", "1")]);
    world.relay("second", &at(ports[1]), &[("tier", "2")]);
    world.relay("other", &other.url(), &[]);
    world.queue("default", &[("relays", "{first,second}")]);
    world.queue("fine", &[("transport", "smtp"), ("relays", "{other}")]);
    let ids = world.put_many(60, "");
    world.ails("relays", "all relays of queue \"default\" are down");
    let severe: Vec<String> = world.all(
        "SELECT concat_ws(' ', severity, detail) FROM mail.health() WHERE \"check\" = 'relays'",
        &[],
    );
    let expected = "critical all relays of queue \"default\" are down: its messages wait";
    assert_eq!(severe, [expected]);
    // It goes on so, whatever is tried meanwhile.
    world.until("SELECT min(failures) >= 2 FROM mail.relay_stats WHERE relay <> 'other'");
    for id in &ids {
        world.waits(*id);
    }
    let fine = world.put_many(20, ", queue => 'fine'");
    all_sent_at_once(&mut world, &fine);

    let sinks = ports.map(|port| Sink::builder().port(port).start());
    all_sent(&mut world, &ids);
    all_sent_at_once(&mut world, &ids);
    let mut got = [copies(&sinks[0]), copies(&sinks[1])].concat();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 60);
    assert_eq!(sinks.each_ref().map(Sink::count).iter().sum::<usize>(), 60);
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health() WHERE \"check\" = 'relays')");
}

#[test]
fn a_relay_that_hangs_up_in_the_middle_is_passed_over_and_costs_nobody_an_attempt() {
    for phase in [Phase::Mail, Phase::Rcpt, Phase::Data] {
        let bad = Sink::scripted(move |event| {
            if event.phase == phase {
                Action::Drop
            } else {
                Action::Accept
            }
        });
        let good = Sink::start();
        let mut world = World::new();
        world.relay("bad", &bad.url(), &[("tier", "1")]);
        world.relay("good", &good.url(), &[("tier", "2")]);
        world.queue("default", &[("max_attempts", "1")]);
        let ids = world.put_many(40, "");
        all_sent_at_once(&mut world, &ids);
        assert_eq!(good.count(), 40, "{phase:?}");
        world.ails("relay", "\"bad\" has been down");
    }
}

#[test]
fn mail_that_is_too_large_for_one_relay_goes_by_another_of_its_queue() {
    let small = Sink::builder().extensions(&["SIZE 500"]).start();
    let large = Sink::start();
    let mut world = World::new();
    world.relay("small", &small.url(), &[]);
    world.relay("large", &large.url(), &[]);
    let ids: Vec<i64> = world.all(
        "SELECT mail.enqueue('a@example.test', n::text, repeat('x', 2000)) FROM generate_series(1, 10) AS n",
        &[],
    );
    all_sent_at_once(&mut world, &ids);
    assert_eq!((small.count(), large.count()), (0, 10));
    // It has nowhere else to go.
    world.run("DELETE FROM mail.relay WHERE name = 'large'");
    let id: i64 = world.one(
        "SELECT mail.enqueue('a@example.test', 'large', repeat('x', 2000))",
        &[],
    );
    world.reaches(id, "failed");
    let status: String = world.one(
        "SELECT last_status FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(status, "5.3.4");
}
