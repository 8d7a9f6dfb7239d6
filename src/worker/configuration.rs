//! What the worker serves: queues and relays as configured, and how much of each may be in flight.

use std::collections::HashMap;

use mail_relay::{RelayConfig, Transport};

use super::{
    delivery::{MAX_BYTES, Worker},
    store::{self, QueueConfig},
};
use crate::{
    guc::{self, Delivery},
    pg::{self, Failure},
    relays,
};

/// Messages of a queue that holds what is uncertain: a crash makes all that are in flight wait for a person.
const HOLD_IN_FLIGHT: usize = 10;

/// The configuration as last read.
#[derive(Default)]
pub(super) struct Configuration {
    pub(super) queues: Vec<QueueConfig>,
    pub(super) relays: HashMap<i32, String>,
    used: Vec<RelayConfig>,
}

impl Configuration {
    /// Whether a relay is configured just so already.
    fn knows(&self, config: &RelayConfig) -> bool {
        self.used.contains(config)
    }
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
                        store::relay_down(id, None, &error.to_string())?;
                    }
                }
            }
            for config in &relays {
                // One that was changed starts anew, here as in the pool.
                if !self.suspended.contains_key(&config.id) || !self.configuration.knows(config) {
                    store::relay_up(config.id)?;
                }
            }
            Ok(Some((relays, store::queues(&usable)?, usable)))
        });
        match read {
            Ok(Some((relays, queues, usable))) => {
                let anew: Vec<i32> = relays
                    .iter()
                    .filter(|config| !self.configuration.knows(config))
                    .map(|c| c.id)
                    .collect();
                self.suspended.retain(|id, _| !anew.contains(id));
                self.probing.retain(|id| !anew.contains(id));
                self.pool.configure(relays.clone());
                self.configuration = Configuration {
                    queues,
                    relays: usable.into_iter().collect(),
                    used: relays,
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

    /// How many more messages of a queue may be in flight.
    pub(super) fn room(&self, queue: &QueueConfig, now: i64) -> usize {
        if queue.paused {
            return 0;
        }
        let total = usize::try_from(guc::MAX_IN_FLIGHT.get()).unwrap_or(1);
        let share = (total / self.configuration.queues.len().max(1))
            .max(total / 8)
            .max(1);
        let mut limit = queue.concurrency.unwrap_or(share).min(total);
        if queue.hold_uncertain {
            limit = limit.min(HOLD_IN_FLIGHT);
        }
        if let Transport::Smtp(relays) = &queue.transport {
            if guc::DELIVERY.get() == Delivery::hold {
                return 0;
            }
            let usable = |relay: &&i32| self.suspended.get(relay).is_none_or(|until| *until <= now);
            let mut usable = relays.iter().filter(usable).peekable();
            if usable.peek().is_none() {
                return 0;
            }
            if usable.all(|relay| self.probing.contains(relay)) {
                limit = 1; // a probe
            }
        }
        let mut room = limit.saturating_sub(self.flight.of_queue(queue.id));
        if self.full || self.flight.len() >= total || self.flight.bytes() >= MAX_BYTES {
            // The pool is full: a queue that has nothing in flight still gets one message through.
            room = room.min(usize::from(self.flight.of_queue(queue.id) == 0));
        }
        room
    }

    pub(super) fn anything_due(&self) -> bool {
        let now = pg::now();
        now >= self.next_reap
            || self.configuration.queues.iter().any(|queue| {
                self.room(queue, now) > 0
                    && self.lanes.next(queue.id).is_some_and(|next| next <= now)
            })
    }

    /// Lets commits pass in silence where nothing could be claimed now. True when that has ended for a queue: then there
    /// may be something to drain.
    pub(super) fn silence(&self) -> bool {
        let Some(slot) = self.slot else { return false };
        let now = pg::now();
        slot.silence(|id| {
            let queue = self
                .configuration
                .queues
                .iter()
                .find(|queue| queue.id == id);
            queue.is_none_or(|queue| self.room(queue, now) == 0)
        })
    }
}
