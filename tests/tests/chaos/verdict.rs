//! The comparison of what the producers know, what the database says, and what the relay got.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::SystemTime;

use pgmq_mail_tests::{Cluster, all, eventually, one, until, worker_of};
use postgres::Client;

use crate::arena::{Arena, IN_FLIGHT};
use crate::faults::Fault;
use crate::ledger::{Entry, Fate};

/// What a run has shown.
pub struct Verdict {
    messages: u64,
    unknown: u64,
    rolled_back: u64,
    repeats: u64,
    interruptions: i64,
    uncertain: u64,
    crashes: u64,
    /// For each end of a worker, how many messages it repeated.
    by_end: Vec<u64>,
    struck: BTreeMap<Fault, u64>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages committed ({} of them with the commit's answer lost), {} rolled back, {} crashes: lost 0, \
             sent though rolled back 0, repeated {} (told by {} events; by one crash {} at most), held as uncertain {}; {:?}",
            self.messages,
            self.unknown,
            self.rolled_back,
            self.crashes,
            self.repeats,
            self.interruptions,
            self.by_end.iter().max().unwrap_or(&0),
            self.uncertain,
            self.struck,
        )
    }
}

/// What the database says of a message.
struct Row {
    state: String,
    /// How often it may have been accepted without that being recorded.
    interruptions: i64,
    /// When it was found that its worker had ended without having recorded what came of it.
    found_in_flight: Vec<SystemTime>,
    /// Whether it went back to the end of its ordering key.
    retried: bool,
}

/// Waits for every message's end, and panics where something is not as it must be.
pub fn reach(arena: &mut Arena) -> Verdict {
    let mut client = eventually("the server is up", Cluster::PATIENCE, || {
        arena.try_connect()
    });
    let left: Vec<String> = all(&mut client, "SELECT gid FROM pg_prepared_xacts", &[]);
    for name in left {
        client
            .batch_execute(&format!("COMMIT PREPARED '{name}'"))
            .expect("it is prepared");
    }
    client
        .batch_execute("SELECT mail.resume('again'), mail.resume('once')")
        .expect("it can be resumed");
    worker_of(&mut client);
    settle(&mut client);
    arena.relay.collect();
    let business: HashMap<String, i64> = client
        .query("SELECT name, message FROM business", &[])
        .expect("it can be read")
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let rows = rows(&mut client);
    let (entries, strangers) = arena.ledger.read();
    assert!(strangers.is_empty(), "nobody sent {strangers:?}");
    let mut verdict = Verdict {
        messages: 0,
        unknown: 0,
        rolled_back: 0,
        repeats: 0,
        interruptions: 0,
        uncertain: 0,
        crashes: arena.crashes(),
        by_end: vec![0; arena.ends.len()],
        struck: arena.struck.clone(),
    };
    for (name, entry) in &entries {
        let committed = match entry.fate {
            Fate::Committed => {
                assert!(
                    business.contains_key(name),
                    "{name} was committed, and is gone"
                );
                true
            }
            Fate::RolledBack => {
                assert!(
                    !business.contains_key(name),
                    "{name} was rolled back, and is there"
                );
                false
            }
            Fate::Unknown => business.contains_key(name),
        };
        if committed {
            verdict.unknown += u64::from(entry.fate == Fate::Unknown);
            let row = rows
                .get(name)
                .unwrap_or_else(|| panic!("{name} was committed, and its mail is lost"));
            verdict.count(name, entry, row);
            verdict.blame(entry, row, &arena.ends);
        } else {
            verdict.rolled_back += 1;
            assert!(
                entry.arrivals.is_empty(),
                "{name} was rolled back, and sent"
            );
            assert!(
                !rows.contains_key(name),
                "{name} was rolled back, and is there"
            );
        }
    }
    assert_eq!(rows.len() as u64, verdict.messages, "nothing else is there");
    in_order(&entries, &rows);
    assert!(verdict.repeats <= verdict.interruptions as u64);
    for (count, (end, _)) in verdict.by_end.iter().zip(&arena.ends) {
        assert!(*count <= IN_FLIGHT, "{end:?} repeated {count}");
    }
    let leases: i64 = one(&mut client, "SELECT count(*) FROM mail.lease", &[]);
    assert_eq!(leases, 0, "no lease is held for ever");
    verdict
}

/// Until nothing is under way, and no dead letter is left but what may have arrived.
fn settle(client: &mut Client) {
    until("everything has its end", 5 * Cluster::PATIENCE, || {
        let idle = "SELECT NOT EXISTS (SELECT FROM mail.pending) AND mail.retry_dead_letters() = 0";
        one(client, idle, &[])
    });
}

fn rows(client: &mut Client) -> HashMap<String, Row> {
    let query = "SELECT m.subject, m.state,
                        count(e.id) FILTER (WHERE e.kind IN ('interrupted', 'uncertain', 'lease_ended', 'held')),
                        count(e.id) FILTER (WHERE e.kind = 'retried'),
                        coalesce(array_agg(e.at ORDER BY e.id) FILTER (WHERE e.kind = 'interrupted'), '{}')
                 FROM mail.messages m LEFT JOIN mail.events e ON e.message_id = m.id GROUP BY m.id, m.subject, m.state";
    let rows = client.query(query, &[]).expect("the views can be read");
    let mut found = HashMap::new();
    for row in rows {
        let name: String = row.get(0);
        let retried: i64 = row.get(3);
        let before = found.insert(
            name.clone(),
            Row {
                state: row.get(1),
                interruptions: row.get(2),
                found_in_flight: row.get(4),
                retried: retried > 0,
            },
        );
        assert!(before.is_none(), "{name} is there twice");
    }
    found
}

impl Verdict {
    fn count(&mut self, name: &str, entry: &Entry, row: &Row) {
        let copies = entry.arrivals.len() as i64;
        self.messages += 1;
        self.interruptions += row.interruptions;
        let told = || {
            format!(
                "{name} is {}: {entry:?}, {} interruptions",
                row.state, row.interruptions
            )
        };
        match row.state.as_str() {
            "sent" => {
                assert!(copies >= 1, "never arrived: {}", told());
                assert!(!entry.cancelled, "sent though cancelled: {}", told());
            }
            "cancelled" => assert!(copies == 0, "cancelled and sent: {}", told()),
            "uncertain" => {
                assert!(entry.hold, "held without being asked: {}", told());
                self.uncertain += 1;
            }
            _ => panic!("no end: {}", told()),
        }
        let most = if entry.hold { 1 } else { 1 + row.interruptions };
        assert!(copies <= most, "repeated without a word: {}", told());
        self.repeats += copies.saturating_sub(1).max(0) as u64;
    }
}

impl Verdict {
    /// Counts repeats for the end of a worker that they came from.
    fn blame(&mut self, entry: &Entry, row: &Row, ends: &[(Fault, SystemTime)]) {
        for pair in entry.arrivals.windows(2) {
            let between = |found: &&SystemTime| (pair[0].at..=pair[1].at).contains(*found);
            // Else the relay was silent after the dot, or a full disk has ended the server.
            let end = |found: &SystemTime| ends.iter().rposition(|(_, at)| at <= found);
            if let Some(end) = row.found_in_flight.iter().find(between).and_then(end) {
                self.by_end[end] += 1;
            }
        }
    }
}

/// Messages of an ordering key arrive in their order, apart from those that had failed and were put back.
fn in_order(entries: &HashMap<String, Entry>, rows: &HashMap<String, Row>) {
    let mut keys: BTreeMap<&str, BTreeMap<u64, (u64, &str)>> = BTreeMap::new();
    for (name, entry) in entries {
        let (Some((key, place)), Some(first)) = (&entry.place, entry.arrivals.first()) else {
            continue;
        };
        if rows.get(name).is_some_and(|row| !row.retried) {
            keys.entry(key)
                .or_default()
                .insert(*place, (first.number, name));
        }
    }
    for (key, places) in keys {
        let mut last = (0, "");
        for (_, (arrival, name)) in places {
            assert!(arrival > last.0, "{key}: {name} arrived before {}", last.1);
            last = (arrival, name);
        }
    }
}
