//! Files: by hand, and written by Python.

use super::*;

fn file(db: &mut Db, blksize: i64, root: Oid) -> Oid {
    let state = [&int(blksize)[..], &node_ref(root, LO, "BTree"), b"\x86"].concat();
    db.add(wendelin("ZBigFile", &state))
}

#[test]
fn size_of_files() {
    let mut db = Db::default();
    let mut size = |blksize: i64, keys: &[i64]| {
        let root = db.add(node(
            LO,
            "BTree",
            &[&lo_state(keys)[..], b"\x85\x85"].concat(),
        ));
        let oid = file(&mut db, blksize, root);
        let (file, _) = db.run(|ask| bigfile::open(ask, oid)).unwrap();
        db.run(|ask| bigfile::size(ask, &file))
            .map(|(size, _)| size)
    };
    assert_eq!(size(8, &[]), Ok(0));
    assert_eq!(size(8, &[0]), Ok(8));
    assert_eq!(size(2 << 20, &[3, 7]), Ok(16 << 20));
    assert_eq!(size(1, &[i64::MAX - 1]), Ok(i64::MAX.unsigned_abs()));
    assert!(matches!(
        size(1, &[i64::MAX]),
        Err(ZodbError::TooBig { .. })
    ));
    assert!(matches!(
        size(i64::MAX, &[1]),
        Err(ZodbError::TooBig { .. })
    ));
    assert!(matches!(
        size(8, &[-1]),
        Err(ZodbError::NegativeBlocks { .. })
    ));
}

#[test]
fn names_that_are_no_file() {
    let mut db = Db::default();
    let other = db.add(record("app", "ZBigFile", b"N"));
    let blk = db.add(wendelin("ZBlk0", b"C\x00"));
    let broken = db.add(wendelin("ZBigFile", b"N"));
    let open = |db: &mut Db, oid| db.run(|ask| bigfile::open(ask, oid)).unwrap_err();
    assert!(matches!(open(&mut db, other), ZodbError::NotBigFile { .. }));
    assert!(matches!(open(&mut db, blk), ZodbError::NotBigFile { .. }));
    assert!(matches!(open(&mut db, broken), ZodbError::Corrupt { .. }));
    assert_eq!(
        open(&mut db, Oid(999)),
        ZodbError::NoObject { oid: Oid(999) }
    );
}

struct Sample {
    db: Db,
    file: Oid,
    blksize: BlkSize,
    blocks: BTreeMap<u64, Vec<u8>>,
}

fn sample(bytes: &'static [u8]) -> Sample {
    let mut rest = bytes;
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        head
    };
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let long = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let mut db = Db::default();
    for _ in 0..word(take(4)) {
        let oid = Oid(long(take(8)));
        let len = word(take(4));
        db.put(oid, Bytes::from_static(take(len as usize)));
    }
    let (file, blksize) = (Oid(long(take(8))), BlkSize(word(take(4)).into()));
    let mut blocks = BTreeMap::new();
    for _ in 0..word(take(4)) {
        let blk = long(take(8));
        let len = word(take(4));
        let mut data = take(len as usize).to_vec();
        data.resize(usize::try_from(blksize.0).unwrap(), 0);
        blocks.insert(blk, data);
    }
    Sample {
        db,
        file,
        blksize,
        blocks,
    }
}

#[test]
fn files_written_by_python_read_the_same() {
    for bytes in [
        &include_bytes!("../../../tests/data/records/py2-p1.bin")[..],
        include_bytes!("../../../tests/data/records/py2-p2.bin"),
        include_bytes!("../../../tests/data/records/py2-p3.bin"),
        include_bytes!("../../../tests/data/records/py3-p1.bin"),
        include_bytes!("../../../tests/data/records/py3-p2.bin"),
        include_bytes!("../../../tests/data/records/py3-p3.bin"),
    ] {
        let Sample {
            mut db,
            file,
            blksize,
            blocks,
        } = sample(bytes);
        let (file, _) = db.run(|ask| bigfile::open(ask, file)).unwrap();
        assert_eq!(file.blksize, blksize);
        let last = *blocks.last_key_value().unwrap().0;
        let (size, _) = db.run(|ask| bigfile::size(ask, &file)).unwrap();
        assert_eq!(size, (last + 1) * blksize.0);
        let (mut zblk0, mut zblk1) = (0, 0);
        for blk in 0..last + 3 {
            let (place, _) = db
                .run(|ask| bigfile::locate(ask, &file, BlkNo(blk)))
                .unwrap();
            assert_eq!(place.block.is_some(), blocks.contains_key(&blk));
            let Some(block) = place.block else { continue };
            match (block.hint, &db.all[&block.oid]) {
                (Hint::Blk0, Ok(Object::Blk0(_))) => zblk0 += 1,
                (Hint::Blk1, Ok(Object::Blk1 { .. })) => zblk1 += 1,
                wrong => panic!("{wrong:?}"),
            }
            let mut out = vec![0xee; blocks[&blk].len()];
            db.run(|ask| zblk::fill(ask, block.oid, blksize, 0, &mut out))
                .unwrap();
            assert_eq!(out, blocks[&blk]);
        }
        assert!(zblk0 > 10 && zblk1 > 10);
    }
}
