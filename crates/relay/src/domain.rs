//! What is known of one recipient domain: how often and how many at once its mail may go, whether it waits, whether it
//! has lately answered. Shared by all relays.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    DomainLimit,
    rate::{Limiter, Turns},
};

/// How long a message waits at most that is parked: it is asked for before, as a rule.
const PARKED: Duration = Duration::from_mins(15);

/// One recipient domain.
pub(crate) struct Domain {
    pub name: String,
    limiter: RefCell<Option<Limiter>>,
    concurrency: Cell<Option<usize>>,
    in_flight: Cell<usize>,
    suspended: RefCell<Option<(Instant, String)>>,
    turns: Turns,
    /// It lately answered at once. Others share what connections are left for them.
    pub proven: Cell<bool>,
}

impl Domain {
    pub fn new(name: String, limit: Option<&DomainLimit>) -> Rc<Self> {
        let domain = Self {
            name,
            limiter: RefCell::new(None),
            concurrency: Cell::new(None),
            in_flight: Cell::new(0),
            suspended: RefCell::new(None),
            turns: Turns::default(),
            proven: Cell::new(false),
        };
        domain.limit(limit);
        Rc::new(domain)
    }

    /// Takes over a configured limit; a rate that stays the same goes on where it was.
    pub fn limit(&self, limit: Option<&DomainLimit>) {
        let rate = limit.and_then(|limit| limit.rate);
        let mut limiter = self.limiter.borrow_mut();
        if limiter.as_ref().map(Limiter::rate) != rate {
            *limiter = rate.map(Limiter::new);
        }
        self.concurrency
            .set(limit.and_then(|limit| limit.concurrency));
    }

    /// Forgets the times that were given: those who got them come again.
    pub fn reconsider(&self) {
        self.turns.forget();
    }

    /// Whether it has a limit on how often.
    pub fn has_rate(&self) -> bool {
        self.limiter.borrow().is_some()
    }

    /// How many its limit lets go within `time` if it lets one go now, where it has one.
    pub fn granted(&self, time: Duration, now: Instant) -> Option<usize> {
        let mut limiter = self.limiter.borrow_mut();
        Some(limiter.as_mut()?.within(time, now))
    }

    /// How many may wait for their turn, where only so many may be on their way at once.
    pub fn most_waiting(&self) -> Option<usize> {
        self.concurrency.get().map(|most| most.saturating_mul(4))
    }

    /// Whether its mail needs a transaction of its own.
    pub fn is_special(&self, now: Instant) -> bool {
        self.limiter.borrow().is_some()
            || self.concurrency.get().is_some()
            || self.suspended_until(now).is_some()
    }

    /// Its mail waits for so long, since a relay said that.
    pub fn suspend(&self, pause: Duration, words: &str) {
        let why = format!("mail for {} waits: {words}", self.name);
        self.suspended.replace(Some((Instant::now() + pause, why)));
    }

    pub fn suspended_until(&self, now: Instant) -> Option<Instant> {
        let suspended = self.suspended.borrow();
        suspended
            .as_ref()
            .map(|(until, _)| *until)
            .filter(|until| *until > now)
    }

    /// Why its mail waits.
    pub fn reason(&self) -> String {
        let suspended = self.suspended.borrow();
        suspended
            .as_ref()
            .map_or_else(String::new, |(_, why)| why.clone())
    }

    /// How many more messages may be on their way to it.
    pub fn room(&self) -> usize {
        let most = self.concurrency.get().unwrap_or(usize::MAX);
        most.saturating_sub(self.in_flight.get())
    }

    /// When the next message may go, as far as is known; `None`: when one in flight has ended.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self
            .concurrency
            .get()
            .is_some_and(|most| self.in_flight.get() >= most)
        {
            return None;
        }
        let from = self.suspended_until(now).unwrap_or(now);
        let mut limiter = self.limiter.borrow_mut();
        Some(
            limiter
                .as_mut()
                .map_or(from, |limiter| limiter.ready_at(now).max(from)),
        )
    }

    /// A message leaves for it: only when it is ready.
    pub fn enter(self: &Rc<Self>, now: Instant) -> InFlight {
        if let Some(limiter) = self.limiter.borrow_mut().as_mut() {
            let granted = limiter.take(now);
            debug_assert!(granted.is_ok(), "the caller has asked whether it is ready");
        }
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// How long a message would wait behind `others`; `None`: nobody knows.
    pub fn wait(&self, others: usize, now: Instant) -> Option<Duration> {
        let mut limiter = self.limiter.borrow_mut();
        let limiter = limiter.as_mut()?;
        Some(limiter.after(others, now).saturating_duration_since(now))
    }

    /// A time for a message that cannot wait here: one after the other at the pace of the limit, where there is one; else
    /// when it is suspended no longer, or asks for more. `random` spreads them.
    pub fn put_off(&self, earliest: Instant, now: Instant, random: u64) -> Duration {
        let limiter = self.limiter.borrow();
        match (&*limiter, self.suspended_until(now)) {
            (Some(limiter), _) => self.turns.give(earliest, limiter.rate().step(), now),
            (None, Some(until)) => {
                until.saturating_duration_since(now) + spread(Duration::from_secs(10), random)
            }
            (None, None) => PARKED,
        }
    }

    /// It has given no answer for a while.
    pub fn stalled(&self) {
        self.proven.set(false);
    }

    /// It answered, within a moment or not.
    pub fn answered(&self, at_once: bool) {
        self.proven.set(at_once);
    }

    /// Nothing about it need be remembered.
    pub fn is_forgettable(self: &Rc<Self>, now: Instant) -> bool {
        Rc::strong_count(self) == 1 && !self.is_special(now)
    }
}

/// A part of `whole`.
pub(crate) fn spread(whole: Duration, random: u64) -> Duration {
    whole / 100 * u32::try_from(random % 100).unwrap_or_default()
}

/// Counts a message as on its way to its domain for as long as it lives.
pub(crate) struct InFlight(Rc<Domain>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// The domain of an address, in lower case.
pub(crate) fn of_address(address: &str) -> String {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    domain.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    fn limited(rate: Option<(u32, u64)>, concurrency: Option<usize>) -> Rc<Domain> {
        let limit = DomainLimit {
            domain: "x.test".to_owned(),
            concurrency,
            rate: rate.map(|(count, seconds)| Rate {
                count,
                window: Duration::from_secs(seconds),
            }),
        };
        Domain::new("x.test".to_owned(), Some(&limit))
    }

    #[test]
    fn so_many_may_be_on_their_way_at_once() {
        let (domain, now) = (limited(None, Some(2)), Instant::now());
        let first = domain.enter(now);
        let _second = domain.enter(now);
        assert_eq!(domain.ready_at(now), None);
        drop(first);
        assert_eq!(domain.ready_at(now), Some(now));
    }

    #[test]
    fn what_cannot_wait_is_put_off_one_after_the_other_at_the_pace_of_the_limit() {
        let (domain, now) = (limited(Some((10, 1)), None), Instant::now());
        let waits: Vec<u128> = (0..3)
            .map(|_| {
                domain
                    .put_off(now + Duration::from_secs(2), now, 0)
                    .as_millis()
            })
            .collect();
        assert_eq!(waits, [2000, 2100, 2200]);
        let later = now + Duration::from_mins(1);
        assert_eq!(domain.put_off(later, later, 0), Duration::ZERO);
    }
}
