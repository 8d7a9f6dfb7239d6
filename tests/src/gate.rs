//! A gate that a sink's script can be held up at.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Default)]
struct State {
    open: bool,
    waiting: usize,
}

/// Closed until it is opened; every clone is the same gate. It opens by itself after a minute.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let (state, change) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        let (mut state, _) = change
            .wait_timeout_while(state, Duration::from_mins(1), |state| !state.open)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        let (state, change) = &*self.0;
        state.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        change.notify_all();
    }

    /// How many wait at it.
    pub fn waiting(&self) -> usize {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
    }
}
