//! The launcher keeps one delivery worker for each database that has the extension.
//!
//! It is connected to no database, so it blocks none, and nobody's code can run in it. It learns of a database from a
//! request (CREATE EXTENSION, a commit that found no worker to wake), at its start from the list of databases, and every
//! minute from that list again, for copies that nobody announced. A worker that finds no extension says so and leaves for
//! good; one that dies is started again, with a growing pause if it keeps dying.

use std::{collections::HashMap, ffi::CStr, time::Duration};

use pgrx::{
    Spi,
    bgworkers::{
        BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
    },
    pg_guard, pg_sys,
};

use super::delivery::argument;
use crate::{
    error,
    pg::{self, SlotHandle, Status, doorbell::Doorbell},
};

const SECOND: i64 = 1_000_000;
const LIST_EVERY: i64 = 60 * SECOND;
/// How long `mail.start_worker()` waits for the launcher.
const START_PATIENCE: i64 = 5 * SECOND;
const LONGEST_PAUSE: i64 = 60 * SECOND;

/// Registers the launcher. Only while preloaded libraries are loaded.
pub fn register() {
    BackgroundWorkerBuilder::new("pgmq_mail launcher")
        .set_type("pgmq_mail launcher")
        .set_library("pgmq_mail")
        .set_function("pgmq_mail_launcher_main")
        .enable_shmem_access(None)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// The role that workers connect as. Where it is missing, no database has the extension.
const ROLE: &CStr = c"mail_worker";

/// That role. Before 0.2.0 it could not log in: as long as no database of the cluster has been updated, workers connect as
/// nobody in particular, and take its rights on themselves.
pub(super) fn worker_role() -> Option<pg_sys::Oid> {
    let role = pg::role(ROLE)?;
    let connects = pg::may_log_in(role);
    Some(if connects { role } else { pg_sys::InvalidOid })
}

fn delivery(
    database: pg_sys::Oid,
    role: pg_sys::Oid,
    notify: i32,
) -> Option<DynamicBackgroundWorker> {
    BackgroundWorkerBuilder::new(&format!(
        "pgmq_mail worker for database {}",
        database.to_u32()
    ))
    .set_type("pgmq_mail worker")
    .set_library("pgmq_mail")
    .set_function("pgmq_mail_delivery_main")
    .set_argument(Some(argument(database, role)))
    .set_notify_pid(notify)
    .enable_shmem_access(None)
    .enable_spi_access()
    .set_start_time(BgWorkerStartTime::RecoveryFinished)
    .set_restart_time(None)
    .load_dynamic()
    .ok()
}

/// `mail.start_worker()`.
pub fn start_here() -> bool {
    if pg::in_recovery() {
        error::read_only("start a worker");
    }
    if running() {
        return false;
    }
    if pg::preloaded() {
        pg::launcher::request(pg::database());
        let deadline = pg::now() + START_PATIENCE;
        // Not by `running`: within a transaction the server's statistics show what was there at the first look.
        let up = || {
            SlotHandle::find(pg::database()).is_some_and(|slot| slot.status() == Status::Running)
        };
        while !up() {
            if pg::now() > deadline {
                error::no_worker();
            }
            pg::await_touch((pg::now() + 20_000).min(deadline));
        }
        return true;
    }
    let Some(worker) = worker_role().and_then(|role| delivery(pg::database(), role, pg::pid()))
    else {
        error::no_worker();
    };
    worker.wait_for_startup().is_ok()
}

fn running() -> bool {
    Spi::get_one::<bool>("SELECT EXISTS (SELECT FROM mail._workers())")
        .ok()
        .flatten()
        .unwrap_or(false)
}

/// `mail.stop_worker()`.
pub fn stop_here() -> bool {
    if pg::in_recovery() {
        return false;
    }
    let stopped = Spi::get_one::<i64>(
        "SELECT count(pg_catalog.pg_terminate_backend(w.pid)) FROM mail._workers() w",
    );
    stopped.ok().flatten().unwrap_or(0) > 0
}

/// What the launcher knows of a database.
#[derive(Default)]
struct Database {
    worker: Option<DynamicBackgroundWorker>,
    started: i64,
    failures: u32,
    /// Asked for while its worker ran: that one may be about to leave.
    requested: bool,
    /// Said in the log that there was no place for one.
    warned: bool,
    /// When to start a worker; `None`: only on request.
    due: Option<i64>,
}

/// Entry point of the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(
    unsafe_code,
    reason = "an exported symbol: Postgres finds the entry point by its name"
)]
pub extern "C-unwind" fn pgmq_mail_launcher_main(_argument: pg_sys::Datum) {
    pg::install_signal_handlers();
    pg::connect_to_none();
    pg::launcher::enter();
    let Ok((doorbell, _bell)) = Doorbell::new() else {
        pg::exit(1)
    };
    let mut databases: HashMap<pg_sys::Oid, Database> = HashMap::new();
    let mut role = None;
    let mut next_list = 0;
    while !pg::stop_requested() {
        pg::reload_requested();
        let now = pg::now();
        if now >= next_list {
            list(&mut databases, &mut role, now);
            next_list = now + LIST_EVERY;
        }
        for requested in pg::launcher::requests() {
            let database = databases.entry(requested).or_default();
            database.requested = true;
            if database.worker.is_none() && database.failures == 0 {
                database.due = Some(now);
            }
        }
        for (oid, database) in &mut databases {
            database.check(*oid, now);
        }
        if databases
            .values()
            .any(|database| database.wants_worker(now))
        {
            list(&mut databases, &mut role, now); // without those that were dropped meanwhile
        }
        let mut next = next_list;
        for (oid, database) in &mut databases {
            database.start(*oid, role, now);
            next = next.min(database.due.unwrap_or(i64::MAX));
        }
        doorbell.wait((next.saturating_sub(now).max(0) / 1000).saturating_add(1));
    }
    pg::launcher::leave();
    pg::exit(1);
}

/// Reads which databases there are, and the role of the workers.
fn list(databases: &mut HashMap<pg_sys::Oid, Database>, role: &mut Option<pg_sys::Oid>, now: i64) {
    match pg::transaction(|| Ok((pg::databases(), worker_role()))) {
        Ok((present, found)) => {
            *role = found;
            for oid in &present {
                databases.entry(*oid).or_insert_with(|| Database {
                    due: Some(now),
                    ..Database::default()
                });
            }
            databases.retain(|oid, _| {
                let keep = present.contains(oid);
                if !keep && let Some(slot) = SlotHandle::find(*oid) {
                    slot.free();
                }
                keep
            });
        }
        Err(failure) => {
            pgrx::warning!("pgmq_mail launcher could not list the databases: {failure}");
        }
    }
}

impl Database {
    /// Sees whether its worker has ended.
    fn check(&mut self, oid: pg_sys::Oid, now: i64) {
        let Some(worker) = &self.worker else { return };
        if !matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)) {
            return;
        }
        self.worker = None;
        let slot = SlotHandle::find(oid);
        if let Some(slot) = slot
            && slot.status() == Status::Running
        {
            slot.leave(Status::Unknown); // it died without a word
        }
        if slot.is_some_and(|slot| slot.status() == Status::Absent) {
            self.failures = 0;
            self.due = std::mem::take(&mut self.requested).then_some(now);
            if let Some(slot) = slot.filter(|slot| !slot.held()) {
                slot.free();
            }
            return;
        }
        let left = slot.is_some_and(|slot| slot.status() == Status::Left);
        self.failures = if left || now - self.started > 10 * SECOND {
            0
        } else {
            self.failures + 1
        };
        let pause = (SECOND << self.failures.min(6)).min(LONGEST_PAUSE) / 2;
        self.due = Some(if left { now + SECOND / 10 } else { now + pause });
    }

    fn wants_worker(&self, now: i64) -> bool {
        self.worker.is_none() && self.due.is_some_and(|due| due <= now)
    }

    fn start(&mut self, oid: pg_sys::Oid, role: Option<pg_sys::Oid>, now: i64) {
        if !self.wants_worker(now) {
            return;
        }
        let Some(role) = role else {
            // CREATE EXTENSION makes the role, and asks for a worker a moment before others are told what it made.
            self.due = std::mem::take(&mut self.requested).then_some(now + SECOND / 10);
            return;
        };
        if SlotHandle::find(oid).is_some_and(SlotHandle::held) {
            self.due = Some(now + SECOND / 10);
            return;
        }
        self.requested = false;
        self.started = now;
        if let Some(slot) = SlotHandle::find(oid) {
            slot.leave(Status::Unknown); // until it says more
        }
        self.worker = delivery(oid, role, pg::pid());
        // Without a free place for a worker, try again.
        if self.worker.is_none() && !self.warned {
            pgrx::warning!(
                "pgmq_mail has no free place for the worker of database {}: raise max_worker_processes",
                oid.to_u32()
            );
        }
        self.warned = self.worker.is_none();
        self.due = self.worker.is_none().then_some(now + 5 * SECOND);
    }
}
