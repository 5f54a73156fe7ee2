//! What a commit did to what is tracked.
//!
//! First it is found out, looking at the states before and after; nothing is touched until all of it is known. Then it
//! is applied, and what is tracked is as of the state after.

use super::btreediff::{Diff, diff};
use super::state::{Need, States, ask, ask_both};
use super::track::{Tracked, blk_of};
use crate::base::limit::NEED_MAX;
use crate::base::{BlkNo, BlkSize, Oid, Tid};
use crate::zodb::{Step, ZodbError, bigfile};
use roaring::RoaringTreemap;
use std::collections::BTreeMap;

/// What a commit did to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The file.
    pub file: Oid,
    /// What happened to it.
    pub what: What,
}

/// What can happen to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was written to.
    Blocks {
        /// Bytes of one.
        blksize: BlkSize,
        /// Explicit blocks that changed, in order.
        blocks: Vec<BlkNo>,
        /// Some tracked key of the table changed: so may have the size.
        table: bool,
        /// The last tracked block that the table leads nowhere for any more: the file may be shorter.
        removed: Option<BlkNo>,
    },
    /// It was deleted, or has another block size or table: it is forgotten, to be opened anew.
    Epoch,
    /// It or its table is damaged, and nobody can tell what changed: it is forgotten.
    Lost(ZodbError),
}

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Commit {
    /// Trees with known nodes among the changed objects.
    trees: Vec<(Oid, Diff)>,
    /// Files that are over: an epoch, or damage.
    over: BTreeMap<Oid, Option<ZodbError>>,
}

/// Explicit blocks that a file had when it was over.
pub(super) type Over = Vec<(Oid, RoaringTreemap)>;

impl Commit {
    /// Finds out what a commit did that changed `oids` and led from the first state to the second.
    pub(super) fn find<S: States + ?Sized>(
        tracked: &Tracked,
        states: &S,
        need: &mut Need,
        (old, new): (Tid, Tid),
        oids: &[Oid],
    ) -> Step<Self> {
        let (mut found, mut whole) = (Self::default(), true);
        for &file in oids {
            let Some(was) = tracked.file(file) else {
                continue;
            };
            match ask(states, need, new, |ask| bigfile::open(ask, file)) {
                Ok(Step::Need) => whole = false,
                Ok(Step::Done(is)) if is == was => {}
                Ok(Step::Done(_)) => drop(found.over.insert(file, None)),
                Err(error) => {
                    let damage = Some(error).filter(|error| !is_no_file(error));
                    found.over.insert(file, damage);
                }
            }
        }
        let mut roots = BTreeMap::<Oid, Vec<Oid>>::new();
        for &oid in oids {
            for root in tracked.trees_with(oid) {
                roots.entry(root).or_default().push(oid);
            }
        }
        for (root, nodes) in roots {
            if need.len() >= NEED_MAX {
                return Step::Need;
            }
            let files = tracked.files_of(root).iter();
            let files: Vec<_> = files
                .filter(|file| !found.over.contains_key(file))
                .collect();
            let Some((tree, known)) = tracked.tracked_tree(root).filter(|_| !files.is_empty())
            else {
                continue;
            };
            let step = ask_both(states, need, (old, new), |old, new| {
                diff(old, new, tree, known, nodes.into_iter())
            });
            match step {
                Ok(Step::Need) => whole = false,
                Ok(Step::Done(diff)) => found.trees.push((root, diff)),
                Err(error) => {
                    let lost = files.into_iter().map(|&file| (file, Some(error.clone())));
                    found.over.extend(lost);
                }
            }
        }
        if whole { Step::Done(found) } else { Step::Need }
    }

    /// Applies it; says what happened to each file, in order of their oids.
    pub(super) fn apply(&self, tracked: &mut Tracked, oids: &[Oid]) -> (Vec<FileChange>, Over) {
        let changes = self.changes(tracked, oids);
        let mut over = Vec::new();
        for &file in self.over.keys() {
            over.extend(tracked.take(file).map(|explicit| (file, explicit)));
        }
        for (root, diff) in self.trees(tracked) {
            tracked.apply(root, diff);
        }
        (changes, over)
    }

    /// What happens to each file, in order of their oids. A block that the table leads elsewhere is among the keys that
    /// change; any other one is the object that it was.
    pub(super) fn changes(&self, tracked: &Tracked, oids: &[Oid]) -> Vec<FileChange> {
        let mut changes = BTreeMap::new();
        for (&file, damage) in &self.over {
            let what = damage.clone().map_or(What::Epoch, What::Lost);
            changes.insert(file, what);
        }
        let mut written = BTreeMap::<Oid, (Vec<BlkNo>, bool, Option<BlkNo>)>::new();
        for (root, diff) in &self.trees {
            let root = *root;
            if diff.changes.is_empty() {
                continue;
            }
            let gone = diff.changes.iter().rev().filter(|(_, c)| c.new.is_none());
            let gone = gone.filter_map(|(&key, _)| blk_of(key)).next();
            for &file in tracked.files_of(root) {
                let keys = diff.changes.keys().filter_map(|&key| blk_of(key));
                let explicit = keys.filter(|&blk| tracked.is_explicit(file, blk));
                let (blocks, table, removed) = written.entry(file).or_default();
                blocks.extend(explicit);
                (*table, *removed) = (true, gone);
            }
        }
        // All of them first: each is a miss of the processor's caches, and these overlap.
        let uses: Vec<_> = oids.iter().flat_map(|&oid| tracked.uses_of(oid)).collect();
        for (root, blk) in uses {
            for &file in tracked.files_of(root) {
                if tracked.is_explicit(file, blk) {
                    written.entry(file).or_default().0.push(blk);
                }
            }
        }
        for (file, (mut blocks, table, removed)) in written {
            let Some(known) = tracked
                .file(file)
                .filter(|_| !self.over.contains_key(&file))
            else {
                continue;
            };
            blocks.sort_unstable();
            blocks.dedup();
            let blksize = known.blksize;
            let what = What::Blocks {
                blksize,
                blocks,
                table,
                removed,
            };
            changes.insert(file, what);
        }
        let changes = changes.into_iter();
        let changes = changes.map(|(file, what)| FileChange { file, what });
        changes.collect()
    }

    /// What changed in the trees that are tracked still.
    pub(super) fn trees<'s>(&'s self, tracked: &Tracked) -> Vec<(Oid, &'s Diff)> {
        let known = |(root, _): &&(Oid, Diff)| !tracked.files_of(*root).is_empty();
        let trees = self.trees.iter().filter(known);
        trees.map(|(root, diff)| (*root, diff)).collect()
    }
}

/// Whether the name denotes no file any more; all else is damage.
fn is_no_file(error: &ZodbError) -> bool {
    matches!(
        error,
        ZodbError::NoObject { .. }
            | ZodbError::NotYetCreated { .. }
            | ZodbError::Deleted { .. }
            | ZodbError::NotBigFile { .. }
    )
}
