//! Blocks that go to the page cache whole, as `engine::upload` has them; and what is checked of that.

use crate::data::{PAGE, PAGES};
use crate::kernel::Page;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::shared::{Shared, ToWorker, What};
use crate::worker::{Job, Worker};
use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zring::base::{BlkNo, NodeId, Rev};
use zring::fs::advance::Drop;
use zring::fs::meeting::{self, Gone, ReadOn};
use zring::fs::read::{self, Info};
use zring::fs::touch::{Place, Sizes, Taken, Ticket};
use zring::fs::tree::FileNode;

/// Longer than a READ may be late.
const LATER: Duration = Duration::from_millis(11);

/// How readers are met.
#[derive(Debug)]
pub(crate) struct Meets {
    pub(crate) sizes: Sizes,
    /// Requests come by rings: those of readers to one worker, mostly.
    pub(crate) has_rings: bool,
    pub(crate) cpu: usize,
    /// One time in so many somebody has the notes in use.
    contended: usize,
    /// Requests that each worker had.
    pub(crate) requests: Vec<u64>,
    /// For who is late.
    now: Duration,
    /// For a mutant: from where on something is taken, in which state.
    taken: FxHashMap<Place, (u64, u64)>,
}

impl Meets {
    pub(crate) fn new(rng: &mut Rng, workers: usize, is_orderly: bool) -> Self {
        let page = PAGE as u64;
        Self {
            sizes: Sizes {
                page,
                piece: page * rng.pick(&[1, 1, 2, 3]),
                left: page * rng.pick(&[1, 1, 2]),
            },
            has_rings: is_orderly || rng.one_in(2),
            cpu: 0,
            contended: rng.pick(&[0, 0, 30]),
            requests: vec![0; workers],
            now: Duration::ZERO,
            taken: FxHashMap::default(),
        }
    }

    fn is_met(&self, blksize: u64) -> bool {
        blksize >= self.sizes.met() && self.has_rings
    }

    /// Whoever is late by now had asked for nothing.
    pub(crate) fn pass_time(&mut self) {
        self.now += LATER;
    }
}

/// What was taken of a block, while it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of {
    place: Place,
    noted: usize,
    ticket: Ticket,
    pub(crate) then: Option<ReadOn>,
}

/// Pages of which nothing is apart from these bytes, a bit each.
pub(crate) fn mask(others: &[Range<u64>]) -> u64 {
    let page = |at: usize| (at * PAGE) as u64..((at + 1) * PAGE) as u64;
    let is_other = |at: &usize| meeting::apart(page(*at), others).next().is_none();
    (0..PAGES).filter(is_other).map(|at| 1 << at).sum()
}

fn pages(range: &Range<u64>) -> Range<usize> {
    let page = |at: u64| usize::try_from(at).unwrap() / PAGE;
    page(range.start)..page(range.end)
}

/// As in `engine::upload`.
impl Worker {
    /// Gives which of its bytes are counted already.
    pub(crate) fn note_touch(
        &self,
        shared: &mut Shared,
        file: &FileNode,
        info: &Info,
        off: u64,
        len: usize,
    ) -> Vec<Range<u64>> {
        let (blksize, mut others) = (info.file.blksize.0, Vec::new());
        if !blksize.is_multiple_of(PAGE as u64) || file.rev != Rev::Head && shared.rng.one_in(2) {
            return others;
        }
        let is_met = shared.meets.is_met(blksize);
        let is_whole = off.is_multiple_of(blksize) && (len as u64).is_multiple_of(blksize);
        if is_whole && !is_met && !shared.touches[self.index].has_any() {
            return others;
        }
        let mut told = None;
        if shared.rng.one_in(shared.meets.contended) {
            return others; // somebody has them in use
        }
        for piece in read::pieces(blksize, off, len) {
            let (place, end) = ((file.id, piece.blk), piece.off + piece.len as u64);
            let touches = &mut shared.touches[self.index];
            if !is_met {
                touches.note(place, piece.off, end, blksize);
                continue;
            }
            let late = match shared.rules.mutant {
                Some(Mutant::LateTouches) => LATER,
                _ => Duration::ZERO,
            };
            let (clock, span) = (shared.meets.now + late, (piece.off, end, blksize));
            let meetings = &mut shared.meetings;
            let (met, in_order) = meetings.note(touches, place, self.taken, span, || clock);
            if met < end {
                let base = piece.blk.0 * blksize;
                others.push(base + met..base + blksize);
                shared.counts.met += 1;
            }
            if !in_order {
                continue;
            }
            let Some(idle) = shared.idle_beside(self.index) else {
                continue;
            };
            shared.touches[self.index].told(place);
            self.join_notes(shared, self.index, place);
            let on = ReadOn {
                reader: self.index,
                place,
                state: self.taken,
                requests: shared.meets.requests[idle],
                is_first: true,
            };
            told = Some((idle, on));
        }
        if let Some((idle, on)) = told {
            shared.counts.told += 1;
            shared.to.push((idle, ToWorker::ReadOn(on)));
        }
        others
    }

    pub(crate) fn read_on(&mut self, shared: &mut Shared, on: ReadOn) {
        let requests = shared.meets.requests[self.index];
        if !on.goes_on(requests, self.taken) {
            return;
        }
        let Some(file) = self.node(shared, on.place.0).filter(|file| !file.is_gone()) else {
            return;
        };
        self.join_notes(shared, on.reader, on.place);
        if let Some(taken) = shared.touches[on.reader].take_last(on.place) {
            shared.counts.pieces += 1;
            self.store(shared, file, (on.place, on.reader, Some(on)), &taken);
        }
    }

    fn store(
        &mut self,
        shared: &mut Shared,
        file: Arc<FileNode>,
        (place, noted, then): (Place, usize, Option<ReadOn>),
        taken: &Taken,
    ) {
        let (base, ticket) = (place.1.0 * taken.len, taken.ticket);
        let ranges = taken.ranges.iter();
        let ranges: Vec<_> = ranges.map(|r| base + r.start..base + r.end).collect();
        let from = (self.taken, ranges[0].start);
        shared.meets.taken.insert(place, from);
        if shared.is(Mutant::NotedUntilTaken) {
            shared.touches[noted].forget(place);
        }
        let of = Of {
            place,
            noted,
            ticket,
            then,
        };
        let rev = file.rev;
        self.admit(shared, None, rev, Job::Store { file, ranges, of });
    }

    /// What was taken of a block is given to the kernel.
    pub(crate) fn settle_taken(
        &self,
        shared: &mut Shared,
        info: &Info,
        of: Of,
        ranges: &[Range<u64>],
    ) -> Vec<Range<u64>> {
        let (blksize, place) = (info.file.blksize.0, of.place);
        let base = place.1.0 * blksize;
        let is_met = shared.meets.is_met(blksize);
        if shared.is(Mutant::PieceForgotten) {
            shared.touches[of.noted].give_back(place, of.ticket);
        }
        let touches = &mut shared.touches[of.noted];
        let read = if is_met {
            let now = (self.taken, shared.meets.now);
            let meetings = &mut shared.meetings;
            meetings.settle(touches, (place, of.ticket), now, blksize)
        } else {
            let settled = touches.settle(place, of.ticket);
            settled.map_or(Vec::new(), |settled| settled.read)
        };
        shared.meets.taken.remove(&place);
        shared.counts.read_before += u64::from(!read.is_empty());
        let how = (usize::try_from(blksize).unwrap().div_ceil(PAGE), self.taken);
        for page in ranges.iter().flat_map(pages) {
            let is_new = shared.kernel.note_stored(place.0, page, how);
            if !is_new && is_met && shared.meets.contended == 0 {
                let text = format!("page {page} of {place:?} is stored again");
                shared.fail(What::Again, text);
            }
        }
        let first = usize::try_from(base).unwrap() / PAGE;
        let stored = ranges.iter().flat_map(pages).map(|page| 1 << page).sum();
        let block = first..PAGES.min(first + how.0);
        shared.kernel.note_gone(place.0, block, stored);
        let read = read.into_iter();
        read.map(|r| base + r.start..base + r.end).collect()
    }

    /// It is not, and would not be the next time.
    pub(crate) fn give_up(&self, shared: &mut Shared, of: Of, ranges: &[Range<u64>]) {
        if shared.is(Mutant::TriedAgain) {
            return shared.touches[of.noted].give_back(of.place, of.ticket);
        }
        shared.touches[of.noted].give_up(of.place, of.ticket);
        for range in ranges {
            shared.kernel.excuse(of.place.0, pages(range));
        }
    }

    /// It is not, because head moved on.
    pub(crate) fn give_back(&self, shared: &mut Shared, of: Of) {
        shared.counts.given_back += 1;
        match shared.is(Mutant::NotGivenBack) {
            true => drop(shared.touches[of.noted].settle(of.place, of.ticket)),
            false => shared.touches[of.noted].give_back(of.place, of.ticket),
        }
    }

    /// For mutants: what a READ takes for counted.
    pub(crate) fn counted(
        &self,
        shared: &Shared,
        (file, off, len): (&FileNode, u64, usize),
        others: &[Range<u64>],
    ) -> Vec<Range<u64>> {
        if shared.is(Mutant::MetCounted) {
            return Vec::new();
        }
        let mut counted = others.to_vec();
        if shared.is(Mutant::MetAtTaking) {
            let blksize = shared.data.blksize(shared.data.file(file.oid).unwrap());
            for piece in read::pieces(blksize, off, len) {
                let taken = shared.meets.taken.get(&(file.id, piece.blk));
                if let Some(&(_, from)) = taken.filter(|&&(state, _)| state == self.taken) {
                    counted.push(from..(piece.blk.0 + 1) * blksize);
                }
            }
            counted.sort_unstable_by_key(|other| other.start);
        }
        counted
    }

    fn join_notes(&self, shared: &mut Shared, worker: usize, place: Place) {
        for other in (0..shared.touches.len()).filter(|&other| other != worker) {
            if shared.rng.one_in(shared.meets.contended) {
                continue;
            }
            let mut theirs = std::mem::take(&mut shared.touches[other]);
            shared.counts.joined += u64::from(theirs.has(place));
            shared.touches[worker].adopt(&mut theirs, place);
            shared.touches[other] = theirs;
        }
    }

    fn take_rest(&self, shared: &mut Shared) -> Option<(Place, Taken)> {
        let last = shared.touches[self.index].last()?;
        self.join_notes(shared, self.index, last);
        let touches = &mut shared.touches[self.index];
        let taken = shared.meetings.take_rest(touches, last, self.taken)?;
        Some((last, taken))
    }

    /// Loads and stores the rest of the block that was touched last.
    pub(crate) fn store_one(&mut self, shared: &mut Shared) {
        let Some((place, taken)) = self.take_rest(shared) else {
            return;
        };
        match self.node(shared, place.0) {
            Some(file) if !file.is_gone() => {
                self.store(shared, file, (place, self.index, None), &taken);
            }
            _ => shared.touches[self.index].forget(place),
        }
    }
}

impl Shared {
    /// Pages are about to be dropped: what is noted of their blocks is over.
    pub(crate) fn let_notes_go(&mut self, drops: &[Drop]) {
        // What was settled and is pushed only now comes behind the drop, and nobody knows of it.
        for drop in drops {
            if let Some((node, bytes)) = drop.pages()
                && let Some(inode) = self.kernel.inodes.get_mut(&node)
            {
                inode.stored = [0; PAGES];
                let is_dropped = |page: &usize| bytes.contains(&((page * PAGE) as u64));
                let dropped = (0..PAGES).filter(is_dropped);
                inode.begin_anew(dropped.map(|page| 1 << page).sum());
            }
        }
        if self.is(Mutant::NotesOutlive) {
            return;
        }
        let gone = Gone::new(drops);
        let is_gone = |place, len| gone.has(place, len);
        self.meetings.let_go(is_gone);
        self.touches.iter_mut().for_each(|t| t.let_go(is_gone));
    }
}

/// Checks.
impl Shared {
    /// Nothing is under way: no block is there in part.
    pub(crate) fn check_finished(&mut self) {
        let mut found = None;
        let is_checked = self.meets.contended == 0;
        for (&node, inode) in &mut self.kernel.inodes {
            let blksize = usize::try_from(self.data.blksize(inode.file)).unwrap();
            if inode.rev != Rev::Head || !blksize.is_multiple_of(PAGE) || !inode.valid {
                continue;
            }
            let (end, count) = (usize::try_from(inode.size).unwrap() / PAGE, blksize / PAGE);
            for blk in (0..end.min(PAGES)).step_by(count) {
                let all = blk..(blk + count).min(end);
                let is_there = |page: &usize| matches!(inode.pages[*page], Page::Cached(_));
                let is_read = |page: usize| is_there(&page) && inode.aside & 1 << page == 0;
                if !all.clone().any(is_read) {
                    inode.excused &= !all.map(|page| 1 << page).sum::<u64>();
                    continue;
                }
                let mut missing = all.filter(|page| !is_there(page));
                let missing = missing.find(|&page| inode.excused & 1 << page == 0);
                found = found.or(missing.map(|page| (node, page)));
            }
        }
        if let Some((node, page)) = found.filter(|(node, _)| is_checked && !self.is_gone(*node)) {
            let text =
                format!("page {page} of {node:?} is not stored, and others of its block are");
            self.fail(What::Unfinished, text);
        }
    }
}

/// Somebody who goes through a file in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    node: NodeId,
    next: usize,
}

impl Reader {
    /// Begins with a file of which nothing is there any more, if nobody is in the way.
    pub(crate) fn begin(shared: &mut Shared, node: NodeId, is_quiet: bool) -> Self {
        if shared.rng.one_in(4) {
            return Self { node, next: 0 };
        }
        (0..PAGES).for_each(|page| shared.kernel.evict(node, page));
        let is_noted = |blk: u64| shared.touches.iter().any(|t| t.has((node, BlkNo(blk))));
        let is_noted = (0..PAGES as u64).any(is_noted);
        let inode = shared.kernel.inodes.get_mut(&node).expect("it is there");
        let is_quiet = is_quiet && shared.kernel.reads.is_empty() && !is_noted;
        if is_quiet && inode.pages.iter().all(|&page| page == Page::Absent) {
            inode.excused = 0;
            shared.meets.pass_time();
        }
        Self { node, next: 0 }
    }

    /// Reads on; false at the end.
    pub(crate) fn read(&mut self, shared: &mut Shared) -> bool {
        let Some(inode) = shared.kernel.inodes.get(&self.node) else {
            return false;
        };
        let end = PAGES.min(usize::try_from(inode.size).unwrap() / PAGE);
        let is_there = |page: &usize| matches!(inode.pages[*page], Page::Cached(_));
        while self.next < end && is_there(&self.next) {
            self.next += 1;
        }
        if self.next >= end {
            return false;
        }
        if inode.pages[self.next] == Page::Absent {
            let want = shared.rng.pick(&[1, 1, 2]).min(end - self.next);
            let at = shared.shown;
            shared.kernel.read(self.node, self.next, want, at);
            // The kernel asks ahead.
            if shared.rng.one_in(8) && self.next + want < end {
                shared.kernel.read(self.node, self.next + want, 1, at);
            }
        }
        true
    }
}
