//! The checks of the fuzz targets, on stable: over their corpora, and over arbitrary bytes. `PROPTEST_CASES` asks for
//! more of these.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json as j};

fn each(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 4, "the corpus of {target} is there");
}

#[test]
fn every_input_of_the_corpora_holds() {
    each("json", checks::json);
    each("raw", checks::raw);
    each("address", checks::address);
    each("external", checks::external);
    each("html", checks::html);
    each("dsn", checks::dsn);
    each("list_unsubscribe", checks::list_unsubscribe);
}

/// What takes linear time takes a moment, all else takes hours. Files come in blocks of 128 bytes.
#[test]
fn endless_input_is_read_in_linear_time() {
    let long = 1 << 17;
    for piece in [
        "<",
        "</",
        "<!",
        "<!--",
        "<a",
        "<a ",
        "<a href=\"",
        "<a href='x' ",
        "<a href=https://x.org>y",
        "<a href=x>y</a>",
        "<b>",
        "</b>",
        "<p",
        "<ul><li>x",
        "<blockquote>x",
        "<pre>x\n\n",
        "<table><tr><td>",
        "<td>x",
        "<style>",
        "<style></style",
        "</style>",
        "<div style=display:none>",
        "<div style='font-size:0'>x",
        "<script>x",
        "&",
        "&#",
        "&#x41;",
        "&amp",
        "x",
        " ",
        "\n",
        "é",
    ] {
        checks::html(piece.repeat(long / piece.len()).as_bytes());
        checks::html(format!("<pre>{}", piece.repeat(long / piece.len())).as_bytes());
    }
    let long = 1 << 15;
    for piece in [
        "\"",
        "\\",
        "\"\\",
        "(",
        ")",
        "a ",
        ",",
        "a@b.example,",
        "<",
        ">",
        "<a@b.example>",
        "@",
        "\"a\" ",
        "=?utf-8?q?a?= ",
        "é",
        ".",
        "a.",
        "\"(\" ",
    ] {
        let many = piece.repeat(long / piece.len());
        for text in [
            &many,
            &format!("{many} <a@b.example>"),
            &format!("\"{many}\" <a@b.example>"),
            &format!("{many}@b.example"),
        ] {
            checks::address(text.as_bytes());
            // Blind copies stand in no header, whose length is bounded.
            let blind = j!({"to": "a@b.example", "bcc": text});
            checks::json(format!("\0{blind}").as_bytes());
            let lines = text.replace(' ', "\n ");
            for name in ["To", "Subject", "X", "Content-Type", "References"] {
                checks::raw(format!("\x7fFrom: a@b.example\n{name}: {lines}\n\nx").as_bytes());
            }
        }
    }
    for piece in [
        "[",
        "{\"a\":",
        "{\"a\":[",
        "\"",
        "{",
        "1",
        "{\"attachment\":1},",
        "[{\"attachment\":1}],",
    ] {
        let many = piece.repeat(long / 2);
        checks::external(many.as_bytes());
        checks::external(format!("{{\"attachments\":[{many}").as_bytes());
        for name in ["metadata", "attachments", "headers", "to", "dsn", "x"] {
            checks::json(format!("\0{{\"to\":\"a@b.example\",\"{name}\":{many}").as_bytes());
        }
    }
}

/// At least so many inputs for each target.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        cases: given.cases.max(1000),
        ..given
    }
}

/// Bytes that look like what is expected, here and there.
fn bytes(tokens: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => select(tokens).prop_map(|token| token.as_bytes().to_vec()),
        1 => "\\PC{0,6}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..6),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        4 => vec(piece, 0..50).prop_map(|pieces| pieces.concat()),
    ]
}

/// Text that means harm.
fn text() -> impl Strategy<Value = String> {
    let tokens = [
        "a@b.example",
        "Ä Ö <ä@müller.example>",
        "\"x, y\" <b@example.org>",
        "a",
        "=?utf-8?q?a=0ab?=",
        "=?",
        "?=",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\t",
        " ",
        "Bcc: x@y.example",
        "\u{85}",
        "\u{2028}",
        "\u{202e}",
        "é",
        "漢字",
        "😀",
        "<",
        ">",
        "\"",
        "\\",
        ",",
        ";",
        "@",
        ".",
        ":",
        "<id@x.example>",
        "https://x.example/?a=b",
        "http://",
        "mailto:",
        "text/plain",
        "message/rfc822",
        "; charset=utf-16",
        "cid:logo",
        "logo",
        "name.txt",
        "no",
        "send",
        "enqueue",
        "de-CH",
        "inline",
        "success",
        "never",
        "full",
        "aGVsbG8=",
        "--=_",
        "<p>x</p>",
        "12345678901234567890",
    ];
    let long = (
        select(vec!["x", "x ", "é", "é ", "a.", "=?", "\\"]),
        1..1500_usize,
    );
    let piece = prop_oneof![
        16 => select(tokens.to_vec()).prop_map(str::to_owned),
        4 => "\\PC{0,8}",
        1 => long.prop_map(|(piece, times)| piece.repeat(times)),
    ];
    prop_oneof![
        4 => select(tokens.to_vec()).prop_map(str::to_owned),
        3 => vec(piece, 0..8).prop_map(|pieces| pieces.concat()),
    ]
}

/// A message in JSON form, of the fields that there are.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let mailbox = prop_oneof![
        4 => select(vec!["a@b.example", "Ä <ä@müller.example>", "\"x, y\" <\"b c\"@example.org>", "a@b.example, c@d.example"])
            .prop_map(|text| j!(text)),
        1 => text().prop_map(|text| j!(text)),
        1 => (text(), text()).prop_map(|(name, local)| j!(format!("{name} <{local}@example.org>"))),
    ];
    let string = || text().prop_map(|text| j!(text));
    let object = |names: &[&'static str]| {
        let member = (select(names.to_vec()).prop_map(str::to_owned), string());
        vec(member, 0..4).prop_map(|members| Value::Object(members.into_iter().collect()))
    };
    let own = vec(
        ("[A-Za-z-]{1,12}|X-[A-Z]|Auto-Submitted|\\PC{0,5}", string()),
        0..4,
    );
    let file = prop_oneof![
        object(&["filename", "content_type", "text", "disposition"]),
        object(&["filename", "content_type", "content", "content_id"]),
        (
            object(&["filename", "content_type", "content_id"]),
            any::<bool>()
        )
            .prop_map(|(mut file, stored)| {
                let (name, value) = if stored {
                    ("attachment", j!(3))
                } else {
                    ("text", j!("x"))
                };
                file[name] = value;
                file
            }),
    ];
    let member = prop_oneof![
        3 => (select(vec!["cc", "bcc", "from", "sender", "reply_to", "return_path"]), mailbox.clone()),
        4 => (select(vec!["subject", "text", "html", "in_reply_to", "references", "message_id", "tags"]), string()),
        1 => (select(vec!["message_id", "in_reply_to", "references"]), "<[!-~]{1,12}@[!-~]{1,9}>".prop_map(|id| j!(id))),
        2 => (Just("headers"), own.prop_map(|members| Value::Object(members.into_iter().collect()))),
        2 => (Just("attachments"), vec(file, 0..3).prop_map(Value::Array)),
        1 => (Just("dsn"), object(&["notify", "return", "envelope_id"])),
        1 => (Just("list_unsubscribe"), object(&["url", "mailto"])),
        1 => (Just("params"), object(&["subject", "text", "html"])),
        1 => (select(vec!["template", "locale", "render"]), string()),
        1 => (select(vec!["raw", "metadata", "x"]), string()),
    ];
    let message = (mailbox, vec(member, 0..6), any::<u8>());
    message.prop_map(|(to, members, piece)| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let mut message: Map<String, Value> = members.collect();
        message.insert("to".to_owned(), to);
        if message.contains_key("params") {
            message.entry("template").or_insert(j!("t"));
        }
        [vec![piece], Value::Object(message).to_string().into_bytes()].concat()
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_message_in_json_form_is_refused_or_composes(data in message()) {
        checks::json(&data);
    }

    #[test]
    fn any_bytes_are_json_form_or_refused(
        data in bytes(&[
            "\0", "{", "}", "[", "]", "\"", ":", ",", "\"to\":", "\"a@b.example\"", "\"text\"", "\"headers\":{", "\\u0000", "\\ud800", "null",
            "true", "1", "\"subject\":\"", "\\", "{\"to\":\"a@b.example\"",
        ]),
    ) {
        checks::json(&data);
    }

    #[test]
    fn any_raw_message_is_refused_or_sent_as_it_is(
        data in bytes(&[
            "\0From: a@b.example\r\n", "From: a@b.example\n", "From: ", "To: c@d.example\r\n", "To: ", "Cc: ", "Bcc: x@y.example\r\n", "Bcc",
            "Sender: ", "Subject: ", "Date: x\r\n", "Message-ID: <a@b>\r\n", "\r\n", "\n", "\r", "\r\n ", "\n\t", " ", ":", ",", ";", "<", ">",
            "\"", "(", ")", "\\", "@", "a@b.example", "=?utf-8?q?", "=?utf-8?b?", "YQ==?=", "?=", "=40", ".\r\n", "\n.\n", "\r\n\r\n",
            "Content-Type: multipart/mixed; boundary=x\r\n", "--x", "Resent-Bcc: x\n", "undisclosed-recipients:;",
        ]),
    ) {
        checks::raw(&data);
        checks::raw(&[b"\x03From: a@b.example\n", &data[..]].concat());
    }

    #[test]
    fn any_text_is_addresses_or_refused(
        data in bytes(&[
            "a", "b.example", "@", "a@b.example", ",", "<", ">", "\"", "\\", " ", "\t", "(", ")", ".", "ä", "müller", "[1.2.3.4]", "[IPv6:::1]",
            "=?utf-8?q?x?=", ";", ":", "<a@b.example>", "Name ", "\u{200b}", "\r\n",
        ]),
    ) {
        checks::address(&data);
    }

    #[test]
    fn any_json_for_an_external_queue_is_kept(
        data in bytes(&[
            "{", "}", "[", "]", "\"attachments\":", "{\"attachments\":[", "{\"attachment\":", "\"17\"", "3", "\"3\"", ",", "\"subject\":",
            "\"\\ud800\"", "\"\\u0061\"", "null", "-1", "1e3", "99999999999999999999",
        ]),
    ) {
        checks::external(&data);
    }

    #[test]
    fn of_any_html_a_text_is_made(
        data in bytes(&[
            "<", ">", "</", "/>", "<a href=\"https://x.org\">", "</a>", "<p>", "<br>", "<ul>", "<li>", "<pre>", "\n", "<table>", "<td>", "<style>",
            "</style>", "<!--", "-->", "&amp;", "&#0;", "&#13;&#10;", "&", "<img alt=\"x\" src=cid:a>", "style=\"display:none\"", "'", "\"", "=", " ",
            "<blockquote>", "<b", "\0", "\u{200b}", "<a href='mailto:a@b.example", "x",
        ]),
    ) {
        checks::html(&data);
    }

    #[test]
    fn anything_asked_about_the_delivery_is_refused_or_legal(
        data in bytes(&[
            "{", "}", "\"notify\":", "\"return\":", "\"envelope_id\":", "\"never\"", "\"success\"", "\"DELAY\"", "[", "]", ",", "\"full\"", "\"hdrs\"",
            "\"a+b=c\"", "\"é\"", "null", "{\"notify\":[\"failure\"]", "\"\\u0000\"",
        ]),
    ) {
        checks::dsn(&data);
    }

    #[test]
    fn anything_that_leads_off_a_list_is_refused_or_legal(
        url in text(), mailto in text(), scheme in select(vec!["", "https://x.example/", "http://x"]), to in select(vec!["", "mailto:a@b.example?"]),
        data in bytes(&[
            "{", "}", "\"url\":", "\"mailto\":", "\"one_click\":", "\"https://x.example/a\"", "\"a@b.example\"", "true", "false", ",", "null",
        ]),
    ) {
        checks::list_unsubscribe(&data);
        checks::list_unsubscribe(j!({"url": scheme.to_owned() + &url}).to_string().as_bytes());
        checks::list_unsubscribe(j!({"mailto": to.to_owned() + &mailto, "url": "https://x.example"}).to_string().as_bytes());
    }
}
