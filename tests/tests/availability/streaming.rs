//! The primary dies in the middle of its deliveries, and the standby takes over.

use pgmq_mail_tests::{Cluster, Sink, Stop, until};

use crate::orders::{Customers, Orders, check, relay};
use crate::pair::Pair;

/// How often, there and back.
fn failovers() -> usize {
    std::env::var("PGMQ_MAIL_FAILOVERS").map_or(2, |text| text.parse().expect("a number"))
}

/// Orders come in until the primary dies with mail in flight; the standby is promoted, and the old primary comes back as
/// its standby.
fn fail_over(pair: &mut Pair, sink: &Sink, orders: &mut Orders, on_uncertain: &str) {
    let before = sink.count();
    let customers = Customers::come(&pair.primary.config("postgres", "postgres"));
    until("mail is on its way", Cluster::PATIENCE, || {
        sink.count() > before + 50
    });
    pair.primary.stop(Stop::Crash);
    customers.leave(orders);
    until(
        "the relay is done with the dead server",
        Cluster::PATIENCE,
        || sink.open() == 0,
    );
    pair.switch();
    orders.add_one(&mut pair.primary.connect("postgres"));
    let mut client = pair.drain();
    check(&mut client, sink, orders, on_uncertain);
    drop(client);
    pair.rejoin(true);
}

#[test]
fn after_failovers_every_order_that_was_confirmed_has_its_mail() {
    let sink = relay();
    let mut pair = Pair::start(&sink, "retry");
    let mut orders = Orders::default();
    for _ in 0..failovers() {
        fail_over(&mut pair, &sink, &mut orders, "retry");
    }
}

#[test]
fn after_failovers_a_queue_that_holds_has_sent_nothing_twice() {
    let sink = relay();
    let mut pair = Pair::start(&sink, "hold");
    let mut orders = Orders::default();
    for _ in 0..failovers() {
        fail_over(&mut pair, &sink, &mut orders, "hold");
    }
}
