//! Everything that lives on the network thread: the relays, the routing of jobs among them, and what
//! happens when a relay is in trouble.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    rc::Rc,
    time::Duration,
};

use mail_smtp::{Outcome, RelayFault, Reply};
use tokio::{sync::Notify, time::Instant};

use crate::{
    Config, JobResult, Report, Settings,
    conclude::first_line,
    connection,
    domain::Domain,
    flow::Flow,
    health::Health,
    relay::{Doing, Relay, Slot},
    rules::{self, Action, Decision, Rule},
    ticket::{Reporter, Ticket},
};

/// Why a job comes back when the pool ends.
pub(crate) const STOPPING: &str = "the worker is stopping";

/// A job that met so much trouble while other connections worked comes back.
const MAX_TRIES: u32 = 3;

/// The job that a relay's trouble happened to.
pub(crate) enum Victim {
    /// One that was being sent; whether the relay failed with it before, and has not answered since.
    This(Box<Ticket>, bool),
    /// If the relay is suspended: the first that waits, for which it was connected to since then.
    First(Instant),
    /// None, or one that has been reported.
    None,
}

/// The network thread's state.
pub(crate) struct Hub {
    pub settings: Settings,
    pub reporter: Reporter,
    pub relays: RefCell<HashMap<i32, Rc<Relay>>>,
    pub flow: Flow,
    pub rules: RefCell<Rc<[Rule]>>,
    /// Wakes the keeper: something waits for the clock.
    pub keeper: Notify,
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
            flow: Flow::default(),
            rules: RefCell::new(Rc::from([])),
            keeper: Notify::new(),
            stopping: Cell::new(false),
            abandoned: Cell::new(false),
            abandon: Notify::new(),
            tasks: Cell::new(0),
            quiet: Notify::new(),
            random: RandomState::new(),
            drawn: Cell::new(0),
        })
    }

    pub fn report(&self, report: Report) {
        (self.reporter)(report);
    }

    /// Gives back a job that a connection holds but has not tried, to be the next one.
    pub fn requeue(self: &Rc<Self>, relay: &Relay, ticket: Ticket) {
        if relay.retired.get() || self.stopping.get() {
            self.reroute([ticket]);
        } else {
            relay.queue.borrow_mut().push_front(ticket, Instant::now());
        }
    }

    /// Wakes and opens as many connections as there are jobs that may go, within the relay's limit.
    pub fn pump(self: &Rc<Self>, relay: &Rc<Relay>) {
        if self.stopping.get() || relay.retired.get() {
            return;
        }
        if relay.queue.borrow().is_empty() {
            return;
        }
        let ready = relay.ready(Instant::now());
        let idle = relay.idle.get();
        for _ in 0..ready.min(idle) {
            relay.wake.notify_one();
        }
        if relay.open.get() > 0 && relay.health.borrow().is_silent() {
            return; // it is tried from time to time
        }
        let limit = relay.limit();
        let mut wanted = ready.saturating_sub(idle + relay.connecting.get());
        while wanted > 0 && relay.open.get() < limit {
            wanted -= 1;
            self.connect(relay);
        }
    }

    pub fn connect(self: &Rc<Self>, relay: &Rc<Relay>) {
        let slot = Slot::new(Rc::clone(self), Rc::clone(relay));
        tokio::task::spawn_local(connection::run(slot));
    }

    /// Connects once more to a relay that says nothing, if it is time to.
    pub fn try_silent(self: &Rc<Self>, relay: &Rc<Relay>, now: Instant) {
        if !relay.health.borrow().is_to_be_tried(now) {
            return;
        }
        relay.health.borrow_mut().tried(now, &self.settings);
        if relay.spare_one_more() {
            self.connect(relay);
        }
    }

    /// A relay said something.
    pub fn spoke(self: &Rc<Self>, relay: &Rc<Relay>) {
        if !relay.spoke(Instant::now()) || relay.retired.get() {
            return;
        }
        self.report(Report::RelayUp {
            relay: relay.config.id,
        });
        relay.speaks.notify_waiters();
        self.pump(relay);
    }

    /// A relay that could not be reached has let us in.
    pub fn reached(self: &Rc<Self>, relay: &Relay) {
        if relay.health.borrow_mut().reached() && !relay.retired.get() {
            self.report(Report::RelayUp {
                relay: relay.config.id,
            });
        }
    }

    /// A relay answered a message.
    pub fn answered(self: &Rc<Self>, relay: &Rc<Relay>) {
        relay.note_answer(Instant::now());
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
            if let Victim::This(ticket, _) = victim {
                self.reroute([ticket.met(relay.config.id, &fault)]);
            }
            return;
        }
        if self.asked_pause(relay, &fault).is_some() {
            self.suspend(relay, fault, victim);
            return;
        }
        let others = match relay.working.get() {
            // Those still connecting will show whether it is down or only full.
            0 => relay.connecting.get(),
            working => working,
        };
        let fails = !matches!(victim, Victim::First(_)) && relay.fails_again();
        if others == 0 || fails {
            match victim {
                Victim::This(ticket, _) if relay.may_try_another(Instant::now()) => {
                    self.set_aside(relay, *ticket, &fault);
                }
                victim => self.suspend(relay, fault, victim),
            }
            return;
        }
        relay.health.borrow_mut().crowded(others, &self.settings);
        if let Victim::This(ticket, _) = victim {
            let ticket = ticket.met(relay.config.id, &fault);
            if ticket.tries < MAX_TRIES {
                self.requeue(relay, ticket);
                self.pump(relay);
            } else {
                give_up(ticket, String::new());
            }
        }
    }

    /// A relay failed with this message, and another one is to show how it is.
    fn set_aside(self: &Rc<Self>, relay: &Rc<Relay>, ticket: Ticket, fault: &RelayFault) {
        let mut ticket = ticket.met(relay.config.id, fault);
        if self.has_another(&ticket, relay) {
            self.reroute([ticket]);
        } else {
            ticket.steps_back = Some((self.settings.first_pause, None));
            self.step_back(ticket);
        }
        self.pump(relay);
    }

    /// Suspends a relay after trouble: for as long as a rule says that its reply asks for, else for a growing time.
    fn suspend(self: &Rc<Self>, relay: &Rc<Relay>, fault: RelayFault, victim: Victim) {
        let again = matches!(victim, Victim::This(_, true));
        let unreached = matches!(victim, Victim::First(_));
        let tried = match victim {
            Victim::This(ticket, _) => Some(*ticket),
            Victim::First(since) => {
                relay
                    .queue
                    .borrow_mut()
                    .pop_any(Instant::now())
                    .map(|mut ticket| {
                        ticket.started = Some(since.max(ticket.queued));
                        ticket
                    })
            }
            Victim::None => None,
        }
        .map(|ticket| ticket.met(relay.config.id, &fault));
        let (now, reason) = (Instant::now(), fault.to_string());
        let asked = self.asked_pause(relay, &fault);
        let rule = asked.as_ref().map(|decision| decision.rule.clone());
        let mut health = relay.health.borrow_mut();
        let pause = match asked.as_ref().and_then(|decision| decision.duration) {
            Some(pause) => {
                health.suspended(now, pause, reason);
                pause
            }
            // Another connection has just failed, too.
            None if !health.is_available(now) => {
                health.back_at().map_or(Duration::ZERO, |at| at - now)
            }
            None => health.failed(now, reason, &self.settings, self.draw()),
        };
        drop(health);
        relay.failures.set(0);
        relay.next_round();
        relay.unreached.set(unreached);
        self.keeper.notify_one();
        self.report(Report::RelayDown {
            relay: relay.config.id,
            pause,
            fault,
            rule,
        });
        let tried = tried.map(|mut ticket| {
            // Perhaps it is the message that the relay cannot stand: then another one has to show that.
            if asked.is_some() || again {
                ticket.steps_back = Some((pause, asked));
            }
            ticket
        });
        let waiting = relay.drain();
        self.reroute(tried.into_iter().chain(waiting));
    }

    /// What a rule makes of a relay's last words, if it suspends the relay.
    fn asked_pause(&self, relay: &Relay, fault: &RelayFault) -> Option<Decision> {
        let rules = Rc::clone(&self.rules.borrow());
        let decision = rules::decide(&rules, relay.config.id, fault.reply.as_ref()?)?;
        (decision.action == Action::SuspendRelay).then_some(decision)
    }

    /// Lets mail for a domain wait, since a rule understands a relay's reply so.
    pub fn pause_domain(&self, domain: &Domain, relay: i32, decision: &Decision, reply: &Reply) {
        let words = first_line(&reply.text);
        domain.suspend(decision.duration.unwrap_or_default(), words);
        let now = Instant::now();
        if let Some(until) = domain.suspended_until(now) {
            self.report(Report::DomainPaused {
                domain: domain.name.clone(),
                pause: until.saturating_duration_since(now),
                relay,
                rule: decision.rule.clone(),
                words: format!("{} {words}", reply.code),
            });
        }
    }

    pub fn draw(&self) -> u64 {
        self.drawn.set(self.drawn.get().wrapping_add(1));
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.drawn.get());
        hasher.finish()
    }

    /// Replaces the configuration.
    pub fn configure(self: &Rc<Self>, config: Config) {
        if self.stopping.get() {
            return;
        }
        self.rules.replace(Rc::from(config.rules));
        let mut old = self.relays.take();
        let mut changed = Vec::new();
        for config in config.relays {
            let id = config.id;
            let relay = match old.remove(&id) {
                Some(relay) if relay.config == config => {
                    relay.reconsider();
                    relay
                }
                Some(relay) => {
                    let new = relay.renewed(config);
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
                give_up(
                    ticket,
                    format!("relay \"{}\" was removed", relay.config.name),
                );
            }
        }
        let freed = self.configure_flow(&config.queues, &config.domains);
        self.report(Report::Configured);
        for relay in changed {
            self.pump(&relay);
        }
        self.reroute(freed);
        self.keeper.notify_one();
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
        for ticket in self.drain_gates() {
            give_up(ticket, STOPPING.to_owned());
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

/// Ends a job that has nowhere to go: with the relay's trouble if it met one, and the rule that made it one; else as never
/// started.
pub(crate) fn give_up(mut ticket: Ticket, why: String) {
    match ticket.fault.take() {
        Some(fault) => {
            ticket.decisions = ticket
                .steps_back
                .take()
                .and_then(|(_, rule)| rule)
                .map(Some)
                .into_iter()
                .collect();
            ticket.finish(JobResult::Smtp(Outcome::NotTried(fault)), None);
        }
        None => ticket.give_back(why),
    }
}
