//! Reads of the database file that never make a worker wait.
//!
//! [`read_now`] copies what the kernel has in memory and says so when it has not; the caller then hands the
//! read to its port, which completes it while the worker goes on.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;

/// Bytes to be read into: the first so many of a buffer that may be longer, so that it need not be cleared to be
/// used again.
#[derive(Debug)]
pub struct ReadBuf {
    bytes: Vec<u8>,
    len: usize,
}

impl ReadBuf {
    /// The first `len` bytes of `bytes`.
    pub fn new(bytes: Vec<u8>, len: usize) -> Self {
        assert!(len <= bytes.len(), "BUG: more to read than there is room");
        Self { bytes, len }
    }

    /// The whole buffer.
    pub fn into_inner(self) -> Vec<u8> {
        self.bytes
    }
}

impl Deref for ReadBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for ReadBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// What a read that must not wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// So many bytes, fewer than asked only at the end of the file.
    Done(usize),
    /// The disk, or a file system that cannot tell, has to be waited for.
    WouldWait,
}

/// Reads `buf.len()` bytes at `pos` if that needs no waiting.
///
/// # Errors
/// What pread(2) said.
pub fn read_now(file: &File, pos: u64, buf: &mut [u8]) -> io::Result<Now> {
    let want = buf.len();
    let iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: want,
    };
    loop {
        // SAFETY: the iovec names `buf`, borrowed for the call; the kernel writes at most its length.
        let got = unsafe {
            libc::syscall(
                libc::SYS_preadv2,
                file.as_raw_fd(),
                &raw const iov,
                1usize,
                pos,
                0usize,
                libc::RWF_NOWAIT,
            )
        };
        match usize::try_from(got) {
            Ok(got) if got == want => return Ok(Now::Done(got)),
            // Short: the end of the file, or the end of what is in memory. Only waiting tells.
            Ok(_) => return Ok(Now::WouldWait),
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS) => {
                        return Ok(Now::WouldWait);
                    }
                    _ => return Err(error),
                }
            }
        }
    }
}
