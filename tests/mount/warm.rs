//! What was read once is in the page cache: reading it again asks the daemon for nothing.

use crate::child::wait_until;
use crate::data::database;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Mount, Rig};
use crate::tree::field;
use crate::visitor::{PAGE, Visitor};
use std::time::{Duration, Instant};

on_each_transport!(asks_once, meets_a_reader_in_order);

/// READ requests that `work` caused. Looking at the counter costs READs itself; that price is measured first.
fn reads_of(mount: &Mount<'_>, work: impl FnOnce()) -> u64 {
    let reads = || mount.stat("fuse_read");
    let (a, b) = (reads(), reads());
    work();
    let c = reads();
    (c - b).checked_sub(b - a).expect("a counter went back")
}

fn asks_once(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("warm", 120);
    let args = "--seed 1 --files 2 --fmt mixed --blksize 128k --blocks 16 --txns 4 --w-epoch 0";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let mount = rig.up(&db.fs, transport);
    let mut inside = Visitor::enter(&rig, &mount.at);
    let tids = db.tids();
    let rev = format!("@{}", tids[tids.len() - 1]);
    for view in ["head", &rev] {
        let file = format!("{view}/bigfile/{}", db.oids()[0]);
        // Another test may have the kernel forget all that nobody has open, pages too.
        inside.ask(&format!("hold {file}"));
        let line = mount.probe(&[&format!("stat {file}")]).remove(0);
        let size = field(&line, "size");
        let ask = |verb: &str| mount.probe(&[&format!("{verb} {file} 0 {size}")]).remove(0);
        let mut first = String::new();
        let cold = reads_of(&mount, || first = ask("sum"));
        assert!(cold > 0, "the counter does not count");
        for verb in ["sum", "map", "sum"] {
            let mut warm = u64::MAX;
            // A machine that is short of memory lets go of pages: once, not each time.
            for _ in 0..3 {
                let mut again = String::new();
                warm = reads_of(&mount, || again = ask(verb));
                assert_eq!(again, first);
                if warm == 0 {
                    break;
                }
                println!("{verb} of {view}: {warm} READs, {cold} when it was cold");
            }
            assert_eq!(warm, 0, "{verb} of {view} asked again; cold it took {cold}");
        }
    }
    drop(inside);
    mount.stop();
}

/// Somebody reads a block from its start: what lies towards its end is stored meanwhile, by a worker that has nothing to do (where requests
/// come by rings). The whole block is there then, as it should be, and nothing of the next one.
fn meets_a_reader_in_order(transport: Transport) {
    const BLOCK: usize = 2 << 20;
    const MOST: u64 = BLOCK as u64 - (256 << 10);
    if !transport.is_there() {
        return;
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    if workers < 2 {
        println!("not tested: one CPU, so nobody has nothing to do beside a reader");
        return;
    }
    let rig = Rig::new("order", 240);
    let args =
        "--seed 8 --files 2 --fmt mixed --blksize 2M --blocks 3 --txns 4 --w-epoch 0 --w-grow 0";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let mount = rig.up(&db.fs, transport);
    let mut inside = Visitor::enter(&rig, &mount.at);
    let pages = BLOCK / PAGE;
    for oid in db.oids() {
        let file = format!("head/bigfile/{oid}");
        // The kernel asks ahead, but not beyond the block.
        let most = format!("sum {file} 0 {MOST}");
        let mut read = u64::MAX;
        // It may be somebody else's turn on every CPU until the reader is done: one time in forty the meeting is early enough on a machine
        // whose CPUs are all taken.
        let began = Instant::now();
        while read >= MOST && began.elapsed() < Duration::from_secs(60) {
            inside.ask(&format!("evict {file} 0 {}", 3 * BLOCK));
            let before = mount.stat("fuse_read_bytes");
            mount.probe(&[&most]);
            read = mount.stat("fuse_read_bytes") - before;
            let all = || {
                let cached = inside.pages(&format!("cached {file}"));
                cached[..pages]
                    .iter()
                    .all(|&cached| cached == 1)
                    .then_some(())
            };
            wait_until(Duration::from_secs(10), all).expect("the block is stored");
            if transport != Transport::Uring {
                break;
            }
        }
        let is_met = read < MOST || transport != Transport::Uring;
        assert!(is_met, "{read} bytes of {file} were READ");
        let behind = &inside.pages(&format!("cached {file}"))[pages..];
        assert!(behind.iter().all(|&cached| cached == 0), "{behind:?}");
    }
    mount.verify(&[&db.manifest], &["--full"]);
    mount.stop();
}
