use deadpool_postgres::{BuildError, PoolError};
use domain::{Invalid, SecretUnreadable};
use tokio_postgres::error::{DbError, SqlState};

use crate::sealing::NoKey;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be reached, or all connections stayed busy. Trying again later can help.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// It ended a deadlock, or a conflict of transactions, at the cost of this one. The same again succeeds as a rule.
    #[error("the database gave another transaction the preference: {0}")]
    Contended(String),
    /// It failed the statement for a reason of its own, or because of a mistake in the statement.
    #[error("the database failed a statement: {0}")]
    Failed(String),
    /// It refused the values: trying again with the same ones cannot help.
    #[error("the database refused a value: {0}")]
    Refused(String),
    /// A row holds something this version cannot read.
    #[error("a row of {table} cannot be read: {reason}")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        reason: Invalid,
    },
    /// Something secret cannot be read, so it cannot be shown or changed.
    #[error(transparent)]
    Sealed(SecretUnreadable),
    /// A secret cannot be stored: there is no key to encrypt it with.
    #[error("there is no key to encrypt a secret with; POSTRIDER_ENCRYPTION_KEYS must name one")]
    NoKey,
}

impl StoreError {
    pub(crate) fn unreadable(table: &'static str) -> impl Fn(Invalid) -> Self {
        move |reason| Self::Unreadable { table, reason }
    }
}

/// Whether a row with the same key was there before.
pub(crate) fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        let detail = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        // A value that violates a constraint names it. Without a name it is a partition's: the row was on its way into the
        // default partition while its own was made, and finds it the next time.
        let met_new_partition =
            |db: &DbError| *db.code() == SqlState::CHECK_VIOLATION && db.constraint().is_none();
        if error.as_db_error().is_some_and(met_new_partition) {
            return Self::Unavailable(detail);
        }
        // The class of the SQLSTATE: its first two characters.
        match error.as_db_error().and_then(|db| db.code().code().get(..2)) {
            Some("22" | "23") => Self::Refused(detail), // data exception, constraint violation
            Some("40") => Self::Contended(detail),      // deadlock, serialisation
            // connection, read-only, resources, shutdown or restart
            None | Some("08" | "25" | "53" | "57") => Self::Unavailable(detail),
            Some(_) => Self::Failed(detail),
        }
    }
}

impl From<NoKey> for StoreError {
    fn from(_: NoKey) -> Self {
        Self::NoKey
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            error @ (PoolError::Timeout(_)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<BuildError> for StoreError {
    fn from(error: BuildError) -> Self {
        Self::Failed(error.to_string())
    }
}
