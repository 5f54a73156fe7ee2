//! What the page cache of head files depends on (I1), as a worker tells it.
//!
//! Before a worker answers anything about a head file it notes what the answer depends on: the leaf of the block table that
//! answers for the block, with its path; the block, and the object it was made from. Notes go to control, which owns the
//! history ([`crate::tail`]). A leaf is noted once: whatever a commit does to the tree, keys that are tracked stay tracked.
//!
//! [`Depends`] is what a worker itself has to know: which files it has to look at again when an object changes.

use crate::base::span::{KeyRange, KeySet};
use crate::base::{BlkNo, NodeId, Oid};
use crate::tail::Seen;
use crate::zodb::BigFile;
use crate::zodb::btree::{Coverage, PathNode};
use rustc_hash::FxHashMap;

/// To the history, in the order in which a worker came to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// What follows is as of the state of this number.
    Taken(u64),
    /// A node is this big file.
    File {
        /// The node.
        node: NodeId,
        /// The ZBigFile.
        oid: Oid,
        /// What it says.
        file: BigFile,
    },
    /// A leaf of a file's block table was looked into.
    Leaf {
        /// The ZBigFile.
        oid: Oid,
        /// From the root to the leaf.
        path: Box<[PathNode]>,
    },
    /// Pages of a block are being given to the kernel.
    Block {
        /// The ZBigFile.
        oid: Oid,
        /// Which.
        blk: BlkNo,
        /// What it was made from; `None` for a hole.
        value: Option<Oid>,
        /// The pages.
        seen: Seen,
    },
    /// Pages behind the end of the file were asked for: the kernel fills them with zeros and keeps them, and the file may
    /// grow over them.
    Beyond {
        /// The ZBigFile.
        oid: Oid,
        /// First block that is not there.
        first: BlkNo,
        /// Last one that the pages reach into.
        last: BlkNo,
    },
}

/// A block that an answer was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Which.
    pub blk: BlkNo,
    /// What it was made from; `None` for a hole.
    pub value: Option<Oid>,
}

/// What one answer was made from. Kept by the worker, so that answers allocate nothing but notes of new leaves.
#[derive(Debug, Default)]
pub struct Trail {
    /// Blocks, in order.
    pub blocks: Vec<Looked>,
    /// Leaves that are not noted yet, each with its path.
    pub leaves: Vec<Box<[PathNode]>>,
    /// Of the look-up under way.
    pub path: Vec<PathNode>,
}

impl Trail {
    /// Starts anew.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.leaves.clear();
    }

    /// Takes the leaf that `path` leads to, unless it is noted or taken already.
    pub fn leaf(&mut self, noted: &KeySet) {
        let Some(range) = self.path.last().and_then(|leaf| range_of(leaf.cover)) else {
            return;
        };
        let last = self.leaves.last().and_then(|leaf| leaf.last());
        if !noted.covers(range) && last != self.path.last() {
            self.leaves.push(self.path[..].into());
        }
    }
}

/// The keys a leaf answers for.
pub fn range_of(cover: Coverage) -> Option<KeyRange> {
    KeyRange::new(cover.lo, cover.last()?)
}

/// Which files have to be looked at again when an object changes: those whose size was found through it.
#[derive(Debug, Default)]
pub struct Depends {
    files: FxHashMap<Oid, Vec<NodeId>>,
    objects: FxHashMap<NodeId, Vec<Oid>>,
}

impl Depends {
    /// What is known of `file` depends on `oids`, and on nothing else any more.
    pub fn note(&mut self, file: NodeId, oids: &[Oid]) {
        self.forget(file);
        let mut oids = oids.to_vec();
        oids.sort_unstable();
        oids.dedup();
        for &oid in &oids {
            self.files.entry(oid).or_default().push(file);
        }
        self.objects.insert(file, oids);
    }

    /// These objects changed (`None`: any may have): the files that depend on them, which do no longer.
    pub fn take_touched(&mut self, changed: Option<&[Oid]>) -> Vec<NodeId> {
        let mut touched: Vec<NodeId> = match changed {
            Some(oids) => {
                let files = oids.iter().filter_map(|oid| self.files.get(oid));
                files.flatten().copied().collect()
            }
            None => self.objects.keys().copied().collect(),
        };
        touched.sort_unstable();
        touched.dedup();
        for &file in &touched {
            self.forget(file);
        }
        touched
    }

    /// Nothing is known of the file any more.
    pub fn forget(&mut self, file: NodeId) {
        for oid in self.objects.remove(&file).unwrap_or_default() {
            if let Some(files) = self.files.get_mut(&oid) {
                files.retain(|&f| f != file);
                if files.is_empty() {
                    self.files.remove(&oid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_looked_at_again_when_what_it_was_read_through_changes() {
        let mut depends = Depends::default();
        depends.note(NodeId(70), &[Oid(1), Oid(2), Oid(1)]);
        depends.note(NodeId(71), &[Oid(2), Oid(u64::MAX)]);
        assert_eq!(depends.take_touched(Some(&[Oid(3)])), []);
        assert_eq!(
            depends.take_touched(Some(&[Oid(9), Oid(u64::MAX)])),
            [NodeId(71)]
        );
        assert_eq!(depends.take_touched(Some(&[Oid(2)])), [NodeId(70)]);
        assert_eq!(depends.take_touched(Some(&[Oid(1), Oid(2)])), []);
        depends.note(NodeId(70), &[Oid(1)]);
        depends.note(NodeId(70), &[Oid(5)]);
        assert_eq!(depends.take_touched(Some(&[Oid(1)])), []);
        assert_eq!(depends.take_touched(None), [NodeId(70)]);
        assert!(depends.files.is_empty() && depends.objects.is_empty());
    }

    #[test]
    fn a_leaf_is_noted_once() {
        let node = |oid, lo, hi| PathNode {
            oid: Oid(oid),
            cover: Coverage { lo, hi },
        };
        let (mut trail, mut noted) = (Trail::default(), KeySet::default());
        trail.path = vec![node(1, i64::MIN, None), node(2, i64::MIN, Some(5))];
        trail.leaf(&noted);
        trail.leaf(&noted);
        assert_eq!(trail.leaves.len(), 1);
        noted.insert(range_of(trail.path[1].cover).expect("it has keys"));
        trail.clear();
        trail.leaf(&noted);
        assert_eq!(trail.leaves.len(), 0);
    }
}
