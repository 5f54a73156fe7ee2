//! `seg-<n>`: all runs of a generation in one file, sorted by directory, and where each is.
//!
//! ```text
//!   runs            as `wire::catalog` has them
//!   index           per run: offset (8), bytes (8), bytes of its path (4), path
//!   trailer (24)    "ZrS1", CRC-32C of the index, offset of the index (8), runs (8)
//! ```
//!
//! A reader takes the index into memory and each run when it is asked for; runs are not kept. If trailer or index is damaged the runs
//! are found one after another; a run that is damaged itself is found out when it is read.

use super::CatalogError;
use crate::kernel::calls::{self, Class, Count};
use crate::wire::catalog::{CatalogFault, RUN_BYTES, Run, run_len};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = *b"ZrS1";
const TRAILER_BYTES: usize = 24;
/// A segment up to this size is brought in as a whole; of a longer one the beginning.
const AHEAD_BYTES_MAX: u64 = 256 << 20;

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    len: u64,
    path_at: usize,
    path_len: usize,
}

/// A segment that is read.
#[derive(Debug)]
pub struct Seg {
    file: File,
    name: PathBuf,
    places: Vec<Place>,
    paths: Vec<u8>,
    /// Whether the index was damaged.
    pub(super) damaged: bool,
}

impl Seg {
    /// Opens one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(name: &Path) -> Result<Self, CatalogError> {
        let file =
            calls::open_read(Class::State, name).map_err(CatalogError::io("opening", name))?;
        let mut seg = Self {
            file,
            name: name.to_owned(),
            places: Vec::new(),
            paths: Vec::new(),
            damaged: false,
        };
        let reading = CatalogError::io("reading", name);
        let size = seg.file.metadata().map_err(reading)?.len();
        if seg.index(size).is_none() {
            seg.damaged = true;
            seg.places.clear();
            seg.paths.clear();
            seg.search(size);
        }
        // Directories come in another order than runs: the disk is faster if it is told of all of them.
        calls::will_need(&seg.file, size.min(AHEAD_BYTES_MAX));
        Ok(seg)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        calls::add(Count::BytesRead, out.len());
        self.file.read_exact_at(out, at)
    }

    fn index(&mut self, size: u64) -> Option<()> {
        let mut trailer = [0; TRAILER_BYTES];
        let end = size.checked_sub(TRAILER_BYTES as u64)?;
        self.read(end, &mut trailer).ok()?;
        let u64_at =
            |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| trailer[at + i]));
        let (at, runs) = (u64_at(8), u64_at(16));
        let len = usize::try_from(end.checked_sub(at)?).ok()?;
        let mut index = vec![0; len];
        self.read(at, &mut index).ok()?;
        if trailer[..4] != MAGIC || trailer[4..8] != crc32c::crc32c(&index).to_le_bytes() {
            return None;
        }
        let mut rest = index.as_slice();
        while let Some((head, after)) = rest.split_first_chunk::<20>() {
            let word =
                |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| head[at + i]));
            let path_len = u32::from_le_bytes([16, 17, 18, 19].map(|i| head[i])) as usize;
            let (path, after) = after.split_at_checked(path_len)?;
            self.note(word(0), word(8), path);
            rest = after;
        }
        (self.places.len() as u64 == runs && rest.is_empty()).then_some(())
    }

    fn note(&mut self, at: u64, len: u64, path: &[u8]) {
        self.places.push(Place {
            at,
            len,
            path_at: self.paths.len(),
            path_len: path.len(),
        });
        self.paths.extend_from_slice(path);
    }

    /// Finds runs without the index: each says how long it is. The first that does not ends the search.
    fn search(&mut self, size: u64) {
        let mut at = 0;
        let mut bytes = Vec::new();
        while at + RUN_BYTES as u64 <= size {
            let mut head = [0; RUN_BYTES];
            let Ok(()) = self.read(at, &mut head) else {
                return;
            };
            let Ok(len) = run_len(&head) else { return };
            if len > size - at {
                return;
            }
            bytes.resize(usize::try_from(len).unwrap_or(0), 0);
            if self.read(at, &mut bytes).is_ok()
                && let Ok(run) = Run::parse(&bytes)
                && self
                    .places
                    .last()
                    .is_none_or(|last| self.path_of(last) < run.path)
            {
                self.note(at, len, run.path);
            }
            at += len;
        }
    }

    fn path_of(&self, place: &Place) -> &[u8] {
        &self.paths[place.path_at..place.path_at + place.path_len]
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all runs.
    pub fn bytes(&self) -> u64 {
        self.places.iter().map(|p| p.len).sum()
    }

    /// Bytes of a run.
    pub fn bytes_of(&self, run: usize) -> u64 {
        self.places[run].len
    }

    /// The directory of a run.
    pub fn path(&self, run: usize) -> &[u8] {
        self.path_of(&self.places[run])
    }

    /// The run of a directory, or where it would be.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, dir: &[u8]) -> Result<usize, usize> {
        self.places
            .binary_search_by(|place| self.path_of(place).cmp(dir))
    }

    /// Bytes of a run; its checksum is the caller's to look at.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(&self, run: usize, out: &mut Vec<u8>) -> Result<(), CatalogError> {
        let place = &self.places[run];
        let len = usize::try_from(place.len).map_err(|_| CatalogFault::Short)?;
        out.clear();
        out.resize(len, 0);
        self.read(place.at, out)
            .map_err(CatalogError::io("reading", &self.name))
    }
}

/// A segment that is written.
#[derive(Debug)]
pub struct SegWriter {
    out: BufWriter<File>,
    name: PathBuf,
    at: u64,
    index: Vec<u8>,
    runs: u64,
}

impl SegWriter {
    /// Begins one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(name: &Path) -> Result<Self, CatalogError> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true);
        let file =
            calls::open(Class::State, name, options).map_err(CatalogError::io("making", name))?;
        Ok(Self {
            out: BufWriter::with_capacity(1 << 20, file),
            name: name.to_owned(),
            at: 0,
            index: Vec::new(),
            runs: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CatalogError> {
        calls::add(Count::BytesWritten, bytes.len());
        let writing = CatalogError::io("writing", &self.name);
        self.out.write_all(bytes).map_err(writing)
    }

    /// Adds a run; directories come in order.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn push(&mut self, path: &[u8], run: &[u8]) -> Result<(), CatalogError> {
        self.write(run)?;
        self.index.extend_from_slice(&self.at.to_le_bytes());
        self.index
            .extend_from_slice(&(run.len() as u64).to_le_bytes());
        let len = u32::try_from(path.len()).expect("paths are bounded by depth");
        self.index.extend_from_slice(&len.to_le_bytes());
        self.index.extend_from_slice(path);
        self.at += run.len() as u64;
        self.runs += 1;
        Ok(())
    }

    /// Ends it, durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end(mut self) -> Result<(), CatalogError> {
        let index = std::mem::take(&mut self.index);
        let mut trailer = MAGIC.to_vec();
        trailer.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        trailer.extend_from_slice(&self.at.to_le_bytes());
        trailer.extend_from_slice(&self.runs.to_le_bytes());
        self.write(&index)?;
        self.write(&trailer)?;
        let writing = CatalogError::io("writing", &self.name);
        let synced = self.out.flush().and_then(|()| {
            let file = self.out.get_ref();
            calls::timed(Count::Sync, || self.name.as_path(), || file.sync_all())
        });
        synced.map_err(writing)
    }
}
