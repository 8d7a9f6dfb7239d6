//! What a restore does with what was there before it, and while it runs.

use pgmq_mail_tests::{Database, Folder, all, code, one, run_sql};
use postgres::error::SqlState;

use crate::dumps::{dump, restore};
use crate::{put, server};

#[test]
fn a_rule_that_was_switched_off_stays_off_and_one_that_was_deleted_is_back() {
    let original = Database::new(server());
    run_sql(
        &mut original.connect(),
        "UPDATE mail.reply_rule SET enabled = false WHERE name = 'google-rate';
         DELETE FROM mail.reply_rule WHERE name = 'icloud-rate'",
    );
    let folder = Folder::new("dump");
    dump(&original, &folder, &[]);
    let database = Database::empty(server());
    restore(&database, &folder, "psql", &[]);
    let rules: Vec<String> = all(
        &mut database.connect(),
        "SELECT name || ' ' || enabled FROM mail.reply_rule WHERE name IN ('google-rate', 'icloud-rate') ORDER BY 1",
        &[],
    );
    assert_eq!(rules, ["google-rate false", "icloud-rate true"]);
}

/// What is captured needs no arming: it goes on as soon as it is there.
#[test]
fn captured_mail_goes_on_after_a_restore_in_one_transaction() {
    let original = Database::new(server());
    let mut client = original.connect();
    run_sql(
        &mut client,
        "INSERT INTO mail.template (name, subject, text) VALUES ('welcome', 'Welcome', 'Hello {{ name }}')",
    );
    let sent = put(&mut client, "alice@example.test", "sent", "");
    crate::reaches(&mut client, sent, "sent");
    run_sql(&mut client, "SELECT mail.pause('default')");
    let id: i64 = one(
        &mut client,
        "SELECT mail.enqueue(jsonb_build_object('to', 'alice@example.test', 'template', 'welcome', 'params', '{\"name\": \"Ann\"}'::jsonb,
             'attachments', jsonb_build_array(mail.attach('\\x00ff', 'a.bin'))))",
        &[],
    );
    let folder = Folder::new("dump");
    dump(&original, &folder, &[]);
    // As if it had not been paused: nobody can hold up a worker for the time of a dump.
    let text = std::fs::read_to_string(folder.path().join("dump")).expect("a dump");
    let place = text.find("COPY mail.queue ").expect("queues");
    let column = text[place..].lines().next().expect("a line");
    let names = column.split_once('(').expect("columns").1;
    let names: Vec<&str> = names
        .split(')')
        .next()
        .expect("columns")
        .split(", ")
        .collect();
    let paused = names
        .iter()
        .position(|name| *name == "paused")
        .expect("a column");
    let row = text[place..].lines().nth(1).expect("a row");
    let mut fields: Vec<&str> = row.split('\t').collect();
    assert_eq!(fields[paused], "t");
    fields[paused] = "f";
    folder.write("dump", text.replace(row, &fields.join("\t")));
    let database = Database::empty(server());
    restore(&database, &folder, "psql", &["--single-transaction"]);
    let mut copy = database.connect();
    crate::reaches(&mut copy, id, "sent");
    let text: String = one(
        &mut copy,
        "SELECT convert_from(mime, 'UTF8') FROM mail.capture WHERE message_id = $1",
        &[&id],
    );
    assert!(
        text.contains("Hello Ann") && text.contains("a.bin"),
        "{text}"
    );
}

#[test]
fn a_queue_that_was_changed_before_the_restore_is_in_its_way() {
    let original = Database::new(server());
    let folder = Folder::new("dump");
    dump(&original, &folder, &["--data-only", "--inserts"]);
    let text = std::fs::read_to_string(folder.path().join("dump")).expect("a dump");
    let row = text
        .lines()
        .find(|line| line.starts_with("INSERT INTO mail.queue "));
    let database = Database::new(server());
    let mut copy = database.connect();
    run_sql(
        &mut copy,
        "UPDATE mail.queue SET default_sender = 'shop@example.test'",
    );
    let restored = copy.batch_execute(row.expect("the queue"));
    assert_eq!(code(restored), SqlState::UNIQUE_VIOLATION);
}
