//! Queries of a session that change nothing, on a primary and on a standby.
//!
//! pgrx takes a transaction id before a query that is not read-only, which a standby cannot. A read-only one takes the
//! snapshot of the statement that called it, which may be older than what announced a change: on a standby only.

use pgrx::{
    Spi,
    datum::DatumWithOid,
    spi::{Result, SpiTupleTable},
};

use crate::pg;

/// Runs a query, and `read`s what it returns.
pub fn look<T>(
    query: &str,
    args: &[DatumWithOid<'_>],
    read: impl FnOnce(SpiTupleTable<'_>) -> Result<T>,
) -> Result<T> {
    if pg::in_recovery() {
        return Spi::connect(|client| read(client.select(query, None, args)?));
    }
    Spi::connect_mut(|client| read(client.update(query, None, args)?))
}
