//! The line of one recipient domain at one relay: the jobs that wait there, and how many more it could not keep.
//!
//! A domain that is slow must not fill the pool with its mail. Where jobs have waited for long, or only so many may be on
//! their way at once, the line keeps of each queue what it gets through in a second, [`KEPT`] at least. The rest is
//! *parked*: it leaves the pool, and the line asks for it when there is room again. What it knows to be parked is an
//! estimate. To ask in vain does no harm, and what nobody asks for comes back by itself in the end.

use std::{cell::Cell, collections::VecDeque, rc::Rc, time::Duration};

use tokio::time::Instant;

use crate::{
    domain::Domain,
    fair::{KEPT, LONGEST_WAIT},
    ticket::Ticket,
};

/// A line whose connections have said nothing for so long gives no answer.
const SILENCE: Duration = Duration::from_secs(1);
/// A line is slow whose first job has waited for so long: longer than anybody waits for a limit.
const SLOW: Duration = LONGEST_WAIT.saturating_add(SILENCE);
/// How often to look whether there is room.
const LOOK: Duration = Duration::from_millis(100);
/// Who was asked for should have come within this time.
const ANSWER: Duration = Duration::from_secs(1);
/// No more are asked for at once: each is a row to be written.
const MOST: usize = 1000;

/// How many a line got through within about the last second.
struct Pace {
    since: Instant,
    count: usize,
    before: usize,
}

impl Pace {
    const SPAN: Duration = Duration::from_secs(1);

    fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            before: 0,
        }
    }

    fn add(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age >= Self::SPAN {
            let lately = age < Self::SPAN * 2;
            self.before = if lately { self.count } else { 0 };
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
    }

    fn per_second(&self, now: Instant) -> usize {
        let age = now.saturating_duration_since(self.since);
        match age {
            _ if age < Self::SPAN => self.before.max(self.count),
            _ if age < Self::SPAN * 2 => self.count,
            _ => 0,
        }
    }
}

/// What a line has of one queue.
struct Share {
    queue: i32,
    waiting: usize,
    pace: Pace,
    /// How many were parked and not asked for since.
    parked: usize,
    /// Of these, those that may come whether there is room or not: their relay went out of service, and another may take
    /// them.
    freed: usize,
    /// Nothing is asked for before.
    quiet: Instant,
}

pub(crate) struct Line {
    pub domain: Rc<Domain>,
    pub waiting: VecDeque<Ticket>,
    shares: Vec<Share>,
    /// Connections at work for it.
    pub busy: usize,
    /// When it last got an answer, or its first connection.
    pub heard: Cell<Instant>,
}

impl Line {
    pub fn new(domain: Rc<Domain>, now: Instant) -> Self {
        Self {
            domain,
            waiting: VecDeque::new(),
            shares: Vec::new(),
            busy: 0,
            heard: Cell::new(now),
        }
    }

    /// Whether there is nothing to know about it.
    pub fn is_over(&self) -> bool {
        self.busy == 0 && self.waiting.is_empty() && self.shares.iter().all(|s| s.parked == 0)
    }

    fn share(&mut self, queue: i32, now: Instant) -> &mut Share {
        let known = self.shares.iter().position(|share| share.queue == queue);
        let place = known.unwrap_or_else(|| {
            self.shares.push(Share {
                queue,
                waiting: 0,
                pace: Pace::new(now),
                parked: 0,
                freed: 0,
                quiet: now,
            });
            self.shares.len() - 1
        });
        &mut self.shares[place]
    }

    /// Adds a job at the end.
    pub fn push_back(&mut self, mut ticket: Ticket, now: Instant) {
        let limited = self.domain.has_rate();
        let share = self.share(ticket.queue, now);
        share.waiting += 1;
        share.quiet = now;
        if limited {
            // Those put off for a limit come by themselves, each at its time: nobody asks as long as they do.
            share.quiet += ANSWER;
            share.parked = share.parked.saturating_sub(1);
        }
        ticket.entered = now;
        ticket.since.get_or_insert(now);
        ticket.in_flight = None;
        self.waiting.push_back(ticket);
    }

    /// Adds a job at the head.
    pub fn push_front(&mut self, mut ticket: Ticket, now: Instant) {
        ticket.in_flight = None;
        self.share(ticket.queue, now).waiting += 1;
        self.waiting.push_front(ticket);
    }

    /// Takes the first job, which will not be sent now.
    pub fn pop(&mut self, now: Instant) -> Option<Ticket> {
        let ticket = self.waiting.pop_front()?;
        self.share(ticket.queue, now).waiting -= 1;
        Some(ticket)
    }

    /// Takes the first job to be sent.
    pub fn serve(&mut self, now: Instant) -> Option<Ticket> {
        let ticket = self.waiting.pop_front()?;
        let share = self.share(ticket.queue, now);
        share.waiting -= 1;
        share.pace.add(now);
        Some(ticket)
    }

    /// Takes all jobs, since the relay goes out of service: what is parked may come, and go by another.
    pub fn drain(&mut self) -> impl Iterator<Item = Ticket> {
        for share in &mut self.shares {
            share.waiting = 0;
            share.freed = share.parked;
        }
        self.waiting.drain(..)
    }

    /// Whether a job waits in it that its domain lets go now.
    pub fn is_ready(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.domain.ready_at(now).is_some_and(|at| at <= now)
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.busy > 0 && now.saturating_duration_since(self.heard.get()) >= SILENCE
    }

    fn is_slow(&self, now: Instant) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| now.saturating_duration_since(first.since.unwrap_or(now)) >= SLOW)
    }

    /// How many jobs of a queue may wait in it, if not all may.
    fn kept(&self, share: &Share, now: Instant) -> usize {
        let pace = if self.is_silent(now) {
            0
        } else {
            share.pace.per_second(now)
        };
        KEPT.max(pace)
            .max(self.domain.most_waiting().unwrap_or_default())
    }

    /// Whether a further job of a queue would be too many.
    pub fn is_full(&self, queue: i32, now: Instant) -> bool {
        let Some(share) = self.shares.iter().find(|share| share.queue == queue) else {
            return false;
        };
        let others_wait_outside = share.parked > 0 && !self.domain.has_rate();
        let bounded = others_wait_outside
            || self.domain.most_waiting().is_some()
            || self.is_silent(now)
            || self.is_slow(now);
        bounded && share.waiting >= self.kept(share, now)
    }

    /// Takes the jobs out that are too many to be kept waiting.
    pub fn take_excess(&mut self, now: Instant) -> Vec<Ticket> {
        let suspended = self.domain.suspended_until(now).is_some();
        let silent = self.is_silent(now);
        if !(suspended || silent || self.is_slow(now)) {
            return Vec::new();
        }
        let mut left: Vec<(i32, usize)> = self
            .shares
            .iter()
            .map(|share| {
                let kept = self.kept(share, now);
                (share.queue, if suspended { 0 } else { kept })
            })
            .collect();
        let is_over = |share: &Share| {
            let mut all = left.iter();
            all.any(|(queue, kept)| *queue == share.queue && share.waiting > *kept)
        };
        if !self.shares.iter().any(is_over) {
            return Vec::new();
        }
        if silent {
            self.domain.stalled();
        }
        let (kept, taken): (VecDeque<_>, VecDeque<_>) =
            self.waiting.drain(..).partition(|ticket| {
                let mut all = left.iter_mut();
                let room = all.find(|(queue, room)| *queue == ticket.queue && *room > 0);
                room.map(|(_, room)| *room -= 1).is_some()
            });
        self.waiting = kept;
        for ticket in &taken {
            self.share(ticket.queue, now).waiting -= 1;
        }
        taken.into()
    }

    /// When its first job came, if no limit holds it up.
    pub fn first_entered(&self) -> Option<Instant> {
        let limited = self.domain.has_rate() || self.domain.most_waiting().is_some();
        let first = self.waiting.front().filter(|_| !limited)?;
        Some(first.entered)
    }

    /// Takes the jobs out that came before, where they may go elsewhere.
    pub fn take_before(
        &mut self,
        before: Instant,
        elsewhere: &impl Fn(&Ticket) -> bool,
    ) -> Vec<Ticket> {
        let goes = |ticket: &Ticket| ticket.entered <= before && elsewhere(ticket);
        let (taken, kept): (VecDeque<_>, VecDeque<_>) = self.waiting.drain(..).partition(goes);
        self.waiting = kept;
        for ticket in &taken {
            self.share(ticket.queue, before).waiting -= 1;
        }
        taken.into()
    }

    /// When to look again whether it keeps too many.
    pub fn excess_at(&self, now: Instant) -> Option<Instant> {
        self.shares.iter().find(|share| share.waiting > KEPT)?;
        let slow = self
            .waiting
            .front()
            .map(|first| first.since.unwrap_or(now) + SLOW);
        let silent = (self.busy > 0).then(|| self.heard.get() + SILENCE);
        // Once it is slow, what it may keep changes with its pace.
        let at = slow.into_iter().chain(silent).min()?;
        Some(if at > now { at } else { now + LOOK })
    }

    /// A job of a queue is put off, to be asked for when there is room.
    pub fn park(&mut self, queue: i32, now: Instant) {
        self.share(queue, now).parked += 1;
    }

    /// Forgets what is parked: all of it comes.
    pub fn unpark(&mut self) {
        for share in &mut self.shares {
            (share.parked, share.freed) = (0, 0);
        }
    }

    /// How many of what is parked it could take now, by queue. They count as no longer parked.
    pub fn ask(&mut self, now: Instant) -> Vec<(i32, usize)> {
        let mut asked = Vec::new();
        for place in 0..self.shares.len() {
            let room = self.room(&self.shares[place], now);
            let share = &mut self.shares[place];
            let count = room.max(share.freed).min(share.parked).min(MOST);
            if count > 0 {
                share.parked -= count;
                share.freed = share.freed.saturating_sub(count);
                share.quiet = now + ANSWER;
                asked.push((share.queue, count));
            }
        }
        asked
    }

    fn room(&self, share: &Share, now: Instant) -> usize {
        if share.quiet > now || self.domain.suspended_until(now).is_some() {
            return 0;
        }
        if let Some(granted) = self.domain.granted(LONGEST_WAIT, now) {
            return if self.waiting.is_empty() { granted } else { 0 };
        }
        let kept = self.kept(share, now);
        if share.waiting * 2 < kept {
            kept - share.waiting
        } else {
            0
        }
    }

    /// When to look again whether there is room.
    pub fn ask_at(&self, now: Instant) -> Option<Instant> {
        let parked = self.shares.iter().filter(|share| share.parked > 0);
        let at = parked.map(|share| if share.freed > 0 { now } else { share.quiet });
        let at = at.min()?.max(now + LOOK);
        let freed = self.shares.iter().any(|share| share.freed > 0);
        let ready = self.domain.ready_at(now).filter(|_| !freed);
        Some(ready.map_or(at, |ready| ready.max(at)))
    }
}
