//! The file system, as one worker serves it.
//!
//! Requests for names and small files are answered on the spot. Big files become tasks ([`super::task`]), which
//! are answered on the spot too when all they need is at hand, and else parked until it has been loaded.
//! Nothing here waits: not for the database, not for another worker, not for an advance of head (I3).
//!
//! Owned by its worker: the view of head it answers from, the objects it keeps, what it has noted, parked tasks.

use super::control::Place;
use super::killed::Suspects;
use super::loading::{Delivery, Fetched, Loading, TaskId};
use super::notes::Notes;
use super::notifier::Keep;
use super::probe;
use super::retrieval::Telling;
use super::shared::{Answer, Counters, Mailbox, Retrieved, Shared, State, ToControl, ToWorker};
use super::task::{self, Extent, Job, RawKey, Task, Wants};
use super::watching::Watching;
use super::worker::Service;
use crate::base::limit;
use crate::base::span::KeySet;
use crate::base::{BlkNo, Fh, NodeId, Oid, Rev, Tid, Unique};
use crate::fs::cache::Cache;
use crate::fs::lookup::LookedUp;
use crate::fs::pagecache;
use crate::fs::read::Info;
use crate::fs::track::{Depends, Note, Trail};
use crate::fs::tree::{self, FileNode, Node};
use crate::kernel::mount::Connection;
use crate::kernel::notify::{self, Told};
use crate::kernel::port::{Held, Port, ReadDone};
use crate::store::any::AnyView;
use crate::store::remote::{Came, Sink};
use crate::wire::fuse::notify::{self as notices, RetrieveId, RetrieveLen};
use crate::wire::fuse::reply;
use crate::wire::fuse::request::{self, Op};
use crossbeam_channel::{Receiver, Sender};
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// INTERRUPTs remembered that came before their request.
const INTERRUPTED_MAX: usize = 64;

/// How a worker reaches the others.
#[derive(Debug)]
pub struct Links {
    /// What others tell it.
    pub inbox: Receiver<ToWorker>,
    /// Every worker, itself included.
    pub workers: Vec<Mailbox<ToWorker>>,
    /// The control thread.
    pub control: Mailbox<ToControl>,
    /// Where some of its work is done.
    pub place: Place,
    /// What the history has to know.
    pub notes: Notes,
    /// The thread that stores below `@<tid>`.
    pub(super) keeper: Sender<Keep>,
    /// The mount, for notifications that wait for nothing.
    pub connection: Arc<Connection>,
}

/// A worker's share of the bounds. What comes from a server is worth keeping, block data included: readers ask for a block in
/// many pieces.
fn new_cache(head: Tid, is_remote: bool, workers: usize) -> Cache<Extent> {
    let block_bytes = match is_remote {
        true => limit::REMOTE_CACHE_BYTES,
        false => limit::BLOCK_CACHE_BYTES,
    };
    Cache::new(
        head,
        limit::TABLE_CACHE_BYTES / workers,
        block_bytes / workers,
    )
}

/// What a worker asked of a server comes as a message.
#[derive(Debug)]
struct ToOwnInbox(Mailbox<ToWorker>);

impl Sink for ToOwnInbox {
    fn came(&self, loads: Vec<Came>) {
        self.0.send(ToWorker::Loaded(loads));
    }
}

/// See the module.
#[derive(Debug)]
pub struct FileService {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) links: Links,
    /// Head, as this worker answers it.
    pub(super) at: Tid,
    /// Number of that state.
    pub(super) taken: u64,
    pub(super) view: AnyView,
    pub(super) files: FxHashMap<NodeId, Arc<FileNode>>,
    pub(super) looked_up: LookedUp,
    pub(super) infos: FxHashMap<NodeId, Info>,
    pub(super) cache: Cache<Extent>,
    pub(super) depends: Depends,
    /// Leaves of block tables that were noted, by their keys.
    pub(super) noted: FxHashMap<NodeId, KeySet>,
    pub(super) trail: Trail,
    pub(super) loading: Loading,
    pub(super) tasks: Vec<Option<Task>>,
    pub(super) free: Vec<TaskId>,
    pub(super) ready: Vec<TaskId>,
    /// LOOKUPs of `@tid` beyond head.
    pub(super) future: Vec<(Tid, Unique, Held)>,
    /// Reads of zhead that wait for the next transaction.
    pub(super) zhead_reads: Vec<(Fh, Unique, Held)>,
    /// What control answers.
    pub(super) watching: Watching,
    /// OPENs whose pages are being stored.
    pub(super) opening: Vec<(Unique, NodeId, Held)>,
    /// The READ that waits until it is known what the kernel gives back.
    pub(super) probing: Option<(Held, usize, Instant)>,
    pub(super) interrupted: VecDeque<Unique>,
    /// Callers that may be being killed.
    pub(super) suspects: Suspects,
    pub(super) wants: Wants,
    pub(super) seen: RefCell<Vec<Oid>>,
    /// Blocks of the READ at hand that may need pins.
    pub(super) blks: Vec<BlkNo>,
    /// Bytes of the READ at hand that are counted already ([`crate::fs::meeting`]).
    pub(super) others: Vec<Range<u64>>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) fetched: Vec<(Oid, Fetched)>,
    /// Pages that came back in this turn: control is woken for all of them at once.
    pub(super) retrieved: Retrieved,
    telling: Telling,
    /// What control told it by its own mouth.
    pub(super) own: Vec<ToWorker>,
    /// Requests of all workers, and when there were so many first.
    pub(super) quiet: (u64, Instant),
    /// Where the clock of all workers begins.
    pub(super) began: Instant,
}

impl FileService {
    /// The service of worker `index`, answering from `view`.
    pub fn new(index: usize, shared: Arc<Shared>, links: Links, view: AnyView) -> Self {
        let cache = new_cache(view.at(), view.is_remote(), links.workers.len());
        let sink = Arc::new(ToOwnInbox(links.workers[index].clone()));
        Self {
            index,
            links,
            at: view.at(),
            taken: 0,
            view,
            files: FxHashMap::default(),
            looked_up: LookedUp::default(),
            infos: FxHashMap::default(),
            cache,
            depends: Depends::default(),
            noted: FxHashMap::default(),
            trail: Trail::default(),
            loading: Loading::new(sink),
            tasks: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            future: Vec::new(),
            zhead_reads: Vec::new(),
            watching: Watching::default(),
            opening: Vec::new(),
            probing: None,
            interrupted: VecDeque::with_capacity(INTERRUPTED_MAX + 1),
            suspects: Suspects::default(),
            wants: Wants::default(),
            seen: RefCell::default(),
            blks: Vec::new(),
            others: Vec::new(),
            deliveries: Vec::new(),
            fetched: Vec::new(),
            retrieved: Retrieved::default(),
            telling: Telling::default(),
            own: Vec::new(),
            quiet: (0, Instant::now()),
            began: shared.began,
            shared,
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.shared.counters[self.index]
    }

    pub(super) fn reply(&self, port: &mut Port, held: Held, outcome: Result<usize, i32>) {
        if outcome.is_err_and(|errno| errno != libc::ENOSYS) {
            Counters::add(&self.counters().errors, 1);
        }
        if self.shared.trace
            && let Ok(request) = port.request(&held)
        {
            let unique = request.unique.0;
            match outcome {
                Ok(len) => self.shared.log.trace(format!("#{unique} -> {len} bytes")),
                Err(errno) => self.shared.log.trace(format!("#{unique} -> errno {errno}")),
            }
        }
        port.reply(held, outcome);
    }

    /// The node of `id`: known here, or asked of the tree once.
    pub(super) fn node(&mut self, id: NodeId) -> Result<Node, i32> {
        if let Some(file) = self.files.get(&id) {
            return Ok(Node::File(Arc::clone(file)));
        }
        if let Some(node) = tree::fixed_node(id) {
            return Ok(node);
        }
        let node = self.shared.tree().node(id).ok_or(libc::ESTALE)?;
        if let Node::File(file) = &node {
            self.files.insert(id, Arc::clone(file));
        }
        Ok(node)
    }

    /// Why nothing can be said of a big file.
    pub(super) fn refuse(&self, file: &FileNode) -> Result<(), i32> {
        let failed = file.rev == Rev::Head && self.shared.failed.load(Ordering::Relaxed);
        if failed || file.is_gone() || self.is_void() {
            Err(libc::EIO)
        } else {
            Ok(())
        }
    }

    /// Whether what this worker would answer from may give anything: until it takes the next generation.
    pub(super) fn is_void(&self) -> bool {
        self.shared.is_void(self.view.generation())
    }
}

/// Head.
impl FileService {
    /// Takes all states that are newer than its own, and says what it answers from (commit path 4).
    fn catch_up(&mut self) {
        self.shared.enter(self.index, self.taken);
        while self.shared.is_newer(self.taken) {
            let (states, is_gap, view) = self.shared.since(self.taken);
            if is_gap {
                let is_remote = self.view.is_remote();
                self.cache = new_cache(self.at, is_remote, self.links.workers.len());
                self.noted.clear();
                self.infos.clear();
                self.drop_views(None);
            }
            for state in states {
                self.take_state(&state);
            }
            if let Some(view) = view {
                self.take_view(view);
            }
            self.shared.enter(self.index, self.taken);
            if self.shared.is_awaited() {
                self.links.control.send(ToControl::Look);
            }
        }
    }

    /// Takes one state. Parked tasks go on under it: what they loaded and is no longer so is taken from them, and they ask
    /// again.
    fn take_state(&mut self, state: &State) {
        let oids = state.oids.as_deref();
        match oids {
            Some(oids) => self.cache.advance(state.tid, oids),
            None => {
                let is_remote = self.view.is_remote();
                self.cache = new_cache(state.tid, is_remote, self.links.workers.len());
                self.noted.clear();
                self.infos.clear();
            }
        }
        for file in &state.anew {
            self.noted.remove(file);
            self.depends.forget(*file);
            self.infos.remove(file);
        }
        self.drop_views(oids);
        self.taken = state.number;
        self.at = state.tid;
        self.note(Note::Taken(state.number));
    }

    /// These objects changed: what was derived from them goes.
    fn drop_views(&mut self, oids: Option<&[Oid]>) {
        let touched = self.depends.take_touched(oids);
        self.loading.head_changed(oids);
        for id in &touched {
            self.infos.remove(id);
        }
        let all = self.tasks.iter_mut().flatten();
        let mut given_back = Vec::new();
        // Where nobody can tell what changed, it may be the whole history, of older states too.
        for task in all.filter(|task| task.rev == Rev::Head || oids.is_none()) {
            match oids {
                Some(oids) => oids.iter().for_each(|oid| {
                    task.own.remove(oid);
                }),
                None => {
                    task.own.clear();
                    task.raws.clear();
                }
            }
            if let Job::Store { of, .. } = task.job {
                task.job = Job::Abandoned; // made from a view that is over
                given_back.push(of);
            }
        }
        for of in given_back {
            self.give_back(of);
        }
    }

    /// Tells the history something. Control is woken when there is much of it; else it asks when it needs to know.
    pub(super) fn note(&self, note: Note) {
        self.links.notes.send(note);
        if self.links.notes.len() == limit::NOTES_LOOK {
            self.links.control.send(ToControl::Look);
        }
    }

    /// The database as of the states that were taken. Another file has records at other places, and the one before is let go of.
    fn take_view(&mut self, view: AnyView) {
        if view.generation() != self.view.generation() {
            self.cache.forget_places();
        }
        self.view = view;
    }

    /// Whether the INTERRUPT of a request came before it.
    pub(super) fn was_interrupted(&mut self, unique: Unique) -> bool {
        let at = self.interrupted.iter().position(|&u| u == unique);
        at.is_some_and(|at| self.interrupted.remove(at).is_some())
    }

    /// The caller of a request was signalled: a parked one is answered, others are about to be anyway.
    pub(super) fn interrupt(&mut self, port: &mut Port, unique: Unique) {
        if self.end_waiting(port, unique) {
            return;
        }
        if self.parked(unique).is_some() || self.is_pinning(unique) {
            return self.suspect(port, unique);
        }
        if self.interrupted.len() == INTERRUPTED_MAX {
            self.interrupted.pop_front();
        }
        self.interrupted.push_back(unique);
    }

    /// Ends the wait of one that waits for something to happen; whether it did.
    pub(super) fn end_waiting(&mut self, port: &mut Port, unique: Unique) -> bool {
        if let Some(at) = self.future.iter().position(|(_, u, _)| *u == unique) {
            let (_, _, held) = self.future.swap_remove(at);
            self.shared.future_lookups.fetch_sub(1, Ordering::SeqCst);
            self.reply(port, held, Err(libc::EINTR));
        } else if let Some(at) = self.zhead_reads.iter().position(|(_, u, _)| *u == unique) {
            let (_, _, held) = self.zhead_reads.swap_remove(at);
            self.reply(port, held, Err(libc::EINTR));
        } else if self.of_link(unique).is_some() {
            // Whether it gets a message or not is for control to say.
            self.tell_interrupted(unique);
        } else {
            return false;
        }
        true
    }

    /// The request of one that waits for something to happen.
    pub(super) fn waiting(&self, unique: Unique) -> Option<&Held> {
        let future = self.future.iter().map(|(_, u, held)| (u, held));
        let zhead = self.zhead_reads.iter().map(|(_, u, held)| (u, held));
        let mut all = future.chain(zhead);
        let found = all.find(|(u, _)| **u == unique).map(|(_, held)| held);
        found.or_else(|| self.of_link(unique))
    }

    /// All that wait for something to happen.
    pub(super) fn all_waiting(&self) -> FxHashSet<Unique> {
        let future = self.future.iter().map(|(_, unique, _)| *unique);
        let zhead = self.zhead_reads.iter().map(|(_, unique, _)| *unique);
        future.chain(zhead).chain(self.of_links()).collect()
    }
}

/// Pages that the kernel gives back, and that it is given for others.
impl FileService {
    /// A READ of head is ready to be answered: the first of them tells what the kernel gives back (see [`probe`]).
    pub(super) fn probe(&mut self, held: Held, len: usize, at: (NodeId, u64)) -> Option<Held> {
        if len < 4096 || self.probing.is_some() || !self.shared.probe.begin() {
            return Some(held);
        }
        let (id, page) = (RetrieveId::PROBE, RetrieveLen::clamp(4096, 8192));
        let head = notices::Head::retrieve(id, at.0, at.1, page);
        match notify::tell(&self.links.connection.fuse, &head, &[]) {
            Ok(Told::Done) => {
                self.probing = Some((held, len, Instant::now()));
                None
            }
            _ => {
                self.shared.probe.give_up();
                Some(held)
            }
        }
    }

    pub(super) fn probed(&mut self, port: &mut Port) {
        if let Some((held, len, _)) = self.probing.take() {
            self.reply(port, held, Ok(len));
        }
    }

    /// Pages came back: nothing else is done with them here. Each block is kept, or not, by itself.
    fn retrieved(&mut self, unique: Unique, node: NodeId, off: u64, data: &[u8]) {
        match RetrieveId::from_unique(unique.0) {
            Some(RetrieveId::PROBE) => {
                self.shared.probe.settle(data.len());
                for worker in &self.links.workers {
                    worker.send(ToWorker::Probed);
                }
            }
            Some(RetrieveId::KICK) | None => {}
            Some(id) => {
                let blksize = match self.node(node) {
                    Ok(Node::File(file)) => usize::try_from(file.blksize()).unwrap_or(0),
                    _ => 0,
                };
                // Nobody asks for pages of a file that was not read.
                let block = if blksize == 0 {
                    data.len().max(1)
                } else {
                    blksize
                };
                let came = &mut self.retrieved;
                let (parts, pages) = (came.parts.len(), came.hashes.len());
                let copies = data.chunks(block).map(|part| self.shared.spare.copy(part));
                came.parts.extend(copies);
                came.hashes.extend(pagecache::hashes(data));
                came.answers.push(Answer {
                    id,
                    off,
                    parts: came.parts.len() - parts,
                    pages: came.hashes.len() - pages,
                });
            }
        }
    }

    /// A file below `@<tid>` is being opened: what is kept of it is stored first. True when the OPEN is held back for that.
    pub(super) fn store_kept(&mut self, file: &Arc<FileNode>, unique: Unique) -> bool {
        let Rev::At(tid) = file.rev else { return false };
        let pieces = {
            let mut kept = self.shared.kept.lock().expect("a panic aborts");
            if kept.is_empty() {
                return false;
            }
            kept.take((file.oid, tid))
        };
        if pieces.is_empty() {
            return false;
        }
        let opener = Some((self.links.workers[self.index].clone(), unique));
        let file = Arc::clone(file);
        let keep = Keep::new(&self.shared, file, pieces, opener);
        self.links.keeper.send(keep).is_ok()
    }

    /// What an OPEN waited for is there.
    pub(super) fn stored(&mut self, port: &mut Port, unique: Unique) {
        if let Some(at) = self.opening.iter().position(|(u, ..)| *u == unique) {
            let (_, id, held) = self.opening.swap_remove(at);
            self.opened(port, held, id);
        }
    }
}

impl FileService {
    /// What was asked of a server came.
    pub(super) fn loaded(&mut self, port: &mut Port, came: Vec<Came>) {
        let mut deliveries = std::mem::take(&mut self.deliveries);
        self.loading.came(came, &mut deliveries);
        self.settle(&mut deliveries);
        self.deliveries = deliveries;
        self.run_ready(port);
    }
}

impl Service for FileService {
    fn request(&mut self, port: &mut Port, held: Held) {
        // Another worker may have told the kernel of the new size already: a READ up to there has to find the new blocks.
        if self.shared.is_newer(self.taken) {
            self.catch_up();
        }
        Counters::add(&self.counters().requests, 1);
        let Ok(request) = port.request(&held) else {
            self.shared
                .log
                .error("the kernel sent a request that cannot be read");
            return self.reply(port, held, Err(libc::EIO));
        };
        if self.shared.trace {
            self.shared.log.trace(request);
        }
        let (id, unique) = (request.node, request.unique);
        let outcome = match request.op {
            Op::Lookup { .. } => return self.lookup(port, held, unique, id),
            Op::Getattr => return self.getattr(port, held, unique, id),
            Op::Read {
                fh,
                off,
                size,
                flags,
            } => {
                return self.read(port, held, unique, id, (off, size), (fh, flags));
            }
            Op::NotifyReply { off, data } => {
                self.retrieved(unique, id, off, data);
                return port.acknowledge(held);
            }
            Op::Forget { nlookup } => {
                self.forget(std::iter::once((id, nlookup)));
                return port.discard(held);
            }
            Op::BatchForget { list } => {
                self.forget(request::forgets(list));
                return port.discard(held);
            }
            Op::Interrupt { target } => {
                for worker in &self.links.workers {
                    worker.send(ToWorker::Interrupt(target));
                }
                return port.discard(held);
            }
            Op::Open { .. } => return self.open(port, held, unique, id),
            Op::Release { fh, .. } => {
                match id {
                    tree::fixed::ZHEAD => self.shared.zhead.release(fh),
                    tree::fixed::WATCH => self.close_link(fh),
                    tree::fixed::ZURL => self.shared.presence.close(),
                    _ => {}
                }
                Ok(0)
            }
            Op::Destroy => Ok(0),
            Op::Readdir { off, size } => self.readdir(port, &held, id, (off, size)),
            Op::Statfs => Ok(reply::statfs(port.body(&held))),
            Op::Write { .. } if id == tree::fixed::WATCH => {
                return self.write_link(port, held, unique);
            }
            // Nobody listens there.
            Op::Write { .. } if id == tree::fixed::ZHEAD => Err(libc::ECONNRESET),
            Op::Write { .. } | Op::Init { .. } | Op::Other { .. } => Err(libc::ENOSYS),
        };
        self.reply(port, held, outcome);
    }

    fn read_done(&mut self, port: &mut Port, done: ReadDone) {
        let mut deliveries = std::mem::take(&mut self.deliveries);
        let raw = self.loading.read_done(port, done, &mut deliveries);
        self.settle(&mut deliveries);
        self.deliveries = deliveries;
        if let Some((read, result)) = raw {
            let task = self.tasks[read.task]
                .as_mut()
                .expect("a waiting task keeps its place");
            match read.whole(result) {
                Ok(bytes) => task.raws.push((RawKey::new(&read.file, read.pos), bytes)),
                Err(error) => {
                    task.failed = true;
                    self.shared
                        .log
                        .error(task::unread(read.of, read.pos, &error));
                    self.links.control.send(ToControl::Doubt);
                }
            }
            task.waiting -= 1;
            if task.waiting == 0 {
                self.ready.push(read.task);
            }
        }
        self.run_ready(port);
    }

    fn woken(&mut self, port: &mut Port) {
        while let Ok(message) = self.links.inbox.try_recv() {
            self.hear(port, message);
        }
    }

    fn begin(&mut self) {
        self.catch_up();
    }

    fn before_wait(&mut self, port: &mut Port) -> Option<Duration> {
        if self
            .telling
            .is_time(self.retrieved.answers.len(), port.has_more())
        {
            let pages = std::mem::take(&mut self.retrieved);
            self.links.control.send(ToControl::Retrieved(pages));
        }
        self.stand_in(port);
        let mut wait = self.store_when_idle(port);
        if let Some((.., since)) = &self.probing {
            let left = probe::PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() {
                self.shared.probe.give_up();
                self.probed(port);
            } else {
                wait = Some(wait.map_or(left, |wait| wait.min(left)));
            }
        }
        if let Some(look) = self.end_killed(port) {
            wait = Some(wait.map_or(look, |wait| wait.min(look)));
        }
        self.stand_in(port); // for what was told since
        if self.shared.leave(self.index) {
            self.links.control.send(ToControl::Look);
        }
        if self.watching.listens() {
            return Some(Duration::ZERO);
        }
        wait
    }

    fn gone(&mut self, port: &mut Port) {
        let parked = self
            .tasks
            .iter_mut()
            .flatten()
            .filter_map(|task| task.held.take());
        let future = self.future.drain(..).map(|(_, _, held)| held);
        let zheads = self.zhead_reads.drain(..).map(|(_, _, held)| held);
        let opening = self.opening.drain(..).map(|(_, _, held)| held);
        let probing = self.probing.take().map(|(held, ..)| held);
        let waiting = future.chain(zheads).chain(opening).chain(probing);
        parked
            .chain(waiting)
            .chain(self.watching.drain())
            .for_each(|held| port.discard(held));
    }
}
