//! The database as of one transaction, for workers to load from.
//!
//! A view holds the open file, so that the file stays readable after a pack has put another in its place; a
//! snapshot of the index; and the tid it is as of. It never changes, costs one reference count to clone,
//! and does no I/O but in `load`, which is the blocking way for control, command line and tests.

use super::batch::{Batch, Locate, Run};
use super::chains::Chains;
use super::index::Index;
use super::recent::History;
use super::window::ReadAt;
use crate::base::{Oid, Tid};
use crate::store::{LoadError, Loaded, View};
use crate::wire::fs1::{DATA_HEADER_LEN, DataHeader, Status, TXN_HEADER_LEN, TxnHeader};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// An immutable picture of a FileStorage.
#[derive(Clone)]
pub struct FileView(Arc<Inner>);

/// What a view consists of.
#[derive(Clone)]
pub(super) struct Inner {
    pub(super) file: Arc<File>,
    pub(super) index: Index,
    /// The transaction this view is as of.
    pub(super) at: Tid,
    /// End of the committed part of the file, as far as the index knows it.
    pub(super) end: u64,
    /// Newest tid that a record in the index may carry.
    pub(super) newest: Tid,
    pub(super) generation: u64,
    pub(super) max_record: usize,
}

impl std::fmt::Debug for FileView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner {
            at,
            end,
            generation,
            index,
            ..
        } = &*self.0;
        write!(
            f,
            "FileView(@{at}, {end} bytes, generation {generation}, {index:?})"
        )
    }
}

impl FileView {
    pub(super) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The transaction this view is as of.
    pub fn at(&self) -> Tid {
        self.0.at
    }

    /// Counts the files that stood under the path: positions are only good within one generation.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// The file to read from, for a driver that carries out a batch.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }

    /// The same, shared: keeps the file open on its own.
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// Number of objects, at most: objects changed of late may count twice.
    pub fn objects_max(&self) -> usize {
        self.0.index.len()
    }

    /// Bytes of memory that the index takes; shared with other views.
    pub fn index_bytes(&self) -> usize {
        self.0.index.memory()
    }

    /// Plans to load objects as of `at`, which must not be above `self.at()`.
    pub fn batch(&self, at: Tid, oids: impl Iterator<Item = Oid>) -> Batch {
        self.batch_near(at, oids, None, &mut Chains::default())
    }

    /// The same, when some bytes of this view are at hand: no read is planned for a record that lies in them. Chains are
    /// walked from the marks of earlier batches.
    pub fn batch_near(
        &self,
        at: Tid,
        oids: impl Iterator<Item = Oid>,
        near: Option<&Run>,
        chains: &mut Chains,
    ) -> Batch {
        Batch::new(self.clone(), at, oids, near, chains)
    }

    /// Plans to learn where the data of objects lies as of `at`, which must not be above `self.at()`.
    pub fn locate(&self, at: Tid, oids: impl Iterator<Item = Oid>) -> Locate {
        self.locate_near(at, oids, &mut Chains::default())
    }

    /// The same, walking chains from the marks of earlier batches.
    pub fn locate_near(
        &self,
        at: Tid,
        oids: impl Iterator<Item = Oid>,
        chains: &mut Chains,
    ) -> Locate {
        Locate::new(self.clone(), at, oids, chains)
    }

    /// Loads one object as of `at`, blocking.
    pub fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError> {
        let mut batch = self.batch(at, std::iter::once(oid));
        while let Some(read) = batch.next_read() {
            batch.complete(read.id, self.read(read.pos, read.len));
        }
        batch.next_done().expect("no reads are left to do").1
    }

    /// Of an object that has no revision as old as was asked for: the oldest one that it has, if a pack may have taken older ones. Blocks.
    ///
    /// # Errors
    /// Reading failed, or what stands there is no record of it.
    pub fn oldest_after_pack(&self, oid: Oid) -> io::Result<Option<Tid>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let mut next = self.0.index.get(oid);
        while let Some(pos) = next {
            let head = self.read(pos, DATA_HEADER_LEN)?;
            let record = DataHeader::view(&head).ok_or_else(wrong)?;
            if record.oid() != oid || record.prev() >= pos {
                return Err(wrong());
            }
            next = Some(record.prev()).filter(|&prev| prev != 0);
            if next.is_none() {
                let head = self.read(record.tloc(), TXN_HEADER_LEN)?;
                let txn = TxnHeader::view(&head).ok_or_else(wrong)?;
                return Ok((txn.status() == Status::Packed).then(|| record.tid()));
            }
        }
        Ok(None)
    }

    /// The transactions in (lo, hi], newest first: reads the file backwards, blocking.
    pub fn history(&self, lo: Tid, hi: Tid) -> History<'_> {
        History::new(&self.0.file, self.0.end, lo, hi.min(self.at()))
    }

    /// Reads from the file, blocking; less than asked only at its end.
    pub fn read(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        let mut buf = vec![0; len];
        let n = self.0.file.read_full(&mut buf, pos)?;
        buf.truncate(n);
        Ok(buf.into())
    }
}

impl View for FileView {
    fn at(&self) -> Tid {
        self.at()
    }

    fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError> {
        self.load(oid, at)
    }
}
