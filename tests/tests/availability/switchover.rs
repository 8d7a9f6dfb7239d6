//! A planned switchover: the primary is stopped cleanly, and the standby takes over.

use pgmq_mail_tests::{Cluster, Stop, until};

use crate::orders::{Customers, Orders, check, relay};
use crate::pair::Pair;

#[test]
fn a_planned_switchover_interrupts_nothing_and_repeats_nothing() {
    let sink = relay();
    let mut pair = Pair::start(&sink, "retry");
    let mut orders = Orders::default();
    for _ in 0..2 {
        let before = sink.count();
        let customers = Customers::come(&pair.primary.config("postgres", "postgres"));
        until("mail is on its way", Cluster::PATIENCE, || {
            sink.count() > before + 50
        });
        pair.primary.stop(Stop::Fast);
        customers.leave(&mut orders);
        pair.switch();
        orders.add_one(&mut pair.primary.connect("postgres"));
        let mut client = pair.drain();
        let repeats = check(&mut client, &sink, &orders, "retry");
        assert_eq!((repeats.interrupted, repeats.repeated), (0, 0));
        drop(client);
        pair.rejoin(false);
    }
}
