//! What the tests of this room share: a directory that goes away, chance, and the slow, obvious twin of a database.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::{FileOpts, FileStore, FileView, FileWriter, Note, OpenError};
use crate::base::{Oid, Tid};
use crate::store::LoadError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory under the system's temporary one; removed when dropped.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("zring-store-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.join("Data.fs")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// splitmix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// What a load should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Says {
    NoObject,
    NotYet,
    Deleted(Tid),
    Data(Tid, Vec<u8>),
}

impl Says {
    pub(super) fn of(view: &FileView, oid: Oid, at: Tid) -> Self {
        Self::from(
            view.load(oid, at)
                .map(|found| (found.serial, found.data.to_vec())),
        )
    }

    pub(super) fn from(result: Result<(Tid, Vec<u8>), LoadError>) -> Self {
        match result {
            Ok((serial, data)) => Self::Data(serial, data),
            Err(LoadError::NoObject) => Self::NoObject,
            Err(LoadError::NotYet) => Self::NotYet,
            Err(LoadError::Deleted { at }) => Self::Deleted(at),
            Err(error) => panic!("load failed: {error}"),
        }
    }
}

/// A revision of an object: `None` if it is gone.
pub(super) type Revision = (Tid, Option<Vec<u8>>);

/// A database as a map of lists.
#[derive(Clone, Default)]
pub(super) struct Twin {
    pub(super) txns: Vec<(Tid, Vec<Oid>)>,
    pub(super) objects: BTreeMap<Oid, Vec<Revision>>,
}

impl Twin {
    pub(super) fn last(&self) -> Tid {
        self.txns.last().map_or(Tid::ZERO, |t| t.0)
    }

    /// The twin as it was when `tid` was the last transaction.
    pub(super) fn as_of(&self, tid: Tid) -> Self {
        let mut twin = self.clone();
        twin.txns.retain(|t| t.0 <= tid);
        twin.objects
            .values_mut()
            .for_each(|revs| revs.retain(|r| r.0 <= tid));
        twin.objects.retain(|_, revs| !revs.is_empty());
        twin
    }

    pub(super) fn load(&self, oid: Oid, at: Tid) -> Says {
        let Some(revs) = self.objects.get(&oid) else {
            return Says::NoObject;
        };
        match revs.iter().rev().find(|rev| rev.0 <= at) {
            None => Says::NotYet,
            Some((tid, None)) => Says::Deleted(*tid),
            Some((tid, Some(data))) => Says::Data(*tid, data.clone()),
        }
    }

    /// Every (oid, at) there is to ask, and some in between.
    pub(super) fn check(&self, view: &FileView) {
        let ats: Vec<_> = self
            .txns
            .iter()
            .flat_map(|t| [Tid(t.0.0 - 1), t.0])
            .collect();
        for &oid in self.objects.keys().chain([&Oid(u64::MAX)]) {
            for &at in ats.iter().filter(|&&at| at <= view.at()) {
                assert_eq!(Says::of(view, oid, at), self.load(oid, at), "{oid} at {at}");
            }
        }
    }
}

/// Where a random history takes its objects and sizes from.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) oids: u64,
    /// Oids are multiples of this.
    pub(super) stride: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

pub(super) const SMALL: Shape = Shape {
    oids: 12,
    stride: 1,
    records: 4,
    bytes: 60,
};

/// Commits one random transaction, to both.
pub(super) fn commit(writer: &mut FileWriter, twin: &mut Twin, rng: &mut Rng, shape: Shape) {
    let tid = Tid(twin.last().0 + 1 + rng.below(5));
    // A vote that is taken back leaves no trace.
    if rng.below(8) == 0 {
        let mut txn = writer.begin(tid, Note::default()).unwrap();
        let data = rng.bytes(shape.bytes);
        txn.store(Oid(1), &data).unwrap();
        txn.vote().unwrap().abort().unwrap();
    }
    let note = rng.bytes(9);
    let mut txn = writer
        .begin(
            tid,
            Note {
                user: b"someone",
                description: &note,
                extension: b"",
            },
        )
        .unwrap();
    let mut oids = Vec::new();
    for _ in 0..rng.below(shape.records + 1) {
        let oid = Oid(rng.below(shape.oids) * shape.stride);
        if oids.contains(&oid) {
            continue;
        }
        let revs = twin.objects.entry(oid).or_default();
        let data = match rng.below(if revs.is_empty() { 3 } else { 5 }) {
            3 => {
                txn.delete(oid).unwrap();
                None
            }
            4 => {
                let (at, data) =
                    revs[usize::try_from(rng.below(revs.len() as u64)).unwrap()].clone();
                txn.share(oid, at).unwrap();
                data
            }
            _ => {
                let len = 1 + rng.below(shape.bytes);
                let data = rng.bytes(len);
                txn.store(oid, &data).unwrap();
                Some(data)
            }
        };
        revs.push((tid, data));
        oids.push(oid);
    }
    txn.commit().unwrap();
    twin.txns.push((tid, oids));
}

/// A random database of so many transactions.
pub(super) fn database(path: &Path, seed: u64, txns: usize, shape: Shape) -> (FileWriter, Twin) {
    let mut writer = FileWriter::create(path).unwrap().synced(false);
    let (mut twin, mut rng) = (Twin::default(), Rng(seed));
    for _ in 0..txns {
        commit(&mut writer, &mut twin, &mut rng, shape);
    }
    (writer, twin)
}

pub(super) fn open(path: &Path) -> Result<(FileStore, FileView), OpenError> {
    FileStore::open(path, &FileOpts::default(), &mut |_, _| {})
}
