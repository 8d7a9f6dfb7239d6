//! Inserting rows without a plan, as logical replication does it: half the time that a prepared INSERT takes. Defaults
//! are not filled in; constraints, triggers and indexes are what they are for any INSERT.

use std::{ffi::CStr, ptr};

use pgrx::{IntoDatum, PgTupleDesc, pg_sys, pg_sys::AsPgCStr as _};

/// The columns of a row, in the table's order. What is not there is NULL.
pub struct Row {
    columns: Vec<(&'static CStr, Option<pg_sys::Datum>)>,
}

impl Default for Row {
    fn default() -> Self {
        const MOST: usize = 20;
        Self {
            columns: Vec::with_capacity(MOST),
        }
    }
}

impl Row {
    /// The next column.
    #[must_use]
    pub fn with(mut self, column: &'static CStr, value: impl IntoDatum) -> Self {
        self.columns.push((column, value.into_datum()));
        self
    }

    /// The next column, a jsonb, from JSON text. Its input function keeps every number as it is.
    #[must_use]
    pub fn with_json(mut self, column: &'static CStr, json: Option<&str>) -> Self {
        // SAFETY: jsonb_in takes one C string.
        let value = json.and_then(|json| unsafe {
            pgrx::direct_function_call_as_datum(
                pg_sys::jsonb_in,
                &[Some(pg_sys::Datum::from(json.as_pg_cstr()))],
            )
        });
        self.columns.push((column, value));
        self
    }

    /// Whether these are the first columns of a table.
    fn fits(&self, table: &PgTupleDesc<'_>) -> bool {
        self.columns.iter().enumerate().all(|(at, (name, _))| {
            table
                .get(at)
                .is_some_and(|column| column.name().as_bytes() == name.to_bytes())
        })
    }
}

/// Inserts rows, with the rights that are in force; the next statement sees them. Indexes in `unconcerned` are partial ones
/// whose condition no row meets: they are not even opened.
pub fn insert(table: pg_sys::Oid, rows: &[Row], unconcerned: &[pg_sys::Oid]) {
    // SAFETY: `insert_slots` gets what it asks for: an open table, and rows of it.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(c"INSERT".as_ptr());
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock.cast_signed());
        let state = pg_sys::CreateExecutorState();
        let target = open(relation, unconcerned);
        let mut slots: Vec<_> = rows.iter().map(|row| stored(row, relation)).collect();
        insert_slots(relation, target, state, &mut slots);
    }
}

/// Inserts one row that another table of the same columns was to get, as [`insert`] does.
///
/// # Safety
/// `tuple` is a row of a table with the same columns.
pub(super) unsafe fn insert_tuple(table: pg_sys::Oid, tuple: pg_sys::HeapTuple) {
    // SAFETY: as in `insert`; the slot does not own the tuple, which its caller keeps.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock.cast_signed());
        let state = pg_sys::CreateExecutorState();
        let target = open(relation, &[]);
        let slot = pg_sys::MakeSingleTupleTableSlot(
            (*relation).rd_att,
            &raw const pg_sys::TTSOpsHeapTuple,
        );
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        insert_slots(relation, target, state, &mut [slot]);
    }
}

/// Inserts rows, and closes what was opened for it.
unsafe fn insert_slots(
    relation: pg_sys::Relation,
    target: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
    slots: &mut [*mut pg_sys::TupleTableSlot],
) {
    // SAFETY: the calls that ExecSimpleRelationInsert asks for, in their order, as logical replication makes them, and
    // those about triggers for each statement besides. What was opened is closed here, or by the end of the
    // (sub)transaction after an ERROR; what is allocated goes with the memory context of the call.
    unsafe {
        pg_sys::AfterTriggerBeginQuery();
        pg_sys::ExecBSInsertTriggers(state, target);
        if slots.len() > 1 && can_go_together(relation) {
            together(target, state, slots);
        } else {
            for slot in slots.iter() {
                pg_sys::ExecSimpleRelationInsert(target, state, *slot);
            }
        }
        pg_sys::ExecASInsertTriggers(state, target, ptr::null_mut());
        pg_sys::AfterTriggerEndQuery(state);
        pg_sys::ExecCloseIndices(target);
        for slot in slots {
            pg_sys::ExecDropSingleTupleTableSlot(*slot);
        }
        pg_sys::FreeExecutorState(state);
        pg_sys::table_close(relation, pg_sys::NoLock.cast_signed());
        pg_sys::CommandCounterIncrement();
    }
}

/// How many triggers and indexes a table has. Who is going to `write` keeps it from getting others until then.
pub fn triggers_and_indexes(table: pg_sys::Oid, write: bool) -> (i32, i32) {
    let lock = if write {
        pg_sys::RowExclusiveLock
    } else {
        pg_sys::AccessShareLock
    };
    // SAFETY: the relation is open while it is looked at, and stays locked; without triggers it has no description of them,
    // and without indexes no list.
    unsafe {
        let relation = pg_sys::table_open(table, lock.cast_signed());
        let triggers = (*relation).trigdesc.as_ref();
        let indexes = pg_sys::RelationGetIndexList(relation);
        let counts = (
            triggers.map_or(0, |triggers| triggers.numtriggers),
            indexes.as_ref().map_or(0, |list| list.length),
        );
        pg_sys::list_free(indexes);
        pg_sys::table_close(relation, pg_sys::NoLock.cast_signed());
        counts
    }
}

/// Whether nothing looks at each row of the table when it goes in.
unsafe fn can_go_together(relation: pg_sys::Relation) -> bool {
    // SAFETY: by the caller's word the relation is open; without triggers it has no description of them.
    unsafe {
        let triggers = (*relation).trigdesc.as_ref();
        let none = triggers.is_none_or(|triggers| {
            !triggers.trig_insert_before_row
                && !triggers.trig_insert_after_row
                && !triggers.trig_insert_new_table
        });
        none && !(*(*relation).rd_rel).relispartition
    }
}

/// A slot with the values of a row.
unsafe fn stored(row: &Row, relation: pg_sys::Relation) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: by the caller's word the relation is open; the slot has a place for every column of it.
    unsafe {
        let columns = PgTupleDesc::from_pg_unchecked((*relation).rd_att);
        assert!(row.fits(&columns), "the table has other columns");
        let slot =
            pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsVirtual);
        for at in 0..columns.len() {
            let value = row.columns.get(at).and_then(|(_, value)| *value);
            *(*slot).tts_values.add(at) = value.unwrap_or_else(pg_sys::Datum::null);
            *(*slot).tts_isnull.add(at) = value.is_none();
        }
        pg_sys::ExecStoreVirtualTuple(slot)
    }
}

/// Inserts rows that may go together: as many as a page takes with one record in the WAL, as COPY does.
unsafe fn together(
    target: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
    slots: &mut [*mut pg_sys::TupleTableSlot],
) {
    // SAFETY: by the caller's word all are of one open relation, whose access method has every function.
    unsafe {
        let relation = (*target).ri_RelationDesc;
        if !(*(*relation).rd_att).constr.is_null() {
            for slot in slots.iter() {
                pg_sys::ExecConstraints(target, *slot, state);
            }
        }
        let multi_insert = (*(*relation).rd_tableam).multi_insert;
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            multi_insert.expect("every table has it")(
                relation,
                slots.as_mut_ptr(),
                i32::try_from(slots.len()).unwrap_or(i32::MAX),
                pg_sys::GetCurrentCommandId(true),
                0,
                ptr::null_mut(),
            );
        });
        for slot in slots.iter() {
            let recheck = pg_sys::ExecInsertIndexTuples(
                target,
                *slot,
                state,
                false,
                false,
                ptr::null_mut(),
                ptr::null_mut(),
                #[cfg(not(any(feature = "pg14", feature = "pg15")))]
                false,
            );
            pg_sys::list_free(recheck);
        }
    }
}

/// What `ExecOpenIndices` does, without some of them.
unsafe fn open(
    relation: pg_sys::Relation,
    unconcerned: &[pg_sys::Oid],
) -> *mut pg_sys::ResultRelInfo {
    // SAFETY: by the caller's word the relation is open; arrays have room for every index in its list of oids.
    unsafe {
        let target: *mut pg_sys::ResultRelInfo =
            pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        pg_sys::InitResultRelInfo(target, relation, 0, ptr::null_mut(), 0);
        let list = pg_sys::RelationGetIndexList(relation);
        if list.is_null() {
            return target;
        }
        let length = usize::try_from((*list).length).unwrap_or_default();
        let relations: *mut pg_sys::Relation =
            pg_sys::palloc0(length * size_of::<pg_sys::Relation>()).cast();
        let infos: *mut *mut pg_sys::IndexInfo =
            pg_sys::palloc0(length * size_of::<*mut pg_sys::IndexInfo>()).cast();
        let mut opened = 0;
        for at in 0..length {
            let index = (*(*list).elements.add(at)).oid_value;
            if unconcerned.contains(&index) {
                continue;
            }
            let index = pg_sys::index_open(index, pg_sys::RowExclusiveLock.cast_signed());
            *relations.add(opened) = index;
            *infos.add(opened) = pg_sys::BuildIndexInfo(index);
            opened += 1;
        }
        pg_sys::list_free(list);
        (*target).ri_NumIndices = i32::try_from(opened).unwrap_or(i32::MAX);
        (*target).ri_IndexRelationDescs = relations;
        (*target).ri_IndexRelationInfo = infos;
        target
    }
}
