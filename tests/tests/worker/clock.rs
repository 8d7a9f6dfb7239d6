//! A clock that is set while mail waits.

use std::path::Path;

use pgmq_mail_tests::{
    Cluster, ClusterOptions, Folder, SOON, Sink, available, one, run_sql, until, worker_of,
};

/// Unpacked, not installed.
const LIBRARY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/faketime/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
);

/// What the server's clock shows.
struct Clock(Folder);

impl Clock {
    fn new() -> Self {
        let clock = Self(Folder::new("clock"));
        clock.set("+0s");
        clock
    }

    /// So far from ours.
    fn set(&self, offset: &str) {
        // By rename: a half-written file would be a time of its own.
        self.0.write("next", format!("{offset}\n"));
        std::fs::rename(self.0.path().join("next"), self.0.path().join("now")).expect("ours");
    }

    fn options(&self) -> ClusterOptions {
        let file = self.0.path().join("now");
        ClusterOptions::new()
            .environment("LD_PRELOAD", LIBRARY)
            .environment(
                "FAKETIME_TIMESTAMP_FILE",
                file.to_str().expect("a plain path"),
            )
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

#[test]
fn mail_goes_on_whatever_the_clock_is_set_to() {
    if !available("libfaketime", Path::new(LIBRARY).exists()) {
        return;
    }
    let clock = Clock::new();
    let sink = Sink::start();
    let cluster = Cluster::with(&clock.options());
    let mut client = cluster.connect("postgres");
    let version: i32 = one(
        &mut client,
        "SELECT current_setting('server_version_num')::int",
        &[],
    );
    if version < 160_000 {
        // These fork workers out of a signal handler, within select(): their clock can then not be set any more.
        eprintln!("skipped: libfaketime does not reach the workers of this server");
        return;
    }
    run_sql(
        &mut client,
        &format!(
            "CREATE EXTENSION pgmq_mail;
             INSERT INTO mail.relay (name, url) VALUES ('sink', '{}');
             INSERT INTO mail.queue (name, transport, default_sender) VALUES ('again', 'smtp', 'a@b.test')",
            sink.url()
        ),
    );
    worker_of(&mut client);
    let mut sent = 0;
    let mut enqueue = |client: &mut postgres::Client, more: &str| -> i64 {
        sent += 1;
        let name = format!("c-{sent}");
        let query =
            format!("SELECT mail.enqueue('a@example.test', '{name}', 'x', queue => 'again'{more})");
        one(client, &query, &[])
    };
    let state = |client: &mut postgres::Client, id: i64| -> String {
        one(
            client,
            "SELECT state FROM mail.messages WHERE id = $1",
            &[&id],
        )
    };
    let later = enqueue(&mut client, ", send_at => now() + interval '1 hour'");
    for offset in ["+2h", "-3h", "+0s", "-1d", "+30d", "+0s"] {
        clock.set(offset);
        let id = enqueue(&mut client, "");
        until(&format!("mail goes out at {offset}"), SOON, || {
            state(&mut client, id) == "sent"
        });
    }
    until(
        "what was scheduled went out when its time had come",
        SOON,
        || state(&mut client, later) == "sent",
    );
    let soon = enqueue(
        &mut client,
        ", send_at => now() + interval '700 milliseconds'",
    );
    until("timers go on", SOON, || state(&mut client, soon) == "sent");
    let leases: i64 = one(&mut client, "SELECT count(*) FROM mail.lease", &[]);
    assert_eq!(leases, 0);
}
