//! What is composed, as an independent parser reads it.

mod common;

use common::{DATE, QUEUE, assert_legal, composed, json, plain, simple, to};
use mail_message::{ComposeError, Prepared, Simple, prepare_json};
use mail_parser::{Message, MessageParser};
use proptest::prelude::*;
use serde_json::json as j;

fn parsed(prepared: &Prepared) -> Message<'static> {
    let text = composed(prepared);
    MessageParser::new()
        .parse(text.as_bytes())
        .expect("a mail")
        .into_owned()
}

fn pairs(address: Option<&mail_parser::Address<'_>>) -> Vec<(Option<String>, String)> {
    let list = address
        .and_then(|address| address.as_list())
        .unwrap_or_default();
    list.iter()
        .map(|a| {
            (
                a.name().map(str::to_owned),
                a.address().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

fn some(name: &str, address: &str) -> (Option<String>, String) {
    (Some(name.to_owned()), address.to_owned())
}

#[test]
fn a_plain_text_mail_looks_like_this() {
    let prepared = simple(&Simple {
        subject: Some("Hi"),
        text_body: Some("Hello\nworld"),
        ..to("Ann <a@example.org>, b@example.org")
    });
    assert_eq!(
        composed(&prepared.unwrap()),
        concat!(
            "Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n",
            "From: Shop <shop@example.com>\r\n",
            "To: Ann <a@example.org>, b@example.org\r\n",
            "Subject: Hi\r\n",
            "Message-ID: <100.abc@example.com>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "MIME-Version: 1.0\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Transfer-Encoding: 7bit\r\n",
            "\r\n",
            "Hello\r\nworld\r\n",
        )
    );
}

#[test]
fn text_and_html_become_alternatives_in_that_order() {
    let prepared = simple(&Simple {
        text_body: Some("plain"),
        html_body: Some("<p>Grüße</p>"),
        ..to("a@example.org")
    })
    .unwrap();
    let mail = parsed(&prepared);
    assert_eq!(mail.body_text(0).unwrap(), "plain");
    assert_eq!(mail.body_html(0).unwrap(), "<p>Grüße</p>");
    let text = composed(&prepared);
    assert!(text.find("text/plain").unwrap() < text.find("text/html").unwrap());
    assert!(text.contains("multipart/alternative"));
}

#[test]
fn html_alone_and_nothing_at_all_are_single_parts() {
    let html = simple(&Simple {
        html_body: Some("<img src=x>"),
        ..to("a@example.org")
    })
    .unwrap();
    assert!(composed(&html).contains("Content-Type: text/html; charset=utf-8\r\n"));
    let nothing = simple(&to("a@example.org")).unwrap();
    assert!(composed(&nothing).ends_with("Content-Transfer-Encoding: 7bit\r\n\r\n"));
    assert!(!composed(&nothing).contains("Subject"));
}

#[test]
fn every_field_reaches_its_header_and_bcc_none() {
    let prepared = json(&j!({
        "from": "Jörg \"Q\" <j@example.com>".replace('"', "'"), "sender": "s@example.com",
        "to": ["\"Doe, Ann\" <a@example.org>"], "cc": "c@example.org", "bcc": "secret@example.org",
        "reply_to": "r@example.com", "subject": "Grüße aus Köln", "message_id": "id@example.com",
        "in_reply_to": "q@example.com", "references": ["p@example.com", "q@example.com"],
        "headers": {"X-Foo": "bär", "List-Id": "<x.example.com>"}
    }))
    .unwrap();
    let mail = parsed(&prepared);
    assert_eq!(pairs(mail.from()), [some("Jörg 'Q'", "j@example.com")]);
    assert_eq!(pairs(mail.to()), [some("Doe, Ann", "a@example.org")]);
    assert_eq!(pairs(mail.cc()), [(None, "c@example.org".to_owned())]);
    assert_eq!(pairs(mail.reply_to()), [(None, "r@example.com".to_owned())]);
    assert_eq!(mail.subject(), Some("Grüße aus Köln"));
    assert_eq!(mail.message_id(), Some("id@example.com"));
    assert_eq!(mail.references().as_text_list().unwrap().len(), 2);
    assert_eq!(mail.date().unwrap().to_timestamp(), DATE);
    let text = composed(&prepared);
    assert!(text.contains("X-Foo: =?utf-8?b?"));
    assert!(text.contains("List-Id: <x.example.com>\r\n"));
    assert!(!text.contains("secret") && !text.to_lowercase().contains("bcc"));
    let blind = json(&j!({"bcc": "secret@example.org"})).unwrap();
    assert!(composed(&blind).contains("To: undisclosed-recipients:;\r\n"));
}

#[test]
fn long_lists_and_long_words_are_folded() {
    let list: Vec<String> = (0..500)
        .map(|i| format!("Person {i} <person{i}@example.org>"))
        .collect();
    let word = "x".repeat(5000);
    let prepared = json(&j!({
        "to": list, "subject": word, "text": "y".repeat(5000), "html": format!("<p>{}</p>", "ü".repeat(3000)),
        "headers": {"X-Long": "z ".repeat(2000), "X-Spaces": format!("a{}b", " ".repeat(2000))},
        "references": (0..200).map(|i| format!("<{i}@example.org>")).collect::<Vec<_>>()
    }))
    .unwrap();
    let mail = parsed(&prepared);
    assert_eq!(pairs(mail.to()).len(), 500);
    assert_eq!(mail.subject(), Some(word.as_str()));
    assert_eq!(mail.body_text(0).unwrap(), "y".repeat(5000));
    assert_eq!(mail.body_html(0).unwrap().len(), 6007);
    assert_eq!(mail.references().as_text_list().unwrap().len(), 200);
    let head = composed(&prepared);
    let head = head.split("\r\n\r\n").next().unwrap();
    assert!(head.lines().filter(|line| line.len() > 78).count() < 3);
}

#[test]
fn a_quoted_local_part_stays_in_one_piece() {
    let address = |i: usize| format!("\"a{i}{}\\\"b , c\"@example.org", " ".repeat(i));
    let list: Vec<String> = (0..40)
        .map(|i| match i % 2 {
            0 => address(i),
            _ => format!("Person {i} <{}>", address(i)),
        })
        .collect();
    let prepared = json(&j!({ "to": list, "from": "\"me too\"@example.com" })).unwrap();
    let text = composed(&prepared);
    assert!(
        text.contains("\r\nFrom: \"me too\"@example.com\r\n"),
        "{text}"
    );
    for i in 0..40 {
        assert!(text.contains(&address(i)), "{i}:\n{text}");
    }
    assert_eq!(
        prepared.recipients,
        (0..40).map(address).collect::<Vec<_>>()
    );
    assert_eq!(pairs(parsed(&prepared).to()).len(), 40);
    assert!(text.lines().all(|line| line.len() <= 78), "{text}");
}

#[test]
fn an_ascii_subject_that_looks_encoded_stays_what_it_is() {
    let subject = "=?utf-8?q?not_me?= really";
    let prepared = simple(&Simple {
        subject: Some(subject),
        ..to("a@example.org")
    })
    .unwrap();
    assert_eq!(parsed(&prepared).subject(), Some(subject));
}

#[test]
fn a_text_that_holds_the_boundary_gets_another_one() {
    let given = |text: &str| {
        let prepared = json(&j!({
            "to": "a@example.org", "message_id": "x@y", "text": text, "html": "h"
        }));
        composed(&prepared.unwrap())
    };
    let boundary = |mail: &str| mail.split('"').nth(1).unwrap().to_owned();
    let first = boundary(&given("t"));
    let second = given(&format!("--{first}\nx"));
    assert_ne!(boundary(&second), first);
    let mail = MessageParser::new().parse(second.as_bytes()).unwrap();
    assert_eq!(mail.body_text(0).unwrap(), format!("--{first}\r\nx"));
}

#[test]
fn line_ends_of_every_kind_become_crlf() {
    for body in ["a\nb\n", "a\r\nb\r\n", "a\rb\r", "a\r\nb\n"] {
        let prepared = simple(&Simple {
            text_body: Some(body),
            ..to("a@example.org")
        })
        .unwrap();
        assert!(
            composed(&prepared).ends_with("\r\n\r\na\r\nb\r\n"),
            "{body:?}"
        );
    }
}

#[test]
fn dates_out_of_range_do_not_panic() {
    let prepared = simple(&to("a@example.org")).unwrap();
    for date in [i64::MIN, -1, 0, i64::MAX] {
        assert_legal(&plain(&prepared.content, date).unwrap());
    }
}

#[test]
fn content_from_elsewhere_cannot_inject_headers() {
    let ok = j!({"from": "a@b", "to": ["a@b"], "message_id": "<a@b>"});
    assert!(plain(&ok.to_string(), DATE).is_ok());
    let table = [
        ("from", j!("a@b\r\nX: y")),
        ("from", j!("")),
        ("to", j!(["x\n <a@b>"])),
        ("subject", j!("x\r\ny")),
        ("message_id", j!("x")),
        ("message_id", j!("<a@b>\r\nX: y")),
        ("references", j!("<a@b>\n<c@d>")),
        ("headers", j!({"X\r\nY": "x"})),
        ("headers", j!({"Bcc": "x"})),
        ("headers", j!({"X": "x\ny"})),
    ];
    for (field, value) in table {
        let mut content = ok.clone();
        content[field] = value;
        let error = plain(&content.to_string(), DATE).expect_err(field);
        assert!(matches!(error, ComposeError::Field(_)), "{error}");
    }
    for content in ["", "[]", "{}", "{\"from\":1}"] {
        assert!(matches!(plain(content, DATE), Err(ComposeError::Json(_))));
    }
}

/// Text as people write it, without what no header may hold.
fn header_value() -> impl Strategy<Value = String> {
    "(\\PC|[ a-z]{0,9}|=\\?|\t){0,120}"
}

fn body() -> impl Strategy<Value = String> {
    "(\\PC|[ a-z.]{0,30}|\n|\r\n|\t|--|=_){0,200}"
}

fn normal(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .trim_end_matches('\n')
        .replace('\n', "\r\n")
}

#[test]
fn identifiers_stand_as_they_are_even_where_they_look_encoded() {
    let long = format!("<=?utf-8?q?{}?=@x>", "a".repeat(200));
    let mail = j!({"to": "a@example.org", "message_id": "<=?x@y>", "in_reply_to": "=?a@b", "references": ["<a@b>", long]});
    let text = String::from_utf8(plain(&json(&mail).unwrap().content, DATE).unwrap()).unwrap();
    assert!(
        text.contains("\r\nMessage-ID: <=?x@y>\r\nIn-Reply-To: <=?a@b>\r\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!("References: <a@b>\r\n {long}\r\n")),
        "{text}"
    );
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        subject in header_value(),
        name in "(\\PC|[ a-z\\\\\",<@]{0,9}){0,40}",
        text in body(),
        html in body(),
    ) {
        let quoted_name = name.replace('\\', "\\\\").replace('"', "\\\"");
        let given = j!({
            "to": format!("\"{quoted_name}\" <a@example.org>"), "subject": subject, "text": text, "html": html
        });
        let prepared = json(&given);
        prop_assume!(prepared.is_ok() || name.len() < 320);
        let prepared = prepared.unwrap();
        let bytes = plain(&prepared.content, DATE).unwrap();
        assert_legal(&bytes);
        prop_assert_eq!(&bytes, &plain(&prepared.content, DATE).unwrap());
        let mail = MessageParser::new().parse(&bytes).unwrap();
        let got = pairs(mail.to());
        prop_assert_eq!(got.len(), 1);
        prop_assert_eq!(&got[0].1, "a@example.org");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assert_eq!(words(got[0].0.as_deref().unwrap_or_default()), words(&name));
        let trimmed = subject.trim_matches([' ', '\t']);
        prop_assert_eq!(mail.subject().unwrap_or_default(), trimmed);
        if !text.is_empty() && !html.is_empty() {
            let got = mail.body_text(0).unwrap();
            prop_assert_eq!(normal(&got), normal(&text));
            let got = mail.body_html(0).unwrap();
            prop_assert_eq!(normal(&got), normal(&html));
        }
    }

    #[test]
    fn whatever_is_accepted_composes_into_a_legal_mail(
        recipient in "(\\PC|[a-z@.,<>\" ]{0,6}|@example.org){0,30}",
        subject in any::<String>(),
        text in any::<String>(),
        header in "[a-zA-Z-]{1,80}",
        value in any::<String>(),
        id in "(\\PC|[a-z@<>]{0,5}){0,20}",
    ) {
        let given = j!({
            "to": recipient, "cc": "x@example.org", "subject": subject, "text": text,
            "headers": {header: value}, "message_id": id
        });
        let context = mail_message::Context { max_size: usize::MAX, ..QUEUE };
        match prepare_json(&given.to_string(), &context) {
            Ok(prepared) => {
                let bytes = plain(&prepared.content, DATE).unwrap();
                assert_legal(&bytes);
                let again = prepare_json(&prepared.content, &context).unwrap();
                prop_assert_eq!(&again.content, &prepared.content);
            }
            Err(error) => {
                prop_assert!(!error.message.contains(|c: char| c.is_control()), "{:?}", error);
                prop_assert!(error.message.chars().count() < 300);
            }
        }
    }

    #[test]
    fn whatever_is_quoted_before_the_at_reaches_envelope_and_header_safely(
        local in "(\\PC|[a-z .,@\\\\\"<>]{0,4}|\r|\n|\t|\0){0,12}",
        name in "[A-Z][a-z]{1,5}( [a-z]{1,5})?",
        bare in any::<bool>(),
    ) {
        let escaped = local.replace('\\', "\\\\").replace('"', "\\\"");
        let address = format!("\"{escaped}\"@example.org");
        let given = if bare { address } else { format!("{name} <{address}>") };
        match json(&j!({"to": given, "from": given})) {
            Ok(prepared) => {
                prop_assert_eq!(prepared.recipients.len(), 1);
                let stored = &prepared.recipients[0];
                prop_assert!(!stored.contains(|c: char| c.is_control() || matches!(c, '<' | '>')));
                let inner = stored.strip_suffix("@example.org").unwrap();
                prop_assert!(inner == local || inner == format!("\"{escaped}\""), "{}", inner);
                prop_assert_eq!(&prepared.envelope_from, stored);
                let text = composed(&prepared);
                prop_assert!(text.contains(stored.as_str()), "{}", text);
                prop_assert_eq!(pairs(parsed(&prepared).to()).len(), 1);
                let again = prepare_json(&prepared.content, &QUEUE).unwrap();
                prop_assert_eq!(&again.content, &prepared.content);
            }
            Err(error) => prop_assert!(!error.message.contains(|c: char| c.is_control())),
        }
    }

    #[test]
    fn accepted_addresses_compose(recipient in "[a-z.\"@]{1,12}@[a-zß.-]{1,12}", name in "[a-zü\"., ]{0,10}") {
        if let Ok(prepared) = simple(&to(&format!("{name} <{recipient}>"))) {
            assert_legal(&plain(&prepared.content, DATE).unwrap());
        }
    }
}
