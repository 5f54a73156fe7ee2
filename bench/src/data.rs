//! The databases of the bench, made in seconds.
//!
//! * `blocks.fs`: `zblk0` and `zblk1`, two files of 2 MiB blocks with content; the objects of a ZBlk1 lie next to each
//!   other, in the order in which Python commits them (children before the parent's next child, the last first).
//! * `scale.fs`: files of 10^3 to 10^6 blocks of 4 KiB whose objects hold a few bytes each.
//! * `index.fs`: ten million small objects, for the index.
//!
//! Oids are handed out as they come; the root (oid 0) names the files, so that Python can read all of it too.

use crate::content;
use crate::pickle::{Class, Record, class};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use zring::base::tidtime::UnixTime;
use zring::base::{Oid, Tid};
use zring::store::file::{FileWriter, Note};

/// Bytes of a block of the large files.
pub const BLKSIZE: u64 = 2 << 20;
/// Bytes of a chunk of a ZBlk1.
pub const CHUNK: u64 = 4 << 10;
/// Bytes of a block of the files of `scale.fs`.
pub const SMALL_BLKSIZE: u64 = 4 << 10;
/// Tag of the content of `zblk0`.
pub const TAG0: u64 = 1;
/// Tag of the content of `zblk1`.
pub const TAG1: u64 = 2;
/// First tid; one above for each transaction after.
const TIDS: u64 = 0x03d4_dc00_0000_0000;
/// Bytes of one transaction, about.
const TXN_BYTES: usize = 32 << 20;
/// Entries of a full bucket after it was split, and of a node; twice that before.
const BUCKET: usize = 30;
const NODE: usize = 250;

/// A database being written.
pub struct Base {
    path: PathBuf,
    writer: FileWriter,
    pending: Vec<(u64, Vec<u8>)>,
    pending_bytes: usize,
    tid: u64,
    next_oid: u64,
    files: Vec<(&'static str, u64)>,
}

impl Base {
    /// A new, empty one.
    pub fn create(path: &Path) -> Result<Self> {
        let _ = std::fs::remove_file(path);
        let writer = FileWriter::create(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            writer: writer.synced(false),
            pending: Vec::new(),
            pending_bytes: 0,
            tid: TIDS,
            next_oid: 1,
            files: Vec::new(),
        })
    }

    /// A new oid.
    pub fn oid(&mut self) -> u64 {
        self.next_oid += 1;
        self.next_oid - 1
    }

    /// Stores an object with the next commit; large ones are committed at once.
    pub fn put(&mut self, oid: u64, record: Vec<u8>) -> Result<()> {
        self.pending_bytes += record.len();
        self.pending.push((oid, record));
        if self.pending_bytes >= TXN_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits what has been put.
    fn commit(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut txn = self.writer.begin(Tid(self.tid), Note::default())?;
        for (oid, record) in self.pending.drain(..) {
            txn.store(Oid(oid), &record)?;
        }
        txn.commit()?;
        self.tid += 1;
        self.pending_bytes = 0;
        Ok(())
    }

    /// Writes the root and the saved index.
    pub fn finish(&mut self) -> Result<()> {
        let mut root = Record::new(class::ROOT);
        root.dict();
        root.text("data");
        root.dict();
        for &(name, oid) in &self.files {
            root.text(name);
            root.reference(oid, class::BIGFILE);
            root.set_item();
        }
        root.set_item();
        self.put(0, root.finish())?;
        self.commit()?;
        self.writer.save_index()?;
        let names = self
            .files
            .iter()
            .map(|(name, oid)| format!("{name} {oid:016x}\n"));
        Ok(std::fs::write(
            names_path(&self.path),
            names.collect::<String>(),
        )?)
    }

    /// Commits what has been put, as of now; gives the tid.
    pub fn commit_now(&mut self, synced: bool) -> Result<Tid> {
        let now = UNIX_EPOCH.elapsed()?;
        let time = UnixTime {
            sec: i64::try_from(now.as_secs())?,
            nsec: now.subsec_nanos(),
        };
        let now = Tid::from_time(time).context("no tid for this time")?;
        self.tid = self.tid.max(now.0);
        self.writer.set_synced(synced);
        self.commit()?;
        Ok(Tid(self.tid - 1))
    }

    /// A big file with these blocks; gives its oid.
    pub fn file(
        &mut self,
        name: &'static str,
        blksize: u64,
        blocks: &[u64],
        kind: Class,
    ) -> Result<u64> {
        let (file, table) = (self.oid(), self.oid());
        let entries: Vec<_> = (0..).zip(blocks.iter().copied()).collect();
        self.tree(table, (class::LO_TREE, class::LO_BUCKET), &entries, kind)?;
        let mut record = Record::new(class::BIGFILE);
        record.int(blksize);
        record.reference(table, class::LO_TREE);
        record.tuple(2);
        self.put(file, record.finish())?;
        self.files.push((name, file));
        Ok(file)
    }

    /// A BTree of more than one bucket, filled in order: buckets of 30, nodes of 250, the last of each up to twice that.
    fn tree(
        &mut self,
        root: u64,
        (tree, bucket): (Class, Class),
        entries: &[(u64, u64)],
        kind: Class,
    ) -> Result<()> {
        let parts = cut(entries, BUCKET);
        let oids: Vec<u64> = parts.iter().map(|_| self.oid()).collect();
        for (i, part) in parts.iter().enumerate() {
            let next = oids.get(i + 1).copied();
            self.put(oids[i], bucket_record(bucket, part, kind, next))?;
        }
        // (first key, oid, leftmost bucket) of each child
        let mut level: Vec<_> = parts
            .iter()
            .zip(&oids)
            .map(|(p, &oid)| (p[0].0, oid, oid))
            .collect();
        let mut kind = bucket;
        while level.len() > 2 * NODE {
            let nodes = cut(&level, NODE);
            let mut above = Vec::with_capacity(nodes.len());
            for node in &nodes {
                let oid = self.oid();
                self.put(oid, node_record(tree, node, kind, bucket))?;
                above.push((node[0].0, oid, node[0].2));
            }
            (level, kind) = (above, tree);
        }
        self.put(root, node_record(tree, &level, kind, bucket))
    }

    /// A ZBlk1 with all its objects; gives its oid.
    fn blk1(&mut self, offset: u64) -> Result<u64> {
        let (block, table) = (self.oid(), self.oid());
        let mut record = Record::new(class::BLK1);
        record.reference(table, class::IO_TREE);
        self.put(block, record.finish())?;
        let starts: Vec<u64> = (0..BLKSIZE / CHUNK).map(|i| i * CHUNK).collect();
        let parts = cut(&starts, BUCKET);
        let oids: Vec<u64> = parts.iter().map(|_| self.oid()).collect();
        let level: Vec<_> = parts
            .iter()
            .zip(&oids)
            .map(|(p, &oid)| (p[0], oid, oid))
            .collect();
        let root = node_record(class::IO_TREE, &level, class::IO_BUCKET, class::IO_BUCKET);
        self.put(table, root)?;
        let mut data = vec![0; usize::try_from(CHUNK).expect("4096")];
        for (i, part) in parts.iter().enumerate().rev() {
            let chunks: Vec<_> = part.iter().map(|&start| (start, self.oid())).collect();
            let next = oids.get(i + 1).copied();
            self.put(
                oids[i],
                bucket_record(class::IO_BUCKET, &chunks, class::DATA, next),
            )?;
            for &(start, oid) in chunks.iter().rev() {
                content::fill(TAG1, offset + start, &mut data);
                let mut record = Record::with_room(class::DATA, data.len());
                record.bytes(&data);
                self.put(oid, record.finish())?;
            }
        }
        Ok(block)
    }
}

/// Where the names of a database's files stand; written last, so a database with it is whole.
pub fn names_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".names");
    path.into()
}

/// The oid of a file, as its name in the mounted tree.
pub fn oid_of(database: &Path, name: &str) -> Result<String> {
    let names = std::fs::read_to_string(names_path(database))?;
    let found = names
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(n, _)| *n == name);
    Ok(found
        .with_context(|| format!("no file {name}"))?
        .1
        .to_owned())
}

/// Parts of `size`, the last of up to twice that: how a node that is filled in order splits.
fn cut<T>(all: &[T], size: usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let mut rest = all;
    while rest.len() > 2 * size {
        let (part, more) = rest.split_at(size);
        parts.push(part);
        rest = more;
    }
    parts.push(rest);
    parts
}

fn bucket_record(bucket: Class, entries: &[(u64, u64)], kind: Class, next: Option<u64>) -> Vec<u8> {
    let mut record = Record::new(bucket);
    record.mark();
    for &(key, oid) in entries {
        record.int(key);
        record.reference(oid, kind);
    }
    record.tuple_from_mark();
    if let Some(next) = next {
        record.reference(next, bucket);
    }
    record.tuple(1 + u8::from(next.is_some()));
    record.finish()
}

fn node_record(tree: Class, children: &[(u64, u64, u64)], kind: Class, bucket: Class) -> Vec<u8> {
    let mut record = Record::new(tree);
    record.mark();
    for (i, &(key, oid, _)) in children.iter().enumerate() {
        if i > 0 {
            record.int(key);
        }
        record.reference(oid, kind);
    }
    record.tuple_from_mark();
    record.reference(children[0].2, bucket);
    record.tuple(2);
    record.finish()
}

/// `blocks.fs`: so many blocks in each file. Gives the oids of `zblk0` and `zblk1`.
pub fn blocks(path: &Path, blocks0: u64, blocks1: u64) -> Result<()> {
    let mut base = Base::create(path)?;
    let len = usize::try_from(BLKSIZE).expect("2 MiB");
    let (mut oids, mut data) = (Vec::new(), vec![0; len]);
    for blk in 0..blocks0 {
        content::fill(TAG0, blk * BLKSIZE, &mut data);
        let mut record = Record::with_room(class::BLK0, len);
        record.bytes(&data);
        let oid = base.oid();
        base.put(oid, record.finish())?;
        oids.push(oid);
    }
    base.file("zblk0", BLKSIZE, &oids, class::BLK0)?;
    oids.clear();
    for blk in 0..blocks1 {
        let oid = base.blk1(blk * BLKSIZE)?;
        oids.push(oid);
    }
    base.file("zblk1", BLKSIZE, &oids, class::BLK1)?;
    base.finish()
}

/// The files of `scale.fs`: name and number of blocks.
pub const SCALE: [(&str, u64); 4] = [
    ("blocks3", 1_000),
    ("blocks4", 10_000),
    ("blocks5", 100_000),
    ("blocks6", 1_000_000),
];

/// `scale.fs`. Each block begins with 64 bytes of content, the rest is zeros.
///
/// The blocks of all files are spread over the whole database: were those of the smallest next to each other, 1000 touches
/// would find them in 42 pages that are hot in the processor's caches, and the row would measure just that.
pub fn scale(path: &Path) -> Result<()> {
    let mut base = Base::create(path)?;
    let most = SCALE[SCALE.len() - 1].1;
    let mut oids: [Vec<u64>; SCALE.len()] = Default::default();
    for blk in 0..most {
        for ((tag, (_, blocks)), oids) in (10..).zip(SCALE).zip(&mut oids) {
            if !blk.is_multiple_of(most / blocks) {
                continue;
            }
            let mut data = [0; 64];
            content::fill(tag, oids.len() as u64 * SMALL_BLKSIZE, &mut data);
            let mut record = Record::new(class::BLK0);
            record.bytes(&data);
            let oid = base.oid();
            base.put(oid, record.finish())?;
            oids.push(oid);
        }
    }
    for ((name, _), oids) in SCALE.iter().zip(&oids) {
        base.file(name, SMALL_BLKSIZE, oids, class::BLK0)?;
    }
    base.finish()
}

/// Objects in one transaction of `index.fs`.
const INDEX_TXN: u64 = 100;

/// `index.fs`: so many empty trees, 77 bytes each with the header.
pub fn index(path: &Path, objects: u64) -> Result<()> {
    let mut base = Base::create(path)?;
    let mut record = Record::new(class::LO_TREE);
    record.none();
    let record = record.finish();
    for n in 1..objects {
        let oid = base.oid();
        base.put(oid, record.clone())?;
        if n % INDEX_TXN == 0 {
            base.commit()?;
        }
    }
    base.finish()
}
