//! Situations, each a list of commits: every set of leaves tracked from every state on, then every question.
//!
//! What tracks from a later state on learns what was before by tracing back, so each situation is met forward and
//! backward. A commit is a tree as text (`text`), then what else changed: letters of blocks.

use super::history::{FILES, Pair, ROOTS};
use super::text::{block, tree};
use super::world::{Content, bigfile};
use crate::base::span::KeyRange;
use crate::base::{BlkNo, Oid, Tid};
use crate::tail::Which;
use crate::zodb::btree::PathNode;
use crate::zodb::sample::Rng;

pub(super) const FILE: Oid = FILES[0];
pub(super) const ROOT: Oid = ROOTS[0];

/// Commits one of the situation; `T/B1:a c` changes block c, too.
pub(super) fn commit(pair: &mut Pair, step: &str) {
    let (text, more) = step.split_once(' ').unwrap_or((step, ""));
    if text != "=" {
        pair.content.trees.insert(ROOT, tree(ROOT, text));
    }
    let mut more: Vec<Oid> = more.chars().map(block).collect();
    more.push(Oid(77));
    pair.world.commit(&pair.content, &more);
}

pub(super) fn start(step: &str) -> Pair {
    let mut content = Content::default();
    content.trees.insert(ROOT, tree(ROOT, step));
    content.files.insert(FILE, bigfile(4, ROOT));
    let mut pair = Pair::of(content, Rng(0), 1);
    pair.blks = (0..12)
        .chain([i64::MAX.unsigned_abs()])
        .map(BlkNo)
        .collect();
    pair
}

/// Tracks a leaf and reads all of its blocks that are asked for.
fn read_leaf(pair: &mut Pair, file: Oid, path: &[PathNode]) {
    let snap = pair.world.head();
    let is = snap.files[&file];
    let tracked = pair.ftail.tracked_mut();
    tracked.open(file, is).unwrap();
    tracked.track(file, path).unwrap();
    let explicit = pair.twin.files.entry(file).or_default();
    let cover = path.last().unwrap().cover;
    let range = KeyRange::new(cover.lo, cover.last().unwrap()).unwrap();
    pair.twin.keys.entry(is.blktab).or_default().insert(range);
    for &blk in &pair.blks {
        if range.contains(i64::try_from(blk.0).unwrap()) {
            let value = snap.table(file).unwrap().value(blk);
            tracked.read(file, blk, value).unwrap();
            explicit.insert(blk);
        }
    }
}

/// Reads the leaves whose bit is set.
pub(super) fn read_some(pair: &mut Pair, file: Oid, subset: u32) {
    let Some(table) = pair.world.head().table(file) else {
        return;
    };
    let paths: Vec<_> = table.leaves.iter().map(|(path, _)| path.clone()).collect();
    for (i, path) in paths.iter().enumerate() {
        if subset & 1 << i.min(31) != 0 {
            read_leaf(pair, file, path);
        }
    }
}

/// Runs a situation with every set of leaves of every state.
fn run(steps: &[&str]) {
    for from in 0..steps.len() {
        let mut trees = steps[..=from].iter().filter(|step| !step.starts_with('='));
        let text = trees.next_back().unwrap().split(' ').next().unwrap();
        for subset in 0..1u32 << tree(ROOT, text).leaves().len().min(5) {
            for early in [false, true] {
                let at = format!("{steps:?} from {from} {subset:b} {early}");
                let mut pair = start(steps[0]);
                for (i, step) in steps.iter().enumerate() {
                    if i > 0 {
                        commit(&mut pair, step);
                        pair.advance(&at);
                    }
                    if i == from {
                        read_some(&mut pair, FILE, subset);
                    }
                    // Asked at once, or only at the end.
                    if early && i >= from {
                        pair.ask_file(FILE, &at);
                    }
                }
                pair.ask_file(FILE, &at);
            }
        }
    }
}

#[test]
fn d01_to_d04_plain_content() {
    run(&["T/B:", "T/B1:a", "T/B:", "T/B1:a", "T/B:"]);
    run(&["T/B1:a", "T/B1:a,2:b", "T/B1:c,2:b", "T/B2:b"]);
    run(&["T/B1:a@1", "T/B1:a,2:b@1", "T/B1:c,2:b@1", "T/B2:b@1"]);
    run(&[
        "T/B1:a,2:b",
        "T/B1:b,2:a",
        "T/B3:a,2:a a",
        "T/B2:a",
        "T/B2:b a",
    ]);
    run(&["T/B1:a", "=", "= a", "="]);
}

#[test]
fn d05_to_d08_buckets() {
    run(&[
        "T4/B1:a@1-B5:c@2",
        "T4,7/B1:a@1-B5:c@2-B8:d@3",
        "T1,4,7/B0:e@4-B1:a@1-B5:c@2-B8:d@3",
    ]);
    run(&["T/B1:a,2:b,5:c", "T2,5/B1:a-B2:b-B5:c", "T5/B1:a,2:d-B5:c"]);
    run(&[
        "T/B1:a,5:c@1",
        "T4/B1:a@1-B5:c@2",
        "T2,4/B1:a@1-B2:b@3-B5:c@2",
    ]);
    run(&[
        "T2,4/B1:a@1-B2:b@2-B5:c@3",
        "T4/B1:a,2:d@1-B5:c@3",
        "T/B1:a,2:d,5:e@1",
    ]);
    run(&[
        "T4/B1:a,3:b@1-B5:c@2",
        "T2/B1:a@1-B3:b,5:c@2",
        "T6/B1:a,3:d,5:c@1-B7:e@2",
    ]);
}

#[test]
fn d09_to_d13_chains_and_unlinked_buckets() {
    run(&[
        "T2,4,6/B1:a@1-B3:b@2-B5:c@3-B7:d@4",
        "T1,3,5/B0:e@1-B1:a@2-B3:b@3-B5:c,7:f@4",
        "T2,4,6/B0:e,1:a@1-B3:a@2-B5:c@3-B7:f@4",
    ]);
    run(&[
        "T2,4/B1:a@1-B2:b@2-B5:c@3",
        "T/B1:a,2:b,5:d@1",
        "T2,4/B1:a@1-B2:b@2-B5:d@3",
        "T2,4/B1:a@1-B2:e@2-B5:d@3",
    ]);
    run(&[
        "T2,4,6/B1:a@1-B3:b@2-B5:c@3-B7:d@4",
        "T2,6/B1:a@1-B3:b,5:e@2-B7:d@4",
        "T4/B1:a,3:b@1-B5:e,7:d@4",
        "T2,4,6/B1:f@1-B3:b@2-B5:e@3-B7:a@4",
    ]);
    run(&[
        "T3/B1:a@1-B3:c@2",
        "T/B1:a,3:c@1",
        "T/B1:a,3:b@1",
        "T3/B1:a@1-B3:c@2",
    ]);
    run(&["T2,4/B1:a@1-B2:b@2-B5:c@3", "T4/B1:a@1-B5:c@3", "T/B1:a@1"]);
}

#[test]
fn d14_to_d18_inner_nodes() {
    run(&["T3/B1:a@1-B3:b@2", "T/T3/B1:a@1-B3:b@2", "T3/B1:a@1-B3:c@2"]);
    run(&[
        "T4/T2@11-T6@12/B1:a@1-B2:b@2-B5:c@3-B7:d@4",
        "T4/T2@11-T6,8@12/B1:a@1-B2:b@2-B5:c@3-B7:d@4-B9:e@5",
        "T4,7/T2@11-T6@12-T8@13/B1:a@1-B2:b@2-B5:c@3-B6:a@6-B7:d@4-B9:e@5",
    ]);
    run(&[
        "T/T@11/B1:a@1",
        "T4/T@11-T@12/B1:a@1-B5:b@2",
        "T4/T@11-T7@12/B1:a@1-B5:b@2-B8:c@3",
    ]);
    run(&[
        "T4/B1:a@1-B6:b@2",
        "T3/B1:a@1-B6:b@2",
        "T6/B1:a@1-B6:b@2",
        "T6/B1:a,5:c@1-B6:b@2",
    ]);
    run(&[
        "T4/T@11-T@12/B1:a@1-B6:b@2",
        "T3/T@11-T@12/B1:a@1-B6:b@2",
        "T3/T@11-T@12/B1:a@1-B4:c,6:b@2",
    ]);
}

#[test]
fn d19_to_d22_nodes_under_other_nodes() {
    let nodes = "T4/T2@11-T6@12/B1:a@1-B3:b@2-B5:c@3-B7:d@4";
    run(&[
        nodes,
        "T2/T@13-T4,6@12/B1:a@1-B3:b@2-B5:c@3-B7:d@4",
        "T2/T@13-T4,6@12/B1:a@1-B3:b@2-B5:e@3-B7:d@4",
    ]);
    run(&[
        "T4/T@41-T@42/B1:a@22-T6@43/B5:b@44-B7:c@45",
        "T/T4@41/T@46-T6@43/B1:a@22-B5:b@44-B7:c@45",
        "T/T4@41/T@46-T6@43/B1:a@22-B5:d@44-B7:c@45",
    ]);
    run(&[
        nodes,
        "T4/T2@12-T6@11/B1:a@1-B3:b@2-B5:c@3-B7:d@4",
        "T4/T2@12-T6@11/B1:e@1-B3:b@2-B5:c@3-B7:a@4",
    ]);
    run(&[
        "T/T4@11/T2@12-T@13/B1:a@1-B3:b@2-B5:c@3",
        "T/T2@12/T@11-T4@13/B1:a@1-B3:b@2-B5:c@3",
        "T/T2@12/T@11-T4@13/B1:d@1-B3:b@2-B5:a@3",
    ]);
}

#[test]
fn d23_to_d28_shapes() {
    run(&[
        "T4/B1:a@1-B5:b@2",
        "T4/B1:a@1-B5:c@2",
        "T4/B1:a,2:d@1-B5:c@2 d",
    ]);
    run(&["T/T@11/B1:a@1", "T/B1:a@1", "T/T@12/B1:b@1", "T/B1:b"]);
    run(&[
        "T/T@11/T@12/B1:a,3:b@1",
        "T/T@12/B1:a,3:c@1",
        "T/T@11/T@12/T@13/B1:d,3:c@1",
    ]);
    run(&[
        "T4/T@11-T@12/B1:a@1-T7@13/B5:b@2-B8:c@3",
        "T4/T@11-T7@12/T@14-B5:b@2-B8:d@3/B1:a@1",
    ]);
    run(&[
        "T4/B1:a@1-B5:b@2",
        "T5/B1:a@1-B5:b@2",
        "T/B1:a,5:b@1",
        "T3/B1:a@3-B5:b@4",
        "T3/B1:a@3-B5:c@4",
    ]);
    run(&[
        "T4/B1:a@1-B5:b@2",
        "T4/B1:c@1-B5:b@2",
        "T4/B1:c,2:d@1-B5:b@2",
        "T4/B2:d@1-B5:a@2",
    ]);
}

#[test]
fn d29_to_d30_deleted_trees() {
    let full = "T4/B1:a@1-B5:b@2";
    run(&[full, "-", "T3/B1:a@7-B5:c@8", "-", full]);
    run(&["-", full, "-", "T/B5:a"]);
}

#[test]
fn d15_the_greatest_key_is_a_key() {
    run(&[
        "T4/B1:a@1-Bmax:b@2",
        "T4/B1:a@1-B5:c,max:d@2 d",
        "T4/B1:a@1-B5:c@2",
        "T/Bmax:b",
        "T/B:",
    ]);
}

/// Files: what happens to them, in all orders of reading.
#[test]
fn d31_to_d32_and_d47_to_d49_epochs() {
    type Change = fn(&mut Content);
    let steps: [(&str, Change); 6] = [
        ("T/B1:b", |_| {}),
        ("T/B1:c", |c| _ = c.files.remove(&FILE)),
        ("T/B1:d", |_| {}),
        ("= d", |c| _ = c.files.insert(FILE, bigfile(4, ROOT))),
        ("T/B1:a,2:d", |c| {
            _ = c.files.insert(FILE, bigfile(8, ROOT));
        }),
        ("= a", |c| _ = c.files.insert(FILE, bigfile(8, ROOTS[1]))),
    ];
    for reads in 0..1u32 << 7 {
        let at = format!("reads {reads:b}");
        let mut pair = start("T/B1:a");
        pair.content
            .trees
            .insert(ROOTS[1], tree(ROOTS[1], "T/B2:b,3:a"));
        pair.world.store.here.clear();
        for (i, (step, change)) in steps.iter().enumerate() {
            if i > 0 && reads & 1 << i != 0 {
                read_some(&mut pair, FILE, 1);
            }
            change(&mut pair.content);
            commit(&mut pair, step);
            pair.advance(&at);
        }
        if reads & 1 != 0 {
            read_some(&mut pair, FILE, 1);
        }
        pair.ask_file(FILE, &at);
        commit(&mut pair, "= ab");
        pair.advance(&at);
        pair.ask_file(FILE, &at);
    }
}

#[test]
fn d33_to_d36_tracks_in_any_order() {
    let steps = [
        "T2,4,6/B1:a@1-B3:b@2-B5:c@3-B7:d@4",
        "T3,6/B1:a@1-B3:b,5:e@2-B7:d@4",
        "T2,4,6/B1:f@1-B3:b@2-B5:e@3-B7:a@4 b",
        "T5/B1:f,3:b@1-B5:d,7:a@2",
    ];
    // Of four leaves, each is read at one of the states: all ways to do so, asking between or not.
    for order in 0..256u32 {
        for early in [false, true] {
            let at = format!("order {order:b} {early}");
            let mut pair = start(steps[0]);
            for (i, step) in (0..).zip(&steps) {
                if i > 0 {
                    commit(&mut pair, step);
                    pair.advance(&at);
                }
                for key in 0..4 {
                    if order >> (2 * key) & 3 == i {
                        let leaves = &pair.world.head().table(FILE).unwrap().leaves;
                        let over = |path: &&Vec<PathNode>| {
                            path.last().unwrap().cover.contains(2 * i64::from(key) + 1)
                        };
                        let path = leaves.iter().map(|(path, _)| path).find(over).unwrap();
                        let path = path.clone();
                        read_leaf(&mut pair, FILE, &path);
                    }
                }
                if early {
                    pair.ask_file(FILE, &at);
                }
            }
            pair.ask_file(FILE, &at);
        }
    }
}

#[test]
fn d37_forgotten_history() {
    let steps = [
        "T/B1:a",
        "T3/B1:b-B3:c c",
        "T/B1:b,3:d",
        "T2/B1:a@7-B3:d@8 a",
        "= d",
    ];
    for cut in 0..12 {
        for when in 0..5 {
            for read in 0..5 {
                let at = format!("cut {cut} at {when}, read at {read}");
                let mut pair = start(steps[0]);
                for (i, step) in steps.iter().enumerate() {
                    if i > 0 {
                        commit(&mut pair, step);
                        pair.advance(&at);
                    }
                    if i == read {
                        read_some(&mut pair, FILE, 3);
                        pair.ask_file(FILE, &at);
                    }
                    if i == when {
                        pair.forget_until(Tid(5 * cut));
                    }
                }
                pair.ask_file(FILE, &at);
                let (_, head) = pair.span();
                pair.forget_until(Tid(head.0 + 7));
                assert_eq!(pair.span(), (head, head));
                assert_eq!(pair.ftail.key_changes(), 0);
                assert_eq!(pair.ftail.ztail().counts(), (0, 0));
                pair.ask_file(FILE, &at);
            }
        }
    }
}

#[test]
fn d38_to_d41_a_copy_is_its_own() {
    let mut pair = start("T/B1:a");
    read_some(&mut pair, FILE, 1);
    commit(&mut pair, "T/B1:b a");
    pair.advance("a copy");
    let before = format!("{:?}", pair.ftail);
    let copy = pair.ftail.clone();
    commit(&mut pair, "T/B1:a b");
    pair.advance("a copy");
    pair.forget_until(Tid(25));
    assert_eq!(format!("{copy:?}"), before);
}

#[test]
fn d42_to_d46_blocks_and_holes() {
    run(&[
        "T/B1:a,2:b",
        "= a",
        "T/B1:a,2:c",
        "T/B1:d,2:c cd",
        "= a",
        "= cd",
    ]);
    run(&["T/B1:a", "T/B1:b", "= a", "= b", "T/B1:a", "= a"]);
    run(&["T/B1:a,2:a", "= a", "T/B1:a,2:a,3:a a", "T/B2:a a", "= a"]);
    run(&[
        "T4/B1:a@1-B5:b@2",
        "T4/B1:a@1-B5:c@2 a",
        "T/B1:a,5:c@1 c",
        "T/B1:d,5:a@1",
    ]);
    run(&["T/B1:a,2:b", "T/B2:b a", "= a", "T/B1:a,2:b", "= a"]);
}

#[test]
fn d44_one_block_of_many_files() {
    for tables in [[ROOT, ROOT, ROOTS[1]], [ROOT, ROOTS[1], ROOTS[1]]] {
        for reads in 0..1u32 << 3 {
            let at = format!("{tables:?} {reads:b}");
            let mut pair = start("T/B1:a,2:b");
            pair.content
                .trees
                .insert(ROOTS[1], tree(ROOTS[1], "T/B2:a,3:b"));
            for (file, table) in FILES.into_iter().zip(tables) {
                pair.content.files.insert(file, bigfile(4, table));
            }
            commit(&mut pair, "=");
            pair.advance(&at);
            for step in ["= a", "T/B1:b,2:b a", "= b"] {
                for (i, file) in FILES.into_iter().enumerate() {
                    if reads & 1 << i != 0 {
                        read_some(&mut pair, file, 1);
                    }
                }
                commit(&mut pair, step);
                pair.advance(&at);
            }
            // One of those that share a table goes.
            pair.ftail.tracked_mut().forget_file(FILES[1]);
            pair.twin.files.remove(&FILES[1]);
            let snap = pair.world.head();
            pair.twin.drop_tables(snap);
            commit(&mut pair, "T/B2:a b");
            pair.advance(&at);
            for file in FILES {
                pair.ask_file(file, &at);
            }
        }
    }
}

#[test]
fn d45_adjacent_blocks_are_shown_with_all_their_changes() {
    let mut pair = start("T/B1:a,2:b");
    let path = pair.world.head().table(FILE).unwrap().leaves[0].0.clone();
    let tracked = pair.ftail.tracked_mut();
    tracked.open(FILE, bigfile(4, ROOT)).unwrap();
    tracked.track(FILE, &path).unwrap();
    pair.twin.files.entry(FILE).or_default();
    let range = KeyRange::ALL;
    pair.twin.keys.entry(ROOT).or_default().insert(range);
    for step in ["= b", "T/B1:a,2:c", "= bc"] {
        commit(&mut pair, step);
        pair.advance("adjacent");
    }
    pair.ask_file(FILE, "adjacent");
    let (ftail, store) = (&mut pair.ftail, &mut pair.world.store);
    let mut slice = |which| {
        store.run((Tid(10), Tid(40)), |s, need| {
            ftail
                .slice(s, need, FILE, (Tid(10), Tid(40)), which)
                .unwrap()
        })
    };
    let tids: Vec<_> = slice(Which::Tracked)
        .iter()
        .map(|slice| slice.tid)
        .collect();
    assert_eq!(tids, [Tid(20), Tid(30), Tid(40)]);
    assert_eq!(slice(Which::Explicit), []);
}
