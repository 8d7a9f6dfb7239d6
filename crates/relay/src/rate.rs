//! How often something may happen. Pure, and the clock is given.
//!
//! A short window (up to [`SHORT`]) is paced: one after the other at equal distances, so that a provider's "14 a second"
//! is held at any moment. A long one ("10,000 a day") is counted: what is left of it may be used at once, and any stretch
//! of time as long as the window, to a hundredth, holds no more than the limit.

use std::{cell::Cell, collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::Rate;

/// Windows up to this one are paced.
const SHORT: Duration = Duration::from_secs(10);
/// How far a paced limiter may lag behind its schedule and catch up; it covers the timer's grain.
const SLACK: Duration = Duration::from_millis(20);
/// Into how many pieces a long window is cut.
const PIECES: u32 = 100;

/// Grants so many per window.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// When the next one is due on the schedule (GCRA).
    Paced { next: Option<Instant> },
    /// Grants per piece of the window, oldest first, each with its begin.
    Counted {
        pieces: VecDeque<(Instant, u32)>,
        sum: u32,
    },
}

impl Limiter {
    pub fn new(rate: Rate) -> Self {
        let kind = if rate.window <= SHORT {
            Kind::Paced { next: None }
        } else {
            Kind::Counted {
                pieces: VecDeque::new(),
                sum: 0,
            }
        };
        Self { rate, kind }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one, or says when there will be one.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let ready = self.ready_at(now);
        if ready > now {
            return Err(ready);
        }
        let step = self.rate.step();
        match &mut self.kind {
            Kind::Paced { next } => {
                let schedule =
                    next.map_or(now, |next| next.max(now.checked_sub(SLACK).unwrap_or(now)));
                *next = Some(schedule + step);
            }
            Kind::Counted { pieces, sum } => {
                let length = self.rate.window / PIECES;
                match pieces.back_mut() {
                    Some((begin, count)) if now < *begin + length => *count += 1,
                    _ => pieces.push_back((now, 1)),
                }
                *sum += 1;
            }
        }
        Ok(())
    }

    /// When the next one may be taken: `now`, or later.
    pub fn ready_at(&mut self, now: Instant) -> Instant {
        let rate = self.rate;
        match &mut self.kind {
            Kind::Paced { next } => next.map_or(now, |next| next.max(now)),
            Kind::Counted { pieces, sum } => {
                let length = rate.window / PIECES;
                while let Some((begin, count)) = pieces.front()
                    && *begin + length + rate.window <= now
                {
                    *sum -= count;
                    pieces.pop_front();
                }
                match pieces.front() {
                    Some((begin, _)) if *sum >= rate.count => *begin + length + rate.window,
                    _ => now,
                }
            }
        }
    }

    /// How many may be taken now.
    pub fn available(&mut self, now: Instant) -> usize {
        if self.ready_at(now) > now {
            return 0;
        }
        match &self.kind {
            Kind::Paced { .. } => 1,
            Kind::Counted { sum, .. } => self.rate.count.saturating_sub(*sum) as usize,
        }
    }

    /// How many may be taken within `time`, if one may be taken now.
    pub fn within(&mut self, time: Duration, now: Instant) -> usize {
        match (self.available(now), &self.kind) {
            (0, _) => 0,
            (_, Kind::Paced { .. }) => {
                let steps = time.as_nanos() / self.rate.step().as_nanos().max(1);
                usize::try_from(steps).unwrap_or(usize::MAX).max(1)
            }
            (left, Kind::Counted { .. }) => left,
        }
    }

    /// When the one behind `others` may be taken, if nobody else takes any.
    pub fn after(&mut self, others: usize, now: Instant) -> Instant {
        let ready = self.ready_at(now);
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        match &self.kind {
            Kind::Paced { .. } => ready + self.rate.step().saturating_mul(others),
            Kind::Counted { pieces, sum } => {
                let Some(mut behind) = others.checked_sub(self.rate.count.saturating_sub(*sum))
                else {
                    return now;
                };
                let whole = self.rate.window + self.rate.window / PIECES;
                for (begin, count) in pieces {
                    if behind < *count {
                        return *begin + whole;
                    }
                    behind -= count;
                }
                // Behind those who wait with it and will be granted by then.
                now + whole * (1 + behind / self.rate.count.max(1))
            }
        }
    }
}

/// Times for those that a limit cannot let go now: one after the other.
#[derive(Default)]
pub(crate) struct Turns {
    last: Cell<Option<Instant>>,
}

impl Turns {
    /// How long the next one has to wait: until `earliest`, and a step behind the one before it.
    pub fn give(&self, earliest: Instant, step: Duration, now: Instant) -> Duration {
        let behind = self.last.get().map_or(earliest, |last| last + step);
        let at = behind.max(earliest);
        self.last.set(Some(at));
        at.saturating_duration_since(now)
    }

    /// Forgets the times that were given: those who got them come again.
    pub fn forget(&self) {
        self.last.set(None);
    }
}

impl Rate {
    /// The mean time between two.
    pub(crate) fn step(&self) -> Duration {
        self.window / self.count.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(count: u32, seconds: u64) -> Limiter {
        Limiter::new(Rate {
            count,
            window: Duration::from_secs(seconds),
        })
    }

    /// Takes all it can for `seconds`, waking up only every `grain`; when each was granted.
    fn drain(limiter: &mut Limiter, seconds: u64, grain: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let (mut now, mut granted) = (start, Vec::new());
        while now < start + Duration::from_secs(seconds) {
            match limiter.take(now) {
                Ok(()) => granted.push(now - start),
                Err(ready) => {
                    assert!(ready > now);
                    // A timer fires at its grain, late.
                    let grains = (ready - start).as_nanos().div_ceil(grain.as_nanos()) + 1;
                    now = start + grain * u32::try_from(grains).unwrap();
                }
            }
        }
        granted
    }

    #[test]
    fn a_short_window_is_paced_and_held_whatever_the_timer() {
        for (count, seconds) in [(1, 1), (14, 1), (100, 1), (1000, 1), (5000, 1), (50, 10)] {
            for grain in [1, 2, 5] {
                let granted = drain(
                    &mut limiter(count, seconds),
                    10,
                    Duration::from_millis(grain),
                );
                // Within 5 %, but for the one that opens the first window.
                let expected = count as usize * 10 / usize::try_from(seconds).unwrap();
                let most = (expected + expected / 20).max(expected + 1);
                assert!(
                    (expected - expected / 20..=most).contains(&granted.len()),
                    "{count} in {seconds} s: {} in 10 s",
                    granted.len()
                );
            }
        }
    }

    #[test]
    fn a_long_window_may_be_used_at_once_and_no_stretch_of_it_holds_more() {
        let granted = drain(
            &mut limiter(200, 86_400),
            3 * 86_400,
            Duration::from_mins(1),
        );
        assert!(granted[199] == Duration::ZERO, "the first 200 at once");
        for from in 0..granted.len() - 200 {
            assert!(granted[from + 200] >= granted[from] + Duration::from_hours(24));
        }
        assert!(granted.len() >= 590, "{}", granted.len());
    }

    #[test]
    fn the_turn_of_one_that_waits_is_known() {
        let (mut limiter, now) = (limiter(2, 100), Instant::now());
        let turn = |limiter: &mut Limiter, others, at| (limiter.after(others, at) - now).as_secs();
        // Nobody has been granted anything yet.
        let turns: Vec<u64> = (0..5)
            .map(|others| turn(&mut limiter, others, now))
            .collect();
        assert_eq!(turns, [0, 0, 101, 101, 202]);
        assert!(limiter.take(now).is_ok());
        let later = now + Duration::from_secs(50);
        let turns: Vec<u64> = (0..4)
            .map(|others| turn(&mut limiter, others, later))
            .collect();
        assert_eq!(turns, [50, 101, 151, 151]);
    }

    #[test]
    fn what_was_not_used_is_not_saved_up_by_a_paced_one() {
        let mut limiter = limiter(10, 1);
        let start = Instant::now();
        assert!(limiter.take(start).is_ok());
        let later = start + Duration::from_mins(1);
        assert!(limiter.take(later).is_ok());
        assert!(limiter.take(later).is_err());
    }
}
