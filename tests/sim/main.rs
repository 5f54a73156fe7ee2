//! The commit path, run a million times in another order.
//!
//! The parts that decide (`fs::advance`, `fs::track`, `fs::touch`, `fs::cache`, `fs::read`, `fs::tree`, the walks of
//! `zodb`) are the real ones. Around them are a model of the kernel's page cache (`kernel`), a database (`data`), workers
//! put together as `engine` puts them (`worker`, `answer`), and a scheduler (`world`) that gives turns to whom a seed says.
//! After each turn the invariants are checked (`shared`, `graph`), against one description of what is correct.
//!
//! ```text
//! ZRING_SIM_STEPS=10000000 ZRING_SEED=7 cargo test --release --test sim -- --nocapture
//! ```
//!
//! A run is many short worlds, one seed each. A world that fails says its seed: with `ZRING_SEED` it is the first one of
//! the next run. Make it a test here, with the fix. Long runs are noted in `RECORD.md`.
//!
//! That the checks see something is shown by mistakes built in by a switch (`mutant`): each has to be found.
#![allow(clippy::unwrap_used, reason = "tests")]

mod answer;
mod data;
mod graph;
mod kernel;
mod loading;
mod mutant;
mod rng;
mod shared;
mod worker;
mod world;

use mutant::Mutant;
use shared::{Broken, Counts, Rules, What};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use world::World;

/// Steps of one world; then comes the next, with other files, workers and speeds.
const WORLD_STEPS: u64 = 3000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
}

fn run(seed: u64, rules: Rules) -> Result<Counts, Broken> {
    World::new(seed, rules).run(WORLD_STEPS)
}

/// Runs a world again, for its last words.
fn replay(seed: u64, rules: Rules) {
    let rules = Rules {
        trace: true,
        ..rules
    };
    let _ = catch_unwind(|| run(seed, rules));
}

fn add(sum: &mut Counts, counts: &Counts) {
    let Counts {
        steps,
        shown,
        reads,
        parked,
        robbed,
        stale_loads,
        stores,
        stores_abandoned,
        drops,
        lock_waits,
        full,
        interrupted,
        forgotten,
        retired,
        behind,
        crossed,
    } = counts;
    for (sum, n) in [
        (&mut sum.steps, steps),
        (&mut sum.shown, shown),
        (&mut sum.reads, reads),
        (&mut sum.parked, parked),
        (&mut sum.robbed, robbed),
        (&mut sum.stale_loads, stale_loads),
        (&mut sum.stores, stores),
        (&mut sum.stores_abandoned, stores_abandoned),
        (&mut sum.drops, drops),
        (&mut sum.lock_waits, lock_waits),
        (&mut sum.full, full),
        (&mut sum.interrupted, interrupted),
        (&mut sum.forgotten, forgotten),
        (&mut sum.retired, retired),
        (&mut sum.behind, behind),
        (&mut sum.crossed, crossed),
    ] {
        *sum += n;
    }
}

#[test]
fn any_order_of_events_keeps_the_invariants() {
    let usual = if cfg!(debug_assertions) {
        200_000
    } else {
        3_000_000
    };
    let steps = number("ZRING_SIM_STEPS", usual);
    let first = number("ZRING_SEED", 1);
    println!("simulation: ZRING_SEED={first} ZRING_SIM_STEPS={steps}");
    let (mut seed, mut sum) = (first, Counts::default());
    while sum.steps < steps {
        match catch_unwind(AssertUnwindSafe(|| run(seed, Rules::NORMAL))) {
            Ok(Ok(counts)) => add(&mut sum, &counts),
            Ok(Err(Broken { what, text })) => {
                replay(seed, Rules::NORMAL);
                panic!("{what:?}: {text}; again with ZRING_SEED={seed}");
            }
            Err(panic) => {
                eprintln!("again with ZRING_SEED={seed}");
                resume_unwind(panic);
            }
        }
        seed += 1;
    }
    println!("{} worlds: {sum:?}", seed - first);
    // What is rare has happened all the same, or the run says little.
    let rarest = [
        sum.shown,
        sum.robbed,
        sum.stale_loads,
        sum.stores,
        sum.stores_abandoned,
        sum.lock_waits,
        sum.full,
        sum.interrupted,
        sum.forgotten,
        sum.retired,
        sum.behind,
    ];
    let rarest = rarest.into_iter().min().unwrap();
    assert!(
        rarest >= steps / 20_000,
        "something hardly ever happened: {sum:?}"
    );
}

#[test]
fn a_seed_says_all() {
    for seed in 1..4 {
        assert_eq!(
            run(seed, Rules::NORMAL).unwrap(),
            run(seed, Rules::NORMAL).unwrap()
        );
    }
}

/// From each of some seeds the mistake is found within so many worlds, by a check that is meant to.
fn is_found(rules: Rules, worlds: u64, by: &[What]) {
    for first in [1, 1_000_000, 2_000_000, 3_000_000, 4_000_000] {
        let broken = (first..first + worlds).find_map(|seed| Some((seed, run(seed, rules).err()?)));
        let (seed, broken) =
            broken.unwrap_or_else(|| panic!("{rules:?} is not found from {first}"));
        println!("{rules:?}: {broken:?} in world {}", seed - first + 1);
        assert!(by.contains(&broken.what), "{rules:?}: {broken:?}");
    }
}

macro_rules! mistakes {
    ($($name:ident: $mutant:ident, $by:expr;)*) => { $(
        #[test]
        fn $name() {
            is_found(Rules::with(Mutant::$mutant), 120, &$by);
        }
    )* };
}

mistakes! {
    finds_a_worker_that_keeps_its_view: KeepsView, [What::Torn, What::Stale];
    finds_a_worker_that_took_too_early: TookTooEarly, [What::Torn, What::Stale];
    finds_head_shown_too_early: ShowsTooEarly, [What::Stale];
    finds_a_missing_second_drop: NoSecondDrop, [What::Stale];
    finds_notes_ended_when_asked: AskEndsNotes, [What::Torn, What::Stale];
    finds_a_store_after_the_view: LateStore, [What::Stale];
    finds_stores_overtaken: StoresOvertaken, [What::Stale];
    finds_reads_that_wait: ReadsWait, [What::Waits];
    finds_parked_reads_that_keep_objects: ParkedKeeps, [What::Torn, What::Stale];
    finds_loads_in_flight_kept: InFlightKept, [What::Torn, What::Stale];
    finds_a_cache_kept: CacheKept, [What::Torn, What::Stale];
    finds_infos_kept: InfoKept, [What::Torn, What::Stale];
    finds_reads_not_tracked: NotTracked, [What::Stale];
    finds_reads_tracked_late: TrackedLate, [What::Stale];
    finds_drops_that_do_not_wait: InvalDoesNotWait, [What::Stale];
}

/// What correctness does not rest on, as `fs::advance` says.
#[test]
fn the_first_drop_is_not_needed() {
    for seed in 1..100 {
        run(seed, Rules::with(Mutant::NoFirstDrop)).unwrap();
    }
}

#[test]
fn stores_may_go_on_under_a_new_view() {
    for seed in 1..100 {
        run(seed, Rules::with(Mutant::StoreGoesOn)).unwrap();
    }
}

/// Attributes that a LOOKUP brings after a drop found no node to expire could be old. The kernel tells answers about a
/// node apart by age once it knows the node, not before: so under head they come with a validity of 0.
#[test]
fn finds_attributes_that_a_drop_could_not_expire() {
    let rules = Rules {
        crossed: true,
        ..Rules::NORMAL
    };
    is_found(rules, 600, &[What::Stale]);
}

/// Without the graph, the deadlock itself.
#[test]
fn finds_a_deadlock_of_reads_that_wait() {
    let rules = Rules {
        graph: false,
        ..Rules::with(Mutant::ReadsWait)
    };
    is_found(rules, 60, &[What::Stuck]);
}
