//! A database over another one (`demo:`): the base's content, what a writer changes over it, and where the mount stands.
//!
//! `ZRING_LIVE_S` seconds of the live writer, quartered.

use std::path::{Path, PathBuf};

use crate::data::database;
use crate::live::{Writer, followed};
use crate::machine::{Transport, number, python};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::zeo::{Kind, Server};

on_each_transport!(follows_a_writer);

/// A base in a file, and behind a server; Python writes changes to files alone.
fn follows_a_writer(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(4);
    let rig = Rig::new("layers", 120 + 4 * seconds);
    let args = "--seed 6 --fmt mixed --blksize 8k --blocks 30 --txns 10";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let base = db.copy(&rig, "base");
    let served = db.copy(&rig, "served");
    let server = Server::start(&rig, &served.fs, Kind::Tcp);
    let file = format!("file://{}", base.fs.display());
    for (n, below) in [file, server.zurl()].into_iter().enumerate() {
        let changes = rig.path(&format!("Changes{n}.fs"));
        let zurl = format!("demo:({below})/(file://{})", changes.display());
        let seed = number("ZRING_SEED", 1);
        // As behind a ZEO server: see there.
        let options = format!("--w-delete 0 --w-delrange 0 --interval 20 --seed {seed}");
        let log = format!("log{n}.jsonl");
        let writer = Writer::start(&rig, Path::new(&zurl), &log, &options);
        let opts = format!("transport={}", transport.name());
        let mount = rig.mount("mnt", &zurl, &opts);
        let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
        assert_eq!(mount.stat("Upstream"), 2);
        let log = followed(&rig, &mount, writer, seconds);
        mount.verify(&[&log], &["--every", "9"]);
        // Before the changes there is the base.
        mount.verify(&[&base.manifest], &["--full"]);
        let said = mount.stop();
        assert!(!said.contains("all cached pages of head go"), "{said}");
    }
}

/// The other commands, and the server that comes in place of another: its mountpoint is named by the address as it stands.
#[test]
fn every_command_takes_two_layers() {
    if !Transport::Plain.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("layers commands", 120);
    let args = "--seed 6 --fmt mixed --blksize 8k --blocks 30 --txns 10";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let base = db.copy(&rig, "base");
    let changes = rig.path("Changes.fs");
    let zurl = |changes: &Path| {
        let (base, changes) = (base.fs.display(), changes.display());
        format!("demo:(file://{base})/(file://{changes})")
    };
    let options = "--interval 1 --count 3 --w-epoch 0";
    let here = zurl(&changes);
    let last = Writer::start(&rig, Path::new(&here), "log.jsonl", options).finish();
    let last = last.last().unwrap();
    let check = rig.run(rig.zring().args(["check", &here]), SHORT).good();
    assert!(check.out.contains(&format!("last transaction {last}")));
    let oid = &db.oids()[0];
    let at = db.tids().pop().unwrap();
    let tree = |zurl: &str| {
        let mut c = rig.zring();
        c.args(["tree", zurl, oid, "--at", &at]);
        rig.run(&mut c, SHORT).good().out
    };
    let below = format!("file://{}", base.fs.display());
    assert_eq!(tree(&here), tree(&below), "as of the base");
    let nowhere = zurl(&PathBuf::from("/nowhere/Data.fs"));
    let refused = rig.run(rig.zring().args(["check", &nowhere]), SHORT);
    assert!(refused.code() == Some(1) && refused.err.contains("/nowhere/Data.fs"));
    let mut c = rig.zring();
    std::fs::create_dir(rig.path("mnt")).unwrap();
    c.args(["serve", "-logtostderr", "-o", "transport=plain", &here]);
    c.arg(rig.path("mnt"));
    let served = rig.mount_by(&mut c, rig.path("mnt"), &here).unwrap();
    assert_eq!(served.head(), *last);
    served.verify(&[&rig.path("log.jsonl")], &[]);
    served.stop();
}
