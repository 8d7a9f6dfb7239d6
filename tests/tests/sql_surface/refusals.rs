//! Bad input: refused at enqueue, by a code that fits, naming the field, with nothing half-written.

use pgmq_mail_tests::{Database, database};
use postgres::error::DbError;

use crate::{messages, work};

#[track_caller]
fn refusal(database: &Database<'_>, query: &str) -> DbError {
    let mut client = database.connect();
    let error = match client.batch_execute(query) {
        Ok(()) => panic!("accepted: {query}"),
        Err(error) => error,
    };
    error
        .as_db_error()
        .unwrap_or_else(|| panic!("the server died of {query}: {error:?}"))
        .clone()
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn bad_input_is_refused_with_a_code_that_fits_and_the_name_of_the_field() {
    let cases = [
        // (arguments, SQLSTATE, named in the message or detail)
        ("'', 's', 't'", "22023", "recipient"),
        ("NULL::text, 's', 't'", "22023", "recipient"),
        ("'nonsense', 's', 't'", "22023", "recipient"),
        ("'a@', 's', 't'", "22023", "recipient"),
        ("'a b@example.test', 's', 't'", "22023", "recipient"),
        (
            "'a@example.test,, b@example.test x', 's', 't'",
            "22023",
            "recipient",
        ),
        (
            "'a@example.test', 's', 't', sender => 'nobody'",
            "22023",
            "sender",
        ),
        (
            "'a@example.test', E's\\nBcc: x@example.test', 't'",
            "22023",
            "subject",
        ),
        ("'a@example.test', E's\\rX: y', 't'", "22023", "subject"),
        (
            "E'a@example.test\\nb@example.test', 's', 't'",
            "22023",
            "recipient",
        ),
        (
            "'a@example.test', 's', 't', sender => E'a@example.test\\r\\nX: y'",
            "22023",
            "sender",
        ),
        (
            "'a@example.test', 's', 't', queue => 'missing'",
            "42704",
            "missing",
        ),
        (
            "'a@example.test', 's', 't', options => '{\"colour\": 1}'",
            "22023",
            "colour",
        ),
        (
            "'a@example.test', 's', 't', options => '{\"headers\": {\"X\": \"a\\nb\"}}'",
            "22023",
            "header",
        ),
        (
            "'a@example.test', 's', 't', options => '{\"headers\": {\"X Y\": \"a\"}}'",
            "22023",
            "header",
        ),
        (
            "'a@example.test', 's', 't', options => '{\"cc\": [\"nonsense\"]}'",
            "22023",
            "cc",
        ),
        ("'a@example.test', 's', repeat('x', 40000000)", "54000", ""),
        (
            "message => '{\"to\": [\"a@example.test\"], \"text\": \"x\", \"bbc\": []}'",
            "22023",
            "bbc",
        ),
        (
            "message => '{\"subject\": \"nobody gets this\", \"text\": \"x\"}'",
            "22023",
            "recipient",
        ),
        ("message => '{\"to\": 7, \"text\": \"x\"}'", "22023", "to"),
        (
            "message => '{\"to\": [\"a@example.test\"], \"subject\": 5, \"text\": \"x\"}'",
            "22023",
            "subject",
        ),
        ("'\"a<b\"@example.test', 's', 't'", "22023", "recipient"),
        ("E'\"a\\nb\"@example.test', 's', 't'", "22023", "recipient"),
        (
            "'a@example.test', 's', 't', queue => NULL",
            "22023",
            "queue",
        ),
        (
            "message => '{\"to\": \"a@example.test\"}', queue => NULL",
            "22023",
            "queue",
        ),
        ("message => '[1]'", "22023", "message"),
        ("message => NULL::jsonb", "22023", "message"),
    ];
    let database = database();
    for (arguments, code, name) in cases {
        let error = refusal(&database, &format!("SELECT mail.enqueue({arguments})"));
        assert_eq!(error.code().code(), code, "{arguments}: {error:?}");
        let said = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert!(
            said.contains(name),
            "{arguments} does not name {name}: {said}"
        );
        assert!(!error.message().contains('\n'), "{error:?}");
        assert!(!error.message().ends_with('.'), "{error:?}");
        let first = error.message().chars().next().unwrap();
        assert!(!first.is_uppercase(), "{error:?}");
    }
    assert_eq!(messages(&mut database.connect()), 0);
}

#[test]
fn a_template_that_does_not_exist_is_refused_alike_in_every_form() {
    let database = database();
    let calls = [
        "mail.enqueue('a@example.test', template => 'welcome')",
        "mail.enqueue('a@example.test', template => 'welcome', params => '{\"n\": 1}', locale => 'de')",
        r#"mail.enqueue('a@example.test', options => '{"template": "welcome", "params": {"n": 1}}')"#,
        r#"mail.enqueue(message => '{"to": "a@example.test", "template": "welcome"}')"#,
        r#"mail.enqueue(message => '{"to": "a@example.test", "template": "welcome", "params": {}, "locale": "de"}')"#,
        r#"mail.enqueue_batch(ARRAY['{"to": "a@example.test", "template": "welcome"}']::jsonb[])"#,
    ];
    for call in calls {
        let error = refusal(&database, &format!("SELECT {call}"));
        assert_eq!(error.code().code(), "42704", "{call}: {error:?}");
        let batch = call.contains("enqueue_batch");
        let place = if batch { "messages[1]: " } else { "" };
        assert_eq!(
            error.message(),
            format!("{place}template \"welcome\" does not exist"),
            "{call}"
        );
    }
    let odd = r#"SELECT mail.enqueue(message => '{"to": "a@example.test", "template": 7}')"#;
    let error = refusal(&database, odd);
    assert_eq!(error.code().code(), "22023", "{error:?}");
    assert!(error.message().contains("\"template\""), "{error:?}");
    assert_eq!(messages(&mut database.connect()), 0);
}

#[test]
fn fields_of_the_wrong_kind_are_refused_by_name() {
    let database = database();
    let wrong = [
        r#""attachments": "x""#,
        r#""attachments": [{"filename": "x"}]"#,
        r#""attachments": [{"filename": "a/b", "text": "x"}]"#,
        r#""attachments": [{"filename": "x", "content": "no base64!"}]"#,
        r#""list_unsubscribe": "x""#,
        r#""list_unsubscribe": {"url": "http://x.test/", "one_click": true}"#,
        r#""params": {}"#,
        r#""locale": "de""#,
        r#""render": "enqueue""#,
        r#""raw": "no base64!""#,
        r#""raw": "eDogeQ==""#,
        r#""template": "t", "text": "x""#,
    ];
    for fields in wrong {
        let message = format!(r#"{{"to": "a@example.test", {fields}}}"#);
        let call = format!("SELECT mail.enqueue(message => '{message}')");
        let error = refusal(&database, &call);
        assert_eq!(error.code().code(), "22023", "{fields}: {error:?}");
        let field = fields.split('"').nth(1).expect("a name");
        assert!(
            error.message().contains(field) || field == "template",
            "{error:?}"
        );
    }
    assert_eq!(messages(&mut database.connect()), 0);
}

#[test]
fn a_queue_that_is_null_is_not_the_default_queue() {
    let database = database();
    let calls = [
        "mail.enqueue('a@example.test', 's', 't', queue => NULL)",
        r#"mail.enqueue(message => '{"to": "a@example.test"}', queue => NULL)"#,
        r#"mail.enqueue_batch(ARRAY['{"to": "a@example.test"}']::jsonb[], queue => NULL)"#,
    ];
    for call in calls {
        let error = refusal(&database, &format!("SELECT {call}"));
        assert_eq!(error.code().code(), "22023", "{call}: {error:?}");
        assert!(error.message().contains("queue"), "{call}: {error:?}");
        assert!(error.hint().is_some(), "{call}: {error:?}");
    }
    assert_eq!(messages(&mut database.connect()), 0);
}

#[test]
fn every_field_counts_towards_the_largest_size() {
    let database = database();
    let of_default_limit = [
        "message => jsonb_build_object('to', 'a@example.test', 'metadata', jsonb_build_object('x', repeat('x', 37000000)))",
        "'a@example.test', 's', 't', options => jsonb_build_object('metadata', jsonb_build_object('x', repeat('x', 37000000)))",
        "message => jsonb_build_object('to', 'a@example.test', 'tags', (SELECT jsonb_agg(repeat('x', 150) || i) FROM generate_series(1, 250000) i))",
    ];
    for arguments in of_default_limit {
        let error = refusal(&database, &format!("SELECT mail.enqueue({arguments})"));
        assert_eq!(error.code().code(), "54000", "{arguments}: {error:?}");
    }
    let fields = [
        r#""metadata": {"x": "$"}"#,
        r#""tags": ["$", "a$", "b$", "c$", "d$"]"#,
        r#""in_reply_to": ["<$@x>", "<$@x>", "<$@x>", "<$@x>", "<$@x>"]"#,
        r#""references": ["<$@x>", "<$@x>", "<$@x>", "<$@x>", "<$@x>"]"#,
        r#""headers": {"X-A": "$$$$$"}"#,
        r#""cc": ["$ <a@example.test>", "$ <a@example.test>", "$ <a@example.test>", "$ <a@example.test>"]"#,
        r#""subject": "$$$$$""#,
        r#""message_id": "$$$$$@x""#,
        r#""return_path": "$$$$$@x""#,
    ];
    for field in fields {
        let field = field.replace('$', &"x".repeat(240)).replacen(
            "\"metadata\": {",
            &format!("\"metadata\": {{\"y\": \"{}\", ", "y".repeat(800)),
            1,
        );
        let query = format!(
            "SET pgmq_mail.max_message_size = '1kB';
             SELECT mail.enqueue(message => '{{\"to\": \"a@example.test\", {field}}}')"
        );
        let error = refusal(&database, &query);
        assert_eq!(error.code().code(), "54000", "{field}: {error:?}");
    }
    assert_eq!(messages(&mut database.connect()), 0);
}

#[test]
fn uncast_json_is_refused_with_a_hint() {
    let database = database();
    let error = refusal(
        &database,
        r#"SELECT mail.enqueue('{"to": ["a@example.test"], "subject": "x", "text": "x"}')"#,
    );
    assert_eq!(error.code().code(), "22023");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("message =>"), "{error:?}");
    assert!(hint.ends_with('.'), "{error:?}");
}

#[test]
fn no_credential_or_address_of_a_refused_mail_stands_in_the_log_above_debug() {
    let database = database();
    let error = refusal(
        &database,
        "SELECT mail.enqueue('fine@example.test', E's\\nX', 'the body with sesame in it')",
    );
    assert!(!error.message().contains("sesame"), "{error:?}");
    assert!(
        error
            .detail()
            .is_none_or(|detail| !detail.contains("sesame")),
        "{error:?}"
    );
}

#[test]
fn a_refused_call_leaves_the_transaction_usable_behind_a_savepoint() {
    let database = database();
    let mut client = work(&database);
    client
        .batch_execute(
            "BEGIN;
             SELECT mail.enqueue('a@example.test', 'good', 'x', queue => 'work');
             SAVEPOINT here;",
        )
        .unwrap();
    assert!(
        client
            .batch_execute("SELECT mail.enqueue('bad', 'x', 'x', queue => 'work')")
            .is_err()
    );
    client.batch_execute("ROLLBACK TO here; COMMIT").unwrap();
    assert_eq!(crate::claimed(&mut client, 10), ["good"]);
}

#[test]
fn claim_and_its_kin_refuse_bad_arguments() {
    let database = database();
    work(&database);
    let cases = [
        ("SELECT mail.claim('missing')", "42704", "missing"),
        ("SELECT mail.claim('work', batch => 0)", "22023", "batch"),
        ("SELECT mail.claim('work', batch => -1)", "22023", "batch"),
        (
            "SELECT mail.claim('work', lease => '-1 second')",
            "22023",
            "lease",
        ),
        (
            "SELECT mail.claim('work', wait => '-1 second')",
            "22023",
            "wait",
        ),
        (
            "SELECT mail.ack(ARRAY[1, 2]::bigint[], ARRAY[1]::bigint[])",
            "22023",
            "tokens",
        ),
        (
            "SELECT mail.nack(1, 1, retry_after => '-1 second')",
            "22023",
            "retry_after",
        ),
        ("SELECT mail.extend(1, 1, '-1 second')", "22023", "lease"),
        ("SELECT mail.pause('missing')", "42704", "missing"),
        ("SELECT mail.resume('missing')", "42704", "missing"),
        ("SELECT mail.purge('missing')", "42704", "missing"),
        (
            "SELECT mail.retry_dead_letters('missing')",
            "42704",
            "missing",
        ),
        (
            "SELECT mail.wait_idle('missing', '1 second')",
            "42704",
            "missing",
        ),
    ];
    for (query, code, name) in cases {
        let error = refusal(&database, query);
        assert_eq!(error.code().code(), code, "{query}: {error:?}");
        assert!(error.message().contains(name), "{query}: {error:?}");
    }
}
