//! The database: what writers commit, as records, and what every file says at every transaction.
//!
//! Two descriptions of the same thing. *Records* are made by `zodb::write` and decoded by `zodb::object`, and the walks
//! of `zodb` find their way through them. *Content* is one array of bytes per file and transaction: the one
//! definition of correct, which knows nothing of trees.

use crate::rng::Rng;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use zring::base::{BlkSize, Oid, Tid};
use zring::zodb::write::{self, Child, Leaf};
use zring::zodb::{Family, Object, decode};

/// Bytes of a page.
pub(crate) const PAGE: usize = 16;
/// Of what is tested only `fs::advance` knows how long a page is: what goes there is so many times as long.
pub(crate) const SCALE: u64 = 4096 / PAGE as u64;
/// Pages of the longest file, and some behind it.
pub(crate) const PAGES: usize = 34;
const BYTES_MAX: u64 = 32 * 16;

/// A transaction, as the daemon learns of it.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) tid: Tid,
    /// `None`: nobody can tell.
    pub(crate) oids: Option<Arc<[Oid]>>,
}

/// A revision of an object.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) serial: Tid,
    pub(crate) object: Arc<Object>,
}

/// What a transaction changes of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Blocks that the table leads elsewhere, or whose object changes.
    pub(crate) blocks: BTreeSet<u64>,
    /// Those of them that were there before.
    pub(crate) before: BTreeSet<u64>,
    /// The file's own object changes.
    pub(crate) epoch: bool,
}

pub(crate) type Records = Rc<RefCell<FxHashMap<Oid, Vec<Record>>>>;

#[derive(Clone, Debug)]
enum Form {
    Whole,
    /// Chunk table, and the chunks with their offsets.
    Chunks(Oid, Vec<(usize, Oid)>),
}

#[derive(Clone, Debug)]
struct Block {
    form: Form,
    data: Vec<u8>,
}

/// A big file, as its writer sees it.
#[derive(Debug)]
struct File {
    oid: Oid,
    blktab: Oid,
    blksize: u64,
    table: BTreeMap<u64, Oid>,
    /// Leaves by their first key; none for a table in one piece.
    leaves: BTreeMap<i64, Oid>,
    /// Nodes between the root and the leaves, when there is such a level.
    inner: Option<[Oid; 2]>,
    /// What it says, from which transaction on.
    content: Vec<(Tid, Vec<u8>)>,
    /// The table and its root before the transaction under way.
    before: (Oid, BTreeMap<u64, Oid>),
    /// By transaction; the first is number 1.
    changes: Vec<Changes>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Data {
    files: Vec<File>,
    blocks: FxHashMap<Oid, Block>,
    written: FxHashMap<Oid, Vec<u8>>,
    records: Records,
    /// Blocks written to: their objects change whatever they say.
    marked: BTreeSet<Oid>,
    commits: Vec<Commit>,
    last_oid: u64,
}

impl Data {
    /// A database with one transaction.
    pub(crate) fn new(rng: &mut Rng, files: usize, blksizes: &[u64]) -> Self {
        let mut data = Self {
            files: Vec::new(),
            blocks: FxHashMap::default(),
            written: FxHashMap::default(),
            records: Records::default(),
            marked: BTreeSet::new(),
            commits: Vec::new(),
            last_oid: 0,
        };
        for _ in 0..files {
            let blksize = rng.pick(blksizes);
            let (oid, blktab) = (data.new_oid(), data.new_oid());
            data.files.push(File {
                oid,
                blktab,
                blksize,
                table: BTreeMap::new(),
                leaves: BTreeMap::new(),
                inner: None,
                content: Vec::new(),
                before: (blktab, BTreeMap::new()),
                changes: Vec::new(),
            });
            let file = data.files.len() - 1;
            for blk in 0..(1 + rng.below(4) as u64).min(BYTES_MAX / blksize) {
                data.put_new(rng, file, blk);
            }
        }
        data.end(false);
        data
    }

    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn oid(&self, file: usize) -> Oid {
        self.files[file].oid
    }

    /// The newest transaction.
    pub(crate) fn last(&self) -> Tid {
        self.commits.last().unwrap().tid
    }

    /// The transaction behind `tid`, if there is one yet.
    pub(crate) fn next(&self, tid: Tid) -> Option<&Commit> {
        let at = self.commits.partition_point(|c| c.tid <= tid);
        self.commits.get(at)
    }

    /// What an object is as of `at`.
    pub(crate) fn load(&self, oid: Oid, at: Tid) -> Option<Record> {
        load(&self.records, oid, at)
    }

    pub(crate) fn records(&self) -> Records {
        Rc::clone(&self.records)
    }

    pub(crate) fn blksize(&self, file: usize) -> u64 {
        self.files[file].blksize
    }

    /// Which file an object is.
    pub(crate) fn file(&self, oid: Oid) -> Option<usize> {
        self.files.iter().position(|file| file.oid == oid)
    }

    /// What a file says as of `at`.
    pub(crate) fn content(&self, file: usize, at: Tid) -> &[u8] {
        let mut versions = self.versions(file, at, at);
        versions
            .next()
            .expect("all files are there from the beginning")
    }

    /// What a transaction changes of a file.
    pub(crate) fn changes(&self, file: usize, tid: Tid) -> &Changes {
        &self.files[file].changes[usize::try_from(tid.0).unwrap() - 1]
    }

    /// Whether a block that a transaction changes was there before it.
    pub(crate) fn is_there(&self, file: usize, blk: u64, tid: Tid) -> bool {
        self.changes(file, tid).before.contains(&blk)
    }

    /// Whether a transaction changes a block that has to do with a page.
    pub(crate) fn is_changed(&self, file: usize, page: usize, tid: Tid) -> bool {
        let (blksize, page) = (self.files[file].blksize, (page * PAGE) as u64);
        let blks = page / blksize..=(page + PAGE as u64 - 1) / blksize;
        self.changes(file, tid).blocks.range(blks).next().is_some()
    }

    /// Everything a file says between two transactions, both included; oldest first.
    pub(crate) fn versions(
        &self,
        file: usize,
        lo: Tid,
        hi: Tid,
    ) -> impl Iterator<Item = &[u8]> + Clone {
        let all = &self.files[file].content;
        let first = all.partition_point(|(tid, _)| *tid <= lo).saturating_sub(1);
        let end = all.partition_point(|(tid, _)| *tid <= hi);
        all[first..end]
            .iter()
            .map(|(_, content)| content.as_slice())
    }

    fn new_oid(&mut self) -> Oid {
        self.last_oid += 1;
        Oid(self.last_oid)
    }

    fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
        // Never 0: zeros are what holes and the end of a file read as.
        let byte = |rng: &mut Rng| u8::try_from(1 + rng.below(255)).unwrap();
        (0..len).map(|_| byte(rng)).collect()
    }

    fn put_new(&mut self, rng: &mut Rng, file: usize, blk: u64) {
        let oid = self.new_oid();
        let blksize = usize::try_from(self.files[file].blksize).unwrap();
        let len = if rng.one_in(4) {
            rng.below(blksize + 1)
        } else {
            blksize
        };
        let data = Self::random(rng, len);
        let form = self.form(rng, len);
        self.blocks.insert(oid, Block { form, data });
        self.files[file].table.insert(blk, oid);
    }

    fn form(&mut self, rng: &mut Rng, len: usize) -> Form {
        if rng.one_in(2) {
            return Form::Whole;
        }
        let (step, chunktab) = (rng.pick(&[8, 13, 24]), self.new_oid());
        let chunks = (0..len)
            .step_by(step)
            .map(|at| (at, self.new_oid()))
            .collect();
        Form::Chunks(chunktab, chunks)
    }
}

/// Writing.
impl Data {
    /// A transaction that changes something at random.
    pub(crate) fn commit(&mut self, rng: &mut Rng) {
        for _ in 0..1 + rng.below(3) {
            self.change(rng);
        }
        let hidden = rng.one_in(25);
        self.end(hidden);
    }

    fn change(&mut self, rng: &mut Rng) {
        let file = rng.below(self.files.len());
        let blksize = self.files[file].blksize;
        let blk_max = BYTES_MAX / blksize;
        let blks: Vec<u64> = self.files[file].table.keys().copied().collect();
        let any = (!blks.is_empty()).then(|| rng.pick(&blks));
        let end = blks.last().map_or(0, |last| last + 1);
        match (rng.below(16), any) {
            (0..=6, Some(blk)) => {
                self.rewrite(rng, self.files[file].table[&blk]);
                // Neighbours mostly change together.
                for next in blk + 1..blk + 3 {
                    match self.files[file].table.get(&next) {
                        Some(&oid) if rng.one_in(2) => self.rewrite(rng, oid),
                        _ => break,
                    }
                }
            }
            (7..=8, Some(blk)) => self.put_new(rng, file, blk),
            (9, Some(blk)) => drop(self.files[file].table.remove(&blk)),
            (10, Some(_)) => drop(self.files[file].table.remove(&(end - 1))),
            (11, Some(one)) => {
                // Two blocks trade places: only the table changes.
                let (other, table) = (rng.pick(&blks), &mut self.files[file].table);
                let (a, b) = (table[&one], table[&other]);
                table.insert(one, b);
                table.insert(other, a);
            }
            (12, Some(blk)) => {
                // A file shows a block of another one.
                let oid = self.files[file].table[&blk];
                let other = rng.below(self.files.len());
                if self.files[other].blksize == blksize {
                    let at = rng.word() % blk_max;
                    self.files[other].table.insert(at, oid);
                }
            }
            (13, _) if rng.one_in(4) => {
                // The file's own object changes.
                let blktab = self.new_oid();
                self.files[file].blktab = blktab;
            }
            (13, _) => self.regrow(rng, file),
            _ if end < blk_max => {
                let gap = if rng.one_in(4) { 1 } else { 0 };
                self.put_new(rng, file, (end + gap).min(blk_max - 1));
            }
            _ => self.regrow(rng, file),
        }
    }

    /// New bytes, or a new form, for a block that keeps its oid.
    fn rewrite(&mut self, rng: &mut Rng, oid: Oid) {
        let mut block = self.blocks[&oid].clone();
        let len = block.data.len();
        if rng.one_in(6) {
            block.form = self.form(rng, len);
        } else {
            let from = if rng.one_in(2) { 0 } else { rng.below(len + 1) };
            let new = Self::random(rng, len - from);
            block.data[from..].copy_from_slice(&new);
        }
        self.blocks.insert(oid, block);
        self.marked.insert(oid);
    }

    /// Another shape for the same table.
    fn regrow(&mut self, rng: &mut Rng, file: usize) {
        let keep = rng.one_in(2);
        let mut leaves = BTreeMap::new();
        if !rng.one_in(3) {
            for key in 0..32 {
                if key == 0 || rng.one_in(3) {
                    let old = self.files[file].leaves.get(&key).copied();
                    let oid = old.filter(|_| keep).unwrap_or_else(|| self.new_oid());
                    leaves.insert(key, oid);
                }
            }
        }
        self.files[file].inner = rng.one_in(2).then(|| [self.new_oid(), self.new_oid()]);
        self.files[file].leaves = leaves;
    }

    /// Ends a transaction: records that differ are its records.
    fn end(&mut self, hidden: bool) {
        let tid = Tid(self.commits.last().map_or(1, |c| c.tid.0 + 1));
        let mut oids = vec![Oid(0)];
        for file in 0..self.files.len() {
            for (oid, record) in self.render(&self.files[file]) {
                let is_marked = self.marked.contains(&oid);
                if self.written.get(&oid) == Some(&record) && !is_marked {
                    continue;
                }
                let object = decode(record.clone().into()).expect("a record that is sound");
                let object = Arc::new(object);
                let serial = tid;
                self.marked.remove(&oid);
                let mut records = self.records.borrow_mut();
                records
                    .entry(oid)
                    .or_default()
                    .push(Record { serial, object });
                self.written.insert(oid, record);
                oids.push(oid);
            }
            let now = self.say(&self.files[file]);
            let content = &mut self.files[file].content;
            if content.last().is_none_or(|(_, before)| *before != now) {
                content.push((tid, now));
            }
        }
        self.note_changes(&oids);
        let oids = (!hidden).then(|| oids.into());
        self.commits.push(Commit { tid, oids });
    }

    fn note_changes(&mut self, oids: &[Oid]) {
        self.marked.clear();
        for file in &mut self.files {
            let (root, before) = &file.before;
            let blks = before.keys().chain(file.table.keys());
            let is_changed = |blk: &&u64| {
                let [old, new] = [before, &file.table].map(|table| table.get(blk));
                old != new || new.is_some_and(|oid| oids.contains(oid))
            };
            let blocks: BTreeSet<u64> = blks.filter(is_changed).copied().collect();
            let was_there = |blk: &&u64| before.contains_key(blk);
            let changes = Changes {
                before: blocks.iter().filter(was_there).copied().collect(),
                blocks,
                epoch: *root != file.blktab,
            };
            file.changes.push(changes);
            file.before = (file.blktab, file.table.clone());
        }
    }

    /// The bytes of a file.
    fn say(&self, file: &File) -> Vec<u8> {
        let blksize = usize::try_from(file.blksize).unwrap();
        let blocks = file.table.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut out = vec![0; usize::try_from(blocks).unwrap() * blksize];
        for (&blk, oid) in &file.table {
            let data = &self.blocks[oid].data;
            let at = usize::try_from(blk).unwrap() * blksize;
            out[at..at + data.len()].copy_from_slice(data);
        }
        out
    }

    /// The records of a file.
    fn render(&self, file: &File) -> Vec<(Oid, Vec<u8>)> {
        let mut out = vec![(file.oid, write::bigfile(BlkSize(file.blksize), file.blktab))];
        self.render_table(file, &mut out);
        for oid in file.table.values() {
            self.render_block(*oid, &mut out);
        }
        out
    }

    fn render_table(&self, file: &File, out: &mut Vec<(Oid, Vec<u8>)>) {
        let items: Vec<_> = file
            .table
            .iter()
            .map(|(&blk, &oid)| {
                let leaf = match self.blocks[&oid].form {
                    Form::Whole => Leaf::Blk0,
                    Form::Chunks(..) => Leaf::Blk1,
                };
                (i64::try_from(blk).unwrap(), oid, leaf)
            })
            .collect();
        // A leaf ends where the next one begins; empty ones are not written.
        let ends = file.leaves.keys().skip(1).copied().chain([i64::MAX]);
        let leaves: Vec<_> = file
            .leaves
            .iter()
            .zip(ends)
            .map(|((&start, &oid), end)| {
                let part = items.iter().filter(|i| (start..end).contains(&i.0));
                (start, oid, part.copied().collect::<Vec<_>>())
            })
            .filter(|(_, _, part)| !part.is_empty())
            .collect();
        if leaves.is_empty() {
            out.push((file.blktab, write::small_tree(Family::Lo, &items)));
            return;
        }
        for (i, (_, oid, part)) in leaves.iter().enumerate() {
            let next = leaves.get(i + 1).map(|(_, oid, _)| *oid);
            out.push((*oid, write::bucket(Family::Lo, part, next)));
        }
        let children: Vec<_> = leaves
            .iter()
            .map(|(start, oid, _)| (*start, *oid))
            .collect();
        let over = |oid, children: &[(i64, Oid)]| {
            let record = write::node(Family::Lo, children, Child::Bucket, children[0].1);
            (oid, record)
        };
        match file.inner {
            Some([left, right]) if children.len() > 1 => {
                let (a, b) = children.split_at(children.len() / 2);
                let nodes = [(a[0].0, left), (b[0].0, right)];
                let first = children[0].1;
                out.push((
                    file.blktab,
                    write::node(Family::Lo, &nodes, Child::Tree, first),
                ));
                out.push(over(left, a));
                out.push(over(right, b));
            }
            _ => out.push(over(file.blktab, &children)),
        }
    }

    fn render_block(&self, oid: Oid, out: &mut Vec<(Oid, Vec<u8>)>) {
        let block = &self.blocks[&oid];
        let Form::Chunks(chunktab, chunks) = &block.form else {
            out.push((oid, write::zblk0(&block.data)));
            return;
        };
        out.push((oid, write::zblk1(*chunktab)));
        let mut items = Vec::new();
        for (i, &(at, chunk)) in chunks.iter().enumerate() {
            let end = chunks.get(i + 1).map_or(block.data.len(), |next| next.0);
            out.push((chunk, write::zdata(&block.data[at..end])));
            items.push((i64::try_from(at).unwrap(), chunk, Leaf::Data));
        }
        out.push((*chunktab, write::small_tree(Family::Io, &items)));
    }
}

/// What an object is as of `at`.
pub(crate) fn load(records: &Records, oid: Oid, at: Tid) -> Option<Record> {
    let records = records.borrow();
    let records = records.get(&oid)?;
    let newer = records.partition_point(|r| r.serial <= at);
    records[..newer].last().cloned()
}
