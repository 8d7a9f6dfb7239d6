//! What the catalog must say about everything in the schema.

use pgmq_mail_tests::database;

use crate::all;

#[test]
fn everything_public_has_a_comment() {
    let database = database();
    let mut client = database.connect();
    let silent: Vec<String> = all(
        &mut client,
        "SELECT 'function ' || p.oid::regprocedure FROM pg_proc p
         WHERE p.pronamespace = 'mail'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
         UNION ALL
         SELECT 'relation ' || c.oid::regclass FROM pg_class c
         WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'c')
           AND coalesce(obj_description(c.oid, 'pg_class'),
                        obj_description(c.reltype, 'pg_type')) IS NULL
         UNION ALL
         SELECT 'column ' || c.oid::regclass || '.' || a.attname
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'c')
           AND a.attnum > 0 AND NOT a.attisdropped AND NOT c.relispartition
           AND col_description(c.oid, a.attnum) IS NULL
         UNION ALL
         SELECT 'type ' || t.oid::regtype FROM pg_type t
         WHERE t.typnamespace = 'mail'::regnamespace AND t.typtype IN ('d', 'e', 'r')
           AND obj_description(t.oid, 'pg_type') IS NULL
         ORDER BY 1",
        &[],
    );
    assert_eq!(silent, [""; 0]);
}

#[test]
fn every_function_in_sql_or_plpgsql_has_a_fixed_search_path() {
    let database = database();
    let mut client = database.connect();
    let open: Vec<String> = all(
        &mut client,
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.pronamespace = 'mail'::regnamespace
           AND (l.lanname IN ('sql', 'plpgsql') AND p.prosqlbody IS NULL OR p.prosecdef)
           AND NOT coalesce(p.proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp']
         ORDER BY 1",
        &[],
    );
    assert_eq!(open, [""; 0]);
}

#[test]
fn no_other_schema_is_touched() {
    let database = database();
    let mut client = database.connect();
    let elsewhere: Vec<String> = all(
        &mut client,
        "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
         JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgmq_mail'
         WHERE d.deptype = 'e' AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
           AND 'mail'::regnamespace NOT IN (
               SELECT relnamespace FROM pg_class WHERE oid = d.objid
               UNION ALL SELECT pronamespace FROM pg_proc WHERE oid = d.objid
               UNION ALL SELECT typnamespace FROM pg_type WHERE oid = d.objid)",
        &[],
    );
    assert_eq!(elsewhere, [""; 0]);
}

#[test]
fn the_extension_can_be_dropped_and_created_again() {
    let database = database();
    let mut client = database.connect();
    client
        .batch_execute("DROP EXTENSION pgmq_mail; CREATE EXTENSION pgmq_mail")
        .unwrap();
    client
        .execute("SELECT mail.enqueue('a@example.test', 'x', 'x')", &[])
        .unwrap();
}
