//! The role that the worker connects as: nobody else can, and nothing that runs in the worker becomes anybody else.

use postgres::NoTls;
use postgres::error::SqlState;

use pgmq_mail_tests::{
    Cluster, ClusterOptions, Database, SOON, all, code, database, one, reaches, run_sql, until,
    worker_of,
};

use crate::{findings, put};

#[test]
fn no_client_can_connect_as_the_workers_role() {
    let database = database();
    let mut client = database.connect();
    let worker = worker_of(&mut client);
    let config = database.cluster().config(database.name(), "mail_worker");
    assert_eq!(
        code(config.connect(NoTls).map(drop)),
        SqlState::TOO_MANY_CONNECTIONS
    );
    let user: String = one(
        &mut client,
        "SELECT usename::text FROM pg_stat_activity WHERE pid = $1",
        &[&worker],
    );
    assert_eq!(user, "mail_worker");
}

#[test]
fn code_that_runs_in_the_worker_becomes_nobody_else() {
    let database = database();
    let mut client = database.connect();
    run_sql(
        &mut client,
        "CREATE TABLE tried (statement text, outcome text);
         GRANT INSERT ON tried TO mail_worker;
         CREATE FUNCTION try(statement text) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             EXECUTE statement;
             INSERT INTO public.tried VALUES (statement, session_user || ' ' || current_user || ' ' || current_setting('is_superuser'));
         EXCEPTION WHEN insufficient_privilege THEN
             INSERT INTO public.tried VALUES (statement, 'refused');
         END $$;
         CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM public.try('RESET ROLE');
             PERFORM public.try('RESET SESSION AUTHORIZATION');
             PERFORM public.try('SET SESSION AUTHORIZATION DEFAULT');
             PERFORM public.try('SET SESSION AUTHORIZATION postgres');
             PERFORM public.try('SET ROLE postgres');
             PERFORM public.try('SET ROLE mail_admin');
             PERFORM public.try('ALTER ROLE mail_worker SUPERUSER');
             PERFORM public.try('COPY (SELECT 1) TO PROGRAM ''true''');
             PERFORM public.try('SELECT pg_read_file(''PG_VERSION'')');
             PERFORM public.try('ALTER TABLE mail.event OWNER TO mail_worker');
             RETURN NULL;
         END $$;
         CREATE TRIGGER climb AFTER INSERT ON mail.event FOR EACH ROW EXECUTE FUNCTION climb()",
    );
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
    let outcomes: Vec<String> = all(
        &mut client,
        "SELECT statement || ': ' || outcome FROM tried",
        &[],
    );
    let own = "mail_worker mail_worker off";
    assert_eq!(
        outcomes,
        [
            format!("RESET ROLE: {own}"),
            format!("RESET SESSION AUTHORIZATION: {own}"),
            format!("SET SESSION AUTHORIZATION DEFAULT: {own}"),
            "SET SESSION AUTHORIZATION postgres: refused".to_owned(),
            "SET ROLE postgres: refused".to_owned(),
            "SET ROLE mail_admin: refused".to_owned(),
            "ALTER ROLE mail_worker SUPERUSER: refused".to_owned(),
            "COPY (SELECT 1) TO PROGRAM 'true': refused".to_owned(),
            "SELECT pg_read_file('PG_VERSION'): refused".to_owned(),
            "ALTER TABLE mail.event OWNER TO mail_worker: refused".to_owned(),
        ]
    );
}

#[test]
fn it_starts_where_the_database_has_hostile_settings() {
    let database = Database::empty(pgmq_mail_tests::shared());
    let mut client = database.connect();
    run_sql(
        &mut client,
        &format!(
            "CREATE SCHEMA hostile;
             GRANT USAGE ON SCHEMA hostile TO PUBLIC;
             CREATE TABLE hostile.called (what text);
             GRANT INSERT ON hostile.called TO PUBLIC;
             CREATE FUNCTION hostile.eq(name, name) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO hostile.called VALUES ('='); RETURN false; END $$;
             CREATE OPERATOR hostile.= (FUNCTION = hostile.eq, LEFTARG = name, RIGHTARG = name);
             ALTER DATABASE {0} SET search_path = hostile, pg_catalog;
             ALTER DATABASE {0} SET default_transaction_read_only = on;
             ALTER DATABASE {0} SET default_transaction_isolation = 'serializable';
             ALTER DATABASE {0} SET row_security = off;
             ALTER DATABASE {0} SET statement_timeout = '1ms'",
            database.name()
        ),
    );
    run_sql(&mut client, "CREATE EXTENSION pgmq_mail");
    let id = put(&mut client, "x", "");
    reaches(&mut client, id, "sent");
    let called: Vec<String> = all(&mut client, "SELECT what FROM hostile.called", &[]);
    assert_eq!(called, [""; 0]);
}

#[test]
fn it_connects_where_public_may_not_and_says_so_where_it_may_not_itself() {
    let database = database();
    let mut client = database.connect();
    let name = database.name();
    let before = worker_of(&mut client);
    run_sql(
        &mut client,
        &format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"),
    );
    run_sql(
        &mut client,
        &format!("SELECT pg_terminate_backend({before})"),
    );
    until("there is another worker", SOON, || {
        all::<i32>(&mut client, "SELECT pid FROM mail.workers", &[])
            .first()
            .is_some_and(|pid| *pid != before)
    });
    let hint = "SELECT hint FROM mail.health() WHERE \"check\" = 'worker'";
    run_sql(
        &mut client,
        &format!(
            "REVOKE CONNECT ON DATABASE {name} FROM mail_worker;
             SELECT pg_terminate_backend(pid) FROM mail.workers"
        ),
    );
    until("it has left", SOON, || {
        findings(&mut client).contains(&"worker".to_owned())
    });
    let hints: Vec<String> = all(&mut client, hint, &[]);
    let remedy = format!("GRANT CONNECT ON DATABASE {name} TO mail_worker");
    assert!(hints[0].contains(&remedy), "{hints:?}");
    run_sql(&mut client, &remedy);
    worker_of(&mut client);
}

#[test]
fn the_role_of_an_older_version_is_altered() {
    let cluster = Cluster::with(&ClusterOptions::new());
    run_sql(
        &mut cluster.connect("postgres"),
        "CREATE ROLE mail_worker NOLOGIN",
    );
    let database = Database::new(&cluster);
    let mut client = database.connect();
    worker_of(&mut client);
    let limit: i32 = one(
        &mut client,
        "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'mail_worker' AND rolcanlogin",
        &[],
    );
    assert_eq!(limit, 0);
    drop(client);
    drop(database);
    drop(cluster);
}

#[test]
fn a_worker_that_cannot_do_its_work_is_a_finding() {
    let database = database();
    let mut client = database.connect();
    worker_of(&mut client);
    run_sql(
        &mut client,
        "REVOKE SELECT ON mail.pending FROM mail_worker",
    );
    let id = put(&mut client, "x", "");
    until("health tells of it", SOON, || {
        one(
            &mut client,
            "SELECT EXISTS (SELECT FROM mail.health() WHERE detail LIKE '%cannot do its work since%')",
            &[],
        )
    });
    run_sql(&mut client, "GRANT SELECT ON mail.pending TO mail_worker");
    reaches(&mut client, id, "sent");
    until("all is well", SOON, || findings(&mut client).is_empty());
}
