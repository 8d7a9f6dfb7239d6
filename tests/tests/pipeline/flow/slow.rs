//! A domain that is merely slow, with more mail than may be in flight, takes no room from others; and nothing of its own
//! mail is left behind.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgmq_mail_tests::{Action, Cluster, Phase, Sink};

use super::{all_sent, all_sent_at_once, put_to};
use crate::world::options;
use crate::{SOON, World};

/// Far less than the backlogs here.
fn little_in_flight() -> Cluster {
    Cluster::with(&options().setting("pgmq_mail.max_in_flight", "60"))
}

/// Takes its time about mail for slow.test for as long as it is told to; no answer takes a second.
struct Tardy {
    sink: Sink,
    slow: Arc<AtomicBool>,
}

impl Tardy {
    fn start() -> Self {
        let slow = Arc::new(AtomicBool::new(true));
        let is_slow = Arc::clone(&slow);
        let sink = Sink::scripted(move |event| {
            let asked = event.phase == Phase::Rcpt && event.address().ends_with("@slow.test");
            if asked && is_slow.load(Ordering::Relaxed) {
                Action::Accept.after(Duration::from_millis(400))
            } else {
                Action::Accept
            }
        });
        Self { sink, slow }
    }

    fn hurry(&self) {
        self.slow.store(false, Ordering::Relaxed);
    }

    /// Through a relay with four connections.
    fn world<'a>(&self, cluster: &'a Cluster) -> World<'a> {
        let mut world = World::on(cluster);
        world.relay("main", &self.sink.url(), &[("max_connections", "4")]);
        world
    }

    /// Checks that each recipient got one copy.
    #[track_caller]
    fn got_each_once(&self, count: usize) {
        let mails = self.sink.mails();
        let copies: Vec<&String> = mails.iter().flat_map(|mail| &mail.recipients).collect();
        let different: HashSet<&&String> = copies.iter().collect();
        assert_eq!((copies.len(), different.len()), (count, count));
    }
}

#[track_caller]
fn waiting(world: &mut World<'_>, ids: &[i64]) -> i64 {
    world.one(
        "SELECT count(*) FROM mail.messages WHERE id = ANY ($1) AND state <> 'sent'",
        &[&ids],
    )
}

/// Waits until so many were sent away from the pool.
#[track_caller]
fn until_parked(world: &mut World<'_>, count: i32) {
    world.until(&format!(
        "SELECT count(*) >= {count} FROM mail.pending
         WHERE waits_for <> 0 AND due_at > clock_timestamp() + interval '5 minutes'"
    ));
}

#[test]
fn a_long_backlog_of_a_slow_domain_holds_up_no_other_domain_and_goes_fast_once_that_is_fast() {
    let cluster = little_in_flight();
    let tardy = Tardy::start();
    let mut world = tardy.world(&cluster);
    let slow = put_to(&mut world, "slow.test", 600, "");
    let good = put_to(&mut world, "good.test", 100, "");
    all_sent_at_once(&mut world, &good);
    let left = waiting(&mut world, &slow);
    assert!(left > 300, "{left} wait");
    // No relay or limit changes for this: the domain asks for what waits.
    tardy.hurry();
    all_sent_at_once(&mut world, &slow);
    tardy.got_each_once(700);
    let left: i64 = world.one("SELECT count(*) FROM mail.pending", &[]);
    assert_eq!(left, 0);
}

#[test]
fn a_queues_backlog_for_a_slow_domain_sends_no_mail_of_another_queue_away() {
    let cluster = little_in_flight();
    let tardy = Tardy::start();
    let mut world = tardy.world(&cluster);
    world.queue("other", &[("transport", "smtp")]);
    let slow = put_to(&mut world, "slow.test", 600, "");
    until_parked(&mut world, 500);
    let few = put_to(&mut world, "slow.test", 5, ", queue => 'other'");
    all_sent_at_once(&mut world, &few);
    let left = waiting(&mut world, &slow);
    assert!(left > 300, "{left} wait");
}

#[test]
fn what_is_urgent_goes_before_what_else_waits_for_a_slow_domain() {
    let cluster = little_in_flight();
    let tardy = Tardy::start();
    let mut world = tardy.world(&cluster);
    let slow = put_to(&mut world, "slow.test", 600, "");
    until_parked(&mut world, 500);
    let urgent = world.put("urgent@slow.test", "now", ", priority => 5");
    world.reaches(urgent, "sent");
    let left = waiting(&mut world, &slow);
    assert!(left > 300, "{left} wait");
    // Who waits for the end waits for these, too.
    tardy.hurry();
    world.idle("default");
    assert_eq!(waiting(&mut world, &slow), 0);
}

#[test]
fn what_waits_for_a_slow_domain_goes_on_after_a_restart_of_the_worker() {
    let cluster = little_in_flight();
    let tardy = Tardy::start();
    let mut world = tardy.world(&cluster);
    let slow = put_to(&mut world, "slow.test", 400, "");
    until_parked(&mut world, 300);
    let pid: i32 = world.one("SELECT pid FROM mail.workers", &[]);
    world.run(&format!("SELECT pg_terminate_backend({pid})"));
    world.until(&format!(
        "SELECT EXISTS (SELECT FROM mail.workers WHERE pid <> {pid})"
    ));
    tardy.hurry();
    all_sent_at_once(&mut world, &slow);
    tardy.got_each_once(400);
}

#[test]
fn recipients_at_a_slow_domain_wait_alone_where_others_of_the_mail_go_another_way() {
    let cluster = little_in_flight();
    let (tardy, house) = (Tardy::start(), Sink::start());
    let mut world = tardy.world(&cluster);
    let columns = [("recipient_domains", "{house.test}")];
    world.relay("house", &house.url(), &columns);
    let ids: Vec<i64> = world.all(
        "SELECT mail.enqueue(jsonb_build_object('to', jsonb_build_array(n || '@slow.test', n || '@house.test'),
                                                'subject', n::text, 'text', 'hello'))
         FROM generate_series(1, 300) AS n",
        &[],
    );
    house.wait_for(300, SOON);
    until_parked(&mut world, 150);
    tardy.hurry();
    all_sent_at_once(&mut world, &ids);
    tardy.got_each_once(300);
    assert_eq!(house.count(), 300);
}

#[test]
fn a_long_backlog_of_a_domain_that_may_have_one_at_a_time_holds_up_no_other_domain() {
    let cluster = little_in_flight();
    let tardy = Tardy::start();
    let mut world = tardy.world(&cluster);
    world.run("INSERT INTO mail.domain_limit (domain, concurrency) VALUES ('slow.test', 1)");
    let slow = put_to(&mut world, "slow.test", 600, "");
    let good = put_to(&mut world, "good.test", 100, "");
    all_sent_at_once(&mut world, &good);
    let left = waiting(&mut world, &slow);
    assert!(left > 400, "{left} wait");
    tardy.hurry();
    all_sent_at_once(&mut world, &slow);
    tardy.got_each_once(700);
}

#[test]
fn what_a_limit_put_off_goes_sooner_when_what_was_before_it_is_cancelled() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.run("INSERT INTO mail.domain_limit VALUES ('paced.test', NULL, 1, '1 second')");
    let ids = put_to(&mut world, "paced.test", 200, "");
    sink.wait_for(2, SOON);
    let last: Vec<i64> = world.all(
        "SELECT id FROM mail.messages WHERE id = ANY ($1) ORDER BY next_attempt_at DESC NULLS LAST LIMIT 3",
        &[&ids],
    );
    world.run(
        "SELECT mail.cancel(id) FROM mail.messages
         WHERE state = 'queued' AND next_attempt_at < (SELECT max(next_attempt_at) FROM mail.messages) - interval '2.5 seconds'",
    );
    all_sent(&mut world, &last);
}
