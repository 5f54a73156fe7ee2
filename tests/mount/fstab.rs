//! As mount(8) and fstab use it: the binary under the name `mount.zring`, forking, with options meant for others.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::child::becomes_true;
use crate::damage::refused;
use crate::data::{Database, database};
use crate::machine::{Transport, zring};
use crate::rig::{Rig, SHORT, zurl};

fn prepared(name: &str) -> Option<(Rig, Database)> {
    if !Transport::Plain.is_there() {
        return None;
    }
    let rig = Rig::new(name, 120);
    let db = database(&rig, "--seed 1 --files 1 --blocks 4 --blksize 8k --txns 2")?;
    std::fs::create_dir(rig.path("mnt")).unwrap();
    Some((rig, db))
}

/// `mount.zring SPEC DIR`, as mount(8) calls it; options follow.
fn by_name(rig: &Rig, name: &str, db: &Database) -> Command {
    let link = rig.path(name);
    let _ = symlink(zring(), &link);
    let mut c = rig.command(link);
    c.arg(zurl(&db.fs)).arg(rig.path("mnt"));
    c
}

/// The mount is there, serves, and goes with its daemon.
fn serves_and_goes(rig: &Rig, db: &Database, at: &Path) {
    let cat = |file| {
        rig.run(rig.command("cat").arg(at.join(file)), SHORT)
            .good()
            .out
    };
    assert_eq!(cat(".wcfs/zurl"), zurl(&db.fs));
    assert_eq!(cat("head/at"), db.transactions().pop().unwrap().0);
    rig.umount(at);
    let gone = becomes_true(Duration::from_secs(10), || rig.processes().is_empty());
    assert!(gone, "the daemon stays after umount");
}

#[test]
fn options_for_others_are_ignored() {
    let Some((rig, db)) = prepared("fstab") else {
        return;
    };
    let at = rig.path("mnt");
    for opts in [
        "defaults",
        "_netdev,nofail",
        "auto,noauto,user,users,owner",
        "x-systemd.automount,x-systemd.idle-timeout=60,x-anything,comment=for people",
        "_netdev,transport=plain,nofail",
    ] {
        for name in ["mount.zring", "mount.fuse.zring"] {
            rig.run(by_name(&rig, name, &db).args(["-o", opts]), SHORT)
                .good();
            let lines = rig.mount_lines(&at);
            assert_eq!(lines.len(), 1, "{opts}");
            assert_eq!(
                (lines[0].kind.as_str(), &lines[0].source),
                ("fuse.zring", &zurl(&db.fs))
            );
            serves_and_goes(&rig, &db, &at);
        }
    }
}

/// The command that waits must not wait for ever, and no daemon may serve that nobody hears of.
#[test]
fn a_log_that_cannot_be_opened_is_said_before_the_mount() {
    let Some((rig, db)) = prepared("log") else {
        return;
    };
    let at = rig.path("mnt");
    let mount = |log: &str| {
        let log = format!("log_file={}", rig.path(log).display());
        let mut c = rig.zring();
        c.args(["mount", "-o", &log]).arg(zurl(&db.fs)).arg(&at);
        rig.run(&mut c, SHORT)
    };
    for wrong in ["missing/log", ""] {
        let ended = mount(wrong);
        assert_eq!(ended.code(), Some(1), "{ended}");
        let says = ended.err.contains("cannot be opened; name a file");
        assert!(says && ended.err.contains("os error"), "{ended}");
        refused(&ended);
        assert!(rig.mount_lines(&at).is_empty() && rig.processes().is_empty());
    }
    mount("log").good();
    serves_and_goes(&rig, &db, &at);
}

#[test]
fn flags_of_the_mount_are_applied() {
    let Some((rig, db)) = prepared("flags") else {
        return;
    };
    let at = rig.path("mnt");
    let opts = "ro,nosuid,nodev,noexec,noatime";
    rig.run(by_name(&rig, "mount.zring", &db).args(["-o", opts]), SHORT)
        .good();
    let shown = rig.mount_lines(&at).pop().unwrap().options;
    for opt in opts.split(',') {
        assert!(
            shown.split(',').any(|s| s == opt),
            "{opt} is not in {shown}"
        );
    }
    serves_and_goes(&rig, &db, &at);
    // mount(8) passes rw to its helpers whenever it was not told ro; people who ask for it are told.
    let by_hand = ["mount", "-o", "rw", &zurl(&db.fs)];
    refused(&rig.run(rig.zring().args(by_hand).arg(&at), SHORT));
}

#[test]
fn flags_of_the_helper_mean_what_mount_says() {
    let Some((rig, db)) = prepared("helper flags") else {
        return;
    };
    let at = rig.path("mnt");
    // -f: everything but the mount itself.
    rig.run(by_name(&rig, "mount.zring", &db).arg("-f"), SHORT)
        .good();
    assert!(rig.mount_lines(&at).is_empty(), "-f has mounted");
    // -s: unknown options do not matter. -n, -v: accepted.
    rig.run(
        by_name(&rig, "mount.zring", &db).args(["-snv", "-o", "nonsense"]),
        SHORT,
    )
    .good();
    serves_and_goes(&rig, &db, &at);
    refused(&rig.run(
        by_name(&rig, "mount.zring", &db).args(["-o", "nonsense"]),
        SHORT,
    ));
}

#[test]
fn mounted_twice_is_mounted_once() {
    let Some((rig, db)) = prepared("twice") else {
        return;
    };
    let at = rig.path("mnt");
    let mount = || {
        rig.run(rig.zring().arg("mount").arg(zurl(&db.fs)).arg(&at), SHORT)
            .good()
    };
    let first = mount();
    assert_eq!(first.err, "", "a good mount has nothing to say");
    let second = mount();
    assert!(
        !second.err.trim().is_empty(),
        "the second mount says that there is one: {second}"
    );
    assert_eq!(rig.mount_lines(&at).len(), 1);
    serves_and_goes(&rig, &db, &at);
}
