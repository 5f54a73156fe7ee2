//! What a scan itself brings into the page cache of the host, so that just this goes again: where the file system has no reads that leave
//! the cache as it is.

use crate::kernel::pages;
use std::os::fd::BorrowedFd;

/// Smallest part of a file that is kept or let go as a whole.
const PART_BYTES: u64 = 1 << 20;
/// Parts of one file, a byte each.
const PARTS_MAX: u64 = 4096;

/// Parts of a file of which nothing was in memory before it was read.
#[derive(Debug)]
pub(super) struct Brought {
    part: u64,
    absent: Vec<bool>,
    /// Parts that are dealt with.
    done: usize,
}

impl Brought {
    /// Asks, before a file of this size is read. None where nobody tells, or where nothing is to go: then all stays as it is.
    pub(super) fn of(file: BorrowedFd<'_>, size: u64) -> Option<Self> {
        let part = PART_BYTES * size.div_ceil(PART_BYTES * PARTS_MAX).max(1);
        let bytes = |i: u64| usize::try_from(part.min(size - i * part)).unwrap_or(usize::MAX);
        let parts = (0..size.div_ceil(part)).map(|i| pages::cached(file, i * part, bytes(i)));
        let absent: Result<Vec<bool>, _> = parts.map(|n| n.map(|n| n == 0)).collect();
        let absent = absent.ok().filter(|all| all.contains(&true))?;
        Some(Self {
            part,
            absent,
            done: 0,
        })
    }

    /// All before `at` is read, and hashed: what of it was not there before goes.
    pub(super) fn let_go(&mut self, file: BorrowedFd<'_>, at: u64) {
        let whole = usize::try_from(at / self.part).unwrap_or(usize::MAX);
        self.up_to(file, whole.min(self.absent.len()));
    }

    /// No more will be read.
    pub(super) fn end(mut self, file: BorrowedFd<'_>) {
        self.up_to(file, self.absent.len());
    }

    fn up_to(&mut self, file: BorrowedFd<'_>, end: usize) {
        while self.done < end {
            let begin = self.done;
            let same = self.absent[begin..end]
                .iter()
                .take_while(|absent| **absent == self.absent[begin]);
            self.done += same.count();
            if self.absent[begin] {
                let len = (self.done - begin) as u64 * self.part;
                pages::let_go(file, begin as u64 * self.part, len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_there_stays_and_the_rest_goes() {
        let path = std::env::current_exe().unwrap();
        let path = path.with_file_name(format!("brought-{}", std::process::id()));
        std::fs::write(&path, vec![1u8; 5 << 20]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        std::fs::remove_file(&path).unwrap();
        let (fd, mib) = (file.as_fd(), 1 << 20);
        pages::let_go(fd, 0, 0);
        let cached = |at, mib: usize| pages::cached(fd, at, mib << 20).unwrap();
        if cached(0, 5) > 0 {
            return eprintln!("LACKS a disk that is not memory");
        }
        let random = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM;
        nix::fcntl::posix_fadvise(fd, 0, 0, random).unwrap();
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 2 * mib).unwrap();
        assert!((1..256).contains(&cached(0, 5)));
        let before = cached(2 * mib, 1);
        let mut brought = Brought::of(fd, 5 * mib).unwrap();
        let mut all = vec![0; 5 << 20];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(cached(0, 5), 5 * 256);
        brought.let_go(fd, mib + 1);
        assert_eq!((cached(0, 1), cached(mib, 1)), (0, 256));
        brought.end(fd);
        let left = cached(2 * mib, 1);
        assert!(left >= before && cached(0, 5) == left, "only that one");
        // All there: nothing is ours.
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(Brought::of(fd, 5 * mib).is_none());
    }
}
