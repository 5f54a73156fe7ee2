//! Who is woken for a request on `/dev/fuse`, and who pays for it (kernel-note 0024).
//!
//! Servers of more workers than there are CPUs, so that a small machine shows what a large one does.

use std::time::{Duration, Instant};

use crate::child::becomes_true;
use crate::machine::Transport;
use crate::stage::{SOON, Stage, said};

/// Requests that are counted.
const ASKED: u64 = 1000;
/// How long it takes until workers that nobody needs rest again, and much more.
const CALM: Duration = Duration::from_secs(10);

/// A server of so many workers of which so many look at least. Attributes hold for no time: each `stat` is a request.
fn up(transport: Transport, workers: usize, pollers: usize) -> Option<Stage> {
    let bends = format!("workers={workers} pollers={pollers}");
    let mut stage = Stage::up("herd", transport, &bends)?;
    stage.ask("set valid 0");
    stage.visit("stat {}/data");
    Some(stage)
}

/// How often each worker was woken, the most first, and the median time of a request (us).
fn woken(stage: &Stage) -> (Vec<u64>, String) {
    let before = stage.woken();
    let took = stage.visit(&format!("pin 0 ; stats {{}}/data {ASKED}"));
    let after = stage.woken();
    let mut woken: Vec<_> = after.iter().map(|(name, n)| n - before[name]).collect();
    woken.sort_unstable_by(|a, b| b.cmp(a));
    (woken, took)
}

#[test]
fn each_sleeper_that_polls_is_woken() {
    for transport in [Transport::Dev, Transport::Plain] {
        for (workers, pollers) in [(2, 2), (16, 16), (16, 4)] {
            let Some(stage) = up(transport, workers, pollers) else {
                return;
            };
            // Those that began as all were at work rest again.
            let mut seen = (Vec::new(), String::new());
            let settled = becomes_true(CALM, || {
                seen = woken(&stage);
                let resting = seen.0.iter().filter(|&&n| n < ASKED / 20).count();
                // One more may look than has to: the caller's CPU was worth it.
                resting == workers - pollers || resting + 1 == workers - pollers
            });
            let (all, took) = &seen;
            println!("{transport:?}, {pollers} of {workers} look: {took}; woken {all:?}");
            assert!(settled, "{all:?}");
            // All that look and sleep are woken by each request; or the kernel is another one, and the note is wrong.
            let sum: u64 = all.iter().sum();
            assert!(pollers < 16 || sum > ASKED * 16 / 3, "{all:?}");
        }
    }
}

#[test]
fn who_rests_is_called_when_all_are_at_work() {
    for transport in [Transport::Dev, Transport::Plain] {
        let Some(mut stage) = up(transport, 9, 2) else {
            return;
        };
        stage.ask("set slow 300");
        let began = Instant::now();
        let found = said(&stage.send("many {}/data 8 - random").wait(SOON));
        let took = began.elapsed();
        println!("{transport:?}: 8 READs of 300 ms each in {took:?}");
        assert_eq!(found, "8 of 1x1");
        // By two it would be 1200 ms, by one 2400.
        assert!(took < Duration::from_millis(1000), "{took:?}");
        // Afterwards they rest again, and hear of the end.
        stage.ask("set slow 0");
        let rest = becomes_true(CALM, || {
            woken(&stage).0.iter().filter(|&&n| n < ASKED / 20).count() >= 6
        });
        assert!(rest, "{:?}", woken(&stage));
        assert!(stage.ask("umount").starts_with("Ok"));
        assert_eq!(stage.ask("gone"), "true");
        let all_ended = becomes_true(SOON, || stage.woken().is_empty());
        assert!(all_ended, "{:?}", stage.woken());
    }
}
