//! Entries and runs: what is remembered, directory by directory. See the layouts in [`super`].

use super::CatalogFault;
use crate::base::{Digest, Stamp, Witness};

/// Bytes of an entry without its name.
pub const ENTRY_BYTES: usize = 96;
/// Bytes of a run without its path and entries.
pub const RUN_BYTES: usize = 56;
const RUN_MAGIC: [u8; 4] = *b"ZrR1";
/// Longest path of a directory from its root.
const PATH_BYTES_MAX: usize = 4 << 20;

/// What is so of an entry.
pub mod flag {
    /// The file system says when the inode was made.
    pub const BTIME: u16 = 1;
    /// The digest was taken over from elsewhere and never compared with the bytes.
    pub const IMPORTED: u16 = 2;
    /// The file may have changed after it was hashed without a sign.
    pub const RACY: u16 = 4;
    /// A directory: only its name counts.
    pub const DIR: u16 = 8;
    /// The digest is BLAKE3.
    pub const BLAKE3: u16 = 16;
    /// The bytes were found to be others, without a sign of a change: the digest is of what they were.
    pub const CORRUPT: u16 = 32;
}

/// What is remembered of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What stood for the content.
    pub witness: Witness,
    /// What the content was.
    pub digest: Digest,
    /// When, in nanoseconds since 1970.
    pub hashed_at: i64,
    /// Of [`flag`]; `BTIME` follows from the witness.
    pub flags: u16,
}

impl Record {
    /// The fixed part of an entry of `name_len` bytes of name.
    pub fn fixed(&self, name_len: u16) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let w = &self.witness;
        let btime = w.btime.unwrap_or_default();
        let flags = self.flags & !flag::BTIME | u16::from(w.btime.is_some());
        out[0..2].copy_from_slice(&name_len.to_le_bytes());
        out[2..4].copy_from_slice(&flags.to_le_bytes());
        out[4..8].copy_from_slice(&w.mtime.ns.to_le_bytes());
        out[8..12].copy_from_slice(&w.ctime.ns.to_le_bytes());
        out[12..16].copy_from_slice(&btime.ns.to_le_bytes());
        out[16..24].copy_from_slice(&w.ino.to_le_bytes());
        out[24..32].copy_from_slice(&w.size.to_le_bytes());
        out[32..40].copy_from_slice(&w.mtime.s.to_le_bytes());
        out[40..48].copy_from_slice(&w.ctime.s.to_le_bytes());
        out[48..56].copy_from_slice(&btime.s.to_le_bytes());
        out[56..64].copy_from_slice(&self.hashed_at.to_le_bytes());
        out[64..96].copy_from_slice(&self.digest.0);
        out
    }
}

/// The fixed part of an entry for a directory.
pub fn dir_fixed(name_len: u16) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    out[0..2].copy_from_slice(&name_len.to_le_bytes());
    out[2..4].copy_from_slice(&flag::DIR.to_le_bytes());
    out
}

/// One entry, in place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The fixed part.
    pub fixed: &'a [u8; ENTRY_BYTES],
    /// The name.
    pub name: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, rest) = bytes.split_first_chunk::<ENTRY_BYTES>()?;
        let len = usize::from(u16::from_le_bytes([fixed[0], fixed[1]]));
        let (name, rest) = rest.split_at_checked(len)?;
        Some((Self { fixed, name }, rest))
    }

    /// Bytes it takes.
    pub fn len(&self) -> usize {
        ENTRY_BYTES + self.name.len()
    }

    /// Never: an entry has a fixed part.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// See [`flag`].
    pub fn flags(&self) -> u16 {
        u16::from_le_bytes([self.fixed[2], self.fixed[3]])
    }

    /// Whether it is a directory, of which nothing else is remembered.
    pub fn is_dir(&self) -> bool {
        self.flags() & flag::DIR != 0
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.fixed[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.fixed[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// What stood for the content.
    #[inline]
    pub fn witness(&self) -> Witness {
        let stamp = |s, ns| Stamp {
            s: self.u64_at(s).cast_signed(),
            ns: self.u32_at(ns),
        };
        Witness {
            ino: self.u64_at(16),
            btime: (self.flags() & flag::BTIME != 0).then(|| stamp(48, 12)),
            size: self.u64_at(24),
            mtime: stamp(32, 4),
            ctime: stamp(40, 8),
        }
    }

    /// All of it, by value.
    #[inline]
    pub fn record(&self) -> Record {
        let mut digest = [0; 32];
        digest.copy_from_slice(&self.fixed[64..96]);
        Record {
            witness: self.witness(),
            digest: Digest(digest),
            hashed_at: self.u64_at(56).cast_signed(),
            flags: self.flags(),
        }
    }
}

/// Entries one after another; ends at the first that is not whole.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a>(pub &'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let (entry, rest) = Entry::split(self.0)?;
        self.0 = rest;
        Some(entry)
    }
}

/// What is known of a directory itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirWitness {
    /// Its inode number.
    pub ino: u64,
    /// When its names changed.
    pub mtime: Stamp,
    /// When its inode changed.
    pub ctime: Stamp,
}

/// A run, in place.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Path of the directory from the root; empty for the root itself.
    pub path: &'a [u8],
    /// The directory.
    pub dir: DirWitness,
    /// Number of entries.
    pub count: u32,
    /// Their bytes.
    pub entries: &'a [u8],
}

/// Bytes of the run that begins with `head`, its fixed part.
///
/// # Errors
/// It is not a run.
pub fn run_len(head: &[u8; RUN_BYTES]) -> Result<u64, CatalogFault> {
    if head[0..4] != RUN_MAGIC {
        return Err(CatalogFault::Magic);
    }
    let mut len = [0; 8];
    len.copy_from_slice(&head[8..16]);
    u64::from_le_bytes(len)
        .checked_add(16)
        .filter(|&len| len >= RUN_BYTES as u64)
        .ok_or(CatalogFault::Short)
}

impl<'a> Run<'a> {
    /// Reads the run that `bytes` are, checksum included.
    ///
    /// # Errors
    /// They are not one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CatalogFault> {
        let (head, rest) = bytes
            .split_first_chunk::<RUN_BYTES>()
            .ok_or(CatalogFault::Short)?;
        if run_len(head)? != bytes.len() as u64 {
            return Err(CatalogFault::Short);
        }
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| head[at + i]));
        if u32_at(4) != crc32c::crc32c(&bytes[8..]) {
            return Err(CatalogFault::Checksum);
        }
        let (path, entries) = usize::try_from(u32_at(20))
            .ok()
            .and_then(|len| rest.split_at_checked(len))
            .ok_or(CatalogFault::Short)?;
        let stamp = |s, ns| Stamp {
            s: u64_at(s).cast_signed(),
            ns: u32_at(ns),
        };
        Ok(Self {
            path,
            dir: DirWitness {
                ino: u64_at(24),
                mtime: stamp(32, 48),
                ctime: stamp(40, 52),
            },
            count: u32_at(16),
            entries,
        })
    }
}

/// Begins a run in `out`; entries are appended behind it, then [`end_run`] closes it.
pub fn begin_run(out: &mut Vec<u8>, path: &[u8], dir: &DirWitness) {
    assert!(path.len() <= PATH_BYTES_MAX, "paths are bounded by depth");
    let path_len = u32::try_from(path.len()).expect("just compared");
    out.extend_from_slice(&RUN_MAGIC);
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&path_len.to_le_bytes());
    out.extend_from_slice(&dir.ino.to_le_bytes());
    out.extend_from_slice(&dir.mtime.s.to_le_bytes());
    out.extend_from_slice(&dir.ctime.s.to_le_bytes());
    out.extend_from_slice(&dir.mtime.ns.to_le_bytes());
    out.extend_from_slice(&dir.ctime.ns.to_le_bytes());
    out.extend_from_slice(path);
}

/// Closes the run that begins at `start` of `out` and holds `count` entries.
pub fn end_run(out: &mut [u8], start: usize, count: u32) {
    let run = &mut out[start..];
    let len = run.len() as u64 - 16;
    run[8..16].copy_from_slice(&len.to_le_bytes());
    run[16..20].copy_from_slice(&count.to_le_bytes());
    let crc = crc32c::crc32c(&run[8..]);
    run[4..8].copy_from_slice(&crc.to_le_bytes());
}
