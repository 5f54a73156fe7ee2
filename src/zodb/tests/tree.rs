//! Walks.

use super::*;

/// Stores a random tree over `[lo, hi)` with these keys, in any shape a tree may have.
pub(super) fn grow(
    db: &mut Db,
    rng: &mut Rng,
    family: Family,
    keys: &[i64],
    cover: Coverage,
    depth: usize,
) -> Oid {
    let root = cover == Coverage::ALL;
    let items: Vec<_> = keys
        .iter()
        .map(|&key| (key, Oid(!key.cast_unsigned()), "ZBlk1"))
        .collect();
    if depth == 0 || (!root && rng.one_in(3)) {
        let state = bucket_state(&items);
        return match rng.below(4) {
            0 if keys.is_empty() => db.add(node(family, "BTree", b"N")),
            1 => db.add(node(family, "BTree", &[&state[..], b"\x85\x85"].concat())),
            _ if root => db.add(node(family, "BTree", &[&state[..], b"\x85\x85"].concat())),
            _ => db.add(node(family, "Bucket", &state)),
        };
    }
    let mut separators: Vec<i64> = Vec::new();
    for _ in 0..rng.below(4) {
        let near = keys.get(rng.below(keys.len().max(1))).copied().unwrap_or(0);
        let separator = near + i64::try_from(rng.below(5)).unwrap() - 2;
        if cover.contains(separator) && family.fits(separator) {
            separators.push(separator);
        }
    }
    separators.sort_unstable();
    separators.dedup();
    let mut children = Vec::new();
    for i in 0..=separators.len() {
        let lo = i.checked_sub(1).map_or(cover.lo, |i| separators[i]);
        let child = Coverage {
            lo,
            hi: separators.get(i).copied().or(cover.hi),
        };
        let keys: Vec<i64> = keys
            .iter()
            .copied()
            .filter(|&key| child.contains(key))
            .collect();
        children.push(grow(db, rng, family, &keys, child, depth - 1));
    }
    db.add(node(
        family,
        "BTree",
        &inner_state(family, "Other", &children, &separators),
    ))
}

#[test]
fn walks_agree_with_a_map() {
    for seed in 0..600 {
        let mut rng = Rng(seed);
        let family = if rng.one_in(2) { LO } else { Family::Io };
        let spread = [10, 100, 1 << 30][rng.below(3)];
        let mut keys: Vec<i64> = (0..rng.below(40))
            .map(|_| i64::try_from(rng.below(spread)).unwrap() - 5)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut db = Db::default();
        let depth = rng.below(5);
        let root = grow(&mut db, &mut rng, family, &keys, Coverage::ALL, depth);
        let tree = TreeRef { root, family };
        let map: BTreeMap<i64, Oid> = keys.iter().map(|&k| (k, Oid(!k.cast_unsigned()))).collect();
        let near = |rng: &mut Rng| {
            let key = keys.get(rng.below(keys.len().max(1))).copied().unwrap_or(0);
            key + i64::try_from(rng.below(7)).unwrap() - 3
        };

        let (max, rounds) = db.run(|ask| btree::max(ask, tree)).unwrap();
        assert_eq!(
            max.map(|(key, entry)| (key, entry.oid)),
            map.last_key_value().map(|(&k, &v)| (k, v))
        );
        assert!(rounds <= db.all.len());
        for _ in 0..30 {
            db.here.retain(|_| !rng.one_in(3));
            let key = if rng.one_in(9) {
                i64::MAX
            } else {
                near(&mut rng)
            };
            let mut path = Vec::new();
            let (found, _) = db
                .run(|ask| btree::lookup_path(ask, tree, key, &mut path))
                .unwrap();
            assert_eq!(found.entry.map(|entry| entry.oid), map.get(&key).copied());
            assert!(found.entry.is_none_or(|entry| entry.hint == Hint::Blk1));
            assert!(found.cover.contains(key));
            let ends = (path[0].oid, path.last().unwrap().cover);
            assert_eq!(ends, (root, found.cover));
            // The answer is the same all over the leaf.
            let (lo, last) = (found.cover.lo, found.cover.last().unwrap());
            let (again, _) = db.run(|ask| btree::lookup(ask, tree, lo)).unwrap();
            assert_eq!(again.cover, found.cover);
            let (again, _) = db.run(|ask| btree::lookup(ask, tree, last)).unwrap();
            assert_eq!(again.cover, found.cover);

            let (floor, _) = db.run(|ask| btree::floor(ask, tree, key)).unwrap();
            let want = map.range(..=key).next_back().map(|(&key, &oid)| (key, oid));
            assert_eq!(floor.map(|(key, entry)| (key, entry.oid)), want);

            let (mut a, mut b) = (near(&mut rng), near(&mut rng));
            (a, b) = (a.min(b), a.max(b));
            let mut seen = Vec::new();
            let run = db.run(|ask| {
                seen.clear();
                btree::range(ask, tree, a, b, &mut |_, key, entry| {
                    seen.push((key, entry.oid));
                    Ok(Step::Done(()))
                })
            });
            // Siblings are asked for together: one round for each level at most.
            assert!(run.unwrap().1 <= depth + 1);
            assert_eq!(
                seen,
                map.range(a..=b).map(|(&k, &v)| (k, v)).collect::<Vec<_>>()
            );
        }
    }
}

fn fault_of(db: &mut Db, root: Oid, key: i64) -> (Oid, TreeFault) {
    let tree = TreeRef { root, family: LO };
    let one = db.run(|ask| btree::lookup(ask, tree, key)).unwrap_err();
    let two = db.run(|ask| btree::floor(ask, tree, key)).unwrap_err();
    assert_eq!(one, two);
    let ZodbError::Tree { oid, fault } = one else {
        panic!("{one}")
    };
    (oid, fault)
}

#[test]
fn trees_that_are_refused() {
    let mut db = Db::default();
    // A loop.
    let (a, b) = (Oid(100), Oid(101));
    db.put(a, node(LO, "BTree", &inner_state(LO, "BTree", &[b], &[])));
    db.put(b, node(LO, "BTree", &inner_state(LO, "BTree", &[a], &[])));
    assert_eq!(fault_of(&mut db, a, 3), (a, TreeFault::Loop));
    // Height: 64 levels are fine, 65 are not.
    let mut top = db.add(node(LO, "Bucket", &lo_state(&[3])));
    for level in 2..=65 {
        top = db.add(node(LO, "BTree", &inner_state(LO, "Other", &[top], &[])));
        let tree = TreeRef {
            root: top,
            family: LO,
        };
        let max = db.run(|ask| btree::max(ask, tree));
        let got = db.run(|ask| btree::lookup(ask, tree, 3));
        assert_eq!((max.is_ok(), got.is_ok()), (level <= 64, level <= 64));
    }
    let (_, fault) = fault_of(&mut db, top, 3);
    assert_eq!(fault, TreeFault::Height);
    // A key outside of what the parent grants.
    let bucket = db.add(node(LO, "Bucket", &lo_state(&[3, 9])));
    let root = db.add(node(
        LO,
        "BTree",
        &inner_state(LO, "Bucket", &[bucket, Oid(7)], &[9]),
    ));
    assert_eq!(
        fault_of(&mut db, root, 3),
        (bucket, TreeFault::Coverage { key: 9 })
    );
    let low = db.add(node(
        LO,
        "BTree",
        &inner_state(LO, "Bucket", &[bucket, bucket], &[9]),
    ));
    let root = db.add(node(
        LO,
        "BTree",
        &inner_state(LO, "BTree", &[low, low], &[5]),
    ));
    assert_eq!(
        fault_of(&mut db, root, 3),
        (low, TreeFault::Coverage { key: 9 })
    );
    // A bucket in place of the root, a tree of the other family, no object.
    let tree = TreeRef {
        root: bucket,
        family: LO,
    };
    let error = db.run(|ask| btree::max(ask, tree)).unwrap_err();
    assert!(matches!(
        error,
        ZodbError::WrongClass {
            expected: Role::Tree(Family::Lo),
            ..
        }
    ));
    let io = db.add(node(Family::Io, "Bucket", &bucket_state(&[])));
    let root = db.add(node(LO, "BTree", &inner_state(LO, "Bucket", &[io], &[])));
    let tree = TreeRef { root, family: LO };
    let error = db.run(|ask| btree::max(ask, tree)).unwrap_err();
    assert!(matches!(
        error,
        ZodbError::WrongClass {
            expected: Role::Node(Family::Lo),
            ..
        }
    ));
    let root = db.add(node(
        LO,
        "BTree",
        &inner_state(LO, "Bucket", &[Oid(9999)], &[]),
    ));
    let tree = TreeRef { root, family: LO };
    let error = db.run(|ask| btree::max(ask, tree)).unwrap_err();
    assert_eq!(
        error,
        ZodbError::Dangling {
            oid: Oid(9999),
            absent: Absent::NoObject
        }
    );
    // A forest of empty leaves.
    let empty = db.add(node(LO, "Bucket", &lo_state(&[])));
    let separators: Vec<i64> = (0..i64::try_from(TREE_EMPTY_MAX).unwrap()).collect();
    let state = inner_state(LO, "Bucket", &vec![empty; TREE_EMPTY_MAX + 1], &separators);
    let tree = TreeRef {
        root: db.add(node(LO, "BTree", &state)),
        family: LO,
    };
    let error = db.run(|ask| btree::max(ask, tree)).unwrap_err();
    assert_eq!(
        error,
        ZodbError::Tree {
            oid: empty,
            fault: TreeFault::EmptyLeaves
        }
    );
}
