//! What relays' replies ask for: `mail.reply_rule`.

use std::time::Duration;

use pgmq_mail_tests::{Action, Cluster, Database, Event, Folder, Phase, Sink, code, run};
use postgres::error::SqlState;

use super::{all_sent_at_once, put_to};
use crate::{SOON, World, quoted};

/// Answers the recipients of a domain so, and accepts all others.
fn refusing(domain: &'static str, reply: &'static str) -> Sink {
    Sink::scripted(move |event: &Event<'_>| {
        if event.phase == Phase::Rcpt && event.address().ends_with(domain) {
            Action::reply(reply)
        } else {
            Action::Accept
        }
    })
}

/// The rule that decided about a message, as its events say.
#[track_caller]
fn decided(world: &mut World<'_>, id: i64) -> Vec<String> {
    world.all(
        "SELECT detail ->> 'rule' FROM mail.events WHERE message_id = $1 AND detail ? 'rule' ORDER BY id",
        &[&id],
    )
}

/// How long after its last event a message is to be tried again, in seconds.
#[track_caller]
fn pause(world: &mut World<'_>, id: i64) -> f64 {
    world.one(
        "SELECT extract(epoch FROM m.next_attempt_at - max(e.at))::float8
         FROM mail.messages m JOIN mail.events e ON e.message_id = m.id WHERE m.id = $1 GROUP BY m.next_attempt_at",
        &[&id],
    )
}

#[test]
fn the_default_rules_are_there_by_their_names_and_nobody_has_changed_them() {
    let mut world = World::new();
    let rules: Vec<String> = world.all(
        "SELECT concat_ws(' ', name, action) FROM mail.reply_rule WHERE enabled AND fresh ORDER BY position, name",
        &[],
    );
    let expected = [
        "google-daily-limit suspend_relay",
        "google-relay-limit suspend_relay",
        "microsoft-quota suspend_relay",
        "microsoft-threads suspend_relay",
        "sendgrid-credits suspend_relay",
        "ses-daily-quota suspend_relay",
        "ses-sending-rate suspend_relay",
        "google-rate suspend_domain",
        "google-unusual-rate suspend_domain",
        "icloud-rate suspend_domain",
        "microsoft-blocked suspend_domain",
        "microsoft-rate suspend_domain",
        "yahoo-deferred suspend_domain",
        "try-again-in retry",
    ];
    assert_eq!(rules, expected);
}

const THROTTLED: &str = "454 Throttling failure: Maximum sending rate exceeded.";

#[test]
fn a_relay_whose_rate_is_used_up_is_left_alone_without_an_attempt_and_the_next_tier_takes_over() {
    let ses = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::reply(THROTTLED),
        _ => Action::Accept,
    });
    let spare = Sink::start();
    let mut world = World::new();
    world.relay("ses", &ses.url(), &[("tier", "1")]);
    world.relay("spare", &spare.url(), &[("tier", "2")]);
    let ids = world.put_many(40, "");
    all_sent_at_once(&mut world, &ids);
    assert_eq!((ses.count(), spare.count()), (0, 40));
    for id in &ids {
        let kinds = world.kinds(*id);
        assert!(!kinds.contains(&"deferred".to_owned()), "{kinds:?}");
    }
    world.until(
        "SELECT rule = 'ses-sending-rate' AND last_error LIKE '%Maximum sending rate exceeded%'
         FROM mail.relay_stats WHERE relay = 'ses'",
    );
    ses.clear_script();
    pgmq_mail_tests::until("the relay is used again", SOON, || {
        let id = world.put("alice@example.test", "again", "");
        world.reaches(id, "sent");
        ses.count() > 0
    });
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
}

#[test]
fn with_no_other_relay_mail_waits_without_an_attempt_until_the_rate_is_free_again() {
    let ses = Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::reply(THROTTLED),
        _ => Action::Accept,
    });
    let mut world = World::with(&ses);
    let ids = world.put_many(10, "");
    world.until("SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 2)");
    for id in &ids {
        world.waits(*id);
    }
    ses.clear_script();
    all_sent_at_once(&mut world, &ids);
    assert_eq!(ses.count(), 10);
}

#[test]
fn a_domain_that_objects_to_the_rate_gets_no_mail_for_a_while_and_others_do() {
    const WORDS: &str = "4.7.28 Gmail has detected an unusual rate of mail from your address";
    for (closes, at) in [
        (false, Phase::Rcpt),
        (false, Phase::Dot),
        (true, Phase::Rcpt),
        (true, Phase::Dot),
    ] {
        let sink = Sink::scripted(move |event| {
            let is_for = |to: &str| to.ends_with("@gmail.test");
            let hit = event.phase == at
                && (is_for(event.address()) || event.recipients.iter().any(|to| is_for(to)));
            match (hit, closes) {
                (false, _) => Action::Accept,
                (true, false) => Action::reply(&format!("450 {WORDS}")),
                (true, true) => Action::ReplyAndDrop(format!("421 {WORDS}")),
            }
        });
        let mut world = World::with(&sink);
        let first = world.put("a@gmail.test", "first", "");
        let waits = "next_attempt_at > clock_timestamp() + interval '10 minutes'";
        world.until(&format!(
            "SELECT {waits} IS TRUE FROM mail.messages WHERE id = {first}"
        ));
        let theirs = put_to(&mut world, "gmail.test", 40, "");
        let others = put_to(&mut world, "other.test", 40, "");
        let both = world.put("b@gmail.test, b@other.test", "both", "");
        all_sent_at_once(&mut world, &others);
        world.until(&format!(
            "SELECT count(*) = 40 FROM mail.messages WHERE id BETWEEN {} AND {} AND state = 'queued' AND attempts = 0 AND {waits}",
            theirs[0], theirs[39]
        ));
        world.until(&format!(
            "SELECT count(*) = 1 FROM mail.events WHERE message_id = {both} AND kind = 'sent'"
        ));
        let seen = (at, closes, world.story(first));
        assert_eq!(sink.count(), 41, "{seen:?}");
        // It is the domain's trouble and not the relay's.
        let health = world.health();
        assert!(
            health.iter().all(|line| !line.starts_with("relay")),
            "{seen:?}: {health:?}"
        );
    }
}

#[test]
fn what_a_domain_said_that_gets_no_mail_for_a_while_is_recorded_with_the_rule() {
    const WORDS: &str = "4.7.28 Gmail has detected an unusual rate of mail from your address";
    for reply in [
        Action::reply(&format!("450 {WORDS}")),
        Action::ReplyAndDrop(format!("421 {WORDS}")),
    ] {
        let said = reply.clone();
        let sink = Sink::scripted(move |event| match event.phase {
            Phase::Dot => said.clone(),
            _ => Action::Accept,
        });
        let mut world = World::with(&sink);
        let id = world.put("a@gmail.test", "first", "");
        world.until(&format!(
            "SELECT (next_attempt_at > clock_timestamp() + interval '10 minutes') IS TRUE
             FROM mail.messages WHERE id = {id}"
        ));
        let rules = decided(&mut world, id);
        assert_eq!(rules, ["google-rate"], "{reply:?}: {}", world.story(id));
        let error: Option<String> =
            world.one("SELECT last_error FROM mail.messages WHERE id = $1", &[&id]);
        assert!(
            error.as_ref().is_some_and(|e| e.contains("4.7.28")),
            "{error:?}"
        );
    }
}

#[test]
fn a_relay_that_says_when_to_try_again_is_heeded() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Rcpt if event.address().starts_with("grey") => {
            Action::reply("451 4.7.1 Greylisted, please try again in 2 seconds")
        }
        Phase::Rcpt if event.address().starts_with("late") => {
            Action::reply("450 Please retry in 5 minutes")
        }
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    let late = world.put("late@example.test", "late", "");
    world.reaches(late, "deferred");
    assert_eq!(decided(&mut world, late), ["try-again-in"]);
    let later = pause(&mut world, late);
    assert!((299.9..300.1).contains(&later), "{later}");

    let grey = world.put("grey@example.test", "grey", "");
    world.until(&format!(
        "SELECT count(*) = 1 FROM mail.events WHERE message_id = {grey}"
    ));
    sink.clear_script();
    assert_eq!(decided(&mut world, grey), ["try-again-in"]);
    world.reaches(grey, "sent");
    assert_eq!(world.kinds(grey), ["deferred", "sent"]);
    assert_eq!(world.attempts(grey), 2);
    let waited: f64 = world.one(
        "SELECT extract(epoch FROM max(at) - min(at))::float8 FROM mail.events WHERE message_id = $1",
        &[&grey],
    );
    assert!(waited >= 1.99, "{waited}");
}

#[test]
fn a_users_rules_decide_whatever_the_first_digit_says() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "gone@example.test") => Action::reply("450 4.1.1 No such user here"),
        (Phase::Rcpt, "grey@example.test") => Action::reply("550 5.7.1 Greylisted by policy"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.run(
        "INSERT INTO mail.reply_rule (name, position, code, pattern, action) VALUES ('gone', 1, '450', 'no such user', 'fail');
         INSERT INTO mail.reply_rule (name, position, status, pattern, action, duration)
         VALUES ('grey', 1, '5.7.', '^5\\.7\\.1 greylisted', 'retry', '1 hour')",
    );
    let gone = world.put("gone@example.test", "gone", "");
    world.reaches(gone, "failed");
    assert_eq!(
        (world.attempts(gone), decided(&mut world, gone)),
        (1, vec!["gone".to_owned()])
    );
    let grey = world.put("grey@example.test", "grey", "");
    world.reaches(grey, "deferred");
    assert_eq!(decided(&mut world, grey), ["grey"]);
    let later = pause(&mut world, grey);
    assert!((3599.9..3600.1).contains(&later), "{later}");
    // Each recipient for himself.
    let all = "gone@example.test, grey@example.test, good@example.test";
    let all = world.put(all, "all", "");
    world.reaches(all, "deferred");
    let events: Vec<String> = world.all(
        "SELECT concat_ws(' ', recipient, kind, detail ->> 'rule') FROM mail.events
         WHERE message_id = $1 ORDER BY recipient",
        &[&all],
    );
    let expected = [
        "gone@example.test failed gone",
        "good@example.test sent",
        "grey@example.test deferred grey",
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_mail_that_a_rule_holds_waits_until_somebody_lets_it_go_or_ends_it() {
    let sink = refusing("@odd.test", "550 5.7.1 Have a look at this");
    let mut world = World::with(&sink);
    world.run(
        "INSERT INTO mail.reply_rule (name, pattern, action) VALUES ('look', 'have a look', 'hold')",
    );
    let ids = put_to(&mut world, "odd.test", 3, "");
    for id in &ids {
        world.reaches(*id, "deferred");
        let held = "SELECT next_attempt_at = 'infinity' FROM mail.messages WHERE id = $1";
        assert!(world.one::<bool>(held, &[id]), "{}", world.story(*id));
        assert_eq!(decided(&mut world, *id), ["look"]);
    }
    world.ails(
        "held",
        "3 messages in queue \"default\" are held by a reply rule",
    );
    let severity: String = world.one(
        "SELECT severity FROM mail.health() WHERE \"check\" = 'held'",
        &[],
    );
    assert_eq!(severity, "warning");
    let other = world.put("a@other.test", "other", "");
    world.reaches(other, "sent");

    // Still refused: it is held again, and no dead letter.
    assert!(world.one::<bool>("SELECT mail.retry($1)", &[&ids[0]]));
    world.until(&format!(
        "SELECT attempts = 2 AND state = 'deferred' FROM mail.messages WHERE id = {}",
        ids[0]
    ));
    sink.clear_script();
    assert!(world.one::<bool>("SELECT mail.retry($1)", &[&ids[0]]));
    world.reaches(ids[0], "sent");
    assert!(!world.one::<bool>("SELECT mail.retry($1)", &[&ids[0]]));
    assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&ids[1]]));
    assert_eq!(world.state(ids[1]), "cancelled");
    world.ails("held", "1 messages");
    assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&ids[2]]));
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    assert_eq!(sink.count(), 2);
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    let mut world = World::new();
    for pattern in ["(", "[a-", r"\w{1000}{1000}", "(?<n>"] {
        let insert = format!(
            "INSERT INTO mail.reply_rule (name, pattern, action) VALUES ('x', {}, 'hold')",
            quoted(pattern)
        );
        let refused = code(world.client.batch_execute(&insert));
        assert_eq!(refused, SqlState::INVALID_PARAMETER_VALUE, "{pattern}");
    }
    let update = "UPDATE mail.reply_rule SET pattern = '(' WHERE name = 'try-again-in'";
    let refused = code(world.client.batch_execute(update));
    assert_eq!(refused, SqlState::INVALID_PARAMETER_VALUE);
}

#[test]
fn a_rule_for_one_relay_is_for_it_alone() {
    let sinks = [(); 2].map(|()| refusing("@odd.test", "450 4.3.0 Strange"));
    let mut world = World::new();
    world.relay("one", &sinks[0].url(), &[]);
    world.relay("two", &sinks[1].url(), &[]);
    world.queue("default", &[("relays", "{one}")]);
    world.queue("second", &[("transport", "smtp"), ("relays", "{two}")]);
    world.run(
        "INSERT INTO mail.reply_rule (name, relay, pattern, action) VALUES ('strange', 'one', 'strange', 'fail')",
    );
    let one = world.put("a@odd.test", "one", "");
    let two = world.put("a@odd.test", "two", ", queue => 'second'");
    world.reaches(one, "failed");
    world.reaches(two, "deferred");
    assert_eq!(decided(&mut world, one), ["strange"]);
    assert!(decided(&mut world, two).is_empty());
}

#[test]
fn a_rule_that_is_not_enabled_is_ignored() {
    let sink = refusing("@odd.test", "450 4.3.0 Strange, try again in 3 hours");
    let mut world = World::with(&sink);
    world.run(
        "INSERT INTO mail.reply_rule (name, position, pattern, action, enabled) VALUES ('off', 1, 'strange', 'fail', false);
         UPDATE mail.reply_rule SET enabled = false WHERE name = 'try-again-in'",
    );
    let id = world.put("a@odd.test", "x", "");
    world.until(&format!(
        "SELECT attempts >= 2 FROM mail.messages WHERE id = {id}"
    ));
    assert!(decided(&mut world, id).is_empty(), "{}", world.story(id));
    // It takes effect at commit.
    world.run("UPDATE mail.reply_rule SET enabled = true WHERE name = 'off'");
    world.reaches(id, "failed");
    assert_eq!(decided(&mut world, id), ["off"]);
}

#[test]
fn a_dump_brings_back_the_default_rules_that_were_changed_and_those_of_the_user() {
    const RULES: &str = "SELECT r::text FROM mail.reply_rule r ORDER BY name";
    let mut world = World::new();
    world.run(
        "UPDATE mail.reply_rule SET enabled = false WHERE name = 'google-rate';
         UPDATE mail.reply_rule SET duration = '3 minutes', action = 'suspend_relay' WHERE name = 'try-again-in';
         INSERT INTO mail.reply_rule (name, pattern, action) VALUES ('mine', 'look', 'hold');
         INSERT INTO mail.domain_limit VALUES ('slow.test', 3, 20, '2 seconds')",
    );
    let there: Vec<String> = world.all(RULES, &[]);
    let cluster = world.database.cluster();
    for archive in [false, true] {
        let folder = Folder::new("dump");
        let mut dump = cluster.program("pg_dump");
        if archive {
            dump.arg("-Fc");
        }
        let dump = run(dump.arg(world.database.name()), Cluster::PATIENCE);
        let file = folder.write("dump", dump.stdout);
        let database = Database::empty(cluster);
        let mut restore = if archive {
            let mut restore = cluster.program("pg_restore");
            restore.args(["--exit-on-error", "-d", database.name()]);
            restore
        } else {
            let mut restore = cluster.program("psql");
            restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.name()]);
            restore.arg("-f");
            restore
        };
        run(restore.arg(file), Duration::from_mins(1));
        let mut copy = World {
            client: database.connect(),
            database,
        };
        assert_eq!(copy.all::<String>(RULES, &[]), there);
        let limits: Vec<String> = copy.all("SELECT l::text FROM mail.domain_limit l", &[]);
        assert_eq!(limits, ["(slow.test,3,20,00:00:02)"]);
    }
}

#[test]
fn the_time_that_a_rule_gives_is_kept_however_often_it_is_needed() {
    let sink = refusing("@busy.test", "451 4.3.2 Terribly busy");
    let mut world = World::with(&sink);
    world.queue(
        "default",
        &[("retry_base", "1 hour"), ("retry_max", "1 hour")],
    );
    world.run(
        "INSERT INTO mail.reply_rule (name, pattern, action, duration) VALUES ('busy', 'busy', 'retry', '1 second')",
    );
    let id = world.put("alice@busy.test", "again", "");
    world.until(&format!(
        "SELECT attempts >= 5 FROM mail.messages WHERE id = {id}"
    ));
}
