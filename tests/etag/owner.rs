//! The owner of a catalog under all that may come at once: nobody waits for ever, each batch counts once, none of a node that is gone.

use crate::scene::{Rng, Scene};
use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Duration;
use zring::base::{Digest, Witness};
use zring::engine::etag::owner::Owner;
use zring::engine::etag::{Config, Root};
use zring::store::catalog::{self, Catalog};
use zring::wire::catalog::{Batch, Entries, Op, Origin, Record, Run};

type Known = BTreeMap<Vec<u8>, u8>;

fn record(byte: u8) -> Record {
    Record {
        witness: Witness::default(),
        digest: Digest([byte; 32]),
        hashed_at: 1,
        flags: 0,
    }
}

fn put(dir: &str, name: &str, byte: u8) -> Batch {
    let mut batch = Batch::new();
    batch.push(&Op::Put {
        dir: dir.as_bytes(),
        name: name.as_bytes(),
        record: record(byte),
    });
    batch
}

fn open(scene: &Scene) -> Box<dyn Catalog> {
    let root = Root::open(&scene.tree, &Config::default()).unwrap();
    let dir = scene.state.join(&root.identity.root_id);
    catalog::open(&dir, &root.identity, catalog::place::Wanted::default()).unwrap()
}

fn known(catalog: &dyn Catalog) -> Known {
    let (snapshot, mut out, mut bytes) = (catalog.runs(), Known::new(), Vec::new());
    for run in 0..snapshot.len() {
        snapshot.load(run, &mut bytes).unwrap();
        if bytes.is_empty() {
            continue;
        }
        for entry in Entries(Run::parse(&bytes).unwrap().entries) {
            let path = [&snapshot.path(run), entry.name].join(&b'/');
            out.insert(path, entry.record().digest.0[0]);
        }
    }
    out
}

/// Runs it, or fails after ten seconds.
fn within_ten_seconds(body: impl FnOnce() + Send + 'static) {
    let (done, over) = channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    match over.recv_timeout(Duration::from_secs(10)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            eprintln!("nobody goes on");
            std::process::abort()
        }
        _ => thread.join().unwrap(),
    }
}

#[test]
fn scans_removals_other_nodes_and_the_end_at_once() {
    within_ten_seconds(|| {
        let scene = Scene::new("owner");
        let owner = Owner::start(open(&scene)).unwrap();
        let node = |n| Origin { node: n, epoch: 1 };
        let threads: Vec<_> = (1..=6u64)
            .map(|who| {
                let handle = owner.handle();
                std::thread::spawn(move || {
                    let mut rng = Rng::seeded(who);
                    if who < 3 {
                        handle.join(node(who));
                    }
                    for seq in 1..=40 {
                        let name = format!("f{}", rng.below(9));
                        let dir = format!("d{who}/e{}", rng.below(3));
                        match who {
                            // Two other nodes, each batch twice; the second is removed in the middle.
                            1 | 2 => {
                                let byte = u8::try_from(seq).unwrap();
                                handle.apply_of(
                                    node(who),
                                    seq,
                                    put("node", &format!("n{who}"), byte),
                                );
                                handle.apply_of(
                                    node(who),
                                    seq,
                                    put("node", &format!("n{who}"), 99),
                                );
                                if who == 2 && seq == 20 {
                                    handle.leave(node(2));
                                    handle.join(node(2));
                                }
                            }
                            3 => handle.remove_tree(format!("d{}", 3 + rng.below(3)).as_bytes()),
                            4 => handle.remove(format!("{dir}/{name}").as_bytes()),
                            5 => drop((handle.get(dir.as_bytes()), handle.snapshot())),
                            _ => handle.apply(put(&dir, &name, 7)),
                        }
                    }
                    if who == 6 {
                        handle.remove_tree(b"d6");
                        handle.apply(put("d6", "last", 8));
                        assert_eq!(handle.get(b"d6/last").map(|r| r.digest.0[0]), Some(8));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let (catalog, outcome) = owner.end();
        outcome.unwrap();
        let all = known(&*catalog);
        assert_eq!(all.get(&b"node/n1"[..]), Some(&40), "{all:?}");
        assert_eq!(
            all.get(&b"node/n2"[..]),
            Some(&20),
            "nothing after it was removed"
        );
        let below = all.keys().filter(|path| path.starts_with(b"d6/"));
        assert_eq!(below.collect::<Vec<_>>(), [b"d6/last"]);
        // Also when files are put in order, which begins a new journal.
        let mut catalog = catalog;
        catalog.compact(true).unwrap();
        drop(catalog);
        // Another life: what was applied is known to be, and to be told of it again changes nothing.
        let owner = Owner::start(open(&scene)).unwrap();
        let handle = owner.handle();
        handle.join(node(1));
        for seq in 1..=40 {
            handle.apply_of(node(1), seq, put("node", "n1", 99));
        }
        handle.apply_of(node(7), 1, put("node", "n7", 1));
        drop(handle);
        let (catalog, outcome) = owner.end();
        outcome.unwrap();
        assert_eq!(known(&*catalog), all);
    });
}

/// Whoever sends is not told when nobody can write any more, but nobody waits either.
#[test]
fn handles_that_outlive_their_use_hold_nobody_up() {
    within_ten_seconds(|| {
        let scene = Scene::new("handles");
        let owner = Owner::start(open(&scene)).unwrap();
        let handle = owner.handle();
        let sender = std::thread::spawn(move || {
            for i in 0..200u8 {
                handle.apply(put("d", &format!("f{i}"), i));
            }
        });
        let (catalog, outcome) = owner.end();
        sender.join().unwrap();
        outcome.unwrap();
        assert_eq!(known(&*catalog).len(), 200);
    });
}
