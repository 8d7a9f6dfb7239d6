//! Wake-up at commit: a transaction notes what it touches, and one callback at its end publishes that and sets
//! latches. No lock is waited for and nothing is written.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering::SeqCst,
};

use pgrx::{Spi, pg_guard, pg_sys};

use super::{
    locks::{Lock, WORKER},
    shmem::{self, CONFIGURATION, LaneMark, SWEEP, SlotHandle, TIMER, launcher},
};

thread_local! {
    static MARKS: RefCell<Vec<LaneMark>> = const { RefCell::new(Vec::new()) };
    /// With the nesting level of the subtransaction that locked them.
    static LOCKED: RefCell<Vec<(i32, LaneMark)>> = const { RefCell::new(Vec::new()) };
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
    static ANNOUNCE: Cell<bool> = const { Cell::new(false) };
    static WORKER_PID: Cell<i32> = const { Cell::new(0) };
    static WAITING: Cell<bool> = const { Cell::new(false) };
}

/// Registers the callback for the life of the process.
pub fn register() {
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_sub_end), std::ptr::null_mut());
    }
}

/// Notes that something in a lane may be claimable from `due` on.
pub fn note(mark: LaneMark) {
    MARKS.with_borrow_mut(|marks| {
        let same = |m: &&mut LaneMark| m.queue == mark.queue && m.rank == mark.rank;
        if let Some(known) = marks.iter_mut().find(same) {
            known.due = known.due.min(mark.due);
            return;
        }
        if marks.is_empty() && !shmem::preloaded() {
            look_up_worker();
        }
        marks.push(mark);
    });
}

/// Notes that a lease from outside ends then.
pub fn note_timer(at: i64) {
    note(LaneMark {
        queue: TIMER,
        rank: 0,
        due: at,
    });
}

/// Notes that the configuration is a new one.
pub fn note_configuration() {
    note(LaneMark {
        queue: TIMER,
        rank: CONFIGURATION,
        due: super::now(),
    });
}

/// Notes rows that this transaction has locked: others pass over them, so they are announced if it rolls back.
pub fn note_locked(mark: LaneMark) {
    // SAFETY: reads the state of the current transaction.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    LOCKED.with_borrow_mut(|locked| locked.push((level, mark)));
}

/// Notes that whoever waits for a queue should look again from its beginning. The worker looks by itself after what it
/// settles.
pub fn note_sweep(queue: i32) {
    if !IS_WORKER.get() {
        note(LaneMark {
            queue,
            rank: SWEEP,
            due: i64::MIN,
        });
    }
}

/// Says that this process is a delivery worker.
pub fn is_worker() {
    IS_WORKER.set(true);
}

/// Notes that this database may need a worker: asked for when the transaction commits.
pub fn request_worker() {
    ANNOUNCE.set(true);
}

/// Without shared memory, the worker is known by the lock that it holds. Anybody may look at `pg_locks`; all operators are
/// qualified, since this may run under the caller's search path and the owner's rights.
fn look_up_worker() {
    if WORKER_PID.get() != 0 {
        return;
    }
    let query = format!(
        "SELECT k.pid FROM pg_catalog.pg_locks k \
         WHERE k.locktype OPERATOR(pg_catalog.=) 'userlock' AND k.granted \
         AND k.classid::pg_catalog.int8 OPERATOR(pg_catalog.=) {WORKER}::pg_catalog.int8 \
         AND k.objid::pg_catalog.int8 OPERATOR(pg_catalog.=) 0::pg_catalog.int8 \
         AND k.database::pg_catalog.int8 OPERATOR(pg_catalog.=) {}::pg_catalog.int8",
        super::database().to_u32()
    );
    // No worker: the next sweep of one that is started finds what is enqueued.
    WORKER_PID.set(Spi::get_one::<i32>(&query).ok().flatten().unwrap_or(0));
}

#[pg_guard]
extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PARALLEL_ABORT, XACT_EVENT_PARALLEL_COMMIT,
        XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_COMMIT
        | XACT_EVENT_ABORT
        | XACT_EVENT_PARALLEL_COMMIT
        | XACT_EVENT_PARALLEL_ABORT => {
            count_waiter(false);
            let announce = ANNOUNCE.replace(false);
            let mut marks = MARKS.take();
            let locked = LOCKED.take();
            if matches!(event, XACT_EVENT_ABORT | XACT_EVENT_PARALLEL_ABORT) {
                marks = locked.into_iter().map(|(_, mark)| mark).collect();
            }
            if announce {
                // SAFETY: a plain variable of this process.
                launcher::request(unsafe { pg_sys::MyDatabaseId });
            }
            if !marks.is_empty() {
                publish(&marks);
            }
        }
        XACT_EVENT_PREPARE => {
            ANNOUNCE.set(false);
            LOCKED.with_borrow_mut(Vec::clear);
            MARKS.with_borrow_mut(Vec::clear);
        }
        _ => {}
    }
}

#[pg_guard]
extern "C-unwind" fn at_sub_end(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    if !matches!(event, SUBXACT_EVENT_ABORT_SUB | SUBXACT_EVENT_COMMIT_SUB) {
        return;
    }
    // SAFETY: reads the state of the current transaction.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    let released = LOCKED.with_borrow_mut(|locked| {
        if event == SUBXACT_EVENT_COMMIT_SUB {
            locked
                .iter_mut()
                .filter(|(at, _)| *at >= level)
                .for_each(|(at, _)| *at = level - 1);
            return Vec::new();
        }
        locked
            .extract_if(.., |(at, _)| *at >= level)
            .map(|(_, mark)| mark)
            .collect()
    });
    if !released.is_empty() {
        publish(&released);
    }
}

fn publish(marks: &[LaneMark]) {
    // SAFETY: a plain variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    if shmem::preloaded() {
        let slot = SlotHandle::find(database);
        // Every mark is published, whether or not an earlier one wakes the worker already.
        let wake = slot.is_none_or(|slot| {
            marks
                .iter()
                .fold(false, |wake, mark| publish_one(slot, *mark) | wake)
        });
        if wake && !slot.is_some_and(SlotHandle::wake) {
            launcher::request(database);
        }
    } else {
        wake_pid();
    }
    if shmem::waiters().is_none_or(|count| count.load(SeqCst) > 0) {
        for (n, mark) in marks.iter().enumerate() {
            if !marks[..n].iter().any(|earlier| earlier.queue == mark.queue) {
                wake_waiters(mark.queue);
            }
        }
    }
}

fn publish_one(slot: SlotHandle, mark: LaneMark) -> bool {
    if mark.rank == SWEEP {
        slot.sweep(mark.queue)
    } else {
        slot.mark(mark)
    }
}

fn wake_pid() {
    let pid = WORKER_PID.get();
    if pid == 0 {
        return;
    }
    // SAFETY: the PGPROC array lives as long as the server; at worst another backend is woken for nothing.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() && (*process).databaseId == pg_sys::MyDatabaseId {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
            return;
        }
    }
    WORKER_PID.set(0);
}

unsafe extern "C-unwind" {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    fn BackendIdGetProc(id: core::ffi::c_int) -> *mut pg_sys::PGPROC;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn ProcNumberGetProc(number: core::ffi::c_int) -> *mut pg_sys::PGPROC;
}

/// Sets the latch of every backend that waits for the queue: they hold a shared lock.
fn wake_waiters(queue: i32) {
    let tag = Lock::Waiter(queue).tag();
    let mut count = 0;
    // SAFETY: the tag lives across the call; the result is an array of `count` entries that ends with an invalid one;
    // a PGPROC lives as long as the server, and waking one for nothing does no harm.
    unsafe {
        let holders =
            pg_sys::GetLockConflicts(&raw const tag, pg_sys::ExclusiveLock as i32, &raw mut count);
        for n in 0..usize::try_from(count).unwrap_or(0) {
            let holder = *holders.add(n);
            #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
            let process = BackendIdGetProc(holder.backendId);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let process = ProcNumberGetProc(holder.procNumber);
            if !process.is_null() {
                pg_sys::SetLatch(&raw mut (*process).procLatch);
            }
        }
    }
}

fn count_waiter(waiting: bool) {
    if WAITING.replace(waiting) != waiting
        && let Some(count) = shmem::waiters()
    {
        if waiting {
            count.fetch_add(1, SeqCst);
        } else {
            count.fetch_sub(1, SeqCst);
        }
    }
}

/// From now on commits that touch the queue wake this backend.
pub fn await_begin(queue: i32) {
    let tag = Lock::Waiter(queue).tag();
    // SAFETY: the tag lives across the call; a transaction-level lock ends with the transaction at the latest.
    unsafe { pg_sys::LockAcquire(&raw const tag, pg_sys::ShareLock as i32, false, false) };
    count_waiter(true);
}

/// Ends what [`await_begin`] began.
pub fn await_end(queue: i32) {
    let tag = Lock::Waiter(queue).tag();
    // SAFETY: as above.
    unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ShareLock as i32, false) };
    count_waiter(false);
}

unsafe extern "C-unwind" {
    /// Postgres' `libpq/libpq.h`: whether the client is still there.
    fn pq_check_connection() -> bool;
}

/// Sleeps until this backend is woken or the time has come. Cancelling the statement ends it, and so does a client that is
/// gone: what this backend would claim then, nobody would ever see.
pub fn await_touch(until: i64) {
    let wait = (until - super::now()).max(0) / 1000 + 1;
    // SAFETY: MyLatch is this process' latch; interrupts are processed as in any wait of Postgres. Only a process that has a
    // client has what pq_check_connection looks at; an ERROR of it is caught at the boundary. The flags are those that
    // Postgres' own check of the client sets.
    unsafe {
        let events =
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH).cast_signed();
        pg_sys::WaitLatch(pg_sys::MyLatch, events, wait, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // It may reset the latch once more: whatever that was set for, the caller looks for after this.
        let has_client = !pg_sys::MyProcPort.is_null();
        if has_client && !pg_sys::ffi::pg_guard_ffi_boundary(|| pq_check_connection()) {
            pg_sys::ClientConnectionLost = 1;
            pg_sys::InterruptPending = 1;
        }
    }
    pgrx::check_for_interrupts!();
}
