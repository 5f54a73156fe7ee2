//! A worker: the pure parts of the daemon, put together as `engine::{serve, answer, names}` put them.
//!
//! Real: tracking, touches, the cache, the walks, names. Stood in for: the port (requests and answers are values) and
//! the database file (a load is a value that comes at any time, in any order). Where the engine changes, this
//! has to follow; functions have the names they have there.
//!
//! A message, a request, a load or a store is one step, and anything may happen between two.

use crate::data::{Commit, PAGE};
use crate::kernel::{Op, Outcome, Request};
use crate::loading::{Delivery, Loading};
use crate::mutant::Mutant;
use crate::shared::{Notice, Shared, ToControl, ToWorker};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use zring::base::{NodeId, Oid, Tid};
use zring::fs::cache::{Cache, Own};
use zring::fs::read::Info;
use zring::fs::touch::Touches;
use zring::fs::track::Tracked;
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
    },
    Store {
        file: Arc<FileNode>,
        ranges: Vec<Range<u64>>,
    },
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) held: Option<Request>,
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
    pub(crate) inbox: VecDeque<ToWorker>,
    pub(crate) loading: Loading,
    pub(crate) at: Tid,
    pub(crate) cache_bytes: usize,
    pub(crate) files: FxHashMap<NodeId, Arc<FileNode>>,
    pub(crate) infos: FxHashMap<NodeId, Info>,
    pub(crate) cache: Cache<Extent>,
    pub(crate) tracked: Tracked,
    pub(crate) touches: Touches,
    pub(crate) tasks: Vec<Option<Task>>,
    pub(crate) free: Vec<usize>,
    pub(crate) ready: Vec<usize>,
    pub(crate) wants: Wants,
    pub(crate) seen: RefCell<Vec<Oid>>,
    pub(crate) deliveries: Vec<Delivery>,
    /// For mutants: what is done later than it should be.
    pub(crate) late_view: Option<Commit>,
    pub(crate) late_notices: Vec<Notice>,
    pub(crate) late_notes: Vec<(NodeId, Vec<Oid>)>,
    pub(crate) moving: bool,
    pub(crate) held_back: Vec<Request>,
}

impl Worker {
    pub(crate) fn new(at: Tid, cache_bytes: usize) -> Self {
        Self {
            inbox: VecDeque::new(),
            loading: Loading::default(),
            at,
            cache_bytes,
            files: FxHashMap::default(),
            infos: FxHashMap::default(),
            cache: Cache::new(cache_bytes, cache_bytes),
            tracked: Tracked::default(),
            touches: Touches::default(),
            tasks: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            wants: Wants::default(),
            seen: RefCell::default(),
            deliveries: Vec::new(),
            late_view: None,
            late_notices: Vec::new(),
            late_notes: Vec::new(),
            moving: false,
            held_back: Vec::new(),
        }
    }

    /// Whether there is a block to be stored for readers to come.
    pub(crate) fn has_touches(&self) -> bool {
        !self.touches.is_empty()
    }

    /// Whether a mutant put something off.
    pub(crate) fn is_late(&self) -> bool {
        self.late_view.is_some() || !self.late_notices.is_empty() || !self.late_notes.is_empty()
    }

    /// Whether it works on nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.inbox.is_empty() && self.held_back.is_empty() && self.tasks.iter().all(Option::is_none)
    }

    /// What each READ in its hands waits for.
    pub(crate) fn reads(&self, out: &mut Vec<(u64, WaitsFor)>) {
        out.extend(self.held_back.iter().map(|r| (r.unique, WaitsFor::Advance)));
        for (id, task) in self.tasks.iter().enumerate() {
            if let Some(Task {
                held: Some(request),
                ..
            }) = task
            {
                let loads = self.loading.serves(id);
                let waits = if loads {
                    WaitsFor::Load
                } else {
                    WaitsFor::Nothing
                };
                out.push((request.unique, waits));
            }
        }
    }

    fn node(&mut self, shared: &Shared, id: NodeId) -> Option<Arc<FileNode>> {
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

/// Messages.
impl Worker {
    /// Takes one message.
    pub(crate) fn woken(&mut self, shared: &mut Shared) {
        match self.inbox.pop_front().expect("there is a message") {
            ToWorker::Ask(commit) => {
                self.moving = true;
                let touched = if shared.is(Mutant::AskEndsNotes) {
                    self.tracked.take_touched(commit.oids.as_deref())
                } else {
                    self.tracked.touched(commit.oids.as_deref())
                };
                shared.to_control.push_back(ToControl::Answered(touched));
            }
            ToWorker::View(commit) if shared.is(Mutant::TookTooEarly) => {
                let touched = self.tracked.touched(commit.oids.as_deref());
                shared.to_control.push_back(ToControl::Took(touched));
                self.catch_up(shared);
                self.late_view = Some(commit);
            }
            ToWorker::View(commit) => {
                let touched = self.take_view(shared, &commit);
                shared.to_control.push_back(ToControl::Took(touched));
            }
            ToWorker::Shown => {
                self.moving = false;
                for request in std::mem::take(&mut self.held_back) {
                    self.request(shared, request);
                }
            }
            ToWorker::Interrupt(unique) => self.interrupt(shared, unique),
            ToWorker::Forgotten(ids) => {
                for id in ids.iter() {
                    self.files.remove(id);
                    self.infos.remove(id);
                    self.tracked.forget(*id);
                }
                self.touches.retain(|id| !ids.contains(&id));
            }
        }
    }

    fn take_view(&mut self, shared: &mut Shared, commit: &Commit) -> Vec<NodeId> {
        let oids = commit.oids.as_deref();
        if shared.is(Mutant::KeepsView) {
            return self.tracked.take_touched(oids);
        }
        match oids {
            _ if shared.is(Mutant::CacheKept) => {}
            Some(oids) => self.cache.forget_head(oids),
            None => self.cache = Cache::new(self.cache_bytes, self.cache_bytes),
        }
        let touched = self.tracked.take_touched(oids);
        if !shared.is(Mutant::InFlightKept) {
            self.loading.head_changed(oids);
        }
        if !shared.is(Mutant::InfoKept) {
            for id in &touched {
                self.infos.remove(id);
            }
        }
        self.touches.retain(|id| !touched.contains(&id));
        for task in self.tasks.iter_mut().flatten() {
            let before = task.own.len();
            match oids {
                _ if shared.is(Mutant::ParkedKeeps) && matches!(task.job, Job::Read { .. }) => {}
                Some(oids) => oids.iter().for_each(|oid| {
                    task.own.remove(oid);
                }),
                None => task.own.clear(),
            }
            shared.counts.robbed += u64::from(task.own.len() < before);
            if matches!(task.job, Job::Store { .. }) && !shared.is(Mutant::StoreGoesOn) {
                task.job = Job::Abandoned;
                shared.counts.stores_abandoned += 1;
            }
        }
        self.at = commit.tid;
        touched
    }

    fn interrupt(&mut self, shared: &mut Shared, unique: u64) {
        let mut tasks = self.tasks.iter_mut().flatten();
        let is = |t: &&mut Task| t.held.as_ref().is_some_and(|r| r.unique == unique);
        if let Some(task) = tasks.find(is) {
            task.job = Job::Abandoned;
            let held = task.held.take().expect("just looked");
            shared.counts.interrupted += 1;
            shared.answer(held, Outcome::Failed);
        }
    }

    /// For mutants: does what was put off.
    pub(crate) fn catch_up(&mut self, shared: &mut Shared) {
        if let Some(commit) = self.late_view.take() {
            self.take_view(shared, &commit);
        }
        shared.notices.extend(self.late_notices.drain(..));
        for (node, oids) in self.late_notes.drain(..) {
            self.tracked.note(node, &oids);
        }
    }
}

/// Requests.
impl Worker {
    /// Takes one request.
    pub(crate) fn request(&mut self, shared: &mut Shared, request: Request) {
        let oid = shared.data.oid(request.file);
        let job = match request.op {
            Op::Forget { count } => return forget(shared, request.node, count),
            Op::Lookup => Job::Lookup(oid),
            Op::Getattr | Op::Read { .. } => {
                let file = self.node(shared, request.node);
                let file = file.expect("the kernel speaks of nodes it was told of");
                match request.op {
                    _ if file.is_gone() => return shared.answer(request, Outcome::Failed),
                    Op::Read { .. } if self.moving && shared.is(Mutant::ReadsWait) => {
                        return self.held_back.push(request);
                    }
                    Op::Read { first, count } => Job::Read {
                        file,
                        off: (first * PAGE) as u64,
                        len: count * PAGE,
                    },
                    _ => Job::Getattr(file),
                }
            }
        };
        self.admit(shared, Some(request), job);
    }

    /// Loads and stores the rest of the block that was touched last.
    pub(crate) fn store_one(&mut self, shared: &mut Shared) {
        let Some(touch) = self.touches.take() else {
            return;
        };
        let (Some(file), Some(info)) = (self.files.get(&touch.node), self.infos.get(&touch.node))
        else {
            return;
        };
        if file.is_gone() {
            return;
        }
        let blksize = info.file.blksize.0;
        let base = touch.blk.0 * blksize;
        let len = blksize.min(info.size.saturating_sub(base));
        let ranges: Vec<_> = touch
            .missing(len)
            .map(|r| base + r.start..base + r.end)
            .collect();
        let page = PAGE as u64;
        let aligned = |r: &Range<u64>| {
            r.start.is_multiple_of(page) && (r.end.is_multiple_of(page) || r.end == info.size)
        };
        if ranges.is_empty() || !ranges.iter().all(aligned) {
            return;
        }
        let file = Arc::clone(file);
        self.admit(shared, None, Job::Store { file, ranges });
    }
}

fn forget(shared: &mut Shared, node: NodeId, count: u64) {
    let mut dropped = Vec::new();
    shared.tree.forget(node, count, &mut dropped);
    if !dropped.is_empty() {
        shared.counts.forgotten += 1;
        shared.to_all.push(ToWorker::Forgotten(dropped.into()));
    }
}
