//! Several servers: what a standby does and does not do, and what a failover keeps.

mod asynchronous;
mod auto_failover;
mod orders;
mod pair;
mod silence;
mod streaming;
mod switchover;
