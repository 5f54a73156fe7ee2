//! A worker: the pure parts of the daemon, put together as `engine::{serve, answer, names}` put them.
//!
//! Real: what it notes and depends on, touches, the cache, the walks, names. Stood in for: the port (requests and answers are values) and
//! the database file (a load is a value that comes at any time, in any order). Where the engine changes, this
//! has to follow; functions have the names they have there.
//!
//! A worker wakes, does one thing after the other, and goes to sleep again. A message, a request, a load or a store is one
//! step, and anything may happen between two.

use crate::data::PAGE;
use crate::kernel::{Op, Outcome, Request};
use crate::loading::{Delivery, Loading};
use crate::mutant::Mutant;
use crate::shared::{Keep, Published, Shared, ToControl, ToWorker};
use crate::store::Store;
use crate::upload::Of;
use crate::watching::Watching;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use zring::base::span::KeySet;
use zring::base::{NodeId, Oid, Rev, Tid};
use zring::fs::cache::{Cache, Own};
use zring::fs::lookup::LookedUp;
use zring::fs::read::Info;
use zring::fs::track::{Depends, Note, Trail};
use zring::fs::tree::{FileNode, Node};

/// Where the bytes of a plain block lie: a revision of an object never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) oid: Oid,
    pub(crate) serial: Tid,
    pub(crate) len: u64,
}

#[derive(Debug)]
pub(crate) enum Job {
    Lookup(Oid),
    Getattr(Arc<FileNode>),
    Read {
        file: Arc<FileNode>,
        off: u64,
        len: usize,
        is_direct: bool,
    },
    Store {
        file: Arc<FileNode>,
        ranges: Vec<Range<u64>>,
        of: Of,
    },
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) held: Option<Request>,
    pub(crate) rev: Rev,
    pub(crate) job: Job,
    pub(crate) own: Own<Extent>,
    pub(crate) raws: Vec<(Extent, Vec<u8>)>,
    pub(crate) waiting: usize,
    pub(crate) failed: bool,
    /// The view when it came.
    pub(crate) since: Tid,
}

#[derive(Debug, Default)]
pub(crate) struct Wants {
    pub(crate) objects: Vec<Oid>,
    pub(crate) places: Vec<Oid>,
    pub(crate) raws: Vec<Extent>,
}

/// What a READ that is not answered waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    Load,
    Advance,
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) awake: bool,
    pub(crate) inbox: VecDeque<ToWorker>,
    pub(crate) loading: Loading,
    pub(crate) at: Tid,
    pub(crate) taken: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) files: FxHashMap<NodeId, Arc<FileNode>>,
    pub(crate) looked_up: LookedUp,
    pub(crate) infos: FxHashMap<NodeId, Info>,
    pub(crate) cache: Cache<Extent>,
    pub(crate) depends: Depends,
    pub(crate) noted: FxHashMap<NodeId, KeySet>,
    pub(crate) trail: Trail,
    pub(crate) tasks: Vec<Option<Task>>,
    pub(crate) free: Vec<usize>,
    pub(crate) ready: Vec<usize>,
    /// OPENs whose pages are being stored.
    pub(crate) opening: Vec<Request>,
    pub(crate) wants: Wants,
    pub(crate) seen: RefCell<Vec<Oid>>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) watching: Watching,
    /// For mutants: what is done later than it should be.
    pub(crate) late_view: bool,
    pub(crate) late_stores: Vec<Store>,
    pub(crate) late_notes: Vec<Note>,
    pub(crate) held_back: Vec<Request>,
}

impl Worker {
    pub(crate) fn new(index: usize, at: Tid, cache_bytes: usize) -> Self {
        Self {
            index,
            awake: false,
            inbox: VecDeque::new(),
            loading: Loading::default(),
            at,
            taken: 0,
            cache_bytes,
            files: FxHashMap::default(),
            looked_up: LookedUp::default(),
            infos: FxHashMap::default(),
            cache: Cache::new(at, cache_bytes, cache_bytes),
            depends: Depends::default(),
            noted: FxHashMap::default(),
            trail: Trail::default(),
            tasks: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            opening: Vec::new(),
            wants: Wants::default(),
            seen: RefCell::default(),
            deliveries: Vec::new(),
            watching: Watching::default(),
            late_view: false,
            late_stores: Vec::new(),
            late_notes: Vec::new(),
            held_back: Vec::new(),
        }
    }

    /// Whether there is a block to be stored for readers to come.
    pub(crate) fn has_touches(&self, shared: &Shared) -> bool {
        !shared.touches[self.index].is_empty()
    }

    /// Whether a mutant put something off.
    pub(crate) fn is_late(&self) -> bool {
        self.late_view || !self.late_stores.is_empty() || !self.late_notes.is_empty()
    }

    /// Whether it works on nothing.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = !self.held_back.is_empty() || !self.opening.is_empty();
        let watches = self.watching.is_idle();
        !self.awake
            && self.inbox.is_empty()
            && watches
            && !waits
            && self.tasks.iter().all(Option::is_none)
    }

    /// What each request in its hands waits for, OPENs aside.
    pub(crate) fn reads(&self, out: &mut Vec<(u64, WaitsFor)>) {
        out.extend(self.held_back.iter().map(|r| (r.unique, WaitsFor::Advance)));
        for (id, task) in self.tasks.iter().enumerate() {
            if let Some(Task {
                held: Some(request),
                ..
            }) = task
            {
                // What is ready comes after the answer that is being made.
                let loads = self.loading.serves(id) || self.ready.contains(&id);
                let waits = if loads {
                    WaitsFor::Load
                } else {
                    WaitsFor::Nothing
                };
                out.push((request.unique, waits));
            }
        }
    }

    pub(crate) fn node(&mut self, shared: &Shared, id: NodeId) -> Option<Arc<FileNode>> {
        if let Some(file) = self.files.get(&id) {
            return Some(Arc::clone(file));
        }
        let Some(Node::File(file)) = shared.tree.node(id) else {
            return None;
        };
        self.files.insert(id, Arc::clone(&file));
        Some(file)
    }
}

/// Head.
impl Worker {
    /// Wakes.
    pub(crate) fn begin(&mut self, shared: &mut Shared) {
        self.awake = true;
        if shared.is(Mutant::EntersTooEarly) {
            shared.enter(self.index, shared.newest);
            self.late_view = true;
            return;
        }
        self.catch_up(shared);
    }

    /// Goes to sleep.
    pub(crate) fn before_wait(&mut self, shared: &mut Shared) {
        self.awake = false;
        if shared.leave(self.index) {
            shared.to_control.push_back(ToControl::Look);
        }
    }

    fn catch_up(&mut self, shared: &mut Shared) {
        shared.enter(self.index, self.taken);
        while shared.is_newer(self.taken) {
            let (states, is_gap) = shared.since(self.taken);
            shared.counts.gaps += u64::from(is_gap);
            if is_gap && !shared.is(Mutant::GapIgnored) {
                self.cache = Cache::new(self.at, self.cache_bytes, self.cache_bytes);
                self.noted.clear();
                self.drop_views(shared, None);
            }
            for published in states {
                self.take_view(shared, &published);
            }
            shared.enter(self.index, self.taken);
            if shared.is_awaited() {
                shared.to_control.push_back(ToControl::Look);
            }
        }
    }

    fn take_view(&mut self, shared: &mut Shared, published: &Published) {
        self.taken = published.number;
        if shared.is(Mutant::KeepsView) {
            return self.note(shared, Note::Taken(published.number));
        }
        let oids = published.oids.as_deref();
        match oids {
            _ if shared.is(Mutant::CacheKept) => self.cache.advance(published.tid, &[]),
            Some(oids) => self.cache.advance(published.tid, oids),
            None => {
                self.cache = Cache::new(published.tid, self.cache_bytes, self.cache_bytes);
                self.noted.clear();
            }
        }
        for file in &published.anew {
            self.noted.remove(file);
            self.depends.forget(*file);
            self.infos.remove(file);
        }
        self.drop_views(shared, oids);
        self.at = published.tid;
        self.note(shared, Note::Taken(published.number));
    }

    fn drop_views(&mut self, shared: &mut Shared, oids: Option<&[Oid]>) {
        let touched = self.depends.take_touched(oids);
        if !shared.is(Mutant::InFlightKept) {
            self.loading.head_changed(oids);
        }
        if !shared.is(Mutant::InfoKept) {
            for id in &touched {
                self.infos.remove(id);
            }
        }
        let mut given_back = Vec::new();
        let heads = self.tasks.iter_mut().flatten();
        for task in heads.filter(|task| task.rev == Rev::Head) {
            let before = task.own.len();
            match oids {
                _ if shared.is(Mutant::ParkedKeeps) && matches!(task.job, Job::Read { .. }) => {}
                Some(oids) => oids.iter().for_each(|oid| {
                    task.own.remove(oid);
                }),
                None => task.own.clear(),
            }
            shared.counts.robbed += u64::from(task.own.len() < before);
            if let Job::Store { of, .. } = task.job
                && !shared.is(Mutant::StoreGoesOn)
            {
                task.job = Job::Abandoned;
                shared.counts.stores_abandoned += 1;
                given_back.push(of);
            }
        }
        for of in given_back {
            self.give_back(shared, of);
        }
    }

    pub(crate) fn note(&mut self, shared: &mut Shared, note: Note) {
        if shared.is(Mutant::NotedLate) && matches!(note, Note::Block { .. }) {
            return self.late_notes.push(note);
        }
        if shared.is(Mutant::NotedAfterWatched) && matches!(note, Note::Block { .. }) {
            return self.watching.notes.push(note);
        }
        shared.note(self.index, note);
    }

    /// For mutants: does what was put off.
    pub(crate) fn late(&mut self, shared: &mut Shared) {
        if std::mem::take(&mut self.late_view) && self.awake {
            self.catch_up(shared);
        }
        for store in std::mem::take(&mut self.late_stores) {
            shared.push(store);
        }
        shared.notes.borrow_mut()[self.index].extend(self.late_notes.drain(..));
    }
}

/// Messages.
impl Worker {
    /// Takes one message.
    pub(crate) fn woken(&mut self, shared: &mut Shared) {
        match self.inbox.pop_front().expect("there is a message") {
            ToWorker::Look => {}
            ToWorker::Shown => {
                for request in std::mem::take(&mut self.held_back) {
                    self.request(shared, request);
                }
            }
            ToWorker::Stored(unique) => {
                if let Some(at) = self.opening.iter().position(|r| r.unique == unique) {
                    let request = self.opening.swap_remove(at);
                    shared.answer(request, Outcome::Opened, self.at);
                }
            }
            ToWorker::Interrupt(unique) => {
                if !self.interrupt_link(shared, unique) {
                    self.interrupt(shared, unique);
                }
            }
            ToWorker::ReadOn(on) => self.read_on(shared, on),
            ToWorker::LinkRead(unique, result) => self.link_read(shared, unique, result),
            ToWorker::LinkWrote(unique) => self.link_wrote(shared, unique),
            ToWorker::Granted(unique, granted) => self.granted(shared, unique, granted),
            ToWorker::Forgotten(ids) => {
                for id in ids.iter() {
                    if let Some(file) = self.files.remove(id) {
                        self.looked_up.forget(&file);
                    }
                    self.infos.remove(id);
                    self.depends.forget(*id);
                    self.noted.remove(id);
                }
                shared.touches[self.index].retain(|id| !ids.contains(&id));
                self.forget_storing(&ids);
                let left = self.tasks.iter_mut().flatten().filter(|t| t.held.is_none());
                for task in left {
                    if matches!(&task.job, Job::Store { file, .. } if ids.contains(&file.id)) {
                        task.job = Job::Abandoned;
                    }
                }
            }
        }
    }

    fn interrupt(&mut self, shared: &mut Shared, unique: u64) {
        let mut tasks = self.tasks.iter_mut().flatten();
        let is = |t: &&mut Task| t.held.as_ref().is_some_and(|r| r.unique == unique);
        if let Some(task) = tasks.find(is) {
            task.job = Job::Abandoned;
            let held = task.held.take().expect("just looked");
            shared.counts.interrupted += 1;
            shared.answer(held, Outcome::Failed, self.at);
        }
    }
}

/// Requests.
impl Worker {
    /// Takes one request.
    pub(crate) fn request(&mut self, shared: &mut Shared, request: Request) {
        let looks = !shared.is(Mutant::ViewAtWaking) && !self.late_view;
        if looks && shared.is_newer(self.taken) {
            self.catch_up(shared);
            shared.counts.hurried += 1;
        }
        shared.meets.requests[self.index] += 1;
        let (oid, rev) = (shared.data.oid(request.file), request.rev);
        let job = match request.op {
            Op::Forget { count } => return forget(shared, request.node, count),
            Op::Retrieved { id, off } => {
                let blksize = usize::try_from(shared.data.blksize(request.file)).unwrap();
                let parts = request.data.chunks(blksize).map(Bytes::copy_from_slice);
                let message = ToControl::Retrieved(id, off, parts.collect());
                return shared.to_control.push_back(message);
            }
            Op::LinkOpen { .. }
            | Op::LinkRead { .. }
            | Op::LinkWrite { .. }
            | Op::LinkClose { .. } => return self.link_request(shared, request),
            Op::Lookup => Job::Lookup(oid),
            Op::Open => return self.open(shared, request),
            Op::Getattr | Op::Read { .. } => {
                let file = self.node(shared, request.node);
                let file = file.expect("the kernel speaks of nodes it was told of");
                match request.op {
                    _ if file.is_gone() => return shared.answer(request, Outcome::Failed, self.at),
                    Op::Read { .. } if shared.moving && shared.is(Mutant::ReadsWait) => {
                        return self.held_back.push(request);
                    }
                    Op::Read { first, count } => Job::Read {
                        file,
                        off: (first * PAGE) as u64,
                        len: count * PAGE,
                        is_direct: shared.kernel.direct.contains_key(&request.unique),
                    },
                    _ => Job::Getattr(file),
                }
            }
        };
        self.admit(shared, Some(request), rev, job);
    }

    fn open(&mut self, shared: &mut Shared, request: Request) {
        shared.counts.opens += 1;
        let file = self.node(shared, request.node);
        let file = file.expect("the kernel speaks of nodes it was told of");
        if self.store_kept(shared, &file, request.unique) {
            return self.opening.push(request);
        }
        shared.answer(request, Outcome::Opened, self.at);
    }

    fn store_kept(&self, shared: &mut Shared, file: &Arc<FileNode>, unique: u64) -> bool {
        let Rev::At(tid) = file.rev else { return false };
        let pieces = shared.kept.take((file.oid, tid));
        if pieces.is_empty() {
            return false;
        }
        shared.counts.opens_kept += 1;
        shared.keeps.push_back(Keep {
            file: Arc::clone(file),
            pieces,
            opener: Some((self.index, unique)),
        });
        true
    }
}

fn forget(shared: &mut Shared, node: NodeId, count: u64) {
    let mut dropped = Vec::new();
    shared.tree.forget(node, count, &mut dropped);
    if !dropped.is_empty() {
        shared.counts.forgotten += 1;
        let dropped: Rc<[NodeId]> = dropped.into();
        shared.to_all.push(ToWorker::Forgotten(Rc::clone(&dropped)));
        shared.to_control.push_back(ToControl::Forgotten(dropped));
    }
}
