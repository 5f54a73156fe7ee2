//! Which pages of a file are in memory, and having the kernel let go of some.
//!
//! Asked by mapping the file and mincore(2), which tells also of a file that is another one underneath, as in an overlay; cachestat(2) does not,
//! and is newer. Of a file that is neither ours nor ours to write all pages are said to be there.

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Smallest page there is: an answer has a byte for each page, and no more bytes than this makes.
const PAGE_BYTES: usize = 4096;

/// How many pages of a range of a file are in memory. `at` is a multiple of any page's size.
///
/// # Errors
/// What the system says: not every file can be mapped.
pub fn cached(file: BorrowedFd<'_>, at: u64, len: usize) -> io::Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    let offset = i64::try_from(at).unwrap_or(i64::MAX);
    let mut pages = vec![0u8; len.div_ceil(PAGE_BYTES)];
    let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: a new mapping, where the kernel likes it; nothing is read there.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            read,
            shared,
            file.as_raw_fd(),
            offset,
        )
    };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is that of the mapping; `pages` has a byte for each of its pages.
    let done = unsafe { libc::mincore(map, len, pages.as_mut_ptr()) };
    let told = match done {
        0 => Ok(pages.iter().filter(|page| **page & 1 != 0).count()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: it is the mapping just made, of which nobody else knows.
    unsafe { libc::munmap(map, len) };
    told
}

/// Has the kernel let go of the clean pages of a range that nobody has mapped.
pub fn let_go(file: BorrowedFd<'_>, at: u64, len: u64) {
    let range = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    let _ = posix_fadvise(file, range(at), range(len), advice);
}
