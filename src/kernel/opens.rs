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

/// Processes that the kernel tells of opens, or asks whether they may be, as far as this process may see: their names and numbers.
pub fn listeners() -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut out = Vec::new();
    for process in all {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let fds = std::fs::read_dir(process.path().join("fd"));
        let what = fds.into_iter().flatten().flatten().filter_map(|fd| {
            let link = std::fs::read_link(fd.path()).ok()?;
            if link.as_os_str() != "anon_inode:[fanotify]" {
                return None;
            }
            let info = process.path().join("fdinfo").join(fd.file_name());
            listens(&std::fs::read_to_string(info).ok()?)
        });
        if let Some(what) = what.max() {
            out.push(format!("{} ({pid}, {what})", super::process::comm(pid)));
        }
    }
    out.sort();
    out
}

/// What the marks of a group are for, if that is opens.
fn listens(info: &str) -> Option<&'static str> {
    const OPEN: u64 = libc::FAN_OPEN | libc::FAN_OPEN_EXEC;
    const ASKED: u64 = libc::FAN_OPEN_PERM | libc::FAN_OPEN_EXEC_PERM;
    let marks = info.lines().filter(|line| line.starts_with("fanotify "));
    let masks = marks.filter_map(|line| {
        let mask = line
            .split(' ')
            .find_map(|word| word.strip_prefix("mask:"))?;
        u64::from_str_radix(mask, 16).ok()
    });
    match masks.fold(0, |all, mask| all | mask) {
        all if all & ASKED != 0 => Some("is asked"),
        all if all & OPEN != 0 => Some("is told"),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::listens;

    #[test]
    fn marks_are_read_as_the_kernel_writes_them() {
        let info = |mask: &str| {
            format!(
                "pos:\t0\nfanotify flags:4 event-flags:8002\nfanotify mnt_id:1d mflags:0 mask:{mask} ignored_mask:10000\n"
            )
        };
        assert_eq!(listens(&info("10000")), Some("is asked"));
        assert_eq!(listens(&info("40000020")), Some("is told"));
        assert_eq!(listens(&info("8")), None);
        assert_eq!(listens("pos:\t0\n"), None);
    }
}
