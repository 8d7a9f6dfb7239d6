//! What the state machine in `sql/30_state.sql` needs and SQL cannot say.
#![allow(unsafe_code, reason = "expansions of pg_extern")]

use pgrx::pg_extern;

use crate::pg;

/// Whether the message is in flight now, whatever snapshot the transaction keeps.
#[pg_extern(sql = false)]
fn leased(id: i64) -> bool {
    pg::holds_now(
        c"SELECT FROM mail.lease l WHERE l.ids OPERATOR(pg_catalog.@>) ARRAY[$1]",
        id,
    )
}

/// Takes the lock on a bucket of ordering keys, without waiting.
#[pg_extern(sql = false)]
fn try_bucket(bucket: i32) -> bool {
    pg::try_bucket_lock(bucket)
}
