//! Where the worker last stopped: one cursor per lane (queue and rank), so that a claim does not walk over rows that
//! are done but still there for an old snapshot.
//!
//! Invariant: a claimable row is at or beyond its lane's cursor, or its key was published and the cursor goes back to
//! it, or a sweep finds it. The lane says when to look next; a lane that nobody touches and where nothing falls due is
//! not looked at.

use std::collections::BTreeMap;

/// A queue and a rank; the lower rank goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// Number of the queue.
    pub queue: i32,
    /// Negated priority.
    pub rank: i32,
}

/// A place in a lane: due time in microseconds, and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Microseconds since 2000.
    pub due: i64,
    /// Number of the message.
    pub id: i64,
}

/// Before all rows. Due times of `-infinity` are before it and cannot occur.
pub const START: Key = Key {
    due: i64::MIN + 1,
    id: i64::MIN,
};

/// One lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Rows up to here were looked at.
    pub cursor: Key,
    /// When there is something to look at: `Some(MIN)` at once, `None` never until touched.
    pub next: Option<i64>,
    /// Whether `next` has to be read from the table before the worker sleeps.
    pub unknown: bool,
}

/// All lanes of a database.
#[derive(Debug, Default)]
pub struct Lanes(BTreeMap<LaneId, Lane>);

impl Lanes {
    /// A key was published: look there from its due time on.
    pub fn touch(&mut self, id: LaneId, due: i64) {
        let lane = self.0.entry(id).or_insert(Lane {
            cursor: START,
            next: Some(due),
            unknown: false,
        });
        if due <= lane.cursor.due {
            lane.cursor = Key { due, id: i64::MIN };
        }
        lane.next = Some(lane.next.map_or(due, |next| next.min(due)));
    }

    /// Keys of unknown lanes were published, or it is time to sweep: these are the lanes there are, and all start again
    /// from `due`.
    pub fn restart(&mut self, present: &[LaneId], due: i64) {
        for id in present {
            self.touch(*id, due);
            if let Some(lane) = self.0.get_mut(id) {
                lane.next = Some(i64::MIN);
            }
        }
    }

    /// The lanes of a queue that have something due, best first.
    pub fn due(&self, queue: i32, now: i64) -> Vec<(LaneId, Lane)> {
        let range = LaneId {
            queue,
            rank: i32::MIN,
        }..=LaneId {
            queue,
            rank: i32::MAX,
        };
        let lanes = self.0.range(range).map(|(id, lane)| (*id, *lane));
        lanes
            .filter(|(_, lane)| lane.next.is_some_and(|next| next <= now))
            .collect()
    }

    /// A scan of the lane came to `cursor`; exhausted when nothing due was left behind it.
    pub fn advance(&mut self, id: LaneId, cursor: Key, exhausted: bool) {
        if let Some(lane) = self.0.get_mut(&id) {
            lane.cursor = cursor;
            if exhausted {
                lane.next = None;
                lane.unknown = true;
            } else {
                lane.next = Some(i64::MIN);
            }
        }
    }

    /// A row could not be had just now: look there again at that time.
    pub fn again(&mut self, id: LaneId, key: Key, at: i64) {
        if let Some(lane) = self.0.get_mut(&id) {
            lane.cursor = lane.cursor.min(Key {
                due: key.due,
                id: i64::MIN,
            });
            lane.next = Some(lane.next.map_or(at, |next| next.min(at)));
        }
    }

    /// Lanes whose next due time has to be read.
    pub fn unknown(&self) -> Vec<(LaneId, Key)> {
        self.0
            .iter()
            .filter(|(_, lane)| lane.unknown)
            .map(|(id, lane)| (*id, lane.cursor))
            .collect()
    }

    /// The next due time behind the cursor, as read from the table.
    pub fn found_next(&mut self, id: LaneId, next: Option<i64>) {
        if let Some(lane) = self.0.get_mut(&id) {
            lane.unknown = false;
            lane.next = match (lane.next, next) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }

    /// The queues that have something to look at sooner or later, in their order, and when they next do.
    pub fn next(&self) -> Vec<(i32, i64)> {
        let mut found: Vec<(i32, i64)> = Vec::new();
        for (id, lane) in &self.0 {
            let Some(next) = lane.next else { continue };
            match found.last_mut() {
                Some((queue, earliest)) if *queue == id.queue => *earliest = next.min(*earliest),
                _ => found.push((id.queue, next)),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LANE: LaneId = LaneId { queue: 1, rank: 0 };

    fn cursor(lanes: &Lanes) -> Key {
        lanes.due(1, i64::MAX)[0].1.cursor
    }

    #[test]
    fn a_key_behind_the_cursor_takes_it_back_and_one_ahead_does_not() {
        let mut lanes = Lanes::default();
        lanes.touch(LANE, 10);
        lanes.advance(LANE, Key { due: 20, id: 5 }, false);
        lanes.touch(LANE, 30);
        assert_eq!(cursor(&lanes), Key { due: 20, id: 5 });
        lanes.touch(LANE, 20);
        assert_eq!(
            cursor(&lanes),
            Key {
                due: 20,
                id: i64::MIN
            }
        );
        lanes.touch(LANE, 3);
        assert_eq!(
            cursor(&lanes),
            Key {
                due: 3,
                id: i64::MIN
            }
        );
    }

    #[test]
    fn an_exhausted_lane_is_looked_at_again_when_something_falls_due_or_is_touched() {
        let mut lanes = Lanes::default();
        lanes.touch(LANE, 10);
        lanes.advance(
            LANE,
            Key {
                due: 10,
                id: i64::MAX,
            },
            true,
        );
        assert!(lanes.due(1, i64::MAX).is_empty());
        assert_eq!(lanes.unknown().len(), 1);
        lanes.touch(LANE, 50);
        lanes.found_next(LANE, Some(40));
        assert_eq!(lanes.next(), [(1, 40)]);
        assert!(lanes.unknown().is_empty());
        assert!(lanes.due(1, 39).is_empty());
        assert_eq!(lanes.due(1, 40).len(), 1);
    }

    #[test]
    fn lanes_of_a_queue_come_best_rank_first() {
        let mut lanes = Lanes::default();
        for rank in [5, -10, 0] {
            lanes.touch(LaneId { queue: 1, rank }, 0);
            lanes.touch(LaneId { queue: 2, rank }, 0);
        }
        let ranks: Vec<i32> = lanes.due(1, 0).iter().map(|(id, _)| id.rank).collect();
        assert_eq!(ranks, [-10, 0, 5]);
    }

    #[test]
    fn a_queue_is_next_when_the_first_of_its_lanes_is() {
        let mut lanes = Lanes::default();
        for (queue, rank, due) in [(1, 0, 9), (1, 5, 4), (2, 0, 7), (3, 0, 1)] {
            lanes.touch(LaneId { queue, rank }, due);
        }
        lanes.advance(LaneId { queue: 3, rank: 0 }, Key { due: 1, id: 1 }, true);
        assert_eq!(lanes.next(), [(1, 4), (2, 7)]);
    }

    /// What a model of the table and its commits may do.
    #[derive(Clone, Debug)]
    enum Step {
        /// A row becomes visible, with a due time as old as its transaction.
        Commit(i64),
        /// The worker scans: up to so many rows that are due.
        Scan(usize),
        /// Time passes.
        Tick(i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (-50_i64..50).prop_map(Step::Commit),
            (1_usize..4).prop_map(Step::Scan),
            (0_i64..30).prop_map(Step::Tick),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// Whatever commits in whatever order, every row is found without a sweep once its time has come.
        #[test]
        fn no_row_is_ever_passed_over(steps in steps()) {
            let mut lanes = Lanes::default();
            let mut table = BTreeSet::new();
            let (mut now, mut id, mut found) = (100_i64, 0_i64, 0_i64);
            let mut scan = |lanes: &mut Lanes, table: &mut BTreeSet<Key>, now: i64, limit: usize| {
                for (lane, state) in lanes.due(1, now) {
                    let rows: Vec<Key> =
                        table.range(..).filter(|key| **key > state.cursor && key.due <= now).take(limit).copied().collect();
                    let exhausted = rows.len() < limit;
                    let last = rows.last().copied().unwrap_or(state.cursor);
                    lanes.advance(lane, if exhausted { Key { due: now, id: i64::MAX } } else { last }, exhausted);
                    for row in rows {
                        table.remove(&row);
                        found += 1;
                    }
                }
                for (lane, cursor) in lanes.unknown() {
                    lanes.found_next(lane, table.range(..).find(|key| **key > cursor).map(|key| key.due));
                }
            };
            for step in steps {
                match step {
                    Step::Commit(offset) => {
                        id += 1;
                        table.insert(Key { due: now + offset, id });
                        lanes.touch(LANE, now + offset);
                    }
                    Step::Scan(limit) => scan(&mut lanes, &mut table, now, limit),
                    Step::Tick(by) => now += by,
                }
            }
            now += 100;
            while lanes.next().iter().any(|(_, next)| *next <= now) {
                scan(&mut lanes, &mut table, now, 3);
            }
            prop_assert!(table.is_empty(), "left: {table:?}");
            prop_assert_eq!(found, id);
        }
    }
}
