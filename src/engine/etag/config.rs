//! What a pass is told, and what it tells.

use crate::base::{Algo, Stamp};
use crate::etag::pick::Exclude;
use crate::etag::scope::Scope;
use crate::etag::{State, Trust, Verdict};
use crate::kernel::stat::Stat;
use crate::wire::catalog::Record;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What is done with `user.drpetag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrUse {
    /// Nothing.
    Off,
    /// A new path takes over what it says.
    #[default]
    Read,
    /// It is also written after a file was hashed.
    Write,
}

/// How attributes are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetaEngine {
    /// statx on worker threads.
    #[default]
    Threads,
    /// statx in batches on a ring.
    Uring,
}

/// Bounds of hashing.
#[derive(Clone, Copy, Debug)]
pub struct HashConfig {
    /// Threads that hash.
    pub threads: usize,
    /// Bytes of all their buffers.
    pub mem: usize,
    /// Bytes a second; None for no bound.
    pub bps: Option<u64>,
    /// Files a second.
    pub files_per_sec: Option<u64>,
    /// Pressure of the machine in percent, beyond which less is read at a time.
    pub pressure: f64,
    /// Files are read past the page cache (O_DIRECT), where their file systems have such reads.
    pub direct: bool,
    /// Only in what nobody else uses of the machine.
    pub background: bool,
    /// Pauses while requests wait in a mount of this program on the same machine. Other processes of this program ask for that.
    pub yields: bool,
    /// Files changed less than this ago are written out before they are read: who writes them through a mapping shows again.
    pub settle: Duration,
}

impl Default for HashConfig {
    fn default() -> Self {
        Self {
            threads: 4,
            mem: 64 << 20,
            bps: None,
            files_per_sec: None,
            pressure: 40.0,
            direct: false,
            background: false,
            yields: false,
            // The usual expiry of dirty pages, and one interval of the writer.
            settle: Duration::from_secs(35),
        }
    }
}

/// A hook into what statx says, for tests: the path of the directory, the name, the answer.
pub type Bend = Arc<dyn Fn(&[u8], &[u8], &mut Stat) + Send + Sync>;

/// What is to be done, and how.
#[derive(Clone, Default)]
pub struct Config {
    /// What counts as unchanged.
    pub trust: Trust,
    /// Extended attributes.
    pub xattr: XattrUse,
    /// How digests are made.
    pub algo: Algo,
    /// What is left out.
    pub exclude: Exclude,
    /// Other file systems are entered.
    pub cross_device: bool,
    /// Mounts of this program are entered.
    pub allow_ours: bool,
    /// Workers; 0 for one per CPU that is allowed.
    pub threads: usize,
    /// Directories whose times did not move are not listed.
    pub quick: bool,
    /// How attributes are asked for.
    pub meta: MetaEngine,
    /// Share of the fresh files that is read again.
    pub verify: f64,
    /// What differs from its digest without a sign gets a new one.
    pub accept_corrupt: bool,
    /// Bounds of hashing.
    pub hash: HashConfig,
    /// The part that is looked at; None for all.
    pub scope: Option<Arc<Scope>>,
    /// For tests.
    pub bend: Option<Bend>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({:?}, {} threads)", self.trust, self.threads)
    }
}

/// What is known of a path.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its directory, from the root.
    pub dir: &'a [u8],
    /// Its name there; empty for the root itself.
    pub name: &'a [u8],
    /// Its state.
    pub verdict: Verdict,
    /// What statx says, if it was asked.
    pub stat: Option<&'a Stat>,
    /// Its record: of a stale file the old one.
    pub record: Option<&'a Record>,
    /// Why it is unreadable.
    pub errno: Option<i32>,
}

impl Found<'_> {
    /// Its path from the root.
    pub fn path(&self) -> Vec<u8> {
        join(self.dir, self.name)
    }
}

/// A path from directory and name.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Is told of paths, on many threads at a time.
pub trait Sink: Send + Sync {
    /// Of a path that is not fresh, or of any if [`Sink::wants_fresh`]. A scan tells how a path ended.
    fn found(&self, found: &Found<'_>);

    /// Whether fresh and skipped ones are told too.
    fn wants_fresh(&self) -> bool {
        false
    }

    /// Whether files are told that are fresh because they were hashed just now.
    fn wants_hashed(&self) -> bool {
        self.wants_fresh()
    }

    /// Something that concerns the root as a whole.
    fn warn(&self, _warning: &str) {}
}

/// Sinks that need nothing.
impl Sink for () {
    fn found(&self, _: &Found<'_>) {}
}

/// What a pass counts, beside states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Directories read to their end.
    Dirs,
    /// Regular files met.
    Files,
    /// Files hashed.
    Hashed,
    /// Their bytes.
    HashedBytes,
    /// Files waiting to be hashed.
    Queued,
    /// Their bytes.
    QueuedBytes,
    /// Attributes that mean nothing.
    BadAttrs,
    /// Attributes written.
    AttrsWritten,
    /// Attributes that could not be written.
    AttrsFailed,
    /// Runs of the catalog that are damaged.
    DamagedRuns,
    /// Files whose name moved and whose digest moved with it.
    Renamed,
    /// Directories that could not be read.
    DirErrors,
}

const COUNTERS: usize = Counter::DirErrors as usize + 1;
const STATES: usize = State::ALL.len();

/// Counters of a pass while it runs, and the token that cancels it.
#[derive(Debug, Default)]
pub struct Pulse {
    counters: [AtomicU64; COUNTERS],
    states: [AtomicU64; STATES],
    stop: AtomicBool,
}

impl Pulse {
    /// A new one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the pass soon: what was found is kept, what is gone is not concluded.
    pub fn cancel(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether it is to end.
    pub fn is_cancelled(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Counts `n` more.
    pub fn add(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].fetch_add(n, Relaxed);
    }

    /// Counts `n` fewer.
    pub(super) fn sub(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].fetch_sub(n, Relaxed);
    }

    /// A count.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Relaxed)
    }

    /// Paths in a state so far.
    pub fn state(&self, state: State) -> u64 {
        self.states[state as usize].load(Relaxed)
    }

    /// Paths that are in a state.
    pub(super) fn enter(&self, state: State, n: u64) {
        self.states[state as usize].fetch_add(n, Relaxed);
    }

    /// A path that left a state for another.
    pub(super) fn leave(&self, state: State) {
        self.states[state as usize].fetch_sub(1, Relaxed);
    }
}

/// The time on the wall.
#[allow(clippy::disallowed_methods, reason = "stamps are compared with it")]
pub(super) fn wall_now() -> Stamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or_else(
        |before| -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
        |after| i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
    );
    Stamp::from_nanos(nanos)
}
