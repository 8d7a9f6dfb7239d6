//! What comes of an installation that was updated.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use pgmq_mail_tests::{Cluster, ClusterOptions, Folder, all, one, run, run_sql};
use postgres::Client;

use crate::catalog::catalog;
use crate::filled::Filled;
use crate::{released, trouble};

/// Another one than installed it updates it.
fn update(cluster: &Cluster, database: &str) {
    let mut other = cluster.connect_as(database, "other_superuser");
    run_sql(&mut other, "ALTER EXTENSION pgmq_mail UPDATE");
}

fn server() -> Cluster {
    let cluster = Cluster::with(&ClusterOptions::new());
    run_sql(
        &mut cluster.connect("postgres"),
        "CREATE ROLE other_superuser SUPERUSER LOGIN; CREATE ROLE somebody; CREATE ROLE anybody",
    );
    cluster
}

/// What a fresh installation consists of.
fn fresh(cluster: &Cluster) -> BTreeSet<String> {
    cluster.create_database("fresh");
    let mut fresh = cluster.connect("fresh");
    run_sql(&mut fresh, "CREATE EXTENSION pgmq_mail");
    let expected = catalog(&mut fresh);
    assert!(expected.len() > 500, "all of it is looked at");
    expected
}

#[test]
fn an_updated_installation_is_a_fresh_one_and_all_its_mail_comes_to_its_end() {
    let cluster = server();
    // Made after the first update, which finds the roles as they were.
    let mut expected = None;
    for version in released(&mut cluster.connect("postgres")) {
        let mut filled = Filled::new(&cluster, &version);
        // What is made must not get rights that nobody gave it.
        run_sql(
            &mut filled.client,
            "ALTER DEFAULT PRIVILEGES FOR ROLE other_superuser GRANT ALL ON FUNCTIONS TO anybody;
             ALTER DEFAULT PRIVILEGES FOR ROLE other_superuser GRANT ALL ON TABLES TO anybody;
             ALTER DEFAULT PRIVILEGES FOR ROLE other_superuser GRANT ALL ON SEQUENCES TO anybody;
             ALTER DEFAULT PRIVILEGES FOR ROLE other_superuser GRANT ALL ON TYPES TO anybody",
        );
        let before = filled.kept();
        update(&cluster, &filled.database);
        assert_eq!(filled.kept(), before);
        let found = catalog(&mut filled.client);
        let expected = expected.get_or_insert_with(|| fresh(&cluster));
        let lacks: Vec<_> = expected.difference(&found).collect();
        let has: Vec<_> = found.difference(expected).collect();
        assert!(
            lacks.is_empty() && has.is_empty(),
            "from {version}: it lacks {lacks:#?} and has {has:#?}"
        );
        filled.comes_to_its_end();
    }
    assert_eq!(trouble(&cluster.log(), &[]), [""; 0]);
}

/// Whether a role has a right on everything that is listed.
fn may(client: &mut Client, role: &str) -> Vec<bool> {
    all(
        client,
        &format!(
            "SELECT unnest(ARRAY[has_function_privilege('{role}', 'mail.health()', 'EXECUTE'),
                                 has_function_privilege('{role}', 'mail.claim(text, integer, interval, interval)', 'EXECUTE'),
                                 has_table_privilege('{role}', 'mail.relay_stats', 'SELECT'),
                                 has_column_privilege('{role}', 'mail.queue', 'name', 'SELECT'),
                                 has_schema_privilege('{role}', 'mail', 'USAGE')])"
        ),
        &[],
    )
}

#[test]
fn rights_that_somebody_was_given_stay() {
    let cluster = server();
    for version in released(&mut cluster.connect("postgres")) {
        let mut filled = Filled::new(&cluster, &version);
        let client = &mut filled.client;
        run_sql(
            client,
            "GRANT USAGE ON SCHEMA mail TO somebody; GRANT EXECUTE ON FUNCTION mail.health(), mail.claim TO somebody;
             GRANT SELECT ON mail.relay_stats TO somebody; GRANT SELECT (name) ON mail.queue TO somebody",
        );
        update(&cluster, &filled.database);
        assert_eq!(may(client, "somebody"), [true; 5]);
        assert_eq!(may(client, "anybody"), [false; 5]);
    }
}

#[test]
fn a_dump_of_an_old_installation_and_of_an_updated_one_can_be_restored() {
    let cluster = server();
    for version in released(&mut cluster.connect("postgres")) {
        let mut filled = Filled::new(&cluster, &version);
        let before = copy(&cluster, &filled.database, "from_old");
        update(&cluster, &filled.database);
        let after = copy(&cluster, &filled.database, "from_updated");
        let rows = "SELECT array_agg(id ORDER BY id) FROM mail.messages";
        let ids: Vec<i64> = one(&mut filled.client, rows, &[]);
        for mut copy in [before, after] {
            assert_eq!(one::<Vec<i64>>(&mut copy, rows, &[]), ids);
            let version = "SELECT extversion FROM pg_extension WHERE extname = 'pgmq_mail'";
            assert_eq!(
                one::<String>(&mut copy, version, &[]),
                one::<String>(&mut filled.client, version, &[])
            );
            let armed = "SELECT bool_or(armed) FROM mail.relay_stats";
            assert!(!one::<bool>(&mut copy, armed, &[]));
        }
        for copy in ["from_old", "from_updated"] {
            run_sql(
                &mut cluster.connect("postgres"),
                &format!("DROP DATABASE {copy}"),
            );
        }
    }
}

/// Dumps a database and restores it as another one.
fn copy(cluster: &Cluster, original: &str, name: &str) -> Client {
    let folder = Folder::new("dump");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let file = folder.path().join("dump");
    let patience = Duration::from_mins(1);
    let mut dump = cluster.program("pg_dump");
    run(
        dump.args(["-Fc", "-d", original, "-f"]).arg(&file),
        patience,
    );
    cluster.create_database(name);
    let mut restore = cluster.program("pg_restore");
    run(
        restore.args(["--exit-on-error", "-d", name]).arg(&file),
        patience,
    );
    cluster.connect(name)
}
