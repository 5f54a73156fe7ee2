//! Files as crashes leave them: the end of the database decorated, cut, or lying. Committed revisions stay right, and
//! what cannot be served is refused in a sentence; never a wrong byte, never a crash.
//!
//! `ZRING_CUTS` random cuts, spread over the transports.

use std::fs::OpenOptions;
use std::path::Path;

use crate::child::{Ended, becomes_true};
use crate::data::{Database, database};
use crate::machine::{Transport, number};
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, no_bug, zurl};

/// Small, with all formats, and transactions of different kinds at the end.
const SMALL: &str = "--fmt mixed --blksize 8k --blocks 16 --txns 8 --undo .2 --seed";

/// What a refusal has to look like: an exit status, one line for a person, no sign of a bug.
pub(crate) fn refused(ended: &Ended) -> String {
    no_bug(ended);
    assert!(ended.code().is_some_and(|c| c != 0), "not refused: {ended}");
    let lines: Vec<&str> = ended.err.lines().filter(|l| !l.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "one sentence on stderr: {ended}");
    assert!(lines[0].len() >= 20, "a sentence, not a word: {ended}");
    lines[0].to_owned()
}

/// The tree is that of the revisions up to `at`, and `head/at` says `at`.
fn is_as_of(rig: &Rig, mount: &Mount<'_>, db: &Database, at: &str, options: &[&str]) {
    // A daemon may need a moment for an end that looks as if it were being written.
    let there = becomes_true(SHORT, || mount.head() == at);
    assert!(
        there,
        "head/at is {}, not {at}: {}",
        mount.head(),
        mount.said()
    );
    let Some(manifest) = db.up_to(rig, at) else {
        return;
    };
    // Cut so early that no file has a block yet: nothing to compare.
    if std::fs::read_to_string(&manifest)
        .unwrap()
        .contains("\"set\":{\"")
    {
        mount.verify(&[&manifest], options);
    }
}

on_each_transport!(
    voted_not_finished,
    crash_in_the_vote,
    half_a_header,
    last_transaction_cut,
    zeros_at_the_end,
    garbage_at_the_end,
    lengths_disagree,
    random_cuts,
);

/// One damaged end. `lost` is how many committed transactions it takes away.
fn ending(mode: &str, lost: usize, transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new(mode, 120);
    let seed = number("ZRING_SEED", 1);
    let Some(kept) = database(&rig, &format!("{SMALL} {seed}")) else {
        return;
    };
    let whole = kept.transactions();
    let at = &whole[whole.len() - 1 - lost].0;
    let db = kept.copy(&rig, "db");
    let mut c = rig.tool("make_zodb.py");
    c.args(["tail", "--mode", mode, "--target"]).arg(&db.fs);
    rig.run(&mut c, SHORT).good();
    let before = std::fs::read(&db.fs).unwrap();
    let mount = rig.up(&db.fs, transport);
    is_as_of(&rig, &mount, &db, at, &["--full"]);
    mount.stop();
    let after = std::fs::read(&db.fs).unwrap();
    assert!(before == after, "a reader has written to the database");
}

fn voted_not_finished(t: Transport) {
    ending("checkpoint", 0, t);
}

fn crash_in_the_vote(t: Transport) {
    ending("partial-checkpoint", 0, t);
}

fn half_a_header(t: Transport) {
    ending("half-header", 0, t);
}

fn last_transaction_cut(t: Transport) {
    ending("truncate", 1, t);
}

fn zeros_at_the_end(t: Transport) {
    ending("zeros", 0, t);
}

fn garbage_at_the_end(t: Transport) {
    ending("garbage", 0, t);
}

fn lengths_disagree(t: Transport) {
    ending("badlen", 1, t);
}

/// Cuts at any byte. Whole transactions before the cut are served; a file that has none may be refused.
fn random_cuts(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let all = number("ZRING_CUTS", 20);
    let here: Vec<u64> = (0..all)
        .filter(|i| Transport::ALL[usize::try_from(i % 3).unwrap()] == transport)
        .collect();
    let rig = Rig::new("cuts", 60 + 10 * u64::try_from(here.len()).unwrap());
    let seed = number("ZRING_SEED", 1);
    let Some(kept) = database(&rig, &format!("{SMALL} {seed}")) else {
        return;
    };
    let whole = kept.transactions();
    let size = std::fs::metadata(&kept.fs).unwrap().len();
    let mut served = 0;
    for i in here {
        let cut = scatter(seed, i) % size;
        println!("seed {seed} cut {i}: {cut} of {size} bytes");
        // Every second one keeps the index file, which then speaks of more than there is.
        let db = kept.copy(&rig, &format!("cut{i}"));
        if i % 2 == 0 {
            let _ = std::fs::remove_file(db.fs.with_extension("fs.index"));
        }
        truncate(&db.fs, cut);
        let last = whole.iter().rfind(|(_, end)| *end <= cut);
        let opts = format!("transport={}", transport.name());
        match (rig.mount("mnt", &zurl(&db.fs), &opts), last) {
            (Ok(mount), Some((at, _))) => {
                is_as_of(&rig, &mount, &db, at, &["--full"]);
                mount.stop();
                served += 1;
            }
            (Ok(mount), None) => {
                mount.stop();
            }
            (Err(ended), None) => {
                refused(&ended);
            }
            (Err(ended), Some(_)) => panic!("refused a file with whole transactions: {ended}"),
        }
        std::fs::remove_dir_all(db.fs.parent().unwrap()).unwrap();
    }
    assert!(served > 0 || all < 20, "no cut left anything to serve");
}

fn truncate(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// The i-th number of a seed, spread over 64 bits (the finaliser of splitmix64).
pub(crate) fn scatter(seed: u64, i: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(i.wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
