//! What is tracked, as of one state.
//!
//! Files, the trees that are their block tables, and the blocks that were read: *explicit* ones. Known of a tree are the
//! leaves that were met and the ways to them (`btreediff`); of an explicit block also the object it leads to. Two files
//! may share a tree, and an object may be many blocks, of one tree or of several.
//!
//! Everything is found from the oid of an object, since that is what a commit names: nodes lead to trees, objects of
//! blocks to trees and numbers. So a commit costs what it changes, however much is tracked. Below the table nothing is
//! tracked: who changes a chunk of a block marks the block.
//!
//! A block takes 12 bytes in the tree where its neighbours are tracked too, 28 to 56 in the index, which is a hash table that
//! is half full at least, and a bit or two in its file.

use super::btreediff::{Diff, TrackedTree};
use super::few::Few;
use crate::base::blkmap::BlkMap;
use crate::base::span::{KeyRange, KeySet};
use crate::base::{BlkNo, Oid};
use crate::zodb::BigFile;
use crate::zodb::btree::{PathNode, TreeRef};
use roaring::RoaringTreemap;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

/// What is tracked.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    files: FxHashMap<Oid, File>,
    /// Trees by root; the numbers are places in `trees`, kept small for the indices.
    roots: FxHashMap<Oid, u32>,
    trees: Vec<Option<Tree>>,
    free: Vec<u32>,
    /// Trees that know a node.
    nodes: FxHashMap<Oid, Few<u32, ()>>,
    /// Explicit blocks that are this object.
    blks: FxHashMap<Oid, Few<u32, BlkNo>>,
    /// What history has yet to hear of.
    news: Vec<News>,
}

/// What is merged is of one state.
const MERGED: &str = "BUG: merged what is of two states";

/// It does not fit what is tracked: it is of another state, or what it builds on is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

/// How much is tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files.
    pub files: usize,
    /// Trees.
    pub trees: usize,
    /// Nodes of them.
    pub nodes: usize,
    /// Explicit blocks, holes too.
    pub blocks: u64,
}

/// What happened to the keys that are tracked.
#[derive(Clone, Copy, Debug)]
pub(super) enum News {
    /// Keys of a tree that were not tracked before.
    Keys(Oid, KeyRange),
    /// A tree that is not tracked any more.
    Gone(Oid),
}

#[derive(Clone, Debug)]
struct File {
    bigfile: BigFile,
    explicit: RoaringTreemap,
}

#[derive(Clone, Debug)]
struct Tree {
    tree: TreeRef,
    tracked: TrackedTree,
    /// Files whose block table it is, in order.
    files: Vec<Oid>,
    /// Explicit blocks, of any of the files, that are not holes.
    values: BlkMap<Oid>,
}

/// A key as a number of a block; others are never read.
pub(super) fn blk_of(key: i64) -> Option<BlkNo> {
    u64::try_from(key).ok().map(BlkNo)
}

/// A number of a block as a key.
pub(super) fn key_of(blk: BlkNo) -> i64 {
    i64::try_from(blk.0).expect("a block number is at most i64::MAX")
}

impl Tracked {
    /// Tracks a file: changes of the object itself.
    ///
    /// # Errors
    /// It is tracked as another one.
    pub fn open(&mut self, file: Oid, bigfile: BigFile) -> Result<(), Unfit> {
        match self.files.entry(file) {
            Entry::Occupied(known) if known.get().bigfile == bigfile => return Ok(()),
            Entry::Occupied(_) => return Err(Unfit),
            Entry::Vacant(place) => place.insert(File {
                bigfile,
                explicit: RoaringTreemap::new(),
            }),
        };
        let tree = self.tree_or_new(bigfile.tree());
        if let Err(place) = tree.files.binary_search(&file) {
            tree.files.insert(place, file);
        }
        Ok(())
    }

    /// Tracks all keys of a leaf of a file's table, found on this path from the root.
    ///
    /// # Errors
    /// The file is not tracked, or has another table.
    pub fn track(&mut self, file: Oid, path: &[PathNode]) -> Result<(), Unfit> {
        let root = self.root(file)?;
        let (Some(first), Some(leaf)) = (path.first(), path.last()) else {
            return Err(Unfit);
        };
        if first.oid != root {
            return Err(Unfit);
        }
        let place = self.roots[&root];
        let tree = self.trees[place as usize].as_mut().expect("a known root");
        let cover = leaf.cover;
        let Some(range) = cover.last().and_then(|last| KeyRange::new(cover.lo, last)) else {
            return Ok(());
        };
        if tree.tracked.keys().covers(range) {
            return Ok(());
        }
        let fresh = tree.tracked.keys().outside(range);
        self.news.extend(fresh.map(|part| News::Keys(root, part)));
        tree.tracked.track(path);
        for node in path {
            learn(&mut self.nodes, node.oid, place, ());
        }
        Ok(())
    }

    /// A block was read, and is this object, or a hole.
    ///
    /// # Errors
    /// The file or the leaf is not tracked, or the block was something else before.
    pub fn read(&mut self, file: Oid, blk: BlkNo, value: Option<Oid>) -> Result<(), Unfit> {
        let known = self.files.get_mut(&file).ok_or(Unfit)?;
        let root = known.bigfile.blktab;
        let place = self.roots[&root];
        let tree = self.trees[place as usize].as_mut().expect("a known root");
        // Mostly a block that was read before.
        let is_known = known.explicit.contains(blk.0);
        if !is_known && !tree.tracked.keys().contains(key_of(blk)) {
            return Err(Unfit);
        }
        let was = tree.values.get(blk);
        if was != value && (was.is_some() || is_known) {
            return Err(Unfit);
        }
        known.explicit.insert(blk.0);
        if let (None, Some(oid)) = (was, value) {
            tree.values.insert(blk, oid);
            learn(&mut self.blks, oid, place, blk);
        }
        Ok(())
    }

    /// Blocks behind the end of a file were asked for: they are explicit holes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_beyond(&mut self, file: Oid, first: BlkNo, last: BlkNo) -> Result<(), Unfit> {
        let range = KeyRange::new(key_of(first), key_of(last)).ok_or(Unfit)?;
        let root = self.root(file)?;
        let tree = self.tree(root).ok_or(Unfit)?;
        if !tree.tracked.keys().covers(range) || tree.values.meets(first, last) {
            return Err(Unfit);
        }
        let known = self.files.get_mut(&file).ok_or(Unfit)?;
        known.explicit.insert_range(first.0..=last.0);
        Ok(())
    }

    /// Forgets a file, and its table unless another file has it too.
    pub fn forget_file(&mut self, file: Oid) {
        self.take(file);
    }

    /// Forgets a file; gives the blocks that were explicit.
    pub(super) fn take(&mut self, file: Oid) -> Option<RoaringTreemap> {
        let File { bigfile, explicit } = self.files.remove(&file)?;
        let root = bigfile.blktab;
        let place = self.roots[&root];
        let tree = self.trees[place as usize].as_mut().expect("a known root");
        tree.files.retain(|&other| other != file);
        let others: Vec<_> = tree
            .files
            .iter()
            .map(|other| &self.files[other].explicit)
            .collect();
        for blk in explicit.iter().map(BlkNo) {
            if !others.iter().any(|other| other.contains(blk.0))
                && let Some(oid) = tree.values.remove(blk)
            {
                unlearn(&mut self.blks, oid, place, blk);
            }
        }
        if others.is_empty() {
            for node in tree.tracked.nodes() {
                unlearn(&mut self.nodes, node.oid, place, ());
            }
            self.trees[place as usize] = None;
            self.free.push(place);
            self.roots.remove(&root);
            self.news.push(News::Gone(root));
        }
        Some(explicit)
    }

    /// Adds what is tracked elsewhere, as of the same state.
    pub fn merge(&mut self, other: Self) {
        for (&file, known) in &other.files {
            self.open(file, known.bigfile).expect(MERGED);
        }
        for tree in other.trees.iter().flatten() {
            let root = tree.tree.root;
            let place = self.roots[&root];
            let mine = self.trees[place as usize].as_mut().expect("a known root");
            for range in tree.tracked.keys().ranges() {
                let fresh = mine.tracked.keys().outside(range);
                self.news.extend(fresh.map(|part| News::Keys(root, part)));
            }
            mine.tracked.merge(&tree.tracked);
            for node in tree.tracked.nodes() {
                learn(&mut self.nodes, node.oid, place, ());
            }
        }
        for (&file, known) in &other.files {
            let values = &other.tree(known.bigfile.blktab).expect("its table").values;
            for blk in known.explicit.iter().map(BlkNo) {
                let value = values.get(blk);
                self.read(file, blk, value).expect(MERGED);
            }
        }
    }

    /// What a file is; `None` when it is not tracked.
    pub fn file(&self, file: Oid) -> Option<BigFile> {
        self.files.get(&file).map(|known| known.bigfile)
    }

    /// Files, in no order.
    pub fn files(&self) -> impl Iterator<Item = Oid> + '_ {
        self.files.keys().copied()
    }

    /// The explicit blocks of a file, each with what it is.
    pub fn blocks(&self, file: Oid) -> impl Iterator<Item = (BlkNo, Option<Oid>)> + '_ {
        let known = self.files.get(&file).into_iter();
        known.flat_map(|known| {
            let values = &self.tree(known.bigfile.blktab).expect("its table").values;
            let blks = known.explicit.iter().map(BlkNo);
            blks.map(|blk| (blk, values.get(blk)))
        })
    }

    /// What an explicit block is; `None` when it is not explicit.
    pub fn block(&self, file: Oid, blk: BlkNo) -> Option<Option<Oid>> {
        let known = self.files.get(&file)?;
        let values = &self.tree(known.bigfile.blktab)?.values;
        let explicit = known.explicit.contains(blk.0);
        explicit.then(|| values.get(blk))
    }

    /// Whether a block is explicit.
    pub fn is_explicit(&self, file: Oid, blk: BlkNo) -> bool {
        self.explicit(file).is_some_and(|blks| blks.contains(blk.0))
    }

    /// How many explicit blocks a file has.
    pub fn explicit_count(&self, file: Oid) -> u64 {
        self.files
            .get(&file)
            .map_or(0, |known| known.explicit.len())
    }

    /// The explicit blocks of a file.
    pub(super) fn explicit(&self, file: Oid) -> Option<&RoaringTreemap> {
        self.files.get(&file).map(|known| &known.explicit)
    }

    /// How much is tracked.
    pub fn counts(&self) -> Counts {
        Counts {
            files: self.files.len(),
            trees: self.roots.len(),
            nodes: self.nodes.len(),
            blocks: self.files.values().map(|f| f.explicit.len()).sum(),
        }
    }

    /// Keys of a tree that are tracked.
    pub fn keys(&self, root: Oid) -> Option<&KeySet> {
        self.tree(root).map(|tree| tree.tracked.keys())
    }

    /// What is known of a tree.
    pub(super) fn tracked_tree(&self, root: Oid) -> Option<(TreeRef, &TrackedTree)> {
        self.tree(root).map(|tree| (tree.tree, &tree.tracked))
    }

    /// Files whose table this is, in order.
    pub(super) fn files_of(&self, root: Oid) -> &[Oid] {
        self.tree(root).map_or(&[], |tree| &tree.files)
    }

    /// Trees in which an object is a known node.
    pub(super) fn trees_with(&self, node: Oid) -> impl Iterator<Item = Oid> + '_ {
        let trees = self.nodes.get(&node).into_iter().flat_map(Few::iter);
        trees.map(|(place, ())| {
            self.trees[place as usize]
                .as_ref()
                .expect("in use")
                .tree
                .root
        })
    }

    /// Explicit blocks that are this object: trees and numbers.
    pub(super) fn uses_of(&self, blk: Oid) -> impl Iterator<Item = (Oid, BlkNo)> + '_ {
        let uses = self.blks.get(&blk).into_iter().flat_map(Few::iter);
        uses.map(|(place, blk)| {
            let tree = self.trees[place as usize].as_ref().expect("in use");
            (tree.tree.root, blk)
        })
    }

    /// Takes what a commit did to a tree; it is as of the new state then.
    pub(super) fn apply(&mut self, root: Oid, diff: &Diff) {
        let place = self.roots[&root];
        let tree = self.trees[place as usize].as_mut().expect("a known root");
        tree.tracked.apply(diff);
        for oid in diff.nodes() {
            if tree.tracked.knows(oid) {
                learn(&mut self.nodes, oid, place, ());
            } else {
                unlearn(&mut self.nodes, oid, place, ());
            }
        }
        for (&key, change) in &diff.changes {
            let Some(blk) = blk_of(key) else { continue };
            let explicit = |file: &Oid| self.files[file].explicit.contains(blk.0);
            if !tree.files.iter().any(explicit) {
                continue;
            }
            let old = match change.new {
                Some(new) => tree.values.insert(blk, new),
                None => tree.values.remove(blk),
            };
            assert_eq!(old, change.old, "BUG: {blk} of {root} was something else");
            if let Some(old) = old {
                unlearn(&mut self.blks, old, place, blk);
            }
            if let Some(new) = change.new {
                learn(&mut self.blks, new, place, blk);
            }
        }
    }

    /// What happened to keys since the last call.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn root(&self, file: Oid) -> Result<Oid, Unfit> {
        Ok(self.files.get(&file).ok_or(Unfit)?.bigfile.blktab)
    }

    fn tree(&self, root: Oid) -> Option<&Tree> {
        let place = *self.roots.get(&root)?;
        self.trees[place as usize].as_ref()
    }

    fn tree_or_new(&mut self, tree: TreeRef) -> &mut Tree {
        let (trees, free) = (&mut self.trees, &mut self.free);
        let place = *self.roots.entry(tree.root).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                trees.push(None);
                u32::try_from(trees.len() - 1).expect("so many trees do not fit memory")
            })
        });
        self.trees[place as usize].get_or_insert_with(|| Tree {
            tree,
            tracked: TrackedTree::default(),
            files: Vec::new(),
            values: BlkMap::default(),
        })
    }
}

fn learn<A: Copy + Ord, B: Copy + Ord>(
    index: &mut FxHashMap<Oid, Few<A, B>>,
    oid: Oid,
    a: A,
    b: B,
) {
    match index.entry(oid) {
        Entry::Vacant(place) => drop(place.insert(Few::One(a, b))),
        Entry::Occupied(mut known) => known.get_mut().insert(a, b),
    }
}

fn unlearn<A: Copy + Ord, B: Copy + Ord>(
    index: &mut FxHashMap<Oid, Few<A, B>>,
    oid: Oid,
    a: A,
    b: B,
) {
    if let Entry::Occupied(mut known) = index.entry(oid)
        && !known.get_mut().remove(a, b)
    {
        known.remove();
    }
}
