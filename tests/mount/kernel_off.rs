//! Kernels where an administrator has forbidden io_uring, to everybody or to FUSE: a forced transport is refused in a
//! sentence, `auto` finds another way.

use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use zring::zodb::write::Leaf;

use crate::commit::Scene;
use crate::damage::refused;
use crate::data::database;
use crate::live::{Writer, followed};
use crate::machine::{Changed, Transport, python};
use crate::rig::{Rig, zurl};

const DATA: &str = "--seed 1 --fmt mixed --blksize 16k --blocks 20 --txns 6";

/// A transport that must not come up.
fn not_there(rig: &Rig, db: &Path, transport: &str) {
    let opts = format!("transport={transport}");
    match rig.mount("mnt", &zurl(db), &opts) {
        Ok(_) => panic!("{transport} has come up"),
        Err(ended) => println!("{transport}: {}", refused(&ended)),
    }
    assert!(rig.mount_lines(&rig.path("mnt")).is_empty());
}

#[test]
fn io_uring_is_forbidden() {
    if !Transport::Plain.is_there() {
        return;
    }
    let Some(_changed) = Changed::no_io_uring() else {
        return;
    };
    let rig = Rig::alone("no io_uring", 120);
    let Some(db) = database(&rig, DATA) else {
        return;
    };
    for transport in ["plain", "auto"] {
        let mount = rig.mount("mnt", &zurl(&db.fs), &format!("transport={transport}"));
        let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
        for how in [&["--full"][..], &["--mmap"]] {
            mount.verify(&[&db.manifest], how);
        }
        let said = mount.stop();
        if transport == "auto" {
            assert!(said.contains("plain"), "falls back and says so: {said:?}");
        }
    }
    not_there(&rig, &db.fs, "uring");
    not_there(&rig, &db.fs, "dev");
}

/// Readers that wait for the disk, and a writer: what else would go by a ring.
#[test]
fn without_io_uring_a_writer_is_followed() {
    if !Transport::Plain.is_there() || python().is_none() {
        return;
    }
    let Some(_changed) = Changed::no_io_uring() else {
        return;
    };
    let rig = Rig::alone("live, no io_uring", 240);
    let db = rig.path("Live.fs");
    let options = "--create --interval 20 --blksize 4k --blocks 60 --seed 1";
    let writer = Writer::start(&rig, &db, "log.jsonl", options);
    let mount = rig.up(&db, Transport::Plain);
    let log = followed(&rig, &mount, writer, 4);
    mount.verify(&[&log], &["--every", "25"]);
    mount.stop();

    const BLOCKS: u64 = 64;
    let mut scene = Scene::new(&rig, Transport::Plain, |base| {
        let file = base.file(64 << 10, Leaf::Blk0);
        (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
    });
    // Neither of the mount nor of the database is anything cached.
    let file = std::fs::File::open(rig.path("Data.fs")).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let path = scene.base.files[0].head();
    let before = scene.inside.stat("load_place");
    println!(
        "cold: {}",
        scene.inside.ask(&format!("cold {path} 1000 {BLOCKS}"))
    );
    assert!(scene.inside.stat("load_place") > before);
    println!("{} reads waited", scene.inside.stat("load_wait"));
    scene.cache_all(0);
    for (stamp, changed) in [(2, &[3, 17, 63][..]), (3, &[0])] {
        for &blk in changed {
            scene.base.set(0, blk, stamp);
        }
        scene.commit();
        scene.only_dropped(0, changed);
        scene.cache_all(0);
    }
    scene.stop();
}

#[test]
fn fuse_rings_are_off() {
    if !Transport::Dev.is_there() {
        return;
    }
    let Some(_changed) = Changed::no_fuse_rings() else {
        return;
    };
    let rig = Rig::alone("no rings", 120);
    let Some(db) = database(&rig, DATA) else {
        return;
    };
    not_there(&rig, &db.fs, "uring");
    let mount = rig.mount("mnt", &zurl(&db.fs), "transport=auto");
    let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
    mount.verify(&[&db.manifest], &["--full"]);
    mount.stop();
}
