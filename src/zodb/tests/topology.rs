//! Topologies.

use super::tree::grow;
use super::*;
use crate::zodb::topology::{Growing, Shape, Topology};

fn topology(db: &mut Db, tree: TreeRef) -> Result<Topology, ZodbError> {
    let mut growing = Growing::new(tree);
    Ok(db.run(|ask| growing.step(ask))?.0)
}

fn lo_tree(root: Oid) -> TreeRef {
    let family = LO;
    TreeRef { root, family }
}

fn bucket(db: &mut Db, keys: &[i64]) -> Oid {
    db.add(node(LO, "Bucket", &lo_state(keys)))
}

fn inner(db: &mut Db, class: &str, children: &[Oid], separators: &[i64]) -> Oid {
    let state = inner_state(LO, class, children, separators);
    db.add(node(LO, class, &state))
}

#[test]
fn a_tree_is_written_level_by_level() {
    let mut db = Db::default();
    let empty = db.add(node(LO, "BTree", b"N"));
    assert_eq!(
        topology(&mut db, lo_tree(empty)).unwrap().to_string(),
        "T/B:"
    );
    let state = [&lo_state(&[1, 2])[..], b"\x85\x85"].concat();
    let within = db.add(node(LO, "BTree", &state));
    let shape = topology(&mut db, lo_tree(within)).unwrap();
    assert_eq!(shape.to_string(), "T/B1:4d,2:4d");
    let nodes: Vec<_> = shape.nodes().map(|n| (n.oid, n.within)).collect();
    assert_eq!(nodes, [(within, false), (within, true)]);
    // T3/T-T/B1-T5/B4-B7,8,9
    let (b1, b4, b7) = (
        bucket(&mut db, &[1]),
        bucket(&mut db, &[4]),
        bucket(&mut db, &[7, 8, 9]),
    );
    let five = inner(&mut db, "BTree", &[b4, b7], &[5]);
    let (left, right) = (
        inner(&mut db, "BTree", &[b1], &[]),
        inner(&mut db, "BTree", &[five], &[]),
    );
    let root = inner(&mut db, "BTree", &[left, right], &[3]);
    let shape = topology(&mut db, lo_tree(root)).unwrap();
    assert_eq!(shape.to_string(), "T3/T-T/B1:4d-T5/B4:4d-B7:4d,8:4d,9:4d");
    let last = shape.nodes().last().unwrap();
    assert_eq!((last.oid, last.cover), (b7, Coverage { lo: 5, hi: None }));
}

#[test]
fn damage_is_an_error_and_never_an_endless_walk() {
    let mut db = Db::default();
    let ring = Oid(900);
    db.put(
        ring,
        node(LO, "BTree", &inner_state(LO, "BTree", &[ring], &[])),
    );
    let fault = topology(&mut db, lo_tree(ring)).unwrap_err();
    assert_eq!(
        fault,
        ZodbError::Tree {
            oid: ring,
            fault: TreeFault::Height
        }
    );
    let low = bucket(&mut db, &[7]);
    let root = inner(&mut db, "BTree", &[low, low], &[5]);
    let fault = topology(&mut db, lo_tree(root)).unwrap_err();
    assert_eq!(
        fault,
        ZodbError::Tree {
            oid: low,
            fault: TreeFault::Coverage { key: 7 }
        }
    );
    let none = bucket(&mut db, &[]);
    let separators: Vec<i64> = (0..=1000).collect();
    let root = inner(
        &mut db,
        "BTree",
        &vec![none; separators.len() + 1],
        &separators,
    );
    let fault = topology(&mut db, lo_tree(root)).unwrap_err();
    assert_eq!(
        fault,
        ZodbError::Tree {
            oid: root,
            fault: TreeFault::EmptyLeaves
        }
    );
}

#[test]
fn every_key_is_in_one_leaf_that_covers_it() {
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let mut keys: Vec<i64> = (0..rng.below(40))
            .map(|_| rng.below(99).try_into().unwrap())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let (mut db, depth) = (Db::default(), rng.below(5));
        let root = grow(&mut db, &mut rng, LO, &keys, Coverage::ALL, depth);
        let shape = topology(&mut db, lo_tree(root)).unwrap();
        let mut entries: Vec<_> = shape.entries().collect();
        entries.sort_unstable_by_key(|&(key, _)| key);
        assert_eq!(
            entries.iter().map(|&(key, _)| key).collect::<Vec<_>>(),
            keys,
            "seed {seed}"
        );
        assert!(
            entries
                .iter()
                .all(|&(key, entry)| entry.oid == Oid(!key.cast_unsigned()))
        );
        let mut children = 1;
        for level in &shape.levels {
            assert_eq!(level.len(), children);
            children = 0;
            for node in level {
                match &node.shape {
                    Shape::Inner(separators) => children += separators.len() + 1,
                    Shape::Leaf(entries) => {
                        assert!(entries.iter().all(|&(key, _)| node.cover.contains(key)))
                    }
                }
            }
        }
        assert_eq!(children, 0);
    }
}
