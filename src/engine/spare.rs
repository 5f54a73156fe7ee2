//! Buffers for pages that come back, touched before they are needed.
//!
//! What is kept is memory that was not in use: a worker that copies a page there touches it first, which is a page fault, and
//! in a guest now and then one of 40 to 60 us (kernel-note 0025). An advance waits for all of them. So there are at least as many buffers as
//! the last commits took, made by zring-notify after a commit. Who changes nothing that is cached has none after a while.
//!
//! A worker never waits for a buffer: where there is none, or somebody else is looking, it makes one.

use crate::base::limit::SPARE_BYTES_MAX;
use crate::fs::pagecache::PAGE;
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard};

/// Lengths that are kept apart: those of the last commits.
const LENGTHS_MAX: usize = 4;
/// Commits that take less gain less than making it costs others: somebody is woken for it, and 200 times a second readers saw it.
const WORTH_BYTES: usize = 128 << 10;
/// What so many commits took is made at once.
const COMMITS: usize = 4;
/// Bytes made at a time: who has something else to do does it in between.
const MADE_BYTES: usize = 64 << 10;

/// Buffers of one length.
#[derive(Debug)]
struct OfLength {
    len: usize,
    free: Vec<Vec<u8>>,
    /// Taken since the last commit, found or not.
    taken: usize,
    /// As many as the last commits took.
    wanted: usize,
    /// As many as are made when there are fewer.
    most: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spare {
    lengths: Mutex<Vec<OfLength>>,
}

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Vec<OfLength>> {
        self.lengths.lock().expect("a panic aborts")
    }

    /// Copies data to where it can stay.
    pub(super) fn copy(&self, data: &[u8]) -> Bytes {
        match self.take(data.len()) {
            Some(mut buffer) => {
                buffer.copy_from_slice(data);
                buffer.into()
            }
            None => Bytes::copy_from_slice(data),
        }
    }

    fn take(&self, len: usize) -> Option<Vec<u8>> {
        let mut lengths = self.lengths.try_lock().ok()?;
        let at = lengths.iter().position(|of| of.len == len);
        let of = match at {
            Some(at) => &mut lengths[at],
            None if lengths.len() < LENGTHS_MAX => {
                let (free, taken, wanted, most) = (Vec::new(), 0, 0, 0);
                lengths.push(OfLength {
                    len,
                    free,
                    taken,
                    wanted,
                    most,
                });
                lengths.last_mut()?
            }
            None => return None,
        };
        of.taken += 1;
        of.free.pop()
    }

    /// A commit is done: what it took the next one may take. True when that is not there.
    pub(super) fn turn(&self) -> bool {
        let mut lengths = self.lock();
        let mut bytes = 0;
        for of in &mut *lengths {
            // A single large commit is not remembered for ever.
            let before = of.wanted - of.wanted.div_ceil(16);
            let room = (SPARE_BYTES_MAX - bytes) / of.len.max(1);
            of.wanted = before.max(std::mem::take(&mut of.taken)).min(room);
            if of.wanted * of.len < WORTH_BYTES {
                of.wanted = 0;
            }
            // Several at a time: each time somebody is woken for it.
            of.most = (of.wanted * COMMITS).min(room);
            of.free.truncate(of.most);
            bytes += of.most * of.len;
        }
        lengths.retain(|of| of.wanted > 0);
        lengths.iter().any(|of| of.free.len() < of.wanted)
    }

    /// Makes some of what is wanted; false when all is there.
    pub(super) fn make(&self) -> bool {
        let next = |lengths: &[OfLength]| {
            let of = lengths.iter().find(|of| of.free.len() < of.most)?;
            let count = (MADE_BYTES / of.len.max(1)).clamp(1, of.most - of.free.len());
            Some((of.len, count))
        };
        let Some((len, count)) = next(&self.lock()) else {
            return false;
        };
        let made: Vec<Vec<u8>> = (0..count).map(|_| touched(len)).collect();
        let mut lengths = self.lock();
        if let Some(of) = lengths.iter_mut().find(|of| of.len == len) {
            let room = of.most.saturating_sub(of.free.len());
            of.free.extend(made.into_iter().take(room));
        }
        next(&lengths).is_some()
    }
}

fn touched(len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    // An allocator has zeros without touching them.
    buffer.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(spare: &Spare) -> Vec<(usize, usize)> {
        let lengths = spare.lock();
        lengths.iter().map(|of| (of.len, of.free.len())).collect()
    }

    fn commit(spare: &Spare, lens: &[usize]) {
        for &len in lens {
            assert_eq!(spare.copy(&vec![7; len]), vec![7; len]);
        }
        if spare.turn() {
            while spare.make() {}
        }
    }

    #[test]
    fn there_are_as_many_as_the_last_commits_took() {
        let spare = Spare::default();
        assert!(!spare.turn() && !spare.make());
        commit(&spare, &[4096; 100]);
        assert_eq!(free(&spare), [(4096, 400)]);
        // None are made while there are enough for the next.
        for left in [300, 200, 100] {
            commit(&spare, &[4096; 100]);
            assert_eq!(free(&spare), [(4096, left)]);
        }
        for _ in 0..100 {
            spare.copy(&[7; 4096]);
        }
        assert!(spare.turn() && spare.make());
        assert_eq!(free(&spare), [(4096, MADE_BYTES / 4096)], "not all at once");
        commit(&spare, &[&[4096][..], &[65536; 2]].concat());
        assert_eq!(free(&spare), [(4096, 4 * 93), (65536, 8)]);
        // Commits that take nothing leave nothing, small ones have none.
        for _ in 0..100 {
            commit(&spare, &[]);
        }
        assert_eq!(free(&spare), []);
        commit(&spare, &[4096; WORTH_BYTES / 4096 - 1]);
        assert_eq!(free(&spare), []);
    }

    #[test]
    fn they_are_bounded_in_bytes_and_lengths() {
        let spare = Spare::default();
        let len = SPARE_BYTES_MAX / 4;
        commit(&spare, &[len; 3]);
        commit(&spare, &[len, len, 1, 2, 3, 4, 5]);
        commit(&spare, &[len, len, len, len / 2, len / 2, len / 2]);
        let all = free(&spare);
        assert!(all.len() <= LENGTHS_MAX);
        let bytes: usize = all.iter().map(|(len, count)| len * count).sum();
        assert!(
            bytes <= SPARE_BYTES_MAX && bytes > SPARE_BYTES_MAX / 2,
            "{all:?}"
        );
    }

    #[test]
    fn nobody_waits_for_one() {
        let spare = Spare::default();
        commit(&spare, &[WORTH_BYTES; 2]);
        let held = spare.lock();
        assert_eq!(spare.copy(&[7; WORTH_BYTES]), vec![7; WORTH_BYTES]);
        drop(held);
        assert_eq!(free(&spare), [(WORTH_BYTES, 8)]);
    }
}
