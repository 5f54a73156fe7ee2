//! A mount that answers and is not well all the same: `.wcfs/stats` shows it, `zring status` and `zring doctor` say it, the log says why.

use std::fs;
use std::path::Path;
use std::time::Duration;

use zring::zodb::write::Leaf;

use crate::base::Base;
use crate::child::{Ended, becomes_true};
use crate::machine::Transport;
use crate::rig::{Mount, Rig, SHORT};

/// How long a tail may look wrong before it is told, and some more.
const PATIENCE: Duration = Duration::from_secs(20);

/// One file of one block, committed twice.
fn database(path: &Path) -> Base {
    let mut base = Base::create(path);
    let file = base.file(4096, Leaf::Blk0);
    base.set(file, 0, 1);
    base.commit();
    base
}

fn becomes(mount: &Mount<'_>, name: &str, value: u64) {
    let is_so = becomes_true(PATIENCE, || mount.stat(name) == value);
    assert!(is_so, "{name}: {}\n{}", mount.stat(name), mount.said());
}

/// What both commands say.
fn asked(rig: &Rig, mount: &Mount<'_>) -> (Ended, Ended) {
    let ask = |what| rig.run(rig.zring().arg(what).arg(&mount.at), SHORT);
    (ask("status"), ask("doctor"))
}

fn is_well(rig: &Rig, mount: &Mount<'_>) {
    for name in ["Failed", "Troubled", "TailFault"] {
        assert_eq!(mount.stat(name), 0, "{name}");
    }
    let (status, doctor) = asked(rig, mount);
    assert!(status.good().out.contains("ok - head"));
    assert!(!doctor.out.contains("; head: "), "{doctor}");
}

fn is_unwell(rig: &Rig, mount: &Mount<'_>, why: &str) {
    let (status, doctor) = asked(rig, mount);
    assert_eq!((status.code(), doctor.code()), (Some(4), Some(1)));
    let line = |ended: &Ended, starts: &str| {
        let says = |l: &str| l.starts_with(starts) && l.contains("head: ") && l.contains(why);
        assert!(ended.out.lines().any(says), "{ended}");
    };
    line(&status, "fail - ");
    line(&doctor, "red ");
}

#[test]
fn a_mount_whose_database_went_back_is_not_well() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("failed", 120);
    let (path, old) = (rig.path("Data.fs"), rig.path("old.fs"));
    let mut base = database(&path);
    fs::copy(&path, &old).unwrap();
    base.set(0, 0, 2);
    base.commit();
    let mount = rig.up(&path, Transport::Plain);
    is_well(&rig, &mount);
    fs::rename(&old, &path).unwrap();
    becomes(&mount, "Failed", 1);
    is_unwell(&rig, &mount, "EIO");
    mount.stop();
}

#[test]
fn a_mount_before_what_is_no_transaction_is_not_well() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("tail", 120);
    let path = rig.path("Data.fs");
    database(&path);
    let whole = fs::read(&path).unwrap();
    let mount = rig.up(&path, Transport::Plain);
    let end = whole.len() as u64;
    fs::write(&path, [&whole[..], &[0; 100]].concat()).unwrap();
    becomes(&mount, "TailFault", end);
    is_unwell(&rig, &mount, &format!("at position {end} "));
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(end).unwrap();
    becomes(&mount, "TailFault", 0);
    is_well(&rig, &mount);
    mount.stop();
}

#[test]
fn why_a_database_cannot_be_followed_is_said_to_the_last_cause() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("cause", 120);
    let (dir, away) = (rig.path("db"), rig.path("away"));
    fs::create_dir(&dir).unwrap();
    let path = dir.join("Data.fs");
    database(&path);
    let mount = rig.up(&path, Transport::Plain);
    fs::rename(&dir, &away).unwrap();
    fs::write(&dir, "no directory").unwrap();
    becomes(&mount, "Troubled", 1);
    let says = "following the file failed: Not a directory (os error 20)";
    assert!(mount.said().contains(says), "{}", mount.said());
    is_unwell(&rig, &mount, "tried again");
    fs::remove_file(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    becomes(&mount, "Troubled", 0);
    is_well(&rig, &mount);
    // Another file that is none stays one, however often it is tried.
    let (kept, text) = (rig.path("kept"), rig.path("text"));
    fs::write(&text, "no database\n".repeat(1000)).unwrap();
    fs::rename(&path, &kept).unwrap();
    fs::rename(&text, &path).unwrap();
    becomes(&mount, "Troubled", 1);
    std::thread::sleep(Duration::from_secs(3));
    assert!(
        mount.said().contains("cannot be opened: "),
        "{}",
        mount.said()
    );
    let troubled = (0..10).filter(|_| mount.stat("Troubled") == 1).count();
    assert!(troubled > 7, "{troubled} of 10");
    fs::rename(&kept, &path).unwrap();
    becomes(&mount, "Troubled", 0);
    mount.stop();
}
