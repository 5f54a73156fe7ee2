//! A directory of our own on some file system, watched.

use crate::machine;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use zring::kernel::watch::{Engine, Event, Watcher};
use zring::wire::fsevent::Mask;

pub(crate) const ENGINES: [Engine; 3] = [Engine::Fanotify, Engine::FanotifyMoves, Engine::Inotify];

/// A directory that goes away with it.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn under(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("zrw.{}.{n}", std::process::id());
        let dir = parent.canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `body` in a fresh directory on the disk's file system, on tmpfs and on overlayfs, with each engine that is to be had there.
pub(crate) fn everywhere(body: fn(&Path, Engine)) {
    let disk = std::env::temp_dir();
    on(&disk, "the temporary directory's file system", body);
    match fs::metadata("/dev/shm") {
        Ok(_) => on(Path::new("/dev/shm"), "tmpfs", body),
        Err(_) => machine::lack("/dev/shm: watching is not tested on tmpfs"),
    }
    on_overlay(body);
}

fn on(parent: &Path, what: &str, body: fn(&Path, Engine)) {
    for engine in ENGINES {
        let dir = Dir::under(parent);
        match Watcher::open(&dir.0, false, Some(engine)) {
            Ok(_) => body(&dir.0, engine),
            // Handles of overlayfs lead back to directories only if it is told to keep an index.
            Err(_) if what == "overlayfs" && engine != Engine::Inotify => {}
            Err(error) => machine::lack(&format!("watching {what}: {error}")),
        }
    }
}

fn on_overlay(body: fn(&Path, Engine)) {
    let run = move |dir: &Path| {
        for name in ["lower/old", "upper", "work", "all"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("lower/old/f"), "lower").unwrap();
        let at = dir.display();
        let options = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work");
        let all = dir.join("all");
        let (overlay, options) = (Some("overlay"), Some(options.as_str()));
        mount(Some("x"), &all, overlay, MsFlags::empty(), options)?;
        on(&all, "overlayfs", body);
        nix::mount::umount(&all)
    };
    if let Err(errno) = apart(run) {
        machine::lack(&format!(
            "overlayfs in a namespace: watching is not tested there ({errno})"
        ));
    }
}

/// A flood of events fills the queue of everybody who marks its file system: this one has an own, a tmpfs.
pub(crate) fn flooded(body: impl FnOnce(&Path) + Send + 'static) {
    let run = |dir: &Path| {
        body(dir);
        Ok(())
    };
    if let Err(errno) = apart(run) {
        machine::lack(&format!(
            "a tmpfs in a namespace: floods of events are not tested ({errno})"
        ));
    }
}

/// Runs `body` on a tmpfs, in a mount namespace that ends with its thread.
fn apart(body: impl FnOnce(&Path) -> Result<(), Errno> + Send + 'static) -> Result<(), Errno> {
    let run = move || {
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, private, none)?;
        let dir = Dir::under(&std::env::temp_dir());
        mount(Some("x"), &dir.0, Some("tmpfs"), MsFlags::empty(), none)?;
        body(&dir.0)?;
        nix::mount::umount2(&dir.0, MntFlags::MNT_DETACH)
    };
    match std::thread::spawn(run).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Everything the watcher has to say, once it has been silent for a while. Of the rest of the file system it hears too, so it may be
/// woken all the time.
pub(crate) fn drain(watcher: &mut Watcher) -> Vec<Event> {
    const QUIET: Duration = Duration::from_millis(30);
    let mut out = Vec::new();
    let mut last = Instant::now();
    while last.elapsed() < QUIET {
        let before = out.len();
        while watcher.read(&mut out).unwrap() {}
        if out.len() > before {
            last = Instant::now();
        }
        let mut fds = [PollFd::new(watcher.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(5u16)).unwrap();
    }
    out
}

/// Events in short: paths and kinds, merged as the kernel may merge them, in the order of their first.
pub(crate) fn short(events: &[Event]) -> Vec<(String, Mask)> {
    let mut out: Vec<(String, Mask)> = Vec::new();
    for event in events {
        let path = String::from_utf8_lossy(&event.path).into_owned();
        match out.iter_mut().find(|(other, _)| *other == path) {
            Some((_, mask)) => *mask = mask.and(event.mask),
            None => out.push((path, event.mask)),
        }
    }
    out
}

/// Whether a path was told of with one of these kinds.
pub(crate) fn told(events: &[Event], path: &str, mask: Mask) -> bool {
    short(events).iter().any(|(p, m)| p == path && m.any(mask))
}
