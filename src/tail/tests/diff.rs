//! Differences against full enumeration.

use super::model::{Leaves, State, TREE, changed, db};
use crate::base::Oid;
use crate::base::span::{KeyRange, KeySet};
use crate::tail::btreediff::{Change, Diff, TrackedTree, diff};
use crate::zodb::sample::{Db, Rng};
use crate::zodb::{Ask, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Steps of the random test, and its first seed: `ZRING_STEPS`, `ZRING_SEED`.
pub(super) fn bounds(normal: u64) -> (usize, u64) {
    let number = |name, normal| {
        let text = std::env::var(name).ok();
        text.map_or(normal, |text| text.parse::<u64>().expect(name))
    };
    (
        usize::try_from(number("ZRING_STEPS", normal)).unwrap(),
        number("ZRING_SEED", 1),
    )
}

/// Runs a diff to its end, bringing what it asks for.
fn run(old: &mut Db, new: &mut Db, tracked: &TrackedTree, changed: &BTreeSet<Oid>) -> Diff {
    let (mut need_old, mut need_new) = (Vec::new(), Vec::new());
    loop {
        let mut asks = (Ask::new(old, &mut need_old), Ask::new(new, &mut need_new));
        let oids = changed.iter().copied();
        match diff(&mut asks.0, &mut asks.1, TREE, tracked, oids).unwrap() {
            Step::Done(diff) => return diff,
            Step::Need => {
                assert!(
                    need_old.len() + need_new.len() > 0,
                    "it asks for what it lacks"
                );
                old.here.extend(need_old.drain(..));
                new.here.extend(need_new.drain(..));
            }
        }
    }
}

fn range(path: &[crate::zodb::btree::PathNode]) -> KeyRange {
    let cover = path.last().unwrap().cover;
    KeyRange::new(cover.lo, cover.last().unwrap()).unwrap()
}

/// All keys that share a leaf with one of these, in either state, and with one of those, and so on.
pub(super) fn closure(keys: &KeySet, old: &Leaves, new: &Leaves) -> KeySet {
    let mut all = keys.clone();
    loop {
        let before = all.clone();
        for (path, _) in old.iter().chain(new) {
            if all.meets(range(path)) {
                all.insert(range(path));
            }
        }
        if all == before {
            return all;
        }
    }
}

/// What differs in these keys.
fn full(keys: &KeySet, old: &Leaves, new: &Leaves) -> BTreeMap<i64, Change> {
    let all = |leaves: &Leaves| -> BTreeMap<i64, u64> {
        leaves.iter().flat_map(|(_, map)| map.clone()).collect()
    };
    let (old, new) = (all(old), all(new));
    let both: BTreeSet<i64> = old.keys().chain(new.keys()).copied().collect();
    let change = |key: i64| Change {
        old: old.get(&key).copied().map(Oid),
        new: new.get(&key).copied().map(Oid),
    };
    let changes = both.into_iter().map(|key| (key, change(key)));
    changes
        .filter(|(key, c)| keys.contains(*key) && c.old != c.new)
        .collect()
}

/// What a tree that tracks just these keys knows.
fn tracking(keys: &KeySet, leaves: &Leaves) -> TrackedTree {
    let mut tracked = TrackedTree::default();
    for (path, _) in leaves.iter().filter(|(path, _)| keys.meets(range(path))) {
        tracked.track(path);
    }
    tracked
}

/// Commits to random trees; some leaves are tracked from the start, some more after each commit.
#[test]
fn differences_are_those_of_the_whole_trees() {
    let (steps, first) = bounds(20_000);
    let (mut done, mut seed, mut gains, mut spared) = (0, first, 0, 0);
    while done < steps {
        let mut rng = Rng(seed);
        let mut state = State::new();
        state.mutate(&mut rng, 500);
        let mut tracked = TrackedTree::default();
        for step in 0..8 {
            let leaves = state.leaves();
            let count = if rng.one_in(3) {
                leaves.len()
            } else {
                rng.below(3)
            };
            for _ in 0..count {
                tracked.track(&leaves[rng.below(leaves.len())].0);
            }
            let before = state.clone();
            let most = [1, 4, 30][rng.below(3)];
            state.mutate(&mut rng, most);
            let (old, new) = (before.records(), state.records());
            let (changed, after) = (changed(&old, &new), state.leaves());
            let (mut old, mut new) = (db(&old), db(&new));
            let found = run(&mut old, &mut new, &tracked, &changed);

            let keys = closure(tracked.keys(), &leaves, &after);
            let at = format!("seed {seed} step {step}");
            assert_eq!(found.changes, full(&keys, &leaves, &after), "{at}");
            let mut gained = keys.clone();
            gained.subtract(tracked.keys());
            assert_eq!(found.gained, gained, "{at}");
            gains += usize::from(!gained.is_empty());
            spared += usize::from(old.here.len() + new.here.len() < old.all.len() + new.all.len());
            tracked.apply(&found);
            assert_eq!(tracked, tracking(&keys, &after), "{at}");
            done += 1;
        }
        seed += 1;
    }
    println!(
        "{done} commits, seeds {first} to {}: {gains} gained keys, {spared} loaded less than all",
        seed - 1
    );
    assert!(
        gains > done / 100 && spared > done / 4,
        "{gains} {spared} of {done}"
    );
}

/// Every set of leaves of small trees.
#[test]
fn every_tracked_subset_of_small_trees() {
    for seed in 0..150 {
        let mut rng = Rng(seed);
        let mut before = State::new();
        before.mutate(&mut rng, 25);
        let mut after = before.clone();
        after.mutate(&mut rng, 6);
        let (leaves, then) = (before.leaves(), after.leaves());
        let (old, new) = (before.records(), after.records());
        let changed = changed(&old, &new);
        for subset in 0..1u32 << leaves.len().min(7) {
            let mut tracked = TrackedTree::default();
            for (i, (path, _)) in leaves.iter().enumerate().take(7) {
                if subset & 1 << i != 0 {
                    tracked.track(path);
                }
            }
            let found = run(&mut db(&old), &mut db(&new), &tracked, &changed);
            let keys = closure(tracked.keys(), &leaves, &then);
            assert_eq!(
                found.changes,
                full(&keys, &leaves, &then),
                "seed {seed} {subset:b}"
            );
            // Back again: the history of newly tracked keys is built in this direction.
            tracked.apply(&found);
            let back = run(&mut db(&new), &mut db(&old), &tracked, &changed);
            let keys = closure(tracked.keys(), &then, &leaves);
            assert_eq!(
                back.changes,
                full(&keys, &then, &leaves),
                "seed {seed} {subset:b} back"
            );
            tracked.apply(&back);
            assert_eq!(
                tracked,
                tracking(&keys, &leaves),
                "seed {seed} {subset:b} back"
            );
        }
    }
}
