//! Reading a file piece by piece: a window that slides over it.
//!
//! Scans ask for a few dozen bytes at a time. Going on where the window ends, it doubles up to 4 MiB (a file
//! of small records is read sequentially); skipping ahead, over a large record, it starts with less than a page, so
//! that blocks of 4 KiB, and of 2 MiB, cost one short read per record. Going backwards it is laid around the wanted
//! bytes, because a walk backwards reads each transaction forwards.
//!
//! `ReadAt` is what a file looks like from here; tests put bytes in its place. Bytes are never mapped: the
//! writer may truncate the file at any time.

use crate::base::limit::SCAN_WINDOW_BYTES_MAX;
use std::fs::File;
use std::io;

/// The piece read first, and going backwards.
const FILL: usize = 8 << 10;
/// The piece read behind a record that was skipped: a header and, if small ones follow, some of them.
const SKIPPED: usize = 512;
/// Longest read.
const GET_MAX: usize = 64;

/// Positional reads.
pub(super) trait ReadAt {
    /// Reads at a position, as `pread` does: less than asked near the end of the file.
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize>;

    /// How long the file is now.
    fn size(&self) -> io::Result<u64>;

    /// Reads until `buf` is full or the file ends; gives the number of bytes.
    fn read_full(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], pos + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, pos)
    }

    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let from = usize::try_from(pos).map_or(self.len(), |p| p.min(self.len()));
        let n = buf.len().min(self.len() - from);
        buf[..n].copy_from_slice(&self[from..from + n]);
        Ok(n)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// A sliding window over a file.
pub(super) struct Window<'f, R: ?Sized> {
    file: &'f R,
    start: u64,
    buf: Vec<u8>,
    fill: usize,
}

impl<R: ?Sized> std::fmt::Debug for Window<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Window({} + {})", self.start, self.buf.len())
    }
}

impl<'f, R: ReadAt + ?Sized> Window<'f, R> {
    pub(super) fn new(file: &'f R) -> Self {
        Self {
            file,
            start: 0,
            buf: Vec::new(),
            fill: FILL,
        }
    }

    /// `len` bytes at `pos`, at most [`GET_MAX`]; `None` if the file ends before.
    pub(super) fn get(&mut self, pos: u64, len: usize) -> io::Result<Option<&[u8]>> {
        debug_assert!(len <= GET_MAX, "BUG: windows are for small reads");
        if self.offset(pos, len).is_none() {
            self.slide(pos)?;
        }
        Ok(self.offset(pos, len).map(|at| &self.buf[at..at + len]))
    }

    /// Where `pos` stands in the buffer, if it holds `len` bytes from there.
    fn offset(&self, pos: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(pos.checked_sub(self.start)?).ok()?;
        (at + len <= self.buf.len()).then_some(at)
    }

    fn slide(&mut self, pos: u64) -> io::Result<()> {
        let end = self.start + self.buf.len() as u64;
        self.fill = match pos {
            _ if (self.start..=end).contains(&pos) => (self.fill * 2).min(SCAN_WINDOW_BYTES_MAX),
            _ if pos > end && end > 0 => SKIPPED,
            _ => FILL,
        };
        self.start = match pos < self.start {
            true => pos.saturating_sub((self.fill / 2) as u64),
            false => pos,
        };
        self.buf.resize(self.fill, 0);
        let n = self.file.read_full(&mut self.buf, self.start);
        self.buf.truncate(*n.as_ref().unwrap_or(&0));
        n.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::Rng;
    use super::*;
    use std::cell::Cell;

    /// Bytes that count how often and how much is read.
    struct Counted<'b>(&'b [u8], Cell<(usize, usize)>);

    impl ReadAt for Counted<'_> {
        fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
            // Short reads happen.
            let len = buf.len().min(100_000);
            let n = self.0.read_at(&mut buf[..len], pos)?;
            let (times, bytes) = self.1.get();
            self.1.set((times + 1, bytes + n));
            Ok(n)
        }

        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }
    }

    #[test]
    fn any_order_of_reads_gives_the_bytes_of_the_file() {
        let bytes = Rng(1).bytes(300_000);
        let file = Counted(&bytes, Cell::default());
        let (mut window, mut rng) = (Window::new(&file), Rng(2));
        for _ in 0..20_000 {
            let pos = rng.below(310_000);
            let len = usize::try_from(rng.below(60)).unwrap();
            let from = usize::try_from(pos).unwrap();
            let wanted = bytes.get(from..from + len);
            // Nothing at all is there wherever it is asked for.
            let given = window.get(pos, len).unwrap();
            assert!(given == wanted || len == 0, "{len} at {pos}");
        }
    }

    #[test]
    fn small_records_are_read_in_large_pieces_and_large_ones_skipped() {
        let bytes = vec![0; 40 << 20];
        let read = |step: u64| {
            let file = Counted(&bytes, Cell::default());
            let mut window = Window::new(&file);
            for pos in (0..bytes.len() as u64 - 42).step_by(usize::try_from(step).unwrap()) {
                assert!(window.get(pos, 42).unwrap().is_some());
            }
            file.1.get().1
        };
        // Everything once, but for what a window holds twice at its seams and reads ahead at the end.
        assert!(read(150) < bytes.len() + (1 << 20));
        assert!(read(4150) <= bytes.len() / 4150 * SKIPPED + 2 * FILL);
        assert!(read(2 << 20) <= 21 * FILL);
    }
}
