//! The triggers on the queue's rows and on configuration tables.

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use super::{LaneMark, insert::insert_tuple, invalidate, wake};

/// The first columns of `mail.pending`, all of fixed size.
#[repr(C)]
#[derive(Clone, Copy)]
struct PendingRow {
    id: i64,
    due_at: i64,
    queue_id: i32,
    rank: i32,
}

fn trigger_data(fcinfo: pg_sys::FunctionCallInfo) -> *mut pg_sys::TriggerData {
    // SAFETY: fcinfo is what Postgres called the function with; its context is null or a node.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            let code = PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED;
            crate::error::raise(code, "not called by a trigger".into(), None);
        }
        context.cast()
    }
}

/// BEFORE INSERT OR UPDATE FOR EACH ROW on `mail.pending`: notes the row's lane, and sends NOTIFY where the queue
/// wants it.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn touch_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo);
    // SAFETY: a row trigger has its tuples; the first four columns have a fixed size, so that, as long as their null
    // bits are unset, they stand at the beginning of the data as `PendingRow` has them (unaligned read for safety).
    unsafe {
        let updated =
            (*data).tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
        let tuple = if updated {
            (*data).tg_newtuple
        } else {
            (*data).tg_trigtuple
        };
        let header = (*tuple).t_data;
        let nulls = u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL != 0;
        if !nulls || *(*header).t_bits.as_ptr() & 0x0f == 0x0f {
            let start = header.cast::<u8>().add(usize::from((*header).t_hoff));
            let row = start.cast::<PendingRow>().read_unaligned();
            wake::note(LaneMark {
                queue: row.queue_id,
                rank: row.rank,
                due: row.due_at,
            });
            crate::queues::notify(row.queue_id);
        }
        pg_sys::Datum::from(tuple)
    }
}

/// AFTER … FOR EACH STATEMENT on configuration tables.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn config_changed_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    trigger_data(fcinfo);
    // One table stands for the whole configuration: who remembers any of it watches mail.queue.
    invalidate(crate::queues::table());
    wake::note_configuration();
    // Who waits in a queue may have waited for just this.
    crate::queues::ids().into_iter().for_each(wake::note_sweep);
    pg_sys::Datum::from(0)
}

/// BEFORE INSERT FOR EACH ROW on `mail.event`: writes the row into the partition whose turn it is instead.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn event_goes_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo);
    // SAFETY: a row trigger has its table and its row; the partitions inherit all of the table's columns.
    unsafe {
        let goes = crate::queues::get().partitions.event();
        if goes == (*(*data).tg_relation).rd_id {
            return pg_sys::Datum::from((*data).tg_trigtuple);
        }
        insert_tuple(goes, (*data).tg_trigtuple);
        pg_sys::Datum::from(0)
    }
}

/// BEFORE INSERT FOR EACH STATEMENT on partitions: see `mail._written`.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn written_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo);
    // SAFETY: a trigger has its table.
    let table = unsafe { (*(*data).tg_relation).rd_id };
    crate::partitions::written(&crate::queues::get(), table);
    pg_sys::Datum::from(0)
}

macro_rules! finfo {
    ($($name:ident),*) => {$(
        /// Version-1 calling convention.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> &'static pg_sys::Pg_finfo_record {
            static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }
    )*};
}
finfo!(
    pg_finfo_touch_wrapper,
    pg_finfo_config_changed_wrapper,
    pg_finfo_event_goes_wrapper,
    pg_finfo_written_wrapper
);
