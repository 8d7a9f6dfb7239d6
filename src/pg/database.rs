//! The databases of the cluster, for a process that is connected to none.

use pgrx::pg_sys;

/// Oids of databases that a worker may attach to: connections allowed, and not a template, which others copy.
/// Within a transaction.
pub fn databases() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    // SAFETY: the scan of a shared catalogue as autovacuum's launcher does it: opened, read to the end and closed
    // within one transaction; each tuple is valid until the next call, and a pg_database tuple begins with its
    // fixed-size columns.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row: pg_sys::Form_pg_database = pg_sys::GETSTRUCT(tuple).cast();
            if (*row).datallowconn && !(*row).datistemplate {
                found.push((*row).oid);
            }
        }
        ((*(*relation).rd_tableam)
            .scan_end
            .expect("every table access method can end a scan"))(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}
