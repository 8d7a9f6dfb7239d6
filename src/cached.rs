//! What a session has read of the configuration, until it changes.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::pg;

/// For a `thread_local!`.
pub struct Cached<T> {
    entry: RefCell<Option<Entry<T>>>,
    /// How often it was forgotten.
    forgotten: Cell<u64>,
}

/// What was read, and in which transaction, if it is good for that one only.
type Entry<T> = (Rc<T>, Option<i64>);

impl<T> Cached<T> {
    /// Nothing was read yet.
    pub const fn new() -> Self {
        Self {
            entry: RefCell::new(None),
            forgotten: Cell::new(0),
        }
    }

    /// Forgets what was read.
    pub fn forget(&self) {
        self.forgotten.set(self.forgotten.get() + 1);
        *self.entry.borrow_mut() = None;
    }

    /// What was read, read if need be.
    pub fn get(&self, read: impl Fn() -> T) -> Rc<T> {
        let now = pg::keeps_snapshot().then(pg::transaction_start);
        if let Some((known, only_in)) = &*self.entry.borrow()
            && (only_in.is_none() || *only_in == now)
        {
            return Rc::clone(known);
        }
        loop {
            let before = self.forgotten.get();
            let fresh = Rc::new(read());
            // News that came while it was being read may be about what had been read by then.
            if self.forgotten.get() == before {
                // What an old snapshot shows is no longer true for the next transaction.
                *self.entry.borrow_mut() = Some((Rc::clone(&fresh), now));
                return fresh;
            }
        }
    }
}
