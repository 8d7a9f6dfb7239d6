//! The jobs that wait for one relay, a line for each recipient domain, so that none holds up another.
//!
//! Lines take turns. One connection is always left by any one domain to the others. Those that have not lately answered
//! at once leave a quarter of the connections to the rest, and each of them no more than half of what the others left it.
//! Within a line, and with one line alone, first come is first served.

use std::{cell::Cell, collections::VecDeque, rc::Rc, time::Duration};

use tokio::time::Instant;

use crate::{domain::Domain, ticket::Ticket};

/// A line whose connections have said nothing for so long gives no answer.
const SILENCE: Duration = Duration::from_secs(1);
/// So many jobs of a line without an answer stay here.
pub(crate) const KEPT: usize = 16;
/// Nobody waits here for longer than this for a limit that is known.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(2);

struct Line {
    domain: Rc<Domain>,
    waiting: VecDeque<Ticket>,
    /// Connections at work for it.
    busy: usize,
    /// When it last got an answer, or its first connection.
    heard: Cell<Instant>,
}

impl Line {
    fn new(domain: Rc<Domain>, now: Instant) -> Self {
        Self {
            domain,
            waiting: VecDeque::new(),
            busy: 0,
            heard: Cell::new(now),
        }
    }

    /// Whether a job waits in it that its domain lets go now.
    fn is_ready(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.domain.ready_at(now).is_some_and(|at| at <= now)
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.busy > 0 && now.saturating_duration_since(self.heard.get()) >= SILENCE
    }
}

/// Jobs in lines.
#[derive(Default)]
pub(crate) struct FairQueue {
    /// The line whose turn it is stands first. Those that hold no job but a connection stay in the ring.
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
        self.line(&domain, now).waiting.push_back(ticket);
        self.len += 1;
    }

    /// Adds a job at the head of its line.
    pub fn push_front(&mut self, ticket: Ticket, now: Instant) {
        let domain = Rc::clone(&ticket.domain);
        self.line(&domain, now).waiting.push_front(ticket);
        self.len += 1;
    }

    /// Takes all jobs; which connections are at work stays known.
    pub fn drain(&mut self) -> VecDeque<Ticket> {
        self.len = 0;
        let jobs = self
            .ring
            .iter_mut()
            .flat_map(|line| line.waiting.drain(..))
            .collect();
        self.forget();
        jobs
    }

    fn forget(&mut self) {
        self.ring
            .retain(|line| line.busy > 0 || !line.waiting.is_empty());
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
        if line.busy == 0 && line.waiting.is_empty() {
            self.forget();
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
    pub fn pop_any(&mut self) -> Option<Ticket> {
        let line = self.ring.iter_mut().find(|line| !line.waiting.is_empty())?;
        self.len -= 1;
        line.waiting.pop_front()
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
        let mut ticket = line.waiting.pop_front()?;
        ticket.in_flight = Some(line.domain.enter(now));
        self.len -= 1;
        if self.ring.len() > 1
            && let Some(line) = self.ring.remove(place)
            && (line.busy > 0 || !line.waiting.is_empty())
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

    /// When to look again for lines that give no answer.
    pub fn silent_at(&self) -> Option<Instant> {
        let at_risk = self
            .ring
            .iter()
            .filter(|line| line.busy > 0 && line.waiting.len() > KEPT);
        at_risk.map(|line| line.heard.get() + SILENCE).min()
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

    /// Whether a further job of this domain would have to wait for too long, though its relay works: how long those
    /// before it take, or that it gives no answer.
    pub fn is_hopeless(&self, domain: &Rc<Domain>, now: Instant) -> bool {
        let waiting = self.waiting(domain);
        domain.suspended_until(now).is_some()
            || domain
                .wait(waiting, now)
                .is_some_and(|wait| wait > LONGEST_WAIT)
            || domain
                .most_waiting()
                .is_some_and(|most| waiting >= most.max(KEPT))
            || waiting >= KEPT && self.known(domain).is_some_and(|line| line.is_silent(now))
    }

    /// Takes those out of the lines that give no answer that are too many to be kept waiting.
    pub fn take_hopeless(&mut self, now: Instant) -> Vec<Ticket> {
        let mut taken = Vec::new();
        for line in &mut self.ring {
            let suspended = line.domain.suspended_until(now).is_some();
            let kept = if suspended { 0 } else { KEPT };
            if line.waiting.len() > kept && (suspended || line.is_silent(now)) {
                if !suspended {
                    line.domain.stalled();
                }
                taken.extend(line.waiting.drain(kept..));
            }
        }
        self.len -= taken.len();
        self.forget();
        taken
    }
}
