//! Line ends where a header or a command could be ended by them.

use pgmq_mail_tests::{Sink, code};
use postgres::error::SqlState;

use crate::World;

const ENDS: [&str; 6] = ["\r\n", "\n", "\r", "\u{b}", "\u{85}", "\r\n "];

#[test]
fn no_argument_takes_a_line_end_that_would_end_a_header() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    for end in ENDS {
        let attack = format!("x{end}Bcc: victim@example.test");
        let address = format!("a@example.test{end}Bcc: victim@example.test");
        let name = format!("\"A{end}Bcc: victim@example.test\" <a@example.test>");
        for (recipient, subject, sender) in [
            (&*address, "x", "s@example.test"),
            (&*name, "x", "s@example.test"),
            ("a@example.test", &*attack, "s@example.test"),
            ("a@example.test", "x", &*address),
            ("a@example.test", "x", &*name),
        ] {
            let result = world.client.query_one(
                "SELECT mail.enqueue($1, $2, 'text', sender => $3)",
                &[&recipient, &subject, &sender],
            );
            let refused = code(result);
            assert_eq!(
                refused,
                SqlState::INVALID_PARAMETER_VALUE,
                "{recipient:?} {subject:?} {sender:?}"
            );
        }
        let bare = format!("<1@example.test{end}Bcc: victim@example.test>");
        let header = serde_json::json!({ "X-A": &attack });
        let header_name = serde_json::json!({ format!("X-A{end}Bcc"): "victim@example.test" });
        for (field, value) in [
            ("from", serde_json::json!(address)),
            ("sender", serde_json::json!(address)),
            ("to", serde_json::json!([name])),
            ("cc", serde_json::json!([address])),
            ("bcc", serde_json::json!([name])),
            ("reply_to", serde_json::json!([address])),
            ("return_path", serde_json::json!(address)),
            ("subject", serde_json::json!(attack)),
            ("message_id", serde_json::json!(bare)),
            ("in_reply_to", serde_json::json!(bare)),
            ("references", serde_json::json!(bare)),
            ("headers", header),
            ("headers", header_name),
            ("tags", serde_json::json!([attack])),
        ] {
            let mut message = serde_json::json!({
                "from": "s@example.test", "to": ["a@example.test"], "subject": "x", "text": "x",
            });
            message[field] = value;
            let result = world
                .client
                .query_one("SELECT mail.enqueue(message => $1::jsonb)", &[&message]);
            assert_eq!(
                code(result),
                SqlState::INVALID_PARAMETER_VALUE,
                "{field}: {message}"
            );
            let options = serde_json::json!({ field: message[field] });
            let result = world.client.query_one(
                "SELECT mail.enqueue('b@example.test', text_body => 'x', options => $1::jsonb)",
                &[&options],
            );
            assert_eq!(
                code(result),
                SqlState::INVALID_PARAMETER_VALUE,
                "{field}: {options}"
            );
        }
    }
    assert_eq!(
        world.one::<i64>("SELECT count(*) FROM mail.messages", &[]),
        0
    );
    let id = world.put("alice@example.test", "good", "");
    world.reaches(id, "sent");
    assert_eq!(sink.count(), 1);
}

#[test]
fn no_configuration_takes_a_line_end_that_would_end_a_command() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    for end in ["\r\n", "\n", "\r"] {
        let attack = format!("app@example.test{end}RSET");
        for statement in [
            "UPDATE mail.queue SET default_sender = $1",
            "UPDATE mail.queue SET return_path = $1",
            "UPDATE mail.queue SET name = $1",
            "UPDATE mail.relay SET helo_name = $1",
            "UPDATE mail.relay SET username = $1",
            "UPDATE mail.relay SET url = 'smtp://' || $1",
            "UPDATE mail.relay SET name = $1",
        ] {
            let result = world.client.execute(statement, &[&attack]);
            let refused = code(result);
            assert!(
                [SqlState::INVALID_PARAMETER_VALUE, SqlState::CHECK_VIOLATION].contains(&refused),
                "{statement} {attack:?}: {refused:?}"
            );
        }
    }
    let id = world.put("alice@example.test", "good", "");
    world.reaches(id, "sent");
    assert!(sink.commands().iter().all(|(_, command)| command != "RSET"));
}

#[test]
fn what_looks_like_commands_in_a_body_stays_in_the_body() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let attack = "x\r\n.\r\nMAIL FROM:<evil@example.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\n\
                  Subject: evil\r\n\r\nevil\r\n.\r\n";
    for text in [
        attack.to_owned(),
        attack.replace("\r\n", "\n"),
        attack.replace("\r\n", "\r"),
    ] {
        for query in [
            "SELECT mail.enqueue('a@example.test', 'good', $1)",
            "SELECT mail.enqueue('a@example.test', 'good', NULL, $1)",
            "SELECT mail.enqueue('a@example.test', 'good', $1, '<p>' || $1 || '</p>')",
        ] {
            let id: i64 = world.one(query, &[&text]);
            world.reaches(id, "sent");
        }
    }
    assert_eq!(sink.count(), 9);
    for mail in sink.mails() {
        assert_eq!(mail.sender, "app@example.test");
        assert_eq!(mail.recipients, ["a@example.test"]);
    }
}
