//! Shared memory: which databases have a worker, how to wake it, and the smallest new key per lane.
//!
//! Everything is atomic, and nobody waits for anybody but to give a database its slot. A lane is a queue and a rank
//! (negated priority). At the end of a transaction its keys are published with [`SlotHandle::mark`]; the worker takes
//! them with [`SlotHandle::drain`] before it takes the snapshot that it looks with, so that what is published is visible.

use std::{
    ffi::CStr,
    ptr,
    sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use pgrx::{pg_guard, pg_sys};

const SLOTS: usize = 64;
/// A power of two.
const LANES: usize = 1024;
const REQUESTS: usize = 64;
const NOTHING: i64 = i64::MAX;

/// A published key: the earliest due time of what was touched in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneMark {
    pub queue: i32,
    pub rank: i32,
    pub due: i64,
}

/// The queue number of marks that are about timers: the end of a lease, or a new configuration. Real ones are positive,
/// and no mark's key is zero, which stands for a free place.
pub const TIMER: i32 = -1;
/// The rank of timer marks that tell of a new configuration; others tell when a lease ends.
pub const CONFIGURATION: i32 = 1;
/// The rank of marks that ask to look at all lanes from their beginning; those of messages are within a million.
pub const SWEEP: i32 = i32::MAX;

impl LaneMark {
    fn key(self) -> u64 {
        (u64::from(self.queue.cast_unsigned()) << 32) | u64::from(self.rank.cast_unsigned())
    }

    fn from_key(key: u64, due: i64) -> Self {
        let half = |bits: u64| {
            u32::try_from(bits & 0xffff_ffff)
                .unwrap_or_default()
                .cast_signed()
        };
        Self {
            queue: half(key >> 32),
            rank: half(key),
            due,
        }
    }
}

/// What is known of the worker of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Nothing yet, or it died.
    Unknown = 0,
    /// It runs.
    Running = 1,
    /// It found no extension and left.
    Absent = 2,
    /// It was told to leave, and did.
    Left = 3,
}

#[repr(C)]
struct Lane {
    key: AtomicU64,
    due: AtomicI64,
    /// The worker could not claim from here now, and will look when it can: publishing need not wake it.
    quiet: AtomicBool,
}

#[repr(C)]
struct Slot {
    database: AtomicU32,
    status: AtomicU32,
    latch: AtomicPtr<pg_sys::Latch>,
    hold_until: AtomicI64,
    /// Since when the worker's transactions have failed (microseconds, Postgres' epoch); zero: they do not.
    failing_since: AtomicI64,
    /// Counts changes of the configuration.
    configuration: AtomicU32,
    /// Due time for marks that found no free lane; every lane starts again from there.
    overflow: AtomicI64,
    lanes: [Lane; LANES],
}

#[repr(C)]
struct Shared {
    launcher: AtomicPtr<pg_sys::Latch>,
    waiters: AtomicU32,
    requests: [AtomicU32; REQUESTS],
    slots: [Slot; SLOTS],
}

/// The name of the memory, and of the lock under which a database gets its slot, so that it never gets two.
const NAME: &CStr = c"pgmq_mail";

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());
static IS_LAUNCHER: AtomicBool = AtomicBool::new(false);

static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;
#[cfg(not(feature = "pg14"))]
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;

/// Asks for the memory. Only while preloaded libraries are loaded.
pub fn register() {
    // SAFETY: called once, by the postmaster, while it loads libraries: single-threaded.
    unsafe {
        #[cfg(feature = "pg14")]
        request_all();
        #[cfg(not(feature = "pg14"))]
        {
            PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(request);
        }
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[cfg(not(feature = "pg14"))]
#[pg_guard]
extern "C-unwind" fn request() {
    // SAFETY: the hook runs in the postmaster, single-threaded; the previous hook is what another library set.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        request_all();
    }
}

/// Where Postgres lets libraries ask.
unsafe fn request_all() {
    // SAFETY: by the caller's word; the name is a C string, which is copied.
    unsafe {
        pg_sys::RequestAddinShmemSpace(size_of::<Shared>());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
    }
}

#[pg_guard]
extern "C-unwind" fn startup() {
    // SAFETY: as above. ShmemInitStruct returns memory of the size asked for that lives as long as the server,
    // aligned to a cache line; all-zero bytes are valid for every field, and what must not be zero is set before
    // anybody else can look.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let mut found = false;
        let shared: *mut Shared =
            pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<Shared>(), &raw mut found).cast();
        if !found {
            ptr::write_bytes(shared, 0, 1);
            for slot in &(*shared).slots {
                slot.reset();
            }
        }
        SHARED.store(shared, SeqCst);
    }
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: null, or set by `startup` to memory that lives as long as the process; all access is atomic.
    unsafe { SHARED.load(SeqCst).as_ref() }
}

/// Whether the library was preloaded, so that there is shared memory and a launcher.
pub fn preloaded() -> bool {
    shared().is_some()
}

/// Runs `work`, which can raise no ERROR, while no other process does.
fn alone<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the lock was asked for together with the memory, and is released by the process that has it.
    unsafe {
        let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(NAME.as_ptr())).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = work();
        pg_sys::LWLockRelease(lock);
        result
    }
}

impl Slot {
    fn reset(&self) {
        self.status.store(Status::Unknown as u32, SeqCst);
        self.latch.store(ptr::null_mut(), SeqCst);
        self.hold_until.store(i64::MIN, SeqCst);
        self.failing_since.store(0, SeqCst);
        self.overflow.store(NOTHING, SeqCst);
        for lane in &self.lanes {
            lane.key.store(0, SeqCst);
            lane.due.store(NOTHING, SeqCst);
            lane.quiet.store(false, SeqCst);
        }
    }
}

/// The slot of one database.
#[derive(Clone, Copy)]
pub struct SlotHandle(&'static Slot);

impl SlotHandle {
    /// The database's slot, if it has one.
    pub fn find(database: pg_sys::Oid) -> Option<Self> {
        let wanted = database.to_u32();
        shared()?
            .slots
            .iter()
            .find(|slot| slot.database.load(SeqCst) == wanted)
            .map(Self)
    }

    /// The database's slot, taken now if need be; `None` when all are taken or there is no shared memory.
    pub fn take(database: pg_sys::Oid) -> Option<Self> {
        let slots = &shared()?.slots;
        Self::find(database).or_else(|| {
            alone(|| {
                // Another process may have taken it a moment ago.
                Self::find(database).or_else(|| {
                    let free = |slot: &&Slot| slot.database.load(SeqCst) == 0;
                    let slot = slots.iter().find(free)?;
                    slot.database.store(database.to_u32(), SeqCst);
                    Some(Self(slot))
                })
            })
        })
    }

    /// Gives the slot back: nobody needs it any more.
    pub fn free(self) {
        self.0.reset();
        self.0.database.store(0, SeqCst);
    }

    /// Publishes a key; true when the worker should be woken for it.
    pub fn mark(self, mark: LaneMark) -> bool {
        if mark.queue == TIMER && mark.rank == CONFIGURATION {
            self.0.configuration.fetch_add(1, SeqCst);
        }
        let key = mark.key();
        // Fibonacci hashing: neighbours among the keys are none among the places.
        let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        for at in first..first + LANES {
            let lane = &self.0.lanes[at % LANES];
            let mut seen = lane.key.load(SeqCst);
            if seen == 0 {
                seen = match lane.key.compare_exchange(0, key, SeqCst, SeqCst) {
                    Ok(_) => key,
                    Err(seen) => seen,
                };
            }
            if seen == key {
                lane.due.fetch_min(mark.due, SeqCst);
                return !lane.quiet.load(SeqCst);
            }
        }
        self.0.overflow.fetch_min(mark.due, SeqCst);
        true
    }

    /// How often the configuration has changed.
    pub fn configuration(self) -> u32 {
        self.0.configuration.load(SeqCst)
    }

    /// Asks the worker to start all lanes again; true when it should be woken for that.
    pub fn sweep(self, queue: i32) -> bool {
        self.0.overflow.store(i64::MIN, SeqCst);
        let mut known = self
            .lanes()
            .filter(|(_, key)| LaneMark::from_key(*key, 0).queue == queue)
            .peekable();
        known.peek().is_none() || known.any(|(lane, _)| !lane.quiet.load(SeqCst))
    }

    /// Says for which queues publishing need not wake the worker; true when that is over for one, so that what was
    /// published silently has to be drained.
    pub fn silence(self, quiet: impl Fn(i32) -> bool) -> bool {
        let woken = self.lanes().map(|(lane, key)| {
            let queue = LaneMark::from_key(key, 0).queue;
            let quiet = queue != TIMER && quiet(queue);
            lane.quiet.swap(quiet, SeqCst) && !quiet
        });
        woken.fold(false, |any, woken| any | woken)
    }

    /// Those that have a key, with their keys.
    fn lanes(self) -> impl Iterator<Item = (&'static Lane, u64)> {
        let lanes = self.0.lanes.iter();
        lanes
            .map(|lane| (lane, lane.key.load(SeqCst)))
            .filter(|(_, key)| *key != 0)
    }

    /// Takes what was published since the last call; the second value is true when all lanes have to
    /// start again.
    pub fn drain(self) -> (Vec<LaneMark>, bool) {
        let mut marks = Vec::new();
        for (lane, key) in self.lanes() {
            // A look costs less than a swap, and most have nothing.
            if lane.due.load(SeqCst) != NOTHING {
                marks.push(LaneMark::from_key(key, lane.due.swap(NOTHING, SeqCst)));
            }
        }
        let overflow = self.0.overflow.swap(NOTHING, SeqCst);
        (marks, overflow != NOTHING)
    }

    /// Says that this process is the database's worker.
    pub fn enter(self) {
        // SAFETY: MyLatch is this process' latch, in shared memory for as long as the server runs.
        self.0.latch.store(unsafe { pg_sys::MyLatch }, SeqCst);
        self.0.status.store(Status::Running as u32, SeqCst);
        self.set_failing(false);
    }

    /// Says that the worker leaves.
    pub fn leave(self, status: Status) {
        self.silence(|_| false);
        self.0.latch.store(ptr::null_mut(), SeqCst);
        self.0.status.store(status as u32, SeqCst);
    }

    /// What is known of the worker.
    pub fn status(self) -> Status {
        match self.0.status.load(SeqCst) {
            1 => Status::Running,
            2 => Status::Absent,
            3 => Status::Left,
            _ => Status::Unknown,
        }
    }

    /// Says whether the worker's transactions fail.
    pub fn set_failing(self, failing: bool) {
        let since = if failing { super::now() } else { 0 };
        if failing != self.failing_since().is_some() {
            self.0.failing_since.store(since, SeqCst);
        }
    }

    /// Since when they have (microseconds, Postgres' epoch).
    pub fn failing_since(self) -> Option<i64> {
        Some(self.0.failing_since.load(SeqCst)).filter(|since| *since != 0)
    }

    /// Wakes the worker; false if there is none.
    pub fn wake(self) -> bool {
        set(self.0.latch.load(SeqCst))
    }

    /// Keeps workers out of the database until then (microseconds, Postgres' epoch).
    pub fn hold(self, until: i64) {
        self.0.hold_until.store(until, SeqCst);
        self.wake();
    }

    /// Whether workers are to stay out.
    pub fn held(self) -> bool {
        self.0.hold_until.load(SeqCst) > super::now()
    }
}

fn set(latch: *mut pg_sys::Latch) -> bool {
    if latch.is_null() {
        return false;
    }
    // SAFETY: a latch of a PGPROC; those live as long as the server, and setting one that has passed to another
    // process wakes that process for nothing.
    unsafe { pg_sys::SetLatch(latch) };
    true
}

/// How many backends wait in `mail.claim`; `None` without shared memory.
pub fn waiters() -> Option<&'static AtomicU32> {
    shared().map(|shared| &shared.waiters)
}

/// The launcher's side.
pub mod launcher {
    use super::{IS_LAUNCHER, SeqCst, pg_sys, ptr, set, shared};

    /// Says that this process is the launcher.
    pub fn enter() {
        if let Some(shared) = shared() {
            IS_LAUNCHER.store(true, SeqCst);
            // SAFETY: as in `SlotHandle::enter`.
            shared.launcher.store(unsafe { pg_sys::MyLatch }, SeqCst);
        }
    }

    /// Says that the launcher leaves.
    pub fn leave() {
        if let Some(shared) = shared()
            && IS_LAUNCHER.load(SeqCst)
        {
            shared.launcher.store(ptr::null_mut(), SeqCst);
        }
    }

    /// Asks the launcher to see to a database.
    pub fn request(database: pg_sys::Oid) {
        let Some(shared) = shared() else { return };
        let wanted = database.to_u32();
        for request in &shared.requests {
            let seen = request
                .compare_exchange(0, wanted, SeqCst, SeqCst)
                .unwrap_or_else(|seen| seen);
            if seen == 0 || seen == wanted {
                break;
            }
        }
        set(shared.launcher.load(SeqCst));
    }

    /// Takes the requests.
    pub fn requests() -> Vec<pg_sys::Oid> {
        let taken = shared()
            .into_iter()
            .flat_map(|shared| &shared.requests)
            .map(|request| request.swap(0, SeqCst));
        taken
            .filter(|oid| *oid != 0)
            .map(pg_sys::Oid::from)
            .collect()
    }
}
