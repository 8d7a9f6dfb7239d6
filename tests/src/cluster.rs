//! A throwaway PostgreSQL server.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::{Client, Config, NoTls};

use crate::guard::{Folder, Guard};
use crate::options::ClusterOptions;
use crate::process::{
    as_root, as_server_user, children, free_port, how_to_be_root, is_alive, is_attached,
    is_stopped, run, server_user,
};
use crate::wait::{eventually, until};

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As `pg_ctl stop -m smart`: waits for the sessions to end by themselves.
    Smart,
    /// As `pg_ctl stop -m fast`: ends the sessions and shuts down cleanly.
    Fast,
    /// As `pg_ctl stop -m immediate`: recovery at the next start.
    Immediate,
    /// As a power cut: every process is killed at once.
    Crash,
    /// The postmaster alone is killed; the others see it and end.
    Orphan,
}

/// A server with a data directory of its own, trusting everybody on its socket and on a loopback
/// port. It is stopped and removed when it is dropped, and when the test process dies.
pub struct Cluster {
    bin: PathBuf,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    postmaster: Option<Child>,
    options: ClusterOptions,
    _guard: Guard,
    folder: Folder,
}

/// Ends what is left of the server in the folder `$1`. A process that merely got the number of one
/// that died is left alone.
const CLEANUP: &str = r#"
pid=$(head -n 1 "$1/data/postmaster.pid")
ours() { [ -n "$pid" ] && tr '\0' ' ' < "/proc/$pid/cmdline" | grep -qF "$1/data"; }
if ours "$1"; then
    kill -QUIT "$pid"
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        ours "$1" || break
        sleep 0.1
    done
    if ours "$1"; then kill -KILL "$pid"; fi
fi
"#;

impl Cluster {
    /// Long enough for anything that a healthy server does; tests on a busy machine are slow.
    pub const PATIENCE: Duration = Duration::from_mins(1);

    /// Creates and starts one with the default options.
    pub fn start() -> Self {
        Self::with(&ClusterOptions::new())
    }

    /// Creates and starts one.
    pub fn with(options: &ClusterOptions) -> Self {
        let mut cluster = Self::create(options);
        cluster.resume();
        cluster
    }

    /// Creates one without starting it.
    pub fn create(options: &ClusterOptions) -> Self {
        let cluster = Self::without_data(options);
        run(
            as_server_user(cluster.bin.join("initdb"))
                .arg("-D")
                .arg(&cluster.data)
                .args([
                    "--username=postgres",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--no-locale",
                    "--no-sync",
                    "--no-instructions",
                ]),
            Self::PATIENCE,
        );
        cluster.configure();
        cluster
    }

    /// One whose data directory is yet to be made.
    fn without_data(options: &ClusterOptions) -> Self {
        let folder = Folder::new("db");
        if let Some(megabytes) = options.disk {
            let mut mount = as_root("mount");
            mount
                .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
                .arg(folder.path());
            run(&mut mount, Self::PATIENCE);
        }
        if let Some(user) = server_user() {
            std::os::unix::fs::chown(
                folder.path(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .expect("root may");
        }
        let unmount = match options.disk {
            Some(_) => r#"$2 umount -l "$1";"#,
            None => "",
        };
        Self {
            bin: server_programs(options.pg_config.as_deref()),
            data: folder.path().join("data"),
            log: folder.path().join("log"),
            port: free_port(),
            postmaster: None,
            options: options.clone(),
            _guard: Guard::new(
                &format!("{CLEANUP} {unmount} {}", Folder::removal()),
                &[folder.text(), how_to_be_root()],
            ),
            folder,
        }
    }

    /// Copies the data of a running server, as `pg_basebackup` does, without starting the copy: what the options say is all
    /// that it has of its own.
    pub fn clone_of(original: &Self, options: &ClusterOptions) -> Self {
        let clone = Self::without_data(options);
        run(
            original
                .program("pg_basebackup")
                .arg("-D")
                .arg(clone.data())
                .args(["--checkpoint=fast", "--no-sync"]),
            Self::PATIENCE,
        );
        clone.configure();
        clone
    }

    /// Writes what the options say over whatever stands in `postgresql.auto.conf`.
    pub(crate) fn configure(&self) {
        let lines = self.options.configuration(self.folder.text(), self.port);
        let file = self.data.join("postgresql.auto.conf");
        fs::write(&file, lines).expect("the data directory is writable");
    }

    /// Adds a line to the configuration, in effect after [`reload`](Self::reload) or a restart.
    pub fn set(&mut self, name: &str, value: &str) {
        self.options = self.options.clone().setting(name, value);
        self.configure();
    }

    /// Makes the running server read its configuration again.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Starts the server after a stop. It accepts connections when this returns.
    pub fn resume(&mut self) {
        assert!(self.postmaster.is_none(), "the server runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("writable");
        let postmaster = as_server_user(self.bin.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .env("TZ", "UTC")
            .envs(self.options.environment.iter().cloned())
            .spawn()
            .expect("postgres starts");
        self.postmaster = Some(postmaster);
        eventually("the server accepts connections", Self::PATIENCE, || {
            let postmaster = self.postmaster.as_mut().expect("it was started");
            if let Ok(Some(status)) = postmaster.try_wait() {
                panic!("postgres ended with {status}:\n{}", tail(&self.log, 40));
            }
            self.try_connect("postgres").ok()
        });
    }

    /// Starts it again if it has ended by itself, as it does when recovery is not possible.
    pub fn revive(&mut self) {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if self.postmaster.as_mut().is_none_or(ended) {
            self.postmaster = None;
            self.resume();
        }
    }

    /// Stops the server, and panics when that takes longer than [`PATIENCE`](Self::PATIENCE).
    pub fn stop(&mut self, how: Stop) {
        self.stop_within(how, Self::PATIENCE);
    }

    /// [`stop`](Self::stop) with a deadline of the test's own. Returns how long it took.
    pub fn stop_within(&mut self, how: Stop, timeout: Duration) -> Duration {
        let begin = Instant::now();
        let memory = self.shared_memory();
        let postmaster = self.postmaster.as_mut().expect("the server runs");
        let process = postmaster.id();
        if how == Stop::Crash {
            // It must not start another process while we look which there are.
            kill(Pid::from_raw(process as i32), Signal::SIGSTOP).expect("it is our child");
            until("the postmaster stands still", timeout, || {
                is_stopped(Pid::from_raw(process as i32))
            });
        }
        let family = children(process);
        let signal = match how {
            Stop::Smart => Signal::SIGTERM,
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
            Stop::Crash | Stop::Orphan => Signal::SIGKILL,
        };
        kill(Pid::from_raw(process as i32), signal).expect("it is our child");
        if how == Stop::Crash {
            for child in &family {
                let _ = kill(*child, Signal::SIGKILL);
            }
        }
        until(&format!("the server stops ({how:?})"), timeout, || {
            postmaster.try_wait().expect("it is our child").is_some()
        });
        self.postmaster = None;
        until("the server's processes end", timeout, || {
            !family.iter().any(|pid| is_alive(*pid))
        });
        // The next start must not find the shared memory attached, as it is until a process's last thread has ended.
        until("the shared memory is let go", timeout, || {
            memory.as_deref().is_none_or(|id| !is_attached(id))
        });
        begin.elapsed()
    }

    /// The System V shared memory that a start looks at, by its id: the last word of line 7 of `postmaster.pid`.
    fn shared_memory(&self) -> Option<String> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Some(file.lines().nth(6)?.split_whitespace().last()?.to_owned())
    }

    /// Stops the server and starts it again.
    pub fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.resume();
    }

    /// Sends a signal to the postmaster.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.postmaster() as i32), signal).expect("it is our child");
    }

    /// A connection as the superuser `postgres`.
    #[track_caller]
    pub fn connect(&self, database: &str) -> Client {
        self.try_connect(database)
            .unwrap_or_else(|error| panic!("cannot connect: {error:?}"))
    }

    /// A connection as the superuser, or why there is none.
    pub fn try_connect(&self, database: &str) -> Result<Client, postgres::Error> {
        self.config(database, "postgres").connect(NoTls)
    }

    /// A connection as another role.
    #[track_caller]
    pub fn connect_as(&self, database: &str, user: &str) -> Client {
        self.config(database, user)
            .connect(NoTls)
            .unwrap_or_else(|error| panic!("cannot connect as {user}: {error:?}"))
    }

    /// How to connect. A statement of a test ends after a minute at the latest.
    pub fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.folder.path())
            .port(self.port)
            .user(user)
            .dbname(database)
            .connect_timeout(Duration::from_secs(10))
            .application_name("test")
            .options("-c statement_timeout=60s");
        config
    }

    /// A connection string for programs such as `psql` and `pgbench`.
    pub fn url(&self, database: &str) -> String {
        format!(
            "host={} port={} user=postgres dbname={database}",
            self.folder.text(),
            self.port
        )
    }

    /// A program of this server's version, with the environment to reach it.
    pub fn program(&self, name: &str) -> Command {
        let mut command = as_server_user(self.bin.join(name));
        command
            .env("PGHOST", self.folder.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }

    /// Creates an empty database.
    pub fn create_database(&self, name: &str) {
        self.connect("postgres")
            .batch_execute(&format!("CREATE DATABASE \"{name}\""))
            .expect("a fresh database can be created");
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the running postmaster.
    pub fn postmaster(&self) -> u32 {
        self.postmaster.as_ref().expect("the server runs").id()
    }

    /// The directory of its programs.
    pub fn programs(&self) -> &Path {
        &self.bin
    }

    /// The directory of its sockets, which its user can write to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What the server has logged since it was created.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 60)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's log ends with:\n{}", self.log_tail());
        }
        if let Some(mut postmaster) = self.postmaster.take() {
            let process = Pid::from_raw(postmaster.id() as i32);
            let _ = kill(process, Signal::SIGQUIT);
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(postmaster.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = kill(process, Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The `pg_config` of the server under test.
pub fn pg_config() -> PathBuf {
    let staged = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/postgres/15/bin/pg_config"
    );
    std::env::var_os("PG_CONFIG").map_or_else(|| staged.into(), PathBuf::from)
}

/// The folder of the programs of a server, by default the one under test.
pub(crate) fn server_programs(program: Option<&Path>) -> PathBuf {
    let program = program.map_or_else(pg_config, Path::to_owned);
    assert!(
        program.exists(),
        "no server at {}: run `make stage`, or set PG_CONFIG",
        program.display()
    );
    let output = run(
        Command::new(&program).arg("--bindir"),
        Duration::from_secs(10),
    );
    PathBuf::from(
        String::from_utf8(output.stdout)
            .expect("a path in UTF-8")
            .trim(),
    )
}

fn tail(file: &Path, lines: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
