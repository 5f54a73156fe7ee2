//! Blocks.

use super::*;

/// A block of chunks.
fn chunked(db: &mut Db, rng: &mut Rng, chunks: &BTreeMap<i64, Vec<u8>>) -> Oid {
    let mut items = Vec::new();
    for (&start, data) in chunks {
        items.push((start, db.add(wendelin("ZData", &bytes(data))), "ZData"));
    }
    let f = Family::Io;
    let root = if rng.one_in(3) {
        db.add(node(
            f,
            "BTree",
            &[&bucket_state(&items)[..], b"\x85\x85"].concat(),
        ))
    } else {
        let (mut children, mut separators) = (Vec::new(), Vec::new());
        for part in items.chunks(rng.below(4) + 1) {
            if !children.is_empty() {
                separators.push(part[0].0);
            }
            children.push(db.add(node(f, "Bucket", &bucket_state(part))));
        }
        match children.is_empty() {
            true => db.add(node(f, "BTree", b"N")),
            false => db.add(node(
                f,
                "BTree",
                &inner_state(f, "Bucket", &children, &separators),
            )),
        }
    };
    db.add(wendelin("ZBlk1", &node_ref(root, f, "BTree")))
}

/// The slow twin: the whole block, or that it is damaged.
fn assemble(chunks: &BTreeMap<i64, Vec<u8>>, blksize: usize) -> Option<Vec<u8>> {
    let (mut block, mut end) = (vec![0; blksize], 0);
    for (&start, data) in chunks {
        let start = usize::try_from(start).ok()?;
        if start < end || start + data.len() > blksize {
            return None;
        }
        end = start + data.len();
        block[start..end].copy_from_slice(data);
    }
    Some(block)
}

/// A block checked three chunks at a time.
fn checked(db: &mut Db, oid: Oid, blksize: BlkSize) -> Result<(), ZodbError> {
    let mut found = Vec::new();
    db.run(|ask| zblk::chunks(ask, oid, blksize, &mut found))?;
    for first in (0..found.len()).step_by(2) {
        let some = &found[first..found.len().min(first + 3)];
        db.run(|ask| zblk::check(ask, oid, blksize, some))?;
    }
    Ok(())
}

#[test]
fn fill_agrees_with_assembling() {
    let (mut sound, mut damaged) = (0, 0);
    for seed in 0..3000 {
        let mut rng = Rng(seed);
        let blksize = rng.below(60) + 1;
        let mut chunks = BTreeMap::new();
        let mut start = rng.below(4);
        while start < blksize && rng.below(20) > 0 {
            let room = if rng.one_in(100) {
                60
            } else {
                (blksize - start).min(9)
            };
            let len = rng.below(room + 1);
            let data: Vec<u8> = (0..len).map(|_| rng.word().to_be_bytes()[0]).collect();
            chunks.insert(i64::try_from(start).unwrap(), data);
            start += len.max(1) + rng.below(4);
        }
        if rng.one_in(20) {
            chunks.insert(
                i64::try_from(rng.below(70)).unwrap() - 3,
                vec![5; rng.below(3)],
            );
        }
        let mut db = Db::default();
        let oid = chunked(&mut db, &mut rng, &chunks);
        let size = BlkSize(blksize as u64);
        let mut out = vec![0xee; blksize];
        let whole = db.run(|ask| zblk::fill(ask, oid, size, 0, &mut out));
        let twin = assemble(&chunks, blksize);
        assert_eq!(
            whole.is_ok(),
            twin.is_some(),
            "seed {seed}: {whole:?} {chunks:?}"
        );
        assert_eq!(
            checked(&mut db, oid, size),
            whole.clone().map(drop),
            "seed {seed}"
        );
        match whole {
            // The block, its table, the buckets, all chunks.
            Ok((_, rounds)) => assert!(rounds <= 4),
            Err(error) => assert!(matches!(
                error,
                ZodbError::Chunk { .. } | ZodbError::LongBlock { .. }
            )),
        }
        let Some(block) = twin else {
            damaged += 1;
            continue;
        };
        sound += 1;
        assert_eq!(out, block);
        for _ in 0..10 {
            db.here.clear();
            let from = rng.below(blksize + 1);
            let len = rng.below(blksize - from + 1);
            let mut out = vec![0xee; len];
            db.run(|ask| zblk::fill(ask, oid, size, from as u64, &mut out))
                .unwrap();
            assert_eq!(
                out,
                block[from..from + len],
                "seed {seed}: {from} {len} {chunks:?}"
            );
            // No chunk was asked for that cannot reach into the range.
            let asked = db
                .here
                .iter()
                .filter(|oid| matches!(db.all[oid], Ok(Object::Data(_))))
                .count();
            let (from, end) = (from as u64, (from + len) as u64);
            let within = chunks
                .keys()
                .filter(|k| (from + 1..end).contains(&k.unsigned_abs()))
                .count();
            assert!(
                asked <= within + usize::from(len > 0) || end == size.0,
                "{asked} {within}"
            );
        }
    }
    assert!(sound > 2000 && damaged > 50, "{sound} {damaged}");
}

#[test]
fn blocks_in_one_piece() {
    let mut db = Db::default();
    let oid = db.add(wendelin("ZBlk0", b"C\x03abc"));
    for (from, len, want) in [
        (0, 5, &b"abc\0\0"[..]),
        (1, 1, b"b"),
        (2, 3, b"c\0\0"),
        (4, 1, b"\0"),
        (5, 0, b""),
    ] {
        let mut out = vec![0xee; len];
        db.run(|ask| zblk::fill(ask, oid, BlkSize(5), from, &mut out))
            .unwrap();
        assert_eq!(out, want);
    }
    let error = db
        .run(|ask| zblk::fill(ask, oid, BlkSize(2), 0, &mut [0]))
        .unwrap_err();
    assert_eq!(checked(&mut db, oid, BlkSize(2)).unwrap_err(), error);
    assert_eq!(checked(&mut db, oid, BlkSize(1 << 62)), Ok(()));
    assert_eq!(
        error,
        ZodbError::LongBlock {
            oid,
            blksize: BlkSize(2)
        }
    );
    let data = db.add(wendelin("ZData", b"C\x03abc"));
    let error = db
        .run(|ask| zblk::fill(ask, data, BlkSize(9), 0, &mut [0]))
        .unwrap_err();
    assert_eq!(checked(&mut db, data, BlkSize(9)).unwrap_err(), error);
    assert_eq!(
        error.to_string(),
        format!("object {data}: expected ZBlk0 or ZBlk1, found ZData")
    );
}

#[test]
fn chunks_at_the_edges() {
    let mut db = Db::default();
    let mut rng = Rng(1);
    let mut fill = |chunks: &[(i64, &[u8])], from: u64, len: usize| {
        let chunks = chunks
            .iter()
            .map(|&(start, data)| (start, data.to_vec()))
            .collect();
        let oid = chunked(&mut db, &mut rng, &chunks);
        let mut out = vec![0xee; len];
        let done = db.run(|ask| zblk::fill(ask, oid, BlkSize(8), from, &mut out));
        done.map(|_| out).map_err(|error| match error {
            ZodbError::Chunk { fault, .. } => Some(fault),
            ZodbError::LongBlock { .. } => None,
            error => panic!("{error}"),
        })
    };
    assert_eq!(
        fill(&[(0, b"ab"), (8, b"")], 0, 8).unwrap(),
        b"ab\0\0\0\0\0\0"
    );
    assert_eq!(fill(&[(0, b"ab"), (8, b"c")], 0, 8), Err(None));
    assert_eq!(fill(&[(0, b"ab"), (9, b"")], 0, 8), Err(None));
    assert_eq!(
        fill(&[(-1, b"")], 0, 8),
        Err(Some(ChunkFault::Negative { start: -1 }))
    );
    let overlap = ChunkFault::Overlap { start: 1, end: 2 };
    assert_eq!(fill(&[(0, b"ab"), (1, b"")], 0, 8), Err(Some(overlap)));
    // Damage that the range does not touch goes unnoticed there.
    assert_eq!(fill(&[(0, b"ab"), (8, b"c")], 0, 2).unwrap(), b"ab");
    assert_eq!(fill(&[(0, b"abcdefghi")], 3, 2), Err(None));
}
