//! What a mount refuses before it is made, what ends it before it is there, and an end that nobody can help.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use zring::zodb::write::Leaf;

use crate::base::Base;
use crate::child::{Ended, becomes_true};
use crate::damage::refused;
use crate::machine::{Transport, lack, on_path, root_or_lack, zring};
use crate::rig::{Rig, SHORT, no_bug, zurl};

fn database(path: &Path) {
    let mut base = Base::create(path);
    let file = base.file(4096, Leaf::Blk0);
    base.set(file, 0, 1);
    base.commit();
}

/// Somebody waits for what a daemon takes memory for (kernel-note 0025).
#[test]
fn a_daemon_takes_no_huge_pages() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("small", 60);
    database(&rig.path("Data.fs"));
    let mount = rig.up(&rig.path("Data.fs"), Transport::Plain);
    let status = std::fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let taken = status.lines().find_map(|l| l.strip_prefix("THP_enabled:"));
    match taken {
        Some(taken) => assert_eq!(taken.trim(), "0"),
        None => lack("that a daemon takes no huge pages: this kernel does not tell"),
    }
    mount.stop();
}

/// A daemon that reaches its database through its own mount would wait for itself.
#[test]
fn a_mountpoint_that_covers_the_database_is_refused() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("cover", 60);
    let (at, db) = (rig.path("mnt"), rig.path("mnt/db/Data.fs"));
    std::fs::create_dir_all(db.parent().unwrap()).unwrap();
    database(&db);
    database(&rig.path("Data.fs"));
    let (inside, outside) = (zurl(&db), zurl(&rig.path("Data.fs")));
    let covered = |ended: &Ended, code| {
        let says = "would cover ";
        assert!(ended.err.contains(says), "{ended}");
        no_bug(ended);
        assert_eq!(ended.code(), Some(code), "{ended}");
        assert!(rig.mount_lines(&at).is_empty());
    };
    let demo = format!("demo:({outside})/({inside})");
    let log = format!("log_file={}", at.join("log").display());
    for (options, zurl) in [("ro", &inside), ("ro", &demo), (&log, &outside)] {
        for front in [&["mount"][..], &["mount", "-f"]] {
            let mut c = rig.zring();
            c.args(front).args(["-o", options, zurl]).arg(&at);
            let ended = rig.run(&mut c, SHORT);
            covered(&ended, 1);
            refused(&ended);
        }
    }
    let serve = |flags: &[&str], zurl: &str| {
        let mut c = rig.zring();
        c.arg("serve").args(flags).arg(zurl).arg(&at);
        rig.run(&mut c, SHORT)
    };
    covered(&serve(&["-logtostderr"], &inside), 2);
    let logs = at.display().to_string();
    covered(&serve(&["-log_dir", &logs], &outside), 2);
    // Beside it is no harm.
    let next = rig.path("mnt/db/here");
    std::fs::create_dir(&next).unwrap();
    let mount = rig.mount("mnt/db/here", &inside, "transport=plain");
    mount.unwrap_or_else(|e| panic!("no mount: {e}")).stop();
}

/// A server that takes connections and says nothing: a start that takes long, as one does that builds an index.
#[test]
fn a_start_ends_at_once_when_it_is_told_to() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("start", 60);
    let at = rig.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let zurl = format!("zeo://127.0.0.1:{}", deaf.local_addr().unwrap().port());
    let is_waiting = |pid: i32| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        let names = tasks
            .flatten()
            .flatten()
            .map(|task| task.path().join("comm"));
        let mut names = names.filter_map(|path| std::fs::read_to_string(path).ok());
        names.any(|name| name == "zring-signal\n")
    };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut c = rig.zring();
        c.args(["mount", "-f", &zurl]).arg(&at);
        let daemon = rig.start(&mut c);
        let pid = daemon.pid().as_raw();
        assert!(
            becomes_true(SHORT, || is_waiting(pid)),
            "{}",
            daemon.err_so_far()
        );
        let began = Instant::now();
        daemon.signal(signal);
        let ended = daemon.wait(SHORT);
        no_bug(&ended);
        assert_eq!(ended.code(), Some(128 + signal as i32), "{ended}");
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
    // In the background: the daemon, or the command that waits for it.
    for of_daemon in [true, false] {
        let mut c = rig.zring();
        c.args(["mount", &zurl]).arg(&at);
        let command = rig.start(&mut c);
        let daemon = || {
            let all = rig.processes().into_iter();
            all.filter(|&pid| pid != command.pid())
                .find(|pid| is_waiting(pid.as_raw()))
        };
        assert!(becomes_true(SHORT, || daemon().is_some()));
        let who = if of_daemon {
            daemon().unwrap()
        } else {
            command.pid()
        };
        kill(who, Signal::SIGTERM).unwrap();
        let ended = command.wait(Duration::from_secs(5));
        match of_daemon {
            true => assert_eq!(ended.code(), Some(143), "{ended}"),
            false => assert_eq!(ended.signal(), Some(15), "{ended}"),
        }
        let is_over = becomes_true(Duration::from_secs(2), || rig.processes().is_empty());
        assert!(is_over, "the daemon goes on: {ended}");
    }
    assert!(rig.mount_lines(&at).is_empty());
}

/// Where there is no control file to abort the connection by, a client that keeps the mount busy does not keep the daemon.
#[test]
fn a_busy_mount_without_a_control_file_ends() {
    if !Transport::Plain.is_there() || !root_or_lack("a mount without a control file") {
        return;
    }
    if !on_path("unshare") {
        return lack("a mount without a control file: no unshare");
    }
    const SCRIPT: &str = "
        mount -t tmpfs none /sys/fs/fuse/connections || exit 99
        \"$ZRING\" mount -f -o transport=plain \"$ZURL\" mnt & daemon=$!
        until test -s mnt/head/at; do kill -0 $daemon || exit 98; sleep 0.1; done
        exec 3<mnt/head/at
        kill -TERM $daemon
        wait $daemon";
    let rig = Rig::new("no abort", 90);
    std::fs::create_dir(rig.path("mnt")).unwrap();
    let path = rig.path("Data.fs");
    database(&path);
    let mut c = rig.command("unshare");
    c.args(["-m", "sh", "-c", SCRIPT]);
    c.env("ZRING", zring()).env("ZURL", zurl(&path));
    let began = Instant::now();
    let ended = rig.run(&mut c, SHORT);
    no_bug(&ended);
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(ended.err.contains("cannot be aborted"), "{ended}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}"); // 10 s from the signal on
}

/// The readahead of a mount is the kernel's own, or as it was told; not that of a server in another one's place.
#[test]
fn readahead_is_as_it_was_told() {
    if !Transport::Plain.is_there() || !root_or_lack("readahead of a mount") {
        return;
    }
    let rig = Rig::new("readahead", 60);
    let path = rig.path("Data.fs");
    database(&path);
    for (option, want) in [
        ("", "128"),
        (",read_ahead=256k", "256"),
        (",read_ahead=2M", "2048"),
    ] {
        let options = format!("transport=plain{option}");
        let mount = rig.mount("mnt", &zurl(&path), &options);
        let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
        let minor = rig.mount_lines(&mount.at)[0].minor;
        let shown = std::fs::read_to_string(format!("/sys/class/bdi/0:{minor}/read_ahead_kb"));
        let Ok(shown) = shown else {
            return lack("readahead of a mount: no /sys/class/bdi");
        };
        assert_eq!(shown.trim(), want, "{options}");
        let said = mount.stop();
        assert!(!said.contains("readahead"), "{said}");
    }
    let mut c = rig.zring();
    c.args(["serve", "-logtostderr", "-o", "read_ahead=1M"]);
    let ended = rig.run(c.arg(zurl(&path)).arg(rig.path("mnt")), SHORT);
    no_bug(&ended);
    let says = ended.err.contains("read_ahead is for `zring mount`");
    assert!(says && ended.code() == Some(2), "{ended}");
}
