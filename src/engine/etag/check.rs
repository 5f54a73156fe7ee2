//! A check: the pass over a tree, and what follows when all of it was seen.
//!
//! What is gone of directories that are still there is known directory by directory. Directories that were never met are gone if
//! nothing above them was left out or could not be read; if the pass was cancelled nothing is concluded.

use super::config::{Config, Counter, Found, Pulse, Sink, join};
use super::dir::Worker;
use super::facts::Facts;
use super::node::Node;
use super::owner::Handle;
use super::queue::{Item, Queue, Rank};
use super::root::Root;
use super::walk::{Load, Pool, Unit, locked};
use crate::etag::rename::Renames;
use crate::etag::{Reason, State, Trust, Verdict};
use crate::kernel::proc;
use crate::store::catalog::{Manifest, Snapshot};
use crate::wire::catalog::{Batch, Entries, Op, Record, Run};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// New files that are put by until it is known which files are gone.
const DEFERRED_MAX: usize = 100_000;
/// Workers per processor where answers come from afar, or turn out to be waited for.
const FAR_WORKERS: usize = 4;
const WORKERS_MAX: usize = 64;

/// Where a scan sends what a check finds.
pub(super) struct ScanSide {
    pub(super) queue: Arc<Queue>,
    pub(super) owner: Handle,
}

/// One pass over one tree.
pub(super) struct Pass {
    pub(super) config: Config,
    pub(super) root: Root,
    pub(super) snapshot: Option<Arc<dyn Snapshot>>,
    pub(super) rebound: bool,
    /// A bit for each run whose directory was met.
    pub(super) visited: Vec<AtomicU64>,
    /// Directories of which nothing is concluded.
    pub(super) kept: Mutex<Vec<Vec<u8>>>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) pool: Pool,
    /// Workers that begin.
    pub(super) workers: usize,
    load: Load,
    more: Mutex<Vec<JoinHandle<()>>>,
    /// Further ones that may be started.
    more_max: usize,
    pub(super) scan: Option<ScanSide>,
    pub(super) seed: u64,
    renames: Mutex<Renames>,
    deferred: Mutex<Vec<Item>>,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Directories read.
    pub dirs: u64,
    /// Regular files met.
    pub files: u64,
    /// Paths in each state, in the order of [`State::ALL`].
    pub states: [u64; State::ALL.len()],
    /// Files hashed.
    pub hashed: u64,
    /// Their bytes.
    pub hashed_bytes: u64,
    /// Files that moved with their digest.
    pub renamed: u64,
    /// Attributes that mean nothing.
    pub bad_attrs: u64,
    /// Attributes that could not be written.
    pub attrs_failed: u64,
    /// Damaged runs of the catalog.
    pub damaged_runs: u64,
    /// Ended before all was seen.
    pub cancelled: bool,
    /// Time on the wall.
    pub wall: Duration,
    /// Of that, the pass over names and attributes.
    pub check: Duration,
}

impl Summary {
    /// Paths in a state.
    pub fn state(&self, state: State) -> u64 {
        self.states[state as usize]
    }

    pub(super) fn of(pulse: &Pulse, began: Instant, check: Duration) -> Self {
        Self {
            dirs: pulse.get(Counter::Dirs),
            files: pulse.get(Counter::Files),
            states: State::ALL.map(|state| pulse.state(state)),
            hashed: pulse.get(Counter::Hashed),
            hashed_bytes: pulse.get(Counter::HashedBytes),
            renamed: pulse.get(Counter::Renamed),
            bad_attrs: pulse.get(Counter::BadAttrs),
            attrs_failed: pulse.get(Counter::AttrsFailed),
            damaged_runs: pulse.get(Counter::DamagedRuns),
            cancelled: pulse.is_cancelled(),
            wall: began.elapsed(),
            check,
        }
    }
}

/// Checks a tree against its catalog. Changes nothing, and opens nothing but directories.
///
/// # Errors
/// There is no room for a thread.
pub fn check(
    root: Root,
    config: Config,
    catalog: Option<(Manifest, Arc<dyn Snapshot>)>,
    sink: Arc<dyn Sink>,
    pulse: Arc<Pulse>,
) -> io::Result<Summary> {
    let began = Instant::now();
    let (rebound, snapshot) = match catalog {
        Some((manifest, snapshot)) => (manifest.rebound, Some(snapshot)),
        None => (false, None),
    };
    let pass = Pass::new(
        root,
        config,
        snapshot,
        rebound,
        sink,
        Arc::clone(&pulse),
        None,
    );
    pass.run()?;
    Ok(Summary::of(&pulse, began, began.elapsed()))
}

impl Pass {
    pub(super) fn new(
        root: Root,
        config: Config,
        snapshot: Option<Arc<dyn Snapshot>>,
        rebound: bool,
        sink: Arc<dyn Sink>,
        pulse: Arc<Pulse>,
        scan: Option<ScanSide>,
    ) -> Arc<Self> {
        let runs = snapshot.as_ref().map_or(0, |s| s.len());
        let far = matches!(
            root.identity.fs_type.as_str(),
            "nfs" | "smb2" | "cifs" | "fuse"
        );
        let processors = proc::processors();
        let most = (processors * FAR_WORKERS).min(WORKERS_MAX);
        let (workers, most) = match config.threads {
            0 if far => (most, most),
            0 => (processors.min(WORKERS_MAX), most),
            n => (n.min(WORKERS_MAX), n.min(WORKERS_MAX)),
        };
        if let Some(damaged) = snapshot.as_ref().map(|s| s.damaged()).filter(|n| *n > 0) {
            pulse.add(Counter::DamagedRuns, damaged as u64);
        }
        let seed = super::config::wall_now().nanos();
        Arc::new(Self {
            config,
            root,
            rebound,
            visited: (0..runs.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            snapshot,
            kept: Mutex::default(),
            pulse,
            sink,
            pool: Pool::new(most),
            workers,
            load: Load::new(processors),
            more: Mutex::default(),
            more_max: most - workers,
            scan,
            seed: u64::try_from(seed & i128::from(u64::MAX)).unwrap_or(0),
            renames: Mutex::default(),
            deferred: Mutex::default(),
        })
    }

    /// Walks, and concludes.
    pub(super) fn run(self: &Arc<Self>) -> io::Result<()> {
        self.warn_of(&self.root.facts);
        let node = Node::root(self.root.dup()?, self.root.place());
        self.pool.push(0, Unit::Root(node));
        let mut threads = Vec::new();
        for index in 1..self.workers {
            let pass = Arc::clone(self);
            threads.push(proc::spawn("zring-check", move || {
                Worker::new(pass, index).work();
            })?);
        }
        Worker::new(Arc::clone(self), 0).work();
        for thread in threads {
            thread.join().expect("a panic ends the process");
        }
        // One of these may still start another.
        while let Some(thread) = { locked(&self.more).pop() } {
            thread.join().expect("a panic ends the process");
        }
        if !self.pulse.is_cancelled() {
            self.conclude();
        }
        Ok(())
    }

    fn warn_of(&self, facts: &Facts) {
        if facts.mapped_hide && self.scan.is_some() {
            self.sink.warn(&format!(
                "on {} a store through a mapping changes no time: such changes are not seen",
                facts.type_name()
            ));
        }
    }

    /// A directory is on another file system than the one it is in.
    pub(super) fn enter(&self, dir: BorrowedFd<'_>, dev: u64) {
        if let Some(facts) = self.root.enter(dir, dev) {
            self.warn_of(&facts);
        }
    }

    /// Starts one more worker, if that is worth it; asked after each unit.
    pub(super) fn grow(self: &Arc<Self>) {
        if self.more_max == 0 || !self.load.wants_more(&self.pool) {
            return;
        }
        let mut more = locked(&self.more);
        if more.len() == self.more_max {
            return;
        }
        let index = self.workers + more.len();
        let pass = Arc::clone(self);
        let started = proc::spawn("zring-check", move || Worker::new(pass, index).work());
        more.extend(started);
    }

    pub(super) fn send(&self, batch: Batch) {
        if let Some(scan) = &self.scan {
            scan.owner.apply(batch);
        }
    }

    /// Has a file hashed; only in a scan.
    pub(super) fn queue(&self, item: Item) {
        let Some(scan) = &self.scan else { return };
        let size = item.stat.witness.size;
        self.pulse.add(Counter::Queued, 1);
        self.pulse.add(Counter::QueuedBytes, size);
        if !scan.queue.push(item, || self.pulse.is_cancelled()) {
            self.pulse.sub(Counter::Queued, 1);
            self.pulse.sub(Counter::QueuedBytes, size);
        }
    }

    /// Puts a new file by, where a file that is gone may turn out to be the same; gives it back if that is not so.
    pub(super) fn defer(&self, item: Item) -> Option<Item> {
        if !self.config.trust.follows_renames() || self.snapshot.is_none() {
            return Some(item);
        }
        let mut deferred = locked(&self.deferred);
        if deferred.len() >= DEFERRED_MAX {
            return Some(item);
        }
        deferred.push(item);
        None
    }

    /// A record without a file, which may turn up under another name.
    pub(super) fn defer_gone(&self, dir: &[u8], name: &[u8], record: &Record) {
        locked(&self.renames).gone(&join(dir, name), record);
    }

    fn conclude(&self) {
        let mut batch = Batch::new();
        self.vanished(&mut batch);
        let mut renames = std::mem::take(&mut *locked(&self.renames));
        for item in std::mem::take(&mut *locked(&self.deferred)) {
            match renames.claim(&item.stat.witness) {
                Some((old, record)) => self.renamed(&item, &old, &record, &mut batch),
                None if self.scan.is_some() => self.queue(item),
                None => self.say(
                    &item.dir,
                    item.name.to_bytes(),
                    Verdict::new(State::New, None),
                    Some(&item),
                    None,
                ),
            }
        }
        for (path, record) in renames.rest() {
            let (dir, name) = crate::store::catalog::split(&path);
            self.gone(dir, name, &record, &mut batch);
        }
        self.send(batch);
    }

    /// Records of directories that were never met.
    fn vanished(&self, batch: &mut Batch) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let mut kept = std::mem::take(&mut *locked(&self.kept));
        kept.sort_unstable();
        let is_kept = |path: &[u8]| {
            kept.binary_search_by(|k| k.as_slice().cmp(path)).is_ok()
                || kept.first().is_some_and(Vec::is_empty)
                || path.iter().enumerate().any(|(at, &c)| {
                    c == b'/'
                        && kept
                            .binary_search_by(|k| k.as_slice().cmp(&path[..at]))
                            .is_ok()
                })
        };
        let mut bytes = Vec::new();
        for run in 0..snapshot.len() {
            if self.visited[run / 64].load(Relaxed) & 1 << (run % 64) != 0 {
                continue;
            }
            let path = snapshot.path(run);
            let beyond = self.config.scope.as_ref().is_some_and(|s| !s.holds(&path));
            if beyond || is_kept(&path) {
                continue;
            }
            if snapshot.load(run, &mut bytes).is_ok()
                && let Ok(parsed) = Run::parse(&bytes)
            {
                for entry in Entries(parsed.entries).filter(|e| !e.is_dir()) {
                    let record = entry.record();
                    if self.config.trust == Trust::Strict {
                        self.count_gone(&path, entry.name, &record);
                    } else {
                        self.defer_gone(&path, entry.name, &record);
                    }
                }
            }
            batch.push(&Op::RemoveTree { path: &path });
        }
    }

    fn gone(&self, dir: &[u8], name: &[u8], record: &Record, batch: &mut Batch) {
        self.count_gone(dir, name, record);
        batch.push(&Op::Remove { dir, name });
    }

    fn count_gone(&self, dir: &[u8], name: &[u8], record: &Record) {
        self.pulse.enter(State::Gone, 1);
        self.say(
            dir,
            name,
            Verdict::new(State::Gone, None),
            None,
            Some(record),
        );
    }

    fn renamed(&self, item: &Item, old: &[u8], record: &Record, batch: &mut Batch) {
        self.pulse.add(Counter::Renamed, 1);
        self.pulse.leave(State::New);
        let name = item.name.to_bytes();
        let now = item.looked;
        let verdict = Verdict::of(
            self.config.trust,
            record,
            &item.stat.witness,
            item.stat.verity,
            now,
        );
        let verdict = match verdict.state {
            State::Fresh => Verdict::new(State::Fresh, Reason::Renamed),
            _ => verdict,
        };
        self.pulse.enter(verdict.state, 1);
        let (dir, old_name) = crate::store::catalog::split(old);
        batch.push(&Op::Remove {
            dir,
            name: old_name,
        });
        batch.push(&Op::Put {
            dir: &item.dir,
            name,
            record: *record,
        });
        if verdict.state != State::Fresh && self.scan.is_some() {
            let mut item = item.clone();
            item.rank = Rank::of(verdict);
            item.old = Some(*record);
            self.queue(item);
        } else if verdict.state != State::Fresh || self.sink.wants_fresh() {
            self.say(&item.dir, name, verdict, Some(item), Some(record));
        }
    }

    fn say(
        &self,
        dir: &[u8],
        name: &[u8],
        verdict: Verdict,
        item: Option<&Item>,
        record: Option<&Record>,
    ) {
        self.sink.found(&Found {
            dir,
            name,
            verdict,
            stat: item.map(|item| &item.stat),
            record,
            errno: None,
        });
    }
}
