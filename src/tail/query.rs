//! Questions about the past of files: when a block last changed, and what changed in a span.
//!
//! A file has *lives*, from one epoch to the next; in each it has one table, or is not there. Within a life, the values
//! of a key over time follow from the history of the table: each change has an old and a new one. A block changes when
//! the table leads it elsewhere, and whenever the object changes that it is at the time.
//!
//! Lives are found when they are asked for, from the transactions that changed the file's object: nearly always none.
//! A state in which the file is damaged is one without it.

use super::btail::{KeyChanges, Traced, trace, value_at, walk};
use super::btreediff::TrackedTree;
use super::ftail::FTail;
use super::state::{Need, States, ask};
use super::track::{blk_of, key_of};
use super::ztail::ZTail;
use crate::base::limit::NEED_MAX;
use crate::base::span::{KeyRange, KeySet};
use crate::base::{BlkNo, Oid, Tid};
use crate::zodb::btree::TreeRef;
use crate::zodb::{BigFile, Step, ZodbError, bigfile};
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, BTreeSet};

/// When a block last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlkRev {
    /// The transaction; the tail when it did not change after that.
    pub tid: Tid,
    /// Whether it changed then; if not, it did so earlier or never.
    pub exact: bool,
    /// Whether the table leads somewhere for it as of the state that was asked for, where that is at hand.
    pub is_there: Option<bool>,
}

/// What changed in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The transaction.
    pub tid: Tid,
    /// Blocks that changed, in order.
    pub blocks: Vec<BlkNo>,
    /// The table leads some of the keys that are shown elsewhere.
    pub table: bool,
    /// The file was created, deleted, or became another one; nothing is said of its blocks then.
    pub epoch: bool,
}

/// Which keys are shown in slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Explicit blocks.
    Explicit,
    /// These, and all other tracked keys that the table leads elsewhere after the beginning of the slice; of such a key
    /// all changes. Before an epoch it is as `Explicit`.
    Tracked,
}

/// A file between two epochs.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// The epoch it begins with, or the tail.
    from: Tid,
    /// The last state of it.
    to: Tid,
    /// The epoch it ends with.
    end: Option<Tid>,
    file: Option<BigFile>,
}

impl FTail {
    /// The last change of a block at or before `at`, which is in `[tail, head]`.
    ///
    /// # Errors
    /// The table is damaged in one of the states.
    pub fn rev_at<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        file: Oid,
        blk: BlkNo,
        at: Tid,
    ) -> Result<Step<BlkRev>, ZodbError> {
        let revs = self.revs_at(states, need, file, &[blk], at)?;
        Ok(revs.map(|revs| revs[0]))
    }

    /// The same of some blocks, in their order.
    ///
    /// # Errors
    /// The table is damaged in one of the states.
    pub fn revs_at<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        file: Oid,
        blks: &[BlkNo],
        at: Tid,
    ) -> Result<Step<Vec<BlkRev>>, ZodbError> {
        assert!(self.tail() <= at && at <= self.head(), "BUG: {at}");
        self.heed(self.head());
        let Step::Done(lives) = self.lives(states, need, file) else {
            return Ok(Step::Need);
        };
        let life = lives.into_iter().rev().find(|life| life.from <= at);
        let life = life.expect("the first begins at the tail");
        let known: Vec<_> = blks.iter().map(|&b| self.tracked.block(file, b)).collect();
        // All of them first: each is a few misses of the processor's caches, and these overlap.
        let objects = known.iter().flatten().flatten();
        let changes = objects.map(|&oid| self.ztail.last_change(oid, at));
        std::hint::black_box(changes.flatten().count());
        let (mut revs, mut whole) = (Vec::with_capacity(blks.len()), true);
        for (&blk, known) in blks.iter().zip(known) {
            let (key, from) = (key_of(blk), life.from);
            let rev = match life.file {
                None => Step::Done(from),
                Some(is) if life.end.is_none() => {
                    self.rev_now(states, need, is.tree(), (key, known), (from, at))?
                }
                Some(is) => self.rev_traced(states, need, is.tree(), key, &life, at)?,
            };
            match rev {
                Step::Done(tid) => revs.push(BlkRev {
                    tid,
                    exact: tid > self.tail(),
                    // What is tracked is as of head.
                    is_there: known.filter(|_| at == self.head()).map(|oid| oid.is_some()),
                }),
                Step::Need if need.len() >= NEED_MAX => return Ok(Step::Need),
                Step::Need => whole = false,
            }
        }
        Ok(if whole { Step::Done(revs) } else { Step::Need })
    }

    /// The last change in `(floor, at]` of a key of a table that is the file's now; `floor` if there is none. What the key leads to now is known
    /// of explicit blocks.
    fn rev_now<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        tree: TreeRef,
        (key, known): (i64, Option<Option<Oid>>),
        (floor, at): (Tid, Tid),
    ) -> Result<Step<Tid>, ZodbError> {
        if let Some(rev) = self.rev_at_hand(tree.root, (key, known), (floor, at)) {
            return Ok(Step::Done(rev));
        }
        let history = self.btail.history(tree.root);
        let Some(since) = history.and_then(|h| h.since().get(key)) else {
            let (from, to, end, file) = (floor, self.head(), None, None);
            let life = Life {
                from,
                to,
                end,
                file,
            };
            return self.rev_traced(states, need, tree, key, &life, at);
        };
        let history = self.btail.history(tree.root).expect("it has keys");
        let now = match known {
            Some(value) => value,
            // Any change of it tells, too.
            None if !history.changes(key).is_empty() => None,
            None => match value_at(states, need, tree, self.head(), key)? {
                Step::Need => return Ok(Step::Need),
                Step::Done((_, value)) => value,
            },
        };
        let rev = |this: &Self| {
            let history = this.btail.history(tree.root).expect("it has keys");
            Timeline::new(history.changes(key), now).rev(&this.ztail, floor, at)
        };
        if at >= since && (rev(self) >= since || since <= floor) {
            return Ok(Step::Done(rev(self)));
        }
        if since > floor {
            // The whole leaf, as its other keys will be asked for too.
            let Step::Done((leaf, _)) = value_at(states, need, tree, since, key)? else {
                return Ok(Step::Need);
            };
            let history = self.btail.history(tree.root).expect("it has keys");
            let same = history.since().within(leaf);
            let keys = same.filter(|&(_, v)| v == since).map(|(part, _)| part);
            let keys = keys.collect();
            let Step::Done(tracked) = walk(states, need, tree, since, &keys)? else {
                return Ok(Step::Need);
            };
            let ends = (floor, since);
            if self.trace_back(states, need, tree, (&keys, tracked), ends)? == Step::Need {
                return Ok(Step::Need);
            }
        }
        Ok(Step::Done(rev(self)))
    }

    /// The same of an explicit block whose changes are all known.
    fn rev_at_hand(
        &self,
        root: Oid,
        (key, known): (i64, Option<Option<Oid>>),
        (floor, at): (Tid, Tid),
    ) -> Option<Tid> {
        let (history, now) = (self.btail.history(root)?, known?);
        let since = history.since().get(key)?;
        let line = Timeline::new(history.changes(key), now);
        let rev = || line.rev(&self.ztail, floor, at);
        (at >= since && since <= floor).then(rev)
    }

    /// The same within a life, of a key that is not tracked.
    fn rev_traced<S: States + ?Sized>(
        &self,
        states: &S,
        need: &mut Need,
        tree: TreeRef,
        key: i64,
        life: &Life,
        at: Tid,
    ) -> Result<Step<Tid>, ZodbError> {
        let keys = KeySet::from_iter([KeyRange::of(key)]);
        let now = value_at(states, need, tree, life.to, key)?;
        let traced = self.trace(states, need, tree, (life.from, life.to), &keys)?;
        let (Step::Done((_, now)), Step::Done(traced)) = (now, traced) else {
            return Ok(Step::Need);
        };
        let changes = by_key(traced).remove(&key).unwrap_or_default();
        let rev = Timeline::new(&changes, now).rev(&self.ztail, life.from, at);
        Ok(Step::Done(rev))
    }

    /// What changed in a file in `(lo, hi]`, oldest first; `tail <= lo <= hi <= head`.
    ///
    /// # Errors
    /// The table is damaged in one of the states.
    pub fn slice<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        file: Oid,
        (lo, hi): (Tid, Tid),
        which: Which,
    ) -> Result<Step<Vec<Slice>>, ZodbError> {
        let within = self.tail() <= lo && lo <= hi && hi <= self.head();
        assert!(within, "BUG: ({lo}, {hi}]");
        self.heed(self.head());
        let Step::Done(lives) = self.lives(states, need, file) else {
            return Ok(Step::Need);
        };
        let mut found = Found::default();
        let mut whole = true;
        for life in lives {
            if lo < life.from && life.from <= hi {
                found.entry(life.from).epoch = true;
            }
            let (lo, hi) = (lo.max(life.from), hi.min(life.to));
            let Some(is) = life.file.filter(|_| lo < hi) else {
                continue;
            };
            let (file, tree) = (file, is.tree());
            let step = match life.end {
                None => self.slice_now(states, need, (file, tree), (lo, hi), which, &mut found)?,
                Some(end) => {
                    let Some(explicit) = self.ended.get(&(end, file)) else {
                        continue;
                    };
                    let ends = (lo, hi, life.to);
                    self.slice_traced(states, need, tree, explicit, ends, &mut found)?
                }
            };
            whole &= step == Step::Done(());
        }
        if !whole {
            return Ok(Step::Need);
        }
        Ok(Step::Done(found.finish()))
    }

    /// Adds what changed in `(lo, hi]` of the life that goes on.
    fn slice_now<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        (file, tree): (Oid, TreeRef),
        (lo, hi): (Tid, Tid),
        which: Which,
        found: &mut Found,
    ) -> Result<Step<()>, ZodbError> {
        let root = tree.root;
        if self.trace_tree(states, need, tree, lo)? == Step::Need {
            return Ok(Step::Need);
        }
        let (Some(history), Some(explicit)) =
            (self.btail.history(root), self.tracked.explicit(file))
        else {
            return Ok(Step::Done(()));
        };
        let shown = |key| match which {
            Which::Explicit => blk_of(key).is_some_and(|blk| explicit.contains(blk.0)),
            Which::Tracked => true,
        };
        let moved: BTreeSet<i64> = history
            .changed(lo)
            .into_iter()
            .filter(|&k| shown(k))
            .collect();
        for &key in &moved {
            // It has a change after `lo`: what it leads to now is not asked for.
            let line = Timeline::new(history.changes(key), None);
            line.show(&self.ztail, key, (lo, hi), found);
        }
        // All others lead to what they lead to now, all the time.
        for (tid, oids) in self.ztail.slice(lo, hi) {
            for (of, blk) in oids.iter().flat_map(|&oid| self.tracked.uses_of(oid)) {
                if of == root && explicit.contains(blk.0) && !moved.contains(&key_of(blk)) {
                    found.block(tid, blk);
                }
            }
        }
        Ok(Step::Done(()))
    }

    /// Adds what changed in `(lo, hi]` of a life that is over; `to` is the last state of it.
    fn slice_traced<S: States + ?Sized>(
        &self,
        states: &S,
        need: &mut Need,
        tree: TreeRef,
        explicit: &RoaringTreemap,
        (lo, hi, to): (Tid, Tid, Tid),
        found: &mut Found,
    ) -> Result<Step<()>, ZodbError> {
        let keys: BTreeSet<i64> = explicit.iter().map(|blk| key_of(BlkNo(blk))).collect();
        let set = keys.iter().map(|&key| KeyRange::of(key)).collect();
        let Step::Done(traced) = self.trace(states, need, tree, (lo, to), &set)? else {
            return Ok(Step::Need);
        };
        let (traced, mut whole) = (by_key(traced), true);
        let none = KeyChanges::new();
        for key in keys {
            match value_at(states, need, tree, to, key)? {
                Step::Need => whole = false,
                Step::Done((_, now)) => Timeline::new(traced.get(&key).unwrap_or(&none), now).show(
                    &self.ztail,
                    key,
                    (lo, hi),
                    found,
                ),
            }
        }
        Ok(if whole { Step::Done(()) } else { Step::Need })
    }

    /// What happened in `(lo, from]` to keys of a table that is not tracked.
    fn trace<S: States + ?Sized>(
        &self,
        states: &S,
        need: &mut Need,
        tree: TreeRef,
        (lo, from): (Tid, Tid),
        keys: &KeySet,
    ) -> Result<Step<Traced>, ZodbError> {
        match walk(states, need, tree, from, keys)? {
            Step::Need => Ok(Step::Need),
            Step::Done(ways) => {
                let ztail = &self.ztail;
                trace(states, need, ztail, tree, (lo, from), (keys, ways))
            }
        }
    }

    /// Traces all tracked keys of a tree back to `lo`.
    fn trace_tree<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        tree: TreeRef,
        lo: Tid,
    ) -> Result<Step<()>, ZodbError> {
        let Some(history) = self.btail.history(tree.root) else {
            return Ok(Step::Done(()));
        };
        let later = history.since().ranges().filter(|&(_, since)| since > lo);
        let keys: KeySet = later.map(|(range, _)| range).collect();
        if keys.is_empty() {
            return Ok(Step::Done(()));
        }
        let known = |&oid: &Oid| self.tracked.trees_with(oid).any(|root| root == tree.root);
        let mut commits = self.ztail.slice(lo, self.head());
        if !commits.any(|(_, oids)| oids.iter().any(known)) {
            // The ways to all of them have been the same since.
            drop(commits);
            self.btail.complete(tree.root, &keys, lo);
            return Ok(Step::Done(()));
        }
        drop(commits);
        // From head, where the ways are known: walking to them as of older states would load each leaf.
        let (_, tracked) = self.tracked.tracked_tree(tree.root).expect("it has keys");
        let tracked = (&keys, tracked.clone());
        self.trace_back(states, need, tree, tracked, (lo, self.head()))
    }

    /// Traces keys, whose history is complete after `from` or some state before it, back to `lo`.
    fn trace_back<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        tree: TreeRef,
        (keys, tracked): (&KeySet, TrackedTree),
        ends: (Tid, Tid),
    ) -> Result<Step<()>, ZodbError> {
        let traced = trace(states, need, &self.ztail, tree, ends, (keys, tracked))?;
        let Step::Done(traced) = traced else {
            return Ok(Step::Need);
        };
        for (tid, changes) in traced {
            self.btail.note(tree.root, tid, &changes);
        }
        self.btail.complete(tree.root, keys, ends.0);
        Ok(Step::Done(()))
    }

    /// The lives of a file over `[tail, head]`, oldest first.
    fn lives<S: States + ?Sized>(&self, states: &S, need: &mut Need, file: Oid) -> Step<Vec<Life>> {
        let (tail, head) = (self.tail(), self.head());
        let mut lives = Vec::<Life>::new();
        let mut whole = true;
        let changes = self.ztail.changes(file, tail, head);
        for from in [tail].into_iter().chain(changes) {
            let now = self
                .ztail
                .last_change(file, head)
                .is_none_or(|tid| tid <= from);
            let known = self.tracked.file(file).filter(|_| now);
            let is = match known {
                Some(is) => Some(is),
                None => match ask(states, need, from, |ask| bigfile::open(ask, file)) {
                    Ok(Step::Done(is)) => Some(is),
                    Ok(Step::Need) => {
                        whole = false;
                        None
                    }
                    Err(_) => None,
                },
            };
            match lives.last_mut() {
                Some(life) if life.file == is => continue,
                Some(life) => (life.to, life.end) = (self.ztail.before(from), Some(from)),
                None => {}
            }
            let (to, end, file) = (head, None, is);
            lives.push(Life {
                from,
                to,
                end,
                file,
            });
        }
        if whole { Step::Done(lives) } else { Step::Need }
    }
}

/// What a key led to over time.
struct Timeline<'a> {
    changes: &'a KeyChanges,
    /// What it leads to, if that never changed.
    now: Option<Oid>,
}

impl<'a> Timeline<'a> {
    fn new(changes: &'a KeyChanges, now: Option<Oid>) -> Self {
        Self { changes, now }
    }

    /// How many changes there are until a state, and what the key led to then.
    fn at(&self, at: Tid) -> (usize, Option<Oid>) {
        let count = self.changes.partition_point(|&(tid, _)| tid <= at);
        let value = match count.checked_sub(1) {
            Some(last) => self.changes[last].1.new,
            None => self.changes.front().map_or(self.now, |(_, c)| c.old),
        };
        (count, value)
    }

    /// The last change in `(floor, at]`; `floor` if there is none.
    fn rev(&self, ztail: &ZTail, floor: Tid, at: Tid) -> Tid {
        let (count, value) = self.at(at);
        let table = count.checked_sub(1).map(|last| self.changes[last].0);
        let own = value.and_then(|oid| ztail.last_change(oid, at));
        table.max(own).map_or(floor, |tid| tid.max(floor))
    }

    /// Shows all changes in `(lo, hi]`.
    fn show(&self, ztail: &ZTail, key: i64, (lo, hi): (Tid, Tid), found: &mut Found) {
        let (count, mut value) = self.at(lo);
        let own = |value: Option<Oid>, lo, hi, found: &mut Found| {
            let (Some(oid), Some(blk)) = (value, blk_of(key)) else {
                return;
            };
            for tid in ztail.changes(oid, lo, hi) {
                found.block(tid, blk);
            }
        };
        let mut from = lo;
        for &(tid, change) in self.changes.range(count..).take_while(|c| c.0 <= hi) {
            own(value, from, tid, found);
            found.entry(tid).table = true;
            if let Some(blk) = blk_of(key) {
                found.block(tid, blk);
            }
            (value, from) = (change.new, tid);
        }
        own(value, from, hi, found);
    }
}

fn by_key(traced: Traced) -> BTreeMap<i64, KeyChanges> {
    let mut keys = BTreeMap::<i64, KeyChanges>::new();
    for (tid, changes) in traced {
        for (key, change) in changes {
            keys.entry(key).or_default().push_front((tid, change));
        }
    }
    keys
}

/// What was found for a slice so far.
#[derive(Default)]
struct Found(BTreeMap<Tid, Slice>);

impl Found {
    fn entry(&mut self, tid: Tid) -> &mut Slice {
        self.0.entry(tid).or_insert_with(|| Slice {
            tid,
            blocks: Vec::new(),
            table: false,
            epoch: false,
        })
    }

    fn block(&mut self, tid: Tid, blk: BlkNo) {
        self.entry(tid).blocks.push(blk);
    }

    fn finish(self) -> Vec<Slice> {
        let mut slices: Vec<_> = self.0.into_values().collect();
        for slice in &mut slices {
            slice.blocks.sort_unstable();
            slice.blocks.dedup();
        }
        slices
    }
}
