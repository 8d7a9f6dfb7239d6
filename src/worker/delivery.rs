//! The delivery worker of one database.
//!
//! Its rhythm: take outcomes and what was published → one transaction that settles the outcomes and claims what is due
//! → hand the claimed messages to the network thread → sleep until a commit, an outcome or the next due time. No
//! transaction is open while it sleeps.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mail_lanes::{Flight, LaneId, Lanes};
use mail_relay::{Finished, Limited, Pool, Report, Settings, Transport};
use pgrx::{pg_guard, pg_sys};

use super::{
    configuration::Configuration, launcher::worker_role, redirected::Redirected, store,
    stored::Shared,
};
use crate::pg::{self, Failure, SlotHandle, Status, doorbell::Doorbell};

/// What all bodies in flight together may take up.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// What is in flight when the worker is stopped gets this long to end.
const GRACE: Duration = Duration::from_secs(1);
/// The longest that stopping takes, whatever it waits for.
const PATIENCE: Duration = Duration::from_millis(1800);
const SECOND: i64 = 1_000_000;
/// The first look for what need not be kept any longer comes a minute after the start.
const FIRST_RETAIN: i64 = 60 * SECOND;

struct Inbox(Arc<Mutex<Vec<Report>>>);

impl Inbox {
    /// What was reported; up to a change of the configuration, which is to be dealt with before what comes behind it.
    fn take(&self) -> Vec<Report> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let change = |report: &Report| matches!(report, Report::Configured);
        match waiting.iter().position(change) {
            Some(place) => waiting.drain(..=place).collect(),
            None => std::mem::take(&mut *waiting),
        }
    }
}

pub(super) struct Worker {
    pub(super) slot: Option<SlotHandle>,
    pub(super) extension: u32,
    pub(super) pool: Pool,
    inbox: Inbox,
    pub(super) doorbell: Doorbell,
    pub(super) configuration: Configuration,
    /// What makes messages of what was claimed.
    pub(super) composer: Shared,
    /// The count of changes that the configuration was read at.
    pub(super) configured: u32,
    pub(super) lanes: Lanes,
    pub(super) flight: Flight,
    /// Of those in flight, what goes to another address than its recipients', by message.
    pub(super) redirected: HashMap<i64, Redirected>,
    /// Outcomes that are not written yet, with changes of relays and domains that ask for more.
    pub(super) outcomes: Vec<Finished>,
    pub(super) news: Vec<Report>,
    /// Outcomes whose rows somebody has locked; tried again from time to time.
    pub(super) stuck: Vec<Finished>,
    pub(super) next_stuck: i64,
    /// Ordering keys of what was settled: their next messages are free.
    pub(super) keys: Vec<i64>,
    /// Suspended relays, and until when.
    pub(super) suspended: HashMap<i32, i64>,
    /// Limits that are used up, and until when.
    pub(super) exhausted: HashMap<Limited, i64>,
    /// Relays that were suspended and have not delivered since.
    pub(super) probing: HashSet<i32>,
    /// Relays that have said nothing for long.
    pub(super) silent: HashSet<i32>,
    /// Relays whose trouble the log has told of, and whether a rule made it one.
    pub(super) told: HashMap<i32, bool>,
    /// Queues whose next message does not fit beside those in flight: an outcome has to come first.
    pub(super) full: HashSet<i32>,
    /// Since when as much has been in flight as may be, whatever came to its end.
    pub(super) crowded_since: Option<i64>,
    /// The place of the queue whose turn it is to be claimed from first.
    pub(super) turn: usize,
    pub(super) next_sweep: i64,
    /// The CPU time used before a sweep whose claim is yet to come.
    pub(super) sweeping: Option<Duration>,
    pub(super) next_reap: i64,
    pub(super) next_retain: i64,
    pub(super) next_files: i64,
    /// The last message and the last file that were looked at for that.
    pub(super) retained: (i64, i64),
    /// After a failed transaction: not before then.
    pub(super) pause_until: i64,
    pub(super) failures: u32,
}

/// What a worker is started with: the database and the role that it connects as, in one word.
pub(super) fn argument(database: pg_sys::Oid, role: pg_sys::Oid) -> pg_sys::Datum {
    let word = u64::from(role.to_u32()) << 32 | u64::from(database.to_u32());
    // As many bits as a pointer: 64 wherever this library is built.
    pg_sys::Datum::from(word)
}

/// Entry point of the background worker; its argument is that of [`argument`].
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(
    unsafe_code,
    reason = "an exported symbol: Postgres finds the entry point by its name"
)]
pub extern "C-unwind" fn pgmq_mail_delivery_main(argument: pg_sys::Datum) {
    let word = argument.value() as u64;
    let database = pg_sys::Oid::from(word as u32);
    let role = pg_sys::Oid::from((word >> 32) as u32);
    pg::install_signal_handlers();
    pg::connect(database, role);
    pg::reload_requested();
    let slot = SlotHandle::take(database);
    let leave = |status: Status, code: i32| -> ! {
        if let Some(slot) = slot {
            slot.leave(status);
        }
        pg::exit(code)
    };
    let connected_as_worker = role != pg_sys::InvalidOid;
    let prepared = pg::insist(|| store::prepare_session(connected_as_worker));
    match prepared.and_then(|()| pg::insist(store::extension)) {
        Ok(Some(extension)) if !connected_as_worker && since_0_2(extension) => {
            if pg::transaction(|| Ok(worker_role()))
                .is_ok_and(|role| role != Some(pg_sys::InvalidOid))
            {
                leave(Status::Left, 1); // now it may: CREATE EXTENSION or an update has just altered it
            }
            pgrx::warning!("pgmq_mail worker could not start: role mail_worker may not log in");
            leave(Status::Unknown, 1);
        }
        Ok(Some(extension)) => match Worker::start(slot, extension) {
            Ok(Some(worker)) => {
                let absent = worker.run() && !installed();
                leave(
                    if absent { Status::Absent } else { Status::Left },
                    i32::from(!absent),
                );
            }
            Ok(None) => pg::exit(0), // another worker holds the lock, and the slot is his
            Err(failure) => {
                pgrx::warning!("pgmq_mail worker could not start: {failure}");
                leave(Status::Unknown, 1);
            }
        },
        Ok(None) => leave(Status::Absent, 0),
        Err(failure) => {
            pgrx::warning!("pgmq_mail worker could not look for its extension: {failure}");
            leave(Status::Unknown, 1);
        }
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

/// Whether the extension is there, perhaps a new one.
fn installed() -> bool {
    pg::transaction(store::extension).is_ok_and(|extension| extension.is_some())
}

/// Whether the SQL that is installed has a role for the worker that may log in.
fn since_0_2(extension: u32) -> bool {
    store::transaction(extension, || Ok(crate::queues::get().since_0_2)).is_ok_and(|since| since)
}

impl Worker {
    fn start(slot: Option<SlotHandle>, extension: u32) -> Result<Option<Self>, Failure> {
        if !pg::transaction(|| Ok(pg::try_worker_lock()))? {
            return Ok(None);
        }
        let unavailable = |error: std::io::Error| Failure {
            message: error.to_string(),
            code: pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        };
        pg::Patience::watch(PATIENCE).map_err(unavailable)?;
        pg::is_worker();
        if let Some(slot) = slot {
            slot.enter();
        }
        store::recover(extension)?;
        let (doorbell, bell) = Doorbell::new().map_err(unavailable)?;
        let reports = Arc::new(Mutex::new(Vec::new()));
        let inbox = Inbox(Arc::clone(&reports));
        let report = move |report: Report| {
            let mut waiting = reports.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(report);
            let first = waiting.len() == 1;
            drop(waiting);
            if first {
                bell.ring();
            }
        };
        let pool = pg::with_signals_blocked(|| Pool::start(report, Settings::default()))
            .map_err(unavailable)?;
        Ok(Some(Self {
            slot,
            extension,
            pool,
            inbox,
            doorbell,
            configuration: Configuration::default(),
            composer: Shared::default(),
            configured: 0,
            lanes: Lanes::default(),
            flight: Flight::default(),
            redirected: HashMap::new(),
            outcomes: Vec::new(),
            news: Vec::new(),
            stuck: Vec::new(),
            next_stuck: i64::MAX,
            keys: Vec::new(),
            suspended: HashMap::new(),
            exhausted: HashMap::new(),
            probing: HashSet::new(),
            silent: HashSet::new(),
            told: HashMap::new(),
            full: HashSet::new(),
            crowded_since: None,
            turn: 0,
            next_sweep: 0,
            sweeping: None,
            next_reap: 0,
            next_retain: pg::now() + FIRST_RETAIN,
            next_files: 0,
            retained: (0, 0),
            pause_until: 0,
            failures: 0,
        }))
    }

    /// Runs until it is told to stop; true when the extension is gone.
    fn run(mut self) -> bool {
        pg::set_configuration_changed();
        let absent = loop {
            if pg::stop_requested() || self.slot.is_some_and(SlotHandle::held) {
                break false;
            }
            if pg::reload_requested() {
                pg::set_configuration_changed();
            }
            pg::report_activity(true);
            if self.in_the_way() {
                break false;
            }
            match self.turn() {
                Ok(true) if pg::now() >= self.pause_until => self.failures = 0,
                Ok(true) => {}
                Ok(false) => break true,
                Err(failure) => self.back_off(&failure),
            }
            if let Some(slot) = self.slot {
                slot.set_failing(self.failures > 0 || !self.stuck.is_empty());
            }
            pg::report_activity(false);
            if self.inbox_is_empty() && !self.silence() {
                pg::report_statistics();
                self.doorbell.wait(self.sleep());
            }
        };
        self.finish();
        absent
    }

    fn inbox_is_empty(&self) -> bool {
        self.inbox
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Without a slot nobody can ask this worker to leave: whether somebody wants the database for himself.
    fn in_the_way(&self) -> bool {
        self.slot.is_none() && pg::transaction(store::wanted_by_another).unwrap_or(false)
    }

    /// Every transaction on the extension's tables.
    pub(super) fn transaction<T>(
        &self,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        store::transaction(self.extension, work)
    }

    /// One turn; false when the extension is gone.
    fn turn(&mut self) -> Result<bool, Failure> {
        pg::accept();
        self.receive();
        if pg::now() < self.pause_until {
            return Ok(true);
        }
        self.collect_marks();
        if pg::configuration_changed() && !self.configure()? {
            return Ok(false);
        }
        if pg::now() >= self.next_sweep && !self.sweep()? {
            return Ok(false);
        }
        self.retry_stuck();
        if !self.outcomes.is_empty() || !self.news.is_empty() || self.anything_due() {
            self.settle_and_claim()?;
        }
        self.look_ahead()?;
        self.let_go();
        Ok(true)
    }

    /// Sorts what the network thread reported.
    fn receive(&mut self) {
        let now = pg::now();
        for report in self.inbox.take() {
            match report {
                Report::Finished(mut end) => {
                    self.restore(&mut end);
                    if self.stuck.iter().any(|s| s.id == end.id) {
                        // What is known first of a message is written first.
                        self.stuck.push(end);
                    } else {
                        self.outcomes.push(end);
                    }
                }
                Report::RelayDown { relay, pause, .. } => {
                    self.tell(&report);
                    self.suspended.insert(relay, now + microseconds(pause));
                    self.probing.insert(relay);
                    self.news.push(report);
                }
                Report::RelaySilent { relay, .. } => {
                    self.tell(&report);
                    self.silent.insert(relay);
                    self.news.push(report);
                }
                Report::DomainPaused { .. } | Report::Roomy { .. } => self.news.push(report),
                Report::Configured => {
                    self.exhausted.clear();
                    self.news.push(report);
                }
                Report::Exhausted { limit, wait } => {
                    self.exhausted.insert(limit, now + microseconds(wait));
                }
                Report::RelayUp { relay } => {
                    self.tell(&report);
                    self.suspended.remove(&relay);
                    self.probing.remove(&relay);
                    self.silent.remove(&relay);
                    self.news.push(report);
                }
            }
        }
    }

    /// Takes what commits have published. Before any snapshot that is to see it.
    fn collect_marks(&mut self) {
        let Some(slot) = self.slot else {
            // Nobody publishes: whoever woke this worker may have written anywhere.
            self.next_sweep = 0;
            return;
        };
        let (marks, overflow) = slot.drain();
        for mark in marks {
            if mark.queue == pg::TIMER && mark.rank == pg::CONFIGURATION {
                // Told at once: the invalidation itself is sent after the callbacks of the commit.
                pg::set_configuration_changed();
            } else if mark.queue == pg::TIMER {
                self.next_reap = self.next_reap.min(mark.due);
            } else {
                self.lanes.touch(
                    LaneId {
                        queue: mark.queue,
                        rank: mark.rank,
                    },
                    mark.due,
                );
            }
        }
        if overflow {
            self.next_sweep = 0;
        }
    }

    /// Milliseconds until there is something to do without being woken.
    fn sleep(&self) -> i64 {
        let now = pg::now();
        let crowded = self.is_crowded();
        let mut next = self
            .next_sweep
            .min(self.next_reap)
            .min(self.next_retain)
            .min(self.next_stuck);
        for (id, at) in self.lanes.next() {
            let Some((_, queue)) = self.configuration.queue(id) else {
                continue;
            };
            if self.room(queue, now, crowded) > 0 {
                next = next.min(at);
            } else if !queue.paused {
                // Its relays are suspended, a limit is used up, or it is full; then an outcome wakes this worker.
                let Transport::Smtp(relays) = &queue.transport else {
                    continue;
                };
                let resumes = relays
                    .iter()
                    .map(|relay| Limited::Relay(*relay))
                    .chain([Limited::Queue(queue.id)])
                    .map(|limit| self.blocked(limit))
                    .filter(|until| *until > now);
                next = next.min(resumes.min().unwrap_or(i64::MAX));
            }
        }
        if self.slot.is_none() {
            next = next.min(now + SECOND); // nobody tells it that somebody wants the database for himself
        }
        let next = next.max(self.pause_until);
        (next.saturating_sub(now).max(0) / 1000)
            .saturating_add(1)
            .min(60_000)
    }

    fn back_off(&mut self, failure: &Failure) {
        self.failures += 1;
        let pause = (100_000 << self.failures.min(8)).min(10 * SECOND);
        self.pause_until = pg::now() + pause;
        self.next_sweep = 0;
        if failure.is_locked() && self.failures == 1 {
            return; // as while an update of the extension waits for its locks, or has them
        }
        pgrx::warning!(
            "pgmq_mail worker: {failure}; it goes on in {} ms",
            pause / 1000
        );
    }

    /// Stops the network, settles what came of it, and gives back the rest.
    fn finish(mut self) {
        pg::Patience::start();
        self.pool.stop(GRACE);
        let deadline = pg::now() + i64::try_from(GRACE.as_micros()).unwrap_or(0) + SECOND / 2;
        self.receive();
        let ended = |worker: &Self| {
            let ends = worker.outcomes.iter().chain(&worker.stuck);
            ends.filter(|end| !end.more).count()
        };
        while ended(&self) < self.flight.len() && pg::now() < deadline {
            self.doorbell.wait(50);
            self.receive();
        }
        self.settle_all();
        self.pool.join(Duration::from_millis(100));
    }
}
