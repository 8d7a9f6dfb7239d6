//! How many mails of 2 KB go through how many connections:
//! `cargo run --release -p mail-relay --example throughput [connections] [jobs] [port]`.
//! Without a port it sends to a sink in this process, on a thread of its own.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use mail_relay::{Config, Job, JobResult, Made, Pool, RelayConfig, Report, Settings, Transport};
use mail_smtp::{Endpoint, Outcome, TlsMode, Verdict};

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/common/sink.rs"]
mod sink;

/// For the sink.
const PATIENCE: Duration = Duration::from_mins(1);

fn job(id: i64, relays: &Arc<[i32]>, text: &str) -> Job {
    let text = format!(
        "From: Shop <shop@example.com>\r\nTo: someone@example.org\r\nSubject: Your order\r\n\
         Message-ID: <{id}@example.com>\r\n\r\n{text}"
    );
    let made = Made {
        text: text.into_bytes().into(),
        ..Made::default()
    };
    Job {
        id,
        token: id,
        queue: 1,
        transport: Transport::Smtp(Arc::clone(relays)),
        from: "shop@example.com".to_owned(),
        to: vec!["someone@example.org".to_owned()],
        source: Arc::new(made),
    }
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<usize>().ok());
    let connections = arguments.next().unwrap_or(8);
    let total = arguments.next().unwrap_or(100_000);
    let port = match arguments.next() {
        Some(port) => u16::try_from(port).unwrap_or_default(),
        None => sink::Sink::start().port,
    };
    let (sender, reports) = mpsc::channel();
    let pool = Pool::start(move |report| drop(sender.send(report)), Settings::default())?;
    let endpoint = Endpoint {
        host: "127.0.0.1".to_owned(),
        port,
        tls: TlsMode::Never,
        helo_name: "bench.example".to_owned(),
        ..Endpoint::default()
    };
    let relay = RelayConfig {
        max_connections: connections,
        max_messages_per_connection: 1_000_000,
        ..RelayConfig::new(1, "sink", endpoint)
    };
    pool.configure(Config {
        relays: vec![relay],
        ..Config::default()
    });
    let text = "The quick brown fox jumps over the lazy dog, \"again\".\n".repeat(37);
    let relays: Arc<[i32]> = Arc::from([1]);
    let mut jobs: Vec<Job> = (0..)
        .take(total)
        .map(|id| job(id, &relays, &text))
        .collect();
    let (mut in_flight, mut delivered) = (0, 0);
    let start = Instant::now();
    while delivered < total {
        while in_flight <= 1000 && !jobs.is_empty() {
            let batch = jobs.split_off(jobs.len().saturating_sub(500));
            in_flight += batch.len();
            pool.submit(batch);
        }
        match reports.recv_timeout(PATIENCE) {
            Ok(Report::Finished(finished)) => match finished.result {
                JobResult::Smtp(Outcome::Judged(results))
                    if results[0].verdict == Verdict::Delivered =>
                {
                    delivered += 1;
                    in_flight -= 1;
                }
                other => return Err(std::io::Error::other(format!("{other:?}"))),
            },
            Ok(other) => println!("{other:?}"),
            Err(error) => return Err(std::io::Error::other(error)),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let count = f64::from(u32::try_from(total).unwrap_or(u32::MAX));
    println!(
        "{total} mails over {connections} connections: {:.0} a second",
        count / seconds
    );
    pool.stop(Duration::ZERO);
    pool.join(PATIENCE);
    Ok(())
}
