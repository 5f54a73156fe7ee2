//! The owner under a scheduler that tries one order of threads after the other, and tells when nobody can go on: a scan, removals, another
//! node and the end, as in the tests of the whole, where the kernel's scheduler tries few.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::base::{Algo, Digest, Witness};
use crate::store::catalog::{Identity, Manifest};
use crate::wire::catalog::Sealed;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// What the owner runs on here.
pub(super) mod on {
    pub(in super::super) use shuttle::sync::mpsc::{
        Receiver, SyncSender as Sender, sync_channel as bounded,
    };
    pub(in super::super) use shuttle::thread::JoinHandle;

    pub(in super::super) fn spawn<T: Send + 'static>(
        _: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<JoinHandle<T>> {
        Ok(shuttle::thread::spawn(body))
    }
}

const ORDERS: usize = 3000;
const NODE: Origin = Origin { node: 5, epoch: 1 };

/// What was applied, in order: of whom, and his how many-th.
type Log = Arc<Mutex<Vec<(u64, u64)>>>;

/// A catalog in memory.
struct Memory {
    manifest: Manifest,
    log: Log,
    files: BTreeMap<Vec<u8>, Record>,
    seqs: BTreeMap<Origin, u64>,
}

struct Empty;

impl Snapshot for Empty {
    fn len(&self) -> usize {
        0
    }
    fn find(&self, _: &[u8]) -> Option<usize> {
        None
    }
    fn path(&self, _: usize) -> Vec<u8> {
        Vec::new()
    }
    fn load(&self, _: usize, _: &mut Vec<u8>) -> Result<(), CatalogError> {
        Ok(())
    }
    fn bytes(&self, _: usize) -> u64 {
        0
    }
    fn damaged(&self) -> usize {
        0
    }
}

impl Catalog for Memory {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    fn place(&self) -> &Path {
        Path::new("/nowhere")
    }
    fn runs(&self) -> Arc<dyn Snapshot> {
        Arc::new(Empty)
    }
    fn get(&self, path: &[u8]) -> Result<Option<Record>, CatalogError> {
        Ok(self.files.get(path).copied())
    }
    fn apply(&mut self, batch: &mut Batch, from: Origin, seq: u64) -> Result<(), CatalogError> {
        self.log.lock().unwrap().push((from.node, seq));
        self.seqs.insert(from, seq);
        let (sealed, _) = Sealed::split(batch.seal(from, seq)).unwrap();
        for op in sealed.ops() {
            match op.unwrap() {
                Op::Put { dir, name, record } => {
                    self.files.insert([dir, name].join(&b'/'), record);
                }
                Op::Remove { dir, name } => {
                    self.files.remove(&[dir, name].join(&b'/'));
                }
                Op::RemoveTree { path } => {
                    let below = [path, b""].join(&b'/');
                    self.files.retain(|file, _| !file.starts_with(&below));
                }
                Op::Order { .. } => {}
            }
        }
        Ok(())
    }
    fn compact(&mut self, _: bool) -> Result<(), CatalogError> {
        Ok(())
    }
    fn seq_of(&self, from: Origin) -> u64 {
        self.seqs.get(&from).copied().unwrap_or(0)
    }
}

fn put(dir: &str, name: &str, byte: u8) -> Batch {
    batch_of(&Op::Put {
        dir: dir.as_bytes(),
        name: name.as_bytes(),
        record: Record {
            witness: Witness::default(),
            digest: Digest([byte; 32]),
            hashed_at: 1,
            flags: 0,
        },
    })
}

fn begin() -> (Owner, Log) {
    let log = Log::default();
    let catalog = Memory {
        manifest: Manifest {
            identity: Identity {
                root_id: "1".into(),
                root: "/".into(),
                fs_uuid: None,
                fs_type: "none".into(),
            },
            algo: Algo::default(),
            generation: 1,
            rebound: false,
        },
        log: Arc::clone(&log),
        files: BTreeMap::new(),
        seqs: BTreeMap::new(),
    };
    (Owner::start(Box::new(catalog)).unwrap(), log)
}

/// A scan, removals of what it puts, a node that says everything twice and is removed, and the end.
fn all_at_once() {
    let (owner, log) = begin();
    let (scan, removals, node) = (owner.handle(), owner.handle(), owner.handle());
    let threads = [
        shuttle::thread::spawn(move || {
            for name in ["a", "b"] {
                scan.apply(put("d", name, 1));
            }
            scan.remove_tree(b"d");
            scan.apply(put("e", "last", 7));
            // After all that was sent before, whatever others send.
            let got = scan.get(b"e/last").map(|record| record.digest.0[0]);
            assert!(got.is_none_or(|byte| byte == 7) && !scan.has_failed());
            drop(scan.snapshot().unwrap());
        }),
        shuttle::thread::spawn(move || {
            removals.remove(b"d/a");
            removals.remove_tree(b"e");
        }),
        shuttle::thread::spawn(move || {
            node.join(NODE);
            for seq in [1, 1, 2, 2] {
                node.apply_of(NODE, seq, put("node", "n", u8::try_from(seq).unwrap()));
            }
            assert!(
                node.get(b"node/n")
                    .is_some_and(|record| record.digest.0[0] == 2)
            );
            node.leave(NODE);
            node.apply_of(NODE, 3, put("node", "n", 3));
            node.join(NODE);
            node.apply_of(NODE, 3, put("node", "n", 3));
        }),
    ];
    // It ends while they send.
    let (catalog, outcome) = owner.end();
    outcome.unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    let of = |node| -> Vec<u64> {
        let log = log.lock().unwrap();
        log.iter()
            .filter(|(n, _)| *n == node)
            .map(|(_, seq)| *seq)
            .collect()
    };
    assert_eq!(
        of(0),
        (1..=6).collect::<Vec<_>>(),
        "each change of our own once, in order"
    );
    assert_eq!(
        of(NODE.node),
        [1, 2],
        "each of the node once, none after it was removed"
    );
    let get = |path: &[u8]| catalog.get(path).unwrap().map(|record| record.digest.0[0]);
    assert_eq!(
        (get(b"d/a"), get(b"d/b"), get(b"node/n")),
        (None, None, Some(2))
    );
}

#[test]
fn no_order_holds_anybody_up_or_loses_a_change() {
    shuttle::check_random(all_at_once, ORDERS);
    shuttle::check_pct(all_at_once, ORDERS, 3);
}

/// The model sees what it is for: an owner that sends to a queue whose reader waits for the owner.
#[test]
#[should_panic(expected = "deadlock")]
fn a_circle_is_seen() {
    let circle = || {
        let (to_owner, from_all) = bounded::<u8>(1);
        let (to_outbox, outbox) = bounded::<u8>(1);
        let owner = shuttle::thread::spawn(move || {
            while let Ok(byte) = from_all.recv() {
                to_outbox.send(byte).unwrap();
            }
        });
        for byte in 0..4 {
            to_owner.send(byte).unwrap();
        }
        drop(to_owner);
        owner.join().unwrap();
        drop(outbox);
    };
    shuttle::check_random(circle, 100);
}
