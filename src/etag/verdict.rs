//! What becomes of a path: its state, and why.

use super::racy::Grain;
use super::trust::Trust;
use crate::base::{Stamp, Witness};
use crate::wire::catalog::{Record, flag};

/// State of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The record holds.
    Fresh,
    /// The record may hold, but its times prove nothing; or the file keeps changing.
    Racy,
    /// The record does not hold.
    Stale,
    /// There is no record.
    New,
    /// There is a digest from elsewhere that nobody has compared with the bytes.
    Imported,
    /// There is a record and no file.
    Gone,
    /// The system would not say.
    Unreadable,
    /// Not a regular file, on another file system, or excluded.
    Skipped,
    /// Nothing shows a change, and the bytes are not those that were hashed.
    Corrupt,
}

impl State {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Fresh,
        Self::Racy,
        Self::Stale,
        Self::New,
        Self::Imported,
        Self::Gone,
        Self::Unreadable,
        Self::Skipped,
        Self::Corrupt,
    ];

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Racy => "racy",
            Self::Stale => "stale",
            Self::New => "new",
            Self::Imported => "imported",
            Self::Gone => "gone",
            Self::Unreadable => "unreadable",
            Self::Skipped => "skipped",
            Self::Corrupt => "corrupt",
        }
    }
}

/// Why a path is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has other bytes in number.
    Size,
    /// It is another inode.
    Inode,
    /// The number of the inode is used again.
    Btime,
    /// Its mtime moved.
    Mtime,
    /// Its ctime moved, and nothing else.
    Ctime,
    /// Its times lie too near to when it was hashed.
    Grain,
    /// Its times lie in the future.
    Future,
    /// It changed while it was read, each time.
    Changing,
    /// Its digest came from an attribute or another catalog.
    Attribute,
    /// Its name is new and the file is not.
    Renamed,
    /// Its digest is of another kind than wanted.
    Algo,
    /// Its bytes are not those of its record.
    Bytes,
    /// It is on another mount.
    Mount,
    /// It is not to be looked at.
    Excluded,
    /// It is neither a file nor a directory.
    Kind,
    /// It is one of its own ancestors.
    Loop,
    /// It lies too deep.
    Depth,
    /// It belongs to a mount of this very program.
    Ours,
    /// The list says otherwise.
    Listed,
}

impl Reason {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Inode => "inode",
            Self::Btime => "btime",
            Self::Mtime => "mtime",
            Self::Ctime => "ctime",
            Self::Grain => "grain",
            Self::Future => "future",
            Self::Changing => "changing",
            Self::Attribute => "attribute",
            Self::Renamed => "renamed",
            Self::Algo => "algo",
            Self::Bytes => "bytes",
            Self::Mount => "mount",
            Self::Excluded => "excluded",
            Self::Kind => "kind",
            Self::Loop => "loop",
            Self::Depth => "depth",
            Self::Ours => "zring-mount",
            Self::Listed => "listed",
        }
    }
}

/// A state and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is.
    pub state: State,
    /// Why; nothing of a fresh, new or gone one.
    pub reason: Option<Reason>,
}

impl Verdict {
    /// Nothing to be said about it.
    pub const FRESH: Self = Self {
        state: State::Fresh,
        reason: None,
    };

    /// A state with its reason.
    pub fn new(state: State, reason: impl Into<Option<Reason>>) -> Self {
        Self {
            state,
            reason: reason.into(),
        }
    }

    /// Of a file that has a record: as seen at `now`, or a little later.
    #[inline]
    pub fn of(trust: Trust, record: &Record, found: &Witness, sealed: bool, now: Stamp) -> Self {
        if let Some(reason) = trust.differs(&record.witness, found, sealed) {
            return Self::new(State::Stale, reason);
        }
        if record.flags & flag::IMPORTED != 0 && trust != Trust::Drp {
            return Self::new(State::Imported, Reason::Attribute);
        }
        if record.flags & flag::CORRUPT != 0 {
            return Self::new(State::Corrupt, Reason::Bytes);
        }
        if sealed || trust == Trust::Drp {
            return Self::FRESH;
        }
        if record.flags & flag::RACY != 0 {
            return Self::new(State::Racy, Reason::Grain);
        }
        if Grain::is_ahead(found, now) {
            return Self::new(State::Racy, Reason::Future);
        }
        Self::FRESH
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn what_matches_is_fresh_unless_something_speaks_against_it() {
        let now = Stamp { s: 100, ns: 0 };
        let mut record = Record {
            witness: Witness::default(),
            digest: Digest([0; 32]),
            hashed_at: 0,
            flags: 0,
        };
        let found = record.witness;
        let of = |record: &Record, found: &Witness, trust, sealed| {
            Verdict::of(trust, record, found, sealed, now).state
        };
        assert_eq!(of(&record, &found, Trust::Strict, false), State::Fresh);
        record.flags = flag::RACY;
        assert_eq!(of(&record, &found, Trust::Mtime, false), State::Racy);
        assert_eq!(of(&record, &found, Trust::Strict, true), State::Fresh);
        record.flags = flag::IMPORTED;
        assert_eq!(of(&record, &found, Trust::Strict, false), State::Imported);
        assert_eq!(of(&record, &found, Trust::Drp, false), State::Fresh);
        record.flags = flag::CORRUPT;
        for trust in [Trust::Strict, Trust::Mtime, Trust::Drp] {
            assert_eq!(of(&record, &found, trust, true), State::Corrupt);
        }
        record.flags = 0;
        record.witness.ctime.s = 101;
        let ahead = record.witness;
        assert_eq!(of(&record, &ahead, Trust::Strict, false), State::Racy);
        assert_eq!(of(&record, &found, Trust::Strict, false), State::Stale);
        assert_eq!(of(&record, &found, Trust::Mtime, false), State::Fresh);
    }

    #[test]
    fn states_stand_in_the_order_of_their_numbers() {
        for (i, state) in State::ALL.iter().enumerate() {
            assert_eq!(*state as usize, i);
        }
    }
}
