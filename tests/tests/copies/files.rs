//! What `file:NAME` may name, and what happens where it names something else: a clear finding, and everything else goes on.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::time::Duration;

use pgmq_mail_tests::{Certificates, Cluster, Folder, Sink, code, is_root, one, run, run_sql};
use postgres::Client;
use postgres::error::SqlState;

use crate::clones::original;
use crate::{ails, put, reaches, wait_for};

const PASSWORD: &str = "kept in a file";

/// A directory with every kind of thing in it, and what is said of each. `$0` is outside of it.
fn strange_files(folder: &Folder) -> Vec<(&'static str, &'static str)> {
    let inside = |name: &str| folder.path().join("secrets").join(name);
    folder.write("secrets/good", format!("{PASSWORD}\n"));
    folder.write("outside", format!("{PASSWORD}\n"));
    folder.write("secrets/empty", "");
    folder.write("secrets/line", "\npassword\n");
    folder.write("secrets/binary", b"\xff\xfe\x00");
    let huge = fs::File::create(inside("huge")).expect("writable");
    huge.set_len(1 << 40).expect("a file with a hole");
    fs::create_dir(inside("directory")).expect("writable");
    run(
        Command::new("mkfifo").arg(inside("pipe")),
        Duration::from_secs(10),
    );
    symlink("../outside", inside("up")).expect("writable");
    symlink(folder.path().join("outside"), inside("absolute")).expect("writable");
    symlink("/dev/zero", inside("device")).expect("writable");
    symlink("round", inside("round")).expect("writable");
    symlink("pipe", inside("to_pipe")).expect("writable");
    let mut found = vec![
        ("empty", "its first line is empty"),
        ("line", "its first line is empty"),
        ("binary", "it is not text in UTF-8"),
        ("huge", "it holds more than 65536 bytes"),
        ("directory", "it is not a regular file"),
        ("pipe", "it is not a regular file"),
        ("to_pipe", "it is not a regular file"),
        ("up", "it leads out of pgmq_mail.secrets_directory"),
        ("absolute", "it leads out of pgmq_mail.secrets_directory"),
        ("device", "it leads out of pgmq_mail.secrets_directory"),
        ("round", "Too many levels of symbolic links"),
        ("missing", "No such file or directory"),
    ];
    if is_root() {
        // The server is another user.
        folder.write("secrets/private", PASSWORD);
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(inside("private"), mode).expect("it is ours");
        run(
            Command::new("mknod")
                .arg(inside("zero"))
                .args(["c", "1", "5"]),
            Duration::from_secs(10),
        );
        found.extend([
            ("private", "Permission denied"),
            ("zero", "it is not a regular file"),
        ]);
    }
    found
}

fn server(folder: &Folder, sink: &Sink) -> (Cluster, Client) {
    let secrets = folder.path().join("secrets");
    let options = crate::options().setting(
        "pgmq_mail.secrets_directory",
        secrets.to_str().expect("UTF-8"),
    );
    original(&options, sink)
}

/// A relay that wants the password, which its relay `good` has in a file.
fn good_relay(client: &mut Client) -> (Sink, Certificates) {
    let certificates = Certificates::new();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", PASSWORD)
        .start();
    relay(client, "good", &sink, &certificates, "file:good");
    (sink, certificates)
}

#[track_caller]
fn relay(client: &mut Client, name: &str, sink: &Sink, certificates: &Certificates, secret: &str) {
    let ca_file = certificates.ca_file();
    client
        .execute(
            "INSERT INTO mail.relay (name, url, username, secret, ca_file) VALUES ($1, $2, 'app', $3, $4)",
            &[&name, &sink.url(), &secret, &ca_file.to_str().expect("UTF-8")],
        )
        .unwrap_or_else(|error| panic!("{secret}: {error:?}"));
}

#[test]
fn what_is_no_plain_file_of_the_directory_is_refused_and_holds_up_nothing() {
    let folder = Folder::new("strange");
    let found = strange_files(&folder);
    let unused = Sink::start();
    let (cluster, mut client) = server(&folder, &unused);
    run_sql(&mut client, "DELETE FROM mail.relay");
    let (sink, certificates) = good_relay(&mut client);
    for (name, _) in &found {
        relay(
            &mut client,
            name,
            &sink,
            &certificates,
            &format!("file:{name}"),
        );
        client
            .execute(
                "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', $1, $2)",
                &[&name.replace('_', "-"), &format!("file:{name}")],
            )
            .expect("a reference");
    }
    for (name, why) in &found {
        ails(
            &mut client,
            "relay",
            &format!("relay \"{name}\" has been down since"),
        );
        let error: String = one(
            &mut client,
            "SELECT last_error FROM mail.relay_stats WHERE relay = $1",
            &[name],
        );
        assert!(error.contains(why), "{name}: {error}");
        let tried = client.execute("SELECT mail.test_relay($1)", &[name]);
        let tried = tried.expect_err("it has no secret");
        let tried = tried.as_db_error().expect("an answer");
        assert_eq!(tried.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        assert!(tried.message().contains(why), "{}", tried.message());
        ails(
            &mut client,
            "dkim",
            &format!(
                "key \"{}\" of example.test cannot be used",
                name.replace('_', "-")
            ),
        );
    }
    let id = put(&mut client, "alice@example.test", "x", "");
    reaches(&mut client, id, "sent");
    assert_eq!(sink.count(), 1);
    assert!(!cluster.log().contains(PASSWORD));
}

#[test]
fn links_within_the_directory_are_followed_and_a_new_one_counts_after_a_reload() {
    let folder = Folder::new("mounted");
    // As containers mount secrets: each name a link through another, which is exchanged.
    folder.write("secrets/first/good", "outdated\n");
    folder.write("secrets/second/good", format!("{PASSWORD}\r\nmore\n"));
    let inside = |name: &str| folder.path().join("secrets").join(name);
    symlink("first", inside("data")).expect("writable");
    symlink("data/good", inside("good")).expect("writable");
    let unused = Sink::start();
    let (cluster, mut client) = server(&folder, &unused);
    run_sql(&mut client, "DELETE FROM mail.relay");
    let (sink, _certificates) = good_relay(&mut client);
    let id = put(&mut client, "alice@example.test", "x", "");
    ails(&mut client, "relay", "authenticate");
    symlink("second", inside("new")).expect("writable");
    fs::rename(inside("new"), inside("data")).expect("ours");
    cluster.reload();
    reaches(&mut client, id, "sent");
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_reference_with_a_path_in_it_is_refused_by_the_table_and_harmless_behind_it() {
    let folder = Folder::new("paths");
    strange_files(&folder);
    let unused = Sink::start();
    let (_cluster, mut client) = server(&folder, &unused);
    let outside = folder.path().join("outside");
    let absolute = format!("file:{}", outside.to_str().expect("UTF-8"));
    let long = format!("file:{}", "x".repeat(101));
    for reference in [
        "file:../outside",
        "file:..",
        "file:.",
        "file:",
        "file:/etc/passwd",
        "file:directory/../good",
        "file:good/",
        &absolute,
        "file:good\n",
        "file:\ngood",
        "file:go\nod",
        "file: good",
        "file:good ",
        "file:.hidden",
        "file:gööd",
        "file:%2e%2e",
        &long,
    ] {
        for insert in [
            "INSERT INTO mail.relay (name, url, username, secret) VALUES ('x', 'smtp://127.0.0.1', 'app', $1)",
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('example.test', 'x', $1)",
        ] {
            let refused = code(client.execute(insert, &[&reference]));
            assert_eq!(refused, SqlState::INVALID_PARAMETER_VALUE, "{reference}");
        }
    }
    // Rows that no trigger has seen, as a subscription writes them.
    for (name, reference) in [
        ("up", "file:../outside"),
        ("absolute", &*absolute),
        ("none", "file:"),
    ] {
        run_sql(
            &mut client,
            &format!(
                "SET session_replication_role = replica;
                 INSERT INTO mail.relay (name, url, username, secret) VALUES ('{name}', 'smtp://127.0.0.1', 'app', '{reference}');
                 SET session_replication_role = origin; UPDATE mail.queue SET bulk = NOT bulk"
            ),
        );
        ails(
            &mut client,
            "relay",
            &format!("relay \"{name}\" has been down since"),
        );
        wait_for(
            &mut client,
            &format!(
                "SELECT last_error ~ 'leads out of pgmq_mail.secrets_directory|not a regular file' FROM mail.relay_stats WHERE relay = '{name}'"
            ),
        );
    }
    let id = put(&mut client, "alice@example.test", "x", "");
    reaches(&mut client, id, "sent");
}

#[test]
fn trust_anchors_that_are_no_plain_file_are_refused_too() {
    let folder = Folder::new("anchors");
    strange_files(&folder);
    let unused = Sink::start();
    let (_cluster, mut client) = server(&folder, &unused);
    let certificates = Certificates::new();
    let guarded = Sink::builder().starttls(&certificates).start();
    let inside = |name: &str| {
        folder
            .path()
            .join("secrets")
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    };
    run_sql(&mut client, "UPDATE mail.relay SET tier = 2");
    for (name, file, why) in [
        ("zero", "/dev/zero".to_owned(), "it is not a regular file"),
        ("pipe", inside("pipe"), "it is not a regular file"),
        ("huge", inside("huge"), "it holds more than 4194304 bytes"),
        ("none", inside("empty"), "it holds no certificate"),
    ] {
        client
            .execute(
                "INSERT INTO mail.relay (name, url, ca_file) VALUES ($1, $2, $3)",
                &[
                    &name,
                    &format!(
                        "{}?starttls=required",
                        guarded.url().split('?').next().expect("a URL")
                    ),
                    &file,
                ],
            )
            .expect("a relay");
        let lines: Vec<String> = pgmq_mail_tests::all(
            &mut client,
            "SELECT text FROM mail.test_relay($1)",
            &[&name],
        );
        assert!(
            lines.iter().any(|line| line.contains(why)),
            "{name}: {lines:#?}"
        );
        let id = put(&mut client, "alice@example.test", name, "");
        reaches(&mut client, id, "sent");
        run_sql(&mut client, "DELETE FROM mail.relay WHERE tier = 1");
    }
    assert_eq!((guarded.count(), unused.count()), (0, 4));
}
