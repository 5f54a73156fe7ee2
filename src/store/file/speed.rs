//! How fast, in figures: `cargo test --release --lib store::file::speed -- --ignored --nocapture`.
//!
//! `ZRING_SPEED_OBJECTS` sets the number of objects (a million if unset). Nothing is asserted but what the design
//! promises with room to spare: a shared machine has bad days.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use super::testing::{Dir, Rng, open};
use super::{Chains, FileWriter, Note};
use crate::base::{Oid, Tid};
use std::time::Instant;

const PER_TXN: u64 = 10_000;

#[test]
#[ignore = "takes a while; prints figures"]
fn figures() {
    let objects: u64 =
        std::env::var("ZRING_SPEED_OBJECTS").map_or(1_000_000, |n| n.parse().unwrap());
    let dir = Dir::new();
    let timed = |what: &str, start: Instant, n: u64| {
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{what}: {seconds:.3} s, {:.0} ns each",
            seconds * 1e9 / n as f64
        );
        seconds
    };

    let start = Instant::now();
    let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
    let data = Rng(1).bytes(100);
    for n in 0..objects.div_ceil(PER_TXN) {
        let mut txn = writer.begin(Tid(1000 + n), Note::default()).unwrap();
        for oid in n * PER_TXN..objects.min((n + 1) * PER_TXN) {
            txn.store(Oid(oid), &data[..50 + usize::try_from(oid % 51).unwrap()])
                .unwrap();
        }
        txn.commit().unwrap();
    }
    timed("write", start, objects);
    let size = std::fs::metadata(dir.path()).unwrap().len();

    let start = Instant::now();
    let (store, view) = open(&dir.path()).unwrap();
    assert!(store.index_fault().is_some());
    let seconds = timed("open by scan", start, objects);
    println!(
        "  {:.0} MB/s, {:.1} M objects/s, index {:.2} bytes/object",
        size as f64 / 1e6 / seconds,
        objects as f64 / 1e6 / seconds,
        view.index_bytes() as f64 / objects as f64
    );

    let start = Instant::now();
    writer.save_index().unwrap();
    timed("save index", start, objects);
    let start = Instant::now();
    let (mut store, view) = open(&dir.path()).unwrap();
    assert_eq!(store.index_fault(), None);
    timed("open by saved index", start, objects);

    let start = Instant::now();
    let opts = super::FileOpts::default();
    let report = super::verify(&dir.path(), &opts, None, &mut |_, _| {}).unwrap();
    assert!(report.is_sound() && report.objects == objects);
    timed("check", start, objects);

    lookups("lookup, one run, random", &view, objects);
    // Runs of commits over it, as after a day of following.
    let mut rng = Rng(3);
    for n in 0..2000 {
        let mut txn = writer.begin(Tid(1 << 40 | n), Note::default()).unwrap();
        for _ in 0..1 + rng.below(40) {
            txn.store(Oid(rng.below(objects)), &data).unwrap();
        }
        txn.commit().unwrap();
    }
    let start = Instant::now();
    while !store.poll().unwrap().events.is_empty() {}
    timed("follow 2000 commits", start, 2000);
    let view = store.view();
    println!("  {view:?}");
    lookups("lookup, many runs, random", &view, objects);

    // A block of 512 chunks that lie next to each other, as of now.
    let start = Instant::now();
    let mut loaded = 0;
    for n in 0..200 {
        let first = rng.below(objects - 512);
        let mut batch = view.batch(view.at(), (first..first + 512).map(Oid));
        while let Some(read) = batch.next_read() {
            batch.complete(read.id, view.read(read.pos, read.len));
        }
        while let Some((oid, found)) = batch.next_done() {
            loaded += found
                .unwrap_or_else(|e| panic!("{oid} in batch {n}: {e}"))
                .data
                .len();
        }
    }
    timed("batches of 512 neighbours", start, 200);
    println!("  {loaded} bytes");
}

fn lookups(what: &str, view: &super::FileView, objects: u64) {
    let mut rng = Rng(2);
    let oids: Vec<_> = (0..1_000_000).map(|_| Oid(rng.below(objects))).collect();
    let start = Instant::now();
    let found: u64 = oids
        .iter()
        .filter_map(|&oid| view.inner().index.get(oid))
        .sum();
    println!(
        "{what}: {:.0} ns each ({found})",
        start.elapsed().as_secs_f64() * 1e3
    );
    let start = Instant::now();
    let found: u64 = (0..1_000_000)
        .filter_map(|n| view.inner().index.get(Oid(n % objects)))
        .sum();
    println!(
        "{what} but in order: {:.0} ns each ({found})",
        start.elapsed().as_secs_f64() * 1e3
    );
}

#[test]
#[ignore = "takes a while; prints figures"]
fn a_long_chain() {
    const REVISIONS: u64 = 1_000_000;
    for (what, between) in [("next to each other", 1), ("5 KB apart", 5000)] {
        let dir = Dir::new();
        let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
        let filler = vec![1; between];
        for tid in 1..=REVISIONS {
            let mut txn = writer.begin(Tid(tid), Note::default()).unwrap();
            txn.store(Oid(1), &[1; 50]).unwrap();
            txn.store(Oid(2), &filler).unwrap();
            txn.commit().unwrap();
        }
        let view = open(&dir.path()).unwrap().1;
        let mut chains = Chains::default();
        let mut load = |at: u64| {
            let start = Instant::now();
            let oids = std::iter::once(Oid(1));
            let mut batch = view.batch_near(Tid(at), oids, None, &mut chains);
            let mut reads = 0;
            while let Some(read) = batch.next_read() {
                batch.complete(read.id, view.read(read.pos, read.len));
                reads += 1;
            }
            assert_eq!(batch.next_done().unwrap().1.unwrap().serial, Tid(at));
            chains.learn(&view, batch.marks());
            let ms = start.elapsed().as_secs_f64() * 1e3;
            println!("a million revisions {what}, as of the {at}th: {ms:.3} ms, {reads} reads");
        };
        [1, 1, 300_000, 999_000].into_iter().for_each(&mut load);
    }
}
