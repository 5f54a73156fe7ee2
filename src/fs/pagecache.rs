//! Sums over pages that are given to the kernel, to know them again when it gives them back.
//!
//! A kernel may give back pages that nobody filled (kernel-note 0015): the start-up probe tells whether this one does, and
//! the sum is the second look.

use crate::tail::Seen;
use twox_hash::XxHash3_64;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Pages of a block.
pub fn pages(blksize: u64) -> usize {
    usize::try_from(blksize / PAGE as u64).unwrap_or(usize::MAX)
}

/// Of each whole page of `data`, wherever it is in its block. What is less than a page is left out.
pub fn hashes(data: &[u8]) -> impl Iterator<Item = u64> + '_ {
    data.chunks_exact(PAGE).map(XxHash3_64::oneshot)
}

/// Of pages of these hashes, the first of which is page `first` of its block.
pub fn sums(first: u64, hashes: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    hashes.zip(first..).map(|(hash, number)| {
        // A page that moves to another place is another page.
        let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sum = (hash ^ at).wrapping_mul(0xd6e8_feb8_6659_fd93);
        sum ^ sum >> 32
    })
}

/// The same, added up.
pub fn seen(first: u64, data: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for sum in sums(first, hashes(data)) {
        seen.add(Seen { pages: 1, sum });
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
