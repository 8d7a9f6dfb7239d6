//! Invalidation of what this process remembers of configuration tables.

use std::cell::Cell;

use pgrx::{pg_guard, pg_sys};

thread_local! {
    static WATCHED: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static CHANGED: Cell<bool> = const { Cell::new(true) };
}

/// From now on a change of that table makes this process forget its queues.
pub fn watch(table: pg_sys::Oid) {
    WATCHED.set(table);
    if !REGISTERED.replace(true) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::from(0)) };
    }
}

/// Locks that table as a reader does, until the end of this transaction, if it is known: who takes this lock before others
/// takes them in the order of those who enqueue, and of updates of the extension.
pub fn lock_watched() {
    let table = WATCHED.get();
    if table != pg_sys::InvalidOid {
        // SAFETY: takes a lock of this transaction on a relation that need not exist.
        unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock.cast_signed()) };
    }
}

/// Whether anything was invalidated since the last call; true the first time.
pub fn configuration_changed() -> bool {
    CHANGED.replace(false)
}

/// Reads invalidations of other processes. Outside a transaction.
pub fn accept() {
    // SAFETY: as at the start of any transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Marks the configuration as changed.
pub fn set_configuration_changed() {
    CHANGED.set(true);
}

#[pg_guard]
extern "C-unwind" fn changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == WATCHED.get() || relation == pg_sys::InvalidOid {
        crate::queues::forget();
        crate::templates::forget();
        CHANGED.set(true);
    }
}
