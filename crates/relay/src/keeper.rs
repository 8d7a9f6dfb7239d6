//! The keeper: looks after all that only the clock changes.

use std::{rc::Rc, time::Duration};

use tokio::time::Instant;

use crate::{Report, hub::Hub, relay::Relay};

/// How often to look where nothing says when something changes.
const LOOK: Duration = Duration::from_millis(100);
/// Never sooner than this: the grain of the timer.
const GRAIN: Duration = Duration::from_millis(1);

/// Who has waited for so long at a relay goes to another one of its tier that is quicker.
const TOO_LONG: Duration = Duration::from_secs(1);

impl Hub {
    /// Works for as long as the pool lives.
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
            let times = [
                self.balance(&relay, now),
                self.relieve(&relay, now),
                self.revisit(&relay, now),
                self.remind(&relay, now),
            ];
            next = times.into_iter().flatten().chain(next).min();
            if relay.queue.borrow().is_empty() {
                continue;
            }
            if let Some(silence) = relay
                .silence(now)
                .filter(|silence| *silence >= self.settings.silence)
            {
                self.fell_silent(&relay, silence);
            }
            self.try_silent(&relay, now);
            self.pump(&relay);
            let tried = relay.health.borrow().try_at().filter(|at| *at > now);
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
            let times = [limit, queue.ready_at(now), silent, tried, unknown];
            next = times.into_iter().flatten().chain(next).min();
        }
        next.map(|at| at.max(now + GRAIN))
    }

    /// Sends away what is too much in a relay's lines, and asks for more where there is room. When to look again.
    fn balance(self: &Rc<Self>, relay: &Relay, now: Instant) -> Option<Instant> {
        let excess = relay.queue.borrow_mut().take_excess(now);
        // Another relay may take it.
        self.reroute(excess);
        let asked = relay.queue.borrow_mut().ask(now);
        for (queue, domain, count) in asked {
            let domain = domain.name.clone();
            self.report(Report::Roomy {
                queue,
                domain,
                count,
            });
        }
        relay.queue.borrow().look_at(now)
    }

    /// Lets others of its tier take what waits too long at a relay. When to look again.
    fn relieve(self: &Rc<Self>, relay: &Rc<Relay>, now: Instant) -> Option<Instant> {
        // What waits for its rate is counted in time.
        let first = relay.queue.borrow().first_entered();
        let late = first
            .map(|at| at + TOO_LONG)
            .filter(|_| relay.config.rate.is_none());
        relay.backed_up.set(late.is_some_and(|at| at <= now));
        if !relay.backed_up.get() {
            return late;
        }
        let waiting = now - TOO_LONG;
        let taken = relay
            .queue
            .borrow_mut()
            .take_before(waiting, |ticket| self.has_peer(ticket, relay));
        self.reroute(taken);
        Some(now + LOOK)
    }

    /// Connects to a relay that could not be reached, when its pause is over and no mail is there to try it with. When to
    /// look again.
    fn revisit(self: &Rc<Self>, relay: &Rc<Relay>, now: Instant) -> Option<Instant> {
        let idle = relay.open.get() == 0 && relay.queue.borrow().is_empty();
        let back = relay.health.borrow().back_at();
        let back = back.filter(|_| idle && relay.unreached.get())?;
        if back > now {
            return Some(back);
        }
        relay.health.borrow_mut().picked();
        self.connect(relay);
        None
    }

    /// A relay that says nothing to those that send is silent in the end, though nobody waits behind them. When to look
    /// again.
    fn remind(self: &Rc<Self>, relay: &Rc<Relay>, now: Instant) -> Option<Instant> {
        let since = relay.owes_since.get()?;
        let late = since + self.settings.silence * 3;
        if late > now {
            return Some(late);
        }
        if !relay.health.borrow().is_silent() {
            self.fell_silent(relay, now - since);
        }
        None
    }

    fn fell_silent(self: &Rc<Self>, relay: &Rc<Relay>, silence: Duration) {
        let now = Instant::now();
        let new = relay
            .health
            .borrow_mut()
            .fell_silent(now, self.settings.silence);
        if new {
            self.report(Report::RelaySilent {
                relay: relay.config.id,
                silence,
            });
        }
        // Others may take it, also what it was to be tried with.
        let waiting = relay.drain();
        self.reroute(waiting);
    }
}
