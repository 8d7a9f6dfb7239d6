//! The session alone against Postfix's tools, and what is left of the rate on a long line.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Cluster, Guard, available, free_port, is_root, run, until};

use crate::{MINUTES, deliver_to_url, rate};

/// A child that ends with this, and with this process.
struct Server {
    child: Child,
    guard: Option<Guard>,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let child = command.spawn().expect("it starts");
        let guard = Guard::new(r#"kill "$1""#, &[&child.id().to_string()]);
        Self {
            child,
            guard: Some(guard),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _ = self.child.wait();
    }
}

/// The example of the crate `mail-smtp`, built beside this program.
fn throughput() -> PathBuf {
    let this = std::env::current_exe().expect("it runs");
    let profile = this.parent().expect("it is in a folder");
    let target = profile.parent().expect("that is in another");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--locked", "--package", "mail-smtp"])
        .args(["--example", "throughput", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    run(&mut build, MINUTES);
    profile.join("examples/throughput")
}

/// How many mails a second a program sends, the whole of it.
fn rate_of(command: &mut Command, mails: usize) -> u64 {
    let begin = Instant::now();
    let output = run(command, MINUTES);
    let rate = rate(mails, begin.elapsed());
    let said = String::from_utf8_lossy(&output.stdout);
    // Ours says how many were delivered; smtp-source fails when one is not.
    let all = said.is_empty() || said.starts_with(&format!("{mails} messages"));
    assert!(all, "{said}");
    rate
}

/// The session, `smtp-source` and `smtp-source -d` by turns against one `smtp-sink`.
pub fn session(_cluster: &Cluster) {
    const MAILS: usize = 20_000;
    let postfix = |name: &str| format!("/usr/sbin/{name}");
    let there = ["smtp-sink", "smtp-source"].map(postfix);
    if !available(
        "smtp-source",
        there.iter().all(|p| PathBuf::from(p).exists()),
    ) {
        return;
    }
    let example = throughput();
    let address = format!("127.0.0.1:{}", free_port());
    let mut sink = Command::new(&there[0]);
    if is_root() {
        sink.args(["-u", "nobody"]);
    }
    let _sink = Server::start(sink.args([&address, "512"]));
    until("the sink listens", Duration::from_secs(10), || {
        TcpStream::connect(&address).is_ok()
    });
    for connections in ["8", "32"] {
        let mails = MAILS.to_string();
        let source = |more: &[&str]| {
            let mut command = Command::new(&there[1]);
            command
                .args(more)
                .args(["-s", connections, "-m", &mails, "-l", "2048"])
                .args(["-f", "sender@example.com", "-t", "recipient@example.com"])
                .arg(&address);
            command
        };
        let ours = || {
            let mut command = Command::new(&example);
            command
                .args(["--to", &address, "--connections", connections])
                .args(["--messages", &mails, "--size", "2048"]);
            command
        };
        let mut rates = [const { Vec::new() }; 3];
        for _round in 0..3 {
            let programs = [ours(), source(&[]), source(&["-d"])];
            for (mut program, rates) in programs.into_iter().zip(&mut rates) {
                rates.push(rate_of(&mut program, MAILS));
            }
        }
        let [ours, source, reusing] = rates.map(|mut rates| {
            rates.sort_unstable();
            rates[1]
        });
        println!(
            "session: {connections} connections to one smtp-sink, {MAILS} mails of 2 KB, the middle of three: \
             session {ours}/s, smtp-source {source}/s, smtp-source -d {reusing}/s: {} %",
            100 * ours / reusing.max(source).max(1)
        );
    }
}

/// Every reply comes late: the session alone, and the whole product.
pub fn late(cluster: &Cluster) {
    const MAILS: usize = 20_000;
    const LATE: &str = "20";
    let example = throughput();
    let alone = || {
        let mut command = Command::new(&example);
        command.args(["--late", LATE, "--connections", "32"]);
        command.args(["--messages", &MAILS.to_string()]);
        rate_of(&mut command, MAILS)
    };
    let mut command = Command::new(&example);
    command.args(["--listen", "yes", "--late", LATE]);
    let mut sink = Server::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut address = String::new();
    BufReader::new(sink.child.stdout.take().expect("it is a pipe"))
        .read_line(&mut address)
        .expect("it says where it is");
    let product = || through_the_product(cluster, address.trim(), MAILS);
    let programs: [(&str, &dyn Fn() -> u64); 2] =
        [("session alone", &alone), ("whole product", &product)];
    for (name, measure) in programs {
        let mut rates = [measure(), measure(), measure()];
        rates.sort_unstable();
        println!(
            "late: every reply {LATE} ms late, 32 connections, {MAILS} mails of 2 KB: {name} {}/s \
             (the middle of three; {} to {})",
            rates[1], rates[0], rates[2]
        );
    }
}

/// From the moment that a backlog may go until all is recorded as sent.
fn through_the_product(cluster: &Cluster, address: &str, mails: usize) -> u64 {
    let (_database, mut client) = deliver_to_url(cluster, &format!("smtp://{address}"));
    client
        .batch_execute("UPDATE mail.relay SET max_connections = 32; SELECT mail.pause('default')")
        .expect("a relay");
    client
        .execute(
            "SELECT count(mail.enqueue('a@' || i % 50 || '.example.test', 'Mail ' || i, repeat('0123456789abcde ', 128)))
             FROM generate_series(1, $1::bigint) i",
            &[&(mails as i64)],
        )
        .expect("accepted");
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
    let begin = Instant::now();
    client
        .execute("SELECT mail.resume('default')", &[])
        .expect("resumed");
    until("all are recorded as sent", MINUTES, || {
        let row = client
            .query_one("SELECT count(*) FROM mail.events WHERE kind = 'sent'", &[])
            .expect("a view");
        row.get::<_, i64>(0) == mails as i64
    });
    rate(mails, begin.elapsed())
}
