//! What a tracked block takes, and what a commit costs beside many of them. To be run by hand, one at a time:
//! `ZRING_BLOCKS=1000 cargo test --release --lib tail::tests::size::one_file -- --ignored --nocapture`.

use super::world::{World, bigfile};
use crate::base::{BlkNo, Oid, Tid};
use crate::tail::FTail;
use crate::zodb::write::{Child, Item, Leaf, bucket, node};
use crate::zodb::{Family, Step, bigfile::locate_path};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

const LEAF: usize = 30;

fn blk(file: usize, i: usize) -> Oid {
    Oid(1 << 40 | (file as u64) << 24 | i as u64)
}

fn oid(file: usize, node: usize) -> Oid {
    Oid(1 << 41 | (file as u64) << 24 | node as u64)
}

/// A file of `count` blocks; `turned`: its first block is the second one's object.
fn write(file: usize, count: usize, turned: bool, out: &mut BTreeMap<Oid, Bytes>) {
    let leaves = count.div_ceil(LEAF);
    for leaf in 0..leaves {
        let item = |i: usize| -> Item {
            let value = if turned && i == 0 { 1 } else { i };
            (i64::try_from(i).unwrap(), blk(file, value), Leaf::Blk0)
        };
        let items: Vec<Item> = (leaf * LEAF..(leaf + 1) * LEAF).map(item).collect();
        out.insert(
            oid(file, 10_000 + leaf),
            bucket(Family::Lo, &items, None).into(),
        );
    }
    let inner = leaves.div_ceil(250);
    let key = |leaf: usize| i64::try_from(leaf * LEAF).unwrap();
    for i in 0..inner {
        let below = i * 250..leaves.min((i + 1) * 250);
        let below: Vec<_> = below
            .map(|leaf| (key(leaf), oid(file, 10_000 + leaf)))
            .collect();
        let record = node(Family::Lo, &below, Child::Bucket, below[0].1);
        out.insert(oid(file, 1 + i), record.into());
    }
    let below: Vec<_> = (0..inner)
        .map(|i| (key(i * 250), oid(file, 1 + i)))
        .collect();
    let record = node(Family::Lo, &below, Child::Tree, oid(file, 10_000));
    out.insert(oid(file, 0), record.into());
}

fn measure(files: usize, blocks: usize) {
    let count = blocks / files / LEAF * LEAF;
    let mut records = BTreeMap::new();
    (0..files).for_each(|file| write(file, count, false, &mut records));
    let mut world = World::new(&super::world::Content::default());
    world.put(records.clone(), BTreeMap::new(), BTreeMap::new(), &[]);
    let mut ftail = FTail::new(world.head().tid);
    let all: Vec<_> = records.keys().map(|&oid| (Tid(20), oid)).collect();
    world.store.here.extend(all);

    let before = resident();
    let mut path = Vec::new();
    for file in 0..files {
        let (name, is) = (Oid(1 << 42 | file as u64), bigfile(1 << 21, oid(file, 0)));
        ftail.tracked_mut().open(name, is).unwrap();
        for i in 0..count {
            let at = BlkNo(i as u64);
            let store = &world.store;
            let found = crate::tail::state::ask(store, &mut Vec::new(), Tid(20), |ask| {
                locate_path(ask, &is, at, &mut path)
            });
            let Ok(Step::Done(place)) = found else {
                panic!()
            };
            ftail.tracked_mut().track(name, &path).unwrap();
            let block = place.block.map(|entry| entry.oid);
            ftail.tracked_mut().read(name, at, block).unwrap();
        }
    }
    let tracked = ftail.tracked().counts().blocks;
    let each = (resident() - before) / usize::try_from(tracked).unwrap();

    // History hears of all these tracks first.
    let oids: Arc<[Oid]> = Arc::new([]);
    let step = ftail.update(&world.store, &mut Vec::new(), Tid(25), &oids);
    assert!(matches!(step, Step::Done(_)));
    // A block that is written to, a hundred times; then one that becomes another one.
    let start = Instant::now();
    for i in 0..100u64 {
        let oids: Arc<[Oid]> = Arc::new([blk(0, usize::try_from(i).unwrap() % LEAF)]);
        let tid = Tid(30 + i);
        let step = ftail.update(&world.store, &mut Vec::new(), tid, &oids);
        let Step::Done(changes) = step else { panic!() };
        assert_eq!(changes.len(), 1);
    }
    let written = start.elapsed() / 100;
    write(0, count, true, &mut records);
    let leaf = oid(0, 10_000);
    let tid = Tid(1000);
    world.store.put(tid, leaf, records[&leaf].clone());
    let (oids, store): (Arc<[Oid]>, _) = (Arc::new([leaf]), &mut world.store);
    let changes = store.run((Tid(20), tid), |s, need| ftail.update(s, need, tid, &oids));
    assert_eq!(changes.len(), 1);
    let start = Instant::now();
    let mut clone = FTail::clone(&ftail);
    let cloned = start.elapsed();
    // Back again, everything at hand.
    let tid = Tid(1001);
    write(0, count, false, &mut records);
    store.put(tid, leaf, records[&leaf].clone());
    store.run((Tid(20), tid), |s, need| clone.update(s, need, tid, &oids));
    let start = Instant::now();
    let step = ftail.update(store, &mut Vec::new(), tid, &oids);
    assert!(matches!(step, Step::Done(_)));
    let moved = start.elapsed();
    println!(
        "{files} files, {tracked} blocks: {each} bytes each; a block {written:?}, a table {moved:?} (copied in {cloned:?})"
    );
}

/// One run, one measure: what a first one gave back would hide what a second one takes.
#[test]
#[ignore = "figures, by hand"]
fn one_file() {
    let blocks = std::env::var("ZRING_BLOCKS").ok();
    measure(1, blocks.map_or(1_000_000, |n| n.parse().unwrap()));
}

#[test]
#[ignore = "figures, by hand"]
fn a_thousand_files() {
    measure(1000, 1_000_000);
}
