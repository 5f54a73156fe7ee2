//! The last transactions of a file, to tell whether another file continues it.
//!
//! Bounded by number of transactions and of oids; the oldest are forgotten first. Owned by whoever follows.

use super::scan::{Backward, Look};
use super::window::ReadAt;
use crate::base::limit::{RECENT_OIDS_MAX, RECENT_TXNS_MAX};
use crate::base::{Oid, Tid};
use rustc_hash::FxHashSet;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// One transaction and what it touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) tid: Tid,
    /// In order of records, each once; empty if the transaction was undone in place.
    pub(super) oids: Arc<[Oid]>,
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
