//! The other commands, as far as they touch mounts or databases: version, demo, check, doctor, umount.

use std::time::Duration;

use zring::zodb::write::Leaf;

use crate::base::Base;
use crate::child::{Ended, becomes_true};
use crate::damage::refused;
use crate::data::database;
use crate::machine::{Transport, zring};
use crate::rig::{Rig, SHORT, no_bug, zurl};

#[test]
fn version_says_one_thing_to_people_and_one_to_programs() {
    let rig = Rig::new("version", 60);
    let text = rig.run(rig.zring().arg("version"), SHORT).good().out;
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    let json = rig
        .run(rig.zring().args(["version", "--json"]), SHORT)
        .good()
        .out;
    let object = json.trim();
    assert!(object.starts_with('{') && object.ends_with('}'), "{json}");
    let object: serde_json::Value = serde_json::from_str(object).unwrap();
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        object.get("commit").is_some(),
        "null where the build was not told"
    );
    let list = |name: &str| object[name].as_array().unwrap().clone();
    for storage in ["file", "zeo", "zeos", "postgres", "sqlite"] {
        assert!(list("storages").contains(&storage.into()), "{json}");
        assert!(text.contains(storage), "{text}");
    }
    assert!(list("features").contains(&"tls".into()), "{json}");
    for name in ["io_uring", "fuse_uring"] {
        assert!(object[name].is_boolean(), "{json}");
    }
}

#[test]
fn doctor_is_red_and_yellow_where_it_should_be() {
    let rig = Rig::new("limits", 60);
    let doctor = |limit: &str| {
        let mut c = rig.command("sh");
        c.args([
            "-c",
            &format!("ulimit -n {limit}; exec \"$0\" doctor"),
            zring().to_str().unwrap(),
        ]);
        rig.run(&mut c, SHORT)
    };
    let line = |ended: &Ended| {
        ended
            .out
            .lines()
            .find(|l| l.contains("open files"))
            .unwrap()
            .to_owned()
    };
    let tight = doctor("60");
    assert_eq!(tight.code(), Some(1), "{tight}");
    assert!(
        line(&tight).starts_with("red     open files: 60"),
        "{tight}"
    );
    let usual = doctor("1024");
    assert!(
        line(&usual).starts_with("yellow  open files: 1024"),
        "{usual}"
    );
    assert!(usual.out.contains("a mount takes transport "), "{usual}");
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert!(
        cpus < 2 || usual.out.contains("on another CPU is woken"),
        "{usual}"
    );
    // Something that is no mount of ours.
    let ended = rig.run(rig.zring().args(["doctor", "/proc"]), SHORT);
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(
        ended
            .out
            .contains("red     nothing of zring is mounted on /proc"),
        "{ended}"
    );
}

/// What a mount found out when it began.
#[test]
fn doctor_says_how_a_mount_serves() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("serves", 60);
    let mut base = Base::create(&rig.path("Data.fs"));
    let file = base.file(4096, Leaf::Blk0);
    base.set(file, 0, 1);
    base.commit();
    let mount = rig.up(&rig.path("Data.fs"), Transport::Plain);
    let doctor = || rig.run(rig.zring().arg("doctor").arg(&mount.at), SHORT).out;
    let out = doctor();
    assert!(
        out.contains(", transport plain; nothing was read yet"),
        "{out}"
    );
    mount.probe(&[&format!("read {} 0 4096", base.files[0].head())]);
    let out = doctor();
    assert!(
        out.contains("; old pages are") || out.contains("; this kernel gives"),
        "{out}"
    );
    mount.stop();
}

#[test]
fn usage_errors_have_their_own_status() {
    let rig = Rig::new("usage", 60);
    for args in [
        &["nonsense"][..],
        &["mount"],
        &["umount"],
        &["check"],
        &["version", "--nonsense"],
    ] {
        let ended = rig.run(rig.zring().args(args), SHORT);
        assert_eq!(ended.code(), Some(2), "{ended}");
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{ended}");
        no_bug(&ended);
    }
}

/// Needs no Python: it brings its own database.
#[test]
fn the_demo_runs_and_leaves_nothing() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("demo", 120);
    let dir = rig.path("demo");
    let ended = rig.run(rig.zring().arg("demo").arg(&dir), Duration::from_secs(60));
    no_bug(&ended);
    let ended = ended.good();
    assert!(
        ended.out.lines().count() >= 3,
        "it tells what it does: {ended}"
    );
    let gone = becomes_true(Duration::from_secs(5), || rig.processes().is_empty());
    assert!(gone, "the demo's daemon is still there");
}

#[test]
fn check_reads_a_database_through() {
    let rig = Rig::new("check", 60);
    let Some(kept) = database(&rig, "--seed 1 --blocks 8 --blksize 8k --txns 4") else {
        return;
    };
    let check = |db: &std::path::Path| rig.run(rig.zring().arg("check").arg(zurl(db)), SHORT);
    check(&kept.fs).good();
    refused(&check(&rig.path("nowhere.fs")));
    let text = rig.path("text.fs");
    std::fs::write(&text, "no database\n".repeat(1000)).unwrap();
    refused(&check(&text));
    // A record in the middle whose length lies.
    let db = kept.copy(&rig, "db");
    let whole = db.transactions();
    let (start, end) = (whole[whole.len() / 2 - 1].1, whole[whole.len() / 2].1);
    let mut bytes = std::fs::read(&db.fs).unwrap();
    let middle = usize::try_from(start).unwrap() + 8;
    bytes[middle] ^= 0x40;
    assert!(start < end && middle < bytes.len());
    std::fs::write(&db.fs, bytes).unwrap();
    let ended = check(&db.fs);
    no_bug(&ended);
    assert!(!ended.is_good(), "a lying length goes unnoticed: {ended}");
}

#[test]
fn doctor_looks_at_a_mount() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("doctor", 60);
    let Some(db) = database(&rig, "--seed 1 --blocks 8 --blksize 8k --txns 4") else {
        return;
    };
    no_bug(&rig.run(rig.zring().arg("doctor"), SHORT));
    let mount = rig.up(&db.fs, Transport::Plain);
    let ended = rig.run(rig.zring().arg("doctor").arg(&mount.at), SHORT);
    no_bug(&ended);
    // 4: something is not as it should be on this machine, which is not this test's affair.
    assert!(matches!(ended.code(), Some(0 | 4)), "{ended}");
    assert!(ended.out.lines().count() >= 3, "{ended}");
    mount.stop();
}

#[test]
fn umount_of_what_is_not_mounted() {
    let rig = Rig::new("umount", 60);
    let at = rig.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let ended = rig.run(rig.zring().arg("umount").arg(&at), SHORT);
    assert_eq!(ended.code(), Some(3), "{ended}");
    refused(&ended);
}
