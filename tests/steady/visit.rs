//! Who asks for the same again and again, and looks what that costs the workers.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::Kind;
use crate::counted::Page;

const PAGE: usize = 4096;
/// After so long nothing of what was asked is still under way, that of readers to come included.
const SETTLED: Duration = Duration::from_millis(40);
/// Rounds at most: whoever answers for the first time fills tables.
const ROUNDS: usize = 6;
/// How long locks are held at most: who waits for one goes on then.
const LONG: Duration = Duration::from_secs(20);
/// The same where that is expected.
const BRIEFLY: Duration = Duration::from_millis(300);
/// Allocations shown of a round.
const SHOWN: u64 = 2;

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// Requests of this kind, as the daemon counts them.
    pub(crate) requests: u64,
    /// Allocations.
    pub(crate) allocations: u64,
    /// Blocks that were stored for readers to come.
    pub(crate) stores: u64,
    /// A request waited for a lock that was held.
    pub(crate) waited: bool,
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (requests, allocations) = (self.requests, self.allocations);
        let (stores, waited) = (self.stores, u8::from(self.waited));
        write!(f, "{requests} {allocations} {stores} {waited}")
    }
}

impl Round {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::parse);
        let mut next = || -> Option<u64> { words.next()?.ok() };
        Some(Self {
            requests: next()?,
            allocations: next()?,
            stores: next()?,
            waited: next()? > 0,
        })
    }
}

/// The visitor: rounds of `n` requests until one is cheap, and one more while the daemon's locks are held; each is printed.
pub(crate) fn rounds(page: &Page, at: &Path, kind: Kind, name: &str, n: usize) -> io::Result<()> {
    let mut asker = Asker::new(at, kind, name)?;
    for number in 0..ROUNDS {
        let is_shown = number + 1 == ROUNDS && kind != Kind::Text;
        asker.show = if is_shown { SHOWN } else { 0 };
        let round = asker.round(page, n, None)?;
        println!("> {round}");
        if kind.is_cheap(round) {
            break;
        }
    }
    let round = match kind {
        Kind::Text => asker.round(page, 1, Some(BRIEFLY))?,
        _ => asker.round(page, n, Some(LONG))?,
    };
    println!("> {round}");
    Ok(())
}

/// What `.wcfs/stats` says.
struct Daemon {
    requests: u64,
    reads: u64,
    stores: u64,
}

impl Daemon {
    fn of(at: &Path) -> io::Result<Self> {
        let all = std::fs::read_to_string(at.join(".wcfs/stats"))?;
        let value = |name: &str| {
            let mut lines = all.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(n, _)| n.trim() == name);
            found.and_then(|(_, value)| value.trim().parse().ok())
        };
        let value = |name| value(name).ok_or(io::ErrorKind::InvalidData);
        Ok(Self {
            requests: value("fuse_request")?,
            reads: value("fuse_read")?,
            stores: value("store")?,
        })
    }
}

/// Something that is asked again and again.
struct Asker {
    at: PathBuf,
    cpus: Vec<usize>,
    kind: Kind,
    path: PathBuf,
    name: CString,
    file: File,
    dir: File,
    /// A page of it is aligned, for O_DIRECT.
    room: Vec<u8>,
    asked: u64,
    /// So many allocations of a round are shown.
    show: u64,
}

impl Asker {
    fn new(at: &Path, kind: Kind, name: &str) -> io::Result<Self> {
        let cpus = sched_getaffinity(Pid::from_raw(0))?;
        let is_ours = |&cpu: &usize| cpus.is_set(cpu).unwrap_or(false);
        let path = at.join(name);
        let mut how = File::options();
        how.read(true);
        if matches!(kind, Kind::Direct) {
            how.custom_flags(libc::O_DIRECT);
        }
        let file = how.open(&path)?;
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
        let last = path.file_name().unwrap_or_default().as_encoded_bytes();
        Ok(Self {
            at: at.to_owned(),
            cpus: (0..CpuSet::count()).filter(is_ours).collect(),
            kind,
            name: CString::new(last)?,
            dir: File::open(path.parent().unwrap_or(at))?,
            path,
            file,
            room: vec![0; 2 * PAGE],
            asked: 0,
            show: 0,
        })
    }

    /// So many requests, from each CPU as many; with the locks of the daemon held, if that is said for how long.
    fn round(&mut self, page: &Page, n: usize, hold: Option<Duration>) -> io::Result<Round> {
        let before = Daemon::of(&self.at)?;
        std::thread::sleep(SETTLED);
        let allocations = page.allocations.load(Ordering::SeqCst);
        if let Some(limit) = hold {
            // Who stores a block for readers to come takes a lock, and may wait for it: that is over, on a busy machine too.
            std::thread::sleep(5 * SETTLED);
            let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            page.hold_ms.store(limit, Ordering::SeqCst);
            while page.held.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
        }
        page.show.store(self.show, Ordering::SeqCst);
        let each = n.div_ceil(self.cpus.len());
        for cpu in self.cpus.clone() {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            (0..each).try_for_each(|_| self.ask())?;
        }
        let waited = hold.is_some() && page.held.load(Ordering::SeqCst) == 0;
        page.hold_ms.store(0, Ordering::SeqCst);
        std::thread::sleep(SETTLED);
        page.show.store(0, Ordering::SeqCst);
        let allocations = page.allocations.load(Ordering::SeqCst) - allocations;
        let after = Daemon::of(&self.at)?;
        let requests = match self.kind {
            Kind::Getattr | Kind::Lookup => after.requests - before.requests,
            _ => after.reads - before.reads,
        };
        let stores = after.stores - before.stores;
        Ok(Round {
            requests,
            allocations,
            stores,
            waited,
        })
    }

    /// One request.
    fn ask(&mut self) -> io::Result<()> {
        self.asked += 1;
        match self.kind {
            Kind::Getattr => self.attributes(),
            Kind::Lookup => self.look_up(),
            Kind::Text => std::fs::read(&self.path).map(drop),
            Kind::Read | Kind::Part | Kind::Direct => self.page(),
        }
    }

    /// One page of the first block, which the page cache does not have.
    fn page(&mut self) -> io::Result<()> {
        if self.kind != Kind::Direct {
            let drop = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            posix_fadvise(self.file.as_fd(), 0, 0, drop)?;
        }
        let skip = self.room.as_ptr().align_offset(PAGE);
        let off = self.asked * 7 % 16 * PAGE as u64;
        self.file.read_exact_at(&mut self.room[skip..][..PAGE], off)
    }

    /// Attributes from the server, whatever the kernel knows.
    #[allow(unsafe_code, reason = "see its SAFETY comments")]
    fn attributes(&self) -> io::Result<()> {
        // SAFETY: numbers, for which zeros are fine.
        let mut found: libc::statx = unsafe { std::mem::zeroed() };
        let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
        let (fd, all) = (self.file.as_raw_fd(), libc::STATX_BASIC_STATS);
        // SAFETY: the empty path is a string, and `found` a struct that the call fills.
        match unsafe { libc::statx(fd, c"".as_ptr(), flags, all, &raw mut found) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Nothing is made where a name leads to something; the kernel asks whether it still does.
    fn look_up(&self) -> io::Result<()> {
        let mode = nix::sys::stat::Mode::empty();
        match nix::sys::stat::mkdirat(self.dir.as_fd(), self.name.as_c_str(), mode) {
            Err(Errno::EEXIST | Errno::EROFS) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(()) => unreachable!("the mount is read-only"),
        }
    }
}
