//! The jobs that wait for one relay, a line for each recipient domain, so that none holds up another.
//!
//! Lines take turns. One connection is always left by any one domain to the others. Those that have not lately answered
//! at once leave a quarter of the connections to the rest, and each of them no more than half of what the others left it.
//! Within a line, and with one line alone, first come is first served. How many a line holds is the matter of
//! [`crate::line`].

use std::{collections::VecDeque, rc::Rc, time::Duration};

use tokio::time::Instant;

use crate::{domain::Domain, line::Line, ticket::Ticket};

/// So many jobs of each queue stay in a line, however slow it is.
pub(crate) const KEPT: usize = 16;
/// Nobody waits here for longer than this for a limit that is known.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Jobs in lines.
#[derive(Default)]
pub(crate) struct FairQueue {
    /// The line whose turn it is stands first. Those without a job stay in the ring while they have a connection, or jobs
    /// that wait outside.
    ring: VecDeque<Line>,
    len: usize,
}

impl FairQueue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn line(&mut self, domain: &Rc<Domain>, now: Instant) -> &mut Line {
        let known = self
            .ring
            .iter()
            .position(|line| Rc::ptr_eq(&line.domain, domain));
        let place = known.unwrap_or_else(|| {
            self.ring.push_back(Line::new(Rc::clone(domain), now));
            self.ring.len() - 1
        });
        &mut self.ring[place]
    }

    /// Adds a job at the end of its line.
    pub fn push_back(&mut self, ticket: Ticket, now: Instant) {
        let domain = Rc::clone(&ticket.domain);
        self.line(&domain, now).push_back(ticket, now);
        self.len += 1;
    }

    /// Adds a job at the head of its line.
    pub fn push_front(&mut self, ticket: Ticket, now: Instant) {
        let domain = Rc::clone(&ticket.domain);
        self.line(&domain, now).push_front(ticket, now);
        self.len += 1;
    }

    /// Takes all jobs, since the relay goes out of service; which connections are at work stays known.
    pub fn drain(&mut self) -> VecDeque<Ticket> {
        self.len = 0;
        let jobs = self.ring.iter_mut().flat_map(Line::drain).collect();
        self.forget();
        jobs
    }

    fn forget(&mut self) {
        self.ring.retain(|line| !line.is_over());
    }

    /// A connection begins to work for a domain.
    pub fn begin(&mut self, domain: &Rc<Domain>, now: Instant) {
        let line = self.line(domain, now);
        if line.busy == 0 {
            line.heard.set(now);
        }
        line.busy += 1;
    }

    /// It was answered.
    pub fn heard(&mut self, domain: &Rc<Domain>, now: Instant) {
        self.line(domain, now).heard.set(now);
    }

    /// A connection no longer works for a domain.
    pub fn end(&mut self, domain: &Rc<Domain>, now: Instant) {
        let line = self.line(domain, now);
        line.busy = line.busy.saturating_sub(1);
        if line.is_over() {
            self.forget();
        }
    }

    /// Connections at work that say nothing stand in nobody's way any longer.
    pub fn forgive(&mut self) {
        for line in &mut self.ring {
            line.busy = 0;
        }
    }

    /// Connections at work for domains that have not lately answered at once.
    fn unproven(&self) -> usize {
        let unproven = self.ring.iter().filter(|line| !line.domain.proven.get());
        unproven.map(|line| line.busy).sum()
    }

    /// How many more connections, of `limit` in all, a line may have.
    fn room(line: &Line, unproven: usize, limit: usize) -> usize {
        let most = if line.domain.proven.get() {
            limit.saturating_sub(1).max(1)
        } else {
            let shared = limit.saturating_sub(limit.div_ceil(4)).max(1);
            shared.saturating_sub(unproven - line.busy).div_ceil(2)
        };
        most.saturating_sub(line.busy).min(line.domain.room())
    }

    /// The next job for a free connection of at most `limit`.
    pub fn pop(&mut self, limit: usize, now: Instant) -> Option<Ticket> {
        let unproven = self.unproven();
        let place = self
            .ring
            .iter()
            .position(|line| line.is_ready(now) && Self::room(line, unproven, limit) > 0)?;
        self.take(place, now)
    }

    /// The first job of the line whose turn it is, whether it may go or not.
    pub fn pop_any(&mut self, now: Instant) -> Option<Ticket> {
        let line = self.ring.iter_mut().find(|line| !line.waiting.is_empty())?;
        self.len -= 1;
        line.pop(now)
    }

    /// The next job for a connection that is at work for `domain`, to be sent right behind what it is sending: of the same
    /// domain; or, where that answers at once, of any.
    pub fn pop_behind(
        &mut self,
        domain: &Rc<Domain>,
        limit: usize,
        now: Instant,
    ) -> Option<Ticket> {
        let same = self
            .ring
            .iter()
            .position(|line| Rc::ptr_eq(&line.domain, domain) && line.is_ready(now));
        match same {
            // Others have their turn first.
            Some(place) if self.ring.len() == 1 || !domain.proven.get() => self.take(place, now),
            _ if domain.proven.get() => self.pop(limit, now).or_else(|| self.take(same?, now)),
            _ => None,
        }
    }

    fn take(&mut self, place: usize, now: Instant) -> Option<Ticket> {
        let line = self.ring.get_mut(place)?;
        let mut ticket = line.serve(now)?;
        ticket.in_flight = Some(line.domain.enter(now));
        self.len -= 1;
        if self.ring.len() > 1
            && let Some(line) = self.ring.remove(place)
            && !line.is_over()
        {
            self.ring.push_back(line);
        }
        Some(ticket)
    }

    /// How many jobs could go at once over further connections.
    pub fn ready(&self, limit: usize, now: Instant) -> usize {
        let unproven = self.unproven();
        let ready = self.ring.iter().filter(|line| line.is_ready(now));
        ready
            .map(|line| line.waiting.len().min(Self::room(line, unproven, limit)))
            .sum()
    }

    /// When the next line becomes ready by the clock alone.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let waiting = self.ring.iter().filter(|line| !line.waiting.is_empty());
        waiting
            .filter_map(|line| line.domain.ready_at(now))
            .filter(|at| *at > now)
            .min()
    }

    /// When to look again for lines with too many, and for those that have room again.
    pub fn look_at(&self, now: Instant) -> Option<Instant> {
        let lines = self.ring.iter();
        lines
            .flat_map(|line| [line.excess_at(now), line.ask_at(now)])
            .flatten()
            .min()
    }

    fn known(&self, domain: &Rc<Domain>) -> Option<&Line> {
        self.ring
            .iter()
            .find(|line| Rc::ptr_eq(&line.domain, domain))
    }

    /// How many wait in a domain's line.
    pub fn waiting(&self, domain: &Rc<Domain>) -> usize {
        self.known(domain).map_or(0, |line| line.waiting.len())
    }

    /// Whether so many of a queue wait in a domain's line that a further one would be too many.
    pub fn is_full(&self, domain: &Rc<Domain>, queue: i32, now: Instant) -> bool {
        self.known(domain)
            .is_some_and(|line| line.is_full(queue, now))
    }

    /// Whether a further job would have to wait for too long, though its relay works: what is known of its domain, or of
    /// those before it.
    pub fn is_hopeless(&self, ticket: &Ticket, now: Instant) -> bool {
        let domain = &ticket.domain;
        domain.suspended_until(now).is_some()
            || domain
                .wait(self.waiting(domain), now)
                .is_some_and(|wait| wait > LONGEST_WAIT)
            || self.is_full(domain, ticket.queue, now)
    }

    /// A job leaves the pool until its domain's line has room.
    pub fn park(&mut self, ticket: &Ticket, now: Instant) {
        self.line(&ticket.domain, now).park(ticket.queue, now);
    }

    /// Forgets what is parked: all of it comes.
    pub fn unpark(&mut self) {
        self.ring.iter_mut().for_each(Line::unpark);
        self.forget();
    }

    /// Takes those out of the lines that are too many to be kept waiting.
    pub fn take_excess(&mut self, now: Instant) -> Vec<Ticket> {
        let lines = self.ring.iter_mut();
        let taken: Vec<Ticket> = lines.flat_map(|line| line.take_excess(now)).collect();
        self.len -= taken.len();
        if !taken.is_empty() {
            self.forget();
        }
        taken
    }

    /// When the job came that has waited longest, of those that no limit holds up.
    pub fn first_entered(&self) -> Option<Instant> {
        self.ring.iter().filter_map(Line::first_entered).min()
    }

    /// Takes those jobs out that came before, where they may go elsewhere.
    pub fn take_before(
        &mut self,
        before: Instant,
        elsewhere: impl Fn(&Ticket) -> bool,
    ) -> Vec<Ticket> {
        let lines = self.ring.iter_mut();
        let taken: Vec<Ticket> = lines
            .flat_map(|line| line.take_before(before, &elsewhere))
            .collect();
        self.len -= taken.len();
        taken
    }

    /// What may come back of what is parked: queue, domain, how many. It counts as no longer parked.
    pub fn ask(&mut self, now: Instant) -> Vec<(i32, Rc<Domain>, usize)> {
        let mut asked = Vec::new();
        for line in &mut self.ring {
            let rooms = line.ask(now).into_iter();
            asked.extend(rooms.map(|(queue, count)| (queue, Rc::clone(&line.domain), count)));
        }
        if !asked.is_empty() {
            self.forget();
        }
        asked
    }
}
