//! A database behind a NEO cluster, scripted: content, a live writer, storage nodes and masters that are killed under readers.
//!
//! `ZRING_LIVE_S` seconds of the live writer, quartered; `ZRING_KILLS` kills of nodes under load.

use std::time::Duration;

use crate::child::becomes_true;
use crate::data::database;
use crate::live::{Writer, followed};
use crate::machine::{Transport, number, python};
use crate::neo::Cluster;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT, verdict};

on_each_transport!(content_and_a_writer);

/// Every block of every revision; then a writer, who packs in between.
fn content_and_a_writer(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(4);
    let rig = Rig::new("neo", 120 + 4 * seconds);
    let args = "--seed 1 --fmt mixed --blksize 32k --blocks 32 --txns 14 --undo .1 --delete-file";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let db = db.copy(&rig, "db");
    let cluster = Cluster::start(&db.fs, 2, 3);
    let opts = format!("transport={}", transport.name());
    let mount = rig.mount("mnt", &cluster.zurl(), &opts);
    let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
    mount.verify(&[&db.manifest], &["--full"]);
    assert_eq!((mount.stat("Upstream"), mount.stat("connect")), (2, 1));
    let seed = number("ZRING_SEED", 1);
    // As behind a ZEO server: see there.
    let options = format!("--w-delete 0 --w-delrange 0 --interval 20 --seed {seed}");
    let writer = Writer::start(&rig, &db.fs, "live.jsonl", &options);
    let log = followed(&rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "9"]);
    mount.stop();
}

/// Nodes of all kinds are killed and started again while readers read old states: none of them sees an error or a wrong byte. What was
/// committed while nobody led is there afterwards.
#[test]
fn survives_kills_of_any_node() {
    let transport = Transport::Dev;
    if !transport.is_there() || python().is_none() {
        return;
    }
    let kills = number("ZRING_KILLS", 6);
    let rig = Rig::new("neo kills", 120 + 20 * kills);
    let args = "--seed 3 --fmt mixed --blksize 16k --blocks 40 --txns 12";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let db = db.copy(&rig, "db");
    let cluster = Cluster::start(&db.fs, 2, 2);
    let mount = rig.mount("mnt", &cluster.zurl(), "transport=dev");
    let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
    let (mut logs, mut compared) = (Vec::new(), 0);
    for n in 0..kills {
        let mut c = rig.tool("verify_mount.py");
        c.arg(&mount.at).arg(&db.manifest);
        c.args(["--full", "--only", "past"]); // head moves meanwhile
        let reader = rig.start(&mut c);
        std::thread::sleep(Duration::from_millis(100 + 70 * n));
        cluster.tells(n % 2 == 0);
        let storage = usize::try_from(n % 2).unwrap();
        let leads = cluster.primary();
        match n % 3 {
            0 => cluster.kill_storage(storage),
            1 => cluster.kill_master(leads),
            _ => {
                cluster.kill_master(leads);
                cluster.kill_master(1 - leads);
                let lost = becomes_true(SHORT, || mount.stat("Upstream") == 0);
                assert!(lost, "{}", mount.said());
            }
        }
        let options = format!("--interval 1 --count 5 --seed {n}");
        let log = format!("log{n}.jsonl");
        let writer = Writer::start(&rig, &db.fs, &log, &options);
        let last = writer.finish().pop().unwrap();
        logs.push(rig.path(&log));
        match n % 3 {
            0 => cluster.start_storage(storage),
            1 => cluster.start_master(leads),
            _ => {
                cluster.start_master(leads);
                cluster.start_master(1 - leads);
            }
        }
        let caught_up = becomes_true(SHORT, || mount.head() == last);
        assert!(caught_up, "head is {}: {}", mount.head(), mount.said());
        compared += verdict(&reader.wait(SHORT + SHORT));
        for log in &logs {
            mount.verify(&[log], &["--sample", "20"]);
        }
    }
    println!("{kills} kills, {compared} blocks compared meanwhile");
    let said = mount.stop();
    assert!(!said.contains("all cached pages of head go"), "{said}");
    assert!(!said.contains("zring: error"), "{said}");
}

/// What cannot be mounted is said, with what to do; the other commands, and the server that comes in place of another.
#[test]
fn every_command_takes_a_cluster() {
    if !Transport::Plain.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("neo commands", 120);
    let args = "--seed 3 --fmt mixed --blksize 16k --blocks 40 --txns 12";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let cluster = Cluster::start(&db.fs, 1, 2);
    let zurl = cluster.zurl();
    std::fs::create_dir(rig.path("mnt")).unwrap();
    let check = |zurl: &str| rig.run(rig.zring().args(["check", zurl]), SHORT);
    let last = db.tids().pop().unwrap();
    let said = check(&zurl).good().out;
    assert!(said.contains(&format!("last transaction {last}")), "{said}");
    for (zurl, code, says) in [
        (zurl.replace("c@", "other@"), 1, "the cluster refuses us"),
        ("neo://c@127.0.0.1:1".to_owned(), 1, "Connection refused"),
        (format!("{zurl}?odd=1"), 2, "\"odd\" is unknown for neo://"),
        ("neo://c".to_owned(), 2, "names a cluster and its masters"),
    ] {
        let ended = check(&zurl);
        assert_eq!(ended.code(), Some(code), "{zurl}: {ended}");
        assert!(ended.err.contains(says), "{zurl}: {ended}");
    }
    let (oid, tids) = (&db.oids()[0], db.tids());
    let tree = |zurl: &str| {
        let mut c = rig.zring();
        c.args(["tree", zurl, oid, "--diff", &tids[1], &last]);
        rig.run(&mut c, SHORT).good().out
    };
    assert_eq!(tree(&zurl), tree(&format!("file://{}", db.fs.display())));
    let mut c = rig.zring();
    c.args(["serve", "-logtostderr", "-o", "transport=plain", &zurl]);
    c.arg(rig.path("mnt"));
    let served = rig.mount_by(&mut c, rig.path("mnt"), &zurl).unwrap();
    served.verify(&[&db.manifest], &["--every", "3"]);
    served.stop();
}
