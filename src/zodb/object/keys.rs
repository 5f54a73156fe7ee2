//! Keys of a node, in as little memory as they need.
//!
//! A large table has more nodes than a processor's caches hold, so each look at one costs a wait for memory per cache line
//! that it touches. A table that was filled in order has leaves of equal size without gaps: then keys and separators are
//! evenly spaced, and where one stands is computed.

/// Strictly increasing keys.
#[derive(Clone, Debug)]
pub(super) enum Keys {
    /// `len` of them: `first`, `first + step` and so on.
    Even { first: i64, step: u32, len: u32 },
    /// Any.
    List(Box<[i64]>),
}

impl Keys {
    /// From keys that increase strictly.
    pub(super) fn new(keys: Vec<i64>) -> Self {
        debug_assert!(keys.is_sorted_by(|a, b| a < b));
        Self::even(&keys).unwrap_or_else(|| Self::List(keys.into()))
    }

    fn even(keys: &[i64]) -> Option<Self> {
        let (&first, rest) = keys.split_first()?;
        let step = rest.first().map_or(1, |second| second.abs_diff(first));
        let is_even = keys.windows(2).all(|k| k[1].abs_diff(k[0]) == step);
        let (step, len) = (step.try_into().ok()?, keys.len().try_into().ok()?);
        is_even.then_some(Self::Even { first, step, len })
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Even { len, .. } => *len as usize,
            Self::List(keys) => keys.len(),
        }
    }

    /// The key at a place below `len`.
    pub(super) fn at(&self, i: usize) -> i64 {
        match self {
            Self::Even { first, step, len } => {
                debug_assert!(i < *len as usize);
                first + i64::from(*step) * i as i64
            }
            Self::List(keys) => keys[i],
        }
    }

    /// Number of keys that are not above `key`.
    pub(super) fn not_above(&self, key: i64) -> usize {
        match self {
            Self::Even { first, .. } if key < *first => 0,
            Self::Even { first, step, len } => {
                let last = key.abs_diff(*first) / u64::from(*step);
                usize::try_from(last)
                    .map_or(*len as usize, |n| n.saturating_add(1).min(*len as usize))
            }
            Self::List(keys) => keys.partition_point(|&k| k <= key),
        }
    }

    /// Number of keys below `key`.
    pub(super) fn below(&self, key: i64) -> usize {
        key.checked_sub(1).map_or(0, |last| self.not_above(last))
    }

    /// Where a key stands.
    pub(super) fn find(&self, key: i64) -> Option<usize> {
        let i = self.not_above(key).checked_sub(1)?;
        (self.at(i) == key).then_some(i)
    }

    /// The least and the greatest.
    pub(super) fn ends(&self) -> Option<[i64; 2]> {
        let last = self.len().checked_sub(1)?;
        Some([self.at(0), self.at(last)])
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = i64> {
        (0..self.len()).map(|i| self.at(i))
    }

    /// Bytes that are held elsewhere.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Even { .. } => 0,
            Self::List(keys) => size_of_val(&**keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zodb::sample::Rng;

    fn check(list: &[i64], even: bool) {
        let keys = Keys::new(list.to_vec());
        assert_eq!(matches!(keys, Keys::Even { .. }), even, "{list:?}");
        assert_eq!(keys.iter().collect::<Vec<_>>(), list);
        assert_eq!(keys.len(), list.len());
        let ends = list.first().zip(list.last()).map(|(&a, &b)| [a, b]);
        assert_eq!(keys.ends(), ends);
        let near = list
            .iter()
            .flat_map(|k| (-2..=2).map(|d| k.saturating_add(d)));
        for key in near.chain([i64::MIN, -1, 0, 1, i64::MAX]) {
            let below = list.iter().filter(|&&k| k < key).count();
            let not_above = list.iter().filter(|&&k| k <= key).count();
            assert_eq!(keys.below(key), below, "{key} in {list:?}");
            assert_eq!(keys.not_above(key), not_above, "{key} in {list:?}");
            let place = list.iter().position(|&k| k == key);
            assert_eq!(keys.find(key), place, "{key} in {list:?}");
        }
    }

    #[test]
    fn are_what_they_were_made_from() {
        check(&[], false);
        check(&[0, 2, 3], false);
        check(&[0, 1, 3], false);
        check(&[i64::MIN, 0, i64::MAX], false);
        check(&[i64::MIN, -1, i64::MAX - 1], false);
        let (min, max) = (i64::MIN, i64::MAX);
        for even in [&[7][..], &[min], &[max], &[min, min + 1], &[max - 1, max]] {
            check(even, true);
        }
        let mut rng = Rng(1);
        for _ in 0..500 {
            let (step, len) = (1 + rng.below(40), 1 + rng.below(60));
            let first = rng.below(2000) as i64 - 1000;
            let mut keys: Vec<i64> = (first..).step_by(step).take(len).collect();
            check(&keys, true);
            // One of them elsewhere, or left out.
            if len > 3 {
                keys.remove(1 + rng.below(len - 2));
                check(&keys, false);
            }
        }
    }
}
