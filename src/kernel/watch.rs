//! What changes in a tree, told by the kernel: paths and kinds of events. No file is opened for it, by us or by the kernel.
//!
//! Two engines. **fanotify** marks the whole file system and names a directory by its handle and what is in it by name; a handle is
//! looked up when its event is read, so the path is the one of now, also after the directory was renamed
//! (kernel-note 0018). It needs privileges, and a file system whose handles lead back to directories. **inotify** (`inotify`) has one
//! watch per directory and needs none. [`Watcher::open`] takes the first that is to be had.
//!
//! What comes out are paths relative to the root, `""` being the root itself. What may have been missed comes out as
//! [`Mask::OVERFLOW`]: a full queue, or a directory that cannot be looked up for any reason but being gone.
//!
//! It does not decide what an event means (`etag::nominate` does).

use super::calls::{self, Class};
use super::inotify::Ino;
use crate::base::limit::{WATCH_EVENT_BYTES, WATCH_HANDLES_MAX};
use crate::wire::fsevent::{self, Events, Handle, Mask, Reading, Spot};
use nix::errno::Errno;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustc_hash::FxHashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// fanotify that tells both names of a rename in one event (Linux 5.17).
    Fanotify,
    /// fanotify that tells them in two (Linux 5.9).
    FanotifyMoves,
    /// inotify.
    Inotify,
}

impl Engine {
    /// Its name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::FanotifyMoves => "fanotify-moves",
            Self::Inotify => "inotify",
        }
    }

    /// The engine of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let all = [Self::Fanotify, Self::FanotifyMoves, Self::Inotify];
        all.into_iter().find(|engine| engine.name() == name)
    }
}

/// Something happened at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where, relative to the root; empty for the root itself, and for [`Mask::OVERFLOW`].
    pub path: Vec<u8>,
    /// What.
    pub mask: Mask,
    /// Who did it, where the engine says.
    pub pid: Option<i32>,
}

impl Event {
    pub(super) fn overflow() -> Self {
        Self {
            path: Vec::new(),
            mask: Mask::OVERFLOW,
            pid: None,
        }
    }
}

/// Why a tree cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The engine that was asked for is not to be had.
    #[error("{engine} is not to be had: {call}: {source}", engine = engine.name())]
    Engine {
        /// Which.
        engine: Engine,
        /// What was refused.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The root cannot be opened.
    #[error("{}: {source}", root.display())]
    Root {
        /// Which.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A watched tree.
#[derive(Debug)]
pub struct Watcher {
    source: Source,
    engine: Engine,
}

#[derive(Debug)]
enum Source {
    Fan(Box<Fan>),
    Ino(Box<Ino>),
}

impl Watcher {
    /// Watches the tree at `root`, a canonical path: from now on nothing that happens in it is missed without a word. `want` names the
    /// engine; None leaves the choice. With `cross`, what is mounted below belongs to the tree.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn open(root: &Path, cross: bool, want: Option<Engine>) -> Result<Self, WatchError> {
        // A mark is of one file system; one watch per directory follows mounts.
        let mounts_below = || {
            let mounts = super::mountinfo::all();
            mounts
                .iter()
                .any(|m| m.path != root && m.path.starts_with(root))
        };
        let engines: &[Engine] = match want {
            Some(Engine::Fanotify) => &[Engine::Fanotify],
            Some(Engine::FanotifyMoves) => &[Engine::FanotifyMoves],
            Some(Engine::Inotify) => &[Engine::Inotify],
            None if cross && mounts_below() => &[Engine::Inotify],
            None => &[Engine::Fanotify, Engine::FanotifyMoves, Engine::Inotify],
        };
        let mut last = None;
        for &engine in engines {
            let source = match engine {
                Engine::Inotify => Ino::open(root, cross).map(|ino| Source::Ino(Box::new(ino))),
                _ => Fan::open(root, engine).map(|fan| Source::Fan(Box::new(fan))),
            };
            match source {
                Ok(source) => return Ok(Self { source, engine }),
                Err(error @ WatchError::Root { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is at least one engine"))
    }

    /// The engine it has.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Readable when there is something to read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Fan(fan) => fan.notify.as_fd(),
            Source::Ino(ino) => ino.fd(),
        }
    }

    /// Reads what there is, without waiting, at most one buffer of it; false when there is nothing more.
    ///
    /// # Errors
    /// The engine failed: the tree is not watched any more.
    pub fn read(&mut self, out: &mut Vec<Event>) -> io::Result<bool> {
        match &mut self.source {
            Source::Fan(fan) => fan.read(out),
            Source::Ino(ino) => ino.read(out),
        }
    }

    /// Directories, relative to the root, that are not watched, with all below them: the system has no room for more watches.
    pub fn unwatched(&self) -> Vec<Vec<u8>> {
        match &self.source {
            Source::Fan(_) => Vec::new(),
            Source::Ino(ino) => ino.unwatched(),
        }
    }

    /// How many watches the system grants a user; None where nothing bounds them, or where that is not to be read.
    pub fn limit(&self) -> Option<u64> {
        match &self.source {
            Source::Fan(_) => None,
            Source::Ino(_) => super::inotify::limit(),
        }
    }

    /// How many watches it holds.
    pub fn watches(&self) -> usize {
        match &self.source {
            Source::Fan(_) => 1,
            Source::Ino(ino) => ino.watches(),
        }
    }

    /// Tries to watch what is not; true if nothing is left.
    pub fn watch_rest(&mut self) -> bool {
        match &mut self.source {
            Source::Fan(_) => true,
            Source::Ino(ino) => ino.watch_rest(),
        }
    }
}

/// Opens a directory to hold it: one that is listed is opened by who lists it.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    calls::open(Class::Directory, path, &options)
}

/// The events of section "Watching" in the README: nothing about opens or reads, and nothing that asks for permission.
const COMMON: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_DELETE_SELF
    | libc::FAN_ONDIR
    | libc::FAN_EVENT_ON_CHILD;

/// A fanotify group with a mark on the file system of a root.
#[derive(Debug)]
struct Fan {
    notify: Fanotify,
    dirs: Dirs,
    buf: Box<[u8]>,
}

impl Fan {
    fn open(root: &Path, engine: Engine) -> Result<Self, WatchError> {
        let (report, names) = match engine {
            Engine::Fanotify => (libc::FAN_REPORT_DFID_NAME_TARGET, libc::FAN_RENAME),
            _ => (
                libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID,
                libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO,
            ),
        };
        Self::with(
            root,
            open_directory(root),
            engine,
            InitFlags::from_bits_retain(report),
            COMMON | names,
        )
    }

    /// `mount` is the root, opened.
    fn with(
        root: &Path,
        mount: io::Result<File>,
        engine: Engine,
        report: InitFlags,
        mask: u64,
    ) -> Result<Self, WatchError> {
        let mount = mount.map_err(|source| WatchError::Root {
            root: root.to_owned(),
            source,
        })?;
        let refused = |call| {
            move |errno: Errno| WatchError::Engine {
                engine,
                call,
                source: errno.into(),
            }
        };
        let flags =
            InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | report;
        let notify = Fanotify::init(flags, EventFFlags::O_RDONLY).map_err(refused("init"))?;
        let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        let mask = MaskFlags::from_bits_retain(mask);
        notify
            .mark(mark, mask, &mount, None::<&Path>)
            .map_err(refused("mark"))?;
        let dirs = Dirs {
            mount: mount.into(),
            root: root.as_os_str().as_bytes().to_vec(),
            known: FxHashMap::default(),
        };
        // Whether we may look handles up at all is found out now, not with the first event.
        let handle = handle_of(dirs.mount.as_fd()).map_err(refused("name_to_handle_at"))?;
        dirs.open(handle.as_handle())
            .map_err(refused("open_by_handle_at"))?;
        Ok(Self {
            notify,
            dirs,
            buf: vec![0; WATCH_EVENT_BYTES].into(),
        })
    }

    fn read(&mut self, out: &mut Vec<Event>) -> io::Result<bool> {
        let filled = match nix::unistd::read(&self.notify, &mut self.buf) {
            Ok(filled) => filled,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for reading in Events::new(&self.buf[..filled]) {
            match reading {
                Reading::Event(event) => self.dirs.tell(&event, out),
                Reading::Broken => out.push(Event::overflow()),
            }
        }
        Ok(filled > 0)
    }
}

/// Where directories are: their handles, looked up.
#[derive(Debug)]
struct Dirs {
    mount: OwnedFd,
    /// Absolute path of the root, without a slash at its end unless it is `/`.
    root: Vec<u8>,
    /// Paths as of the last move of a directory; None lies outside of the root.
    known: FxHashMap<OwnHandle, Option<Vec<u8>>>,
}

impl Dirs {
    fn tell(&mut self, event: &fsevent::Event<'_>, out: &mut Vec<Event>) {
        let moves = Mask::RENAME.and(Mask::MOVED_FROM).and(Mask::MOVED_TO);
        if event.mask.any(Mask::OVERFLOW) {
            out.push(Event::overflow());
        }
        if event.mask.any(Mask::DIR) && event.mask.any(moves) {
            // Whatever lay below has another path now.
            self.known.clear();
        }
        let rest = event.mask.but(Mask::RENAME.and(Mask::OVERFLOW));
        let ends = [
            (event.spot, rest),
            (event.old, rest.and(Mask::MOVED_FROM)),
            (event.new, rest.and(Mask::MOVED_TO)),
        ];
        for (spot, mask) in ends {
            let Some(path) = spot.map(|spot| self.path_of(&spot)) else {
                continue;
            };
            match path {
                Ok(Some(path)) => out.push(Event {
                    path,
                    mask,
                    pid: Some(event.pid),
                }),
                Ok(None) => {}
                Err(_) => out.push(Event::overflow()),
            }
        }
    }

    /// Where this is, relative to the root. None if it is not below it, or its directory is gone: that had an event of its own.
    fn path_of(&mut self, spot: &Spot<'_>) -> Result<Option<Vec<u8>>, Errno> {
        let handle = OwnHandle::from(spot.dir);
        let dir = match self.known.get(&handle) {
            Some(dir) => dir.as_deref().map(<[u8]>::to_vec),
            None => {
                let dir = self.look_up(spot.dir)?;
                if self.known.len() >= WATCH_HANDLES_MAX {
                    self.known.clear();
                }
                self.known.insert(handle, dir.clone());
                dir
            }
        };
        let full = match (dir, spot.name) {
            (None, _) => return Ok(None),
            (Some(dir), b".") => dir,
            (Some(mut dir), name) => {
                if dir != b"/" {
                    dir.push(b'/');
                }
                dir.extend_from_slice(name);
                dir
            }
        };
        Ok(below(&self.root, &full).map(<[u8]>::to_vec))
    }

    /// Absolute path of a directory, as this process sees it. None if it is gone, or is neither below the root nor its parent.
    fn look_up(&self, handle: Handle<'_>) -> Result<Option<Vec<u8>>, Errno> {
        let fd = match self.open(handle) {
            Ok(fd) => fd,
            Err(Errno::ESTALE) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = nix::fcntl::readlink(link.as_str())?;
        let path = path.as_bytes();
        let parent = self.root.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let near = below(&self.root, path).is_some() || path == &self.root[..parent.max(1)];
        Ok(near.then(|| path.to_vec()))
    }

    /// Opens a directory by its handle to ask for its path alone: O_PATH, which nobody who watches opens is told of.
    fn open(&self, handle: Handle<'_>) -> Result<OwnedFd, Errno> {
        let mut raw = RawHandle::new(handle);
        // SAFETY: `raw` is laid out as a `struct file_handle` whose length field says how many of its bytes count.
        let fd = unsafe {
            libc::open_by_handle_at(
                self.mount.as_raw_fd(),
                (&raw mut raw).cast(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just put this descriptor into our table; nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// `path` relative to `root`; None if it is not below.
fn below<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(root)?;
    match rest {
        [] => Some(rest),
        [b'/', rest @ ..] => Some(rest),
        // Of `/` the slash is in the prefix.
        _ if root == b"/" => Some(rest),
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OwnHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

impl OwnHandle {
    fn as_handle(&self) -> Handle<'_> {
        Handle {
            kind: self.kind,
            bytes: &self.bytes,
        }
    }
}

impl From<Handle<'_>> for OwnHandle {
    fn from(handle: Handle<'_>) -> Self {
        Self {
            kind: handle.kind,
            bytes: handle.bytes.into(),
        }
    }
}

/// `struct file_handle`, with room for the longest.
#[repr(C)]
struct RawHandle {
    len: u32,
    kind: i32,
    bytes: [u8; Handle::LEN_MAX],
}

impl RawHandle {
    fn new(handle: Handle<'_>) -> Self {
        let mut bytes = [0; Handle::LEN_MAX];
        bytes[..handle.bytes.len()].copy_from_slice(handle.bytes);
        Self {
            len: u32::try_from(handle.bytes.len()).expect("a handle is short"),
            kind: handle.kind,
            bytes,
        }
    }
}

/// The handle of an open directory.
fn handle_of(dir: BorrowedFd<'_>) -> Result<OwnHandle, Errno> {
    let mut raw = RawHandle::new(Handle {
        kind: 0,
        bytes: &[0; Handle::LEN_MAX],
    });
    let mut mount = 0;
    // SAFETY: the name ends with a zero; `raw` has as many bytes behind its head as its length field says; `mount` is a live int.
    let done = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(done)?;
    let len = usize::try_from(raw.len).unwrap_or(0).min(Handle::LEN_MAX);
    Ok(OwnHandle {
        kind: raw.kind,
        bytes: raw.bytes[..len].into(),
    })
}

/// Who opens what on a file system, told by the kernel: a witness beside our own counting.
///
/// It hears of every process; the caller picks its own. O_PATH raises nothing. Opens of one thing that were not read in between are
/// told of once.
#[derive(Debug)]
pub struct OpenLog(Fan);

impl OpenLog {
    /// Listens on the file system of `root`; events are of what lies below.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn open(root: &Path) -> Result<Self, WatchError> {
        // It is read when all is over, and must not have lost anything by then.
        let report = InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID)
            | InitFlags::FAN_UNLIMITED_QUEUE;
        let mask = libc::FAN_OPEN | libc::FAN_ONDIR | libc::FAN_EVENT_ON_CHILD;
        // The witness does not count what it opens itself.
        Fan::with(root, File::open(root), Engine::Fanotify, report, mask).map(Self)
    }

    /// Readable when there is something to read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.notify.as_fd()
    }

    /// Reads what there is, without waiting; false when there is nothing more.
    ///
    /// # Errors
    /// The engine failed.
    pub fn read(&mut self, out: &mut Vec<Event>) -> io::Result<bool> {
        self.0.read(out)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_is_below_a_root_by_whole_names() {
        let below = |root: &str, path: &'static str| {
            let rest = super::below(root.as_bytes(), path.as_bytes());
            rest.map(|rest| String::from_utf8_lossy(rest).into_owned())
        };
        assert_eq!(below("/a/b", "/a/b"), Some(String::new()));
        assert_eq!(below("/a/b", "/a/b/c/d"), Some("c/d".into()));
        assert_eq!(below("/a/b", "/a/bc"), None);
        assert_eq!(below("/a/b", "/a"), None);
        assert_eq!(below("/", "/a"), Some("a".into()));
        assert_eq!(below("/", "/"), Some(String::new()));
    }
}
