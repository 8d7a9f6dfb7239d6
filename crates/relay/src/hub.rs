//! Everything that lives on the network thread: the relays, the routing of jobs among them, and what
//! happens when a relay is in trouble.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    rc::Rc,
};

use mail_smtp::{Outcome, RelayFault};
use tokio::{sync::Notify, time::Instant};

use crate::{
    Job, JobResult, RelayConfig, Report, Settings, connection,
    health::Health,
    relay::{Doing, Relay, Slot},
    ticket::{Reporter, Ticket},
};

/// Why a job comes back when the pool ends.
pub(crate) const STOPPING: &str = "the worker is stopping";

/// A job that met so much trouble while other connections worked comes back.
const MAX_TRIES: u32 = 3;

/// The job that a relay's trouble happened to.
pub(crate) enum Victim {
    /// One that was being sent.
    This(Box<Ticket>),
    /// If the relay is suspended: the first that waits, for which it was connected to since then.
    First(Instant),
    /// None, or one that has been reported.
    None,
}

/// The network thread's state.
pub(crate) struct Hub {
    pub settings: Settings,
    reporter: Reporter,
    relays: RefCell<HashMap<i32, Rc<Relay>>>,
    /// Nothing new is started.
    pub stopping: Cell<bool>,
    /// What is in flight is given up, too.
    pub abandoned: Cell<bool>,
    /// Announces `abandoned`.
    pub abandon: Notify,
    /// Connection tasks alive.
    pub tasks: Cell<usize>,
    /// Announces that the last task ended.
    pub quiet: Notify,
    random: RandomState,
    drawn: Cell<u64>,
}

impl Hub {
    pub fn new(reporter: Reporter, settings: Settings) -> Rc<Self> {
        Rc::new(Self {
            settings,
            reporter,
            relays: RefCell::default(),
            stopping: Cell::new(false),
            abandoned: Cell::new(false),
            abandon: Notify::new(),
            tasks: Cell::new(0),
            quiet: Notify::new(),
            random: RandomState::new(),
            drawn: Cell::new(0),
        })
    }

    fn report(&self, report: Report) {
        (self.reporter)(report);
    }

    /// Takes new jobs: capture jobs are done at once, the others go to their relays' queues.
    pub async fn submit(self: &Rc<Self>, jobs: Vec<Job>) {
        let now = Instant::now();
        let mut touched = Vec::new();
        // From the first on each job is guarded, though it is its turn only later.
        let tickets: Vec<Ticket> = jobs
            .into_iter()
            .map(|job| Ticket::new(job, Rc::clone(&self.reporter), now))
            .collect();
        for (i, ticket) in tickets.into_iter().enumerate() {
            if self.stopping.get() {
                ticket.give_back(STOPPING);
            } else if ticket.relays().is_some() {
                self.route(ticket, &mut touched);
            } else {
                ticket.capture();
                if i % 64 == 63 {
                    tokio::task::yield_now().await;
                }
            }
        }
        for relay in touched {
            self.pump(&relay);
        }
    }

    /// Puts a job into the queue of the first of its relays that is available, or ends it. The caller
    /// pumps the relays `touched`.
    fn route(&self, ticket: Ticket, touched: &mut Vec<Rc<Relay>>) {
        let now = Instant::now();
        let mut why = None;
        let mut probed = None;
        for id in ticket.relays().iter().flat_map(|relays| relays.iter()) {
            let Some(relay) = self.relays.borrow().get(id).map(Rc::clone) else {
                why.get_or_insert_with(|| format!("relay {id} is not configured"));
                continue;
            };
            let mut health = relay.health.borrow_mut();
            if health.is_available(now) {
                if health.is_probing() && relay.is_busy() {
                    // One job is enough to try it with: the others go elsewhere, or wait here if there is no other.
                    drop(health);
                    probed.get_or_insert(relay);
                    continue;
                }
                health.picked();
                drop(health);
                relay.queue.borrow_mut().push_back(ticket);
                if !touched.iter().any(|known| Rc::ptr_eq(known, &relay)) {
                    touched.push(relay);
                }
                return;
            }
            why = Some(format!("relay {id} is suspended: {}", health.reason()));
        }
        if let Some(relay) = probed {
            relay.queue.borrow_mut().push_back(ticket);
            if !touched.iter().any(|known| Rc::ptr_eq(known, &relay)) {
                touched.push(relay);
            }
            return;
        }
        give_up(
            ticket,
            why.unwrap_or_else(|| "no relay is given".to_owned()),
        );
    }

    /// Routes jobs anew, for example those of a relay that was suspended.
    pub fn reroute(self: &Rc<Self>, tickets: impl IntoIterator<Item = Ticket>) {
        let mut touched = Vec::new();
        for ticket in tickets {
            if self.stopping.get() {
                give_up(ticket, STOPPING.to_owned());
            } else {
                self.route(ticket, &mut touched);
            }
        }
        for relay in touched {
            self.pump(&relay);
        }
    }

    /// Gives back a job that a connection holds but has not tried, to be the next one.
    pub fn requeue(self: &Rc<Self>, relay: &Relay, ticket: Ticket) {
        if relay.retired.get() || self.stopping.get() {
            self.reroute([ticket]);
        } else {
            relay.queue.borrow_mut().push_front(ticket);
        }
    }

    /// Wakes and opens as many connections as there are jobs waiting, within the relay's limit.
    pub fn pump(self: &Rc<Self>, relay: &Rc<Relay>) {
        if self.stopping.get() || relay.retired.get() {
            return;
        }
        let waiting = relay.queue.borrow().len();
        let idle = relay.idle.get();
        for _ in 0..waiting.min(idle) {
            relay.wake.notify_one();
        }
        let limit = relay.health.borrow().limit();
        let mut wanted = waiting.saturating_sub(idle + relay.connecting.get());
        while wanted > 0 && relay.open.get() < limit {
            wanted -= 1;
            let slot = Slot::new(Rc::clone(self), Rc::clone(relay));
            tokio::task::spawn_local(connection::run(slot));
        }
    }

    /// A relay answered a message.
    pub fn answered(self: &Rc<Self>, relay: &Rc<Relay>) {
        let mut health = relay.health.borrow_mut();
        let before = health.limit();
        let was_down = health.answered();
        let grown = health.limit() > before;
        drop(health);
        if was_down && !relay.retired.get() {
            self.report(Report::RelayUp {
                relay: relay.config.id,
            });
        }
        if grown {
            self.pump(relay);
        }
    }

    /// A connection of `slot`'s relay failed, or was refused or closed by it. It is over.
    pub fn trouble(self: &Rc<Self>, slot: &Slot, fault: RelayFault, victim: Victim) {
        let relay = &slot.relay;
        slot.set(Doing::Leaving);
        if slot.is_over() {
            if let Victim::This(ticket) = victim {
                self.reroute([ticket.met(relay.config.id, &fault)]);
            }
            return;
        }
        let others = match relay.working.get() {
            // Those still connecting will show whether it is down or only full.
            0 => relay.connecting.get(),
            working => working,
        };
        if others == 0 {
            self.suspend(relay, fault, victim);
            return;
        }
        relay.health.borrow_mut().crowded(others, &self.settings);
        if let Victim::This(ticket) = victim {
            let ticket = ticket.met(relay.config.id, &fault);
            if ticket.tries < MAX_TRIES {
                self.requeue(relay, ticket);
                self.pump(relay);
            } else {
                give_up(ticket, String::new());
            }
        }
    }

    fn suspend(self: &Rc<Self>, relay: &Rc<Relay>, fault: RelayFault, victim: Victim) {
        let tried = match victim {
            Victim::This(ticket) => Some(*ticket),
            Victim::First(since) => relay.queue.borrow_mut().pop_front().map(|mut ticket| {
                ticket.started = Some(since.max(ticket.queued));
                ticket
            }),
            Victim::None => None,
        }
        .map(|ticket| ticket.met(relay.config.id, &fault));
        let reason = fault.to_string();
        let pause =
            relay
                .health
                .borrow_mut()
                .failed(Instant::now(), reason, &self.settings, self.draw());
        self.report(Report::RelayDown {
            relay: relay.config.id,
            pause,
            fault,
        });
        let waiting = relay.drain();
        self.reroute(tried.into_iter().chain(waiting));
    }

    fn draw(&self) -> u64 {
        self.drawn.set(self.drawn.get().wrapping_add(1));
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.drawn.get());
        hasher.finish()
    }

    /// Replaces the set of relays.
    pub fn configure(self: &Rc<Self>, configs: Vec<RelayConfig>) {
        if self.stopping.get() {
            return;
        }
        let mut old = self.relays.take();
        let mut changed = Vec::new();
        for config in configs {
            let id = config.id;
            let relay = match old.remove(&id) {
                Some(relay) if relay.config == config => relay,
                Some(relay) => {
                    let health = relay.health.borrow().renewed(config.max_connections);
                    let new = Relay::new(config, health);
                    new.queue.replace(relay.drain());
                    retire(&relay);
                    changed.push(Rc::clone(&new));
                    new
                }
                None => {
                    let health = Health::new(config.max_connections);
                    Relay::new(config, health)
                }
            };
            self.relays.borrow_mut().insert(id, relay);
        }
        for relay in old.into_values() {
            retire(&relay);
            for ticket in relay.drain() {
                give_up(ticket, format!("relay {} was removed", relay.config.id));
            }
        }
        for relay in changed {
            self.pump(&relay);
        }
    }

    /// Starts nothing more and gives back what waits. What is in flight goes on.
    pub fn stop(&self) {
        self.stopping.set(true);
        let relays: Vec<_> = self.relays.borrow().values().map(Rc::clone).collect();
        for relay in relays {
            for ticket in relay.drain() {
                give_up(ticket, STOPPING.to_owned());
            }
            relay.call_off();
        }
    }

    /// Gives up what is in flight.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.abandon.notify_waiters();
    }

    pub fn task_ended(&self) {
        self.tasks.set(self.tasks.get() - 1);
        if self.tasks.get() == 0 {
            self.quiet.notify_one();
        }
    }
}

fn retire(relay: &Relay) {
    relay.retired.set(true);
    relay.call_off();
}

/// Ends a job that has nowhere to go: with the relay's trouble if it met one, else as never started.
fn give_up(mut ticket: Ticket, why: String) {
    match ticket.fault.take() {
        Some(fault) => ticket.finish(JobResult::Smtp(Outcome::NotTried(fault)), None),
        None => ticket.give_back(why),
    }
}
