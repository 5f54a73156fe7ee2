//! Carrying a worker's tasks: step, park, load, go on; as `engine::answer` and `engine::task` do it.

use crate::data::{PAGE, Record};
use crate::kernel::{Outcome, Request};
use crate::loading::{Delivery, Load, Purpose};
use crate::mutant::Mutant;
use crate::shared::{Notice, Shared, What};
use crate::worker::{Extent, Job, Task, Wants, Worker};
use std::ops::Range;
use std::sync::Arc;
use zring::base::{NodeId, Oid, Rev};
use zring::fs::cache::{AtHand, Kept, Own};
use zring::fs::read::{self, Info};
use zring::fs::tree::FileNode;
use zring::zodb::need::{Absent, Ask, Step};
use zring::zodb::{Hint, Object, ZodbError, bigfile, zblk};

/// Done, or in want of something.
type Stepped = Result<Option<Outcome>, ZodbError>;

/// Tasks.
impl Worker {
    pub(crate) fn admit(&mut self, shared: &mut Shared, held: Option<Request>, job: Job) {
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
fn place(oid: Oid, record: &Record) -> Kept<Extent> {
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
