//! TLS and logins: with real servers where they show that it works, with the sink where every byte that
//! went out must be seen.

use std::fs;

use pgmq_mail_tests::{Certificates, LOGIN, Make, Sink};

use crate::on_real_servers;
use crate::servers::{Server, message_id};
use crate::{SOON, World, secrets_directory};

on_real_servers! {
    a_login_by_plain_under_starttls_delivers
    a_login_by_login_under_starttls_delivers
    a_login_over_implicit_tls_delivers
    a_secret_in_a_file_delivers
    a_wrong_password_costs_no_attempt_and_correcting_it_delivers
    a_certificate_of_an_unknown_authority_stops_the_mail
    a_certificate_for_another_name_stops_the_mail
}

/// Sends one mail and checks that it came encrypted and authenticated.
fn delivers(server: &Server, world: &mut World<'_>) {
    let id = world.put("alice@example.test", "guarded", "");
    world.reaches(id, "sent");
    let mark = message_id(world, id);
    let mails = server.wait_for("alice", &mark, 1);
    let mail = mails[0].to_lowercase();
    assert!(mail.contains("with esmtpsa"), "{mail}");
    assert_eq!(world.health(), [""; 0]);
}

/// OpenSMTPD does not log which mechanism was used.
fn says_mechanism(server: &Server, mechanism: &str) {
    let said = match server.make() {
        Make::Postfix => format!("sasl_method={mechanism}"),
        Make::Exim => format!(" A={}:{}", mechanism.to_lowercase(), LOGIN.0),
        Make::OpenSmtpd => return,
    };
    assert!(server.log().contains(&said), "{}", server.log());
}

fn a_login_by_plain_under_starttls_delivers(server: &Server) {
    let mut world = server.world_with_login(&server.submission(), LOGIN.1, &[("auth", "plain")]);
    delivers(server, &mut world);
    says_mechanism(server, "PLAIN");
}

fn a_login_by_login_under_starttls_delivers(server: &Server) {
    let mut world = server.world_with_login(&server.submission(), LOGIN.1, &[("auth", "login")]);
    delivers(server, &mut world);
    says_mechanism(server, "LOGIN");
}

fn a_login_over_implicit_tls_delivers(server: &Server) {
    let mut world = server.world_with_login(&server.smtps(), LOGIN.1, &[]);
    delivers(server, &mut world);
}

fn a_secret_in_a_file_delivers(server: &Server) {
    let name = server.make().name();
    secrets_directory().write(name, format!("{}\n", LOGIN.1));
    let mut world = server.world_with_login(&server.submission(), &format!("file:{name}"), &[]);
    delivers(server, &mut world);
    let shown: String = world.one("SELECT secret FROM mail.relay", &[]);
    assert_eq!(shown, format!("file:{name}"));
    assert_eq!(
        world.one::<i64>("SELECT count(*) FROM mail.relay_secret", &[]),
        0
    );
}

fn a_wrong_password_costs_no_attempt_and_correcting_it_delivers(server: &Server) {
    let mut world = server.world_with_login(&server.submission(), "wrong password", &[]);
    let id = world.put("bob@example.test", "wrong password", "");
    world.ails("relay", "authenticate");
    // Often enough that the next try is not due for a while.
    world.until("SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 3)");
    world.waits(id);
    let shown = format!("{}{:?}", world.story(id), world.health());
    assert!(!shown.contains("wrong password"), "{shown}");
    world.run(&format!("UPDATE mail.relay SET secret = '{}'", LOGIN.1));
    world.reaches(id, "sent");
    let mark = message_id(&mut world, id);
    server.wait_for("bob", &mark, 1);
    assert_eq!(world.attempts(id), 1);
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health())");
    assert!(
        !world.kinds(id).contains(&"deferred".to_owned()),
        "{}",
        world.story(id)
    );
}

fn a_certificate_of_an_unknown_authority_stops_the_mail(server: &Server) {
    let other = Certificates::new();
    let ca_file = other.ca_file();
    let ca_file = ca_file.to_str().expect("a path in UTF-8");
    let mut world = server.world_with_login(&server.submission(), LOGIN.1, &[("ca_file", ca_file)]);
    stopped(server, &mut world, "the certificate of");
    // The right authority in the same place: the file is read again.
    fs::write(ca_file, server.certificates.ca_pem()).expect("writable");
    world.until("SELECT NOT EXISTS (SELECT FROM mail.messages WHERE state <> 'sent')");
}

fn a_certificate_for_another_name_stops_the_mail(server: &Server) {
    let server = server.another(Certificates::valid_for(&["other.test"]));
    let mut world = server.world_with_login(&server.submission(), LOGIN.1, &[]);
    stopped(&server, &mut world, "another name");
}

fn stopped(server: &Server, world: &mut World<'_>, why: &str) {
    let id = world.put("bob@example.test", "guarded", "");
    world.ails("relay", why);
    world.waits(id);
    let mark = message_id(world, id);
    assert_eq!(server.inbox("bob", &mark), [""; 0]);
}

#[test]
fn a_relay_that_does_not_offer_starttls_gets_no_password() {
    let sink = Sink::builder().auth("app", "s3cret").start();
    let mut world = World::new();
    world.relay(
        "main",
        &sink.url(),
        &[("username", "app"), ("secret", "s3cret")],
    );
    let id = world.put("alice@example.test", "guarded", "");
    world.ails("relay", "STARTTLS");
    world.waits(id);
    let url = format!("{}?starttls=opportunistic", sink.url());
    world
        .client
        .execute("UPDATE mail.relay SET url = $1, secret = 's3cret'", &[&url])
        .expect("a relay");
    world.ails("relay", "credentials are not sent without TLS");
    for (_, command) in sink.commands() {
        assert!(!command.starts_with("AUTH"), "{command}");
    }
    let url = format!("{}?starttls=never", sink.url());
    world
        .client
        .execute("UPDATE mail.relay SET url = $1, secret = 's3cret'", &[&url])
        .expect("a relay");
    world.reaches(id, "sent");
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_relay_without_a_login_gets_tls_where_it_offers_it_and_plain_text_where_not() {
    let certificates = Certificates::new();
    let sinks = [
        Sink::builder().starttls(&certificates).start(),
        Sink::start(),
    ];
    for (sink, tls) in sinks.iter().zip([true, false]) {
        let mut world = World::with(sink);
        let id = world.put("alice@example.test", "open", "");
        world.reaches(id, "sent");
        let commands = sink.commands();
        assert_eq!(
            commands.iter().any(|(_, command)| command == "STARTTLS"),
            tls
        );
    }
}

/// A sink that wants STARTTLS and a login with the password `right`, and a relay for it with this secret.
fn with_login(certificates: &Certificates, secret: &str) -> (Sink, World<'static>) {
    let sink = Sink::builder()
        .starttls(certificates)
        .auth("app", "right")
        .start();
    let mut world = World::new();
    world.relay_with_login("main", &sink.url(), certificates, secret);
    (sink, world)
}

#[test]
fn a_corrected_relay_is_tried_at_once_and_not_after_its_pause() {
    let certificates = Certificates::new();
    let (sink, mut world) = with_login(&certificates, "wrong");
    let id = world.put("alice@example.test", "guarded", "");
    world.until("SELECT EXISTS (SELECT FROM mail.relay_stats WHERE failures >= 4)");
    let pause: f64 = world.one(
        "SELECT extract(epoch FROM suspended_until - clock_timestamp())::float8 FROM mail.relay_stats",
        &[],
    );
    assert!(
        pause > 3.0,
        "the fourth pause is 8 s, and has just begun: {pause}"
    );
    world.run("CREATE TABLE pause AS SELECT suspended_until FROM mail.relay_stats");
    world.run("UPDATE mail.relay SET secret = 'right'");
    world.reaches(id, "sent");
    let early: bool = world.one(
        "SELECT m.finished_at < p.suspended_until FROM mail.messages m, pause p WHERE m.id = $1",
        &[&id],
    );
    assert!(early, "{}", world.story(id));
    assert_eq!(sink.wait_for(1, SOON).len(), 1);
}

#[test]
fn a_secret_in_a_file_is_read_again_at_a_reload() {
    let certificates = Certificates::new();
    let (_sink, mut world) = with_login(&certificates, "file:rotated");
    let id = world.put("alice@example.test", "guarded", "");
    world.ails("relay", "rotated");
    secrets_directory().write("rotated", "wrong");
    world.run("SELECT pg_reload_conf()");
    world.ails("relay", "authenticate");
    secrets_directory().write("rotated", "right\nand a second line\n");
    world.run("SELECT pg_reload_conf()");
    world.reaches(id, "sent");
    assert_eq!(world.attempts(id), 1);
}
