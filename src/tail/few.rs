//! A set that mostly has one element: who uses a node, a block.

use std::collections::BTreeSet;

/// One pair, or more. 16 bytes where the pair is a `u32` and a `u64`.
#[derive(Clone, Debug)]
pub(super) enum Few<A, B> {
    One(A, B),
    #[allow(clippy::box_collection, reason = "16 bytes for each block, not 24")]
    Many(Box<BTreeSet<(A, B)>>),
}

const _: () = assert!(size_of::<Few<u32, crate::base::BlkNo>>() == 16);

impl<A: Copy + Ord, B: Copy + Ord> Few<A, B> {
    pub(super) fn insert(&mut self, a: A, b: B) {
        match self {
            Self::One(x, y) if (*x, *y) == (a, b) => {}
            Self::One(x, y) => *self = Self::Many(Box::new(BTreeSet::from([(*x, *y), (a, b)]))),
            Self::Many(all) => drop(all.insert((a, b))),
        }
    }

    /// Takes one out; false when nothing is left.
    pub(super) fn remove(&mut self, a: A, b: B) -> bool {
        match self {
            Self::One(x, y) => (*x, *y) != (a, b),
            Self::Many(all) => {
                all.remove(&(a, b));
                if let (1, Some(&(x, y))) = (all.len(), all.first()) {
                    *self = Self::One(x, y);
                }
                true
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (A, B)> + '_ {
        let (one, many) = match self {
            Self::One(x, y) => (Some((*x, *y)), None),
            Self::Many(all) => (None, Some(all.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
