//! Both ways, and what damage comes to.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::base::{Digest, Stamp, Witness};

fn record(n: u64) -> Record {
    let stamp = |n: u64| Stamp {
        s: n.cast_signed() - 5,
        ns: 7,
    };
    Record {
        witness: Witness {
            ino: n,
            btime: n.is_multiple_of(2).then(|| stamp(n)),
            size: n << 40,
            mtime: stamp(n + 1),
            ctime: stamp(u64::MAX - n),
        },
        digest: Digest([9; 32]),
        hashed_at: -3,
        flags: flag::RACY | if n.is_multiple_of(2) { flag::BTIME } else { 0 },
    }
}

fn run() -> Vec<u8> {
    let mut out = b"before".to_vec();
    let dir = DirWitness {
        ino: 4,
        ..DirWitness::default()
    };
    begin_run(&mut out, b"a/b", &dir);
    for n in 0..3u64 {
        out.extend_from_slice(&record(n).fixed(2));
        out.extend_from_slice(&[b'n', b'0' + u8::try_from(n).unwrap()]);
    }
    out.extend_from_slice(&dir_fixed(1));
    out.push(b'd');
    end_run(&mut out, 6, 4);
    out.split_off(6)
}

#[test]
fn a_run_goes_both_ways() {
    let bytes = run();
    let run = Run::parse(&bytes).unwrap();
    assert_eq!(
        (run.path, run.dir.ino, run.count),
        (b"a/b".as_slice(), 4, 4)
    );
    let entries: Vec<_> = Entries(run.entries).collect();
    assert_eq!(entries.len(), 4);
    for (n, entry) in entries[..3].iter().enumerate() {
        assert_eq!(entry.record(), record(n as u64));
    }
    assert!(entries[3].is_dir() && entries[3].name == b"d" && !entries[0].is_dir());
    let head = bytes.first_chunk().unwrap();
    assert_eq!(run_len(head), Ok(bytes.len() as u64));
}

#[test]
fn any_bit_of_a_run_counts() {
    let bytes = run();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bent = bytes.clone();
            bent[at] ^= 1 << bit;
            assert!(Run::parse(&bent).is_err(), "byte {at}");
        }
        assert!(Run::parse(&bytes[..at]).is_err());
    }
}

#[test]
fn a_batch_goes_both_ways() {
    let mut names = Vec::new();
    push_order(&mut names, true, b"d");
    push_order(&mut names, false, b"\xff\n");
    let dir = DirWitness {
        ino: 1,
        mtime: Stamp { s: -1, ns: 2 },
        ctime: Stamp { s: 3, ns: 4 },
    };
    let put = Op::Put {
        dir: b"",
        name: b"x",
        record: record(2),
    };
    let order = Op::Order {
        path: b"a",
        dir,
        names: &names,
    };
    let remove = Op::Remove {
        dir: b"a",
        name: b"b",
    };
    let ops = [put, remove, Op::RemoveTree { path: b"t" }, order];
    let mut batch = Batch::new();
    ops.iter().for_each(|op| batch.push(op));
    assert_eq!(batch.len(), 4);
    let origin = Origin { node: 7, epoch: 8 };
    let mut bytes = batch.seal(origin, 9).to_vec();
    let whole = bytes.len();
    bytes.extend_from_slice(b"next");
    let (sealed, rest) = Sealed::split(&bytes).unwrap();
    assert_eq!(
        (sealed.origin, sealed.seq, rest),
        (origin, 9, b"next".as_slice())
    );
    let read: Result<Vec<_>, _> = sealed.ops().collect();
    assert_eq!(read.unwrap(), ops);
    let listed: Vec<_> = order_names(&names).collect();
    assert_eq!(listed, [(true, b"d".as_slice()), (false, b"\xff\n")]);
    for at in 0..whole {
        let mut bent = bytes.clone();
        bent[at] ^= 1;
        assert!(Sealed::split(&bent).is_err(), "byte {at}");
        assert!(Sealed::split(&bytes[..at]).is_err());
    }
}
