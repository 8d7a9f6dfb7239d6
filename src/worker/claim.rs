//! Claiming what is due: lock rows, leave out what others have in flight, lease, read the bodies.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use mail_lanes::{InFlight, Key, LaneId};
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
}

impl Worker {
    pub(super) fn claim(&self, claimed: &mut Claimed) -> Result<(), Failure> {
        let now = pg::now();
        if now >= self.next_reap {
            // A lease that is over and still there is held by a transaction that is just settling it.
            let next = store::reap()?.map_or(i64::MAX, |next| next.max(now + SECOND / 10));
            claimed.next_reap = Some(next);
        }
        let busy = self.flight.keys();
        for queue in &self.configuration.queues {
            let mut room = self.room(queue, now);
            for (id, lane) in self.lanes.due(queue.id, now) {
                let mut cursor = lane.cursor;
                // More than one statement only where all that was found is in flight already.
                while room > 0 {
                    let limit = room.min(BATCH);
                    let found = store::lock_due(id, cursor, now, limit, &busy)?;
                    let exhausted = found.len() < limit;
                    if let Some(last) = found.last() {
                        cursor = last.key;
                    }
                    let free = self.free(id, found, claimed)?;
                    let (taken, cut) = self.lease(queue, id, free, claimed)?;
                    room = room.saturating_sub(taken);
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
        }
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

    /// Of what was locked, what nobody has in flight. Others' leases are read after the rows were locked: whoever had
    /// them locked before has committed his lease by then.
    fn free(
        &self,
        lane: LaneId,
        mut found: Vec<Candidate>,
        claimed: &mut Claimed,
    ) -> Result<Vec<Candidate>, Failure> {
        found.retain(|candidate| !self.flight.contains(candidate.id));
        if found.is_empty() {
            return Ok(found);
        }
        let foreign = store::foreign()?;
        found.retain(|candidate| !foreign.contains(&candidate.id));
        if found.iter().any(|candidate| candidate.ordering.is_some()) {
            let ids: Vec<i64> = found.iter().map(|candidate| candidate.id).collect();
            let (free, contended) = store::claimable(&ids)?;
            let again = found
                .iter()
                .find(|candidate| contended.contains(&candidate.id));
            claimed
                .contended
                .extend(again.map(|candidate| (lane, candidate.key)));
            found.retain(|candidate| free.contains(&candidate.id));
        }
        Ok(found)
    }

    /// Leases candidates and reads their bodies. Returns how many, and where it stopped because of their size.
    fn lease(
        &self,
        queue: &QueueConfig,
        lane: LaneId,
        mut free: Vec<Candidate>,
        claimed: &mut Claimed,
    ) -> Result<(usize, Option<Key>), Failure> {
        let cut = self.cut_by_size(&mut free, lane, claimed);
        if free.is_empty() {
            return Ok((0, cut));
        }
        let ids: Vec<i64> = free.iter().map(|candidate| candidate.id).collect();
        let mut bodies: HashMap<i64, store::Body> = store::bodies(&ids)?
            .into_iter()
            .map(|body| (body.id, body))
            .collect();
        // Without those whose message a restore may bring later.
        let (expired, free): (Vec<_>, Vec<_>) = free
            .into_iter()
            .filter_map(|candidate| {
                let body = bodies.remove(&candidate.id)?;
                Some((candidate, body))
            })
            .partition(|(_, body)| body.expired);
        if !expired.is_empty() {
            store::expire(&ids_of(&expired))?;
        }
        if free.is_empty() {
            return Ok((0, cut));
        }
        let count = free.len();
        let token = store::lease(queue.id, &ids_of(&free))?;
        for (candidate, body) in free {
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
        Ok((count, cut))
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

    /// Keeps only as many as memory allows, but one at least if nothing is in flight; returns the key to go on from.
    fn cut_by_size(
        &self,
        free: &mut Vec<Candidate>,
        lane: LaneId,
        claimed: &Claimed,
    ) -> Option<Key> {
        let mut memory = self.memory(lane.queue, &claimed.messages);
        let idle = self.flight.of_queue(lane.queue).messages == 0;
        let fits = free.iter().enumerate().take_while(|(n, candidate)| {
            for account in &mut memory {
                account.add(i64::from(candidate.size));
            }
            memory.iter().all(|account| account.left() >= 0) || (idle && *n == 0)
        });
        let keep = fits.count();
        let first_left = free.get(keep).map(|candidate| Key {
            due: candidate.key.due,
            id: candidate.id - 1,
        });
        free.truncate(keep);
        first_left
    }
}

fn ids_of(found: &[(Candidate, store::Body)]) -> Vec<i64> {
    found.iter().map(|(candidate, _)| candidate.id).collect()
}
