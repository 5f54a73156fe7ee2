//! Kernels where an administrator has forbidden io_uring, to everybody or to FUSE: a forced transport is refused in a
//! sentence, `auto` finds another way.

use std::path::Path;

use crate::damage::refused;
use crate::data::database;
use crate::machine::{Changed, Transport};
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
