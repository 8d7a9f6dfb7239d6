//! Messages that come back untried in the very turn in which the worker claims others of their lane.

use pgmq_mail_tests::{Action, Gate, Phase, SOON, Sink, one, reaches, run_sql, until};

use crate::{Stalled, pass, put, served};

/// The queue `out` with two relays, of which the first is used, over one connection.
fn two_relays(client: &mut postgres::Client, first: &Sink, second: &Sink) {
    run_sql(
        client,
        &format!(
            "INSERT INTO mail.relay (name, url, max_connections) VALUES ('first', '{}', 1), ('second', '{}', 1);
             INSERT INTO mail.queue (name, transport, default_sender) VALUES ('out', 'smtp', 'app@example.test')",
            first.url(),
            second.url()
        ),
    );
    pass(client, "");
}

#[test]
fn a_message_that_a_relay_gave_back_goes_to_the_next_one_though_others_came_meanwhile() {
    let gate = Gate::new();
    let hold = gate.clone();
    let first = Sink::scripted(move |event| {
        if event.phase == Phase::Connect {
            hold.pass();
            return Action::ReplyAndDrop("421 4.3.2 closing down".to_owned());
        }
        Action::Accept
    });
    let second = Sink::start();
    let (database, mut client) = served();
    two_relays(&mut client, &first, &second);
    let given_back = put(&mut client, "given back", ", queue => 'out'");
    until("it is at the first relay", SOON, || gate.waiting() == 1);
    let stalled = Stalled::new(&database, &mut client);
    gate.open();
    until("the relay has hung up", SOON, || first.open() == 0);
    let later = put(&mut client, "comes meanwhile", ", queue => 'out'");
    stalled.go_on();
    reaches(&mut client, later, "sent");
    reaches(&mut client, given_back, "sent");
    let attempts: i32 = one(
        &mut client,
        "SELECT attempts FROM mail.messages WHERE id = $1",
        &[&given_back],
    );
    assert_eq!(attempts, 1, "what the first relay did is no attempt");
}

#[test]
fn messages_that_waited_for_a_relay_that_is_gone_go_to_the_next_one_though_others_came_meanwhile() {
    let gate = Gate::new();
    let hold = gate.clone();
    let first = Sink::scripted(move |event| {
        if event.phase == Phase::Dot {
            hold.pass();
        }
        Action::Accept
    });
    let second = Sink::start();
    let (database, mut client) = served();
    two_relays(&mut client, &first, &second);
    let waiting: Vec<i64> = (0..5)
        .map(|n| put(&mut client, &n.to_string(), ", queue => 'out'"))
        .collect();
    until("they are at the first relay", SOON, || gate.waiting() == 1);
    // The stall's own set-up changes the configuration; the relay goes in the same turn that then stalls.
    let stalled = Stalled::with(&database, &mut client, |client| {
        run_sql(
            client,
            "UPDATE mail.relay SET enabled = false WHERE name = 'first'",
        );
    });
    let later = put(&mut client, "comes meanwhile", ", queue => 'out'");
    stalled.go_on();
    reaches(&mut client, later, "sent");
    gate.open();
    for id in waiting {
        reaches(&mut client, id, "sent");
    }
}
