//! Indexes and triggers of somebody's own on the tables of messages: rows go in without a plan, and still concern them.

use std::time::Duration;

use pgmq_mail_tests::{code, database, run_sql, until};
use postgres::error::SqlState;

use crate::{all, one, put, work};

#[test]
fn indexes_of_somebodys_own_have_every_row() {
    let database = database();
    let mut client = work(&database);
    run_sql(
        &mut client,
        "CREATE INDEX by_subject ON mail.message (lower(subject));
         CREATE INDEX of_customers ON mail.message ((metadata ->> 'customer')) WHERE metadata ? 'customer';
         CREATE UNIQUE INDEX one_each ON mail.pending (id, queue_id) WHERE size > 0",
    );
    let first = put(&mut client, "ONE", "");
    let id: i64 = one(
        &mut client,
        r#"SELECT mail.enqueue('{"to": "a@example.test", "text": "x", "metadata": {"customer": "7"}}'::jsonb)"#,
        &[],
    );
    run_sql(
        &mut client,
        "SET enable_seqscan = off; SET enable_bitmapscan = off",
    );
    let by_subject = "SELECT id FROM mail.message WHERE lower(subject) = 'one'";
    let of_customer =
        "SELECT id FROM mail.message WHERE metadata ->> 'customer' = '7' AND metadata ? 'customer'";
    for (query, index, expected) in [
        (by_subject, "by_subject", first),
        (of_customer, "of_customers", id),
    ] {
        let plan: Vec<String> = all(&mut client, &format!("EXPLAIN {query}"), &[]);
        assert!(plan.concat().contains(index), "{plan:?}");
        assert_eq!(all::<i64>(&mut client, query, &[]), [expected]);
    }
}

#[test]
fn a_unique_index_of_somebodys_own_refuses_a_second_row() {
    let database = database();
    let mut client = work(&database);
    run_sql(
        &mut client,
        "CREATE UNIQUE INDEX one_subject ON mail.message (subject)",
    );
    put(&mut client, "once", "");
    let again = client.execute(
        "SELECT mail.enqueue('a@example.test', 'once', 'x', queue => 'work')",
        &[],
    );
    assert_eq!(code(again), SqlState::UNIQUE_VIOLATION);
    let count: i64 = one(&mut client, "SELECT count(*) FROM mail.pending", &[]);
    assert_eq!(count, 1, "nothing is half done");
}

#[test]
fn triggers_of_somebodys_own_see_messages_and_what_was_sent() {
    let database = database();
    let mut client = database.connect();
    run_sql(
        &mut client,
        "CREATE TABLE seen (what text, row_id bigint);
         GRANT INSERT ON seen TO mail_worker;
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO public.seen VALUES (TG_ARGV[0], CASE WHEN TG_LEVEL = 'ROW' THEN NEW.id END);
             RETURN NEW;
         END $$;
         CREATE TRIGGER a BEFORE INSERT ON mail.message FOR EACH ROW EXECUTE FUNCTION see('before');
         CREATE TRIGGER b AFTER INSERT ON mail.message FOR EACH ROW EXECUTE FUNCTION see('after');
         CREATE TRIGGER c BEFORE INSERT ON mail.message EXECUTE FUNCTION see('before all');
         CREATE TRIGGER d AFTER INSERT ON mail.message EXECUTE FUNCTION see('after all');
         CREATE TRIGGER e AFTER INSERT ON mail.event FOR EACH ROW EXECUTE FUNCTION see('event')",
    );
    let ids: Vec<i64> = all(
        &mut client,
        "SELECT mail.enqueue('a@example.test', 'x', 'x') FROM generate_series(1, 3)",
        &[],
    );
    for (what, count) in [("before all", 3), ("after all", 3)] {
        let seen: i64 = one(
            &mut client,
            "SELECT count(*) FROM seen WHERE what = $1 AND row_id IS NULL",
            &[&what],
        );
        assert_eq!(seen, count, "{what}");
    }
    for what in ["before", "after"] {
        let query = "SELECT row_id FROM seen WHERE what = $1 ORDER BY row_id";
        assert_eq!(all::<i64>(&mut client, query, &[&what]), ids, "{what}");
    }
    until("three events are seen", Duration::from_secs(10), || {
        one::<i64>(
            &mut client,
            "SELECT count(*) FROM seen s JOIN mail.events e ON e.id = s.row_id WHERE s.what = 'event' AND e.kind = 'sent'",
            &[],
        ) == 3
    });
}

#[test]
fn a_message_is_seen_by_the_next_statement_and_gone_with_a_savepoint() {
    let database = database();
    let mut client = work(&database);
    let count = "SELECT count(*) FROM mail.message m JOIN mail.pending p USING (id)";
    let mut transaction = client.transaction().unwrap();
    let enqueue = "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work')";
    transaction.execute(enqueue, &[]).unwrap();
    transaction.batch_execute("SAVEPOINT s").unwrap();
    transaction.execute(enqueue, &[]).unwrap();
    let of = |transaction: &mut postgres::Transaction<'_>| -> i64 {
        transaction.query_one(count, &[]).unwrap().get(0)
    };
    assert_eq!(of(&mut transaction), 2);
    transaction.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(of(&mut transaction), 1);
    transaction.commit().unwrap();
    assert_eq!(one::<i64>(&mut client, count, &[]), 1);
}

#[test]
fn a_transaction_that_only_reads_enqueues_nothing() {
    let database = database();
    let mut client = work(&database);
    run_sql(&mut client, "SET default_transaction_read_only = on");
    let refused = client.execute(
        "SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work')",
        &[],
    );
    assert_eq!(code(refused), SqlState::READ_ONLY_SQL_TRANSACTION);
}
