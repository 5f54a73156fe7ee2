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
use crate::base::{BlkNo, NodeId, Unique, limit};
use crate::fs::read::{self, Info};
use crate::fs::touch::{MET_BYTES, Touch, Touches};
use crate::fs::tree::{FileNode, Node};
use crate::kernel::port::Port;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long at least nobody has asked for anything before blocks are stored for readers to come.
const IDLE: Duration = Duration::from_millis(2);

/// The rest of a block, for a worker whose readers want nothing.
#[derive(Clone, Copy, Debug)]
pub struct ReadOn {
    /// Whose reader it is: the worker that has the notes.
    reader: usize,
    node: NodeId,
    blk: BlkNo,
    /// Bytes of the block that the file has.
    len: u64,
    blksize: u64,
    /// The state of head in which it was read.
    state: u64,
    /// Requests that the worker it is for had answered: one more, and it has others to serve.
    requests: u64,
    is_first: bool,
}

impl FileService {
    /// Remembers the blocks of a READ that it does not bring in whole, and which pages of them are counted by who stores them (`met`).
    pub(super) fn note_touch(&mut self, file: &FileNode, info: &Info, off: u64, len: usize) {
        self.met.clear();
        let blksize = info.file.blksize.0;
        if !blksize.is_multiple_of(4096) || blksize > limit::UPLOAD_BYTES_MAX {
            return;
        }
        // What a server sends is kept by the worker that asked: another one would ask again.
        let may_meet = blksize >= MET_BYTES && self.shared.has_rings() && !self.view.is_remote();
        let is_whole = off.is_multiple_of(blksize) && (len as u64).is_multiple_of(blksize);
        if is_whole && !may_meet && !self.has_noted {
            return;
        }
        let Some((mut meetings, mut touches)) = self.shared.own_notes(self.index, may_meet) else {
            return;
        };
        let mut told = None;
        for piece in read::pieces(blksize, off, len) {
            let (blk, end) = (piece.blk, piece.off + piece.len as u64);
            let span = (piece.off, end, blksize);
            let place = (file.id, blk);
            let clock = || self.began.elapsed();
            let (met, in_order) = match &mut meetings {
                Some(meetings) => meetings.note(&mut touches, place, self.taken, span, clock),
                None => (
                    u64::MAX,
                    touches.note(file.id, blk, piece.off, end, blksize),
                ),
            };
            self.met.push(met);
            if !in_order || !may_meet {
                continue;
            }
            let Some(idle) = self.shared.idle_beside(self.index) else {
                continue;
            };
            touches.told(file.id, blk);
            self.join_notes(&mut touches, self.index, (file.id, blk));
            let (reader, node, is_first) = (self.index, file.id, true);
            let base = blk.0 * blksize;
            let on = ReadOn {
                reader,
                node,
                blk,
                len: blksize.min(info.size.saturating_sub(base)),
                blksize,
                state: self.taken,
                requests: self.shared.counters[idle].requests.load(Ordering::Relaxed),
                is_first,
            };
            told = Some((idle, on));
        }
        if let Some(meetings) = &mut meetings {
            self.shared.settle(meetings);
        }
        let has_noted = !touches.is_empty();
        drop((touches, meetings));
        self.has_noted |= has_noted;
        if let Some((idle, on)) = told {
            self.links.workers[idle].send(ToWorker::ReadOn(on));
        }
    }

    /// Stores the last piece that is missing of a block.
    pub(super) fn read_on(&mut self, port: &mut Port, on: ReadOn) {
        let is_wanted = self.counters().requests.load(Ordering::Relaxed) != on.requests;
        if is_wanted || on.state != self.taken || !self.shared.stores.has_room() {
            return;
        }
        let Some(mut meetings) = self.shared.meet() else {
            return;
        };
        let Some(mut touches) = self.shared.touches(on.reader) else {
            return self.shared.settle(&mut meetings);
        };
        self.join_notes(&mut touches, on.reader, (on.node, on.blk));
        let piece = touches.take_last(on.node, on.blk, on.len);
        if let Some(piece) = &piece {
            meetings.store(on.node, on.blk, on.state, piece.start);
        }
        self.shared.settle(&mut meetings);
        drop((touches, meetings));
        let Some(piece) = piece else {
            return;
        };
        let Ok(Node::File(file)) = self.node(on.node) else {
            return;
        };
        if self.refuse(&file).is_err() {
            return;
        }
        let base = on.blk.0 * on.blksize;
        let piece = base + piece.start..base + piece.end;
        let ranges = std::iter::once(piece).collect();
        let then = Some(on);
        let rev = file.rev;
        let job = Job::Store { file, ranges, then };
        self.admit(port, Task::new(None, Unique(0), rev, job));
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

    /// What the others noted of a block goes to the notes of one.
    fn join_notes(&self, touches: &mut Touches, worker: usize, (node, blk): (NodeId, BlkNo)) {
        let others = (0..self.links.workers.len()).filter(|&other| other != worker);
        for mut theirs in others.filter_map(|other| self.shared.touches(other)) {
            touches.adopt(&mut theirs, node, blk);
        }
    }

    /// Stores a block when nobody has asked for anything for a while; tells when to look again.
    pub(super) fn store_when_idle(&mut self, port: &mut Port) -> Option<Duration> {
        if !self.has_noted {
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
        self.has_noted = self.has_touches();
        self.has_noted.then_some(Duration::ZERO)
    }

    fn has_touches(&self) -> bool {
        self.shared
            .touches(self.index)
            .is_none_or(|touches| !touches.is_empty())
    }

    /// The block that was touched last, and what all workers answered of it.
    fn take_touch(&self) -> Option<Touch> {
        let mut meetings = self.shared.meetings();
        let mut touches = self.shared.touches(self.index)?;
        let last = touches.last()?;
        self.join_notes(&mut touches, self.index, last);
        if let Some(meetings) = &mut meetings {
            meetings.complete(last.0, last.1, self.began.elapsed());
        }
        touches.take()
    }

    /// Loads and stores the rest of the block that was touched last.
    fn store_one(&mut self, port: &mut Port) {
        if !self.shared.stores.has_room() {
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
        if ranges.is_empty() {
            return;
        }
        let (file, rev) = (Arc::clone(file), file.rev);
        let then = None;
        let job = Job::Store { file, ranges, then };
        self.admit(port, Task::new(None, Unique(0), rev, job));
    }
}
