//! Whose trouble it is: the relay's, or that of a message that the relay cannot stand.
//!
//! A relay that fails is thought to be in trouble itself, and no message pays for that. Only a message with which it
//! failed three times, having answered others in between each time, is to blame.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// So many messages are remembered.
const KNOWN: usize = 64;
/// Failures that come closer together are one.
const APART: Duration = Duration::from_secs(1);
/// So many failures after the first one make it the message's.
const ENOUGH: u32 = 2;

/// What a relay's failure with a message in hand tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The relay may be in trouble.
    First,
    /// It failed with this one before, and has answered no other since: another one had better show how it is.
    Again,
    /// It answers others, and fails with this one.
    Guilty,
}

struct Known {
    id: i64,
    /// How many messages the relay had answered by then.
    answered: u64,
    at: Instant,
    strikes: u32,
}

/// The messages that a relay failed with.
#[derive(Default)]
pub(crate) struct Blame(VecDeque<Known>);

impl Blame {
    /// It failed with this message, having answered so many.
    pub fn strike(&mut self, id: i64, answered: u64, now: Instant) -> Strike {
        let Some(known) = self.0.iter_mut().find(|known| known.id == id) else {
            self.0.truncate(KNOWN - 1);
            self.0.push_front(Known {
                id,
                answered,
                at: now,
                strikes: 0,
            });
            return Strike::First;
        };
        if answered == known.answered {
            return Strike::Again;
        }
        if now.saturating_duration_since(known.at) >= APART {
            known.strikes += 1;
            known.answered = answered;
            known.at = now;
        }
        if known.strikes >= ENOUGH {
            Strike::Guilty
        } else {
            Strike::First
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_fails_again_and_again_while_others_do_not_is_to_blame() {
        let (mut blame, now) = (Blame::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(blame.strike(1, 5, at(0)), Strike::First);
        assert_eq!(blame.strike(1, 5, at(2)), Strike::Again);
        assert_eq!(blame.strike(1, 9, at(4)), Strike::First);
        assert_eq!(
            blame.strike(1, 10, at(4)),
            Strike::First,
            "at the same time"
        );
        assert_eq!(blame.strike(2, 11, at(5)), Strike::First);
        assert_eq!(blame.strike(1, 12, at(6)), Strike::Guilty);
        assert_eq!(blame.strike(1, 13, at(60)), Strike::Guilty);
        assert_eq!(
            blame.strike(1, 13, at(61)),
            Strike::Again,
            "nobody else was tried"
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut blame, now) = (Blame::default(), Instant::now());
        for id in 0..1000 {
            blame.strike(id, 0, now);
        }
        assert_eq!(blame.0.len(), KNOWN);
        assert_eq!(blame.strike(999, 0, now), Strike::Again);
        assert_eq!(blame.strike(1, 0, now), Strike::First);
    }
}
