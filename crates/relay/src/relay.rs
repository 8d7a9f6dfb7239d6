//! One relay as configured: its waiting jobs, its health and the count of its connections.
//!
//! A changed configuration makes a new `Relay`; the old one is retired, its connections finish what is
//! in flight and end.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    RelayConfig,
    domain::Domain,
    fair::{FairQueue, LONGEST_WAIT},
    health::Health,
    hub::Hub,
    rate::Limiter,
    ticket::Ticket,
};

/// One relay.
pub(crate) struct Relay {
    pub config: RelayConfig,
    pub health: RefCell<Health>,
    /// Waiting jobs.
    pub queue: RefCell<FairQueue>,
    limiter: RefCell<Option<Limiter>>,
    /// The time that was given to the last job that was put off.
    put_off: Cell<Option<Instant>>,
    /// The message that it was last suspended with in hand.
    pub victim: Cell<Option<i64>>,
    /// What it has coming to it within its tier, see [`crate::routes`].
    pub credit: Cell<i64>,
    /// When it last said anything, or a job last left the queue, or came into an empty one.
    heard: Cell<Instant>,
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
        let limiter = config.rate.map(Limiter::new);
        Rc::new(Self {
            config,
            health: RefCell::new(health),
            queue: RefCell::default(),
            limiter: RefCell::new(limiter),
            put_off: Cell::new(None),
            victim: Cell::new(None),
            credit: Cell::new(0),
            heard: Cell::new(Instant::now()),
            wake: Notify::new(),
            leave: Notify::new(),
            retired: Cell::new(false),
            open: Cell::new(0),
            connecting: Cell::new(0),
            working: Cell::new(0),
            idle: Cell::new(0),
        })
    }

    /// The same relay with a changed configuration: its limit goes on where it was, unless that has changed.
    pub fn renewed(&self, config: RelayConfig) -> Rc<Self> {
        let health = self.health.borrow().renewed(config.max_connections);
        let same_rate = config.rate == self.config.rate;
        let new = Self::new(config, health);
        if same_rate {
            new.limiter.replace(self.limiter.take());
        }
        for ticket in self.drain() {
            new.push(ticket, Instant::now());
        }
        new
    }

    /// Adds a job.
    pub fn push(&self, ticket: Ticket, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            self.heard.set(now);
        }
        queue.push_back(ticket, now);
    }

    /// The next job for a connection, composed: for a free one, or for one at work for a domain. What cannot be composed
    /// is reported on the way.
    pub fn next(&self, behind: Option<&Rc<Domain>>) -> Option<Ticket> {
        let limit = self.health.borrow().limit();
        loop {
            let now = Instant::now();
            if self.ready_at(now) > now {
                return None;
            }
            let mut queue = self.queue.borrow_mut();
            let ticket = match behind {
                Some(domain) => queue.pop_behind(domain, limit, now),
                None => queue.pop(limit, now),
            };
            // The borrow ends before composing, which reports.
            drop(queue);
            if let Some(ticket) = ticket?.composed() {
                self.heard.set(now);
                if let Some(limiter) = self.limiter.borrow_mut().as_mut() {
                    let granted = limiter.take(now);
                    debug_assert!(granted.is_ok(), "it was asked above");
                }
                return Some(ticket);
            }
        }
    }

    /// When its own limit lets the next job go.
    pub fn ready_at(&self, now: Instant) -> Instant {
        let mut limiter = self.limiter.borrow_mut();
        limiter
            .as_mut()
            .map_or(now, |limiter| limiter.ready_at(now))
    }

    /// How long a further job would wait for its limit.
    pub fn wait(&self, now: Instant) -> Duration {
        let waiting = self.queue.borrow().len();
        let mut limiter = self.limiter.borrow_mut();
        limiter.as_mut().map_or(Duration::ZERO, |limiter| {
            limiter.after(waiting, now).saturating_duration_since(now)
        })
    }

    /// How long a job that finds its limit used up should wait: one after the other at the limit's pace.
    pub fn put_off(&self, now: Instant) -> Duration {
        let earliest = now + self.wait(now).max(LONGEST_WAIT);
        let step = self.config.rate.map_or(Duration::ZERO, |rate| rate.step());
        let at = self
            .put_off
            .get()
            .map_or(earliest, |last| (last + step).max(earliest));
        self.put_off.set(Some(at));
        at.saturating_duration_since(now)
    }

    /// Forgets the times that were given: those who got them come again.
    pub fn reconsider(&self) {
        self.put_off.set(None);
    }

    /// How many jobs may go at once, by its limit and those of their domains.
    pub fn ready(&self, now: Instant) -> usize {
        let ready = self.queue.borrow().ready(self.health.borrow().limit(), now);
        let mut limiter = self.limiter.borrow_mut();
        limiter
            .as_mut()
            .map_or(ready, |limiter| ready.min(limiter.available(now)))
    }

    /// It said something. True if it had been silent for long.
    pub fn spoke(&self, now: Instant) -> bool {
        self.heard.set(now);
        self.health.borrow_mut().spoke()
    }

    /// For how long nothing was heard from it while jobs wait.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        let asked =
            self.open.get() > 0 && !self.queue.borrow().is_empty() && self.ready_at(now) <= now;
        asked.then(|| now.saturating_duration_since(self.heard.get()))
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
        self.queue.borrow_mut().drain()
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

/// A connection's work for a domain, for as long as it lives.
pub(crate) struct Busy {
    relay: Rc<Relay>,
    pub domain: Rc<Domain>,
}

impl Busy {
    pub fn new(relay: &Rc<Relay>, domain: &Rc<Domain>) -> Self {
        relay.queue.borrow_mut().begin(domain, Instant::now());
        Self {
            relay: Rc::clone(relay),
            domain: Rc::clone(domain),
        }
    }

    /// It was answered, within a moment or not.
    pub fn heard(&self, at_once: bool) {
        self.domain.answered(at_once);
        self.relay
            .queue
            .borrow_mut()
            .heard(&self.domain, Instant::now());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.relay
            .queue
            .borrow_mut()
            .end(&self.domain, Instant::now());
    }
}
