//! Messages from good to absurd.

use pgmq_mail_tests::Dice;
use serde_json::{Map, Value, json};

/// What strings are made of.
const PIECES: &[&str] = &[
    "a",
    "Zoë",
    "a@b.test",
    "\"quoted name\" <a@b.test>",
    "<",
    ">",
    "@",
    ",",
    ";",
    ":",
    "\r\n",
    "\n",
    "\t",
    "\u{1}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{feff}",
    "\u{1f600}",
    "مرحبا",
    "漢字",
    "=?utf-8?q?x?=",
    "=?utf-8?b?////?=",
    "\\",
    "\"",
    "'",
    "(",
    ")",
    "[127.0.0.1]",
    "xn--",
    "xn--a",
    "ß",
    "%00",
    "%",
    "..",
    "-",
    "_",
    "Bcc: x@y.test",
    "\r\nBcc: x@y.test",
    "cid:x",
    "https://example.test/",
    "mailto:a@b.test",
    "text/html",
    "multipart/mixed; boundary=x",
    "{{ name }}",
    "{% for %}",
    "</p>",
    "<script>",
    "<b>",
    "&amp;",
    ".",
    "\r\n.\r\n",
    "0",
    "-1",
    "1e999",
    "de-CH",
    "plain",
    "html",
    "null",
    " ",
];

const FIELDS: &[&str] = &[
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "return_path",
    "subject",
    "text",
    "html",
    "attachments",
    "headers",
    "in_reply_to",
    "references",
    "message_id",
    "list_unsubscribe",
    "template",
    "params",
    "locale",
    "render",
    "metadata",
    "tags",
    "raw",
    "dsn",
    "queue",
    "body",
    "To",
    "",
];

fn text(dice: &mut Dice) -> String {
    let pieces = match dice.below(20) {
        0 => 0,
        1 => 200,
        2 => 5000,
        _ => 1 + dice.below(6),
    };
    (0..pieces).map(|_| *dice.pick(PIECES)).collect()
}

/// Any JSON value.
fn anything(dice: &mut Dice, depth: u64) -> Value {
    match dice.below(if depth == 0 { 5 } else { 8 }) {
        0 => Value::Null,
        1 => json!(dice.percent(50)),
        2 => json!(dice.below(u64::MAX)),
        3 => json!(1.5e300),
        4 => json!(text(dice)),
        5 | 6 => (0..dice.below(4))
            .map(|_| anything(dice, depth - 1))
            .collect(),
        _ => {
            let fields = (0..dice.below(4)).map(|_| (text(dice), anything(dice, depth - 1)));
            Value::Object(fields.collect())
        }
    }
}

fn address(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => json!(text(dice)),
        1 => json!(format!("{}@{}", text(dice), text(dice))),
        2 => json!([format!("{} <a@b.test>", text(dice)), "c@d.test"]),
        3 => json!("Zoë <zoë@bücher.test>, b@c.test"),
        4 => json!("<>"),
        _ => json!("a@b.test"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0u8; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            out.push(if place <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    out
}

fn attachment(dice: &mut Dice) -> Value {
    let mut file = Map::new();
    match dice.below(5) {
        0 => file.insert("content".into(), json!(text(dice))),
        1 => file.insert("attachment".into(), anything(dice, 1)),
        2 => file.insert("content".into(), json!(base64(text(dice).as_bytes()))),
        _ => file.insert("text".into(), json!(text(dice))),
    };
    for name in ["filename", "content_type", "disposition", "content_id", "x"] {
        if dice.percent(25) {
            let value = match dice.below(4) {
                0 => anything(dice, 1),
                1 => json!(*dice.pick(&[
                    "a.txt",
                    "text/plain",
                    "inline",
                    "logo",
                    "message/rfc822",
                    "text/plain; charset=x"
                ])),
                _ => json!(text(dice)),
            };
            file.insert(name.into(), value);
        }
    }
    Value::Object(file)
}

/// An RFC 5322 message with a few things wrong.
fn raw(dice: &mut Dice) -> Value {
    let lines = [
        "From: a@b.test",
        "To: c@d.test",
        "Subject: x",
        "From: e@f.test",
        "Date: Thu, 01 Jan 2026 00:00:00 +0000",
        "Message-ID: <x@y.test>",
        "Bcc: x@y.test",
        " folded",
        "Content-Type: text/plain; charset=latin1",
        "no colon",
        "X: \u{e4}",
        "To: group: a@b.test, c@d.test;",
        "From : a@b.test",
        "\r",
        "To: (a@b.test)",
        ":",
    ];
    let mut message = String::from("From: a@b.test\r\nTo: c@d.test\r\n");
    for _ in 0..dice.below(6) {
        message.push_str(dice.pick::<&str>(&lines));
        message.push_str(dice.pick::<&str>(&["\r\n", "\r\n", "\n", "\r", ""]));
    }
    message.push_str(dice.pick::<&str>(&["\r\n", "\n", ""]));
    message.push_str(&text(dice));
    let mut bytes = message.into_bytes();
    for _ in 0..dice.below(3) {
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] = dice.below(256) as u8;
    }
    json!(base64(&bytes))
}

fn field(dice: &mut Dice, name: &str) -> Value {
    if dice.percent(5) {
        return anything(dice, 3);
    }
    match name {
        "from" | "sender" | "to" | "cc" | "bcc" | "reply_to" | "return_path" => address(dice),
        "attachments" => (0..dice.below(4)).map(|_| attachment(dice)).collect(),
        "headers" => {
            let names = [
                "X-A",
                "X B",
                "Subject",
                "bcc",
                "Auto-Submitted",
                "Content-Type",
                "X-\u{e4}",
                "DKIM-Signature",
                "",
            ];
            let fields =
                (0..dice.below(4)).map(|_| (dice.pick(&names).to_string(), json!(text(dice))));
            Value::Object(fields.collect())
        }
        "list_unsubscribe" => json!({
            "url": format!("https://example.test/{}", if dice.percent(50) { text(dice) } else { String::new() }),
            "one_click": dice.percent(50),
        }),
        "message_id" | "in_reply_to" | "references" => match dice.below(3) {
            0 => json!(text(dice)),
            1 => json!(["<a@b.test>", format!("<{}>", text(dice))]),
            _ => json!("<a@b.test>"),
        },
        "params" => match dice.below(4) {
            0 => anything(dice, 4),
            1 => json!({"a": {"b": text(dice)}, "name": text(dice)}),
            _ => json!({"name": "x", "items": [1, {"y": 2}], "a": {"b": 1}}),
        },
        "template" => json!(*dice.pick(&["plain", "html", "none", ""])),
        "dsn" => {
            json!({"notify": *dice.pick(&["failure", "never", "x"]), "envelope_id": text(dice)})
        }
        "metadata" => anything(dice, 20),
        "tags" => json!([text(dice), "a"]),
        "raw" => raw(dice),
        "render" => json!(*dice.pick(&["send", "enqueue", "x"])),
        _ => json!(text(dice)),
    }
}

/// A message in the JSON form, or what may pass for one.
pub fn message(dice: &mut Dice) -> Value {
    match dice.below(50) {
        0 => return anything(dice, 6),
        1 if dice.percent(1) => return json!({"to": "a@b.test", "text": "x".repeat(40_000_000)}),
        1 => {
            return json!({"to": "a@b.test", "message_id": "x".repeat(2000), "tags": ["x".repeat(300)]});
        }
        2..6 => {
            let mut message = json!({"raw": raw(dice)});
            if dice.percent(30) {
                let name = *dice.pick(FIELDS);
                message[name] = field(dice, name);
            }
            return message;
        }
        6..12 => {
            return json!({"to": address(dice), "template": field(dice, "template"), "params": field(dice, "params")});
        }
        _ => {}
    }
    let mut message = Map::new();
    message.insert("to".into(), address(dice));
    for _ in 0..dice.below(6) {
        let name = *dice.pick(FIELDS);
        // Mostly what goes together.
        if !matches!(name, "raw" | "template" | "params" | "") || dice.percent(10) {
            message.insert(name.into(), field(dice, name));
        }
    }
    Value::Object(message)
}

/// The arguments of the text form.
pub fn text_form(dice: &mut Dice) -> Value {
    let mut call = Map::new();
    call.insert("recipient".into(), address(dice));
    for name in [
        "subject",
        "text_body",
        "html_body",
        "sender",
        "locale",
        "key",
        "order",
    ] {
        if dice.percent(25) {
            call.insert(name.into(), json!(text(dice)));
        }
    }
    if dice.percent(15) {
        call.insert("template".into(), field(dice, "template"));
        call.insert("params".into(), field(dice, "params"));
    }
    if dice.percent(15) {
        call.insert("options".into(), message(dice));
    }
    Value::Object(call)
}
