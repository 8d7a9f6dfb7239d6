//! Background workers. The [launcher](launcher) keeps one [delivery](delivery) worker for each database in which the
//! extension is installed.

mod claim;
mod configuration;
mod delivery;
mod launcher;
mod news;
mod outcomes;
mod redirected;
mod settle;
mod store;
mod stored;
mod upkeep;

pub use launcher::{register as register_launcher, start_here, stop_here};
