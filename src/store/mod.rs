//! Bringing objects in: what every kind of database gives, and the kinds there are.
//!
//! A store is followed by one thread, the control thread, which owns it. Following yields events in the order of
//! tids; each commit carries a *view*, an immutable picture of the database that any number of workers can hold
//! and load from at the same time. The contract, whatever the kind:
//!
//! 1. A view answers loads for every `at` up to its own, and never changes its answers: what it says may be kept
//!    for ever under (oid, serial). Only a pack takes old answers away, and only in views made after it.
//! 2. A commit is announced once a load on its view sees all of it, never earlier; tids increase; none is left
//!    out. A store that cannot keep that promise says `Reset`, never a commit with a short list.
//! 3. Nobody waits for ever: a store that must wait for a server has a deadline for each request.
//! 4. A database that goes back in time is an error that ends the store: clients hold views above what it has now.
//!
//! Positions, connections and the like never leave a back end; errors are typed, and say which object.

pub mod any;
pub mod catalog;
pub mod demo;
pub mod file;
pub mod neo;
pub mod normal;
pub mod rel;
pub mod remote;
pub mod zeo;
pub mod zurl;

use crate::base::{Oid, Tid};
use crate::wire::fs1::Fault;
use crate::wire::zeo::Refusal;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// A database that can be followed.
pub trait Store {
    /// Picture of the database as of one transaction.
    type View: View;
    /// Why following ended or paused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The newest view: as of the last event given out.
    fn view(&self) -> Self::View;

    /// What happened since the last call, in order; never waits for something to happen.
    fn follow(&mut self) -> Result<Vec<Event<Self::View>>, Self::Error>;
}

/// An immutable picture of a database.
pub trait View: Clone + Send + Sync {
    /// The transaction it is as of.
    fn at(&self) -> Tid;

    /// Loads an object as of `at`, which is at most `self.at()`. Blocks.
    fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError>;
}

/// What following a store yields.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// One transaction.
    Commit(Commit<V>),
    /// Nothing changed, but what lies beneath did (the database was packed): take this view from now on.
    Switched(V),
    /// Continuity is lost: drop all that was derived from the history so far, and go on from this view.
    Reset(V),
}

/// One transaction, as of which `view` shows the database.
#[derive(Clone, Debug)]
pub struct Commit<V> {
    /// Its tid.
    pub tid: Tid,
    /// The objects it stored, undid or deleted: in the order of its records, each once.
    pub oids: Arc<[Oid]>,
    /// The database as of this transaction.
    pub view: V,
}

/// One revision of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The transaction that made this revision.
    pub serial: Tid,
    /// The record: two pickles, class and state.
    pub data: Bytes,
}

/// Why there is no data.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The database has no such object, at any time.
    #[error("there is no such object")]
    NoObject,
    /// The object was first stored after the time asked for, or its revisions before were packed away.
    #[error("the object does not exist yet at that time")]
    NotYet,
    /// The object does not exist at the time asked for: deleted, or its creation undone.
    #[error("the object was deleted by transaction {at}")]
    Deleted {
        /// The transaction that removed it.
        at: Tid,
    },
    /// The object was changed since, and the database keeps newest revisions alone.
    #[error(
        "the object was changed by transaction {at}, and the database keeps no older revisions"
    )]
    Gone {
        /// The transaction that changed it.
        at: Tid,
    },
    /// What stands in the file cannot be right. If `what.may_be_stale()`, a fresh view may do better: retry once.
    #[error("the record of object {oid} at position {pos} is damaged: {what}")]
    Corrupt {
        /// Object asked for.
        oid: Oid,
        /// Position of the record.
        pos: u64,
        /// What is wrong.
        what: Fault,
    },
    /// The record is larger than configured.
    #[error("the record has {len} bytes, more than max_record allows ({max})")]
    TooBig {
        /// Bytes of data.
        len: u64,
        /// Bytes allowed.
        max: usize,
    },
    /// The server refuses it.
    #[error("the server refuses it: {0}")]
    Refused(Refusal),
    /// No answer in time.
    #[error("the server did not give it in time")]
    Late,
    /// Too many loads wait already.
    #[error("too many loads wait for the server")]
    Busy,
    /// The database is another one now, or went back in time.
    #[error("the server's database is no longer the one that this state is of")]
    Moved,
    /// The daemon is being stopped.
    #[error("the connection to the server is closed")]
    Closed,
    /// Reading failed.
    #[error("reading at position {pos} failed")]
    Io {
        /// Position read.
        pos: u64,
        /// What the system said.
        source: io::Error,
    },
}

impl LoadError {
    /// Whether a view made afresh from the file may answer instead.
    pub fn may_be_stale(&self) -> bool {
        matches!(self, Self::Corrupt { what, .. } if what.may_be_stale())
    }
}
