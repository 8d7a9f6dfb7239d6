//! Updates: from each version that is out to this one, the catalog and the behaviour are those of a fresh installation,
//! under load, too; and a new library serves an old one until then.

mod catalog;
mod filled;
mod load;
mod served;
mod symbols;
mod updated;

use pgmq_mail_tests::{Cluster, ClusterOptions, all, shared};
use postgres::Client;

/// The versions that are out, the first one first.
fn released(client: &mut Client) -> Vec<String> {
    let versions = all(
        client,
        "SELECT version FROM pg_available_extension_versions
         WHERE name = 'pgmq_mail' AND version <> (SELECT default_version FROM pg_available_extensions WHERE name = 'pgmq_mail')
         ORDER BY string_to_array(version, '.')::int[]",
        &[],
    );
    assert!(!versions.is_empty(), "the staged server has them");
    versions
}

/// Each of them with a server of its own.
fn served() -> impl Iterator<Item = (Cluster, String)> {
    let versions = released(&mut shared().connect("postgres"));
    versions
        .into_iter()
        .map(|version| (Cluster::with(&ClusterOptions::new()), version))
}

/// What `mail.health()` finds, all of it.
fn findings(client: &mut Client) -> Vec<String> {
    all(
        client,
        "SELECT h.severity || ' ' || h.detail FROM mail.health() h",
        &[],
    )
}

/// Lines of a log that tell of trouble, but for those with one of the given words.
fn trouble(log: &str, expected: &[&str]) -> Vec<String> {
    log.lines()
        .filter(|line| {
            ["WARNING: ", "ERROR: ", "FATAL: ", "PANIC: "]
                .iter()
                .any(|severity| line.contains(severity))
        })
        // Of a client that came while the server was starting; autovacuum gives way to whoever wants its table.
        .filter(|line| !line.contains("the database system is starting up"))
        .filter(|line| !line.contains("canceling autovacuum task"))
        .filter(|line| !expected.iter().any(|word| line.contains(word)))
        .map(str::to_owned)
        .collect()
}
