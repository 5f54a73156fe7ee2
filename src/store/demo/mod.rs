//! A database in two layers: *changes* over a *base*, each a database of any kind (zodb.md 8, `demo:`).
//!
//! ```text
//!   workers --Order--> driver --load--> changes, then base      one thread, which follows both and loads from both
//!      ^                 |
//!      +----- Came ------+-- Happened --> control (`RemoteStore::poll`)
//! ```
//!
//! An object as of a state is what changes have of it as of that state, a deletion included. If they have nothing, it is what the base
//! has, as of the same state. Head is the newer one of both heads.
//!
//! # When either moves
//!
//! Each transaction of either is one of the whole ([`merge`]), as long as it is newer than head. Writers write into changes, so
//! a base that moves is a rare thing. If one of its transactions turns out to be older than what head shows already, states that were
//! given out were not what they are now: then all that was derived from the history is dropped. So nothing of one layer is told while
//! the other one is not to be reached: it may have older ones.
//!
//! # What cannot be told
//!
//! Where a file of changes was packed, a revision that went is an error, never what the base has. Other databases say of one that
//! went what they say of one that never was, and the base answers. A ZEO server says the same of objects that were deleted and
//! that it never had: deletions there are the base's again, as they are in Python.

mod driver;
mod merge;

pub use driver::open;

use super::zurl::Zurl;
use crate::base::Tid;

/// The two layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demo {
    /// What is read where changes have nothing.
    pub base: Zurl,
    /// What is written to.
    pub changes: Zurl,
}

/// Why history is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// Below head.
    #[error("transaction {tid} came into the {layer} below transaction {head}, which head shows")]
    Below {
        /// That one.
        tid: Tid,
        /// Where it came.
        layer: &'static str,
        /// What head shows.
        head: Tid,
    },
    /// A layer does not know what it did.
    #[error("{0}: {1}")]
    Layer(&'static str, String),
}
