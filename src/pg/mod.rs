//! The unsafe corner: shared memory, latches, callbacks, triggers and workers as Postgres' C interface has them,
//! each behind a safe function. Invariant: only the main thread of a process calls in here, except for
//! [`doorbell::Bell::ring`].

mod calls;
mod database;
pub mod doorbell;
mod hook;
mod init;
mod insert;
mod inval;
mod latest;
mod locks;
mod owner;
mod shmem;
mod signals;
mod transaction;
mod trigger;
mod wake;

pub use calls::*;
pub use database::databases;
pub use insert::{Row, insert, triggers_and_indexes};
pub use inval::{accept, configuration_changed, lock_watched, set_configuration_changed, watch};
pub use latest::holds_now;
pub use locks::{
    lock_against_deletion, lock_extension, lock_to_write, try_bucket_lock, try_worker_lock,
};
pub use shmem::{CONFIGURATION, LaneMark, SlotHandle, Status, TIMER, launcher};
pub use signals::{
    Patience, install as install_signal_handlers, reload_requested, stop_requested,
    with_signals_blocked,
};
pub use transaction::{Failure, insist, transaction};
pub use wake::{
    await_begin, await_end, await_touch, is_worker, note, note_locked, note_sweep, note_timer,
    request_worker,
};
