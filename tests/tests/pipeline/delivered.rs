//! What real servers find in their users' mailboxes.

use mail_parser::HeaderForm;

use crate::World;
use crate::on_real_servers;
use crate::servers::{Server, message_id, parsed};

on_real_servers! {
    a_committed_mail_is_in_the_mailbox_as_its_record_says
    a_rolled_back_mail_never_arrives
    texts_beyond_ascii_arrive_as_they_were_written
    text_and_html_arrive_as_alternatives
    lines_that_begin_with_dots_arrive_whole
    blind_recipients_get_the_mail_and_are_named_to_nobody
    headers_and_identifiers_of_ones_own_arrive
    a_megabyte_arrives
    without_tls_a_mail_arrives_in_plain_text
}

fn a_committed_mail_is_in_the_mailbox_as_its_record_says(server: &Server) {
    let mut world = server.world();
    let id = world.put("Alice Doe <alice@example.test>", "Your order", "");
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("alice", &mark, 1);
    let mail = parsed(&mails[0]);
    assert_eq!(
        Some(&*mark),
        mail.message_id().map(|id| format!("<{id}>")).as_deref()
    );
    assert_eq!(mail.subject(), Some("Your order"));
    assert_eq!(
        mail.body_text(0).as_deref().map(str::trim_end),
        Some("hello")
    );
    let from = mail.from().and_then(|from| from.first()).expect("From");
    assert_eq!(
        (from.name(), from.address()),
        (Some("App"), Some("app@example.test"))
    );
    let to = mail.to().and_then(|to| to.first()).expect("To");
    assert_eq!(
        (to.name(), to.address()),
        (Some("Alice Doe"), Some("alice@example.test"))
    );
    if server.adds_return_path() {
        assert_eq!(mail.return_address(), Some("app@example.test"));
    }
    let date = mail.date().expect("Date").to_timestamp();
    let recent: bool = world.one(
        "SELECT abs(extract(epoch FROM enqueued_at) - $2::int8) < 1 FROM mail.messages WHERE id = $1",
        &[&id, &date],
    );
    assert!(recent, "{date}");
    let recorded: bool = world.one(
        "SELECT attempts = 1 AND last_code = 250 AND coalesce(last_status LIKE '2.%', false) = $2
                AND last_error IS NULL
                AND finished_at >= enqueued_at AND next_attempt_at IS NULL
                AND envelope_from = 'app@example.test'
         FROM mail.messages WHERE id = $1",
        &[&id, &server.offers_enhanced_codes()],
    );
    assert!(recorded, "{}", world.story(id));
    let event: bool = world.one(
        "SELECT kind = 'sent' AND recipient = 'alice@example.test' AND relay = 'main' AND phase = 'dot'
                AND code = 250 AND attempt = 1 AND duration > '0' AND text <> '' AND state = 'sent'
         FROM mail.events WHERE message_id = $1",
        &[&id],
    );
    assert!(event, "{}", world.story(id));
    assert_eq!(world.health(), [""; 0]);
}

fn a_rolled_back_mail_never_arrives(server: &Server) {
    let mut world = server.world();
    let tag = world.database.name().to_owned();
    world.run(&format!(
        "BEGIN; SELECT mail.enqueue('bob@example.test', 'rolled back {tag}.', 'x'); ROLLBACK;
         BEGIN;
         SAVEPOINT a; SELECT mail.enqueue('bob@example.test', 'rolled back {tag}.', 'x');
         ROLLBACK TO a;
         SELECT mail.enqueue('bob@example.test', 'committed {tag}.', 'x');
         SAVEPOINT b; SELECT mail.enqueue('bob@example.test', 'rolled back {tag}.', 'x');
         ROLLBACK TO b;
         COMMIT;"
    ));
    server.wait_for("bob", &format!("committed {tag}."), 1);
    let id = world.put("bob@example.test", &format!("last {tag}."), "");
    world.reaches(id, "sent");
    server.wait_for("bob", &format!("last {tag}."), 1);
    assert_eq!(server.inbox("bob", &format!("rolled back {tag}.")), [""; 0]);
    assert_eq!(server.inbox("bob", &format!("committed {tag}.")).len(), 1);
    assert_eq!(
        world.one::<i64>("SELECT count(*) FROM mail.messages", &[]),
        2
    );
}

fn texts_beyond_ascii_arrive_as_they_were_written(server: &Server) {
    let mut world = server.world();
    let subject =
        "Grüße aus Zürich – 日本語 🎉, und noch viel mehr Text, der nicht in eine Zeile passt";
    let body = "Liebe Ärztin,\n\n日本語のメール 🎉\n= Gleich = und Tab\tund Punkt\n.\nEnde ohne Zeilenende";
    let id: i64 = world.one(
        "SELECT mail.enqueue('Zoë Müller <alice@example.test>', $1, $2, sender => 'Käufer <app@example.test>')",
        &[&subject, &body],
    );
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("alice", &mark, 1);
    let mail = parsed(&mails[0]);
    assert_eq!(mail.subject(), Some(subject));
    let text = mail.body_text(0).expect("a text").replace("\r\n", "\n");
    assert_eq!(text.trim_end_matches('\n'), body);
    assert_eq!(
        mail.to().and_then(|to| to.first()).and_then(|to| to.name()),
        Some("Zoë Müller")
    );
    assert_eq!(
        mail.from()
            .and_then(|from| from.first())
            .and_then(|from| from.name()),
        Some("Käufer")
    );
    assert!(
        mails[0].is_ascii(),
        "old servers on the way must not have to understand it"
    );
}

fn text_and_html_arrive_as_alternatives(server: &Server) {
    let mut world = server.world();
    let html = "<p>Größe: <b>12</b></p>\n<p>&mdash;</p>";
    let id: i64 = world.one(
        "SELECT mail.enqueue('alice@example.test', 'both', 'plain words', $1)",
        &[&html],
    );
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("alice", &mark, 1);
    let mail = parsed(&mails[0]);
    assert!(mails[0].contains("multipart/alternative"));
    assert_eq!((mail.text_body_count(), mail.html_body_count()), (1, 1));
    assert_eq!(
        mail.body_text(0).as_deref().map(str::trim_end),
        Some("plain words")
    );
    let body = mail.body_html(0).expect("HTML").replace("\r\n", "\n");
    assert_eq!(body.trim_end(), html);
}

fn lines_that_begin_with_dots_arrive_whole(server: &Server) {
    let mut world = server.world();
    let body = ".\n..\n...three\n.\n\nMAIL FROM:<x@example.test>\n.hidden\nlast\n.";
    let id: i64 = world.one(
        "SELECT mail.enqueue('alice@example.test', 'dots', $1)",
        &[&body],
    );
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("alice", &mark, 1);
    let (_, text) = mails[0].split_once("\n\n").expect("a body");
    assert_eq!(text.trim_end_matches('\n'), body);
}

fn blind_recipients_get_the_mail_and_are_named_to_nobody(server: &Server) {
    let mut world = server.world();
    let message = serde_json::json!({
        "to": ["Alice <alice@example.test>"],
        "cc": ["bob@example.test"],
        "bcc": ["carol@example.test"],
        "subject": "to all",
        "text": "hello",
    });
    let id: i64 = world.one("SELECT mail.enqueue(message => $1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    for user in ["alice", "bob", "carol"] {
        let mails = server.wait_for(user, &mark, 1);
        let mail = parsed(&mails[0]);
        assert_eq!(mail.bcc(), None);
        let address = |list: Option<&mail_parser::Address<'_>>| {
            list.and_then(|list| list.first())
                .and_then(|one| one.address().map(str::to_owned))
        };
        assert_eq!(address(mail.to()).as_deref(), Some("alice@example.test"));
        assert_eq!(address(mail.cc()).as_deref(), Some("bob@example.test"));
        assert!(
            user == "carol" || !mails[0].contains("carol"),
            "{}",
            mails[0]
        );
    }
    let recipients: Vec<String> = world.all(
        "SELECT recipient FROM mail.events WHERE message_id = $1 AND kind = 'sent' ORDER BY 1",
        &[&id],
    );
    assert_eq!(
        recipients,
        [
            "alice@example.test",
            "bob@example.test",
            "carol@example.test"
        ]
    );
}

fn headers_and_identifiers_of_ones_own_arrive(server: &Server) {
    let mut world = server.world();
    let tag = world.database.name().to_owned();
    let own = format!("<{tag}.{}@example.test>", std::process::id());
    let message = serde_json::json!({
        "to": ["alice@example.test"],
        "reply_to": ["Help <help@example.test>"],
        "return_path": "bounces@example.test",
        "subject": "own headers",
        "text": "hello",
        "message_id": own,
        "in_reply_to": "<first@example.test>",
        "references": "<first@example.test> <second@example.test>",
        "headers": {"X-Campaign": "spring", "X-Umlaut": "schön"},
        "dsn": {"notify": ["failure", "delay"], "return": "headers", "envelope_id": "own+headers=1"},
        "metadata": {"secret_note": "never sent"},
        "tags": ["never-sent-either"],
    });
    let id: i64 = world.one("SELECT mail.enqueue(message => $1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let mails = server.wait_for("alice", &own, 1);
    let mail = parsed(&mails[0]);
    assert_eq!(message_id(&mut world, id), own);
    if server.adds_return_path() {
        assert_eq!(mail.return_address(), Some("bounces@example.test"));
    } else {
        assert!(server.log().contains("from=<bounces@example.test>"));
    }
    let reply_to = mail
        .reply_to()
        .and_then(|list| list.first())
        .expect("Reply-To");
    assert_eq!(reply_to.address(), Some("help@example.test"));
    assert_eq!(mail.in_reply_to().as_text(), Some("first@example.test"));
    assert_eq!(
        mail.header("X-Campaign").and_then(|value| value.as_text()),
        Some("spring")
    );
    let umlaut = mail.header_as("X-Umlaut", HeaderForm::Text);
    assert_eq!(umlaut[0].as_text(), Some("schön"));
    assert!(!mails[0].contains("never"), "{}", mails[0]);
}

fn a_megabyte_arrives(server: &Server) {
    let mut world = server.world();
    let body = "0123456789 äöü 0123456789\n.\n".repeat(36_000);
    let id: i64 = world.one(
        "SELECT mail.enqueue('carol@example.test', 'large', $1)",
        &[&body],
    );
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("carol", &mark, 1);
    let text = parsed(&mails[0])
        .body_text(0)
        .expect("a text")
        .replace("\r\n", "\n");
    assert!(
        text.trim_end() == body.trim_end(),
        "{} bytes of {}",
        text.len(),
        body.len()
    );
}

fn without_tls_a_mail_arrives_in_plain_text(server: &Server) {
    let mut world = World::new();
    world.relay("main", &format!("{}?starttls=never", server.plain()), &[]);
    let id = world.put("bob@example.test", "for everybody to see", "");
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("bob", &mark, 1);
    let mail = mails[0].to_lowercase();
    assert!(
        mail.contains("with esmtp") && !mail.contains("esmtps"),
        "{mail}"
    );
}
