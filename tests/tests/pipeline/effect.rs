//! Configuration is in effect for every mail that is enqueued after its commit, however busy the worker is.

use std::sync::atomic::{AtomicBool, Ordering};

use pgmq_mail_tests::Sink;

use crate::World;

/// Keeps the worker turning while `work` is done.
fn while_it_is_busy(world: &mut World<'_>, work: impl FnOnce(&mut World<'_>)) {
    world.queue("noise", &[("transport", "capture")]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut client = world.database.connect();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    client
                        .execute(
                            "SELECT mail.enqueue('a@b.test', 'noise', queue => 'noise')",
                            &[],
                        )
                        .expect("it can be enqueued");
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(world)));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_change_that_comes_while_the_worker_is_about_to_claim_is_in_effect_too() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let mut other = world.database.connect();
    for (before, after) in [("smtp", "capture"), ("capture", "smtp")] {
        world.queue("default", &[("transport", before)]);
        let id = world.put("alice@example.test", "before", "");
        world.reaches(id, "sent");
        let left = sink.count();
        // Wakes the worker, which reads the configuration and then wants to look at the queue.
        world.run("BEGIN; LOCK TABLE mail.pending");
        other
            .batch_execute("UPDATE mail.queue SET max_attempts = 50")
            .expect("it can be changed");
        world.until(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'mail.pending'::regclass)",
        );
        let change = format!("UPDATE mail.queue SET transport = '{after}'");
        other.batch_execute(&change).expect("it can be changed");
        let id = world.put("alice@example.test", "after", "");
        world.run("COMMIT");
        world.reaches(id, "sent");
        let captured: i64 = world.one(
            "SELECT count(*) FROM mail.captured WHERE message_id = $1",
            &[&id],
        );
        let expected = (i64::from(after == "capture"), usize::from(after == "smtp"));
        assert_eq!(
            (captured, sink.count() - left),
            expected,
            "from {before} to {after}"
        );
    }
}

#[test]
fn no_mail_leaves_by_a_transport_that_was_changed_before_it_was_enqueued() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    while_it_is_busy(&mut world, |world| {
        for n in 0..400 {
            let transport = ["capture", "smtp"][n % 2];
            world.queue("default", &[("transport", transport)]);
            let id = world.put("alice@example.test", transport, "");
            world.reaches(id, "sent");
            let captured: bool = world.one(
                "SELECT EXISTS (SELECT FROM mail.captured WHERE message_id = $1)",
                &[&id],
            );
            assert_eq!(
                captured,
                transport == "capture",
                "mail {n}: {}",
                world.story(id)
            );
            assert_eq!(sink.count(), n.div_ceil(2), "mail {n}: {}", world.story(id));
        }
    });
}

#[test]
fn no_mail_leaves_a_queue_that_was_paused_before_it_was_enqueued() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    while_it_is_busy(&mut world, |world| {
        for n in 0..200 {
            world.run("SELECT mail.pause('default')");
            let id = world.put("alice@example.test", "paused", "");
            let noise = world.put("alice@example.test", "noise", ", queue => 'noise'");
            world.reaches(noise, "sent");
            assert_eq!(sink.count(), n, "{}", world.story(id));
            world.run("SELECT mail.resume('default')");
            world.reaches(id, "sent");
        }
    });
}

#[test]
fn no_mail_leaves_through_a_relay_that_was_disarmed_before_it_was_enqueued() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    while_it_is_busy(&mut world, |world| {
        for n in 0..200 {
            world.run("SELECT mail.disarm('for a test')");
            let id = world.put("alice@example.test", "disarmed", "");
            let noise = world.put("alice@example.test", "noise", ", queue => 'noise'");
            world.reaches(noise, "sent");
            assert_eq!(sink.count(), n, "{}", world.story(id));
            world.run("SELECT mail.arm()");
            world.reaches(id, "sent");
        }
    });
}

#[test]
fn every_mail_goes_to_where_its_relay_was_before_it_was_enqueued() {
    let sinks = [Sink::start(), Sink::start()];
    let mut world = World::with(&sinks[0]);
    while_it_is_busy(&mut world, |world| {
        for n in 1..=200 {
            let url = sinks[n % 2].url();
            world
                .client
                .execute("UPDATE mail.relay SET url = $1", &[&url])
                .expect("it can move");
            let id = world.put("alice@example.test", "moved", "");
            world.reaches(id, "sent");
            let counts = sinks.each_ref().map(Sink::count);
            assert_eq!(
                counts,
                [n / 2, n.div_ceil(2)],
                "mail {n}: {}",
                world.story(id)
            );
        }
    });
}

#[test]
fn the_first_mail_of_a_new_database_goes_where_its_configuration_says() {
    let sink = Sink::start();
    for n in 1..=40 {
        let mut world = World::with(&sink);
        let id = world.put("alice@example.test", "the first", "");
        world.reaches(id, "sent");
        let captured: i64 = world.one("SELECT count(*) FROM mail.captured", &[]);
        assert_eq!(
            (captured, sink.count()),
            (0, n),
            "database {n}: {}",
            world.story(id)
        );
    }
}
