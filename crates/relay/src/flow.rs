//! The way of a job through the pool: its parts, its queue's limit, its relay; and the keeper, which lets go on what only
//! the clock holds up.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use mail_smtp::RelayFault;
use tokio::time::Instant;

use crate::{
    Decision, Job, Limited, QueueLimit, Report,
    connection::first_line,
    domain::{Domain, of_address, spread},
    fair::{KEPT, LONGEST_WAIT},
    gate::Gate,
    hub::{Hub, STOPPING, give_up},
    parts,
    relay::Relay,
    routes::{candidates, choose},
    ticket::{Reporter, Ticket},
};

/// How often to look where nothing says when something changes.
const LOOK: Duration = Duration::from_millis(100);
/// Never sooner than this: the grain of the timer.
const GRAIN: Duration = Duration::from_millis(1);
/// How long what waits for a silent relay is put off where others go on.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a message is put off that no relay of its queue serves. A change of the configuration makes it due.
const UNSERVED: Duration = Duration::from_mins(15);
/// Domains that nothing is known of are forgotten beyond this number.
const MANY_DOMAINS: usize = 4096;

/// What is known of queues and domains.
#[derive(Default)]
pub(crate) struct Flow {
    pub gates: RefCell<HashMap<i32, Gate>>,
    domains: RefCell<HashMap<String, Rc<Domain>>>,
}

/// Where a job may go now.
enum Route {
    To(Rc<Relay>),
    /// Its relays have reached their limits; the first of them.
    Full(Rc<Relay>),
    Nowhere(String),
    /// Not now, while its queue goes on through others: after so long.
    Later(Duration, String),
    /// None of its relays serves it.
    Unserved,
}

fn full(relay: &Relay) -> String {
    format!("relay \"{}\" has reached its rate limit", relay.config.name)
}

impl Hub {
    /// Takes new jobs: capture jobs are done at once, the others go to their relays' queues.
    pub async fn submit(self: &Rc<Self>, jobs: Vec<Job>) {
        let now = Instant::now();
        // From the first on each job is guarded, though it is its turn only later.
        let tickets: Vec<Ticket> = jobs
            .into_iter()
            .flat_map(|job| self.tickets(job, now))
            .collect();
        let mut touched = Vec::new();
        for (i, ticket) in tickets.into_iter().enumerate() {
            if self.stopping.get() {
                ticket.give_back(STOPPING);
            } else if ticket.relays().is_some() {
                if let Some(ticket) = self.pass_gate(ticket, now) {
                    self.route(ticket, &mut touched);
                }
            } else {
                ticket.capture();
                if i % 64 == 63 {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.pump_all(&touched);
    }

    fn pump_all(self: &Rc<Self>, touched: &[Rc<Relay>]) {
        for relay in touched {
            self.pump(relay);
        }
        if touched.iter().any(|relay| !relay.queue.borrow().is_empty()) {
            self.keeper.notify_one();
        }
    }

    /// A ticket for each of a job's parts, mostly one.
    fn tickets(&self, job: Job, now: Instant) -> Vec<Ticket> {
        let ticket = |job: Job, reporter: Reporter| {
            let domain = self.domain(&of_address(job.to.first().map_or("", String::as_str)));
            Ticket::new(job, domain, reporter, now)
        };
        let groups = if job.to.len() > 1 {
            self.groups(&job, now)
        } else {
            Vec::new()
        };
        if groups.len() < 2 {
            return vec![ticket(job, Rc::clone(&self.reporter))];
        }
        let (jobs, reporter) = parts::split(&job, &groups, &self.reporter);
        jobs.into_iter()
            .map(|job| ticket(job, Rc::clone(&reporter)))
            .collect()
    }

    /// Recipients by the way they must go: apart where their domain has a limit or waits, or relays of its own.
    fn groups(&self, job: &Job, now: Instant) -> Vec<Vec<usize>> {
        let relays = self.relays_of(job.transport.relays());
        let sender = of_address(&job.from);
        let mut groups: Vec<(Option<String>, Vec<i32>, Vec<usize>)> = Vec::new();
        for (i, address) in job.to.iter().enumerate() {
            let name = of_address(address);
            let way: Vec<i32> = candidates(&relays, &sender, &name)
                .iter()
                .map(|relay| relay.config.id)
                .collect();
            let special = self.domain(&name).is_special(now).then_some(name);
            match groups
                .iter_mut()
                .find(|(s, w, _)| *s == special && *w == way)
            {
                Some((_, _, members)) => members.push(i),
                None => groups.push((special, way, vec![i])),
            }
        }
        groups.into_iter().map(|(_, _, members)| members).collect()
    }

    pub(crate) fn domain(&self, name: &str) -> Rc<Domain> {
        let mut domains = self.flow.domains.borrow_mut();
        if let Some(domain) = domains.get(name) {
            return Rc::clone(domain);
        }
        if domains.len() >= MANY_DOMAINS {
            let now = Instant::now();
            domains.retain(|_, domain| !domain.is_forgettable(now));
        }
        let domain = Domain::new(name.to_owned(), None);
        domains.insert(name.to_owned(), Rc::clone(&domain));
        domain
    }

    /// Takes over the limits of queues and domains. What waited for a queue that has none now is given back.
    pub(crate) fn configure_flow(
        &self,
        queues: &[QueueLimit],
        limits: &[crate::DomainLimit],
    ) -> Vec<Ticket> {
        let left = self.configure_gates(queues);
        for domain in self.flow.domains.borrow().values() {
            domain.reconsider();
            domain.limit(limits.iter().find(|limit| limit.domain == domain.name));
        }
        let mut domains = self.flow.domains.borrow_mut();
        for limit in limits {
            domains
                .entry(limit.domain.clone())
                .or_insert_with(|| Domain::new(limit.domain.clone(), Some(limit)));
        }
        left
    }

    fn relays_of(&self, ids: Option<&[i32]>) -> Vec<Rc<Relay>> {
        let relays = self.relays.borrow();
        let ids = ids.unwrap_or_default().iter();
        ids.filter_map(|id| relays.get(id).map(Rc::clone)).collect()
    }

    /// Puts a job into the queue of the relay whose turn it is, or ends it. The caller pumps the relays `touched`.
    fn route(&self, ticket: Ticket, touched: &mut Vec<Rc<Relay>>) {
        let now = Instant::now();
        match self.way(&ticket, now) {
            Route::To(relay) => {
                let domain = Rc::clone(&ticket.domain);
                if relay.queue.borrow().is_hopeless(&domain, now) {
                    let others = relay.queue.borrow().waiting(&domain);
                    self.put_off(ticket, others, now, false);
                    return;
                }
                relay.health.borrow_mut().picked();
                relay.push(ticket, now);
                if !touched.iter().any(|known| Rc::ptr_eq(known, &relay)) {
                    touched.push(relay);
                }
            }
            Route::Full(relay) => {
                let limit = Limited::Relay(relay.config.id);
                give_up(ticket, full(&relay));
                let wait = relay.wait(now).max(LOOK);
                self.report(Report::Exhausted { limit, wait });
            }
            // Were it the next to try its relay with, it would be refused again, and nobody else have a turn.
            Route::Later(..) | Route::Nowhere(_) if ticket.steps_back.is_some() => {
                self.step_back(ticket);
            }
            Route::Later(_, why) if ticket.fault.is_some() => give_up(ticket, why),
            Route::Later(wait, why) => ticket.put_off(wait, why, false),
            Route::Unserved => {
                let why = format!("no relay of its queue serves {}", ticket.domain.name);
                ticket.put_off(UNSERVED, why, true);
            }
            Route::Nowhere(why) => give_up(ticket, why),
        }
    }

    /// The relay for a job: of the lowest tier in which one is up, by turns. One that is silent or just being tried gets a
    /// job only where there is no other.
    fn way(&self, ticket: &Ticket, now: Instant) -> Route {
        let relays = ticket.relays();
        let ids = relays.as_deref().unwrap_or_default();
        let relays = self.relays_of(Some(ids));
        let (sender, _) = ticket.envelope();
        let candidates = candidates(&relays, &of_address(sender), &ticket.domain.name);
        // Whether others of the queue go on, as far as the caller knows, who goes on claiming then: a job that cannot must
        // not stand in their way, nor come back at once.
        let others_go_on = || {
            let is_one = |relay: &Rc<Relay>| candidates.iter().any(|own| Rc::ptr_eq(own, relay));
            let mut others = relays.iter().filter(|relay| !is_one(relay));
            others.any(|relay| relay.health.borrow().is_available(now))
        };
        let mut last_resort = None;
        for tier in candidates.chunk_by(|a, b| a.config.tier == b.config.tier) {
            let mut up = Vec::new();
            for relay in tier {
                let health = relay.health.borrow();
                if !health.is_available(now) {
                    continue;
                }
                if (health.is_silent() || health.is_probing()) && relay.is_busy() {
                    // One job is enough to try it with.
                    last_resort.get_or_insert(relay);
                } else {
                    up.push(relay);
                }
            }
            let roomy: Vec<_> = up
                .iter()
                .copied()
                .filter(|r| r.wait(now) <= LONGEST_WAIT)
                .collect();
            if let Some(relay) = choose(&roomy) {
                return Route::To(Rc::clone(relay));
            }
            if let Some(relay) = up.iter().min_by_key(|relay| relay.wait(now)) {
                if others_go_on() {
                    return Route::Later(relay.put_off(now), full(relay));
                }
                return Route::Full(Rc::clone(relay));
            }
        }
        if let Some(relay) = last_resort {
            if relay.queue.borrow().len() >= KEPT && others_go_on() {
                let why = format!("relay \"{}\" says nothing", relay.config.name);
                return Route::Later(PATIENCE + spread(PATIENCE, self.draw()), why);
            }
            return Route::To(Rc::clone(relay));
        }
        let Some(first) = candidates.first() else {
            return match ids {
                [] => Route::Nowhere("no relay is given".to_owned()),
                _ if relays.is_empty() => {
                    Route::Nowhere("none of its relays is configured".to_owned())
                }
                _ => Route::Unserved,
            };
        };
        let why = format!(
            "relay \"{}\" is suspended: {}",
            first.config.name,
            first.health.borrow().reason()
        );
        let back = candidates
            .iter()
            .filter_map(|relay| relay.health.borrow().back_at())
            .min();
        match back {
            Some(back) if others_go_on() => {
                let pause = back.saturating_duration_since(now);
                Route::Later(pause + spread(pause.min(PATIENCE), self.draw()), why)
            }
            _ => Route::Nowhere(why),
        }
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
        self.pump_all(&touched);
    }

    /// Ends a job for which its relay was suspended: a while after that ends.
    fn step_back(&self, mut ticket: Ticket) {
        let (pause, rule) = ticket.steps_back.take().unwrap_or_default();
        let why = ticket
            .fault
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        ticket.decisions = vec![rule];
        let more = pause.clamp(Duration::from_secs(2), PATIENCE);
        ticket.put_off(pause + more + spread(more, self.draw()), why, true);
    }

    /// Ends a job whose domain cannot take it now, behind so many others.
    fn put_off(&self, ticket: Ticket, others: usize, now: Instant, told: bool) {
        let domain = Rc::clone(&ticket.domain);
        let turn = domain.wait(others, now);
        let limited = turn.is_some();
        let earliest = now + turn.map_or(Duration::ZERO, |wait| wait.max(LONGEST_WAIT));
        let why = match domain.suspended_until(now) {
            Some(_) => domain.reason(),
            None if limited => format!("the limit for {} is reached", domain.name),
            None => format!("no answer about mail for {}", domain.name),
        };
        ticket.put_off(domain.put_off(earliest, now, self.draw()), why, told);
    }

    /// A relay wants no mail for the domain of a job for so long.
    pub fn leave_alone(&self, mut ticket: Ticket, fault: &RelayFault, decision: Decision) {
        let pause = decision.duration.unwrap_or_default();
        ticket.decisions = vec![Some(decision)];
        let words = fault.reply.as_ref().map_or("", |reply| &reply.text);
        ticket.domain.suspend(pause, first_line(words));
        self.put_off(ticket, 0, Instant::now(), true);
    }

    /// Looks after all that only the clock changes, for as long as the pool lives.
    pub async fn keep(self: Rc<Self>) {
        loop {
            match self.tend() {
                Some(at) => tokio::select! {
                    biased;
                    () = self.keeper.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.keeper.notified().await,
            }
        }
    }

    /// Lets go what may, and says when to look again.
    fn tend(self: &Rc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut next = self.open_gates(now);
        let relays: Vec<_> = self.relays.borrow().values().map(Rc::clone).collect();
        for relay in relays {
            let hopeless = relay.queue.borrow_mut().take_hopeless(now);
            for ticket in hopeless {
                self.put_off(ticket, 0, now, false);
            }
            if relay.queue.borrow().is_empty() {
                continue;
            }
            if let Some(silence) = relay
                .silence(now)
                .filter(|silence| *silence >= self.settings.silence)
            {
                self.fell_silent(&relay, silence);
            }
            self.pump(&relay);
            let queue = relay.queue.borrow();
            let silent = relay.silence(now).map(|silence| {
                let left = self.settings.silence.saturating_sub(silence);
                now + if left.is_zero() {
                    self.settings.silence
                } else {
                    left
                }
            });
            let limit = Some(relay.ready_at(now)).filter(|at| *at > now);
            let unknown = (queue.ready_at(now).is_none() && limit.is_none()).then_some(now + LOOK);
            let times = [
                limit,
                queue.ready_at(now),
                queue.silent_at(),
                silent,
                unknown,
            ];
            next = times.into_iter().flatten().chain(next).min();
        }
        next.map(|at| at.max(now + GRAIN))
    }

    fn fell_silent(self: &Rc<Self>, relay: &Rc<Relay>, silence: Duration) {
        if !relay.health.borrow_mut().fell_silent() {
            return;
        }
        self.report(Report::RelaySilent {
            relay: relay.config.id,
            silence,
        });
        let waiting = relay.drain();
        self.reroute(waiting);
    }
}
