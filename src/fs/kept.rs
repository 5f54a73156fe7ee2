//! Old pages of head files, kept until somebody looks for them.
//!
//! When a block changes, what the kernel had of it is what `@<rev>/bigfile/<oid>` says there, `rev` being the revision that
//! a client of an older view is sent to. Such a file is mostly never opened, and its node cannot be made known to the kernel from
//! here: so the pages wait here, and are stored when it is opened (kernel-note 0016). The oldest are given up first.

use crate::base::limit::KEPT_BYTES_MAX;
use crate::base::{Oid, Tid};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// A file at a revision.
pub type Place = (Oid, Tid);

/// Pages, and where they begin in the file.
pub type Piece = (u64, Bytes);

/// Those of a block: mostly one.
pub type Pieces = SmallVec<[Piece; 1]>;

/// Pieces of one block, with a number that says how old they are.
type Block = (u64, Pieces);

/// See the module.
#[derive(Debug, Default)]
pub struct Kept {
    blocks: FxHashMap<Place, Vec<Block>>,
    /// Oldest first; those that were taken may stand here still.
    order: VecDeque<(u64, Place)>,
    count: usize,
    bytes: usize,
    next: u64,
}

fn len(pieces: &[Piece]) -> usize {
    pieces.iter().map(|(_, data)| data.len()).sum()
}

impl Kept {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps pieces of one block.
    pub fn put(&mut self, place: Place, pieces: Pieces) {
        let len = len(&pieces);
        if len > KEPT_BYTES_MAX {
            return;
        }
        while self.bytes + len > KEPT_BYTES_MAX {
            self.give_up();
        }
        (self.bytes, self.count) = (self.bytes + len, self.count + 1);
        self.blocks
            .entry(place)
            .or_default()
            .push((self.next, pieces));
        self.order.push_back((self.next, place));
        self.next += 1;
        if self.order.len() > 2 * self.count + 64 {
            let blocks = &self.blocks;
            self.order.retain(|(number, place)| {
                let mut kept = blocks.get(place).into_iter().flatten();
                kept.any(|(n, _)| n == number)
            });
        }
    }

    /// Nothing is kept any more.
    pub fn clear(&mut self) {
        let next = self.next;
        *self = Self {
            next,
            ..Self::default()
        };
    }

    /// All that is kept of a file at a revision.
    pub fn take(&mut self, place: Place) -> Vec<Piece> {
        let blocks = self.blocks.remove(&place).unwrap_or_default();
        self.count -= blocks.len();
        let pieces: Vec<Piece> = blocks.into_iter().flat_map(|(_, pieces)| pieces).collect();
        self.bytes -= len(&pieces);
        pieces
    }

    /// Lets go of the oldest block.
    fn give_up(&mut self) {
        let (number, place) = self.order.pop_front().expect("what has bytes is listed");
        let Some(blocks) = self.blocks.get_mut(&place) else {
            return; // taken
        };
        let Some(at) = blocks.iter().position(|(n, _)| *n == number) else {
            return; // taken, and others came
        };
        let (_, pieces) = blocks.swap_remove(at);
        (self.bytes, self.count) = (self.bytes - len(&pieces), self.count - 1);
        if blocks.is_empty() {
            self.blocks.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn piece(off: u64, len: usize) -> Pieces {
        smallvec![(off, Bytes::from(vec![1; len]))]
    }

    #[test]
    fn the_oldest_go_first_and_what_is_taken_is_gone() {
        let mut kept = Kept::default();
        let place = |n| (Oid(1), Tid(n));
        let quarter = KEPT_BYTES_MAX / 4;
        for n in 0..5 {
            kept.put(place(n), piece(n * 4096, quarter));
        }
        assert_eq!(kept.take(place(0)), []);
        assert_eq!(kept.take(place(1)), piece(4096, quarter).to_vec());
        assert_eq!(kept.take(place(1)), []);
        kept.put(place(2), piece(0, 5));
        assert_eq!(kept.take(place(2)).len(), 2);
        assert_eq!(kept.bytes(), 2 * quarter);
        kept.put(place(9), piece(0, KEPT_BYTES_MAX + 1));
        assert_eq!(kept.take(place(9)), []);
    }

    #[test]
    fn what_was_taken_leaves_nothing_behind() {
        let mut kept = Kept::default();
        for n in 0..100_000 {
            kept.put((Oid(n), Tid(1)), piece(0, 10));
            kept.take((Oid(n), Tid(1)));
        }
        assert!(kept.is_empty() && kept.bytes() == 0 && kept.order.len() < 100);
    }
}
