//! A writer commits while readers follow: `head/at` never goes back, and what is read as of `head/at` is that.
//! Then the writer stops, the database is packed under the mount, and a new writer goes on.
//!
//! `ZRING_LIVE_S` seconds for each of the two writers; `ZRING_VERIFIERS` readers beside the one that does not pause.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::child::{Running, becomes_true};
use crate::data::values;
use crate::machine::{Transport, number, python};
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, verdict};

/// A running `make_zodb.py live` and its log.
#[derive(Debug)]
pub(crate) struct Writer {
    process: Running,
    log: PathBuf,
}

impl Writer {
    /// Starts on `db`, which `--create` in `options` makes; waits for the first commit of its own.
    pub(crate) fn start(rig: &Rig, db: &Path, log: &str, options: &str) -> Self {
        let log = rig.path(log);
        let mut c = rig.tool("make_zodb.py");
        c.arg("live").arg("--target").arg(db).arg("--log").arg(&log);
        c.args("--w-epoch 0 --files 3".split(' '));
        c.args(options.split_whitespace());
        let process = rig.start(&mut c);
        let mut it = Self { process, log };
        let begun = becomes_true(SHORT, || it.commits() > 0 || !it.process.is_running());
        assert!(begun && it.commits() > 0, "{}", it.process.err_so_far());
        it
    }

    /// Transactions in the log.
    pub(crate) fn commits(&self) -> usize {
        self.tids().len()
    }

    /// Tids in the log, oldest first.
    pub(crate) fn tids(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        values(&text, "tid")
    }

    /// Waits for its own end, which `--count` gives it; tids in the log, oldest first.
    pub(crate) fn finish(self) -> Vec<String> {
        let log = self.log.clone();
        self.process.wait(SHORT).good();
        values(&std::fs::read_to_string(log).unwrap(), "tid")
    }

    /// Ends it and gives the log.
    pub(crate) fn stop(self) -> PathBuf {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(SHORT).good();
        self.log
    }
}

/// Two readers beside the writer, one by pread and one by mmap, until the writer's log stands still.
pub(crate) fn followed(rig: &Rig, mount: &Mount<'_>, writer: Writer, seconds: u64) -> PathBuf {
    followed_by(2, rig, mount, writer, seconds)
}

/// The same with so many readers, every other one by mmap.
fn followed_by(
    readers: u64,
    rig: &Rig,
    mount: &Mount<'_>,
    writer: Writer,
    seconds: u64,
) -> PathBuf {
    let before = writer.commits();
    // In a long run the disk of a busy machine stands still for longer once.
    let patience = (seconds / 15).clamp(3, 45);
    let follow = |n: u64| {
        let mut c = rig.tool("verify_mount.py");
        c.arg(&mount.at).arg(&writer.log).arg("--follow");
        c.args([
            "--patience",
            &patience.to_string(),
            "--seed",
            &n.to_string(),
        ]);
        c.args(n.is_multiple_of(2).then_some("--mmap"));
        rig.start(&mut c)
    };
    // Two or more samples in each second, of at least one block, if there are two of them: slow machines are slow, not blind.
    let few = (4 * seconds).div_ceil(readers);
    let mut readers: Vec<_> = (1..=readers).map(follow).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    let early: Vec<bool> = readers.iter_mut().map(|r| !r.is_running()).collect();
    let after = writer.commits();
    assert!(after > before, "the writer stood still");
    let log = writer.stop();
    for (r, early) in readers.into_iter().zip(early) {
        let ended = r.wait(SHORT + Duration::from_secs(patience));
        assert!(!early, "ended before the writer: {ended}{}", mount.said());
        let blocks = verdict(&ended);
        println!("{after} commits; {}", ended.out.lines().last().unwrap());
        assert!(blocks >= few, "hardly anything compared: {ended}");
    }
    log
}

on_each_transport!(
    follows_a_writer_and_a_pack,
    follows_wide_blocks,
    follows_a_writer_that_does_not_pause,
);

/// Blocks of one page, where the tool is strict: no block can be read across a commit, so none gets a second look.
fn follows_a_writer_and_a_pack(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8);
    let rig = Rig::new("live", 120 + 4 * seconds);
    let db = rig.path("Data.fs");
    let seed = number("ZRING_SEED", 1);
    println!("seed {seed}");
    let options = format!("--interval 20 --blksize 4k --blocks 60 --seed {seed}");
    let writer = Writer::start(&rig, &db, "first.jsonl", &format!("{options} --create"));
    let mount = rig.up(&db, transport);
    let log = followed(&rig, &mount, writer, seconds);
    // Every revision that was seen live is right in retrospect.
    mount.verify(&[&log], &["--every", "25"]);
    let at = mount.head();

    let mut pack = rig.tool("make_zodb.py");
    pack.arg("pack").arg("--target").arg(&db);
    rig.run(&mut pack, SHORT).good();

    let writer = Writer::start(&rig, &db, "second.jsonl", &options);
    let log = followed(&rig, &mount, writer, seconds);
    assert!(mount.head() > at, "the head did not move after the pack");
    mount.verify(&[&log], &["--every", "25"]);
    mount.stop();
}

/// Blocks of many pages, in both formats: what one READ brings in lies beside what another did.
fn follows_wide_blocks(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(2);
    let rig = Rig::new("live wide", 120 + 4 * seconds);
    let db = rig.path("Data.fs");
    let seed = number("ZRING_SEED", 1);
    println!("seed {seed}");
    let options =
        format!("--create --interval 20 --blksize 64k --blocks 20 --changes 2 --seed {seed}");
    let writer = Writer::start(&rig, &db, "log.jsonl", &options);
    let mount = rig.up(&db, transport);
    let log = followed(&rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "50"]);
    mount.stop();
}

/// As fast as Python commits, beside many readers if wanted.
fn follows_a_writer_that_does_not_pause(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(2);
    let rig = Rig::new("live fast", 120 + 4 * seconds);
    let db = rig.path("Data.fs");
    let seed = number("ZRING_SEED", 1);
    println!("seed {seed}");
    let options = format!("--create --interval 1 --blksize 4k --blocks 60 --seed {seed}");
    let writer = Writer::start(&rig, &db, "log.jsonl", &options);
    let mount = rig.up(&db, transport);
    let readers = number("ZRING_VERIFIERS", 2);
    let log = followed_by(readers, &rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "500"]);
    mount.stop();
}
