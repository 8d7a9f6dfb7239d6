//! Streaming replication between two servers.

use crate::ask::run_sql;
use crate::cluster::Cluster;
use crate::options::ClusterOptions;
use crate::process::{as_server_user, run};

impl Cluster {
    /// A copy of this running server (`pg_basebackup`), made to follow it and not started yet.
    #[must_use]
    pub fn standby(&self, options: &ClusterOptions) -> Self {
        let mut copy = Self::clone_of(self, options);
        copy.follow(self);
        copy
    }

    /// Makes this stopped server a standby of another one from its next start on. Its data must not have anything that
    /// the other's lacks.
    pub fn follow(&mut self, primary: &Self) {
        run(
            as_server_user("touch").arg(self.data().join("standby.signal")),
            Self::PATIENCE,
        );
        self.set("primary_conninfo", &primary.url("postgres"));
    }

    /// Makes this server, which was a primary and has stopped, a standby of the one that has taken its place
    /// (`pg_rewind`): what only it had is gone then.
    pub fn rewind(&mut self, primary: &Self) {
        // Before 16, pg_rewind takes the timeline from the last checkpoint.
        run_sql(&mut primary.connect("postgres"), "CHECKPOINT");
        run(
            self.program("pg_rewind")
                .arg("--target-pgdata")
                .arg(self.data())
                .arg("--source-server")
                .arg(primary.url("postgres"))
                .arg("--no-sync"),
            Self::PATIENCE,
        );
        self.follow(primary);
    }

    /// Makes this running standby a primary.
    pub fn promote(&self) {
        run(
            self.program("pg_ctl")
                .args(["promote", "--wait", "-D"])
                .arg(self.data()),
            Self::PATIENCE,
        );
    }
}
