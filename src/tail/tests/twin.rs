//! The slow, obvious twin of history: what is tracked as sets, answers from all states written out.

use super::diff::closure;
use super::world::{Snap, World};
use crate::base::span::KeySet;
use crate::base::{BlkNo, Oid, Tid};
use crate::tail::{BlkRev, FileChange, Slice, What, Which};
use std::collections::{BTreeMap, BTreeSet};

/// What is tracked.
#[derive(Clone, Debug, Default)]
pub(super) struct Twin {
    /// Explicit blocks of each file.
    pub(super) files: BTreeMap<Oid, BTreeSet<BlkNo>>,
    /// Keys of each table.
    pub(super) keys: BTreeMap<Oid, KeySet>,
    /// Blocks that were explicit at an epoch.
    pub(super) ended: BTreeMap<(Tid, Oid), BTreeSet<BlkNo>>,
}

/// Whether a block is another one, or was written to.
fn block_changed(old: &Snap, new: &Snap, file: Oid, blk: BlkNo) -> bool {
    let [was, is] = [old, new].map(|snap| snap.table(file).unwrap().value(blk));
    was != is || is.is_some_and(|oid| new.oids.contains(&oid))
}

fn key_changed(old: &Snap, new: &Snap, root: Oid, key: i64) -> bool {
    let [was, is] = [old, new].map(|snap| snap.trees[&root].map.get(&key));
    was != is
}

impl Twin {
    /// Forgets the tables that are no file's.
    pub(super) fn drop_tables(&mut self, snap: &Snap) {
        let used: BTreeSet<_> = self.files.keys().map(|f| snap.files[f].blktab).collect();
        self.keys.retain(|root, _| used.contains(root));
    }

    /// What a commit does.
    pub(super) fn commit(&mut self, old: &Snap, new: &Snap) -> Vec<FileChange> {
        let mut changes = Vec::new();
        for (file, explicit) in std::mem::take(&mut self.files) {
            if old.files.get(&file) == new.files.get(&file) {
                self.files.insert(file, explicit);
                continue;
            }
            let ended = self.ended.entry((new.tid, file)).or_default();
            ended.extend(explicit);
            let what = What::Epoch;
            changes.push(FileChange { file, what });
        }
        self.drop_tables(new);
        for (root, keys) in &mut self.keys {
            let [old, new] = [old, new].map(|snap| &snap.trees[root].leaves);
            *keys = closure(keys, old, new);
        }
        for (&file, explicit) in &self.files {
            let root = new.files[&file].blktab;
            let all = old.trees[&root]
                .map
                .keys()
                .chain(new.trees[&root].map.keys());
            let mut tracked =
                all.filter(|key| self.keys.get(&root).is_some_and(|k| k.contains(**key)));
            let changed: Vec<_> = tracked
                .by_ref()
                .filter(|&&key| key_changed(old, new, root, key))
                .collect();
            let table = !changed.is_empty();
            let gone = changed
                .into_iter()
                .filter(|key| !new.trees[&root].map.contains_key(key));
            let removed = gone
                .max()
                .and_then(|&key| u64::try_from(key).ok())
                .map(BlkNo);
            let blocks = explicit.iter().copied();
            let blocks: Vec<_> = blocks
                .filter(|&blk| block_changed(old, new, file, blk))
                .collect();
            if table || !blocks.is_empty() {
                let blksize = new.files[&file].blksize;
                let what = What::Blocks {
                    blksize,
                    blocks,
                    table,
                    removed,
                };
                changes.push(FileChange { file, what });
            }
        }
        changes.sort_by_key(|change| change.file);
        changes
    }

    /// Adds what is tracked elsewhere.
    pub(super) fn merge(&mut self, other: Self) {
        for (file, explicit) in other.files {
            self.files.entry(file).or_default().extend(explicit);
        }
        for (root, keys) in other.keys {
            self.keys.entry(root).or_default().union(&keys);
        }
        for (end, explicit) in other.ended {
            self.ended.entry(end).or_default().extend(explicit);
        }
    }

    /// What changed in a file in `(lo, hi]`; `head` is the last state.
    pub(super) fn slice(
        &self,
        world: &World,
        file: Oid,
        (lo, hi): (Tid, Tid),
        which: Which,
    ) -> Vec<Slice> {
        let mut slices = Vec::new();
        for (old, new) in world.steps(lo, hi) {
            let epoch = old.files.get(&file) != new.files.get(&file);
            let (mut blocks, mut table) = (Vec::new(), false);
            if let Some(is) = new.files.get(&file).filter(|_| !epoch) {
                for key in self.shown(world, file, (lo, new.tid), which) {
                    let moved = key_changed(old, new, is.blktab, key);
                    table |= moved;
                    let blk = u64::try_from(key).ok().map(BlkNo);
                    blocks.extend(blk.filter(|&blk| block_changed(old, new, file, blk)));
                }
            }
            if epoch || table || !blocks.is_empty() {
                let tid = new.tid;
                slices.push(Slice {
                    tid,
                    blocks,
                    table,
                    epoch,
                });
            }
        }
        slices
    }

    /// Keys that a slice from `lo` shows of the life around `at`.
    fn shown(&self, world: &World, file: Oid, (lo, at): (Tid, Tid), which: Which) -> BTreeSet<i64> {
        let is = world.snaps[world.at(at)].files.get(&file);
        let differs = |snap: &&Snap| snap.files.get(&file) != is;
        let mut later = world.snaps.iter().filter(|snap| snap.tid > at);
        let keys = |blks: &BTreeSet<BlkNo>| -> BTreeSet<i64> {
            blks.iter()
                .map(|blk| i64::try_from(blk.0).unwrap())
                .collect()
        };
        if let Some(end) = later.find(differs) {
            let ended = self.ended.get(&(end.tid, file));
            return ended.map(keys).unwrap_or_default();
        }
        let mut shown = self.files.get(&file).map(keys).unwrap_or_default();
        if which == Which::Explicit || !self.files.contains_key(&file) {
            return shown;
        }
        let root = is.unwrap().blktab;
        let before = |snap: &&Snap| snap.tid <= at && differs(snap);
        let from = world.snaps.iter().rfind(before);
        let from = from.map_or(lo, |last| {
            let begin = world.snaps.iter().find(|snap| snap.tid > last.tid);
            lo.max(begin.unwrap().tid)
        });
        for (old, new) in world.steps(from, world.head().tid) {
            let (old_map, new_map) = (&old.trees[&root].map, &new.trees[&root].map);
            for &key in old_map.keys().chain(new_map.keys()) {
                let tracked = self.keys.get(&root).is_some_and(|keys| keys.contains(key));
                if tracked && key_changed(old, new, root, key) {
                    shown.insert(key);
                }
            }
        }
        shown
    }
}

/// When a block last changed.
pub(super) fn rev_at(world: &World, tail: Tid, file: Oid, blk: BlkNo, at: Tid) -> BlkRev {
    let table = world.snaps[world.at(at)].table(file);
    let is_there = Some(table.is_some_and(|table| table.value(blk).is_some()));
    for (old, new) in world.steps(tail, at).rev() {
        let (tid, exact) = (new.tid, true);
        let epoch = old.files.get(&file) != new.files.get(&file);
        if epoch || new.files.contains_key(&file) && block_changed(old, new, file, blk) {
            return BlkRev {
                tid,
                exact,
                is_there,
            };
        }
    }
    let (tid, exact) = (tail, false);
    BlkRev {
        tid,
        exact,
        is_there,
    }
}
