//! Failover by `pg_auto_failover`, which decides by itself.

use pgmq_mail_tests::{AutoFailover, Cluster, Sink, available, one, until, worker_of};

use crate::orders::{Customers, Orders, check, drained, open_shop, relay};
use crate::silence::assert_silent;

/// Orders come in until the primary dies with its service; the tool promotes the standby, and makes the old primary a
/// standby when it is back.
fn fail_over(servers: &mut AutoFailover, sink: &Sink, orders: &mut Orders) {
    let old = servers.primary();
    let before = sink.count();
    let customers = Customers::come(&servers.config(old));
    until("mail is on its way", Cluster::PATIENCE, || {
        sink.count() > before + 50
    });
    servers.crash(old);
    customers.leave(orders);
    servers.reaches(&["wait_primary"]);
    let new = servers.primary();
    assert_ne!(new, old);
    let mut client = servers.connect(new);
    orders.add_one(&mut client);
    worker_of(&mut client);
    drained(&mut client);
    check(&mut client, sink, orders, "retry");
    let findings: i64 = one(&mut client, "SELECT count(*) FROM mail.health()", &[]);
    assert_eq!(findings, 0);
    servers.resume(old);
    servers.reaches(&["primary", "secondary"]);
    assert_eq!(servers.primary(), new);
    assert_silent(&mut servers.connect(old));
}

#[test]
fn pg_auto_failover_keeps_every_order_that_was_confirmed() {
    if !available("pg_auto_failover", AutoFailover::is_available()) {
        return;
    }
    let sink = relay();
    let mut servers = AutoFailover::start(
        "shared_preload_libraries = 'pg_stat_statements, pgmq_mail'
         shared_buffers = 64MB
        ",
    );
    open_shop(&mut servers.connect(servers.primary()), &sink, "retry");
    let mut orders = Orders::default();
    for _ in 0..2 {
        fail_over(&mut servers, &sink, &mut orders);
    }
}
