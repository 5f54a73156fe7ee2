//! Records to objects.

use super::*;

fn state_error(record: Bytes) -> (Expected, ValueKind) {
    match decode(record).unwrap_err() {
        ObjectError::State {
            expected, found, ..
        } => (expected, found),
        error => panic!("{error}"),
    }
}

#[test]
fn classes_by_name() {
    for (class, want) in [("ZBlk", "Blk0"), ("ZBlk0", "Blk0"), ("ZData", "Data")] {
        let object = decode(wendelin(class, b"C\x02ab")).unwrap();
        assert!(format!("{object:?}").starts_with(want), "{object:?}");
    }
    for class in ["LOBTree", "LOBTreePy"] {
        let tree = decode(record("BTrees.LOBTree", class, b"N")).unwrap();
        assert!(matches!(
            tree,
            Object::Tree(Tree {
                family: Family::Lo,
                node: Node::Empty
            })
        ));
    }
    // State of an unknown class is not looked at.
    let other = decode(record("app", "Thing", b"\xff\xff")).unwrap();
    let Object::Other(class) = other else {
        panic!("{other:?}")
    };
    assert_eq!(class.to_string(), "app.Thing");
    for class in ["LOSet", "LOTreeSet", "OOBTree"] {
        let other = decode(record("BTrees.LOBTree", class, b"N")).unwrap();
        assert!(matches!(other, Object::Other(_)));
    }
    let zclass = decode(Bytes::from_static(b"C\x08\0\0\0\0\0\0\0\x0bQ.N.")).unwrap();
    assert!(matches!(zclass, Object::Other(OtherClass { name: None })));
}

#[test]
fn states_that_are_refused() {
    use Expected as E;
    use ValueKind as V;
    for (class, state, want) in [
        ("ZBlk0", &b"N"[..], (E::Bytes, V::None)),
        ("ZData", b"X\x01\0\0\0a", (E::Bytes, V::Text)),
        ("ZBlk1", b"C\x01a", (E::Ref, V::Bytes)),
        (
            "ZBlk1",
            b"](X\x01\0\0\0wC\x08\0\0\0\0\0\0\0\x0b\x85eQ",
            (E::Ref, V::Inert),
        ),
        ("ZBigFile", b"K\x01", (E::FileState, V::Int)),
        ("ZBigFile", b"K\x01\x85", (E::FileState, V::Tuple(1))),
        ("ZBigFile", b"\x88N\x86", (E::Int, V::Bool)),
        ("ZBigFile", b"K\x01N\x86", (E::Ref, V::None)),
    ] {
        assert_eq!(state_error(wendelin(class, state)), want, "{class}");
    }
    for (class, state, want) in [
        ("Bucket", &b"N"[..], (E::BucketState, V::None)),
        ("Bucket", b")", (E::BucketState, V::Tuple(0))),
        ("Bucket", b")N\x86", (E::Ref, V::None)),
        ("Bucket", b"K\x01\x85", (E::Pairs, V::Int)),
        ("Bucket", b"K\x01\x85\x85", (E::Pairs, V::Tuple(1))),
        ("Bucket", b"NN\x86\x85", (E::Int, V::None)),
        ("Bucket", b"K\x01K\x02\x86\x85", (E::Ref, V::Int)),
        ("BTree", b")", (E::TreeState, V::Tuple(0))),
        ("BTree", b")\x85", (E::TreeState, V::Tuple(1))),
        ("BTree", b"N\x85\x85", (E::BucketState, V::None)),
        (
            "BTree",
            b")C\x08\0\0\0\0\0\0\0\x0bQ\x86",
            (E::Children, V::Tuple(0)),
        ),
    ] {
        assert_eq!(state_error(node(LO, class, state)), want, "{class}");
    }
    let negative = wendelin(
        "ZBigFile",
        &[&int(-1)[..], &node_ref(BLK, LO, "BTree"), b"\x86"].concat(),
    );
    assert_eq!(
        decode(negative).unwrap_err(),
        ObjectError::BlkSize { found: -1 }
    );
    let kind = Kind::Bucket(LO);
    let unsorted = decode(node(LO, "Bucket", &lo_state(&[1, 3, 3])));
    assert_eq!(
        unsorted.unwrap_err(),
        ObjectError::Unsorted { kind, key: 3 }
    );
    let kind = Kind::Bucket(Family::Io);
    let wide = decode(node(
        Family::Io,
        "Bucket",
        &bucket_state(&[(1 << 31, BLK, "ZData")]),
    ));
    assert_eq!(
        wide.unwrap_err(),
        ObjectError::KeyRange { kind, key: 1 << 31 }
    );
    let kind = Kind::Tree(LO);
    let descending = inner_state(LO, "Bucket", &[Oid(1), Oid(2), Oid(3)], &[5, 5]);
    let error = decode(node(LO, "BTree", &descending)).unwrap_err();
    assert_eq!(error, ObjectError::Unsorted { kind, key: 5 });
    let [a, b] = ["BTree", "Bucket"].map(|class| node_ref(Oid(1), LO, class));
    let mixed = [b"(", &a[..], &int(5), &b, b"t", &b, b"\x86"].concat();
    assert_eq!(
        decode(node(LO, "BTree", &mixed)).unwrap_err(),
        ObjectError::Mixed { kind }
    );
}

#[test]
fn the_message_names_what_was_expected_and_found() {
    let error = decode(wendelin("ZBlk0", b"K\x01")).unwrap_err();
    assert_eq!(error.to_string(), "ZBlk0: expected bytes, found an integer");
    let mut db = Db::default();
    let oid = db.add(wendelin("ZBlk0", b"C\x00"));
    let tree = TreeRef {
        root: oid,
        family: LO,
    };
    let error = db.run(|ask| btree::max(ask, tree)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "object 0000000000000001: expected LOBTree, found ZBlk0"
    );
}

#[test]
fn a_compressed_record_is_inflated_within_bounds() {
    use flate2::{Compression, write::ZlibEncoder};
    use std::io::Write;
    let plain = wendelin("ZBlk0", &bytes(&[7; 5000]));
    let mut zlib = ZlibEncoder::new(b".z".to_vec(), Compression::fast());
    zlib.write_all(&plain).unwrap();
    let packed = Bytes::from(zlib.finish().unwrap());
    assert!(matches!(decode(packed.clone()).unwrap(), Object::Blk0(data) if data == [7; 5000][..]));
    let error = crate::zodb::object::decode_within(packed, plain.len() - 1).unwrap_err();
    assert!(matches!(
        error,
        ObjectError::Pickle(PickleError::RecordTooLong { .. })
    ));
}

#[test]
fn objects_are_shared_between_threads_and_know_their_cost() {
    fn shared<T: Send + Sync>() {}
    shared::<Object>();
    let cost = decode(node(LO, "Bucket", &lo_state(&[1, 2, 3])))
        .unwrap()
        .cost();
    // All of them lead to one block: keys cost nothing, what they lead to does.
    assert_eq!(cost, size_of::<Object>() + 3 * 8);
    assert!(
        decode(wendelin("ZBlk0", &bytes(&[1; 1000])))
            .unwrap()
            .cost()
            > 1000
    );
}

/// However it is held, a leaf is what its record says.
#[test]
fn leaves_of_every_kind_are_what_their_records_say() {
    let mut rng = Rng(7);
    let mut held = BTreeSet::new();
    for _ in 0..2000 {
        let len = rng.below(9);
        let (mut key, mut oid) = (rng.below(100) as i64 - 50, rng.below(1000) as u64);
        let (gaps, breaks, mixed) = (rng.one_in(2), rng.one_in(2), rng.one_in(2));
        let items: Vec<_> = (0..len)
            .map(|_| {
                key += 1 + if gaps { rng.below(3) as i64 } else { 0 };
                oid += 1 + if breaks { rng.below(3) as u64 } else { 0 };
                let is_blk1 = mixed && rng.one_in(2);
                (key, Oid(oid), if is_blk1 { "ZBlk1" } else { "ZBlk0" })
            })
            .collect();
        let object = decode(node(LO, "Bucket", &bucket_state(&items))).unwrap();
        let Object::Bucket(bucket) = &object else {
            panic!("{object:?}")
        };
        held.insert(object.cost() - size_of::<Object>() == 0);
        let wanted: Vec<_> = items
            .iter()
            .map(|&(key, oid, class)| {
                let hint = match class {
                    "ZBlk1" => Hint::Blk1,
                    _ => Hint::Blk0,
                };
                (key, Entry { oid, hint })
            })
            .collect();
        assert_eq!(bucket.iter().collect::<Vec<_>>(), wanted);
        let ends = wanted.first().zip(wanted.last());
        assert_eq!(bucket.ends(), ends.map(|(a, b)| [a.0, b.0]));
        assert_eq!(bucket.is_empty(), wanted.is_empty());
        for key in -60..150 {
            let at = wanted.iter().find(|w| w.0 == key).map(|w| w.1);
            assert_eq!(bucket.get(key), at);
            let floor = wanted.iter().rev().find(|w| w.0 <= key).copied();
            assert_eq!(bucket.floor(key), floor);
            let last = key + rng.below(20) as i64;
            let within: Vec<_> = wanted
                .iter()
                .filter(|w| (key..=last).contains(&w.0))
                .copied()
                .collect();
            assert_eq!(bucket.range(key, last).collect::<Vec<_>>(), within);
        }
    }
    assert_eq!(held.len(), 2, "some need no array, some do");
}
