//! Small calls into Postgres, made safe.

use std::{ffi::CStr, time::Duration};

use pgrx::{
    FromDatum, pg_sys,
    pgrx_sql_entity_graph::metadata::{
        ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, TypeOrigin,
    },
};

/// Microseconds since 2000-01-01, as `timestamptz` has them.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether the library was preloaded.
pub fn preloaded() -> bool {
    super::shmem::preloaded()
}

/// Whether this server is a standby, or still recovering.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Identity of this database: the cluster's system identifier and the database's oid.
pub fn identity() -> String {
    // SAFETY: both read what does not change within a process.
    let (system, database) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId) };
    format!("{system}:{}", database.to_u32())
}

/// The server's data directory.
pub fn data_directory() -> String {
    // SAFETY: a C string that is set at the start of the server and stays.
    unsafe { CStr::from_ptr(pg_sys::DataDir) }
        .to_string_lossy()
        .into_owned()
}

/// The current database.
pub fn database() -> pg_sys::Oid {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// Process id of this process.
pub fn pid() -> i32 {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::MyProcPid }
}

/// A role, while it is sure to be there.
pub struct Role {
    oid: pg_sys::Oid,
    /// Its name.
    pub name: String,
}

/// The role whose rights are in force.
pub fn current_role() -> Role {
    // SAFETY: the result is a palloc'd C string; the role exists, since it is in force.
    unsafe {
        let oid = pg_sys::GetUserId();
        let name = pg_sys::GetUserNameFromId(oid, false);
        Role {
            oid,
            name: CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

impl Role {
    /// Whether it is the role of that name or a member of it, by whatever way; superusers are members of all. Nobody is a
    /// member of a role that does not exist.
    pub fn is_member_of(&self, name: &CStr) -> bool {
        // SAFETY: looks up catalogues' caches, within a transaction.
        role(name).is_some_and(|role| unsafe { pg_sys::is_member_of_role(self.oid, role) })
    }
}

/// Runs `work` with the rights of `owner`. After an error the end of the (sub)transaction restores the caller's.
pub fn as_role<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let mut caller = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: the same calls, in the same order, as Postgres makes for a SECURITY DEFINER function.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut caller, &raw mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | pg_sys::SECURITY_LOCAL_USERID_CHANGE.cast_signed(),
        );
    }
    let result = work();
    // SAFETY: restores what was saved above.
    unsafe { pg_sys::SetUserIdAndSecContext(caller, context) };
    result
}

/// Makes the commit of this transaction wait for its WAL, whatever `synchronous_commit` says.
pub fn force_sync_commit() {
    // SAFETY: sets a flag of the current transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Sets whether commits of this process wait for their WAL.
pub fn set_synchronous_commit(on: bool) {
    let value = if on {
        pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH
    } else {
        pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF
    };
    // SAFETY: the variable behind the setting of that name. What a commit waits for at a standby stands in another one
    // that belongs to it, and stays as the session has set it: to `on`.
    unsafe { pg_sys::synchronous_commit = value as i32 };
}

/// Whether this server has standbys that commits wait for (`synchronous_standby_names`).
pub fn has_synchronous_standbys() -> bool {
    // SAFETY: the variable behind the setting of that name: null or a C string, and only this thread changes it.
    unsafe {
        let names = pg_sys::SyncRepStandbyNames;
        !names.is_null() && *names != 0
    }
}

/// Writes the WAL of the last commit to disk, if it is not there yet.
pub fn flush_last_commit() {
    // SAFETY: XactLastCommitEnd is the end of this process' last commit, which lies within the WAL written so far.
    unsafe {
        if pg_sys::XactLastCommitEnd != 0 {
            pg_sys::XLogFlush(pg_sys::XactLastCommitEnd);
        }
    }
}

/// The next value of a sequence, for the role whose rights are in force.
pub fn next_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: nextval_oid takes one regclass and returns a bigint.
    unsafe {
        pgrx::direct_function_call::<i64>(
            pg_sys::nextval_oid,
            &[Some(pg_sys::Datum::from(sequence))],
        )
    }
    .unwrap_or_default()
}

/// `hashtextextended(text, seed)`.
pub fn hash_text(text: &str, seed: i64) -> i64 {
    use pgrx::IntoDatum;
    // SAFETY: the hash support function of type bytea takes a bytea and a bigint and returns a bigint; a text's datum
    // has the layout of a bytea's. It hashes the bytes, as hashtextextended does under a deterministic collation.
    unsafe {
        pgrx::direct_function_call(
            pg_sys::hashvarlenaextended,
            &[text.into_datum(), seed.into_datum()],
        )
    }
    .unwrap_or_default()
}

/// Whether this transaction keeps one snapshot: repeatable read and serializable.
pub fn keeps_snapshot() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ.cast_signed() }
}

/// When this transaction began; tells one from another.
pub fn transaction_start() -> i64 {
    // SAFETY: reads the state of the current transaction.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// Sends a notification when the transaction commits.
pub fn notify(channel: &str, payload: &str) {
    use pgrx::IntoDatum;
    // SAFETY: pg_notify takes two texts and returns void.
    unsafe {
        pgrx::direct_function_call::<()>(
            pg_sys::pg_notify,
            &[channel.into_datum(), payload.into_datum()],
        )
    };
}

/// An argument of type jsonb, as JSON text.
pub struct JsonText(pub String);

impl FromDatum for JsonText {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the datum is a jsonb by this function's contract; detoasting gives a flat one, and the text made of
        // it is a palloc'd C string.
        unsafe {
            let jsonb: *mut pg_sys::Jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let size = pgrx::varsize_any(jsonb.cast());
            let text =
                pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*jsonb).root, size as i32);
            // Where the server knows no encoding, this may be no UTF-8.
            let text = CStr::from_ptr(text);
            Some(Self(match text.to_str() {
                Ok(text) => text.to_owned(),
                Err(_) => text.to_string_lossy().into_owned(),
            }))
        }
    }
}

// SAFETY: says what the functions' declarations say.
unsafe impl pgrx::pgrx_sql_entity_graph::metadata::SqlTranslatable for JsonText {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(JsonText);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

// SAFETY: `from_datum` reads the argument, which is a jsonb by the function's declaration.
unsafe impl<'fcx> pgrx::callconv::ArgAbi<'fcx> for JsonText {
    unsafe fn unbox_arg_unchecked(arg: pgrx::callconv::Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above; a null never gets here, since the functions take an Option.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("a null argument is unboxed as None")
    }
}

/// Reserves `pgmq_mail.` for this library's settings.
pub fn reserve_guc_prefix() {
    // SAFETY: called while the library is loaded, with a C string that lives for ever.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(c"pgmq_mail".as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(c"pgmq_mail".as_ptr());
    }
}

/// Tells `pg_stat_activity` what this worker does.
pub fn report_activity(active: bool) {
    let state = if active {
        pg_sys::BackendState::STATE_RUNNING
    } else {
        pg_sys::BackendState::STATE_IDLE
    };
    // SAFETY: a null text is allowed.
    unsafe { pg_sys::pgstat_report_activity(state, std::ptr::null()) };
}

/// Hands this process' table statistics to the server, so that autovacuum knows what it did.
pub fn report_statistics() {
    // SAFETY: outside a transaction, as Postgres itself calls it.
    unsafe { pg_sys::pgstat_report_stat(false) };
}

/// Connects a background worker to a database as a role that may log in. Whatever is run in it can never have more
/// rights than that role; with no valid one it has those of the cluster's owner.
pub fn connect(database: pg_sys::Oid, role: pg_sys::Oid) {
    // SAFETY: called once, at the start of a background worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, role, 0) };
}

/// Connects a background worker to no database, so that it sees shared catalogues alone and can run no function and no
/// statement of anybody.
pub fn connect_to_none() {
    // SAFETY: as above.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
}

/// The role of that name; `None` where there is none. Within a transaction.
pub fn role(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: looks up the cache of a shared catalogue; the name is a C string.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

/// Whether a role may log in. Within a transaction.
pub fn may_log_in(role: pg_sys::Oid) -> bool {
    // SAFETY: looks up the cache of a shared catalogue; a pg_authid tuple begins with its fixed-size columns, and is released
    // after it was read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::AUTHOID as i32,
            pg_sys::Datum::from(role),
        );
        if tuple.is_null() {
            return false;
        }
        let row: pg_sys::Form_pg_authid = pg_sys::GETSTRUCT(tuple).cast();
        let may = (*row).rolcanlogin;
        pg_sys::ReleaseSysCache(tuple);
        may
    }
}

/// Invalidates what sessions have cached of a configuration table, at commit.
pub fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: sends a message about an existing relation.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
}

/// Ends this process. With 1 a worker may be restarted, with 0 it is forgotten.
#[allow(
    unreachable_code,
    reason = "only before 18 is proc_exit declared as never returning"
)]
pub fn exit(code: i32) -> ! {
    // SAFETY: the ordinary end of a Postgres process.
    unsafe { pg_sys::proc_exit(code) };
    unreachable!("proc_exit does not return")
}

/// Name of this host.
pub fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: writes at most the length given; the last byte stays zero.
    let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    let name = CStr::from_bytes_until_nul(&buffer).map(|name| name.to_string_lossy().into_owned());
    name.ok()
        .filter(|name| result == 0 && !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// CPU time that this process has used in its main thread.
pub fn cpu_time() -> Duration {
    let mut used = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists on every system that PostgreSQL runs on, and the structure is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) };
    Duration::new(
        used.tv_sec.unsigned_abs(),
        used.tv_nsec.unsigned_abs() as u32,
    )
}
