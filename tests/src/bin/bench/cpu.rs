//! What a mail costs in time of the processor, and which functions take it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgmq_mail_tests::{Cluster, available, pid, run, until, worker_of};

use crate::report::Section;
use crate::sides::{ROUNDS, counting, drain, enqueue, settled};
use crate::{Series, deliver_to};

const MAILS: usize = 60_000;

/// Seconds that a process has used, of its own and of the system.
fn used(process: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it lives");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks: u64 = fields[11..13]
        .iter()
        .filter_map(|f| f.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}

/// Backend and worker, and a profile of the worker where `perf` is there.
pub fn cpu(cluster: &Cluster) -> Vec<Section> {
    let mut columns = [const { Vec::new() }; 2];
    let mut profile = Vec::new();
    for round in 0..ROUNDS {
        let sink = counting(None);
        let (_database, mut client) = deliver_to(cluster, &sink);
        let backend = pid(&mut client);
        let worker = worker_of(&mut client);
        let before = used(backend);
        enqueue(&mut client, MAILS);
        columns[0].push((used(backend) - before) * 1e6 / MAILS as f64);
        let before = used(worker);
        if round + 1 == ROUNDS && available("perf", Path::new("/usr/bin/perf").exists()) {
            profile = profiled(worker, || {
                drain(&mut client, &sink, MAILS);
            });
        } else {
            drain(&mut client, &sink, MAILS);
        }
        settled(&mut client);
        columns[1].push((used(worker) - before) * 1e6 / MAILS as f64);
    }
    let [backend, worker] = columns;
    let mut section = Section::new(
        "CPU for a mail of 2 KB (a thousand take as many milliseconds)",
        "µs a mail",
        vec![
            Series::new("backend: enqueue, 60,000 in a transaction", backend),
            Series::new("worker: both threads, from claim to sent", worker),
        ],
    );
    if !profile.is_empty() {
        section
            .notes
            .push("where the worker's time goes (samples, library, function):".into());
        section.notes.extend(profile);
    }
    vec![section]
}

/// The functions in which a process spends its time while something is done.
fn profiled(process: i32, work: impl FnOnce()) -> Vec<String> {
    let folder = pgmq_mail_tests::Folder::new("perf");
    let data = folder.write("data", "");
    let mut perf = Command::new("perf")
        .args([
            "record",
            "-q",
            "-F",
            "2000",
            "-p",
            &process.to_string(),
            "-o",
        ])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("perf starts");
    until("perf has begun", Duration::from_secs(10), || {
        std::fs::metadata(&data).is_ok_and(|data| data.len() > 0)
    });
    work();
    run(
        Command::new("kill").args(["-INT", &perf.id().to_string()]),
        Duration::from_secs(10),
    );
    let _ = perf.wait();
    let report = run(
        Command::new("perf")
            .args([
                "report",
                "-q",
                "--no-children",
                "--sort",
                "dso,symbol",
                "-i",
            ])
            .arg(&data),
        Duration::from_mins(1),
    );
    String::from_utf8_lossy(&report.stdout)
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(30)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .map(|line| line.trim_end_matches(" - -").to_owned())
        .collect()
}
