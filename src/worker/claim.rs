//! Claiming what is due: lock rows, leave out what others have in flight, lease, read the bodies.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use mail_lanes::{InFlight, Key, LaneId, Memory};
use mail_relay::{Job, Transport};

use super::{
    delivery::Worker,
    redirected::Redirected,
    store::{self, Candidate, QueueConfig},
    stored::Stored,
};
use crate::{
    outgoing::Outgoing,
    pg::{self, Failure},
};

/// Rows locked by one statement.
const BATCH: usize = 256;
/// While as much is in flight as may be, so many queues in a turn get a message through each, if they have none in flight.
const ONE_EACH: usize = 64;
const SECOND: i64 = 1_000_000;

/// What one transaction claimed, applied once it is committed.
#[derive(Default)]
pub(super) struct Claimed {
    pub(super) jobs: Vec<Job>,
    pub(super) messages: Vec<(i64, InFlight)>,
    pub(super) redirected: Vec<(i64, Redirected)>,
    pub(super) scans: Vec<(LaneId, Key, bool)>,
    /// Where another claimer was just deciding on an ordering key.
    pub(super) contended: Vec<(LaneId, Key)>,
    /// Queues of which something was left because of its size.
    pub(super) full: HashSet<i32>,
    pub(super) next_reap: Option<i64>,
    /// The place of the last queue that something was found of.
    pub(super) last: Option<usize>,
}

/// A row that is locked.
struct Found<'a> {
    queue: &'a QueueConfig,
    lane: LaneId,
    candidate: Candidate,
}

impl Worker {
    pub(super) fn claim(&self, claimed: &mut Claimed) -> Result<(), Failure> {
        let now = pg::now();
        if now >= self.next_reap {
            // A lease that is over and still there is held by a transaction that is just settling it.
            let next = store::reap()?.map_or(i64::MAX, |next| next.max(now + SECOND / 10));
            claimed.next_reap = Some(next);
        }
        let found = self.lock(now, claimed)?;
        let free = Self::free(found, claimed)?;
        self.lease(free, claimed)?;
        // What was claimed may have been enqueued after a change of the configuration that this worker has not read: then
        // the change was published before, and everything is done again.
        if self
            .slot
            .is_some_and(|slot| slot.configuration() != self.configured)
        {
            return Err(Failure::stale());
        }
        Ok(())
    }

    /// Locks what is due and has room, of one queue after the other, beginning behind the one that was the last before.
    fn lock(&self, now: i64, claimed: &mut Claimed) -> Result<Vec<Found<'_>>, Failure> {
        let busy = self.flight.keys();
        let mut memory_of_all = self.memory(None);
        let mut one_each = ONE_EACH;
        let mut found = Vec::new();
        for (place, queue) in self.in_turn() {
            let crowded = self.is_crowded(found.len());
            if crowded && one_each == 0 {
                break;
            }
            let due = self.lanes.due(queue.id, now);
            if due.is_empty() {
                continue;
            }
            let mut room = self.room(queue, now, found.len());
            let mut memory = [self.memory(Some(queue.id)), memory_of_all];
            let before = found.len();
            for (id, lane) in due {
                let mut cursor = lane.cursor;
                // More than one statement only where all that was found is in flight already.
                while room > 0 {
                    let limit = room.min(BATCH);
                    let mut rows = store::lock_due(id, cursor, now, limit, &busy)?;
                    let exhausted = rows.len() < limit;
                    if let Some(last) = rows.last() {
                        cursor = last.key;
                    }
                    rows.retain(|candidate| !self.flight.contains(candidate.id));
                    let idle =
                        self.flight.of_queue(queue.id).messages == 0 && found.len() == before;
                    let cut = cut_by_size(&mut rows, &mut memory, idle);
                    let taken = rows.len();
                    room = room.saturating_sub(taken);
                    found.extend(rows.into_iter().map(|candidate| Found {
                        queue,
                        lane: id,
                        candidate,
                    }));
                    if let Some(key) = cut {
                        claimed.scans.push((id, key, false));
                        claimed.full.insert(queue.id);
                        room = 0;
                        break;
                    }
                    let behind = if exhausted {
                        Key {
                            due: now,
                            id: i64::MAX,
                        }
                    } else {
                        cursor
                    };
                    claimed.scans.push((id, behind, exhausted));
                    if exhausted || taken > 0 {
                        break;
                    }
                }
                if room == 0 {
                    break;
                }
            }
            [_, memory_of_all] = memory;
            if found.len() > before {
                claimed.last = Some(place);
                one_each -= usize::from(crowded);
            }
        }
        Ok(found)
    }

    /// All queues and their places, from the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = (usize, &QueueConfig)> {
        let queues = self.configuration.queues.iter().enumerate();
        let first = self.turn.min(queues.len());
        queues.clone().skip(first).chain(queues.take(first))
    }

    /// Of what was locked, what nobody has in flight. Others' leases are read after the rows were locked: whoever had
    /// them locked before has committed his lease by then.
    fn free<'a>(
        mut found: Vec<Found<'a>>,
        claimed: &mut Claimed,
    ) -> Result<Vec<Found<'a>>, Failure> {
        if found.is_empty() {
            return Ok(found);
        }
        let foreign = store::foreign()?;
        found.retain(|found| !foreign.contains(&found.candidate.id));
        if found.iter().any(|found| found.candidate.ordering.is_some()) {
            let ids: Vec<i64> = found.iter().map(|found| found.candidate.id).collect();
            let (free, contended) = store::claimable(&ids)?;
            let again = found
                .iter()
                .filter(|found| contended.contains(&found.candidate.id));
            claimed
                .contended
                .extend(again.map(|found| (found.lane, found.candidate.key)));
            found.retain(|found| free.contains(&found.candidate.id));
        }
        Ok(found)
    }

    /// Reads the bodies of what was found, and leases it: all of a queue together.
    fn lease(&self, found: Vec<Found<'_>>, claimed: &mut Claimed) -> Result<(), Failure> {
        if found.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = found.iter().map(|found| found.candidate.id).collect();
        let mut bodies: HashMap<i64, store::Body> = store::bodies(&ids)?
            .into_iter()
            .map(|body| (body.id, body))
            .collect();
        // Without those whose message a restore may bring later.
        let (expired, free): (Vec<_>, Vec<_>) = found
            .into_iter()
            .filter_map(|found| {
                let body = bodies.remove(&found.candidate.id)?;
                Some((found, body))
            })
            .partition(|(_, body)| body.expired);
        if !expired.is_empty() {
            let ids: Vec<i64> = expired.iter().map(|(_, body)| body.id).collect();
            store::expire(&ids)?;
        }
        if free.is_empty() {
            return Ok(());
        }
        let tokens = store::lease(free.iter().map(|(found, body)| (found.queue, body.id)));
        for (found, body) in free {
            let Found {
                queue,
                lane,
                candidate,
            } = found;
            let token = tokens[&queue.id];
            claimed.messages.push((
                candidate.id,
                InFlight {
                    token,
                    lane,
                    key: candidate.key,
                    size: candidate.size,
                    attempts: candidate.attempts,
                    recipients: body.recipients,
                    ordering: candidate.ordering,
                },
            ));
            let to = self.redirect(queue, candidate.id, body.to, claimed);
            claimed.jobs.push(Job {
                id: candidate.id,
                token,
                queue: queue.id,
                transport: queue.transport.clone(),
                from: body.from,
                to,
                source: Arc::new(Stored::new(
                    body.content.unwrap_or_default(),
                    store::files(candidate.id, body.files)?,
                    body.date,
                    Arc::clone(&self.composer),
                )),
            });
        }
        Ok(())
    }

    /// Whom a message goes to: its recipients, or the one address that the server's configuration names.
    fn redirect(
        &self,
        queue: &QueueConfig,
        id: i64,
        recipients: Vec<String>,
        claimed: &mut Claimed,
    ) -> Vec<String> {
        let (Outgoing::To(address), Transport::Smtp(_)) =
            (&self.configuration.outgoing, &queue.transport)
        else {
            return recipients;
        };
        if recipients.is_empty() {
            return recipients;
        }
        let redirected = Redirected {
            to: address.clone(),
            instead_of: recipients,
        };
        claimed.redirected.push((id, redirected));
        vec![address.clone()]
    }
}

/// Keeps only as many as memory allows, but one at least where it is `idle`; returns the key to go on from.
fn cut_by_size(free: &mut Vec<Candidate>, memory: &mut [Memory; 2], idle: bool) -> Option<Key> {
    let fits = |n: usize, candidate: &Candidate, memory: &mut [Memory; 2]| {
        let mut after = *memory;
        for account in &mut after {
            account.add(i64::from(candidate.size));
        }
        let fits = after.iter().all(|account| account.left() >= 0) || (idle && n == 0);
        if fits {
            *memory = after;
        }
        fits
    };
    let keep = free
        .iter()
        .enumerate()
        .take_while(|(n, candidate)| fits(*n, candidate, memory))
        .count();
    let first_left = free.get(keep).map(|candidate| Key {
        due: candidate.key.due,
        id: candidate.id - 1,
    });
    free.truncate(keep);
    first_left
}
