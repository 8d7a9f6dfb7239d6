//! What the producers did and what the relay got, kept outside the database.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// What a producer knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its transaction was committed, and the server said so.
    Committed,
    /// Its transaction was rolled back, or never got to its commit.
    RolledBack,
    /// The server went away while it was committing: the business table tells.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub fate: Fate,
    pub id: Option<i64>,
    /// Whether it may end as uncertain, and must not be repeated.
    pub hold: bool,
    /// Its ordering key, and its place in it.
    pub place: Option<(String, u64)>,
    /// `mail.cancel` said that it will never be sent, and that was committed.
    pub cancelled: bool,
    pub arrivals: Vec<Arrival>,
}

/// That the relay has accepted it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its number, over all messages.
    pub number: u64,
    pub at: SystemTime,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    arrived: u64,
    /// Arrivals of what no producer has written down.
    strangers: Vec<String>,
}

#[derive(Default)]
pub struct Ledger(Mutex<Inner>);

impl Ledger {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before its transaction is sent: until its end is known, it is unknown.
    pub fn begin(&self, name: &str, hold: bool, place: Option<(String, u64)>) {
        let entry = Entry {
            fate: Fate::Unknown,
            id: None,
            hold,
            place,
            cancelled: false,
            arrivals: Vec::new(),
        };
        let before = self.inner().entries.insert(name.to_owned(), entry);
        assert!(before.is_none(), "{name} is a name of its own");
    }

    pub fn end(&self, name: &str, fate: Fate, id: Option<i64>) {
        let mut inner = self.inner();
        let entry = inner.entries.get_mut(name).expect("it was begun");
        entry.fate = fate;
        entry.id = id.or(entry.id);
    }

    pub fn cancelled(&self, name: &str) {
        let mut inner = self.inner();
        inner.entries.get_mut(name).expect("it was begun").cancelled = true;
    }

    /// The relay has accepted a message of that name.
    pub fn arrived(&self, name: String, at: Instant) {
        let mut inner = self.inner();
        inner.arrived += 1;
        let arrival = Arrival {
            number: inner.arrived,
            at: SystemTime::now() - at.elapsed(),
        };
        match inner.entries.get_mut(&name) {
            Some(entry) => entry.arrivals.push(arrival),
            None => inner.strangers.push(name),
        }
    }

    pub fn committed(&self) -> u64 {
        let inner = self.inner();
        let is = |entry: &&Entry| entry.fate == Fate::Committed;
        inner.entries.values().filter(is).count() as u64
    }

    /// Everything, and the names that nobody knows.
    pub fn read(&self) -> (HashMap<String, Entry>, Vec<String>) {
        let inner = self.inner();
        (inner.entries.clone(), inner.strangers.clone())
    }
}
