//! How fast the objects of a block decode. A measurement, not a check:
//!
//! ```text
//! cargo test --release --test speed -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};
use zring::base::{BlkSize, Oid};
use zring::zodb::{Ask, Lookup, Object, Objects, Step, decode, zblk};

/// Chunks of a block of 2 MiB.
const CHUNKS: u64 = 512;
const CHUNK: usize = 4096;
const FILES: &str = "wendelin.bigfile.file_zodb";
const TREES: &str = "BTrees.IOBTree";

fn record(module: &str, class: &str, state: &[u8]) -> Bytes {
    let class = format!("c{module}\n{class}\nq\0.");
    [b"\x80\x03", class.as_bytes(), b"\x80\x03", state, b"."]
        .concat()
        .into()
}

fn reference(oid: u64, module: &str, class: &str) -> Vec<u8> {
    let class = format!("c{module}\n{class}\n");
    [
        &b"C\x08"[..],
        &oid.to_be_bytes(),
        class.as_bytes(),
        b"\x86Q",
    ]
    .concat()
}

/// `(item, ..)`, where each item is an offset and a reference, as Python 3 writes them: the class and most of
/// the opcodes of a reference recur.
fn items(refs: &[(i32, u64)], first_key: bool, module: &str, class: &str) -> Vec<u8> {
    let mut state = b"(".to_vec();
    for (i, (offset, oid)) in refs.iter().enumerate() {
        let [oid_slot, slot] = [i * 2 + 3, i * 2 + 4].map(|n| u8::try_from(n).unwrap());
        if i > 0 || first_key {
            state.extend([&b"J"[..], &offset.to_le_bytes()].concat());
        }
        state.extend([&b"C\x08"[..], &oid.to_be_bytes(), &[b'q', oid_slot]].concat());
        match i {
            0 => state.extend(format!("c{module}\n{class}\nq\u{2}").as_bytes()),
            _ => state.extend_from_slice(b"h\x02"),
        }
        state.extend([0x86, b'q', slot, b'Q']);
    }
    state.extend_from_slice(b"tq\xf0");
    state
}

/// All objects of a ZBlk1 of 2 MiB: its chunks, then the tree above them, the block itself last.
fn block() -> Vec<(Oid, Bytes)> {
    let mut data = b"B\x00\x10\x00\x00".to_vec();
    data.extend_from_slice(&[7; CHUNK]);
    data.extend_from_slice(b"q\x01");
    let mut records: Vec<_> = (0..CHUNKS)
        .map(|i| (Oid(1000 + i), record(FILES, "ZData", &data)))
        .collect();
    let chunks: Vec<(i32, u64)> = (0..CHUNKS)
        .map(|i| (i32::try_from(i * CHUNK as u64).unwrap(), 1000 + i))
        .collect();
    let mut buckets = Vec::new();
    for (part, oid) in chunks.chunks(60).zip(100..) {
        let next = reference(oid + 1, TREES, "IOBucket");
        let state = [
            items(part, true, FILES, "ZData"),
            next,
            b"\x86q\xf1".to_vec(),
        ]
        .concat();
        records.push((Oid(oid), record(TREES, "IOBucket", &state)));
        buckets.push((part[0].0, oid));
    }
    let first = reference(100, TREES, "IOBucket");
    let root = [
        items(&buckets, false, TREES, "IOBucket"),
        first,
        b"\x86".to_vec(),
    ]
    .concat();
    records.push((Oid(10), record(TREES, "IOBTree", &root)));
    records.push((
        Oid(9),
        record(FILES, "ZBlk1", &reference(10, TREES, "IOBTree")),
    ));
    records
}

struct Db(HashMap<Oid, Object>);

impl Objects for Db {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        self.0.get(&oid).map_or(Lookup::Missing, Lookup::Here)
    }
}

/// Best of many: the machine may be busy with other things.
fn time(what: &str, mut f: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..3000 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed());
    }
    println!("{what}: {best:?}");
}

#[test]
#[ignore = "a measurement"]
fn zblk1() {
    let records = block();
    let (chunks, tree) = records.split_at(512);
    let all = |records: &[(Oid, Bytes)]| {
        for (_, record) in records {
            black_box(decode(record.clone()).unwrap());
        }
    };
    time("decode a ZBlk1 of 2 MiB, 523 objects", || all(&records));
    time("decode its 512 chunks", || all(chunks));
    time("decode one chunk 512 times", || {
        (0..512).for_each(|_| all(&chunks[..1]))
    });
    time("decode the tree, 11 objects", || all(tree));
    let objects = records
        .iter()
        .map(|(oid, record)| (*oid, decode(record.clone()).unwrap()));
    let db = Db(objects.collect());
    let mut out = vec![0; 2 << 20];
    let mut fill = |offset: u64, len: usize| {
        let mut need = Vec::new();
        let mut ask = Ask::new(&db, &mut need);
        let step = zblk::fill(&mut ask, Oid(9), BlkSize(2 << 20), offset, &mut out[..len]);
        assert_eq!(step, Ok(Step::Done(())));
    };
    time("fill 4 KiB, all at hand", || fill(8192, 4096));
    time("fill 2 MiB, all at hand", || fill(0, 2 << 20));
}
