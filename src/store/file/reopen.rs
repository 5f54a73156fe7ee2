//! Another file under the path: does it continue the one that was followed?
//!
//! A pack copies what is still reachable to a new file and puts it in the place of the old one. It adds no
//! transaction; it drops some, in whole or in part, even the newest if nothing in them is reachable. A restored
//! backup looks much alike, but must not pass: clients hold views of what it lacks. So the new file is judged by
//! the transactions remembered of the old one:
//!
//! 1. Each transaction of the new file in the remembered span is one of those remembered, and touches no object
//!    that the remembered one did not; without a pack it touches all of them. Else it is another history.
//! 2. If the new file ends before the old one did, only a pack can explain it, and only if it left no trace of the
//!    missing transactions: an object that one of them touched and that is still there would now show older data.
//! 3. What comes after the last transaction of the old file is given out as commits. If it does not reach back that
//!    far in a bounded number of transactions, continuity is given up.
//!
//! `Reopen::build` does the I/O, on any thread. The decision is pure.

use super::index::Index;
use super::open::{self, OpenError, Opened, Progress};
use super::recent::{Past, Recent, walk_back};
use crate::base::limit::{RECENT_OIDS_MAX, RECENT_TXNS_MAX, REOPEN_COMMITS_MAX};
use crate::base::{Oid, Tid};
use std::path::{Path, PathBuf};

/// A file to be opened in place of the one that is followed.
#[derive(Debug)]
pub struct Reopen {
    path: PathBuf,
    /// Last transaction of the old file.
    last: Tid,
    /// Oldest one remembered.
    first: Tid,
}

/// A file opened in place of the one that is followed: to be adopted.
#[derive(Debug)]
pub struct Rebuilt {
    pub(super) opened: Opened,
    /// Its last transactions, newest first.
    pub(super) recent: Vec<Past>,
}

impl Reopen {
    pub(super) fn new(path: &Path, last: Tid, recent: &Recent) -> Self {
        Self {
            path: path.to_owned(),
            last,
            first: recent.first().unwrap_or(last),
        }
    }

    /// Opens the file and builds its index; blocks.
    pub fn build(self, progress: &mut Progress<'_>) -> Result<Rebuilt, OpenError> {
        let opened = open::open(&self.path, progress)?;
        let (first, last) = (self.first, self.last);
        let recent = walk_back(&*opened.file, opened.ends.end, |txns, oids, tid| {
            let news = tid > last && txns < REOPEN_COMMITS_MAX;
            let known = txns < REOPEN_COMMITS_MAX + RECENT_TXNS_MAX && oids < RECENT_OIDS_MAX;
            news || tid >= first && known
        });
        let recent = recent.map_err(|source| OpenError::Io {
            path: self.path,
            source,
        })?;
        Ok(Rebuilt { opened, recent })
    }
}

/// What a new file is to the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It continues the old one with these transactions, oldest first.
    Continues(Vec<Past>),
    /// It reaches as far, with another history.
    Differs,
    /// It ends before the old one did.
    WentBack,
}

impl Rebuilt {
    pub(super) fn judge(&self, last: Tid, known: &Recent, packed: bool) -> Verdict {
        let new = &self.opened;
        judge(&self.recent, new.ends.last, &new.index, last, known, packed)
    }
}

/// Judges a new file with transactions `recent` (newest first), ending with `now`, against an old one that
/// ended with `last`.
fn judge(
    recent: &[Past],
    now: Tid,
    index: &Index,
    last: Tid,
    known: &Recent,
    packed: bool,
) -> Verdict {
    let back = now < last;
    let differs = if back {
        Verdict::WentBack
    } else {
        Verdict::Differs
    };
    let span = known.first().unwrap_or(last);
    let shared = |past: &&Past| past.tid <= last && past.tid >= span;
    if !recent
        .iter()
        .filter(shared)
        .all(|past| is_known(past, known, packed))
    {
        return differs;
    }
    if back {
        let reaches = known.first().is_some_and(|first| first <= now);
        let traceless = |past: &Past| past.oids.iter().all(|&oid| index.get(oid).is_none());
        return match packed && reaches && known.above(now).all(traceless) {
            true => Verdict::Continues(Vec::new()),
            false => Verdict::WentBack,
        };
    }
    let news: Vec<_> = recent
        .iter()
        .take_while(|past| past.tid > last)
        .cloned()
        .collect();
    if news.len() >= REOPEN_COMMITS_MAX {
        return Verdict::Differs;
    }
    Verdict::Continues(
        news.into_iter()
            .rev()
            .filter(|p| !p.oids.is_empty())
            .collect(),
    )
}

/// Whether a transaction is a remembered one, or what a pack left of it.
fn is_known(past: &Past, known: &Recent, packed: bool) -> bool {
    let Some(was) = known.get(past.tid) else {
        return false;
    };
    let mut left: Vec<Oid> = was.oids.to_vec();
    left.sort_unstable();
    let subset = past.oids.iter().all(|oid| left.binary_search(oid).is_ok());
    subset && (packed || past.oids.len() == was.oids.len())
}
