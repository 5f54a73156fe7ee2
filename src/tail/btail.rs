//! History of tracked trees: which keys changed when, from what to what.
//!
//! A key's history is complete after some state: the one as of which it became tracked, or an older one to which it was
//! traced back since. It is traced back only when somebody looks below that state.
//!
//! ```text
//!   1 walk to the keys as of that state, or take what is tracked as of head
//!   2 the last transaction before it that changed a node on the ways; none above the goal: nothing else happened
//!   3 what it did, the states swapped: what the keys were before; the ways are as of before it then;  go on with 2
//! ```
//!
//! Going back makes more keys tracked, as going forward does; here they are of no interest, since only the keys that
//! were asked for are noted.

use super::btreediff::{Change, TrackedTree, diff, leaves};
use super::state::{Need, States, ask, ask_both};
use super::track::News;
use super::ztail::ZTail;
use crate::base::keymap::KeyMap;
use crate::base::span::{KeyRange, KeySet};
use crate::base::{Oid, Tid};
use crate::zodb::btree::TreeRef;
use crate::zodb::{Step, ZodbError};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

/// Changes of a key, oldest first.
pub(super) type KeyChanges = VecDeque<(Tid, Change)>;

/// History of all tracked trees.
#[derive(Clone, Debug, Default)]
pub(super) struct BTail {
    trees: FxHashMap<Oid, History>,
    /// Trees with changes, by transaction.
    roots: BTreeMap<Tid, BTreeSet<Oid>>,
}

/// History of one tree.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    keys: BTreeMap<i64, KeyChanges>,
    tids: BTreeMap<Tid, BTreeSet<i64>>,
    /// State after which the history of a key is complete; has exactly the keys that are tracked.
    since: KeyMap<Tid>,
}

impl History {
    /// Changes of a key.
    pub(super) fn changes(&self, key: i64) -> &KeyChanges {
        static NONE: KeyChanges = KeyChanges::new();
        self.keys.get(&key).unwrap_or(&NONE)
    }

    /// Keys that changed after `lo`.
    pub(super) fn changed(&self, lo: Tid) -> BTreeSet<i64> {
        let (after, all) = (std::ops::Bound::Excluded(lo), std::ops::Bound::Unbounded);
        let tids = self.tids.range((after, all));
        tids.flat_map(|(_, keys)| keys).copied().collect()
    }

    /// State after which the history of each key is complete.
    pub(super) fn since(&self) -> &KeyMap<Tid> {
        &self.since
    }

    fn insert(&mut self, key: i64, tid: Tid, change: Change) {
        let changes = self.keys.entry(key).or_default();
        match changes.binary_search_by_key(&tid, |&(tid, _)| tid) {
            Ok(i) => assert_eq!(changes[i].1, change, "BUG: {key} at {tid} changed twice"),
            Err(i) => changes.insert(i, (tid, change)),
        }
        self.tids.entry(tid).or_default().insert(key);
    }

    fn forget(&mut self, tid: Tid) {
        for key in self.tids.remove(&tid).into_iter().flatten() {
            let changes = self.keys.get_mut(&key).expect("what `tids` names is there");
            changes.pop_front();
            if changes.is_empty() {
                self.keys.remove(&key);
            }
        }
    }
}

impl BTail {
    /// The history of a tree.
    pub(super) fn history(&self, root: Oid) -> Option<&History> {
        self.trees.get(&root)
    }

    /// Hears of keys that became tracked as of a state, and of trees that are not tracked any more.
    pub(super) fn heed(&mut self, news: Vec<News>, at: Tid) {
        for news in news {
            match news {
                News::Keys(root, range) => {
                    self.trees.entry(root).or_default().since.set(range, at);
                }
                News::Gone(root) => drop(self.trees.remove(&root)),
            }
        }
    }

    /// Notes what a transaction did to keys of a tree.
    pub(super) fn note(&mut self, root: Oid, tid: Tid, changes: &BTreeMap<i64, Change>) {
        if changes.is_empty() {
            return;
        }
        self.roots.entry(tid).or_default().insert(root);
        let history = self.trees.entry(root).or_default();
        for (&key, &change) in changes {
            history.insert(key, tid, change);
        }
    }

    /// The history of these keys is complete after this state.
    pub(super) fn complete(&mut self, root: Oid, keys: &KeySet, after: Tid) {
        let history = self.trees.entry(root).or_default();
        for range in keys.ranges() {
            history.since.set(range, after);
        }
    }

    /// Forgets changes up to `tail`.
    pub(super) fn forget(&mut self, tail: Tid) {
        while let Some(entry) = self.roots.first_entry().filter(|e| *e.key() <= tail) {
            let (tid, roots) = entry.remove_entry();
            for root in roots {
                if let Some(history) = self.trees.get_mut(&root) {
                    history.forget(tid);
                }
            }
        }
    }

    /// Changes of keys that are kept.
    pub(super) fn len(&self) -> usize {
        let trees = self.trees.values();
        trees
            .flat_map(|tree| tree.keys.values())
            .map(VecDeque::len)
            .sum()
    }
}

/// What transactions did to keys of a tree.
pub(super) type Traced = Vec<(Tid, BTreeMap<i64, Change>)>;

/// What the transactions in `(lo, from]` did to these keys, newest first; they are tracked here, as of `from`.
pub(super) fn trace<S: States + ?Sized>(
    states: &S,
    need: &mut Need,
    ztail: &ZTail,
    tree: TreeRef,
    (lo, from): (Tid, Tid),
    (keys, mut tracked): (&KeySet, TrackedTree),
) -> Result<Step<Traced>, ZodbError> {
    let mut last = Last::new(ztail, lo);
    tracked.nodes().for_each(|node| last.add(node.oid, from));
    if fetch(states, need, ztail, &tracked, (lo, from)) == Step::Need {
        return Ok(Step::Need);
    }
    let mut traced = Vec::new();
    while let Some((tid, changed)) = last.take() {
        let before = ztail.before(tid);
        let oids = changed.iter().copied();
        let step = ask_both(states, need, (tid, before), |new, old| {
            diff(new, old, tree, &tracked, oids)
        })?;
        let Step::Done(diff) = step else {
            return Ok(Step::Need);
        };
        let swap = |c: &Change| Change {
            old: c.new,
            new: c.old,
        };
        let changes = diff.changes.iter().filter(|(key, _)| keys.contains(**key));
        let changes: BTreeMap<_, _> = changes.map(|(&key, change)| (key, swap(change))).collect();
        if !changes.is_empty() {
            traced.push((tid, changes));
        }
        tracked.apply(&diff);
        for oid in diff.nodes().chain(changed) {
            last.add(oid, before);
        }
    }
    Ok(Step::Done(traced))
}

/// Tracks keys as of a state.
pub(super) fn walk<S: States + ?Sized>(
    states: &S,
    need: &mut Need,
    tree: TreeRef,
    at: Tid,
    keys: &KeySet,
) -> Result<Step<TrackedTree>, ZodbError> {
    let (mut tracked, mut whole) = (TrackedTree::default(), true);
    for range in keys.ranges() {
        match ask(states, need, at, |ask| leaves(ask, tree, range))? {
            Step::Need => whole = false,
            Step::Done(leaves) => leaves.iter().for_each(|(path, _)| tracked.track(path)),
        }
    }
    Ok(if whole {
        Step::Done(tracked)
    } else {
        Step::Need
    })
}

/// Asks at once for what the nodes were in all states that a trace comes by: it would stop for each otherwise.
fn fetch<S: States + ?Sized>(
    states: &S,
    need: &mut Need,
    ztail: &ZTail,
    tracked: &TrackedTree,
    (lo, from): (Tid, Tid),
) -> Step<()> {
    let most = crate::base::limit::NEED_MAX;
    let before = need.len();
    for node in tracked.nodes() {
        for tid in ztail.changes(node.oid, lo, from) {
            let wanted = [tid, ztail.before(tid)].map(|at| (at, node.oid));
            let missing = |&(at, oid): &(Tid, Oid)| {
                matches!(states.get(at, oid), crate::zodb::Lookup::Missing)
            };
            need.extend(wanted.into_iter().filter(missing));
            if need.len() >= most {
                return Step::Need;
            }
        }
    }
    if need.len() == before {
        Step::Done(())
    } else {
        Step::Need
    }
}

/// The last changes of nodes, newest first.
struct Last<'z> {
    ztail: &'z ZTail,
    lo: Tid,
    heap: BinaryHeap<(Tid, Oid)>,
    known: FxHashSet<(Tid, Oid)>,
}

impl<'z> Last<'z> {
    fn new(ztail: &'z ZTail, lo: Tid) -> Self {
        Self {
            ztail,
            lo,
            heap: BinaryHeap::new(),
            known: FxHashSet::default(),
        }
    }

    /// Adds the last change of a node at or before `at`.
    fn add(&mut self, oid: Oid, at: Tid) {
        if let Some(tid) = self.ztail.changes(oid, self.lo, at).next_back()
            && self.known.insert((tid, oid))
        {
            self.heap.push((tid, oid));
        }
    }

    /// The newest transaction that is left, and the nodes it changed.
    fn take(&mut self) -> Option<(Tid, Vec<Oid>)> {
        let (tid, oid) = self.heap.pop()?;
        let mut oids = vec![oid];
        while let Some(&(next, oid)) = self.heap.peek()
            && next == tid
        {
            oids.push(oid);
            self.heap.pop();
        }
        Some((tid, oids))
    }
}

/// What a key led to as of a state.
pub(super) fn value_at<S: States + ?Sized>(
    states: &S,
    need: &mut Need,
    tree: TreeRef,
    at: Tid,
    key: i64,
) -> Result<Step<(KeyRange, Option<Oid>)>, ZodbError> {
    let range = KeyRange::of(key);
    let found = ask(states, need, at, |ask| leaves(ask, tree, range))?;
    Ok(found.map(|leaves| {
        let (path, entries) = leaves.first().expect("a leaf answers for each key");
        let cover = path.last().expect("a path has its root").cover;
        let last = cover.last().expect("it covers the key");
        let range = KeyRange::new(cover.lo, last).expect("it covers the key");
        let entry = entries.binary_search_by_key(&key, |&(key, _)| key);
        (range, entry.ok().map(|i| entries[i].1.oid))
    }))
}
