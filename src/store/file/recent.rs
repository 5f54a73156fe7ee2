//! The last transactions of a file, to tell whether another file continues it.
//!
//! Bounded by number of transactions and of oids; the oldest are forgotten first. Owned by whoever follows.

use super::scan::{Backward, Look, Records};
use super::window::ReadAt;
use crate::base::limit::{RECENT_OIDS_MAX, RECENT_TXNS_MAX};
use crate::base::{Oid, Tid};
use crate::wire::fs1::Fault;
use rustc_hash::FxHashSet;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// One transaction and what it touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its tid.
    pub tid: Tid,
    /// The objects of its records, in order, each once; none if it was undone in place.
    pub oids: Arc<[Oid]>,
}

/// The last transactions, oldest first, without a gap.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    txns: VecDeque<Past>,
    oids: usize,
}

impl Recent {
    /// Adds the newest.
    pub(super) fn push(&mut self, past: Past) {
        self.oids += past.oids.len();
        self.txns.push_back(past);
        while self.txns.len() > RECENT_TXNS_MAX
            || self.oids > RECENT_OIDS_MAX && self.txns.len() > 1
        {
            let gone = self.txns.pop_front().map_or(0, |past| past.oids.len());
            self.oids -= gone;
        }
    }

    /// Oldest tid remembered.
    pub(super) fn first(&self) -> Option<Tid> {
        self.txns.front().map(|past| past.tid)
    }

    /// A transaction, if it is remembered.
    pub(super) fn get(&self, tid: Tid) -> Option<&Past> {
        let at = self.txns.binary_search_by_key(&tid, |past| past.tid).ok()?;
        self.txns.get(at)
    }

    /// Those above a tid.
    pub(super) fn above(&self, tid: Tid) -> impl Iterator<Item = &Past> {
        self.txns
            .iter()
            .rev()
            .take_while(move |past| past.tid > tid)
    }
}

impl FromIterator<Past> for Recent {
    fn from_iter<T: IntoIterator<Item = Past>>(iter: T) -> Self {
        let mut recent = Self::default();
        iter.into_iter().for_each(|past| recent.push(past));
        recent
    }
}

/// Oids of records in order, each once.
pub(super) fn oids_of(records: &[(Oid, u64)]) -> Arc<[Oid]> {
    let mut seen = FxHashSet::default();
    let oids = records.iter().map(|&(oid, _)| oid);
    oids.filter(|&oid| seen.insert(oid)).collect()
}

/// Why the history of a view ends early.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// What stands in the file cannot be a transaction.
    #[error("the transaction at position {pos} is damaged: {what}")]
    Damaged {
        /// Position of the damage.
        pos: u64,
        /// What is wrong.
        what: Fault,
    },
    /// Reading failed.
    #[error("reading the file backwards failed")]
    Io(#[from] io::Error),
}

/// Transactions of a view, newest first; an error is the last it gives.
#[derive(Debug)]
pub struct History<'v> {
    walk: Backward<'v, File>,
    lo: Tid,
    hi: Tid,
    records: Records,
    over: bool,
}

impl<'v> History<'v> {
    pub(super) fn new(file: &'v File, end: u64, lo: Tid, hi: Tid) -> Self {
        Self {
            walk: Backward::new(file, end),
            lo,
            hi,
            records: Records::new(),
            over: false,
        }
    }

    fn step(&mut self) -> Result<Option<Past>, HistoryError> {
        loop {
            let span = match self.walk.next(&mut self.records)? {
                Look::Txn(span) | Look::Undone(span) => span,
                Look::Fault(pos, what) => return Err(HistoryError::Damaged { pos, what }),
                Look::End | Look::Stub | Look::Voted => return Ok(None),
            };
            if span.tid <= self.lo {
                return Ok(None);
            }
            if span.tid <= self.hi {
                let oids = oids_of(&self.records);
                return Ok(Some(Past {
                    tid: span.tid,
                    oids,
                }));
            }
        }
    }
}

impl Iterator for History<'_> {
    type Item = Result<Past, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.step().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Transactions of a file that ends at `end`, newest first, as long as `more` says so (given how many there are,
/// with how many oids, and the tid of the next). Ends early at anything that is no transaction.
pub(super) fn walk_back<R: ReadAt + ?Sized>(
    file: &R,
    end: u64,
    mut more: impl FnMut(usize, usize, Tid) -> bool,
) -> io::Result<Vec<Past>> {
    let (mut walk, mut records) = (Backward::new(file, end), Vec::new());
    let (mut past, mut oids) = (Vec::new(), 0);
    while let Look::Txn(span) | Look::Undone(span) = walk.next(&mut records)? {
        if !more(past.len(), oids, span.tid) {
            break;
        }
        oids += records.len();
        past.push(Past {
            tid: span.tid,
            oids: oids_of(&records),
        });
    }
    Ok(past)
}
