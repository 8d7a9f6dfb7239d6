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

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    RelayConfig,
    blame::{Blame, Strike},
    domain::Domain,
    fair::{FairQueue, LONGEST_WAIT},
    health::Health,
    hub::Hub,
    rate::{Limiter, Turns},
    ticket::Ticket,
};

/// So many failures with messages in hand, none answered meanwhile, suspend it though further connections are open.
const MOST_FAILURES: u32 = 3;
/// As good as that many.
const HOPELESS: u32 = u32::MAX / 2;
/// One that has answered within this time is not suspended for the first message that it fails with.
const LATELY: Duration = Duration::from_secs(5);
/// After a pause it is tried with so many messages, twice as many each time, before it is suspended again…
const FIRST_ROUND: u32 = 4;
/// …up to this number.
const LARGEST_ROUND: u32 = 64;

/// No more connections than that are made to a relay that says nothing, beyond those that it had.
const MOST_SPARE: usize = 4;

/// One relay.
pub(crate) struct Relay {
    pub config: RelayConfig,
    pub health: RefCell<Health>,
    /// Waiting jobs.
    pub queue: RefCell<FairQueue>,
    limiter: RefCell<Option<Limiter>>,
    turns: Turns,
    /// It was suspended before a connection could be used: to reach it again is all it needs.
    pub unreached: Cell<bool>,
    /// When it last said anything.
    pub said: Cell<Instant>,
    /// How many messages it has answered…
    pub answered: Cell<u64>,
    /// …when the last of them…
    answered_at: Cell<Option<Instant>>,
    /// …how long that took…
    pub took: Cell<Duration>,
    /// …and how often it has failed since then.
    pub failures: Cell<u32>,
    /// With how many messages it may still be tried before it is suspended again, and how many it will be then.
    round: Cell<(u32, u32)>,
    /// The messages that it failed with.
    blame: RefCell<Blame>,
    /// What it has coming to it within its tier, see [`crate::routes`].
    pub credit: Cell<i64>,
    /// When it last said anything, or a job last left the queue, or came into an empty one.
    heard: Cell<Instant>,
    /// Messages that are being sent…
    sending: Cell<usize>,
    /// …and since when it says nothing to any of them.
    pub owes_since: Cell<Option<Instant>>,
    /// Jobs wait in it for longer than they should where another can take them.
    pub backed_up: Cell<bool>,
    /// Connections that are allowed beyond its limit, as those that it has say nothing.
    spare: Cell<usize>,
    /// It speaks again: those that wait for a word over another connection need not.
    pub speaks: Notify,
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
            turns: Turns::default(),
            unreached: Cell::new(false),
            said: Cell::new(Instant::now()),
            answered: Cell::new(0),
            answered_at: Cell::new(None),
            took: Cell::default(),
            round: Cell::new((0, FIRST_ROUND)),
            failures: Cell::new(0),
            blame: RefCell::default(),
            credit: Cell::new(0),
            heard: Cell::new(Instant::now()),
            sending: Cell::new(0),
            owes_since: Cell::new(None),
            backed_up: Cell::new(false),
            spare: Cell::new(0),
            speaks: Notify::new(),
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
        new.blame.replace(self.blame.take());
        new.answered.set(self.answered.get());
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

    /// The next job for a connection, made: for a free one, or for one at work for a domain. What cannot be made
    /// is reported on the way.
    pub fn next(&self, behind: Option<&Rc<Domain>>) -> Option<Ticket> {
        let limit = self.limit();
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
            if let Some(ticket) = ticket?.made() {
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

    /// How many connections it may have.
    pub fn limit(&self) -> usize {
        self.health.borrow().limit() + self.spare.get()
    }

    /// One connection more, beside those that say nothing; these no longer count as being at work. False: there are too
    /// many already.
    pub fn spare_one_more(&self) -> bool {
        let beyond = self.open.get().saturating_sub(self.health.borrow().limit());
        if beyond >= MOST_SPARE {
            return false;
        }
        self.spare.set(beyond + 1);
        self.queue.borrow_mut().forgive();
        true
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
        self.turns.give(earliest, step, now)
    }

    /// Forgets the times that were given, and what is parked: all of it comes again.
    pub fn reconsider(&self) {
        self.turns.forget();
        self.queue.borrow_mut().unpark();
    }

    /// How many jobs may go at once, by its limit and those of their domains.
    pub fn ready(&self, now: Instant) -> usize {
        let ready = self.queue.borrow().ready(self.limit(), now);
        let mut limiter = self.limiter.borrow_mut();
        limiter
            .as_mut()
            .map_or(ready, |limiter| ready.min(limiter.available(now)))
    }

    /// It failed with this message in hand.
    pub fn strike(&self, id: i64, now: Instant) -> Strike {
        self.blame.borrow_mut().strike(id, self.answered.get(), now)
    }

    /// Whatever other connections do: the next failure suspends it.
    pub fn gives_up_on_it(&self) {
        self.failures.set(HOPELESS);
    }

    /// Whether it fails and fails, though it can be connected to.
    pub fn fails_again(&self) -> bool {
        self.failures.set(self.failures.get().saturating_add(1));
        self.failures.get() > MOST_FAILURES
    }

    /// Whether it failed with a message that may be to blame itself, so that it should be tried with another.
    pub fn may_try_another(&self, now: Instant) -> bool {
        if self.failures.get() >= HOPELESS {
            return false;
        }
        if self.health.borrow().is_probing() {
            let (left, size) = self.round.get();
            self.round.set((left.saturating_sub(1), size));
            return left > 0;
        }
        let lately = |at: Instant| now.saturating_duration_since(at) <= LATELY;
        self.failures.get() <= MOST_FAILURES && self.answered_at.get().is_some_and(lately)
    }

    /// It is suspended: after that it is tried with more messages than the last time.
    pub fn next_round(&self) {
        let (_, size) = self.round.get();
        self.round.set((size, (size * 2).min(LARGEST_ROUND)));
    }

    /// It answered a message.
    pub fn note_answer(&self, now: Instant) {
        self.answered.set(self.answered.get() + 1);
        self.answered_at.set(Some(now));
        self.failures.set(0);
        self.round.set((0, FIRST_ROUND));
    }

    /// Ends when it has spoken after a silence and what was begun at this time takes longer by far than that took.
    pub async fn outlives(&self, began: Instant) {
        self.speaks.notified().await;
        loop {
            let allowed = self.took.get() * 2 + Duration::from_secs(1);
            if began.elapsed() >= allowed {
                return;
            }
            sleep_until(began + allowed).await;
        }
    }

    /// It said something. True if it had been silent for long.
    pub fn spoke(&self, now: Instant) -> bool {
        self.said.set(now);
        self.heard.set(now);
        self.owes_since.set((self.sending.get() > 0).then_some(now));
        self.spare.set(0);
        self.health.borrow_mut().spoke()
    }

    /// For how long nothing was heard from it while jobs wait.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        // What only a limit holds up asks nothing of it.
        let waits = self.queue.borrow().first_entered().is_some();
        let asked = self.open.get() > 0 && waits && self.ready_at(now) <= now;
        asked.then(|| now.saturating_duration_since(self.heard.get()))
    }

    /// A message is being sent.
    pub fn begin(&self, now: Instant) {
        bump(&self.sending);
        if self.owes_since.get().is_none() {
            self.owes_since.set(Some(now));
        }
    }

    /// It is no longer, whatever came of it.
    pub fn end(&self) {
        self.sending.set(self.sending.get() - 1);
        if self.sending.get() == 0 {
            self.owes_since.set(None);
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
