//! The names of a directory against its run: the record of each, and the records of names that are not there any more.
//!
//! A run is kept in the order in which the last pass met its names, and the kernel gives names of an unchanged directory in the
//! same order again. So the record of a name is mostly the next one. At the first name where it is not, a map of the run is built,
//! and from then on a name is looked up only where the next record is not it.

use crate::wire::catalog::{Entries, Entry, Run};
use rustc_hash::FxHashMap;

/// A pass over one directory.
#[derive(Debug)]
pub struct Merge<'a> {
    entries: &'a [u8],
    /// Bytes, and entries, before the one that is expected next.
    at: usize,
    index: usize,
    /// How many of the first entries were met without exception, before the map was needed.
    prefix: usize,
    met: Vec<u64>,
    map: Option<FxHashMap<&'a [u8], (usize, usize)>>,
    /// Whether what was met is exactly the run, in its order.
    in_order: bool,
}

impl<'a> Merge<'a> {
    /// Against a run, or none.
    pub fn new(run: Option<&Run<'a>>) -> Self {
        Self::over(run.map_or(&[], |run| run.entries))
    }

    /// Against these entries.
    pub fn over(entries: &'a [u8]) -> Self {
        Self {
            entries,
            at: 0,
            index: 0,
            prefix: 0,
            met: Vec::new(),
            map: None,
            in_order: true,
        }
    }

    /// The record of a name.
    #[inline]
    pub fn find(&mut self, name: &[u8]) -> Option<Entry<'a>> {
        if let Some(entry) = Entries(&self.entries[self.at..]).next()
            && entry.name == name
        {
            self.mark(self.index);
            self.at += entry.len();
            self.index += 1;
            return Some(entry);
        }
        self.look_up(name)
    }

    fn look_up(&mut self, name: &[u8]) -> Option<Entry<'a>> {
        self.in_order = false;
        if self.entries.is_empty() {
            return None;
        }
        let map = self.map.get_or_insert_with(|| places(self.entries));
        let &(at, index) = map.get(name)?;
        let entry = Entries(&self.entries[at..]).next()?;
        self.at = at + entry.len();
        self.index = index + 1;
        self.mark(index);
        Some(entry)
    }

    #[inline]
    fn mark(&mut self, index: usize) {
        if self.map.is_none() {
            self.prefix = index + 1;
            return;
        }
        let word = index / 64;
        if self.met.len() <= word {
            self.met.resize(word + 1, 0);
        }
        self.met[word] |= 1 << (index % 64);
    }

    fn was_met(&self, index: usize) -> bool {
        let word = self.met.get(index / 64).copied().unwrap_or(0);
        index < self.prefix || word & 1 << (index % 64) != 0
    }

    /// Whether every name had its record where it was expected, and no record is left over: the run need not change.
    pub fn is_exact(&self) -> bool {
        self.in_order && self.at == self.entries.len()
    }

    /// Bytes of entries before the one expected next.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Whether every name so far had its record where it was expected.
    pub fn in_order(&self) -> bool {
        self.in_order
    }

    /// Records of names that were not met. Means something only if all names of the directory were shown.
    pub fn unmet(&self) -> impl Iterator<Item = Entry<'a>> + '_ {
        let all = if self.is_exact() { &[] } else { self.entries };
        let all = Entries(all).enumerate();
        all.filter_map(|(index, entry)| (!self.was_met(index)).then_some(entry))
    }
}

fn places(entries: &[u8]) -> FxHashMap<&[u8], (usize, usize)> {
    let mut map = FxHashMap::default();
    let mut at = 0;
    for (index, entry) in Entries(entries).enumerate() {
        map.insert(entry.name, (at, index));
        at += entry.len();
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::catalog::dir_fixed;
    use std::collections::{BTreeMap, BTreeSet};

    fn entries(names: &[String]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            let len = u16::try_from(name.len()).unwrap_or_default();
            out.extend_from_slice(&dir_fixed(len));
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    #[test]
    fn an_unchanged_directory_needs_no_map() {
        let names: Vec<String> = (0..500).map(|i| format!("n{i}")).collect();
        let bytes = entries(&names);
        let mut merge = Merge::over(&bytes);
        assert!(!merge.is_exact());
        assert!(names.iter().all(|n| merge.find(n.as_bytes()).is_some()));
        assert!(merge.map.is_none() && merge.is_exact());
        assert_eq!(merge.unmet().count(), 0);
    }

    /// Against the obvious twin, a set, over random directories and random changes of them.
    #[test]
    fn any_order_finds_what_a_set_finds() {
        let mut seed = 1u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for _ in 0..400 {
            let count = below(200);
            let old: Vec<String> = (0..count).map(|i| format!("n{i}")).collect();
            let mut new = old.clone();
            for _ in 0..below(6) {
                let at = usize::try_from(below(new.len() as u64 + 1)).unwrap_or(0);
                match below(3) {
                    0 => new.insert(at, format!("x{}", below(1000))),
                    1 if at < new.len() => drop(new.remove(at)),
                    _ if !new.is_empty() => {
                        let len = new.len();
                        let other = usize::try_from(below(len as u64)).unwrap_or(0);
                        new.swap(at % len, other);
                    }
                    _ => {}
                }
            }
            new.dedup();
            let seen: BTreeSet<&String> = new.iter().collect();
            let new: Vec<&String> = {
                let mut once = BTreeMap::new();
                new.iter()
                    .filter(|n| once.insert(*n, ()).is_none())
                    .collect()
            };
            let bytes = entries(&old);
            let mut merge = Merge::over(&bytes);
            for name in &new {
                let found = merge.find(name.as_bytes()).map(|e| e.name.to_vec());
                let expected = old.contains(name).then(|| name.as_bytes().to_vec());
                assert_eq!(found, expected);
            }
            let gone: Vec<Vec<u8>> = merge.unmet().map(|e| e.name.to_vec()).collect();
            let expected: Vec<Vec<u8>> = old
                .iter()
                .filter(|n| !seen.contains(n))
                .map(|n| n.as_bytes().to_vec())
                .collect();
            assert_eq!(gone, expected);
            assert_eq!(merge.is_exact(), new == old.iter().collect::<Vec<_>>());
        }
    }
}
