//! Inputs that nobody would give on purpose: each is accepted or refused with a reason, and the server goes on.
//!
//! `PGMQ_MAIL_INPUTS` says how many (a short run takes 20,000), `PGMQ_MAIL_CHAOS_SEED` which.

mod generate;

use std::collections::BTreeMap;

use generate::{message, text_form};
use pgmq_mail_tests::{Cluster, Dice, run_sql, seed, wanted};

/// How many go into one statement.
const PIECE: u64 = 500;

/// What an input may come to, beside being accepted.
const REFUSALS: &[&str] = &["22023", "42704", "54000"];

/// Tries each input in a subtransaction, which is undone; counts the SQLSTATEs.
const TRY: &str = "
CREATE FUNCTION try_messages(inputs jsonb[]) RETURNS TABLE (code text, input text, said text) LANGUAGE plpgsql AS $$
DECLARE
    input jsonb;
BEGIN
    FOREACH input IN ARRAY inputs LOOP
        code := NULL;
        BEGIN
            PERFORM mail.enqueue(message => input);
            RAISE EXCEPTION USING ERRCODE = 'AAAAA';
        EXCEPTION WHEN OTHERS THEN
            code := SQLSTATE; try_messages.input := left(input::text, 2000); said := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END $$;
CREATE FUNCTION try_texts(inputs jsonb[]) RETURNS TABLE (code text, input text, said text) LANGUAGE plpgsql AS $$
DECLARE
    input jsonb;
BEGIN
    FOREACH input IN ARRAY inputs LOOP
        BEGIN
            PERFORM mail.enqueue(input ->> 'recipient', input ->> 'subject', input ->> 'text_body', input ->> 'html_body', input ->> 'sender',
                template => input ->> 'template', params => input -> 'params', locale => input ->> 'locale',
                idempotency_key => input ->> 'key', ordering_key => input ->> 'order', options => input -> 'options');
            RAISE EXCEPTION USING ERRCODE = 'AAAAA';
        EXCEPTION WHEN OTHERS THEN
            code := SQLSTATE; try_texts.input := left(input::text, 2000); said := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END $$;
INSERT INTO mail.template (name, subject, text, html) VALUES
    ('plain', 'Hello {{ name }}', 'Dear {{ name }}{% for x in items|default([]) %}{{ x.y|default(x) }}{% endfor %}', NULL),
    ('html', '{{ a.b }}', NULL, '<style>p{color:red}</style><p>{{ a|tojson }}</p>');
";

#[test]
fn whatever_is_given_is_accepted_or_refused_with_a_reason() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres");
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    run_sql(&mut client, TRY);
    let before = cluster.log().len();
    let mut dice = Dice::new(seed());
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let inputs = wanted("PGMQ_MAIL_INPUTS", 20_000);
    let mut done = 0;
    while done < inputs {
        let texts = dice.percent(30);
        let function = if texts { "try_texts" } else { "try_messages" };
        let make = if texts { text_form } else { message };
        let piece: Vec<_> = (0..PIECE).map(|_| make(&mut dice)).collect();
        let query = format!("SELECT code, input, said FROM {function}($1)");
        let rows = client
            .query(&query, &[&piece])
            .unwrap_or_else(|error| panic!("{error:?}"));
        for row in rows {
            let (code, input, said): (String, String, String) =
                (row.get(0), row.get(1), row.get(2));
            assert!(
                code == "AAAAA" || REFUSALS.contains(&code.as_str()),
                "{code} {said}: {input}"
            );
            assert!(
                code == "AAAAA" || !said.contains("internal"),
                "{said}: {input}"
            );
            *seen.entry(code).or_default() += 1;
        }
        done += PIECE;
    }
    eprintln!("{done} inputs: {seen:?}");
    let accepted = seen.get("AAAAA").copied().unwrap_or_default();
    assert!(accepted > done / 20, "some are good: {seen:?}");
    for code in REFUSALS {
        assert!(seen.contains_key(*code), "each refusal is met: {seen:?}");
    }
    let log = cluster.log();
    let bad = log[before..].lines().find(|line| {
        ["ERROR", "FATAL", "PANIC", "WARNING"]
            .iter()
            .any(|level| line.contains(&format!("{level}:")))
    });
    assert_eq!(bad, None, "nothing stands in the log");
}
