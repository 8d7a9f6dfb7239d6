//! `pg_upgrade` from PostgreSQL 15 to 16, by the steps that the documentation gives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgmq_mail_tests::{Cluster, Stop, available, one, pg_config, run, run_sql};
use postgres::Client;

use crate::everything::{Everything, each_once, waiting};
use crate::{ails, health, options, worker_has_looked};

/// The server of the next major, staged beside the one under test.
fn next_major() -> PathBuf {
    let here = pg_config();
    let stage = here.ancestors().nth(3).expect("stage/15/bin/pg_config");
    stage.join("16/bin/pg_config")
}

/// Whether it is there, and has the extension.
fn is_staged(program: &Path) -> bool {
    let sharedir = Command::new(program).arg("--sharedir").output();
    sharedir.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&folder)
            .join("extension/pgmq_mail.control")
            .exists()
    })
}

#[test]
fn after_pg_upgrade_nothing_is_sent_until_it_is_armed_and_then_everything_once() {
    if !available("a staged PostgreSQL 16", is_staged(&next_major())) {
        return;
    }
    let mut old = Cluster::with(&options());
    let (data, programs) = (old.data().to_owned(), old.programs().to_owned());
    let Everything {
        mut client,
        database,
        sink,
        certificates: _files,
        ..
    } = Everything::on(&old);
    let before: Vec<String> = rows(&mut client);
    // There are builds of 15 that give every column of every table an option which no other server knows, so that
    // pg_upgrade fails with it for any table whatever. Not one of the documented steps: it only makes such a build usable here.
    run_sql(
        &mut client,
        "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '{pg_attver=%}'",
    );
    // Mail in flight, and sessions: pg_upgrade wants the server to be stopped.
    let name = database.name().to_owned();
    drop(client);
    std::mem::forget(database); // it goes with its server
    old.stop(Stop::Fast);

    // Installed, settings in the new cluster's configuration.
    let mut new = Cluster::create(&options().pg_config(&next_major()));
    run(
        new.program("pg_upgrade")
            .current_dir(new.folder())
            .arg("--old-datadir")
            .arg(&data)
            .arg("--old-bindir")
            .arg(&programs)
            .arg("--new-datadir")
            .arg(new.data())
            .arg("--new-bindir")
            .arg(new.programs())
            .args(["--username=postgres", "--socketdir"])
            .arg(new.folder()),
        Duration::from_mins(3),
    );
    new.resume();
    let mut client = new.connect(&name);
    assert!(one::<String>(&mut client, "SHOW server_version", &[]).starts_with("16"));
    assert_eq!(rows(&mut client), before);
    let connections = sink.connections();
    sink.forget();
    for relay in ["main", "slow", "filed"] {
        ails(&mut client, "armed", relay);
    }
    run_sql(
        &mut client,
        "SELECT mail.resume(name) FROM mail.queue; UPDATE mail.pending SET due_at = clock_timestamp() WHERE due_at > clock_timestamp()",
    );
    worker_has_looked(&mut client);
    assert_eq!(
        sink.connections(),
        connections,
        "nothing is sent before mail.arm()"
    );

    sink.clear_script();
    assert_eq!(one::<i64>(&mut client, "SELECT mail.arm()", &[]), 4);
    each_once(&mut client, &sink, waiting());
    let findings = health(&mut client);
    let about: Vec<&str> = findings
        .iter()
        .filter_map(|f| f.split(':').next())
        .collect();
    assert!(
        !about.contains(&"secret") && !about.contains(&"dkim"),
        "{findings:?}"
    );
}

/// What must have come along, secrets included.
fn rows(client: &mut Client) -> Vec<String> {
    [
        "queue",
        "relay",
        "relay_secret",
        "domain_limit",
        "reply_rule",
        "template",
        "template_version",
        "dkim_key",
        "dkim_secret",
        "message",
        "attachment",
        "message_attachment",
        "dead_letter",
        "idempotency",
        "supersede",
        "capture",
    ]
    .iter()
    .flat_map(|table| {
        let rows = format!("SELECT '{table} ' || t::text FROM mail.{table} t ORDER BY 1");
        pgmq_mail_tests::all::<String>(client, &rows, &[])
    })
    .collect()
}
