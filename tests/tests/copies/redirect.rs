//! `pgmq_mail.delivery = redirect`: a staging server whose mail all goes to one address.

use pgmq_mail_tests::{Action, Phase, Sink, all, one, run_sql};
use postgres::Client;
use serde_json::json;

use crate::clones::{original, started};
use crate::{ails, options, put, reaches, worker_has_looked};

const DEVELOPERS: &str = "dev@staging.test";

/// Who is told of in the events of a message, and how.
fn events(client: &mut Client, id: i64) -> Vec<String> {
    all(
        client,
        "SELECT concat_ws(' ', kind, recipient, code, detail ->> 'redirected_to') FROM mail.events WHERE message_id = $1 ORDER BY id",
        &[&id],
    )
}

#[test]
fn a_clone_with_redirect_sends_one_copy_of_each_mail_to_the_one_address() {
    let sink = Sink::start();
    let (cluster, mut client) = original(&options(), &sink);
    let message = json!({"to": ["Alice <alice@customer.test>", "bob@other.test"], "bcc": ["carol@customer.test"],
                         "subject": "waiting", "text": "hello"});
    let waiting: i64 = one(
        &mut client,
        "SELECT mail.enqueue($1::jsonb, queue => 'waiting')",
        &[&message],
    );
    let redirect = options()
        .setting("pgmq_mail.delivery", "redirect")
        .setting("pgmq_mail.redirect_to", DEVELOPERS);
    let (_clone, mut copy) = started(&cluster, &redirect);
    reaches(&mut copy, waiting, "sent");
    let mails = sink.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].recipients, [DEVELOPERS]);
    assert_eq!(
        mails[0].header("To").as_deref(),
        Some("Alice <alice@customer.test>, bob@other.test"),
        "the text is what it would have been"
    );
    let sent = |to: &str| format!("sent {to} 250 {DEVELOPERS}");
    let told = [
        "alice@customer.test",
        "bob@other.test",
        "carol@customer.test",
    ]
    .map(sent);
    assert_eq!(events(&mut copy, waiting), told);
    ails(
        &mut copy,
        "delivery",
        &format!("all mail goes to {DEVELOPERS}"),
    );

    let captured = put(
        &mut copy,
        "alice@customer.test",
        "kept",
        ", queue => 'kept'",
    );
    reaches(&mut copy, captured, "sent");
    let to: Vec<String> = one(&mut copy, "SELECT recipients FROM mail.capture", &[]);
    assert_eq!(
        to,
        ["alice@customer.test"],
        "what is captured goes nowhere anyway"
    );
    let refused = copy.batch_execute("SELECT mail.test_relay('main', 'alice@customer.test')");
    assert_eq!(pgmq_mail_tests::code(refused).code(), "55000");

    // The original still writes to its customers.
    run_sql(&mut client, "SELECT mail.resume('waiting')");
    reaches(&mut client, waiting, "sent");
    let last = sink.mails().pop().expect("a mail");
    assert_eq!(last.recipients.len(), 3);
}

#[test]
fn without_an_address_redirect_sends_nothing_and_health_says_why() {
    let sink = Sink::start();
    let (cluster, mut client) = original(&options(), &sink);
    let waiting = put(
        &mut client,
        "alice@customer.test",
        "waiting",
        ", queue => 'waiting'",
    );
    let redirect = options().setting("pgmq_mail.delivery", "redirect");
    let (mut clone, mut copy) = started(&cluster, &redirect);
    worker_has_looked(&mut copy);
    ails(
        &mut copy,
        "delivery",
        "nothing goes out: pgmq_mail.redirect_to is not set",
    );
    for wrong in ["dev", "dev@staging.test, ops@staging.test", "dev@"] {
        clone.set("pgmq_mail.redirect_to", wrong);
        clone.reload();
        ails(
            &mut copy,
            "delivery",
            "nothing goes out: invalid address in",
        );
        worker_has_looked(&mut copy);
        assert_eq!(pgmq_mail_tests::state(&mut copy, waiting), "queued");
    }
    assert_eq!(sink.connections(), 0);
    clone.set("pgmq_mail.redirect_to", "Developers <dev@stäging.test>");
    clone.reload();
    reaches(&mut copy, waiting, "sent");
    assert_eq!(sink.mails()[0].recipients, ["dev@xn--stging-cua.test"]);
}

#[test]
fn what_becomes_of_the_copy_becomes_of_every_recipient() {
    let sink = Sink::scripted(|event| match event.phase {
        Phase::Rcpt => Action::reply("451 4.3.0 Not now"),
        _ => Action::Accept,
    });
    let options = options()
        .setting("pgmq_mail.delivery", "redirect")
        .setting("pgmq_mail.redirect_to", DEVELOPERS);
    let (mut cluster, mut client) = original(&options, &sink);
    let two = "alice@customer.test, bob@other.test";
    let id = put(&mut client, two, "refused", "");
    reaches(&mut client, id, "deferred");
    sink.set_script(|event| match event.phase {
        Phase::Rcpt => Action::reply("550 5.1.1 No"),
        _ => Action::Accept,
    });
    reaches(&mut client, id, "failed");
    let told = events(&mut client, id);
    for to in ["alice@customer.test", "bob@other.test"] {
        for (kind, code) in [("deferred", 451), ("failed", 550)] {
            let event = format!("{kind} {to} {code} {DEVELOPERS}");
            assert!(told.contains(&event), "{event}: {told:?}");
        }
    }
    sink.clear_script();
    run_sql(&mut client, &format!("SELECT mail.retry({id})"));
    reaches(&mut client, id, "sent");
    assert_eq!(sink.mails()[0].recipients, [DEVELOPERS]);

    // From then on to whom it is for.
    cluster.set("pgmq_mail.delivery", "on");
    cluster.reload();
    crate::wait_for(
        &mut client,
        "SELECT NOT EXISTS (SELECT FROM mail.health() WHERE \"check\" = 'delivery')",
    );
    worker_has_looked(&mut client);
    let id = put(&mut client, two, "free", "");
    reaches(&mut client, id, "sent");
    let last = sink.mails().pop().expect("a mail");
    assert_eq!(last.recipients, ["alice@customer.test", "bob@other.test"]);
}
