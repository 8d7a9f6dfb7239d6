//! One transaction of a background worker, which survives an ERROR.

use std::panic::AssertUnwindSafe;

use pgrx::{PgTryBuilder, pg_sys, pg_sys::panic::CaughtError};

/// Why a transaction was rolled back.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The primary message.
    pub message: String,
    /// SQLSTATE class and code, as Postgres packs them.
    pub code: pgrx::PgSqlErrorCode,
}

impl Failure {
    fn new(error: &CaughtError) -> Self {
        let report = match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
            CaughtError::RustPanic { ereport, .. } => ereport,
        };
        Self {
            message: report.message().to_owned(),
            code: report.sql_error_code(),
        }
    }
}

impl Failure {
    /// The configuration changed under the transaction's feet: it is to be read and all done again.
    pub fn stale() -> Self {
        Self {
            message: "the configuration has changed".into(),
            code: pgrx::PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        }
    }

    /// Whether this is such a failure.
    pub fn is_stale(&self) -> bool {
        self.code == pgrx::PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
    }

    /// Somebody held a lock for too long.
    pub fn locked() -> Self {
        Self {
            message: "locked".into(),
            code: pgrx::PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        }
    }

    /// Whether it is such a failure.
    pub fn is_locked(&self) -> bool {
        self.code == pgrx::PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
    }
}

impl From<pgrx::spi::Error> for Failure {
    fn from(error: pgrx::spi::Error) -> Self {
        Self {
            message: error.to_string(),
            code: pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }
}

/// Runs `work` in a transaction with a snapshot: committed when it returns `Ok`, rolled back otherwise. An ERROR
/// within becomes an `Err`; the caller reports it, once.
pub fn transaction<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let body = AssertUnwindSafe(|| {
        // SAFETY: the sequence in which Postgres' own workers run a transaction, on the main thread and outside one.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        match work() {
            Ok(value) => {
                // SAFETY: as above; the snapshot is the one pushed above.
                unsafe {
                    pg_sys::PopActiveSnapshot();
                    pg_sys::CommitTransactionCommand();
                }
                Ok(value)
            }
            Err(failure) => {
                // SAFETY: as above.
                unsafe { pg_sys::AbortCurrentTransaction() };
                Err(failure)
            }
        }
    });
    PgTryBuilder::new(body)
        .catch_others(|error| {
            let failure = Failure::new(&error);
            // SAFETY: an ERROR was caught; the transaction that it left is rolled back, and the error's state is
            // already cleared by the catch.
            unsafe { pg_sys::AbortCurrentTransaction() };
            Err(failure)
        })
        .execute()
}

/// The same for work that has to be done once, and by nobody else: begins again where somebody cancels it. Not for ever,
/// as what cancels it may be a setting of the database.
pub fn insist<T>(work: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    const TIMES: usize = 10;
    let cancelled = |result: &Result<T, Failure>| {
        result
            .as_ref()
            .is_err_and(|failure| failure.code == pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED)
    };
    let mut result = transaction(&work);
    for _ in 1..TIMES {
        if !cancelled(&result) {
            break;
        }
        result = transaction(&work);
    }
    result
}
