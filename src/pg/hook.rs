//! A worker that is attached to a database would block DROP DATABASE, CREATE DATABASE … TEMPLATE and the like. When
//! such a statement is run, the database's worker is asked to leave first and kept out until the statement holds its
//! lock on the database, which keeps it out from then on.

use std::ffi::CStr;

use pgrx::{pg_guard, pg_sys};

use super::shmem::{SlotHandle, launcher};

const HOLD: i64 = 10_000_000;
const LEAVE: i64 = 4_000_000;

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Sets the hook. Only while preloaded libraries are loaded.
pub fn register() {
    // SAFETY: called once, by the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

unsafe extern "C-unwind" {
    /// Declared here and not taken from pgrx: its binding would turn an ERROR into a panic and back, and the report that
    /// the user sees would lose its position and context.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const core::ffi::c_char,
        read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Not guarded, for the same reason: an ERROR of the statement jumps over this frame, which owns nothing.
#[allow(clippy::too_many_arguments, reason = "the hook's signature")]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const core::ffi::c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: hands on exactly what the hook was called with; `before` and `after` are guarded themselves.
    unsafe {
        let database = before(statement);
        let next = PREVIOUS.unwrap_or(standard_ProcessUtility);
        next(
            statement,
            query,
            read_only,
            context,
            params,
            environment,
            destination,
            completion,
        );
        if database != pg_sys::InvalidOid {
            after(database);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before(statement: *mut pg_sys::PlannedStmt) -> pg_sys::Oid {
    evict(statement).unwrap_or(pg_sys::InvalidOid)
}

#[pg_guard]
unsafe extern "C-unwind" fn after(database: pg_sys::Oid) {
    if let Some(slot) = SlotHandle::find(database) {
        slot.hold(i64::MIN);
    }
    launcher::request(database);
}

/// Sends the worker away from the database that the statement needs for itself. After an error the hold ends by
/// itself.
fn evict(statement: *mut pg_sys::PlannedStmt) -> Option<pg_sys::Oid> {
    let name = needed_database(statement)?;
    // SAFETY: a C string; a missing database gives an invalid oid.
    let database = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    if database == pg_sys::InvalidOid || !owns(database) {
        return None; // the statement will say so itself
    }
    // Also where no worker has come yet: one may be on its way.
    let slot = SlotHandle::take(database)?;
    let deadline = super::now() + LEAVE;
    slot.hold(super::now() + HOLD);
    while slot.status() == super::Status::Running && super::now() < deadline {
        super::await_touch((super::now() + 5_000).min(deadline));
    }
    Some(database)
}

/// Whether the current role has the rights of the database's owner: nobody else may send its worker away.
fn owns(database: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalogue's cache, within a transaction.
    unsafe {
        let role = pg_sys::GetUserId();
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let owns = pg_sys::pg_database_ownercheck(database, role);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let owns = pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, role);
        owns
    }
}

#[allow(
    clippy::cast_ptr_alignment,
    reason = "every node is allocated with the alignment of its own type"
)]
fn needed_database(statement: *mut pg_sys::PlannedStmt) -> Option<std::ffi::CString> {
    // SAFETY: the node's tag says what it is; names in it are C strings or null; option lists hold DefElem nodes.
    unsafe {
        let node = (*statement).utilityStmt;
        let name: *const core::ffi::c_char = match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => (*node.cast::<pg_sys::DropdbStmt>()).dbname,
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                if (*rename).renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
                (*rename).subname
            }
            pg_sys::NodeTag::T_CreatedbStmt => {
                option((*node.cast::<pg_sys::CreatedbStmt>()).options, c"template")?
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let alter = node.cast::<pg_sys::AlterDatabaseStmt>();
                option((*alter).options, c"tablespace")?;
                (*alter).dbname
            }
            _ => return None,
        };
        (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
    }
}

/// The string value of an option, as written.
unsafe fn option(options: *mut pg_sys::List, name: &CStr) -> Option<*const core::ffi::c_char> {
    // SAFETY: by the caller's word the list is null or holds DefElem nodes; defGetString copes with every kind of value.
    unsafe {
        let length = if options.is_null() {
            0
        } else {
            (*options).length
        };
        (0..usize::try_from(length).unwrap_or(0)).find_map(|n| {
            let element = (*(*options).elements.add(n))
                .ptr_value
                .cast::<pg_sys::DefElem>();
            let wanted = !(*element).arg.is_null() && CStr::from_ptr((*element).defname) == name;
            wanted.then(|| pg_sys::defGetString(element).cast_const())
        })
    }
}
