//! What can go wrong with the database, as the callers need to tell it apart. Owns the mapping from SQLSTATE.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

/// A database call that did not do what it promises. Expected outcomes (a duplicate, a job that is busy) are values,
/// not errors.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// `RF404`: something that was named does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// `RF409`: it exists already, or its state does not allow this.
    #[error("conflict: {0}")]
    Conflict(String),
    /// `RF400`, or SQLSTATE classes 22 and 23: a value that the schema refuses.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Serialization failure, deadlock, or a function that was being replaced: the same call may pass at once.
    #[error("busy: {0}")]
    Busy(String),
    /// Somebody else holds a lock that this call needs, for longer than the role waits: it may pass later, and a call
    /// that does not need it may pass now.
    #[error("locked: {0}")]
    Locked(String),
    /// The database is away, shutting down, out of resources or too slow: nobody's call passes now.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// Anything else is a defect of ours.
    #[error("unexpected database error: {0}")]
    Bug(String),
}

impl DbError {
    /// Whether the same call may pass if it is made again. The only test of that in the code base.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Locked(_) | Self::Unavailable(_))
    }

    /// An error about the link to the database, not about the call.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<tokio_postgres::Error> for DbError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Without a server's verdict: either the link broke, or we could not encode or decode a value.
            let text = error
                .source()
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            let link = error.is_closed()
                || error.source().is_some_and(|source| source.is::<std::io::Error>())
                || text.starts_with("error communicating")
                || text.starts_with("timeout")
                || text.starts_with("error connecting")
                || text.starts_with("error performing TLS");
            return if link {
                Self::Unavailable(text)
            } else {
                Self::Bug(text)
            };
        };
        // The detail of a constraint violation quotes the row: it stays out of messages and logs.
        let text = format!("{} ({})", db.message(), db.code().code());
        match db.code().code() {
            "RF404" => Self::NotFound(db.message().to_owned()),
            "RF409" => Self::Conflict(db.message().to_owned()),
            "RF400" => Self::Invalid(db.message().to_owned()),
            _ if [
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::T_R_DEADLOCK_DETECTED,
            ]
            .contains(db.code()) =>
            {
                Self::Busy(text)
            }
            // A migrator has replaced a function between our look at its name and the call. Under its name there is a new
            // one, which this session finds by itself, or when the migrator has every session look again.
            "XX000" if db.message().starts_with("cache lookup failed for function") => Self::Busy(text),
            _ if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(db.code()) => {
                Self::Locked(text)
            }
            // A server that was demoted, a partition that nobody has made yet: the operator's to mend, nobody's data is
            // wrong. (A row that no partition takes is a check violation without a constraint.)
            "25006" => Self::Unavailable(text),
            "23514" if db.constraint().is_none() => Self::Unavailable(text),
            code if code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") => {
                Self::Unavailable(text)
            }
            // Authentication and a missing database are the operator's to mend while we keep trying.
            code if code.starts_with("28") || code == "3D000" => Self::Unavailable(text),
            code if code.starts_with("22") || code.starts_with("23") => Self::Invalid(text),
            _ => Self::Bug(text),
        }
    }
}

impl From<deadpool_postgres::PoolError> for DbError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(inner) => match Self::from(inner) {
                Self::Bug(text) => Self::Unavailable(text),
                other => other,
            },
            other => Self::Unavailable(other.to_string()),
        }
    }
}
