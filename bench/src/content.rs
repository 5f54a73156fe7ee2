//! What the files of the bench hold: every word tells which file and which offset it belongs to.

/// The word at a byte offset that is a multiple of 8. Its last byte is never 0: nothing is stripped.
pub fn word(tag: u64, offset: u64) -> u64 {
    let mut z = (tag << 56 ^ offset).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31) | 1 << 56
}

/// Fills `out`, whose length is a multiple of 8, with the content from `offset` on.
pub fn fill(tag: u64, offset: u64, out: &mut [u8]) {
    for (chunk, at) in out.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
        *chunk = word(tag, offset + at * 8).to_le_bytes();
    }
}

/// A generator of numbers that look random, the same in every run.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        word(0xa5, self.0.wrapping_mul(8)) ^ word(0x5a, self.0.wrapping_mul(8)) << 8
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(n)) >> 64)
            .try_into()
            .unwrap_or(0)
    }

    /// All numbers below `n` in an order that looks random.
    pub fn order(&mut self, n: u64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..n).collect();
        for i in (1..all.len()).rev() {
            let j = self.below(i as u64 + 1);
            all.swap(i, usize::try_from(j).unwrap_or(0));
        }
        all
    }
}
