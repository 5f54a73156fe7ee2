//! Maps of files, as a client of a mount has them: to look at, and to ask what of them is in memory.
//!
//! Only for commands and tests. The daemon maps nothing of its own mount, and no database.

use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io;

/// A read-only shared map of a file that may change under it.
#[derive(Debug)]
pub struct FileMap(Mmap);

impl FileMap {
    /// Maps the first `len` bytes.
    ///
    /// # Errors
    /// What mmap(2) said.
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: bytes are only copied out by `copy`, which makes no claim that they stay the same; who uses this
        // does not map beyond the end of the file, which only grows.
        unsafe { MmapOptions::new().len(len).map(file) }.map(Self)
    }

    /// A copy of `len` bytes at `at`, faulted in as needed.
    pub fn copy(&self, at: usize, len: usize) -> Vec<u8> {
        self.0[at..at + len].to_vec()
    }

    /// Pages of the map that are in the page cache.
    ///
    /// # Errors
    /// What mincore(2) said.
    pub fn resident_pages(&self) -> io::Result<usize> {
        let mut pages = vec![0u8; self.0.len().div_ceil(4096)];
        let start = self.0.as_ptr().cast_mut().cast();
        // SAFETY: the map lives, and the vector has one byte for each of its pages.
        let done = unsafe { libc::mincore(start, self.0.len(), pages.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pages.iter().filter(|&&page| page & 1 != 0).count())
    }
}
