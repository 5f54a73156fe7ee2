//! Carrying tasks: step, park, load, go on (READ 3 to 6).
//!
//! The states are drawn in [`super::task`]. Nothing here waits.

use super::buffer;
use super::loading::{Delivery, Fetched, TaskId};
use super::log::Chain;
use super::notifier::Store;
use super::serve::FileService;
use super::shared::{Counters, ToControl};
use super::task::{self, Extent, Failure, Job, Look, Task};
use super::upload::Of;
use crate::base::limit;
use crate::base::span::KeySet;
use crate::base::{BlkNo, NodeId, Oid, Rev, Tid};
use crate::fs::cache::Kept;
use crate::fs::errno;
use crate::fs::meeting;
use crate::fs::pagecache::{self, PAGE};
use crate::fs::read::{self, Info};
use crate::fs::track::{Looked, Note, range_of};
use crate::fs::tree::FileNode;
use crate::kernel::file::{Now, read_now};
use crate::kernel::port::{Held, Port};
use crate::store::LoadError;
use crate::store::any::AnyView;
use crate::store::file::{Located, Run};
use crate::tail::Seen;
use crate::wire::fuse::reply;
use crate::wire::pickle;
use crate::zodb::bigfile;
use crate::zodb::need::{Absent, Ask, Step};
use crate::zodb::object::decode_within;
use crate::zodb::{Kind, ZodbError};
use bytes::Bytes;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Tasks.
impl FileService {
    /// Answers a task, or parks it.
    pub(super) fn admit(&mut self, port: &mut Port, mut task: Task) {
        let mut near = None;
        loop {
            if let Some(outcome) = self.step(port, &mut task) {
                return self.finish(port, task, outcome);
            }
            if !self.load_now(&mut task, &mut near) {
                break;
            }
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
    pub(super) fn run_ready(&mut self, port: &mut Port) {
        while let Some(id) = self.ready.pop() {
            let mut task = self.tasks[id].take().expect("a ready task is parked");
            debug_assert_eq!(task.waiting, 0);
            let outcome = match self.refuse_parked(&task) {
                Err(errno) => Some(Err(errno)),
                Ok(()) => self.step(port, &mut task),
            };
            match outcome {
                Some(outcome) => {
                    self.ask_ahead(&task);
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

    /// What it is about may have gone while it waited.
    fn refuse_parked(&self, task: &Task) -> Result<(), i32> {
        match &task.job {
            Job::Getattr(file) | Job::Read { file, .. } | Job::Store { file, .. } => {
                self.refuse(file)
            }
            Job::Lookup(_) if self.is_void() => Err(libc::EIO),
            Job::Lookup(_) | Job::Abandoned => Ok(()),
        }
    }

    /// Carries a task as far as what is at hand allows; `None` when `wants` says what is missing.
    fn step(&mut self, port: &mut Port, task: &mut Task) -> Option<Result<usize, i32>> {
        self.wants.clear();
        if task.failed {
            self.log_failure(task, &Failure::NotLoaded, libc::EIO);
            return Some(Err(libc::EIO));
        }
        self.seen.get_mut().clear();
        let found = match &task.job {
            Job::Abandoned => return Some(Ok(0)),
            Job::Lookup(oid) => self.step_lookup(port, task, *oid),
            Job::Getattr(file) => self.step_getattr(port, task, file),
            Job::Read {
                file,
                off,
                len,
                is_direct,
            } => self.step_read(port, task, file, (*off, *len), *is_direct),
            Job::Store { file, ranges, of } => self.step_store(task, file, ranges, *of),
        };
        found.unwrap_or_else(|failure| {
            let errno = match (&failure, &task.job) {
                (Failure::Zodb(error), Job::Lookup(_)) => errno::of_lookup(error),
                (Failure::Zodb(error), _) => errno::of_access(error),
                (Failure::Io { .. } | Failure::NotLoaded, _) => libc::EIO,
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
        let line = match &task.job {
            Job::Lookup(oid) => {
                let rev = task.rev;
                format!("/{rev}/bigfile: lookup \"{oid}\": @{at}: {failure}")
            }
            Job::Getattr(file) => format!("{file}: @{at}: {failure}"),
            Job::Read { file, off, .. } => self.unread(file, *off, at, failure),
            Job::Store { file, ranges, .. } => {
                let off = ranges.first().map_or(0, |range| range.start);
                self.unread(file, off, at, failure)
            }
            Job::Abandoned => failure.to_string(),
        };
        match errno {
            libc::EINVAL => self.shared.log.warning(line),
            _ => self.shared.log.error(line),
        }
    }

    /// What the log says of a block that cannot be read: the one that was looked at last, or that of `off` if none was.
    fn unread(&self, file: &FileNode, off: u64, at: Tid, failure: &Failure) -> String {
        let blk = self.wants.blk.unwrap_or_else(|| file.blk_at(off));
        format!("{file}: readblk {blk}: @{at}: {failure}")
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
            self.learn(task, id, oid, info)?;
        }
        Ok(Some(info))
    }

    /// Keeps what a big file is, and notes what its size depends on (READ 5). All objects of that are at hand.
    fn learn(&mut self, task: &Task, id: NodeId, oid: Oid, info: Info) -> Result<(), Failure> {
        if task.rev != Rev::Head {
            self.infos.insert(id, info);
            return Ok(());
        }
        let file = info.file;
        let noted = self.noted.entry(id).or_default();
        let mut hand_needs = Vec::new();
        let hand = task::at_hand(task, &self.cache, &self.seen);
        let mut ask = Ask::new(&hand, &mut hand_needs);
        let mut ends = Vec::new();
        if bigfile::last_leaves(&mut ask, &file, &mut ends)? == Step::Need {
            unreachable!("BUG: the size is known, and what it was found through is not");
        }
        let mut leaves = Vec::new();
        for path in ends {
            let Some(range) = path.last().and_then(|leaf| range_of(leaf.cover)) else {
                continue;
            };
            if !noted.covers(range) {
                noted.insert(range);
                leaves.push(path.into());
            }
        }
        self.note(Note::File {
            node: id,
            oid,
            file,
        });
        for path in leaves {
            self.note(Note::Leaf { oid, path });
        }
        self.depends.note(id, self.seen.get_mut());
        self.infos.insert(id, info);
        Ok(())
    }

    /// Notes what an answer depends on, before it is given (READ 5): the leaves and blocks of the trail, and what pages of
    /// them are given away. `spans` are the bytes that the trail is of, and where they begin in the file; `others` those that are
    /// counted already.
    fn track(
        &mut self,
        file: &FileNode,
        info: &Info,
        spans: &[(u64, &[u8])],
        others: &[Range<u64>],
    ) {
        if file.rev != Rev::Head || file.is_gone() {
            return; // what is gone was dropped, and its pages are not those of the node that follows it
        }
        let oid = file.oid;
        let mut trail = std::mem::take(&mut self.trail);
        for path in trail.leaves.drain(..) {
            if let Some(range) = path.last().and_then(|leaf| range_of(leaf.cover)) {
                self.noted.entry(file.id).or_default().insert(range);
            }
            self.note(Note::Leaf { oid, path });
        }
        let blksize = info.file.blksize.0;
        let is_summed = blksize.is_multiple_of(PAGE as u64) && !self.shared.probe.is_refused();
        let pieces = spans.iter().flat_map(|&(off, data)| {
            let pieces = read::pieces(blksize, off, data.len());
            pieces.map(move |piece| (piece, &data[piece.at..][..piece.len]))
        });
        for ((piece, data), &Looked { blk, value }) in pieces.zip(&trail.blocks) {
            debug_assert_eq!(piece.blk, blk);
            let (mut seen, base) = (Seen::default(), blk.0 * blksize);
            if is_summed && piece.off.is_multiple_of(PAGE as u64) {
                let from = base + piece.off;
                let at = |pos: u64| usize::try_from(pos - from).expect("within the piece");
                for own in meeting::apart(from..from + data.len() as u64, others) {
                    let first = (own.start - base) / PAGE as u64;
                    seen.add(pagecache::seen(first, &data[at(own.start)..at(own.end)]));
                }
            }
            self.note(Note::Block {
                oid,
                blk,
                value,
                seen,
            });
        }
        trail.clear();
        self.trail = trail;
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
        let file = match self.looked_up.again(task.rev, oid) {
            Some(file) => file,
            None => {
                let mut tree = self.shared.tree();
                if task.rev != Rev::Head && !tree.is_of(self.view.generation()) {
                    return Ok(Some(Err(libc::EIO))); // the history is another one now, as this worker is about to learn
                }
                tree.enter_file(task.rev, oid, serial)
            }
        };
        file.told_blksize(info.file.blksize);
        if !self.infos.contains_key(&file.id) {
            self.learn(task, file.id, oid, info)?;
        }
        self.files.insert(file.id, Arc::clone(&file));
        self.looked_up.note(&file);
        let attr = self
            .shared
            .owner
            .file(&file, file.tell_size(info.size), info.file.blksize.0);
        let held = task.held.as_ref().expect("a LOOKUP is held");
        // A drop that overtakes this answer finds no node whose attributes could expire: under head they are asked for
        // again. Once the kernel knows the node it tells old answers from new ones by itself.
        let valid = if task.rev == Rev::Head {
            0
        } else {
            file.told_size(info.size);
            reply::CACHE_S
        };
        Ok(Some(Ok(reply::entry(port.body(held), attr, valid))))
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
        let size = file.tell_size(info.size);
        let attr = self.shared.owner.file(file, size, info.file.blksize.0);
        let held = task.held.as_ref().expect("a GETATTR is held");
        Ok(Some(Ok(reply::attr(port.body(held), attr))))
    }

    fn step_read(
        &mut self,
        port: &mut Port,
        task: &Task,
        file: &Arc<FileNode>,
        (off, len): (u64, usize),
        is_direct: bool,
    ) -> Result<Option<Result<usize, i32>>, Failure> {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        let asked = len;
        let len = read::clip(off, asked, info.size);
        let held = task.held.as_ref().expect("a READ is held");
        let out = &mut port.body(held)[..len];
        let none = KeySet::default();
        let mut look = Look {
            hand: task::at_hand(task, &self.cache, &self.seen),
            raws: &task.raws,
            wants: &mut self.wants,
            trail: &mut self.trail,
            noted: self.noted.get(&file.id).unwrap_or(&none),
        };
        look.trail.clear();
        if !task::fill(&mut look, &info, off, out)? {
            return Ok(None);
        }
        if is_direct {
            // Nobody knows which of it goes into the page cache: nothing is counted.
            self.others.push(0..u64::MAX);
        } else {
            self.note_touch(file, &info, off, len);
        }
        let held = task.held.as_ref().expect("a READ is held");
        let out = &port.body(held)[..len];
        let others = std::mem::take(&mut self.others);
        self.track(file, &info, &[(off, out)], &others);
        self.others = others;
        self.others.clear();
        if len < asked && file.rev == Rev::Head {
            let blksize = info.file.blksize.0;
            let end = (off + asked as u64 - 1).min(i64::MAX.unsigned_abs());
            self.note(Note::Beyond {
                oid: file.oid,
                first: BlkNo((info.size / blksize).max(off / blksize)),
                last: BlkNo(end / blksize),
            });
        }
        // Behind the end too: the kernel puts zeros there, and somebody may see the file when it was longer.
        self.blks = self.unpinned(task, file, &info, (off, asked));
        Counters::add(&self.counters().read_bytes, len as u64);
        Ok(Some(Ok(len)))
    }

    /// A READ may be answered: what it shows is pinned wherever it has to be.
    pub(super) fn read_ready(
        &mut self,
        port: &mut Port,
        held: Held,
        file: &FileNode,
        (off, len): (u64, usize),
        is_direct: bool,
    ) {
        let held = match file.rev {
            Rev::Head if !is_direct => self.probe(held, len, (file.id, off)),
            _ => Some(held),
        };
        if let Some(held) = held {
            self.reply(port, held, Ok(len));
        }
    }

    fn step_store(
        &mut self,
        task: &Task,
        file: &Arc<FileNode>,
        ranges: &[Range<u64>],
        of: Of,
    ) -> Result<Option<Result<usize, i32>>, Failure> {
        let Some(info) = self.info(task, file.oid, file.id)? else {
            return Ok(None);
        };
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Ok(Some(Ok(0)));
        };
        // Whoever asked for it may have seen a longer file; a part of a page is one up to the end, or nothing.
        let is_whole = |range: &Range<u64>| {
            let edge = |at: u64| at.is_multiple_of(PAGE as u64);
            edge(range.start)
                && range.end <= info.size
                && (edge(range.end) || range.end == info.size)
        };
        if !ranges.iter().all(is_whole) {
            self.give_up(of);
            return Ok(Some(Ok(0)));
        }
        // One buffer for all ranges of the block: one for each could be many times what is stored.
        let (base, end) = (first.start, last.end.min(info.size).max(first.start));
        let at = |pos: u64| usize::try_from(pos.clamp(base, end) - base).expect("at most a block");
        let mut data = buffer::take(at(end));
        let none = KeySet::default();
        let mut look = Look {
            hand: task::at_hand(task, &self.cache, &self.seen),
            raws: &task.raws,
            wants: &mut self.wants,
            trail: &mut self.trail,
            noted: self.noted.get(&file.id).unwrap_or(&none),
        };
        look.trail.clear();
        let mut complete = true;
        for range in ranges {
            let out = &mut data[at(range.start)..at(range.end)];
            complete &= task::fill(&mut look, &info, range.start, out)?;
        }
        if !complete {
            return Ok(None);
        }
        let span = |range: &Range<u64>| (range.start, &data[at(range.start)..at(range.end)]);
        let spans: Vec<_> = ranges.iter().map(span).collect();
        let others = self.settle_taken(&info, of);
        self.track(file, &info, &spans, &others);
        let data = buffer::freeze(data, at(end));
        let wanted = |range: &Range<u64>| at(range.end) - at(range.start);
        let is_sparse = ranges.iter().map(wanted).sum::<usize>() * 2 < data.len();
        let page = |range: &Range<u64>| {
            let data = data.slice(at(range.start)..at(range.end));
            // What waits is counted by what it has, and holds all of the buffer.
            let data = if is_sparse {
                Bytes::copy_from_slice(&data)
            } else {
                data
            };
            let (node, off) = (file.id, range.start);
            Store::Pages { node, off, data }
        };
        let pages = ranges.iter().map(page).collect();
        let len = usize::try_from(end - base).unwrap_or(usize::MAX);
        let blks = self.unpinned(task, file, &info, (base, len));
        if blks.is_empty() {
            self.store_pages(pages, of.then);
        } else {
            self.store_pinned(file, pages, blks);
        }
        Ok(Some(Ok(0)))
    }

    fn finish(&mut self, port: &mut Port, task: Task, outcome: Result<usize, i32>) {
        if let (Job::Store { of, .. }, Err(_)) = (&task.job, outcome) {
            self.give_up(*of);
        }
        let Some(held) = task.held else { return };
        match (task.job, outcome) {
            (
                Job::Read {
                    file,
                    off,
                    is_direct,
                    ..
                },
                Ok(len),
            ) => {
                // The flags are those of the descriptor: a mapping of it has pages as any other.
                let blks = std::mem::take(&mut self.blks);
                let span = (off, len);
                if blks.is_empty() {
                    self.read_ready(port, held, &file, span, is_direct);
                } else {
                    let reader = (held, task.unique, is_direct);
                    self.pin_first(port, reader, file, span, blks);
                }
            }
            _ => self.reply(port, held, outcome),
        }
    }
}

/// Loads.
impl FileService {
    pub(super) fn tid_of(&self, rev: Rev) -> Tid {
        match rev {
            Rev::Head => self.at,
            Rev::At(tid) => tid,
        }
    }

    /// Loads what a step found missing without parking its task, if the page cache of the database has all of it and
    /// nobody waits for anything that could be the same. False when it has to be parked.
    fn load_now(&mut self, task: &mut Task, near: &mut Option<Run>) -> bool {
        if self.loading.is_busy() || !self.wants.raws.is_empty() {
            return false;
        }
        let rev = task.rev;
        let mut fetched = std::mem::take(&mut self.fetched);
        self.wants.tidy();
        let wants = (&self.wants.objects[..], &self.wants.places[..]);
        let at = self.tid_of(rev);
        let here = self.loading.now(&self.view, at, wants, near, &mut fetched);
        if here {
            Counters::add(&self.counters().loads, self.wants.objects.len() as u64);
            Counters::add(&self.counters().places, self.wants.places.len() as u64);
            for (oid, fetched) in fetched.drain(..) {
                let Ok(kept) = self.keep(rev, oid, fetched) else {
                    task.failed = true;
                    continue;
                };
                if self.is_worth_keeping(&kept) {
                    self.cache.insert(rev, oid, kept.clone());
                }
                // The cache may let go of it before the task is done.
                task.own.insert(oid, kept);
            }
        }
        fetched.clear();
        self.fetched = fetched;
        here
    }

    /// Loads what the step of task `id` found missing; the task becomes ready when all of it is there.
    fn fetch(&mut self, port: &mut Port, id: TaskId) {
        let mut wants = std::mem::take(&mut self.wants);
        let task = self.tasks[id].as_mut().expect("the task is parked");
        let rev = task.rev;
        if self.view.is_remote() {
            // What lies in no file has no place: it is loaded.
            wants.objects.append(&mut wants.places);
        }
        wants.tidy();
        for list in [&mut wants.objects, &mut wants.places] {
            task.waiting += list.len();
            list.retain(|&oid| self.loading.join(rev, oid, id));
        }
        task.waiting += wants.raws.len();
        debug_assert!(task.waiting > 0, "a task that lacks nothing is not parked");
        let view = self.view.clone();
        let state = (rev, self.tid_of(rev), &view);
        let mut deliveries = std::mem::take(&mut self.deliveries);
        Counters::add(&self.counters().loads, wants.objects.len() as u64);
        Counters::add(&self.counters().places, wants.places.len() as u64);
        if !wants.objects.is_empty() {
            self.loading
                .objects(port, state, &wants.objects, &mut deliveries);
        }
        if !wants.places.is_empty() {
            self.loading
                .places(port, state, &wants.places, &mut deliveries);
        }
        for want in wants.raws.drain(..) {
            self.loading.raw(port, want.read(id));
        }
        self.wants = wants;
        self.settle(&mut deliveries);
        self.deliveries = deliveries;
        if let Some(task) = self.tasks[id].take() {
            self.ask_ahead(&task);
            self.tasks[id] = Some(task);
        }
    }

    /// Hands what came in to those who wait for it.
    pub(super) fn settle(&mut self, deliveries: &mut Vec<Delivery>) {
        let waits = self.loading.take_waits();
        Counters::add(&self.counters().waits, waits);
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
                && self.is_worth_keeping(kept)
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

    /// Whether an object is worth keeping between requests.
    fn is_worth_keeping(&self, kept: &Kept<Extent>) -> bool {
        // A place in a file that was packed meanwhile would hold on to it.
        if let (Kept::Raw(extent, _), AnyView::File(view)) = (kept, &self.view)
            && !Arc::ptr_eq(&extent.file, view.file())
        {
            return false;
        }
        let data_max = match self.view.is_remote() {
            true => (limit::REMOTE_CACHE_BYTES / self.links.workers.len() / 2).max(4 << 20),
            false => 0,
        };
        task::worth_keeping(kept, data_max)
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
                    Some(extent) => Kept::Raw(extent, located.serial),
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
                self.shared.log.error(format!(
                    "object {oid} @{}: {}",
                    self.tid_of(rev),
                    Chain(&error)
                ));
                if matches!(error, LoadError::Corrupt { .. }) {
                    self.links.control.send(ToControl::Doubt);
                }
                Err(())
            }
        }
    }
}

/// Where the bytes of a plain block lie, if its record is one; checks what stands behind them.
fn raw_extent(located: &Located, file: Arc<File>, max_record: usize) -> Option<Extent> {
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
            let now = read_now(&file, pos, tail).ok()?;
            if now != Now::Done(tail.len()) {
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
