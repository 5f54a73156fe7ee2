//! Damaged objects: whoever cannot be told what changed is lost, and nobody else.

use super::history::{FILES, Pair, ROOTS};
use super::scenario::{FILE, ROOT, commit, read_some, start};
use super::text::tree;
use super::world::bigfile;
use crate::base::{BlkNo, Oid, Tid};
use crate::tail::{FileChange, What, Which};
use crate::zodb::ZodbError;

/// Two files with one table, one with another; all of them read.
fn three() -> Pair {
    let mut pair = start("T4/B1:a@1-B5:b@2");
    pair.content
        .trees
        .insert(ROOTS[1], tree(ROOTS[1], "T/B1:a"));
    pair.content.files.insert(FILES[1], bigfile(4, ROOT));
    pair.content.files.insert(FILES[2], bigfile(4, ROOTS[1]));
    commit(&mut pair, "=");
    pair.advance("all there");
    for file in FILES {
        read_some(&mut pair, file, 3);
    }
    pair
}

/// What the last commit did.
fn update(pair: &mut Pair) -> Vec<FileChange> {
    let (tail, new) = (pair.ftail.tail(), pair.world.snaps.last().unwrap());
    let (ftail, store) = (&mut pair.ftail, &mut pair.world.store);
    store.run((tail, new.tid), |s, need| {
        ftail.update(s, need, new.tid, &new.oids)
    })
}

fn is_lost(change: &FileChange, oid: Oid) -> bool {
    matches!(change.what, What::Lost(ZodbError::Corrupt { oid: found, .. }) if found == oid)
}

#[test]
fn files_with_a_damaged_table_are_lost() {
    let mut pair = three();
    let leaf = Oid(ROOT.0 + 2);
    pair.world.spoil(leaf);
    let changes = update(&mut pair);
    let files: Vec<_> = changes.iter().map(|change| change.file).collect();
    assert_eq!(files, [FILES[0], FILES[1]]);
    assert!(
        changes.iter().all(|change| is_lost(change, leaf)),
        "{changes:?}"
    );
    let left: Vec<_> = pair.ftail.tracked().files().collect();
    assert_eq!(
        (left, pair.ftail.tracked().counts().trees),
        (vec![FILES[2]], 1)
    );

    // Repaired and read anew, it is as ever; only what lies before the damage cannot be told.
    commit(&mut pair, "T4/B1:a@1-B5:b@2 a");
    let changes = update(&mut pair);
    let blocks = vec![BlkNo(1)];
    let blksize = pair.ftail.tracked().file(FILES[2]).unwrap().blksize;
    let what = What::Blocks {
        blksize,
        blocks,
        table: false,
        removed: None,
    };
    let file = FILES[2];
    assert_eq!(changes, [FileChange { file, what }]);
    read_some(&mut pair, FILE, 3);
    commit(&mut pair, "T4/B1:a@1-B5:c@2");
    assert_eq!(update(&mut pair).len(), 1);
    let (span, head) = (pair.span(), pair.ftail.head());
    let mut rev = |blk| {
        let (ftail, store) = (&mut pair.ftail, &mut pair.world.store);
        store.run(span, |s, need| {
            match ftail.rev_at(s, need, FILE, BlkNo(blk), head) {
                Ok(step) => step.map(Ok),
                Err(error) => crate::zodb::Step::Done(Err(error)),
            }
        })
    };
    assert_eq!(rev(5).unwrap().tid, head);
    assert_eq!(rev(1).unwrap().tid, Tid(40));
    assert!(matches!(rev(6), Err(ZodbError::Corrupt { .. })));
}

#[test]
fn a_damaged_file_is_lost_and_its_table_is_not() {
    let mut pair = three();
    pair.world.spoil(FILE);
    let changes = update(&mut pair);
    assert!(
        changes.len() == 1 && is_lost(&changes[0], FILE),
        "{changes:?}"
    );
    // Damage and repair are both epochs.
    commit(&mut pair, "=");
    assert_eq!(update(&mut pair), []);
    let (span, ends) = (pair.span(), (Tid(20), Tid(40)));
    let (ftail, store) = (&mut pair.ftail, &mut pair.world.store);
    let slices = store.run(span, |s, need| {
        ftail.slice(s, need, FILE, ends, Which::Explicit).unwrap()
    });
    let epochs: Vec<_> = slices
        .iter()
        .map(|slice| (slice.tid, slice.epoch))
        .collect();
    assert_eq!(epochs, [(Tid(30), true), (Tid(40), true)]);
    commit(&mut pair, "T4/B1:a@1-B5:c@2");
    let changes = update(&mut pair);
    assert!(
        changes.len() == 1 && changes[0].file == FILES[1],
        "{changes:?}"
    );
}

#[test]
fn a_file_that_becomes_something_else_is_over() {
    let mut pair = three();
    pair.content.files.remove(&FILE);
    pair.content.trees.insert(FILE, tree(FILE, "T/B:"));
    commit(&mut pair, "=");
    let changes = update(&mut pair);
    let (file, what) = (FILE, What::Epoch);
    assert_eq!(changes, [FileChange { file, what }]);
}
