//! A password and a private key, and every place where somebody may look for them.

use std::time::Duration;

use pgmq_mail_tests::{
    Action, Certificates, Cluster, Phase, Sink, all, code, one, run_sql, worker_of,
};
use postgres::error::SqlState;
use postgres::{Client, Error};

use crate::forms::{Forms, base64};
use crate::{ails, options, put, reaches, secret_files, wait_for};

const STORED: &str = "Tr0ub4dor&3/stored+in the table";
const FILED: &str = "c0rrect-horse&battery/filed";

/// All that was told to anybody, with the place.
#[derive(Default)]
struct Told(Vec<(String, String)>);

impl Told {
    fn add(&mut self, place: &str, text: impl Into<String>) {
        self.0.push((place.to_owned(), text.into()));
    }

    /// Every field of an error.
    fn error(&mut self, place: &str, error: &Error) {
        self.add(place, format!("{error:?} {:?}", error.as_db_error()));
    }

    #[track_caller]
    fn holds_none(&self, forms: &Forms) {
        for (place, text) in &self.0 {
            forms.are_not_in(place, text);
        }
    }
}

/// A server that tells its log all that it can, and a database with relays of every kind.
struct Scene {
    client: Client,
    cluster: Cluster,
    key: String,
    filed_key: String,
    relays: [&'static str; 7],
    _sinks: Vec<Sink>,
    _certificates: Certificates,
}

impl Scene {
    fn forms(&self) -> Forms {
        Forms::of(&[STORED, FILED, &self.key, &self.filed_key])
    }
}

/// Refuses to authenticate, and repeats what it was given in some form.
fn parrot(certificates: &Certificates, repeat: fn(&str) -> String) -> Sink {
    Sink::builder()
        .starttls(certificates)
        .script(move |event| match event.phase {
            Phase::Ehlo => {
                Action::reply("250-sink\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN XOAUTH2")
            }
            Phase::Auth | Phase::Other => {
                let sent = event.command.rsplit(' ').next().unwrap_or_default();
                Action::Reply(format!("535 5.7.8 {}", repeat(sent)))
            }
            _ => Action::Accept,
        })
        .start()
}

fn hexadecimal(text: &str) -> String {
    crate::forms::hexadecimal(text.as_bytes())
}

fn percent(text: &str) -> String {
    text.replace('&', "%26")
        .replace('/', "%2F")
        .replace('+', "%2B")
        .replace(' ', "%20")
}

fn scene() -> Scene {
    let options = options()
        .setting("log_min_messages", "debug5")
        .setting("log_statement", "none")
        .setting("log_connections", "on");
    let cluster = Cluster::with(&options);
    let mut client = cluster.connect("postgres");
    run_sql(
        &mut client,
        "CREATE EXTENSION pgmq_mail;
         UPDATE mail.queue SET transport = 'smtp', default_sender = 'app@example.test', relays = '{right}';
         INSERT INTO mail.queue (name, default_sender, relays) VALUES ('filed', 'app@example.test', '{filed}');
         INSERT INTO mail.queue (name, transport, default_sender) VALUES ('kept', 'capture', 'app@example.test')",
    );
    let key: String = one(&mut client, "SELECT mail._new_dkim_key('ed25519')", &[]);
    let filed_key: String = one(&mut client, "SELECT mail._new_dkim_key('ed25519')", &[]);
    secret_files().write("planted", format!("{FILED}\n"));
    secret_files().write("planted.pem", &filed_key);
    let certificates = Certificates::new();
    let login = |secret: &str| {
        Sink::builder()
            .starttls(&certificates)
            .auth("app", secret)
            .start()
    };
    let (right, filed) = (login(STORED), login(FILED));
    let sinks = vec![
        right,
        filed,
        parrot(&certificates, |sent| format!("what is {sent}?")),
        parrot(&certificates, |_| format!("wrong password {STORED}")),
        parrot(&certificates, |_| {
            format!("wrong password {}", hexadecimal(STORED))
        }),
        parrot(&certificates, |_| {
            format!("wrong password {}", percent(STORED))
        }),
        parrot(&certificates, |_| {
            format!("wrong password {}", base64(STORED.as_bytes()))
        }),
    ];
    let relays = [
        "right", "filed", "echo", "plain", "hex", "percent", "base64",
    ];
    let ca_file = certificates.ca_file();
    for (name, sink) in relays.iter().zip(&sinks) {
        let secret = if *name == "filed" {
            "file:planted"
        } else {
            STORED
        };
        client
            .execute(
                "INSERT INTO mail.relay (name, url, username, secret, ca_file, auth) VALUES ($1, $2, 'app', $3, $4, $5)",
                &[
                    name,
                    &sink.url(),
                    &secret,
                    &ca_file.to_str().expect("UTF-8"),
                    &if *name == "echo" { "xoauth2" } else { "auto" },
                ],
            )
            .expect("a relay");
    }
    for (selector, key) in [("given", &*key), ("filed", "file:planted.pem")] {
        client
            .execute(
                "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', $1, $2)",
                &[&selector, &key],
            )
            .expect("a key");
    }
    Scene {
        client,
        cluster,
        key,
        filed_key,
        relays,
        _sinks: sinks,
        _certificates: certificates,
    }
}

#[test]
fn secrets_are_in_no_log_no_view_no_transcript_and_no_dump() {
    let mut scene = scene();
    let forms = scene.forms();
    let mut told = Told::default();
    let mut add = |place: &str, text: String| told.add(place, text);
    let client = &mut scene.client;
    for queue in ["default", "filed"] {
        let id = put(
            client,
            "alice@example.test",
            "x",
            &format!(", queue => '{queue}'"),
        );
        reaches(client, id, "sent");
    }
    assert_eq!(signatures(client), 2);
    // Failing logins: each relay for itself, so that each has said its words.
    for relay in &scene.relays[2..] {
        run_sql(
            client,
            &format!("UPDATE mail.queue SET relays = '{{{relay}}}' WHERE name = 'default'"),
        );
        put(client, "alice@example.test", relay, "");
        ails(
            client,
            "relay",
            &format!("relay \"{relay}\" has been down since"),
        );
    }
    for relay in scene.relays {
        let lines: Vec<String> = all(client, "SELECT text FROM mail.test_relay($1)", &[&relay]);
        add(&format!("mail.test_relay('{relay}')"), lines.join("\n"));
    }
    for relation in relations(client) {
        let rows: Vec<String> = all(client, &format!("SELECT t::text FROM {relation} t"), &[]);
        add(&relation, rows.join("\n"));
    }
    add("mail.health()", crate::health(client).join("\n"));
    worker_of(client);
    for view in [
        "pg_stat_activity",
        "pg_settings",
        "pg_prepared_statements",
        "pg_stat_statements_info",
    ] {
        if let Ok(rows) = client.query(&format!("SELECT t::text FROM {view} t"), &[]) {
            let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            add(view, rows.join("\n"));
        }
    }
    // It masks what was given back, and not the whole reply.
    let masked = "SELECT count(*) FROM mail.relay_stats WHERE last_error LIKE '%***%'";
    assert_eq!(one::<i64>(client, masked, &[]), 5);

    for format in [&[][..], &["--inserts"], &["--data-only"]] {
        add("a dump", dumped(&scene.cluster, format));
    }
    add("the server's log", scene.cluster.log());
    told.holds_none(&forms);
    // They are where they should be, and would have been found.
    let kept: Vec<String> = all(client, "SELECT s::text FROM mail.relay_secret s", &[]);
    forms.would_be_found_in(&kept.join("\n"));
}

fn dumped(cluster: &Cluster, format: &[&str]) -> String {
    let output = pgmq_mail_tests::run(
        cluster.program("pg_dump").args(format).arg("postgres"),
        Duration::from_mins(1),
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// How many signatures a captured mail carries: that the keys are in use.
fn signatures(client: &mut Client) -> i64 {
    let id = put(client, "alice@example.test", "signed", ", queue => 'kept'");
    reaches(client, id, "sent");
    one(
        client,
        "SELECT count(*) FROM mail.capture c, regexp_matches(convert_from(c.mime, 'UTF8'), '^DKIM-Signature:', 'gn') WHERE c.message_id = $1",
        &[&id],
    )
}

/// Every table, view and sequence but those that hold the secrets.
fn relations(client: &mut Client) -> Vec<String> {
    let relations = "SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('v', 'r', 'm', 'p')
           AND c.relname NOT IN ('relay_secret', 'dkim_secret')";
    let found: Vec<String> = all(client, relations, &[]);
    assert!(found.len() > 25, "{found:?}");
    found
}

#[test]
fn no_role_can_read_a_secret_by_any_view_or_function() {
    let mut scene = scene();
    let forms = scene.forms();
    let id = put(&mut scene.client, "alice@example.test", "x", "");
    reaches(&mut scene.client, id, "sent");
    let mut told = Told::default();
    let functions: Vec<String> = all(&mut scene.client, FUNCTIONS, &[]);
    assert!(functions.len() > 80, "{}", functions.len());
    for role in ["mail_sender", "mail_consumer", "mail_reader", "mail_admin"] {
        run_sql(
            &mut scene.client,
            &format!("CREATE ROLE member_of_{role} LOGIN IN ROLE {role}"),
        );
        let mut member = scene
            .cluster
            .connect_as("postgres", &format!("member_of_{role}"));
        for table in ["relay_secret", "dkim_secret"] {
            let refused = code(member.batch_execute(&format!("SELECT * FROM mail.{table}")));
            assert_eq!(refused, SqlState::INSUFFICIENT_PRIVILEGE, "{role}, {table}");
        }
        let mut readable = 0;
        for relation in relations(&mut scene.client) {
            let place = format!("{relation} as {role}");
            match member.query(&format!("SELECT t::text FROM {relation} t"), &[]) {
                Ok(rows) => {
                    readable += 1;
                    let rows: Vec<String> = rows.iter().filter_map(|row| row.get(0)).collect();
                    told.add(&place, rows.join("\n"));
                }
                Err(error) => told.error(&place, &error),
            }
        }
        assert!(
            readable > 0 || role == "mail_consumer",
            "{role} reads something"
        );
        // All within a transaction that is rolled back, so that one call does not spoil the next.
        for call in &functions {
            let place = format!("{call} as {role}");
            run_sql(&mut member, "BEGIN; SET LOCAL statement_timeout = '20s'");
            match member.query(&format!("SELECT f::text FROM {call} f"), &[]) {
                Ok(rows) => {
                    let rows: Vec<String> = rows.iter().filter_map(|row| row.get(0)).collect();
                    told.add(&place, rows.join("\n"));
                }
                Err(error) => {
                    assert!(error.as_db_error().is_some(), "{place}: {error:?}");
                    told.error(&place, &error);
                }
            }
            run_sql(&mut member, "ROLLBACK");
        }
    }
    told.add("the server's log", scene.cluster.log());
    told.holds_none(&forms);
    assert!(!scene.cluster.log().contains("was terminated by signal"));
}

/// Every function with arguments that mean something where there is such: a relay, a queue, a message, a moment.
const FUNCTIONS: &str = "
    SELECT format('%s(%s)', p.oid::regproc, (
        SELECT string_agg(CASE t.typname
            WHEN 'text' THEN CASE WHEN names.name = 'queue' THEN '''default''' WHEN names.name = 'recipient' THEN '''alice@example.test'''
                                  ELSE '''right''' END
            WHEN 'int8' THEN '1' WHEN 'int4' THEN '1' WHEN 'bool' THEN 'false' WHEN 'interval' THEN '''0'''
            WHEN 'timestamptz' THEN 'now()' WHEN 'jsonb' THEN '''{\"to\": \"alice@example.test\"}''' WHEN '_int8' THEN '''{1}'''
            WHEN '_text' THEN '''{right}''' WHEN '_jsonb' THEN '''{}''' WHEN 'bytea' THEN '''x'''
            ELSE 'NULL' END || '::' || format_type(t.oid, NULL), ', ' ORDER BY a.n)
        FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, n) JOIN pg_type t ON t.oid = a.type
        LEFT JOIN LATERAL (SELECT p.proargnames[a.n] AS name) names ON true))
    FROM pg_proc p WHERE p.pronamespace = 'mail'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY 1";

/// Statements that fail with the password as their parameter.
const WRONG_RELAYS: [&str; 12] = [
    "INSERT INTO mail.relay (name, url, username, secret) VALUES ('x', 'http://127.0.0.1', 'app', $1)",
    "INSERT INTO mail.relay (name, url, secret) VALUES ('x', 'smtp://127.0.0.1', $1)",
    "INSERT INTO mail.relay (name, url, username, secret) VALUES ('right', 'smtp://127.0.0.1', 'app', $1)",
    "INSERT INTO mail.relay (name, url, username, secret) VALUES (NULL, 'smtp://127.0.0.1', 'app', $1)",
    "INSERT INTO mail.relay (name, url, username, secret, tier) VALUES ('x', 'smtp://127.0.0.1', 'app', $1, 0)",
    "INSERT INTO mail.relay (name, url, username, secret, tier) VALUES ('x', 'smtp://127.0.0.1', 'app', $1, NULL)",
    "INSERT INTO mail.relay (id, name, url, username, secret) VALUES (NULL, 'x', 'smtp://127.0.0.1', 'app', $1)",
    "UPDATE mail.relay SET secret = $1, name = NULL WHERE name = 'right'",
    "UPDATE mail.relay SET secret = $1, weight = -1 WHERE name = 'right'",
    "UPDATE mail.relay SET secret = 'file:../' || $1 WHERE name = 'right'",
    "UPDATE mail.relay SET secret = 'file:' || $1 WHERE name = 'filed'",
    "INSERT INTO mail.relay_secret SELECT relay, $1 FROM mail.relay_secret",
];

#[test]
fn what_is_wrong_with_a_secret_is_told_without_it() {
    let mut scene = scene();
    let forms = scene.forms();
    let mut told = Told::default();
    let client = &mut scene.client;
    let cut = scene.key.replace("-----END", "----END");
    let no_key = scene.key.replace("PRIVATE KEY", "CERTIFICATE");
    let lines = scene.key.replace('\n', " ");
    let relays = WRONG_RELAYS.map(|insert| (insert, STORED));
    let keys = [
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'x', $1)",
            cut.as_str(),
        ),
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'x', $1)",
            no_key.as_str(),
        ),
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'x', $1 || 'x')",
            lines.as_str(),
        ),
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('not a domain', 'x', $1)",
            scene.key.as_str(),
        ),
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'given', $1)",
            scene.key.as_str(),
        ),
        (
            "INSERT INTO mail.dkim_key (domain, private_key) VALUES ('example.test', $1)",
            scene.key.as_str(),
        ),
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key, enabled) VALUES ('example.test', 'x', $1, NULL)",
            scene.key.as_str(),
        ),
    ];
    for (insert, secret) in keys.into_iter().chain(relays) {
        let failed = client.execute(insert, &[&secret]).expect_err(insert);
        assert!(failed.as_db_error().is_some(), "{insert}: {failed:?}");
        told.error(insert, &failed);
    }
    // Keys in files that are none, and passwords of relays where keys should be.
    for (name, content) in [
        ("planted.cut", &*cut),
        ("planted.cert", &*no_key),
        ("planted.pw", STORED),
    ] {
        secret_files().write(name, content);
        client
            .execute(
                "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('wrong.test', $1, $2)",
                &[&name.replace('.', "-"), &format!("file:{name}")],
            )
            .expect("a reference");
    }
    wait_for(
        client,
        "SELECT count(*) = 3 FROM mail.health() WHERE \"check\" = 'dkim'",
    );
    told.add("mail.health()", crate::health(client).join("\n"));
    told.add("the server's log", scene.cluster.log());
    told.holds_none(&forms);
}

/// What PostgreSQL itself does with the text of a statement.
#[test]
fn the_statement_that_sets_a_secret_is_in_the_log_where_postgres_logs_statements() {
    let cluster = Cluster::with(&options().setting("log_statement", "all"));
    let mut client = cluster.connect("postgres");
    secret_files().write("planted", format!("{FILED}\n"));
    run_sql(
        &mut client,
        &format!(
            "CREATE EXTENSION pgmq_mail;
             INSERT INTO mail.relay (name, url, username, secret) VALUES
                 ('stored', 'smtp://127.0.0.1', 'app', '{STORED}'), ('filed', 'smtp://127.0.0.1', 'app', 'file:planted')"
        ),
    );
    assert!(cluster.log().contains(STORED));
    Forms::of(&[FILED]).are_not_in("the server's log", &cluster.log());
    let unlogged = "BEGIN; SET LOCAL log_statement = 'none'; UPDATE mail.relay SET secret = 'another secret' WHERE name = 'stored'; COMMIT";
    for statement in unlogged.split("; ") {
        run_sql(&mut client, statement);
    }
    assert!(!cluster.log().contains("another secret"));
}
