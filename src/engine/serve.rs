//! The file system, as one worker serves it.
//!
//! Requests for names and small files are answered on the spot. Big files become tasks ([`super::task`]), which
//! are answered on the spot too when all they need is at hand, and else parked until it has been loaded.
//! Nothing here waits: not for the database, not for another worker, not for an advance of head (I3).
//!
//! Owned by its worker: the view of head it answers from, the objects it keeps, what it has tracked, parked tasks.

use super::loading::{Delivery, Fetched, Loading, TaskId};
use super::shared::{Counters, Mailbox, Notice, Published, Shared, ToControl, ToWorker};
use super::task::{self, Extent, Failure, Job, RawKey, Task, Wants};
use super::worker::Service;
use crate::base::limit;
use crate::base::{NodeId, Oid, Rev, Tid, Unique};
use crate::fs::cache::{Cache, Kept};
use crate::fs::errno;
use crate::fs::read::{self, Info};
use crate::fs::touch::Touches;
use crate::fs::track::Tracked;
use crate::fs::tree::{self, FileNode, Name, Node};
use crate::kernel::port::{Held, Port, ReadDone};
use crate::store::LoadError;
use crate::store::file::FileView;
use crate::wire::fuse::abi::{Attr, fopen};
use crate::wire::fuse::reply;
use crate::wire::fuse::request::{self, Op};
use crate::wire::pickle;
use crate::zodb::need::{Absent, Ask, Step};
use crate::zodb::object::decode_within;
use crate::zodb::{Kind, ZodbError};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a worker has had nothing to do before it stores blocks for readers to come.
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

/// See the module.
#[derive(Debug)]
pub struct FileService {
    index: usize,
    shared: Arc<Shared>,
    links: Links,
    /// Head, as this worker answers it.
    at: Tid,
    view: FileView,
    files: FxHashMap<NodeId, Arc<FileNode>>,
    infos: FxHashMap<NodeId, Info>,
    cache: Cache<Extent>,
    tracked: Tracked,
    touches: Touches,
    loading: Loading,
    tasks: Vec<Option<Task>>,
    free: Vec<TaskId>,
    ready: Vec<TaskId>,
    /// LOOKUPs of `@tid` beyond head.
    future: Vec<(Tid, Unique, Held)>,
    interrupted: VecDeque<Unique>,
    wants: Wants,
    seen: RefCell<Vec<Oid>>,
    deliveries: Vec<Delivery>,
    /// A request came since the last wait.
    active: bool,
}

impl FileService {
    /// The service of worker `index`, answering from `view`.
    pub fn new(index: usize, shared: Arc<Shared>, links: Links, view: FileView) -> Self {
        let cache = Cache::new(limit::BLOCK_CACHE_BYTES / links.workers.len());
        Self {
            index,
            links,
            at: view.at(),
            view,
            files: FxHashMap::default(),
            infos: FxHashMap::default(),
            cache,
            tracked: Tracked::default(),
            touches: Touches::default(),
            loading: Loading::default(),
            tasks: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            future: Vec::new(),
            interrupted: VecDeque::with_capacity(INTERRUPTED_MAX + 1),
            wants: Wants::default(),
            seen: RefCell::default(),
            deliveries: Vec::new(),
            active: false,
            shared,
        }
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters[self.index]
    }

    fn reply(&self, port: &mut Port, held: Held, outcome: Result<usize, i32>) {
        if outcome.is_err_and(|errno| errno != libc::ENOSYS) {
            Counters::add(&self.counters().errors, 1);
        }
        port.reply(held, outcome);
    }

    /// The node of `id`: known here, or asked of the tree once.
    fn node(&mut self, id: NodeId) -> Result<Node, i32> {
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
    fn refuse(&self, file: &FileNode) -> Result<(), i32> {
        let failed = file.rev == Rev::Head && self.shared.failed.load(Ordering::Relaxed);
        if failed || file.is_gone() {
            Err(libc::EIO)
        } else {
            Ok(())
        }
    }
}

/// Names and small files.
impl FileService {
    fn lookup(&mut self, port: &mut Port, held: Held, unique: Unique, parent: NodeId) {
        let resolved = self.node(parent).and_then(|parent| {
            let Ok(request) = port.request(&held) else {
                return Err(libc::EIO);
            };
            let Op::Lookup { name } = request.op else {
                return Err(libc::EIO);
            };
            tree::resolve(&parent, name).map_err(errno::of_name)
        });
        let outcome = match resolved {
            Err(errno) => Err(errno),
            Ok(Name::Fixed(id)) => self.entry(port, &held, id),
            Ok(Name::Rev(tid)) if tid > self.shared.head() => {
                return self.park_future(port, held, unique, tid);
            }
            Ok(Name::Rev(tid)) => {
                let id = self.shared.tree().enter_rev(tid);
                self.entry(port, &held, id)
            }
            Ok(Name::RevBigfile(tid)) => {
                let id = self.shared.tree().enter_rev_bigfile(tid);
                self.entry(port, &held, id)
            }
            Ok(Name::File(Rev::Head, _)) if self.shared.failed.load(Ordering::Relaxed) => {
                Err(libc::EIO)
            }
            Ok(Name::File(rev, oid)) => {
                return self.admit(port, Task::new(Some(held), unique, rev, Job::Lookup(oid)));
            }
        };
        self.reply(port, held, outcome);
    }

    fn entry(&mut self, port: &mut Port, held: &Held, id: NodeId) -> Result<usize, i32> {
        let attr = self.small_attr(id)?;
        Ok(reply::entry(port.body(held), attr))
    }

    /// Attributes of anything but a big file.
    fn small_attr(&mut self, id: NodeId) -> Result<Attr, i32> {
        let node = self.node(id)?;
        let owner = self.shared.owner;
        Ok(match self.text(&node) {
            Some(text) => owner.small(id, text.len()),
            None => owner.dir(id, &node, self.shared.head()),
        })
    }

    /// What a small file says now.
    fn text(&self, node: &Node) -> Option<Cow<'_, str>> {
        Some(match node {
            Node::HeadAt => self.shared.head().to_string().into(),
            Node::Zurl => self.shared.zurl.as_str().into(),
            Node::Pintimeout => self.shared.pintimeout.as_str().into(),
            Node::Stats => self.shared.stats().into(),
            _ => return None,
        })
    }

    /// Waits for head to reach `tid`: the one LOOKUP that waits.
    fn park_future(&mut self, port: &mut Port, held: Held, unique: Unique, tid: Tid) {
        if let Some(at) = self.interrupted.iter().position(|&u| u == unique) {
            self.interrupted.remove(at);
            return self.reply(port, held, Err(libc::EINTR));
        }
        self.future.push((tid, unique, held));
        self.shared.future_lookups.fetch_add(1, Ordering::SeqCst);
        self.wake_future(port); // head may have moved before control could see the count
    }

    /// Answers look-ups that head has reached.
    fn wake_future(&mut self, port: &mut Port) {
        let head = self.shared.head();
        let mut i = 0;
        while i < self.future.len() {
            if self.future[i].0 > head {
                i += 1;
                continue;
            }
            let (tid, _, held) = self.future.swap_remove(i);
            self.shared.future_lookups.fetch_sub(1, Ordering::SeqCst);
            let id = self.shared.tree().enter_rev(tid);
            let outcome = self.entry(port, &held, id);
            self.reply(port, held, outcome);
        }
    }

    fn open(&mut self, port: &mut Port, held: &Held, id: NodeId) -> Result<usize, i32> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(libc::ESHUTDOWN);
        }
        let flags = match self.node(id)? {
            Node::HeadAt | Node::Stats => fopen::DIRECT_IO | fopen::NOFLUSH,
            Node::File(file) => {
                self.refuse(&file)?;
                fopen::KEEP_CACHE | fopen::NOFLUSH
            }
            _ => fopen::KEEP_CACHE | fopen::NOFLUSH,
        };
        Ok(reply::open(port.body(held), 0, flags))
    }

    fn getattr(&mut self, port: &mut Port, held: Held, unique: Unique, id: NodeId) {
        let outcome = match self.node(id) {
            Ok(Node::File(file)) => match self.refuse(&file) {
                Ok(()) => {
                    let task = Task::new(Some(held), unique, file.rev, Job::Getattr(file));
                    return self.admit(port, task);
                }
                Err(errno) => Err(errno),
            },
            _ => self
                .small_attr(id)
                .map(|attr| reply::attr(port.body(&held), attr)),
        };
        self.reply(port, held, outcome);
    }

    fn read(&mut self, port: &mut Port, held: Held, unique: Unique, id: NodeId, range: (u64, u32)) {
        let (off, len) = (range.0, usize::try_from(range.1).unwrap_or(usize::MAX));
        let len = len.min(limit::PAYLOAD_BYTES);
        let outcome = match self.node(id) {
            Ok(Node::File(file)) => match self.refuse(&file) {
                Ok(()) => {
                    Counters::add(&self.counters().reads, 1);
                    let rev = file.rev;
                    let job = Job::Read { file, off, len };
                    return self.admit(port, Task::new(Some(held), unique, rev, job));
                }
                Err(errno) => Err(errno),
            },
            Ok(node) => match self.text(&node) {
                Some(text) => {
                    let from = usize::try_from(off).unwrap_or(usize::MAX).min(text.len());
                    let part = &text.as_bytes()[from..];
                    let part = &part[..part.len().min(len)];
                    port.body(&held)[..part.len()].copy_from_slice(part);
                    Ok(part.len())
                }
                None => Err(libc::EISDIR),
            },
            Err(errno) => Err(errno),
        };
        self.reply(port, held, outcome);
    }

    /// Names of a directory, behind the one whose cookie is `off`.
    fn readdir(
        &mut self,
        port: &mut Port,
        held: &Held,
        id: NodeId,
        (off, size): (u64, u32),
    ) -> Result<usize, i32> {
        let node = self.node(id)?;
        let listed = self.shared.tree().list(&node);
        let body = port.body(held);
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(body.len());
        let out = &mut body[..size];
        let dots = [(id, 1, true, "."), (NodeId::ROOT, 2, true, "..")];
        // Cookies follow ids, so that a listing goes on rightly while names come and go.
        let named = listed
            .iter()
            .map(|l| (l.id, l.id.0 + 2, l.dir, l.name.as_str()));
        let mut len = 0;
        for (ino, cookie, dir, name) in dots.into_iter().chain(named) {
            if cookie <= off {
                continue;
            }
            match reply::dirent(out, len, ino, cookie, dir, name.as_bytes()) {
                Some(more) => len = more,
                None => break,
            }
        }
        Ok(len)
    }

    /// The kernel forgot nodes; those that nobody can name are forgotten by every worker.
    fn forget(&mut self, forgets: impl Iterator<Item = (NodeId, u64)>) {
        let mut dropped = Vec::new();
        let mut tree = self.shared.tree();
        for (id, count) in forgets {
            tree.forget(id, count, &mut dropped);
        }
        drop(tree);
        if !dropped.is_empty() {
            let dropped: Arc<[NodeId]> = dropped.into();
            for worker in &self.links.workers {
                worker.send(ToWorker::Forgotten(Arc::clone(&dropped)));
            }
        }
    }
}

/// Tasks.
impl FileService {
    /// Answers a task, or parks it.
    fn admit(&mut self, port: &mut Port, mut task: Task) {
        if let Some(outcome) = self.step(port, &mut task) {
            return self.finish(port, task, outcome);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.tasks.len() - 1
        });
        self.tasks[id] = Some(task);
        self.fetch(port, id);
        self.run_ready(port);
    }

    /// Goes on with every task that has all it waited for.
    fn run_ready(&mut self, port: &mut Port) {
        while let Some(id) = self.ready.pop() {
            let mut task = self.tasks[id].take().expect("a ready task is parked");
            debug_assert_eq!(task.waiting, 0);
            match self.step(port, &mut task) {
                Some(outcome) => {
                    self.free.push(id);
                    self.finish(port, task, outcome);
                }
                None => {
                    self.tasks[id] = Some(task);
                    self.fetch(port, id);
                }
            }
        }
    }

    /// Carries a task as far as what is at hand allows; `None` when `wants` says what is missing.
    fn step(&mut self, port: &mut Port, task: &mut Task) -> Option<Result<usize, i32>> {
        if task.failed {
            return Some(Err(libc::EIO));
        }
        self.wants.clear();
        self.seen.get_mut().clear();
        let found = match &task.job {
            Job::Abandoned => return Some(Ok(0)),
            Job::Lookup(oid) => self.step_lookup(port, task, *oid),
            Job::Getattr(file) => self.step_getattr(port, task, file),
            Job::Read { file, off, len } => self.step_read(port, task, file, (*off, *len)),
            Job::Store { file, ranges } => self.step_store(task, file, ranges),
        };
        found.unwrap_or_else(|failure| {
            let errno = match (&failure, &task.job) {
                (Failure::Zodb(error), Job::Lookup(_)) => errno::of_lookup(error),
                (Failure::Zodb(error), _) => errno::of_access(error),
                (Failure::Io(_), _) => libc::EIO,
            };
            self.log_failure(task, &failure, errno);
            Some(Err(errno))
        })
    }

    fn log_failure(&self, task: &Task, failure: &Failure, errno: i32) {
        if matches!(failure, Failure::Zodb(ZodbError::Corrupt { .. })) {
            Counters::add(&self.counters().rejected, 1);
        }
        let at = self.tid_of(task.rev);
        let line = match (
            &task.job,
            task.job.node().and_then(|id| self.files.get(&id)),
        ) {
            (Job::Lookup(oid), _) => format!("{} bigfile {oid} @{at}: {failure}", task.rev),
            (_, Some(file)) => format!("{} bigfile {} @{at}: {failure}", task.rev, file.oid),
            _ => failure.to_string(),
        };
        match errno {
            libc::EINVAL => self.shared.log.warning(line),
            _ => self.shared.log.error(line),
        }
    }

    /// What the big file of a task is, if that is at hand. `id` is 0 while its node is not known.
    fn info(&mut self, task: &Task, oid: Oid, id: NodeId) -> Result<Option<Info>, Failure> {
        if let Some(info) = self.infos.get(&id) {
            return Ok(Some(*info));
        }
        let hand = task::at_hand(task, &self.cache, &self.seen);
        let mut ask = Ask::new(&hand, &mut self.wants.objects);
        let Step::Done(info) = read::info(&mut ask, oid)? else {
            return Ok(None);
        };
        if id != NodeId(0) {
            // What is kept has to be tracked too, also when the answer still lacks something.
            if task.rev == Rev::Head {
                self.tracked.note(id, self.seen.get_mut());
            }
            self.infos.insert(id, info);
        }
        Ok(Some(info))
    }

    /// Notes what the answer depends on, before it is given (READ 5).
    fn track(&mut self, file: &FileNode) {
        if file.rev == Rev::Head {
            self.tracked.note(file.id, self.seen.get_mut());
        }
    }

    fn step_lookup(
        &mut self,
        port: &mut Port,
        task: &Task,
        oid: Oid,
    ) -> Result<Option<Result<usize, i32>>, Failure> {
        let Some(info) = self.info(task, oid, NodeId(0))? else {
            return Ok(None);
        };
        let hand = task::at_hand(task, &self.cache, &self.seen);
        let serial = match hand.kept(oid) {
            Some(&Kept::Object(_, serial)) => serial,
            other => unreachable!("BUG: a big file that is {other:?}"),
        };
        let file = self.shared.tree().enter_file(task.rev, oid, serial);
        self.track(&file);
        self.infos.insert(file.id, info);
        self.files.insert(file.id, Arc::clone(&file));
        let attr = self
            .shared
            .owner
            .file(&file, info.size, info.file.blksize.0);
        let held = task.held.as_ref().expect("a LOOKUP is held");
        Ok(Some(Ok(reply::entry(port.body(held), attr))))
    }

    fn step_getattr(
        &mut self,
        port: &mut Port,
        task: &Task,
        file: &Arc<FileNode>,
    ) -> Result<Option<Result<usize, i32>>, Failure> {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        self.track(file);
        let attr = self.shared.owner.file(file, info.size, info.file.blksize.0);
        let held = task.held.as_ref().expect("a GETATTR is held");
        Ok(Some(Ok(reply::attr(port.body(held), attr))))
    }

    fn step_read(
        &mut self,
        port: &mut Port,
        task: &Task,
        file: &Arc<FileNode>,
        (off, len): (u64, usize),
    ) -> Result<Option<Result<usize, i32>>, Failure> {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        let len = read::clip(off, len, info.size);
        let held = task.held.as_ref().expect("a READ is held");
        let out = &mut port.body(held)[..len];
        let hand = task::at_hand(task, &self.cache, &self.seen);
        if !task::fill(&hand, &task.raws, &mut self.wants, &info, off, out)? {
            return Ok(None);
        }
        self.track(file);
        self.note_touch(file, &info, off, len);
        Counters::add(&self.counters().read_bytes, len as u64);
        Ok(Some(Ok(len)))
    }

    /// Remembers the blocks of a READ that it did not bring in whole.
    fn note_touch(&mut self, file: &FileNode, info: &Info, off: u64, len: usize) {
        let blksize = info.file.blksize.0;
        if !blksize.is_multiple_of(4096) || blksize > limit::UPLOAD_BYTES_MAX {
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
        task: &Task,
        file: &Arc<FileNode>,
        ranges: &[Range<u64>],
    ) -> Result<Option<Result<usize, i32>>, Failure> {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        let mut pages = Vec::with_capacity(ranges.len());
        for range in ranges {
            let want = usize::try_from(range.end - range.start).expect("at most a block");
            let mut data = vec![0; read::clip(range.start, want, info.size)];
            let hand = task::at_hand(task, &self.cache, &self.seen);
            if task::fill(
                &hand,
                &task.raws,
                &mut self.wants,
                &info,
                range.start,
                &mut data,
            )? {
                pages.push((range.start, data));
            }
        }
        if pages.len() < ranges.len() {
            return Ok(None);
        }
        self.track(file);
        for (off, data) in pages {
            let len = data.len();
            let notice = Notice::Store {
                node: file.id,
                off,
                data,
            };
            self.shared.store_bytes.fetch_add(len, Ordering::Relaxed);
            if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
                self.links.notices.try_send(notice)
            {
                self.shared.store_bytes.fetch_sub(len, Ordering::Relaxed);
            }
        }
        Counters::add(&self.counters().stores, 1);
        Ok(Some(Ok(0)))
    }

    fn finish(&mut self, port: &mut Port, task: Task, outcome: Result<usize, i32>) {
        if let Some(held) = task.held {
            self.reply(port, held, outcome);
        }
    }
}

/// Loads.
impl FileService {
    fn tid_of(&self, rev: Rev) -> Tid {
        match rev {
            Rev::Head => self.at,
            Rev::At(tid) => tid,
        }
    }

    /// Loads what the step of task `id` found missing; the task becomes ready when all of it is there.
    fn fetch(&mut self, port: &mut Port, id: TaskId) {
        let mut wants = std::mem::take(&mut self.wants);
        let task = self.tasks[id].as_mut().expect("the task is parked");
        let rev = task.rev;
        for list in [&mut wants.objects, &mut wants.places] {
            list.sort_unstable();
            list.dedup();
            task.waiting += list.len();
            list.retain(|&oid| self.loading.join(rev, oid, id));
        }
        task.waiting += wants.raws.len();
        debug_assert!(task.waiting > 0, "a task that lacks nothing is not parked");
        let view = self.view.clone();
        let state = (rev, self.tid_of(rev), &view);
        let mut deliveries = std::mem::take(&mut self.deliveries);
        Counters::add(&self.counters().loads, wants.objects.len() as u64);
        if !wants.objects.is_empty() {
            self.loading
                .objects(port, state, &wants.objects, &mut deliveries);
        }
        if !wants.places.is_empty() {
            self.loading
                .places(port, state, &wants.places, &mut deliveries);
        }
        for want in wants.raws.drain(..) {
            Counters::add(&self.counters().waits, 1);
            self.loading.raw(port, want.read(id), want.len);
        }
        self.wants = wants;
        self.settle(&mut deliveries);
        self.deliveries = deliveries;
    }

    /// Hands what came in to those who wait for it.
    fn settle(&mut self, deliveries: &mut Vec<Delivery>) {
        for Delivery {
            rev,
            oid,
            fetched,
            stale,
            tasks,
        } in deliveries.drain(..)
        {
            let kept = if stale {
                Err(())
            } else {
                self.keep(rev, oid, fetched)
            };
            if let Ok(kept) = &kept
                && task::worth_keeping(kept)
            {
                self.cache.insert(rev, oid, kept.clone());
            }
            for id in tasks {
                let task = self.tasks[id]
                    .as_mut()
                    .expect("a waiting task keeps its place");
                match &kept {
                    Ok(kept) => {
                        task.own.insert(oid, kept.clone());
                    }
                    Err(()) if stale => {} // it asks again
                    Err(()) => task.failed = true,
                }
                task.waiting -= 1;
                if task.waiting == 0 {
                    self.ready.push(id);
                }
            }
        }
    }

    /// What is to be known of an oid from what was loaded; an error is logged here and fails its tasks.
    fn keep(&self, rev: Rev, oid: Oid, fetched: Fetched) -> Result<Kept<Extent>, ()> {
        let error = match fetched {
            Fetched::Object(Ok(loaded)) => {
                return Ok(match decode_within(loaded.data, self.shared.max_record) {
                    Ok(object) => Kept::Object(Arc::new(object), loaded.serial),
                    Err(error) => Kept::Broken(error),
                });
            }
            Fetched::Place(Ok(located), file) => {
                return Ok(match raw_extent(&located, file, self.shared.max_record) {
                    Some(extent) => Kept::Raw(extent),
                    // Not of the plain form: to be loaded and decoded.
                    None => Kept::Opaque,
                });
            }
            Fetched::Object(Err(error)) | Fetched::Place(Err(error), _) => error,
        };
        match error {
            LoadError::NoObject => Ok(Kept::Absent(Absent::NoObject)),
            LoadError::NotYet => Ok(Kept::Absent(Absent::NotYet)),
            LoadError::Deleted { .. } => Ok(Kept::Absent(Absent::Deleted)),
            error => {
                Counters::add(&self.counters().rejected, 1);
                self.shared
                    .log
                    .error(format!("object {oid} @{}: {error}", self.tid_of(rev)));
                Err(())
            }
        }
    }
}

/// Where the bytes of a plain block lie, if its record is one; checks what stands behind them.
fn raw_extent(
    located: &crate::store::file::Located,
    file: Arc<std::fs::File>,
    max_record: usize,
) -> Option<Extent> {
    let raw = pickle::raw_bytes(&located.prefix, located.data_len)
        .filter(|raw| located.data_len <= max_record && Kind::of(raw.class) == Some(Kind::Blk0))?;
    let tail_at = located.data_len - raw.tail_len();
    let mut tail = [0; 16];
    let tail = tail.get_mut(..raw.tail_len())?;
    match located.prefix.get(tail_at..) {
        Some(bytes) if bytes.len() == tail.len() => tail.copy_from_slice(bytes),
        _ => {
            // Behind the prefix. A read that would wait is left to the ordinary load.
            let pos = located.data_pos + tail_at as u64;
            let now = crate::kernel::file::read_now(&file, pos, tail).ok()?;
            if now != crate::kernel::file::Now::Done(tail.len()) {
                return None;
            }
        }
    }
    raw.tail_is_valid(tail).then(|| Extent {
        pos: located.data_pos + raw.data_offset as u64,
        len: raw.data_len as u64,
        file,
    })
}

/// Head.
impl FileService {
    /// Takes a new view between two requests (commit path 5). Parked tasks go on under it: what they loaded and is
    /// no longer so is taken from them, and they ask again.
    fn take_view(&mut self, published: &Published) {
        let oids = published.oids.as_deref();
        let touched = match oids {
            Some(oids) => {
                self.cache.forget_head(oids);
                self.tracked.take_touched(oids)
            }
            None => {
                self.cache = Cache::new(limit::BLOCK_CACHE_BYTES / self.links.workers.len());
                self.tracked.take_all()
            }
        };
        self.loading.head_changed(oids);
        for id in &touched {
            self.infos.remove(id);
        }
        self.touches.retain(|id| !touched.contains(&id));
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

    /// Loads and stores the rest of the block that was touched last.
    fn store_one(&mut self, port: &mut Port) {
        let queued = self.shared.store_bytes.load(Ordering::Relaxed);
        if queued > limit::STORE_QUEUE_BYTES_MAX {
            return;
        }
        let Some(touch) = self.touches.take() else {
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
        self.active = true;
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
                ToWorker::View(published) => self.take_view(&published),
                ToWorker::Switched(view) => self.switch_file(&view),
                ToWorker::Shown => self.wake_future(port),
                ToWorker::Interrupt(unique) => self.interrupt(port, unique),
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
    }

    fn before_wait(&mut self, port: &mut Port) -> Option<Duration> {
        let active = std::mem::take(&mut self.active);
        if self.touches.is_empty() {
            return None;
        }
        if active {
            return Some(IDLE);
        }
        self.store_one(port);
        Some(if self.touches.is_empty() {
            IDLE
        } else {
            Duration::ZERO
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
