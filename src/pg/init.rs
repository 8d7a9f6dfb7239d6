//! Loading of the library.

use pgrx::{pg_guard, pg_sys};

pgrx::pg_module_magic!();

/// Called by Postgres when the library is loaded: by the postmaster if it is preloaded, else by a backend.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // An ERROR shall not show a backtrace of this library to the client, whatever the server's environment asks of Rust
    // programs; RUST_LIB_BACKTRACE still can.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: no other thread of this process is there yet: a backend or the postmaster, which loads libraries on its
        // only one.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
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
