//! RelStorage as a database: PostgreSQL, or SQLite files. A relational database holds the records, one row each.
//!
//! ```text
//!   workers --Order--> driver: Core <--rows-- queries      one thread; PostgreSQL: two connections, one for loads, one for looks
//!      ^                 |   |
//!      +----- Came ------+   +-- Happened --> control (`RemoteStore::poll`)
//! ```
//!
//! * [`core`] decides, for both kinds: which loads are asked when, what a *look* at the newest transactions means. It is pure.
//! * [`postgres`] and [`sqlite`] are the drivers. Of PostgreSQL all objects that are wanted are asked for in one query, and further
//!   queries follow before the first is answered; rows are handed out as they come.
//! * [`query`] has what is asked of PostgreSQL, [`guard`] bounds what comes; [`place`] says where a database is.
//!
//! # Following
//!
//! There is no notification: the newest transactions are looked at, often while something happens (`REL_LOOK_MIN_MS`), less often
//! when nothing does. A writer holds a lock until its transaction can be seen, so they appear in the order of their tids. Each look
//! begins with the transaction that head shows: if it is not there any more, nobody can tell what happened since.
//!
//! # Two kinds of history
//!
//! *Preserving*: rows never change, save that a pack deletes old ones; a state is a tid in a query. *Free*: there is the newest
//! revision of each object alone. Then one look is one transaction, as nobody can tell what those between changed, and a load as of
//! a state that is over has [`LoadError::Gone`](super::LoadError::Gone) where the object changed since. Such a database has to be
//! asked for by `history_free=accept`.

mod core;
mod guard;
mod place;
mod postgres;
mod query;
mod sqlite;

pub use place::{Kept, Place, Postgres, Rel};

use super::remote::{DialError, RemoteOpenError, RemoteStore, RemoteView};
use crate::base::limit::REL_LOOK_OIDS_MAX;
use crate::base::{Oid, Tid};
use crate::kernel::proc::Waker;
use std::io;

/// Why a connection ended, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No stream.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection, or the server refuses something.
    #[error("{}", told(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The file.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Nothing comes.
    #[error("the database does not answer")]
    Silent,
    /// The password.
    #[error("password_file {path}: {source}")]
    Password {
        /// As given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A secret that is none.
    #[error("password_file {0} may be read by others: its mode has to be 0600 or stricter")]
    Exposed(String),
    /// No tables.
    #[error("there are no tables of RelStorage in this database")]
    NoTables,
    /// Nobody said that this is wanted.
    #[error(
        "this database keeps no history, so no older state can be shown, and head alone is exact; if that is good enough, add \
         history_free=accept to its address"
    )]
    HistoryFree,
    /// The database may be a copy that lags behind.
    #[error("the database is at transaction {now}, and head is at {head} already")]
    Behind {
        /// Newest transaction given out.
        head: Tid,
        /// Newest transaction there.
        now: Tid,
    },
    /// Servers that only follow another one.
    #[error("all servers that answer are standbys of another one")]
    Standby,
    /// Another file.
    #[error("another file has taken the place of the database")]
    Replaced,
    /// Something that cannot be asked for.
    #[error("the database gives what was not asked for, or not all of it")]
    Rows,
    /// A number that is none.
    #[error("the database has a negative number where a tid or an oid should be")]
    Negative,
    /// A revision from the future.
    #[error("the database gives object {0} of transaction {1}, asked for as of {2}")]
    Serial(Oid, Tid, Tid),
    /// The system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An error with all of its reasons.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{}: {}", db.severity(), db.message());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Why what was missed cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// The transaction that head shows is not there.
    #[error("the database does not have transaction {0}, which head shows")]
    Unknown(Tid),
    /// Transactions were packed away meanwhile.
    #[error("a pack reached transactions that were not seen yet")]
    Packed,
    /// Too much happened.
    #[error("a transaction changed more than {REL_LOOK_OIDS_MAX} objects")]
    TooMany,
}

/// Connects; blocks until the database is there, or the first attempt failed. `control` is woken whenever there is something to be
/// polled.
///
/// # Errors
/// The database is not to be had.
pub fn open(
    rel: &Rel,
    max_record: usize,
    control: Option<Waker>,
) -> Result<(RemoteStore, RemoteView), RemoteOpenError> {
    RemoteStore::open(rel.to_string(), max_record, control, |ports| {
        match &rel.place {
            Place::Postgres(_) => postgres::start(rel.clone(), ports, max_record),
            Place::Sqlite(dir) => sqlite::start(dir.clone(), rel.kept, ports, max_record),
        }
    })
}
