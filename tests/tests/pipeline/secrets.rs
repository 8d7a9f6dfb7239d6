//! Where a password must not be found.

use pgmq_mail_tests::{Action, Certificates, Cluster, Phase, Sink};

use crate::World;
use crate::world::options;

const SECRET: &str = "Tr0ub4dor-and-3-horses";
/// The same as PLAIN and as LOGIN send it, less the ends that depend on what stands beside it.
const ENCODED: [&str; 2] = [
    "VHIwdWI0ZG9yLWFuZC0zLWhvcnNlc",
    "FRyMHViNGRvci1hbmQtMy1ob3JzZX",
];

#[track_caller]
fn has_no_secret(place: &str, text: &str) {
    for secret in [SECRET, ENCODED[0], ENCODED[1]] {
        if let Some(at) = text.find(secret) {
            let line = text[..at].rsplit('\n').next().unwrap_or_default();
            panic!("{place} holds the secret after: {line}");
        }
    }
}

#[test]
fn a_password_is_in_no_log_and_no_view() {
    let certificates = Certificates::new();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", SECRET)
        .start();
    let wrong = Sink::builder()
        .starttls(&certificates)
        .auth("app", "another")
        .start();
    let options = options()
        .setting("log_min_messages", "debug2")
        .setting("log_connections", "on");
    let cluster = Cluster::with(&options);
    let mut world = World::on(&cluster);
    world.relay_with_login("wrong", &wrong.url(), &certificates, SECRET);
    let id = world.put("alice@example.test", "guarded", "");
    world.ails("relay", "authenticate");
    world.relay_with_login("main", &sink.url(), &certificates, SECRET);
    world.reaches(id, "sent");
    for n in 0..20 {
        let id = world.put("alice@example.test", &n.to_string(), "");
        world.reaches(id, "sent");
    }
    world
        .run("UPDATE mail.relay SET tier = 2; SELECT mail.disarm('for a test'); SELECT mail.arm()");
    let id = world.put("alice@example.test", "after arm", "");
    world.reaches(id, "sent");

    let views: Vec<String> = world.all(
        "SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('v', 'r')
           AND c.relname <> 'relay_secret'",
        &[],
    );
    assert!(views.len() > 15, "{views:?}");
    for view in views {
        let rows: Vec<String> = world.all(&format!("SELECT t::text FROM {view} t"), &[]);
        has_no_secret(&view, &rows.join("\n"));
    }
    let health = world.health().join("\n");
    has_no_secret("mail.health()", &health);
    let activity: Vec<String> = world.all("SELECT a::text FROM pg_stat_activity a", &[]);
    has_no_secret("pg_stat_activity", &activity.join("\n"));
    has_no_secret("the server's log", &cluster.log());
    let kept: String = world.one("SELECT min(secret) FROM mail.relay_secret", &[]);
    assert_eq!(kept, SECRET);
}

/// What a relay says to AUTH that repeats the command's last word.
type Repeats = fn(&str) -> String;

const REPEATS: [(&str, Repeats); 4] = [
    ("wrapped", |sent| {
        let lines = sent.as_bytes().chunks(20);
        let lines = lines.map(|line| format!("535-5.7.8 {}\r\n", String::from_utf8_lossy(line)));
        format!("{}535 5.7.8 end", lines.collect::<String>())
    }),
    ("cut", |sent| format!("535 5.7.8 bad token …{}", &sent[7..])),
    ("plain", |_| {
        format!(
            "535-5.7.8 pw was {}\r\n535-{}\r\n535 x",
            &SECRET[..9],
            &SECRET[9..]
        )
    }),
    ("none", |sent| format!("535-what is\r\n{sent}")),
];

#[test]
fn a_password_that_a_relay_repeats_in_pieces_is_shown_nowhere() {
    let cluster = Cluster::with(&options());
    let mut world = World::on(&cluster);
    let mut sinks = Vec::new();
    for (name, repeats) in REPEATS {
        let sink = Sink::scripted(move |event| match event.phase {
            Phase::Ehlo => Action::reply("250-sink\r\n250 AUTH PLAIN LOGIN"),
            Phase::Auth | Phase::Other => {
                let sent = event.command.rsplit(' ').next().unwrap_or_default();
                Action::Reply(repeats(sent))
            }
            _ => Action::Accept,
        });
        let url = format!(
            "{}?starttls=never",
            sink.url().split('?').next().unwrap_or_default()
        );
        world.relay(name, &url, &[("username", "app"), ("secret", SECRET)]);
        sinks.push(sink);
    }
    let id = world.put("alice@example.test", "guarded", "");
    world.until("SELECT count(*) = 4 FROM mail.relay_stats WHERE last_error LIKE '%***%' OR last_error LIKE '%SMTP reply%'");
    world.waits(id);
    let mut told = world.health();
    for place in ["mail.events", "mail.relay_stats", "mail.messages"] {
        told.extend(world.all::<String>(&format!("SELECT t::text FROM {place} t"), &[]));
    }
    for (name, _) in REPEATS {
        let query = "SELECT text FROM mail.test_relay($1)";
        told.extend(world.all::<String>(query, &[&name]));
    }
    let told = told.join("\n");
    for form in [SECRET, ENCODED[0], ENCODED[1]] {
        for piece in form.as_bytes().windows(5) {
            let piece = String::from_utf8_lossy(piece);
            assert!(!told.contains(&*piece), "{piece} in {told}");
        }
    }
    assert!(told.contains("***"), "{told}");
    assert!(!cluster.log().contains(&SECRET[4..12]));
}

#[test]
fn a_relay_that_is_refused_does_not_put_its_password_into_an_error() {
    let mut world = World::new();
    for columns in [
        "'smtp://127.0.0.1', 'app', 1000",
        "'http://127.0.0.1', 'app', 1",
        "'smtp://127.0.0.1', NULL, 1",
    ] {
        let statement = format!(
            "INSERT INTO mail.relay (name, url, username, tier, secret) VALUES ('main', {columns}, '{SECRET}')"
        );
        let error = world
            .client
            .batch_execute(&statement)
            .expect_err("it is wrong");
        let error = error.as_db_error().expect("an answer of the server");
        let told = format!(
            "{} {:?} {:?} {:?}",
            error.message(),
            error.detail(),
            error.hint(),
            error.where_()
        );
        has_no_secret("the error", &told);
    }
}

#[test]
fn nothing_of_a_mail_is_in_the_servers_log_whatever_happens_to_it() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "refused-private@example.test") => {
            Action::Reply(format!("550 5.1.1 No {}", event.address()))
        }
        (Phase::Rcpt, "late-private@example.test") => {
            Action::Reply(format!("450 4.2.1 Later, {}", event.address()))
        }
        (Phase::Rcpt, address) if address.starts_with("closing") => {
            Action::ReplyAndDrop(format!("421 4.3.2 Not for {}", event.address()))
        }
        (Phase::Dot, _) if event.recipients[0].starts_with("lost") => Action::AcceptAndDrop,
        _ => Action::Accept,
    });
    let cluster = Cluster::with(&options());
    let mut world = World::on(&cluster);
    world.relay("main", &sink.url(), &[]);
    world.queue("default", &[("on_uncertain", "hold")]);
    let put = |world: &mut World<'_>, name: &str| {
        world.put(
            &format!("{name}-private@example.test"),
            "private subject",
            "",
        )
    };
    for (name, state) in [
        ("fine", "sent"),
        ("refused", "failed"),
        ("late", "deferred"),
        ("lost", "uncertain"),
    ] {
        let id = put(&mut world, name);
        world.reaches(id, state);
    }
    world.run("SELECT mail.pause('default')");
    let broken = put(&mut world, "broken");
    let statement = "UPDATE mail.message SET content = '{\"private\": 1' WHERE id = $1";
    world
        .client
        .execute(statement, &[&broken])
        .expect("the superuser may");
    world.run("SELECT mail.resume('default')");
    world.reaches(broken, "failed");
    // One alone would not be taken for the relay's trouble.
    for i in 0..5 {
        put(&mut world, &format!("closing{i}"));
    }
    world.ails("relay", "421");
    let log = cluster.log();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("private"))
        .collect();
    assert_eq!(told, [""; 0]);
}
