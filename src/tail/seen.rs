//! What was given to the kernel of a block: how many pages, and a sum over what they say.
//!
//! Pages come in any order and in any pieces, so each page has a sum of its own, and that of a block is theirs added up. A
//! page that was given twice counts twice: of a block given twice whole, the sum is twice that of the block.

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

    /// Whether all pages of a block were given, each as often as any other, as far as can be told.
    pub fn is_whole(self, pages: u32) -> bool {
        self.pages > 0 && self.pages != u32::MAX && self.pages.is_multiple_of(pages)
    }

    /// Whether pages that came back, `block` in all, are those that were given.
    pub fn is_of(self, block: Self) -> bool {
        self.is_whole(block.pages)
            && self.sum == block.sum.wrapping_mul(u64::from(self.pages / block.pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_came_twice_whole_is_known_and_a_piece_of_one_is_not() {
        let page = |n| Seen { pages: 1, sum: n };
        let (mut seen, mut block) = (Seen::default(), Seen::default());
        for n in [5, u64::MAX, 7] {
            block.add(page(n));
        }
        assert!(!seen.is_of(block));
        for n in [7, 5] {
            seen.add(page(n));
        }
        assert!(!seen.is_of(block));
        seen.add(page(u64::MAX));
        assert!(seen.is_of(block));
        let once = seen;
        seen.add(once);
        assert!(seen.is_of(block));
        seen.add(page(5));
        assert!(!seen.is_of(block));
        assert!(!once.is_of(Seen { sum: 1, ..block }));
    }
}
