//! A database over time, all states of it written out.

use super::model::{Leaves, State, changed};
use crate::base::{BlkNo, BlkSize, Oid, Tid};
use crate::tail::{Need, States};
use crate::zodb::{Absent, BigFile, Lookup, Object, ObjectError, Step, decode, write};
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A tree as of one state.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) leaves: Leaves,
    pub(super) map: BTreeMap<i64, u64>,
}

impl Whole {
    pub(super) fn of(leaves: Leaves) -> Self {
        let maps = leaves.iter().map(|(_, map)| map.clone());
        let map = maps.flatten().collect();
        Self { leaves, map }
    }

    pub(super) fn value(&self, blk: BlkNo) -> Option<Oid> {
        let key = i64::try_from(blk.0).unwrap();
        self.map.get(&key).copied().map(Oid)
    }
}

/// All there is, as of one state.
#[derive(Clone, Default)]
pub(super) struct Snap {
    pub(super) tid: Tid,
    /// What the transaction that led here changed.
    pub(super) oids: Arc<[Oid]>,
    pub(super) files: BTreeMap<Oid, BigFile>,
    pub(super) trees: BTreeMap<Oid, Whole>,
}

impl Snap {
    /// Table of a file.
    pub(super) fn table(&self, file: Oid) -> Option<&Whole> {
        self.files.get(&file).map(|file| &self.trees[&file.blktab])
    }
}

type Version = Option<Result<Object, ObjectError>>;

/// Objects of all states, of which some are at hand.
#[derive(Default)]
pub(super) struct Store {
    all: FxHashMap<Oid, Vec<(Tid, Version)>>,
    pub(super) here: FxHashSet<(Tid, Oid)>,
    /// How many were brought.
    pub(super) brought: usize,
}

impl States for Store {
    fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
        if !self.here.contains(&(at, oid)) {
            return Lookup::Missing;
        }
        let versions = self.all.get(&oid).map_or(&[][..], |all| all);
        let count = versions.partition_point(|&(tid, _)| tid <= at);
        match count.checked_sub(1).map(|last| &versions[last].1) {
            None if versions.is_empty() => Lookup::Absent(Absent::NoObject),
            None => Lookup::Absent(Absent::NotYet),
            Some(None) => Lookup::Absent(Absent::Deleted),
            Some(Some(Ok(object))) => Lookup::Here(object),
            Some(Some(Err(error))) => Lookup::Broken(error),
        }
    }
}

impl Store {
    /// Another version of an object.
    pub(super) fn put(&mut self, tid: Tid, oid: Oid, record: Bytes) {
        let version = Some(decode(record));
        self.all.entry(oid).or_default().push((tid, version));
    }

    /// Asks until there is an answer, bringing what is asked for; all of it of states in `[tail, head]`.
    pub(super) fn run<T>(
        &mut self,
        (tail, head): (Tid, Tid),
        mut question: impl FnMut(&Self, &mut Need) -> Step<T>,
    ) -> T {
        let mut need = Vec::new();
        loop {
            need.clear();
            match question(self, &mut need) {
                Step::Done(answer) => {
                    assert!(need.is_empty(), "{need:?}");
                    return answer;
                }
                Step::Need => {
                    assert!(!need.is_empty());
                    for &(at, oid) in &need {
                        assert!(tail <= at && at <= head, "{at} of {tail} to {head}");
                        assert!(!self.here.contains(&(at, oid)));
                    }
                    self.brought += need.len();
                    self.here.extend(need.drain(..));
                }
            }
        }
    }
}

/// A database, and all its states.
pub(super) struct World {
    pub(super) store: Store,
    pub(super) snaps: Vec<Snap>,
    records: BTreeMap<Oid, Bytes>,
}

/// What a commit may be made of.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) trees: BTreeMap<Oid, State>,
    pub(super) files: BTreeMap<Oid, BigFile>,
}

/// A file with this table.
pub(super) fn bigfile(blksize: u64, blktab: Oid) -> BigFile {
    let blksize = BlkSize(blksize);
    BigFile { blksize, blktab }
}

impl World {
    /// A database that starts with this, at tid 10.
    pub(super) fn new(content: &Content) -> Self {
        let mut world = Self {
            store: Store::default(),
            snaps: Vec::new(),
            records: BTreeMap::new(),
        };
        world.commit(content, &[]);
        world
    }

    /// Commits all that is different now; `more` objects are said to have changed, too.
    pub(super) fn commit(&mut self, content: &Content, more: &[Oid]) {
        let mut records = BTreeMap::new();
        let mut trees = BTreeMap::new();
        for (&root, tree) in &content.trees {
            records.extend(tree.records());
            trees.insert(root, Whole::of(tree.leaves()));
        }
        for (&oid, file) in &content.files {
            records.insert(oid, write::bigfile(file.blksize, file.blktab).into());
        }
        self.put(records, content.files.clone(), trees, more);
    }

    /// Commits these records, which are these files and trees.
    pub(super) fn put(
        &mut self,
        records: BTreeMap<Oid, Bytes>,
        files: BTreeMap<Oid, BigFile>,
        trees: BTreeMap<Oid, Whole>,
        more: &[Oid],
    ) {
        let tid = Tid(10 * (self.snaps.len() as u64 + 1));
        let changed: BTreeSet<Oid> = changed(&self.records, &records);
        for &oid in &changed {
            let version = records.get(&oid).map(|record| decode(record.clone()));
            self.store.all.entry(oid).or_default().push((tid, version));
        }
        let oids = changed.into_iter().chain(more.iter().copied()).collect();
        self.records = records;
        self.snaps.push(Snap {
            tid,
            oids,
            files,
            trees,
        });
    }

    /// Commits a record that is no object; the next commit repairs it.
    pub(super) fn spoil(&mut self, oid: Oid) {
        let mut records = self.records.clone();
        records.insert(oid, Bytes::from_static(b"damaged"));
        let Snap { files, trees, .. } = self.head().clone();
        self.put(records, files, trees, &[]);
    }

    /// The last state.
    pub(super) fn head(&self) -> &Snap {
        self.snaps.last().unwrap()
    }

    /// Number of the state as of a tid.
    pub(super) fn at(&self, tid: Tid) -> usize {
        self.snaps.partition_point(|snap| snap.tid <= tid) - 1
    }

    /// The transactions in `(lo, hi]`: the states before and after, oldest first.
    pub(super) fn steps(
        &self,
        lo: Tid,
        hi: Tid,
    ) -> impl DoubleEndedIterator<Item = (&Snap, &Snap)> {
        let steps = self.snaps.windows(2).map(|w| (&w[0], &w[1]));
        steps.filter(move |(_, new)| lo < new.tid && new.tid <= hi)
    }
}
