//! What a delivery worker remembers between two turns: [where it stopped in each lane](Lanes) and [what is in
//! flight](Flight). It knows no Postgres: due times are numbers, rows are keys.

mod flight;
mod lanes;
mod memory;

pub use flight::{Flight, InFlight, Share};
pub use lanes::{Key, Lane, LaneId, Lanes, START};
pub use memory::Memory;
