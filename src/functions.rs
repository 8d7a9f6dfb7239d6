//! The C functions that `sql/` declares.
#![allow(unsafe_code, reason = "expansions of pg_extern")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "what pg_extern hands over is owned"
)]

use mail_message::Simple;
use pgrx::{PgSqlErrorCode, Spi, datum::TimestampWithTimeZone, pg_extern};

use crate::{
    error, pg,
    produce::{self, Form, Schedule},
    queues, templates, worker,
};

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments, reason = "the SQL signature")]
fn enqueue_text(
    recipient: Option<&str>,
    subject: Option<&str>,
    text_body: Option<&str>,
    html_body: Option<&str>,
    sender: Option<&str>,
    queue: Option<String>,
    template: Option<&str>,
    params: Option<pg::JsonText>,
    locale: Option<&str>,
    send_at: Option<TimestampWithTimeZone>,
    expires_at: Option<TimestampWithTimeZone>,
    priority: Option<i32>,
    idempotency_key: Option<String>,
    ordering_key: Option<String>,
    supersede_key: Option<String>,
    options: Option<pg::JsonText>,
    render: Option<&str>,
) -> i64 {
    let Some(recipient) = recipient else {
        error::bad_argument("recipient is null", None)
    };
    if recipient.trim_start().starts_with('{') {
        error::bad_argument("recipient looks like a JSON message", Some(error::UNCAST));
    }
    let options = options.as_ref().map(|json| json.0.as_str());
    let simple = Simple {
        recipient,
        subject,
        text_body,
        html_body,
        sender,
        template,
        params: params.as_ref().map(|json| json.0.as_str()),
        locale,
        render,
        options,
    };
    let schedule = Schedule {
        queue: queue_name(queue),
        send_at,
        expires_at,
        priority,
        idempotency_key,
        ordering_key,
        supersede_key,
    };
    produce::enqueue(&Form::Simple(simple), &schedule)
}

/// A queue's name that came out as NULL is a mistake: the mail must not take the way of another queue.
fn queue_name(queue: Option<String>) -> String {
    queue.unwrap_or_else(|| {
        let hint = "Leave the argument out to use the queue \"default\".";
        error::bad_argument("queue is null", Some(hint))
    })
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments, reason = "the SQL signature")]
fn enqueue_json(
    message: Option<pg::JsonText>,
    queue: Option<String>,
    send_at: Option<TimestampWithTimeZone>,
    expires_at: Option<TimestampWithTimeZone>,
    priority: Option<i32>,
    idempotency_key: Option<String>,
    ordering_key: Option<String>,
    supersede_key: Option<String>,
) -> i64 {
    let Some(message) = message else {
        error::bad_argument("message is null", None)
    };
    let schedule = Schedule {
        queue: queue_name(queue),
        send_at,
        expires_at,
        priority,
        idempotency_key,
        ordering_key,
        supersede_key,
    };
    produce::enqueue(&Form::Json(&message.0), &schedule)
}

#[pg_extern(sql = false)]
fn enqueue_element(
    element: i64,
    message: Option<pg::JsonText>,
    queue: Option<String>,
    send_at: Option<TimestampWithTimeZone>,
    expires_at: Option<TimestampWithTimeZone>,
    priority: Option<i32>,
) -> i64 {
    error::of_element(element, || {
        enqueue_json(
            message, queue, send_at, expires_at, priority, None, None, None,
        )
    })
}

/// `mail.cancel` as 0.1.0 declares it. Goes when that is served no longer.
#[pg_extern(sql = false)]
fn cancel(id: i64) -> bool {
    if pg::in_recovery() {
        error::read_only("cancel a message");
    }
    let caller = pg::current_role();
    let queues = queues::held();
    let cancelled = if queues.since_0_2 {
        // An update came in between.
        Spi::get_one_with_args::<bool>("SELECT mail.cancel($1)", &[id.into()])
    } else {
        pg::as_role(queues.owner, || {
            let args = [id.into(), caller.name.as_str().into()];
            Spi::get_one_with_args::<bool>("SELECT mail._cancel($1, $2)", &args)
        })
    };
    match cancelled {
        Ok(cancelled) => cancelled.unwrap_or(false),
        Err(e) => error::raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, e.to_string(), None),
    }
}

#[pg_extern(sql = false)]
fn preloaded() -> bool {
    pg::preloaded()
}

#[pg_extern(sql = false)]
fn failing_since() -> Option<TimestampWithTimeZone> {
    let since = pg::SlotHandle::find(pg::database())?.failing_since()?;
    TimestampWithTimeZone::try_from(since).ok()
}

#[pg_extern(sql = false)]
fn check_address(address: &str, field: &str) -> bool {
    match mail_message::check_address(address, field) {
        Ok(()) => true,
        Err(e) => error::invalid(e),
    }
}

#[pg_extern(sql = false)]
fn check_relay_url(url: &str) -> bool {
    match mail_relay::RelayUrl::parse(url, false) {
        Ok(_) => true,
        Err(e) => error::bad_argument(
            e.to_string(),
            Some(
                "Write smtp://host[:port] or smtps://host[:port], with ?starttls=required|opportunistic|never, or lmtp://host[:port] or lmtp:///socket.",
            ),
        ),
    }
}

#[pg_extern(sql = false)]
fn check_pattern(pattern: &str) -> bool {
    match mail_relay::pattern(pattern) {
        Ok(_) => true,
        Err(why) => bad_pattern(&why),
    }
}

#[pg_extern(sql = false)]
fn has_group(pattern: &str, name: &str) -> bool {
    mail_relay::has_group(pattern, name).unwrap_or_else(|why| bad_pattern(&why))
}

fn bad_pattern(why: &str) -> ! {
    error::bad_argument(format!("invalid pattern: {}", why.replace('\n', " ")), None)
}

/// Checks the parts of a template; its HTML as it is to be rendered.
#[pg_extern(sql = false)]
fn compile_template(
    name: &str,
    locale: &str,
    subject: Option<&str>,
    text: Option<&str>,
    html: Option<&str>,
    mjml: Option<&str>,
) -> Option<String> {
    templates::compile(name, locale, subject, text, html, mjml)
}

#[pg_extern(sql = false)]
fn check_attachment(
    filename: Option<&str>,
    content_type: Option<&str>,
    content_id: Option<&str>,
    disposition: Option<&str>,
) -> bool {
    match mail_message::check_attachment(filename, content_type, disposition, content_id) {
        Ok(()) => true,
        Err(e) => error::invalid(e),
    }
}

#[pg_extern(sql = false)]
fn await_begin(queue: i32) {
    pg::await_begin(queue);
}

#[pg_extern(sql = false)]
fn await_end(queue: i32) {
    pg::await_end(queue);
}

#[pg_extern(sql = false)]
fn await_queue(_queue: i32, until: TimestampWithTimeZone) {
    pg::await_touch(i64::from(until));
}

/// A lease of an outside claimer: the worker is to look when it ends.
#[pg_extern(sql = false)]
fn note_lease(until: TimestampWithTimeZone) {
    pg::note_timer(i64::from(until));
}

#[pg_extern(sql = false)]
fn note_lane(queue: i32, rank: i32, due: TimestampWithTimeZone) {
    pg::note(pg::LaneMark {
        queue,
        rank,
        due: i64::from(due),
    });
}

#[pg_extern(sql = false)]
fn note_sweep(queue: i32) {
    pg::note_sweep(queue);
}

/// Rows that this transaction has locked.
#[pg_extern(sql = false)]
fn note_locked(queue: i32, rank: i32, due: TimestampWithTimeZone) {
    pg::note_locked(pg::LaneMark {
        queue,
        rank,
        due: i64::from(due),
    });
}

#[pg_extern(sql = false)]
fn take_turns(holds: &str) -> bool {
    crate::queues::get().partitions.take_turns(holds)
}

#[pg_extern(sql = false)]
fn request_worker() {
    pg::request_worker();
}

#[pg_extern(sql = false)]
fn start_worker() -> bool {
    worker::start_here()
}

#[pg_extern(sql = false)]
fn stop_worker() -> bool {
    worker::stop_here()
}
