//! A check opens directories and nothing else: it succeeds while a listener denies every open of a file.

use crate::scene::{Scene, apart, lack, run};
use nix::mount::{MsFlags, mount};
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Denies every open of a file on the mount of `tree` while `body` runs; None where that cannot be had.
fn denying<T>(tree: &Path, body: impl FnOnce() -> T) -> Option<(T, usize)> {
    mount(
        Some(tree),
        tree,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .ok()?;
    let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    let group = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC).ok()?;
    let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
    group
        .mark(
            mark,
            MaskFlags::FAN_OPEN_PERM,
            nix::fcntl::AT_FDCWD,
            Some(tree),
        )
        .ok()?;
    let (over, denied) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (told, count) = (Arc::clone(&over), Arc::clone(&denied));
    let listener = std::thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            let Ok(events) = group.read_events() else {
                std::thread::sleep(std::time::Duration::from_micros(200));
                continue;
            };
            for event in events {
                if let Some(fd) = event.fd() {
                    count.fetch_add(1, Ordering::Relaxed);
                    group
                        .write_response(FanotifyResponse::new(fd, Response::FAN_DENY))
                        .unwrap();
                }
            }
        }
    });
    let done = body();
    over.store(true, Ordering::Relaxed);
    listener.join().unwrap();
    // Nobody removes what something is mounted on.
    nix::mount::umount2(tree, nix::mount::MntFlags::MNT_DETACH).unwrap();
    Some((done, denied.load(Ordering::Relaxed)))
}

#[test]
fn an_unchanged_tree_is_checked_while_every_open_is_denied() {
    let done = apart(|| {
        let scene = Scene::new("opens");
        for i in 0..2000 {
            scene.write(&format!("d{}/f{i}", i % 20), &i.to_string());
        }
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        let tree = scene.tree.clone();
        denying(&tree, || {
            // The listener works: a file cannot be opened, and a file that changed is found out about all the same.
            let error = std::fs::read(scene.path("d1/f1")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            let seen = [
                ["check", "--quick", "-q"],
                ["check", "--all", "-q"],
                ["export", "-q", "-q"],
                ["scan", "-q", "-q"],
            ];
            for args in seen {
                let ran = scene.etag(&args);
                assert_eq!(ran.code, Some(0), "{args:?} {ran:?}");
            }
            let mut get = scene.command(&["get"]);
            get.arg(scene.path("d1/f1"));
            assert_eq!(run(get).code, Some(0));
            std::fs::set_permissions(
                scene.path("d2/f2"),
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )
            .unwrap();
            scene.etag(&["check", "-q"]).expect(1, &["stale\td2/f2"]);
            // A scan has to open that one, may not, and says so.
            let scan = scene.etag(&["scan", "-q"]);
            assert_eq!(
                (scan.code, scan.lines()),
                (Some(3), vec!["unreadable\td2/f2".to_owned()])
            );
        })
    });
    match done.flatten() {
        None => lack(
            "rights for a mount namespace and a fanotify listener: that a check opens no file is not tested",
        ),
        // One of ours; the scan's, once by a chain.
        Some(((), denied)) => assert!((2..=4).contains(&denied), "{denied} opens of files"),
    }
}
