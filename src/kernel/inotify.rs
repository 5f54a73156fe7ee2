//! inotify: one watch for every directory of a tree, and where each of them is.
//!
//! ```text
//!   Dir { parent, name, children by name }  by watch number      a renamed directory takes all below along
//! ```
//!
//! A directory is watched first and listed afterwards, so whatever appears in between is seen by one or by both; of what is found in one
//! that appears later, the watcher tells as if it had been made just then. A directory that goes away is forgotten with all below;
//! one that comes, from wherever, is new. The numbers of watches are not given twice in their lifetime, so late events of a
//! forgotten watch find nothing.
//!
//! There is a limit of watches (`/proc/sys/fs/inotify/max_user_watches`). Where it is met, the directory is noted as unwatched, with all
//! below it; the rest of the tree is watched all the same.

use super::calls::{self, Count};
use super::watch::{Engine, Event, WatchError};
use crate::base::limit::TREE_DEPTH_WATCHED_MAX;
use crate::wire::fsevent::Mask;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A tree with a watch on each directory.
#[derive(Debug)]
pub(super) struct Ino {
    notify: Inotify,
    root: PathBuf,
    /// Device of the root, if the tree ends where another begins.
    device: Option<u64>,
    dirs: FxHashMap<WatchDescriptor, Dir>,
    top: WatchDescriptor,
    /// Relative paths of directories without a watch; what is below them is not listed here.
    unwatched: BTreeSet<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Dir {
    /// Its parent and its name there; None for the root.
    up: Option<(WatchDescriptor, Box<[u8]>)>,
    children: FxHashMap<Box<[u8]>, WatchDescriptor>,
}

fn wanted() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_DONT_FOLLOW
        | AddWatchFlags::from_bits_retain(libc::IN_EXCL_UNLINK)
}

impl Ino {
    pub(super) fn open(root: &Path, cross: bool) -> Result<Self, WatchError> {
        let refused = |call| {
            move |errno: Errno| WatchError::Engine {
                engine: Engine::Inotify,
                call,
                source: errno.into(),
            }
        };
        let meta = std::fs::metadata(root).map_err(|source| WatchError::Root {
            root: root.to_owned(),
            source,
        })?;
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let notify = Inotify::init(flags).map_err(refused("init"))?;
        let top = notify
            .add_watch(root, wanted())
            .map_err(refused("add_watch"))?;
        let mut ino = Self {
            notify,
            root: root.to_owned(),
            device: (!cross).then(|| meta.dev()),
            dirs: FxHashMap::default(),
            top,
            unwatched: BTreeSet::new(),
        };
        ino.dirs.insert(top, Dir::default());
        ino.list(top, None);
        Ok(ino)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.notify.as_fd()
    }

    pub(super) fn unwatched(&self) -> Vec<Vec<u8>> {
        self.unwatched.iter().cloned().collect()
    }

    pub(super) fn watches(&self) -> usize {
        self.dirs.len()
    }

    pub(super) fn watch_rest(&mut self) -> bool {
        for path in std::mem::take(&mut self.unwatched) {
            let (parent, name) = match path.iter().rposition(|&b| b == b'/') {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&[][..], &path[..]),
            };
            // A parent that is not there any more took it along.
            if let Some(parent) = self.find(parent) {
                self.add(parent, name, None);
            }
        }
        self.unwatched.is_empty()
    }

    fn find(&self, path: &[u8]) -> Option<WatchDescriptor> {
        let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
        names
            .into_iter()
            .try_fold(self.top, |at, name| self.child(at, name))
    }

    fn child(&self, at: WatchDescriptor, name: &[u8]) -> Option<WatchDescriptor> {
        self.dirs.get(&at)?.children.get(name).copied()
    }

    /// Where a directory is, relative to the root.
    fn path_of(&self, at: WatchDescriptor) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut dir = self.dirs.get(&at)?;
        while let Some((parent, name)) = &dir.up {
            names.push(&**name);
            dir = self.dirs.get(parent)?;
            if names.len() > TREE_DEPTH_WATCHED_MAX {
                return None;
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Watches what is below a watched directory; tells of all that is found there, if somebody wants to know.
    fn list(&mut self, at: WatchDescriptor, mut found: Option<&mut Vec<Event>>) {
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            let Some(path) = self.path_of(at) else {
                continue;
            };
            let full = self.root.join(OsStr::from_bytes(&path));
            // The open is counted; its descriptor is of no use to who lists by path.
            calls::add(Count::OpenDirectory, 1);
            let Ok(entries) = std::fs::read_dir(&full) else {
                continue; // gone, or not ours to list: the check will say so
            };
            for entry in entries.flatten() {
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let name = entry.file_name();
                if let Some(found) = found.as_deref_mut() {
                    let mask = if is_dir {
                        Mask::CREATE.and(Mask::DIR)
                    } else {
                        Mask::CREATE
                    };
                    found.push(Event {
                        path: join(&path, name.as_bytes()),
                        mask,
                        pid: None,
                    });
                }
                if is_dir {
                    todo.extend(self.watch(at, name.as_bytes()));
                }
            }
        }
    }

    /// Watches a directory and what is below it.
    fn add(&mut self, parent: WatchDescriptor, name: &[u8], found: Option<&mut Vec<Event>>) {
        if let Some(at) = self.watch(parent, name) {
            self.list(at, found);
        }
    }

    /// Watches one directory; None if it cannot be, or is none.
    fn watch(&mut self, parent: WatchDescriptor, name: &[u8]) -> Option<WatchDescriptor> {
        let path = join(&self.path_of(parent)?, name);
        let full = self.root.join(OsStr::from_bytes(&path));
        if let Some(device) = self.device
            && device_of(&full).is_some_and(|other| other != device)
        {
            return None;
        }
        match self.notify.add_watch(&full, wanted()) {
            Ok(at) if at == self.top => None, // a loop of mounts
            Ok(at) => {
                self.place(at, parent, name);
                Some(at)
            }
            // No room, or a path too long to name.
            Err(Errno::ENOSPC | Errno::ENOMEM | Errno::ENAMETOOLONG) => {
                self.unwatched.insert(path);
                None
            }
            Err(_) => None,
        }
    }

    /// Notes where a watch is. One that was elsewhere has been moved, with all below it; its old place is free.
    fn place(&mut self, at: WatchDescriptor, parent: WatchDescriptor, name: &[u8]) {
        self.take_out(at);
        let name = Box::from(name);
        self.dirs.entry(at).or_default().up = Some((parent, name));
        let up = self.dirs.get(&at).and_then(|dir| dir.up.clone());
        if let Some((parent, name)) = up
            && let Some(parent) = self.dirs.get_mut(&parent)
        {
            parent.children.insert(name, at);
        }
    }

    /// Frees its place in its parent, if it is there.
    fn take_out(&mut self, at: WatchDescriptor) {
        let up = self.dirs.get_mut(&at).and_then(|dir| dir.up.take());
        if let Some((parent, name)) = up
            && let Some(parent) = self.dirs.get_mut(&parent)
            && parent.children.get(&name) == Some(&at)
        {
            parent.children.remove(&name);
        }
    }

    /// Forgets a directory and all below it.
    fn forget(&mut self, at: WatchDescriptor) {
        let path = self.path_of(at);
        self.take_out(at);
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            if let Some(dir) = self.dirs.remove(&at) {
                todo.extend(dir.children.into_values());
            }
            let _ = self.notify.rm_watch(at); // it may be gone with its directory
        }
        if let Some(path) = path {
            let inside = |other: &[u8]| {
                let rest = other.strip_prefix(&path[..]);
                rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
            };
            self.unwatched.retain(|other| !inside(other));
        }
    }

    pub(super) fn read(&mut self, out: &mut Vec<Event>) -> io::Result<bool> {
        let events = match self.notify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for event in &events {
            self.tell(event, out);
        }
        Ok(!events.is_empty())
    }

    fn tell(&mut self, event: &InotifyEvent, out: &mut Vec<Event>) {
        let mask = Mask(u64::from(event.mask.bits()));
        if mask.any(Mask::OVERFLOW) {
            // Directories may have come and gone unseen: all is looked at again.
            self.start_again();
            out.push(Event::overflow());
            return;
        }
        let at = event.wd;
        let Some(dir) = self.path_of(at) else {
            return; // a late word of a watch that was forgotten
        };
        let Some(name) = event.name.as_deref().map(OsStrExt::as_bytes) else {
            return self.tell_of_itself(at, dir, mask, out);
        };
        let path = join(&dir, name);
        let gone = Mask::DELETE.and(Mask::MOVED_FROM);
        if mask.any(Mask::DIR) && mask.any(gone) {
            self.unwatched.remove(&path);
            if let Some(child) = self.child(at, name) {
                self.forget(child);
            }
        }
        out.push(Event {
            path,
            mask,
            pid: None,
        });
        if mask.any(Mask::DIR) && mask.any(Mask::CREATE.and(Mask::MOVED_TO)) {
            self.add(at, name, Some(out));
        }
    }

    /// An event of a watched directory itself. Its parent tells of its coming and going, if it has one here.
    fn tell_of_itself(
        &mut self,
        at: WatchDescriptor,
        dir: Vec<u8>,
        mask: Mask,
        out: &mut Vec<Event>,
    ) {
        let ends = Mask::IGNORED.and(Mask::UNMOUNT);
        let is_top = at == self.top;
        if mask.any(ends) && !is_top {
            self.forget(at);
        }
        let leaves = Mask::DELETE_SELF.and(Mask::MOVE_SELF).and(ends);
        if is_top || !mask.any(leaves) {
            out.push(Event {
                path: dir,
                mask: mask.and(Mask::DIR),
                pid: None,
            });
        }
    }

    fn start_again(&mut self) {
        self.unwatched.clear();
        let (old, top) = (std::mem::take(&mut self.dirs), self.top);
        self.dirs.insert(top, Dir::default());
        // Watches of directories that are there still keep their numbers.
        self.list(top, None);
        for at in old.into_keys().filter(|at| !self.dirs.contains_key(at)) {
            let _ = self.notify.rm_watch(at);
        }
    }
}

fn device_of(path: &Path) -> Option<u64> {
    calls::add(Count::Stat, 1);
    std::fs::symlink_metadata(path).ok().map(|meta| meta.dev())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        [] => name.to_vec(),
        _ => [dir, name].join(&b'/'),
    }
}

/// How many watches a user may have, in this user namespace; None where that cannot be read.
pub(super) fn limit() -> Option<u64> {
    let settings = [
        "/proc/sys/fs/inotify/max_user_watches",
        "/proc/sys/user/max_inotify_watches",
    ];
    let texts = settings.into_iter().filter_map(calls::proc_text);
    texts.filter_map(|text| text.trim().parse().ok()).min()
}
