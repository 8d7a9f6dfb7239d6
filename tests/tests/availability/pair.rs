//! A primary and a standby that its commits wait for.

use std::sync::atomic::{AtomicBool, Ordering};

use pgmq_mail_tests::{Cluster, ClusterOptions, SOON, Sink, one, run_sql, until, worker_of};
use postgres::{Client, NoTls};

use crate::orders::{drained, open_shop};
use crate::silence::assert_silent;

/// The two, and their relay.
pub struct Pair {
    pub primary: Cluster,
    pub standby: Cluster,
}

/// What both servers are set up with: `pg_rewind` needs to know of each changed page, and the log back to where the two
/// went apart.
pub fn options() -> ClusterOptions {
    ClusterOptions::new()
        .setting("full_page_writes", "on")
        .setting("wal_log_hints", "on")
        .setting("wal_keep_size", "512MB")
}

impl Pair {
    /// Both run, and the shop is open.
    pub fn start(sink: &Sink, on_uncertain: &str) -> Self {
        let primary = Cluster::with(&options());
        open_shop(&mut primary.connect("postgres"), sink, on_uncertain);
        let standby = primary.standby(&options());
        let mut pair = Self { primary, standby };
        pair.tie();
        pair
    }

    /// Starts the standby; the primary's commits wait for it from now on. That they do is seen by one that waits while
    /// the standby is not there yet.
    pub fn tie(&mut self) {
        self.primary.set("synchronous_standby_names", "*");
        self.primary.reload();
        let done = AtomicBool::new(false);
        let config = self.primary.config("postgres", "postgres");
        std::thread::scope(|scope| {
            let commits = scope.spawn(|| {
                let mut client = config.connect(NoTls).expect("the primary runs");
                run_sql(&mut client, "CREATE TABLE IF NOT EXISTS tick (n int)");
                while !done.load(Ordering::Relaxed) {
                    run_sql(&mut client, "INSERT INTO tick VALUES (1)");
                }
            });
            let mut observer = self.primary.connect("postgres");
            until("a commit waits for the standby", SOON, || {
                waits(&mut observer, "client backend")
            });
            done.store(true, Ordering::Relaxed);
            self.standby.resume();
            commits.join().expect("it does not panic");
        });
    }

    /// The standby takes over from a primary that has stopped. Commits wait for nobody then.
    pub fn switch(&mut self) {
        self.standby.promote();
        std::mem::swap(&mut self.primary, &mut self.standby);
    }

    /// The old primary comes back as the standby of the new one. `rewound`: it may have what the new one lacks.
    pub fn rejoin(&mut self, rewound: bool) {
        self.standby.set("synchronous_standby_names", "");
        if rewound {
            self.standby.rewind(&self.primary);
        } else {
            self.standby.follow(&self.primary);
        }
        self.tie();
        assert_silent(&mut self.standby.connect("postgres"));
    }

    /// Waits until the primary's worker, which starts by itself, has nothing left to send.
    pub fn drain(&self) -> Client {
        let mut client = self.primary.connect("postgres");
        worker_of(&mut client);
        drained(&mut client);
        client
    }
}

/// Whether a process of that type waits for a standby.
pub fn waits(observer: &mut Client, backend_type: &str) -> bool {
    one(
        observer,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = $1)",
        &[&backend_type],
    )
}
