//! Which blocks deserve to be put into the page cache whole.
//!
//! The first page asked of a block is answered at once; whoever reads one page of a block mostly reads others
//! soon. So the block is noted here, with the bytes that READs have brought in already, and when its worker has
//! had nothing to do for a while the rest is loaded and stored. A reader that covers the block by itself gets
//! there first, and the note goes. A burst over many blocks keeps the latest [`NOTES_MAX`]; dropping one
//! costs later READs, never correctness.
//!
//! A reader in order is met from the other side: somebody who has nothing to do takes the last piece that is missing, again and
//! again. What is left to the reader, and what lies behind the block, is not touched: neighbours are nobody's wish.
//!
//! READs of one reader may come to several workers. Each notes what it answered; whoever stores a block takes the
//! others' notes of it first.

use crate::base::{BlkNo, NodeId};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Blocks noted per worker. Beyond it nobody is reading on in the oldest.
const NOTES_MAX: usize = 64;
/// Separate ranges remembered per block; one more is not.
const RANGES_MAX: usize = 8;
/// Bytes of one piece: a page that a reader wants next is not locked for longer than it takes to store so many.
const PIECE_BYTES: u64 = 256 << 10;
/// Bytes before a reader that are left to it: a READ of 128 KiB that is on its way, and what the kernel asks for ahead.
const LEFT_BYTES: u64 = 256 << 10;

/// A block that was touched and not yet stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The file.
    pub node: NodeId,
    /// The block.
    pub blk: BlkNo,
    /// Byte ranges of the block that READs brought in, sorted and apart.
    covered: [(u64, u64); RANGES_MAX],
    ranges: usize,
    /// Where the last READ ended.
    end: u64,
    /// Somebody was told of the reader.
    is_told: bool,
}

impl Touch {
    fn covered(&self) -> &[(u64, u64)] {
        &self.covered[..self.ranges]
    }

    /// Adds a range, joining what touches it. False when there is no room to remember it: those pages will be stored once more.
    fn cover(&mut self, mut lo: u64, mut hi: u64) -> bool {
        let mut kept = 0;
        for i in 0..self.ranges {
            let (a, b) = self.covered[i];
            if b < lo || a > hi {
                self.covered[kept] = (a, b);
                kept += 1;
            } else {
                (lo, hi) = (lo.min(a), hi.max(b));
            }
        }
        self.ranges = kept;
        if kept == RANGES_MAX {
            return false;
        }
        self.covered[kept] = (lo, hi);
        self.ranges += 1;
        self.covered[..self.ranges].sort_unstable();
        true
    }

    /// Adds what another worker noted of the same block.
    pub fn join(&mut self, other: &Self) {
        for &(lo, hi) in other.covered() {
            self.cover(lo, hi);
        }
    }

    /// Page-aligned ranges of a block of `len` bytes that nobody has read yet.
    pub fn missing(&self, len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let edges = self.covered().iter().copied().chain([(len, len)]);
        let mut from = 0;
        edges.filter_map(move |(lo, hi)| {
            let gap = from..lo.min(len);
            from = hi;
            (gap.start < gap.end).then_some(gap)
        })
    }
}

/// The notes of one worker, oldest first.
#[derive(Debug)]
pub struct Touches {
    notes: VecDeque<Touch>,
    /// The block that a reader in order came to the end of last.
    done: Option<(NodeId, BlkNo)>,
}

impl Default for Touches {
    fn default() -> Self {
        Self {
            notes: VecDeque::with_capacity(NOTES_MAX + 1),
            done: None,
        }
    }
}

impl Touches {
    /// A READ brought `[lo, hi)` of a block of `len` bytes into the page cache. True if it began where the last one ended, much is
    /// missing still, and nobody was told yet.
    pub fn note(&mut self, node: NodeId, blk: BlkNo, lo: u64, hi: u64, len: u64) -> bool {
        let much = hi + LEFT_BYTES + PIECE_BYTES <= len;
        // Readers mostly go on where they were: the latest note first.
        let found = self
            .notes
            .iter()
            .rposition(|t| t.blk == blk && t.node == node);
        if let Some(at) = found {
            let touch = &mut self.notes[at];
            touch.cover(lo, hi);
            let in_order = std::mem::replace(&mut touch.end, hi) == lo;
            let tell = in_order && much && !touch.is_told;
            if touch.missing(len).next().is_none() {
                self.done = touch.is_told.then_some((node, blk));
                self.notes.remove(at);
            }
            return tell;
        }
        if lo == 0 && hi >= len {
            return false;
        }
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        let mut touch = Touch {
            node,
            blk,
            covered: [(0, 0); RANGES_MAX],
            ranges: 0,
            end: hi,
            is_told: false,
        };
        touch.cover(lo, hi);
        self.notes.push_back(touch);
        let before = blk.0.checked_sub(1).map(|blk| (node, BlkNo(blk)));
        lo == 0 && much && self.done == before && before.is_some()
    }

    /// Somebody was told of the reader of a block that is noted here.
    pub fn told(&mut self, node: NodeId, blk: BlkNo) {
        if let Some(touch) = self.find(node, blk) {
            touch.is_told = true;
        }
    }

    /// Takes over another worker's note of a block that is noted here.
    pub fn adopt(&mut self, theirs: &mut Self, node: NodeId, blk: BlkNo) {
        if let Some(own) = self.find(node, blk)
            && let Some(other) = theirs.remove(node, blk)
        {
            own.join(&other);
        }
    }

    fn find(&mut self, node: NodeId, blk: BlkNo) -> Option<&mut Touch> {
        let mut notes = self.notes.iter_mut();
        notes.rfind(|t| t.blk == blk && t.node == node)
    }

    /// The last piece that is missing of a block of `len` bytes, if that is not what its reader comes to next. It counts as read
    /// from now on.
    pub fn take_last(&mut self, node: NodeId, blk: BlkNo, len: u64) -> Option<Range<u64>> {
        let touch = self.find(node, blk)?;
        let gap = touch.missing(len).last()?;
        let from = (gap.start + LEFT_BYTES).max(gap.end.saturating_sub(PIECE_BYTES));
        let piece = from.next_multiple_of(4096)..gap.end;
        if piece.is_empty() {
            return None;
        }
        // What is not remembered would be taken again and again.
        touch.cover(piece.start, piece.end).then_some(piece)
    }

    /// The block touched last.
    pub fn last(&self) -> Option<(NodeId, BlkNo)> {
        self.notes.back().map(|touch| (touch.node, touch.blk))
    }

    /// The block touched last, to be stored now.
    pub fn take(&mut self) -> Option<Touch> {
        self.notes.pop_back()
    }

    /// The note of one block, if there is one.
    pub fn remove(&mut self, node: NodeId, blk: BlkNo) -> Option<Touch> {
        let mut notes = self.notes.iter();
        let at = notes.rposition(|t| t.blk == blk && t.node == node)?;
        self.notes.remove(at)
    }

    /// Drops the notes of files that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.notes.retain(|t| keep(t.node));
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}

/// Bytes of the smallest block of which anybody is told.
pub const MET_BYTES: u64 = LEFT_BYTES + PIECE_BYTES + 4096;
/// How long READs of a block may have been on their way when it is complete. A later one reads what was let go of since: a first touch.
const LATE: Duration = Duration::from_millis(10);
/// Meetings that are remembered: READs of a block that are on their way when it is complete look there.
const MEETINGS_MAX: usize = 16;

/// From where on readers in order are met: the pages behind that are counted ([`crate::tail::Seen`]) by who stores them, and not again by
/// a READ that got there first.
#[derive(Debug, Default)]
pub struct Meetings {
    last: VecDeque<Meeting>,
}

#[derive(Clone, Copy, Debug)]
struct Meeting {
    node: NodeId,
    blk: BlkNo,
    /// The state of head that it is of.
    state: u64,
    from: u64,
    /// Since when nothing is missing any more: who still reads of it had asked before.
    over: Option<Duration>,
}

impl Meetings {
    /// A READ brings `[lo, hi)` of a block of `len` bytes into the page cache: notes it, unless nothing was missing before. Gives the first byte
    /// that somebody else stores, if that is of this state, and whether the READ is in order ([`Touches::note`]). `clock` is asked only where
    /// it matters.
    pub fn note(
        &mut self,
        touches: &mut Touches,
        (node, blk): (NodeId, BlkNo),
        state: u64,
        (lo, hi, len): (u64, u64, u64),
        clock: impl Fn() -> Duration,
    ) -> (u64, bool) {
        let met = self.find(node, blk);
        let mut found = met.map(|at| self.last[at]).filter(|m| m.state == state);
        if let (Some(at), Some(over)) = (met, found.and_then(|m| m.over)) {
            if clock().saturating_sub(over) < LATE {
                return (self.last[at].from, false);
            }
            self.last.remove(at);
            found = None;
        }
        let in_order = touches.note(node, blk, lo, hi, len);
        if found.is_some() && touches.find(node, blk).is_none() {
            self.complete(node, blk, clock());
        }
        (found.map_or(u64::MAX, |m| m.from), in_order)
    }

    /// Nothing is missing of a block any more.
    pub fn complete(&mut self, node: NodeId, blk: BlkNo, now: Duration) {
        if let Some(at) = self.find(node, blk) {
            self.last[at].over.get_or_insert(now);
        }
    }

    /// Lets go of those that READs under way have nothing to look for in any more.
    pub fn settle(&mut self, now: Duration) {
        let is_late = |over: Duration| now.saturating_sub(over) >= LATE;
        self.last.retain(|m| !m.over.is_some_and(is_late));
    }

    /// Whether nobody is met.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    fn find(&self, node: NodeId, blk: BlkNo) -> Option<usize> {
        let mut last = self.last.iter();
        last.rposition(|m| m.blk == blk && m.node == node)
    }

    /// Somebody stores a block from this byte on, all that is missing behind it too.
    pub fn store(&mut self, node: NodeId, blk: BlkNo, state: u64, from: u64) {
        self.last.retain(|m| (m.node, m.blk) != (node, blk));
        if self.last.len() == MEETINGS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(Meeting {
            node,
            blk,
            state,
            from,
            over: None,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn gaps(touch: &Touch, len: u64) -> Vec<Range<u64>> {
        touch.missing(len).collect()
    }

    #[test]
    fn what_was_read_is_not_stored_again() {
        let mut touches = Touches::default();
        let mut note = |lo, hi| touches.note(NodeId(70), BlkNo(3), lo, hi, 64);
        note(8, 16);
        note(32, 40);
        note(16, 24);
        assert_eq!(gaps(&touches.take().unwrap(), 64), [0..8, 24..32, 40..64]);
        assert!(touches.take().is_none());
    }

    #[test]
    fn two_workers_that_saw_half_of_a_block_each_leave_nothing_to_do() {
        let (mut a, mut b) = (Touches::default(), Touches::default());
        for at in 0..8 {
            let touches = if at % 2 == 0 { &mut a } else { &mut b };
            touches.note(NodeId(70), BlkNo(1), at * 8, at * 8 + 8, 64);
        }
        b.note(NodeId(70), BlkNo(2), 0, 8, 64);
        let (node, blk) = a.last().unwrap();
        a.adopt(&mut b, node, blk);
        assert_eq!(gaps(&a.take().unwrap(), 64), []);
        assert_eq!(b.remove(node, blk), None);
        assert!(!b.is_empty());
    }

    #[test]
    fn a_reader_that_covers_the_block_leaves_nothing_to_do() {
        let mut touches = Touches::default();
        touches.note(NodeId(70), BlkNo(0), 0, 64, 64);
        assert!(touches.is_empty());
        for at in [0, 32, 16, 48] {
            touches.note(NodeId(70), BlkNo(0), at, at + 16, 64);
        }
        assert!(touches.is_empty());
    }

    #[test]
    fn a_reader_in_order_is_met_from_the_other_side() {
        const LEN: u64 = 2 << 20;
        let (node, blk) = (NodeId(70), BlkNo(3));
        let mut touches = Touches::default();
        let read = |touches: &mut Touches, n: u64| {
            touches.note(node, blk, n * LEFT_BYTES, (n + 1) * LEFT_BYTES, LEN)
        };
        assert!(!read(&mut touches, 0), "one READ has no order");
        assert!(read(&mut touches, 1));
        assert!(read(&mut touches, 2), "nobody was told yet");
        touches.told(node, blk);
        let mut stored = Vec::new();
        while let Some(piece) = touches.take_last(node, blk, LEN) {
            stored.push(piece);
        }
        assert_eq!(stored[0], LEN - PIECE_BYTES..LEN);
        assert!(stored.windows(2).all(|w| w[1].end == w[0].start));
        let last = stored.last().unwrap().start;
        assert_eq!(
            last,
            4 * LEFT_BYTES,
            "what the reader asks for next is left to it"
        );
        assert!(!touches.is_empty());
        assert!(!read(&mut touches, 3), "told once");
        assert!(touches.is_empty());
        let next = touches.note(node, BlkNo(4), 0, LEFT_BYTES, LEN);
        assert!(next, "it goes on in the next block");
        assert_eq!(touches.take_last(node, blk, LEN), None);
        assert!(!touches.note(node, BlkNo(9), 0, LEFT_BYTES, LEN));
    }

    #[test]
    fn nobody_is_told_of_readers_that_are_not_in_order_or_nearly_done() {
        const LEN: u64 = 2 << 20;
        let (node, blk) = (NodeId(70), BlkNo(0));
        let mut touches = Touches::default();
        for at in [0, 4 * LEFT_BYTES, 2 * LEFT_BYTES] {
            assert!(!touches.note(node, blk, at, at + LEFT_BYTES, LEN));
        }
        let mut touches = Touches::default();
        let near = LEN - LEFT_BYTES - PIECE_BYTES;
        assert!(!touches.note(node, blk, 0, near, LEN));
        assert!(!touches.note(node, blk, near, near + 4096, LEN));
    }

    #[test]
    fn the_end_of_a_file_is_no_whole_page() {
        let (node, blk) = (NodeId(70), BlkNo(0));
        let mut touches = Touches::default();
        touches.note(node, blk, 0, 4096, 1 << 20);
        let len = 4096 + LEFT_BYTES + 5000;
        assert_eq!(
            touches.take_last(node, blk, len),
            Some(4096 + LEFT_BYTES..len)
        );
        touches.note(node, BlkNo(1), 0, 4096, 1 << 20);
        assert_eq!(touches.take_last(node, BlkNo(1), 4096 + LEFT_BYTES), None);
    }

    #[test]
    fn what_is_met_is_counted_once_and_not_stored_again() {
        const LEN: u64 = 2 << 20;
        let place = (NodeId(70), BlkNo(3));
        let (mut touches, mut meetings) = (Touches::default(), Meetings::default());
        let ms = std::cell::Cell::new(100);
        let read = |meetings: &mut Meetings, touches: &mut Touches, state, lo, hi| {
            meetings.note(touches, place, state, (lo, hi, LEN), || {
                Duration::from_millis(ms.get())
            })
        };
        read(&mut meetings, &mut touches, 5, 0, LEFT_BYTES);
        while let Some(piece) = touches.take_last(place.0, place.1, LEN) {
            meetings.store(place.0, place.1, 5, piece.start);
        }
        let (end, from) = (3 * LEFT_BYTES, 2 * LEFT_BYTES);
        // It got there first with some of it: these pages are the other's to count. Of another state nobody knows.
        let (met, _) = read(
            &mut meetings,
            &mut touches,
            6,
            LEFT_BYTES,
            LEFT_BYTES + 4096,
        );
        assert_eq!(met, u64::MAX);
        let (met, _) = read(&mut meetings, &mut touches, 5, LEFT_BYTES, end);
        assert_eq!(met, from);
        assert!(touches.is_empty());
        // What was on its way is no first touch.
        let late = read(&mut meetings, &mut touches, 5, from, end);
        assert_eq!(late, (from, false));
        assert!(touches.is_empty(), "all of it would be stored again");
        // What comes later was let go of meanwhile: it is one, and counts.
        ms.set(200);
        let again = read(&mut meetings, &mut touches, 5, from, end);
        assert_eq!(again, (u64::MAX, false));
        assert!(touches.take().is_some());
        // In the next state it is one.
        read(&mut meetings, &mut touches, 6, 0, 4096);
        assert!(!touches.is_empty());
        for other in 0..MEETINGS_MAX as u64 {
            meetings.store(NodeId(80), BlkNo(other), 5, 0);
        }
        assert_eq!(meetings.last.len(), MEETINGS_MAX);
        let (met, _) = read(&mut meetings, &mut touches, 5, from, end);
        assert_eq!(met, u64::MAX, "forgotten in time");
    }

    #[test]
    fn what_cannot_be_remembered_is_not_taken_again_and_again() {
        const LEN: u64 = 2 << 20;
        let (node, blk) = (NodeId(70), BlkNo(0));
        let mut touches = Touches::default();
        for n in 0..RANGES_MAX as u64 {
            touches.note(node, blk, n * 8192, n * 8192 + 4096, LEN);
        }
        assert_eq!(touches.take_last(node, blk, LEN), None);
    }

    #[test]
    fn a_block_that_is_stored_when_nobody_asks_is_met_no_more() {
        let place = (NodeId(70), BlkNo(0));
        let (mut touches, mut meetings) = (Touches::default(), Meetings::default());
        meetings.store(place.0, place.1, 5, 1 << 20);
        meetings.complete(place.0, place.1, Duration::from_millis(100));
        let mut read = |ms| {
            let clock = || Duration::from_millis(ms);
            meetings.note(&mut touches, place, 5, (0, 4096, 2 << 20), clock)
        };
        assert_eq!(read(105), (1 << 20, false), "it was on its way");
        assert_eq!(read(110), (u64::MAX, false));
        assert!(!touches.is_empty());
    }

    #[test]
    fn too_many_ranges_are_stored_twice_rather_than_not_at_all() {
        let mut touches = Touches::default();
        for i in 0..32 {
            touches.note(NodeId(70), BlkNo(0), i * 16, i * 16 + 8, 512);
        }
        let touch = touches.take().unwrap();
        let total: u64 = touch.missing(512).map(|r| r.end - r.start).sum();
        assert!(total >= 256, "never more is thought covered than was read");
    }
}
