//! What cannot be mounted is refused: an exit status, one sentence on stderr that says what to do, nothing left behind.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::damage::refused;
use crate::data::database;
use crate::machine::{Transport, lack, on_path, root_or_lack, zring};
use crate::rig::{Rig, SHORT, zurl};

const SMALL: &str = "--seed 1 --files 1 --blocks 4 --blksize 8k --txns 2";

/// Runs `zring mount <args>` in both forms, forking and in front; both must refuse. Returns the sentence.
fn refuses(rig: &Rig, args: &[&str]) -> String {
    let mut said = Vec::new();
    for form in [&[][..], &["-f"]] {
        let mut c = rig.zring();
        c.arg("mount").args(form).args(args);
        said.push(refused(&rig.run(&mut c, SHORT)));
        assert!(
            rig.mount_lines(&rig.path("mnt")).is_empty(),
            "{args:?} left a mount"
        );
    }
    println!("{args:?}: {}", said[0]);
    said.pop().unwrap()
}

/// The usual mountpoint and a good database, or None when there is none.
fn prepared(name: &str) -> Option<(Rig, String, String)> {
    if !Transport::Plain.is_there() {
        return None;
    }
    let rig = Rig::new(name, 120);
    let db = database(&rig, SMALL)?;
    let mnt = rig.path("mnt");
    fs::create_dir(&mnt).unwrap();
    Some((rig, zurl(&db.fs), mnt.display().to_string()))
}

#[test]
fn what_is_no_database() {
    let Some((rig, _, mnt)) = prepared("no database") else {
        return;
    };
    let missing = rig.path("nowhere.fs");
    let said = refuses(&rig, &[&zurl(&missing), &mnt]);
    assert!(
        said.contains("nowhere.fs"),
        "the sentence names the file: {said}"
    );

    let text = rig.path("text.fs");
    fs::write(
        &text,
        "All work and no play makes a dull database.\n".repeat(100),
    )
    .unwrap();
    let said = refuses(&rig, &[&zurl(&text), &mnt]);
    assert!(
        said.contains("text.fs"),
        "the sentence names the file: {said}"
    );

    let short = rig.path("short.fs");
    fs::write(&short, "no").unwrap();
    refuses(&rig, &[&zurl(&short), &mnt]);
    refuses(&rig, &[&zurl(&rig.path("")), &mnt]);
    for zurl in ["nosuch://x", "file://", "", "relative.fs", "zeo://"] {
        refuses(&rig, &[zurl, &mnt]);
    }
}

#[test]
fn where_nothing_can_be_mounted() {
    let Some((rig, zurl, _)) = prepared("no mountpoint") else {
        return;
    };
    let missing = rig.path("nowhere");
    let said = refuses(&rig, &[&zurl, &missing.display().to_string()]);
    assert!(
        said.contains("nowhere"),
        "the sentence names the directory: {said}"
    );
    let file = rig.path("file");
    fs::write(&file, "").unwrap();
    let said = refuses(&rig, &[&zurl, &file.display().to_string()]);
    assert!(said.contains("file"), "the sentence names the file: {said}");
}

#[test]
fn a_mountpoint_that_another_database_has() {
    let Some((rig, first, _)) = prepared("busy") else {
        return;
    };
    let other = database(&rig, &format!("{SMALL} --time-step 2")).unwrap();
    let mount = rig.mount("busy", &first, "transport=plain").unwrap();
    let mut c = rig.zring();
    c.arg("mount").arg(zurl(&other.fs)).arg(&mount.at);
    let said = refused(&rig.run(&mut c, SHORT));
    println!("{said}");
    assert_eq!(rig.mount_lines(&mount.at).len(), 1);
    // The one that was there goes on.
    assert_eq!(mount.cat(".wcfs/zurl"), first);
    mount.stop();
}

#[test]
fn options_that_mean_nothing() {
    let Some((rig, zurl, mnt)) = prepared("options") else {
        return;
    };
    for opts in [
        "nonsense",
        "nonsense=1",
        "transport=pigeon",
        "transport=",
        "pintimeout=soon",
        "rw",
        "ro,rw",
    ] {
        refuses(&rig, &["-o", opts, &zurl, &mnt]);
    }
    for args in [
        &["--nonsense", &zurl, &mnt][..],
        &["-o"],
        &[&zurl],
        &[],
        &[&zurl, &mnt, "more"],
    ] {
        refuses(&rig, args);
    }
}

/// Runs a shell line as an ordinary user, with the binary where that user can reach it.
fn as_nobody(rig: &Rig) -> Command {
    let mine = rig.path("zring");
    fs::copy(zring(), &mine).unwrap();
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o755)).unwrap();
    let mut c = rig.command("setpriv");
    c.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    c.arg(mine);
    c
}

#[test]
fn a_database_that_may_not_be_read() {
    if !root_or_lack("a database of another user") {
        return;
    }
    let Some((rig, _, mnt)) = prepared("permission") else {
        return;
    };
    let db = database(&rig, SMALL).unwrap().copy(&rig, "db");
    fs::set_permissions(&db.fs, fs::Permissions::from_mode(0o600)).unwrap();
    let mut c = as_nobody(&rig);
    c.args(["mount", &zurl(&db.fs), &mnt]);
    let said = refused(&rig.run(&mut c, SHORT));
    assert!(
        said.contains("Data.fs"),
        "the sentence names the file: {said}"
    );
    println!("{said}");
}

#[test]
fn a_machine_without_dev_fuse() {
    if !root_or_lack("a machine without /dev/fuse") {
        return;
    }
    if !on_path("unshare") {
        lack("a machine without /dev/fuse: no unshare");
        return;
    }
    let Some((rig, zurl, mnt)) = prepared("no device") else {
        return;
    };
    // A /dev of its own, with nothing but null in it.
    let line = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec \"$@\"";
    let mut c = rig.command("unshare");
    c.args(["-m", "sh", "-c", line, "sh"]);
    let words: [OsString; 4] = [zring().into(), "mount".into(), zurl.into(), mnt.into()];
    let said = refused(&rig.run(c.args(words), SHORT));
    assert!(
        said.contains("/dev/fuse"),
        "the sentence names the device: {said}"
    );
    assert!(Path::new("/dev/fuse").exists());
    println!("{said}");
}
