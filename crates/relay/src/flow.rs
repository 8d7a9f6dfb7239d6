//! The way of a job through the pool: its parts, its queue's limit, its relay.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use tokio::time::Instant;

use crate::{
    Decision, Job, Limited, QueueLimit, Report,
    domain::{Domain, of_address, spread},
    fair::{KEPT, LONGEST_WAIT},
    gate::Gate,
    hub::{Hub, STOPPING, give_up},
    parts,
    relay::Relay,
    routes::{candidates, choose},
    ticket::{Reporter, Ticket},
};

/// A relay's limit is not reported as used up for less.
const LEAST: Duration = Duration::from_millis(100);
/// How long a part of a message is put off whose domain is slow.
const PART: Duration = Duration::from_secs(5);
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

/// Of `relays`, those that a job may go to, by tier.
fn candidates_of(ticket: &Ticket, relays: &[Rc<Relay>]) -> Vec<Rc<Relay>> {
    let (sender, _) = ticket.envelope();
    let mut candidates = candidates(relays, &of_address(sender), &ticket.domain.name);
    candidates.retain(|relay| !ticket.unfit.contains(&relay.config.id));
    candidates
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
        let part = |job| {
            let mut ticket = ticket(job, Rc::clone(&reporter));
            ticket.part = true;
            ticket
        };
        jobs.into_iter().map(part).collect()
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

    /// The relays that a job may go to instead of this one, now or later.
    pub fn others(&self, ticket: &Ticket, relay: &Rc<Relay>) -> Vec<Rc<Relay>> {
        let relays = self.relays_of(ticket.relays().as_deref());
        let mut others = candidates_of(ticket, &relays);
        others.retain(|other| !Rc::ptr_eq(other, relay));
        others
    }

    /// Whether one of them can be tried now.
    pub fn has_another(&self, ticket: &Ticket, relay: &Rc<Relay>) -> bool {
        let now = Instant::now();
        let others = self.others(ticket, relay);
        others.iter().any(|other| {
            let health = other.health.borrow();
            health.is_available(now) && !health.is_silent()
        })
    }

    /// Whether another one of its tier takes its mail at once.
    pub fn has_peer(&self, ticket: &Ticket, relay: &Rc<Relay>) -> bool {
        let others = self.others(ticket, relay);
        let mut peers = others
            .iter()
            .filter(|other| other.config.tier == relay.config.tier && other.config.weight > 0);
        peers.any(|peer| {
            let health = peer.health.borrow();
            let up =
                !health.is_silent() && !health.is_probing() && health.is_available(Instant::now());
            up && !peer.backed_up.get()
        })
    }

    /// Puts a job into the queue of the relay whose turn it is, or ends it. The caller pumps the relays `touched`.
    fn route(self: &Rc<Self>, ticket: Ticket, touched: &mut Vec<Rc<Relay>>) {
        let now = Instant::now();
        match self.way(&ticket, now) {
            Route::To(relay) => {
                if relay.queue.borrow().is_hopeless(&ticket, now) {
                    self.park(ticket, &relay, now);
                    return;
                }
                relay.health.borrow_mut().picked();
                relay.push(ticket, now);
                self.try_silent(&relay, now);
                if !touched.iter().any(|known| Rc::ptr_eq(known, &relay)) {
                    touched.push(relay);
                }
            }
            Route::Full(relay) => {
                let limit = Limited::Relay(relay.config.id);
                give_up(ticket, full(&relay));
                let wait = relay.wait(now).max(LEAST);
                self.report(Report::Exhausted { limit, wait });
            }
            // It would come back to one that cannot carry it.
            Route::Later(_, why) | Route::Nowhere(why) if !ticket.unfit.is_empty() => {
                ticket.put_off(PATIENCE + spread(PATIENCE, self.draw()), why, false);
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
        let candidates = candidates_of(ticket, &relays);
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
                let is_being_tried =
                    health.is_silent() && !health.is_to_be_tried(now) || health.is_probing();
                if is_being_tried && relay.is_busy() {
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
            // Best one where mail does not pile up already; but not the last resort for that reason.
            let is_open = |relay: &&&Rc<Relay>| {
                let queue = relay.queue.borrow();
                relay.config.weight > 0
                    && !relay.backed_up.get()
                    && !queue.is_full(&ticket.domain, ticket.queue, now)
            };
            let open: Vec<_> = roomy.iter().filter(is_open).copied().collect();
            if let Some(relay) = choose(&open).or_else(|| choose(&roomy)) {
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
    pub fn step_back(&self, mut ticket: Ticket) {
        let (pause, rule) = ticket.steps_back.take().unwrap_or_default();
        let why = ticket
            .fault
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        ticket.decisions = vec![rule];
        let more = pause.clamp(Duration::from_secs(2), PATIENCE);
        ticket.put_off(pause + more + spread(more, self.draw()), why, true);
    }

    /// Ends a job for which there is no room now in its domain's line, which is to ask for it when there is. A domain that is
    /// suspended asks for nothing: the time is known.
    fn park(&self, mut ticket: Ticket, relay: &Relay, now: Instant) {
        if ticket.part {
            // Its row is busy with the other parts: nobody could fetch it.
            let why = format!("mail for {} goes slowly", ticket.domain.name);
            ticket.put_off(PART + spread(PART, self.draw()), why, false);
            return;
        }
        let mut queue = relay.queue.borrow_mut();
        ticket.parked = ticket.domain.suspended_until(now).is_none();
        if ticket.parked {
            queue.park(&ticket, now);
        }
        let others = queue.waiting(&ticket.domain);
        drop(queue);
        self.put_off(ticket, others, now, false);
        self.keeper.notify_one();
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
            None => format!("mail for {} goes slowly", domain.name),
        };
        ticket.put_off(domain.put_off(earliest, now, self.draw()), why, told);
    }

    /// Ends a job for which its domain was paused by a rule.
    pub fn leave_alone(&self, mut ticket: Ticket, decision: Decision) {
        ticket.decisions = vec![Some(decision)];
        self.put_off(ticket, 0, Instant::now(), true);
    }
}
