//! How a test cluster is set up.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What a [`Cluster`](crate::Cluster) is started with.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub(crate) preload: bool,
    pub(crate) fsync: bool,
    pub(crate) pg_config: Option<PathBuf>,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) disk: Option<u32>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            preload: true,
            fsync: false,
            pg_config: None,
            settings: Vec::new(),
            environment: Vec::new(),
            disk: None,
        }
    }
}

impl ClusterOptions {
    /// The extension preloaded, `fsync` off, nothing else unusual.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `shared_preload_libraries` names the extension (default: yes).
    #[must_use]
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// Whether the server waits for the disk (default: no, which is several times as fast).
    #[must_use]
    pub fn fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// Which server it is (default: the one under test).
    #[must_use]
    pub fn pg_config(mut self, program: &Path) -> Self {
        self.pg_config = Some(program.to_owned());
        self
    }

    /// A line of `postgresql.conf`; it wins over the defaults and over earlier ones.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable of the server's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The data directory on a file system of its own, of so many megabytes (in memory; only root may).
    #[must_use]
    pub fn disk(mut self, megabytes: u32) -> Self {
        self.disk = Some(megabytes);
        self
    }

    /// The lines that go to the end of `postgresql.conf`.
    pub(crate) fn configuration(&self, sockets: &str, port: u16) -> String {
        let mut lines = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", sockets.to_owned()),
            ("fsync", if self.fsync { "on" } else { "off" }.to_owned()),
            (
                "full_page_writes",
                if self.fsync { "on" } else { "off" }.to_owned(),
            ),
            ("shared_buffers", "64MB".to_owned()),
            ("max_connections", "100".to_owned()),
            // Many databases, each with a delivery worker of its own.
            ("max_worker_processes", "64".to_owned()),
            ("max_prepared_transactions", "10".to_owned()),
            ("wal_level", "logical".to_owned()),
            ("autovacuum_naptime", "5s".to_owned()),
            ("log_line_prefix", "%m [%p] %d ".to_owned()),
            ("log_min_messages", "info".to_owned()),
            ("lc_messages", "C".to_owned()),
        ];
        if self.preload {
            lines.push(("shared_preload_libraries", "pgmq_mail".to_owned()));
        }
        let own = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        let mut text = String::new();
        for (name, value) in lines.into_iter().chain(own) {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("a string grows");
        }
        text
    }
}
