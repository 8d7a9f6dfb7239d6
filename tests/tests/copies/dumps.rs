//! `pg_dump` and every way to restore what it makes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use pgmq_mail_tests::{Cluster, Database, Folder, all, one, run};

use crate::everything::{Everything, goes_on, same_rows, secrets_of, silent_until_armed};
use crate::forms::Forms;
use crate::{another_server, server};

const PATIENCE: Duration = Duration::from_mins(1);

/// A dump of a database, in a file or directory of that folder.
pub fn dump(database: &Database<'_>, folder: &Folder, arguments: &[&str]) {
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    run(
        database
            .cluster()
            .program("pg_dump")
            .args(arguments)
            .arg("--file")
            .arg(folder.path().join("dump"))
            .arg(database.name()),
        PATIENCE,
    );
}

/// Restores it: SQL, or what `pg_restore` reads.
pub fn restore(into: &Database<'_>, folder: &Folder, program: &str, arguments: &[&str]) {
    let file = folder.path().join("dump");
    let mut command = into.cluster().program(program);
    command.args(arguments).args(["-d", into.name()]);
    match program {
        "psql" => command
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(file),
        _ => command.arg("--exit-on-error").arg(file),
    };
    run(&mut command, PATIENCE);
}

/// Dumps a database with everything in it, restores it, and looks at what came of it.
#[track_caller]
fn check(into: &'static Cluster, format: &[&str], program: &str, arguments: &[&str]) {
    let mut original = Everything::on(server());
    let folder = Folder::new("dump");
    dump(&original.database, &folder, format);
    has_no_secrets(&original, &folder.path().join("dump"));
    let database = Database::empty(into);
    restore(&database, &folder, program, arguments);
    let mut copy = database.connect();
    same_rows(&mut original.client, &mut copy, &[]);
    silent_until_armed(&mut copy, &original.sink);
    goes_on(&mut original.client, &mut copy);
    let flying = "SELECT state FROM mail.messages WHERE subject = 'flying'";
    let state: String = one(&mut original.client, flying, &[]);
    assert_eq!(state, "sending", "the original is untouched");
}

/// Where the dump is text.
fn has_no_secrets(original: &Everything<'_>, dump: &Path) {
    let secrets = secrets_of(original);
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    if let Ok(text) = fs::read_to_string(dump) {
        Forms::of(&secrets).are_not_in("the dump", &text);
    }
}

#[test]
fn a_plain_dump_is_restored_by_psql() {
    check(server(), &[], "psql", &[]);
}

#[test]
fn a_plain_dump_is_restored_in_one_transaction_on_another_server() {
    check(another_server(), &[], "psql", &["--single-transaction"]);
}

#[test]
fn a_plain_dump_with_inserts_is_restored() {
    check(server(), &["--column-inserts"], "psql", &[]);
}

#[test]
fn a_custom_dump_is_restored_on_another_server() {
    check(another_server(), &["-Fc"], "pg_restore", &[]);
}

#[test]
fn a_custom_dump_is_restored_by_two_at_once() {
    check(server(), &["-Fc"], "pg_restore", &["--jobs=2"]);
}

#[test]
fn a_custom_dump_is_restored_in_one_transaction() {
    check(server(), &["-Fc"], "pg_restore", &["--single-transaction"]);
}

#[test]
fn a_directory_is_dumped_and_restored_by_two_at_once() {
    check(
        another_server(),
        &["-Fd", "--jobs=2"],
        "pg_restore",
        &["--jobs=2"],
    );
}

#[test]
fn large_files_are_restored_by_four_at_once_with_their_messages() {
    let original = Database::new(server());
    let mut client = original.connect();
    client
        .batch_execute(
            "INSERT INTO mail.queue (name, transport, default_sender, paused) VALUES ('work', 'smtp', 'a@b.test', true);
             SELECT mail.enqueue(jsonb_build_object('to', 'a@example.test', 'attachments', jsonb_build_array(
                 mail.attach(decode(repeat(md5(n::text), 500000), 'hex'), 'x.bin'))), queue => 'work') FROM generate_series(1, 6) n",
        )
        .expect("they are accepted");
    let folder = Folder::new("dump");
    dump(&original, &folder, &["-Fc"]);
    let copy = Database::empty(another_server());
    restore(&copy, &folder, "pg_restore", &["--jobs=4"]);
    let files = "SELECT count(*) FROM mail.message_attachment m JOIN mail.attachment a ON a.id = m.attachment_id";
    assert_eq!(one::<i64>(&mut copy.connect(), files, &[]), 6);
}

#[test]
fn a_dump_is_restored_over_its_own_database() {
    let mut original = Everything::on(server());
    let folder = Folder::new("dump");
    dump(&original.database, &folder, &["-Fc"]);
    let queues =
        "SELECT q.id || ' ' || q.name || ' ' || q.transport FROM mail.queue q ORDER BY q.id";
    let before: Vec<String> = all(&mut original.client, queues, &[]);
    let messages = "SELECT count(*) FROM mail.message";
    let count: i64 = one(&mut original.client, messages, &[]);
    let clean = ["--clean", "--if-exists"];
    restore(&original.database, &folder, "pg_restore", &clean);
    let mut client = original.database.connect();
    assert_eq!(all::<String>(&mut client, queues, &[]), before);
    assert_eq!(one::<i64>(&mut client, messages, &[]), count);
}

#[test]
fn a_custom_dump_as_sql_holds_no_secrets() {
    let original = Everything::on(server());
    let folder = Folder::new("dump");
    dump(&original.database, &folder, &["-Fc"]);
    let text = run(
        server()
            .program("pg_restore")
            .arg("--file=-")
            .arg(folder.path().join("dump")),
        PATIENCE,
    );
    let text = String::from_utf8(text.stdout).expect("SQL in UTF-8");
    let secrets = secrets_of(&original);
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    Forms::of(&secrets).are_not_in("the dump", &text);
    for table in ["relay_secret", "dkim_secret", "lease", "relay_trouble"] {
        let copied = format!("COPY mail.{table} ");
        assert!(!text.contains(&copied), "{table} is in the dump");
    }
    assert!(text.contains("COPY mail.relay "), "relays are in it");
}

#[test]
fn data_alone_is_restored_into_a_database_with_the_extension() {
    let mut original = Everything::on(server());
    let folder = Folder::new("dump");
    dump(&original.database, &folder, &["--data-only"]);
    has_no_secrets(&original, &folder.path().join("dump"));
    let database = Database::new(another_server());
    restore(&database, &folder, "psql", &[]);
    let mut copy = database.connect();
    same_rows(&mut original.client, &mut copy, &[]);
    silent_until_armed(&mut copy, &original.sink);
    goes_on(&mut original.client, &mut copy);
}

#[test]
fn data_alone_is_restored_by_pg_restore_in_one_transaction() {
    let mut original = Everything::on(server());
    let folder = Folder::new("dump");
    dump(&original.database, &folder, &["-Fc", "--data-only"]);
    let database = Database::new(server());
    restore(&database, &folder, "pg_restore", &["--single-transaction"]);
    let mut copy = database.connect();
    same_rows(&mut original.client, &mut copy, &[]);
    silent_until_armed(&mut copy, &original.sink);
}

#[test]
fn a_schema_alone_is_a_fresh_installation() {
    let original = Everything::on(server());
    let folder = Folder::new("dump");
    dump(&original.database, &folder, &["--schema-only"]);
    let database = Database::empty(another_server());
    restore(&database, &folder, "psql", &[]);
    let mut copy = database.connect();
    let queues: Vec<String> = all(
        &mut copy,
        "SELECT name || ' ' || transport FROM mail.queue",
        &[],
    );
    assert_eq!(queues, ["default capture"]);
    for table in ["message", "relay", "event", "template", "dkim_key"] {
        let count = format!("SELECT count(*) FROM mail.{table}");
        assert_eq!(one::<i64>(&mut copy, &count, &[]), 0, "{table}");
    }
    let id = crate::put(&mut copy, "alice@example.test", "captured", "");
    crate::reaches(&mut copy, id, "sent");
    assert_eq!(
        one::<i64>(&mut copy, "SELECT count(*) FROM mail.captured", &[]),
        1
    );
}
