//! What all threads of one mount share, and the messages between them.
//!
//! Shared is what is read often and changed rarely: names, head as shown, counters of each worker. Everything else moves as a message:
//!
//! ```text
//!   workers --notes--> control          what answers depend on, before they are given
//!   control --states--> workers         taken by a worker before the next thing it does
//!   workers --Passed--> control         only when control waits for it
//!   control --Shorten, Drop--> notifier --Shortened, Dropped--> control
//!   workers --stores--> storer          drops take back what is queued of theirs
//!   workers, storer --ReadOn--> workers the rest of a block, one piece after the other
//!   control, workers --kept pages--> keeper --Stored--> workers
//!   workers --OfLink--> control         what clients write and read, and READs that may need a pin; heard by the worker itself
//!                                       where that is brief and control is at rest ([`super::control::Place`])
//!   control --LinkRead, LinkWrote, Granted--> workers
//! ```
//!
//! # Locks
//!
//! Who answers a request whose names and objects it knows waits for none: `tests/steady` holds them all meanwhile ([`Shared::hold`]).
//! GETATTR, LOOKUP under head, READ through O_DIRECT and READ of whole blocks below 516 KiB take none either, unless a block waits to be
//! stored for readers to come. Who takes which, each for a moment:
//!
//! ```text
//!   tree        the first request for a node, LOOKUP below @<tid> and of a name that is new to the worker, FORGET, listing
//!   states      who takes a newer state
//!   touches     READ of a part of a block, and who stores the rest of it. Each worker has its own, and others look into them: READs
//!               of one reader may come to several workers. READs try it; who stores a piece, and who drops pages, waits its moment
//!   meetings    the same READ by rings, while a reader is met ([`super::upload`]). Tried too
//!   stores      who stores a block for readers to come
//!   kept        OPEN below @<tid>
//!   spare       pages that come back. Tried
//!   its place   who told control something, a READ that has to ask for pins too ([`super::control::Place`]). Tried too
//!   others      OPEN, READ and RELEASE of .wcfs/zurl, .wcfs/debug/zhead and head/watch
//! ```
//!
//! # When has a worker passed?
//!
//! A worker says which state it answers from (`enter`) before it looks for a newer one, and that it answers from none (`leave`)
//! before it waits. Control makes a state public before it looks at what workers say. So either control sees that the worker
//! is busy with the old state, or the worker sees the new one: an idle worker costs a commit nothing.

use super::links::{LinkCounts, OfLink};
use super::log::Log;
use super::notifier::Stores;
use super::opens::Opens;
use super::presence::Presence;
use super::probe::Probe;
use super::pulse::Pulse;
use super::spare::Spare;
use super::zhead::Zhead;
use crate::base::limit;
use crate::base::{NodeId, Oid, Tid, Unique};
use crate::fs::advance::Drop;
use crate::fs::attr::Owner;
use crate::fs::kept::Kept;
use crate::fs::meeting::{Gone, Meetings, ReadOn};
use crate::fs::touch::Touches;
use crate::fs::tree::Tree;
use crate::kernel::proc::Waker;
use crate::store::any::AnyView;
use crate::store::remote::{Came, Link};
use crate::wire::fuse::notify::RetrieveId;
use bytes::Bytes;
use crossbeam_channel::Sender;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Shared by all threads of a mount.
#[derive(Debug)]
pub struct Shared {
    tree: Mutex<Tree>,
    head: AtomicU64,
    /// The database cannot be trusted any more: everything under head is EIO.
    pub failed: AtomicBool,
    /// Why head stands still all the same, as its gauges in [`Self::stats`] show it.
    pub standstill: Standstill,
    /// Views of generations below this one give anything: nothing is answered from them.
    void_below: AtomicU64,
    /// The generation of the newest state.
    generation: AtomicU64,
    /// No new opens.
    pub stopping: AtomicBool,
    /// LOOKUPs of a `@tid` beyond head that are parked somewhere.
    pub future_lookups: AtomicUsize,
    /// Blocks on their way to the page cache.
    pub stores: Stores,
    /// Old pages, for those who look for them.
    pub kept: Mutex<Kept>,
    /// Where the next old pages go.
    pub(super) spare: Spare,
    /// Whether the kernel can be asked for its pages.
    pub probe: Probe,
    /// Number of the newest state.
    newest: AtomicU64,
    /// The latest states, the newest last.
    pub(super) states: Mutex<States>,
    /// Where the clock of all workers begins.
    pub(super) began: Instant,
    /// What each worker answers from.
    busy: Vec<Busy>,
    /// The state that control waits for every worker to have, or 0.
    awaited: AtomicU64,
    /// Of each worker.
    pub counters: Vec<Counters>,
    /// Blocks each worker noted; see [`Self::touches`].
    touches: Vec<Notes>,
    meetings: Mutex<Meetings>,
    /// Somebody is met, or about to be; see [`Self::meet`].
    is_met: AtomicBool,
    /// `.wcfs/zurl`
    pub zurl: String,
    /// `.wcfs/pintimeout`
    pub pintimeout: String,
    /// Of every node.
    pub owner: Owner,
    /// Largest record loaded.
    pub max_record: usize,
    /// `.wcfs/debug` is there.
    pub debug: bool,
    /// Whether the kernel lets go of nodes when asked to (Linux 6.18).
    pub prunes: bool,
    /// `.wcfs/debug/zhead`
    pub zhead: Zhead,
    /// What is watched.
    pub isolation: LinkCounts,
    /// Blocks of which the pages were kept so far.
    pub kept_blocks: AtomicU64,
    /// Blocks of which the kernel did not give them back in time.
    pub kept_late: AtomicU64,
    /// Bytes on their way to files below `@<tid>`.
    pub keeping: AtomicUsize,
    /// Whether control goes on.
    pub control: Pulse,
    /// Whether the notifier does.
    pub notifier: Pulse,
    /// How requests come in, once that is known: see [`Self::stats`].
    pub transport: AtomicU64,
    /// Clients brought out of waiting for themselves so far.
    pub ways_out: AtomicU64,
    /// Commits that wait for an advance.
    pub commits_waiting: AtomicUsize,
    /// A transaction is under way.
    pub(super) advancing: AtomicBool,
    /// Files that became shorter so far.
    pub shortened: AtomicU64,
    /// Times that the kernel could not be made to know how long a file is.
    pub sizes_untold: AtomicU64,
    /// Links.
    pub links: Opens,
    /// Opens of `.wcfs/zurl`.
    pub presence: Presence,
    /// Every request and reply is logged.
    pub trace: bool,
    /// A database that cannot be followed ends the daemon.
    pub is_drop_in: bool,
    /// The way to the server of the database.
    pub upstream: Option<Link>,
    /// Where lines go.
    pub log: Log,
}

/// See [`Shared::own_notes`].
pub type OwnNotes<'a> = (Option<MutexGuard<'a, Meetings>>, MutexGuard<'a, Touches>);

/// What is held for a moment alone, or not at all.
fn soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    const TRIES: u32 = 100;
    (0..TRIES).find_map(|_| {
        let held = mutex.try_lock().ok();
        if held.is_none() {
            std::hint::spin_loop();
        }
        held
    })
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
    /// Records of which only the place was looked up.
    pub places: AtomicU64,
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

/// Head does not move, though everything is answered.
#[derive(Debug, Default)]
pub struct Standstill {
    /// The database cannot be followed just now.
    pub troubled: AtomicBool,
    /// Where in its file something stands for long that is no transaction, or 0.
    pub tail_fault: AtomicU64,
}

/// [`Shared::transport`] of FUSE over io_uring.
pub const RINGS: u64 = 3;

/// A cache line of its own too.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Notes {
    touches: Mutex<Touches>,
    /// There may be blocks in them to be stored for readers to come.
    wait: AtomicBool,
    /// There may be any, such as are being stored too.
    any: AtomicBool,
}

/// A worker that answers from no state.
const IDLE: u64 = u64::MAX;

/// Number of the state that a worker answers from, or [`IDLE`].
#[derive(Debug)]
#[repr(align(128))]
struct Busy(AtomicU64);

impl Default for Busy {
    fn default() -> Self {
        Self(AtomicU64::new(IDLE))
    }
}

#[derive(Debug, Default)]
pub(super) struct States {
    latest: VecDeque<Arc<State>>,
    /// The database as of the last of them. Views of the others are of no use: who is behind takes all of them, then this. They would hold
    /// on to a file that was packed, and its index.
    view: Option<AnyView>,
    /// Changed objects in all of them.
    oids: usize,
}

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
    /// How many links a user other than the owner may have.
    pub user_links: usize,
    /// How many files this process may have open.
    pub files: usize,
    /// Largest record loaded.
    pub max_record: usize,
    /// Whether `.wcfs/debug` is there.
    pub debug: bool,
    /// Whether the kernel lets go of nodes when asked to.
    pub prunes: bool,
    /// Whether every request and reply is logged.
    pub trace: bool,
    /// Whether a database that cannot be followed ends the daemon.
    pub is_drop_in: bool,
    /// The way to the server of the database, if it has one.
    pub upstream: Option<Link>,
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
            standstill: Standstill::default(),
            void_below: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            future_lookups: AtomicUsize::new(0),
            stores: Stores::default(),
            kept: Mutex::default(),
            spare: Spare::default(),
            probe: Probe::default(),
            newest: AtomicU64::new(0),
            states: Mutex::default(),
            began: Instant::now(),
            busy: (0..setup.workers).map(|_| Busy::default()).collect(),
            awaited: AtomicU64::new(0),
            counters: (0..setup.workers).map(|_| Counters::default()).collect(),
            touches: (0..setup.workers).map(|_| Notes::default()).collect(),
            meetings: Mutex::default(),
            is_met: AtomicBool::new(false),
            zurl: setup.zurl,
            pintimeout: setup.pintimeout,
            owner: setup.owner,
            max_record: setup.max_record,
            debug: setup.debug,
            prunes: setup.prunes,
            zhead: Zhead::default(),
            isolation: LinkCounts::default(),
            kept_blocks: AtomicU64::new(0),
            kept_late: AtomicU64::new(0),
            keeping: AtomicUsize::new(0),
            control: Pulse::default(),
            notifier: Pulse::default(),
            transport: AtomicU64::new(0),
            ways_out: AtomicU64::new(0),
            commits_waiting: AtomicUsize::new(0),
            advancing: AtomicBool::new(false),
            shortened: AtomicU64::new(0),
            sizes_untold: AtomicU64::new(0),
            links: Opens::new(setup.files, setup.user_links),
            presence: Presence::default(),
            trace: setup.trace,
            is_drop_in: setup.is_drop_in,
            upstream: setup.upstream,
            log: setup.log,
        }
    }

    /// Notes of a worker, for itself, and for another that stores a block. `None` when somebody has them for longer than it takes to
    /// note something: nobody waits for them, a note that is lost costs a store.
    pub fn touches(&self, worker: usize) -> Option<MutexGuard<'_, Touches>> {
        soon(&self.touches[worker].touches)
    }

    /// Where readers are met; as [`Self::touches`], and taken before them. Without it pages may be counted twice.
    pub fn meetings(&self) -> Option<MutexGuard<'_, Meetings>> {
        soon(&self.meetings)
    }

    /// Notes of a worker, for itself; and where readers are met, if any are. What is noted and what is met are one then. Where the worker
    /// has its notes and sees nobody met, it notes what comes before the next meeting: who makes that has these notes too, or none of them.
    pub fn own_notes(&self, worker: usize, may_meet: bool) -> Option<OwnNotes<'_>> {
        let touches = self.touches(worker)?;
        if !may_meet || !self.is_met.load(Ordering::SeqCst) {
            return Some((None, touches));
        }
        drop(touches); // they are taken after that
        let meetings = self.meetings();
        Some((meetings, self.touches(worker)?))
    }

    /// Whether blocks may wait in the notes of a worker.
    pub fn notes_wait(&self, worker: usize) -> bool {
        self.touches[worker].wait.load(Ordering::SeqCst)
    }

    /// Whether a worker may have noted any block: a READ of one that is being stored is told to who stores it.
    pub fn has_notes(&self, worker: usize) -> bool {
        self.touches[worker].any.load(Ordering::SeqCst)
    }

    /// Says so, by who has these notes.
    pub fn set_notes_wait(&self, worker: usize, touches: &Touches) {
        let notes = &self.touches[worker];
        notes.wait.store(!touches.is_empty(), Ordering::SeqCst);
        notes.any.store(touches.has_any(), Ordering::SeqCst);
    }

    /// Somebody is met, says who holds the meetings and the notes it was made from.
    pub fn meet(&self) {
        self.is_met.store(true, Ordering::SeqCst);
    }

    /// Lets go of meetings that are over.
    pub fn expire(&self, meetings: &mut MutexGuard<'_, Meetings>) {
        meetings.expire(self.began.elapsed());
        self.is_met.store(!meetings.is_empty(), Ordering::SeqCst);
    }

    /// As [`Self::touches`], for what must not be lost: a piece that was taken would be so for ever. Nobody who has them waits.
    pub fn touches_held(&self, worker: usize) -> MutexGuard<'_, Touches> {
        self.touches[worker].touches.lock().expect("a panic aborts")
    }

    /// As [`Self::meetings`], likewise.
    pub fn meetings_held(&self) -> MutexGuard<'_, Meetings> {
        self.meetings.lock().expect("a panic aborts")
    }

    /// Pages are about to be dropped: what is noted of their blocks is over.
    pub fn let_notes_go(&self, drops: &[Drop]) {
        let gone = Gone::new(drops);
        let is_gone = |place, len| gone.has(place, len);
        self.meetings_held().let_go(is_gone);
        for worker in 0..self.touches.len() {
            self.touches_held(worker).let_go(is_gone);
        }
    }

    /// Names and nodes; held for one operation on them, never across anything that waits.
    pub fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().expect("a panic aborts")
    }

    /// Whether control looks at a transaction, or waits for somebody else with one.
    pub(super) fn is_advancing(&self) -> bool {
        self.control.is_busy() || self.advancing.load(Ordering::Relaxed)
    }

    /// What `head/at` shows.
    pub fn head(&self) -> Tid {
        Tid(self.head.load(Ordering::SeqCst))
    }

    /// `head/at` shows `tid` from now on. True if somebody reads of that.
    pub fn show_head(&self, tid: Tid) -> bool {
        if tid == self.head() {
            return false;
        }
        // In one order with `future_lookups`: either control sees who waits, or who waits sees the new head.
        let told = self
            .zhead
            .show(tid, || self.head.store(tid.0, Ordering::SeqCst));
        for _ in 0..told.detached {
            let why = format!("{} transactions are not read", limit::ZHEAD_LINES_MAX);
            self.log.error(format!(
                "zhead: /.wcfs/debug/zhead: write: {why}  (detaching reader)"
            ));
        }
        told.any
    }

    /// Everything that a worker begins from now on is answered as of this state, or a later one.
    pub fn publish(&self, published: Published) {
        let Published { state, view } = published;
        let number = state.number;
        self.generation.store(view.generation(), Ordering::SeqCst);
        let mut states = self.states.lock().expect("a panic aborts");
        states.oids += state.oids.as_ref().map_or(0, |oids| oids.len());
        states.latest.push_back(Arc::new(state));
        states.view = Some(view);
        let is_much = |states: &States| {
            states.latest.len() > limit::STATES_MAX || states.oids > limit::STATES_OIDS_MAX
        };
        // The newest stays, however large: it is what workers go on to.
        while states.latest.len() > 1 && is_much(&states) {
            let oldest = states.latest.pop_front().expect("BUG: there are two");
            states.oids -= oldest.oids.as_ref().map_or(0, |oids| oids.len());
        }
        drop(states);
        self.newest.store(number, Ordering::SeqCst);
    }

    /// Nothing is to be answered from views of this generation any more. False when that was known.
    pub fn make_void(&self, generation: u64) -> bool {
        let below = generation + 1;
        self.void_below.fetch_max(below, Ordering::SeqCst) < below
    }

    /// Whether views of a generation give anything.
    pub fn is_void(&self, generation: u64) -> bool {
        generation < self.void_below.load(Ordering::SeqCst)
    }

    /// Whether those of the newest state do.
    pub fn is_voided(&self) -> bool {
        self.is_void(self.generation.load(Ordering::SeqCst))
    }

    /// Whether there is a state newer than `number`.
    pub fn is_newer(&self, number: u64) -> bool {
        self.newest.load(Ordering::SeqCst) > number
    }

    /// The states after `number`, in order, whether some of them are no longer known, and the database as of the last.
    pub fn since(&self, number: u64) -> (Vec<Arc<State>>, bool, Option<AnyView>) {
        let states = self.states.lock().expect("a panic aborts");
        let newer = states.latest.iter().filter(|s| s.number > number);
        let newer: Vec<_> = newer.cloned().collect();
        let first = newer.first().map_or(number + 1, |s| s.number);
        (newer, first > number + 1, states.view.clone())
    }

    /// A worker answers from this state.
    pub fn enter(&self, worker: usize, number: u64) {
        self.busy[worker].0.store(number, Ordering::SeqCst);
    }

    /// A worker answers from none. True when control wants to know.
    #[must_use]
    pub fn leave(&self, worker: usize) -> bool {
        self.busy[worker].0.store(IDLE, Ordering::SeqCst);
        self.awaited.load(Ordering::SeqCst) != 0
    }

    /// A worker other than this one that waits for something to do.
    pub fn idle_beside(&self, worker: usize) -> Option<usize> {
        let is_idle = |&other: &usize| self.busy[other].0.load(Ordering::Relaxed) == IDLE;
        let after = (worker + 1..self.busy.len()).chain(0..worker);
        after.into_iter().find(is_idle)
    }

    /// Whether requests come by rings.
    pub fn has_rings(&self) -> bool {
        self.transport.load(Ordering::Relaxed) == RINGS
    }

    /// Whether control wants to know that a worker moved on.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::SeqCst) != 0
    }

    /// Whether every worker answers from the state `number`, from a later one, or from none. If not, they are asked to tell.
    pub fn passed(&self, number: u64) -> bool {
        let all = || {
            let passed = |busy: &Busy| busy.0.load(Ordering::SeqCst) >= number;
            self.busy.iter().all(passed)
        };
        if !all() {
            self.awaited.store(number, Ordering::SeqCst);
            if !all() {
                return false;
            }
        }
        self.awaited.store(0, Ordering::SeqCst);
        true
    }

    pub(super) fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters
            .iter()
            .map(|c| counter(c).load(Ordering::Relaxed))
            .sum()
    }

    /// Requests of all workers so far.
    pub fn requests(&self) -> u64 {
        self.sum(|c| &c.requests)
    }
}

/// A new state of head, and the database as of it.
#[derive(Clone, Debug)]
pub struct Published {
    /// For every worker.
    pub state: State,
    /// To load from.
    pub view: AnyView,
}

/// A new state of head, for every worker.
#[derive(Clone, Debug)]
pub struct State {
    /// States are numbered as they are published.
    pub number: u64,
    /// Its transaction.
    pub tid: Tid,
    /// What it changed; `None` when nobody can tell, and everything may have.
    pub oids: Option<Arc<[Oid]>>,
    /// Files that the history starts anew with: whatever is read of them has to be noted again.
    pub anew: Vec<NodeId>,
}

/// To a worker.
#[derive(Debug)]
pub enum ToWorker {
    /// There is a new state.
    Look,
    /// Objects that were asked of a server.
    Loaded(Vec<Came>),
    /// `head/at` moved: parked look-ups may go on.
    Shown,
    /// The caller of a request was signalled.
    Interrupt(Unique),
    /// The kernel forgot these nodes.
    Forgotten(Arc<[NodeId]>),
    /// What an OPEN of this worker waits for is in the page cache.
    Stored(Unique),
    /// A reader of another worker reads a block from its start: this one stores it from its end.
    ReadOn(ReadOn),
    /// It is known whether the kernel can be asked for its pages.
    Probed,
    /// A read of `head/watch` returns.
    LinkRead(Unique, Result<Vec<u8>, i32>),
    /// A write of `head/watch` returns.
    LinkWrote(Unique, Result<usize, i32>),
    /// A READ is answered as it is: its caller is stopped, and the page goes before it goes on.
    WayOut(Unique),
    /// What a READ shows is pinned wherever it has to be; or nobody can tell.
    Granted(Unique, bool),
}

/// Pages that the kernel gave back.
#[derive(Debug, Default)]
pub struct Retrieved {
    /// To which RETRIEVEs, in the order of `parts`.
    pub answers: Vec<Answer>,
    /// As many as the kernel had, each block by itself.
    pub parts: Vec<Bytes>,
    /// [`crate::fs::pagecache::hashes`] of all of them: made where they are at hand.
    pub hashes: Vec<u64>,
}

/// The answer to a RETRIEVE.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Its number.
    pub id: RetrieveId,
    /// First byte.
    pub off: u64,
    /// How many of the parts are of it.
    pub parts: usize,
    /// How many of the hashes.
    pub pages: usize,
}

/// To control.
#[derive(Debug)]
pub enum ToControl {
    /// There are many notes, or a worker answers from the awaited state.
    Look,
    /// The notifier dropped all of a list.
    Dropped,
    /// The kernel knows which files are shorter, or cannot be told.
    Shortened,
    /// What was read of the database cannot be right: it may be another one.
    Doubt,
    /// The kernel refused to drop pages: nothing can be trusted any more.
    DropFailed(crate::kernel::notify::NotifyError),
    /// The kernel forgot these nodes.
    Forgotten(Arc<[NodeId]>),
    /// Isolation.
    OfLink(OfLink),
    /// Pages that were asked for, as they came.
    Retrieved(Retrieved),
    /// A file that replaced the database was opened.
    Rebuilt(Box<Result<crate::store::file::Rebuilt, crate::store::file::OpenError>>),
    /// The mount is ending.
    Stop,
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

    /// Sends, and leaves it to the caller to see that it is heard.
    pub(super) fn leave(&self, message: T) {
        let _ = self.sender.send(message); // the same
    }

    /// Wakes.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}
