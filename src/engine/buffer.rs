//! Buffers for reads of the database and for stores, used again and again.
//!
//! A run of a block's sub-objects is up to 1 MiB, and fresh memory of that size costs more than reading it. Slices
//! of a buffer (objects) keep it alive; when the last one goes, it goes back to the pool, on whatever thread.

use crate::kernel::file::ReadBuf;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::LazyLock;

/// Smaller ones are left to the allocator.
const SMALL: usize = 16 << 10;
/// Bytes of a pooled buffer: the longest run of a load, or a block of the usual size.
const POOLED: usize = 2 << 20;
/// Buffers kept; more come from the allocator and go back to it.
const KEPT_MAX: usize = 4;

type Pool = (Sender<Vec<u8>>, Receiver<Vec<u8>>);
static POOL: LazyLock<Pool> = LazyLock::new(|| bounded(KEPT_MAX));

/// Room for `len` bytes; what is in it means nothing.
pub(super) fn take(len: usize) -> ReadBuf {
    if len <= SMALL || len > POOLED {
        return ReadBuf::new(vec![0; len], len);
    }
    ReadBuf::new(POOL.1.try_recv().unwrap_or_else(|_| vec![0; POOLED]), len)
}

/// The first `len` bytes of what was read.
pub(super) fn freeze(buf: ReadBuf, len: usize) -> Bytes {
    let mut bytes = buf.into_inner();
    if bytes.len() == POOLED {
        return Bytes::from_owner(Kept(bytes)).slice(..len);
    }
    bytes.truncate(len);
    bytes.into()
}

fn give_back(bytes: Vec<u8>) {
    if bytes.len() == POOLED {
        let _ = POOL.0.try_send(bytes);
    }
}

struct Kept(Vec<u8>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_lives_as_long_as_a_slice_of_it_and_is_used_again() {
        let mut buf = take(100_000);
        buf.fill(7);
        let slice = freeze(buf, 50_000).slice(10..20);
        assert_eq!(slice, [7; 10][..]);
        drop(slice);
        assert_eq!(take(200_000).len(), 200_000);
        assert_eq!(freeze(take(5), 5).len(), 5);
        assert_eq!(freeze(take(POOLED + 1), 9).len(), 9);
    }
}
