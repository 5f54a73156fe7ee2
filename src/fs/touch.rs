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
//!
//! What is taken to be stored is not there yet: it may have to be loaded, and be given up when head moves on. So it stays noted until it
//! is given to the kernel ([`Touches::settle`]), and is missing again when it is not ([`Touches::give_back`]). Where a block changed,
//! what was read of it is of no use: its notes go ([`Touches::let_go`]).

use crate::base::{BlkNo, NodeId};
use std::collections::VecDeque;
use std::ops::Range;

/// Blocks noted per worker. Beyond it nobody is reading on in the oldest.
const NOTES_MAX: usize = 64;
/// Separate ranges remembered per block; one more is not.
const RANGES_MAX: usize = 8;

/// A block of a file.
pub type Place = (NodeId, BlkNo);

/// Of what was taken of a block: the block may change, and be noted and taken anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket(u64);

/// What was taken of a block, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// By this it is settled.
    pub ticket: Ticket,
    /// Bytes of the block.
    pub len: u64,
    /// Which of them.
    pub ranges: Vec<Range<u64>>,
}

/// Of what was taken of a block and is given to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What READs brought in of it meanwhile.
    pub read: Vec<Range<u64>>,
    /// From here on nothing is missing.
    pub from: u64,
}

/// How long things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// A page.
    pub page: u64,
    /// Bytes of one piece: a page that a reader wants next is not locked for longer than it takes to store so many.
    pub piece: u64,
    /// Bytes before a reader that are left to it: a READ of 128 KiB that is on its way, and what the kernel asks for ahead.
    pub left: u64,
}

impl Sizes {
    /// Of a mount.
    pub const MOUNT: Self = Self {
        page: 4096,
        piece: 256 << 10,
        left: 256 << 10,
    };

    /// Bytes of the smallest block of which anybody is told.
    pub const fn met(self) -> u64 {
        self.left + self.piece + self.page
    }
}

/// Byte ranges of a block, sorted and apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ranges {
    ranges: [(u64, u64); RANGES_MAX],
    count: usize,
}

impl Ranges {
    fn all(&self) -> &[(u64, u64)] {
        &self.ranges[..self.count]
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a range, joining what touches it. False when there is no room to remember it: those pages will be stored once more.
    fn cover(&mut self, mut lo: u64, mut hi: u64) -> bool {
        let mut kept = 0;
        for i in 0..self.count {
            let (a, b) = self.ranges[i];
            if b < lo || a > hi {
                self.ranges[kept] = (a, b);
                kept += 1;
            } else {
                (lo, hi) = (lo.min(a), hi.max(b));
            }
        }
        self.count = kept;
        if kept == RANGES_MAX {
            return false;
        }
        self.ranges[kept] = (lo, hi);
        self.count += 1;
        self.ranges[..self.count].sort_unstable();
        true
    }

    /// What of a block of `len` bytes is not among these.
    fn missing(&self, len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let edges = self.all().iter().copied().chain([(len, len)]);
        let mut from = 0;
        edges.filter_map(move |(lo, hi)| {
            let gap = from..lo.min(len);
            from = hi;
            (gap.start < gap.end).then_some(gap)
        })
    }
}

/// A block that was touched and not yet stored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Touch {
    place: Place,
    /// Bytes of the block.
    len: u64,
    /// What READs brought in, and stores.
    covered: Ranges,
    /// What somebody is about to store, and the number that he knows it by.
    taken: Ranges,
    ticket: Ticket,
    /// Where what was given up ends: it is not asked for again, and only READs bring it in.
    given_up: u64,
    /// Where the last READ ended.
    end: u64,
    /// Somebody was told of the reader.
    is_told: bool,
}

impl Touch {
    /// Adds what another worker noted of the same block.
    fn join(&mut self, other: &Self) {
        for &(lo, hi) in other.covered.all() {
            self.covered.cover(lo, hi);
        }
        self.given_up = self.given_up.max(other.given_up);
    }

    fn is_complete(&self) -> bool {
        self.taken.is_empty() && self.covered.missing(self.len).next().is_none()
    }
}

/// The notes of one worker, oldest first.
#[derive(Debug)]
pub struct Touches {
    notes: VecDeque<Touch>,
    /// The block that a reader in order came to the end of last.
    done: Option<Place>,
    sizes: Sizes,
    tickets: u64,
}

impl Default for Touches {
    fn default() -> Self {
        Self::new(Sizes::MOUNT)
    }
}

impl Touches {
    /// Of nothing yet.
    pub fn new(sizes: Sizes) -> Self {
        Self {
            notes: VecDeque::with_capacity(NOTES_MAX + 1),
            done: None,
            sizes,
            tickets: 0,
        }
    }

    /// A READ brought `[lo, hi)` of a block of `len` bytes into the page cache. True if it began where the last one ended, much is
    /// missing still, and nobody was told yet.
    pub fn note(&mut self, place: Place, lo: u64, hi: u64, len: u64) -> bool {
        let much = hi + self.sizes.left + self.sizes.piece <= len;
        // Readers mostly go on where they were: the latest note first.
        if let Some(at) = self.at(place) {
            let touch = &mut self.notes[at];
            touch.covered.cover(lo, hi);
            let in_order = std::mem::replace(&mut touch.end, hi) == lo;
            let tell = in_order && much && !touch.is_told && touch.taken.is_empty();
            self.end_if_complete(at);
            return tell;
        }
        if lo == 0 && hi >= len {
            return false;
        }
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        let mut touch = Touch {
            place,
            len,
            covered: Ranges::default(),
            taken: Ranges::default(),
            ticket: Ticket::default(),
            given_up: 0,
            end: hi,
            is_told: false,
        };
        touch.covered.cover(lo, hi);
        self.notes.push_back(touch);
        let (node, blk) = place;
        let before = blk.0.checked_sub(1).map(|blk| (node, BlkNo(blk)));
        lo == 0 && much && self.done == before && before.is_some()
    }

    fn end_if_complete(&mut self, at: usize) {
        let touch = &self.notes[at];
        if touch.is_complete() {
            self.done = touch.is_told.then_some(touch.place);
            self.notes.remove(at);
        }
    }

    /// Somebody was told of the reader of a block that is noted here.
    pub fn told(&mut self, place: Place) {
        if let Some(touch) = self.find(place) {
            touch.is_told = true;
        }
    }

    /// Takes over another worker's note of a block that is noted here; or leaves this one to it, where that is being stored from.
    pub fn adopt(&mut self, theirs: &mut Self, place: Place) {
        let Some(at) = self.at(place) else { return };
        let Some(other) = theirs.at(place) else {
            return;
        };
        let (own, other) = (&mut self.notes[at], &mut theirs.notes[other]);
        if other.taken.is_empty() {
            own.join(other);
            theirs.forget(place);
        } else if own.taken.is_empty() {
            other.join(own);
            self.forget(place);
        }
    }

    fn at(&self, place: Place) -> Option<usize> {
        let mut notes = self.notes.iter();
        notes.rposition(|t| t.place == place)
    }

    fn find(&mut self, place: Place) -> Option<&mut Touch> {
        let at = self.at(place)?;
        Some(&mut self.notes[at])
    }

    /// Whether there is a note of a block.
    pub fn has(&self, place: Place) -> bool {
        self.at(place).is_some()
    }

    /// Takes the last piece that is missing of a block, if that is not what its reader comes to next.
    pub fn take_last(&mut self, place: Place) -> Option<Taken> {
        let sizes = self.sizes;
        let touch = self.find(place).filter(|t| t.taken.is_empty())?;
        let gap = touch.covered.missing(touch.len).last()?;
        let from = (gap.start + sizes.left).max(gap.end.saturating_sub(sizes.piece));
        let piece = from.next_multiple_of(sizes.page)..gap.end;
        // What is not remembered would be taken again and again.
        let mut then = touch.covered;
        if piece.is_empty() || !then.cover(piece.start, piece.end) {
            return None;
        }
        let at = self.at(place)?;
        Some(self.take(at, vec![piece]))
    }

    fn take(&mut self, at: usize, ranges: Vec<Range<u64>>) -> Taken {
        self.tickets += 1;
        let (touch, ticket) = (&mut self.notes[at], Ticket(self.tickets));
        for range in &ranges {
            touch.taken.cover(range.start, range.end);
        }
        touch.ticket = ticket;
        let len = touch.len;
        Taken {
            ticket,
            len,
            ranges,
        }
    }

    /// Takes all that is missing of a block.
    pub fn take_rest(&mut self, place: Place) -> Option<Taken> {
        let at = self.at(place)?;
        let touch = &mut self.notes[at];
        if !touch.taken.is_empty() {
            return None;
        }
        let mut ranges: Vec<_> = touch.covered.missing(touch.len).collect();
        ranges.truncate(RANGES_MAX); // the rest of it comes next
        if ranges.is_empty() {
            self.notes.remove(at);
            return None;
        }
        Some(self.take(at, ranges))
    }

    fn taken(&self, place: Place, ticket: Ticket) -> Option<usize> {
        let is = |&at: &usize| {
            let touch = &self.notes[at];
            touch.ticket == ticket && !touch.taken.is_empty()
        };
        self.at(place).filter(is)
    }

    /// What was taken of a block is given to the kernel. Gives what READs brought in of it meanwhile, if it is noted still.
    pub fn settle(&mut self, place: Place, ticket: Ticket) -> Option<Settled> {
        let at = self.taken(place, ticket)?;
        let touch = &mut self.notes[at];
        let taken = std::mem::take(&mut touch.taken);
        let both = taken.all().iter().flat_map(|&(lo, hi)| {
            let covered = touch.covered.all().iter();
            let both = covered.map(move |&(a, b)| a.max(lo)..b.min(hi));
            both.filter(|both| both.start < both.end)
        });
        let read = both.collect();
        let mut from = u64::MAX;
        let is_kept = |&(lo, hi): &(u64, u64)| touch.covered.cover(lo, hi);
        if taken.all().iter().all(is_kept) {
            let last = touch.covered.all().last();
            from = last
                .filter(|last| last.1 >= touch.len)
                .map_or(from, |last| last.0.max(touch.given_up));
            self.end_if_complete(at);
        } else {
            self.notes.remove(at);
        }
        Some(Settled { read, from })
    }

    /// What was taken of a block will never be stored, nor asked for again: READs bring it in, and count it.
    pub fn give_up(&mut self, place: Place, ticket: Ticket) {
        if let Some(at) = self.taken(place, ticket) {
            let touch = &mut self.notes[at];
            let last = touch.taken.all().last();
            touch.given_up = last.map_or(0, |last| last.1).max(touch.given_up);
        }
        self.settle(place, ticket);
    }

    /// What was taken of a block is missing again.
    pub fn give_back(&mut self, place: Place, ticket: Ticket) {
        if let Some(at) = self.taken(place, ticket) {
            self.notes[at].taken = Ranges::default();
        }
    }

    /// The block touched last of which nobody stores anything.
    pub fn last(&self) -> Option<Place> {
        let mut notes = self.notes.iter().rev();
        let last = notes.find(|touch| touch.taken.is_empty());
        last.map(|touch| touch.place)
    }

    /// Nothing is known of a block any more.
    pub fn forget(&mut self, place: Place) {
        if let Some(at) = self.at(place) {
            self.notes.remove(at);
        }
    }

    /// Drops the notes of files that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.notes.retain(|t| keep(t.place.0));
    }

    /// Nothing that was read is there any more of some blocks, which are told by their bytes too. What is taken comes all the same.
    pub fn let_go(&mut self, is_gone: impl Fn(Place, u64) -> bool) {
        for touch in &mut self.notes {
            if is_gone(touch.place, touch.len) {
                touch.covered = Ranges::default();
                touch.given_up = 0;
            }
        }
        let is_left = |t: &Touch| !t.covered.is_empty() || !t.taken.is_empty();
        self.notes.retain(is_left);
    }

    /// Whether anything is noted: what is being stored is, until it is settled.
    pub fn has_any(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.last().is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::single_range_in_vec_init,
        reason = "tests"
    )]
    use super::*;

    const LEFT: u64 = Sizes::MOUNT.left;
    const PIECE: u64 = Sizes::MOUNT.piece;
    const PLACE: Place = (NodeId(70), BlkNo(3));

    fn rest(touches: &mut Touches) -> (Ticket, Vec<Range<u64>>) {
        let place = touches.last().unwrap();
        let taken = touches.take_rest(place).unwrap();
        (taken.ticket, taken.ranges)
    }

    /// Its pages are not there: who reads them counts them, also where what lies before was stored since.
    #[test]
    fn what_is_given_up_is_not_asked_for_again_and_not_there() {
        let mut touches = Touches::default();
        touches.note(PLACE, 0, 8, 64);
        touches.note(PLACE, 16, 24, 64);
        touches.note(PLACE, 32, 40, 64);
        let (ticket, _) = rest(&mut touches);
        touches.give_back(PLACE, ticket);
        touches.note(PLACE, 24, 32, 64);
        let at = touches.at(PLACE).unwrap();
        let ticket = touches.take(at, vec![40..64]).ticket;
        touches.give_up(PLACE, ticket);
        let (ticket, ranges) = rest(&mut touches);
        assert_eq!(ranges, [8..16]);
        let settled = touches.settle(PLACE, ticket).unwrap();
        assert_eq!(settled.from, 64);
        assert!(!touches.has(PLACE));
    }

    #[test]
    fn what_was_read_is_not_stored_again() {
        let mut touches = Touches::default();
        let mut note = |lo, hi| touches.note(PLACE, lo, hi, 64);
        note(8, 16);
        note(32, 40);
        note(16, 24);
        let (ticket, ranges) = rest(&mut touches);
        assert_eq!(ranges, [0..8, 24..32, 40..64]);
        assert!(touches.is_empty(), "it is on its way");
        assert!(touches.has_any(), "READs of it are to be noted");
        assert_eq!(touches.take_rest(PLACE), None);
        assert_eq!(touches.settle(PLACE, ticket).unwrap().read, []);
        assert!(!touches.has(PLACE));
    }

    #[test]
    fn what_was_taken_and_not_given_is_missing_again() {
        let mut touches = Touches::default();
        touches.note(PLACE, 8, 16, 64);
        let (ticket, ranges) = rest(&mut touches);
        assert_eq!(ranges, [0..8, 16..64]);
        touches.note(PLACE, 24, 32, 64);
        touches.give_back(PLACE, ticket);
        assert_eq!(rest(&mut touches).1, [0..8, 16..24, 32..64]);
    }

    #[test]
    fn a_block_that_changed_or_went_begins_anew() {
        let mut touches = Touches::default();
        touches.note(PLACE, 8, 16, 64);
        let (old, _) = rest(&mut touches);
        // What is of the next state already comes all the same, and what was read goes.
        touches.let_go(|place, len| place == PLACE && len == 64);
        let settled = touches.settle(PLACE, old).unwrap();
        assert_eq!((settled.read, settled.from), (vec![], 16));
        assert_eq!(rest(&mut touches).1, [8..16]);
        touches.retain(|node| node != PLACE.0);
        assert_eq!(touches.settle(PLACE, old), None);
        touches.note(PLACE, 0, 8, 64);
        assert_eq!(touches.settle(PLACE, old), None);
        let (new, ranges) = rest(&mut touches);
        touches.give_back(PLACE, old);
        assert_eq!((touches.settle(PLACE, old), touches.last()), (None, None));
        assert_eq!(ranges, [8..64]);
        assert_eq!(touches.settle(PLACE, new).unwrap().from, 0);
    }

    #[test]
    fn what_is_read_of_what_was_taken_is_told() {
        let mut touches = Touches::default();
        touches.note(PLACE, 8, 16, 64);
        let (ticket, _) = rest(&mut touches);
        for at in [0, 24, 32, 56] {
            touches.note(PLACE, at, at + 8, 64);
        }
        let read = touches.settle(PLACE, ticket).unwrap().read;
        assert_eq!(read, [0..8, 24..40, 56..64]);
        assert!(!touches.has(PLACE));
        // As if it were all that anybody read.
        touches.note(PLACE, 0, 8, 64);
        let (ticket, _) = rest(&mut touches);
        for at in [8, 16, 24, 32, 40, 48, 56] {
            touches.note(PLACE, at, at + 8, 64);
        }
        assert!(touches.has(PLACE), "until what was taken is settled");
        assert_eq!(touches.settle(PLACE, ticket).unwrap().read, [8..64]);
        assert!(!touches.has(PLACE));
    }

    #[test]
    fn two_workers_that_saw_half_of_a_block_each_leave_nothing_to_do() {
        let (mut a, mut b) = (Touches::default(), Touches::default());
        for at in 0..8 {
            let touches = if at % 2 == 0 { &mut a } else { &mut b };
            touches.note(PLACE, at * 8, at * 8 + 8, 64);
        }
        let next = (NodeId(70), BlkNo(4));
        b.note(next, 0, 8, 64);
        a.adopt(&mut b, PLACE);
        assert_eq!(a.take_rest(PLACE), None);
        assert!(!a.has(PLACE) && !b.has(PLACE));
        assert_eq!(b.last(), Some(next));
    }

    #[test]
    fn who_stores_a_block_already_hears_of_what_others_answered() {
        let (mut a, mut b) = (Touches::default(), Touches::default());
        a.note(PLACE, 0, 8, 64);
        let (ticket, ranges) = rest(&mut a);
        assert_eq!(ranges, [8..64]);
        b.note(PLACE, 16, 24, 64);
        b.adopt(&mut a, PLACE);
        assert!(!b.has(PLACE));
        assert_eq!(a.settle(PLACE, ticket).unwrap().read, [16..24]);
    }

    #[test]
    fn a_reader_that_covers_the_block_leaves_nothing_to_do() {
        let mut touches = Touches::default();
        touches.note(PLACE, 0, 64, 64);
        assert!(touches.is_empty());
        for at in [0, 32, 16, 48] {
            touches.note(PLACE, at, at + 16, 64);
        }
        assert!(touches.is_empty());
    }

    #[test]
    fn a_reader_in_order_is_met_from_the_other_side() {
        const LEN: u64 = 2 << 20;
        let (node, place) = (PLACE.0, PLACE);
        let mut touches = Touches::default();
        let read =
            |touches: &mut Touches, n: u64| touches.note(place, n * LEFT, (n + 1) * LEFT, LEN);
        assert!(!read(&mut touches, 0), "one READ has no order");
        assert!(read(&mut touches, 1));
        assert!(read(&mut touches, 2), "nobody was told yet");
        touches.told(place);
        let mut stored = Vec::new();
        while let Some(taken) = touches.take_last(place) {
            assert_eq!(touches.take_last(place), None, "one after the other");
            touches.settle(place, taken.ticket);
            stored.extend(taken.ranges);
        }
        assert_eq!(stored[0], LEN - PIECE..LEN);
        assert!(stored.windows(2).all(|w| w[1].end == w[0].start));
        let last = stored.last().unwrap().start;
        assert_eq!(
            last,
            4 * LEFT,
            "what the reader asks for next is left to it"
        );
        assert!(!touches.is_empty());
        assert!(!read(&mut touches, 3), "told once");
        assert!(touches.is_empty());
        let next = touches.note((node, BlkNo(4)), 0, LEFT, LEN);
        assert!(next, "it goes on in the next block");
        assert_eq!(touches.take_last(place), None);
        assert!(!touches.note((node, BlkNo(9)), 0, LEFT, LEN));
    }

    #[test]
    fn nobody_is_told_of_readers_that_are_not_in_order_or_nearly_done() {
        const LEN: u64 = 2 << 20;
        let mut touches = Touches::default();
        for at in [0, 4 * LEFT, 2 * LEFT] {
            assert!(!touches.note(PLACE, at, at + LEFT, LEN));
        }
        let mut touches = Touches::default();
        let near = LEN - LEFT - PIECE;
        assert!(!touches.note(PLACE, 0, near, LEN));
        assert!(!touches.note(PLACE, near, near + 4096, LEN));
    }

    #[test]
    fn the_last_piece_is_as_long_as_what_is_missing() {
        let mut touches = Touches::default();
        let len = 4096 + LEFT + 5000;
        touches.note(PLACE, 0, 4096, len);
        let taken = touches.take_last(PLACE).unwrap();
        assert_eq!(
            (taken.len, &taken.ranges[..]),
            (len, &[4096 + LEFT..len][..])
        );
        let next = (NodeId(70), BlkNo(4));
        touches.note(next, 0, 4096, 4096 + LEFT);
        assert_eq!(touches.take_last(next), None);
    }

    #[test]
    fn what_cannot_be_remembered_is_not_taken_again_and_again() {
        const LEN: u64 = 2 << 20;
        let mut touches = Touches::default();
        for n in 0..RANGES_MAX as u64 {
            touches.note(PLACE, n * 8192, n * 8192 + 4096, LEN);
        }
        assert_eq!(touches.take_last(PLACE), None);
        touches.note(PLACE, LEN - 4096, LEN, LEN);
        assert_eq!(rest(&mut touches).1.len(), RANGES_MAX);
    }

    #[test]
    fn too_many_ranges_are_stored_twice_rather_than_not_at_all() {
        let mut touches = Touches::default();
        for i in 0..32 {
            touches.note(PLACE, i * 16, i * 16 + 8, 512);
        }
        let total: u64 = rest(&mut touches).1.iter().map(|r| r.end - r.start).sum();
        assert!(total >= 256, "never more is thought covered than was read");
    }
}
