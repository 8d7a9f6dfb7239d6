//! A shop whose orders are rows and mails in one transaction, and what must be true of both afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pgmq_mail_tests::{Action, Cluster, Phase, Sink, one, run_sql, until};
use postgres::{Client, Config, NoTls};

/// Sessions that order at once.
const SESSIONS: usize = 3;
/// Of so many orders one is rolled back.
const ROLLED_BACK: usize = 5;

/// A relay that takes a moment for each mail, so that there are always some in flight.
pub fn relay() -> Sink {
    Sink::scripted(|event| match event.phase {
        Phase::Dot => Action::Accept.after(Duration::from_millis(10)),
        _ => Action::Accept,
    })
}

/// Creates the shop. `on_uncertain` is that of its queue.
pub fn open_shop(client: &mut Client, sink: &Sink, on_uncertain: &str) {
    run_sql(
        client,
        &format!(
            "CREATE EXTENSION pgmq_mail;
             CREATE TABLE orders (number bigint PRIMARY KEY);
             INSERT INTO mail.relay (name, url, max_connections) VALUES ('sink', '{}', 8);
             INSERT INTO mail.queue (name, transport, default_sender, retry_base, retry_max, on_uncertain)
             VALUES ('out', 'smtp', 'shop@example.test', '50 milliseconds', '50 milliseconds', '{on_uncertain}')",
            sink.url()
        ),
    );
}

/// What the customers were told.
#[derive(Default)]
pub struct Orders {
    committed: BTreeSet<i64>,
    rolled_back: BTreeSet<i64>,
    /// COMMIT was sent and never answered.
    unknown: BTreeSet<i64>,
}

impl Orders {
    /// Orders once more.
    pub fn add_one(&mut self, client: &mut Client) {
        let number = next();
        let number = if number.is_multiple_of(ROLLED_BACK) {
            next()
        } else {
            number
        };
        order(client, number, self).expect("the server runs");
    }

    fn add(&mut self, others: Self) {
        self.committed.extend(others.committed);
        self.rolled_back.extend(others.rolled_back);
        self.unknown.extend(others.unknown);
    }
}

/// Sessions that order until the server goes away or they are told to stop.
pub struct Customers {
    sessions: Vec<JoinHandle<Orders>>,
    stop: Arc<AtomicBool>,
}

impl Customers {
    /// Sends them to a server.
    pub fn come(server: &Config) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sessions = (0..SESSIONS).map(|_| {
            let mut client = server.connect(NoTls).expect("the server runs");
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut orders = Orders::default();
                while !stop.load(Ordering::Relaxed) {
                    if order(&mut client, next(), &mut orders).is_err() {
                        break;
                    }
                }
                orders
            })
        });
        Self {
            sessions: sessions.collect(),
            stop,
        }
    }

    /// Waits until they have left.
    pub fn leave(self, orders: &mut Orders) {
        self.stop.store(true, Ordering::Relaxed);
        for session in self.sessions {
            orders.add(session.join().expect("a session does not panic"));
        }
    }
}

/// The number of the next order.
fn next() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn order(client: &mut Client, number: usize, orders: &mut Orders) -> Result<(), postgres::Error> {
    let name = i64::try_from(number).expect("there are not that many");
    // Whatever breaks off before COMMIT is sent is rolled back.
    orders.rolled_back.insert(name);
    let mut transaction = client.transaction()?;
    transaction.execute("INSERT INTO orders VALUES ($1)", &[&name])?;
    transaction.execute(
        "SELECT mail.enqueue('customer@example.test', $1::bigint::text, 'Thank you.', queue => 'out')",
        &[&name],
    )?;
    if number.is_multiple_of(ROLLED_BACK) {
        return transaction.rollback();
    }
    orders.rolled_back.remove(&name);
    orders.unknown.insert(name);
    transaction.commit()?;
    orders.unknown.remove(&name);
    orders.committed.insert(name);
    Ok(())
}

/// Waits until all mail is sent.
pub fn drained(client: &mut Client) {
    until("nothing is pending", Cluster::PATIENCE, || {
        one(client, "SELECT count(*) = 0 FROM mail.pending", &[])
    });
    let leases: i64 = one(client, "SELECT count(*) FROM mail.lease", &[]);
    assert_eq!(leases, 0);
}

/// What the relay was given more than once, and why.
pub struct Repeats {
    pub interrupted: i64,
    pub repeated: i64,
}

/// Checks that the server has, and the relay was given, what the customers were told. Nothing may be waiting any more.
pub fn check(client: &mut Client, sink: &Sink, orders: &Orders, on_uncertain: &str) -> Repeats {
    let mut copies: HashMap<i64, i64> = HashMap::new();
    for mail in sink.mails() {
        let number = mail.header("Subject").and_then(|text| text.parse().ok());
        *copies
            .entry(number.expect("all subjects are numbers"))
            .or_default() += 1;
    }
    let rows = client
        .query(
            "SELECT o.number, m.state, coalesce(i.n, 0)
             FROM orders o FULL JOIN mail.messages m ON m.subject = o.number::text
             LEFT JOIN (SELECT message_id, count(*) AS n FROM mail.events WHERE kind = 'interrupted' GROUP BY 1) i
               ON i.message_id = m.id",
            &[],
        )
        .expect("the tables can be read");
    let mut found: BTreeMap<i64, (String, i64)> = BTreeMap::new();
    for row in rows {
        let number: Option<i64> = row.get(0);
        let number = number.expect("no mail without its order");
        let state: Option<String> = row.get(1);
        let state = state.unwrap_or_else(|| panic!("order {number} without its mail"));
        let twice = found.insert(number, (state, row.get(2)));
        assert!(twice.is_none(), "order {number} has two mails");
    }

    for number in &orders.committed {
        assert!(found.contains_key(number), "order {number} is lost");
    }
    for number in &orders.rolled_back {
        assert!(!found.contains_key(number), "order {number} came back");
    }
    for number in copies.keys() {
        assert!(found.contains_key(number), "order {number} was a mail only");
    }
    let (mut interruptions, mut repeated, mut uncertain) = (0, 0, 0);
    for (number, (state, interrupted)) in &found {
        let copies = copies.get(number).copied().unwrap_or(0);
        let story =
            format!("order {number} is {state}: {copies} copies, {interrupted} interrupted");
        match (on_uncertain, state.as_str()) {
            ("retry", "sent") => assert!((1..=1 + interrupted).contains(&copies), "{story}"),
            ("hold", "sent") => assert_eq!(copies, 1, "{story}"),
            ("hold", "uncertain") => {
                assert!(copies <= 1 && *interrupted == 1, "{story}");
                uncertain += 1;
            }
            _ => panic!("{story}"),
        }
        interruptions += interrupted;
        repeated += (copies - 1).max(0);
    }
    let unanswered = orders.unknown.iter().filter(|n| found.contains_key(n));
    eprintln!(
        "{} orders, {} of them never confirmed; {interruptions} interrupted, {repeated} repeated, {uncertain} uncertain",
        found.len(),
        unanswered.count(),
    );
    Repeats {
        interrupted: interruptions,
        repeated,
    }
}
