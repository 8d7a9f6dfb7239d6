//! What is accepted, and what becomes of it.

use pgmq_mail_tests::{database, until};
use serde_json::{Value, json};

use crate::{SOON, claimed, messages, one, state, work};

#[test]
fn a_committed_enqueue_is_a_message_and_a_rolled_back_one_never_was() {
    let database = database();
    let mut client = work(&database);
    let mut other = database.connect();

    let mut transaction = client.transaction().unwrap();
    transaction
        .execute(
            "SELECT mail.enqueue('a@example.test', 'never', 'x', queue => 'work')",
            &[],
        )
        .unwrap();
    assert_eq!(
        messages(&mut other),
        0,
        "nobody else sees it before the commit"
    );
    transaction.rollback().unwrap();
    assert_eq!(messages(&mut other), 0);
    assert_eq!(claimed(&mut other, 10), [""; 0]);

    let mut transaction = client.transaction().unwrap();
    transaction
        .execute(
            "SELECT mail.enqueue('a@example.test', 'real', 'x', queue => 'work')",
            &[],
        )
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(claimed(&mut other, 10), ["real"]);
}

#[test]
fn a_savepoint_that_is_rolled_back_takes_its_mail_along() {
    let database = database();
    let mut client = work(&database);
    let mut transaction = client.transaction().unwrap();
    let enqueue = "SELECT mail.enqueue('a@example.test', $1, 'x', queue => 'work')";
    transaction.execute(enqueue, &[&"before"]).unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    savepoint.execute(enqueue, &[&"inside"]).unwrap();
    savepoint.rollback().unwrap();
    transaction.execute(enqueue, &[&"after"]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(claimed(&mut client, 10), ["before", "after"]);
}

#[test]
fn the_first_mail_after_create_extension_is_captured_without_any_configuration() {
    let database = database();
    let mut client = database.connect();
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue('Ann <ann@example.test>', 'Grüße', 'Hello, Ann!', '<p>Hello</p>')",
        &[],
    );
    until("it is captured", SOON, || state(&mut client, id) == "sent");
    let row = client
        .query_one("SELECT * FROM mail.captured WHERE message_id = $1", &[&id])
        .unwrap();
    assert_eq!(
        row.get::<_, Vec<String>>("recipients"),
        ["ann@example.test"]
    );
    let mime: String = row.get("mime");
    for part in [
        "To: Ann <ann@example.test>\r\n",
        "Hello, Ann!",
        "<p>Hello</p>",
        "Message-ID: <",
    ] {
        assert!(mime.contains(part), "{part} is missing in:\n{mime}");
    }
    assert!(mime.is_ascii(), "headers are encoded:\n{mime}");
}

#[test]
fn both_forms_say_the_same_mail() {
    let database = database();
    let mut client = database.connect();
    let text: i64 = one(
        &mut client,
        "SELECT mail.enqueue('Ann <a@example.test>, b@example.test', 'hello', 'x',
                             sender => 'me@example.test')",
        &[],
    );
    let message = json!({"from": "me@example.test", "to": ["Ann <a@example.test>", "b@example.test"],
                         "subject": "hello", "text": "x"});
    let json: i64 = one(
        &mut client,
        "SELECT mail.enqueue(message => $1)",
        &[&message],
    );
    let [text, json] = [text, json].map(|id| {
        until("it is captured", SOON, || state(&mut client, id) == "sent");
        let row = client
            .query_one(
                "SELECT mime, recipients FROM mail.captured WHERE message_id = $1",
                &[&id],
            )
            .unwrap();
        let mime: String = row.get(0);
        let lines: Vec<String> = mime
            .lines()
            .filter(|line| !line.starts_with("Message-ID:") && !line.starts_with("Date:"))
            .map(str::to_owned)
            .collect();
        (lines, row.get::<_, Vec<String>>(1))
    });
    assert_eq!(text, json);
}

#[test]
fn lists_display_names_cc_and_bcc_all_become_recipients_and_bcc_is_told_to_nobody() {
    let database = database();
    let mut client = database.connect();
    let id: i64 = one(
        &mut client,
        r#"SELECT mail.enqueue('a@example.test, "B, the second" <b@example.test>', 'list', 'x',
               options => '{"cc": ["c@example.test"], "bcc": ["D <d@example.test>"]}')"#,
        &[],
    );
    let recipients: Vec<String> = one(
        &mut client,
        "SELECT recipients FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(
        recipients,
        [
            "a@example.test",
            "b@example.test",
            "c@example.test",
            "d@example.test"
        ]
    );
    until("it is captured", SOON, || state(&mut client, id) == "sent");
    let mime: String = one(
        &mut client,
        "SELECT mime FROM mail.captured WHERE message_id = $1",
        &[&id],
    );
    assert!(mime.contains("Cc: c@example.test"), "{mime}");
    assert!(
        !mime.contains("d@example.test") && !mime.to_lowercase().contains("bcc:"),
        "{mime}"
    );
}

#[test]
fn headers_are_sent_and_metadata_and_tags_are_not() {
    let database = database();
    let mut client = database.connect();
    let message = json!({"from": "me@example.test", "to": ["a@example.test"], "subject": "x",
        "text": "x", "reply_to": ["r@example.test"], "headers": {"X-Order": "4711"},
        "metadata": {"order": 815}, "tags": ["invoice"]});
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue(message => $1)",
        &[&message],
    );
    until("it is captured", SOON, || state(&mut client, id) == "sent");
    let mime: String = one(
        &mut client,
        "SELECT mime FROM mail.captured WHERE message_id = $1",
        &[&id],
    );
    assert!(mime.contains("X-Order: 4711\r\n") && mime.contains("Reply-To: r@example.test\r\n"));
    assert!(!mime.contains("815") && !mime.contains("invoice"), "{mime}");
    let row = client
        .query_one(
            "SELECT metadata, tags FROM mail.messages WHERE id = $1",
            &[&id],
        )
        .unwrap();
    assert_eq!(row.get::<_, Value>(0), json!({"order": 815}));
    assert_eq!(row.get::<_, Vec<String>>(1), ["invoice"]);
}

#[test]
fn a_batch_returns_its_ids_in_order_and_is_all_or_none() {
    let database = database();
    let mut client = work(&database);
    let mail = |subject: &str| json!({"to": ["a@example.test"], "subject": subject, "text": "x"});
    let messages_in: Vec<Value> = ["one", "two", "three"].iter().map(|&s| mail(s)).collect();
    let rows = client
        .query(
            "SELECT mail.enqueue_batch($1, queue => 'work')",
            &[&messages_in],
        )
        .unwrap();
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let subjects: Vec<String> = ids
        .iter()
        .map(|id| {
            one(
                &mut client,
                "SELECT subject FROM mail.messages WHERE id = $1",
                &[id],
            )
        })
        .collect();
    assert_eq!(subjects, ["one", "two", "three"]);
    assert_eq!(claimed(&mut client, 10), ["one", "two", "three"]);

    let wrong = vec![mail("four"), json!({"to": ["nonsense"], "text": "x"})];
    let result = client.query("SELECT mail.enqueue_batch($1)", &[&wrong]);
    let error = result.expect_err("the second has no recipient");
    let error = error.as_db_error().expect("an answer of the server");
    assert_eq!(error.code().code(), "22023");
    assert!(error.message().starts_with("messages[2]: "), "{error:?}");
    assert_eq!(messages(&mut client), 3, "none of a batch with a wrong one");
    let none: Vec<Value> = Vec::new();
    let rows = client
        .query("SELECT mail.enqueue_batch($1, queue => 'work')", &[&none])
        .unwrap();
    assert!(rows.is_empty());
}

#[test]
fn an_external_queue_takes_any_json() {
    let database = database();
    let mut client = work(&database);
    let message = json!({"anything": [1, 2, {"goes": null}]});
    let _: i64 = one(
        &mut client,
        "SELECT mail.enqueue(message => $1, queue => 'work')",
        &[&message],
    );
    let back: Value = one(&mut client, "SELECT message FROM mail.claim('work')", &[]);
    assert_eq!(back, message);
}

#[test]
fn the_message_id_is_fixed_at_enqueue() {
    let database = database();
    let mut client = database.connect();
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'x', 'x')",
        &[],
    );
    let message_id: String = one(
        &mut client,
        "SELECT message_id FROM mail.messages WHERE id = $1",
        &[&id],
    );
    until("it is captured", SOON, || state(&mut client, id) == "sent");
    let mime: String = one(
        &mut client,
        "SELECT mime FROM mail.captured WHERE message_id = $1",
        &[&id],
    );
    assert!(
        mime.contains(message_id.trim_matches(['<', '>'])),
        "{message_id} in\n{mime}"
    );
}

#[test]
fn metadata_is_kept_to_the_last_digit() {
    let database = database();
    let mut client = database.connect();
    let deep = format!(r#"{{"deep": {}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let given = [
        r#"{"n": 123456789012345678901234567890, "d": 0.10, "i": 9007199254740993.5}"#,
        r#"{"e": 1e400}"#,
        r#"{"s": "Grüße \"\\\n", "list": [null, true, {}]}"#,
        &deep,
    ];
    for metadata in given {
        for call in [
            "mail.enqueue(message => jsonb_build_object('to', 'a@example.test', 'metadata', m))",
            "mail.enqueue('a@example.test', options => jsonb_build_object('metadata', m))",
        ] {
            let id: i64 = one(
                &mut client,
                &format!("SELECT {call} FROM (SELECT $1::text::jsonb) AS given (m)"),
                &[&metadata],
            );
            let same: Option<bool> = one(
                &mut client,
                "SELECT metadata::text = $2::text::jsonb::text FROM mail.messages WHERE id = $1",
                &[&id, &metadata],
            );
            assert_eq!(same, Some(true), "{call} of {metadata}");
        }
    }
    let without: i64 = one(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'none')",
        &[],
    );
    let none: bool = one(
        &mut client,
        "SELECT metadata IS NULL FROM mail.messages WHERE id = $1",
        &[&without],
    );
    assert!(none);
}

#[test]
fn the_callers_search_path_decides_nothing_about_metadata() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute(
            "CREATE SCHEMA mine; CREATE DOMAIN mine.jsonb AS text CHECK (VALUE = 'never');
             SET search_path = mine, pg_catalog",
        )
        .unwrap();
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue('a@example.test', options => '{\"metadata\": {\"k\": 1.50}}')",
        &[],
    );
    let metadata: String = one(
        &mut client,
        "SELECT metadata::text FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(metadata, r#"{"k": 1.50}"#);
}

#[test]
fn an_external_queue_takes_a_mail_without_any_sender() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute("INSERT INTO mail.queue (name, transport) VALUES ('ext', 'external')")
        .unwrap();
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue('Ann <a@example.test>', 'hi', queue => 'ext')",
        &[],
    );
    let row = client
        .query_one("SELECT id, message, recipients FROM mail.claim('ext')", &[])
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), id);
    assert_eq!(
        row.get::<_, Value>(1),
        json!({"to": ["Ann <a@example.test>"], "subject": "hi"})
    );
    assert_eq!(row.get::<_, Vec<String>>(2), ["a@example.test"]);
}

#[test]
fn an_external_queue_keeps_deep_json_and_its_subject() {
    let database = database();
    let mut client = work(&database);
    let deep = format!(
        r#"{{"subject": "deep", "n": 1e400, "x": {}{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue(message => $1::text::jsonb, queue => 'work')",
        &[&deep],
    );
    let subject: Option<String> = one(
        &mut client,
        "SELECT subject FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(subject.as_deref(), Some("deep"));
    let same: bool = one(
        &mut client,
        "SELECT message = $1::text::jsonb FROM mail.claim('work')",
        &[&deep],
    );
    assert!(same);
}

#[test]
fn a_quoted_local_part_reaches_envelope_and_header_as_it_is() {
    let database = database();
    let mut client = database.connect();
    let id: i64 = one(
        &mut client,
        r#"SELECT mail.enqueue('Ann <"a b"@example.test>, "c, \"d"@example.test, "plain"@example.test', 's', 't')"#,
        &[],
    );
    let recipients: Vec<String> = one(
        &mut client,
        "SELECT recipients FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(
        recipients,
        [
            r#""a b"@example.test"#,
            r#""c, \"d"@example.test"#,
            "plain@example.test"
        ]
    );
    until("it is captured", SOON, || state(&mut client, id) == "sent");
    let mime: String = one(
        &mut client,
        "SELECT mime FROM mail.captured WHERE message_id = $1",
        &[&id],
    );
    for part in [
        r#"Ann <"a b"@example.test>"#,
        r#""c, \"d"@example.test"#,
        " plain@example.test",
    ] {
        assert!(mime.contains(part), "{part} is missing in:\n{mime}");
    }
}
