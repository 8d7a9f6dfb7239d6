//! A database with a row of every kind.

use std::fs;

use pgmq_mail_tests::{
    Action, Certificates, Cluster, Database, Mail, Phase, Sink, all, one, run_sql,
};
use postgres::Client;

use crate::{put, reaches, secret_files, wait_for, worker_has_looked};

/// The relays' password.
pub const PASSWORD: &str = "Gr8&hidden/horse+dump";

/// Subjects of what waits in one way or another, and is to be sent by whoever may.
const WAITING: [&str; 12] = [
    "attached 1",
    "attached 2",
    "deferred",
    "filed",
    "flying",
    "ordered 1",
    "ordered 2",
    "ordered 3",
    "raw",
    "scheduled",
    "superseding",
    "templated",
];

/// What is in no dump: secrets, leases, and what the worker notes for people.
const NOT_DUMPED: [&str; 8] = [
    "mail.dkim_secret",
    "mail.dkim_trouble",
    "mail.domain_pause",
    "mail.installation",
    "mail.lease",
    "mail.partition",
    "mail.relay_secret",
    "mail.relay_trouble",
];

/// The database, and the relay that it delivers to.
pub struct Everything<'a> {
    pub client: Client,
    pub database: Database<'a>,
    pub sink: Sink,
    /// The private key that was given in SQL, in PEM.
    pub key: String,
    /// What the relay shows.
    pub certificates: Certificates,
}

impl<'a> Everything<'a> {
    #[track_caller]
    pub fn on(cluster: &'a Cluster) -> Self {
        let certificates = Certificates::new();
        let sink = relay(&certificates);
        let database = Database::new(cluster);
        let mut client = database.connect();
        let key: String = one(&mut client, "SELECT mail._new_dkim_key('ed25519')", &[]);
        let filed: String = one(&mut client, "SELECT mail._new_dkim_key('ed25519')", &[]);
        secret_files().write("relay", format!("{PASSWORD}\n"));
        secret_files().write("dkim.pem", filed);
        configure(&mut client, &sink, &certificates, &key);
        fill(&mut client);
        Self {
            client,
            database,
            sink,
            key,
            certificates,
        }
    }
}

/// Wants a login; refuses one recipient, puts off another, and says nothing, or goes away, at the end of mail for two
/// more.
fn relay(certificates: &Certificates) -> Sink {
    Sink::builder()
        .starttls(certificates)
        .auth("app", PASSWORD)
        .script(|event| match (event.phase, event.address()) {
            (Phase::Rcpt, "gone@example.test") => Action::reply("550 5.1.1 No"),
            (Phase::Rcpt, "later@example.test") => Action::reply("450 4.2.1 Later"),
            (Phase::Dot, _) if event.recipients[0].starts_with("silent") => Action::Silence,
            (Phase::Dot, _) if event.recipients[0].starts_with("lost") => Action::AcceptAndDrop,
            _ => Action::Accept,
        })
        .start()
}

#[track_caller]
fn configure(client: &mut Client, sink: &Sink, certificates: &Certificates, key: &str) {
    run_sql(
        client,
        "UPDATE mail.queue SET transport = 'smtp', default_sender = 'App <app@example.test>', relays = '{main}',
                retry_base = '1 hour', retry_max = '1 hour' WHERE name = 'default';
         INSERT INTO mail.queue (name, transport, default_sender, relays, on_uncertain, paused) VALUES
             ('careful', 'smtp', 'app@example.test', '{main}', 'hold', false),
             ('flying', 'smtp', 'app@example.test', '{slow}', 'retry', false),
             ('waiting', 'smtp', 'app@example.test', '{main}', 'retry', true),
             ('filed', 'smtp', 'app@example.test', '{filed}', 'retry', true),
             ('kept', 'capture', 'app@example.test', '{}', 'retry', false),
             ('theirs', 'external', NULL, '{}', 'retry', false);
         INSERT INTO mail.sender_grant (role, sender) VALUES ('postgres', '*');
         INSERT INTO mail.domain_limit (domain, concurrency, rate_limit, rate_window) VALUES ('slow.test', 2, 10, '1 minute');
         UPDATE mail.reply_rule SET enabled = false WHERE name = 'ses-daily-quota';
         INSERT INTO mail.reply_rule (name, code, action, duration) VALUES ('mine', '451', 'retry', '2 hours');
         INSERT INTO mail.template (name, subject, text) VALUES ('welcome', 'first', 'Hello'), ('gone', 'x', 'y');
         INSERT INTO mail.template (name, locale, subject, html) VALUES ('welcome', 'de', 'erste', '<p>Hallo');
         UPDATE mail.template SET subject = 'templated', text = 'Hello {{ name }}' WHERE (name, locale) = ('welcome', '');
         UPDATE mail.template SET subject = 'third' WHERE (name, locale) = ('welcome', '');
         SELECT mail.rollback_template('welcome');
         DELETE FROM mail.template WHERE name = 'gone';
         SELECT mail.generate_dkim_key('example.test', 'made', 'ed25519');
         INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'filed', 'file:dkim.pem')",
    );
    let given = "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'given', $1)";
    client.execute(given, &[&key]).expect("a key");
    let relay = "INSERT INTO mail.relay (name, url, username, secret, ca_file, enabled) VALUES ($1, $2, 'app', $3, $4, $5)";
    let ca_file = certificates.ca_file();
    let ca_file = ca_file.to_str().expect("a path in UTF-8");
    for (name, secret, enabled) in [
        ("main", PASSWORD, true),
        ("slow", PASSWORD, true),
        ("filed", "file:relay", true),
        ("spare", "another", false),
    ] {
        client
            .execute(relay, &[&name, &sink.url(), &secret, &ca_file, &enabled])
            .expect("a relay");
    }
}

/// Recipient, subject, further arguments, and the state that it reaches.
const MESSAGES: [(&str, &str, &str, &str); 15] = [
    (
        "alice@example.test",
        "sent",
        ", idempotency_key => 'once'",
        "sent",
    ),
    ("gone@example.test", "failed", "", "failed"),
    (
        "alice@example.test, later@example.test",
        "deferred",
        "",
        "deferred",
    ),
    (
        "lost@example.test",
        "uncertain",
        ", queue => 'careful'",
        "uncertain",
    ),
    (
        "alice@example.test",
        "captured",
        ", queue => 'kept'",
        "sent",
    ),
    (
        "alice@example.test",
        "expired",
        ", queue => 'waiting', expires_at => clock_timestamp() + interval '1 ms'",
        "expired",
    ),
    (
        "alice@example.test",
        "scheduled",
        ", send_at => clock_timestamp() + interval '1 day'",
        "queued",
    ),
    (
        "alice@example.test",
        "ordered 1",
        ", queue => 'waiting', ordering_key => 'k'",
        "queued",
    ),
    (
        "alice@example.test",
        "ordered 2",
        ", queue => 'waiting', ordering_key => 'k'",
        "queued",
    ),
    (
        "alice@example.test",
        "ordered 3",
        ", queue => 'waiting', ordering_key => 'k'",
        "queued",
    ),
    (
        "alice@example.test",
        "superseded",
        ", queue => 'waiting', supersede_key => 's'",
        "queued",
    ),
    (
        "alice@example.test",
        "superseding",
        ", queue => 'waiting', supersede_key => 's'",
        "queued",
    ),
    (
        "alice@example.test",
        "filed",
        ", queue => 'filed'",
        "queued",
    ),
    (
        "alice@example.test",
        "theirs",
        ", queue => 'theirs'",
        "queued",
    ),
    (
        "alice@example.test",
        "claimed",
        ", queue => 'theirs', priority => 9",
        "queued",
    ),
];

#[track_caller]
fn fill(client: &mut Client) {
    for (recipient, subject, more, state) in MESSAGES {
        let id = put(client, recipient, subject, more);
        reaches(client, id, state);
    }
    run_sql(
        client,
        r#"SELECT mail.cancel(mail.enqueue('alice@example.test', 'cancelled', 'x', queue => 'waiting'));
           SELECT mail.enqueue(jsonb_build_object('to', 'alice@example.test', 'subject', 'attached ' || n, 'text', 'x',
                                                  'attachments', jsonb_build_array(f)), queue => 'waiting')
           FROM mail.attach('\x00ff', 'a.bin') AS f, generate_series(1, 2) AS n;
           SELECT mail.enqueue(jsonb_build_object('to', 'alice@example.test', 'raw',
               encode(E'From: app@example.test\r\nSubject: raw\r\n\r\nhello\r\n', 'base64')), queue => 'waiting');
           SELECT mail.enqueue('alice@example.test', template => 'welcome', params => '{"name": "Ann"}', queue => 'waiting');
           SELECT mail.claim('theirs')"#,
    );
    let flying = put(
        client,
        "silent@example.test",
        "flying",
        ", queue => 'flying'",
    );
    reaches(client, flying, "sending");
    worker_has_looked(client);
}

/// Checks that all that a dump is to bring is there, and nothing else.
#[track_caller]
pub fn same_rows(original: &mut Client, copy: &mut Client, but: &[&str]) {
    let dumped = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_extension e ON c.oid = ANY (e.extconfig)
                  WHERE e.extname = 'pgmq_mail' AND c.relkind = $1::text::\"char\" ORDER BY 1";
    let tables: Vec<String> = all(original, dumped, &[&"r"]);
    let others: Vec<String> = all(
        original,
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'p')
           AND c.oid::regclass::text <> ALL ($1) ORDER BY 1",
        &[&tables],
    );
    assert_eq!(others, NOT_DUMPED);
    for table in tables.iter().filter(|table| !but.contains(&&***table)) {
        let rows = format!("SELECT t::text FROM {table} t ORDER BY 1");
        let there: Vec<String> = all(original, &rows, &[]);
        let partition = table.ends_with(|last: char| last.is_ascii_digit());
        assert!(partition || !there.is_empty(), "{table} is empty");
        assert_eq!(all::<String>(copy, &rows, &[]), there, "{table}");
    }
    let sequences: Vec<String> = all(original, dumped, &[&"S"]);
    let all_sequences: i64 = one(
        original,
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'mail'::regnamespace AND relkind = 'S'",
        &[],
    );
    assert_eq!(sequences.len() as i64, all_sequences, "{sequences:?}");
    for sequence in sequences {
        let place = format!("SELECT concat(last_value, ' ', is_called) FROM {sequence}");
        let there: String = one(original, &place, &[]);
        assert_eq!(one::<String>(copy, &place, &[]), there, "{sequence}");
    }
    for table in ["mail.relay_secret", "mail.dkim_secret", "mail.lease"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_ne!(one::<i64>(original, &count, &[]), 0, "{table}");
        assert_eq!(one::<i64>(copy, &count, &[]), 0, "{table}");
    }
}

/// Checks that the copy sends nothing, and after `mail.arm()` each message that waits once.
#[track_caller]
pub fn silent_until_armed(copy: &mut Client, sink: &Sink) {
    let connections = sink.connections();
    sink.forget();
    for relay in ["main", "slow", "filed"] {
        crate::ails(copy, "armed", relay);
    }
    run_sql(
        copy,
        "SELECT mail.resume(name) FROM mail.queue; UPDATE mail.pending SET due_at = clock_timestamp() WHERE due_at > clock_timestamp()",
    );
    worker_has_looked(copy);
    let waiting = "SELECT count(*) FROM mail.messages WHERE state IN ('queued', 'deferred') AND queue NOT IN ('theirs', 'kept')";
    assert_eq!(one::<i64>(copy, waiting, &[]), WAITING.len() as i64);
    assert_eq!(
        sink.connections(),
        connections,
        "the copy talks to the relay"
    );

    assert_eq!(one::<i64>(copy, "SELECT mail.arm()", &[]), 4);
    sink.clear_script();
    let missing = "UPDATE mail.relay SET secret = $1 WHERE secret = '(stored)' AND enabled";
    copy.execute(missing, &[&PASSWORD]).expect("a secret");
    each_once(copy, sink, &WAITING);
}

/// Waits until all of a database is sent, and checks what came of it.
#[track_caller]
pub fn each_once(client: &mut Client, sink: &Sink, subjects: &[&str]) {
    wait_for(
        client,
        "SELECT NOT EXISTS (SELECT FROM mail.pending p JOIN mail.queue q ON q.id = p.queue_id WHERE q.transport = 'smtp')",
    );
    let mails = sink.mails();
    let subject = |mail: &Mail| mail.header("Subject").unwrap_or_default();
    let mut came: Vec<String> = mails.iter().map(subject).collect();
    let ordered: Vec<&String> = came.iter().filter(|s| s.starts_with("ordered")).collect();
    if !ordered.is_empty() {
        assert_eq!(ordered, ["ordered 1", "ordered 2", "ordered 3"]);
    }
    came.sort();
    assert_eq!(came, subjects);
    for mail in &mails {
        let signed = mail.text().matches("DKIM-Signature:").count();
        assert_ne!(signed, 0, "the key in the file signs everywhere");
        match &*subject(mail) {
            "deferred" => assert_eq!(mail.recipients, ["later@example.test"]),
            "templated" => assert!(mail.text().contains("Hello Ann")),
            "attached 1" | "attached 2" => assert!(mail.text().contains("AP8=")),
            _ => {}
        }
    }
}

/// All that waits, for other ways to let it go.
pub fn waiting() -> &'static [&'static str] {
    &WAITING
}

/// Checks that the copy gives no number that was given before, and remembers what was enqueued.
#[track_caller]
pub fn goes_on(original: &mut Client, copy: &mut Client) {
    let once: i64 = one(
        original,
        "SELECT id FROM mail.messages WHERE idempotency_key = 'once'",
        &[],
    );
    let again = put(
        copy,
        "alice@example.test",
        "sent",
        ", idempotency_key => 'once'",
    );
    assert_eq!(again, once);
    let known: Vec<i64> = all(original, "SELECT id FROM mail.message", &[]);
    let new = put(copy, "alice@example.test", "kept", ", queue => 'kept'");
    assert!(!known.contains(&new));
    reaches(copy, new, "sent");
    for (insert, known) in [
        (
            "SELECT (mail.attach('x') ->> 'attachment')::bigint",
            "mail.attachment",
        ),
        (
            "INSERT INTO mail.queue (name) VALUES ('new') RETURNING id::bigint",
            "mail.queue WHERE name <> 'default'",
        ),
        (
            "INSERT INTO mail.relay (name, url) VALUES ('new', 'smtp://127.0.0.1') RETURNING id::bigint",
            "mail.relay",
        ),
        ("SELECT max(id) FROM mail.event", "mail.event"),
        ("SELECT max(id) FROM mail.capture", "mail.capture"),
        (
            "SELECT token FROM mail.claim('theirs')",
            "(SELECT unnest(array_agg(token)) AS id FROM mail.lease) l",
        ),
    ] {
        let last: i64 = one(
            original,
            &format!("SELECT max(id)::bigint FROM {known}"),
            &[],
        );
        let next: i64 = one(copy, insert, &[]);
        assert!(next > last, "{insert}: {next}, after {last}");
    }
}

/// Where the secrets of the database are looked for: what a dump must not hold.
pub fn secrets_of(everything: &Everything<'_>) -> Vec<String> {
    let filed = fs::read_to_string(secret_files().path().join("dkim.pem")).expect("a file");
    vec![PASSWORD.to_owned(), everything.key.clone(), filed]
}
