//! A look at what is committed now, whatever snapshot the transaction keeps.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Whether a query on one bigint (`$1`) has a row now.
pub fn holds_now(query: &CStr, argument: i64) -> bool {
    // SAFETY: the calls, in their order, that SPI asks for; the plan and the snapshot live until SPI_finish and beyond the
    // execution; the arrays have one element, as the plan has parameters. An ERROR leaves through here, and SPI and the
    // snapshot are cleaned up with the (sub)transaction.
    unsafe {
        let connected = pg_sys::SPI_connect();
        assert!(
            connected >= 0,
            "SPI can be connected to within a transaction"
        );
        let mut types = [pg_sys::INT8OID];
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 1, types.as_mut_ptr());
        assert!(!plan.is_null(), "the query is one of this library's");
        let mut values = [pg_sys::Datum::from(argument)];
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            std::ptr::null(),
            snapshot,
            std::ptr::null_mut(),
            true,
            false,
            1,
        );
        let found = pg_sys::SPI_processed > 0;
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::SPI_finish();
        found
    }
}
