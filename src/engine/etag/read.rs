//! Reading one file to its end: piece by piece, several pieces of a large one under way.

use super::brought::Brought;
use super::hash::{Outcome, Piece, Thread, failed, is_uncached_refused};
use crate::kernel::calls::{self, Count};
use crate::kernel::chain::PIECES;
use std::time::Instant;

impl Thread {
    /// Asks for what comes next of a file, when that may be.
    pub(super) fn read(&mut self, slot: usize) {
        loop {
            let job = self.jobs[slot].as_mut().expect("it is read");
            let size = job.a.witness.size;
            let busy = match &job.pieces {
                Some(pieces) => !matches!(pieces.each[pieces.next_ask % PIECES], Piece::Free),
                None => job.left > 0,
            };
            if busy || job.outcome.is_some() || job.reserved.is_some() || job.asked > size {
                return;
            }
            let chunk = match job.pieces {
                Some(_) => self.ring.piece_bytes(),
                None => self.ring.buf_bytes(),
            };
            // One byte more than there is tells that there is no more; it is not counted as read.
            let left = size - job.asked;
            let wanted = usize::try_from((left + 1).min(chunk as u64)).unwrap_or(chunk);
            let due = self.shared.throttle.bytes(left.min(wanted as u64));
            if let Some(due) = due.filter(|due| *due > Instant::now()) {
                job.reserved = Some(wanted);
                self.due.push((due, slot));
                return;
            }
            self.ask(slot, wanted);
        }
    }

    /// Makes a read of so many bytes.
    pub(super) fn ask(&mut self, slot: usize, wanted: usize) {
        let job = self.jobs[slot].as_mut().expect("it is read");
        job.began = Instant::now();
        let at = job.asked;
        job.asked += wanted as u64;
        job.left += 1;
        match &mut job.pieces {
            None => self.ring.read(slot, at, wanted),
            Some(pieces) => {
                let piece = pieces.next_ask % PIECES;
                pieces.each[piece] = Piece::Asked(wanted);
                pieces.next_ask += 1;
                self.ring.read_piece(slot, piece, at, wanted);
            }
        }
    }

    /// Whether a read was refused because it was to pass the page cache, or to leave it as it was: its device has no such reads, then.
    fn is_refused(&mut self, slot: usize, res: i32) -> bool {
        if !is_uncached_refused(res) {
            return false;
        }
        let dev = self.jobs[slot].as_ref().expect("it is read").a.dev;
        if self.ring.is_direct(slot) {
            self.shared.has_no_direct(dev);
            return true;
        }
        if !self.ring.is_dont_cache(slot) {
            return false;
        }
        if !self.plain.contains(&dev) {
            self.plain.push(dev);
        }
        true
    }

    /// A read ended.
    pub(super) fn got(&mut self, slot: usize, res: i32) {
        let job = self.jobs[slot].as_mut().expect("it is read");
        let size = job.a.witness.size;
        self.shared.throttle.took(job.began.elapsed());
        let Ok(len) = usize::try_from(res) else {
            if self.is_refused(slot, res) {
                if self.ring.is_direct(slot) {
                    if let Err(error) = self.ring.set_waiting(slot, false) {
                        return self.finish(slot, failed(&error));
                    }
                    let job = self.jobs[slot].as_mut().expect("it is read");
                    job.asked = job.at;
                    return self.read(slot);
                }
                self.ring.set_dont_cache(slot, false);
                let file = self.ring.file(slot).expect("it is open");
                let brought = Brought::of(file, size);
                let job = self.jobs[slot].as_mut().expect("it is read");
                (job.asked, job.brought) = (job.at, brought);
                return self.read(slot);
            }
            return self.finish(slot, Outcome::Failed(-res));
        };
        calls::add(Count::BytesRead, len);
        job.hasher.update(self.ring.bytes(slot, len));
        job.at += len as u64;
        if let (Some(brought), Some(file)) = (&mut job.brought, self.ring.file(slot)) {
            brought.let_go(file, job.at);
        }
        // Fewer than were asked for is the end of a regular file.
        let is_end = job.at < job.asked;
        if job.at > size || is_end && job.at < size {
            return self.finish(slot, Outcome::Changed);
        }
        if is_end {
            let digest = job.hasher.clone().end();
            return self.finish(slot, Outcome::Digest(digest));
        }
        if self.shared.pass.pulse.is_cancelled() {
            return self.abandon(slot);
        }
        self.read(slot);
    }

    /// A piece came.
    pub(super) fn got_piece(&mut self, slot: usize, piece: usize, res: i32) {
        let refused = self.is_refused(slot, res);
        let job = self.jobs[slot].as_mut().expect("it is read");
        let size = job.a.witness.size;
        self.shared.throttle.took(job.began.elapsed());
        let pieces = job.pieces.as_mut().expect("it is read in pieces");
        let Piece::Asked(wanted) = pieces.each[piece] else {
            unreachable!("a piece that nobody asked for")
        };
        pieces.each[piece] = match usize::try_from(res) {
            Ok(len) => {
                calls::add(Count::BytesRead, len);
                Piece::Got(len, wanted)
            }
            Err(_) => {
                let outcome = if refused {
                    Outcome::Again
                } else {
                    Outcome::Failed(-res)
                };
                job.outcome.get_or_insert(outcome);
                Piece::Free
            }
        };
        while job.outcome.is_none()
            && let Piece::Got(len, wanted) = pieces.each[pieces.next_hash % PIECES]
        {
            let piece = pieces.next_hash % PIECES;
            job.hasher.update(self.ring.piece(piece, len));
            job.at += len as u64;
            pieces.each[piece] = Piece::Free;
            pieces.next_hash += 1;
            if let (Some(brought), Some(file)) = (&mut job.brought, self.ring.file(slot)) {
                brought.let_go(file, job.at);
            }
            if len < wanted || job.at > size {
                let ended = job.at == size;
                job.outcome = Some(match ended {
                    true => Outcome::Digest(job.hasher.clone().end()),
                    false => Outcome::Changed,
                });
            }
        }
        let stopped = self.shared.pass.pulse.is_cancelled() && job.outcome.is_none();
        if stopped {
            job.outcome = Some(Outcome::Again);
        }
        if job.outcome.is_some() {
            // Of pieces under way the last to come ends it.
            if job.left == 0 {
                let outcome = job.outcome.take().expect("just seen");
                self.finish(slot, outcome);
            }
            return;
        }
        self.read(slot);
    }
}
