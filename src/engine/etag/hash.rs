//! A hash thread: takes files from the queue, reads them through a ring of its own, and sends records to the owner.
//!
//! The order of things, for each file: attributes (A), open, what is dirty written out if it was changed lately, read to the end, attributes again
//! (B). A record is made if A and B are the same witness, ctime included whatever the trust level, and exactly as many bytes were read as
//! A says. Otherwise once more, and then the file is racy.
//!
//! ```text
//!   small, renames show in ctime,  A is the check's; open-read-close is one chain; B by name
//!   reads past the page cache
//!   otherwise                      open; A and B by the descriptor; reads one after another
//!   large                          the same, in pieces of which some are under way
//! ```
//!
//! With `--direct` no file is read by a chain, and all past the page cache, where its file system has such reads.
//!
//! Nothing is read of what is not a regular file. Where rings are forbidden files are read one by one ([`super::single`]).

use super::brought::Brought;
use super::check::Pass;
use super::config::{Config, wall_now};
use super::links::{Links, Share};
use super::node::open_path;
use super::owner::Handle;
use super::queue::{Item, LARGE_BYTES, Queue, Taken};
use super::root::Hasher;
use super::settle::Refused;
use super::single::one_by_one;
use super::throttle::{DEPTH, Throttle};
use super::walk::locked;
use crate::base::{Digest, Stamp};
use crate::etag::Trust;
use crate::kernel::calls::{self, Count};
use crate::kernel::chain::{Ended, PIECES, ReadRing, Step};
use crate::kernel::delay::Delays;
use crate::kernel::direct::ALIGN;
use crate::kernel::proc;
use crate::kernel::stat::{self, Kind, Resolve, Stat};
use crate::wire::catalog::Batch;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Largest buffer of a slot.
pub(super) const BUF_BYTES_MAX: usize = 128 << 10;
/// Largest piece of a large file.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Records are sent when they have so many bytes, or are so old.
pub(super) const BATCH_BYTES: usize = 256 << 10;
pub(super) const BATCH_AGE: Duration = Duration::from_secs(1);

/// Descriptors of all hash threads: files that are not in a ring's own table, and directories on the way to them.
const DESCRIPTORS_MAX: usize = 80;

/// What all hash threads share.
pub(super) struct Shared {
    pub(super) pass: Arc<Pass>,
    pub(super) queue: Arc<Queue>,
    pub(super) owner: Handle,
    pub(super) throttle: Throttle,
    /// Of mounts on this machine.
    pub(super) delays: Delays,
    pub(super) links: Links,
    pub(super) refused: Refused,
    /// Devices whose file systems have no direct reads.
    pub(super) indirect: Mutex<Vec<u64>>,
}

impl Shared {
    /// Whether files there are to be read past the page cache.
    pub(super) fn wants_direct(&self, dev: u64) -> bool {
        self.pass.config.hash.direct && !locked(&self.indirect).contains(&dev)
    }

    /// A file system has no direct reads: said once.
    pub(super) fn has_no_direct(&self, dev: u64) {
        let is_new = {
            let mut indirect = locked(&self.indirect);
            let is_new = !indirect.contains(&dev);
            indirect.extend(is_new.then_some(dev));
            is_new
        };
        if is_new {
            let (major, minor) = (libc::major(dev), libc::minor(dev));
            self.pass.sink.warn(&format!(
                "device {major}:{minor} has no direct reads: its files are read through the page cache"
            ));
        }
    }
}

/// A piece of a large file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Piece {
    #[default]
    Free,
    /// So many bytes were asked for.
    Asked(usize),
    /// So many came, of so many.
    Got(usize, usize),
}

/// Pieces, taken in turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pieces {
    pub(super) each: [Piece; PIECES],
    pub(super) next_ask: usize,
    pub(super) next_hash: usize,
}

/// How reading a file ended.
pub(super) enum Outcome {
    Digest(Digest),
    /// It is not the file that A saw, or not as long.
    Changed,
    /// It has to be read in another way.
    Again,
    Failed(i32),
    /// It is not there.
    Lost,
    /// It is no regular file.
    Kind,
}

/// A file that is read.
pub(super) struct Job {
    pub(super) item: Item,
    pub(super) hasher: Hasher,
    /// Attributes before it is read, and a moment before that.
    pub(super) a: Stat,
    pub(super) looked: Stamp,
    pub(super) chained: bool,
    /// Requests under way.
    pub(super) left: usize,
    /// Results of a chain.
    pub(super) opened: i32,
    pub(super) read: i32,
    /// Bytes hashed, and bytes asked for.
    pub(super) at: u64,
    pub(super) asked: u64,
    /// A read that may be made later: so many bytes.
    pub(super) reserved: Option<usize>,
    /// Of a large file.
    pub(super) pieces: Option<Pieces>,
    /// What goes from the page cache again.
    pub(super) brought: Option<Brought>,
    pub(super) outcome: Option<Outcome>,
    pub(super) began: Instant,
}

/// The thread.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) ring: ReadRing,
    pub(super) jobs: Vec<Option<Job>>,
    pub(super) active: usize,
    pub(super) large: Option<usize>,
    pub(super) dir: Option<(Arc<[u8]>, Arc<OwnedFd>)>,
    /// All that are open.
    dirs: Vec<Weak<OwnedFd>>,
    /// Devices whose file systems have no reads past the page cache.
    pub(super) plain: Vec<u64>,
    pub(super) batch: Batch,
    pub(super) sent: Instant,
    /// Slots that may go on at a moment.
    pub(super) due: Vec<(Instant, usize)>,
}

pub(super) fn is_uncached_refused(res: i32) -> bool {
    res == -libc::EOPNOTSUPP || res == -libc::EINVAL
}

/// Runs until nothing is left to be hashed.
pub(super) fn run(shared: Arc<Shared>) {
    let config = &shared.pass.config;
    proc::step_back(config.hash.background);
    // The ring is made for the first file: most passes have none.
    let first = loop {
        match shared.queue.take(true, Duration::from_secs(1)) {
            Taken::Item(item) => break item,
            Taken::Nothing => {}
            Taken::End => return,
        }
    };
    match ring_of(config) {
        Ok(ring) => {
            let mut thread = Thread {
                ring,
                jobs: (0..DEPTH).map(|_| None).collect(),
                active: 0,
                large: None,
                dir: None,
                dirs: Vec::new(),
                plain: Vec::new(),
                batch: Batch::new(),
                sent: Instant::now(),
                due: Vec::new(),
                shared: Arc::clone(&shared),
            };
            thread.start(first);
            if let Err(error) = thread.work() {
                thread.give_back();
                drop(thread);
                without_ring(&shared, &error);
                one_by_one(&shared, None);
            }
        }
        Err(error) => {
            without_ring(&shared, &error);
            one_by_one(&shared, Some(first));
        }
    }
}

fn without_ring(shared: &Shared, error: &io::Error) {
    let sink = &shared.pass.sink;
    sink.warn(&format!("no ring ({error}): files are read one by one"));
}

impl Thread {
    fn work(&mut self) -> io::Result<()> {
        let mut ended = Vec::new();
        loop {
            let cancelled = self.shared.pass.pulse.is_cancelled();
            if cancelled {
                self.shared.queue.clear();
            }
            let over = self.fill();
            if self.active == 0 && over {
                break;
            }
            self.go_on();
            let limit = self.pause();
            self.ring.wait(limit, &mut ended)?;
            for end in ended.drain(..) {
                self.ended(end);
            }
            self.shared.throttle.look();
            if !self.batch.is_empty() && self.sent.elapsed() > BATCH_AGE {
                self.flush();
            }
        }
        self.flush();
        Ok(())
    }

    /// The ring failed: what is under way cannot be known any more, and is hashed in another way.
    fn give_back(&mut self) {
        for job in self.jobs.iter_mut().filter_map(Option::take) {
            for other in self.shared.links.end(&job.item, None) {
                self.shared.queue.back(other);
            }
            self.shared.queue.back(job.item);
        }
        self.flush();
    }

    /// Whether one more file, and a directory, may be open.
    fn has_descriptors(&mut self) -> bool {
        self.dirs.retain(|dir| dir.strong_count() > 0);
        let files = self.jobs.iter().flatten().filter(|job| !job.chained);
        let share = DESCRIPTORS_MAX / self.shared.pass.config.hash.threads.max(1);
        self.active == 0 || self.dirs.len() + files.count() + 2 <= share
    }

    /// Takes files while there is room; true when none will come any more.
    fn fill(&mut self) -> bool {
        while self.active < self.shared.throttle.depth() && self.has_descriptors() {
            if self.shared.delays.is_behind() && !self.shared.pass.pulse.is_cancelled() {
                // What is under way ends; nothing is begun.
                if self.active == 0 {
                    self.flush_if_idle();
                    proc::pause(Duration::from_millis(10));
                }
                return false;
            }
            let wait = if self.active == 0 {
                self.flush_if_idle();
                Duration::from_millis(100)
            } else {
                Duration::ZERO
            };
            match self.shared.queue.take(self.large.is_none(), wait) {
                Taken::Item(item) => self.start(item),
                Taken::Nothing => return false,
                Taken::End => return true,
            }
        }
        false
    }

    fn flush_if_idle(&mut self) {
        if self.sent.elapsed() > BATCH_AGE {
            self.flush();
        }
    }

    fn pause(&self) -> Duration {
        let now = Instant::now();
        let due = self
            .due
            .iter()
            .map(|(at, _)| at.saturating_duration_since(now));
        let first = due.min();
        let longest = Duration::from_millis(100);
        if self.ring.pending() == 0 {
            // Nothing to reap: the ring's wait would return at once. With nothing due either, it is the queue that is waited for.
            if let Some(first) = first {
                proc::pause(first.min(longest));
            }
            return Duration::ZERO;
        }
        first
            .unwrap_or(longest)
            .clamp(Duration::from_micros(100), longest)
    }

    pub(super) fn flush(&mut self) {
        self.sent = Instant::now();
        let batch = std::mem::replace(&mut self.batch, Batch::new());
        self.shared.owner.apply(batch);
    }

    /// The directory of an item; the last one is kept open.
    pub(super) fn dir(&mut self, item: &Item) -> io::Result<Arc<OwnedFd>> {
        if let Some((path, fd)) = &self.dir
            && *path == item.dir
        {
            return Ok(Arc::clone(fd));
        }
        let root = &self.shared.pass.root;
        let resolve = Resolve::below(self.shared.pass.config.cross_device);
        let fd = Arc::new(open_path(root.fd(), &item.dir, resolve)?);
        self.dirs.push(Arc::downgrade(&fd));
        self.dir = Some((Arc::clone(&item.dir), Arc::clone(&fd)));
        Ok(fd)
    }

    fn start(&mut self, item: Box<Item>) {
        let item = match self.shared.links.ask(item) {
            Share::Hash(item) => *item,
            Share::Waits => return,
            Share::Known(item, record) => return self.known(*item, &record),
        };
        let dir = match self.dir(&item) {
            Ok(dir) => dir,
            Err(error) => return self.settle(item, failed(&error), None),
        };
        let slot = self
            .jobs
            .iter()
            .position(Option::is_none)
            .expect("there is room below the depth");
        let size = item.stat.witness.size;
        let pass = &self.shared.pass;
        let strict = pass.config.trust == Trust::Strict;
        let small = size < self.ring.buf_bytes() as u64;
        let facts = pass.root.facts_of(item.stat.dev);
        // A chain cannot ask what is in memory before it reads, nor what it has opened: but reads past the page cache are of regular files
        // alone, so it may have these.
        let leaves = !self.plain.contains(&item.stat.dev);
        let direct = self.shared.wants_direct(item.stat.dev);
        let chained = small && strict && facts.renames_show && !item.alone && leaves && !direct;
        if size >= LARGE_BYTES {
            self.large = Some(slot);
        }
        let throttle = &self.shared.throttle;
        let now = Instant::now();
        let due = throttle.file().unwrap_or(now);
        let due = match chained {
            true => due.max(throttle.bytes(size).unwrap_or(now)),
            false => due,
        };
        self.jobs[slot] = Some(Job {
            hasher: Hasher::new(pass.config.algo),
            a: item.stat,
            looked: item.looked,
            chained,
            left: 0,
            opened: 0,
            read: 0,
            at: 0,
            asked: 0,
            reserved: None,
            pieces: None,
            brought: None,
            outcome: None,
            began: now,
            item,
        });
        self.active += 1;
        if due > now {
            self.due.push((due, slot));
            // The way there is opened again when it is due.
            return;
        }
        self.submit(slot, dir);
    }

    fn wants_sync(&self, a: &Stat) -> bool {
        is_unsettled(a, self.shared.pass.config.hash.settle)
    }

    fn submit(&mut self, slot: usize, dir: Arc<OwnedFd>) {
        let job = self.jobs[slot].as_ref().expect("it was begun");
        let name = job.item.name.to_owned().into();
        let leaves = !self.plain.contains(&job.item.stat.dev);
        self.ring.set_dont_cache(slot, leaves);
        if job.chained {
            let len = usize::try_from(job.a.witness.size + 1).unwrap_or(usize::MAX);
            let sync = self.wants_sync(&job.a);
            let left = self.ring.chain(slot, dir, name, len, sync);
            self.jobs[slot].as_mut().expect("it was begun").left = left;
        } else {
            self.ring.open(slot, dir, name);
            self.jobs[slot].as_mut().expect("it was begun").left = 1;
        }
    }

    /// Slots whose moment has come.
    fn go_on(&mut self) {
        let now = Instant::now();
        let mut ready = Vec::new();
        self.due.retain(|&(at, slot)| {
            let is_due = at <= now;
            if is_due {
                ready.push(slot);
            }
            !is_due
        });
        for slot in ready {
            let job = self.jobs[slot].as_mut().expect("it waits");
            if self.shared.pass.pulse.is_cancelled() {
                self.abandon(slot);
            } else if let Some(wanted) = job.reserved.take() {
                self.ask(slot, wanted);
                self.read(slot);
            } else {
                let item = job.item.clone();
                match self.dir(&item) {
                    Ok(dir) => self.submit(slot, dir),
                    Err(error) => self.finish(slot, failed(&error)),
                }
            }
        }
    }

    /// Gives a file up that is not read to its end: it stays as it was.
    pub(super) fn abandon(&mut self, slot: usize) {
        let Some(job) = self.jobs[slot].take() else {
            return;
        };
        self.free(slot);
        for other in self.shared.links.end(&job.item, None) {
            self.shared.queue.back(other);
        }
        self.shared.queue.done();
    }

    pub(super) fn free(&mut self, slot: usize) {
        self.ring.release(slot);
        self.active -= 1;
        if self.large == Some(slot) {
            self.large = None;
        }
    }

    fn ended(&mut self, end: Ended) {
        let job = self.jobs[end.slot].as_mut().expect("requests have jobs");
        job.left -= 1;
        if job.chained {
            match end.step {
                Step::Open => job.opened = end.res,
                Step::Sync if end.res < 0 && job.opened >= 0 => job.opened = end.res,
                Step::Read => job.read = end.res,
                _ => {}
            }
            if job.left == 0 {
                self.chain_ended(end.slot);
            }
            return;
        }
        match end.step {
            Step::Open => self.opened(end.slot, end.res),
            Step::Sync if sync_failed(end.res) => {
                self.finish(end.slot, Outcome::Failed(-end.res));
            }
            Step::Sync => self.read(end.slot),
            Step::Read => self.got(end.slot, end.res),
            Step::Piece(piece) => self.got_piece(end.slot, piece, end.res),
            Step::Close => {}
        }
    }

    fn chain_ended(&mut self, slot: usize) {
        let job = self.jobs[slot].as_mut().expect("its chain ended");
        let size = job.a.witness.size;
        self.shared.throttle.took(job.began.elapsed());
        let refused = job.opened < 0 && !sync_failed(job.opened);
        if refused || job.opened >= 0 && job.read < 0 {
            // No such open, sync or read here, or it is no regular file: its descriptor will tell.
            return self.finish(slot, Outcome::Again);
        }
        if job.opened < 0 {
            let error = io::Error::from_raw_os_error(-job.opened);
            return self.finish(slot, failed(&error));
        }
        let len = usize::try_from(job.read).unwrap_or(0);
        calls::add(Count::BytesRead, len);
        if len as u64 != size {
            return self.finish(slot, Outcome::Changed);
        }
        let bytes = self.ring.bytes(slot, len);
        job.hasher.update(bytes);
        let hasher = job.hasher.clone();
        self.finish(slot, Outcome::Digest(hasher.end()));
    }

    fn opened(&mut self, slot: usize, res: i32) {
        if res < 0 {
            return self.finish(slot, failed(&io::Error::from_raw_os_error(-res)));
        }
        let looked = wall_now();
        let fd = self.ring.opened(slot, res);
        let a = match stat::stat_fd(fd) {
            Ok(a) if a.kind != Kind::File => return self.finish(slot, Outcome::Kind),
            Ok(a) => a,
            Err(error) => return self.finish(slot, failed(&error)),
        };
        let direct = self.shared.wants_direct(a.dev);
        match self.ring.set_waiting(slot, direct) {
            Ok(is_direct) if direct && !is_direct => self.shared.has_no_direct(a.dev),
            Ok(_) => {}
            Err(error) => return self.finish(slot, failed(&error)),
        }
        let job = self.jobs[slot].as_mut().expect("it was opened");
        job.a = a;
        job.looked = looked;
        if let Some(bend) = &self.shared.pass.config.bend {
            bend(&job.item.dir, job.item.name.to_bytes(), &mut job.a);
        }
        if a.witness.size >= LARGE_BYTES && self.large == Some(slot) {
            job.pieces = Some(Pieces::default());
        }
        let leaves = !self.plain.contains(&a.dev);
        self.ring.set_dont_cache(slot, leaves);
        let through = !leaves && !self.ring.is_direct(slot);
        if through && !self.shared.pass.root.facts_of(a.dev).mapped_hide {
            let file = self.ring.file(slot).expect("it was opened");
            job.brought = Brought::of(file, a.witness.size);
        }
        if self.wants_sync(&a) {
            self.ring.sync(slot);
            self.jobs[slot].as_mut().expect("it was opened").left = 1;
        } else {
            self.read(slot);
        }
    }
}

/// Whether a sync came to something else than not being possible there.
pub(super) fn sync_failed(res: i32) -> bool {
    let none = [
        -libc::EINVAL,
        -libc::EROFS,
        -libc::ENOSYS,
        -libc::EOPNOTSUPP,
    ];
    res < 0 && !none.contains(&res)
}

/// How an error ends the reading of a file.
pub(super) fn failed(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESTALE | libc::ENOTDIR) => Outcome::Lost,
        // A link, a socket, a device without a driver.
        Some(libc::ELOOP | libc::ENXIO | libc::ENODEV | libc::EISDIR) => Outcome::Kind,
        other => Outcome::Failed(other.unwrap_or(libc::EIO)),
    }
}

/// Whether what was written to a file is to reach the disk before it is read.
pub(super) fn is_unsettled(a: &Stat, settle: Duration) -> bool {
    let age = wall_now().nanos() - a.witness.mtime.nanos();
    // A time in the future says nothing about when it was written.
    age < i128::try_from(settle.as_nanos()).unwrap_or(i128::MAX) && !settle.is_zero()
}

/// The ring of a hash thread, with its share of the buffers.
///
/// # Errors
/// io_uring is forbidden or too old: files are read one by one then.
pub fn ring_of(config: &Config) -> io::Result<ReadRing> {
    let share = (config.hash.mem / config.hash.threads.max(1)).max(64 << 10);
    // Of whole pages: direct reads are.
    let whole = |bytes: usize| bytes / ALIGN * ALIGN;
    let piece = whole(share / 2 / PIECES).clamp(ALIGN, PIECE_BYTES_MAX);
    let buf = (share.saturating_sub(piece * PIECES) / DEPTH).clamp(512, BUF_BYTES_MAX);
    let buf = if config.hash.direct {
        whole(buf).max(ALIGN)
    } else {
        buf
    };
    ReadRing::new(DEPTH, buf, piece, Resolve::below(config.cross_device))
}
