//! Objects that the history has at hand, of head and of the transaction that comes next.
//!
//! The history looks at a transaction twice, and each look may ask for more until it has all it needs. What it was brought it
//! finds again, whatever the cache lets go (`own`): of older states until the next question begins, of the state to come until
//! that is head. What the transaction does not change is as of it what it is in head.
//!
//! The cache knows of no state beyond head: what is of the state to come is put in when that is head.

use super::cache::{Cache, Kept};
use crate::base::{Oid, Rev, Tid};
use crate::zodb::need::Lookup;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::OnceCell;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Known {
    /// As of `head`.
    cache: Cache<()>,
    bytes: usize,
    head: Tid,
    /// The transaction that is looked at.
    next: Option<Next>,
    own: FxHashMap<(Tid, Oid), Kept<()>>,
}

/// A transaction, and what it changes.
#[derive(Debug)]
struct Next {
    tid: Tid,
    oids: Arc<[Oid]>,
    /// The same, made when something is asked of it: of most, nothing is.
    all: OnceCell<FxHashSet<Oid>>,
}

impl Next {
    fn changes(&self, oid: Oid) -> bool {
        let all = || self.oids.iter().copied().collect();
        self.all.get_or_init(all).contains(&oid)
    }
}

impl Known {
    /// Nothing yet; head is `head`, and so many bytes are kept.
    pub fn new(head: Tid, bytes: usize) -> Self {
        Self {
            cache: Cache::new(head, bytes, 0),
            bytes,
            head,
            next: None,
            own: FxHashMap::default(),
        }
    }

    /// The state to ask for an object as of `at`.
    pub fn state(&self, at: Tid, oid: Oid) -> Tid {
        match &self.next {
            Some(next) if at == next.tid && !next.changes(oid) => self.head,
            _ => at,
        }
    }

    fn rev(&self, at: Tid) -> Rev {
        if at == self.head {
            Rev::Head
        } else {
            Rev::At(at)
        }
    }

    /// What is known of an object as of `at`.
    pub fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
        let at = self.state(at, oid);
        let own = self.own.get(&(at, oid));
        match own.or_else(|| self.cache.get(self.rev(at), oid)) {
            Some(Kept::Object(object, _)) => Lookup::Here(object),
            Some(Kept::Broken(error)) => Lookup::Broken(error),
            Some(&Kept::Absent(absent)) => Lookup::Absent(absent),
            Some(Kept::Raw(..) | Kept::Opaque) | None => Lookup::Missing,
        }
    }

    /// What an object was found to be as of `at`.
    pub fn put(&mut self, at: Tid, oid: Oid, kept: Kept<()>) {
        let at = self.state(at, oid);
        if matches!(kept, Kept::Object(..)) && at <= self.head {
            self.cache.insert(self.rev(at), oid, kept.clone());
        }
        self.own.insert((at, oid), kept);
    }

    /// A question begins.
    pub fn begin(&mut self) {
        let head = self.head;
        self.own.retain(|(at, _), _| *at > head);
    }

    /// A transaction is looked at: what it does not change is what it was.
    pub fn looks_at(&mut self, tid: Tid, oids: &Arc<[Oid]>) {
        if self.next.as_ref().is_none_or(|next| next.tid != tid) {
            let (oids, all) = (Arc::clone(oids), OnceCell::new());
            self.next = Some(Next { tid, oids, all });
        }
    }

    /// It is head now.
    pub fn passed(&mut self, tid: Tid, oids: &[Oid]) {
        if tid == self.head {
            return;
        }
        self.cache.advance(tid, oids);
        (self.head, self.next) = (tid, None);
        for ((at, oid), kept) in self.own.drain() {
            if at == tid && matches!(kept, Kept::Object(..)) {
                self.cache.insert(Rev::Head, oid, kept);
            }
        }
    }

    /// Another history begins, at `head`: an object as of a state may be another one.
    pub fn clear(&mut self, head: Tid) {
        *self = Self::new(head, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlkSize;
    use crate::zodb::object::{BigFile, Object};

    const OID: Oid = Oid(7);

    fn put(known: &mut Known, at: u64, serial: u64) {
        let file = BigFile {
            blksize: BlkSize(4096),
            blktab: Oid(serial),
        };
        let kept = Kept::Object(Arc::new(Object::BigFile(file)), Tid(serial));
        known.put(Tid(at), OID, kept);
    }

    /// The serial of what is found.
    fn found(known: &Known, at: u64) -> Option<u64> {
        match known.get(Tid(at), OID) {
            Lookup::Here(Object::BigFile(file)) => Some(file.blktab.0),
            _ => None,
        }
    }

    /// It was put into the cache, which took the revision before it for that of head once the newer one was let go.
    #[test]
    fn what_is_of_the_state_to_come_is_not_mixed_with_what_is_of_head() {
        let mut known = Known::new(Tid(10), 600);
        put(&mut known, 10, 5);
        known.looks_at(Tid(20), &[OID].into());
        put(&mut known, 20, 20);
        assert_eq!((found(&known, 10), found(&known, 20)), (Some(5), Some(20)));
        known.begin(); // what is of the state to come is asked for again when it passes
        assert_eq!((found(&known, 10), found(&known, 20)), (Some(5), Some(20)));
        known.passed(Tid(20), &[OID]);
        for tid in 21..60 {
            known.looks_at(Tid(tid), &[Oid(tid)].into());
            known.passed(Tid(tid), &[Oid(tid)]);
            assert_ne!(found(&known, tid), Some(5));
            assert_ne!(found(&known, 19), Some(20));
        }
    }

    #[test]
    fn what_a_transaction_leaves_alone_is_what_it_was() {
        let mut known = Known::new(Tid(10), 9999);
        known.looks_at(Tid(20), &[Oid(1)].into());
        assert_eq!(known.state(Tid(20), OID), Tid(10));
        put(&mut known, 20, 5);
        assert_eq!((found(&known, 10), found(&known, 20)), (Some(5), Some(5)));
        known.passed(Tid(20), &[Oid(1)]);
        assert_eq!((found(&known, 20), found(&known, 21)), (Some(5), None));
        known.clear(Tid(20));
        assert_eq!(found(&known, 20), None);
    }
}
