//! `@<tid>` directories: how they come, how a lookup beyond head waits, what they share with head, and how they go when
//! nobody needs them.

use std::time::Duration;

use nix::sys::signal::Signal;
use zring::base::limit;
use zring::zodb::write::Leaf;

use crate::child::becomes_true;
use crate::commit::Scene;
use crate::data::{database, values};
use crate::machine::{Transport, lack, python, root_or_lack};
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, zurl};
use crate::tree::{MANY, field};
use crate::visitor::Visitor;

on_each_transport!(
    one_name_one_node,
    beyond_head_waits,
    l01_goes_when_unused,
    l01_only_so_many_stay_when_nobody_uses_them,
    loads_nothing_that_head_has_or_had,
    below_many_revisions,
);

fn one_name_one_node(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("names", 120);
    let Some(db) = database(&rig, MANY) else {
        return;
    };
    let mount = rig.up(&db.fs, transport);
    let letter = |t: &&String| t.bytes().any(|c| c.is_ascii_lowercase());
    let (oids, tids) = (db.oids(), db.tids());
    let oid = oids.iter().find(letter).expect("an oid with a letter");
    let tid = tids.iter().rfind(letter).expect("a tid with a letter");
    // Eight threads at once, each time on a name that nobody asked for yet. Another test may have the kernel forget all names just then.
    let mut several = Vec::new();
    for tid in tids.iter().rev().take(4) {
        for path in [format!("@{tid}"), format!("@{tid}/bigfile/{}", oids[0])] {
            let seen = mount.probe(&[&format!("race {path} 8")]).remove(0);
            if seen.split(' ').count() != 2 {
                several.push(format!("{path}: {seen}"));
            }
        }
    }
    assert!(several.len() < 2, "one inode for {several:?}");
    for (lower, upper) in [
        (
            format!("head/bigfile/{oid}"),
            format!("head/bigfile/{}", oid.to_uppercase()),
        ),
        (
            format!("@{tid}/bigfile/{oid}"),
            format!("@{}/bigfile/{oid}", tid.to_uppercase()),
        ),
    ] {
        let got = mount.probe(&[&format!("stat {lower}"), &format!("stat {upper}")]);
        assert_eq!(
            field(&got[0], "ino"),
            field(&got[1], "ino"),
            "{lower}: {got:?}"
        );
        let size = field(&got[0], "size");
        let sums = mount.probe(&[
            &format!("sum {lower} 0 {size}"),
            &format!("sum {upper} 0 {size}"),
        ]);
        assert_eq!(sums[0], sums[1]);
    }
    mount.stop();
}

fn beyond_head_waits(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("beyond", 120);
    let db = rig.path("Data.fs");
    let commit = |options: &str| {
        let mut c = rig.tool("make_zodb.py");
        c.arg("live").arg("--target").arg(&db).arg("--log");
        c.arg(rig.path("log.jsonl")).args(options.split(' '));
        rig.run(&mut c, SHORT).good();
    };
    commit("--create --count 2 --interval 1 --blocks 4 --blksize 8k");
    let mount = rig.up(&db, transport);
    let next = u64::from_str_radix(&mount.head(), 16).unwrap() + 1;
    let look = || {
        let mut child = rig.start(
            rig.command("stat")
                .arg(mount.path(&format!("@{next:016x}"))),
        );
        let early = becomes_true(Duration::from_millis(700), || !child.is_running());
        assert!(!early, "did not wait for {next:016x}");
        // Nobody else waits meanwhile.
        mount.head();
        child
    };

    let waiting = look();
    waiting.signal(Signal::SIGTERM);
    let ended = waiting.wait(Duration::from_secs(5));
    assert_eq!(ended.signal(), Some(15), "interrupted: {ended}");

    let waiting = [look(), look()];
    commit("--count 1 --blocks 4 --blksize 8k");
    for w in waiting {
        w.wait(Duration::from_secs(10)).good();
    }

    // The end of the server is the end of the wait.
    let far = rig.start(rig.command("stat").arg(mount.path("@7fffffffffffffff")));
    std::thread::sleep(Duration::from_millis(300));
    mount.stop();
    let ended = far.wait(Duration::from_secs(5));
    assert!(ended.code().is_some_and(|c| c != 0), "{ended}");
}

/// Reads one place again and again past the page cache; ends by itself, with a traceback, when the bytes change.
const HOLD: &str = "
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
first = os.pread(fd, 4096, 0)
print('open', len(first), flush=True)
while True:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 4096, 0) == first
    time.sleep(0.02)
";

fn l01_goes_when_unused(transport: Transport) {
    if !transport.is_there() || !root_or_lack("that unused @rev directories are dropped") {
        return;
    }
    // Dropping caches hits the other tests' mounts too.
    let rig = Rig::sole("lifetime", 120);
    let Some(db) = database(&rig, MANY) else {
        return;
    };
    let mount = rig.up(&db.fs, transport);
    let (oids, tids) = (db.oids(), db.tids());
    let file = |tid: &String| format!("@{tid}/bigfile/{}", oids[0]);
    let views: Vec<&String> = tids.iter().rev().take(5).collect();
    for t in &views {
        let got = mount.probe(&[&format!("stat {}", file(t))]).remove(0);
        assert!(got.starts_with("ok"), "{got}");
    }
    assert_eq!(mount.stat("RevHead"), 5);
    // Memory pressure, as far as directory entries and inodes go.
    let squeeze = |left: u64| {
        becomes_true(Duration::from_secs(20), || {
            std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            std::thread::sleep(Duration::from_millis(200));
            mount.stat("RevHead") == left
        })
    };
    let mut c = rig.command("python3");
    c.args(["-c", HOLD]).arg(mount.path(&file(views[2])));
    let mut holder = rig.start(&mut c);
    let begun = becomes_true(SHORT, || {
        !holder.out_so_far().is_empty() || !holder.is_running()
    });
    assert!(begun && holder.is_running(), "{}", holder.err_so_far());
    assert!(
        squeeze(1),
        "RevHead is {} with one file open",
        mount.stat("RevHead")
    );
    for _ in 0..3 {
        squeeze(1);
        assert!(holder.is_running(), "{}", holder.err_so_far());
    }
    holder.signal(Signal::SIGTERM);
    let ended = holder.wait(SHORT);
    assert_eq!(ended.signal(), Some(15), "{ended}");
    assert!(
        squeeze(0),
        "RevHead is {} with nothing open",
        mount.stat("RevHead")
    );
    // And they come back.
    mount.verify(&[&db.manifest], &[]);
    mount.stop();
}

fn l01_only_so_many_stay_when_nobody_uses_them(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    // Who drops what the machine caches takes revisions, too.
    let rig = Rig::sole("idle", 90);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(4096, Leaf::Blk0);
        base.set(file, 0, 1);
    });
    let mut tids = vec![scene.start];
    for n in 2..=400 {
        scene.base.set(0, 0, n);
        tids.push(scene.base.commit());
    }
    scene.inside.await_head(scene.base.last());
    let path = |n: usize| scene.base.files[0].at(tids[n]);
    let paths: Vec<String> = (0..tids.len()).map(path).collect();
    let inside = &mut scene.inside;
    let read = |inside: &mut Visitor, n: usize| {
        let found = inside.ask(&format!("stamps {} 0 4096", paths[n]));
        assert_eq!(found, format!("{}x1", n + 1));
    };
    // The first three are open all the time, and mapped, so that the machine does not page them out by itself.
    for (n, path) in paths.iter().enumerate().take(3) {
        inside.ask(&format!("hold {path}"));
        read(inside, n);
        assert_eq!(inside.ask(&format!("cached {path}")), "1x1");
    }
    (3..tids.len()).for_each(|n| read(inside, n));
    let few = (limit::REVISIONS_MAX + limit::REVISIONS_PRUNED) as u64;
    if !becomes_true(Duration::from_secs(10), || inside.stat("RevHead") <= few) {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let numbers: Vec<u32> = release
            .split(['.', '-'])
            .map_while(|part| part.parse().ok())
            .collect();
        assert!(
            numbers < vec![6, 18],
            "there are {}",
            inside.stat("RevHead")
        );
        lack("revisions that are let go of: the kernel cannot be asked to (Linux 6.18)");
        scene.stop();
        return;
    }
    let left = inside.stat("RevHead");
    println!("of {} revisions {left} are left", tids.len());
    // Not all in vain. How many more the machine forgets by itself, or a slow one is asked to before it tells of the last, is its own.
    assert!(left > few / 4, "{left}");
    // What is open is what it was, without another look-up: names come back under new nodes.
    for n in 0..3 {
        read(inside, n);
    }
    let kept = inside.ask(&format!("cached {}", paths[0]));
    assert_eq!(kept, "1x1", "pages of what is open stay");
    for n in [3, 4, 100, 399] {
        read(inside, n);
    }
    assert!(inside.stat("RevHead") <= few);
    scene.stop();
}

/// Records that `work` had loaded or looked up.
fn loads_of(mount: &Mount<'_>, work: impl FnOnce()) -> u64 {
    let loads = || mount.stat("load") + mount.stat("load_place");
    let before = loads();
    work();
    loads() - before
}

/// A file read whole past the page cache: its sum, and what had to be loaded.
fn read_of(mount: &Mount<'_>, file: &str, size: u64) -> (String, u64) {
    let mut sum = String::new();
    let read = || sum = mount.probe(&[&format!("direct {file} 0 {size}")]).remove(0);
    let loads = loads_of(mount, read);
    assert!(sum.starts_with("ok"), "{file}: {sum}");
    (sum, loads)
}

fn loads_nothing_that_head_has_or_had(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    for kind in ["ZBlk0", "ZBlk1"] {
        shares(transport, kind);
    }
}

fn shares(transport: Transport, kind: &str) {
    let rig = Rig::new("shares", 120);
    let (db, log) = (rig.path("Data.fs"), rig.path("log.jsonl"));
    let only_changes =
        "--w-fill 0 --w-grow 0 --w-delete 0 --w-delrange 0 --w-topology 0 --w-epoch 0";
    let commit = |options: &str| {
        let mut c = rig.tool("make_zodb.py");
        c.arg("live")
            .arg("--target")
            .arg(&db)
            .arg("--log")
            .arg(&log);
        c.args("--count 1 --files 1 --blocks 150 --blksize 16k --holes 0 --changes 1".split(' '));
        c.args(["--fmt", kind]).args(only_changes.split(' '));
        rig.run(c.args(options.split_whitespace()), SHORT).good();
    };
    commit("--create");
    // Each worker has a cache of its own: here there is one.
    let (mut up, at) = (rig.command("taskset"), rig.path("mnt"));
    std::fs::create_dir(&at).unwrap();
    let cpus = std::fs::read_to_string("/proc/self/status").unwrap();
    let cpus = cpus
        .split_once("Cpus_allowed_list:")
        .unwrap()
        .1
        .trim_start();
    let first: String = cpus.chars().take_while(char::is_ascii_digit).collect();
    up.args(["-c", &first]).arg(rig.zring().get_program());
    let opts = format!("transport={}", transport.name());
    up.args(["mount", "-f", "-o", &opts, &zurl(&db)]).arg(&at);
    let mount = rig
        .mount_by(&mut up, at, &zurl(&db))
        .unwrap_or_else(|e| panic!("{e}"));

    let oid = values(&std::fs::read_to_string(&log).unwrap(), "oid").remove(0);
    let file = |view: &str| format!("{view}/bigfile/{oid}");
    let size = field(
        &mount.probe(&[&format!("stat {}", file("head"))])[0],
        "size",
    );
    let (old, cold) = read_of(&mount, &file("head"), size);
    // The data of chunks is not kept: that is left to the page cache, which is passed by here.
    let (again, data) = read_of(&mount, &file("head"), size);
    assert_eq!(again, old);
    assert!(
        data < cold && (data == 0) == (kind == "ZBlk0"),
        "{data} of {cold}"
    );

    let before = mount.head();
    commit("");
    assert!(becomes_true(SHORT, || mount.head() != before), "no commit");
    let (seen, past) = read_of(&mount, &file(&format!("@{before}")), size);
    assert_eq!(seen, old);
    let (new, changed) = read_of(&mount, &file("head"), size);
    assert_ne!(new, old);
    let (again, data_now) = read_of(&mount, &file("head"), size);
    assert_eq!(again, new);
    let (seen, present) = read_of(&mount, &file(&format!("@{}", mount.head())), size);
    assert_eq!(seen, new);
    println!(
        "{kind}: {cold} loads at first, {data} of them data; @before {past}, head then {changed}, @head {present}"
    );
    assert_eq!(past, data, "head had it");
    assert_eq!(present, data_now, "head has it");
    // One block changed: its record, or its table of chunks with the nodes of that.
    assert!(
        changed > data_now && changed <= data_now + 4,
        "{changed} loads for one block"
    );
    mount.stop();
}

/// A block that was written very often: each of its revisions is found, and others have their turn while one is looked for.
fn below_many_revisions(transport: Transport) {
    const REVISIONS: u32 = 3000;
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("often", 120);
    let mut tids = Vec::new();
    let mut scene = Scene::new(&rig, transport, |base| {
        for leaf in [Leaf::Blk0, Leaf::Blk1] {
            base.file(4096, leaf);
        }
        for stamp in 1..=REVISIONS {
            (0..2).for_each(|file| base.set(file, 0, stamp));
            tids.push(base.commit());
        }
    });
    let workers = std::thread::available_parallelism().unwrap().get() as u64;
    for file in 0..2 {
        let before = scene.inside.stat("load_wait");
        for n in (0..tids.len()).step_by(97) {
            let path = scene.base.files[file].at(tids[n]);
            let found = scene.inside.pages(&format!("stamps {path} 0 4096"));
            assert_eq!(found, [u32::try_from(n).unwrap() + 1], "{path}");
        }
        // The first walk of a worker is long, and gives way a few times; those after it begin at its marks.
        let waited = scene.inside.stat("load_wait") - before;
        // (Without marks it would be some 80; the page cache may let go of some of it.)
        assert!((1..=20 * workers).contains(&waited), "{waited}");
    }
    scene.stop();
}
