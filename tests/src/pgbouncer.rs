//! A `PgBouncer` in transaction mode before a [`Cluster`].

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::{Config, NoTls};

use crate::cluster::Cluster;
use crate::guard::{Folder, Guard};
use crate::process::{as_server_user, free_port};
use crate::wait::until;

/// Unpacked, not installed: the package starts a service.
const PROGRAM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/pgbouncer/usr/sbin/pgbouncer"
);

/// Runs until it is dropped.
pub struct PgBouncer {
    _folder: Folder,
    port: u16,
    child: Option<Child>,
    _guard: Guard,
}

impl PgBouncer {
    /// Whether it is installed.
    pub fn is_available() -> bool {
        std::path::Path::new(PROGRAM).exists()
    }

    /// Starts one that passes everything on to the cluster, as whoever one connects as.
    pub fn start(cluster: &Cluster) -> Self {
        let folder = Folder::new("bouncer");
        let port = free_port();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n\
             default_pool_size = 10\nmax_client_conn = 200\nserver_login_retry = 1\nserver_check_delay = 0\n\
             ignore_startup_parameters = extra_float_digits,options\n",
            cluster.port(),
            folder = folder.text(),
        );
        folder.write("users", "\"postgres\" \"\"\n");
        let file = folder.write("pgbouncer.ini", config);
        let child = as_server_user(PROGRAM)
            .arg("-q")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts");
        let script = format!("kill -KILL $3; {}", Folder::removal());
        let guard = Guard::new(&script, &[folder.text(), "", &child.id().to_string()]);
        let bouncer = Self {
            _folder: folder,
            port,
            child: Some(child),
            _guard: guard,
        };
        until("pgbouncer answers", Cluster::PATIENCE, || {
            bouncer.config("postgres").connect(NoTls).is_ok()
        });
        bouncer
    }

    /// How to connect through it.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .connect_timeout(std::time::Duration::from_secs(10))
            .application_name("test");
        config
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = Pid::from_raw(child.id() as i32);
        let _ = kill(pid, Signal::SIGKILL);
        let _ = child.wait();
    }
}
