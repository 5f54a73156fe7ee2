//! File systems that are worth less than the one of the root, or that keep what was read: mounted for the test.

use crate::scene::{Scene, apart, digest, lack, run, walk};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::{MsFlags, mount, umount};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zring::kernel::pages;

const NONE: Option<&str> = None;

/// ext4 whose inodes have no room for nanoseconds, at `at`; false where that cannot be had.
fn small_inodes(scene: &Scene, at: &Path) -> bool {
    let image = scene.top.join("image");
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-I", "128", "-O", "^has_journal"]);
    let made = make
        .arg(&image)
        .stderr(std::process::Stdio::null())
        .status();
    let mut up = Command::new("mount");
    up.args(["-o", "loop"]).arg(&image).arg(at);
    made.is_ok_and(|s| s.success()) && up.status().is_ok_and(|s| s.success())
}

/// A write in the same second as the one before, after that was hashed: the stamps are equal, whatever the kernel can do elsewhere.
#[test]
fn a_second_write_within_a_second_is_found_out_where_that_is_all_there_is() {
    let done = apart(|| {
        for below in [false, true] {
            let scene = Scene::new("seconds");
            let at = if below {
                scene.path("disk")
            } else {
                scene.tree.clone()
            };
            std::fs::create_dir_all(&at).unwrap();
            if !small_inodes(&scene, &at) {
                return false;
            }
            let path = at.join("f");
            let mut tries = 0;
            // A machine that is busy may need another second.
            let export = loop {
                tries += 1;
                assert!(tries < 10, "no second was long enough");
                let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                while now().subsec_millis() > 100 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                std::fs::write(&path, "before").unwrap();
                let second = path.metadata().unwrap().modified().unwrap();
                let late = path.clone();
                let writer = std::thread::spawn(move || {
                    // By now it was read, and the scan waits for times that say something.
                    std::thread::sleep(Duration::from_millis(500));
                    std::fs::write(&late, "after!").unwrap();
                    late.metadata().unwrap().modified().unwrap()
                });
                let scan = scene.etag(&["scan", "-q", "--cross-device"]);
                let is_one = writer.join().unwrap() == second;
                assert_eq!(scan.code, Some(0), "{scan:?}");
                if is_one {
                    break scene.etag(&["export", "-q", "--cross-device"]).text();
                }
            };
            umount(&at).unwrap();
            assert!(export.starts_with(&digest(b"after!")), "{below}: {export}");
        }
        true
    });
    if done != Some(true) {
        lack("a loop mount of ext4 with small inodes: that seconds are told apart is not tested");
    }
}

fn cached(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    pages::cached(file.as_fd(), 0, len).unwrap()
}

fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

/// All files of the tree but those that were in memory before are out of it after a scan.
fn leaves_the_cache_alone(scene: &Scene) -> Option<()> {
    let mut all: Vec<PathBuf> = Vec::new();
    walk(&scene.tree, &mut |path| all.push(path.to_owned()));
    all.iter().for_each(|path| forget(path));
    let is_warm = |path: &Path| path.to_string_lossy().contains("warm");
    for path in all.iter().filter(|path| is_warm(path)) {
        std::fs::read(path).unwrap();
    }
    if cached(&all[0]) > 0 && !is_warm(&all[0]) {
        return None;
    }
    let warm: Vec<usize> = all
        .iter()
        .filter(|p| is_warm(p))
        .map(|p| cached(p))
        .collect();
    assert!(warm.iter().all(|n| *n > 0), "{warm:?}");
    let scan = scene.etag(&["scan", "-q", "--verify", "1"]);
    assert_eq!((scan.code, scan.lines().len()), (Some(0), 0), "{scan:?}");
    for path in &all {
        let left = cached(path);
        assert_eq!(left > 0, is_warm(path), "{path:?}: {left} pages");
    }
    let after: Vec<usize> = all
        .iter()
        .filter(|p| is_warm(p))
        .map(|p| cached(p))
        .collect();
    assert_eq!(warm, after);
    assert_eq!(scene.exported(), scene.truth());
    Some(())
}

fn fill(scene: &Scene) {
    for i in 0..300 {
        scene.write(&format!("d{}/f{i}", i % 7), &i.to_string().repeat(1000));
    }
    for (i, name) in ["large", "warm-large"].iter().enumerate() {
        scene.write(name, &i.to_string().repeat((20 << 20) + 77));
    }
    scene.write("warm-small", "some");
    let old = SystemTime::now() - Duration::from_secs(100);
    walk(&scene.tree, &mut |path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(old).unwrap();
    });
    // Only what is on the disk can be let go.
    nix::unistd::syncfs(File::open(&scene.tree).unwrap()).unwrap();
}

#[test]
fn the_page_cache_is_as_it_was() {
    let scene = Scene::new("cache");
    fill(&scene);
    if leaves_the_cache_alone(&scene).is_none() {
        lack("a temporary directory on a disk: the page cache is not looked at");
    }
}

/// An overlay has no reads past the page cache; and what is written to in it becomes another inode, of which all is found out.
#[test]
fn an_overlay_is_read_past_the_cache_and_copies_up() {
    let done = apart(|| {
        let scene = Scene::new("overlay");
        fill(&scene);
        let under = scene.top.join("under");
        std::fs::rename(&scene.tree, &under).unwrap();
        for dir in ["upper", "work", "tree"] {
            std::fs::create_dir(scene.top.join(dir)).unwrap();
        }
        let top = scene.top.display();
        let how = format!("lowerdir={top}/under,upperdir={top}/upper,workdir={top}/work");
        let kind = Some("overlay");
        mount(
            kind,
            &scene.tree,
            kind,
            MsFlags::empty(),
            Some(how.as_str()),
        )
        .ok()?;
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        let looked = leaves_the_cache_alone(&scene);
        let stat = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            let meta = scene.path(name).metadata().unwrap();
            (meta.mtime(), meta.size())
        };
        // Copied up by a write that leaves size and time as they were.
        let before = stat("warm-small");
        let file = File::options()
            .write(true)
            .open(scene.path("warm-small"))
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"else", 0).unwrap();
        let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(before.0).unwrap());
        file.set_modified(modified).unwrap();
        drop(file);
        assert_eq!(stat("warm-small"), before);
        scene
            .etag(&["check", "-q"])
            .expect(1, &["stale\twarm-small"]);
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        assert_eq!(scene.exported(), scene.truth());
        umount(&scene.tree).unwrap();
        looked
    });
    if done.flatten().is_none() {
        lack("rights for an overlay over a disk: it is not tested");
    }
}

/// Roots are told apart by the file systems they are on, too.
#[test]
fn a_catalog_of_another_file_system_is_refused() {
    let done = apart(|| {
        let scene = Scene::new("uuid");
        if !small_inodes(&scene, &scene.tree) {
            return false;
        }
        scene.write("f", "x");
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        let manifest = scene.catalog().join("MANIFEST");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let uuid = value["fs_uuid"].as_str().unwrap_or_default().to_owned();
        let other = "f".repeat(uuid.len());
        if !uuid.is_empty() {
            std::fs::write(&manifest, text.replace(&uuid, &other)).unwrap();
            for verb in ["scan", "check", "export"] {
                let ran = scene.etag(&[verb, "-q"]);
                assert_eq!(ran.code, Some(4), "{ran:?}");
                assert!(
                    ran.err.contains(&uuid) && ran.err.contains(&other),
                    "{ran:?}"
                );
            }
            scene
                .etag(&["check", "-q", "--rebind"])
                .expect(1, &["imported\tf"]);
        }
        // Kept in a way that this program does not know: left as it is.
        let strange = text.replace("\"runs\"", "\"redb\"");
        std::fs::write(&manifest, &strange).unwrap();
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(4));
        assert_eq!(std::fs::read_to_string(&manifest).unwrap(), strange);
        umount(&scene.tree).unwrap();
        !uuid.is_empty()
    });
    if done != Some(true) {
        lack("a loop mount of ext4, or its UUID: catalogs of other file systems are not tested");
    }
}

#[test]
fn attributes_that_are_refused_are_told_by_file_system() {
    let done = apart(|| {
        let scene = Scene::new("refused");
        scene.write("f", "x");
        let at = scene.path("other");
        std::fs::create_dir(&at).unwrap();
        mount(Some("ramfs"), &at, Some("ramfs"), MsFlags::empty(), NONE).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(at.join(name), name).unwrap();
        }
        let ran = scene.etag(&["scan", "--cross-device", "--xattr", "write"]);
        umount(&at).unwrap();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        // One that is refused stands for all that come after it; others may have been on their way.
        let told = (1..=3).any(|n| {
            let text = format!("{n} attributes not written on ramfs");
            ran.err.contains(&text)
        });
        assert!(told, "{ran:?}");
        assert!(
            ran.err.contains("on ramfs a store through a mapping"),
            "{ran:?}"
        );
    });
    if done.is_none() {
        lack("rights for a mount namespace: attributes that are refused are not counted");
    }
}

/// Lengths around a sector, a buffer, and what is read in pieces.
fn fill_lengths(scene: &Scene) {
    let (small, large) = (128 << 10, 8 << 20);
    for at in [0usize, 511, 4096, small, large, large + (1 << 20)] {
        for len in [at.saturating_sub(1), at, at + 1] {
            let text = len.to_string();
            let bytes = text.bytes().cycle().take(len).collect::<Vec<_>>();
            std::fs::write(scene.path(&format!("len-{len}")), bytes).unwrap();
        }
    }
}

/// How often `-v` says that something was asked.
fn counted(err: &str, what: &str) -> u64 {
    let mut lines = err.lines().map(str::split_whitespace);
    let found = lines.find_map(|mut words| (words.next() == Some(what)).then(|| words.next()));
    found.flatten().map_or(0, |number| number.parse().unwrap())
}

#[test]
fn direct_reads_pass_the_page_cache() {
    let scene = Scene::new("direct");
    fill(&scene);
    fill_lengths(&scene);
    nix::unistd::syncfs(File::open(&scene.tree).unwrap()).unwrap();
    let mut all: Vec<PathBuf> = Vec::new();
    walk(&scene.tree, &mut |path| all.push(path.to_owned()));
    let warm = scene.path("warm-large");
    let narrow = ["--mem", "1M", "--hash-threads", "4", "--verify", "1"];
    for more in [&[][..], &narrow] {
        all.iter().for_each(|path| forget(path));
        let is_disk = all.iter().all(|path| cached(path) == 0);
        std::fs::read(&warm).unwrap();
        let before = cached(&warm);
        let scan = scene.etag(&[&["scan", "-v", "--direct"], more].concat());
        assert_eq!(scan.code, Some(0), "{scan:?}");
        if !is_disk || scan.err.contains("has no direct reads") {
            lack("a temporary directory on a disk that has direct reads: they are not tried");
            return;
        }
        let reads = counted(&scan.err, "ring.read.direct");
        assert!(reads >= all.len() as u64, "{scan:?}");
        assert_eq!(reads, counted(&scan.err, "ring.read"));
        assert_eq!(cached(&warm), before);
        let cold = all.iter().filter(|path| **path != warm);
        let left: Vec<_> = cold.filter(|path| cached(path) > 0).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(scene.exported(), scene.truth());
    }
    let one = all.iter().find(|path| path.ends_with("len-4097")).unwrap();
    let file = File::options().append(true).open(one).unwrap();
    std::io::Write::write_all(&mut &file, b"more").unwrap();
    let mut get = scene.command(&["get", "--compute", "--direct"]);
    get.arg(one);
    let ran = run(get);
    let digest = digest(&std::fs::read(one).unwrap());
    assert!(
        ran.code == Some(0) && ran.text().contains(&digest),
        "{ran:?}"
    );
}

#[test]
fn where_there_are_no_direct_reads_it_is_said_once_and_read_all_the_same() {
    let done = apart(|| {
        let scene = Scene::new("indirect");
        mount(
            Some("ramfs"),
            &scene.tree,
            Some("ramfs"),
            MsFlags::empty(),
            NONE,
        )
        .unwrap();
        fill_lengths(&scene);
        let scan = scene.etag(&["scan", "-v", "--direct", "--hash-threads", "2"]);
        assert_eq!(scan.code, Some(0), "{scan:?}");
        assert_eq!(
            scan.err.matches("has no direct reads").count(),
            1,
            "{scan:?}"
        );
        assert_eq!(counted(&scan.err, "ring.read.direct"), 0);
        assert_eq!(scene.exported(), scene.truth());
        umount(&scene.tree).unwrap();
    });
    if done.is_none() {
        lack("rights for a mount namespace: a file system without direct reads is not tried");
    }
}
