//! Files as crashes leave them: the end of the database decorated, cut, or lying. Committed revisions stay right, and
//! what cannot be served is refused in a sentence; never a wrong byte, never a crash.
//!
//! `ZRING_CUTS` random cuts, spread over the transports.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zring::zodb::write::Leaf;

use crate::base::{Base, word};
use crate::child::{Ended, becomes_true};
use crate::data::{Database, database};
use crate::machine::{Transport, number};
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, no_bug, zurl};
use crate::visitor::Visitor;

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
    damaged_in_the_middle,
    a_record_that_is_damaged,
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

/// A database of one file, eight blocks with stamp 1, written elsewhere: whole transactions of it come to the database at once.
fn eight_blocks(rig: &Rig) -> Base {
    let mut base = Base::create(&rig.path("made.fs"));
    let file = base.file(4096, Leaf::Blk0);
    (0..8).for_each(|blk| base.set(file, blk, 1));
    base.commit();
    base
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// What comes while it is followed and is no transaction, with transactions behind it, ends head; older states stay. No new mount is made of that.
fn damaged_in_the_middle(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("middle", 60);
    let (made, path) = (rig.path("made.fs"), rig.path("Data.fs"));
    let mut base = eight_blocks(&rig);
    let (head, start) = (base.files[0].head(), base.last());
    let mut ends = Vec::new();
    for n in 2..5 {
        ends.push(usize::try_from(std::fs::metadata(&made).unwrap().len()).unwrap());
        base.set(0, u64::from(n), n);
        base.commit();
    }
    let second = base.files[0].rev(2, start, base.last());
    let mut whole = std::fs::read(&made).unwrap();
    let bad = ends[1];
    whole[bad + 16] = 0xee; // the status of the third
    std::fs::write(&path, &whole[..ends[0]]).unwrap();
    let mount = rig.up(&path, transport);
    let mut inside = Visitor::enter(&rig, &mount.at);
    let all = format!("stamps {head} 0 32768");
    inside.ask(&format!("hold {head}"));
    assert_eq!(inside.ask(&all), "1x8");
    append(&path, &whole[ends[0]..bad]);
    inside.await_head(second);
    assert_eq!(inside.ask(&all), "1x2 2x1 1x5");

    append(&path, &whole[bad..]);
    let says = format!("the file is damaged at position {bad}");
    let failed = becomes_true(SHORT, || mount.said().contains(&says));
    assert!(failed, "{}", mount.said());
    // Nor is what was cached shown any more.
    let eio = format!("errno {}", libc::EIO);
    assert!(becomes_true(SHORT, || inside.ask(&all) == eio));
    inside.ask(&format!("let {head}"));
    assert_eq!(inside.ask(&all), eio);
    assert_eq!(inside.ask("text head/at"), second.to_string());
    assert_eq!(inside.stat("BigFile"), 1);
    let old = |rev| format!("stamps {} 0 32768", base.files[0].at(rev));
    assert_eq!(inside.ask(&old(start)), "1x8");
    assert_eq!(inside.ask(&old(second)), "1x2 2x1 1x5");
    drop(inside);
    mount.stop();

    let options = format!("transport={}", transport.name());
    let ended = rig.mount("mnt", &zurl(&path), &options).unwrap_err();
    let said = refused(&ended);
    assert!(
        said.contains(&format!("damaged at position {bad}")),
        "{said}"
    );
    assert_eq!(ended.code(), Some(5), "{ended}");
}

/// The record whose data has this word in it.
fn record_with(file: &[u8], word: u64) -> usize {
    const TXN: usize = 23; // no user, no description
    const RECORD: usize = 42;
    let number = |at: usize| {
        let bytes = *file[at..].first_chunk().unwrap();
        usize::try_from(u64::from_be_bytes(bytes)).unwrap()
    };
    let mut at = 4;
    loop {
        let end = at + number(at + 8);
        at += TXN;
        while at < end {
            let next = at + RECORD + number(at + 34);
            let mut words = file[at + RECORD..next].windows(8);
            if words.any(|bytes| bytes == word.to_le_bytes()) {
                return at;
            }
            at = next;
        }
        at += 8;
    }
}

/// A record that is another one's in the midst of what is served: an error for its block alone, and a line that says where.
fn a_record_that_is_damaged(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("record", 60);
    let path = rig.path("Data.fs");
    let mut base = eight_blocks(&rig);
    let head = base.files[0].head();
    let mut bytes = std::fs::read(rig.path("made.fs")).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let bad = record_with(&bytes, word(1, 3 * 4096));
    let oid: String = bytes[bad..bad + 8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    bytes[bad] = 0xee;
    let mount = rig.up(&path, transport);
    let mut inside = Visitor::enter(&rig, &mount.at);
    inside.ask(&format!("hold {head}"));
    let page = |blk: u64| format!("stamps {head} {} 4096", blk * 4096);
    assert_eq!(inside.ask(&page(2)), "1x1");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&bytes[bad..=bad], bad as u64).unwrap();
    assert_eq!(inside.ask(&page(3)), format!("errno {}", libc::EIO));
    let says = [oid, format!("position {bad}"), format!("@{}", base.last())];
    let is_said = |line: &str| says.iter().all(|what| line.contains(what));
    let said = becomes_true(SHORT, || mount.said().lines().any(is_said));
    assert!(said, "not said: {says:?}: {}", mount.said());
    assert_eq!(inside.ask(&page(4)), "1x1");
    // Head goes on.
    base.set(0, 5, 2);
    let next = base.commit();
    append(
        &path,
        &std::fs::read(rig.path("made.fs")).unwrap()[bytes.len()..],
    );
    inside.await_head(next);
    assert_eq!(inside.ask(&page(5)), "2x1");
    assert_eq!(inside.ask(&page(2)), "1x1");
    drop(inside);
    mount.stop();
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
