//! What must hold for any bytes. The fuzz targets and the tests on stable share it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use mail_message::{
    Composed, Context, Extras, File, Invalid, Prepared, Rendered, Simple, StoredFile,
    TemplateResult, TemplateUse, check_address, compose, prepare_external, prepare_json,
    prepare_simple, preview, template_of,
};
use mail_parser::{Address, Message, MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

const DATE: i64 = 1_700_000_000;
/// The longest line of a message, without its end (RFC 5322 §2.1.1).
const LINE: usize = 998;
/// The longest text that is made of HTML, and what ends it.
const MADE_TEXT: usize = (1 << 20) + 4;

const QUEUE: Context<'static> = Context {
    default_sender: Some("Shop <shop@example.com>"),
    return_path: None,
    id: 1296,
    nonce: 0xabc,
    max_size: 8 << 20,
    external: false,
    render: &render,
    may_send_as: None,
    stored: &stored,
};

/// A template renders into its own parameters.
#[allow(clippy::unnecessary_wraps, reason = "a callback")]
fn render(template: &TemplateUse<'_>) -> Result<TemplateResult, Invalid> {
    let params: Value = serde_json::from_str(template.params).unwrap_or_default();
    let of = |name: &str| params[name].as_str().map(str::to_owned);
    let (subject, text, html) = (of("subject"), of("text"), of("html"));
    Ok(TemplateResult {
        rendered: Rendered {
            subject,
            text,
            html,
        },
        locale: "de".to_owned(),
        version: 1,
    })
}

/// Of stored files there are nine.
fn stored(id: i64) -> Result<StoredFile, Invalid> {
    if id > 9 {
        return Err(Invalid::unknown_attachment(id));
    }
    Ok(StoredFile {
        filename: Some("Grün.pdf".to_owned()),
        content_type: Some("application/pdf".to_owned()),
        size: 3,
        ..StoredFile::default()
    })
}

/// The first octet says how files are cut into blocks.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    data.split_first()
        .map_or((1, data), |(first, rest)| (usize::from(*first) + 1, rest))
}

/// What a caller gives back, each file in pieces of so many octets.
fn extras(prepared: &Prepared, piece: usize) -> Extras {
    let blocks = |bytes: &[u8]| bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    let files = prepared.files.iter().map(|file| match file {
        File::Bytes(bytes) => blocks(bytes),
        File::Stored(_) => blocks(b"pdf"),
    });
    let template = template_of(&prepared.content);
    Extras {
        rendered: template.map(|one| render(&one).expect("it always does").rendered),
        files: files.collect(),
    }
}

/// A refusal names its field in one line of bounded length.
fn refused(invalid: &Invalid) {
    for text in [&invalid.field, &invalid.message] {
        assert!(!text.contains(|c: char| c.is_control()), "{invalid:?}");
        assert!(text.chars().count() < 1000, "{invalid:?}");
    }
    assert!(!invalid.message.is_empty());
    let hint = invalid.hint.as_deref().unwrap_or("A sentence.");
    assert!(!hint.contains(|c: char| c.is_control()) && hint.ends_with(['.', '?']));
}

/// Envelope: addresses that a command line can hold, each once.
fn envelope(prepared: &Prepared) {
    assert!(!prepared.recipients.is_empty());
    let given = prepared.recipients.iter();
    for (i, address) in given.chain([&prepared.envelope_from]).enumerate() {
        if i == prepared.recipients.len() && address.is_empty() {
            continue;
        }
        assert!(check_address(address, "to").is_ok(), "{address:?}");
        assert!(address.len() <= 254, "{address:?}");
        let unsafe_char = |c: char| c.is_control() || matches!(c, '<' | '>');
        assert!(!address.contains(unsafe_char), "{address:?}");
        let domain = address.rsplit_once('@').expect("an address").1;
        assert!(domain.is_ascii(), "{address:?}");
        assert!(
            !prepared.recipients[..i.min(prepared.recipients.len())].contains(address)
                || i == prepared.recipients.len()
        );
    }
}

/// The same message however its files are cut; its bytes.
fn composed(prepared: &Prepared, piece: usize) -> (Composed, Vec<u8>) {
    let whole = compose(&prepared.content, DATE, extras(prepared, usize::MAX));
    let whole = whole.unwrap_or_else(|error| panic!("{error}: {}", prepared.content));
    let bytes = whole.to_vec();
    let pieces = compose(&prepared.content, DATE, extras(prepared, piece)).expect("as before");
    assert_eq!(pieces.to_vec(), bytes, "cutting matters");
    (whole, bytes)
}

/// RFC 5322 §2.1, §2.3: CR and LF only together, at the end too, lines of legal length, no NUL.
fn legal(message: &[u8]) {
    assert!(message.ends_with(b"\r\n"));
    let mut rest = message;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        let (line, tail) = rest.split_at(end.expect("the last line is ended"));
        assert!(line.len() <= LINE, "a line of {} bytes", line.len());
        let bad = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
        assert!(!line.iter().any(bad), "{}", line.escape_ascii());
        rest = &tail[2..];
    }
}

/// The fields of a message's header: names, and values as they stand there.
fn fields(message: &[u8]) -> Vec<(String, String)> {
    let message = std::str::from_utf8(message).unwrap_or_else(|error| {
        // Only a body may hold other octets.
        std::str::from_utf8(&message[..error.valid_up_to()]).expect("valid so far")
    });
    let (head, _) = message.split_once("\r\n\r\n").expect("a header");
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in head.split("\r\n") {
        assert!(!line.trim().is_empty(), "a line of white space");
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().expect("a field before its continuation");
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':').expect("a field");
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    fields
}

/// What the composer writes by itself.
const WRITTEN: &[&str] = &[
    "date",
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "message-id",
    "in-reply-to",
    "references",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "auto-submitted",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
];

const ADDRESSES: &[&str] = &["from", "sender", "reply-to", "to", "cc"];

/// A header of nothing but what was asked for.
fn header(message: &[u8], content: &Value) {
    let none = serde_json::Map::new();
    let own = content["headers"].as_object().unwrap_or(&none);
    let found = fields(message);
    for (i, (name, value)) in found.iter().enumerate() {
        let asked = own.keys().any(|key| key.eq_ignore_ascii_case(name));
        assert!(asked || WRITTEN.contains(&&**name), "{name}: {value}");
        assert!(
            !found[..i].iter().any(|(before, _)| before == name),
            "{name} twice"
        );
        assert!(
            !value.contains(|c: char| c.is_control() && c != '\t'),
            "{name}: {value}"
        );
        assert!(
            value.is_ascii() || ADDRESSES.contains(&&**name),
            "{name}: {value}"
        );
    }
    for key in own.keys() {
        assert!(
            found.iter().any(|(name, _)| key.eq_ignore_ascii_case(name)),
            "{key} is lost"
        );
    }
    let eight_bit = found.iter().any(|(_, value)| !value.is_ascii());
    let address = |text: &Value| {
        let text = text.as_str().unwrap_or_default();
        let address = text.rsplit_once(" <").map_or(text, |(_, address)| address);
        !address.is_ascii()
    };
    let needs = ADDRESSES
        .iter()
        .any(|name| match &content[name.replace('-', "_")] {
            Value::Array(all) => all.iter().any(address),
            one => address(one),
        });
    assert_eq!(eight_bit, needs, "8-bit only where an address has it");
}

fn addresses(field: Option<&Address<'_>>) -> Vec<String> {
    let all = field.into_iter().flat_map(Address::iter);
    all.filter_map(|one| one.address().map(str::to_owned))
        .collect()
}

/// The addresses of mailboxes in canonical form.
fn canonical_addresses(list: &Value) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    let texts = list.iter().filter_map(Value::as_str);
    let address = |text: &str| {
        let inner = text
            .strip_suffix('>')
            .and_then(|text| text.rsplit_once(" <"));
        inner.map_or(text, |(_, address)| address).to_owned()
    };
    texts.map(address).collect()
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What was asked for is read back by a parser that is not ours.
fn read_back(message: &[u8], prepared: &Prepared, content: &Value) {
    let read = MessageParser::new().parse(message).expect("a message");
    let id = read.message_id().unwrap_or_default();
    assert_eq!(format!("<{id}>"), prepared.message_id);
    let of = |name: &str| canonical_addresses(&content[name]);
    // Which not every parser reads.
    let quoted = |all: &[String]| all.iter().any(|address| address.contains(['"', '[']));
    let (to, cc) = (of("to"), of("cc"));
    if !quoted(&to) && !quoted(&cc) {
        assert_eq!(addresses(read.to()), to);
        assert_eq!(addresses(read.cc()), cc);
    }
    if content["subject"].is_string() {
        let subject = content["subject"].as_str().unwrap_or_default();
        assert_eq!(words(read.subject().unwrap_or_default()), words(subject));
    }
    parts(&read, content);
}

/// Every file is there, with what is said of it.
fn parts(read: &Message<'_>, content: &Value) {
    let asked = content["attachments"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let ids: Vec<_> = read
        .parts
        .iter()
        .filter_map(|part| part.content_id())
        .collect();
    for attachment in asked {
        let name = attachment["filename"].as_str();
        let found = |name: &str| {
            read.parts
                .iter()
                .any(|part| part.attachment_name() == Some(name))
        };
        assert!(name.is_none_or(found), "{name:?} is lost");
        let id = attachment["content_id"].as_str();
        assert!(
            id.is_none_or(|id| ids.contains(&id)),
            "{id:?} is lost in {ids:?}"
        );
    }
}

/// JSON form: what is accepted composes, into a legal message of what was asked for.
pub fn json(data: &[u8]) {
    let (piece, data) = cut(data);
    message(&String::from_utf8_lossy(data), piece);
}

fn message(json: &str, piece: usize) {
    let prepared = match prepare_json(json, &QUEUE) {
        Ok(prepared) => prepared,
        Err(invalid) => return refused(&invalid),
    };
    envelope(&prepared);
    let (composed, bytes) = composed(&prepared, piece);
    legal(&bytes);
    let content: Value = serde_json::from_str(&prepared.content).expect("JSON");
    if content["raw"] == true {
        return raw_sent(&prepared, &bytes);
    }
    header(&bytes, &content);
    read_back(&bytes, &prepared, &content);
    if let Some(dsn) = &composed.dsn {
        let id = dsn.envelope_id.as_deref().unwrap_or("x");
        assert!((1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()));
        assert!(dsn.notify.is_sorted() && dsn.notify.len() < 4);
    }
    shown(&prepared);
    again(&prepared, &content);
}

/// A preview is of bounded size.
fn shown(prepared: &Prepared) {
    let rendered = extras(prepared, usize::MAX).rendered;
    let shown = preview(&prepared.content, &prepared.files, rendered, true).expect("it composes");
    let text = shown.text.unwrap_or_default();
    let html = shown.html.unwrap_or_default();
    let content: Value = serde_json::from_str(&prepared.content).expect("JSON");
    let given = content["text"].is_string() || content["template"].is_object();
    assert!(
        given || text.len() <= MADE_TEXT,
        "{} of {}",
        text.len(),
        html.len()
    );
}

/// What is stored, given again, is stored the same.
fn again(prepared: &Prepared, content: &Value) {
    let differs = ["attachments", "template", "rendered"];
    if differs.iter().any(|field| !content[field].is_null()) {
        return;
    }
    let again = prepare_json(&prepared.content, &QUEUE).expect("it is canonical");
    assert_eq!(again.content, prepared.content);
    assert_eq!(again.recipients, prepared.recipients);
    assert_eq!(again.envelope_from, prepared.envelope_from);
}

/// Raw messages: what is accepted is sent as it is, but for its line ends and its envelope.
pub fn raw(data: &[u8]) {
    let (piece, data) = cut(data);
    let given = STANDARD.encode(data);
    let alone = json!({ "raw": given }).to_string();
    let beside = json!({ "raw": given, "to": "a@example.org" }).to_string();
    for json in [alone, beside] {
        let prepared = match prepare_json(&json, &QUEUE) {
            Ok(prepared) => prepared,
            Err(invalid) => {
                refused(&invalid);
                continue;
            }
        };
        envelope(&prepared);
        let (_, bytes) = composed(&prepared, piece);
        legal(&bytes);
        raw_sent(&prepared, &bytes);
        preview(&prepared.content, &prepared.files, None, true).expect("it composes");
    }
}

/// Beside a raw message as it was given, the one that is sent.
fn raw_sent(prepared: &Prepared, sent: &[u8]) {
    let [File::Bytes(given)] = &prepared.files[..] else {
        panic!("one file");
    };
    let hidden = ["bcc", "resent-bcc", "return-path"];
    let found = fields(sent);
    for (name, value) in &found {
        assert!(!hidden.contains(&name.trim_end()), "{name}: {value}");
    }
    for name in ["from", "date", "message-id"] {
        assert!(
            found.iter().any(|(field, _)| field == name),
            "{name} is missing"
        );
    }
    let parser = MessageParser::new();
    let after = parser.parse(sent).expect("a message");
    // With line ends, and the empty line that a message without a body may lack: not every parser does without.
    let ended = lines(given).into_iter().chain([vec![], vec![]]);
    let ended: Vec<u8> = ended
        .flat_map(|line| [line, b"\r\n".to_vec()].concat())
        .collect();
    if let Some(before) = parser.parse(&ended) {
        assert_eq!(addresses(before.from()), addresses(after.from()));
        assert_eq!(addresses(before.to()), addresses(after.to()));
        assert_eq!(addresses(before.cc()), addresses(after.cc()));
        assert_eq!(before.subject(), after.subject());
    }
    assert_eq!(
        after.message_id().map(str::len),
        Some(prepared.message_id.len() - 2)
    );
    // Of the body, the lines.
    let body = |message: &[u8]| -> Vec<Vec<u8>> {
        let text = lines(message);
        text.into_iter()
            .skip_while(|line| !line.is_empty())
            .skip(1)
            .collect()
    };
    assert_eq!(body(given), body(sent));
}

/// The lines of a text in which CR, LF and CRLF each end one.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut lines, mut line, mut before) = (vec![], vec![], b'\n');
    for &octet in text {
        match octet {
            b'\n' if before == b'\r' => {}
            b'\r' | b'\n' => lines.push(std::mem::take(&mut line)),
            _ => line.push(octet),
        }
        before = octet;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Addresses: a list of mailboxes, and one of a queue's own.
pub fn address(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let simple = Simple {
        recipient: text,
        ..Simple::default()
    };
    match prepare_simple(&simple, &QUEUE) {
        Ok(prepared) => {
            let content: Value = serde_json::from_str(&prepared.content).expect("JSON");
            envelope(&prepared);
            let (_, bytes) = composed(&prepared, 1);
            legal(&bytes);
            header(&bytes, &content);
            read_back(&bytes, &prepared, &content);
            again(&prepared, &content);
        }
        Err(invalid) => refused(&invalid),
    }
    match check_address(text, "default_sender") {
        Ok(()) => {
            let simple = Simple {
                recipient: "a@example.org",
                ..Simple::default()
            };
            for (default_sender, return_path) in
                [(Some(text), None), (QUEUE.default_sender, Some(text))]
            {
                let queue = Context {
                    default_sender,
                    return_path,
                    ..QUEUE
                };
                let prepared = prepare_simple(&simple, &queue).expect("a queue's address is good");
                legal(&composed(&prepared, 1).1);
            }
        }
        Err(invalid) => refused(&invalid),
    }
}

/// JSON for an external queue: kept as it is.
pub fn external(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    match prepare_external(text, &QUEUE) {
        Ok(prepared) => {
            assert_eq!(prepared.content, text);
            let known = |file: &File| matches!(file, File::Stored(1..=9));
            assert!(prepared.files.len() <= 1000 && prepared.files.iter().all(known));
        }
        Err(invalid) => refused(&invalid),
    }
}

/// HTML: a text of bounded size is made of it, whatever it is.
pub fn html(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace('\0', " ");
    message(
        &json!({ "to": "a@example.org", "html": text }).to_string(),
        1,
    );
}

/// `dsn`: what is accepted can stand in a command.
pub fn dsn(data: &[u8]) {
    field("dsn", data);
}

/// `list_unsubscribe`: what is accepted stands in the header, in one piece.
pub fn list_unsubscribe(data: &[u8]) {
    field("list_unsubscribe", data);
}

fn field(name: &str, data: &[u8]) {
    let value = String::from_utf8_lossy(data);
    message(
        &format!("{{\"to\": \"a@example.org\", \"{name}\": {value}}}"),
        1,
    );
}
