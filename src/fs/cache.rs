//! Objects at hand: what a worker keeps between requests, and what one request has loaded.
//!
//! The cache keeps revisions of small objects (files, tree nodes, block heads): what head and the `@tid` views have
//! in common is there once, and found by each of them for every state it is known to be right for
//! ([`super::revision`]). What head leaves behind stays for the views.
//!
//! Revisions are in two generations: when the young one is full it becomes the old one, and what is used again moves
//! back. That bounds the memory and keeps what is in use, without a list to maintain on each hit. They age one by one:
//! a node that is read all the time does not hold on to what it was before. Block data is not kept: the page cache has
//! it. Nodes of block tables have a shelf of their own, so that the heads of many blocks cannot push them out.
//!
//! What one request loaded stays with that request until it is answered, so that starting its walk over
//! always finds more than the time before.
//!
//! `X` is where raw bytes of a block lie in the database file; it means nothing here.

use super::revision::{Generation, Revision};
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
    /// A plain block whose bytes lie at this place of the database file, and the transaction that made this revision.
    Raw(X, Tid),
    /// An object whose bytes cannot be taken from the file as they lie there: to be loaded.
    Opaque,
}

impl<X> Kept<X> {
    /// The transaction that made it, of what is good for other views too.
    fn serial(&self) -> Option<Tid> {
        match self {
            Self::Object(_, serial) | Self::Raw(_, serial) => Some(*serial),
            Self::Broken(_) | Self::Absent(_) | Self::Opaque => None,
        }
    }

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
        Generation::<Self>::PLACE_BYTES
            + match self {
                Self::Object(object, _) => object.cost(),
                _ => 0,
            }
    }
}

/// Objects of one view, by oid.
pub type Own<X> = FxHashMap<Oid, Kept<X>>;

/// A part of the cache with a bound of its own. A revision is in one generation only.
#[derive(Debug)]
struct Shelf<X> {
    young: Generation<Kept<X>>,
    old: Generation<Kept<X>>,
    young_cost: usize,
    generation_cost: usize,
    /// Revisions found in the old generation since the last `settle`, each once.
    used: RefCell<Vec<(Oid, Tid)>>,
}

impl<X> Shelf<X> {
    fn new(bytes: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            young_cost: 0,
            generation_cost: bytes / 2,
            used: RefCell::default(),
        }
    }

    fn get(&self, rev: Rev, oid: Oid) -> Option<&Kept<X>> {
        if let Some(found) = self.young.get(rev, oid) {
            return Some(&found.kept);
        }
        let found = self.old.get(rev, oid)?;
        if !found.used.replace(true) {
            self.used.borrow_mut().push((oid, found.serial));
        }
        Some(&found.kept)
    }

    /// Keeps a revision; one that is known already is right for more states now.
    fn insert(&mut self, oid: Oid, mut revision: Revision<Kept<X>>) {
        self.settle();
        if let Some(known) = self.old.take(oid, revision.serial) {
            revision.extend(&known);
        }
        if let Some(known) = self.young.take(oid, revision.serial) {
            revision.extend(&known);
            self.young_cost -= known.kept.cost();
        }
        self.put(oid, revision);
    }

    fn put(&mut self, oid: Oid, revision: Revision<Kept<X>>) {
        self.young_cost += revision.kept.cost();
        self.young.put(oid, revision);
        if self.young_cost > self.generation_cost {
            self.old = std::mem::take(&mut self.young);
            self.young_cost = 0;
        }
    }

    /// Moves what was used of the old generation to the young one.
    fn settle(&mut self) {
        let mut used = std::mem::take(self.used.get_mut());
        for (oid, serial) in used.drain(..) {
            if let Some(revision) = self.old.take(oid, serial) {
                revision.used.set(false);
                self.put(oid, revision);
            }
        }
        *self.used.get_mut() = used;
    }

    /// Lets go of places of raw bytes.
    fn forget_places(&mut self) {
        let is_place = |kept: &Kept<X>| matches!(kept, Kept::Raw(..));
        self.old.forget(is_place);
        let gone = self.young.forget(is_place);
        self.young_cost -= gone * Generation::<Kept<X>>::PLACE_BYTES;
    }

    fn close(&mut self, oid: Oid, last: Tid) {
        self.young.close(oid, last);
        self.old.close(oid, last);
    }
}

/// The worker's cache.
#[derive(Debug)]
pub struct Cache<X> {
    /// Head, as its worker answers it: what is open reaches up to here.
    head: Tid,
    /// Big files and nodes of their block tables.
    tables: Shelf<X>,
    /// Heads of blocks, nodes of chunk tables, places of raw bytes.
    blocks: Shelf<X>,
}

impl<X> Cache<X> {
    /// Keeps at most so many bytes of block tables and of block heads; nothing yet, and head is `head`.
    pub fn new(head: Tid, table_bytes: usize, block_bytes: usize) -> Self {
        Self {
            head,
            tables: Shelf::new(table_bytes),
            blocks: Shelf::new(block_bytes),
        }
    }

    /// What is kept of an oid.
    pub fn get(&self, rev: Rev, oid: Oid) -> Option<&Kept<X>> {
        if matches!(rev, Rev::At(tid) if tid > self.head) {
            return None;
        }
        self.tables
            .get(rev, oid)
            .or_else(|| self.blocks.get(rev, oid))
    }

    /// Keeps what was found at a state; what no transaction made (nothing, or nothing sound) is not kept.
    pub fn insert(&mut self, rev: Rev, oid: Oid, kept: Kept<X>) {
        let Some(serial) = kept.serial() else {
            return;
        };
        let at = match rev {
            Rev::Head => self.head,
            Rev::At(tid) => tid,
        };
        debug_assert!(
            serial <= at && at <= self.head,
            "BUG: {oid} of {serial}, found at {at}, head is {}",
            self.head
        );
        let shelf = if kept.is_of_table() {
            &mut self.tables
        } else {
            &mut self.blocks
        };
        shelf.insert(oid, Revision::new(serial, rev, kept));
    }

    /// The database is read from another file: records lie elsewhere.
    pub fn forget_places(&mut self) {
        self.blocks.forget_places();
    }

    /// Head moves on to `head`. These are no longer what they were: so far they were that.
    pub fn advance(&mut self, head: Tid, oids: &[Oid]) {
        for &oid in oids {
            self.tables.close(oid, self.head);
            self.blocks.close(oid, self.head);
        }
        debug_assert!(head >= self.head, "BUG: from {} to {head}", self.head);
        self.head = head;
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

impl<X> AtHand<'_, X> {
    /// What is known of an oid.
    pub fn kept(&self, oid: Oid) -> Option<&Kept<X>> {
        self.own.get(&oid).or_else(|| self.cache.get(self.rev, oid))
    }
}

impl<X> Objects for AtHand<'_, X> {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        self.seen.borrow_mut().push(oid);
        match self.kept(oid) {
            Some(Kept::Object(object, _)) => Lookup::Here(object),
            Some(Kept::Broken(error)) => Lookup::Broken(error),
            Some(&Kept::Absent(absent)) => Lookup::Absent(absent),
            Some(Kept::Raw(..) | Kept::Opaque) | None => Lookup::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::base::BlkSize;
    use crate::zodb::object::BigFile;
    use crate::zodb::sample::Rng;
    use std::collections::{BTreeMap, BTreeSet};

    /// What a revision of an object is known by.
    type Name = (Oid, Tid);
    type Named = Kept<Name>;

    fn raw(oid: Oid, serial: u64) -> Named {
        Kept::Raw((oid, Tid(serial)), Tid(serial))
    }

    fn at(tid: u64) -> Rev {
        Rev::At(Tid(tid))
    }

    /// Serial of what is found.
    fn serial(cache: &Cache<Name>, rev: Rev, oid: Oid) -> Option<u64> {
        let serial = cache.get(rev, oid)?.serial();
        Some(serial.expect("only such are kept").0)
    }

    fn revisions(cache: &Cache<Name>) -> usize {
        let shelves = [&cache.tables, &cache.blocks];
        shelves.iter().map(|s| s.young.len() + s.old.len()).sum()
    }

    #[test]
    fn what_head_has_is_there_for_every_state_since() {
        let (mut cache, oid) = (Cache::new(Tid(20), 9999, 9999), Oid(1));
        cache.insert(Rev::Head, oid, raw(oid, 10));
        assert_eq!(serial(&cache, Rev::Head, oid), Some(10));
        for (tid, found) in [(9, None), (10, Some(10)), (20, Some(10)), (21, None)] {
            assert_eq!(serial(&cache, at(tid), oid), found, "@{tid}");
        }
        // Another object changes: this one is what it was.
        cache.advance(Tid(30), &[Oid(2)]);
        assert_eq!(serial(&cache, Rev::Head, oid), Some(10));
        assert_eq!(serial(&cache, at(30), oid), Some(10));
        // Now this one. Nobody said of 35 what it is then.
        cache.advance(Tid(40), &[oid]);
        assert_eq!(serial(&cache, Rev::Head, oid), None);
        for (tid, found) in [(30, Some(10)), (31, None), (40, None)] {
            assert_eq!(serial(&cache, at(tid), oid), found, "@{tid}");
        }
        cache.insert(at(35), oid, raw(oid, 10));
        cache.insert(Rev::Head, oid, raw(oid, 40));
        assert_eq!(serial(&cache, at(35), oid), Some(10));
        assert_eq!(serial(&cache, at(40), oid), Some(40));
        assert_eq!(revisions(&cache), 2);
    }

    #[test]
    fn places_go_when_the_file_is_another_one_and_all_else_stays() {
        let (mut cache, oid) = (Cache::<Name>::new(Tid(20), 9999, 9999), Oid(1));
        let object = Arc::new(Object::Blk0(Default::default()));
        cache.insert(at(12), oid, raw(oid, 10));
        cache.insert(Rev::Head, oid, raw(oid, 15));
        cache.insert(at(12), Oid(2), raw(Oid(2), 10));
        cache.insert(Rev::Head, Oid(2), Kept::Object(object, Tid(15)));
        cache.forget_places();
        assert_eq!(revisions(&cache), 1);
        assert_eq!(serial(&cache, Rev::Head, Oid(2)), Some(15));
        let left = cache
            .blocks
            .young
            .get(Rev::Head, Oid(2))
            .map(|r| r.kept.cost());
        assert_eq!(Some(cache.blocks.young_cost), left);
    }

    #[test]
    fn a_view_and_head_have_one_object_between_them() {
        let (mut cache, oid) = (Cache::<Name>::new(Tid(20), 9999, 9999), Oid(1));
        let file = |blktab| {
            let blksize = BlkSize(4096);
            Arc::new(Object::BigFile(BigFile { blksize, blktab }))
        };
        let (then, now) = (file(Oid(2)), file(Oid(2)));
        cache.insert(at(12), oid, Kept::Object(Arc::clone(&then), Tid(10)));
        assert!(cache.get(Rev::Head, oid).is_none());
        assert!(cache.get(at(13), oid).is_none());
        cache.insert(Rev::Head, oid, Kept::Object(Arc::clone(&now), Tid(10)));
        for rev in [Rev::Head, at(10), at(12), at(20)] {
            assert!(
                matches!(cache.get(rev, oid), Some(Kept::Object(o, _)) if Arc::ptr_eq(o, &now))
            );
        }
        assert_eq!(Arc::strong_count(&then), 1, "the other is not kept");
        // The other way round, head keeps what it has for all that is to come.
        cache.insert(at(15), oid, Kept::Object(file(Oid(2)), Tid(10)));
        assert!(cache.get(Rev::Head, oid).is_some());
        assert_eq!(revisions(&cache), 1);
    }

    #[test]
    fn what_no_transaction_made_is_not_kept() {
        let mut cache = Cache::<Name>::new(Tid(20), 9999, 9999);
        cache.insert(Rev::Head, Oid(1), Kept::Opaque);
        cache.insert(at(10), Oid(2), Kept::Absent(Absent::Deleted));
        assert_eq!(revisions(&cache), 0);
    }

    #[test]
    fn a_full_shelf_keeps_what_is_used_and_stays_bounded() {
        let place = Generation::<Named>::PLACE_BYTES;
        let mut cache = Cache::new(Tid(1), 0, place * 100);
        let (rev, hot) = (Rev::Head, Oid(1_000_000));
        cache.insert(rev, hot, raw(hot, 1));
        for n in 0..10_000 {
            cache.insert(rev, Oid(n), raw(Oid(n), 1));
            for _ in 0..3 {
                let found = cache.get(rev, hot);
                assert!(found.is_some(), "used all the time, lost at {n}");
            }
            assert!(revisions(&cache) <= 103);
            assert!(cache.blocks.used.borrow().len() <= 1);
        }
        assert!(cache.get(rev, Oid(0)).is_none());
        cache.advance(Tid(2), &[hot]);
        assert!(cache.get(rev, hot).is_none());
    }

    #[test]
    fn a_node_that_is_used_does_not_hold_on_to_what_it_was() {
        let place = Generation::<Named>::PLACE_BYTES;
        let (mut cache, hot) = (Cache::new(Tid(1), 0, place * 100), Oid(7));
        let busy = Oid(8);
        cache.insert(at(1), hot, raw(hot, 1));
        for tid in 2..5000 {
            cache.advance(Tid(tid), &[busy, hot]);
            for oid in [busy, hot] {
                cache.insert(Rev::Head, oid, raw(oid, tid));
                assert_eq!(serial(&cache, Rev::Head, oid), Some(tid));
            }
            assert_eq!(serial(&cache, at(1), hot), Some(1), "used all the time");
            assert!(revisions(&cache) <= 103);
        }
        assert_eq!(serial(&cache, at(2), hot), None);
        assert_eq!(serial(&cache, at(4990), hot), Some(4990));
    }

    /// A database, and in the plainest form what a cache was told of it.
    #[derive(Default)]
    struct Twin {
        head: u64,
        /// Serials of each object, and whether there is one from then on.
        history: BTreeMap<Oid, BTreeMap<u64, bool>>,
        /// States at which it is known what an object is.
        known: BTreeSet<(Oid, u64)>,
        /// Objects whose revision at head is known.
        open: BTreeSet<Oid>,
    }

    impl Twin {
        fn serial(&self, oid: Oid, tid: u64) -> Option<u64> {
            let (&serial, &is_there) = self.history.get(&oid)?.range(..=tid).next_back()?;
            is_there.then_some(serial)
        }

        /// A transaction that changes, makes, deletes or brings back some objects.
        fn commit(&mut self, rng: &mut Rng, objects: usize) -> Vec<Oid> {
            let before = self.head;
            self.head += 1 + rng.word() % 3;
            let oids = (0..1 + rng.below(3)).map(|_| Oid(rng.below(objects) as u64));
            let oids: Vec<_> = oids.collect();
            for &oid in &oids {
                let history = self.history.entry(oid).or_default();
                history.insert(self.head, !rng.one_in(5));
                self.open.remove(&oid);
            }
            for &oid in &self.open {
                self.known
                    .extend((before..=self.head).map(|tid| (oid, tid)));
            }
            oids
        }

        /// What a load gives.
        fn load(&mut self, rev: Rev, oid: Oid) -> Option<Named> {
            let tid = match rev {
                Rev::Head => self.head,
                Rev::At(tid) => tid.0,
            };
            let serial = self.serial(oid, tid)?;
            self.known.extend((serial..=tid).map(|tid| (oid, tid)));
            if rev == Rev::Head {
                self.open.insert(oid);
            }
            // Of both shelves, and now and then the class of an object changes.
            Some(match (oid.0 + serial / 20) % 2 {
                0 => raw(oid, serial),
                _ => {
                    let (blksize, blktab) = (BlkSize(serial), oid);
                    let file = Object::BigFile(BigFile { blksize, blktab });
                    Kept::Object(Arc::new(file), Tid(serial))
                }
            })
        }

        fn is_known(&self, rev: Rev, oid: Oid) -> bool {
            match rev {
                Rev::Head => self.open.contains(&oid),
                Rev::At(tid) => self.known.contains(&(oid, tid.0)),
            }
        }
    }

    /// Which revision something says it is, apart from what the cache notes of it.
    fn name(kept: &Named) -> Name {
        match kept {
            Kept::Raw(name, _) => *name,
            Kept::Object(object, _) => match **object {
                Object::BigFile(BigFile { blksize, blktab }) => (blktab, Tid(blksize.0)),
                _ => unreachable!("not made here"),
            },
            _ => unreachable!("not kept"),
        }
    }

    /// Commits, and reads at head and at random states; gives how many of these were loads.
    fn run(seed: u64, bytes: usize) -> (u64, u64) {
        let rng = &mut Rng(seed);
        let objects = 2 + rng.below(10);
        let (mut twin, mut cache) = (Twin::default(), Cache::new(Tid(0), bytes, bytes));
        let all_fits = bytes > 1 << 20;
        let (mut gets, mut loads) = (0, 0);
        for _ in 0..400 {
            if rng.one_in(4) {
                let oids = twin.commit(rng, objects);
                cache.advance(Tid(twin.head), &oids);
            }
            let oid = Oid(rng.below(objects) as u64);
            let rev = match rng.one_in(3) {
                true => Rev::Head,
                // Mostly not long ago.
                false => at(twin.head - (rng.word() % (twin.head + 1)).min(rng.word() % 40)),
            };
            let tid = match rev {
                Rev::Head => twin.head,
                Rev::At(tid) => tid.0,
            };
            gets += 1;
            match cache.get(rev, oid) {
                Some(kept) => {
                    let is = twin.serial(oid, tid).map(|serial| (oid, Tid(serial)));
                    assert_eq!(Some(name(kept)), is, "{oid} {rev}, seed {seed}");
                    assert!(twin.is_known(rev, oid), "a guess: {oid} {rev}, seed {seed}");
                }
                None => {
                    let known = twin.is_known(rev, oid) && all_fits;
                    assert!(!known, "loaded for nothing: {oid} {rev}, seed {seed}");
                    loads += 1;
                    if let Some(kept) = twin.load(rev, oid) {
                        cache.insert(rev, oid, kept);
                    }
                }
            }
            let places = bytes.div_ceil(Generation::<Named>::PLACE_BYTES);
            assert!(all_fits || revisions(&cache) <= 2 * (places + 2));
        }
        (gets, loads)
    }

    #[test]
    fn what_is_found_is_what_the_database_has_and_nothing_known_is_loaded() {
        let (mut gets, mut loads) = (0, 0);
        for seed in 0..600 {
            let (g, l) = run(seed, usize::MAX);
            (gets, loads) = (gets + g, loads + l);
            // And with room for some, where much is lost and learnt again.
            let places = 4 + Rng(seed).below(20);
            run(seed, Generation::<Named>::PLACE_BYTES * places);
        }
        println!("{loads} loads for {gets} reads");
        assert!(loads * 4 < gets * 3, "hardly anything is ever known");
    }
}
