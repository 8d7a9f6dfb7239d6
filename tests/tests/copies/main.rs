//! Copies of databases, of whatever kind: what they hold, and that they are silent until somebody says otherwise. And
//! secrets: where they must not be found, and where they are read from.

mod clones;
mod dumps;
mod everything;
mod files;
mod forms;
mod partial;
mod redirect;
mod secrets;
mod template;
mod token;
mod upgrade;

use std::sync::OnceLock;
use std::time::Duration;

use pgmq_mail_tests::{Cluster, ClusterOptions, Folder, Guard, all, one};
use postgres::Client;

/// Long enough for a loaded machine, short enough for a test that fails.
const SOON: Duration = Duration::from_mins(1);

/// The server that most tests share, and another one, with the same secret files.
fn server() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::with(&options()))
}

fn another_server() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::with(&options()))
}

fn options() -> ClusterOptions {
    ClusterOptions::new()
        .setting("pgmq_mail.sweep_interval", "1s")
        .setting("pgmq_mail.secrets_directory", secret_files().text())
}

/// Where `file:` secrets are. What is static is never dropped: the guard removes it.
fn secret_files() -> &'static Folder {
    static FOLDER: OnceLock<(Folder, Guard)> = OnceLock::new();
    let make = || {
        let folder = Folder::new("secrets");
        let guard = Guard::new(r#"rm -rf "$1""#, &[folder.text()]);
        (folder, guard)
    };
    &FOLDER.get_or_init(make).0
}

/// What `mail.health()` finds, as `check: detail`.
#[track_caller]
fn health(client: &mut Client) -> Vec<String> {
    all(
        client,
        "SELECT \"check\" || ': ' || detail FROM mail.health() ORDER BY 1",
        &[],
    )
}

/// Waits until `mail.health()` has a finding of that check with that text in it.
#[track_caller]
fn ails(client: &mut Client, check: &str, text: &str) {
    wait_for(
        client,
        &format!(
            "SELECT EXISTS (SELECT FROM mail.health() WHERE \"check\" = '{check}' AND position('{text}' IN detail) > 0)"
        ),
    );
}

/// Waits until a query says true.
#[track_caller]
fn wait_for(client: &mut Client, query: &str) {
    let begin = std::time::Instant::now();
    while !one::<bool>(client, query, &[]) {
        if begin.elapsed() > SOON {
            let findings = health(client);
            panic!("waited in vain for {query}\n{findings:#?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a message is in a state.
#[track_caller]
fn reaches(client: &mut Client, id: i64, state: &str) {
    let query = format!("SELECT state = '{state}' FROM mail.messages WHERE id = {id}");
    wait_for(client, &query);
}

/// Enqueues a mail with the text `hello`; `more` is added to the arguments.
#[track_caller]
fn put(client: &mut Client, recipient: &str, subject: &str, more: &str) -> i64 {
    let query = format!("SELECT mail.enqueue($1, $2, 'hello' {more})");
    one(client, &query, &[&recipient, &subject])
}

/// Returns when the worker has read the configuration and looked at all that waits: a mail to the queue `kept`, which
/// captures, comes behind all that.
#[track_caller]
fn worker_has_looked(client: &mut Client) {
    let id = put(client, "alice@example.test", "kept", ", queue => 'kept'");
    reaches(client, id, "sent");
}
