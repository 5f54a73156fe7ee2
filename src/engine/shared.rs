//! What all threads of one mount share, and the messages between them.
//!
//! Shared is what is read often and changed rarely: names (a lock held for a map operation, on LOOKUP, FORGET
//! and listing alone), head as shown, counters of each worker. Everything else moves as a message:
//!
//! ```text
//!   control --Ask, View, Shown--> workers           workers --Answered, Took--> control
//!   control --Drop-->  notifier  --Dropped--> control
//!   workers --Store--> notifier                      one queue, so that stores of an old view come first
//! ```

use super::log::Log;
use crate::base::{NodeId, Oid, Tid, Unique};
use crate::fs::attr::Owner;
use crate::fs::touch::Touches;
use crate::fs::tree::Tree;
use crate::kernel::proc::Waker;
use crate::store::file::FileView;
use bytes::Bytes;
use crossbeam_channel::Sender;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Shared by all threads of a mount.
#[derive(Debug)]
pub struct Shared {
    tree: Mutex<Tree>,
    head: AtomicU64,
    /// The database cannot be trusted any more: everything under head is EIO.
    pub failed: AtomicBool,
    /// No new opens.
    pub stopping: AtomicBool,
    /// LOOKUPs of a `@tid` beyond head that are parked somewhere.
    pub future_lookups: AtomicUsize,
    /// Bytes of stores queued for the notifier.
    pub store_bytes: AtomicUsize,
    /// Number of the newest state, and the state: there before any worker is told of it.
    newest: AtomicU64,
    newest_state: Mutex<Option<Arc<Published>>>,
    /// Of each worker.
    pub counters: Vec<Counters>,
    /// Blocks each worker noted; see [`Self::touches`].
    touches: Vec<Notes>,
    /// `.wcfs/zurl`
    pub zurl: String,
    /// `.wcfs/pintimeout`
    pub pintimeout: String,
    /// Of every node.
    pub owner: Owner,
    /// Largest record loaded.
    pub max_record: usize,
    /// Where lines go.
    pub log: Log,
}

/// What one worker counts; a cache line of its own, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// All requests.
    pub requests: AtomicU64,
    /// READs of big files.
    pub reads: AtomicU64,
    /// Bytes of them.
    pub read_bytes: AtomicU64,
    /// Replies with an errno other than ENOSYS.
    pub errors: AtomicU64,
    /// Objects loaded from the database.
    pub loads: AtomicU64,
    /// Reads of the database that had to wait.
    pub waits: AtomicU64,
    /// Blocks handed to the page cache beyond what was asked.
    pub stores: AtomicU64,
    /// Records that could not be decoded.
    pub rejected: AtomicU64,
}

impl Counters {
    /// Adds to a counter that only this worker writes.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}

/// A cache line of its own too.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Notes(Mutex<Touches>);

/// What a `Shared` starts from.
#[derive(Debug)]
pub struct Setup {
    /// Head at the start.
    pub at: Tid,
    /// Number of workers.
    pub workers: usize,
    /// As given by the user.
    pub zurl: String,
    /// In seconds, as shown.
    pub pintimeout: String,
    /// Who owns the nodes.
    pub owner: Owner,
    /// Largest record loaded.
    pub max_record: usize,
    /// Where lines go.
    pub log: Log,
}

impl Shared {
    /// At the start of a mount.
    pub fn new(setup: Setup) -> Self {
        Self {
            tree: Mutex::default(),
            head: AtomicU64::new(setup.at.0),
            failed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            future_lookups: AtomicUsize::new(0),
            store_bytes: AtomicUsize::new(0),
            newest: AtomicU64::new(0),
            newest_state: Mutex::default(),
            counters: (0..setup.workers).map(|_| Counters::default()).collect(),
            touches: (0..setup.workers).map(|_| Notes::default()).collect(),
            zurl: setup.zurl,
            pintimeout: setup.pintimeout,
            owner: setup.owner,
            max_record: setup.max_record,
            log: setup.log,
        }
    }

    /// Notes of a worker, for itself, and for another that stores a block. `None` when somebody has them just now:
    /// nobody waits for them, a note that is lost costs a store.
    pub fn touches(&self, worker: usize) -> Option<MutexGuard<'_, Touches>> {
        self.touches[worker].0.try_lock().ok()
    }

    /// Names and nodes; held for one operation on them, never across anything that waits.
    pub fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().expect("a panic aborts")
    }

    /// What `head/at` shows.
    pub fn head(&self) -> Tid {
        Tid(self.head.load(Ordering::SeqCst))
    }

    /// `head/at` shows `tid` from now on.
    pub fn show_head(&self, tid: Tid) {
        // In one order with `future_lookups`: either control sees who waits, or who waits sees the new head.
        self.head.store(tid.0, Ordering::SeqCst);
    }

    /// Every request that a worker begins from now on is answered as of this state, or a later one.
    pub fn publish(&self, published: Arc<Published>) {
        let number = published.number;
        let state = Some(published);
        *self.newest_state.lock().expect("a panic aborts") = state;
        self.newest.store(number, Ordering::Release);
    }

    /// A state newer than `number`, if there is one.
    pub fn newer_than(&self, number: u64) -> Option<Arc<Published>> {
        if self.newest.load(Ordering::Acquire) <= number {
            return None;
        }
        self.newest_state.lock().expect("a panic aborts").clone()
    }

    fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters
            .iter()
            .map(|c| counter(c).load(Ordering::Relaxed))
            .sum()
    }

    /// Requests of all workers so far.
    pub fn requests(&self) -> u64 {
        self.sum(|c| &c.requests)
    }

    /// `.wcfs/stats`: the names its readers know first, ours behind; capitals are gauges.
    pub fn stats(&self) -> String {
        let (files, revs) = self.tree().counts();
        let count = |n: usize| n as u64;
        let lines = [
            ("BigFile", count(files)),
            ("RevHead", count(revs)),
            ("ZHeadLink", 0),
            ("WatchLink", 0),
            ("Watch", 0),
            ("PinnedBlk", 0),
            ("pin", 0),
            ("pinkill", 0),
            ("fuse_request", self.sum(|c| &c.requests)),
            ("fuse_read", self.sum(|c| &c.reads)),
            ("fuse_read_bytes", self.sum(|c| &c.read_bytes)),
            ("fuse_error", self.sum(|c| &c.errors)),
            ("load", self.sum(|c| &c.loads)),
            ("load_wait", self.sum(|c| &c.waits)),
            ("store", self.sum(|c| &c.stores)),
            ("decode_rejected", self.sum(|c| &c.rejected)),
        ];
        lines
            .iter()
            .map(|(name, value)| format!("{name}\t: {value}\n"))
            .collect()
    }
}

/// A new state of head, for every worker.
#[derive(Clone, Debug)]
pub struct Published {
    /// States are numbered as they are published.
    pub number: u64,
    /// Its transaction.
    pub tid: Tid,
    /// What it changed; `None` when nobody can tell, and everything may have.
    pub oids: Option<Arc<[Oid]>>,
    /// The database as of it.
    pub view: FileView,
}

/// To a worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// These objects are about to change; answered by `Answered`.
    Ask(Option<Arc<[Oid]>>),
    /// Head is this from now on; answered by `Took`.
    View(Arc<Published>),
    /// The same database, read from another file.
    Switched(FileView),
    /// `head/at` moved: parked look-ups may go on.
    Shown,
    /// The caller of a request was signalled.
    Interrupt(Unique),
    /// The kernel forgot these nodes.
    Forgotten(Arc<[NodeId]>),
}

/// To control.
#[derive(Debug)]
pub enum ToControl {
    /// Head files that a worker has read through what is about to change.
    Answered(Vec<NodeId>),
    /// A worker has the view; these head files were read through what changed.
    Took(Vec<NodeId>),
    /// The notifier dropped a file.
    Dropped,
    /// The kernel refused to drop a file: nothing can be trusted any more.
    DropFailed(crate::kernel::notify::NotifyError),
    /// A file that replaced the database was opened.
    Rebuilt(Box<Result<crate::store::file::Rebuilt, crate::store::file::OpenError>>),
    /// The mount is ending.
    Stop,
}

/// To the notifier.
#[derive(Debug)]
pub enum Notice {
    /// Drop every page of the file, and its attributes; answered by `Dropped`.
    Drop(NodeId),
    /// Let go of a name below a directory.
    DropName(NodeId, String),
    /// Put pages into the page cache.
    Store {
        /// The file.
        node: NodeId,
        /// First byte.
        off: u64,
        /// Whole pages, or up to the end of the file.
        data: Bytes,
    },
}

/// A channel and whom to wake after using it.
#[derive(Debug)]
pub struct Mailbox<T> {
    sender: Sender<T>,
    waker: Waker,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            waker: self.waker.clone(),
        }
    }
}

impl<T> Mailbox<T> {
    /// For the thread that `waker` wakes.
    pub fn new(sender: Sender<T>, waker: Waker) -> Self {
        Self { sender, waker }
    }

    /// Sends and wakes. A thread that has ended wants nothing any more.
    pub fn send(&self, message: T) {
        if self.sender.send(message).is_ok() {
            self.waker.wake();
        }
    }
}
