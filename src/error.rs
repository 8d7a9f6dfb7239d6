//! Errors on their way to the client: one constructor for each SQLSTATE that is used.

use std::cell::Cell;

use mail_message::{Invalid, InvalidKind};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys::panic::ErrorReport};

/// The hint where a message was taken for a text.
pub const UNCAST: &str =
    "An uncast literal is taken as text: write message => '…', or cast it to jsonb.";

thread_local! {
    /// Which message of a list the errors are about.
    static ELEMENT: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Runs `work`, whose errors begin with the place of the message in the list `messages`, from 1.
pub fn of_element<R>(element: i64, work: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            ELEMENT.set(None);
        }
    }
    let _leave = Leave;
    ELEMENT.set(Some(element));
    work()
}

/// Raises an ERROR. Style of the message: one line, lower case, no full stop; the hint is a sentence.
pub fn raise(code: PgSqlErrorCode, message: String, hint: Option<String>) -> ! {
    let message = match ELEMENT.get() {
        Some(element) => format!("messages[{element}]: {message}"),
        None => message,
    };
    let report = ErrorReport::new(code, message, "pgmq_mail");
    let report = match hint {
        Some(hint) => report.set_hint(hint),
        None => report,
    };
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// 22023.
pub fn bad_argument(message: impl Into<String>, hint: Option<&str>) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message.into(),
        hint.map(str::to_owned),
    )
}

/// 42704.
pub fn missing(message: impl Into<String>, hint: Option<&str>) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        message.into(),
        hint.map(str::to_owned),
    )
}

/// 54000.
pub fn too_large(message: impl Into<String>) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        message.into(),
        None,
    )
}

/// 25006: this server is a standby.
pub fn read_only(action: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION;
    raise(code, format!("cannot {action} during recovery"), None)
}

/// 53000: a worker could not be started.
pub fn no_worker() -> ! {
    let code = PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES;
    let hint = "See the server log; max_worker_processes may have to be raised.";
    raise(
        code,
        "the delivery worker could not be started".into(),
        Some(hint.to_owned()),
    )
}

/// XX000: what the library itself asked for failed.
pub fn internal(what: &str, e: &pgrx::spi::Error) -> ! {
    let code = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
    raise(code, format!("{what}: {e}"), None)
}

/// Raises what the message crate found.
pub fn invalid(error: Invalid) -> ! {
    let code = match error.kind {
        InvalidKind::BadValue => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        InvalidKind::Missing => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        InvalidKind::TooLarge => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        InvalidKind::Denied => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
    };
    raise(code, error.message, error.hint)
}
