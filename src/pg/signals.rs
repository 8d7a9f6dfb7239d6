//! Signals of background workers.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use pgrx::{
    bgworkers::{BackgroundWorker, SignalWakeFlags},
    pg_sys,
};

static STOPPING: AtomicBool = AtomicBool::new(false);

/// SIGTERM and SIGHUP set flags and this process' latch.
pub fn install() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // SAFETY: `die` is Postgres' own handler; it ends even a wait within a transaction. See `Patience`.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(libc::SIGUSR2, Some(die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(libc::SIGUSR2, Some(die));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn die(signal: core::ffi::c_int) {
    // SAFETY: called as the handler that it is.
    unsafe { pg_sys::die(signal) };
}

/// Whether SIGTERM came. It is never taken back.
pub fn stop_requested() -> bool {
    if BackgroundWorker::sigterm_received() {
        STOPPING.store(true, SeqCst);
    }
    STOPPING.load(SeqCst)
}

/// Whether SIGHUP came since the last call; the settings have then been read again.
pub fn reload_requested() -> bool {
    let reload = BackgroundWorker::sighup_received();
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
/// it ends as a backend does that was terminated.
pub struct Patience;

impl Patience {
    /// Starts the clock.
    pub fn start(limit: Duration) {
        let watch = move || {
            std::thread::sleep(limit);
            // SAFETY: a signal to this very process, whose handler was installed by `install`.
            unsafe { libc::kill(libc::getpid(), libc::SIGUSR2) };
        };
        // Without the thread the stop is unbounded only where something else is wrong too.
        drop(with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("patience".into())
                .spawn(watch)
        }));
    }
}
