//! Objects at hand: what a worker keeps between requests, and what one request has loaded.
//!
//! The cache keeps small objects (files, tree nodes, block heads) in two generations: when the young one
//! is full it becomes the old one, and what is used again moves back. That bounds the memory and keeps what is
//! in use, without a list to maintain on each hit. Block data is not kept: the page cache has it. Nodes of block tables
//! have a shelf of their own, so that the heads of many blocks cannot push them out.
//!
//! What one request loaded stays with that request until it is answered, so that starting its walk over
//! always finds more than the time before.
//!
//! `X` is where raw bytes of a block lie in the database file; it means nothing here.

use crate::base::{Oid, Rev, Tid};
use crate::zodb::Family;
use crate::zodb::need::{Absent, Lookup, Objects};
use crate::zodb::object::{Object, ObjectError};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::sync::Arc;

/// What is known of an oid in a view.
#[derive(Clone, Debug)]
pub enum Kept<X> {
    /// The object, and the transaction that made this revision of it.
    Object(Arc<Object>, Tid),
    /// A record that is no sound object.
    Broken(ObjectError),
    /// No object.
    Absent(Absent),
    /// A plain block whose bytes lie at this place of the database file.
    Raw(X),
    /// An object whose bytes cannot be taken from the file as they lie there: to be loaded.
    Opaque,
}

impl<X> Kept<X> {
    fn is_of_table(&self) -> bool {
        let Self::Object(object, _) = self else {
            return false;
        };
        match &**object {
            Object::BigFile(_) => true,
            Object::Tree(tree) => tree.family == Family::Lo,
            Object::Bucket(bucket) => bucket.family() == Family::Lo,
            _ => false,
        }
    }

    fn cost(&self) -> usize {
        // The tables' own share is about 64 bytes an entry.
        64 + match self {
            Self::Object(object, _) => object.cost(),
            _ => 32,
        }
    }
}

/// Objects of one view, by oid.
pub type Own<X> = FxHashMap<Oid, Kept<X>>;

type Key = (Rev, Oid);

/// A part of the cache with a bound of its own.
#[derive(Debug)]
struct Shelf<X> {
    young: FxHashMap<Key, Kept<X>>,
    old: FxHashMap<Key, Kept<X>>,
    young_cost: usize,
    generation_cost: usize,
    /// Keys found in the old generation since the last `settle`.
    used: RefCell<Vec<Key>>,
}

impl<X: Clone> Shelf<X> {
    fn new(bytes: usize) -> Self {
        Self {
            young: FxHashMap::default(),
            old: FxHashMap::default(),
            young_cost: 0,
            generation_cost: bytes / 2,
            used: RefCell::default(),
        }
    }

    fn get(&self, key: Key) -> Option<&Kept<X>> {
        self.young.get(&key).or_else(|| {
            let kept = self.old.get(&key)?;
            self.used.borrow_mut().push(key);
            Some(kept)
        })
    }

    fn put(&mut self, key: Key, kept: Kept<X>) {
        self.young_cost += kept.cost();
        if let Some(before) = self.young.insert(key, kept) {
            self.young_cost -= before.cost();
        }
        if self.young_cost > self.generation_cost {
            self.old = std::mem::take(&mut self.young);
            self.young_cost = 0;
        }
    }

    /// Moves what was used of the old generation to the young one.
    fn settle(&mut self) {
        let mut used = std::mem::take(self.used.get_mut());
        for key in used.drain(..) {
            if let Some(kept) = self.old.remove(&key) {
                self.put(key, kept);
            }
        }
        *self.used.get_mut() = used;
    }

    fn remove(&mut self, key: Key) {
        if let Some(kept) = self.young.remove(&key) {
            self.young_cost -= kept.cost();
        }
        self.old.remove(&key);
    }
}

/// The worker's cache.
#[derive(Debug)]
pub struct Cache<X> {
    /// Big files and nodes of their block tables.
    tables: Shelf<X>,
    /// Heads of blocks, nodes of chunk tables, places of raw bytes.
    blocks: Shelf<X>,
}

impl<X: Clone> Cache<X> {
    /// Keeps at most so many bytes of block tables and of block heads.
    pub fn new(table_bytes: usize, block_bytes: usize) -> Self {
        Self {
            tables: Shelf::new(table_bytes),
            blocks: Shelf::new(block_bytes),
        }
    }

    /// What is kept of an oid.
    pub fn get(&self, rev: Rev, oid: Oid) -> Option<&Kept<X>> {
        self.tables
            .get((rev, oid))
            .or_else(|| self.blocks.get((rev, oid)))
    }

    /// Keeps an object.
    pub fn insert(&mut self, rev: Rev, oid: Oid, kept: Kept<X>) {
        let shelf = if kept.is_of_table() {
            &mut self.tables
        } else {
            &mut self.blocks
        };
        shelf.settle();
        shelf.put((rev, oid), kept);
    }

    /// Head moved on: these are no longer what they were.
    pub fn forget_head(&mut self, oids: &[Oid]) {
        for &oid in oids {
            self.tables.remove((Rev::Head, oid));
            self.blocks.remove((Rev::Head, oid));
        }
    }
}

/// What one request can look at, in one view. Notes every oid it was asked for.
#[derive(Debug)]
pub struct AtHand<'a, X> {
    /// The view.
    pub rev: Rev,
    /// What the request loaded itself.
    pub own: &'a Own<X>,
    /// What the worker keeps.
    pub cache: &'a Cache<X>,
    /// Every oid that was looked at: what the answer depends on.
    pub seen: &'a RefCell<Vec<Oid>>,
}

impl<X: Clone> AtHand<'_, X> {
    /// What is known of an oid.
    pub fn kept(&self, oid: Oid) -> Option<&Kept<X>> {
        self.own.get(&oid).or_else(|| self.cache.get(self.rev, oid))
    }
}

impl<X: Clone> Objects for AtHand<'_, X> {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        self.seen.borrow_mut().push(oid);
        match self.kept(oid) {
            Some(Kept::Object(object, _)) => Lookup::Here(object),
            Some(Kept::Broken(error)) => Lookup::Broken(error),
            Some(&Kept::Absent(absent)) => Lookup::Absent(absent),
            Some(Kept::Raw(_) | Kept::Opaque) | None => Lookup::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_shelf_keeps_what_is_used_and_stays_bounded() {
        let mut cache = Cache::<()>::new(0, 96 * 100);
        let (rev, hot) = (Rev::Head, Oid(1_000_000));
        cache.insert(rev, hot, Kept::Opaque);
        for n in 0..10_000 {
            cache.insert(rev, Oid(n), Kept::Opaque);
            assert!(
                cache.get(rev, hot).is_some(),
                "used all the time, lost at {n}"
            );
            assert!(cache.blocks.young.len() + cache.blocks.old.len() <= 103);
        }
        assert!(cache.get(rev, Oid(0)).is_none());
        cache.forget_head(&[hot]);
        assert!(cache.get(rev, hot).is_none());
    }
}
