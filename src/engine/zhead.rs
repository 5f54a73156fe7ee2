//! `.wcfs/debug/zhead`: whoever has it open reads the tid of each transaction once head shows it, one line each, none left out.
//!
//! A reader that does not read delays nobody: what waits for it is bounded, and beyond that it is detached: its next read
//! fails, and it gets nothing any more.

use crate::base::{Fh, Tid, limit};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Bytes of a line: a tid and a line feed.
const LINE_BYTES: usize = 17;

/// All that have it open.
#[derive(Debug, Default)]
pub struct Zhead(Mutex<Opens>);

#[derive(Debug, Default)]
struct Opens {
    /// What is not read yet; `None` when detached.
    lines: FxHashMap<Fh, Option<VecDeque<Tid>>>,
    given: u64,
}

/// What a read gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing yet.
    Later,
    /// So many bytes.
    Bytes(usize),
    /// Nothing any more.
    Detached,
}

impl Zhead {
    fn lock(&self) -> MutexGuard<'_, Opens> {
        self.0.lock().expect("a panic aborts")
    }

    /// Opens of it.
    pub(super) fn count(&self) -> usize {
        self.lock().lines.len()
    }

    /// A new one: it is told of every transaction from now on.
    pub(super) fn open(&self) -> Fh {
        let mut opens = self.lock();
        opens.given += 1;
        let fh = Fh(opens.given);
        opens.lines.insert(fh, Some(VecDeque::new()));
        fh
    }

    /// It is closed.
    pub(super) fn release(&self, fh: Fh) {
        self.lock().lines.remove(&fh);
    }

    /// Head shows a transaction from now on, which is what `show` does. True if somebody is to be told.
    pub(super) fn show(&self, tid: Tid, show: impl FnOnce()) -> bool {
        let mut opens = self.lock();
        show();
        for lines in opens.lines.values_mut() {
            match lines {
                Some(waiting) if waiting.len() < limit::ZHEAD_LINES_MAX => waiting.push_back(tid),
                _ => *lines = None,
            }
        }
        !opens.lines.is_empty()
    }

    /// What is to be read: whole lines.
    pub(super) fn read(&self, fh: Fh, out: &mut [u8]) -> Line {
        let mut opens = self.lock();
        let Some(Some(waiting)) = opens.lines.get_mut(&fh) else {
            return Line::Detached;
        };
        let count = waiting.len().min(out.len() / LINE_BYTES);
        if count == 0 {
            return if waiting.is_empty() {
                Line::Later
            } else {
                Line::Detached
            };
        }
        for (tid, line) in waiting.drain(..count).zip(out.chunks_exact_mut(LINE_BYTES)) {
            line.copy_from_slice(format!("{tid}\n").as_bytes());
        }
        Line::Bytes(count * LINE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_every_line_from_its_open_on_and_one_that_sleeps_is_detached() {
        let zhead = Zhead::default();
        assert!(!zhead.show(Tid(1), || {}));
        let (a, mut out) = (zhead.open(), [0; 40]);
        assert_eq!(zhead.read(a, &mut out), Line::Later);
        for n in 2..5 {
            assert!(zhead.show(Tid(n), || {}));
        }
        let b = zhead.open();
        assert_eq!(zhead.read(a, &mut out), Line::Bytes(34));
        assert_eq!(&out[..34], b"0000000000000002\n0000000000000003\n");
        assert_eq!(zhead.read(a, &mut out), Line::Bytes(17));
        for n in 0..=limit::ZHEAD_LINES_MAX as u64 {
            zhead.show(Tid(5 + n), || {});
            zhead.read(a, &mut out);
        }
        assert_eq!(zhead.read(b, &mut out), Line::Detached);
        assert_eq!(zhead.read(a, &mut out), Line::Later);
        zhead.release(b);
        assert_eq!(zhead.count(), 1);
    }
}
