//! `.wcfs/debug/zhead`: whoever has it open reads the tid of each transaction once head shows it, one line each, none left out.
//!
//! A reader that does not read delays nobody: what waits for it is bounded, and beyond that it is detached: its next read
//! is at the end of the file, and it gets nothing any more.

use crate::base::{Fh, Tid, limit};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// All that have it open.
#[derive(Debug, Default)]
pub struct Zhead(Mutex<Opens>);

#[derive(Debug, Default)]
struct Opens {
    /// What is not read yet; `None` when detached.
    lines: FxHashMap<Fh, Option<Lines>>,
    given: u64,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<Tid>,
    /// Bytes of the first that were read already.
    read: usize,
}

/// What showing a transaction did to those that have it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Somebody is to be told.
    pub(super) any: bool,
    /// Readers that were detached just now.
    pub(super) detached: usize,
}

impl Zhead {
    fn lock(&self) -> MutexGuard<'_, Opens> {
        self.0.lock().expect("a panic aborts")
    }

    /// For who holds all locks.
    pub(super) fn hold(&self) -> impl Sized {
        self.lock()
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
        opens.lines.insert(fh, Some(Lines::default()));
        fh
    }

    /// It is closed.
    pub(super) fn release(&self, fh: Fh) {
        self.lock().lines.remove(&fh);
    }

    /// Head shows a transaction from now on, which is what `show` does.
    pub(super) fn show(&self, tid: Tid, show: impl FnOnce()) -> Told {
        let mut opens = self.lock();
        show();
        let mut detached = 0;
        for lines in opens.lines.values_mut() {
            match lines {
                Some(Lines { waiting, .. }) if waiting.len() < limit::ZHEAD_LINES_MAX => {
                    waiting.push_back(tid);
                }
                _ => detached += usize::from(lines.take().is_some()),
            }
        }
        let any = !opens.lines.is_empty();
        Told { any, detached }
    }

    /// Bytes of lines that were put into `out`, as many as there is room for; 0 when there will be none any more, `None` when there
    /// is none yet.
    pub(super) fn read(&self, fh: Fh, out: &mut [u8]) -> Option<usize> {
        let mut opens = self.lock();
        let Some(Some(Lines { waiting, read })) = opens.lines.get_mut(&fh) else {
            return Some(0);
        };
        if waiting.is_empty() {
            return None;
        }
        let mut len = 0;
        while len < out.len()
            && let Some(tid) = waiting.front()
        {
            let line = format!("{tid}\n");
            let part = &line.as_bytes()[*read..];
            let part = &part[..part.len().min(out.len() - len)];
            out[len..][..part.len()].copy_from_slice(part);
            len += part.len();
            *read += part.len();
            if *read == line.len() {
                waiting.pop_front();
                *read = 0;
            }
        }
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_every_line_from_its_open_on_and_one_that_sleeps_is_detached() {
        let zhead = Zhead::default();
        let told = |any, detached| Told { any, detached };
        assert_eq!(zhead.show(Tid(1), || {}), told(false, 0));
        let (a, mut out) = (zhead.open(), [0; 20]);
        assert_eq!(zhead.read(a, &mut out), None);
        for n in 2..5 {
            assert_eq!(zhead.show(Tid(n), || {}), told(true, 0));
        }
        let b = zhead.open();
        // A line may come in two reads.
        assert_eq!(zhead.read(a, &mut out), Some(20));
        assert_eq!(&out, b"0000000000000002\n000");
        assert_eq!(zhead.read(a, &mut out), Some(20));
        assert_eq!(&out, b"0000000000003\n000000");
        assert_eq!(zhead.read(a, &mut out), Some(11));
        assert_eq!(&out[..11], b"0000000004\n");
        let max = limit::ZHEAD_LINES_MAX as u64;
        for n in 0..max + 3 {
            let detached = usize::from(n == max);
            assert_eq!(zhead.show(Tid(5 + n), || {}), told(true, detached));
            zhead.read(a, &mut out);
        }
        assert_eq!(zhead.read(b, &mut out), Some(0));
        assert_eq!(zhead.read(a, &mut out), None);
        zhead.release(b);
        assert_eq!(zhead.count(), 1);
    }
}
