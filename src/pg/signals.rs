//! Signals of background workers.

use std::{
    fs::File,
    io::{Error, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    time::Duration,
};

use pgrx::{
    bgworkers::{BackgroundWorker, SignalWakeFlags},
    pg_sys,
};

static STOPPING: AtomicBool = AtomicBool::new(false);
static STARTING: AtomicBool = AtomicBool::new(true);
/// The eventfd that starts the clock of `Patience`.
static CLOCK: AtomicI32 = AtomicI32::new(-1);

/// SIGTERM and SIGHUP set flags and this process' latch.
pub fn install() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    handle(libc::SIGTERM, stop);
    // It ends even a wait within a transaction. See `Patience`.
    handle(libc::SIGUSR2, die);
}

fn handle(signal: core::ffi::c_int, handler: unsafe extern "C-unwind" fn(core::ffi::c_int)) {
    // SAFETY: both handlers do only what a handler may.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(signal, Some(handler));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

unsafe extern "C-unwind" fn stop(_signal: core::ffi::c_int) {
    // SAFETY: the errno of this thread is put back, a flag of Postgres is set as its own handler sets it, and MyLatch is
    // this process' latch.
    unsafe {
        let before = *libc::__errno_location();
        STOPPING.store(true, SeqCst);
        (&raw mut pg_sys::ShutdownRequestPending).write_volatile(1);
        start_clock();
        pg_sys::SetLatch(pg_sys::MyLatch);
        *libc::__errno_location() = before;
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn die(signal: core::ffi::c_int) {
    // SAFETY: called as the handler that it is.
    unsafe { pg_sys::die(signal) };
}

/// Whether SIGTERM came. It is never taken back.
pub fn stop_requested() -> bool {
    STOPPING.load(SeqCst)
}

/// Whether SIGHUP came since the last call, or might have come before [`install`]: Postgres has a worker that is just
/// starting ignore it. The settings have then been read again.
pub fn reload_requested() -> bool {
    let reload = BackgroundWorker::sighup_received() | STARTING.swap(false, SeqCst);
    if reload {
        // SAFETY: outside a transaction, as Postgres' own workers do it.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
    reload
}

/// Runs `start`, which starts threads, with all signals blocked, so that no thread but this one handles any.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets live across the calls; the mask of this thread is restored.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        result
    }
}

/// Bounds how long this process may take to stop, even if it waits for a lock or a standby: when the time is over
/// it ends as a backend does that was terminated. The clock starts with SIGTERM, or when this process decides to leave.
pub struct Patience;

impl Patience {
    /// Has the clock watched from now on.
    pub fn watch(limit: Duration) -> std::io::Result<()> {
        // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
        let mut clock = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        let fd = clock.as_raw_fd();
        let watch = move || {
            if clock.read_exact(&mut [0; 8]).is_ok() {
                std::thread::sleep(limit);
                // SAFETY: a signal to this very process, whose handler was installed by `install`.
                unsafe { libc::kill(libc::getpid(), libc::SIGUSR2) };
            }
            // Until the process ends: the handler knows the descriptor.
            std::mem::forget(clock);
        };
        with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("patience".into())
                .spawn(watch)
        })?;
        CLOCK.store(fd, SeqCst);
        if stop_requested() {
            start_clock();
        }
        Ok(())
    }

    /// Starts the clock, if it does not run already.
    pub fn start() {
        start_clock();
    }

    /// Between transactions: leaves if the time is over. A wait for a standby ends then, too, and what the standby does
    /// not have must not be sent.
    pub fn end() {
        // SAFETY: plain variables of this process. What would cancel a statement is forgotten, for there is none.
        unsafe {
            if pg_sys::ProcDiePending != 0 {
                pg_sys::QueryCancelPending = 0;
                pgrx::check_for_interrupts!();
            }
        }
    }
}

/// What a signal handler may do, too.
fn start_clock() {
    let fd = CLOCK.load(SeqCst);
    if fd >= 0 {
        // SAFETY: an eventfd of this process, which is never closed, takes the eight bytes of a number.
        unsafe { libc::write(fd, (&raw const ONE).cast(), 8) };
    }
}

static ONE: u64 = 1;
