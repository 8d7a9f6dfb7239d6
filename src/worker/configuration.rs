//! What the worker serves: queues and relays as configured, and how much of each may be in flight.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use mail_composer::Composer;
use mail_dkim::Signer;
use mail_lanes::Memory;
use mail_relay::{Config, Limited, QueueLimit, Rate, RelayConfig, Transport};
use mail_template::Templates;

use super::{
    delivery::{MAX_BYTES, Worker},
    store::{self, QueueConfig},
};
use crate::{
    dkim, guc,
    outgoing::{Outgoing, outgoing},
    pg::{self, Failure},
    relays, templates,
};

/// Messages of a queue that holds what is uncertain: a crash makes all that are in flight wait for a person.
const HOLD_IN_FLIGHT: usize = 10;

/// Messages of a queue with a limit that are in flight beside those that can be sent within this time (seconds): who
/// waits stays in the queue, where what is more urgent can pass.
const LIMITED: f64 = 2.0;
const LEAST: f64 = 2.0;

/// The configuration as last read.
#[derive(Default)]
pub(super) struct Configuration {
    pub(super) queues: Vec<QueueConfig>,
    pub(super) relays: HashMap<i32, String>,
    /// Where mail may go.
    pub(super) outgoing: Outgoing,
    used: Config,
}

impl Configuration {
    /// A queue and its place: they are in the order of their ids.
    pub(super) fn queue(&self, id: i32) -> Option<(usize, &QueueConfig)> {
        let place = self
            .queues
            .binary_search_by_key(&id, |queue| queue.id)
            .ok()?;
        Some((place, &self.queues[place]))
    }

    /// Whether a relay is configured just so already.
    fn knows(&self, config: &RelayConfig) -> bool {
        self.used.relays.contains(config)
    }

    /// How many messages relays may get within a short time, if all of the tier that takes them have a limit.
    fn within_limits(&self, usable: &[i32]) -> usize {
        let relays = || {
            self.used
                .relays
                .iter()
                .filter(|relay| usable.contains(&relay.id))
        };
        let tier = relays().map(|relay| relay.tier).min();
        let rates = relays()
            .filter(|relay| Some(relay.tier) == tier)
            .map(|relay| relay.rate);
        rates
            .map(|rate| rate.map_or(usize::MAX, worth))
            .fold(0, usize::saturating_add)
    }
}

/// The keys that can be used; what is wrong with the others is noted.
fn signers() -> Result<Vec<Signer>, Failure> {
    let (mut usable, mut trouble) = (Vec::new(), Vec::new());
    for row in store::dkim_keys()? {
        let (domain, selector) = (row.domain.clone(), row.selector.clone());
        match dkim::signer(row) {
            Ok(signer) => usable.push(signer),
            Err(error) => {
                pgrx::warning!("DKIM key \"{selector}\" of {domain} cannot be used: {error}");
                trouble.push((domain, selector, error.to_string()));
            }
        }
    }
    store::dkim_trouble(&trouble)?;
    Ok(usable)
}

/// A queue's limit as the pool wants it. The built-in capture has none.
fn limit(queue: &QueueConfig) -> Option<QueueLimit> {
    let rate = queue
        .rate
        .filter(|_| queue.transport != Transport::Capture)?;
    Some(QueueLimit { id: queue.id, rate })
}

/// How many messages a rate lets through within a short time.
fn worth(rate: Rate) -> usize {
    let per_second = f64::from(rate.count) / rate.window.as_secs_f64();
    (per_second * LIMITED).clamp(LEAST, 1e6) as usize
}

impl Worker {
    /// Reads the configuration; false when the extension is gone or a new one.
    pub(super) fn configure(&mut self) -> Result<bool, Failure> {
        // Before the snapshot that it is read with.
        self.configured = self.slot.map_or(0, pg::SlotHandle::configuration);
        let read = self.transaction(|| {
            if store::extension()? != Some(self.extension) {
                return Ok(None);
            }
            crate::queues::table(); // watch it from now on
            let rows = store::relays()?;
            let mut relays = Vec::new();
            let mut usable = Vec::new();
            for row in rows {
                let (id, name) = (row.id, row.name.clone());
                match relays::config(row) {
                    Ok(config) => {
                        relays.push(config);
                        usable.push((id, name));
                    }
                    Err(error) => {
                        pgrx::warning!("relay \"{name}\" cannot be used: {error}");
                        store::relay_down(id, None, &error.to_string(), None)?;
                    }
                }
            }
            for config in &relays {
                // One that was changed starts anew, here as in the pool.
                let ails =
                    self.suspended.contains_key(&config.id) || self.silent.contains(&config.id);
                if !ails || !self.configuration.knows(config) {
                    store::relay_up(config.id)?;
                }
            }
            let queues = store::queues(&usable)?;
            let config = Config {
                relays,
                queues: queues.iter().filter_map(limit).collect(),
                domains: store::domain_limits()?,
                rules: store::reply_rules(&usable)?,
            };
            let sources = templates::sources()?;
            let signers = signers()?;
            Ok(Some((config, queues, usable, sources, signers)))
        });
        match read {
            Ok(Some((config, queues, usable, sources, signers))) => {
                let mut composer = self
                    .composer
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                let templates = if composer.templates().is_of(&sources) {
                    Arc::clone(composer.templates())
                } else {
                    Arc::new(Templates::new(sources))
                };
                *composer = Arc::new(Composer::new(templates, signers));
                drop(composer);
                let anew: Vec<i32> = config
                    .relays
                    .iter()
                    .filter(|config| !self.configuration.knows(config))
                    .map(|c| c.id)
                    .collect();
                self.suspended.retain(|id, _| !anew.contains(id));
                self.probing.retain(|id| !anew.contains(id));
                self.silent.retain(|id| !anew.contains(id));
                if config != self.configuration.used {
                    self.pool.configure(config.clone());
                }
                self.configuration = Configuration {
                    queues,
                    relays: usable.into_iter().collect(),
                    outgoing: outgoing(),
                    used: config,
                };
                self.next_sweep = 0;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(failure) => {
                pg::set_configuration_changed();
                Err(failure)
            }
        }
    }

    /// Whether as much is in flight as may be.
    pub(super) fn is_crowded(&self) -> bool {
        self.flight.len() >= most_in_flight() || self.memory(None).left() <= 0
    }

    /// How many more messages of a queue may be in flight; where it is `crowded`, one at most.
    pub(super) fn room(&self, queue: &QueueConfig, now: i64, crowded: bool) -> usize {
        if queue.paused {
            return 0;
        }
        let total = most_in_flight();
        let share = self.share(total).max(1);
        let mut limit = queue.concurrency.unwrap_or(share).min(total);
        if queue.hold_uncertain {
            limit = limit.min(HOLD_IN_FLIGHT);
        }
        if let Transport::Smtp(relays) = &queue.transport {
            if self.configuration.outgoing == Outgoing::Nowhere {
                return 0;
            }
            let usable = |relay: &&i32| self.blocked(Limited::Relay(**relay)) <= now;
            let usable: Vec<i32> = relays.iter().filter(usable).copied().collect();
            if usable.is_empty() || self.blocked(Limited::Queue(queue.id)) > now {
                return 0;
            }
            if usable.iter().all(|relay| self.probing.contains(relay)) {
                limit = 1; // a probe
            }
            limit = limit.min(self.configuration.within_limits(&usable));
        }
        if let Some(rate) = queue.rate {
            limit = limit.min(worth(rate));
        }
        let own = self.flight.of_queue(queue.id);
        let mut room = limit.saturating_sub(own.messages);
        if self.full.contains(&queue.id) || crowded || self.memory(Some(queue.id)).left() <= 0 {
            // The pool is full: a queue that has nothing in flight still gets one message through.
            room = room.min(usize::from(own.messages == 0));
        }
        room
    }

    /// What one queue may have of something that all share: none can take it all from the others.
    fn share(&self, total: usize) -> usize {
        (total / self.configuration.queues.len().max(1)).max(total / 8)
    }

    /// The bytes in flight, of a queue or of all, and how many may be.
    pub(super) fn memory(&self, queue: Option<i32>) -> Memory {
        let most = if queue.is_some() {
            self.share(MAX_BYTES)
        } else {
            MAX_BYTES
        };
        self.flight
            .memory(queue, i64::try_from(most).unwrap_or(i64::MAX))
    }

    /// Until when a relay is suspended, or a limit used up.
    pub(super) fn blocked(&self, limit: Limited) -> i64 {
        let suspended = match limit {
            Limited::Relay(relay) => self.suspended.get(&relay).copied(),
            Limited::Queue(_) => None,
        };
        suspended
            .max(self.exhausted.get(&limit).copied())
            .unwrap_or(i64::MIN)
    }

    /// The queues that have something due, and their places, in their order.
    pub(super) fn due(&self, now: i64) -> impl Iterator<Item = (usize, &QueueConfig)> {
        let due = self
            .lanes
            .next()
            .into_iter()
            .filter(move |(_, at)| *at <= now);
        due.filter_map(|(id, _)| self.configuration.queue(id))
    }

    pub(super) fn anything_due(&self) -> bool {
        let now = pg::now();
        let crowded = self.is_crowded();
        now >= self.next_reap
            || self
                .due(now)
                .any(|(_, queue)| self.room(queue, now, crowded) > 0)
    }

    /// Lets commits pass in silence where nothing could be claimed now. True when that has ended for a queue: then there
    /// may be something to drain.
    pub(super) fn silence(&self) -> bool {
        let Some(slot) = self.slot else { return false };
        let now = pg::now();
        let crowded = self.is_crowded();
        slot.silence(|id| {
            let queue = self.configuration.queue(id);
            queue.is_none_or(|(_, queue)| self.room(queue, now, crowded) == 0)
        })
    }
}

pub(super) fn most_in_flight() -> usize {
    usize::try_from(guc::MAX_IN_FLIGHT.get()).unwrap_or(1)
}
