//! Limits, domains, weights and rules: who goes where and when, and that nobody holds up another.

mod common;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use common::{
    Harness, PATIENCE, dead_port, job, job_to, jobs, only, quick, relay, sink::Sink, slow, verdict,
};
use mail_relay::{
    Action, Config, DomainLimit, Job, JobResult, Limited, QueueLimit, Rate, RelayConfig, Rule,
    Settings, pattern,
};
use mail_smtp::{Outcome, Verdict};

fn per_second(count: u32) -> Rate {
    Rate {
        count,
        window: Duration::from_secs(1),
    }
}

fn rule(name: &str, text: &str, action: Action, seconds: u64) -> Rule {
    Rule {
        name: name.to_owned(),
        relay: None,
        code: None,
        status: None,
        text: Some(pattern(text).unwrap()),
        action,
        duration: Some(Duration::from_secs(seconds)),
    }
}

fn to_domain(ids: std::ops::Range<i64>, domain: &str) -> Vec<Job> {
    ids.map(|id| job_to(id, &[1], &[&format!("u@{domain}")]))
        .collect()
}

/// How many of a sink's messages came within each second that begins with one.
fn most_in_a_second(sink: &Sink) -> usize {
    let times = sink.seen.times.lock().unwrap().clone();
    let within = |from: usize| {
        let end = times[from] + Duration::from_secs(1);
        times[from..].iter().take_while(|at| **at < end).count()
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[test]
fn a_domain_that_gives_no_answer_holds_up_no_other() {
    let sink = Sink::start();
    sink.does.answer("silent.test", None);
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 10)]);
    pool.pool.submit(to_domain(0..100, "silent.test"));
    sink.wait("all that it may have", |seen| seen.open.load(SeqCst) >= 4);
    pool.pool.submit(to_domain(100..300, "good.test"));
    pool.until("the others are delivered", |pool| {
        (100..300).all(|id| pool.finished.contains_key(&id))
    });
    assert!((100..300).all(|id| pool.delivered(id)));
    pool.until("those that are too many come back", |pool| {
        pool.finished.len() >= 200 + 100 - 16 - 10
    });
    let later =
        |job: &JobResult| matches!(job, JobResult::PutOff { wait, .. } if wait.as_secs() >= 5);
    let back: Vec<_> = (0..100).filter_map(|id| pool.finished.get(&id)).collect();
    assert!(back.iter().all(|end| later(&end.result)), "{back:?}");
}

#[test]
fn a_domain_that_has_turned_silent_leaves_a_connection_to_the_others() {
    let sink = Sink::start();
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 4)]);
    pool.pool.submit(to_domain(0..50, "turning.test"));
    pool.until_finished(50);
    sink.does.answer("turning.test", None);
    pool.pool.submit(to_domain(50..60, "turning.test"));
    sink.wait("all that it may have", |seen| seen.open.load(SeqCst) >= 3);
    pool.pool.submit(to_domain(60..80, "good.test"));
    pool.until_finished(70);
    assert!((60..80).all(|id| pool.delivered(id)));
}

#[test]
fn a_domains_rate_is_kept_and_those_that_would_wait_too_long_get_a_time_each() {
    let sink = Sink::start();
    let config = Config {
        domains: vec![DomainLimit {
            domain: "slow.test".to_owned(),
            concurrency: None,
            rate: Some(per_second(10)),
        }],
        ..only(vec![relay(1, sink.port, 10)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(to_domain(0..100, "slow.test"));
    pool.pool.submit(to_domain(100..200, "quick.test"));
    pool.until("all of the other domain", |pool| {
        (100..200).all(|id| pool.finished.contains_key(&id))
    });
    pool.until_finished(200);
    let mut waits: Vec<u128> = (0..100)
        .filter_map(|id| match pool.result(id) {
            JobResult::PutOff { wait, .. } => Some(wait.as_millis()),
            _ => None,
        })
        .collect();
    waits.sort_unstable();
    // Two seconds' worth waits; the rest is spread at the pace of the limit.
    assert!((75..=80).contains(&waits.len()), "{waits:?}");
    assert!(
        waits[0] >= 1900 && waits[waits.len() - 1] >= 9000,
        "{waits:?}"
    );
    let gaps: Vec<u128> = waits.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (95..=105).contains(gap)), "{gaps:?}");
}

#[test]
fn so_many_are_on_their_way_to_a_domain_at_once_over_all_relays() {
    let sink = Sink::start();
    sink.does.delay.store(20, SeqCst);
    let mut relays = vec![relay(1, sink.port, 10), relay(2, sink.port, 10)];
    relays[1].tier = 1;
    let config = Config {
        domains: vec![DomainLimit {
            domain: "narrow.test".to_owned(),
            concurrency: Some(2),
            rate: None,
        }],
        ..only(relays)
    };
    let mut pool = Harness::with(quick(), config);
    let both = (0..12).map(|id| job_to(id, &[1, 2], &["u@narrow.test"]));
    pool.pool.submit(both.collect());
    pool.until_finished(12);
    assert!((0..12).all(|id| pool.delivered(id)));
    assert_eq!(sink.seen.most_at_work.load(SeqCst), 2);
}

#[test]
fn a_relays_rate_is_kept_and_who_would_wait_too_long_comes_back() {
    let sink = Sink::start();
    let config = RelayConfig {
        rate: Some(per_second(20)),
        ..relay(1, sink.port, 10)
    };
    let mut pool = Harness::start(quick(), vec![config]);
    pool.pool.submit(jobs(0..60, &[1]));
    pool.until_finished(60);
    let sent = (0..60).filter(|id| pool.delivered(*id)).count();
    assert!((40..=42).contains(&sent), "{sent} wait and are sent");
    assert!(most_in_a_second(&sink) <= 22);
    let why = "relay \"r1\" has reached its rate limit";
    assert!(
        (0..60)
            .filter(|id| !pool.delivered(*id))
            .all(|id| pool.returned(id) == why)
    );
    let (limit, wait) = pool.exhausted[0];
    assert_eq!(limit, Limited::Relay(1));
    assert!(wait > Duration::from_millis(1900), "{wait:?}");
}

#[test]
fn a_queues_rate_holds_up_no_other_queue() {
    let sink = Sink::start();
    let config = Config {
        queues: vec![QueueLimit {
            id: 2,
            rate: per_second(5),
        }],
        ..only(vec![relay(1, sink.port, 10)])
    };
    let mut pool = Harness::with(quick(), config);
    let limited = (0..20).map(|id| Job {
        queue: 2,
        ..job(id, &[1])
    });
    pool.pool.submit(limited.collect());
    pool.pool.submit(jobs(20..120, &[1]));
    pool.until_finished(120);
    assert!((20..120).all(|id| pool.delivered(id)));
    let sent = (0..20).filter(|id| pool.delivered(*id)).count();
    assert!((10..=12).contains(&sent), "{sent}");
    assert_eq!(pool.exhausted[0].0, Limited::Queue(2));
}

#[test]
fn a_tier_shares_by_weight_and_the_next_one_waits() {
    let sinks = [Sink::start(), Sink::start(), Sink::start()];
    let of = |n: usize, tier, weight| RelayConfig {
        tier,
        weight,
        ..relay(i32::try_from(n).unwrap() + 1, sinks[n].port, 4)
    };
    let relays = vec![of(0, 1, 3), of(1, 1, 1), of(2, 2, 1)];
    let mut pool = Harness::start(quick(), relays);
    pool.pool.submit(jobs(0..200, &[3, 2, 1]));
    pool.until_finished(200);
    let counts: Vec<usize> = sinks.iter().map(Sink::messages).collect();
    assert_eq!(counts, [150, 50, 0]);
}

#[test]
fn recipients_go_by_the_relays_of_their_domains_and_what_is_settled_is_told_at_once() {
    let (all, special) = (Sink::start(), Sink::start());
    special.does.answer("RCPT", Some("550 5.1.1 nobody\r\n"));
    special.does.hang_at_greeting.store(true, SeqCst);
    let relays = vec![
        relay(1, all.port, 4),
        RelayConfig {
            recipient_domains: vec![".special.test".to_owned()],
            ..relay(2, special.port, 4)
        },
    ];
    let mut pool = Harness::start(quick(), relays);
    let to = [
        "a@x.test",
        "b@special.test",
        "c@y.test",
        "d@sub.special.test",
    ];
    pool.pool.submit(vec![job_to(1, &[1, 2], &to)]);
    pool.until("some are delivered to", |pool| !pool.before.is_empty());
    let part = &pool.before[0];
    assert_eq!(
        (&part.to[..], part.relay),
        (&["a@x.test", "c@y.test"].map(str::to_owned)[..], Some(1))
    );
    assert_eq!(verdict(&part.result), Some(Verdict::Delivered));
    assert!(pool.finished.is_empty());

    special.does.greet.notify_one();
    pool.until_finished(1);
    let end = &pool.finished[&1];
    assert_eq!(end.to, ["b@special.test", "d@sub.special.test"]);
    assert_eq!(verdict(&end.result), Some(Verdict::Permanent));
    assert_eq!(
        (all.messages(), end.untried, end.others.len()),
        (1, None, 0)
    );
}

#[test]
fn a_relay_that_falls_silent_gives_its_jobs_to_the_next_and_gets_them_again_once_it_speaks() {
    let (silent, next) = (Sink::start(), Sink::start());
    silent.does.hang_at_greeting.store(true, SeqCst);
    let settings = Settings {
        silence: Duration::from_millis(100),
        ..slow()
    };
    let relays = vec![relay(1, silent.port, 4), relay(2, next.port, 4)];
    let mut pool = Harness::start(settings, relays);
    pool.pool.submit(jobs(0..20, &[1, 2]));
    pool.until_finished(20);
    assert!((0..20).all(|id| pool.delivered(id) && pool.finished[&id].relay == Some(2)));
    assert_eq!((pool.silent.clone(), pool.downs.len()), (vec![1], 0));
    // Without another relay there is nothing better than to wait for it.
    pool.pool.submit(jobs(20..22, &[1]));
    silent.wait("it is waited for", |seen| seen.open.load(SeqCst) > 0);
    silent.does.hang_at_greeting.store(false, SeqCst);
    silent.does.greet.notify_waiters();
    pool.until_finished(22);
    assert!((20..22).all(|id| pool.delivered(id)));
    assert_eq!(pool.ups, [1]);
    pool.pool.submit(vec![job(22, &[1, 2])]);
    pool.until_finished(23);
    assert_eq!(pool.finished[&22].relay, Some(1));
}

#[test]
fn a_relay_that_fell_silent_and_hung_up_is_tried_again_by_one_job() {
    let (silent, next) = (Sink::start(), Sink::start());
    silent.does.answer("RCPT", None);
    let settings = Settings {
        silence: Duration::from_millis(100),
        ..quick()
    };
    let mut relays = vec![relay(1, silent.port, 4), relay(2, next.port, 4)];
    relays[0].endpoint.timeouts.envelope = Duration::from_millis(500);
    let mut pool = Harness::start(settings, relays);
    pool.pool.submit(jobs(0..20, &[1, 2]));
    pool.until_finished(20);
    assert_eq!(pool.silent, [1]);
    // Those that ran into the timeout went to the other one, too.
    assert!((0..20).all(|id| pool.delivered(id)));
    silent.does.answer("RCPT", Some("250 ok\r\n"));
    // Once its connections are closed, which nobody else sees.
    let mut id = 20;
    loop {
        pool.pool.submit(vec![job(id, &[1, 2])]);
        pool.until_finished(usize::try_from(id).unwrap() + 1);
        assert!(pool.delivered(id));
        if pool.finished[&id].relay == Some(1) {
            break;
        }
        id += 1;
    }
    assert_eq!(pool.ups, [1]);
}

#[test]
fn rules_decide_what_becomes_of_a_refused_message() {
    let sink = Sink::start();
    sink.does
        .answer("u@fail.test", Some("450 4.7.1 policy: listed\r\n"));
    sink.does
        .answer("u@retry.test", Some("550 5.7.1 greylisted\r\n"));
    sink.does
        .answer("u@hold.test", Some("550 5.7.1 have a look\r\n"));
    let config = Config {
        rules: vec![
            rule("listed", ": listed$", Action::Fail, 0),
            Rule {
                code: Some("5".to_owned()),
                ..rule("grey", "^5.7.1 greylisted", Action::Retry, 300)
            },
            rule("look", "have a look", Action::Hold, 0),
        ],
        ..only(vec![relay(1, sink.port, 4)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(vec![
        job_to(0, &[1], &["u@fail.test", "u@good.test", "u@retry.test"]),
        job_to(1, &[1], &["u@hold.test"]),
    ]);
    pool.until_finished(2);
    let end = &pool.finished[&0];
    let JobResult::Smtp(mail_smtp::Outcome::Judged(results)) = &end.result else {
        panic!("{end:?}")
    };
    let verdicts: Vec<Verdict> = results.iter().map(|result| result.verdict).collect();
    assert_eq!(
        verdicts,
        [Verdict::Permanent, Verdict::Delivered, Verdict::Transient]
    );
    let decided: Vec<_> = end
        .decisions
        .iter()
        .map(|d| d.as_ref().map(|d| (d.rule.as_str(), d.duration)))
        .collect();
    let later = Some(Duration::from_mins(5));
    assert_eq!(
        decided,
        [Some(("listed", None)), None, Some(("grey", later))]
    );
    let held = &pool.finished[&1].decisions;
    assert_eq!(held[0].as_ref().map(|d| d.action), Some(Action::Hold));
}

#[test]
fn a_domain_that_asks_to_be_left_alone_is_and_others_are_not() {
    let sink = Sink::start();
    sink.does.answer(
        "@limited.test",
        Some("421 4.7.28 too much mail for this domain\r\n"),
    );
    let config = Config {
        rules: vec![rule("limit", "too much mail", Action::SuspendDomain, 60)],
        ..only(vec![relay(1, sink.port, 1)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(to_domain(0..1, "limited.test"));
    pool.until_finished(1);
    pool.pool.submit(to_domain(1..5, "limited.test"));
    pool.pool.submit(to_domain(5..10, "other.test"));
    pool.until_finished(10);
    for id in 1..5 {
        let JobResult::PutOff { wait, why, .. } = pool.result(id) else {
            panic!("{:?}", pool.result(id))
        };
        assert!((59..=70).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(
            why,
            "mail for limited.test waits: 4.7.28 too much mail for this domain"
        );
    }
    assert!((5..10).all(|id| pool.delivered(id)));
}

#[test]
fn a_relay_whose_quota_is_used_up_is_left_alone_without_an_attempt() {
    let (used_up, next) = (Sink::start(), Sink::start());
    used_up.does.answer(
        ".",
        Some("454 Throttling failure: Daily message quota exceeded.\r\n"),
    );
    let config = Config {
        rules: vec![rule(
            "quota",
            "daily message quota",
            Action::SuspendRelay,
            3600,
        )],
        ..only(vec![relay(1, used_up.port, 1), relay(2, next.port, 1)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(jobs(0..10, &[1, 2]));
    pool.until_finished(10);
    assert!((0..10).all(|id| pool.delivered(id) && pool.finished[&id].relay == Some(2)));
    assert_eq!(pool.downs, [(1, Duration::from_hours(1))]);
    pool.pool.submit(vec![job(10, &[1])]);
    pool.until_finished(11);
    assert!(
        pool.returned(10).contains("Daily message quota exceeded"),
        "{}",
        pool.returned(10)
    );
}

#[test]
fn a_message_that_gets_its_relay_suspended_is_not_the_next_to_try_it_with() {
    let sink = Sink::start();
    sink.does.answer(
        "<bad@",
        Some("454 Throttling failure: maximum sending rate exceeded\r\n"),
    );
    let config = Config {
        rules: vec![rule(
            "rate",
            "sending rate exceeded",
            Action::SuspendRelay,
            1,
        )],
        ..only(vec![relay(1, sink.port, 1)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(vec![job_to(0, &[1], &["bad@x.test"])]);
    pool.until_finished(1);
    let JobResult::PutOff { wait, told, .. } = pool.result(0) else {
        panic!("{:?}", pool.result(0))
    };
    assert!(wait.as_secs() > 1 && *told, "{wait:?}");
    let rule = pool.finished[&0].decisions[0].as_ref();
    assert_eq!(rule.map(|rule| rule.rule.as_str()), Some("rate"));
    assert_eq!(pool.downs, [(1, Duration::from_secs(1))]);
    let mut id = 0;
    while pool.ups.is_empty() {
        id += 1;
        pool.pool.submit(vec![job(id, &[1])]);
        pool.until_finished(usize::try_from(id).unwrap() + 1);
    }
    assert!(pool.delivered(id));
}

#[test]
fn a_job_whose_relay_is_down_does_not_come_back_at_once_while_another_is_at_its_limit() {
    let sink = Sink::start();
    let general = RelayConfig {
        rate: Some(Rate {
            count: 1,
            window: Duration::from_hours(1),
        }),
        ..relay(1, sink.port, 2)
    };
    let special = RelayConfig {
        recipient_domains: vec!["special.test".to_owned()],
        ..relay(2, dead_port(), 2)
    };
    let mut pool = Harness::start(slow(), vec![general, special]);
    pool.pool.submit(vec![job(0, &[1, 2])]);
    pool.until_finished(1);
    pool.pool
        .submit(vec![job_to(1, &[1, 2], &["u@special.test"])]);
    pool.until_finished(2);
    assert!(pool.not_tried(1), "it has met the trouble");
    pool.pool
        .submit(vec![job_to(2, &[1, 2], &["u@special.test"])]);
    pool.until_finished(3);
    let later = |result: &JobResult| matches!(result, JobResult::PutOff { wait, .. } if wait.as_secs() > 30);
    assert!(later(pool.result(2)), "{:?}", pool.result(2));
}

#[test]
fn what_waits_for_a_limit_is_returned_at_the_stop() {
    let sink = Sink::start();
    let config = Config {
        queues: vec![QueueLimit {
            id: 1,
            rate: Rate {
                count: 1,
                window: Duration::from_secs(2),
            },
        }],
        ..only(vec![relay(1, sink.port, 2)])
    };
    let mut pool = Harness::with(quick(), config);
    pool.pool.submit(jobs(0..2, &[1]));
    pool.until_finished(1);
    let (rest, took) = pool.stop(PATIENCE);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(matches!(rest.finished[&1].result, JobResult::Returned(_)));
}

/// A relay whose connections of some time say nothing for ever, while those made later are served.
fn recovers_while_its_connections_hang(hang: impl Fn(&Sink, bool)) {
    let sink = Sink::start();
    hang(&sink, true);
    let settings = Settings {
        silence: Duration::from_millis(100),
        ..slow()
    };
    let mut pool = Harness::start(settings, vec![relay(1, sink.port, 2)]);
    pool.pool.submit(jobs(0..10, &[1]));
    pool.until("it says nothing", |pool| !pool.silent.is_empty());
    hang(&sink, false);
    pool.until_finished(10);
    assert!((0..10).all(|id| pool.delivered(id)));
    assert_eq!(sink.messages(), 10);
    assert!(!pool.ups.is_empty());
}

#[test]
fn a_relay_that_greets_nobody_is_tried_over_a_further_connection() {
    recovers_while_its_connections_hang(|sink, hangs| {
        sink.does.hang_at_greeting.store(hangs, SeqCst);
    });
}

#[test]
fn a_relay_that_does_not_answer_mail_is_tried_over_a_further_connection() {
    recovers_while_its_connections_hang(|sink, hangs| {
        sink.does.hang_at_mail.store(hangs, SeqCst);
    });
}

#[test]
fn a_relay_that_breaks_off_is_suspended_and_its_mail_goes_by_the_next() {
    for breaks in ["MAIL", "RCPT", "DATA"] {
        let (bad, good) = (Sink::start(), Sink::start());
        bad.does
            .answer(breaks, Some("HTTP/1.1 400 Bad Request\r\n"));
        let mut second = relay(2, good.port, 4);
        second.tier = 2;
        let mut pool = Harness::start(slow(), vec![relay(1, bad.port, 4), second]);
        pool.pool.submit(jobs(0..40, &[1, 2]));
        pool.until_finished(40);
        assert!((0..40).all(|id| pool.delivered(id)), "{breaks}");
        assert_eq!((good.messages(), pool.downs.len()), (40, 1), "{breaks}");
    }
}

#[test]
fn mail_that_one_relay_cannot_carry_goes_by_another() {
    let (small, large) = (Sink::start(), Sink::start());
    small
        .does
        .answer("EHLO", Some("250-sink.test\r\n250 SIZE 50\r\n"));
    let mut pool = Harness::start(
        slow(),
        vec![relay(1, small.port, 2), relay(2, large.port, 2)],
    );
    pool.pool.submit(jobs(0..10, &[1, 2]));
    pool.until_finished(10);
    assert!((0..10).all(|id| pool.delivered(id)));
    assert_eq!((small.messages(), large.messages()), (0, 10));
    // Nobody else is there to take it.
    pool.pool.submit(vec![job(10, &[1])]);
    pool.until_finished(11);
    assert_eq!(verdict(pool.result(10)), Some(Verdict::Permanent));
}

#[test]
fn who_is_refused_on_a_connection_that_carried_enough_meets_a_fresh_one() {
    let (first, backup) = (Sink::start(), Sink::start());
    first.does.close_after.store(5, SeqCst);
    first.does.politely.store(true, SeqCst);
    let mut second = relay(2, backup.port, 4);
    second.tier = 2;
    let mut pool = Harness::start(slow(), vec![relay(1, first.port, 4), second]);
    pool.pool.submit(jobs(0..100, &[1, 2]));
    pool.until_finished(100);
    assert_eq!(
        (first.messages(), backup.messages(), pool.downs.len()),
        (100, 0, 0)
    );
}

#[test]
fn mail_does_not_wait_behind_a_slow_one_while_connections_are_free() {
    let sink = Sink::start();
    sink.does.answer(".", None);
    let mut pool = Harness::start(slow(), vec![relay(1, sink.port, 10)]);
    pool.pool.submit(vec![job_to(0, &[1], &["a@x.test"])]);
    sink.wait("one waits at its dot", |seen| seen.bodies.load(SeqCst) == 1);
    sink.does.answer(".", Some("250 ok\r\n"));
    pool.pool
        .submit((1..6).map(|id| job_to(id, &[1], &["a@x.test"])).collect());
    pool.until_finished(5);
    assert!((1..6).all(|id| pool.delivered(id)));
}

#[test]
fn a_relay_that_is_slow_leaves_its_share_to_a_quick_one_of_its_tier() {
    let (slowly, quickly) = (Sink::start(), Sink::start());
    slowly.does.delay.store(2000, SeqCst);
    let mut relays = vec![relay(1, slowly.port, 2), relay(2, quickly.port, 4)];
    relays[1].tier = relays[0].tier;
    let mut pool = Harness::start(slow(), relays);
    pool.pool.submit(jobs(0..500, &[1, 2]));
    // By itself the slow one would need four minutes for its half.
    pool.until_finished(500);
    assert!((0..500).all(|id| pool.delivered(id)));
    assert!(quickly.messages() > 400, "{}", quickly.messages());
}

#[test]
fn who_meets_a_stale_connection_does_not_stand_in_its_own_way() {
    let sink = Sink::start();
    sink.does.close_after.store(1, SeqCst);
    let config = Config {
        domains: vec![DomainLimit {
            domain: "x.test".to_owned(),
            concurrency: Some(1),
            rate: None,
        }],
        ..only(vec![relay(1, sink.port, 4)])
    };
    let mut pool = Harness::with(slow(), config);
    pool.pool
        .submit((0..6).map(|id| job_to(id, &[1], &["a@x.test"])).collect());
    pool.until_finished(6);
    assert!((0..6).all(|id| pool.delivered(id)));
}

#[test]
fn a_relay_that_could_not_be_reached_is_tried_though_no_mail_waits() {
    let port = dead_port();
    let mut pool = Harness::start(quick(), vec![relay(1, port, 2)]);
    pool.pool.submit(vec![job(0, &[1])]);
    pool.until("it is tried again and again", |pool| pool.downs.len() > 2);
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let sink = Sink::on(listener);
    pool.until("it is up", |pool| pool.ups == [1]);
    assert_eq!((pool.finished.len(), sink.messages()), (1, 0));
}

#[test]
fn a_relay_that_owes_an_answer_is_silent_though_nobody_waits_behind() {
    let (hanging, next) = (Sink::start(), Sink::start());
    hanging.does.hang_at_mail.store(true, SeqCst);
    let settings = Settings {
        silence: Duration::from_millis(100),
        ..slow()
    };
    let mut pool = Harness::start(
        settings,
        vec![relay(1, hanging.port, 4), relay(2, next.port, 4)],
    );
    pool.pool.submit(vec![job(0, &[1, 2])]);
    pool.until("it is noticed", |pool| pool.silent == [1]);
    pool.pool.submit(jobs(1..10, &[1, 2]));
    pool.until_finished(9);
    assert!((1..10).all(|id| pool.finished[&id].relay == Some(2)));
}

#[test]
fn a_relay_that_is_merely_slow_to_answer_recipients_is_given_its_time() {
    let sink = Sink::start();
    *sink.does.slow.lock().unwrap() = Some(("RCPT", 400));
    let settings = Settings {
        silence: Duration::from_millis(100),
        ..slow()
    };
    let mut pool = Harness::start(settings, vec![relay(1, sink.port, 4)]);
    pool.pool.submit(jobs(0..40, &[1]));
    pool.until_finished(40);
    assert!((0..40).all(|id| pool.delivered(id)));
}

#[test]
fn messages_that_a_relay_cannot_stand_do_not_stop_it_for_the_others() {
    let sink = Sink::start();
    sink.does
        .answer("<bad@", Some("421 4.3.2 Not this one\r\n"));
    let mut pool = Harness::start(quick(), vec![relay(1, sink.port, 2)]);
    pool.pool.submit(vec![job(0, &[1])]);
    pool.until_finished(1);
    pool.pool.submit(
        (1..30)
            .map(|id| job_to(id, &[1], &["bad@x.test"]))
            .collect(),
    );
    // They come again at once, as the oldest ones would, until the others are through.
    pool.pool.submit(jobs(30..60, &[1]));
    let sent =
        |pool: &Harness| (30..60).all(|id| pool.finished.contains_key(&id) && pool.delivered(id));
    let back = std::cell::RefCell::new(Vec::new());
    while !sent(&pool) {
        pool.until("the others are sent, or some come back", |pool| {
            let come = pool.finished.iter().filter(|(_, end)| {
                matches!(
                    end.result,
                    JobResult::Returned(_) | JobResult::Smtp(Outcome::NotTried(_))
                )
            });
            back.replace(come.map(|(id, _)| *id).collect());
            sent(pool) || !back.borrow().is_empty()
        });
        for id in back.take() {
            pool.finished.remove(&id);
            let to = if id < 30 { "bad@x.test" } else { "u@x.test" };
            pool.pool.submit(vec![job_to(id, &[1], &[to])]);
        }
    }
}
