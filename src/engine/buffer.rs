//! Buffers for reads of the database and for stores, used again and again.
//!
//! A run of a block's sub-objects is up to 1 MiB, and fresh memory of that size costs more than reading it; even the
//! 4 KiB of a small record cost a third of a read when they are cleared each time. Slices of a buffer (objects) keep it
//! alive; when the last one goes, it is used again: a small one by the thread that dropped it, a large one by any.

use crate::kernel::file::ReadBuf;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::cell::RefCell;
use std::sync::LazyLock;

/// Bytes of a small buffer: a record of a few KiB, and what is read with it.
const SMALL: usize = 16 << 10;
/// Small buffers a thread keeps.
const SMALL_KEPT_MAX: usize = 16;
/// Bytes of the larger ones, and how many of each are kept: parts of a run of sub-objects, those of a READ of 128 KiB, those of a piece
/// of a block, the longest run of a load or a block of the usual size. More come from the allocator, cleared, and go back to it, which
/// costs more than what is read into them.
const LARGE: [(usize, usize); 4] = [
    (64 << 10, 16),
    (160 << 10, 24),
    (320 << 10, 16),
    (2 << 20, 4),
];

thread_local! {
    static SMALL_KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

type Pool = (Sender<Vec<u8>>, Receiver<Vec<u8>>);
static LARGE_KEPT: LazyLock<[Pool; 4]> = LazyLock::new(|| LARGE.map(|(_, kept)| bounded(kept)));

/// Room for `len` bytes; what is in it means nothing.
pub fn take(len: usize) -> ReadBuf {
    let (kept, size) = if len <= SMALL {
        (SMALL_KEPT.with_borrow_mut(Vec::pop), SMALL)
    } else if let Some(at) = LARGE.iter().position(|&(size, _)| len <= size) {
        (LARGE_KEPT[at].1.try_recv().ok(), LARGE[at].0)
    } else {
        (None, len)
    };
    ReadBuf::new(kept.unwrap_or_else(|| vec![0; size]), len)
}

/// The first `len` bytes of what was read.
pub fn freeze(buf: ReadBuf, len: usize) -> Bytes {
    Bytes::from_owner(Kept(buf.into_inner())).slice(..len)
}

struct Kept(Vec<u8>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        if bytes.len() == SMALL {
            // A thread that is ending keeps nothing.
            let _ = SMALL_KEPT.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < SMALL_KEPT_MAX {
                    kept.push(bytes);
                }
            });
        } else if let Some(at) = LARGE.iter().position(|&(size, _)| bytes.len() == size) {
            drop(LARGE_KEPT[at].0.try_send(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_lives_as_long_as_a_slice_of_it_and_is_used_again() {
        for len in [5, 50_000, 100_000, 2 << 20, (2 << 20) + 1] {
            let mut buf = take(len);
            buf.fill(7);
            let slice = freeze(buf, len - 1).slice(1..4);
            let mut other = take(len);
            other.fill(8);
            assert_eq!(slice, [7; 3][..], "nobody else writes to it");
            drop(slice);
            assert_eq!(take(len).len(), len);
            assert_eq!(freeze(other, len).len(), len);
        }
        assert!(SMALL_KEPT.with_borrow(Vec::len) >= 1);
    }
}
