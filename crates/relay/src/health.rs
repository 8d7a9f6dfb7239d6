//! Whether a relay may be used, and by how many connections at once. No I/O, and the clock is given.
//!
//! ```text
//! up ──trouble, no connection left──▶ down(pause) ──pause over, a job comes──▶ probing (1 connection)
//! ▲                                        ▲                                     │        │
//! └────────────── answered ────────────────┼─────────────────────────────────────┘        │
//!                                          └──────────────── trouble ─────────────────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::Settings;

#[derive(Clone, Debug, PartialEq)]
enum State {
    Up,
    Down { until: Instant },
    Probing,
}

/// One relay's health.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: State,
    /// Why it was last suspended.
    reason: String,
    /// Failures in a row.
    failures: u32,
    /// How many connections may be open now, from 1 to `max`.
    limit: usize,
    max: usize,
    /// So many answered messages raise the limit by one.
    grow_after: u32,
    progress: u32,
    /// It has not said anything for long while jobs wait; it is not suspended, but others are preferred.
    silent: Option<Silence>,
}

/// A relay that says nothing is tried over a further connection from time to time.
#[derive(Clone, Debug)]
struct Silence {
    next: Instant,
    pause: Duration,
}

impl Health {
    /// A relay that is thought to work, with at most `max` connections.
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self {
            state: State::Up,
            reason: String::new(),
            failures: 0,
            limit: max,
            max,
            grow_after: 1,
            progress: 0,
            silent: None,
        }
    }

    /// The health of a relay whose configuration changed: what was suspended may try again at once.
    pub fn renewed(&self, max: usize) -> Self {
        let mut new = Self::new(max);
        if self.state != State::Up {
            new.probe();
        }
        new
    }

    /// Whether it takes jobs: not suspended, or its pause is over.
    pub fn is_available(&self, now: Instant) -> bool {
        !matches!(self.state, State::Down { until } if now < until)
    }

    /// When its pause ends.
    pub fn back_at(&self) -> Option<Instant> {
        match self.state {
            State::Down { until } => Some(until),
            State::Up | State::Probing => None,
        }
    }

    /// A job was given to it: after a pause this is the probe.
    pub fn picked(&mut self) {
        if matches!(self.state, State::Down { .. }) {
            self.probe();
        }
    }

    fn probe(&mut self) {
        self.state = State::Probing;
        self.limit = 1;
    }

    /// Whether it still has to prove itself.
    pub fn is_probing(&self) -> bool {
        self.state == State::Probing
    }

    /// It has not said anything for so long. True if that is new; then it is to be tried at once.
    pub fn fell_silent(&mut self, now: Instant, silence: Duration) -> bool {
        let new = self.silent.is_none();
        self.silent.get_or_insert(Silence {
            next: now,
            pause: silence * 2,
        });
        new
    }

    /// It has said something. True if it had been silent.
    pub fn spoke(&mut self) -> bool {
        self.silent.take().is_some()
    }

    /// Whether it has not said anything for long.
    pub fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// While it is silent: when it is to be tried over a further connection.
    pub fn try_at(&self) -> Option<Instant> {
        self.silent.as_ref().map(|silence| silence.next)
    }

    /// Whether it is to be tried now.
    pub fn is_to_be_tried(&self, now: Instant) -> bool {
        self.try_at().is_some_and(|at| at <= now)
    }

    /// It is being tried.
    pub fn tried(&mut self, now: Instant, settings: &Settings) {
        if let Some(silence) = &mut self.silent {
            silence.next = now + silence.pause;
            silence.pause = (silence.pause * 2).min(settings.max_pause);
        }
    }

    /// It asked to be left alone for this long.
    pub fn suspended(&mut self, now: Instant, pause: Duration, reason: String) {
        self.limit = 1;
        self.progress = 0;
        self.reason = reason;
        self.state = State::Down { until: now + pause };
    }

    /// How many connections may be open.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Why it is suspended.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// It could be connected to again. What it makes of messages has to be seen: it is probed by one connection, and its
    /// next pause is as long as if it had not been reached. True if it had been down.
    pub fn reached(&mut self) -> bool {
        let was_down = self.state != State::Up;
        self.state = State::Up;
        was_down
    }

    /// It answered a message. True if it had been down.
    pub fn answered(&mut self) -> bool {
        self.failures = 0;
        if self.limit < self.max {
            self.progress += 1;
            if self.progress >= self.grow_after {
                self.progress = 0;
                self.limit += 1;
            }
        }
        let was_down = self.state != State::Up;
        if was_down {
            self.state = State::Up;
            self.grow_after = 1;
        }
        was_down
    }

    /// So many connections are open and working, whatever was thought before.
    pub fn carries(&mut self, connections: usize) {
        self.limit = self.limit.max(connections.min(self.max));
    }

    /// It refused or closed a connection while `others` remain.
    pub fn crowded(&mut self, others: usize, settings: &Settings) {
        self.limit = others.clamp(1, self.max);
        self.grow_after = settings.grow_after.max(1);
        self.progress = 0;
    }

    /// It failed altogether. Suspends it and says for how long; `random` spreads the pauses.
    pub fn failed(
        &mut self,
        now: Instant,
        reason: String,
        settings: &Settings,
        random: u64,
    ) -> Duration {
        let doubled = 2u32.saturating_pow(self.failures.min(30));
        let pause = settings
            .first_pause
            .saturating_mul(doubled)
            .min(settings.max_pause);
        // 80 % to 120 %.
        let percent = 80 + u32::try_from(random % 41).unwrap_or_default();
        let pause = pause / 100 * percent;
        self.failures = self.failures.saturating_add(1);
        self.suspended(now, pause, reason);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(health: &mut Health, now: Instant, random: u64) -> Duration {
        health.failed(now, "x".to_owned(), &Settings::default(), random)
    }

    #[test]
    fn pauses_double_to_the_longest_and_are_spread() {
        let (mut health, now) = (Health::new(4), Instant::now());
        let seconds: Vec<u64> = (0..11)
            .map(|_| fail(&mut health, now, 20).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        let mut fresh = Health::new(4);
        assert_eq!(fail(&mut fresh.clone(), now, 0), Duration::from_millis(800));
        assert_eq!(fail(&mut fresh, now, 40), Duration::from_millis(1200));
    }

    #[test]
    fn a_suspended_relay_is_probed_by_one_and_grows_back_by_one_a_message() {
        let (mut health, now) = (Health::new(4), Instant::now());
        let pause = fail(&mut health, now, 20);
        assert!(!health.is_available(now));
        assert!(health.is_available(now + pause));
        health.picked();
        assert!(health.is_probing());
        assert_eq!(health.limit(), 1);
        assert!(health.answered(), "reports that it is up again");
        assert!(!health.answered());
        assert_eq!(health.limit(), 3);
        health.answered();
        health.answered();
        assert_eq!(health.limit(), 4);
        assert_eq!(
            fail(&mut health, now, 20),
            Duration::from_secs(1),
            "starts from the beginning"
        );
    }

    #[test]
    fn a_crowded_relay_shrinks_and_grows_slowly() {
        let mut health = Health::new(8);
        health.crowded(3, &Settings::default());
        assert_eq!(health.limit(), 3);
        for _ in 0..9 {
            health.answered();
        }
        assert_eq!(health.limit(), 3);
        health.answered();
        assert_eq!(health.limit(), 4);
        health.crowded(0, &Settings::default());
        assert_eq!(health.limit(), 1);
        health.carries(3);
        assert_eq!(health.limit(), 3);
    }
}
