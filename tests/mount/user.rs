//! An ordinary user mounts with the help of `fusermount3`, reads, and unmounts; even root stays outside.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::data::database;
use crate::machine::{Changed, DevFuseForAll, Transport, lack, on_path, root_or_lack, tool, zring};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT, no_bug, verdict, zurl};

const NOBODY: u32 = 65534;

on_each_transport!(mounts_as_nobody);

/// A command as that user, with what it needs in the rig: a clone may lie where that user cannot go.
fn as_nobody(rig: &Rig, program: &str) -> Command {
    let mut c = rig.command("setpriv");
    c.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
    c.args(["--clear-groups", program]);
    c
}

fn mounts_as_nobody(transport: Transport) {
    if !transport.is_there() || !root_or_lack("mounts of an ordinary user") {
        return;
    }
    if !on_path("fusermount3") || !on_path("setpriv") {
        lack("mounts of an ordinary user: no fusermount3 or no setpriv");
        return;
    }
    if Changed::io_uring_is_for_root() && transport != Transport::Plain {
        lack("transports uring and dev for ordinary users: kernel.io_uring_disabled is 1");
        return;
    }
    let _open = DevFuseForAll::open();
    let rig = Rig::alone("user", 120);
    let Some(kept) = database(
        &rig,
        "--seed 1 --fmt mixed --blksize 16k --blocks 20 --txns 6",
    ) else {
        return;
    };
    let db = kept.copy(&rig, "db");
    let at = rig.path("mnt");
    fs::create_dir(&at).unwrap();
    chown(&at, Some(NOBODY), Some(NOBODY)).unwrap();
    for (from, name) in [
        (zring(), "zring"),
        (tool("verify_mount.py"), "verify_mount.py"),
    ] {
        fs::copy(from, rig.path(name)).unwrap();
        fs::set_permissions(rig.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let zring = rig.path("zring").display().to_string();
    // The first Python on PATH may lie where that user cannot go.
    let pythons = ["python3", "/usr/bin/python3", "/usr/local/bin/python3"];
    let runs = |p: &&str| {
        rig.run(as_nobody(&rig, p).args(["-c", ""]), SHORT)
            .is_good()
    };
    let Some(python) = pythons.into_iter().find(runs) else {
        lack("mounts of an ordinary user: no Python that nobody may run");
        return;
    };

    let mut c = as_nobody(&rig, &zring);
    c.args([
        "mount",
        "-f",
        "-o",
        &format!("transport={}", transport.name()),
    ]);
    c.arg(zurl(&db.fs)).arg(&at);
    let mount = rig
        .mount_by(&mut c, at.clone(), &zurl(&db.fs))
        .unwrap_or_else(|e| panic!("no mount: {e}"));
    let mut c = as_nobody(&rig, python);
    c.arg(rig.path("verify_mount.py"))
        .arg(&at)
        .arg(&db.manifest)
        .arg("--full");
    verdict(&rig.run(&mut c, SHORT));
    // Nobody else enters, not even root.
    assert_eq!(mount.probe(&["stat head/at"]), ["errno EACCES"]);

    rig.run(as_nobody(&rig, &zring).arg("umount").arg(&at), SHORT)
        .good();
    assert!(rig.mount_lines(&at).is_empty(), "umount left the mount");
    let ended = mount.ended();
    no_bug(&ended);
    ended.good();
}
