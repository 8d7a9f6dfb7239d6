//! What is in flight: claimed, handed to the network, not yet settled.

use std::collections::{HashMap, HashSet};

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
    /// Those that count for nothing any more, but in the leases.
    landing: HashSet<i64>,
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
        self.count(message.lane.queue, message.size, 1);
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

    /// These are about to be settled: others may have their places already, once they are.
    pub fn begin_landing(&mut self, ids: impl Iterator<Item = i64>) {
        for id in ids {
            if let Some((queue, size)) = self.share_of(id)
                && self.landing.insert(id)
            {
                self.count(queue, size, -1);
            }
        }
    }

    /// What was about to be settled and still is there was not: it is in flight as before.
    pub fn end_landing(&mut self) {
        for id in std::mem::take(&mut self.landing) {
            if let Some((queue, size)) = self.share_of(id) {
                self.count(queue, size, 1);
            }
        }
    }

    /// The queue that a message counts for, and its size.
    fn share_of(&self, id: i64) -> Option<(i32, i32)> {
        let message = self.messages.get(&id)?;
        Some((message.lane.queue, message.size))
    }

    fn count(&mut self, queue: i32, size: i32, by: i64) {
        let bytes = by * i64::from(size);
        let share = self.per_queue.entry(queue).or_default();
        share.messages = share.messages.saturating_add_signed(by as isize);
        share.bytes += bytes;
        self.bytes += bytes;
    }

    /// Takes a settled message out.
    pub fn remove(&mut self, id: i64) -> Option<InFlight> {
        let message = self.messages.remove(&id)?;
        if !self.landing.remove(&id) {
            self.count(message.lane.queue, message.size, -1);
        }
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
        self.messages.len() - self.landing.len()
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
        let counts = |(id, message): &(&i64, &InFlight)| {
            queue.is_none_or(|queue| message.lane.queue == queue) && !self.landing.contains(id)
        };
        Memory::new(most).with(bytes, || {
            let sizes = self
                .messages
                .iter()
                .filter(counts)
                .map(|(_, message)| message.size);
            i64::from(sizes.max().unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight() -> Flight {
        let mut flight = Flight::default();
        for id in 1..=3 {
            let message = InFlight {
                token: 7,
                lane: LaneId { queue: 1, rank: 0 },
                key: Key { due: 0, id },
                size: 10,
                attempts: 0,
                recipients: 1,
                ordering: None,
            };
            flight.insert(id, message);
        }
        flight
    }

    fn counted(flight: &Flight) -> (usize, Share, i64) {
        let all = flight.memory(None, 1000).left();
        (flight.len(), flight.of_queue(1), all)
    }

    #[test]
    fn what_lands_leaves_its_place_and_is_still_known() {
        let mut flight = flight();
        flight.begin_landing([1, 2, 2, 9].into_iter());
        let one = Share {
            messages: 1,
            bytes: 10,
        };
        assert_eq!(counted(&flight), (1, one, 990));
        assert!(flight.contains(1) && !flight.is_empty());
        assert_eq!(flight.emptied_by(&[1, 2]), [0; 0]);
        assert_eq!(flight.emptied_by(&[1, 2, 3]), [7]);
        assert!(flight.remove(1).is_some());
        assert_eq!(counted(&flight), (1, one, 990), "counted once");
    }

    #[test]
    fn what_did_not_land_is_in_flight_as_before() {
        let mut flight = flight();
        let before = counted(&flight);
        flight.begin_landing([1, 2].into_iter());
        flight.end_landing();
        assert_eq!(counted(&flight), before);
        flight.begin_landing([1, 2].into_iter());
        flight.remove(2);
        flight.end_landing();
        assert_eq!(counted(&flight).0, 2);
    }
}
