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
fn a_refusal_of_a_template_is_an_error_and_never_a_mail_without_it() {
    let database = database();
    let error = refusal(
        &database,
        "SELECT mail.enqueue('a@example.test', template => 'missing')",
    );
    assert!(
        ["42704", "0A000"].contains(&error.code().code()),
        "{error:?}"
    );
    assert!(error.message().contains("template"), "{error:?}");
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
