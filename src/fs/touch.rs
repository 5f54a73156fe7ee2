//! Which blocks deserve to be put into the page cache whole.
//!
//! The first page asked of a block is answered at once; whoever reads one page of a block mostly reads others
//! soon. So the block is noted here, with the bytes that READs have brought in already, and when its worker has
//! had nothing to do for a while the rest is loaded and stored. A reader that covers the block by itself gets
//! there first, and the note goes. A burst over many blocks keeps the latest [`NOTES_MAX`]; dropping one
//! costs later READs, never correctness.
//!
//! READs of one reader may come to several workers. Each notes what it answered; whoever stores a block takes the
//! others' notes of it first.

use crate::base::{BlkNo, NodeId};
use std::collections::VecDeque;
use std::ops::Range;

/// Blocks noted per worker. Beyond it nobody is reading on in the oldest.
const NOTES_MAX: usize = 64;
/// Separate ranges remembered per block; one more joins the nearest.
const RANGES_MAX: usize = 8;

/// A block that was touched and not yet stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The file.
    pub node: NodeId,
    /// The block.
    pub blk: BlkNo,
    /// Byte ranges of the block that READs brought in, sorted and apart.
    covered: [(u64, u64); RANGES_MAX],
    ranges: usize,
}

impl Touch {
    fn covered(&self) -> &[(u64, u64)] {
        &self.covered[..self.ranges]
    }

    /// Adds a range, joining what touches it. False when there is no room to remember it.
    fn cover(&mut self, mut lo: u64, mut hi: u64) {
        let mut kept = 0;
        for i in 0..self.ranges {
            let (a, b) = self.covered[i];
            if b < lo || a > hi {
                self.covered[kept] = (a, b);
                kept += 1;
            } else {
                (lo, hi) = (lo.min(a), hi.max(b));
            }
        }
        self.ranges = kept;
        if kept == RANGES_MAX {
            return; // forgotten: those pages will be stored once more
        }
        self.covered[kept] = (lo, hi);
        self.ranges += 1;
        self.covered[..self.ranges].sort_unstable();
    }

    /// Adds what another worker noted of the same block.
    pub fn join(&mut self, other: &Self) {
        for &(lo, hi) in other.covered() {
            self.cover(lo, hi);
        }
    }

    /// Page-aligned ranges of a block of `len` bytes that nobody has read yet.
    pub fn missing(&self, len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let edges = self.covered().iter().copied().chain([(len, len)]);
        let mut from = 0;
        edges.filter_map(move |(lo, hi)| {
            let gap = from..lo.min(len);
            from = hi;
            (gap.start < gap.end).then_some(gap)
        })
    }
}

/// The notes of one worker, oldest first.
#[derive(Debug)]
pub struct Touches {
    notes: VecDeque<Touch>,
}

impl Default for Touches {
    fn default() -> Self {
        Self {
            notes: VecDeque::with_capacity(NOTES_MAX + 1),
        }
    }
}

impl Touches {
    /// A READ brought `[lo, hi)` of a block of `len` bytes into the page cache.
    pub fn note(&mut self, node: NodeId, blk: BlkNo, lo: u64, hi: u64, len: u64) {
        // Readers mostly go on where they were: the latest note first.
        let found = self
            .notes
            .iter()
            .rposition(|t| t.blk == blk && t.node == node);
        if let Some(at) = found {
            let touch = &mut self.notes[at];
            touch.cover(lo, hi);
            if touch.missing(len).next().is_none() {
                self.notes.remove(at);
            }
            return;
        }
        if lo == 0 && hi >= len {
            return;
        }
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        let mut touch = Touch {
            node,
            blk,
            covered: [(0, 0); RANGES_MAX],
            ranges: 0,
        };
        touch.cover(lo, hi);
        self.notes.push_back(touch);
    }

    /// The block touched last, to be stored now.
    pub fn take(&mut self) -> Option<Touch> {
        self.notes.pop_back()
    }

    /// The note of one block, if there is one.
    pub fn remove(&mut self, node: NodeId, blk: BlkNo) -> Option<Touch> {
        let mut notes = self.notes.iter();
        let at = notes.rposition(|t| t.blk == blk && t.node == node)?;
        self.notes.remove(at)
    }

    /// Drops the notes of files that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.notes.retain(|t| keep(t.node));
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn gaps(touch: &Touch, len: u64) -> Vec<Range<u64>> {
        touch.missing(len).collect()
    }

    #[test]
    fn what_was_read_is_not_stored_again() {
        let mut touches = Touches::default();
        let mut note = |lo, hi| touches.note(NodeId(70), BlkNo(3), lo, hi, 64);
        note(8, 16);
        note(32, 40);
        note(16, 24);
        assert_eq!(gaps(&touches.take().unwrap(), 64), [0..8, 24..32, 40..64]);
        assert!(touches.take().is_none());
    }

    #[test]
    fn two_workers_that_saw_half_of_a_block_each_leave_nothing_to_do() {
        let (mut a, mut b) = (Touches::default(), Touches::default());
        for at in 0..8 {
            let touches = if at % 2 == 0 { &mut a } else { &mut b };
            touches.note(NodeId(70), BlkNo(1), at * 8, at * 8 + 8, 64);
        }
        b.note(NodeId(70), BlkNo(2), 0, 8, 64);
        let mut touch = a.take().unwrap();
        touch.join(&b.remove(touch.node, touch.blk).unwrap());
        assert_eq!(gaps(&touch, 64), []);
        assert_eq!(b.remove(touch.node, touch.blk), None);
        assert!(!b.is_empty());
    }

    #[test]
    fn a_reader_that_covers_the_block_leaves_nothing_to_do() {
        let mut touches = Touches::default();
        touches.note(NodeId(70), BlkNo(0), 0, 64, 64);
        assert!(touches.is_empty());
        for at in [0, 32, 16, 48] {
            touches.note(NodeId(70), BlkNo(0), at, at + 16, 64);
        }
        assert!(touches.is_empty());
    }

    #[test]
    fn too_many_ranges_are_stored_twice_rather_than_not_at_all() {
        let mut touches = Touches::default();
        for i in 0..32 {
            touches.note(NodeId(70), BlkNo(0), i * 16, i * 16 + 8, 512);
        }
        let touch = touches.take().unwrap();
        let total: u64 = touch.missing(512).map(|r| r.end - r.start).sum();
        assert!(total >= 256, "never more is thought covered than was read");
    }
}
