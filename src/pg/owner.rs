//! Functions that act with the owner's rights for a caller whom they know: what SECURITY DEFINER cannot do, for within
//! such a function there is no telling who called it.
//!
//! `mail.f(…)`, declared in C as [`as_owner_wrapper`], runs `mail._f(caller oid, …)`, which nobody else may call, with the
//! rights of that one's owner, and gives back its result.

use pgrx::{pg_guard, pg_sys};

/// What a call site remembers: the function that is run, and its owner.
#[repr(C)]
struct Target {
    function: pg_sys::FmgrInfo,
    owner: pg_sys::Oid,
}

/// The C function of all of them. Not guarded itself, so that the report of an ERROR keeps its context: it jumps over this
/// frame, which owns nothing, and the end of the (sub)transaction gives the caller's rights back.
///
/// # Safety
/// To be called by Postgres, as a function of a declaration like the above.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn as_owner_wrapper(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: what `prepare` made is a call of `function` with all of its arguments. The user id is changed and restored by
    // the same calls, in the same order, as Postgres makes for a SECURITY DEFINER function.
    unsafe {
        let target = target(fcinfo);
        let mut caller = pg_sys::InvalidOid;
        let mut context = 0;
        pg_sys::GetUserIdAndSecContext(&raw mut caller, &raw mut context);
        let call = prepare(fcinfo, target, caller);
        pg_sys::SetUserIdAndSecContext(
            (*target).owner,
            context | pg_sys::SECURITY_LOCAL_USERID_CHANGE.cast_signed(),
        );
        let function = (*target).function.fn_addr;
        let result = function.expect("fmgr_info found it")(call);
        pg_sys::SetUserIdAndSecContext(caller, context);
        (*fcinfo).isnull = (*call).isnull;
        result
    }
}

/// The same call with the caller before the arguments.
#[pg_guard]
unsafe extern "C-unwind" fn prepare(
    fcinfo: pg_sys::FunctionCallInfo,
    target: *mut Target,
    caller: pg_sys::Oid,
) -> pg_sys::FunctionCallInfo {
    // SAFETY: the new call has room for one argument more than the old one; both live as long as the statement.
    unsafe {
        let nargs = usize::try_from((*fcinfo).nargs).unwrap_or_default();
        let size = size_of::<pg_sys::FunctionCallInfoBaseData>()
            + (nargs + 1) * size_of::<pg_sys::NullableDatum>();
        let call: pg_sys::FunctionCallInfo = pg_sys::palloc0(size).cast();
        (*call).flinfo = &raw mut (*target).function;
        (*call).context = (*fcinfo).context;
        (*call).resultinfo = (*fcinfo).resultinfo;
        (*call).fncollation = (*fcinfo).fncollation;
        (*call).nargs = (*fcinfo).nargs + 1;
        let arguments = (*call).args.as_mut_ptr();
        *arguments = pg_sys::NullableDatum {
            value: pg_sys::Datum::from(caller),
            isnull: false,
        };
        std::ptr::copy_nonoverlapping((*fcinfo).args.as_ptr(), arguments.add(1), nargs);
        call
    }
}

/// Finds the function once for each call site.
#[pg_guard]
unsafe extern "C-unwind" fn target(fcinfo: pg_sys::FunctionCallInfo) -> *mut Target {
    // SAFETY: the call site's memory lives as long as the call site, and nobody else uses its `fn_extra`.
    unsafe {
        let site = (*fcinfo).flinfo;
        if (*site).fn_extra.is_null() {
            let (oid, owner) = find((*site).fn_oid);
            let target: *mut Target =
                pg_sys::MemoryContextAllocZero((*site).fn_mcxt, size_of::<Target>()).cast();
            pg_sys::fmgr_info_cxt(oid, &raw mut (*target).function, (*site).fn_mcxt);
            (*target).owner = owner;
            (*site).fn_extra = target.cast();
        }
        (*site).fn_extra.cast()
    }
}

/// The function that stands behind one: its oid and its owner.
fn find(function: pg_sys::Oid) -> (pg_sys::Oid, pg_sys::Oid) {
    let mut types: *mut pg_sys::Oid = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: looks up the catalogue's caches; the name is a C string, the types are `count` oids, and a pg_proc tuple begins
    // with its fixed-size columns. The tuple is released after it was read.
    unsafe {
        pg_sys::get_func_signature(function, &raw mut types, &raw mut count);
        let name = std::ffi::CStr::from_ptr(pg_sys::get_func_name(function));
        let behind = format!("_{}\0", name.to_string_lossy());
        let mut arguments = vec![pg_sys::OIDOID];
        let given = usize::try_from(count).unwrap_or_default();
        arguments.extend((0..given).map(|n| *types.add(n)));
        let tuple = pg_sys::SearchSysCache3(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Datum::from(behind.as_ptr()),
            pg_sys::Datum::from(pg_sys::buildoidvector(arguments.as_ptr(), count + 1)),
            pg_sys::Datum::from(pg_sys::get_func_namespace(function)),
        );
        assert!(!tuple.is_null(), "the extension declares both");
        let row: pg_sys::Form_pg_proc = pg_sys::GETSTRUCT(tuple).cast();
        let found = ((*row).oid, (*row).proowner);
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

/// Version-1 calling convention.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_as_owner_wrapper() -> &'static pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}
