//! `pg_auto_failover`: a monitor and two data nodes, run by `pg_autoctl` as its users run them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::User;
use postgres::{Client, Config, NoTls};

use crate::cluster::server_programs;
use crate::guard::{Folder, Guard};
use crate::process::{as_server_user, cut_off, free_port, run, server_user};
use crate::wait::eventually;

/// Where Debian's package of the monitor's extension belongs to.
const MONITOR: &str = "/usr/lib/postgresql/15/bin";
const EXTENSION: &str = "/usr/share/postgresql/15/extension/pgautofailover.control";
const PROGRAM: &str = "/usr/bin/pg_autoctl";

/// A monitor that makes up its mind in seconds; its defaults are several times as long.
const HASTE: &str = "
shared_buffers = 32MB
pgautofailover.health_check_period = 1000
pgautofailover.health_check_timeout = 2000
pgautofailover.health_check_max_retries = 1
pgautofailover.health_check_retry_delay = 500
pgautofailover.node_considered_unhealthy_timeout = 5000
pgautofailover.primary_demote_timeout = 5000
pgautofailover.startup_grace_period = 5000
";

/// The servers. They are ended and removed when this is dropped, and when the test process dies.
pub struct AutoFailover {
    monitor: Node,
    nodes: Vec<Node>,
    _guard: Guard,
    folder: Folder,
}

/// A server with the `pg_autoctl` that runs it.
struct Node {
    name: &'static str,
    data: PathBuf,
    port: u16,
    service: Option<Child>,
}

/// Ends what runs in the folder `$1`: the services, with all of their process groups.
const CLEANUP: &str = r#"
ours() { tr '\0' ' ' < "/proc/$1/cmdline" | grep -qF "$2/"; }
for file in "$1"/*.pid; do
    pid=$(cat "$file")
    if ours "$pid" "$1"; then
        kill -QUIT "$pid"
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            ours "$pid" "$1" || break
            sleep 0.1
        done
        kill -KILL -- "-$pid"
    fi
done
"#;

impl AutoFailover {
    /// Long enough for a failover: those that decide wait for each other.
    pub const PATIENCE: Duration = Duration::from_mins(3);

    /// Whether the packages are there.
    pub fn is_available() -> bool {
        [PROGRAM, EXTENSION]
            .iter()
            .all(|file| Path::new(file).exists())
    }

    /// A monitor, a primary and a standby that its commits wait for, with these lines in their `postgresql.conf`.
    pub fn start(configuration: &str) -> Self {
        let folder = Folder::new("ha");
        if let Some(user) = server_user() {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("root may");
        }
        let node = |name| Node {
            name,
            data: folder.path().join(name),
            port: free_port(),
            service: None,
        };
        let mut this = Self {
            monitor: node("monitor"),
            nodes: vec![node("a"), node("b")],
            _guard: Guard::new(
                &format!("{CLEANUP} {}", Folder::removal()),
                &[folder.text(), ""],
            ),
            folder,
        };
        this.create_monitor();
        for place in 0..this.nodes.len() {
            this.create_node(place, if place == 0 { configuration } else { "" });
        }
        this.reaches(&["primary", "secondary"]);
        this
    }

    fn create_monitor(&mut self) {
        let mut create = self.tool("create", "monitor", &self.monitor, Path::new(MONITOR));
        run(&mut create, Self::PATIENCE);
        let mut listen = self.command();
        listen
            .args(["config", "set", "--pgdata"])
            .arg(&self.monitor.data)
            .args(["postgresql.listen_addresses", "127.0.0.1"]);
        run(&mut listen, Self::PATIENCE);
        append(&self.monitor.data.join("postgresql.conf"), HASTE);
        self.monitor.service = Some(self.service(&self.monitor));
        eventually("the monitor accepts connections", Self::PATIENCE, || {
            self.try_monitor()
        });
    }

    fn create_node(&mut self, place: usize, configuration: &str) {
        let node = &self.nodes[place];
        let mut create = self.tool("create", "postgres", node, &server_programs(None));
        create
            .args(["--name", node.name, "--listen", "127.0.0.1"])
            .args(["--username", "postgres", "--dbname", "postgres"])
            .arg("--monitor")
            .arg(self.monitor_url());
        run(&mut create, Self::PATIENCE);
        append(&node.data.join("postgresql.conf"), configuration);
        let service = self.service(node);
        self.nodes[place].service = Some(service);
        let first = place == 0;
        eventually("the node reports", Self::PATIENCE, || {
            let states = self.states();
            (!first || states == ["single"]).then_some(())
        });
    }

    /// How the nodes reach the monitor.
    fn monitor_url(&self) -> String {
        format!(
            "postgres://autoctl_node@127.0.0.1:{}/pg_auto_failover",
            self.monitor.port
        )
    }

    /// `pg_autoctl`, with all that it writes below the folder.
    fn command(&self) -> Command {
        let mut command = as_server_user(PROGRAM);
        command
            .env("HOME", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME");
        // Each node is told which server it runs.
        command.env_remove("PG_CONFIG");
        // Where the servers have their sockets.
        command.env("PG_REGRESS_SOCK_DIR", self.folder.path());
        command.env("PGHOST", self.folder.path());
        command
    }

    fn tool(&self, verb: &str, noun: &str, node: &Node, bin: &Path) -> Command {
        let mut command = self.command();
        command
            .args([verb, noun, "--hostname", "127.0.0.1"])
            .args(["--auth", "trust", "--no-ssl", "--pgport"])
            .arg(node.port.to_string())
            .arg("--pgdata")
            .arg(&node.data)
            .arg("--pgctl")
            .arg(bin.join("pg_ctl"));
        command
    }

    /// Runs the service of a node.
    fn service(&self, node: &Node) -> Child {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file(node))
            .expect("writable");
        let child = self
            .command()
            .arg("run")
            .arg("--pgdata")
            .arg(&node.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("pg_autoctl starts");
        self.folder
            .write(&format!("{}.pid", node.name), child.id().to_string());
        child
    }

    fn log_file(&self, node: &Node) -> PathBuf {
        self.folder.path().join(format!("{}.log", node.name))
    }

    /// Waits until the nodes report these states, in any order.
    #[track_caller]
    pub fn reaches(&self, wanted: &[&str]) {
        eventually(&format!("nodes are {wanted:?}"), Self::PATIENCE, || {
            (self.states() == wanted).then_some(())
        });
    }

    /// The states that the nodes are in and are to be in, sorted.
    fn states(&self) -> Vec<String> {
        let Some(mut client) = self.try_monitor() else {
            return Vec::new();
        };
        let rows = client.query(
            "SELECT reportedstate::text FROM pgautofailover.node WHERE reportedstate = goalstate ORDER BY 1",
            &[],
        );
        rows.map(|rows| rows.iter().map(|row| row.get(0)).collect())
            .unwrap_or_default()
    }

    fn try_monitor(&self) -> Option<Client> {
        config(&self.monitor, "pg_auto_failover")
            .connect(NoTls)
            .ok()
    }

    /// The node that is the primary, once the monitor has made one.
    #[track_caller]
    pub fn primary(&self) -> usize {
        let name: String = eventually("there is a primary", Self::PATIENCE, || {
            let row = self.try_monitor()?.query_opt(
                "SELECT nodename FROM pgautofailover.node WHERE reportedstate = goalstate
                 AND reportedstate IN ('single', 'wait_primary', 'primary')",
                &[],
            );
            Some(row.ok()??.get(0))
        });
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .expect("one of ours")
    }

    /// How to connect to a node, as its superuser.
    pub fn config(&self, node: usize) -> Config {
        config(&self.nodes[node], "postgres")
    }

    /// A connection to a node.
    #[track_caller]
    pub fn connect(&self, node: usize) -> Client {
        self.config(node)
            .connect(NoTls)
            .unwrap_or_else(|error| panic!("cannot connect: {error:?}"))
    }

    /// Kills a node, its service included, as a power cut does.
    pub fn crash(&mut self, node: usize) {
        let mut service = self.nodes[node].service.take().expect("it runs");
        cut_off(service.id(), Self::PATIENCE);
        let _ = service.wait();
    }

    /// Starts the service of a node again.
    pub fn resume(&mut self, node: usize) {
        self.nodes[node].service = Some(self.service(&self.nodes[node]));
    }
}

impl Drop for AutoFailover {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().chain([&mut self.monitor]) {
            if let Some(mut service) = node.service.take() {
                cut_off(service.id(), Self::PATIENCE);
                let _ = service.wait();
            }
        }
        if std::thread::panicking() {
            for node in self.nodes.iter().chain([&self.monitor]) {
                let log = fs::read_to_string(self.log_file(node)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("the log of {} ends with:\n{end}", node.name);
            }
        }
    }
}

fn append(file: &Path, lines: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .open(file)
        .expect("it was created");
    file.write_all(lines.as_bytes()).expect("writable");
}

fn config(node: &Node, database: &str) -> Config {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(node.port)
        .user(&superuser())
        .dbname(database)
        .connect_timeout(Duration::from_secs(10))
        .application_name("test")
        .options("-c statement_timeout=60s");
    config
}

/// Who runs the servers is their superuser.
fn superuser() -> String {
    let user =
        server_user().or_else(|| User::from_uid(nix::unistd::Uid::effective()).ok().flatten());
    user.expect("this process has a user").name
}
