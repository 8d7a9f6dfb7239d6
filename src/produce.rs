//! `mail.enqueue`: check, compose the canonical form, insert the message and its pending row with the owner's rights.

use std::hash::{BuildHasher, RandomState};

use mail_message::{Context, File, Invalid, Prepared, Simple, StoredFile};
use pgrx::{Spi, datum::TimestampWithTimeZone};

use crate::{
    error, guc,
    pg::{self, Row},
    queues::{self, Queue, Queues},
    senders, templates,
};

const MAX_KEY: usize = 1024;
const MAX_PRIORITY: i32 = 1_000_000;

/// The arguments that both forms of `mail.enqueue` share.
pub struct Schedule {
    pub queue: String,
    pub send_at: Option<TimestampWithTimeZone>,
    pub expires_at: Option<TimestampWithTimeZone>,
    pub priority: Option<i32>,
    pub idempotency_key: Option<String>,
    pub ordering_key: Option<String>,
    pub supersede_key: Option<String>,
}

/// The message, in the form it came in.
pub enum Form<'a> {
    Simple(Simple<'a>),
    Json(&'a str),
}

struct Accepted<'a> {
    id: i64,
    queue: &'a Queue,
    schedule: &'a Schedule,
    caller: &'a str,
    prepared: Prepared,
    now: i64,
}

/// Accepts one message; returns its id, or that of the message with the same idempotency key.
pub fn enqueue(form: &Form<'_>, schedule: &Schedule) -> i64 {
    if pg::in_recovery() {
        error::read_only("enqueue a message");
    }
    let caller = pg::current_role();
    let queues = queues::held();
    let queue = queues.by_name(&schedule.queue, &caller);
    check(schedule);
    pg::as_role(queues.owner, || queue.check_it_is_there());
    pg::as_role(queues.owner, || {
        accept(form, schedule, &queues, queue, &caller)
    })
}

fn accept(
    form: &Form<'_>,
    schedule: &Schedule,
    queues: &Queues,
    queue: &Queue,
    caller: &pg::Role,
) -> i64 {
    let now = pg::now();
    let id = new_id(queues, now);
    let prepared = prepare(form, queues, queue, id, caller);
    if let Some(key) = &schedule.idempotency_key
        && let Some(first) = claim_key(queue.id, key, id)
    {
        return first;
    }
    if let Some(key) = &schedule.supersede_key {
        supersede(queue.id, key, id);
    }
    pg::force_sync_commit();
    insert(
        queues,
        Accepted {
            id,
            queue,
            schedule,
            caller: &caller.name,
            prepared,
            now,
        },
    );
    id
}

/// Seconds since 2020 (31 bits), node (8 bits), sequence (24 bits).
fn new_id(queues: &Queues, now: i64) -> i64 {
    const SECONDS_2000_TO_2020: i64 = 631_152_000;
    let seconds = now.div_euclid(1_000_000) - SECONDS_2000_TO_2020;
    (seconds.max(0) << 32)
        | (i64::from(guc::NODE_ID.get()) << 24)
        | pg::next_value(queues.id_sequence)
}

/// Checks the message and writes its canonical form; raises what is wrong with it. With the owner's rights.
pub fn prepare(
    form: &Form<'_>,
    queues: &Queues,
    queue: &Queue,
    id: i64,
    caller: &pg::Role,
) -> Prepared {
    let may_send_as =
        |field: &str, address: &str| senders::check(&queues.grants, queue, caller, field, address);
    let max_size = usize::try_from(guc::MAX_MESSAGE_SIZE.get()).unwrap_or_default() * 1024;
    let context = Context {
        default_sender: queue.default_sender.as_deref(),
        return_path: queue.return_path.as_deref(),
        id,
        // Keyed with bits that the system drew: nobody can tell one Message-ID from another.
        nonce: RandomState::new().hash_one(id),
        max_size: queue.max_size.map_or(max_size, |size| size.min(max_size)),
        external: queue.external,
        render: &templates::render,
        stored: &|id| stored_file(id, &caller.name),
        may_send_as: senders::are_restricted(&queues.grants, queue).then_some(&may_send_as),
    };
    let prepared = match form {
        Form::Simple(simple) => mail_message::prepare_simple(simple, &context),
        Form::Json(json) if queue.external => mail_message::prepare_external(json, &context),
        Form::Json(json) => mail_message::prepare_json(json, &context),
    };
    prepared.unwrap_or_else(|e| error::invalid(e))
}

/// A file that mail.attach has stored for this role.
fn stored_file(id: i64, caller: &str) -> Result<StoredFile, Invalid> {
    let query = "SELECT a.filename, a.content_type, a.disposition, a.content_id, pg_catalog.octet_length(a.content) \
                 FROM mail.attachment a WHERE a.id OPERATOR(pg_catalog.=) $1 \
                 AND (a.attached_by OPERATOR(pg_catalog.=) $2 OR pg_catalog.pg_has_role($2::pg_catalog.name, 'mail_admin', 'MEMBER'))";
    let found = Spi::connect(|client| {
        let rows = client.select(query, Some(1), &[id.into(), caller.into()])?;
        let Some(row) = rows.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(StoredFile {
            filename: row.get(1)?,
            content_type: row.get(2)?,
            disposition: row.get(3)?,
            content_id: row.get(4)?,
            size: usize::try_from(row.get::<i32>(5)?.unwrap_or_default()).unwrap_or_default(),
        }))
    });
    found
        .unwrap_or_else(|e| internal(&e))
        .ok_or_else(|| Invalid::unknown_attachment(id))
}

/// Stores the files that came with a message, and notes which ones go with it.
fn attach(id: i64, caller: &str, files: &[File]) -> pgrx::spi::Result<()> {
    for (ordinal, file) in files.iter().enumerate() {
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let stored = match file {
            File::Stored(stored) => *stored,
            File::Bytes(bytes) => Spi::get_one_with_args::<i64>(
                "INSERT INTO mail.attachment (content, attached_by) VALUES ($1, $2) RETURNING id",
                &[bytes.as_slice().into(), caller.into()],
            )?
            .unwrap_or_default(),
        };
        // The lock keeps it from being let go of before this transaction ends.
        let noted = Spi::get_one_with_args::<i64>(
            "INSERT INTO mail.message_attachment (message_id, ordinal, attachment_id) \
             SELECT $1, $2, a.id FROM mail.attachment a WHERE a.id OPERATOR(pg_catalog.=) $3 FOR KEY SHARE \
             RETURNING attachment_id",
            &[id.into(), ordinal.into(), stored.into()],
        );
        match noted {
            Ok(_) => {}
            Err(pgrx::spi::Error::InvalidPosition) => {
                error::invalid(Invalid::unknown_attachment(stored))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn check(schedule: &Schedule) {
    let keys = [
        ("idempotency_key", &schedule.idempotency_key),
        ("ordering_key", &schedule.ordering_key),
        ("supersede_key", &schedule.supersede_key),
    ];
    for (field, key) in keys {
        match key.as_deref().map(str::len) {
            Some(0) => error::bad_argument(
                format!("{field} is empty"),
                Some("Leave it out, or pass NULL."),
            ),
            Some(size) if size > MAX_KEY => {
                error::too_large(format!("{field} is longer than {MAX_KEY} bytes"))
            }
            _ => {}
        }
    }
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&schedule.priority.unwrap_or(0)) {
        error::bad_argument(
            "priority is out of range",
            Some("It must be from -1000000 to 1000000; higher goes first."),
        );
    }
    if schedule.send_at.is_some_and(|at| i64::from(at) == i64::MAX) {
        error::bad_argument(
            "send_at is infinity",
            Some("Such a message would never be sent."),
        );
    }
    if let Some(expires) = schedule.expires_at {
        let start = schedule.send_at.map_or(i64::MIN, i64::from).max(pg::now());
        if i64::from(expires) <= start {
            let hint = "It must be in the future and after send_at.";
            error::bad_argument(
                "expires_at is over before the message could be sent",
                Some(hint),
            );
        }
    }
}

/// Takes the idempotency key for this message, or returns the message that has it.
fn claim_key(queue: i32, key: &str, id: i64) -> Option<i64> {
    let args = [queue.into(), key.into(), id.into()];
    Spi::get_one_with_args::<i64>("SELECT mail._claim_key($1, $2, $3)", &args)
        .unwrap_or_else(|e| internal(&e))
}

/// Cancels what waits with the same key. Waits for a transaction that does the same.
fn supersede(queue: i32, key: &str, id: i64) {
    Spi::run_with_args(
        "SELECT mail._supersede($1, $2, $3)",
        &[queue.into(), key.into(), id.into()],
    )
    .unwrap_or_else(|e| internal(&e));
}

fn insert(queues: &Queues, accepted: Accepted<'_>) {
    let Accepted {
        id,
        queue,
        schedule,
        caller,
        prepared,
        now,
    } = accepted;
    let due = schedule
        .send_at
        .map_or(now, |send_at| i64::from(send_at).max(now));
    let ordering = schedule.ordering_key.as_deref();
    let priority = schedule.priority.unwrap_or(0);
    let files = i32::try_from(prepared.files.len()).unwrap_or(i32::MAX);
    let filled = |text: String| (!text.is_empty()).then_some(text);
    let message = Row::default()
        .with(c"id", id)
        .with(c"queue_id", queue.id)
        .with(c"priority", priority)
        .with(c"enqueued_at", timestamp(now))
        .with(c"send_at", schedule.send_at)
        .with(c"expires_at", schedule.expires_at)
        .with(c"enqueued_by", caller)
        .with(c"envelope_from", prepared.envelope_from)
        .with(c"recipients", prepared.recipients)
        .with(c"subject", prepared.subject)
        .with(c"message_id", filled(prepared.message_id))
        .with(
            c"tags",
            (!prepared.tags.is_empty()).then_some(prepared.tags),
        )
        .with_json(c"metadata", prepared.metadata.as_deref())
        .with(c"idempotency_key", schedule.idempotency_key.as_deref())
        .with(c"ordering_key", ordering)
        .with(c"supersede_key", schedule.supersede_key.as_deref())
        .with(c"content", prepared.content)
        .with_json(c"template", prepared.template.as_deref())
        .with(c"files", (files > 0).then_some(files));
    let pending = Row::default()
        .with(c"id", id)
        .with(c"due_at", timestamp(due))
        .with(c"queue_id", queue.id)
        .with(c"rank", -priority)
        .with(c"size", i32::try_from(prepared.size).unwrap_or(i32::MAX))
        .with(c"attempts", 0)
        .with(
            c"ordering_hash",
            ordering.map(|key| pg::hash_text(key, i64::from(queue.id))),
        )
        .with(
            c"ordering_seq",
            ordering.map(|_| pg::next_value(queues.ordering_sequence)),
        )
        .with(c"expires_at", schedule.expires_at);
    let mut unconcerned = vec![queues.pending.by_what_it_waits_for];
    if ordering.is_none() {
        unconcerned.push(queues.pending.by_ordering);
    }
    if schedule.expires_at.is_none() {
        unconcerned.push(queues.pending.by_expiry);
    }
    pg::insert(queues.partitions.message(), &[message], &[]);
    pg::insert(queues.pending.table, &[pending], &unconcerned);
    attach(id, caller, &prepared.files).unwrap_or_else(|e| internal(&e));
}

fn timestamp(microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(microseconds)
        .unwrap_or_else(|_| TimestampWithTimeZone::positive_infinity())
}

fn internal(e: &pgrx::spi::Error) -> ! {
    error::internal("could not store the message", e)
}
