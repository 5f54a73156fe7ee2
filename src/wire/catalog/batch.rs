//! Batches of a journal: changes that are applied together or not at all. See [`super`].

use super::CatalogFault;
use super::entry::{DirWitness, Entry, Record};
use crate::base::Stamp;

/// Bytes of a batch before its operations.
pub const BATCH_BYTES: usize = 32;

/// A change of the catalog. Each may be applied any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// This is known of a file.
    Put {
        /// Its directory.
        dir: &'a [u8],
        /// Its name there.
        name: &'a [u8],
        /// What is known.
        record: Record,
    },
    /// A file is not there any more.
    Remove {
        /// Its directory.
        dir: &'a [u8],
        /// Its name there.
        name: &'a [u8],
    },
    /// A directory and all below it are not there any more.
    RemoveTree {
        /// The directory.
        path: &'a [u8],
    },
    /// A directory was read: these are its names in order, `1` (a directory) or `0`, then the name, then a zero.
    Order {
        /// The directory.
        path: &'a [u8],
        /// What it was.
        dir: DirWitness,
        /// The names.
        names: &'a [u8],
    },
}

/// Which node an operation comes from: a node that returns has a new epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The node.
    pub node: u64,
    /// Which of its lives.
    pub epoch: u64,
}

/// Operations that are applied together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ops: usize,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; BATCH_BYTES],
            ops: 0,
        }
    }

    /// Adds an operation.
    pub fn push(&mut self, op: &Op<'_>) {
        let out = &mut self.bytes;
        match *op {
            Op::Put { dir, name, record } => {
                out.push(1);
                text(out, dir);
                let len = u16::try_from(name.len()).expect("names are short");
                out.extend_from_slice(&record.fixed(len));
                out.extend_from_slice(name);
            }
            Op::Remove { dir, name } => {
                out.push(2);
                text(out, dir);
                text(out, name);
            }
            Op::RemoveTree { path } => {
                out.push(3);
                text(out, path);
            }
            Op::Order { path, dir, names } => {
                out.push(4);
                text(out, path);
                out.extend_from_slice(&dir.ino.to_le_bytes());
                for stamp in [dir.mtime, dir.ctime] {
                    out.extend_from_slice(&stamp.s.to_le_bytes());
                    out.extend_from_slice(&stamp.ns.to_le_bytes());
                }
                text(out, names);
            }
        }
        self.ops += 1;
    }

    /// Operations in it.
    pub fn len(&self) -> usize {
        self.ops
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its bytes for a journal.
    pub fn seal(&mut self, origin: Origin, seq: u64) -> &[u8] {
        let len = u32::try_from(self.bytes.len()).expect("batches are bounded far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&origin.node.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&origin.epoch.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&seq.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("texts are bounded far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A sealed batch, in place.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// Whose it is.
    pub origin: Origin,
    /// Which of its batches, from 1.
    pub seq: u64,
    ops: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Takes the first batch of `bytes` off them.
    ///
    /// # Errors
    /// It is not whole, or damaged: what follows cannot be found either.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), CatalogFault> {
        let head = bytes
            .first_chunk::<BATCH_BYTES>()
            .ok_or(CatalogFault::Short)?;
        let len = u32::from_le_bytes([0, 1, 2, 3].map(|i| head[i])) as usize;
        if len < BATCH_BYTES {
            return Err(CatalogFault::Short);
        }
        let (batch, rest) = bytes.split_at_checked(len).ok_or(CatalogFault::Short)?;
        let crc = u32::from_le_bytes([4, 5, 6, 7].map(|i| head[i]));
        if crc != crc32c::crc32c(&batch[8..]) {
            return Err(CatalogFault::Checksum);
        }
        let u64_at = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| head[at + i]));
        let sealed = Self {
            origin: Origin {
                node: u64_at(8),
                epoch: u64_at(16),
            },
            seq: u64_at(24),
            ops: &batch[BATCH_BYTES..],
        };
        Ok((sealed, rest))
    }

    /// Its operations; the first that is malformed ends them.
    pub fn ops(&self) -> Ops<'a> {
        Ops(self.ops)
    }
}

/// Operations one after another.
#[derive(Clone, Copy, Debug)]
pub struct Ops<'a>(&'a [u8]);

impl<'a> Ops<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(chunk)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(*self.take::<4>()?) as usize;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp {
            s: i64::from_le_bytes(*self.take()?),
            ns: u32::from_le_bytes(*self.take()?),
        })
    }

    fn op(&mut self, kind: u8) -> Option<Op<'a>> {
        Some(match kind {
            1 => {
                let dir = self.text()?;
                let (entry, rest) = Entry::split(self.0)?;
                self.0 = rest;
                Op::Put {
                    dir,
                    name: entry.name,
                    record: entry.record(),
                }
            }
            2 => Op::Remove {
                dir: self.text()?,
                name: self.text()?,
            },
            3 => Op::RemoveTree { path: self.text()? },
            _ => Op::Order {
                path: self.text()?,
                dir: DirWitness {
                    ino: u64::from_le_bytes(*self.take()?),
                    mtime: self.stamp()?,
                    ctime: self.stamp()?,
                },
                names: self.text()?,
            },
        })
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, CatalogFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let [kind] = *self.take::<1>()?;
        let op = match kind {
            1..=4 => self.op(kind).ok_or(CatalogFault::Short),
            other => Err(CatalogFault::Kind(other)),
        };
        if op.is_err() {
            self.0 = &[];
        }
        Some(op)
    }
}

/// Names of [`Op::Order`]: whether each is a directory, and the name.
pub fn order_names(names: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    names
        .split(|&c| c == 0)
        .filter_map(|item| item.split_first())
        .map(|(kind, name)| (*kind == b'1', name))
}

/// Adds a name to those of an [`Op::Order`].
pub fn push_order(names: &mut Vec<u8>, is_dir: bool, name: &[u8]) {
    names.push(if is_dir { b'1' } else { b'0' });
    names.extend_from_slice(name);
    names.push(0);
}
