//! Locks of this extension: of the type that Postgres keeps for such modules, and not advisory ones, which any role could
//! hold against it. `pg_locks` shows them as `userlock`, with the database, the kind and the number.

use pgrx::pg_sys;

/// What is locked.
#[derive(Clone, Copy)]
pub enum Lock {
    /// Held for its life by the process that is the database's worker.
    Worker,
    /// Held, shared, by backends that wait for something of this queue.
    Waiter(i32),
    /// Held by whoever decides on ordering keys of this bucket.
    Bucket(i32),
}

/// The kind of [`Lock::Worker`], `'mail'` in ASCII; the others follow.
pub const WORKER: u32 = 1_835_100_524;

impl Lock {
    pub(super) fn tag(self) -> pg_sys::LOCKTAG {
        let (kind, number) = match self {
            Self::Worker => (WORKER, 0),
            Self::Waiter(queue) => (WORKER + 1, queue),
            Self::Bucket(bucket) => (WORKER + 2, bucket),
        };
        pg_sys::LOCKTAG {
            // SAFETY: a plain variable of this process.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: kind,
            locktag_field3: number.cast_unsigned(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }

    /// Takes it alone if nobody has it, until the end of the session or of the transaction.
    fn try_take(self, for_session: bool) -> bool {
        let tag = self.tag();
        // SAFETY: the tag lives across the call, which does not wait.
        let result = unsafe {
            pg_sys::LockAcquire(
                &raw const tag,
                pg_sys::ExclusiveLock.cast_signed(),
                for_session,
                true,
            )
        };
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Takes the lock that makes this process the database's only worker, for the life of the session.
pub fn try_worker_lock() -> bool {
    Lock::Worker.try_take(true)
}

/// Takes the lock on a bucket of ordering keys until the end of the transaction, if nobody has it.
pub fn try_bucket_lock(bucket: i32) -> bool {
    Lock::Bucket(bucket).try_take(false)
}

/// Keeps an extension from being dropped until the end of this transaction; waits for a DROP EXTENSION that is under way.
pub fn lock_extension(extension: u32) {
    // SAFETY: takes a lock of this transaction on an object that need not exist.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::ExtensionRelationId,
            pg_sys::Oid::from(extension),
            0,
            pg_sys::AccessShareLock.cast_signed(),
        );
    }
}

/// Locks a table as who writes it does, until the end of this transaction; reads invalidations of other processes.
pub fn lock_to_write(table: pg_sys::Oid) {
    // SAFETY: as below.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock.cast_signed()) };
}

/// Keeps rows of a table from being deleted by who asks for an exclusive lock first, until the end of this transaction;
/// reads invalidations of other processes. Many may hold it, beside readers and writers.
pub fn lock_against_deletion(table: pg_sys::Oid) {
    // SAFETY: takes a lock of this transaction on a relation that need not exist.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowShareLock.cast_signed()) };
}
