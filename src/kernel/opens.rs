//! Who opens what below a directory, told by inotify to whoever may list it: the witness where `watch::OpenLog` is not allowed.
//!
//! It hears of every process and does not say which one it was. Each directory has a watch, and is not opened for that; a directory's open is
//! told by its own watch and by its parent's, and counted where it has a name. The kernel merges what is the same as the last event.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::io;
use std::path::{Path, PathBuf};

/// Opens so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opens {
    /// Of directories.
    pub directories: u64,
    /// Of all else.
    pub files: u64,
    /// Some may be missing.
    pub lost: bool,
}

/// Listens to a tree as it was when this was made.
#[derive(Debug)]
pub struct OpenWatch {
    notify: Inotify,
    root: WatchDescriptor,
}

impl OpenWatch {
    /// Watches each directory of a tree; mounts and links in it are not entered.
    ///
    /// # Errors
    /// It cannot be listed, or there are not as many watches (`fs.inotify.max_user_watches`).
    pub fn open(root: &Path) -> io::Result<Self> {
        // All are listed before the first is watched, so that the witness does not hear itself.
        let mut dirs = vec![root.to_owned()];
        let mut at = 0;
        while let Some(dir) = dirs.get(at) {
            let below = subdirs(dir);
            dirs.extend(below);
            at += 1;
        }
        let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what =
            AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        let top = notify.add_watch(root, what)?;
        for dir in &dirs[1..] {
            match notify.add_watch(dir, what) {
                // It cannot be entered by the start either, or is gone.
                Ok(_) | Err(Errno::EACCES | Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self { notify, root: top })
    }

    /// Adds what there is to `out`, without waiting.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, out: &mut Opens) -> io::Result<()> {
        loop {
            let events = match self.notify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for event in events {
                let is = |flag| event.mask.contains(flag);
                out.lost |= is(AddWatchFlags::IN_Q_OVERFLOW);
                if !is(AddWatchFlags::IN_OPEN) {
                    continue;
                }
                match (is(AddWatchFlags::IN_ISDIR), &event.name) {
                    (true, Some(_)) => out.directories += 1,
                    (true, None) if event.wd == self.root => out.directories += 1,
                    (true, None) => {}
                    (false, _) => out.files += 1,
                }
            }
        }
    }
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let dirs = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}
