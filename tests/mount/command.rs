//! The other commands, as far as they touch mounts or databases: version, demo, check, doctor, umount.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zring::zodb::Family;
use zring::zodb::write::{self, Leaf};

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

/// A file that claims blocks of 2^62 bytes is checked by what it has, and records may be as large as a mount is told they are.
#[test]
fn check_and_tree_read_what_a_mount_reads() {
    let rig = Rig::new("check deep", 120);
    let path = rig.path("Data.fs");
    let mut base = Base::create(&path);
    let [empty, plain, chunks] =
        [Leaf::Blk0, Leaf::Blk0, Leaf::Blk1].map(|leaf| base.file(1 << 62, leaf));
    base.set_bytes(plain, 0, 1, &[1; 100]);
    base.set_bytes(chunks, 0, 1, &[1; 50 * 4096]);
    let large = base.file(128 << 20, Leaf::Blk0);
    base.set_bytes(large, 0, 1, &vec![1; 70 << 20]);
    let table = base.fresh();
    let items: Vec<_> = (0..2000).map(|blk| (blk, table, Leaf::Blk0)).collect();
    base.put(table, write::small_tree(Family::Lo, &items));
    base.commit();
    let zurl = zurl(&path);
    let run = |args: &[&str]| rig.run(rig.zring().args(args), SHORT);
    let ended = run(&["check", "--deep", &zurl]);
    no_bug(&ended);
    assert!(
        !ended.is_good() && ended.out.contains("max_record"),
        "{ended}"
    );
    let ended = run(&["check", "--deep", "--max-record", "128M", &zurl]).good();
    assert!(
        ended.out.contains("4 big files, 3 blocks checked"),
        "{ended}"
    );
    assert_eq!(base.files[empty].size(), 0);
    let table = table.to_string();
    let ended = run(&["tree", "--max-record=4k", &zurl, &table]);
    no_bug(&ended);
    assert!(!ended.is_good(), "{ended}");
    run(&["tree", &zurl, &table]).good();
    let refused = run(&["check", "--max-record", "1k", &zurl]);
    assert!(
        refused.code() == Some(2) && refused.err.contains("from 4k to 1G"),
        "{refused}"
    );
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

/// What lets a client go on that a daemon stopped which ended: one that may, and one that must not.
#[test]
fn who_was_stopped_by_a_daemon_that_ends_is_not_left_so() {
    let state = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .map_or('?', |(_, rest)| rest.chars().next().unwrap_or('?'))
    };
    let rig = Rig::new("guard", 60);
    // In the daemon's place a shell, which keeps the other end of the pipe beyond its death as one does that hangs in it.
    let mut daemon = rig.command("sh");
    daemon.args(["-c", "exec 3<&0; \"$@\" <&3 & wait", "sh"]);
    daemon.arg(zring()).args(["look", "guard"]);
    daemon.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut daemon = daemon.spawn().unwrap();
    let (mut to, mut from) = (daemon.stdin.take().unwrap(), daemon.stdout.take().unwrap());
    from.read_exact(&mut [0]).unwrap();
    let mut sleepers = [(); 3].map(|()| rig.command("sleep").arg("60").spawn().unwrap());
    let pids = [0, 1, 2].map(|i: usize| sleepers[i].id());
    for pid in pids {
        writeln!(to, "+ {pid}").unwrap();
        from.read_exact(&mut [0]).unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
    }
    assert!(becomes_true(SHORT, || pids
        .iter()
        .all(|&pid| state(pid) == 'T')));
    writeln!(to, "! {}\n- {}", pids[1], pids[2]).unwrap();
    to.flush().unwrap();
    assert!(
        pids.iter().all(|&pid| state(pid) == 'T'),
        "it acts before the daemon ends"
    );
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(from.read(&mut [0]).unwrap(), 0, "it ends");
    drop(to);
    assert!(
        becomes_true(SHORT, || state(pids[0]) == 'S'),
        "it is left stopped"
    );
    assert!(becomes_true(SHORT, || state(pids[1]) == 'Z'), "it goes on");
    assert_eq!(state(pids[2]), 'T');
    for sleeper in &mut sleepers {
        let _ = sleeper.kill();
        sleeper.wait().unwrap();
    }
}
