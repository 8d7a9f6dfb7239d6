//! Hostile surroundings: functions that act with the owner's rights run nothing that their caller has put in the way, and
//! nobody but the owner has a way in.

use pgmq_mail_tests::{Database, code, database, reaches, run_sql, shared};
use postgres::Client;

use crate::{all, one};

/// What a caller can put before `pg_catalog`: its operators and functions on common types, and types of its names. All
/// raise HJ000.
const SHADOWS: &str = "
CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE TABLE hostile.common AS SELECT t::regtype AS type FROM unnest(ARRAY[
    'text', 'name', 'boolean', 'integer', 'bigint', 'float8', 'numeric', 'oid', 'regclass', 'timestamptz', 'interval', 'jsonb', 'bytea',
    'uuid', 'text[]', 'bigint[]', 'integer[]', 'anyarray', 'anyelement', 'anycompatible', 'anycompatiblearray']) AS t;
DO $do$
DECLARE
    o record;
    body text := $$BEGIN RAISE EXCEPTION 'hijacked' USING ERRCODE = 'HJ000'; END$$;
    made integer := 0;
BEGIN
    FOR o IN
        SELECT p.oid, p.proname, p.proretset, p.prorettype::regtype AS result, array_to_string(p.proargtypes::regtype[], ', ') AS arguments
        FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.prorettype IN (SELECT c.type FROM hostile.common c)
          AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) AS a WHERE a NOT IN (SELECT c.type FROM hostile.common c))
          AND (p.proallargtypes IS NULL OR p.proargmodes IS NULL)
    LOOP
        EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS %s %s LANGUAGE plpgsql COST 1 AS %L',
                       o.proname, o.arguments, CASE WHEN o.proretset THEN 'SETOF' END, o.result, body);
        made := made + 1;
    END LOOP;
    FOR o IN
        SELECT p.oid, p.oprname, p.oprresult::regtype AS result, nullif(p.oprleft, 0)::regtype AS l, p.oprright::regtype AS r
        FROM pg_operator p
        WHERE p.oprnamespace = 'pg_catalog'::regnamespace AND p.oprresult IN (SELECT c.type FROM hostile.common c)
          AND p.oprright IN (SELECT c.type FROM hostile.common c) AND (p.oprleft = 0 OR p.oprleft IN (SELECT c.type FROM hostile.common c))
    LOOP
        EXECUTE format('CREATE FUNCTION hostile.operator_%s(%s) RETURNS %s LANGUAGE plpgsql AS %L', o.oid, concat_ws(', ', o.l, o.r), o.result, body);
        EXECUTE format('CREATE OPERATOR hostile.%s (FUNCTION = hostile.operator_%s, %s RIGHTARG = %s)',
                       o.oprname, o.oid, 'LEFTARG = ' || o.l || ',', o.r);
        made := made + 1;
    END LOOP;
    ASSERT made > 1000, made;
    -- These take any number of arguments of any type, so that what names them is chosen before.
    FOR o IN SELECT n FROM unnest(ARRAY['format', 'concat', 'concat_ws', 'jsonb_build_object', 'jsonb_build_array', 'num_nulls', 'num_nonnulls']) AS n LOOP
        FOR made IN 2..4 LOOP
            EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS text LANGUAGE plpgsql AS %L',
                           o.n, array_to_string(array_fill('text'::text, ARRAY[made]), ', '), body);
        END LOOP;
    END LOOP;
END $do$;
CREATE FUNCTION hostile.boom() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hijacked' USING ERRCODE = 'HJ000'; END$$;
DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['text', 'name', 'bool', 'int4', 'int8', 'float8', 'oid', 'regclass', 'timestamptz', 'interval', 'jsonb', 'bytea', 'uuid'] LOOP
        EXECUTE format('CREATE DOMAIN hostile.%I AS pg_catalog.%I CHECK (hostile.boom())', name, name);
    END LOOP;
END $do$;
";

/// Tables of the names that the extension's functions use, where unqualified names are looked up first.
const TEMPORARY: &str = "
DO $do$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_class c WHERE c.relnamespace IN ('mail'::regnamespace) AND c.relkind IN ('r', 'v')
        UNION ALL
        SELECT unnest(ARRAY['pg_class', 'pg_proc', 'pg_settings', 'pg_roles', 'pg_locks', 'pg_stat_activity', 'pg_database', 'pg_extension'])
    LOOP
        EXECUTE format('CREATE TEMPORARY TABLE %I (hijacked integer)', name);
    END LOOP;
END $do$";

/// No statement of the extension is DDL, so that nobody's event trigger runs.
const EVENT_TRIGGERS: &str = "
CREATE FUNCTION hostile.ddl() RETURNS event_trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION 'hijacked' USING ERRCODE = 'HJ000'; END$$;
CREATE EVENT TRIGGER hostile_start ON ddl_command_start EXECUTE FUNCTION hostile.ddl();
CREATE EVENT TRIGGER hostile_end ON ddl_command_end EXECUTE FUNCTION hostile.ddl();
CREATE EVENT TRIGGER hostile_drop ON sql_drop EXECUTE FUNCTION hostile.ddl()";

/// A session in the worst of surroundings, with all rights that can be granted on the extension.
fn hostile(database: &Database<'_>, root: &mut Client) -> Client {
    run_sql(root, SHADOWS);
    let roles = ["mail_sender", "mail_consumer", "mail_tenant", "mail_admin"];
    let mut client = database.connect_as("hostile_all", &roles);
    run_sql(&mut client, TEMPORARY);
    run_sql(root, EVENT_TRIGGERS);
    run_sql(
        &mut client,
        "SET standard_conforming_strings = off; SET escape_string_warning = off; SET transform_null_equals = on;
         SET search_path = pg_temp, hostile, pg_catalog",
    );
    client
}

/// Functions whose statements run with the owner's rights, called for another role: by SECURITY DEFINER, or in C.
const OF_THE_OWNER: &str = "
    SELECT DISTINCT p.proname::text FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgmq_mail'
    WHERE p.prosecdef AND (p.prorettype = 'trigger'::regtype OR has_function_privilege('hostile_all', p.oid, 'EXECUTE')) OR p.prosrc IN ('enqueue_text_wrapper', 'enqueue_json_wrapper', 'enqueue_element_wrapper', 'cancel_wrapper',
                                      'preview_message_wrapper', 'test_relay_wrapper', 'as_owner_wrapper')
    ORDER BY 1";

/// What calls those that are called by triggers, or by other functions alone.
const INDIRECT: [(&str, &str); 15] = [
    ("_dkim_key_check", "INSERT INTO mail.dkim_key"),
    ("_dkim_secrets_tidy", "DELETE FROM mail.dkim_key"),
    ("_enqueue_element", "mail.enqueue_batch("),
    ("_event_before", "mail.queue_stats"),
    ("_is_own", "mail.events"),
    ("_may_read", "mail.message_attachment"),
    ("_preview", "mail.preview("),
    ("_queue_in_use", "DELETE FROM mail.queue"),
    ("_relay_check", "INSERT INTO mail.relay"),
    ("_relay_inserted", "INSERT INTO mail.relay"),
    ("_relay_secrets_tidy", "DELETE FROM mail.relay"),
    ("_template_check", "INSERT INTO mail.template"),
    ("_template_kept", "UPDATE mail.template"),
    ("_template_lock", "UPDATE mail.template"),
    ("_workers", "mail.workers"),
];

/// Everything that is configured, and so every trigger.
const CONFIGURE: &str = "INSERT INTO mail.template (name, subject, text) VALUES ('t', 'Hello', 'Hello {{ name }}');
         UPDATE mail.template SET text = 'Hi {{ name }}';
         SELECT mail.rollback_template('t');
         SELECT mail.activate_template('t', 2);
         DELETE FROM mail.template;
         SELECT mail.activate_template('t', 2);
         INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('a.test', 's', mail._new_dkim_key('ed25519'));
         INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('a.test', 's', mail._new_dkim_key('ed25519'))
             ON CONFLICT (domain, selector) DO UPDATE SET private_key = excluded.private_key;
         UPDATE mail.dkim_key SET enabled = false;
         SELECT mail.generate_dkim_key('b.test', 's', 'ed25519');
         DELETE FROM mail.dkim_key;
         INSERT INTO mail.queue (name, transport) VALUES ('gone', 'external');
         UPDATE mail.queue SET default_sender = 'b@example.test' WHERE name OPERATOR(pg_catalog.~) '^gone';
         DELETE FROM mail.queue WHERE name OPERATOR(pg_catalog.~) '^gone';
         INSERT INTO mail.relay (name, url, username, secret) VALUES ('r', 'smtp://127.0.0.1:1', 'u', 's');
         INSERT INTO mail.relay (name, url, username, secret) VALUES ('r', 'smtp://127.0.0.1:1', 'u', 't')
             ON CONFLICT (name) DO UPDATE SET secret = excluded.secret;
         UPDATE mail.relay SET name = 'r2', helo_name = 'h.test';
         SELECT mail.test_relay('r2');
         SELECT mail.disarm('x'), mail.arm();
         DELETE FROM mail.relay;
         INSERT INTO mail.domain_limit (domain, concurrency) VALUES ('a.test', 1);
         INSERT INTO mail.reply_rule (name, pattern, action) VALUES ('r', 'x', 'hold');
         INSERT INTO mail.sender_grant (role, sender) VALUES ('hostile_all', 'Example.test');
         UPDATE mail.queue SET default_sender = 'app@example.test'";

/// What a sender calls.
const PRODUCE: &str = "SELECT mail.enqueue('a@example.test', 'x', 'x', sender => 'b@example.test', idempotency_key => 'i', ordering_key => 'o', supersede_key => 's');
         SELECT mail.enqueue('a@example.test', 'x', 'x', sender => 'b@example.test', idempotency_key => 'i', ordering_key => 'o', supersede_key => 's');
         SELECT mail.enqueue(message => '{\"to\": \"a@example.test\", \"template\": \"t\", \"params\": {\"name\": \"A\"}, \"metadata\": {\"a\": 1},
             \"attachments\": [{\"filename\": \"a.txt\", \"text\": \"x\"}]}', supersede_key => 's', queue => 'default');
         SELECT mail.enqueue_batch(ARRAY['{\"to\": \"a@example.test\", \"text\": \"x\"}'::pg_catalog.jsonb]);
         SELECT mail.attach('x', 'a.txt', 'text/plain');
         SELECT mail.preview(message => '{\"to\": \"a@example.test\", \"text\": \"x\", \"from\": \"a@example.test\"}');
         SELECT mail.preview('t', '{\"name\": \"A\"}');
         SELECT mail.enqueue('a@example.test', 'x', 'x', queue => 'work', idempotency_key => 'mine')";

#[test]
fn what_a_caller_puts_in_the_way_is_not_run() {
    let database = database();
    let mut root = database.connect();
    run_sql(
        &mut root,
        "INSERT INTO mail.queue (name, transport, default_sender) VALUES ('work', 'external', 'app@example.test');
         SELECT mail.enqueue('a@example.test', n::text, 'x', queue => 'work') FROM generate_series(1, 6) AS n",
    );
    let mut client = hostile(&database, &mut root);
    for shadowed in [
        "SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text",
        "SELECT pg_catalog.now() > pg_catalog.now()",
        "SELECT clock_timestamp()",
        "SELECT unnest(ARRAY[1])",
        "SELECT 'a'::text",
    ] {
        assert_eq!(
            code(client.batch_execute(shadowed)).code(),
            "HJ000",
            "{shadowed}"
        );
    }
    let mut done = String::new();
    let mut call = |statement: &str| {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        done.push_str(statement);
    };
    call(
        "SELECT mail.claim('work', 5, lease => '1 hour');
         SELECT mail.wait_idle('default')",
    );
    let claimed: Vec<(i64, i64)> = root
        .query(
            "SELECT l.ids[1], l.token FROM mail.lease l WHERE l.holder IS NULL ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let [first, second, third, fourth, fifth] = claimed[..] else {
        panic!("five: {claimed:?}")
    };
    call(&format!(
        "SELECT mail.ack({0}, {1}, '{{\"code\": \"250\"}}');
         SELECT mail.ack(ARRAY[{2}], ARRAY[{3}]::pg_catalog.int8[]);
         SELECT mail.nack({4}, {5}, 'no', permanent => true);
         SELECT mail.nack({6}, {7}, 'no', permanent => true);
         SELECT mail.extend({8}, {9}, '1 hour');
         SELECT mail.release({8}, {9});
         SELECT mail.retry({4});
         SELECT mail.dismiss({6});
         SELECT mail.retry_dead_letters('work');
         SELECT mail.pause('work');
         SELECT mail.resume('work');
         SELECT mail.purge('work', finished => true)",
        first.0,
        first.1,
        second.0,
        second.1,
        third.0,
        third.1,
        fourth.0,
        fourth.1,
        fifth.0,
        fifth.1,
    ));
    call(CONFIGURE);
    call(PRODUCE);
    let mine: i64 = one(
        &mut root,
        "SELECT message_id FROM mail.idempotency WHERE key = 'mine'",
        &[],
    );
    call(&format!("SELECT mail.cancel({mine})"));
    call(
        "SELECT * FROM mail.messages; SELECT * FROM mail.dead_letters; SELECT * FROM mail.events; SELECT * FROM mail.captured;
         SELECT * FROM mail.queue_stats; SELECT * FROM mail.relay_stats; SELECT * FROM mail.domain_stats; SELECT * FROM mail.workers;
         SELECT * FROM mail.template_history; SELECT * FROM mail.health(); SELECT * FROM mail.attachment; SELECT * FROM mail.message_attachment;
         SELECT mail.start_worker(); SELECT mail.stop_worker()",
    );
    let left_out: Vec<String> = all::<String>(&mut root, OF_THE_OWNER, &[])
        .into_iter()
        .filter(|name| {
            let indirect = INDIRECT.iter().find(|(called, _)| called == name);
            let calls = indirect.map_or(format!("mail.{name}("), |(_, calls)| (*calls).to_owned());
            !done.contains(&calls)
        })
        .collect();
    assert_eq!(left_out, [""; 0], "the test does not call them");
    // And the worker, with its own session.
    let id: i64 = one(
        &mut root,
        "SELECT mail.enqueue('a@example.test', 'x', 'x', sender => 'b@example.test')",
        &[],
    );
    reaches(&mut root, id, "sent");
}

/// Everything in the schema, the schema itself included: kind, name, grantee and privilege, the owner's left out. Row types
/// of tables are left out as well: to be used they need the schema.
const GRANTED: &str = "
    SELECT o.kind || ' ' || o.name || ' ' || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END || ' ' || a.privilege_type
    FROM (
        SELECT 'schema' AS kind, n.nspname::text AS name, n.nspowner AS owner, coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
        FROM pg_namespace n WHERE n.nspname = 'mail'
        UNION ALL
        SELECT 'relation', c.oid::regclass::text, c.relowner,
               coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))
        FROM pg_class c WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind NOT IN ('i', 'c')
        UNION ALL
        SELECT 'column', format('%s.%s', c.oid::regclass, t.attname), c.relowner, t.attacl
        FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid WHERE c.relnamespace = 'mail'::regnamespace
        UNION ALL
        SELECT 'function', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM pg_proc p WHERE p.pronamespace = 'mail'::regnamespace
        UNION ALL
        SELECT 'type', t.oid::regtype::text, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
        FROM pg_type t WHERE t.typnamespace = 'mail'::regnamespace AND t.typtype <> 'b'
          AND t.typrelid NOT IN (SELECT r.oid FROM pg_class r WHERE r.relkind <> 'c')) o, aclexplode(o.acl) a
    WHERE a.grantee <> o.owner AND (";

#[track_caller]
fn granted(client: &mut Client, condition: &str) {
    let query = format!("{GRANTED} {condition}) ORDER BY 1");
    assert_eq!(all::<String>(client, &query, &[]), [""; 0], "{condition}");
}

const ROLES: &str = "a.grantee = 0 OR pg_get_userbyid(a.grantee) NOT IN ('mail_sender', 'mail_consumer', 'mail_tenant', 'mail_reader', 'mail_admin', 'mail_worker', 'mail_views')";

#[test]
fn nothing_is_granted_to_anybody_but_the_roles() {
    let database = database();
    granted(&mut database.connect(), ROLES);
}

#[test]
fn default_privileges_open_nothing() {
    let database = Database::empty(shared());
    let mut root = database.connect();
    database.connect_as("hostile_default", &[]);
    for kind in ["TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS"] {
        run_sql(
            &mut root,
            &format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO PUBLIC, hostile_default"),
        );
    }
    run_sql(&mut root, "CREATE EXTENSION pgmq_mail");
    granted(&mut root, ROLES);
    run_sql(&mut root, "DROP OWNED BY hostile_default");
}

#[test]
fn nobody_may_put_code_of_his_own_on_a_table_or_into_the_schema() {
    let database = database();
    let mut root = database.connect();
    granted(
        &mut root,
        "a.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE', 'MAINTAIN', 'CREATE')",
    );
    granted(&mut root, "a.is_grantable");
    // Who owns an object may: only who created the extension does, and of views the role that they look with.
    let owners: Vec<String> = all(
        &mut root,
        "SELECT DISTINCT concat_ws(' ', c.relkind, pg_get_userbyid(c.relowner)) FROM pg_class c
         WHERE c.relnamespace = 'mail'::regnamespace ORDER BY 1",
        &[],
    );
    assert_eq!(
        owners,
        [
            "S postgres",
            "c postgres",
            "i postgres",
            "r postgres",
            "v mail_views",
            "v postgres"
        ]
    );
    // Who owns a view can have whoever looks at it run what he likes: nobody is a member of its owner.
    let members: Vec<String> = all(
        &mut root,
        "SELECT m.member::regrole::text FROM pg_auth_members m WHERE m.roleid IN ('mail_views'::regrole, 'mail_worker'::regrole)",
        &[],
    );
    assert_eq!(members, [""; 0]);
    let mut admin = database.connect_as(
        "hostile_admin",
        &[
            "mail_sender",
            "mail_consumer",
            "mail_tenant",
            "mail_reader",
            "mail_admin",
        ],
    );
    run_sql(
        &mut root,
        "CREATE SCHEMA hostile_admin AUTHORIZATION hostile_admin",
    );
    run_sql(
        &mut admin,
        "CREATE FUNCTION hostile_admin.run() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    );
    for statement in [
        "CREATE TRIGGER t AFTER INSERT ON mail.queue FOR EACH ROW EXECUTE FUNCTION hostile_admin.run()",
        "CREATE RULE r AS ON INSERT TO mail.queue DO ALSO NOTHING",
        "CREATE POLICY p ON mail.queue",
        "ALTER TABLE mail.queue ALTER name SET DEFAULT 'x'",
        "CREATE INDEX ON mail.queue ((name || 'x'))",
        "CREATE FUNCTION mail.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE mail.t ()",
        "CREATE TABLE hostile_admin.t (name text REFERENCES mail.queue (name))",
        "COMMENT ON SCHEMA mail IS 'x'",
        "CREATE OR REPLACE FUNCTION mail.arm() RETURNS bigint LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE VIEW mail.messages AS SELECT 1",
        "CREATE OR REPLACE RULE \"_RETURN\" AS ON SELECT TO mail.messages DO INSTEAD SELECT 1",
        "CREATE RULE r AS ON INSERT TO mail.events DO INSTEAD NOTHING",
        "ALTER VIEW mail.dead_letters SET (security_barrier)",
        "DROP VIEW mail.captured",
    ] {
        assert_eq!(
            code(admin.batch_execute(statement)).code(),
            "42501",
            "{statement}"
        );
    }
}

#[test]
fn every_function_of_the_owner_has_a_fixed_search_path_and_stands_in_the_schema() {
    let database = database();
    let mut root = database.connect();
    let open: Vec<String> = all(
        &mut root,
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
         JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgmq_mail'
         WHERE p.pronamespace <> 'mail'::regnamespace
            OR p.prosecdef AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c ~ '^search_path=.*, pg_temp$')
            OR p.prosecdef AND p.proowner <> (SELECT n.extowner FROM pg_extension n WHERE n.extname = 'pgmq_mail')",
        &[],
    );
    assert_eq!(open, [""; 0]);
    let outside: Vec<String> = all(
        &mut root,
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.pronamespace = 'mail'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgmq_mail'
            WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')",
        &[],
    );
    assert_eq!(outside, [""; 0]);
}

#[test]
fn a_schema_of_somebody_else_is_not_taken_over() {
    let database = Database::empty(shared());
    let mut root = database.connect();
    database.connect_as("hostile_owner", &[]);
    let create = "CREATE EXTENSION pgmq_mail";
    for (before, after) in [
        (
            "CREATE SCHEMA mail AUTHORIZATION hostile_owner",
            "ALTER SCHEMA mail OWNER TO CURRENT_USER",
        ),
        (
            "CREATE FUNCTION mail._note_sweep(bigint) RETURNS void LANGUAGE sql AS ''",
            "DROP FUNCTION mail._note_sweep(bigint)",
        ),
        ("CREATE TYPE mail.t AS (x integer)", "DROP TYPE mail.t"),
    ] {
        run_sql(&mut root, before);
        assert_eq!(code(root.batch_execute(create)).code(), "55000", "{before}");
        run_sql(&mut root, after);
    }
    run_sql(&mut root, create);
}
