//! What was given to the kernel of a block: how many pages, and a sum over what they say.
//!
//! Pages come in any order and in any pieces, so each page has a sum of its own, and that of a block is theirs added up. A page that was
//! given twice counts twice. What mostly happens twice is known all the same: a block as a whole, and one or two runs of its pages beside
//! that, where two who filled the block met, or where pages were let go and read again.

use rustc_hash::FxHashSet;

/// Sums that are looked at for two runs: a quarter of a block of 2 MiB, 0.5 ms.
const LOOKS_MAX: usize = 1 << 15;

/// Pages of a block, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many.
    pub pages: u32,
    /// Their sum.
    pub sum: u64,
}

impl Seen {
    /// Adds pages.
    pub fn add(&mut self, more: Self) {
        self.pages = self.pages.saturating_add(more.pages);
        self.sum = self.sum.wrapping_add(more.sum);
    }

    /// Whether every page of a block may have been given.
    pub fn may_be_whole(self, pages: usize) -> bool {
        let given = self.pages as usize;
        given > 0 && self.pages != u32::MAX && given >= pages
    }

    /// Whether the pages of a block that came back, of these sums and in order, are those that were given.
    pub fn is_of(self, pages: &[u64]) -> bool {
        let total = pages
            .iter()
            .fold(0, |sum: u64, &page| sum.wrapping_add(page));
        if pages.is_empty() || !self.may_be_whole(pages.len()) {
            return false;
        }
        let given = self.pages as usize;
        let (times, run) = (given / pages.len(), given % pages.len());
        let left = self.sum.wrapping_sub(total.wrapping_mul(times as u64));
        // What is left is the sum of that many pages in a row, or of that many in two rows, wherever these are.
        if windows(pages, run).any(|sum| sum == left) {
            return true;
        }
        // The longer one is longer than half; to look for two long ones, or in many pages, would take milliseconds.
        let is_short = run <= pages.len() / 4 && run / 2 * pages.len() <= LOOKS_MAX;
        let most = if is_short { run / 2 } else { 0 };
        (1..=most).any(|len| {
            let short: FxHashSet<u64> = windows(pages, len).collect();
            windows(pages, run - len).any(|sum| short.contains(&left.wrapping_sub(sum)))
        })
    }
}

/// The sums of every so many in a row.
fn windows(pages: &[u64], len: usize) -> impl Iterator<Item = u64> + '_ {
    let first = pages[..len]
        .iter()
        .fold(0, |sum: u64, &page| sum.wrapping_add(page));
    let steps = pages.iter().zip(&pages[len..]);
    let rest = steps.scan(first, |sum, (&out, &into)| {
        *sum = sum.wrapping_sub(out).wrapping_add(into);
        Some(*sum)
    });
    std::iter::once(first).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: [u64; 5] = [5, u64::MAX, 7, 1 << 40, 11];

    fn given(pages: impl IntoIterator<Item = usize>) -> Seen {
        let mut seen = Seen::default();
        for at in pages {
            seen.add(Seen {
                pages: 1,
                sum: BLOCK[at],
            });
        }
        seen
    }

    #[test]
    fn a_block_is_known_in_any_order_and_a_piece_of_one_is_not() {
        assert!(given([3, 0, 2, 1, 4]).is_of(&BLOCK));
        assert!(!given([3, 0, 2, 1]).is_of(&BLOCK));
        assert!(!given([3, 0, 2, 1, 1]).is_of(&BLOCK));
        assert!(!Seen::default().is_of(&BLOCK));
        assert!(!given(0..5).is_of(&[]));
    }

    #[test]
    fn a_block_that_came_twice_is_known_and_one_of_which_a_run_did() {
        assert!(given((0..5).chain(0..5)).is_of(&BLOCK));
        for from in 0..5 {
            for to in from..5 {
                assert!(given((0..5).chain(from..to)).is_of(&BLOCK), "{from}..{to}");
                assert!(given((0..5).chain(0..5).chain(from..to)).is_of(&BLOCK));
            }
        }
        assert!(
            !given([0, 1, 2, 3, 4, 0, 4]).is_of(&BLOCK),
            "two runs of few pages"
        );
        assert!(
            !given([0, 1, 2, 3, 3, 3]).is_of(&BLOCK),
            "one was never given"
        );
    }

    #[test]
    fn two_runs_are_known() {
        let block: Vec<u64> = (1..=64u64)
            .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n << 7)
            .collect();
        let given = |runs: &[std::ops::Range<usize>]| {
            let mut seen = Seen::default();
            for &sum in std::iter::once(&(0..64))
                .chain(runs)
                .flat_map(|run| &block[run.clone()])
            {
                seen.add(Seen { pages: 1, sum });
            }
            seen
        };
        for runs in [
            [3..4, 9..10],
            [0..5, 40..48],
            [50..60, 62..64],
            [10..16, 8..12],
        ] {
            assert!(given(&runs).is_of(&block), "{runs:?}");
            let mut other = block.clone();
            other[30] ^= 2;
            assert!(!given(&runs).is_of(&other), "{runs:?}");
        }
        assert!(!given(&[1..2, 8..9, 20..21]).is_of(&block), "three");
        assert!(
            !given(&[0..20, 30..50]).is_of(&block),
            "too long to look for"
        );
    }

    #[test]
    fn another_page_is_seen_whatever_came_twice() {
        for at in 0..BLOCK.len() {
            let mut other = BLOCK;
            other[at] ^= 1 << 17;
            for (from, to) in [(0, 0), (1, 3), (0, 5), (3, 5)] {
                assert!(
                    !given((0..5).chain(from..to)).is_of(&other),
                    "{at}, {from}..{to}"
                );
            }
        }
        let mut moved = BLOCK;
        moved.swap(1, 2);
        assert!(
            given(0..5).is_of(&moved),
            "places are for the sums of pages to tell"
        );
    }
}
