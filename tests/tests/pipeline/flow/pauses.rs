//! What people are told of the pauses that reply rules make: of a relay, of a recipient domain.

use pgmq_mail_tests::{Action, Phase, Sink};

use super::put_to;
use crate::World;

const QUOTA: &str = "454 Throttling failure: Daily message quota exceeded.";
const RATE: &str = "4.7.28 Gmail has detected an unusual rate of mail from your address";

/// Says this instead of taking the text.
fn saying(words: &'static str) -> Sink {
    Sink::scripted(move |event| match event.phase {
        Phase::Dot => Action::reply(words),
        _ => Action::Accept,
    })
}

/// What the worker of this database has said of relays in the log.
#[track_caller]
fn log(world: &mut World<'_>) -> Vec<String> {
    let pid: i32 = world.one("SELECT pid FROM mail.workers", &[]);
    let ours = format!("[{pid}]");
    let log = world.database.cluster().log();
    let lines = log.lines().filter(|line| line.contains(&ours));
    lines
        .filter_map(|line| line.split_once("pgmq_mail: relay "))
        .map(|(_, told)| told.to_owned())
        .collect()
}

/// The findings, as `severity check: detail`, but for those about the worker.
#[track_caller]
fn findings(world: &mut World<'_>) -> Vec<String> {
    world.all(
        "SELECT format('%s %s: %s', severity, \"check\", detail) FROM mail.health() ORDER BY 1",
        &[],
    )
}

#[test]
fn a_relay_that_a_rule_pauses_for_long_is_a_warning_and_not_down() {
    let sink = saying(QUOTA);
    let mut world = World::with(&sink);
    let id = world.put("a@example.test", "x", "");
    world.ails("relay", "is paused until");
    let found = findings(&mut world);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("warning relay: relay \"main\" is paused until 20"));
    assert!(
        found[0].contains("by rule \"ses-daily-quota\": ")
            && found[0].contains("Daily message quota exceeded"),
        "{found:?}"
    );
    assert_eq!(
        found[1],
        "warning relays: all relays of queue \"default\" are paused by reply rules: its messages wait"
    );
    let stats: String = world.one(
        "SELECT concat_ws(' ', state, rule, failures,
                          suspended_until - down_since BETWEEN interval '3599 s' AND interval '3601 s')
         FROM mail.relay_stats",
        &[],
    );
    assert_eq!(stats, "suspended ses-daily-quota 1 t");
    world.waits(id);

    sink.clear_script();
    world.run("UPDATE mail.relay SET max_connections = 3");
    world.reaches(id, "sent");
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    let told = log(&mut world);
    assert_eq!(
        told,
        [
            "\"main\" is paused for 3600 s by reply rule \"ses-daily-quota\", see mail.relay_stats",
            "\"main\" is up again"
        ]
    );
}

#[test]
fn a_providers_short_throttle_is_no_finding_and_no_line_in_the_log() {
    let sink = saying("454 Throttling failure: Maximum sending rate exceeded.");
    let mut world = World::with(&sink);
    let id = world.put("a@example.test", "x", "");
    let paused = "rule = 'ses-sending-rate' AND last_error LIKE '%Maximum sending rate exceeded%'";
    world.until(&format!(
        "SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 2 AND {paused})"
    ));
    assert_eq!(findings(&mut world), [""; 0]);
    sink.clear_script();
    world.reaches(id, "sent");
    world.until("SELECT state = 'up' AND rule IS NULL FROM mail.relay_stats");
    assert_eq!(log(&mut world), [""; 0]);
}

#[test]
fn a_relay_that_fails_behind_a_pause_is_down_since_then() {
    let sink = saying("454 Throttling failure: Maximum sending rate exceeded.");
    let mut world = World::with(&sink);
    world.put("a@example.test", "x", "");
    world.until("SELECT EXISTS (SELECT FROM mail.relay_stats WHERE rule IS NOT NULL)");
    world.run("CREATE TABLE before AS SELECT clock_timestamp() AS at");
    sink.set_script(|event| match event.phase {
        Phase::Connect => Action::reply("554 5.3.2 Not today"),
        _ => Action::Drop,
    });
    world.ails("relay", "\"main\" has been down since");
    world.until("SELECT rule IS NULL AND down_since > before.at FROM mail.relay_stats, before");
    let found = findings(&mut world);
    assert!(
        found.iter().all(|line| line.starts_with("critical relay")),
        "{found:?}"
    );
    assert_eq!(log(&mut world), ["\"main\" is down, see mail.relay_stats"]);
}

#[test]
fn what_is_given_back_since_the_next_relay_is_full_is_recorded_with_the_rule() {
    let (ses, spare) = (saying(QUOTA), Sink::start());
    let mut world = World::new();
    world.relay("ses", &ses.url(), &[("tier", "1")]);
    let limit = [
        ("tier", "2"),
        ("rate_limit", "1"),
        ("rate_window", "1 hour"),
    ];
    world.relay("spare", &spare.url(), &limit);
    world.queue("second", &[("transport", "smtp"), ("relays", "{spare}")]);
    let first = world.put("a@example.test", "x", ", queue => 'second'");
    world.reaches(first, "sent");
    let id = world.put("a@example.test", "x", "");
    world.until(&format!(
        "SELECT EXISTS (SELECT FROM mail.events WHERE message_id = {id})"
    ));
    let told: Vec<String> = world.all(
        "SELECT concat_ws(' ', kind, relay, detail ->> 'rule') FROM mail.events WHERE message_id = $1",
        &[&id],
    );
    assert_eq!(
        told,
        ["released ses ses-daily-quota"],
        "{}",
        world.story(id)
    );
    world.waits(id);
}

#[test]
fn a_domain_that_a_rule_pauses_is_shown_while_it_lasts_and_a_finding_while_mail_for_it_waits() {
    for closes in [false, true] {
        let sink = Sink::scripted(move |event| match event.phase {
            Phase::Dot if event.recipients[0].contains("other") => Action::Accept,
            Phase::Dot if closes => Action::ReplyAndDrop(format!("421 {RATE}")),
            Phase::Dot => Action::reply(&format!("450 {RATE}")),
            _ => Action::Accept,
        });
        let mut world = World::with(&sink);
        let first = world.put("a@Gmail.test", "x", "");
        world.ails("domain", "mail for gmail.test waits until 20");
        let found = findings(&mut world);
        assert_eq!(found.len(), 1, "{found:?}");
        let said = format!(
            "because relay \"main\" said: {} {RATE}",
            if closes { 421 } else { 450 }
        );
        assert!(
            found[0].starts_with("warning domain:") && found[0].ends_with(&said),
            "{found:?}"
        );
        let hint: String = world.one("SELECT hint FROM mail.health()", &[]);
        assert!(hint.contains("\"google-rate\""), "{hint}");
        let shown: String = world.one(
            "SELECT concat_ws(' ', domain, relay, rule, reason = $1::text,
                              suspended_until - since BETWEEN interval '899 s' AND interval '901 s', since < clock_timestamp())
             FROM mail.domain_stats",
            &[&said.split_once("said: ").map(|(_, words)| words)],
        );
        assert_eq!(shown, "gmail.test main google-rate t t t");

        // Mail for it waits, whichever it is; the pause goes on when its rule is switched off.
        world.run("UPDATE mail.reply_rule SET enabled = false WHERE name = 'google-rate'");
        let more = put_to(&mut world, "gmail.test", 3, "");
        let other = world.put("b@other.test", "x", "");
        world.reaches(other, "sent");
        assert!(world.one::<bool>("SELECT mail.cancel($1)", &[&first]));
        world.ails("domain", "gmail.test");
        for id in more {
            world.until(&format!("SELECT mail.cancel({id})"));
        }
        world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
        let still: i64 = world.one("SELECT count(*) FROM mail.domain_stats", &[]);
        assert_eq!(still, 1);

        // A new worker forgets it.
        sink.clear_script();
        let waits = world.put("a@gmail.test", "x", "");
        world.ails("domain", "gmail.test");
        world.run("SELECT pg_terminate_backend(pid) FROM mail.workers");
        world.reaches(waits, "sent");
        world.until("SELECT NOT EXISTS (SELECT FROM mail.domain_stats)");
        world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    }
}

#[test]
fn a_short_pause_of_a_domain_is_shown_until_it_is_over_and_no_finding() {
    let sink = saying("450 4.3.0 Odd");
    let mut world = World::with(&sink);
    world.run(
        "INSERT INTO mail.reply_rule (name, pattern, action, duration) VALUES ('odd', '\\bodd\\b', 'suspend_domain', '2 seconds')",
    );
    let id = world.put("a@odd.test", "x", "");
    world.until(
        "SELECT EXISTS (SELECT FROM mail.domain_stats WHERE domain = 'odd.test' AND rule = 'odd')",
    );
    assert_eq!(findings(&mut world), [""; 0]);
    sink.clear_script();
    world.reaches(id, "sent");
    world.until("SELECT NOT EXISTS (SELECT FROM mail.domain_stats)");
}
