//! The index: oid to the position of its newest record.
//!
//! An `Index` is an immutable stack of runs: a large one at the bottom, smaller ones over it, each more than
//! `RATIO` times smaller than the one below. A commit lays one more run on top and merges those that are
//! no longer much smaller than what lies under them. So a commit costs what it changes, a lookup passes
//! at most 9 runs for 10^8 objects, and whoever holds an older `Index` goes on seeing exactly that one.
//!
//! `Builder` collects what a scan meets, in any order of oids, and packs it a million at a time.
//!
//! Owned by the control thread; workers hold snapshots inside a `FileView`.

use super::table::{Packer, Table};
use crate::base::Oid;
use crate::base::limit::INDEX_PENDING_MAX;
use std::sync::Arc;

/// A run is merged with the one above it once that one has an eighth of its size.
const RATIO: usize = 8;

/// An immutable snapshot of the index.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Oldest and largest first.
    runs: Arc<[Arc<Table>]>,
}

impl Index {
    /// Position of the newest record of an object.
    pub(super) fn get(&self, oid: Oid) -> Option<u64> {
        self.runs.iter().rev().find_map(|run| run.get(oid))
    }

    /// A snapshot with one sorted run more.
    fn with_run(&self, table: Table) -> Self {
        let mut runs = self.runs.to_vec();
        let mut top = table;
        // Merging upwards from the top keeps every entry's number of copies logarithmic.
        while let Some(below) = runs.last()
            && top.len() * RATIO >= below.len()
        {
            top = Table::merge(&top, below);
            runs.pop();
        }
        if !runs.is_empty() {
            top = top.with_filter();
        }
        runs.push(Arc::new(top));
        Self { runs: runs.into() }
    }

    /// A snapshot in which `entries` hold, the later the stronger. Leaves `entries` empty.
    pub(super) fn with(&self, entries: &mut Vec<(Oid, u64)>) -> Self {
        if entries.is_empty() {
            return self.clone();
        }
        // Positions grow from entry to entry, so the last of equal oids is the newest.
        entries.sort_unstable();
        let mut out = Packer::with_capacity(entries.len());
        for (i, &(oid, pos)) in entries.iter().enumerate() {
            if entries.get(i + 1).is_none_or(|next| next.0 != oid) {
                out.push(oid, pos);
            }
        }
        entries.clear();
        self.with_run(out.finish())
    }

    /// From one table.
    pub(super) fn from_table(table: Table) -> Self {
        Self::default().with_run(table)
    }

    /// All runs merged into one, for whoever walks all entries.
    pub(super) fn flat(&self) -> Arc<Table> {
        let mut runs = self.runs.iter().rev().cloned();
        let Some(mut top) = runs.next() else {
            return Arc::default();
        };
        for below in runs {
            top = Arc::new(Table::merge(&top, &below));
        }
        top
    }

    /// An upper bound of the number of objects; exact when there is one run.
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.runs.iter().map(|run| run.memory()).sum()
    }
}

/// Collects entries, the later the stronger.
#[derive(Debug, Default)]
pub(super) struct Builder {
    index: Index,
    pending: Vec<(Oid, u64)>,
}

impl Builder {
    /// Goes on from an index.
    pub(super) fn new(index: Index) -> Self {
        let pending = Vec::new();
        Self { index, pending }
    }

    /// Adds the entries of a transaction.
    pub(super) fn extend(&mut self, entries: &[(Oid, u64)]) {
        self.pending.extend_from_slice(entries);
        if self.pending.len() >= INDEX_PENDING_MAX {
            self.index = self.index.with(&mut self.pending);
        }
    }

    /// The index of all that was added.
    pub(super) fn finish(mut self) -> Index {
        self.index.with(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// splitmix64.
    fn rnd(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*seed ^ *seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn check(index: &Index, twin: &BTreeMap<Oid, u64>, probes: &[Oid]) {
        for (&oid, &pos) in twin {
            assert_eq!(index.get(oid), Some(pos), "{oid}");
        }
        for &oid in probes {
            assert_eq!(index.get(oid), twin.get(&oid).copied(), "{oid}");
        }
        let flat: Vec<_> = index.flat().iter().collect();
        let want: Vec<_> = twin.iter().map(|(&o, &p)| (o, p)).collect();
        assert_eq!(flat, want);
    }

    #[test]
    fn a_stack_of_runs_is_the_map_at_every_commit_and_snapshots_stay() {
        for seed in 0..20u64 {
            let mut s = seed;
            let (mut index, mut twin) = (Index::default(), BTreeMap::new());
            let mut kept = Vec::new();
            let wide =
                [0xff, 0x1_ffff, 0xf_ffff_ffff, u64::MAX][usize::try_from(seed % 4).unwrap_or(0)];
            for commit in 0..120u64 {
                let mut entries = Vec::new();
                for n in 0..rnd(&mut s) % 40 {
                    entries.push((Oid(rnd(&mut s) & wide), commit << 20 | n << 8 | 4));
                }
                twin.extend(entries.iter().copied());
                index = index.with(&mut entries);
                if commit % 30 == 7 {
                    kept.push((index.clone(), twin.clone()));
                }
            }
            let probes: Vec<_> = (0..500).map(|_| Oid(rnd(&mut s) & wide)).collect();
            check(&index, &twin, &probes);
            for (index, twin) in &kept {
                check(index, twin, &probes);
            }
            assert!(index.runs.len() <= 6, "{index:?}");
        }
    }

    #[test]
    fn dense_buckets_with_holes_are_found_entry_by_entry() {
        for step in [1, 2, 3, 7, 100] {
            let mut all: Vec<_> = (5..200_000u64)
                .step_by(step)
                .map(|o| (Oid(o), o * 8))
                .collect();
            let index = Index::default().with(&mut all);
            for oid in 0..200_100u64 {
                let there = (5..200_000).contains(&oid) && (oid - 5).is_multiple_of(step as u64);
                assert_eq!(
                    index.get(Oid(oid)),
                    there.then_some(oid * 8),
                    "{oid} by {step}"
                );
            }
        }
    }

    #[test]
    fn memory_is_8_bytes_for_dense_oids_and_at_most_24_for_scattered_ones() {
        let mut s = 1;
        let mut dense: Vec<_> = (0..300_000).map(|o| (Oid(o), o + 4)).collect();
        let mut scattered: Vec<_> = (0..300_000).map(|o| (Oid(rnd(&mut s)), o + 4)).collect();
        let per_oid = |entries| Index::default().with(entries).memory() / 300_000;
        assert_eq!(per_oid(&mut dense), 8);
        assert!(per_oid(&mut scattered) <= 24);
    }
}
