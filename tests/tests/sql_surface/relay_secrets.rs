//! Secrets of relays under every kind of INSERT and UPDATE: the one that is stored is the one that was last given and
//! taken, it never serves another server, and none is left behind.

use pgmq_mail_tests::{Database, blocks, code, database, pid};
use postgres::Client;

use crate::all;

/// An administrator, and the superuser who can look behind the scenes. The relay `r` is there, with the secret `first`.
fn configured(database: &Database<'_>) -> (Client, Client) {
    let mut admin = database.connect_as("relay_secrets_admin", &["mail_admin"]);
    admin
        .batch_execute(
            "INSERT INTO mail.relay (name, url, username, secret)
             VALUES ('r', 'smtp://127.0.0.1:1', 'app', 'first')",
        )
        .expect("a relay can be made");
    (admin, database.connect())
}

/// Everything that is stored, and what the relays show.
#[track_caller]
fn stored(root: &mut Client) -> Vec<String> {
    all(
        root,
        "SELECT relay || ': ' || secret FROM mail.relay_secret
         UNION ALL SELECT name || ' shows ' || coalesce(secret, 'none') FROM mail.relay ORDER BY 1",
        &[],
    )
}

#[test]
fn an_upsert_stores_the_secret_that_it_takes_and_no_other() {
    let database = database();
    let (mut admin, mut root) = configured(&database);
    let insert = |url: &str, secret: &str, then: &str| {
        format!(
            "INSERT INTO mail.relay (name, url, username, secret) VALUES ('r', '{url}', 'app', {secret})
             ON CONFLICT (name) DO {then}"
        )
    };
    let here = "smtp://127.0.0.1:1";
    let cases = [
        (insert(here, "'other'", "NOTHING"), "first"),
        (insert("smtp://127.0.0.1:2", "'other'", "NOTHING"), "first"),
        (insert(here, "NULL", "NOTHING"), "first"),
        (insert(here, "'file:name'", "NOTHING"), "first"),
        (insert(here, "'(stored)'", "NOTHING"), "first"),
        (
            insert(here, "'other'", "UPDATE SET url = excluded.url"),
            "first",
        ),
        (insert(here, "'other'", "UPDATE SET tier = 2"), "first"),
        (
            insert(
                here,
                "'other'",
                "UPDATE SET secret = excluded.secret WHERE false",
            ),
            "first",
        ),
        (
            insert(here, "'second'", "UPDATE SET secret = excluded.secret"),
            "second",
        ),
        (
            insert(
                "smtp://127.0.0.1:2",
                "'third'",
                "UPDATE SET url = excluded.url, username = excluded.username, secret = excluded.secret",
            ),
            "third",
        ),
        (
            insert(here, "'fourth'", "UPDATE SET secret = 'fifth'"),
            "fifth",
        ),
    ];
    for (statement, secret) in cases {
        admin
            .execute(&statement, &[])
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let wanted = ["r shows (stored)".to_owned(), format!("r: {secret}")];
        let mut now = stored(&mut root);
        now.sort();
        assert_eq!(now, wanted, "{statement}");
    }
    for (secret, shown) in [("NULL", "none"), ("'file:name'", "file:name")] {
        let statement = insert(here, secret, "UPDATE SET secret = excluded.secret");
        admin.execute(&statement, &[]).expect(&statement);
        assert_eq!(
            stored(&mut root),
            [format!("r shows {shown}")],
            "{statement}"
        );
    }
}

#[test]
fn several_relays_in_one_insert_keep_their_secrets_apart() {
    let database = database();
    let (mut admin, mut root) = configured(&database);
    let values = "INSERT INTO mail.relay (name, url, username, secret) VALUES
        ('r', 'smtp://127.0.0.1:1', 'app', 'of r'), ('s', 'smtp://127.0.0.1:1', 'app', 'of s'),
        ('t', 'smtp://127.0.0.1:1', 'app', 'of t')";
    assert_eq!(code(admin.execute(values, &[])).code(), "23505");
    assert_eq!(stored(&mut root), ["r shows (stored)", "r: first"]);
    let twice = "INSERT INTO mail.relay (name, url, username, secret) VALUES
        ('twice', 'smtp://127.0.0.1:1', 'app', 'one'), ('twice', 'smtp://127.0.0.1:1', 'app', 'two')
        ON CONFLICT DO NOTHING";
    admin.execute(twice, &[]).unwrap();
    admin
        .execute(
            &format!("{values} ON CONFLICT (name) DO UPDATE SET secret = excluded.secret"),
            &[],
        )
        .unwrap();
    let secrets = "SELECT relay || ': ' || secret FROM mail.relay_secret ORDER BY 1";
    let now: Vec<String> = all(&mut root, secrets, &[]);
    assert_eq!(now, ["r: of r", "s: of s", "t: of t", "twice: one"]);
    admin
        .batch_execute(
            "DELETE FROM mail.relay WHERE name <> 'r'; UPDATE mail.relay SET name = 'renamed'",
        )
        .unwrap();
    let now: Vec<String> = all(&mut root, secrets, &[]);
    assert_eq!(now, ["renamed: of r"]);
}

#[test]
fn a_stored_secret_does_not_go_to_another_server_user_or_trust_anchor() {
    let database = database();
    let (mut admin, mut root) = configured(&database);
    let upsert = "INSERT INTO mail.relay (name, url, username, secret)
        VALUES ('r', 'smtp://127.0.0.1:2', 'other', 'x') ON CONFLICT (name) DO UPDATE SET";
    for statement in [
        "UPDATE mail.relay SET url = 'smtp://127.0.0.1:2'",
        "UPDATE mail.relay SET url = 'smtp://127.0.0.1:1?starttls=never'",
        "UPDATE mail.relay SET username = 'other'",
        "UPDATE mail.relay SET ca_file = '/tmp/ca.pem'",
        "UPDATE mail.relay SET name = 's', url = 'smtp://127.0.0.1:2'",
        "UPDATE mail.relay SET url = 'smtp://127.0.0.1:2', secret = '(stored)'",
        &format!("{upsert} url = excluded.url"),
        &format!("{upsert} username = excluded.username"),
        "UPDATE mail.relay SET secret = ''",
        "UPDATE mail.relay SET url = 'smtp://127.0.0.1:2', secret = ''",
        "INSERT INTO mail.relay (name, url, username, secret) VALUES ('s', 'smtp://127.0.0.1:2', 'app', '')",
        &upsert.replace("'x'", "''").replace("UPDATE SET", "NOTHING"),
    ] {
        assert_eq!(
            code(admin.execute(statement, &[])).code(),
            "22023",
            "{statement}"
        );
        assert_eq!(
            stored(&mut root),
            ["r shows (stored)", "r: first"],
            "{statement}"
        );
    }
    for (statement, secret) in [
        (
            "UPDATE mail.relay SET name = name, tier = 3, enabled = false, helo_name = 'x'",
            "first",
        ),
        (
            "UPDATE mail.relay SET url = url, username = username, ca_file = ca_file",
            "first",
        ),
        (
            "UPDATE mail.relay SET url = 'smtp://127.0.0.1:2', secret = 'second'",
            "second",
        ),
        (
            "UPDATE mail.relay SET username = 'other', secret = 'third'",
            "third",
        ),
        (
            "UPDATE mail.relay SET ca_file = '/tmp/ca.pem', secret = 'third'",
            "third",
        ),
    ] {
        admin
            .execute(statement, &[])
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let wanted = ["r shows (stored)".to_owned(), format!("r: {secret}")];
        assert_eq!(stored(&mut root), wanted, "{statement}");
    }
    // Without a secret there is nothing to protect.
    admin
        .batch_execute(
            "UPDATE mail.relay SET url = 'smtp://127.0.0.1:3', username = NULL, secret = NULL;
             UPDATE mail.relay SET url = 'smtp://127.0.0.1:4'",
        )
        .unwrap();
    assert_eq!(stored(&mut root), ["r shows none"]);
}

#[test]
fn an_insert_that_does_nothing_leaves_the_secret_of_a_relay_that_was_made_at_the_same_moment() {
    let database = database();
    let (mut admin, mut root) = configured(&database);
    admin
        .batch_execute(
            "BEGIN; INSERT INTO mail.relay (name, url, username, secret)
             VALUES ('s', 'smtp://127.0.0.1:1', 'app', 'taken')",
        )
        .unwrap();
    let mut other = database.connect();
    let process = pid(&mut other);
    let insert = std::thread::spawn(move || {
        let query = "INSERT INTO mail.relay (name, url, username, secret)
             VALUES ('s', 'smtp://127.0.0.1:1', 'app', 'not taken') ON CONFLICT DO NOTHING";
        other.execute(query, &[])
    });
    blocks(&mut root, process);
    admin.batch_execute("COMMIT").unwrap();
    let inserted = insert.join().unwrap();
    assert!(!matches!(inserted, Ok(1)), "{inserted:?}");
    let now = stored(&mut root);
    assert!(now.contains(&"s: taken".to_owned()), "{now:?}");
}

#[test]
fn no_secret_stays_without_its_relay() {
    let database = database();
    let (_, mut root) = configured(&database);
    let statement = "INSERT INTO mail.relay (id, name, url, username, secret)
        SELECT id, 's', url, username, 'other' FROM mail.relay ON CONFLICT (id) DO NOTHING";
    root.execute(statement, &[]).unwrap();
    assert_eq!(stored(&mut root), ["r shows (stored)", "r: first"]);
    root.execute("TRUNCATE mail.relay CASCADE", &[]).unwrap();
    assert_eq!(stored(&mut root), [""; 0]);
}

#[test]
fn a_secret_goes_nowhere_else_whatever_the_statement() {
    let database = database();
    let (mut admin, mut root) = configured(&database);
    let elsewhere = "'smtp://127.0.0.1:2', 'app', '(stored)'";
    for statement in [
        format!(
            "WITH gone AS (DELETE FROM mail.relay WHERE name = 'r' RETURNING name)
             INSERT INTO mail.relay (name, url, username, secret) SELECT name, {elsewhere} FROM gone"
        ),
        format!(
            "WITH away AS (UPDATE mail.relay SET name = 'away' WHERE name = 'r' RETURNING 'r' AS name)
             INSERT INTO mail.relay (name, url, username, secret) SELECT name, {elsewhere} FROM away"
        ),
        format!(
            "DELETE FROM mail.relay WHERE name = 'r';
             INSERT INTO mail.relay (name, url, username, secret) VALUES ('r', {elsewhere})"
        ),
        format!(
            "INSERT INTO mail.relay (name, url, username, secret) VALUES ('s', {elsewhere});
             UPDATE mail.relay SET name = CASE name WHEN 'r' THEN 's' ELSE 'r' END"
        ),
        format!(
            "INSERT INTO mail.relay (name, url, username, secret) VALUES ('r given', {elsewhere});
             INSERT INTO mail.relay (name, url, username, secret) VALUES ('r', 'smtp://127.0.0.1:1', 'app', 'x') ON CONFLICT DO NOTHING"
        ),
    ] {
        // Refused or not.
        let _ = admin.batch_execute(&format!("BEGIN; {statement}; COMMIT"));
        let _ = admin.batch_execute("ROLLBACK");
        let stolen: Vec<String> = all(
            &mut root,
            "SELECT s.relay || ' ' || s.secret FROM mail.relay_secret s JOIN mail.relay r ON r.name = s.relay
             WHERE r.url <> 'smtp://127.0.0.1:1'",
            &[],
        );
        assert_eq!(stolen, [""; 0], "{statement}");
        let reset = "DELETE FROM mail.relay; INSERT INTO mail.relay (name, url, username, secret)
                     VALUES ('r', 'smtp://127.0.0.1:1', 'app', 'first')";
        admin.batch_execute(reset).expect("they are the admin's");
    }
}
