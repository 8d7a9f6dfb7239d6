//! Claiming what is due: lock rows, leave out what others have in flight, lease, read the bodies.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use mail_lanes::{InFlight, Key, Lane, LaneId, Memory};
use mail_relay::{Job, Transport};

use super::{
    configuration::most_in_flight,
    delivery::Worker,
    redirected::Redirected,
    store::{self, Candidate, Look, QueueConfig},
    stored::Stored,
};
use crate::{
    outgoing::Outgoing,
    pg::{self, Failure},
};

/// Rows of a lane that are locked by one statement, and queues that it looks into.
const BATCH: usize = 256;
const LOOKS: usize = 64;
/// When for so long (microseconds) as much has been in flight as may be, whatever came to its end, so many queues in a turn
/// get a message through each, if they have none in flight: what hangs in others must not hold them up.
const CROWDED: i64 = 5_000;
const ONE_EACH: usize = 64;
/// Where more queues have something due than there is room for, so many messages of each in its turn: fewer cost more
/// statements and leases, more make the others wait.
const AT_A_TURN: usize = 16;
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
    /// Nobody left room: as much is in flight as may be.
    pub(super) crowded: bool,
    /// The place of the last queue that something was found of.
    pub(super) last: Option<usize>,
}

/// A row that is locked.
struct Found<'a> {
    queue: &'a QueueConfig,
    lane: LaneId,
    candidate: Candidate,
}

/// A queue whose turn it is.
struct Turn<'a, 'f> {
    queue: &'a QueueConfig,
    room: usize,
    /// Its own, and that of all.
    memory: [Memory; 2],
    /// What was found by now, of all queues, and how much it was before.
    found: &'f mut Vec<Found<'a>>,
    before: usize,
    now: i64,
    busy: &'f [i64],
}

impl Turn<'_, '_> {
    fn look(&self, lane: LaneId, cursor: Key) -> Look {
        let limit = self.room.min(BATCH);
        Look {
            lane,
            cursor,
            limit,
        }
    }

    /// One more look for this queue alone.
    fn again(&self, look: Look) -> Result<Vec<Candidate>, Failure> {
        let mut found = store::lock_due(&[look], self.now, self.busy)?;
        Ok(found.pop().unwrap_or_default())
    }
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
        let crowded_before = self.is_crowded();
        claimed.crowded = crowded_before;
        let just_now = |since: &i64| (0..CROWDED).contains(&(now - since));
        let since = self.crowded_since.filter(|since| !just_now(since));
        let mut one_each = if crowded_before && since.is_some() {
            ONE_EACH
        } else {
            0
        };
        let all_room = most_in_flight().saturating_sub(self.flight.len());
        let with_room = |(place, queue)| {
            let room = self.room(queue, now, crowded_before);
            (room > 0).then_some((place, queue, room))
        };
        let mut due: Vec<_> = self.due(now).filter_map(with_room).collect();
        let at_a_turn = AT_A_TURN.max(all_room / due.len().max(1));
        let passed = due.partition_point(|(place, ..)| *place < self.turn);
        due.rotate_left(passed);
        let mut due = due.into_iter();
        let mut found = Vec::new();
        loop {
            let (mut turns, mut planned) = (Vec::new(), found.len());
            while turns.len() < LOOKS {
                let crowded = crowded_before || planned >= all_room || memory_of_all.left() <= 0;
                if crowded && turns.len() >= one_each {
                    break;
                }
                let Some((place, queue, mut room)) = due.next() else {
                    break;
                };
                if crowded != crowded_before {
                    room = self.room(queue, now, crowded);
                }
                room = room.min(at_a_turn);
                if !crowded {
                    room = room.min(all_room - planned);
                }
                let mut lanes = self.lanes.due(queue.id, now).into_iter();
                if let Some((lane, Lane { cursor, .. })) = lanes.next().filter(|_| room > 0) {
                    planned += room;
                    let limit = room.min(BATCH);
                    let look = Look {
                        lane,
                        cursor,
                        limit,
                    };
                    turns.push((place, queue, room, look, lanes));
                }
            }
            if turns.is_empty() {
                return Ok(found);
            }
            let looks: Vec<Look> = turns.iter().map(|(.., look, _)| *look).collect();
            let firsts = store::lock_due(&looks, now, &busy)?;
            for ((place, queue, room, look, lanes), first) in turns.into_iter().zip(firsts) {
                let before = found.len();
                let mut turn = Turn {
                    queue,
                    room,
                    memory: [self.memory(Some(queue.id)), memory_of_all],
                    found: &mut found,
                    before,
                    now,
                    busy: &busy,
                };
                self.take(&mut turn, look, first, claimed)?;
                for (lane, Lane { cursor, .. }) in lanes {
                    if turn.room == 0 {
                        break;
                    }
                    let look = turn.look(lane, cursor);
                    let rows = turn.again(look)?;
                    self.take(&mut turn, look, rows, claimed)?;
                }
                [_, memory_of_all] = turn.memory;
                if found.len() > before {
                    claimed.last = Some(place);
                    one_each = one_each.saturating_sub(1);
                }
            }
        }
    }

    /// Takes what was locked of a lane, as far as there is room, and looks further only where all of it is in flight already.
    fn take<'a>(
        &'a self,
        turn: &mut Turn<'a, '_>,
        mut look: Look,
        mut rows: Vec<Candidate>,
        claimed: &mut Claimed,
    ) -> Result<(), Failure> {
        let (queue, lane) = (turn.queue, look.lane);
        loop {
            let exhausted = rows.len() < look.limit;
            if let Some(last) = rows.last() {
                look.cursor = last.key;
            }
            rows.retain(|candidate| !self.flight.contains(candidate.id));
            let idle =
                self.flight.of_queue(queue.id).messages == 0 && turn.found.len() == turn.before;
            let cut = cut_by_size(&mut rows, &mut turn.memory, idle);
            let taken = rows.len();
            turn.room = turn.room.saturating_sub(taken);
            turn.found.extend(rows.into_iter().map(|candidate| Found {
                queue,
                lane,
                candidate,
            }));
            if let Some(key) = cut {
                claimed.scans.push((lane, key, false));
                claimed.full.insert(queue.id);
                turn.room = 0;
                return Ok(());
            }
            let behind = if exhausted {
                Key {
                    due: turn.now,
                    id: i64::MAX,
                }
            } else {
                look.cursor
            };
            claimed.scans.push((lane, behind, exhausted));
            if exhausted || taken > 0 {
                return Ok(());
            }
            look = turn.look(lane, look.cursor);
            rows = turn.again(look)?;
        }
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
