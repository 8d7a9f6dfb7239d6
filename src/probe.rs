//! `mail.test_relay`: one relay tried from the caller's session, and what was said.
//!
//! The row is read with the owner's rights, since the caller may not read the secret, and only as it is configured.
//! The network has a thread of its own; this one sleeps, so that the statement can be cancelled at any time.

use std::{
    hash::{BuildHasher, RandomState},
    time::SystemTime,
};

use mail_message::{Context, Extras, Invalid, Simple};
use mail_relay::Probe;
use mail_smtp::{Endpoint, Message, TranscriptLine};
use pgrx::{PgSqlErrorCode, Spi, pg_sys, spi::SpiHeapTupleData};

use crate::{
    error,
    guc::{self, Delivery},
    pg::{self, doorbell::Doorbell},
    relays::{self, Access, Secret},
    stamp,
};

const TEXT: &str =
    "This message was sent by mail.test_relay to see whether the relay takes mail.\n";
/// More than any list of recipients that one message may have.
const MAX_SIZE: usize = 1 << 20;

/// Who may read the secret.
const OWNER: &str = "SELECT c.relowner FROM pg_class c WHERE c.oid = 'mail.relay_secret'::regclass";

/// One relay, and the first queue that uses it: one that names it, else `default`, else the oldest.
const QUERY: &str = "
    SELECT r.url, r.username, coalesce(s.secret, r.secret), r.auth, r.helo_name, r.ca_file,
           ARRAY(SELECT extract(epoch FROM t)::float8 FROM unnest(ARRAY[r.connect_timeout, r.greeting_timeout,
               r.command_timeout, r.data_timeout, r.block_timeout, r.dot_timeout]) AS t),
           r.stamp, q.default_sender, q.return_path
    FROM mail.relay r LEFT JOIN mail.relay_secret s ON s.relay = r.name
    LEFT JOIN LATERAL (SELECT t.default_sender, t.return_path FROM mail.queue t
                       WHERE t.transport = 'smtp' AND t.default_sender IS NOT NULL
                         AND (t.relays = '{}' OR r.name = ANY (t.relays))
                       ORDER BY t.relays = '{}', t.name <> 'default', t.id LIMIT 1) q ON true
    WHERE r.name = $1";

struct Row {
    access: Access,
    stamp: Option<String>,
    sender: Option<String>,
    return_path: Option<String>,
}

/// Tries the relay of that name; with recipients by sending them a message. Raises 42704, 55000, 25006 and 22023; what
/// the relay does is no error.
pub fn run(name: &str, recipients: Option<&str>) -> Vec<TranscriptLine> {
    let row = read(name);
    check(name, &row, recipients.is_some());
    let endpoint = relays::endpoint(row.access).unwrap_or_else(|e| {
        wrong_state(format!("relay \"{name}\" cannot be used: {e}"), None);
    });
    let message = recipients.map(|recipients| {
        compose(
            name,
            recipients,
            &endpoint,
            row.sender.as_deref(),
            row.return_path.as_deref(),
        )
    });
    converse(endpoint, message)
}

fn wrong_state(message: String, hint: Option<&str>) -> ! {
    let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    error::raise(code, message, hint.map(str::to_owned))
}

fn read(name: &str) -> Row {
    // Not by `Spi::get_one` and the like: they would take a transaction id, which a standby does not have.
    let read = Spi::connect(|client| {
        let owner = client
            .select(OWNER, Some(1), &[])?
            .first()
            .get_one::<pg_sys::Oid>()?
            .unwrap_or(pg_sys::InvalidOid);
        pg::as_role(owner, || {
            let mut rows = client.select(QUERY, Some(1), &[name.into()])?;
            rows.next().map(|row| row_of(&row)).transpose()
        })
    });
    match read {
        Ok(Some(row)) => row,
        Ok(None) => {
            let hint = "The table mail.relay lists the relays; insert a row to make one.";
            error::missing(format!("relay \"{name}\" does not exist"), Some(hint))
        }
        Err(e) => error::raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not read mail.relay: {e}"),
            None,
        ),
    }
}

fn row_of(row: &SpiHeapTupleData<'_>) -> pgrx::spi::Result<Row> {
    let timeouts: Vec<f64> = row.get(7)?.unwrap_or_default();
    Ok(Row {
        access: Access {
            url: row.get(1)?.unwrap_or_default(),
            username: row.get(2)?,
            secret: Secret(row.get::<String>(3)?.filter(|secret| secret != "(stored)")),
            auth: row.get(4)?.unwrap_or_default(),
            helo_name: row.get(5)?,
            ca_file: row.get(6)?,
            timeouts: std::array::from_fn(|n| timeouts.get(n).copied().unwrap_or_default()),
        },
        stamp: row.get(8)?,
        sender: row.get(9)?,
        return_path: row.get(10)?,
    })
}

/// Whether this database may speak with the relay, and may send through it.
fn check(name: &str, row: &Row, sending: bool) {
    if row.stamp.is_none() || row.stamp != stamp::stamp().ok() {
        let message = format!("relay \"{name}\" is not armed in this database");
        let hint = "It was configured in another database or with another pgmq_mail.token_file, or mail.disarm() was called. If this database shall send mail, call mail.arm().";
        wrong_state(message, Some(hint));
    }
    if !sending {
        return;
    }
    if pg::in_recovery() {
        error::read_only("send a test message");
    }
    if guc::DELIVERY.get() != Delivery::on {
        let hint = "Without a recipient the relay is tried and nothing is sent.";
        wrong_state(
            "nothing may be sent: pgmq_mail.delivery is not \"on\"".to_owned(),
            Some(hint),
        );
    }
}

/// A small message, from where mail through this relay is from.
fn compose(
    name: &str,
    recipients: &str,
    endpoint: &Endpoint,
    sender: Option<&str>,
    return_path: Option<&str>,
) -> Message {
    let here = match endpoint.helo_name.as_str() {
        "" => format!("postgres@{}", pg::host_name()),
        name => format!("postgres@{name}"),
    };
    let fallback = match mail_message::check_address(&here, "from") {
        Ok(()) => here.as_str(),
        Err(_) => "postgres@localhost",
    };
    let subject = format!("pgmq_mail test of relay {name}");
    let simple = Simple {
        recipient: recipients,
        subject: Some(&subject),
        text_body: Some(TEXT),
        ..Simple::default()
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed());
    let context = Context {
        default_sender: sender.or(Some(fallback)),
        return_path,
        id: now,
        // Keyed with bits that the system drew.
        nonce: RandomState::new().hash_one(now),
        max_size: MAX_SIZE,
        external: false,
        render: &|template| Err(Invalid::unknown_template(&template.name)),
        stored: &|id| Err(Invalid::unknown_attachment(id)),
        may_send_as: None,
    };
    let prepared =
        mail_message::prepare_simple(&simple, &context).unwrap_or_else(|e| error::invalid(e));
    let extras = Extras::default();
    let composed = mail_message::compose(&prepared.content, now, extras).unwrap_or_else(|e| {
        error::raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not compose the test message: {e}"),
            None,
        )
    });
    Message {
        from: prepared.envelope_from,
        to: prepared.recipients,
        data: composed.data.into(),
        ..Message::default()
    }
}

/// An ERROR in here, as when the statement is cancelled, drops the probe and so ends it.
fn converse(endpoint: Endpoint, message: Option<Message>) -> Vec<TranscriptLine> {
    let started = Doorbell::new().and_then(|(doorbell, bell)| {
        let done = move || bell.ring();
        let probe = pg::with_signals_blocked(|| Probe::start(endpoint, message, done))?;
        Ok((doorbell, probe))
    });
    let (doorbell, probe) = started.unwrap_or_else(|e| {
        error::raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            format!("could not start the test: {e}"),
            None,
        )
    });
    loop {
        if let Some(lines) = probe.conversation() {
            return lines;
        }
        doorbell.wait_within_statement();
    }
}

#[allow(unsafe_code, reason = "expansions of pg_extern")]
mod function {
    use mail_smtp::{TranscriptLine, Who};
    use pgrx::{datum::Interval, iter::TableIterator, name, pg_extern};

    use crate::error;

    #[pg_extern(sql = false)]
    fn test_relay(
        relay: Option<&str>,
        recipient: Option<&str>,
    ) -> TableIterator<
        'static,
        (
            name!(elapsed, Interval),
            name!(who, &'static str),
            name!(text, String),
        ),
    > {
        let Some(relay) = relay else {
            error::bad_argument("relay is null", None)
        };
        TableIterator::new(super::run(relay, recipient).into_iter().map(row))
    }

    fn row(line: TranscriptLine) -> (Interval, &'static str, String) {
        let elapsed = i64::try_from(line.elapsed.as_micros()).unwrap_or(i64::MAX);
        let who = match line.who {
            Who::Us => "us",
            Who::Relay => "relay",
            Who::Note => "note",
        };
        (Interval::from_micros(elapsed), who, line.text)
    }
}
