//! Which batches of which nodes count: each once, in order, and none of a node that was removed.
//!
//! Batches are numbered from 1 by the node that makes them. A node that returns has a new epoch. Being told of a node again, of a batch again, or of
//! a node that is gone changes nothing; whatever comes, nothing here fails.

use crate::wire::catalog::Origin;
use std::collections::{BTreeMap, BTreeSet};

/// What to do about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Apply it.
    Next,
    /// It was applied.
    Repeated,
    /// Batches before it are missing.
    Gap,
    /// Its node is not a member.
    Ignored,
}

/// The nodes that are members, and how far each is.
#[derive(Clone, Debug, Default)]
pub struct Members {
    seen: BTreeMap<Origin, u64>,
    removed: BTreeSet<Origin>,
    ignored: u64,
}

impl Members {
    /// A node joins, with this many of its batches applied.
    pub fn join(&mut self, node: Origin, seq: u64) {
        if !self.removed.contains(&node) {
            let seen = self.seen.entry(node).or_default();
            *seen = seq.max(*seen);
        }
    }

    /// A node goes, for good in this epoch.
    pub fn remove(&mut self, node: Origin) {
        self.seen.remove(&node);
        self.removed.insert(node);
    }

    /// Asks about a batch; nothing is noted until [`Members::applied`].
    pub fn ask(&mut self, node: Origin, seq: u64) -> Admit {
        match self.seen.get(&node) {
            None => {
                self.ignored += 1;
                Admit::Ignored
            }
            Some(&seen) if seq <= seen => Admit::Repeated,
            Some(&seen) if seq > seen + 1 => Admit::Gap,
            Some(_) => Admit::Next,
        }
    }

    /// A batch was applied.
    pub fn applied(&mut self, node: Origin, seq: u64) {
        if let Some(seen) = self.seen.get_mut(&node) {
            *seen = seq.max(*seen);
        }
    }

    /// The last batch of a node; none of one that is not a member.
    pub fn last(&self, node: Origin) -> Option<u64> {
        self.seen.get(&node).copied()
    }

    /// Batches that were ignored.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_counts_once_and_none_of_who_is_gone() {
        let mut members = Members::default();
        let node = Origin { node: 3, epoch: 1 };
        assert_eq!(members.ask(node, 1), Admit::Ignored);
        members.join(node, 0);
        assert_eq!(members.ask(node, 2), Admit::Gap);
        assert_eq!(members.ask(node, 1), Admit::Next);
        members.applied(node, 1);
        assert_eq!(members.ask(node, 1), Admit::Repeated);
        members.join(node, 0);
        assert_eq!(members.last(node), Some(1), "told of again");
        members.remove(node);
        members.applied(node, 9);
        assert_eq!(
            (members.ask(node, 2), members.last(node)),
            (Admit::Ignored, None)
        );
        members.join(node, 0);
        assert_eq!(
            members.ask(node, 1),
            Admit::Ignored,
            "a late join of the same epoch"
        );
        members.join(Origin { node: 3, epoch: 2 }, 0);
        assert_eq!(members.ask(Origin { node: 3, epoch: 2 }, 1), Admit::Next);
        assert_eq!(members.ignored(), 3);
    }

    /// Any interleaving, with repetitions: what is applied of each member is 1, 2, 3 … without a hole.
    #[test]
    fn whatever_comes_applied_batches_have_no_holes() {
        let mut seed = 7u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        let mut members = Members::default();
        let mut applied: BTreeMap<Origin, Vec<u64>> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for _ in 0..20_000 {
            let node = Origin {
                node: below(3),
                epoch: below(3),
            };
            match below(20) {
                0 => members.join(node, 0),
                1 if below(20) == 0 => {
                    members.remove(node);
                    gone.insert(node);
                }
                _ => {
                    let seq = 1 + below(40);
                    if members.ask(node, seq) == Admit::Next {
                        assert!(!gone.contains(&node));
                        applied.entry(node).or_default().push(seq);
                        members.applied(node, seq);
                    }
                }
            }
        }
        assert!(!applied.is_empty());
        for list in applied.values() {
            assert!(list.iter().zip(1..).all(|(a, b)| *a == b), "{list:?}");
        }
    }
}
