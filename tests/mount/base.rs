//! A database that the test itself writes, block by block: it knows of every commit what changed and when.
//!
//! Each block holds a *stamp*: a number that every word of it carries beside its place in the file, so that whoever reads a page can
//! tell which commit it is of. Stamp 0 is a hole. Tids follow each other by [`STEP`], about 10 ms of time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use zring::base::{BlkSize, Oid, Tid};
use zring::store::file::{FileWriter, Note};
use zring::zodb::Family;
use zring::zodb::write::{self, Child, Item, Leaf};

/// Between two tids.
pub(crate) const STEP: u64 = 715_828;
const FIRST: u64 = 0x03ff_0000_0000_0000;
const CHUNK: usize = 4096;
/// Keys of one bucket.
const BUCKET: usize = 30;

/// The word at a byte offset of a block with this stamp.
pub(crate) fn word(stamp: u32, off: u64) -> u64 {
    u64::from(stamp) << 40 | (off / 8) & 0xff_ffff_ffff
}

/// Which transaction a tid is, the first being 1.
pub(crate) fn ordinal(tid: Tid) -> u64 {
    (tid.0 - FIRST) / STEP
}

/// A big file: what it holds, and since when.
#[derive(Debug)]
pub(crate) struct BigFile {
    pub(crate) oid: Oid,
    pub(crate) blksize: u64,
    leaf: Leaf,
    table: Oid,
    buckets: BTreeMap<i64, Oid>,
    blocks: BTreeMap<u64, Oid>,
    /// Chunk tables and chunks of blocks in chunks.
    chunks: BTreeMap<u64, (Oid, Vec<Oid>)>,
    pub(crate) stamps: BTreeMap<u64, u32>,
    history: BTreeMap<u64, Vec<Tid>>,
    changed: BTreeSet<u64>,
    reshaped: bool,
}

impl BigFile {
    /// Where it is at head.
    pub(crate) fn head(&self) -> String {
        format!("head/bigfile/{}", self.oid)
    }

    /// Where it is at a revision.
    pub(crate) fn at(&self, rev: Tid) -> String {
        format!("@{rev}/bigfile/{}", self.oid)
    }

    /// Its size.
    pub(crate) fn size(&self) -> u64 {
        let last = self.stamps.last_key_value();
        last.map_or(0, |(blk, _)| (blk + 1) * self.blksize)
    }

    /// The object of a block.
    pub(crate) fn block(&self, blk: u64) -> Oid {
        self.blocks[&blk]
    }

    /// The leaf of the block table that a block is in.
    pub(crate) fn bucket(&self, blk: u64) -> Oid {
        let key = i64::try_from(blk).unwrap();
        *self.buckets.range(..=key).next_back().unwrap().1
    }

    /// What a block holds.
    pub(crate) fn stamp(&self, blk: u64) -> u32 {
        self.stamps.get(&blk).copied().unwrap_or(0)
    }

    /// The revision that a pin of a client as of `at` names: the last change of the block by then, but what was there when the
    /// server started at `start` has no other name than that.
    pub(crate) fn rev(&self, blk: u64, start: Tid, at: Tid) -> Tid {
        let all = self.history.get(&blk).into_iter().flatten();
        let last = all.rev().find(|tid| **tid <= at).copied();
        last.filter(|tid| *tid > start).unwrap_or(start)
    }
}

/// The database.
#[derive(Debug)]
pub(crate) struct Base {
    writer: FileWriter,
    next: u64,
    tid: u64,
    /// Between this transaction and the next.
    pub(crate) step: u64,
    pub(crate) files: Vec<BigFile>,
    pending: BTreeMap<Oid, Vec<u8>>,
    /// Records of buckets as they were written last.
    written: BTreeMap<Oid, Vec<u8>>,
}

impl Base {
    /// A new one. Its writer does not wait for the disk.
    pub(crate) fn create(path: &Path) -> Self {
        let mut this = Self {
            writer: FileWriter::create(path).unwrap().synced(false),
            next: 1,
            tid: FIRST,
            step: STEP,
            files: Vec::new(),
            pending: BTreeMap::new(),
            written: BTreeMap::new(),
        };
        this.put(Oid(0), write::root());
        this
    }

    /// The last transaction.
    pub(crate) fn last(&self) -> Tid {
        Tid(self.tid)
    }

    /// The next one.
    pub(crate) fn next(&self) -> Tid {
        Tid(self.tid + self.step)
    }

    pub(crate) fn fresh(&mut self) -> Oid {
        self.next += 1;
        Oid(self.next - 1)
    }

    /// Stores an object with the next commit.
    pub(crate) fn put(&mut self, oid: Oid, record: Vec<u8>) {
        self.pending.insert(oid, record);
    }

    /// A new big file, empty; gives its number.
    pub(crate) fn file(&mut self, blksize: u64, leaf: Leaf) -> usize {
        let (oid, table) = (self.fresh(), self.fresh());
        self.put(oid, write::bigfile(BlkSize(blksize), table));
        self.put(table, write::small_tree(Family::Lo, &[]));
        self.files.push(BigFile {
            oid,
            blksize,
            leaf,
            table,
            buckets: BTreeMap::new(),
            blocks: BTreeMap::new(),
            chunks: BTreeMap::new(),
            stamps: BTreeMap::new(),
            history: BTreeMap::new(),
            changed: BTreeSet::new(),
            reshaped: false,
        });
        self.files.len() - 1
    }

    /// Fills a block.
    pub(crate) fn set(&mut self, file: usize, blk: u64, stamp: u32) {
        let blksize = self.files[file].blksize;
        let mut data = vec![0; usize::try_from(blksize).unwrap()];
        fill(&mut data, stamp, blk * blksize);
        self.set_bytes(file, blk, stamp, &data);
    }

    /// The same with other bytes.
    pub(crate) fn set_bytes(&mut self, file: usize, blk: u64, stamp: u32, data: &[u8]) {
        let oid = match self.files[file].blocks.get(&blk) {
            Some(oid) => *oid,
            None => {
                let oid = self.fresh();
                self.files[file].blocks.insert(blk, oid);
                self.files[file].reshaped = true;
                oid
            }
        };
        match self.files[file].leaf {
            Leaf::Blk0 => self.put(oid, write::zblk0(data)),
            _ => self.put_chunks(file, blk, oid, data),
        }
        let file = &mut self.files[file];
        file.stamps.insert(blk, stamp);
        file.changed.insert(blk);
    }

    /// A block in chunks; the table is written once, the chunks each time.
    fn put_chunks(&mut self, file: usize, blk: u64, oid: Oid, data: &[u8]) {
        if !self.files[file].chunks.contains_key(&blk) {
            let table = self.fresh();
            let chunks: Vec<Oid> = data.chunks(CHUNK).map(|_| self.fresh()).collect();
            let items: Vec<Item> = (0i64..)
                .zip(&chunks)
                .map(|(i, &oid)| (i * 4096, oid, Leaf::Data))
                .collect();
            self.put(table, write::small_tree(Family::Io, &items));
            self.files[file].chunks.insert(blk, (table, chunks));
        }
        let (table, chunks) = self.files[file].chunks[&blk].clone();
        // Who changes a chunk marks its block: that is what readers go by.
        self.put(oid, write::zblk1(table));
        for (oid, data) in chunks.into_iter().zip(data.chunks(CHUNK)) {
            self.put(oid, write::zdata(data));
        }
    }

    /// Makes a block one in chunks that has no chunk.
    pub(crate) fn set_empty(&mut self, file: usize, blk: u64) {
        let (oid, table) = (self.files[file].blocks[&blk], self.fresh());
        self.put(oid, write::zblk1(table));
        self.put(
            table,
            b"\x80\x03cBTrees.IOBTree\nIOBTree\n.\x80\x03N.".to_vec(),
        );
        let file = &mut self.files[file];
        file.chunks.remove(&blk);
        file.stamps.insert(blk, 0);
        file.changed.insert(blk);
    }

    /// Makes a block a hole.
    pub(crate) fn remove(&mut self, file: usize, blk: u64) {
        let file = &mut self.files[file];
        assert!(file.stamps.remove(&blk).is_some());
        file.blocks.remove(&blk);
        file.chunks.remove(&blk);
        file.changed.insert(blk);
        file.reshaped = true;
    }

    /// Commits; gives the tid.
    pub(crate) fn commit(&mut self) -> Tid {
        for file in 0..self.files.len() {
            if std::mem::take(&mut self.files[file].reshaped) {
                self.put_table(file);
            }
        }
        self.tid += self.step;
        let tid = Tid(self.tid);
        for file in &mut self.files {
            for blk in std::mem::take(&mut file.changed) {
                file.history.entry(blk).or_default().push(tid);
            }
        }
        let mut txn = self.writer.begin(tid, Note::default()).unwrap();
        for (oid, record) in std::mem::take(&mut self.pending) {
            txn.store(oid, &record).unwrap();
        }
        txn.commit().unwrap();
        tid
    }

    /// The block table: a node over buckets, of which only those that changed are written.
    fn put_table(&mut self, file: usize) {
        let leaf = self.files[file].leaf;
        let table = self.files[file].table;
        let mut parts: BTreeMap<i64, Vec<Item>> = BTreeMap::new();
        for (&blk, &oid) in &self.files[file].blocks {
            let key = i64::try_from(blk).unwrap();
            let room = i64::try_from(BUCKET).unwrap();
            parts
                .entry(key / room * room)
                .or_default()
                .push((key, oid, leaf));
        }
        for &first in parts.keys() {
            if !self.files[file].buckets.contains_key(&first) {
                let oid = self.fresh();
                self.files[file].buckets.insert(first, oid);
            }
        }
        let buckets = self.files[file].buckets.clone();
        let mut next = None;
        for (first, items) in parts.iter().rev() {
            let oid = buckets[first];
            self.put_changed(oid, write::bucket(Family::Lo, items, next));
            next = Some(oid);
        }
        let children: Vec<_> = parts.keys().map(|first| (*first, buckets[first])).collect();
        let record = match children.first() {
            None => write::small_tree(Family::Lo, &[]),
            Some((_, first)) => write::node(Family::Lo, &children, Child::Bucket, *first),
        };
        self.put_changed(table, record);
    }

    fn put_changed(&mut self, oid: Oid, record: Vec<u8>) {
        if self.written.get(&oid) != Some(&record) {
            self.written.insert(oid, record.clone());
            self.put(oid, record);
        }
    }
}

/// The bytes of a block with a stamp, from an offset of the file on.
pub(crate) fn fill(out: &mut [u8], stamp: u32, off: u64) {
    for (chunk, at) in out.chunks_mut(8).zip((off..).step_by(8)) {
        chunk.copy_from_slice(&word(stamp, at).to_le_bytes()[..chunk.len()]);
    }
}
