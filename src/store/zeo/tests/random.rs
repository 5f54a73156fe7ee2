//! Runs made of chance: commits, loads, streams cut anywhere, bytes in pieces, servers that restart. Whatever happens, each
//! load has one answer, which is right; each transaction is told once, in order, with just its objects.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::{Broken, Trouble, Why};
use super::world::{World, ms};
use crate::wire::zeo::Encoding;

/// splitmix64
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n.max(1) as u64).unwrap()
    }
}

const OBJECTS: usize = 12;

fn commit(world: &mut World, rng: &mut Rng) {
    let tid = world.model.last() + 1 + rng.below(3) as u64;
    let data = tid.to_be_bytes();
    let mut changes = std::collections::BTreeMap::new();
    for _ in 0..rng.below(5) {
        let is_deleted = rng.below(6) == 0;
        changes.insert(
            rng.below(OBJECTS) as u64,
            (!is_deleted).then_some(&data[..]),
        );
    }
    let changes: Vec<_> = changes.into_iter().collect();
    world.commit(tid, &changes);
}

/// The newest state that was given out.
fn head(world: &World, first: u64) -> u64 {
    world.commits.last().map_or(first, |(tid, _)| *tid)
}

fn check_answers(world: &World) {
    for (waiter, (oid, at, loaded)) in &world.done {
        match (loaded, world.model.at(*oid, *at)) {
            (Ok(got), Ok(right)) => assert_eq!(*got, right, "{waiter}: {oid} @{at}"),
            // That something will be is told of later, or never.
            (Err(Why::NotYet | Why::NoObject), Err(_)) | (Err(Why::Late), _) => {}
            other => panic!("{waiter}: {oid} @{at}: {other:?}"),
        }
    }
}

fn run(seed: u64) -> (usize, usize) {
    let mut rng = Rng(seed);
    let encoding = match seed % 2 {
        0 => Encoding::Pickle,
        _ => Encoding::Msgpack,
    };
    let mut world = World::new(encoding);
    for _ in 0..5 {
        commit(&mut world, &mut rng);
    }
    world.model.remembers = rng.below(20);
    world.flow();
    let first = world.model.last();
    let (mut asked, mut cuts) = (0, 0);
    for _ in 0..400 {
        match rng.below(16) {
            0 | 1 => commit(&mut world, &mut rng),
            2..=4 => {
                let at = head(&world, first);
                let at = at - (rng.below(4) as u64).min(at);
                world.load(rng.below(OBJECTS + 2) as u64, at, asked);
                asked += 1;
            }
            5..=8 => world.arrive(1 + rng.below(60)),
            9..=12 => world.depart(1 + rng.below(60)),
            13 => world.wait(ms(rng.below(400) as u64)),
            14 if rng.below(4) == 0 && world.is_connected() => {
                cuts += 1;
                world.cut(Trouble::Broken(Broken::Closed));
            }
            _ => {
                world.dial();
            }
        }
        assert!(!world.fatal && world.resets == 0, "{:?}", world.log);
    }
    world.reconnect();
    // What was told is what happened.
    let happened = world.model.txns.iter().filter(|(tid, _)| *tid > first);
    let told: Vec<(u64, Vec<u64>)> = happened
        .map(|(tid, changes)| (*tid, changes.keys().copied().collect()))
        .collect();
    assert_eq!(world.commits, told, "seed {seed}");
    assert_eq!(world.done.len(), asked as usize, "seed {seed}");
    check_answers(&world);
    let late = world
        .done
        .values()
        .filter(|(.., loaded)| *loaded == Err(Why::Late));
    (cuts, late.count())
}

#[test]
fn whatever_happens_answers_are_right_and_transactions_exact() {
    let (mut cuts, mut late) = (0, 0);
    for seed in 0..2000 {
        let (c, l) = run(seed);
        (cuts, late) = (cuts + c, late + l);
    }
    assert!(cuts > 2000, "{cuts}");
    println!("{cuts} cuts, {late} late");
}
