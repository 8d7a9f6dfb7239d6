//! Applications: each writes business rows and mail in one transaction, in every way that there is, and writes down what
//! it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postgres::types::Type;
use postgres::{Client, Config, NoTls, Transaction};
use serde_json::json;

use crate::ledger::{Fate, Ledger};
use pgmq_mail_tests::Dice;

/// How many messages a transaction may have.
const BATCH: u64 = 40;
/// How many ordering keys a producer uses.
const KEYS: u64 = 3;

/// Statements without names, so that transactions may share connections (`PgBouncer`).
type Parameter<'a> = &'a (dyn postgres::types::ToSql + Sync);

const ENQUEUE: &str = "SELECT mail.enqueue('a@example.test', $1, 'x', queue => $2)";

/// What one thread needs to know.
pub struct Producer {
    pub number: usize,
    pub config: Config,
    pub dice: Dice,
    pub ledger: Arc<Ledger>,
    pub stop: Arc<AtomicBool>,
    count: u64,
    places: [u64; KEYS as usize],
    /// The last transaction did not get to its commit: the server is away, perhaps.
    failed: bool,
}

/// A transaction that did not get to its commit, or whose commit had no answer.
enum Broken {
    Before,
    While,
}

impl Producer {
    pub fn new(
        number: usize,
        config: Config,
        dice: Dice,
        ledger: Arc<Ledger>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            number,
            config,
            dice,
            ledger,
            stop,
            count: 0,
            places: [0; KEYS as usize],
            failed: false,
        }
    }

    pub fn start(mut self) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut client: Option<Client> = None;
            while !self.stop.load(Ordering::Relaxed) {
                let open = client.as_mut().filter(|client| !client.is_closed());
                if let Some(open) = open {
                    self.one(open);
                } else {
                    client = self.config.connect(NoTls).ok();
                }
                if client.is_none() || std::mem::take(&mut self.failed) {
                    thread::sleep(Duration::from_millis(20)); // the server is down
                }
            }
        })
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("m-{}-{}", self.number, self.count)
    }

    fn one(&mut self, client: &mut Client) {
        match self.dice.below(100) {
            0..30 => self.plain(client),
            30..38 => self.rolled_back(client),
            38..44 => self.savepoint(client),
            44..60 => self.batch(client),
            60..68 => self.twice(client),
            68..82 => self.ordered(client),
            82..88 => self.prepared(client),
            88..94 => self.scheduled(client),
            _ => self.cancelled(client),
        }
    }

    /// Begins a message in one of the two queues.
    fn begin(&mut self) -> (String, &'static str) {
        let name = self.name();
        let hold = self.dice.percent(30);
        self.ledger.begin(&name, hold, None);
        (name, if hold { "once" } else { "again" })
    }

    fn settle(&mut self, name: &str, result: &Result<i64, Broken>) {
        self.failed |= matches!(result, Err(Broken::Before));
        match result {
            Ok(id) => self.ledger.end(name, Fate::Committed, Some(*id)),
            Err(Broken::Before) => self.ledger.end(name, Fate::RolledBack, None),
            Err(Broken::While) => self.ledger.end(name, Fate::Unknown, None),
        }
    }

    fn plain(&mut self, client: &mut Client) {
        let (name, queue) = self.begin();
        let result = committed(client, |transaction| {
            put(transaction, &name, ENQUEUE, queue)
        });
        self.settle(&name, &result);
    }

    fn rolled_back(&mut self, client: &mut Client) {
        let (name, queue) = self.begin();
        match client.transaction() {
            Ok(mut transaction) => {
                let _ = put(&mut transaction, &name, ENQUEUE, queue);
                let _ = transaction.rollback();
            }
            Err(_) => self.failed = true,
        }
        self.ledger.end(&name, Fate::RolledBack, None);
    }

    fn savepoint(&mut self, client: &mut Client) {
        let (kept, queue) = self.begin();
        let (undone, other) = self.begin();
        let result = committed(client, |transaction| {
            let mut inner = transaction.savepoint("a")?;
            put(&mut inner, &undone, ENQUEUE, other)?;
            inner.rollback()?;
            put(transaction, &kept, ENQUEUE, queue)
        });
        self.ledger.end(&undone, Fate::RolledBack, None);
        self.settle(&kept, &result);
    }

    fn batch(&mut self, client: &mut Client) {
        let size = 1 + self.dice.below(BATCH);
        let names: Vec<String> = (0..size).map(|_| self.name()).collect();
        let hold = self.dice.percent(30);
        for name in &names {
            self.ledger.begin(name, hold, None);
        }
        let messages: Vec<_> = names
            .iter()
            .map(|name| json!({"to": "a@example.test", "subject": name, "text": "x"}))
            .collect();
        let mut ids = Vec::new();
        let result = committed(client, |transaction| {
            let queue = if hold { "once" } else { "again" };
            let rows = transaction.query_typed(
                "SELECT mail.enqueue_batch($1, queue => $2)",
                &[(&messages, Type::JSONB_ARRAY), (&queue, Type::TEXT)],
            )?;
            ids = rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>();
            transaction.query_typed(
                "INSERT INTO business SELECT * FROM unnest($1, $2)",
                &[(&names, Type::TEXT_ARRAY), (&ids, Type::INT8_ARRAY)],
            )?;
            Ok(0)
        });
        for (number, name) in names.iter().enumerate() {
            match &result {
                Ok(_) => self
                    .ledger
                    .end(name, Fate::Committed, ids.get(number).copied()),
                Err(_) => self.settle(name, &result),
            }
        }
    }

    /// The same idempotency key in two transactions.
    fn twice(&mut self, client: &mut Client) {
        let (name, queue) = self.begin();
        let query =
            "SELECT mail.enqueue('a@example.test', $1, 'x', queue => $2, idempotency_key => $1)";
        let first = committed(client, |transaction| put(transaction, &name, query, queue));
        let second = committed(client, |transaction| put(transaction, &name, query, queue));
        if let (Ok(first), Ok(second)) = (&first, &second) {
            assert_eq!(first, second, "{name} has one key");
        }
        let result = match (first, second) {
            (Ok(id), _) | (_, Ok(id)) => Ok(id),
            (Err(Broken::Before), Err(Broken::Before)) => Err(Broken::Before),
            _ => Err(Broken::While),
        };
        self.settle(&name, &result);
    }

    fn ordered(&mut self, client: &mut Client) {
        let key = self.dice.below(KEYS);
        let place = &mut self.places[key as usize];
        *place += 1;
        let (key, place) = (format!("k-{}-{key}", self.number), *place);
        let name = self.name();
        self.ledger.begin(&name, false, Some((key.clone(), place)));
        let query = format!(
            "SELECT mail.enqueue('a@example.test', $1, 'x', queue => $2, ordering_key => '{key}')"
        );
        let result = committed(client, |transaction| {
            put(transaction, &name, &query, "again")
        });
        self.settle(&name, &result);
    }

    /// Two-phase commit. What a crash leaves prepared is ended by whoever comes by.
    fn prepared(&mut self, client: &mut Client) {
        let (name, queue) = self.begin();
        let keep = self.dice.percent(70);
        let prepare = |client: &mut Client| {
            client.batch_execute("BEGIN")?;
            let message = [(&name as Parameter<'_>, Type::TEXT), (&queue, Type::TEXT)];
            let id: i64 = client.query_typed_one(ENQUEUE, &message)?.get(0);
            client.query_typed(
                "INSERT INTO business VALUES ($1, $2)",
                &[(&name, Type::TEXT), (&id, Type::INT8)],
            )?;
            client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
            Ok::<i64, postgres::Error>(id)
        };
        let Ok(id) = prepare(client) else {
            // Perhaps it is prepared: then it will be ended, and the business table tells how.
            let _ = client.batch_execute("ROLLBACK");
            return;
        };
        thread::sleep(Duration::from_millis(self.dice.below(100)));
        let how = if keep { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(&format!("{how} PREPARED '{name}'"));
        match (ended, keep) {
            (Ok(()), true) => self.ledger.end(&name, Fate::Committed, Some(id)),
            (Ok(()), false) => self.ledger.end(&name, Fate::RolledBack, None),
            (Err(_), _) => {}
        }
    }

    fn scheduled(&mut self, client: &mut Client) {
        let (name, queue) = self.begin();
        let query = format!(
            "SELECT mail.enqueue('a@example.test', $1, 'x', queue => $2, send_at => now() + interval '{} milliseconds')",
            self.dice.below(3000)
        );
        let result = committed(client, |transaction| put(transaction, &name, &query, queue));
        self.settle(&name, &result);
    }

    fn cancelled(&mut self, client: &mut Client) {
        let (name, queue) = self.begin();
        let result = committed(client, |transaction| {
            put(transaction, &name, ENQUEUE, queue)
        });
        self.settle(&name, &result);
        let Ok(id) = result else { return };
        let gone = client.query_typed_one("SELECT mail.cancel($1)", &[(&id, Type::INT8)]);
        if gone.is_ok_and(|row| row.get(0)) {
            self.ledger.cancelled(&name);
        }
    }
}

/// A mail and the business row that it belongs to.
fn put(
    transaction: &mut Transaction<'_>,
    name: &str,
    query: &str,
    queue: &str,
) -> Result<i64, postgres::Error> {
    let message = [(&name as Parameter<'_>, Type::TEXT), (&queue, Type::TEXT)];
    let id: i64 = transaction.query_typed_one(query, &message)?.get(0);
    transaction.query_typed(
        "INSERT INTO business VALUES ($1, $2) ON CONFLICT DO NOTHING",
        &[(&name, Type::TEXT), (&id, Type::INT8)],
    )?;
    Ok(id)
}

fn committed(
    client: &mut Client,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<i64, postgres::Error>,
) -> Result<i64, Broken> {
    let mut transaction = client.transaction().map_err(|_| Broken::Before)?;
    let id = work(&mut transaction).map_err(|_| Broken::Before)?;
    transaction.commit().map_err(|_| Broken::While)?;
    Ok(id)
}
