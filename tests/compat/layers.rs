//! A database in two layers, written by Python's DemoStorage, against what ZODB says of each layer.

use super::{Bed, conforms_live, conforms_packed, follow, opened_remote, same_history};
use crate::oracle::{Dir, Dump, make, python, run};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::Command;
use zring::base::{Oid, Tid};
use zring::store::remote::RemoteStore;
use zring::store::{Event, LoadError, Store};

/// Two files.
struct Layers {
    dir: Dir,
    /// Up to where changes were packed.
    packed: Cell<Tid>,
}

const PACK: &str = "\
import sys, time
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf
st = FileStorage(sys.argv[1])
st.pack(time.time(), referencesf, gc=False)
st.close()";

const DELETE: &str = "\
import sys
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64
st = FileStorage(sys.argv[1])
oid = bytes.fromhex(sys.argv[2])
t = TransactionMetaData()
st.tpc_begin(t)
st.deleteObject(oid, st.load(oid, '')[1], t)
st.tpc_vote(t)
print(st.tpc_finish(t).hex())
st.close()";

/// Rewrites an object of a file as it is: a transaction.
const TOUCH: &str = "\
import sys
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
st = FileStorage(sys.argv[1])
oid = bytes.fromhex(sys.argv[2])
data, serial = st.load(oid, '')
t = TransactionMetaData()
st.tpc_begin(t)
st.store(oid, serial, data, '', t)
st.tpc_vote(t)
print(st.tpc_finish(t).hex())
st.close()";

fn commit(python: &str, code: &str, file: &str, oid: Oid) -> Tid {
    let mut command = Command::new(python);
    let out = command.args(["-c", code, file, &oid.to_string()]).output();
    let out = out.unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let why = String::from_utf8_lossy(&out.stderr);
    Tid::parse(said.trim().as_bytes()).unwrap_or_else(|| panic!("{why}"))
}

/// Deletes an object of a file.
pub(crate) fn delete(python: &str, file: &str, oid: Oid) -> Tid {
    commit(python, DELETE, file, oid)
}

impl Layers {
    /// A base with a history, and changes of some transactions.
    fn new(python: &str) -> Self {
        let dir = super::database(python);
        std::fs::rename(dir.file("Data.fs"), dir.file("Base.fs")).unwrap();
        let packed = Cell::new(Tid::ZERO);
        let this = Self { dir, packed };
        write(python, &this, "0");
        this
    }

    fn base(&self) -> String {
        self.dir.file("Base.fs")
    }
}

fn write(python: &str, bed: &Layers, seed: &str) {
    let (target, log) = (bed.target(), bed.dir.file(&format!("{seed}.jsonl")));
    let args = "--interval 1 --count 12 --w-epoch 0 --seed".split(' ');
    let args: Vec<&str> = ["live", "--target", &target, "--log", &log]
        .into_iter()
        .chain(args)
        .chain([seed])
        .collect();
    make(python, &args);
}

impl Bed for Layers {
    type Store = RemoteStore;

    fn target(&self) -> String {
        format!("demo:(file://{})/(file://{})", self.base(), self.file())
    }

    fn file(&self) -> String {
        self.dir.file("Data.fs")
    }

    /// All changes are newer than the base.
    fn dump(&self, python: &str) -> Dump {
        let base = Dump::new(python, &self.base());
        let changes = Dump::new(python, &self.file());
        let last = base.txns.last().unwrap().0;
        assert!(changes.txns.iter().all(|txn| txn.0 > last));
        let ats: BTreeSet<Tid> = changes.loads.keys().map(|key| key.1).collect();
        let mut loads = base.loads.clone();
        let below = |oid| base.loads.get(&(oid, last)).cloned();
        let oids: BTreeSet<Oid> = base.loads.keys().map(|key| key.0).collect();
        for oid in oids {
            loads.extend(ats.iter().map(|&at| ((oid, at), below(oid).unwrap())));
        }
        let has = |oid, txn: &&(Tid, Vec<Oid>)| txn.1.contains(&oid);
        for ((oid, at), said) in changes.loads {
            let oldest = changes.txns.iter().find(|txn| has(oid, txn)).unwrap().0;
            // What a pack took is not what was below it.
            let is_none = said == "none";
            let said = match below(oid) {
                _ if is_none && oldest <= self.packed.get() => "gone".to_owned(),
                Some(below) if is_none => below,
                _ => said,
            };
            loads.insert((oid, at), said);
        }
        for oid in changes.txns.iter().flat_map(|txn| &txn.1) {
            let oldest = changes.txns.iter().find(|txn| has(*oid, txn)).unwrap().0;
            if oldest <= self.packed.get() {
                let older = loads.range_mut((*oid, Tid::ZERO)..(*oid, oldest));
                older.for_each(|(_, said)| *said = "gone".to_owned());
            }
        }
        let mut txns = base.txns;
        txns.extend(changes.txns);
        Dump { txns, loads }
    }

    fn open(&self) -> RemoteStore {
        opened_remote(&self.target())
    }

    fn pack(&self, python: &str) {
        let last = Dump::new(python, &self.file()).txns.pop().unwrap().0;
        let mut command = Command::new(python);
        let status = command.args(["-c", PACK, &self.file()]).status();
        assert!(status.unwrap().success(), "the pack failed");
        self.packed.set(last);
    }
}

#[test]
fn layers_of_files_conform() {
    let Some(python) = python() else { return };
    let bed = Layers::new(&python);
    let write = |seed: &str| write(&python, &bed, seed);
    let live = conforms_live(&python, &bed, write);
    conforms_packed(&python, &bed, live, write);
}

/// Deleted in the changes is deleted, from then on; the base's object is shown before.
#[test]
fn a_deletion_in_the_changes_hides_what_the_base_has() {
    let Some(python) = python() else { return };
    let bed = Layers::new(&python);
    let mut store = bed.open();
    let begun = store.view();
    let (base, changes) = (
        Dump::new(&python, &bed.base()),
        Dump::new(&python, &bed.file()),
    );
    let in_both = changes.loads.keys().map(|key| key.0);
    let last = base.txns.last().unwrap().0;
    let is_alive = |oid: &Oid| {
        let below = base.loads.get(&(*oid, last));
        *oid != Oid(0) && below.is_some_and(|said| said.contains(' '))
    };
    let oid = in_both.into_iter().find(is_alive).unwrap();
    let tid = commit(&python, DELETE, &bed.file(), oid);
    let seen = follow(&mut store, tid);
    same_history(&seen, &bed.dump(&python), begun.at());
    let view = store.view();
    let was = view.load(oid, begun.at()).unwrap();
    assert!(was.serial > last);
    assert!(matches!(view.load(oid, tid), Err(LoadError::Deleted { at }) if at == tid));
    let below = view.load(oid, last).unwrap();
    assert!(below.serial <= last, "what the base has, as of its time");
    bed.dump(&python).check(&view);
}

/// A base that moves is followed while it is newer than all else, and nothing but a new beginning when it is not.
#[test]
fn a_base_that_moves_is_followed_or_everything_derived_is_dropped() {
    let Some(python) = python() else { return };
    let bed = Layers::new(&python);
    let mut store = bed.open();
    let root = Oid(0);
    let moved = commit(&python, TOUCH, &bed.base(), root);
    let seen = follow(&mut store, moved);
    assert!(seen.iter().map(|seen| seen.0).eq([moved]));
    assert_eq!(seen[0].1, [root]);
    let view = store.view();
    let of = |oid| view.load(oid, moved).unwrap().serial;
    assert!(of(root) <= moved);
    // Old news: what is copied into the base was committed before.
    let old = commit(&python, TOUCH, &bed.base(), root);
    let stale = std::fs::read(bed.base()).unwrap();
    let changed = Dump::new(&python, &bed.file()).txns.pop().unwrap().1[0];
    let newer = commit(&python, TOUCH, &bed.file(), changed);
    let mut resets = 0;
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // Both came: in order, if both were seen in one look or one after the other.
    while store.view().at() < newer {
        assert!(std::time::Instant::now() < give_up);
        for event in store.follow().unwrap() {
            resets += usize::from(matches!(event, Event::Reset(_)));
        }
    }
    assert_eq!((resets, store.view().load(root, old).is_ok()), (0, true));
    // A second base, opened when head is newer already.
    let dir = Dir::new();
    let base = dir.file("Old.fs");
    std::fs::write(&base, &stale[..]).unwrap();
    let zurl = format!("demo:(file://{base})/(file://{})", bed.file());
    let mut store = opened_remote(&zurl);
    let begun = store.view();
    assert_eq!(begun.at(), newer);
    // Its clock is behind: a transaction below head.
    run(
        &python,
        "compat/below.py",
        &[&base, &root.to_string(), &old.to_string()],
    );
    let mut lost = None;
    while lost.is_none() {
        assert!(std::time::Instant::now() < give_up);
        for event in store.follow().unwrap() {
            match event {
                Event::Reset(view) => lost = Some(view),
                event => panic!("{event:?}"),
            }
        }
    }
    let view = lost.unwrap();
    assert_eq!((view.at(), view.generation()), (newer, 1));
    assert!(matches!(begun.load(root, old), Err(LoadError::Moved)));
    assert!(view.load(root, newer).is_ok());
}
