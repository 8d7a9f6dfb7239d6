//! What a session has read of the configuration, until it changes.

use std::{cell::RefCell, rc::Rc};

use crate::pg;

/// For a `thread_local!`.
pub struct Cached<T>(RefCell<Option<Entry<T>>>);

/// What was read, and in which transaction, if it is good for that one only.
type Entry<T> = (Rc<T>, Option<i64>);

impl<T> Cached<T> {
    /// Nothing was read yet.
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Forgets what was read.
    pub fn forget(&self) {
        *self.0.borrow_mut() = None;
    }

    /// What was read, read if need be.
    pub fn get(&self, read: impl FnOnce() -> T) -> Rc<T> {
        let now = pg::keeps_snapshot().then(pg::transaction_start);
        if let Some((known, only_in)) = &*self.0.borrow()
            && (only_in.is_none() || *only_in == now)
        {
            return Rc::clone(known);
        }
        let fresh = Rc::new(read());
        // What an old snapshot shows is no longer true for the next transaction.
        *self.0.borrow_mut() = Some((Rc::clone(&fresh), now));
        fresh
    }
}
