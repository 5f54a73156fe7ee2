//! A tree that can be reshaped at random, and the objects that it is stored as.

use crate::base::Oid;
use crate::zodb::Family;
use crate::zodb::btree::{Coverage, PathNode, TreeRef};
use crate::zodb::sample::{Db, Rng, bucket_state, inner_state, node};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ROOT: Oid = Oid(1);
pub(super) const TREE: TreeRef = TreeRef {
    root: ROOT,
    family: Family::Lo,
};
/// Keys are from here ..
const KEY_MIN: i64 = -3;
/// .. so many; and the greatest there is.
const KEYS: usize = 120;

/// Oid of the first block.
pub(super) const BLOCK: u64 = 1_000_000;
/// Blocks there are, few, so that many keys share them.
pub(super) const BLOCKS: usize = 6;

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Inner(Vec<i64>, Vec<Model>),
    Leaf(BTreeMap<i64, u64>),
}

/// A node of the tree.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) oid: Oid,
    pub(super) kind: Kind,
}

/// A tree as of one state; without a root there is none.
#[derive(Clone, Debug)]
pub(super) struct State {
    oid: Oid,
    root: Option<Model>,
    /// The next oid of a node; oids of blocks are above all of them.
    next: u64,
}

/// Every leaf: its path, and what it holds.
pub(super) type Leaves = Vec<(Vec<PathNode>, BTreeMap<i64, u64>)>;

/// A key of this range, if a few tries find one.
fn key(rng: &mut Rng, cover: Coverage) -> i64 {
    let mut draw = || match rng.one_in(60) {
        true => i64::MAX,
        false => KEY_MIN + i64::try_from(rng.below(KEYS)).unwrap(),
    };
    let tries: [i64; 6] = std::array::from_fn(|_| draw());
    tries
        .into_iter()
        .find(|&key| cover.contains(key))
        .unwrap_or(tries[0])
}

fn block(rng: &mut Rng) -> u64 {
    BLOCK + rng.below(BLOCKS) as u64
}

impl State {
    /// An empty tree.
    pub(super) fn new() -> Self {
        Self::rooted(ROOT)
    }

    /// An empty tree with this root; further nodes have the oids after it.
    pub(super) fn rooted(oid: Oid) -> Self {
        let kind = Kind::Leaf(BTreeMap::new());
        let root = Some(Model { oid, kind });
        let next = oid.0 + 1;
        Self { oid, root, next }
    }

    /// A tree with this root, or without one.
    pub(super) fn of(oid: Oid, root: Option<Model>) -> Self {
        let next = oid.0 + 1000;
        Self { oid, root, next }
    }

    /// Changes it in up to `most` ways.
    pub(super) fn mutate(&mut self, rng: &mut Rng, most: usize) {
        for _ in 0..=rng.below(most) {
            if rng.one_in(200) {
                self.root = match self.root {
                    Some(_) => None,
                    None => Self::rooted(self.oid).root,
                };
            }
            let next = &mut self.next;
            if let Some(root) = &mut self.root {
                root.mutate(rng, Coverage::ALL, next, 0);
            }
        }
    }

    /// The objects it is stored as.
    pub(super) fn records(&self) -> BTreeMap<Oid, Bytes> {
        let mut records = BTreeMap::new();
        if let Some(root) = &self.root {
            root.store(true, &mut records);
        }
        records
    }

    /// All leaves; a tree that is not there is a leaf without keys.
    pub(super) fn leaves(&self) -> Leaves {
        let cover = Coverage::ALL;
        let path = vec![PathNode {
            oid: self.oid,
            cover,
        }];
        let mut leaves = Vec::new();
        match &self.root {
            Some(root) => root.leaves(path, &mut leaves),
            None => leaves.push((path, BTreeMap::new())),
        }
        leaves
    }
}

/// A database of these records, nothing of it at hand.
pub(super) fn db(records: &BTreeMap<Oid, Bytes>) -> Db {
    let mut db = Db::default();
    for (&oid, record) in records {
        db.put(oid, record.clone());
    }
    db
}

/// Objects that are not the same in two states.
pub(super) fn changed(old: &BTreeMap<Oid, Bytes>, new: &BTreeMap<Oid, Bytes>) -> BTreeSet<Oid> {
    let oids = old.keys().chain(new.keys()).copied();
    oids.filter(|oid| old.get(oid) != new.get(oid)).collect()
}

impl Model {
    fn leaves(&self, path: Vec<PathNode>, out: &mut Leaves) {
        let cover = path.last().unwrap().cover;
        match &self.kind {
            Kind::Leaf(map) => out.push((path, map.clone())),
            Kind::Inner(separators, children) => {
                for (i, child) in children.iter().enumerate() {
                    let (oid, cover) = (child.oid, part(cover, separators, i));
                    let mut path = path.clone();
                    path.push(PathNode { oid, cover });
                    child.leaves(path, out);
                }
            }
        }
    }

    fn store(&self, root: bool, out: &mut BTreeMap<Oid, Bytes>) {
        let family = Family::Lo;
        let record = match &self.kind {
            Kind::Leaf(map) => {
                let items: Vec<_> = map.iter().map(|(&k, &v)| (k, Oid(v), "ZBlk0")).collect();
                let state = bucket_state(&items);
                match root {
                    true if map.is_empty() => node(family, "BTree", b"N"),
                    true => node(family, "BTree", &[&state[..], b"\x85\x85"].concat()),
                    false => node(family, "Bucket", &state),
                }
            }
            Kind::Inner(separators, children) => {
                children.iter().for_each(|child| child.store(false, out));
                let oids: Vec<_> = children.iter().map(|child| child.oid).collect();
                let leaf = |child: &Self| matches!(child.kind, Kind::Leaf(_));
                let class = if children.iter().all(leaf) {
                    "Bucket"
                } else {
                    "Other"
                };
                node(
                    family,
                    "BTree",
                    &inner_state(family, class, &oids, separators),
                )
            }
        };
        out.insert(self.oid, record);
    }

    fn mutate(&mut self, rng: &mut Rng, cover: Coverage, next: &mut u64, depth: usize) {
        let root = depth == 0;
        let mut fresh = || {
            *next += 1;
            Oid(*next)
        };
        match &mut self.kind {
            Kind::Leaf(map) => {
                let key = key(rng, cover);
                if root && rng.one_in(3) {
                    // The bucket within becomes one of its own.
                    let kind = Kind::Leaf(std::mem::take(map));
                    let child = Self { oid: fresh(), kind };
                    self.kind = Kind::Inner(Vec::new(), vec![child]);
                } else if cover.contains(key) {
                    match rng.below(3) {
                        0 => drop(map.remove(&key)),
                        _ => drop(map.insert(key, block(rng))),
                    }
                }
            }
            Kind::Inner(separators, children) => {
                let i = rng.below(children.len());
                let here = part(cover, separators, i);
                let both = i + 1 < children.len();
                match rng.below(14) {
                    // A leaf, or a node, in two.
                    0..=3 => {
                        let at = key(rng, here);
                        if here.contains(at)
                            && at > here.lo
                            && let Some(right) = children[i].split(at, &mut fresh)
                        {
                            separators.insert(i, at);
                            children.insert(i + 1, right);
                        }
                    }
                    // Two neighbours into one, the left or a new one.
                    4 if both => {
                        let (right, at) = (children.remove(i + 1), separators.remove(i));
                        if let Some(right) = children[i].join(right, at) {
                            children.insert(i + 1, right);
                            separators.insert(i, at);
                        } else if rng.one_in(3) {
                            children[i].oid = fresh();
                        }
                    }
                    // Keys move to a neighbour.
                    5 | 6 if both => {
                        let wide = Coverage {
                            lo: here.lo,
                            hi: part(cover, separators, i + 1).hi,
                        };
                        let at = key(rng, wide);
                        let (left, right) = children.split_at_mut(i + 1);
                        if let (Kind::Leaf(a), Kind::Leaf(b)) =
                            (&mut left[i].kind, &mut right[0].kind)
                            && wide.contains(at)
                            && at > wide.lo
                        {
                            a.append(b);
                            *b = a.split_off(&at);
                            separators[i] = at;
                        }
                    }
                    // A level more, a level less.
                    7 if depth < 5 => {
                        let oid = fresh();
                        let child = children.remove(i);
                        let kind = Kind::Inner(Vec::new(), vec![child]);
                        children.insert(i, Self { oid, kind });
                    }
                    8 => {
                        if let Kind::Inner(inside, below) = &mut children[i].kind {
                            let (inside, below) = (std::mem::take(inside), std::mem::take(below));
                            separators.splice(i..i, inside);
                            children.splice(i..=i, below);
                        } else if root && children.len() == 1 && rng.one_in(8) {
                            let Kind::Leaf(map) = &mut children[0].kind else {
                                unreachable!("just looked");
                            };
                            self.kind = Kind::Leaf(std::mem::take(map));
                        }
                    }
                    // Neighbours under a node of their own.
                    9 if both && depth < 5 => {
                        let (right, at) = (children.remove(i + 1), separators.remove(i));
                        let left = children.remove(i);
                        let (oid, kind) = (fresh(), Kind::Inner(vec![at], vec![left, right]));
                        children.insert(i, Self { oid, kind });
                    }
                    // Something further down.
                    _ => children[i].mutate(rng, here, next, depth + 1),
                }
            }
        }
    }

    /// Keeps what is below `at`; gives the rest.
    fn split(&mut self, at: i64, fresh: &mut impl FnMut() -> Oid) -> Option<Self> {
        let kind = match &mut self.kind {
            Kind::Leaf(map) => Kind::Leaf(map.split_off(&at)),
            Kind::Inner(separators, children) => {
                let i = separators.iter().position(|&s| s == at)?;
                let right = separators.split_off(i + 1);
                separators.pop();
                Kind::Inner(right, children.split_off(i + 1))
            }
        };
        Some(Self { oid: fresh(), kind })
    }

    /// Takes a right neighbour in; gives it back when it is of another kind.
    fn join(&mut self, right: Self, at: i64) -> Option<Self> {
        match (&mut self.kind, right) {
            (
                Kind::Leaf(map),
                Self {
                    kind: Kind::Leaf(mut more),
                    ..
                },
            ) => map.append(&mut more),
            (
                Kind::Inner(keys, nodes),
                Self {
                    kind: Kind::Inner(more, others),
                    ..
                },
            ) => {
                keys.push(at);
                keys.extend(more);
                nodes.extend(others);
            }
            (_, right) => return Some(right),
        }
        None
    }
}

fn part(cover: Coverage, separators: &[i64], i: usize) -> Coverage {
    Coverage {
        lo: i.checked_sub(1).map_or(cover.lo, |i| separators[i]),
        hi: separators.get(i).copied().or(cover.hi),
    }
}
