//! One relay as configured: its waiting jobs, its health and the count of its connections.
//!
//! A changed configuration makes a new `Relay`; the old one is retired, its connections finish what is
//! in flight and end.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use tokio::sync::Notify;

use crate::{RelayConfig, health::Health, hub::Hub, ticket::Ticket};

/// One relay.
pub(crate) struct Relay {
    pub config: RelayConfig,
    pub health: RefCell<Health>,
    /// Waiting jobs, first come first served.
    pub queue: RefCell<VecDeque<Ticket>>,
    /// Wakes idle connections, one for each job.
    pub wake: Notify,
    /// Wakes idle and connecting ones to end.
    pub leave: Notify,
    /// No longer configured like this.
    pub retired: Cell<bool>,
    /// Connections that exist in any state.
    pub open: Cell<usize>,
    /// Of these, the ones not yet greeted…
    pub connecting: Cell<usize>,
    /// …the ones that can send…
    pub working: Cell<usize>,
    /// …and of those the ones without work.
    pub idle: Cell<usize>,
}

impl Relay {
    pub fn new(config: RelayConfig, health: Health) -> Rc<Self> {
        Rc::new(Self {
            config,
            health: RefCell::new(health),
            queue: RefCell::default(),
            wake: Notify::new(),
            leave: Notify::new(),
            retired: Cell::new(false),
            open: Cell::new(0),
            connecting: Cell::new(0),
            working: Cell::new(0),
            idle: Cell::new(0),
        })
    }

    /// The next job, composed. What cannot be composed is reported on the way.
    pub fn next(&self) -> Option<Ticket> {
        loop {
            // The borrow ends before composing, which reports.
            let ticket = self.queue.borrow_mut().pop_front()?;
            if let Some(ticket) = ticket.composed() {
                return Some(ticket);
            }
        }
    }

    /// Whether it has a connection or a job that waits for one.
    pub fn is_busy(&self) -> bool {
        self.open.get() > 0 || !self.queue.borrow().is_empty()
    }

    /// Tells connections that wait for anything to look whether they should end.
    pub fn call_off(&self) {
        self.leave.notify_waiters();
    }

    /// Takes all waiting jobs.
    pub fn drain(&self) -> VecDeque<Ticket> {
        self.queue.take()
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    Connecting,
    Working,
    Leaving,
}

/// A connection's place in its relay's counts; dropping it frees the place, also after a panic.
pub(crate) struct Slot {
    pub hub: Rc<Hub>,
    pub relay: Rc<Relay>,
    doing: Cell<Doing>,
}

impl Slot {
    pub fn new(hub: Rc<Hub>, relay: Rc<Relay>) -> Self {
        bump(&relay.open);
        bump(&relay.connecting);
        bump(&hub.tasks);
        Self {
            hub,
            relay,
            doing: Cell::new(Doing::Connecting),
        }
    }

    pub fn set(&self, doing: Doing) {
        let counter = |doing| match doing {
            Doing::Connecting => Some(&self.relay.connecting),
            Doing::Working => Some(&self.relay.working),
            Doing::Leaving => None,
        };
        if let Some(counter) = counter(self.doing.replace(doing)) {
            counter.set(counter.get() - 1);
        }
        if let Some(counter) = counter(doing) {
            bump(counter);
        }
    }

    /// Whether it should take no more jobs.
    pub fn is_over(&self) -> bool {
        self.relay.retired.get() || self.hub.stopping.get()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set(Doing::Leaving);
        self.relay.open.set(self.relay.open.get() - 1);
        self.hub.task_ended();
        self.hub.pump(&self.relay);
    }
}

fn bump(counter: &Cell<usize>) {
    counter.set(counter.get() + 1);
}

/// Counts a connection as idle for as long as it lives.
pub(crate) struct Idle<'a>(&'a Cell<usize>);

impl<'a> Idle<'a> {
    pub fn new(relay: &'a Relay) -> Self {
        bump(&relay.idle);
        Self(&relay.idle)
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
