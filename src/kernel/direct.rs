//! Reads past the page cache (O_DIRECT): whether a file has them, and memory that they may go to.
//!
//! They begin at multiples of a sector in the file, go to memory that does too, and are of whole sectors. Disks have sectors of 512 or 4096 bytes;
//! what wants more refuses, and is read as usual.
//! A read beyond the end of a file gives what there is.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::AsFd;

/// What offsets, lengths and addresses are multiples of.
pub const ALIGN: usize = 4096;

/// Sets how an open regular file is read: past the page cache if that is wanted and can be. Its reads may wait, however it was opened.
/// Returns whether they pass the cache.
///
/// # Errors
/// What the system says.
pub fn set(file: impl AsFd, wanted: bool) -> io::Result<bool> {
    let set = |flags| fcntl(&file, FcntlArg::F_SETFL(flags));
    if wanted {
        match set(OFlag::O_DIRECT) {
            Ok(_) => return Ok(true),
            Err(Errno::EINVAL) => {} // its file system has none
            Err(errno) => return Err(errno.into()),
        }
    }
    set(OFlag::empty())?;
    Ok(false)
}

/// Memory that begins at a multiple of [`ALIGN`]; zeros at first. It stays where it is, whoever has it.
#[derive(Debug, Default)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// So many bytes.
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN - 1];
        let start = memory.as_ptr().addr().wrapping_neg() % ALIGN;
        let mut this = Self { memory, start };
        this.memory.truncate(start + len);
        this
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// All of them, to be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn memory_begins_at_a_multiple_and_is_as_long_as_wanted() {
        for len in [0, 1, 512, 4095, 4096, 4097, 1 << 20] {
            let mut memory = Aligned::new(len);
            assert_eq!((memory.len(), memory.bytes().len()), (len, len));
            assert_eq!(memory.bytes().as_ptr().addr() % ALIGN, 0);
            memory.bytes_mut().fill(7);
            let moved = Box::new(memory);
            assert_eq!(moved.bytes().as_ptr().addr() % ALIGN, 0);
            assert!(moved.bytes().iter().all(|&byte| byte == 7));
        }
        assert!(Aligned::default().is_empty());
    }

    #[test]
    fn a_file_has_direct_reads_or_is_read_as_usual() {
        use std::io::Read;
        // Files that nobody keeps anywhere have none.
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(!set(&file, true).unwrap());
        assert!((&file).read(&mut [0; 10]).unwrap() > 0);
        let flags = |file: &std::fs::File| {
            let flags = fcntl(file, FcntlArg::F_GETFL).unwrap();
            OFlag::from_bits_truncate(flags).contains(OFlag::O_DIRECT)
        };
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let is_direct = set(&file, true).unwrap();
        assert_eq!(flags(&file), is_direct);
        assert!(!set(&file, false).unwrap() && !flags(&file));
    }
}
