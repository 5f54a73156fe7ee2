//! Every block of every revision, compared with what was written: block formats, block sizes, pickle flavours, undo,
//! deletion, tree rebuilds, epochs. Once by pread and once by mmap, each on a fresh mount, so that nothing is answered
//! from pages that the other way brought in.
//!
//! `ZRING_SEEDS` databases of each kind, from seed `ZRING_SEED` on. The seeds are printed.

use crate::data::database;
use crate::machine::{Transport, number};
use crate::on_each_transport;
use crate::rig::Rig;

/// All databases of one kind, over one transport.
fn holds(kind: &str, transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let first = number("ZRING_SEED", 1);
    let seeds = first..first + number("ZRING_SEEDS", 3);
    let limit_s = 60 + 30 * number("ZRING_SEEDS", 3);
    let rig = Rig::new("content", limit_s);
    for seed in seeds {
        println!("seed {seed}");
        let Some(db) = database(&rig, &format!("--seed {seed} {kind}")) else {
            return;
        };
        let mut blocks = Vec::new();
        for how in [&["--full"][..], &["--full", "--mmap"]] {
            let mount = rig.up(&db.fs, transport);
            blocks.push(mount.verify(&[&db.manifest], how));
            mount.stop();
        }
        assert_eq!(blocks[0], blocks[1], "both ways compare the same blocks");
    }
}

on_each_transport!(
    plain_blocks,
    blocks_in_chunks,
    both_formats,
    wide_blocks,
    narrow_blocks,
    python2_protocol1,
    python2_protocol2,
    python2_protocol3,
    python3_protocol1,
    python3_protocol2,
    trees,
    without_index,
);

fn plain_blocks(t: Transport) {
    holds(
        "--fmt ZBlk0 --blksize 64k --blocks 24 --txns 12 --undo .1",
        t,
    );
}

fn blocks_in_chunks(t: Transport) {
    holds(
        "--fmt ZBlk1 --blksize 64k --blocks 24 --txns 12 --undo .1",
        t,
    );
}

fn both_formats(t: Transport) {
    holds(
        "--fmt mixed --blksize 32k --blocks 32 --txns 14 --undo .1 --delete-file",
        t,
    );
}

fn wide_blocks(t: Transport) {
    holds(
        "--fmt auto --blksize 2M --files 1 --blocks 4 --changes 2 --txns 4 --w-grow 0 --w-epoch 0",
        t,
    );
}

fn narrow_blocks(t: Transport) {
    holds(
        "--fmt mixed --blksize 4k --blocks 200 --txns 12 --undo .1",
        t,
    );
}

fn python2_protocol1(t: Transport) {
    holds(
        "--pickle 1 --style py2 --magic FS21 --fmt mixed --blksize 8k --blocks 40 --txns 10",
        t,
    );
}

fn python2_protocol2(t: Transport) {
    holds(
        "--pickle 2 --style py2 --magic FS21 --fmt mixed --blksize 8k --blocks 40 --txns 10 --undo .1",
        t,
    );
}

fn python2_protocol3(t: Transport) {
    holds(
        "--pickle 3 --style py2 --magic FS30 --fmt auto --blksize 16k --blocks 40 --txns 10",
        t,
    );
}

fn python3_protocol1(t: Transport) {
    holds(
        "--pickle 1 --fmt mixed --blksize 8k --blocks 40 --txns 10",
        t,
    );
}

fn python3_protocol2(t: Transport) {
    holds(
        "--pickle 2 --fmt mixed --blksize 16k --blocks 40 --txns 10 --undo .1 --delete-file",
        t,
    );
}

/// Many rebuilds of the block table, ranges deleted, files begun anew.
fn trees(t: Transport) {
    holds(
        "--fmt mixed --blksize 4k --blocks 300 --txns 16 --undo .1 --w-topology 10 --w-delrange 4 --w-epoch 1",
        t,
    );
}

/// Read by a scan, and with objects between that are no big files.
fn without_index(t: Transport) {
    holds(
        "--no-index --arrays --fmt mixed --blksize 16k --files 3 --blocks 20 --txns 8 --delete-file",
        t,
    );
}
