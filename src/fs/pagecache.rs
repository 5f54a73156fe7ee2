//! Sums over pages that are given to the kernel, to know them again when it gives them back.
//!
//! A kernel may give back pages that nobody filled (kernel-note 0015): the start-up probe tells whether this one does, and
//! the sum is the second look.

use crate::tail::Seen;
use twox_hash::XxHash3_64;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Pages of a block.
pub fn pages(blksize: u64) -> u32 {
    u32::try_from(blksize / PAGE as u64).unwrap_or(u32::MAX)
}

/// Whole pages of `data`, the first of them page `first` of its block. What is less than a page is left out.
pub fn seen(first: u64, data: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for (page, number) in data.chunks_exact(PAGE).zip(first..) {
        // A page that moves to another place is another page.
        let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sum = (XxHash3_64::oneshot(page) ^ at).wrapping_mul(0xd6e8_feb8_6659_fd93);
        seen.add(Seen {
            pages: 1,
            sum: sum ^ sum >> 32,
        });
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_pieces_do_not_matter_but_places_do() {
        let data = [0, 7, 14, 21].map(|byte| [byte; PAGE]).concat();
        let whole = seen(0, &data);
        assert_eq!(whole.pages, 4);
        let mut parts = seen(3, &data[3 * PAGE..]);
        parts.add(seen(0, &data[..3 * PAGE]));
        assert_eq!(parts, whole);
        let mut moved = data.clone();
        moved.rotate_left(PAGE);
        assert_ne!(seen(0, &moved), whole);
        assert_ne!(seen(0, &vec![0; 4 * PAGE]), whole);
        assert_eq!(seen(0, &data[..PAGE - 1]).pages, 0);
    }
}
