//! Which state of the database a view shows.
//!
//! `Rev` replaces sentinels: head is a variant of its own, neither 0 nor the greatest tid.

use super::Tid;
use std::fmt;

/// The state a directory of the mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rev {
    /// The newest state the daemon has switched to.
    Head,
    /// The state as of a transaction, inclusive; it never changes.
    At(Tid),
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("head"),
            Self::At(tid) => write!(f, "@{tid}"),
        }
    }
}
