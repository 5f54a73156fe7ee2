//! Writing a FileStorage: for the demonstration, and for tests.
//!
//! It makes files of its own and takes no lock, so it is no second writer for a database that an application has.
//! What it writes, Python reads: transactions with stored, shared (undone) and deleted objects, voted with status
//! `c` and finished by one byte, and the saved index. `prev` is looked up in the same index that readers use.
//!
//! ```text
//! begin --> Txn --vote--> Voted --finish--> committed
//!            |              \-----abort---> as if it never was
//!            \-- dropped: nothing was written
//! ```

use super::index::Index;
use super::open::beside;
use super::scan::Ends;
use crate::base::{Oid, Tid};
use crate::wire::fs1::{
    DATA_HEADER_LEN, DataHeader, MAGIC, MAGIC_LEN, Span, Status, TXN_HEADER_LEN, TxnHeader,
    WORD_LEN,
};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Tids must increase.
    #[error("transaction {tid} does not come after {last}")]
    TidOrder {
        /// Tid given.
        tid: Tid,
        /// Tid of the last transaction.
        last: Tid,
    },
    /// User, description and extension have at most 65535 bytes each.
    #[error("a text of the transaction is longer than 65535 bytes")]
    TextLength,
    /// A record without data would read as a back pointer.
    #[error("object {0} has no data")]
    Empty(Oid),
    /// What is shared or deleted must be there.
    #[error("there is no object {0}")]
    NoObject(Oid),
    /// The system failed.
    #[error("writing the database failed")]
    Io(#[from] io::Error),
}

/// What a transaction says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note<'n> {
    /// Who.
    pub user: &'n [u8],
    /// Why.
    pub description: &'n [u8],
    /// Pickled dictionary, or nothing.
    pub extension: &'n [u8],
}

/// A FileStorage that is being written.
#[derive(Debug)]
pub struct FileWriter {
    path: PathBuf,
    file: File,
    ends: Ends,
    index: Index,
    sync: bool,
}

impl FileWriter {
    /// Makes a new, empty file; there must be none.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(&MAGIC, 0)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            ends: Ends::EMPTY,
            index: Index::default(),
            sync: true,
        })
    }

    /// Whether each commit waits for the disk; at first it does.
    #[must_use]
    pub fn synced(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// The same for commits from now on.
    pub fn set_synced(&mut self, sync: bool) {
        self.sync = sync;
    }

    /// Tid of the last transaction.
    pub fn last(&self) -> Tid {
        self.ends.last
    }

    /// Begins a transaction; its tid must be above the last one.
    pub fn begin(&mut self, tid: Tid, note: Note<'_>) -> Result<Txn<'_>, WriteError> {
        let last = self.ends.last;
        if tid <= last {
            return Err(WriteError::TidOrder { tid, last });
        }
        let length = |text: &[u8]| u16::try_from(text.len()).map_err(|_| WriteError::TextLength);
        let texts = [note.user, note.description, note.extension];
        let lengths = [length(texts[0])?, length(texts[1])?, length(texts[2])?];
        let mut bytes = vec![0; TXN_HEADER_LEN];
        texts.iter().for_each(|text| bytes.extend_from_slice(text));
        Ok(Txn {
            writer: self,
            tid,
            lengths,
            bytes,
            records: Vec::new(),
        })
    }

    /// Saves the index beside the file, as a writer does when it closes.
    pub fn save_index(&self) -> Result<(), WriteError> {
        let (temporary, path) = (
            beside(&self.path, ".index_tmp"),
            beside(&self.path, ".index"),
        );
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        let table = self.index.flat();
        out.write_all(&[0x80, 3, 0x8a, 8])?;
        out.write_all(&self.ends.end.to_le_bytes())?;
        out.write_all(b".")?;
        for (prefix, suffixes, positions) in table.buckets() {
            out.write_all(&[0x80, 3, b'C', 6])?;
            out.write_all(&prefix.to_be_bytes()[2..])?;
            let len = u32::try_from(suffixes.len() * 8).expect("a bucket has at most 512 KiB");
            out.write_all(b"B")?;
            out.write_all(&len.to_le_bytes())?;
            for suffix in suffixes {
                out.write_all(&suffix.to_be_bytes())?;
            }
            out.write_all(positions.as_flattened())?;
            out.write_all(&[0x86, b'.'])?;
        }
        out.write_all(&[0x80, 3, b'N', b'.'])?;
        out.flush()?;
        drop(out);
        std::fs::rename(&temporary, &path)?;
        Ok(())
    }

    /// The header of a record written before.
    fn header(&self, pos: u64) -> io::Result<DataHeader> {
        let mut bytes = [0; DATA_HEADER_LEN];
        self.file.read_exact_at(&mut bytes, pos)?;
        Ok(*DataHeader::view(&bytes).expect("a whole header was read"))
    }
}

/// A transaction being put together.
#[derive(Debug)]
pub struct Txn<'w> {
    writer: &'w mut FileWriter,
    tid: Tid,
    lengths: [u16; 3],
    /// Header, texts and records, as they will lie in the file.
    bytes: Vec<u8>,
    records: Vec<(Oid, u64)>,
}

impl<'w> Txn<'w> {
    /// Stores an object.
    pub fn store(&mut self, oid: Oid, data: &[u8]) -> Result<(), WriteError> {
        if data.is_empty() {
            return Err(WriteError::Empty(oid));
        }
        self.record(oid, data.len() as u64, data);
        Ok(())
    }

    /// Gives an object the data it had as of `at`, by a back pointer: what an undo writes. If it was not there at
    /// that time, it is gone again.
    pub fn share(&mut self, oid: Oid, at: Tid) -> Result<(), WriteError> {
        let mut pos = self
            .writer
            .index
            .get(oid)
            .ok_or(WriteError::NoObject(oid))?;
        loop {
            let header = self.writer.header(pos)?;
            if header.tid() <= at {
                break;
            }
            pos = header.prev();
            if pos == 0 {
                break;
            }
        }
        self.record(oid, 0, &pos.to_be_bytes());
        Ok(())
    }

    /// Undoes the newest revision of an object.
    pub fn undo(&mut self, oid: Oid) -> Result<(), WriteError> {
        let pos = self
            .writer
            .index
            .get(oid)
            .ok_or(WriteError::NoObject(oid))?;
        let newest = self.writer.header(pos)?.tid();
        self.share(oid, Tid(newest.0.saturating_sub(1)))
    }

    /// Deletes an object.
    pub fn delete(&mut self, oid: Oid) -> Result<(), WriteError> {
        let known = self.writer.index.get(oid).is_some();
        known.then_some(()).ok_or(WriteError::NoObject(oid))?;
        self.record(oid, 0, &[0; WORD_LEN]);
        Ok(())
    }

    fn record(&mut self, oid: Oid, plen: u64, body: &[u8]) {
        let tloc = self.writer.ends.end;
        let pos = tloc + self.bytes.len() as u64;
        let prev = self.writer.index.get(oid).unwrap_or(0);
        let header = DataHeader::new(oid, self.tid, prev, tloc, plen);
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(body);
        self.records.push((oid, pos));
    }

    /// Writes everything, not yet as committed.
    pub fn vote(mut self) -> Result<Voted<'w>, WriteError> {
        let tlen = self.bytes.len() as u64;
        let header = TxnHeader::new(self.tid, tlen, b'c', self.lengths);
        self.bytes[..TXN_HEADER_LEN].copy_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(&tlen.to_be_bytes());
        let Txn {
            writer,
            tid,
            bytes,
            records,
            ..
        } = self;
        let pos = writer.ends.end;
        writer.file.write_all_at(&bytes, pos)?;
        let span = Span {
            tid,
            status: Status::Voted,
            pos,
            records: pos,
            records_end: pos + tlen,
            end: pos + bytes.len() as u64,
        };
        Ok(Voted {
            writer,
            span,
            records,
        })
    }

    /// Writes and commits.
    pub fn commit(self) -> Result<(), WriteError> {
        self.vote()?.finish()
    }
}

/// A transaction in the file that does not count yet.
#[derive(Debug)]
#[must_use]
pub struct Voted<'w> {
    writer: &'w mut FileWriter,
    span: Span,
    records: Vec<(Oid, u64)>,
}

impl Voted<'_> {
    /// Makes it count.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.writer.file.write_all_at(b" ", self.span.pos + 16)?;
        if self.writer.sync {
            self.writer.file.sync_all()?;
        }
        self.writer.index = self.writer.index.with(&mut self.records);
        self.writer.ends = Ends::after(&self.span);
        Ok(())
    }

    /// Takes it out of the file.
    pub fn abort(self) -> Result<(), WriteError> {
        Ok(self.writer.file.set_len(self.span.pos.max(MAGIC_LEN))?)
    }
}
