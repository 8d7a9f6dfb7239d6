//! Commands with a deadline, and who they run as.

use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

use crate::wait::until;

/// Whether the tests run as root.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The user that servers run as which refuse to run as root: `postgres`, else `nobody`. An ordinary
/// user runs them as himself.
pub(crate) fn server_user() -> Option<User> {
    is_root().then(|| {
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .expect("there is a user `nobody`")
    })
}

/// A command that runs as [`server_user`].
pub(crate) fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        command.env("HOME", "/nonexistent");
    }
    command.current_dir("/");
    command
}

/// A command that runs as root: as it is, or by a `sudo` that asks nothing.
pub(crate) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

/// What a shell script puts before a command that only root may run.
pub(crate) fn how_to_be_root() -> &'static str {
    if is_root() { "" } else { "sudo -n" }
}

/// Whom delivered mail belongs to: the user of the tests, or an unprivileged one if that is root.
pub(crate) fn unprivileged() -> (u32, u32) {
    server_user().map_or_else(
        || {
            (
                Uid::effective().as_raw(),
                nix::unistd::Gid::effective().as_raw(),
            )
        },
        |user| (user.uid.as_raw(), user.gid.as_raw()),
    )
}

/// Whether [`as_root`] works here.
pub(crate) fn can_be_root() -> bool {
    as_root("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end and returns what it said; panics when it fails, with all that it said,
/// or when it takes longer than `timeout`.
#[track_caller]
pub fn run(command: &mut Command, timeout: Duration) -> Output {
    let output = try_run(command, timeout);
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// [`run`] for a command that may fail.
#[track_caller]
pub(crate) fn try_run(command: &mut Command, timeout: Duration) -> Output {
    let begin = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let group = Pid::from_raw(child.id() as i32);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        let timed_out =
            is_done.recv_timeout(timeout) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if timed_out {
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
        }
        timed_out
    });
    let output = child.wait_with_output().expect("its output can be read");
    drop(done);
    let timed_out = killer.join().expect("the killer does not panic");
    assert!(
        !timed_out,
        "{command:?} was killed after {:.1?}",
        begin.elapsed()
    );
    output
}

/// A TCP port on the loopback interface that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = listen_somewhere();
    listener.local_addr().expect("it is bound").port()
}

/// Listens on a port of the loopback interface. Not one of those that connections get for their own end (ip(7),
/// `ip_local_port_range`), and another one each time: once it is let go of it stays free until it is listened on again.
pub(crate) fn listen_somewhere() -> TcpListener {
    const PORTS: Range<u32> = 10_000..32_000;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes begin at places of their own.
        let place = std::process::id().wrapping_mul(251);
        let place = place.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + place % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("it is in the range");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}

/// The children of a process that are alive.
pub(crate) fn children(parent: u32) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|process| {
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
                return false;
            };
            // The name in parentheses may hold anything; state and parent stand after it.
            let fields = stat.rsplit(") ").next().unwrap_or_default();
            let mut fields = fields.split(' ');
            let state = fields.next();
            state != Some("Z") && fields.next() == Some(parent.to_string().as_str())
        })
        .map(Pid::from_raw)
        .collect()
}

/// Ends a process and all that descend from it at once, as a power cut does.
#[track_caller]
pub(crate) fn cut_off(process: u32, timeout: Duration) {
    let mut family = vec![Pid::from_raw(process as i32)];
    let mut at = 0;
    while at < family.len() {
        // It must not start another process while we look which there are.
        if kill(family[at], Signal::SIGSTOP).is_ok() {
            until("the process stands still", timeout, || {
                !is_alive(family[at]) || is_stopped(family[at])
            });
        }
        let next = children(family[at].as_raw() as u32);
        family.extend(next);
        at += 1;
    }
    for process in &family {
        let _ = kill(*process, Signal::SIGKILL);
    }
    until("the processes end", timeout, || {
        !family.iter().any(|process| is_alive(*process))
    });
}

/// Whether a process was stopped by SIGSTOP.
pub(crate) fn is_stopped(process: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") T "))
}

/// Whether a process exists.
pub(crate) fn is_alive(process: Pid) -> bool {
    kill(process, None).is_ok()
        && std::fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether any process is attached to a System V shared memory segment.
pub(crate) fn is_attached(segment: &str) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    segments.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&segment) && fields.get(6) != Some(&"0")
    })
}

/// Whether a test that needs `server` can run. Where everything must be there (`PGMQ_MAIL_REQUIRE`,
/// or `CI`), a missing server is a failure.
#[track_caller]
pub fn available(server: &str, is_available: bool) -> bool {
    let required = ["PGMQ_MAIL_REQUIRE", "CI"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    assert!(
        is_available || !required,
        "{server} is missing: scripts/install-deps installs it"
    );
    if !is_available {
        eprintln!("skipped: no {server} here, or no rights to start it");
    }
    is_available
}
