//! `mail.sender_grant`: who may send as whom.

use pgmq_mail_tests::{code, database};
use postgres::Client;

use crate::{all, one};

/// Sends from `from` through a queue.
fn send(client: &mut Client, queue: &str, from: &str) -> Result<i64, postgres::Error> {
    let query = "SELECT mail.enqueue('a@example.test', 'x', 'x', sender => $1, queue => $2)";
    client
        .query_one(query, &[&from, &queue])
        .map(|row| row.get(0))
}

#[track_caller]
fn refused<T>(result: Result<T, postgres::Error>, expected: &str) {
    let Err(error) = result else {
        panic!("accepted: {expected}")
    };
    let error = error.as_db_error().expect("an answer of the server");
    assert_eq!(
        (error.code().code(), error.message()),
        ("42501", expected),
        "{error:?}"
    );
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("mail.sender_grant")),
        "{error:?}"
    );
}

/// A queue for mail, and an administrator.
fn shop(database: &pgmq_mail_tests::Database<'_>) -> Client {
    let mut admin = database.connect_as(&format!("senders_{}", database.name()), &["mail_admin"]);
    admin
        .batch_execute(
            "INSERT INTO mail.queue (name, transport, default_sender, return_path, paused)
             VALUES ('shop', 'capture', 'Shop <shop@example.test>', 'bounce@example.test', true)",
        )
        .unwrap();
    admin
}

#[test]
fn without_grants_anybody_sends_as_anybody() {
    let database = database();
    let mut admin = shop(&database);
    let mut sender = database.connect_as("senders_1_one", &["mail_sender"]);
    send(&mut sender, "shop", "ceo@bank.test").unwrap();
    // What is granted for another queue says nothing about this one.
    admin
        .batch_execute(
            "INSERT INTO mail.sender_grant (role, queue, sender) VALUES ('senders_1_two', 'default', 'a@b.test')",
        )
        .unwrap();
    send(&mut sender, "shop", "ceo@bank.test").unwrap();
    refused(
        send(&mut sender, "default", "ceo@bank.test"),
        "role \"senders_1_one\" may not send as \"ceo@bank.test\" (sender)",
    );
}

#[test]
fn a_grant_restricts_its_queue_to_what_is_granted_at_commit() {
    let database = database();
    let mut admin = shop(&database);
    let mut one = database.connect_as("senders_2_one", &["mail_sender"]);
    let mut two = database.connect_as("senders_2_two", &["mail_sender"]);
    send(&mut one, "shop", "x@b.test").unwrap();
    admin
        .batch_execute(
            "BEGIN; INSERT INTO mail.sender_grant (role, sender) VALUES ('senders_2_one', 'b.test')",
        )
        .unwrap();
    send(&mut one, "shop", "x@c.test").unwrap();
    admin.batch_execute("COMMIT").unwrap();
    for queue in ["shop", "default"] {
        send(&mut one, queue, "x@b.test").unwrap();
        for (client, role, from) in [
            (&mut one, "senders_2_one", "x@c.test"),
            (&mut two, "senders_2_two", "x@b.test"),
        ] {
            let expected = format!("role \"{role}\" may not send as \"{from}\" (sender)");
            refused(send(client, queue, from), &expected);
        }
    }
    // The default sender needs none.
    send(&mut two, "shop", "Anything <SHOP@example.test>").unwrap();
    two.query_one(
        "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'shop')",
        &[],
    )
    .unwrap();
    admin
        .batch_execute("DELETE FROM mail.sender_grant")
        .unwrap();
    send(&mut two, "shop", "x@b.test").unwrap();
    admin
        .batch_execute("UPDATE mail.queue SET restrict_senders = true WHERE name = 'shop'")
        .unwrap();
    refused(
        send(&mut two, "shop", "x@b.test"),
        "role \"senders_2_two\" may not send as \"x@b.test\" (sender)",
    );
    send(&mut two, "default", "x@b.test").unwrap();
}

#[test]
fn grants_go_with_a_queue_that_is_renamed() {
    let database = database();
    let mut admin = shop(&database);
    let mut sender = database.connect_as("senders_7_one", &["mail_sender"]);
    admin
        .batch_execute(
            "INSERT INTO mail.sender_grant (role, queue, sender) VALUES ('senders_7_one', 'shop', 'b.test'), ('senders_7_one', 'default', 'c.test');
             UPDATE mail.queue SET name = 'store' WHERE name = 'shop'",
        )
        .unwrap();
    send(&mut sender, "store", "x@b.test").unwrap();
    refused(
        send(&mut sender, "store", "x@c.test"),
        "role \"senders_7_one\" may not send as \"x@c.test\" (sender)",
    );
    send(&mut sender, "default", "x@c.test").unwrap();
}

#[test]
fn members_of_a_role_have_its_grants() {
    let database = database();
    let mut admin = shop(&database);
    database.connect_as("senders_3_group", &["mail_sender"]);
    let mut member = database.connect_as("senders_3_member", &["senders_3_group"]);
    let mut other = database.connect_as("senders_3_one", &["mail_sender"]);
    admin
        .batch_execute(
            "INSERT INTO mail.sender_grant (role, queue, sender) VALUES
             ('senders_3_group', 'shop', '*.Example.TEST'), ('nobody at all', 'shop', '*')",
        )
        .unwrap();
    send(&mut member, "shop", "x@a.example.test").unwrap();
    refused(
        send(&mut member, "shop", "x@example.test"),
        "role \"senders_3_member\" may not send as \"x@example.test\" (sender)",
    );
    refused(
        send(&mut other, "shop", "x@a.example.test"),
        "role \"senders_3_one\" may not send as \"x@a.example.test\" (sender)",
    );
    let mut root = database.connect();
    root.batch_execute(
        "REVOKE senders_3_group FROM senders_3_member; GRANT mail_sender TO senders_3_member",
    )
    .unwrap();
    refused(
        send(&mut member, "shop", "x@a.example.test"),
        "role \"senders_3_member\" may not send as \"x@a.example.test\" (sender)",
    );
    root.batch_execute("GRANT senders_3_group TO senders_3_member")
        .unwrap();
    // Within a SECURITY DEFINER function it is its owner's rights that count.
    root.batch_execute(
        "CREATE FUNCTION public.by_member() RETURNS bigint LANGUAGE sql SECURITY DEFINER
         AS $$ SELECT mail.enqueue('a@example.test', 'x', 'x', sender => 'x@a.example.test', queue => 'shop') $$;
         ALTER FUNCTION public.by_member() OWNER TO senders_3_member",
    )
    .unwrap();
    one::<i64>(&mut other, "SELECT public.by_member()", &[]);
    let findings: Vec<String> = all(
        &mut admin,
        "SELECT detail FROM mail.health() WHERE \"check\" = 'sender_grant'",
        &[],
    );
    assert_eq!(
        findings,
        ["the grant to send as * is for a role \"nobody at all\" that does not exist"]
    );
}

#[test]
fn every_place_that_names_a_sender_is_looked_at_in_both_forms_and_in_the_preview() {
    let database = database();
    let mut admin = shop(&database);
    admin
        .batch_execute("INSERT INTO mail.sender_grant (role, queue, sender) VALUES ('senders_4_one', 'shop', 'me@b.test')")
        .unwrap();
    let mut sender = database.connect_as("senders_4_one", &["mail_sender"]);
    let raw = |head: &str| {
        format!(
            "jsonb_build_object('raw', encode(convert_to(E'To: a@example.test\\r\\n{head}\\r\\n\\r\\nx', 'UTF8'), 'base64'))"
        )
    };
    let json =
        |text: &str| format!("'{{\"to\": \"a@example.test\", \"text\": \"x\", {text}}}'::jsonb");
    let cases = [
        (
            json(r#""from": "you@b.test""#),
            Some(("you@b.test", "from")),
        ),
        (
            json(r#""from": "me@b.test", "sender": "you@b.test""#),
            Some(("you@b.test", "sender")),
        ),
        (
            json(r#""sender": "you@b.test""#),
            Some(("you@b.test", "sender")),
        ),
        (
            json(r#""from": "me@b.test", "return_path": "you@b.test""#),
            Some(("you@b.test", "return_path")),
        ),
        (
            json(r#""return_path": "<you@b.test>""#),
            Some(("you@b.test", "return_path")),
        ),
        (
            json(r#""from": "\"me@b.test\" <you@b.test>""#),
            Some(("you@b.test", "from")),
        ),
        (raw("From: you@b.test"), Some(("you@b.test", "From of raw"))),
        (
            raw("From: me@b.test\\r\\nSender: you@b.test"),
            Some(("you@b.test", "Sender of raw")),
        ),
        (
            raw("From: me@b.test") + r#" || '{"return_path": "you@b.test"}'"#,
            Some(("you@b.test", "return_path")),
        ),
        (
            json(r#""from": "Me <ME@B.test>", "sender": "me@b.test", "return_path": "me@b.test""#),
            None,
        ),
        (json(r#""return_path": """#), None),
        (json(r#""return_path": "me@b.test""#), None),
        (raw("From: me@b.test\\r\\nReturn-Path: <you@b.test>"), None),
        (raw("From: shop@example.test"), None),
    ];
    for (message, culprit) in cases {
        for call in [
            format!("SELECT mail.enqueue({message}, queue => 'shop')"),
            format!("SELECT mail.enqueue_batch(ARRAY[{message}], 'shop')"),
            format!("SELECT mail.preview({message} || '{{\"queue\": \"shop\"}}')"),
        ] {
            let result = sender.query_one(&call, &[]);
            let Some((address, field)) = culprit else {
                result.unwrap_or_else(|error| panic!("{call}: {error:?}"));
                continue;
            };
            let place = if call.contains("batch") {
                "messages[1]: "
            } else {
                ""
            };
            refused(
                result,
                &format!("{place}role \"senders_4_one\" may not send as \"{address}\" ({field})"),
            );
        }
    }
    refused(
        sender.query_one(
            "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'shop', options => '{\"sender\": \"you@b.test\"}')",
            &[],
        ),
        "role \"senders_4_one\" may not send as \"you@b.test\" (sender)",
    );
    let froms: Vec<String> = all(
        &mut admin,
        "SELECT DISTINCT envelope_from FROM mail.messages WHERE envelope_from NOT IN ('', 'bounce@example.test') ORDER BY 1",
        &[],
    );
    assert!(
        froms
            .iter()
            .all(|from| from.eq_ignore_ascii_case("me@b.test")),
        "{froms:?}"
    );
}

#[test]
fn fields_that_show_another_sender_are_refused_where_senders_are_restricted() {
    let database = database();
    let mut admin = shop(&database);
    admin
        .batch_execute("INSERT INTO mail.sender_grant (role, queue, sender) VALUES ('senders_8_one', 'shop', 'me@b.test')")
        .unwrap();
    let mut sender = database.connect_as("senders_8_one", &["mail_sender"]);
    for (message, header, place) in [
        (
            r#"'{"to": "a@example.test", "from": "me@b.test", "text": "x", "headers": {"resent-FROM": "you@b.test"}}'::jsonb"#,
            "Resent-From",
            "headers",
        ),
        (
            r"jsonb_build_object('raw', encode(E'To: a@example.test\nFrom: me@b.test\nResent-Sender: you@b.test\n\nx', 'base64'))",
            "Resent-Sender",
            "raw",
        ),
    ] {
        refused(
            sender.query_one(
                &format!("SELECT mail.enqueue({message}, queue => 'shop')"),
                &[],
            ),
            &format!("{header} cannot be given where senders are restricted ({place})"),
        );
        sender
            .query_one(&format!("SELECT mail.enqueue({message})"), &[])
            .expect("nobody's senders are restricted there");
    }
}

#[test]
fn what_a_consumer_of_others_gets_is_not_looked_at() {
    let database = database();
    let mut admin = shop(&database);
    admin
        .batch_execute(
            "INSERT INTO mail.queue (name, transport) VALUES ('work', 'external');
             INSERT INTO mail.sender_grant (role, sender) VALUES ('senders_5_two', 'b.test')",
        )
        .unwrap();
    let mut sender = database.connect_as("senders_5_one", &["mail_sender"]);
    send(&mut sender, "work", "x@anywhere.test").unwrap();
    let update = "UPDATE mail.queue SET restrict_senders = true WHERE name = 'work'";
    assert_eq!(code(admin.execute(update, &[])).code(), "23514");
}

#[test]
fn a_grant_is_checked_and_stored_in_its_canonical_form() {
    let database = database();
    let mut admin = shop(&database);
    let insert =
        "INSERT INTO mail.sender_grant (role, sender, queue) VALUES ('r', $1, $2) RETURNING sender";
    let none: Option<&str> = None;
    for (given, stored) in [
        (" Sales@Bücher.example ", "sales@xn--bcher-kva.example"),
        ("Example.test", "example.test"),
        ("*.Example.test", "*.example.test"),
        ("*", "*"),
    ] {
        assert_eq!(one::<String>(&mut admin, insert, &[&given, &none]), stored);
        let again = admin.query_one(insert, &[&stored, &none]);
        assert_eq!(code(again).code(), "23505", "{given}");
        one::<String>(&mut admin, insert, &[&given, &"shop"]);
    }
    for bad in [
        "",
        "a b",
        "@example.test",
        "*x.test",
        "A <a@b.test>",
        "a@b.test, c@d.test",
    ] {
        let error = admin.query_one(insert, &[&bad, &none]).expect_err(bad);
        let error = error.as_db_error().expect("an answer of the server");
        assert_eq!(error.code().code(), "22023", "{bad}: {error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
    let mut sender = database.connect_as("senders_6_one", &["mail_sender"]);
    for call in [
        "SELECT * FROM mail.sender_grant",
        "INSERT INTO mail.sender_grant (role, sender) VALUES ('senders_6_one', '*')",
    ] {
        assert_eq!(code(sender.execute(call, &[])).code(), "42501", "{call}");
    }
}
