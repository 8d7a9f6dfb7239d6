//! Faults, random and combined, and a model outside the database of what must be true whatever happens.
//!
//! A run is told by its seed: the same seed makes the same choices, though not the same timing. `PGMQ_MAIL_CHAOS_SEED`
//! chooses it; `PGMQ_MAIL_CHAOS_CRASHES` and `PGMQ_MAIL_CHAOS_MAILS` say how long a run lasts (`make chaos`).

mod arena;

mod disk;
mod faults;
mod ledger;
mod producer;
mod verdict;
mod weather;

use arena::Arena;
use pgmq_mail_tests::{Dice, seed, wanted};

#[test]
fn whatever_breaks_nothing_is_lost_and_nothing_is_made_up() {
    let mut dice = Dice::new(seed());
    let mut arena = Arena::new();
    arena.run(
        &mut dice,
        wanted("PGMQ_MAIL_CHAOS_CRASHES", 6),
        wanted("PGMQ_MAIL_CHAOS_MAILS", 1500),
    );
    let found = verdict::reach(&mut arena);
    eprintln!("{found}");
}
