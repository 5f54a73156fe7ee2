//! Which objects each transaction of (tail, head] changed.
//!
//! All of them, tracked or not: what is tracked later asks for them. An object knows its transactions, so that the
//! last change of one is found by binary search; nearly all changed once, and those take no list.

use crate::base::{Oid, Tid};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Changed objects by transaction, and transactions by object.
#[derive(Clone, Debug)]
pub struct ZTail {
    tail: Tid,
    head: Tid,
    commits: VecDeque<(Tid, Arc<[Oid]>)>,
    revs: FxHashMap<Oid, Revs>,
}

/// Transactions that changed an object, oldest first.
#[derive(Clone, Debug)]
enum Revs {
    One(Tid),
    #[allow(clippy::box_collection, reason = "16 bytes for each object, not 32")]
    Many(Box<VecDeque<Tid>>),
}

impl Revs {
    /// Those in `(lo, hi]`.
    fn within(&self, lo: Tid, hi: Tid) -> impl DoubleEndedIterator<Item = Tid> + '_ {
        let (one, many) = match self {
            Self::One(tid) => (Some(*tid).filter(|&tid| lo < tid && tid <= hi), None),
            Self::Many(tids) => {
                let [from, to] = [lo, hi].map(|end| tids.partition_point(|&tid| tid <= end));
                (None, Some(tids.range(from.min(to)..to).copied()))
            }
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn newest(&self) -> Option<Tid> {
        match self {
            Self::One(tid) => Some(*tid),
            Self::Many(tids) => tids.back().copied(),
        }
    }

    fn append(&mut self, tid: Tid) {
        match self {
            Self::One(first) if *first < tid => {
                *self = Self::Many(Box::new(VecDeque::from([*first, tid])));
            }
            Self::Many(tids) if tids.back() < Some(&tid) => tids.push_back(tid),
            // The transaction names the object twice.
            _ => {}
        }
    }

    /// Takes out the oldest, if it is this one; false when nothing is left.
    fn forget(&mut self, tid: Tid) -> bool {
        match self {
            Self::One(first) => *first != tid,
            Self::Many(tids) => {
                if tids.front() == Some(&tid) {
                    tids.pop_front();
                }
                if let (1, Some(&last)) = (tids.len(), tids.front()) {
                    *self = Self::One(last);
                }
                true
            }
        }
    }
}

impl ZTail {
    /// Nothing is known but the state it starts with.
    pub fn new(at: Tid) -> Self {
        Self {
            tail: at,
            head: at,
            commits: VecDeque::new(),
            revs: FxHashMap::default(),
        }
    }

    /// What happened until then is not known.
    pub fn tail(&self) -> Tid {
        self.tail
    }

    /// The last transaction.
    pub fn head(&self) -> Tid {
        self.head
    }

    /// Takes the next transaction.
    pub fn append(&mut self, tid: Tid, oids: Arc<[Oid]>) {
        assert!(tid > self.head, "BUG: {tid} follows {}", self.head);
        // All of them first, to where the transaction will be noted: each is a few misses of the processor's caches, and these overlap.
        let known = oids.iter().filter_map(|oid| self.revs.get(oid));
        let known = known.filter(|revs| revs.newest() < Some(tid));
        let fresh = oids.len() - known.count();
        self.revs.reserve(fresh);
        for &oid in oids.iter() {
            match self.revs.entry(oid) {
                Entry::Occupied(mut revs) => revs.get_mut().append(tid),
                Entry::Vacant(place) => drop(place.insert(Revs::One(tid))),
            }
        }
        self.commits.push_back((tid, oids));
        self.head = tid;
    }

    /// Forgets what happened until `cut`.
    pub fn forget(&mut self, cut: Tid) {
        self.tail = self.tail.max(cut.min(self.head));
        while let Some((tid, oids)) = self.commits.front() {
            if *tid > self.tail {
                break;
            }
            for &oid in oids.iter() {
                if let Entry::Occupied(mut revs) = self.revs.entry(oid)
                    && !revs.get_mut().forget(*tid)
                {
                    revs.remove();
                }
            }
            self.commits.pop_front();
        }
        if self.revs.len() < self.revs.capacity() / 8 {
            self.revs.shrink_to(self.revs.len() * 2);
        }
    }

    /// The last transaction in `(tail, at]` that changed an object.
    pub fn last_change(&self, oid: Oid, at: Tid) -> Option<Tid> {
        let last = match self.revs.get(&oid)? {
            Revs::One(tid) => Some(*tid).filter(|&tid| tid <= at),
            Revs::Many(tids) => {
                let after = tids.partition_point(|&tid| tid <= at);
                tids.get(after.checked_sub(1)?).copied()
            }
        };
        last.filter(|&tid| tid > self.tail)
    }

    /// The transactions in `(lo, hi]` that changed an object, oldest first.
    pub fn changes(&self, oid: Oid, lo: Tid, hi: Tid) -> impl DoubleEndedIterator<Item = Tid> + '_ {
        let revs = self.revs.get(&oid).into_iter();
        revs.flat_map(move |revs| revs.within(lo, hi))
    }

    /// The transactions in `(lo, hi]` with what they changed, oldest first.
    pub fn slice(&self, lo: Tid, hi: Tid) -> impl DoubleEndedIterator<Item = (Tid, &[Oid])> + '_ {
        let [from, to] = [lo, hi].map(|end| self.commits.partition_point(|(tid, _)| *tid <= end));
        let commits = self.commits.range(from.min(to)..to);
        commits.map(|(tid, oids)| (*tid, &oids[..]))
    }

    /// The state before a transaction: the transaction before it, or the tail.
    pub fn before(&self, tid: Tid) -> Tid {
        let i = self.commits.partition_point(|(other, _)| *other < tid);
        let before = i.checked_sub(1).map(|i| self.commits[i].0);
        before.unwrap_or(self.tail)
    }

    /// Transactions, and objects they changed: how much is kept.
    pub fn counts(&self) -> (usize, usize) {
        (self.commits.len(), self.revs.len())
    }
}
