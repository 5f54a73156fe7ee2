//! Buffers for reads of the database, used again and again by their thread.
//!
//! A run of a block's sub-objects is up to 1 MiB, and fresh memory of that size costs more than reading it. Slices
//! of a buffer (objects) keep it alive; when the last one goes, it goes back to the thread that drops it.

use bytes::Bytes;
use std::cell::RefCell;

/// Smaller ones are left to the allocator.
const SMALL: usize = 16 << 10;
/// Buffers a thread keeps.
const KEPT_MAX: usize = 4;
/// Larger ones are not kept.
const LARGE: usize = 2 << 20;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `len` bytes; what is in it means nothing.
pub(super) fn take(len: usize) -> Vec<u8> {
    let kept = (len > SMALL)
        .then(|| KEPT.with_borrow_mut(Vec::pop))
        .flatten();
    let mut buf = kept.unwrap_or_default();
    if buf.len() < len {
        buf.resize(len, 0);
    }
    buf.truncate(len);
    buf
}

/// The first `len` bytes of a filled buffer.
pub(super) fn freeze(mut buf: Vec<u8>, len: usize) -> Bytes {
    if buf.capacity() <= SMALL || buf.capacity() > LARGE {
        buf.truncate(len);
        return buf.into();
    }
    Bytes::from_owner(Kept(buf)).slice(..len)
}

struct Kept(Vec<u8>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let buf = std::mem::take(&mut self.0);
        // A thread that is ending keeps nothing.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_MAX {
                kept.push(buf);
            }
        });
    }
}
