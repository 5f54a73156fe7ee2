//! What clients of the server that is replaced rely on; tests carry the numbers of the list they follow.
//!
//! Here, as `e<number>_*`: 1 the process, 2 the command line (and `cli::goflag`, `cli::serve`), 3 the mount entry, 4 when the zurl is there, 5 the
//! end by an unmount, 6 what errors of the zurl mean, 7 `head/at`, 16 `.wcfs`, 17 the end with the database, 20 one server for each
//! mountpoint. What is shown elsewhere, by its number there:
//!
//! | | | |
//! |---|---|---|
//! | 8 | attributes of big files, cache kept over opens | `mount`: `tree::attributes`, `tree::writing_is_not_there`, `commit::opening_again_keeps_pages`, `commit::a_file_grows` |
//! | 9 | `@<tid>` for every tid, names that are refused | `mount`: `content::*`, `rev::*`, `tree::names_and_errors`; `defect::d07_*` here |
//! | 10 | the channel | `mount`: `watch::e10_*` |
//! | 11 | grammar, numbers, texts | `mount`: `watch::e11_*`; `transcripts`: `session`, `errors`, `broken` |
//! | 12 | pins, their revisions, what waits for them | `mount`: `watch::e12_*`; `transcripts`: `one_at_a_time`, `publishing` |
//! | 13 | what is served while a pin is under way | `mount`: `fault::d03_l07_e13_*` |
//! | 14 | who is killed, and when | `mount`: `fault::e14_*`, `watch::e14_*`; `transcripts`: `failing`, `bye` |
//! | 15 | blocks come whole, go one by one, and are cached where a pin leads | `mount`: `warm::*`, `commit::moved_not_lost`, `commit::a_file_grows`, `commit::partly_cached` |
//! | 18 | pickles, formats, trees | `mount`: `content::*`, `topology::*`; `zodb::tests` |
//! | 19 | INIT, POLL, OPEN | `kernel::mount`: `e19_*`; `mount`: `watch::e10_a_link_is_read_written_and_closed` |

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zring::base::Oid;

use crate::child::becomes_true;
use crate::machine::{Transport, lack, on_path, root_or_lack};
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, no_bug};
use crate::scene::{Scene, end, is_there, names};

on_each_transport!(
    e01_it_is_known_by_its_process,
    e04_the_zurl_is_there_when_all_is,
    e05_an_unmount_ends_it,
);

/// As a client finds the server of a mount: owner of the control file, name, program, a descriptor of `/dev/fuse`, last two
/// arguments.
fn found(scene: &Scene<'_>) -> Vec<i32> {
    let line = scene.rig.mount_lines(&scene.at).pop().unwrap();
    let control = format!("/sys/fs/fuse/connections/{}/abort", line.minor);
    let uid = fs::symlink_metadata(control).unwrap().uid();
    let is_it = |pid: &i32| {
        let proc = Path::new("/proc").join(pid.to_string());
        let comm = fs::read_to_string(proc.join("comm")).unwrap_or_default();
        let exe = fs::read_link(proc.join("exe")).unwrap_or_default();
        let words = fs::read_to_string(proc.join("cmdline")).unwrap_or_default();
        let words: Vec<&str> = words.trim_end_matches('\0').split('\0').collect();
        let fds = fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let has_fuse = fds
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| link == Path::new("/dev/fuse"));
        fs::metadata(&proc).is_ok_and(|m| m.uid() == uid)
            && comm == "wcfs\n"
            && exe == scene.wcfs
            && has_fuse
            && words.ends_with(&[&line.source, scene.mountpoint()])
    };
    names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(is_it)
        .collect()
}

fn e01_it_is_known_by_its_process(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("e01", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    // One process, the one that was started: it has not gone to the background.
    assert_eq!(found(&scene), [mount.pid().as_raw()]);
    mount.stop();
}

#[test]
fn e02_the_command_line_is_that_of_the_server_it_replaces() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e02", 60);
    let scene = Scene::new(&rig);
    for words in [
        &[][..],
        &["a"],
        &["a", "b", "c"],
        &["-debug"],
        &["-nope", "a", "b"],
    ] {
        let ended = rig.run(rig.command(&scene.wcfs).args(words), SHORT);
        assert_eq!(ended.code(), Some(2), "{ended}");
        assert!(
            ended.err.contains("Usage") && ended.err.contains("-pintimeout"),
            "{ended}"
        );
    }
    for word in ["-h", "--help", "-help"] {
        let ended = rig.run(rig.command(&scene.wcfs).arg(word), SHORT).good();
        assert!(ended.err.contains("-autoexit"), "{ended}");
    }
    let mount = scene.up(&[
        "-debug",
        "-autoexit",
        "-alsologtostderr=false",
        "--v=1",
        "-v",
        "2",
        "-trace.fuse",
        "-pintimeout",
        "30s",
        "-pintimeout=3.5s",
    ]);
    assert_eq!(mount.cat(".wcfs/pintimeout"), "3.5");
    let traced = |said: &str| said.contains(" LOOKUP .wcfs") && said.contains(" -> ");
    assert!(
        becomes_true(SHORT, || traced(&mount.said())),
        "{}",
        mount.said()
    );
    mount.stop();
}

#[test]
fn e03_the_mount_entry_shows_type_and_address_as_given() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e03", 60);
    for name in ["Data.fs", "a b,c\\d#e\t.fs"] {
        let scene = Scene::named(&rig, name);
        let mount = scene.up(&[]);
        let lines = rig.mount_lines(&scene.at);
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].kind.as_str(), &lines[0].source),
            ("fuse.wcfs", &scene.zurl)
        );
        assert_eq!(mount.cat(".wcfs/zurl"), scene.zurl);
        mount.stop();
    }
}

fn e04_the_zurl_is_there_when_all_is(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("e04", 60);
    let scene = Scene::new(&rig);
    let oid = scene.base.files[0].oid;
    // Who waits for the file goes on at once with everything else.
    let waiting = scene.start_shell(&format!(
        "until cat $M/.wcfs/zurl 2>/dev/null; do :; done; echo; cat $M/head/at && echo && cat $M/.wcfs/stats \
         && cmp -n 8192 $M/head/bigfile/{oid} $M/head/bigfile/{oid} && stat -c '%s %o %a' $M/head/bigfile/{oid}"
    ));
    let mount = scene.up_by(transport);
    let ended = waiting.wait(SHORT).good();
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines[0], scene.zurl);
    assert_eq!(lines[1], scene.base.last().to_string());
    assert_eq!(lines.last(), Some(&"32768 8192 444"));
    mount.stop();
}

fn e05_an_unmount_ends_it(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("e05", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    assert_eq!(
        held_by(&scene, &mount),
        Vec::<String>::new(),
        "it holds its own mount"
    );
    let began = Instant::now();
    unmount(&scene);
    let ended = mount.ended();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        began.elapsed()
    );
    no_bug(&ended);
    let ended = ended.good();
    let quoted = format!("{:?} {:?}", scene.mountpoint(), scene.zurl);
    for word in ["start", "stop"] {
        assert!(
            ended.err.contains(&format!("] {word} {quoted}\n")),
            "{ended}"
        );
    }
    assert!(ended.err.contains("(built with "), "{ended}");
    fs::remove_dir(&scene.at).unwrap();

    // It dies with its connection too.
    fs::create_dir(&scene.at).unwrap();
    let mount = scene.up_by(transport);
    mount.abort();
    unmount(&scene);
}

/// As clients do it.
fn unmount(scene: &Scene<'_>) {
    if on_path("fusermount") {
        let mut c = scene.rig.command("fusermount");
        scene.rig.run(c.arg("-u").arg(&scene.at), SHORT).good();
    } else {
        lack("unmounting as clients do: no fusermount");
        scene.rig.umount(&scene.at);
    }
}

/// What of the server's descriptors and directories lies in its own mount.
fn held_by(scene: &Scene<'_>, mount: &Mount<'_>) -> Vec<String> {
    let proc = Path::new("/proc").join(mount.pid().to_string());
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = all
        .lines()
        .find(|l| l.contains(scene.mountpoint()))
        .unwrap();
    let id = format!("mnt_id:\t{}\n", line.split(' ').next().unwrap());
    let infos = fs::read_dir(proc.join("fdinfo")).unwrap().flatten();
    infos
        .filter(|info| fs::read_to_string(info.path()).is_ok_and(|text| text.contains(&id)))
        .map(|info| format!("{:?}", info.file_name()))
        .collect()
}

#[test]
fn e06_what_the_zurl_answers_tells_absent_from_crashed() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e06", 60);
    let scene = Scene::new(&rig);
    let is_absent = || {
        let ended = scene.shell("cat $M/.wcfs/zurl");
        let text = "No such file or directory";
        assert!(!ended.is_good() && ended.err.contains(text), "{ended}");
    };
    is_absent();
    let mount = scene.up(&[]);
    let client = scene.client("exec 3<$M/.wcfs/zurl");
    mount.kill();
    scene.is_dead();
    end(client);
    // Another server takes the place of the dead one by itself, and after a client has removed it.
    scene.up(&[]).kill();
    unmount(&scene);
    is_absent();
    scene.up(&[]).stop();
}

#[test]
fn e07_head_at_is_sixteen_digits_with_any_buffer() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e07", 60);
    let mut scene = Scene::new(&rig);
    let mount = scene.up(&["-debug"]);
    for _ in 0..3 {
        let tid = scene.base.commit().to_string();
        assert!(becomes_true(SHORT, || mount.head() == tid));
        for size in [1, 3, 15, 16, 17, 4096] {
            let out = scene
                .shell(&format!("dd if=$M/head/at bs={size} 2>/dev/null"))
                .good()
                .out;
            assert_eq!(out, tid, "bs={size}");
        }
    }
    mount.stop();
}

#[test]
fn e16_stats_have_their_names_and_zhead_its_lines() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e16", 60);
    let mut scene = Scene::new(&rig);
    let mount = scene.up(&["-debug"]);
    let first = mount.cat(".wcfs/stats");
    let wanted = [
        "BigFile",
        "RevHead",
        "ZHeadLink",
        "WatchLink",
        "Watch",
        "PinnedBlk",
        "pin",
        "pinkill",
    ];
    let values = |text: &str| -> Vec<(String, i64)> {
        let split = |line: &str| {
            assert_eq!(line.matches(':').count(), 1, "{line}");
            let (name, value) = line.split_once("\t: ").unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        text.lines().map(split).collect()
    };
    for (name, (got, value)) in wanted.iter().zip(values(&first)) {
        assert_eq!((*name, 0), (got.as_str(), value), "at the start");
    }
    let oid = scene.base.files[0].oid;
    let watcher = scene.start_shell("echo in; exec cat $M/.wcfs/debug/zhead");
    // A shell reads it byte by byte.
    let slow = scene
        .start_shell("exec <$M/.wcfs/debug/zhead; read line; echo $line; read line; echo $line");
    assert!(becomes_true(SHORT, || mount.stat("ZHeadLink") == 2));
    let written = scene.shell("/bin/echo x >$M/.wcfs/debug/zhead");
    assert!(
        written.err.contains("Connection reset by peer"),
        "{written}"
    );
    scene
        .shell(&format!("cat $M/head/bigfile/{oid} >/dev/null"))
        .good();
    let tids: Vec<String> = (0..3).map(|_| scene.base.commit().to_string()).collect();
    assert!(becomes_true(SHORT, || watcher.out_so_far().lines().count() == 4));
    assert_eq!(watcher.out_so_far(), format!("in\n{}\n", tids.join("\n")));
    let slow = slow.wait(SHORT).good();
    assert_eq!(slow.out, format!("{}\n{}\n", tids[0], tids[1]));
    assert_eq!(mount.head(), tids[2]);
    let later = values(&mount.cat(".wcfs/stats"));
    for ((a, before), (b, after)) in values(&first).into_iter().zip(later) {
        assert_eq!(a, b, "names are the same each time");
        assert!(a.starts_with(char::is_uppercase) || after >= before, "{a}");
    }
    assert_eq!(mount.stat("BigFile"), 1);
    end(watcher);
    assert!(becomes_true(SHORT, || mount.stat("ZHeadLink") == 0));
    mount.stop();

    let plain = scene.up(&[]);
    let ended = scene.shell("ls $M/.wcfs; stat $M/.wcfs/debug");
    assert!(
        !ended.is_good() && ended.out == "pintimeout\nstats\nzurl\n",
        "{ended}"
    );
    plain.stop();
}

#[test]
fn the_log_says_what_operators_look_for() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("words", 60);
    let mut scene = Scene::new(&rig);
    // A block that is longer than its file has it.
    scene.base.set_bytes(0, 2, 2, &[7; 9000]);
    let tid = scene.base.commit();
    let mount = scene.up(&[]);
    let oid = scene.base.files[0].oid;
    let other = Oid(oid.0 + 1); // its table
    let ended = scene.shell(&format!(
        "ls $M/@zz; ls $M/head/bigfile/'no oid'; ls $M/@{tid}/bigfile/x; ls $M/head/bigfile/{other}
        dd bs=8k skip=2 count=1 if=$M/head/bigfile/{oid}; dd bs=8k skip=2 count=1 if=$M/@{tid}/bigfile/{oid}"
    ));
    let refused = |text| ended.err.matches(text).count();
    assert_eq!(
        (refused("Invalid argument"), refused("Input/output error")),
        (4, 2),
        "{ended}"
    );
    let said = mount.stop();
    for (level, text) in [
        ("W", "/: lookup \"@zz\": not @rev\n".to_owned()),
        (
            "W",
            "/head/bigfile: lookup \"no oid\": not oid\n".to_owned(),
        ),
        ("W", format!("/@{tid}/bigfile: lookup \"x\": not oid\n")),
        ("W", format!("/head/bigfile: lookup \"{other}\": ")),
        ("E", format!("/head/bigfile/{oid}: readblk #2: ")),
        ("E", format!("/@{tid}/bigfile/{oid}: readblk #2: ")),
    ] {
        let line = said
            .lines()
            .find(|line| format!("{line}\n").contains(&format!("] {text}")));
        assert!(
            line.is_some_and(|line| line.starts_with(level)),
            "{text}: {said}"
        );
    }
    assert!(said.contains(" is not a ZBigFile\n"), "{said}");
}

/// It ends with the two lines that others look for, and who uses the mount learns that nobody is there.
fn gives_up(scene: &Scene<'_>, mount: Mount<'_>) {
    let ended = mount.ended();
    no_bug(&ended);
    assert_eq!(ended.code(), Some(2), "{ended}");
    for text in [
        &format!("] zwatch {}: ", scene.zurl),
        "] zwatcher failed\n",
        "] switching filesystem to EIO mode\n",
    ] {
        assert!(ended.err.contains(text), "{ended}");
    }
    assert!(!ended.err.contains("] stop "), "{ended}");
    scene.is_dead();
    unmount(scene);
}

#[test]
fn e17_a_big_file_that_is_another_one_ends_it() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e17", 60);
    let mut scene = Scene::new(&rig);
    let mount = scene.up(&[]);
    let oid = scene.base.files[0].oid;
    scene
        .shell(&format!("cat $M/head/bigfile/{oid} >/dev/null"))
        .good();
    scene.change_epoch();
    gives_up(&scene, mount);
}

#[test]
fn e17_a_database_that_goes_back_ends_it() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e17b", 60);
    let mut scene = Scene::new(&rig);
    let path = rig.path("Data.fs");
    let before = fs::metadata(&path).unwrap().len();
    scene.base.set(0, 1, 2);
    scene.base.commit();
    let mount = scene.up(&[]);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(before)
        .unwrap();
    gives_up(&scene, mount);
}

#[test]
fn e20_one_server_per_mountpoint_and_nothing_left_behind() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("e20", 60);
    let scene = Scene::new(&rig);
    let before = names(&rig.path("package"));
    let mount = scene.up(&[]);
    let again = scene.refused(&[]);
    assert!(again.err.contains("a server is running on"), "{again}");
    let other = rig.path("other");
    fs::create_dir(&other).unwrap();
    let mut c = rig.command(&scene.wcfs);
    c.args(["-logtostderr", &scene.zurl]).arg(&other);
    let second = rig
        .mount_by(&mut c, other.clone(), &scene.zurl)
        .unwrap_or_else(|e| panic!("no mount: {e}"));
    assert_eq!(second.head(), mount.head());
    second.stop();
    mount.stop();
    assert_eq!(names(&rig.path("package")), before);
    assert!(names(&other).is_empty() && names(&scene.at).is_empty());
    let files: Vec<String> = names(&rig.path("."));
    let ours = |n: &String| {
        n.starts_with("run") || ["Data.fs", "mnt", "other", "package"].contains(&n.as_str())
    };
    assert!(files.iter().all(ours), "{files:?}");
}

#[test]
fn signals_do_what_they_do_to_the_server_it_replaces() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("signals", 60);
    let scene = Scene::new(&rig);
    let dead = || {
        scene.is_dead();
        unmount(&scene);
    };
    let mount = scene.up(&[]);
    nix::sys::signal::kill(mount.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(mount.ended().signal(), Some(15));
    dead();
    let mount = scene.up(&[]);
    nix::sys::signal::kill(mount.pid(), Signal::SIGQUIT).unwrap();
    let ended = mount.ended();
    assert_eq!(ended.code(), Some(2), "{ended}");
    let told = ["SIGQUIT", "zring-w0", "zring-control", "BigFile\t: 0"];
    assert!(told.iter().all(|text| ended.err.contains(text)), "{ended}");
    dead();
}

/// The place is everybody's: what others put there is not trusted.
#[test]
fn a_derived_mountpoint_is_made_and_looked_at() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("place", 60);
    let scene = Scene::new(&rig);
    let said = scene.zring(&["status", &scene.zurl]).out;
    let at = Path::new(said.rsplit_once(" on ").unwrap().1.trim()).to_owned();
    let root = at.parent().unwrap();
    assert_eq!(root, Path::new("/dev/shm/wcfs"));
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o1777);
    assert!(at.is_dir(), "status makes it");
    let refused = |what: &str| {
        let mut c = rig.zring();
        let ended = rig.run(c.args(["serve", "-logtostderr", &scene.zurl]), SHORT);
        assert_eq!(ended.code(), Some(2), "{what}: {ended}");
        assert!(ended.err.contains(what), "{what}: {ended}");
    };
    fs::remove_dir(&at).unwrap();
    std::os::unix::fs::symlink(&scene.at, &at).unwrap();
    refused("cannot be used");
    fs::remove_file(&at).unwrap();
    fs::write(&at, "").unwrap();
    refused("cannot be used");
    fs::remove_file(&at).unwrap();
    if root_or_lack("a mountpoint of another user") {
        fs::create_dir(&at).unwrap();
        std::os::unix::fs::chown(&at, Some(65534), None).unwrap();
        refused("belongs to user 65534");
        fs::remove_dir(&at).unwrap();
    }
    assert_eq!(scene.zring(&["stop", &scene.zurl]).code(), Some(3));
    assert!(!at.exists(), "stop removes it");
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("fails", 60);
    let mut scene = Scene::new(&rig);
    let good = scene.zurl.clone();
    for (zurl, text) in [
        ("file:///nowhere/Data.fs", "nowhere"),
        ("/plain/path", "is not a database address"),
        ("neo://name@localhost:1", "cannot connect"),
        ("zeo://localhost:1", "cannot connect"),
    ] {
        zurl.clone_into(&mut scene.zurl);
        let ended = scene.refused(&[]);
        assert!(ended.err.contains(text), "{ended}");
        let last = ended.err.lines().last().unwrap();
        assert!(last.starts_with('F') && last.contains("] "), "{ended}");
        assert!(scene.is_clean());
    }
    scene.zurl = good;
    scene.at = rig.path("nowhere");
    let ended = scene.refused(&[]);
    assert!(ended.err.contains("nowhere cannot be used"), "{ended}");
}

#[test]
fn lines_go_to_files_unless_told_otherwise() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("logs", 60);
    let scene = Scene::new(&rig);
    let dir = rig.path("logs");
    fs::create_dir(&dir).unwrap();
    let mut c = scene.command(&["-logtostderr=false", "-log_dir", dir.to_str().unwrap()]);
    let mount = rig
        .mount_by(&mut c, scene.at.clone(), &scene.zurl)
        .unwrap_or_else(|e| panic!("no mount: {e}"));
    let said = mount.stop();
    assert_eq!(said, "", "only errors go to stderr");
    let text = fs::read_to_string(dir.join("wcfs.INFO")).unwrap();
    assert!(
        text.contains("] start ") && text.contains("] stop "),
        "{text}"
    );
    let files = names(&dir);
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(
        files[1].starts_with("wcfs.") && files[1].contains(".log.INFO."),
        "{files:?}"
    );
}
