//! How the network thread wakes the main thread: an eventfd beside the latch.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use pgrx::pg_sys;

/// The main thread's end.
pub struct Doorbell {
    fd: OwnedFd,
}

/// The network thread's end.
pub struct Bell {
    fd: OwnedFd,
}

impl Doorbell {
    /// Makes both ends.
    pub fn new() -> std::io::Result<(Self, Bell)> {
        // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
        let fd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let bell = Bell {
            fd: fd.try_clone()?,
        };
        Ok((Self { fd }, bell))
    }

    /// Sleeps until the bell rings, this process' latch is set, or the milliseconds are over; clears both. Between
    /// transactions: what would cancel a statement is forgotten, for there is none.
    pub fn wait(&self, milliseconds: i64) {
        self.sleep(Some(milliseconds));
        // SAFETY: a plain variable of this process.
        unsafe { pg_sys::QueryCancelPending = 0 };
        pgrx::check_for_interrupts!();
    }

    /// The same within a statement, which may be cancelled, and without an end of its own.
    pub fn wait_within_statement(&self) {
        self.sleep(None);
        pgrx::check_for_interrupts!();
    }

    fn sleep(&self, milliseconds: Option<i64>) {
        let timeout = milliseconds.map_or(0, |_| pg_sys::WL_TIMEOUT);
        let events = pg_sys::WL_LATCH_SET
            | pg_sys::WL_SOCKET_READABLE
            | pg_sys::WL_EXIT_ON_PM_DEATH
            | timeout;
        // SAFETY: MyLatch is this process' latch and the descriptor is open; the counter read is eight bytes.
        unsafe {
            let happened = pg_sys::WaitLatchOrSocket(
                pg_sys::MyLatch,
                events.cast_signed(),
                self.fd.as_raw_fd(),
                milliseconds.unwrap_or(-1),
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
            if happened & pg_sys::WL_SOCKET_READABLE.cast_signed() != 0 {
                let mut count = 0_u64;
                libc::read(
                    self.fd.as_raw_fd(),
                    (&raw mut count).cast(),
                    size_of::<u64>(),
                );
            }
        }
    }
}

impl Bell {
    /// Wakes the main thread. May be called from any thread: it calls the system, not Postgres.
    pub fn ring(&self) {
        let one = 1_u64;
        // SAFETY: writes eight bytes to an open descriptor; if the counter is full the bell is ringing already.
        unsafe {
            libc::write(
                self.fd.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            )
        };
    }
}
