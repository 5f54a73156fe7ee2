//! Carrying a worker's tasks: step, park, load, go on; as `engine::answer` and `engine::task` do it.

use crate::data::{PAGE, Record};
use crate::kernel::{Outcome, Request};
use crate::loading::{Delivery, Load, Purpose};
use crate::mutant::Mutant;
use crate::shared::{Shared, What};
use crate::store::Store;
use crate::upload::{Of, mask};
use crate::worker::{Extent, Job, Task, Wants, Worker};
use std::ops::Range;
use std::sync::Arc;
use zring::base::span::KeySet;
use zring::base::{BlkNo, NodeId, Oid, Rev};
use zring::fs::cache::{AtHand, Kept, Own};
use zring::fs::meeting;
use zring::fs::pagecache;
use zring::fs::read::{self, Info};
use zring::fs::track::{Looked, Note, Trail, range_of};
use zring::fs::tree::FileNode;
use zring::tail::Seen;
use zring::zodb::need::{Absent, Ask, Step};
use zring::zodb::{Hint, Object, ZodbError, bigfile, zblk};

/// Done, or in want of something.
type Stepped = Result<Option<Outcome>, ZodbError>;

/// Tasks.
impl Worker {
    pub(crate) fn admit(&mut self, shared: &mut Shared, held: Option<Request>, rev: Rev, job: Job) {
        let mut task = Task {
            held,
            rev,
            job,
            own: Own::default(),
            raws: Vec::new(),
            waiting: 0,
            failed: false,
            since: self.at,
        };
        if let Some(outcome) = self.step(shared, &mut task) {
            return self.finish(shared, task, outcome);
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

    pub(crate) fn run_ready(&mut self, shared: &mut Shared) {
        while self.watching.half.is_none()
            && let Some(id) = self.ready.pop()
        {
            let mut task = self.tasks[id].take().expect("a ready task is parked");
            assert_eq!(task.waiting, 0);
            match self.step(shared, &mut task) {
                Some(outcome) => {
                    self.free.push(id);
                    self.finish(shared, task, outcome);
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
            if let Job::Store { of, ranges, .. } = &task.job {
                self.give_up(shared, *of, ranges);
            }
            return Some(Outcome::Failed);
        }
        self.wants.objects.clear();
        self.wants.places.clear();
        self.wants.raws.clear();
        self.seen.get_mut().clear();
        let found = match &task.job {
            Job::Abandoned => Ok(Some(Outcome::Failed)),
            Job::Lookup(oid) => self.step_lookup(shared, task, *oid),
            Job::Getattr(file) => self.step_getattr(shared, task, file),
            Job::Read {
                file,
                off,
                len,
                is_direct,
            } => self.step_read(shared, task, file, (*off, *len), *is_direct),
            Job::Store { file, ranges, of } => self.step_store(shared, task, file, ranges, *of),
        };
        found.unwrap_or_else(|error| {
            // Every transaction is sound by itself.
            shared.fail(What::Torn, error.to_string());
            Some(Outcome::Failed)
        })
    }

    pub(crate) fn at_hand<'a>(&'a self, task: &'a Task) -> AtHand<'a, Extent> {
        AtHand {
            rev: task.rev,
            own: &task.own,
            cache: &self.cache,
            seen: &self.seen,
        }
    }

    fn info(
        &mut self,
        shared: &mut Shared,
        task: &Task,
        oid: Oid,
        id: NodeId,
    ) -> Result<Option<Info>, ZodbError> {
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
            self.learn(shared, task, id, oid, info)?;
        }
        Ok(Some(info))
    }

    fn learn(
        &mut self,
        shared: &mut Shared,
        task: &Task,
        id: NodeId,
        oid: Oid,
        info: Info,
    ) -> Result<(), ZodbError> {
        self.infos.insert(id, info);
        if task.rev != Rev::Head {
            return Ok(());
        }
        self.depends.note(id, self.seen.get_mut());
        let (file, node) = (info.file, id);
        self.note(shared, Note::File { node, oid, file });
        let (mut needs, mut ends) = (Vec::new(), Vec::new());
        let hand = self.at_hand(task);
        let step = bigfile::last_leaves(&mut Ask::new(&hand, &mut needs), &file, &mut ends)?;
        assert_eq!(step, Step::Done(()), "the size is known");
        for path in ends {
            let Some(range) = path.last().and_then(|leaf| range_of(leaf.cover)) else {
                continue;
            };
            let noted = self.noted.entry(id).or_default();
            if !noted.covers(range) {
                noted.insert(range);
                self.note_leaf(
                    shared,
                    id,
                    Note::Leaf {
                        oid,
                        path: path.into(),
                    },
                );
            }
        }
        Ok(())
    }

    fn note_leaf(&mut self, shared: &mut Shared, id: NodeId, note: Note) {
        if shared.is(Mutant::NotedOnce) {
            let Note::Leaf { path, .. } = &note else {
                unreachable!("a leaf")
            };
            let range = path.last().and_then(|leaf| range_of(leaf.cover));
            let leaf = (id, range.expect("it has keys"));
            if shared.noted.contains(&leaf) {
                return;
            }
            shared.noted.push(leaf);
        }
        self.note(shared, note);
    }

    fn track(
        &mut self,
        shared: &mut Shared,
        file: &FileNode,
        info: &Info,
        spans: &[(u64, &[u8])],
        others: &[Range<u64>],
    ) {
        if file.rev != Rev::Head || file.is_gone() || shared.is(Mutant::NotNoted) {
            return;
        }
        let oid = file.oid;
        let mut trail = std::mem::take(&mut self.trail);
        for path in trail.leaves.drain(..) {
            if let Some(range) = path.last().and_then(|leaf| range_of(leaf.cover)) {
                self.noted.entry(file.id).or_default().insert(range);
            }
            self.note_leaf(shared, file.id, Note::Leaf { oid, path });
        }
        let blksize = info.file.blksize.0;
        let is_summed = blksize.is_multiple_of(PAGE as u64);
        let pieces = spans.iter().flat_map(|&(off, data)| {
            let pieces = read::pieces(blksize, off, data.len());
            pieces.map(move |piece| (piece, &data[piece.at..][..piece.len]))
        });
        for ((piece, data), &Looked { blk, value }) in pieces.zip(&trail.blocks) {
            assert_eq!(piece.blk, blk);
            let (mut sum, base) = (Seen::default(), blk.0 * blksize);
            if is_summed && piece.off.is_multiple_of(PAGE as u64) {
                let from = base + piece.off;
                let at = |pos: u64| usize::try_from(pos - from).unwrap();
                for own in meeting::apart(from..from + data.len() as u64, others) {
                    let first = (own.start - base) / PAGE as u64;
                    sum.add(seen(first, &data[at(own.start)..at(own.end)]));
                }
            }
            let seen = sum;
            self.note(
                shared,
                Note::Block {
                    oid,
                    blk,
                    value,
                    seen,
                },
            );
        }
        trail.clear();
        self.trail = trail;
    }

    fn step_lookup(&mut self, shared: &mut Shared, task: &Task, oid: Oid) -> Stepped {
        let Some(info) = self.info(shared, task, oid, NodeId(0))? else {
            return Ok(None);
        };
        let serial = match self.at_hand(task).kept(oid) {
            Some(&Kept::Object(_, serial)) => serial,
            other => unreachable!("a big file that is {other:?}"),
        };
        let file = match self.looked_up.again(task.rev, oid) {
            Some(file) => file,
            None => shared.tree.enter_file(task.rev, oid, serial),
        };
        if !self.infos.contains_key(&file.id) {
            self.learn(shared, task, file.id, oid, info)?;
        }
        self.files.insert(file.id, Arc::clone(&file));
        self.looked_up.note(&file);
        if task.rev != Rev::Head {
            file.told_size(info.size);
        }
        let (node, size) = (file.id, file.tell_size(info.size));
        Ok(Some(Outcome::Entry { node, size }))
    }

    fn step_getattr(&mut self, shared: &mut Shared, task: &Task, file: &FileNode) -> Stepped {
        let Some(info) = self.info(shared, task, file.oid, file.id)? else {
            return Ok(None);
        };
        let size = file.tell_size(info.size);
        Ok(Some(Outcome::Attr { size }))
    }

    fn step_read(
        &mut self,
        shared: &mut Shared,
        task: &Task,
        file: &FileNode,
        (off, asked): (u64, usize),
        is_direct: bool,
    ) -> Stepped {
        let Some(info) = self.info(shared, task, file.oid, file.id)? else {
            return Ok(None);
        };
        let len = read::clip(off, asked, info.size);
        let mut out = vec![0xee; len];
        self.trail.clear();
        if !self.fill(task, file.id, &info, off, &mut out)? {
            return Ok(None);
        }
        let others = match is_direct && !shared.is(Mutant::DirectNoted) {
            true => std::iter::once(0..u64::MAX).collect(),
            false => self.note_touch(shared, file, &info, off, len),
        };
        let request = task.held.as_ref().expect("a READ is held");
        shared.kernel.others.insert(request.unique, mask(&others));
        let counted = self.counted(shared, (file, off, len), &others);
        self.track(shared, file, &info, &[(off, &out)], &counted);
        if len < asked && file.rev == Rev::Head && !shared.is(Mutant::BeyondNotNoted) {
            let blksize = info.file.blksize.0;
            let end = off + asked as u64 - 1;
            self.note(
                shared,
                Note::Beyond {
                    oid: file.oid,
                    first: BlkNo((info.size / blksize).max(off / blksize)),
                    last: BlkNo(end / blksize),
                },
            );
        }
        shared.counts.reads += 1;
        let is_behind = file.rev == Rev::Head && self.at < shared.published;
        shared.counts.behind += u64::from(is_behind);
        Ok(Some(Outcome::Data(out)))
    }

    fn step_store(
        &mut self,
        shared: &mut Shared,
        task: &Task,
        file: &FileNode,
        ranges: &[Range<u64>],
        of: Of,
    ) -> Stepped {
        let Some(info) = self.info(shared, task, file.oid, file.id)? else {
            return Ok(None);
        };
        let edge = |at: u64| at.is_multiple_of(PAGE as u64);
        let is_whole = |range: &Range<u64>| {
            let ends = edge(range.end) || range.end == info.size;
            edge(range.start) && range.end <= info.size && ends
        };
        if !ranges.iter().all(is_whole) {
            self.give_up(shared, of, ranges);
            return Ok(Some(Outcome::Failed));
        }
        self.trail.clear();
        let mut pages = Vec::new();
        for range in ranges {
            let want = usize::try_from(range.end - range.start).unwrap();
            let mut data = vec![0xee; want];
            if self.fill(task, file.id, &info, range.start, &mut data)? {
                pages.push((range.start, data));
            }
        }
        if pages.len() < ranges.len() {
            return Ok(None);
        }
        let spans: Vec<_> = pages.iter().map(|(off, data)| (*off, &data[..])).collect();
        let others = self.settle_taken(shared, &info, of, ranges);
        let is_again = shared.is(Mutant::CountedAgain) || shared.is(Mutant::MetAtTaking);
        let counted = match is_again {
            true => &[],
            false => &others[..],
        };
        self.track(shared, file, &info, &spans, counted);
        for (off, data) in pages {
            let (node, at) = (file.id, self.at);
            let store = Store::Pages {
                node,
                off,
                data,
                at,
                others: mask(&others),
            };
            shared.coming(&store);
            self.watching.made.push(store);
        }
        Ok(Some(Outcome::Failed)) // nobody asked
    }

    fn fill(
        &mut self,
        task: &Task,
        id: NodeId,
        info: &Info,
        off: u64,
        out: &mut [u8],
    ) -> Result<bool, ZodbError> {
        let mut wants = std::mem::take(&mut self.wants);
        let mut trail = std::mem::take(&mut self.trail);
        let complete = self.fill_pieces(task, (&mut wants, &mut trail, id), info, off, out);
        (self.wants, self.trail) = (wants, trail);
        complete
    }

    fn fill_pieces(
        &self,
        task: &Task,
        (wants, trail, id): (&mut Wants, &mut Trail, NodeId),
        info: &Info,
        off: u64,
        out: &mut [u8],
    ) -> Result<bool, ZodbError> {
        let (hand, blksize) = (self.at_hand(task), info.file.blksize);
        let none = KeySet::default();
        let noted = self.noted.get(&id).unwrap_or(&none);
        let mut complete = true;
        for piece in read::pieces(blksize.0, off, out.len()) {
            let target = &mut out[piece.at..][..piece.len];
            let mut ask = Ask::new(&hand, &mut wants.objects);
            let place = bigfile::locate_path(&mut ask, &info.file, piece.blk, &mut trail.path);
            let Step::Done(place) = place? else {
                complete = false;
                continue;
            };
            if task.rev == Rev::Head {
                trail.leaf(noted);
                let (blk, value) = (piece.blk, place.block.map(|entry| entry.oid));
                trail.blocks.push(Looked { blk, value });
            }
            let Some(entry) = place.block else {
                target.fill(0);
                continue;
            };
            complete &= match hand.kept(entry.oid) {
                Some(Kept::Raw(extent, _)) => fill_raw(extent, task, wants, piece.off, target),
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

    fn finish(&mut self, shared: &mut Shared, task: Task, outcome: Outcome) {
        let is_read = matches!((&task.job, &outcome), (Job::Read { .. }, Outcome::Data(_)));
        if is_read || !self.watching.made.is_empty() {
            return self.made(shared, task, outcome);
        }
        if let Some(request) = task.held {
            shared.say(|| {
                let (unique, at) = (request.unique, self.at);
                format!("  {unique} answered at {at}, came at {}", task.since)
            });
            shared.answer(request, outcome, self.at);
        }
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

/// Loads.
impl Worker {
    fn fetch(&mut self, shared: &mut Shared, id: usize) {
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
        assert!(task.waiting > 0, "a task that lacks nothing is not parked");
        let objects = wants.objects.iter().map(|&oid| Purpose::Object(oid));
        let places = wants.places.iter().map(|&oid| Purpose::Place(oid));
        let raws = wants.raws.iter().map(|&extent| Purpose::Raw(id, extent));
        let mut at_once = Vec::new();
        for purpose in objects.chain(places).chain(raws) {
            let load = Load {
                purpose,
                rev,
                at: match rev {
                    Rev::Head => self.at,
                    Rev::At(tid) => tid,
                },
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
            match record.as_ref().map(|r| &*r.object) {
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
            (Some(r), _) => Ok(place(oid, &r)),
        };
        shared.counts.stale_loads += u64::from(self.loading.is_stale(load.rev, oid));
        self.deliveries.push(self.loading.done(load.rev, oid, kept));
    }

    fn settle(&mut self, shared: &mut Shared) {
        for Delivery {
            rev,
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
                self.cache.insert(rev, oid, kept.clone());
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
        Object::Blk0(data) if !(oid.0 + record.serial.0).is_multiple_of(4) => {
            let (serial, len) = (record.serial, data.len() as u64);
            Kept::Raw(Extent { oid, serial, len }, serial)
        }
        _ => Kept::Opaque,
    }
}

fn worth_keeping(kept: &Kept<Extent>) -> bool {
    match kept {
        Kept::Object(object, _) => !matches!(**object, Object::Blk0(_) | Object::Data(_)),
        Kept::Raw(..) => true,
        Kept::Broken(_) | Kept::Absent(_) | Kept::Opaque => false,
    }
}

/// As `fs::pagecache`, of pages as long as they are here.
pub(crate) fn hashes(data: &[u8]) -> impl Iterator<Item = u64> + '_ {
    data.chunks_exact(PAGE).map(|page| {
        let half = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        let mix = |a: u64, b: u64| (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        mix(mix(1, half(0)), half(8))
    })
}

/// The same, added up.
pub(crate) fn seen(first: u64, data: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for sum in pagecache::sums(first, hashes(data)) {
        seen.add(Seen { pages: 1, sum });
    }
    seen
}
