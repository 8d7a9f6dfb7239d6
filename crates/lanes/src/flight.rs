//! What is in flight: claimed, handed to the network, not yet settled.

use std::collections::HashMap;

use crate::{Key, LaneId, Memory};

/// One message in flight.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Its lease.
    pub token: i64,
    /// The lane that it came from.
    pub lane: LaneId,
    /// Its place there.
    pub key: Key,
    /// Bytes of its content.
    pub size: i32,
    /// Attempts that ended before this one.
    pub attempts: i32,
    /// How many recipients it has, outstanding or not.
    pub recipients: usize,
    /// Hash of its ordering key.
    pub ordering: Option<i64>,
}

/// The messages in flight, their leases, and what they sum up to.
#[derive(Debug, Default)]
pub struct Flight {
    messages: HashMap<i64, InFlight>,
    /// Unsettled messages of each lease.
    leases: HashMap<i64, usize>,
    per_queue: HashMap<i32, Share>,
    bytes: i64,
}

/// What is in flight of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Messages.
    pub messages: usize,
    /// What their contents sum up to.
    pub bytes: i64,
}

impl Flight {
    /// A message was claimed.
    pub fn insert(&mut self, id: i64, message: InFlight) {
        let share = self.per_queue.entry(message.lane.queue).or_default();
        share.messages += 1;
        share.bytes += i64::from(message.size);
        self.bytes += i64::from(message.size);
        *self.leases.entry(message.token).or_default() += 1;
        self.messages.insert(id, message);
    }

    /// The message, if it is in flight.
    pub fn get(&self, id: i64) -> Option<&InFlight> {
        self.messages.get(&id)
    }

    /// Whether the message is in flight.
    pub fn contains(&self, id: i64) -> bool {
        self.messages.contains_key(&id)
    }

    /// Of these messages' leases, those that have no other message in flight.
    pub fn emptied_by(&self, ids: &[i64]) -> Vec<i64> {
        let mut leaving: HashMap<i64, usize> = HashMap::new();
        for message in ids.iter().filter_map(|id| self.messages.get(id)) {
            *leaving.entry(message.token).or_default() += 1;
        }
        leaving.retain(|token, count| self.leases.get(token).is_none_or(|held| held <= count));
        leaving.into_keys().collect()
    }

    /// Takes a settled message out.
    pub fn remove(&mut self, id: i64) -> Option<InFlight> {
        let message = self.messages.remove(&id)?;
        if let Some(share) = self.per_queue.get_mut(&message.lane.queue) {
            share.messages -= 1;
            share.bytes -= i64::from(message.size);
        }
        self.bytes -= i64::from(message.size);
        if let Some(count) = self.leases.get_mut(&message.token) {
            *count -= 1;
            if *count == 0 {
                self.leases.remove(&message.token);
            }
        }
        Some(message)
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages are in flight.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Ordering keys that have a message in flight.
    pub fn keys(&self) -> Vec<i64> {
        self.messages
            .values()
            .filter_map(|message| message.ordering)
            .collect()
    }

    /// What is in flight of a queue.
    pub fn of_queue(&self, queue: i32) -> Share {
        self.per_queue.get(&queue).copied().unwrap_or_default()
    }

    /// Their account, for one queue or for all, of which `most` bytes may be in flight.
    pub fn memory(&self, queue: Option<i32>, most: i64) -> Memory {
        let bytes = queue.map_or(self.bytes, |queue| self.of_queue(queue).bytes);
        let is_of = |message: &&InFlight| queue.is_none_or(|queue| message.lane.queue == queue);
        Memory::new(most).with(bytes, || {
            let sizes = self
                .messages
                .values()
                .filter(is_of)
                .map(|message| message.size);
            i64::from(sizes.max().unwrap_or_default())
        })
    }
}
