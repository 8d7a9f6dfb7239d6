//! What the worker holds.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Action, Cluster, Sink, until, worker_of};

use crate::report::{Bound, Section, Series};
use crate::{deliver_to, rate};

/// The most memory of its own, in KiB, that any worker had so far.
pub struct Watched(Arc<AtomicU64>);

/// Watches every worker of this machine from now on.
pub fn watched() -> Watched {
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    thread::spawn(move || {
        loop {
            for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let name = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
                if name.starts_with("postgres: pgmq_mail worker") {
                    let status = fs::read_to_string(process.path().join("status"));
                    let kib = field(&status.unwrap_or_default(), "RssAnon:");
                    seen.fetch_max(kib, Ordering::SeqCst);
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    Watched(most)
}

impl Watched {
    pub fn section(&self) -> Section {
        let most = mebibytes(self.0.load(Ordering::SeqCst));
        let series = Series::new("the most that any worker had of its own", vec![most]);
        Section::new("Memory: in all that was measured", "MiB", vec![series]).goal(
            "of its own",
            most,
            Bound::AtMost(64.0),
        )
    }
}

/// A line of `/proc/…/status`, in KiB.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The most memory that a process has, in KiB, until something is done: its own, and with shared memory.
fn highest(process: i32, mut done: impl FnMut() -> bool) -> [u64; 2] {
    let mut highest = [0, 0];
    while !done() {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
        for (name, most) in ["RssAnon:", "VmRSS:"].iter().zip(&mut highest) {
            *most = field(&status, name).max(*most);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    highest
}

/// Mails with a file of 25 MB, one and ten at once.
pub fn files(cluster: &Cluster) {
    let sink = Sink::start();
    let (_database, mut client) = deliver_to(cluster, &sink);
    client
        .batch_execute(
            "CREATE TABLE file AS SELECT string_agg(decode(md5(n::text), 'hex'), '') AS content
             FROM generate_series(1, 25 * 65536) n",
        )
        .expect("a file");
    let worker = worker_of(&mut client);
    let before = highest(worker, {
        let end = Instant::now() + Duration::from_millis(200);
        move || Instant::now() >= end
    })[0];
    let mut sent = 0;
    for count in [1, 10] {
        client
            .execute(
                "SELECT count(mail.enqueue(jsonb_build_object('to', 'a@example.test', 'text', 'See there.',
                            'attachments', jsonb_build_array(mail.attach(f.content, 'file.bin')))))
                 FROM file f, generate_series(1, $1) n",
                &[&count],
            )
            .expect("accepted");
        sent += usize::try_from(count).unwrap_or_default();
        let begin = Instant::now();
        let most = highest(worker, || sink.count() >= sent);
        println!(
            "files: {count} mails with 25 MB each in {:.1?}: worker grew by {:.1} MiB",
            begin.elapsed(),
            mebibytes(most[0].saturating_sub(before))
        );
    }
}

/// What the worker holds while a million messages wait for a relay that never answers.
pub fn memory(cluster: &Cluster) {
    const MESSAGES: i64 = 1_000_000;
    let sink = Sink::scripted(|_| Action::Silence);
    let (database, mut client) = deliver_to(cluster, &sink);
    let begin = Instant::now();
    client
        .execute(
            "SELECT count(mail.enqueue('a@example.test', 'Mail ' || i, 'A short text.'))
             FROM generate_series(1::bigint, $1) i",
            &[&MESSAGES],
        )
        .expect("accepted");
    println!(
        "memory: one transaction enqueued {MESSAGES} messages in {:.1?} ({}/s)",
        begin.elapsed(),
        rate(MESSAGES as usize, begin.elapsed())
    );
    until("the worker tries", Duration::from_mins(1), || {
        sink.open() > 0
    });
    let worker = worker_of(&mut client);
    // The highest of some seconds, in which it claims, scans and sweeps.
    let end = Instant::now() + Duration::from_secs(12);
    let highest = highest(worker, || Instant::now() >= end);
    println!(
        "memory: worker with {MESSAGES} messages waiting: {:.1} MiB of its own, {:.1} MiB with shared memory",
        mebibytes(highest[0]),
        mebibytes(highest[1])
    );
    drop(database);
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}
