//! Recipients that real servers refuse.

use crate::on_real_servers;
use crate::servers::{Server, message_id};

on_real_servers! {
    an_unknown_recipient_fails_alone_and_a_retry_goes_to_nobody_else
    a_mail_to_unknown_recipients_only_fails_and_is_not_repeated
    a_null_sender_is_a_sender
}

fn an_unknown_recipient_fails_alone_and_a_retry_goes_to_nobody_else(server: &Server) {
    let mut world = server.world();
    let id = world.put(
        "alice@example.test, nobody@example.test, bob@example.test",
        "list",
        "",
    );
    world.reaches(id, "failed");
    let mark = message_id(&mut world, id);
    for user in ["alice", "bob"] {
        server.wait_for(user, &mark, 1);
    }
    let outcome = |world: &mut crate::World<'_>| -> Vec<String> {
        world.all(
            "SELECT split_part(recipient, '@', 1) || ' ' || kind FROM mail.events
             WHERE message_id = $1 AND recipient IS NOT NULL ORDER BY id",
            &[&id],
        )
    };
    let first = ["alice sent", "nobody failed", "bob sent"];
    let mut seen = outcome(&mut world);
    seen.sort_unstable();
    let mut expected = first.map(str::to_owned).to_vec();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let letter: bool = world.one(
        "SELECT state = 'failed' AND last_code BETWEEN 500 AND 599 AND attempts = 1 AND retryable
                AND last_error <> '' FROM mail.dead_letters WHERE id = $1",
        &[&id],
    );
    assert!(letter, "{}", world.story(id));
    world.ails("dead_letters", "1 dead letter");

    assert!(world.one::<bool>("SELECT mail.retry($1)", &[&id]));
    world.until(&format!(
        "SELECT count(*) = 2 FROM mail.events WHERE message_id = {id} AND kind = 'failed'"
    ));
    world.reaches(id, "failed");
    let again: Vec<String> = world.all(
        "SELECT recipient || ' ' || kind FROM mail.events WHERE message_id = $1 AND recipient IS NOT NULL
           AND id > (SELECT id FROM mail.events WHERE message_id = $1 AND kind = 'retried')",
        &[&id],
    );
    assert_eq!(again, ["nobody@example.test failed"]);
    let last = world.put("alice@example.test, bob@example.test", "last", "");
    world.reaches(last, "sent");
    let last = message_id(&mut world, last);
    for user in ["alice", "bob"] {
        server.wait_for(user, &last, 1);
        assert_eq!(server.inbox(user, &mark).len(), 1, "{user} got it twice");
    }
}

fn a_mail_to_unknown_recipients_only_fails_and_is_not_repeated(server: &Server) {
    let mut world = server.world();
    let id = world.put("nobody@example.test, no-one@example.test", "list", "");
    world.reaches(id, "failed");
    assert_eq!(world.kinds(id), ["failed", "failed"], "{}", world.story(id));
    assert_eq!(world.attempts(id), 1);
    let after = world.put("alice@example.test", "after", "");
    world.reaches(after, "sent");
}

fn a_null_sender_is_a_sender(server: &Server) {
    let mut world = server.world();
    let message = serde_json::json!({
        "to": ["alice@example.test"], "subject": "auto", "text": "x", "return_path": "",
    });
    let id: i64 = world.one("SELECT mail.enqueue(message => $1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    let mails = server.wait_for("alice", &mark, 1);
    if server.adds_return_path() {
        let mail = mails[0].to_lowercase();
        assert!(mail.contains("return-path: <>"), "{mail}");
    } else {
        assert!(server.log().contains("from=<>"), "{}", server.log());
    }
}
