//! What can be wrong with a tree, one test each.

use crate::scene::{Scene, apart, digest, is_root, lack, run};
use nix::mount::{MsFlags, mount};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Sets `user.drpetag` of a file to these bytes.
fn set_attr(path: &Path, value: &[u8]) -> std::io::Result<()> {
    use std::os::fd::AsFd;
    let dir = std::fs::File::open(path.parent().unwrap())?;
    let name = std::ffi::CString::new(path.file_name().unwrap().as_bytes())?;
    zring::kernel::stat::setxattr_at(dir.as_fd(), &name, c"user.drpetag", value)
}

fn attr(path: &Path) -> Option<Vec<u8>> {
    use std::os::fd::AsFd;
    let dir = std::fs::File::open(path.parent().unwrap()).unwrap();
    let name = std::ffi::CString::new(path.file_name().unwrap().as_bytes()).unwrap();
    let mut value = [0; 256];
    let len =
        zring::kernel::stat::getxattr_at(dir.as_fd(), &name, c"user.drpetag", &mut value).ok()?;
    Some(value[..len].to_vec())
}

#[test]
fn a_root_that_is_none_touches_nothing() {
    let scene = Scene::new("root");
    let file = scene.write("f", "x");
    symlink(scene.path("loop2"), scene.path("loop1")).unwrap();
    symlink(scene.path("loop1"), scene.path("loop2")).unwrap();
    for root in [scene.path("missing"), file.clone(), scene.path("loop1")] {
        for verb in ["scan", "check", "export"] {
            let mut command = scene.command(&[verb]);
            command.arg(&root);
            let ran = run(command);
            assert_eq!(ran.code, Some(2), "{verb} {root:?}: {ran:?}");
            assert!(ran.err.starts_with("zring: "), "{ran:?}");
        }
    }
    assert!(!scene.state.exists());
    // A file is fine for `get`, and a root may be a link.
    let mut command = scene.command(&["get", "--compute"]);
    command.arg(&file);
    let ran = run(command);
    assert_eq!(
        ran.text(),
        format!("\"SHA256:{}\"\t{}\n", digest(b"x"), file.display())
    );
    symlink(&scene.tree, scene.top.join("link")).unwrap();
    let mut command = scene.command(&["scan", "-q"]);
    command.arg(scene.top.join("link"));
    assert_eq!(run(command).code, Some(0));
    scene.etag(&["check", "-q"]).expect(0, &[]);
}

#[test]
fn a_closed_directory_keeps_its_records() {
    if !is_root() {
        return lack("root: closed directories are not tested");
    }
    let scene = Scene::new("closed");
    scene.write("d/sub/f", "x");
    scene.write("e", "x");
    assert_eq!(scene.etag_as_nobody(&["scan", "-q"]).code, Some(0));
    mode(&scene.path("d"), 0o700);
    scene
        .etag_as_nobody(&["check", "-q"])
        .expect(3, &["unreadable\td"]);
    scene
        .etag_as_nobody(&["scan", "-q"])
        .expect(3, &["unreadable\td"]);
    mode(&scene.path("d"), 0o755);
    scene.etag_as_nobody(&["check", "-q"]).expect(0, &[]);
    // A root that cannot be listed.
    mode(&scene.tree, 0o711);
    let ran = scene.etag_as_nobody(&["check", "-q"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    mode(&scene.tree, 0o755);
}

#[test]
fn a_file_that_cannot_be_opened_is_known_by_its_witness() {
    if !is_root() {
        return lack("root: files that cannot be opened are not tested");
    }
    let scene = Scene::new("sealed");
    scene.write("f", "x");
    assert_eq!(
        scene
            .etag_as_nobody(&["scan", "-q", "--trust", "mtime"])
            .code,
        Some(0)
    );
    mode(&scene.path("f"), 0);
    scene
        .etag_as_nobody(&["check", "-q", "--trust", "mtime"])
        .expect(0, &[]);
    scene
        .etag_as_nobody(&["check", "-q"])
        .expect(1, &["stale\tf"]);
    scene
        .etag_as_nobody(&["scan", "-q"])
        .expect(3, &["unreadable\tf"]);
    let json = scene.etag_as_nobody(&["scan", "--format", "json"]);
    assert!(json.text().contains("\"errno\":13}"), "{json:?}");
}

#[test]
fn what_is_no_regular_file_is_neither_read_nor_waited_for() {
    let scene = Scene::new("kinds");
    scene.write("f", "x");
    symlink("f", scene.path("link")).unwrap();
    symlink("/", scene.path("up")).unwrap();
    nix::unistd::mkfifo(&scene.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("socket")).unwrap();
    scene.etag(&["scan", "-q", "--all"]).expect(
        0,
        &[
            "fresh\tf",
            "skipped\tfifo",
            "skipped\tlink",
            "skipped\tsocket",
            "skipped\tup",
        ],
    );
    // A file becomes something else.
    std::fs::remove_file(scene.path("f")).unwrap();
    nix::unistd::mkfifo(&scene.path("f"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    scene.etag(&["check", "-q"]).expect(1, &["gone\tf"]);
    scene.etag(&["scan", "-q"]).expect(0, &["gone\tf"]);
    let mut get = scene.command(&["get", "--compute"]);
    get.arg(scene.path("fifo"));
    assert_eq!(run(get).code, Some(3));
}

#[test]
fn names_are_bytes_from_end_to_end() {
    let scene = Scene::new("names");
    let long = "n".repeat(255);
    let names: [&[u8]; 7] = [
        b"new\nline",
        b"back\\slash",
        b"cr\rx",
        b"\xff\xfe",
        b" lead",
        long.as_bytes(),
        b"tab\tx",
    ];
    for name in names {
        std::fs::write(scene.tree.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    assert_eq!(scene.exported(), scene.truth());
    let export = scene.etag(&["export", "-q"]);
    let list = scene.top.join("sums");
    std::fs::write(&list, &export.out).unwrap();
    let sums = Command::new("sha256sum")
        .args(["-c", "--quiet"])
        .arg(&list)
        .current_dir(&scene.tree)
        .output()
        .unwrap();
    assert!(sums.status.success() && sums.stdout.is_empty(), "{sums:?}");
    // And the other way round.
    let names: Vec<_> = names
        .iter()
        .map(|n| std::ffi::OsStr::from_bytes(n))
        .collect();
    let made = Command::new("sha256sum")
        .arg("--")
        .args(names)
        .current_dir(&scene.tree)
        .output()
        .unwrap();
    std::fs::write(&list, made.stdout).unwrap();
    let list = list.to_str().unwrap();
    scene
        .etag(&["check", "-q", "--against", list])
        .expect(0, &[]);
    let json = scene.etag(&["check", "--format", "json", "--all"]).text();
    assert!(
        json.contains("\"path\":\"\u{fffd}\u{fffd}\",\"path_b64\":\"//4=\""),
        "{json}"
    );
}

/// Makes so many directories of this name, each in the one before; the last of them.
fn down(top: &Path, name: &str, levels: usize) -> std::fs::File {
    let mut at = std::fs::File::open(top).unwrap();
    for _ in 0..levels {
        nix::sys::stat::mkdirat(&at, name, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_RDONLY;
        at = nix::fcntl::openat(&at, name, flags, nix::sys::stat::Mode::empty())
            .unwrap()
            .into();
    }
    at
}

#[test]
fn depth_beyond_a_path_and_beyond_descriptors() {
    let scene = Scene::new("deep");
    // 300 levels of 100 bytes: seven times what one path may hold.
    let name = "d".repeat(100);
    let at = down(&scene.tree, &name, 300);
    let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_WRONLY;
    let file = nix::fcntl::openat(&at, "f", flags, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::io::Write::write_all(&mut std::fs::File::from(file), b"deep").unwrap();
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let exported = scene.exported();
    assert_eq!(exported.len(), 1);
    let (path, hash) = exported.iter().next().unwrap();
    assert_eq!(
        (path.len(), hash.as_str()),
        (300 * 101 + 1, digest(b"deep").as_str())
    );
    scene.etag(&["check", "-q"]).expect(0, &[]);
    // Few descriptors are enough, deep or wide.
    for i in 0..400 {
        scene.write(&format!("wide{i}/f"), &i.to_string());
    }
    for how in [["scan", "-q"], ["scan", "--trust=mtime"], ["check", "-q"]] {
        let mut command = Command::new("sh");
        let inner = scene.command(&how);
        command
            .arg("-c")
            .arg("ulimit -n 200; exec \"$@\"")
            .arg("sh")
            .arg(inner.get_program())
            .args(inner.get_args())
            .arg(&scene.tree);
        run(command).expect(0, &[]);
        if how == ["scan", "-q"] {
            // All anew, and not in chains, the next time.
            std::fs::remove_dir_all(&scene.state).unwrap();
        }
    }
    // The standard library removes by paths it cannot form; rm goes step by step.
    assert!(
        Command::new("rm")
            .arg("-rf")
            .arg(&scene.top)
            .status()
            .unwrap()
            .success()
    );
}

/// Directories may be deeper than anybody wants to go.
#[test]
fn there_is_an_end_to_depth() {
    let scene = Scene::new("deeper");
    scene.write("f", "x");
    drop(down(&scene.tree, "d", 4100));
    let ran = scene.etag(&["scan", "--all"]);
    let (code, lines) = (ran.code, ran.lines());
    let rm = Command::new("rm").arg("-rf").arg(&scene.top).status();
    assert!(rm.unwrap().success());
    assert_eq!((code, lines.len()), (Some(0), 2), "{}", ran.err);
    assert!(lines[0] == "fresh\tf" && lines[1].starts_with("skipped\td/d/d"));
    assert!(ran.err.contains("deeper than 4096"), "{}", ran.err);
}

#[test]
fn other_file_systems_and_loops_are_left_out() {
    let done = apart(|| {
        let scene = Scene::new("mounts");
        scene.write("f", "x");
        std::fs::create_dir_all(scene.path("other")).unwrap();
        std::fs::create_dir_all(scene.path("a/again")).unwrap();
        scene.write("a/g", "y");
        let none = None::<&str>;
        mount(
            Some("tmpfs"),
            &scene.path("other"),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        std::fs::write(scene.path("other/o"), "z").unwrap();
        mount(
            Some(&scene.path("a")),
            &scene.path("a/again"),
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
        let skipped = ["skipped\ta/again", "skipped\tother"];
        let all = [&["fresh\ta/g", "fresh\tf"], skipped.as_slice()].concat();
        scene.etag(&["scan", "-q", "--all"]).expect(0, &all);
        // Other mounts are entered if wanted; a directory is never entered below itself.
        let crossed = scene.etag(&["scan", "-q", "--all", "--cross-device"]);
        crossed.expect(
            0,
            &[
                "fresh\ta/g",
                "fresh\tf",
                "fresh\tother/o",
                "skipped\ta/again",
            ],
        );
        assert!(crossed.code == Some(0));
        // Left out again, what is known of it stays.
        scene.etag(&["check", "-q"]).expect(0, &[]);
        for at in ["a/again", "other"] {
            nix::mount::umount(&scene.path(at)).unwrap();
        }
    });
    if done.is_none() {
        lack("rights for a mount namespace: other mounts and loops are not tested");
    }
}

#[test]
fn file_systems_without_attributes_and_those_that_are_read_only() {
    let done = apart(|| {
        let scene = Scene::new("bare");
        let none = None::<&str>;
        mount(
            Some("ramfs"),
            &scene.tree,
            Some("ramfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        scene.write("f", "x");
        assert!(
            set_attr(&scene.path("f"), b"x").is_err(),
            "ramfs has learnt attributes: another one is needed here"
        );
        let ran = scene.etag(&["scan", "--xattr", "write"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.err.contains("1 attributes not written"), "{ran:?}");
        let remount = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &scene.tree, none, remount, none).unwrap();
        scene.etag(&["check", "-q"]).expect(0, &[]);
        std::fs::remove_dir_all(&scene.state).unwrap();
        scene
            .etag(&["scan", "-q", "--xattr", "write"])
            .expect(0, &[]);
        nix::mount::umount(&scene.tree).unwrap();
    });
    if done.is_none() {
        lack("rights for a mount namespace: file systems without attributes are not tested");
    }
}

#[test]
fn attributes_are_taken_over_written_and_never_believed_blindly() {
    let scene = Scene::new("attr");
    let path = scene.write("f", "content");
    if set_attr(&path, b"x").is_err() {
        return lack("user attributes in the temporary directory");
    }
    // Values that mean nothing: cut short, foreign, hostile, too large.
    let large = vec![7; 300];
    for value in [b"x".as_slice(), b"", &[32; 20], &[0xff; 48], &large] {
        if set_attr(&path, value).is_ok() {
            let ran = scene.etag(&["check"]);
            ran.expect(1, &["new\tf"]);
            assert!(ran.err.contains("1 attributes ignored"), "{ran:?}");
        }
    }
    let ran = scene.etag(&["scan", "--xattr", "write"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let value = attr(&path).unwrap();
    assert_eq!((value.len(), value[0], value[33]), (48, 32, 1));
    assert_eq!(&value[46..], [0xff, 0xff]);
    assert_eq!(
        crate::scene::digest(b"content"),
        value[1..33]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    );
    // Its own write moved ctime, and is known.
    scene.etag(&["check", "-q"]).expect(0, &[]);
    // A new catalog takes it over: believed under drp alone.
    std::fs::remove_dir_all(&scene.state).unwrap();
    scene.etag(&["check", "-q"]).expect(1, &["imported\tf"]);
    scene
        .etag(&["check", "-q", "--trust", "drp"])
        .expect(0, &[]);
    scene
        .etag(&["check", "-q", "--xattr", "off"])
        .expect(1, &["new\tf"]);
    let json = scene.etag(&["check", "--format", "json"]).text();
    assert!(
        json.contains("\"etag\":null") && json.contains("\"imported\":true"),
        "{json}"
    );
    // One that lies is found out by a scan.
    let mut lie = value.clone();
    lie[5] ^= 1;
    set_attr(&path, &lie).unwrap();
    scene.etag(&["check", "-q"]).expect(1, &["imported\tf"]);
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    assert_eq!(scene.exported(), scene.truth());
}

#[test]
fn an_inode_number_used_again_is_another_file() {
    let scene = Scene::new("reuse");
    // Same size, same mtime; on most file systems soon the same number.
    let mtime = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    let make = |content: &str| {
        let path = scene.write("f", content);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(mtime)
            .unwrap();
    };
    make("one");
    for trust in ["strict", "mtime"] {
        assert_eq!(scene.etag(&["scan", "-q", "--trust", trust]).code, Some(0));
        std::fs::remove_file(scene.path("f")).unwrap();
        make(if trust == "strict" { "two" } else { "six" });
        scene
            .etag(&["check", "-q", "--trust", trust])
            .expect(1, &["stale\tf"]);
    }
}

#[test]
fn holes_are_zeros() {
    let scene = Scene::new("sparse");
    let file = std::fs::File::create(scene.path("sparse")).unwrap();
    file.set_len(50 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 20 << 20).unwrap();
    scene.write("exact", &"z".repeat(8 << 20));
    scene.write("below", &"z".repeat((8 << 20) - 1));
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    assert_eq!(scene.exported(), scene.truth());
}

#[test]
fn catalogs_of_others_are_left_alone_until_taken_over() {
    let scene = Scene::new("other");
    scene.write("f", "x");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let manifest = scene.catalog().join("MANIFEST");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let id = scene
        .catalog()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let other = "0123456789abcdef0123456789abcdef";
    std::fs::write(&manifest, text.replace(&id, other)).unwrap();
    for verb in ["scan", "check", "export"] {
        let ran = scene.etag(&[verb, "-q"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.err.contains(&id) && ran.err.contains(other), "{ran:?}");
    }
    scene
        .etag(&["check", "-q", "--rebind"])
        .expect(1, &["imported\tf"]);
    // Taken over, nothing in it was compared with the bytes, so all of it is.
    let ran = scene.etag(&["scan", "--rebind"]);
    assert!(
        ran.code == Some(0) && ran.err.contains("1 hashed"),
        "{ran:?}"
    );
    scene.etag(&["check", "-q"]).expect(0, &[]);
    // A format of the future is not touched.
    let text = std::fs::read_to_string(&manifest)
        .unwrap()
        .replace("\"format\": 1", "\"format\": 2");
    std::fs::write(&manifest, &text).unwrap();
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(4));
    assert_eq!(std::fs::read_to_string(&manifest).unwrap(), text);
    std::fs::write(&manifest, "nonsense").unwrap();
    assert_eq!(scene.etag(&["check", "-q"]).code, Some(4));
}

#[test]
fn a_full_disk_keeps_what_there_is() {
    let done = apart(|| {
        let scene = Scene::new("full");
        for i in 0..500 {
            scene.write(&format!("f{i}"), &i.to_string());
        }
        std::fs::create_dir_all(&scene.state).unwrap();
        mount(
            Some("tmpfs"),
            &scene.state,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=400k"),
        )
        .unwrap();
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        let truth = scene.truth();
        for i in 0..3000 {
            scene.write(&format!("more{i}"), &i.to_string());
        }
        let ran = scene.etag(&["scan", "-q"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        let exported: Vec<_> = scene.etag(&["export", "-0", "-q"]).out;
        let kept = truth.iter().all(|(path, hash)| {
            let line = [hash.as_bytes(), b"  ", path, b"\0"].concat();
            exported.windows(line.len()).any(|w| w == line)
        });
        assert!(kept, "what was known before is known");
        mount(
            None::<&str>,
            &scene.state,
            None::<&str>,
            MsFlags::MS_REMOUNT,
            Some("size=8m"),
        )
        .unwrap();
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        assert_eq!(scene.exported(), scene.truth());
        nix::mount::umount(&scene.state).unwrap();
    });
    if done.is_none() {
        lack("rights for a mount namespace: a full disk is not tested");
    }
}

#[test]
fn bytes_that_cannot_be_read_are_not_vouched_for() {
    let done = apart(|| {
        let scene = Scene::new("eio");
        let image = scene.top.join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(16 << 20)
            .unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0"])
            .arg(&image)
            .status();
        let mounted = || {
            Command::new("mount")
                .args(["-o", "loop,errors=continue"])
                .arg(&image)
                .arg(&scene.tree)
                .status()
        };
        if !made.is_ok_and(|s| s.success()) || !mounted().is_ok_and(|s| s.success()) {
            return false;
        }
        for i in 0..12 {
            scene.write(&format!("f{i:02}"), &i.to_string().repeat(1 << 19));
        }
        nix::unistd::sync();
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        // The end of the disk is lost, and nothing of it is in memory: what is stored there cannot be read.
        for i in 0..12 {
            let file = std::fs::File::open(scene.path(&format!("f{i:02}"))).unwrap();
            let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
        }
        std::fs::File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(6 << 20)
            .unwrap();
        let scan = scene.etag(&["scan", "-q", "--verify", "1"]);
        let check = scene.etag(&["check", "-q"]);
        assert!(
            Command::new("umount")
                .arg(&scene.tree)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(scan.code, Some(3), "{scan:?}");
        assert!(
            scan.lines().iter().any(|l| l.starts_with("unreadable\tf")),
            "{scan:?}"
        );
        // Nothing shows a change, and still they are not fresh.
        assert!(
            check.code == Some(1) && check.lines().len() == scan.lines().len(),
            "{check:?}"
        );
        true
    });
    if done != Some(true) {
        lack("a loop mount of ext4 that can be cut: reads that fail are not tested");
    }
}

/// A mount of ours that nobody serves: whoever asks anything of it waits for ever.
#[test]
fn a_mount_of_our_own_is_not_touched() {
    use std::os::fd::AsRawFd;
    let done = apart(|| {
        let scene = Scene::new("ours");
        scene.write("f", "x");
        let at = scene.path("d/mnt");
        std::fs::create_dir_all(&at).unwrap();
        let mut options = std::fs::File::options();
        let Ok(served) = options.read(true).write(true).open("/dev/fuse") else {
            return false;
        };
        let how = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            served.as_raw_fd()
        );
        let kind = Some("fuse.zring");
        let none = MsFlags::empty();
        if mount(Some("zring"), &at, kind, none, Some(how.as_str())).is_err() {
            return false;
        }
        for verb in ["scan", "check", "export"] {
            let mut command = scene.command(&[verb]);
            command.arg(&at);
            let ran = run(command);
            assert_eq!(ran.code, Some(2), "{verb}: {ran:?}");
            assert!(ran.err.contains("--allow-fuse-self"), "{ran:?}");
        }
        for how in [&["get"][..], &["get", "--compute"]] {
            let mut get = scene.command(how);
            get.arg(at.join("some/file"));
            let ran = run(get);
            assert_eq!(ran.code, Some(2), "{ran:?}");
            assert!(ran.err.contains("--allow-fuse-self"), "{ran:?}");
        }
        // A scan asks it how long requests wait, and does not wait for the answer.
        let began = std::time::Instant::now();
        let all = ["fresh\tf", "skipped\td/mnt"];
        scene.etag(&["scan", "-q", "--all"]).expect(0, &all);
        let crossing = ["scan", "-q", "--all", "--cross-device"];
        scene.etag(&crossing).expect(0, &all);
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        let json = scene.etag(&["check", "--all", "--cross-device", "--format", "json"]);
        assert!(
            json.text().contains("\"reason\":\"zring-mount\""),
            "{json:?}"
        );
        // Nobody serves it any more: what would wait has an error instead.
        drop(served);
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        true
    });
    if done != Some(true) {
        lack("rights for a FUSE mount: that our own are refused is not tested");
    }
}
