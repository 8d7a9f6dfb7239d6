//! Certificates that must not be trusted: nothing is said to such a relay, no attempt is counted, and the
//! operator is told which flaw it was.

use pgmq_mail_tests::{Certificates, Sink};

use crate::{SOON, World, quoted};

struct Flaw {
    certificates: Certificates,
    /// Trusted are the certificates' own authority, or only others.
    trusted: Option<Certificates>,
    /// One of these words tells it apart.
    words: &'static [&'static str],
}

fn flaws() -> Vec<Flaw> {
    let flaw = |certificates, trusted, words| Flaw {
        certificates,
        trusted,
        words,
    };
    vec![
        flaw(Certificates::expired(), None, &["expired"]),
        flaw(Certificates::not_yet_valid(), None, &["not yet valid"]),
        flaw(
            Certificates::valid_for(&["other.test"]),
            None,
            &["another name"],
        ),
        flaw(Certificates::self_signed(), None, &["self-signed"]),
        flaw(
            Certificates::self_signed_authority(),
            None,
            &["self-signed"],
        ),
        flaw(
            Certificates::new(),
            Some(Certificates::new()),
            &["issued by", "issuer", "authority"],
        ),
    ]
}

fn refuses(prepare: impl Fn(&Certificates) -> Sink) {
    let mut world = World::new();
    let flaws = flaws();
    let mut cases = Vec::new();
    for (number, flaw) in flaws.iter().enumerate() {
        let sink = prepare(&flaw.certificates);
        let name = format!("relay{number}");
        let trusted = flaw.trusted.as_ref().unwrap_or(&flaw.certificates);
        world.relay_with_login(&name, &sink.url(), trusted, "s3cret");
        let relays = format!("{{{name}}}");
        world.queue(&name, &[("transport", "smtp"), ("relays", &relays)]);
        let id = world.put("alice@example.test", "x", &format!(", queue => '{name}'"));
        cases.push((flaw, sink, name, id));
    }
    for (flaw, sink, name, id) in &cases {
        let name = quoted(name);
        world.until(&format!(
            "SELECT EXISTS (SELECT FROM mail.relay_stats WHERE relay = {name} AND failures >= 2)"
        ));
        world.until(&format!(
            "SELECT EXISTS (SELECT FROM mail.events WHERE message_id = {id} AND kind = 'released')"
        ));
        let told: [String; 3] = [
            format!("SELECT last_error FROM mail.relay_stats WHERE relay = {name}"),
            format!("SELECT detail FROM mail.health() WHERE detail LIKE '%' || {name} || '%certificate%'"),
            format!("SELECT text FROM mail.events WHERE message_id = {id} AND kind = 'released' LIMIT 1"),
        ]
        .map(|query| world.one(&query, &[]));
        for text in told {
            assert!(text.contains("certificate"), "{text}");
            for other in &flaws {
                let says = other.words.iter().any(|word| text.contains(word));
                assert_eq!(says, other.words == flaw.words, "{:?}: {text}", other.words);
            }
        }
        world.waits(*id);
        assert_eq!(sink.count(), 0);
        for (_, command) in sink.commands() {
            assert!(
                command.starts_with("EHLO ") || command == "STARTTLS",
                "{command}"
            );
        }
    }
}

#[test]
fn a_wrong_certificate_under_starttls_is_refused_and_named() {
    refuses(|certificates| {
        Sink::builder()
            .starttls(certificates)
            .auth("app", "s3cret")
            .start()
    });
}

#[test]
fn a_wrong_certificate_over_implicit_tls_is_refused_and_named() {
    refuses(|certificates| {
        Sink::builder()
            .smtps(certificates)
            .auth("app", "s3cret")
            .start()
    });
}

#[test]
fn a_self_signed_certificate_is_accepted_where_it_is_the_one_that_is_trusted() {
    let certificates = Certificates::self_signed();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", "s3cret")
        .start();
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), &certificates, "s3cret");
    world
        .client
        .execute(
            "UPDATE mail.relay SET ca_file = $1, secret = 's3cret'",
            &[&certificates.server_file().to_str()],
        )
        .expect("a relay");
    let id = world.put("alice@example.test", "pinned", "");
    world.reaches(id, "sent");
    assert_eq!(sink.wait_for(1, SOON).len(), 1);
}
