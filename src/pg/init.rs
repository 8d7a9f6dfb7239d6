//! Loading of the library.

use pgrx::{pg_guard, pg_sys};

pgrx::pg_module_magic!();

/// Called by Postgres when the library is loaded: by the postmaster if it is preloaded, else by a backend.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    crate::guc::register();
    // SAFETY: a plain flag, set by the postmaster while it loads preloaded libraries.
    // During pg_upgrade nothing is to be delivered from either cluster.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade } {
        super::shmem::register();
        super::hook::register();
        crate::worker::register_launcher();
    }
    super::wake::register();
}
