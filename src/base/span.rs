//! Ranges of keys, and sets of keys made of ranges.
//!
//! A range includes both ends, so that the greatest key can be in one; there is no empty range. A set keeps its
//! ranges apart: ranges that touch are one, so that equal sets look equal.

use std::collections::BTreeMap;
use std::fmt;

/// Keys from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    first: i64,
    last: i64,
}

impl KeyRange {
    /// All keys.
    pub const ALL: Self = Self {
        first: i64::MIN,
        last: i64::MAX,
    };

    /// From `first` to `last`; `None` when there is no key between them.
    pub fn new(first: i64, last: i64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// A single key.
    pub fn of(key: i64) -> Self {
        let (first, last) = (key, key);
        Self { first, last }
    }

    /// Least key.
    pub fn first(self) -> i64 {
        self.first
    }

    /// Greatest key.
    pub fn last(self) -> i64 {
        self.last
    }

    /// Whether a key is in it.
    pub fn contains(self, key: i64) -> bool {
        (self.first..=self.last).contains(&key)
    }
}

impl fmt::Debug for KeyRange {
    /// `3`, `3..=5`, `..=5`, `3..` or `..`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (i64::MIN, i64::MAX) => f.write_str(".."),
            (i64::MIN, last) => write!(f, "..={last}"),
            (first, i64::MAX) => write!(f, "{first}.."),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}..={last}"),
        }
    }
}

/// A set of keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    /// Last key of each range by its first.
    ranges: BTreeMap<i64, i64>,
}

impl KeySet {
    /// Whether there is no key in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Its ranges, in order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = KeyRange> + '_ {
        let range = |(&first, &last)| KeyRange { first, last };
        self.ranges.iter().map(range)
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: i64) -> bool {
        self.around(key).is_some()
    }

    /// The range of the set that a key is in.
    pub fn around(&self, key: i64) -> Option<KeyRange> {
        let (&first, &last) = self.ranges.range(..=key).next_back()?;
        (key <= last).then_some(KeyRange { first, last })
    }

    /// Whether all keys of a range are in it.
    pub fn covers(&self, range: KeyRange) -> bool {
        self.around(range.first)
            .is_some_and(|around| range.last <= around.last)
    }

    /// Whether some key of a range is in it.
    pub fn meets(&self, range: KeyRange) -> bool {
        self.within(range).next().is_some()
    }

    /// The parts of a range that are in it, in order.
    pub fn within(&self, range: KeyRange) -> impl Iterator<Item = KeyRange> + '_ {
        let before = self.ranges.range(..range.first).next_back();
        let from = self.ranges.range(range.first..=range.last);
        let parts = before.into_iter().chain(from);
        parts.filter_map(move |(&first, &last)| {
            KeyRange::new(first.max(range.first), last.min(range.last))
        })
    }

    /// The parts of a range that are not in it, in order.
    pub fn outside(&self, range: KeyRange) -> impl Iterator<Item = KeyRange> + '_ {
        let mut next = Some(range.first);
        let ends = self.within(range).map(Some).chain([None]);
        ends.filter_map(move |part| {
            let from = next?;
            let Some(part) = part else {
                return KeyRange::new(from, range.last);
            };
            next = part.last.checked_add(1);
            KeyRange::new(from, part.first.checked_sub(1)?)
        })
    }

    /// Adds all keys of a range.
    pub fn insert(&mut self, range: KeyRange) {
        let KeyRange {
            mut first,
            mut last,
        } = range;
        // Whatever overlaps or touches becomes part of it.
        let (lo, hi) = (first.saturating_sub(1), last.saturating_add(1));
        let touched: Vec<_> = self
            .within(KeyRange {
                first: lo,
                last: hi,
            })
            .filter_map(|part| self.around(part.first))
            .collect();
        for part in touched {
            self.ranges.remove(&part.first);
            (first, last) = (first.min(part.first), last.max(part.last));
        }
        self.ranges.insert(first, last);
    }

    /// Takes all keys of a range out.
    pub fn remove(&mut self, range: KeyRange) {
        let met: Vec<_> = self
            .within(range)
            .filter_map(|part| self.around(part.first))
            .collect();
        for part in met {
            self.ranges.remove(&part.first);
            for rest in [
                range.first.checked_sub(1).map(|last| (part.first, last)),
                range.last.checked_add(1).map(|first| (first, part.last)),
            ] {
                if let Some((first, last)) = rest.filter(|(first, last)| first <= last) {
                    self.ranges.insert(first, last);
                }
            }
        }
    }

    /// Adds all keys of another set.
    pub fn union(&mut self, other: &Self) {
        other.ranges().for_each(|range| self.insert(range));
    }

    /// Takes all keys of another set out.
    pub fn subtract(&mut self, other: &Self) {
        other.ranges().for_each(|range| self.remove(range));
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ranges()).finish()
    }
}

impl FromIterator<KeyRange> for KeySet {
    fn from_iter<T: IntoIterator<Item = KeyRange>>(ranges: T) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::collections::BTreeSet;

    /// Keys of the twin: both ends of all keys, and some in the middle.
    const KEYS: [i64; 14] = [
        i64::MIN,
        i64::MIN + 1,
        i64::MIN + 2,
        -1,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
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
        let mut key = || KEYS[usize::try_from(word(state) % 14).unwrap()];
        let (a, b) = (key(), key());
        KeyRange::new(a.min(b), a.max(b)).unwrap()
    }

    fn of(set: &KeySet) -> BTreeSet<i64> {
        KEYS.into_iter().filter(|&key| set.contains(key)).collect()
    }

    #[test]
    fn sets_agree_with_sets_of_single_keys() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..400 {
            let (mut set, mut twin) = (KeySet::default(), BTreeSet::new());
            for _ in 0..12 {
                let r = range(&mut state);
                if word(&mut state).is_multiple_of(3) {
                    set.remove(r);
                    twin.retain(|&key| !r.contains(key));
                } else {
                    set.insert(r);
                    twin.extend(KEYS.into_iter().filter(|&key| r.contains(key)));
                }
                assert_eq!(of(&set), twin);
                let ranges: Vec<_> = set.ranges().collect();
                let apart = |w: &[KeyRange]| w[0].last < w[1].first - 1;
                assert!(ranges.windows(2).all(apart), "{set:?}");
                let again: KeySet = ranges.iter().rev().copied().collect();
                assert_eq!(again, set);

                let probe = range(&mut state);
                let inside: KeySet = set.within(probe).collect();
                let outside: KeySet = set.outside(probe).collect();
                let keys = KEYS.into_iter().filter(|&key| probe.contains(key));
                let (want_in, want_out) = keys.partition(|key| twin.contains(key));
                assert_eq!((of(&inside), of(&outside)), (want_in, want_out));
                assert_eq!(set.meets(probe), !inside.is_empty());
                assert_eq!(set.covers(probe), outside.is_empty());
                let (mut both, mut less) = (inside.clone(), set.clone());
                both.union(&outside);
                assert_eq!(both, KeySet::from_iter([probe]));
                less.subtract(&outside);
                assert_eq!(less, set);
                less.subtract(&inside);
                assert!(!less.meets(probe));
            }
        }
    }

    #[test]
    fn ranges_are_written_as_rust_writes_them() {
        let set: KeySet = [
            KeyRange::new(i64::MIN, 1),
            KeyRange::new(3, 5),
            KeyRange::new(7, 7),
        ]
        .into_iter()
        .flatten()
        .collect();
        assert_eq!(format!("{set:?}"), "{..=1, 3..=5, 7}");
        assert_eq!(
            format!(
                "{:?} {:?}",
                KeyRange::ALL,
                KeyRange::new(9, i64::MAX).unwrap()
            ),
            ".. 9.."
        );
        assert_eq!(KeyRange::new(2, 1), None);
    }
}
