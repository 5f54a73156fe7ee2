//! What a commit did to the tracked part of a tree.
//!
//! Tracked are keys, a leaf's worth at a time: whoever read one key of a leaf saw all it holds and all it does not.
//! Known with them are the nodes on the way, each with the keys it answers for. A commit names the objects it changed; those
//! among the known nodes, and the nodes above them, are *suspect*. Everything else of the old tree is as it was.
//!
//! ```text
//!   1 old tree, from the root through suspects:
//!       a node that was not changed itself and stands in the new tree with the same keys: its suspect children
//!       any other one: all its tracked children, but those that are not suspect and stand in the new tree with the
//!       same keys: nothing changed below them
//!       a leaf: its keys are in question
//!   2 until nothing is in question any more:
//!       leaves of the new tree over keys in question: their other keys are in question in the old tree
//!       leaves of the old tree over keys in question: their other keys are in question in the new tree
//!   3 entries of the old leaves met against entries of the new ones
//! ```
//!
//! Step 2 ends because each leaf is met once. It makes more keys tracked than were (`gained`): those that moved into one
//! leaf with a tracked one. Where step 1 stops early, costs are those of the change and not of the tree.
//!
//! The tracked nodes need no parents: a node is found again by its keys. So a node that moves under another parent
//! and answers for the same keys as before has not changed at all.
//!
//! Both states are asked for what is missing, and the whole starts over with it, as everywhere in `zodb`.

use crate::base::Oid;
use crate::base::span::{KeyRange, KeySet};
use crate::zodb::btree::{self, Below, Coverage, PathNode, TreeRef};
use crate::zodb::{self, Ask, Objects, Step, ZodbError};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

type NodeKey = (Oid, i64, Option<i64>);

fn node_key(node: PathNode) -> NodeKey {
    (node.oid, node.cover.lo, node.cover.hi)
}

fn range_of(cover: Coverage) -> Option<KeyRange> {
    KeyRange::new(cover.lo, cover.last()?)
}

/// What is tracked of one tree, as of one state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackedTree {
    keys: KeySet,
    /// Nodes on the ways to these keys; a node stands in two places only if it holds no keys.
    nodes: BTreeSet<NodeKey>,
}

impl TrackedTree {
    /// Tracks the keys of a leaf, found on this path from the root.
    pub fn track(&mut self, path: &[PathNode]) {
        let Some(range) = path.last().and_then(|leaf| range_of(leaf.cover)) else {
            return;
        };
        self.keys.insert(range);
        self.nodes.extend(path.iter().copied().map(node_key));
    }

    /// The keys tracked: whole leaves.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// The nodes on the ways to them.
    pub fn nodes(&self) -> impl Iterator<Item = PathNode> + '_ {
        self.nodes.iter().map(|&(oid, lo, hi)| PathNode {
            oid,
            cover: Coverage { lo, hi },
        })
    }

    /// Whether a change of an object can concern it.
    pub fn knows(&self, oid: Oid) -> bool {
        self.places(oid).next().is_some()
    }

    fn places(&self, oid: Oid) -> impl Iterator<Item = PathNode> + '_ {
        let places = self.nodes.range((oid, i64::MIN, None)..);
        places
            .take_while(move |place| place.0 == oid)
            .map(|&(oid, lo, hi)| PathNode {
                oid,
                cover: Coverage { lo, hi },
            })
    }

    fn has(&self, node: PathNode) -> bool {
        self.nodes.contains(&node_key(node))
    }

    /// Adds what is tracked of the same tree elsewhere, as of the same state.
    pub fn merge(&mut self, other: &Self) {
        self.keys.union(&other.keys);
        self.nodes.extend(&other.nodes);
    }

    /// Takes what a commit did to it; it is as of the new state then.
    pub fn apply(&mut self, diff: &Diff) {
        for &node in &diff.gone {
            self.nodes.remove(&node);
        }
        self.nodes.extend(&diff.met);
        self.keys.union(&diff.gained);
    }
}

/// What a key led to and leads to; two different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// In the old state; `None` when it was not there.
    pub old: Option<Oid>,
    /// In the new state.
    pub new: Option<Oid>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Keys that lead to something else now.
    pub changes: BTreeMap<i64, Change>,
    /// Keys that are tracked from now on: what changed in them before is not known.
    pub gained: KeySet,
    /// Old nodes that were looked into.
    gone: Vec<NodeKey>,
    /// New nodes on the ways to keys that were in question, and to nodes that stand as they stood.
    met: BTreeSet<NodeKey>,
}

impl Diff {
    /// Nodes that may have gone or come.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Oid> + '_ {
        let met = self.met.iter().map(|node| node.0);
        self.gone.iter().map(|node| node.0).chain(met)
    }
}

/// Finds out what a commit that changed the objects `changed` did to what is tracked.
///
/// # Errors
/// The tree is damaged in one of the states.
pub fn diff<O: Objects + ?Sized, N: Objects + ?Sized>(
    old: &mut Ask<'_, O>,
    new: &mut Ask<'_, N>,
    tree: TreeRef,
    tracked: &TrackedTree,
    changed: impl Iterator<Item = Oid>,
) -> Result<Step<Diff>, ZodbError> {
    let mut differ = Differ {
        tree,
        tracked,
        changed: FxHashSet::default(),
        suspect: FxHashMap::default(),
        found: Diff::default(),
        old: Side::default(),
        new: Side::default(),
        whole: true,
    };
    for node in changed.flat_map(|oid| tracked.places(oid)) {
        differ.changed.insert(node.oid);
        differ.suspect_above(old, node)?;
    }
    if !differ.whole {
        return Ok(Step::Need);
    }
    if differ.suspect.is_empty() {
        return Ok(Step::Done(differ.found));
    }
    differ.descend(old, new)?;
    differ.settle(old, new)?;
    if !differ.whole {
        return Ok(Step::Need);
    }
    Ok(Step::Done(differ.finish()))
}

/// Leaves met in one of the states.
#[derive(Debug, Default)]
struct Side {
    entries: BTreeMap<i64, Oid>,
    met: KeySet,
    in_question: KeySet,
}

impl Side {
    /// Notes a leaf; false when it was met before.
    fn meet(&mut self, range: KeyRange, entries: &[(i64, zodb::Entry)]) -> bool {
        if self.met.covers(range) {
            return false;
        }
        self.met.insert(range);
        let oids = entries.iter().map(|&(key, entry)| (key, entry.oid));
        self.entries.extend(oids);
        true
    }
}

struct Differ<'t> {
    tree: TreeRef,
    tracked: &'t TrackedTree,
    /// Known nodes that the commit changed.
    changed: FxHashSet<Oid>,
    /// With their suspect children.
    suspect: FxHashMap<NodeKey, Vec<PathNode>>,
    found: Diff,
    old: Side,
    new: Side,
    /// Nothing was missing so far.
    whole: bool,
}

impl Differ<'_> {
    fn root(&self) -> PathNode {
        PathNode {
            oid: self.tree.root,
            cover: Coverage::ALL,
        }
    }

    /// A node and those above it are not what they were, or lead to what is not.
    fn suspect_above<O: Objects + ?Sized>(
        &mut self,
        old: &mut Ask<'_, O>,
        node: PathNode,
    ) -> Result<(), ZodbError> {
        let path = match way(old, self.tree, node)? {
            Step::Need => {
                self.whole = false;
                return Ok(());
            }
            Step::Done(Some(path)) => path,
            Step::Done(None) => unreachable!("BUG: tracked node {node:?} is not in the old tree"),
        };
        let mut below = None;
        for &node in path.iter().rev() {
            let known = self.suspect.contains_key(&node_key(node));
            let children = self.suspect.entry(node_key(node)).or_default();
            children.extend(below);
            if known {
                break; // and so are those above
            }
            below = Some(node);
        }
        Ok(())
    }

    /// A node that leads where it led: the commit did not change it, and it stands where it stood.
    fn leads_on<N: Objects + ?Sized>(
        &mut self,
        new: &mut Ask<'_, N>,
        node: PathNode,
    ) -> Result<bool, ZodbError> {
        if self.changed.contains(&node.oid) {
            return Ok(false);
        }
        match way(new, self.tree, node)? {
            Step::Need => self.whole = false,
            Step::Done(None) => return Ok(false),
            Step::Done(Some(path)) => self.found.met.extend(path.into_iter().map(node_key)),
        }
        Ok(true)
    }

    /// Step 1.
    fn descend<O: Objects + ?Sized, N: Objects + ?Sized>(
        &mut self,
        old: &mut Ask<'_, O>,
        new: &mut Ask<'_, N>,
    ) -> Result<(), ZodbError> {
        let mut open = vec![self.root()];
        while let Some(node) = open.pop() {
            if let Some(children) = self.suspect.get(&node_key(node)).cloned()
                && self.leads_on(new, node)?
            {
                self.found.gone.push(node_key(node));
                open.extend(children);
                continue;
            }
            let children = match btree::below(old, self.tree, node, KeyRange::ALL)? {
                Step::Need => {
                    self.whole = false;
                    continue;
                }
                Step::Done(Below::Entries(entries)) => {
                    let Some(range) = range_of(node.cover) else {
                        continue;
                    };
                    self.found.gone.push(node_key(node));
                    if self.old.meet(range, &entries) {
                        self.new.in_question.insert(range);
                    }
                    continue;
                }
                Step::Done(Below::Nodes(children)) => children,
            };
            self.found.gone.push(node_key(node));
            for child in children {
                if !self.tracked.has(child) {
                    continue;
                }
                if self.suspect.contains_key(&node_key(child)) {
                    open.push(child);
                    continue;
                }
                match way(new, self.tree, child)? {
                    Step::Need => self.whole = false,
                    Step::Done(None) => open.push(child),
                    Step::Done(Some(path)) => self.found.met.extend(path.into_iter().map(node_key)),
                }
            }
        }
        Ok(())
    }

    /// Step 2.
    fn settle<O: Objects + ?Sized, N: Objects + ?Sized>(
        &mut self,
        old: &mut Ask<'_, O>,
        new: &mut Ask<'_, N>,
    ) -> Result<(), ZodbError> {
        while !self.new.in_question.is_empty() || !self.old.in_question.is_empty() {
            for range in std::mem::take(&mut self.new.in_question).ranges() {
                for (path, entries) in self.leaves(new, range)? {
                    let Some(range) = path.last().and_then(|leaf| range_of(leaf.cover)) else {
                        continue;
                    };
                    if self.new.meet(range, &entries) {
                        self.found.met.extend(path.into_iter().map(node_key));
                        let more: Vec<_> = self.old.met.outside(range).collect();
                        more.into_iter()
                            .for_each(|r| self.old.in_question.insert(r));
                    }
                }
            }
            for range in std::mem::take(&mut self.old.in_question).ranges() {
                for (path, entries) in self.leaves(old, range)? {
                    let Some(leaf) = path.last() else { continue };
                    let Some(range) = range_of(leaf.cover) else {
                        continue;
                    };
                    if self.old.meet(range, &entries) {
                        self.found.gone.push(node_key(*leaf));
                        let more: Vec<_> = self.new.met.outside(range).collect();
                        more.into_iter()
                            .for_each(|r| self.new.in_question.insert(r));
                    }
                }
            }
        }
        Ok(())
    }

    fn leaves<A: Objects + ?Sized>(
        &mut self,
        ask: &mut Ask<'_, A>,
        range: KeyRange,
    ) -> Result<Vec<Leaf>, ZodbError> {
        let (found, whole) = leaves_at_hand(ask, self.tree, range)?;
        self.whole &= whole;
        Ok(found)
    }

    /// Step 3.
    fn finish(mut self) -> Diff {
        let (old, new) = (&self.old.entries, &self.new.entries);
        for (&key, &oid) in old {
            let (old, new) = (Some(oid), new.get(&key).copied());
            if old != new {
                self.found.changes.insert(key, Change { old, new });
            }
        }
        for (&key, &oid) in new.iter().filter(|&(key, _)| !old.contains_key(key)) {
            let (old, new) = (None, Some(oid));
            self.found.changes.insert(key, Change { old, new });
        }
        self.found.gained = self.new.met;
        self.found.gained.subtract(&self.tracked.keys);
        self.found
    }
}

/// A leaf: its path from the root, and what it holds.
pub(super) type Leaf = (Vec<PathNode>, Vec<(i64, zodb::Entry)>);

/// The leaves over a range, in no order.
pub(super) fn leaves<A: Objects + ?Sized>(
    ask: &mut Ask<'_, A>,
    tree: TreeRef,
    range: KeyRange,
) -> Result<Step<Vec<Leaf>>, ZodbError> {
    let (found, whole) = leaves_at_hand(ask, tree, range)?;
    Ok(if whole { Step::Done(found) } else { Step::Need })
}

/// The leaves over a range that are at hand, in no order, and whether these are all.
fn leaves_at_hand<A: Objects + ?Sized>(
    ask: &mut Ask<'_, A>,
    tree: TreeRef,
    range: KeyRange,
) -> Result<(Vec<Leaf>, bool), ZodbError> {
    let (mut found, mut whole) = (Vec::new(), true);
    let (oid, cover) = (tree.root, Coverage::ALL);
    let mut open = vec![vec![PathNode { oid, cover }]];
    while let Some(path) = open.pop() {
        let node = *path.last().expect("a path has its root");
        match btree::below(ask, tree, node, range)? {
            Step::Need => whole = false,
            Step::Done(Below::Entries(entries)) => found.push((path, entries)),
            Step::Done(Below::Nodes(children)) => {
                check_height(&path)?;
                open.extend(children.into_iter().map(|child| {
                    let mut path = path.clone();
                    path.push(child);
                    path
                }));
            }
        }
    }
    Ok((found, whole))
}

fn check_height(path: &[PathNode]) -> Result<(), ZodbError> {
    if path.len() < crate::base::limit::TREE_HEIGHT_MAX {
        return Ok(());
    }
    let (oid, fault) = (path[path.len() - 1].oid, crate::zodb::TreeFault::Height);
    Err(ZodbError::Tree { oid, fault })
}

/// The way from the root to a node, both included; `None` when it does not stand there with these keys.
fn way<A: Objects + ?Sized>(
    ask: &mut Ask<'_, A>,
    tree: TreeRef,
    node: PathNode,
) -> Result<Step<Option<Vec<PathNode>>>, ZodbError> {
    let (oid, cover) = (tree.root, Coverage::ALL);
    let mut path = vec![PathNode { oid, cover }];
    while path[path.len() - 1] != node {
        check_height(&path)?;
        let keys = KeyRange::of(node.cover.lo);
        let next = match btree::below(ask, tree, path[path.len() - 1], keys)? {
            Step::Need => return Ok(Step::Need),
            Step::Done(Below::Entries(_)) => None,
            Step::Done(Below::Nodes(children)) => children.first().copied(),
        };
        match next {
            Some(next) if next.cover.last() >= node.cover.last() => path.push(next),
            _ => return Ok(Step::Done(None)),
        }
    }
    Ok(Step::Done(Some(path)))
}
