//! A value for each of some blocks, in few bytes.
//!
//! Blocks that were read mostly have neighbours that were read too. Sixteen of them share an entry of a B-tree, with values
//! side by side, as many as there are: 4 bytes beside the value where all are there, and 50 where one is. An entry for each
//! block would take 16 bytes beside a value of 8, and as much as its slack everywhere.

use super::BlkNo;
use std::collections::BTreeMap;

/// Blocks that share an entry.
const PART: u64 = 16;

/// A map from blocks to small values.
#[derive(Clone, Debug)]
pub struct BlkMap<T> {
    parts: BTreeMap<u64, Part<T>>,
}

#[derive(Clone, Debug)]
struct Part<T> {
    /// A bit for each block that has a value.
    has: u16,
    /// In order of the blocks.
    values: Box<[T]>,
}

impl<T> Default for BlkMap<T> {
    fn default() -> Self {
        let parts = BTreeMap::new();
        Self { parts }
    }
}

fn split(blk: BlkNo) -> (u64, u16) {
    (blk.0 / PART, 1 << (blk.0 % PART))
}

impl<T> Part<T> {
    /// Where the value of the block with this bit is, or would be.
    fn place(&self, bit: u16) -> Result<usize, usize> {
        let before = (self.has & (bit - 1)).count_ones() as usize;
        if self.has & bit == 0 {
            Err(before)
        } else {
            Ok(before)
        }
    }
}

impl<T: Copy> BlkMap<T> {
    /// The value of a block.
    pub fn get(&self, blk: BlkNo) -> Option<T> {
        let (at, bit) = split(blk);
        let part = self.parts.get(&at)?;
        part.place(bit).ok().map(|i| part.values[i])
    }

    /// Gives a block a value; gives back the one it had.
    pub fn insert(&mut self, blk: BlkNo, value: T) -> Option<T> {
        let (at, bit) = split(blk);
        let part = self.parts.entry(at).or_insert_with(|| Part {
            has: 0,
            values: Box::new([]),
        });
        match part.place(bit) {
            Ok(i) => Some(std::mem::replace(&mut part.values[i], value)),
            Err(i) => {
                let mut values = std::mem::take(&mut part.values).into_vec();
                values.reserve_exact(1);
                values.insert(i, value);
                (part.has, part.values) = (part.has | bit, values.into_boxed_slice());
                None
            }
        }
    }

    /// Changes the value of a block; false when it has none.
    pub fn change(&mut self, blk: BlkNo, change: impl FnOnce(&mut T)) -> bool {
        let (at, bit) = split(blk);
        let part = self.parts.get_mut(&at);
        let value = part.and_then(|part| Some(&mut part.values[part.place(bit).ok()?]));
        value.map(change).is_some()
    }

    /// Takes the value of a block.
    pub fn remove(&mut self, blk: BlkNo) -> Option<T> {
        let (at, bit) = split(blk);
        let part = self.parts.get_mut(&at)?;
        let i = part.place(bit).ok()?;
        let mut values = std::mem::take(&mut part.values).into_vec();
        let value = values.remove(i);
        (part.has, part.values) = (part.has & !bit, values.into_boxed_slice());
        if part.has == 0 {
            self.parts.remove(&at);
        }
        Some(value)
    }

    /// Whether one of these blocks, `last` included, has a value.
    pub fn meets(&self, first: BlkNo, last: BlkNo) -> bool {
        let ((lo, first), (hi, last)) = (split(first), split(last));
        self.parts.range(lo..=hi).any(|(&at, part)| {
            let from = if at == lo { !(first - 1) } else { u16::MAX };
            let to = if at == hi {
                last | (last - 1)
            } else {
                u16::MAX
            };
            part.has & from & to != 0
        })
    }

    /// How many blocks have a value.
    pub fn count(&self) -> usize {
        self.parts.values().map(|part| part.values.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn maps_agree_with_one_entry_for_each_block() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for span in [3, 40, 300] {
            let (mut map, mut twin) = (BlkMap::default(), BTreeMap::new());
            for _ in 0..20_000 {
                let mut blk = || {
                    let n = word(&mut state) % span;
                    // The greatest blocks are blocks too.
                    BlkNo(if n.is_multiple_of(2) { n } else { u64::MAX - n })
                };
                let (a, b) = (blk(), blk());
                let (first, last) = (a.min(b), a.max(b));
                assert_eq!(
                    map.meets(first, last),
                    twin.range(first..=last).next().is_some()
                );
                assert_eq!(map.get(a), twin.get(&a).copied());
                let value = word(&mut state);
                match value % 3 {
                    0 => assert_eq!(map.insert(a, value), twin.insert(a, value)),
                    1 => {
                        let is_there = twin.get_mut(&a).map(|of| *of ^= value).is_some();
                        assert_eq!(map.change(a, |of| *of ^= value), is_there);
                    }
                    _ => assert_eq!(map.remove(b), twin.remove(&b)),
                }
                assert_eq!(map.count(), twin.len());
            }
            for &blk in twin.keys() {
                map.remove(blk);
            }
            assert!(map.parts.is_empty());
        }
    }
}
