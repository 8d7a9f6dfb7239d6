//! `mail.reply_rule`: what is refused; and what is said of rules, and of the pauses that they ask for.

use pgmq_mail_tests::database;
use postgres::{Client, Error};

use crate::{all, one};

/// What the worker notes of relays: name, pause, rule.
type News<'a> = &'a [(&'a str, &'a str, Option<&'a str>)];

/// Inserts a rule.
fn insert(
    client: &mut Client,
    pattern: Option<&str>,
    action: &str,
    duration: Option<&str>,
) -> Result<u64, Error> {
    client.execute(
        "INSERT INTO mail.reply_rule (name, code, pattern, action, duration) VALUES ('mine', '4', $1, $2, $3::text::interval)",
        &[&pattern, &action, &duration],
    )
}

/// The findings, as `severity check: detail`, but for those about the worker and the sender.
#[track_caller]
fn findings(client: &mut Client) -> Vec<String> {
    all(
        client,
        "SELECT format('%s %s: %s', severity, \"check\", detail) FROM mail.health()
         WHERE \"check\" NOT IN ('worker', 'sender') ORDER BY 1",
        &[],
    )
}

#[test]
fn a_rule_that_could_not_do_what_it_says_is_refused_with_a_reason() {
    let database = database();
    let mut client = database.connect();
    let cases = [
        (None, "retry", None, "22023", "no group \"n\""),
        (
            Some("in [0-9]+ s"),
            "retry",
            None,
            "22023",
            "no group \"n\"",
        ),
        (
            Some(r"\(?<n>[0-9]+"),
            "retry",
            None,
            "22023",
            "no group \"n\"",
        ),
        (
            Some("[(?<n>]"),
            "suspend_relay",
            None,
            "22023",
            "no group \"n\"",
        ),
        (
            Some("(?<no>x)"),
            "suspend_domain",
            None,
            "22023",
            "no group \"n\"",
        ),
        (Some("(?<n>"), "retry", None, "22023", "invalid pattern"),
        (
            None,
            "suspend_relay",
            Some("999 ms"),
            "23514",
            "suspends_for_a_second",
        ),
        (
            None,
            "suspend_domain",
            Some("0"),
            "23514",
            "suspends_for_a_second",
        ),
        (None, "retry", Some("-1 s"), "23514", "duration"),
        (None, "suspend_relay", Some("32 days"), "23514", "duration"),
    ];
    for (pattern, action, duration, code, said) in cases {
        let case = (pattern, action, duration);
        let error = insert(&mut client, pattern, action, duration).expect_err("it is refused");
        let error = error.as_db_error().expect("by the server");
        assert_eq!(error.code().code(), code, "{case:?}: {error:?}");
        assert!(error.message().contains(said), "{case:?}: {error:?}");
    }
    let error = insert(&mut client, None, "retry", None).expect_err("it is refused");
    let error = error.as_db_error().expect("by the server");
    assert_eq!(error.column(), Some("duration"));
    assert!(error.message().contains("rule \"mine\"") && error.hint().is_some());
}

#[test]
fn a_duration_is_read_from_a_group_however_it_is_written() {
    let database = database();
    let mut client = database.connect();
    for (pattern, action, duration) in [
        (Some(r"in (?<n>\d+)"), "retry", None),
        (Some(r"in (?P<n>\d+)"), "suspend_relay", None),
        (
            Some(r"(in|for) (?P<n>\d+) (?P<unit>\w)"),
            "suspend_domain",
            None,
        ),
        (None, "fail", None),
        (None, "hold", None),
        (None, "retry", Some("0")),
        (None, "suspend_relay", Some("1 s")),
    ] {
        insert(&mut client, pattern, action, duration).expect("it is accepted");
        let update = "UPDATE mail.reply_rule SET position = 5 WHERE name = 'mine'";
        client.execute(update, &[]).expect("it stays acceptable");
        let delete = "DELETE FROM mail.reply_rule WHERE name = 'mine'";
        client.execute(delete, &[]).expect("it can go");
    }
    let bare = "UPDATE mail.reply_rule SET pattern = 'wait' WHERE name = 'try-again-in'";
    let error = client
        .execute(bare, &[])
        .expect_err("nothing says for how long");
    assert_eq!(
        error.code().map(postgres::error::SqlState::code),
        Some("22023")
    );
}

#[test]
fn a_rule_for_a_relay_that_does_not_exist_is_a_finding_while_it_is_enabled() {
    let database = database();
    let mut client = database.connect();
    let mut after = |statement: &str| {
        client.batch_execute(statement).expect(statement);
        findings(&mut client)
    };
    let expected = ["warning rule: reply rule \"mine\" is for a relay \"ses\" that does not exist"];
    let insert = "INSERT INTO mail.reply_rule (name, relay, code, action) VALUES ('mine', 'ses', '4', 'hold')";
    assert_eq!(after(insert), expected);
    let switch =
        |on: bool| format!("UPDATE mail.reply_rule SET enabled = {on} WHERE name = 'mine'");
    assert_eq!(after(&switch(false)), [""; 0]);
    assert_eq!(after(&switch(true)), expected);
    // A relay that is switched off rests, and its rules with it.
    let relay =
        "INSERT INTO mail.relay (name, url, enabled) VALUES ('ses', 'smtp://127.0.0.1:1', false)";
    assert_eq!(after(relay), [""; 0]);
    assert_eq!(after("UPDATE mail.relay SET name = 'amazon'"), expected);
}

#[test]
fn health_tells_a_pause_that_a_rule_asked_for_from_a_relay_that_is_down() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute("UPDATE mail.queue SET transport = 'smtp' WHERE name = 'default'")
        .unwrap();
    // One transaction that is rolled back: the worker, which would forget all this, sees nothing of it.
    let mut told = |news: News<'_>| {
        client
            .batch_execute(
                "BEGIN; INSERT INTO mail.relay (id, name, url) VALUES (1, 'a', 'smtp://127.0.0.1:1'), (2, 'b', 'smtp://127.0.0.1:1')",
            )
            .unwrap();
        for (relay, pause, rule) in news {
            let down = "SELECT mail._relay_down(r.id, $2::text::interval, 'words', $3) FROM mail.relay r WHERE r.name = $1";
            client.execute(down, &[relay, pause, rule]).unwrap();
        }
        let found: Vec<String> = all(
            &mut client,
            "SELECT regexp_replace(format('%s %s: %s', severity, \"check\", detail), '[0-9]+-[^ ]+ [^ ]+', 'T') FROM mail.health()
             WHERE \"check\" NOT IN ('worker', 'sender') ORDER BY 1",
            &[],
        );
        client.batch_execute("ROLLBACK").unwrap();
        found
    };
    let by = Some("quota");
    let (hour, a_down, a_down_beside, a_paused, b_paused) = (
        "1 hour",
        "critical relay: relay \"a\" has been down since T words",
        "warning relay: relay \"a\" has been down since T words",
        "warning relay: relay \"a\" is paused until T by rule \"quota\": words",
        "warning relay: relay \"b\" is paused until T by rule \"quota\": words",
    );
    let all_of = "relays: all relays of queue \"default\" are";
    let cases: [(News<'_>, &[&str]); 8] = [
        (&[("a", "1 second", by), ("b", "59 seconds", by)], &[]),
        (&[("a", "1 minute", by)], &[a_paused]),
        (&[("a", "1 second", None)], &[a_down_beside]),
        (&[("a", "0", by), ("b", "0", by)], &[]),
        (
            &[("a", hour, by), ("b", hour, by)],
            &[
                a_paused,
                b_paused,
                &format!("warning {all_of} paused by reply rules: new messages will wait"),
            ],
        ),
        (
            &[("a", "1 second", None), ("b", hour, by)],
            &[
                a_down,
                &format!(
                    "critical {all_of} down, or paused by reply rules: new messages will wait"
                ),
                b_paused,
            ],
        ),
        (
            &[("a", "1 second", None), ("b", "1 second", None)],
            &[
                a_down,
                "critical relay: relay \"b\" has been down since T words",
                &format!("critical {all_of} down: new messages will wait"),
            ],
        ),
        // The last news count.
        (
            &[("a", hour, by), ("a", "1 second", None)],
            &[a_down_beside],
        ),
    ];
    for (news, expected) in cases {
        assert_eq!(told(news), expected, "{news:?}");
    }
}

#[test]
fn a_pause_long_after_another_is_a_new_one() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute(
            "BEGIN; INSERT INTO mail.relay (id, name, url) VALUES (1, 'a', 'smtp://127.0.0.1:1');
             SELECT mail._relay_down(1, '1 second', 'words', 'rate')",
        )
        .unwrap();
    let mut again = |ago: &str| -> Vec<String> {
        let statements = format!(
            "UPDATE mail.relay_trouble SET since = clock_timestamp() - interval '{ago}',
                 suspended_until = clock_timestamp() - interval '{ago}' + interval '1 second';
             SELECT mail._relay_down(1, '1 second', 'words', 'rate')"
        );
        client.batch_execute(&statements).unwrap();
        findings(&mut client)
    };
    assert_eq!(again("10 minutes"), [""; 0]);
    assert_eq!(again("3 minutes").len(), 1, "one after the other");
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn a_domains_pause_begins_once_and_is_forgotten_when_it_is_over() {
    let database = database();
    let mut client = database.connect();
    // In a transaction: a worker that starts meanwhile forgets what the one before it noted.
    client
        .batch_execute(
            "BEGIN;
             SELECT mail._domain_paused('over.test', '0', 'a', 'r', 'words');
             SELECT mail._domain_paused('x.test', '1 hour', 'a', 'r', 'first');
             CREATE TABLE first AS SELECT * FROM mail.domain_stats;
             SELECT mail._domain_paused('x.test', '2 hours', 'b', 's', 'second')",
        )
        .unwrap();
    let shown: Vec<String> = all(
        &mut client,
        "SELECT concat_ws(' ', d.domain, d.relay, d.rule, d.reason, d.since = f.since, d.suspended_until > f.suspended_until)
         FROM mail.domain_stats d, first f",
        &[],
    );
    assert_eq!(shown, ["x.test b s second t t"]);
    let left: i64 = one(&mut client, "SELECT count(*) FROM mail.domain_pause", &[]);
    assert_eq!(left, 1);
    // Nothing waits for it.
    assert_eq!(findings(&mut client), [""; 0]);
    client.batch_execute("ROLLBACK").unwrap();
}
