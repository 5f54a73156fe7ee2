//! Counting what is asked of file systems: by kind of call, and opens by what they are of.
//!
//! Whoever makes such a call in the ETag engine goes through a function of `kernel` that counts it here: `stat` for trees and their
//! attributes, [`open`], [`read_file`] and the like below for state, configuration and `/proc`, `chain` for what a ring does.
//!
//! Shape: [`add`] is one relaxed increment in a shard that few threads share, so that counting costs the same whether or not
//! anybody looks. [`Counts::now`] sums the shards; the difference of two of them is what a phase did ([`Counts::since`]). Numbers
//! of threads that are at work meanwhile may be some calls old.
//!
//! Who wants each call by itself, a trace, sets an observer once ([`observe`]). From then on every open is reported with its path,
//! class and time, and every other call that took longer than [`SLOW`]. Without an observer no clock is read and no path is built.
//! An observer is called on the thread that made the call, and must not make counted calls itself.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What an open is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A directory of a tree, to be listed.
    Directory,
    /// The catalog and what else the program keeps.
    State,
    /// What it is told by files.
    Config,
    /// `/proc` and `/sys`.
    Proc,
    /// A file of a tree: its bytes.
    Data,
}

impl Class {
    /// All, in the order of [`Counts::opens`].
    pub const ALL: [Self; 5] = [
        Self::Directory,
        Self::State,
        Self::Config,
        Self::Proc,
        Self::Data,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::State => "state",
            Self::Config => "config",
            Self::Proc => "proc",
            Self::Data => "data",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Opens of each class: the first five, in the order of [`Class`].
    OpenDirectory,
    /// See [`Class::State`].
    OpenState,
    /// See [`Class::Config`].
    OpenConfig,
    /// See [`Class::Proc`].
    OpenProc,
    /// See [`Class::Data`].
    OpenData,
    /// getdents64.
    List,
    /// statx and fstat.
    Stat,
    /// getxattr of any kind.
    GetXattr,
    /// setxattr of any kind.
    SetXattr,
    /// Bytes read from files that were opened.
    BytesRead,
    /// Bytes written.
    BytesWritten,
    /// fsync, fdatasync.
    Sync,
    /// Ring requests: openat2.
    RingOpen,
    /// Ring requests: read.
    RingRead,
    /// Those of them that go past the page cache by `--direct`.
    DirectRead,
    /// Ring requests: close.
    RingClose,
    /// Ring requests: fsync.
    RingSync,
    /// Ring requests: statx.
    RingStat,
}

impl Count {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::OpenDirectory,
        Self::OpenState,
        Self::OpenConfig,
        Self::OpenProc,
        Self::OpenData,
        Self::List,
        Self::Stat,
        Self::GetXattr,
        Self::SetXattr,
        Self::BytesRead,
        Self::BytesWritten,
        Self::Sync,
        Self::RingOpen,
        Self::RingRead,
        Self::DirectRead,
        Self::RingClose,
        Self::RingSync,
        Self::RingStat,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenDirectory => "opens.directory",
            Self::OpenState => "opens.state",
            Self::OpenConfig => "opens.config",
            Self::OpenProc => "opens.proc",
            Self::OpenData => "opens.data",
            Self::List => "getdents",
            Self::Stat => "stats",
            Self::GetXattr => "getxattrs",
            Self::SetXattr => "setxattrs",
            Self::BytesRead => "bytes_read",
            Self::BytesWritten => "bytes_written",
            Self::Sync => "syncs",
            Self::RingOpen => "ring.openat2",
            Self::RingRead => "ring.read",
            Self::DirectRead => "ring.read.direct",
            Self::RingClose => "ring.close",
            Self::RingSync => "ring.fsync",
            Self::RingStat => "ring.statx",
        }
    }
}

impl From<Class> for Count {
    fn from(class: Class) -> Self {
        Self::ALL[class as usize]
    }
}

const KINDS: usize = Count::ALL.len();
/// More than cores that meet in one: a shard is two or three cache lines of its own.
const SHARDS: usize = 64;

#[repr(align(128))]
struct Shard([AtomicUsize; KINDS]);

static SHARD: [Shard; SHARDS] = [const { Shard([const { AtomicUsize::new(0) }; KINDS]) }; SHARDS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Where names without a path lie, while somebody observes.
    static WHERE: RefCell<PathBuf> = RefCell::default();
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Counts `n` more: one relaxed increment.
#[inline]
pub fn add(count: Count, n: usize) {
    let mut mine = MINE.get();
    if mine == usize::MAX {
        mine = NEXT.fetch_add(1, Relaxed) % SHARDS;
        MINE.set(mine);
    }
    SHARD[mine].0[count as usize].fetch_add(n, Relaxed);
}

/// All numbers at one moment, or the difference of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; KINDS]);

impl Counts {
    /// As they are now.
    pub fn now() -> Self {
        let mut out = Self::default();
        for shard in &SHARD {
            for (sum, count) in out.0.iter_mut().zip(&shard.0) {
                *sum = sum.wrapping_add(count.load(Relaxed) as u64);
            }
        }
        out
    }

    /// What was counted after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut out = *self;
        for (sum, old) in out.0.iter_mut().zip(before.0) {
            *sum = sum.wrapping_sub(old);
        }
        out
    }

    /// One of them.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Opens of one class.
    pub fn opens(&self, class: Class) -> u64 {
        self.get(class.into())
    }
}

/// Calls that take longer are reported to an observer one by one.
pub const SLOW: Duration = Duration::from_millis(1);

/// One call, as an observer is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its kind.
    pub count: Count,
    /// Of what; empty where no path is at hand.
    pub path: &'a Path,
    /// When it began.
    pub began: Instant,
    /// How long it took. Of a ring's open: nothing, as it ends elsewhere.
    pub took: Duration,
}

type Observer = Box<dyn Fn(Call<'_>) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Has every open, and every slow call, told to `observer`, for as long as the process lives; false if somebody else is told already.
pub fn observe(observer: Observer) -> bool {
    OBSERVER.set(observer).is_ok()
}

/// Says in which directory the names of this thread's next calls lie; only an observer wants to know.
#[inline]
pub fn within(dir: impl FnOnce() -> PathBuf) {
    if OBSERVER.get().is_some() {
        WHERE.set(dir());
    }
}

/// The whole path of a call, for an observer.
pub fn whole(path: &Path) -> PathBuf {
    WHERE.with_borrow(|dir| dir.join(path))
}

/// Makes a call that is counted; `path` says of what, should somebody want to know.
#[inline]
pub fn timed<'p, T>(count: Count, path: impl FnOnce() -> &'p Path, call: impl FnOnce() -> T) -> T {
    add(count, 1);
    let Some(observer) = OBSERVER.get() else {
        return call();
    };
    let began = now();
    let done = call();
    let took = began.elapsed();
    if (count as usize) < Class::ALL.len() || took >= SLOW {
        let path = path();
        observer(Call {
            count,
            path,
            began,
            took,
        });
    }
    done
}

/// Notes an open that a ring is about to make.
#[inline]
pub fn note_open<'p>(class: Class, path: impl FnOnce() -> &'p Path) {
    add(class.into(), 1);
    if let Some(observer) = OBSERVER.get() {
        observer(Call {
            count: class.into(),
            path: path(),
            began: now(),
            took: Duration::ZERO,
        });
    }
}

fn now() -> Instant {
    Instant::now()
}

/// Opens `path` as `options` say.
///
/// # Errors
/// What the system says.
pub fn open(class: Class, path: &Path, options: &std::fs::OpenOptions) -> io::Result<File> {
    timed(class.into(), || path, || options.open(path))
}

/// Opens `path` for reading.
///
/// # Errors
/// What the system says.
pub fn open_read(class: Class, path: &Path) -> io::Result<File> {
    open(class, path, std::fs::OpenOptions::new().read(true))
}

/// Has the kernel begin to bring in the first `bytes` of a file. It may do nothing.
pub fn will_need(file: &File, bytes: u64) {
    let len = i64::try_from(bytes).unwrap_or(i64::MAX);
    let _ = nix::fcntl::posix_fadvise(
        file,
        0,
        len,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_WILLNEED,
    );
}

/// All bytes of a file, which is expected to be small.
///
/// # Errors
/// What the system says.
pub fn read_file(class: Class, path: &Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    open_read(class, path)?.read_to_end(&mut out)?;
    add(Count::BytesRead, out.len());
    Ok(out)
}

/// A text of `/proc` or `/sys`; None if it cannot be had.
pub fn proc_text(path: &str) -> Option<String> {
    String::from_utf8(read_file(Class::Proc, Path::new(path)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn kinds_stand_in_the_order_of_their_numbers() {
        for (i, count) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, i);
        }
        for class in Class::ALL {
            let name = Count::from(class).name();
            assert_eq!(name.strip_prefix("opens."), Some(class.name()));
        }
    }

    #[test]
    fn what_threads_count_adds_up_and_observers_see_opens() {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let before = Counts::now();
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..1000).for_each(|_| add(Count::RingStat, 2))))
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(Counts::now().since(&before).get(Count::RingStat), 8000);
        let of_self = |call: Call<'_>| {
            if call.path == Path::new("/proc/self/comm") && call.count == Count::OpenProc {
                SEEN.fetch_add(1, Relaxed);
            }
        };
        assert!(observe(Box::new(of_self)));
        assert!(!observe(Box::new(|_| ())));
        let before = Counts::now();
        assert!(proc_text("/proc/self/comm").unwrap().ends_with('\n'));
        assert_eq!(SEEN.load(Relaxed), 1);
        assert!(Counts::now().since(&before).opens(Class::Proc) >= 1);
    }
}
