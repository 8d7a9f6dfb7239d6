//! Files that go with a mail, and mails that come complete.

use mail_parser::{MessageParser, MimeHeaders};
use pgmq_mail_tests::Sink;
use serde_json::json;

use crate::{SOON, World};

/// A mail with these fields, as the relay got it.
#[track_caller]
fn sent(world: &mut World<'_>, sink: &Sink, message: &serde_json::Value) -> Vec<u8> {
    let before = sink.count();
    let id: i64 = world.one("SELECT mail.enqueue($1::jsonb)", &[message]);
    world.reaches(id, "sent");
    sink.wait_for(before + 1, SOON)[before].data.clone()
}

#[test]
fn a_file_of_a_table_goes_out_byte_by_byte_and_is_stored_once() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    world.run(
        "CREATE TABLE invoice AS SELECT decode(repeat('00ff0a0d2e', 100000), 'hex') AS pdf;
         SELECT mail.pause('default')",
    );
    let ids: Vec<i64> = world.all(
        "SELECT mail.enqueue(jsonb_build_object('to', 'u' || n || '@example.test', 'subject', 'Invoice', 'text', 'See there.',
                                                'attachments', jsonb_build_array(a.file)))
         FROM (SELECT mail.attach(i.pdf, 'Rechnung für März.pdf') AS file FROM invoice i OFFSET 0) a, generate_series(1, 5) n",
        &[],
    );
    let stored: (i64, i64) = (
        world.one("SELECT count(*) FROM mail.attachment", &[]),
        world.one("SELECT count(*) FROM mail.message_attachment", &[]),
    );
    assert_eq!(stored, (1, 5));
    world.run("SELECT mail.resume('default')");
    for id in ids {
        world.reaches(id, "sent");
    }
    let file = [0x00, 0xff, 0x0a, 0x0d, 0x2e].repeat(100_000);
    for mail in sink.wait_for(5, SOON) {
        let message = MessageParser::default()
            .parse(&mail.data)
            .expect("a message");
        let part = message.attachment(0).expect("an attachment");
        assert_eq!(part.attachment_name(), Some("Rechnung für März.pdf"));
        let kind = part.content_type().expect("a type");
        assert_eq!((kind.ctype(), kind.subtype()), ("application", Some("pdf")));
        assert!(part.contents() == file);
    }
}

#[test]
fn files_and_pictures_in_json_arrive() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let mail = sent(
        &mut world,
        &sink,
        &json!({
            "to": "alice@example.test", "subject": "All of it", "html": "<p>Hello <img src=\"cid:logo\" alt=\"us\"></p>",
            "attachments": [
                {"filename": "notes.txt", "text": "schöne Grüße\n"},
                {"filename": "logo.png", "content": "iVBORw0KGgo=", "content_id": "logo"},
            ],
        }),
    );
    let message = MessageParser::default().parse(&mail).expect("a message");
    assert!(message.body_text(0).expect("a text").contains("Hello"));
    assert!(message.body_html(0).expect("HTML").contains("cid:logo"));
    let parts: Vec<_> = message.attachments().collect();
    assert_eq!(parts.len(), 2);
    let logo = parts
        .iter()
        .find(|p| p.content_id().is_some())
        .expect("a picture");
    assert_eq!(logo.content_id(), Some("logo"));
    assert_eq!(logo.contents(), b"\x89PNG\r\n\x1a\n");
    let notes = parts
        .iter()
        .find(|p| p.content_id().is_none())
        .expect("a file");
    assert_eq!(notes.attachment_name(), Some("notes.txt"));
    assert_eq!(
        String::from_utf8_lossy(notes.contents()).trim(),
        "schöne Grüße"
    );
}

#[test]
fn a_complete_message_goes_out_as_it_is_but_for_its_bcc() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let raw = "From: Shop <shop@example.test>\r\nTo: alice@example.test\r\nBcc: secret@example.test\r\nSubject: =?utf-8?q?sch=C3=B6n?=\r\n\
               Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <mine@example.test>\r\nX-Own:   kept as it is\r\n\r\nBody.\r\n.dot\r\n";
    let id: i64 = world.one(
        "SELECT mail.enqueue(jsonb_build_object('raw', encode(convert_to($1, 'UTF8'), 'base64')))",
        &[&raw],
    );
    world.reaches(id, "sent");
    let mails = sink.wait_for(1, SOON);
    let mut recipients = mails[0].recipients.clone();
    recipients.sort();
    assert_eq!(recipients, ["alice@example.test", "secret@example.test"]);
    assert_eq!(
        mails[0].text(),
        raw.replace("Bcc: secret@example.test\r\n", "")
    );
    let (subject, message_id): (String, String) = (
        world.one("SELECT subject FROM mail.messages WHERE id = $1", &[&id]),
        world.one("SELECT message_id FROM mail.messages WHERE id = $1", &[&id]),
    );
    assert_eq!((&*subject, &*message_id), ("schön", "<mine@example.test>"));
}

#[test]
fn a_file_belongs_to_the_role_that_attached_it() {
    let mut world = World::new();
    world.run("UPDATE mail.queue SET transport = 'capture'");
    world.run(
        "CREATE ROLE own_files IN ROLE mail_sender; CREATE ROLE others_files IN ROLE mail_sender",
    );
    let file: serde_json::Value = {
        world.run("SET ROLE own_files");
        let file = world.one("SELECT mail.attach('\\x00'::bytea, 'x.bin')", &[]);
        world.run("RESET ROLE");
        file
    };
    let message = json!({"from": "a@example.test", "to": "b@example.test", "text": "x", "attachments": [file]});
    world.run("SET ROLE others_files");
    let refused = world
        .client
        .query_one("SELECT mail.enqueue($1::jsonb)", &[&message])
        .expect_err("it is not theirs");
    assert_eq!(refused.code().expect("an answer").code(), "42704");
    world.run("RESET ROLE; SET ROLE own_files");
    let id: i64 = world.one("SELECT mail.enqueue($1::jsonb)", &[&message]);
    world.run("RESET ROLE");
    world.reaches(id, "sent");
    world.run("DROP ROLE others_files");
}

#[test]
fn what_is_too_large_is_refused_by_server_and_queue() {
    let mut world = World::new();
    world.queue(
        "small",
        &[("transport", "capture"), ("max_message_size", "2000")],
    );
    for (statement, code) in [
        ("SELECT mail.enqueue('a@example.test', 'x', repeat('x', 3000), queue => 'small')", "54000"),
        (
            "SELECT mail.enqueue(jsonb_build_object('to', 'a@example.test', 'attachments',
                jsonb_build_array(mail.attach(convert_to(repeat('x', 3000), 'UTF8'), 'x.txt'))), queue => 'small')",
            "54000",
        ),
        (
            "SELECT mail.attach(convert_to(repeat('x', 3000), 'UTF8'), 'x.txt')
             FROM set_config('pgmq_mail.max_message_size', '2kB', true)",
            "54000",
        ),
        ("SELECT mail.attach('\\x00', E'a\\nb')", "22023"),
        ("SELECT mail.attach('\\x00', 'a.txt', 'no type')", "22023"),
        ("SELECT mail.attach(NULL)", "22023"),
    ] {
        let refused = world.client.batch_execute(statement).expect_err(statement);
        assert_eq!(refused.code().expect("an answer").code(), code, "{statement}: {refused}");
    }
    world.run("SELECT mail.enqueue('a@example.test', 'x', repeat('x', 1000), queue => 'small')");
}

#[test]
fn files_go_with_the_last_message_that_needs_them() {
    let mut world = World::new();
    world.run("UPDATE mail.queue SET transport = 'capture'");
    let message = json!({"from": "a@example.test", "to": "b@example.test", "attachments": [{"filename": "a.txt", "text": "a"}]});
    let id: i64 = world.one("SELECT mail.enqueue($1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let count =
        |world: &mut World<'_>| -> i64 { world.one("SELECT count(*) FROM mail.attachment", &[]) };
    world.run("SELECT mail._retain(1000, 'infinity')");
    assert_eq!(count(&mut world), 1);
    world.run(
        "UPDATE mail.queue SET retain_body = '0';
         UPDATE mail.attachment SET attached_at = attached_at - interval '2 days';
         SELECT mail._retain_files(0, 1000)",
    );
    // In the first day a restore may still bring what they go with.
    assert_eq!(count(&mut world), 1);
    world.run("UPDATE mail.installation SET since = since - interval '2 days'");
    // Bodies of the second that is just passing are kept.
    world.until("SELECT NOT EXISTS (SELECT FROM mail.attachment) FROM mail._retain(1000, 'infinity'), mail._retain_files(0, 1000)");
}

#[test]
fn a_file_for_an_outside_consumer_is_kept_with_its_message() {
    let mut world = World::new();
    world.run("INSERT INTO mail.queue (name, transport) VALUES ('sms', 'external')");
    let id: i64 = world.one(
        "SELECT mail.enqueue(jsonb_build_object('number', '+41 1', 'attachments', jsonb_build_array(mail.attach('\\x00ff'::bytea, 'x.bin'))), queue => 'sms')",
        &[],
    );
    world.run(
        "UPDATE mail.attachment SET attached_at = attached_at - interval '2 days';
         UPDATE mail.installation SET since = since - interval '2 days';
         SELECT mail._retain_files(0, 1000)",
    );
    let content: Vec<u8> = world.one(
        "SELECT a.content FROM mail.message_attachment m JOIN mail.attachment a ON a.id = m.attachment_id WHERE m.message_id = $1",
        &[&id],
    );
    assert_eq!(content, [0, 255]);
}
