//! A value for each range of keys.
//!
//! Ranges lie apart; those that touch and have equal values are one, so that equal maps look equal. Both ends of
//! all keys can be in a range.

use super::span::KeyRange;
use std::collections::BTreeMap;

/// A map from keys to values that are the same for whole ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMap<V> {
    /// Last key and value of each range by its first key.
    ranges: BTreeMap<i64, (i64, V)>,
}

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        let ranges = BTreeMap::new();
        Self { ranges }
    }
}

impl<V: Copy + Eq> KeyMap<V> {
    /// The value of a key.
    pub fn get(&self, key: i64) -> Option<V> {
        self.around(key).map(|(_, value)| value)
    }

    /// The range around a key, and the value that all of it has.
    pub fn around(&self, key: i64) -> Option<(KeyRange, V)> {
        let (&first, &(last, value)) = self.ranges.range(..=key).next_back()?;
        let range = KeyRange::new(first, last)?;
        range.contains(key).then_some((range, value))
    }

    /// All ranges with their values, in order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = (KeyRange, V)> + '_ {
        let all = self.ranges.iter();
        all.filter_map(|(&first, &(last, value))| Some((KeyRange::new(first, last)?, value)))
    }

    /// The parts of a range that have a value, in order.
    pub fn within(&self, range: KeyRange) -> impl Iterator<Item = (KeyRange, V)> + '_ {
        let before = self.ranges.range(..range.first()).next_back();
        let from = self.ranges.range(range.first()..=range.last());
        let parts = before.into_iter().chain(from);
        parts.filter_map(move |(&first, &(last, value))| {
            let part = KeyRange::new(first.max(range.first()), last.min(range.last()))?;
            Some((part, value))
        })
    }

    /// Gives all keys of a range a value, whatever they had.
    pub fn set(&mut self, range: KeyRange, value: V) {
        self.remove(range);
        let (mut first, mut last) = (range.first(), range.last());
        let before = first.checked_sub(1).and_then(|key| self.around(key));
        if let Some((part, _)) = before.filter(|&(_, v)| v == value) {
            first = part.first();
        }
        let after = last.checked_add(1).and_then(|key| self.around(key));
        if let Some((part, _)) = after.filter(|&(_, v)| v == value) {
            self.ranges.remove(&part.first());
            last = part.last();
        }
        self.ranges.insert(first, (last, value));
    }

    /// Takes the values of all keys of a range away.
    pub fn remove(&mut self, range: KeyRange) {
        let ends = [range.first(), range.last()].map(|key| self.around(key));
        let firsts: Vec<_> = self.within(range).map(|(part, _)| part.first()).collect();
        for first in firsts {
            self.ranges.remove(&first);
        }
        if let Some((part, value)) = ends[0].filter(|(part, _)| part.first() < range.first()) {
            self.ranges.insert(part.first(), (range.first() - 1, value));
        }
        if let Some((part, value)) = ends[1].filter(|(part, _)| part.last() > range.last()) {
            self.ranges.insert(range.last() + 1, (part.last(), value));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Keys of the twin: both ends of all keys, and some in the middle.
    const KEYS: [i64; 12] = [
        i64::MIN,
        i64::MIN + 1,
        i64::MIN + 2,
        -1,
        0,
        1,
        2,
        3,
        4,
        i64::MAX - 2,
        i64::MAX - 1,
        i64::MAX,
    ];

    fn word(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn range(state: &mut u64) -> KeyRange {
        let mut key = || KEYS[usize::try_from(word(state) % 12).unwrap()];
        let (a, b) = (key(), key());
        KeyRange::new(a.min(b), a.max(b)).unwrap()
    }

    #[test]
    fn maps_agree_with_a_value_for_each_key() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..400 {
            let (mut map, mut twin) = (KeyMap::default(), [None; 12]);
            for _ in 0..12 {
                let r = range(&mut state);
                let value = word(&mut state) % 3;
                let given = value.checked_sub(1);
                match given {
                    Some(value) => map.set(r, value),
                    None => map.remove(r),
                }
                for (key, twin) in KEYS.iter().zip(&mut twin) {
                    if r.contains(*key) {
                        *twin = given;
                    }
                }
                assert_eq!(KEYS.map(|key| map.get(key)), twin);
                let ranges: Vec<_> = map.ranges().collect();
                for w in ranges.windows(2) {
                    let apart = w[0].0.last() < w[1].0.first() - 1;
                    let touch = w[0].0.last() == w[1].0.first() - 1;
                    assert!(apart || touch && w[0].1 != w[1].1, "{ranges:?}");
                }
                let probe = range(&mut state);
                let within: Vec<_> = map.within(probe).collect();
                for (i, &key) in KEYS.iter().enumerate() {
                    let found = within.iter().find(|(part, _)| part.contains(key));
                    let want = twin[i].filter(|_| probe.contains(key));
                    assert_eq!(found.map(|&(_, value)| value), want);
                }
            }
        }
    }
}
