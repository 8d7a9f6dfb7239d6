//! What is recorded of an attempt, logins by token, and local delivery by LMTP.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use pgmq_mail_tests::{Action, Certificates, Event, Folder, Phase, Sink, free_port};

use super::copies;
use crate::World;

#[test]
fn events_tell_the_tls_and_the_duration_of_each_attempt() {
    let certificates = Certificates::new();
    let secured = Sink::builder()
        .starttls(&certificates)
        .script(|event| match (event.phase, event.address()) {
            (Phase::Rcpt, "gone@secured.test") => Action::reply("550 5.1.1 No"),
            (Phase::Rcpt, "later@secured.test") => Action::reply("450 4.2.1 Later"),
            _ => Action::Accept,
        })
        .start();
    let plain = Sink::start();
    let mut world = World::new();
    let ca_file = certificates.ca_file();
    let columns = [
        ("ca_file", ca_file.to_str().expect("a path in UTF-8")),
        ("recipient_domains", "{secured.test}"),
    ];
    let url = format!("{}?starttls=required", secured.url());
    world.relay("secured", &url, &columns);
    world.relay("plain", &plain.url(), &[]);
    world.queue(
        "default",
        &[("retry_base", "1 hour"), ("retry_max", "1 hour")],
    );
    let to = "a@secured.test, gone@secured.test, later@secured.test, b@plain.test";
    let id = world.put(to, "both ways", "");
    world.reaches(id, "deferred");
    let one = world.put("c@secured.test", "one way", "");
    world.reaches(one, "sent");
    let events: Vec<String> = world.all(
        "SELECT concat_ws(' ', recipient, kind, relay, coalesce(split_part(tls, ' ', 1), 'none'))
         FROM mail.events ORDER BY message_id, recipient",
        &[],
    );
    let expected = [
        "a@secured.test sent secured TLSv1.3",
        "b@plain.test sent plain none",
        "gone@secured.test failed secured TLSv1.3",
        "later@secured.test deferred secured TLSv1.3",
        "c@secured.test sent secured TLSv1.3",
    ];
    assert_eq!(events, expected);
    let ciphers: Vec<String> = world.all(
        "SELECT DISTINCT tls FROM mail.events WHERE tls IS NOT NULL",
        &[],
    );
    assert_eq!(ciphers.len(), 1);
    assert!(ciphers[0].starts_with("TLSv1.3 TLS13_"), "{ciphers:?}");
    let odd: Vec<String> = world.all(
        "SELECT e::text FROM mail.events e
         WHERE duration IS NULL OR duration <= '0' OR duration > interval '40 seconds'",
        &[],
    );
    assert_eq!(odd, [""; 0]);
}

/// A relay that takes one token by XOAUTH2 or OAUTHBEARER, and says why it takes no other.
fn token_relay(
    certificates: &Certificates,
    mechanism: &'static str,
    response: String,
    port: u16,
) -> Sink {
    let begin = format!("AUTH {mechanism} ");
    let script = move |event: &Event<'_>| {
        let keywords = format!("250-sink.test\r\n250-PIPELINING\r\n250 AUTH PLAIN {mechanism}");
        match (event.phase, event.command.strip_prefix(&begin)) {
            (Phase::Ehlo, _) => Action::Reply(keywords),
            (Phase::Other, Some(given)) if given == response => Action::reply("235 2.7.0 Welcome"),
            // {"status":"401","scope":"mail.send"}
            (Phase::Other, Some(_)) => {
                Action::reply("334 eyJzdGF0dXMiOiI0MDEiLCJzY29wZSI6Im1haWwuc2VuZCJ9")
            }
            (Phase::Other, None) if ["", "AQ=="].contains(&event.command) => {
                Action::reply("535 5.7.8 Token refused")
            }
            _ => Action::Accept,
        }
    };
    let sink = Sink::builder().smtps(certificates).port(port);
    sink.script(script).start()
}

fn a_login_by_token(mechanism: &'static str, words: impl Fn(u16) -> String) {
    let certificates = Certificates::new();
    let port = free_port();
    let mut world = World::new();
    let response: String = world.one(
        "SELECT translate(encode(convert_to($1, 'UTF8'), 'base64'), E'\n', '')",
        &[&words(port)],
    );
    let sink = token_relay(&certificates, mechanism, response, port);
    world.relay_with_login("main", &sink.url(), &certificates, "stale-token");
    let auth = mechanism.to_lowercase();
    world.run(&format!("UPDATE mail.relay SET auth = '{auth}'"));
    let id = world.put("alice@example.test", "by token", "");
    world.ails("relay", "401");
    world.waits(id);
    assert_eq!(sink.count(), 0);
    let health = world.health().join("\n");
    assert!(health.contains("Token refused"), "{health}");
    assert!(!health.contains("stale-token"), "{health}");
    world.run("UPDATE mail.relay SET secret = 'fresh-token'");
    world.reaches(id, "sent");
    assert_eq!(world.attempts(id), 1, "{}", world.story(id));
    assert_eq!(copies(&sink), ["alice@example.test"]);
}

#[test]
fn a_relay_is_logged_in_to_by_xoauth2_and_its_refusal_is_read() {
    a_login_by_token("XOAUTH2", |_| {
        "user=app\x01auth=Bearer fresh-token\x01\x01".to_owned()
    });
}

#[test]
fn a_relay_is_logged_in_to_by_oauthbearer_and_its_refusal_is_read() {
    a_login_by_token("OAUTHBEARER", |port| {
        format!("n,a=app,\x01host=127.0.0.1\x01port={port}\x01auth=Bearer fresh-token\x01\x01")
    });
}

/// A server for local delivery: it answers the dot for each recipient (RFC 2033 section 4.2), and has no room for some.
fn local() -> Sink {
    Sink::scripted(|event| match event.phase {
        Phase::Other if event.command.starts_with("LHLO ") => {
            Action::reply("250-sink.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES")
        }
        Phase::Ehlo => Action::reply("500 5.5.1 This is LMTP"),
        Phase::Rcpt if event.address().starts_with("gone") => Action::reply("550 5.1.1 No"),
        Phase::Dot => {
            let answer = |to: &String| match to.as_str() {
                "full@example.test" => "452 4.2.2 Mailbox full",
                "odd@example.test" => "554 5.6.0 Not like this",
                _ => "250 2.1.5 Delivered",
            };
            let answers: Vec<&str> = event.recipients.iter().map(answer).collect();
            Action::Reply(answers.join("\r\n"))
        }
        _ => Action::Accept,
    })
}

fn each_recipient_is_answered_after_the_dot(sink: &Sink, url: &str) {
    let mut world = World::new();
    world.relay("local", url, &[]);
    world.queue(
        "default",
        &[("retry_base", "1 hour"), ("retry_max", "1 hour")],
    );
    let ids = world.put_many(20, "");
    super::all_sent_at_once(&mut world, &ids);
    let to = ["a", "full", "gone", "odd", "z"].map(|name| format!("{name}@example.test"));
    let id = world.put(&to.join(", "), "each", "");
    world.reaches(id, "deferred");
    let events: Vec<String> = world.all(
        "SELECT concat_ws(' ', recipient, kind, code, phase) FROM mail.events
         WHERE message_id = $1 ORDER BY recipient",
        &[&id],
    );
    let expected = [
        "a@example.test sent 250 dot",
        "full@example.test deferred 452 dot",
        "gone@example.test failed 550 rcpt",
        "odd@example.test failed 554 dot",
        "z@example.test sent 250 dot",
    ];
    assert_eq!(events, expected);
    assert_eq!(sink.count(), 21);
    let commands = sink.commands();
    assert!(commands.iter().all(|(_, line)| !line.starts_with("EHLO")));
}

#[test]
fn local_delivery_by_lmtp_is_answered_for_each_recipient() {
    let sink = local();
    let url = format!("lmtp://127.0.0.1:{}", sink.port());
    each_recipient_is_answered_after_the_dot(&sink, &url);
}

#[test]
fn local_delivery_by_lmtp_goes_through_a_socket_in_the_file_system() {
    let sink = local();
    let folder = Folder::new("lmtp");
    let path = doorway(folder.path(), sink.port());
    each_recipient_is_answered_after_the_dot(&sink, &format!("lmtp://{}", path.display()));
}

/// A socket in the file system that leads to a port, for as long as the test runs.
fn doorway(folder: &Path, port: u16) -> PathBuf {
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("it is ours");
    std::thread::spawn(move || {
        for here in listener.incoming().map_while(Result::ok) {
            let Ok(there) = TcpStream::connect(("127.0.0.1", port)) else {
                return;
            };
            let _ = join(&here, &there);
        }
    });
    path
}

/// Carries bytes both ways until each side is done.
fn join(here: &UnixStream, there: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (here.try_clone()?, there.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (there.try_clone()?, here.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}
