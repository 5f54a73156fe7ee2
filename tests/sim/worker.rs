//! A worker: the pure parts of the daemon, put together as `engine::{serve, answer, names}` put them.
//!
//! Real: tracking, touches, the cache, the walks, names. Stood in for: the port (requests and answers are values) and
//! the database file (a load is a value that comes at any time, in any order). Where the engine changes, this
//! has to follow; functions have the names they have there.
//!
//! A message, a request, a load or a store is one step, and anything may happen between two.

use crate::data::{Commit, PAGE};
use crate::kernel::{Op, Outcome, Request};
use crate::loading::{Delivery, Load, Loading, Purpose};
use crate::mutant::Mutant;
use crate::shared::{Notice, Shared, ToControl, ToWorker, What};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use zring::base::{NodeId, Oid, Rev, Tid};
use zring::fs::cache::{AtHand, Cache, Kept, Own};
use zring::fs::read::{self, Info};
use zring::fs::touch::Touches;
use zring::fs::track::Tracked;
use zring::fs::tree::{FileNode, Node};
use zring::zodb::need::{Absent, Ask, Step};
use zring::zodb::{Hint, Object, ZodbError, bigfile, zblk};

/// Where the bytes of a plain block lie: a revision of an object never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    oid: Oid,
    serial: Tid,
    len: u64,
}

#[derive(Debug)]
enum Job {
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
struct Task {
    held: Option<Request>,
    job: Job,
    own: Own<Extent>,
    raws: Vec<(Extent, Vec<u8>)>,
    waiting: usize,
    failed: bool,
    /// The view when it came.
    since: Tid,
}

#[derive(Debug, Default)]
struct Wants {
    objects: Vec<Oid>,
    places: Vec<Oid>,
    raws: Vec<Extent>,
}

/// Done, or in want of something.
type Stepped = Result<Option<Outcome>, ZodbError>;

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
    at: Tid,
    cache_bytes: usize,
    files: FxHashMap<NodeId, Arc<FileNode>>,
    infos: FxHashMap<NodeId, Info>,
    cache: Cache<Extent>,
    tracked: Tracked,
    touches: Touches,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    ready: Vec<usize>,
    wants: Wants,
    seen: RefCell<Vec<Oid>>,
    deliveries: Vec<Delivery>,
    /// For mutants: what is done later than it should be.
    late_view: Option<Commit>,
    late_notices: Vec<Notice>,
    late_notes: Vec<(NodeId, Vec<Oid>)>,
    moving: bool,
    held_back: Vec<Request>,
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

/// Tasks.
impl Worker {
    fn admit(&mut self, shared: &mut Shared, held: Option<Request>, job: Job) {
        let mut task = Task {
            held,
            job,
            own: Own::default(),
            raws: Vec::new(),
            waiting: 0,
            failed: false,
            since: self.at,
        };
        if let Some(outcome) = self.step(shared, &mut task) {
            return finish(shared, task, outcome);
        }
        shared.counts.parked += 1;
        let id = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.tasks.len() - 1
        });
        self.tasks[id] = Some(task);
        self.fetch(shared, id);
        self.run_ready(shared);
    }

    fn run_ready(&mut self, shared: &mut Shared) {
        while let Some(id) = self.ready.pop() {
            let mut task = self.tasks[id].take().expect("a ready task is parked");
            assert_eq!(task.waiting, 0);
            match self.step(shared, &mut task) {
                Some(outcome) => {
                    self.free.push(id);
                    finish(shared, task, outcome);
                }
                None => {
                    self.tasks[id] = Some(task);
                    self.fetch(shared, id);
                }
            }
        }
    }

    fn step(&mut self, shared: &mut Shared, task: &mut Task) -> Option<Outcome> {
        if task.failed {
            return Some(Outcome::Failed);
        }
        self.wants.objects.clear();
        self.wants.places.clear();
        self.wants.raws.clear();
        self.seen.get_mut().clear();
        let found = match &task.job {
            Job::Abandoned => Ok(Some(Outcome::Failed)),
            Job::Lookup(oid) => self.step_lookup(shared, task, *oid),
            Job::Getattr(file) => self.step_getattr(task, file),
            Job::Read { file, off, len } => self.step_read(shared, task, file, (*off, *len)),
            Job::Store { file, ranges } => self.step_store(shared, task, file, ranges),
        };
        found.unwrap_or_else(|error| {
            // Every transaction is sound by itself.
            shared.fail(What::Torn, error.to_string());
            Some(Outcome::Failed)
        })
    }

    fn at_hand<'a>(&'a self, task: &'a Task) -> AtHand<'a, Extent> {
        AtHand {
            rev: Rev::Head,
            own: &task.own,
            cache: &self.cache,
            seen: &self.seen,
        }
    }

    fn info(&mut self, task: &Task, oid: Oid, id: NodeId) -> Result<Option<Info>, ZodbError> {
        if let Some(info) = self.infos.get(&id) {
            return Ok(Some(*info));
        }
        let mut objects = std::mem::take(&mut self.wants.objects);
        let hand = self.at_hand(task);
        let found = read::info(&mut Ask::new(&hand, &mut objects), oid);
        self.wants.objects = objects;
        let Step::Done(info) = found? else {
            return Ok(None);
        };
        if id != NodeId(0) {
            self.tracked.note(id, self.seen.get_mut());
            self.infos.insert(id, info);
        }
        Ok(Some(info))
    }

    fn track(&mut self, file: &FileNode) {
        self.tracked.note(file.id, self.seen.get_mut());
    }

    fn step_lookup(&mut self, shared: &mut Shared, task: &Task, oid: Oid) -> Stepped {
        let Some(info) = self.info(task, oid, NodeId(0))? else {
            return Ok(None);
        };
        let serial = match self.at_hand(task).kept(oid) {
            Some(&Kept::Object(_, serial)) => serial,
            other => unreachable!("a big file that is {other:?}"),
        };
        let file = shared.tree.enter_file(Rev::Head, oid, serial);
        self.track(&file);
        self.infos.insert(file.id, info);
        self.files.insert(file.id, Arc::clone(&file));
        let (node, size) = (file.id, info.size);
        Ok(Some(Outcome::Entry { node, size }))
    }

    fn step_getattr(&mut self, task: &Task, file: &FileNode) -> Stepped {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        self.track(file);
        Ok(Some(Outcome::Attr { size: info.size }))
    }

    fn step_read(
        &mut self,
        shared: &mut Shared,
        task: &Task,
        file: &FileNode,
        (off, len): (u64, usize),
    ) -> Stepped {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        let mut out = vec![0xee; read::clip(off, len, info.size)];
        if !self.fill(task, &info, off, &mut out)? {
            return Ok(None);
        }
        match shared.rules.mutant {
            Some(Mutant::NotTracked) => {}
            Some(Mutant::TrackedLate) => {
                self.late_notes.push((file.id, self.seen.get_mut().clone()));
            }
            _ => self.track(file),
        }
        self.note_touch(file, &info, off, out.len());
        shared.counts.reads += 1;
        shared.counts.behind += u64::from(self.at < shared.published);
        Ok(Some(Outcome::Data(out)))
    }

    fn note_touch(&mut self, file: &FileNode, info: &Info, off: u64, len: usize) {
        let blksize = info.file.blksize.0;
        if !blksize.is_multiple_of(PAGE as u64) {
            return;
        }
        for piece in read::pieces(blksize, off, len) {
            let end = piece.off + piece.len as u64;
            self.touches
                .note(file.id, piece.blk, piece.off, end, blksize);
        }
    }

    fn step_store(
        &mut self,
        shared: &mut Shared,
        task: &Task,
        file: &FileNode,
        ranges: &[Range<u64>],
    ) -> Stepped {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        let mut pages = Vec::new();
        for range in ranges {
            let want = usize::try_from(range.end - range.start).unwrap();
            let mut data = vec![0xee; read::clip(range.start, want, info.size)];
            if self.fill(task, &info, range.start, &mut data)? {
                pages.push((range.start, data));
            }
        }
        if pages.len() < ranges.len() {
            return Ok(None);
        }
        self.track(file);
        for (off, data) in pages {
            let notice = Notice::Store {
                node: file.id,
                off,
                data,
            };
            if shared.is(Mutant::LateStore) {
                self.late_notices.push(notice);
            } else if shared.notices.len() < shared.notices_max {
                shared.notices.push_back(notice);
            }
        }
        shared.counts.stores += 1;
        Ok(Some(Outcome::Failed)) // nobody asked
    }

    fn fill(
        &mut self,
        task: &Task,
        info: &Info,
        off: u64,
        out: &mut [u8],
    ) -> Result<bool, ZodbError> {
        let mut wants = std::mem::take(&mut self.wants);
        let complete = self.fill_pieces(task, &mut wants, info, off, out);
        self.wants = wants;
        complete
    }

    fn fill_pieces(
        &self,
        task: &Task,
        wants: &mut Wants,
        info: &Info,
        off: u64,
        out: &mut [u8],
    ) -> Result<bool, ZodbError> {
        let (hand, blksize) = (self.at_hand(task), info.file.blksize);
        let mut complete = true;
        for piece in read::pieces(blksize.0, off, out.len()) {
            let target = &mut out[piece.at..][..piece.len];
            let mut ask = Ask::new(&hand, &mut wants.objects);
            let place = bigfile::locate(&mut ask, &info.file, piece.blk);
            let Step::Done(place) = place? else {
                complete = false;
                continue;
            };
            let Some(entry) = place.block else {
                target.fill(0);
                continue;
            };
            complete &= match hand.kept(entry.oid) {
                Some(Kept::Raw(extent)) => {
                    hand.seen.borrow_mut().push(entry.oid);
                    fill_raw(extent, task, wants, piece.off, target)
                }
                None if entry.hint == Hint::Blk0 => {
                    wants.places.push(entry.oid);
                    false
                }
                _ => {
                    let mut ask = Ask::new(&hand, &mut wants.objects);
                    let step = zblk::fill(&mut ask, entry.oid, blksize, piece.off, target);
                    step? == Step::Done(())
                }
            };
        }
        Ok(complete)
    }
}

/// The part of a plain block from `off` on: its bytes, once they were read, then zeros.
fn fill_raw(extent: &Extent, task: &Task, wants: &mut Wants, off: u64, target: &mut [u8]) -> bool {
    let len = read::clip(off, target.len(), extent.len);
    let (data, zeros) = target.split_at_mut(len);
    zeros.fill(0);
    if data.is_empty() {
        return true;
    }
    let Some((_, bytes)) = task.raws.iter().find(|(e, _)| e == extent) else {
        wants.raws.push(*extent);
        return false;
    };
    let off = usize::try_from(off).unwrap();
    data.copy_from_slice(&bytes[off..off + len]);
    true
}

fn finish(shared: &mut Shared, task: Task, outcome: Outcome) {
    if let Some(request) = task.held {
        shared.say(|| format!("  {} answered, came at {}", request.unique, task.since));
        shared.answer(request, outcome);
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

/// Loads.
impl Worker {
    fn fetch(&mut self, shared: &mut Shared, id: usize) {
        let mut wants = std::mem::take(&mut self.wants);
        let task = self.tasks[id].as_mut().expect("the task is parked");
        for list in [&mut wants.objects, &mut wants.places] {
            list.sort_unstable();
            list.dedup();
            task.waiting += list.len();
            list.retain(|&oid| self.loading.join(oid, id));
        }
        task.waiting += wants.raws.len();
        assert!(task.waiting > 0, "a task that lacks nothing is not parked");
        let objects = wants.objects.iter().map(|&oid| Purpose::Object(oid));
        let places = wants.places.iter().map(|&oid| Purpose::Place(oid));
        let raws = wants.raws.iter().map(|&extent| Purpose::Raw(id, extent));
        let mut at_once = Vec::new();
        for purpose in objects.chain(places).chain(raws) {
            let load = Load {
                purpose,
                at: self.at,
            };
            if shared.rng.one_in(shared.quick) {
                at_once.push(load);
            } else {
                self.loading.start(load);
            }
        }
        self.wants = wants;
        for load in at_once {
            self.deliver(shared, &load);
        }
        self.settle(shared);
    }

    /// A load came in.
    pub(crate) fn read_done(&mut self, shared: &mut Shared) {
        let load = self.loading.any(&mut shared.rng);
        self.deliver(shared, &load);
        self.settle(shared);
        self.run_ready(shared);
    }

    fn deliver(&mut self, shared: &mut Shared, load: &Load) {
        let failed = shared.rng.one_in(shared.failing);
        if let Purpose::Raw(id, extent) = load.purpose {
            let task = self.tasks[id]
                .as_mut()
                .expect("a waiting task keeps its place");
            let record = shared.data.load(extent.oid, extent.serial);
            match record.map(|r| &*r.object) {
                Some(Object::Blk0(bytes)) if !failed => task.raws.push((extent, bytes.to_vec())),
                Some(Object::Blk0(_)) => task.failed = true,
                other => unreachable!("a plain block that is {other:?}"),
            }
            task.waiting -= 1;
            if task.waiting == 0 {
                self.ready.push(id);
            }
            return;
        }
        let (Purpose::Object(oid) | Purpose::Place(oid)) = load.purpose else {
            unreachable!("done above")
        };
        let record = shared.data.load(oid, load.at);
        let kept = match (record, load.purpose) {
            _ if failed => Err(()),
            (None, _) => Ok(Kept::Absent(Absent::NoObject)),
            (Some(r), Purpose::Object(_)) => Ok(Kept::Object(Arc::clone(&r.object), r.serial)),
            (Some(r), _) => Ok(place(oid, r)),
        };
        shared.counts.stale_loads += u64::from(self.loading.is_stale(oid));
        self.deliveries.push(self.loading.done(oid, kept));
    }

    fn settle(&mut self, shared: &mut Shared) {
        for Delivery {
            oid,
            kept,
            stale,
            tasks,
        } in std::mem::take(&mut self.deliveries)
        {
            let kept = if stale { Err(()) } else { kept };
            if let Ok(kept) = &kept
                && worth_keeping(kept)
            {
                self.cache.insert(Rev::Head, oid, kept.clone());
            }
            for id in tasks {
                let Some(task) = self.tasks[id].as_mut() else {
                    shared.fail(What::Lost, format!("{oid} comes in for nobody"));
                    continue;
                };
                match &kept {
                    Ok(kept) => {
                        task.own.insert(oid, kept.clone());
                    }
                    Err(()) if stale => {}
                    Err(()) => task.failed = true,
                }
                task.waiting -= 1;
                if task.waiting == 0 {
                    self.ready.push(id);
                }
            }
        }
    }
}

/// What the place of a record tells; some records are not of the form that can be read where they lie.
fn place(oid: Oid, record: &crate::data::Record) -> Kept<Extent> {
    match &*record.object {
        Object::Blk0(data) if !(oid.0 + record.serial.0).is_multiple_of(4) => Kept::Raw(Extent {
            oid,
            serial: record.serial,
            len: data.len() as u64,
        }),
        _ => Kept::Opaque,
    }
}

fn worth_keeping(kept: &Kept<Extent>) -> bool {
    match kept {
        Kept::Object(object, _) => !matches!(**object, Object::Blk0(_) | Object::Data(_)),
        Kept::Raw(_) => true,
        Kept::Broken(_) | Kept::Absent(_) | Kept::Opaque => false,
    }
}
