//! The file system, as one worker serves it.
//!
//! Requests for names and small files are answered on the spot. Big files become tasks ([`super::task`]), which
//! are answered on the spot too when all they need is at hand, and else parked until it has been loaded.
//! Nothing here waits: not for the database, not for another worker, not for an advance of head (I3).
//!
//! Owned by its worker: the view of head it answers from, the objects it keeps, what it has tracked, parked tasks.

use super::loading::{Delivery, Fetched, Loading, TaskId};
use super::shared::{Counters, Mailbox, Notice, Published, Shared, ToControl, ToWorker};
use super::task::{Extent, Job, RawKey, Task, Wants};
use super::worker::Service;
use crate::base::limit;
use crate::base::{NodeId, Oid, Rev, Tid, Unique};
use crate::fs::cache::Cache;
use crate::fs::read::Info;
use crate::fs::touch::Touch;
use crate::fs::track::Tracked;
use crate::fs::tree::{self, FileNode, Node};
use crate::kernel::port::{Held, Port, ReadDone};
use crate::store::file::FileView;
use crate::wire::fuse::reply;
use crate::wire::fuse::request::{self, Op};
use crossbeam_channel::{Receiver, Sender};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long at least nobody has asked for anything before blocks are stored for readers to come.
const IDLE: Duration = Duration::from_millis(2);
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
    /// The notifier.
    pub notices: Sender<Notice>,
}

/// A worker's share of the bounds.
fn new_cache(workers: usize) -> Cache<Extent> {
    Cache::new(
        limit::TABLE_CACHE_BYTES / workers,
        limit::BLOCK_CACHE_BYTES / workers,
    )
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
    pub(super) view: FileView,
    pub(super) files: FxHashMap<NodeId, Arc<FileNode>>,
    pub(super) infos: FxHashMap<NodeId, Info>,
    pub(super) cache: Cache<Extent>,
    pub(super) tracked: Tracked,
    pub(super) loading: Loading,
    pub(super) tasks: Vec<Option<Task>>,
    pub(super) free: Vec<TaskId>,
    pub(super) ready: Vec<TaskId>,
    /// LOOKUPs of `@tid` beyond head.
    pub(super) future: Vec<(Tid, Unique, Held)>,
    pub(super) interrupted: VecDeque<Unique>,
    pub(super) wants: Wants,
    pub(super) seen: RefCell<Vec<Oid>>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) fetched: Vec<(Oid, Fetched)>,
    /// Requests of all workers, and when there were so many first.
    pub(super) quiet: (u64, Instant),
}

impl FileService {
    /// The service of worker `index`, answering from `view`.
    pub fn new(index: usize, shared: Arc<Shared>, links: Links, view: FileView) -> Self {
        let cache = new_cache(links.workers.len());
        Self {
            index,
            links,
            at: view.at(),
            taken: 0,
            view,
            files: FxHashMap::default(),
            infos: FxHashMap::default(),
            cache,
            tracked: Tracked::default(),
            loading: Loading::default(),
            tasks: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            future: Vec::new(),
            interrupted: VecDeque::with_capacity(INTERRUPTED_MAX + 1),
            wants: Wants::default(),
            seen: RefCell::default(),
            deliveries: Vec::new(),
            fetched: Vec::new(),
            quiet: (0, Instant::now()),
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
        if failed || file.is_gone() {
            Err(libc::EIO)
        } else {
            Ok(())
        }
    }
}

/// Head.
impl FileService {
    /// Takes a new view between two requests (commit path 5). Parked tasks go on under it: what they loaded and is
    /// no longer so is taken from them, and they ask again.
    fn take_view(&mut self, published: &Published) {
        let oids = published.oids.as_deref();
        match oids {
            Some(oids) => self.cache.forget_head(oids),
            None => self.cache = new_cache(self.links.workers.len()),
        }
        let touched = self.tracked.take_touched(oids);
        self.loading.head_changed(oids);
        for id in &touched {
            self.infos.remove(id);
        }
        if let Some(mut touches) = self.shared.touches(self.index) {
            touches.retain(|id| !touched.contains(&id));
        }
        for task in self
            .tasks
            .iter_mut()
            .flatten()
            .filter(|task| task.rev == Rev::Head)
        {
            match oids {
                Some(oids) => oids.iter().for_each(|oid| {
                    task.own.remove(oid);
                }),
                None => task.own.clear(),
            }
            if matches!(task.job, Job::Store { .. }) {
                task.job = Job::Abandoned; // made from a view that is over
            }
        }
        self.switch_file(&published.view);
        self.taken = published.number;
        self.at = published.tid;
        self.links.control.send(ToControl::Took(touched));
    }

    /// Reads from another file from now on, unless the one at hand is newer still.
    fn switch_file(&mut self, view: &FileView) {
        if view.generation() >= self.view.generation() {
            self.view = view.clone();
        }
    }

    /// The caller of a request was signalled: a parked one is answered, others are about to be anyway.
    fn interrupt(&mut self, port: &mut Port, unique: Unique) {
        if let Some(at) = self.future.iter().position(|(_, u, _)| *u == unique) {
            let (_, _, held) = self.future.swap_remove(at);
            self.shared.future_lookups.fetch_sub(1, Ordering::SeqCst);
            return self.reply(port, held, Err(libc::EINTR));
        }
        let parked = self
            .tasks
            .iter_mut()
            .flatten()
            .find(|t| t.unique == unique && t.held.is_some());
        if let Some(task) = parked {
            // Its loads go on for others; its place is kept until they have come.
            task.job = Job::Abandoned;
            let held = task.held.take().expect("just looked");
            return self.reply(port, held, Err(libc::EINTR));
        }
        if self.interrupted.len() == INTERRUPTED_MAX {
            self.interrupted.pop_front();
        }
        self.interrupted.push_back(unique);
    }

    fn has_touches(&self) -> bool {
        self.shared
            .touches(self.index)
            .is_none_or(|touches| !touches.is_empty())
    }

    /// The block that was touched last, and what all workers answered of it.
    fn take_touch(&self) -> Option<Touch> {
        let mut touch = self.shared.touches(self.index)?.take()?;
        let others = (0..self.links.workers.len()).filter(|&worker| worker != self.index);
        for mut theirs in others.filter_map(|worker| self.shared.touches(worker)) {
            if let Some(other) = theirs.remove(touch.node, touch.blk) {
                touch.join(&other);
            }
        }
        Some(touch)
    }

    /// Loads and stores the rest of the block that was touched last.
    fn store_one(&mut self, port: &mut Port) {
        let queued = self.shared.store_bytes.load(Ordering::Relaxed);
        if queued > limit::STORE_QUEUE_BYTES_MAX {
            return;
        }
        let Some(touch) = self.take_touch() else {
            return;
        };
        let (Some(file), Some(info)) = (self.files.get(&touch.node), self.infos.get(&touch.node))
        else {
            return;
        };
        if self.refuse(file).is_err() {
            return;
        }
        let blksize = info.file.blksize.0;
        let base = touch.blk.0 * blksize;
        let len = blksize.min(info.size.saturating_sub(base));
        let ranges = touch
            .missing(len)
            .map(|r| base + r.start..base + r.end)
            .collect::<Vec<_>>();
        let aligned = |r: &Range<u64>| {
            r.start.is_multiple_of(4096) && (r.end.is_multiple_of(4096) || r.end == info.size)
        };
        if ranges.is_empty() || !ranges.iter().all(aligned) {
            return;
        }
        let (file, rev) = (Arc::clone(file), file.rev);
        self.admit(
            port,
            Task::new(None, Unique(0), rev, Job::Store { file, ranges }),
        );
    }
}

impl Service for FileService {
    fn request(&mut self, port: &mut Port, held: Held) {
        // Another worker may have told the kernel of the new size already: a READ up to there has to find the new blocks.
        if let Some(published) = self.shared.newer_than(self.taken) {
            self.take_view(&published);
        }
        Counters::add(&self.counters().requests, 1);
        let Ok(request) = port.request(&held) else {
            self.shared
                .log
                .error("the kernel sent a request that cannot be read");
            return self.reply(port, held, Err(libc::EIO));
        };
        let (id, unique) = (request.node, request.unique);
        let outcome = match request.op {
            Op::Lookup { .. } => return self.lookup(port, held, unique, id),
            Op::Getattr => return self.getattr(port, held, unique, id),
            Op::Read { off, size, .. } => return self.read(port, held, unique, id, (off, size)),
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
            Op::Open { .. } => self.open(port, &held, id),
            Op::Release { .. } | Op::Destroy | Op::NotifyReply { .. } => Ok(0),
            Op::Readdir { off, size } => self.readdir(port, &held, id, (off, size)),
            Op::Statfs => Ok(reply::statfs(port.body(&held))),
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
            match result {
                Ok(bytes) => task.raws.push((RawKey::new(&read.file, read.pos), bytes)),
                Err(error) => {
                    task.failed = true;
                    self.shared
                        .log
                        .error(format!("database file, {} bytes in: {error}", read.pos));
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
            match message {
                ToWorker::Ask(oids) => {
                    let touched = self.tracked.touched(oids.as_deref());
                    self.links.control.send(ToControl::Answered(touched));
                }
                ToWorker::View(published) => {
                    if published.number > self.taken {
                        self.take_view(&published);
                    }
                }
                ToWorker::Switched(view) => self.switch_file(&view),
                ToWorker::Shown => self.wake_future(port),
                ToWorker::Interrupt(unique) => self.interrupt(port, unique),
                ToWorker::Forgotten(ids) => {
                    for id in ids.iter() {
                        self.files.remove(id);
                        self.infos.remove(id);
                        self.tracked.forget(*id);
                    }
                    if let Some(mut touches) = self.shared.touches(self.index) {
                        touches.retain(|id| !ids.contains(&id));
                    }
                    // What is still being stored for them would note them again.
                    let left = self.tasks.iter_mut().flatten().filter(|t| t.held.is_none());
                    for task in left.filter(|t| t.job.node().is_some_and(|id| ids.contains(&id))) {
                        task.job = Job::Abandoned;
                    }
                }
            }
        }
    }

    fn before_wait(&mut self, port: &mut Port) -> Option<Duration> {
        if !self.has_touches() {
            return None;
        }
        // Readers may be busy with another worker: storing now would be in their way.
        let (requests, now) = (self.shared.requests(), Instant::now());
        if self.quiet.0 != requests {
            self.quiet = (requests, now);
        }
        let left = IDLE.saturating_sub(now - self.quiet.1);
        if !left.is_zero() {
            return Some(left);
        }
        self.store_one(port);
        Some(if self.has_touches() {
            Duration::ZERO
        } else {
            IDLE
        })
    }

    fn gone(&mut self, port: &mut Port) {
        let parked = self
            .tasks
            .iter_mut()
            .flatten()
            .filter_map(|task| task.held.take());
        let future = self.future.drain(..).map(|(_, _, held)| held);
        parked.chain(future).for_each(|held| port.discard(held));
    }
}
