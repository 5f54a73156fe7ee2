//! Blocks of which a reader wanted a part go to the page cache whole.
//!
//! ```text
//!   a first touch      the rest is stored when nobody has asked for anything for a while ([`crate::fs::touch`])
//!   a reader in order  another worker, if one has nothing to do, stores the block from its end at once, one piece after the other,
//!                      until it meets the reader
//! ```
//!
//! The second is for speed, and for rings: there the kernel asks ahead from the CPU of the reader, and so its requests come to the worker of
//! that CPU. By `/dev/fuse` they come to any.
//! A piece is asked for when the one before it is stored, so that none is long in memory, and a worker that is asked something
//! by others lets it be.

use super::notifier::Store;
use super::serve::FileService;
use super::shared::{Counters, ToWorker};
use super::task::{Job, Task};
use crate::base::{Unique, limit};
use crate::fs::meeting::ReadOn;
use crate::fs::read::{self, Info};
use crate::fs::touch::{Place, Sizes, Taken, Ticket, Touches};
use crate::fs::tree::{FileNode, Node};
use crate::kernel::port::Port;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long at least nobody has asked for anything before blocks are stored for readers to come.
const IDLE: Duration = Duration::from_millis(2);

/// What was taken of a block, while it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of {
    place: Place,
    /// The worker in whose notes it is.
    noted: usize,
    ticket: Ticket,
    /// What comes after it.
    pub(super) then: Option<ReadOn>,
}

impl FileService {
    /// Whether readers of blocks of so many bytes are met.
    fn may_meet(&self, blksize: u64) -> bool {
        // What a server sends is kept by the worker that asked: another one would ask again.
        blksize >= Sizes::MOUNT.met() && self.shared.has_rings() && !self.view.is_remote()
    }

    /// Remembers the blocks of a READ that it does not bring in whole, and which of its bytes are counted already (`others`).
    pub(super) fn note_touch(&mut self, file: &FileNode, info: &Info, off: u64, len: usize) {
        self.others.clear();
        let blksize = info.file.blksize.0;
        if !blksize.is_multiple_of(4096) || blksize > limit::UPLOAD_BYTES_MAX {
            return;
        }
        let may_meet = self.may_meet(blksize);
        let is_whole = off.is_multiple_of(blksize) && (len as u64).is_multiple_of(blksize);
        if is_whole && !may_meet && !self.shared.has_notes(self.index) {
            return;
        }
        let Some((mut meetings, mut touches)) = self.shared.own_notes(self.index, may_meet) else {
            return;
        };
        let mut told = None;
        for piece in read::pieces(blksize, off, len) {
            let (place, end) = ((file.id, piece.blk), piece.off + piece.len as u64);
            let span = (piece.off, end, blksize);
            let clock = || self.began.elapsed();
            let (met, in_order) = match &mut meetings {
                Some(meetings) => meetings.note(&mut touches, place, self.taken, span, clock),
                None => (u64::MAX, touches.note(place, piece.off, end, blksize)),
            };
            if met < end {
                let base = piece.blk.0 * blksize;
                self.others.push(base + met..base + blksize);
            }
            if !in_order || !may_meet {
                continue;
            }
            let Some(idle) = self.shared.idle_beside(self.index) else {
                continue;
            };
            touches.told(place);
            self.join_notes(&mut touches, self.index, place);
            let on = ReadOn {
                reader: self.index,
                place,
                state: self.taken,
                requests: self.shared.counters[idle].requests.load(Ordering::Relaxed),
                is_first: true,
            };
            told = Some((idle, on));
        }
        if let Some(meetings) = &mut meetings {
            self.shared.expire(meetings);
        }
        self.shared.set_notes_wait(self.index, &touches);
        drop((touches, meetings));
        if let Some((idle, on)) = told {
            self.links.workers[idle].send(ToWorker::ReadOn(on));
        }
    }

    /// Stores the last piece that is missing of a block.
    pub(super) fn read_on(&mut self, port: &mut Port, on: ReadOn) {
        let requests = self.counters().requests.load(Ordering::Relaxed);
        if !on.goes_on(requests, self.taken) || !self.shared.stores.has_room() {
            return;
        }
        let Ok(Node::File(file)) = self.node(on.place.0) else {
            return;
        };
        if self.refuse(&file).is_err() {
            return;
        }
        let Some(mut touches) = self.shared.touches(on.reader) else {
            return;
        };
        self.join_notes(&mut touches, on.reader, on.place);
        let taken = touches.take_last(on.place);
        drop(touches);
        if let Some(taken) = taken {
            let (then, noted) = (Some(on), on.reader);
            self.store(port, file, (on.place, noted, then), &taken);
        }
    }

    /// Loads and stores what was taken of a block.
    fn store(
        &mut self,
        port: &mut Port,
        file: Arc<FileNode>,
        (place, noted, then): (Place, usize, Option<ReadOn>),
        taken: &Taken,
    ) {
        let (base, ticket) = (place.1.0 * taken.len, taken.ticket);
        let ranges = taken.ranges.iter();
        let ranges = ranges.map(|r| base + r.start..base + r.end);
        let (ranges, rev) = (ranges.collect(), file.rev);
        let of = Of {
            place,
            noted,
            ticket,
            then,
        };
        let job = Job::Store { file, ranges, of };
        self.admit(port, Task::new(None, Unique(0), rev, job));
    }

    /// What was taken of a block is given to the kernel: gives what of it was counted already.
    pub(super) fn settle_taken(&self, info: &Info, of: Of) -> Vec<Range<u64>> {
        let blksize = info.file.blksize.0;
        let base = of.place.1.0 * blksize;
        let mut meetings = self.may_meet(blksize).then(|| self.shared.meetings_held());
        let mut touches = self.shared.touches_held(of.noted);
        let read = match &mut meetings {
            Some(meetings) => {
                let now = (self.taken, self.began.elapsed());
                let read = meetings.settle(&mut touches, (of.place, of.ticket), now, blksize);
                self.shared.meet();
                read
            }
            None => {
                let settled = touches.settle(of.place, of.ticket);
                settled.map_or(Vec::new(), |settled| settled.read)
            }
        };
        self.shared.set_notes_wait(of.noted, &touches);
        let read = read.into_iter();
        read.map(|r| base + r.start..base + r.end).collect()
    }

    /// It is not, and would not be the next time.
    pub(super) fn give_up(&self, of: Of) {
        let mut touches = self.shared.touches_held(of.noted);
        touches.give_up(of.place, of.ticket);
        self.shared.set_notes_wait(of.noted, &touches);
    }

    /// It is not, because head moved on: it is missing again.
    pub(super) fn give_back(&self, of: Of) {
        let mut touches = self.shared.touches_held(of.noted);
        touches.give_back(of.place, of.ticket);
        self.shared.set_notes_wait(of.noted, &touches);
    }

    /// Pages go to the page cache, and then it goes on.
    pub(super) fn store_pages(&self, pages: Vec<Store>, then: Option<ReadOn>) {
        for store in pages {
            self.shared.stores.push(store);
        }
        if then.is_none_or(|on| on.is_first) {
            Counters::add(&self.counters().stores, 1);
        }
        if let Some(on) = then {
            let own = self.links.workers[self.index].clone();
            let is_first = false;
            self.shared
                .stores
                .push(Store::Then(own, ReadOn { is_first, ..on }));
        }
    }

    /// What the others noted of a block goes to the notes of one, or to those of who stores it already.
    fn join_notes(&self, touches: &mut Touches, worker: usize, place: Place) {
        let others = (0..self.links.workers.len()).filter(|&other| other != worker);
        for mut theirs in others.filter_map(|other| self.shared.touches(other)) {
            touches.adopt(&mut theirs, place);
        }
    }

    /// Stores a block when nobody has asked for anything for a while; tells when to look again.
    pub(super) fn store_when_idle(&mut self, port: &mut Port) -> Option<Duration> {
        if !self.shared.notes_wait(self.index) {
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
        if let Some(touches) = self.shared.touches(self.index) {
            self.shared.set_notes_wait(self.index, &touches);
        }
        let wait = self.shared.notes_wait(self.index);
        wait.then_some(Duration::ZERO)
    }

    /// What nobody answered of the block that was touched last.
    fn take_rest(&self) -> Option<(Place, Taken)> {
        let meetings = self.shared.meetings()?;
        let mut touches = self.shared.touches(self.index)?;
        let last = touches.last()?;
        self.join_notes(&mut touches, self.index, last);
        let taken = meetings.take_rest(&mut touches, last, self.taken)?;
        Some((last, taken))
    }

    /// Loads and stores the rest of the block that was touched last.
    fn store_one(&mut self, port: &mut Port) {
        if !self.shared.stores.has_room() {
            return;
        }
        let Some((place, taken)) = self.take_rest() else {
            return;
        };
        match self.node(place.0) {
            Ok(Node::File(file)) if self.refuse(&file).is_ok() => {
                self.store(port, file, (place, self.index, None), &taken);
            }
            _ => self.shared.touches_held(self.index).forget(place),
        }
    }
}
