//! Where readers in order are met, and who counts the pages of a block that is stored beside its readers.
//!
//! ```text
//!   READs in order      0 ------> . . . . . . <---- pieces, from the end      one after the other ([`Touches::take_last`])
//!                                 left to the reader
//!   when nobody asks    all that is missing, at once                          ([`Touches::take_rest`])
//! ```
//!
//! The kernel may have asked for a page before it is stored, and gets it twice. What it is given of a block is counted
//! ([`crate::tail::Seen`]), and a block that is counted right is kept when it changes. So each page counts once:
//!
//! - until a piece is given to the kernel READs of it count, and who stores it does not count those (it may be given up: then nobody
//!   stores it);
//! - from then on READs of it do not.
//!
//! Where a block changed, all that begins anew ([`Gone`]): of what was read before nothing is there.
//!
//! Who reads of a block that is complete was on his way before. It is no first touch, or all of it would be stored again.

use super::advance::Drop;
use super::touch::{Place, Settled, Taken, Ticket, Touches};
use crate::base::NodeId;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// How long READs of a block may have been on their way when it is complete. A later one reads what was let go of since: a first touch.
const LATE: Duration = Duration::from_millis(10);
/// Meetings that are remembered: READs of a block that are on their way when it is complete look there.
const MEETINGS_MAX: usize = 16;

/// The rest of a block, for a worker whose readers want nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOn {
    /// Whose reader it is: the worker that has the notes.
    pub reader: usize,
    /// The block.
    pub place: Place,
    /// The state of head in which it was read.
    pub state: u64,
    /// Requests that the worker it is for had answered.
    pub requests: u64,
    /// Nothing of it is stored yet.
    pub is_first: bool,
}

impl ReadOn {
    /// Whether the worker it is for goes on: not if it has others to serve by now, nor in another state.
    pub fn goes_on(&self, requests: u64, state: u64) -> bool {
        self.requests == requests && self.state == state
    }
}

/// Blocks that were stored beside their readers lately.
#[derive(Debug, Default)]
pub struct Meetings {
    last: VecDeque<Meeting>,
}

#[derive(Clone, Copy, Debug)]
struct Meeting {
    place: Place,
    /// Bytes of the block.
    len: u64,
    /// The state of head that it is of.
    state: u64,
    /// From here on all is counted.
    from: u64,
    /// Since when nothing is missing any more: who still reads of it had asked before.
    over: Option<Duration>,
}

impl Meetings {
    /// A READ brings `[lo, hi)` of a block of `len` bytes into the page cache: notes it, unless nothing was missing before. Gives the first byte
    /// that is counted already, if that is of this state, and whether the READ is in order ([`Touches::note`]). `clock` is asked only where
    /// it matters.
    pub fn note(
        &mut self,
        touches: &mut Touches,
        place: Place,
        state: u64,
        (lo, hi, len): (u64, u64, u64),
        clock: impl Fn() -> Duration,
    ) -> (u64, bool) {
        let met = self.find(place);
        let mut found = met.map(|at| self.last[at]).filter(|m| m.state == state);
        if let (Some(at), Some(over)) = (met, found.and_then(|m| m.over)) {
            if clock().saturating_sub(over) < LATE {
                return (self.last[at].from, false);
            }
            self.last.remove(at);
            found = None;
        }
        let in_order = touches.note(place, lo, hi, len);
        if let (Some(at), Some(_)) = (met, found)
            && !touches.has(place)
        {
            self.last[at].over = Some(clock());
        }
        (found.map_or(u64::MAX, |m| m.from), in_order)
    }

    /// Takes all that is missing of a block, unless what is noted of it came when nothing was.
    pub fn take_rest(&self, touches: &mut Touches, place: Place, state: u64) -> Option<Taken> {
        let met = self.find(place).map(|at| self.last[at]);
        if met.is_some_and(|m| m.state == state && m.over.is_some()) {
            touches.forget(place);
        }
        touches.take_rest(place)
    }

    /// What was taken of a block of `len` bytes is given to the kernel. Gives what of it READs counted.
    pub fn settle(
        &mut self,
        touches: &mut Touches,
        (place, ticket): (Place, Ticket),
        (state, now): (u64, Duration),
        len: u64,
    ) -> Vec<Range<u64>> {
        let Some(Settled { read, from }) = touches.settle(place, ticket) else {
            return Vec::new(); // nobody knows what else is there
        };
        self.last.retain(|m| m.place != place);
        if self.last.len() == MEETINGS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(Meeting {
            place,
            len,
            state,
            from,
            over: (!touches.has(place)).then_some(now),
        });
        read
    }

    /// As [`Touches::let_go`].
    pub fn let_go(&mut self, is_gone: impl Fn(Place, u64) -> bool) {
        self.last.retain(|m| !is_gone(m.place, m.len));
    }

    /// Lets go of those that READs under way have nothing to look for in any more.
    pub fn expire(&mut self, now: Duration) {
        let is_late = |over: Duration| now.saturating_sub(over) >= LATE;
        self.last.retain(|m| !m.over.is_some_and(is_late));
    }

    /// Whether nobody is met.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    fn find(&self, place: Place) -> Option<usize> {
        let mut last = self.last.iter();
        last.rposition(|m| m.place == place)
    }
}

/// What is about to be dropped: nothing that is known of these blocks is so any more.
#[derive(Debug, Default)]
pub struct Gone {
    /// Sorted and apart, as drops are.
    files: FxHashMap<NodeId, Vec<(u64, u64)>>,
}

impl Gone {
    /// Of these drops.
    pub fn new(drops: &[Drop]) -> Self {
        let mut gone = Self::default();
        for drop in drops {
            if let Some((node, bytes)) = drop.pages() {
                let ranges = gone.files.entry(node).or_default();
                ranges.push((bytes.start, bytes.end));
            }
        }
        for ranges in gone.files.values_mut() {
            ranges.sort_unstable();
        }
        gone
    }

    /// Whether something of a block of `len` bytes goes.
    pub fn has(&self, (node, blk): Place, len: u64) -> bool {
        let Some(ranges) = self.files.get(&node) else {
            return false;
        };
        let (lo, hi) = (blk.0 * len, (blk.0 + 1) * len);
        let at = ranges.partition_point(|&(_, end)| end <= lo);
        ranges.get(at).is_some_and(|&(off, _)| off < hi)
    }
}

/// What of a span is not among others, which are sorted and apart.
pub fn apart(span: Range<u64>, others: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> + '_ {
    let Range { mut start, end } = span;
    let edges = others.iter().cloned().chain(std::iter::once(end..end));
    edges.filter_map(move |other| {
        let gap = start..other.start.min(end);
        start = start.max(other.end);
        (gap.start < gap.end).then_some(gap)
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::single_range_in_vec_init,
        reason = "tests"
    )]
    use super::*;
    use crate::base::{BlkNo, NodeId};
    use crate::fs::touch::Sizes;

    const LEFT: u64 = Sizes::MOUNT.left;
    const LEN: u64 = 2 << 20;
    const PLACE: Place = (NodeId(70), BlkNo(3));

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_apart_is_cut_out() {
        let apart = |span, others: &[Range<u64>]| apart(span, others).collect::<Vec<_>>();
        assert_eq!(apart(4..9, &[]), [4..9]);
        assert_eq!(apart(4..9, &[0..4, 9..20]), [4..9]);
        assert_eq!(apart(4..9, &[0..5, 6..7, 8..20]), [5..6, 7..8]);
        assert_eq!(apart(4..9, &[0..u64::MAX]), []);
        assert_eq!(apart(4..9, &[1..2, 5..9]), [4..5]);
    }

    #[test]
    fn what_is_met_is_counted_once_and_not_stored_again() {
        let (mut touches, mut meetings) = (Touches::default(), Meetings::default());
        let now = std::cell::Cell::new(100);
        let read = |meetings: &mut Meetings, touches: &mut Touches, state, lo, hi| {
            meetings.note(touches, PLACE, state, (lo, hi, LEN), || ms(now.get()))
        };
        read(&mut meetings, &mut touches, 5, 0, LEFT);
        while let Some(taken) = touches.take_last(PLACE) {
            let place = (PLACE, taken.ticket);
            meetings.settle(&mut touches, place, (5, ms(100)), LEN);
        }
        let (end, from) = (3 * LEFT, 2 * LEFT);
        // It got there first with some of it: these pages are counted. Of another state nobody knows.
        let (met, _) = read(&mut meetings, &mut touches, 6, LEFT, LEFT + 4096);
        assert_eq!(met, u64::MAX);
        let (met, _) = read(&mut meetings, &mut touches, 5, LEFT, end);
        assert_eq!(met, from);
        assert!(touches.is_empty());
        // What was on its way is no first touch.
        let late = read(&mut meetings, &mut touches, 5, from, end);
        assert_eq!(late, (from, false));
        assert!(touches.is_empty(), "all of it would be stored again");
        // What comes later was let go of meanwhile: it is one, and counts.
        now.set(200);
        let again = read(&mut meetings, &mut touches, 5, from, end);
        assert_eq!(again, (u64::MAX, false));
        assert!(!touches.is_empty());
        // In the next state it is one.
        read(&mut meetings, &mut touches, 6, 0, 4096);
        assert!(!touches.is_empty());
        for other in 0..MEETINGS_MAX as u64 {
            let place = (NodeId(80), BlkNo(other));
            touches.note(place, 0, 4096, LEN);
            let taken = touches.take_rest(place).unwrap();
            let place = (place, taken.ticket);
            meetings.settle(&mut touches, place, (5, ms(200)), LEN);
        }
        assert_eq!(meetings.last.len(), MEETINGS_MAX);
        let (met, _) = read(&mut meetings, &mut touches, 5, from, end);
        assert_eq!(met, u64::MAX, "forgotten in time");
    }

    /// The disk is cold: what was taken is loaded, and readers come to it. They count what they read, and who stores it does not; if it is
    /// given up instead, nothing is amiss.
    #[test]
    fn what_is_taken_and_not_given_yet_is_counted_by_who_reads_it() {
        let (mut touches, mut meetings) = (Touches::default(), Meetings::default());
        let read = |meetings: &mut Meetings, touches: &mut Touches, lo, hi, at| {
            meetings.note(touches, PLACE, 5, (lo, hi, LEN), || ms(at))
        };
        read(&mut meetings, &mut touches, 0, LEFT, 100);
        let taken = touches.take_last(PLACE).unwrap();
        let piece = taken.ranges[0].clone();
        let (met, _) = read(&mut meetings, &mut touches, LEFT, piece.start + 4096, 100);
        assert_eq!(met, u64::MAX);
        touches.give_back(PLACE, taken.ticket);
        assert_eq!(touches.take_last(PLACE), None, "the reader is there");
        let place = touches.last().unwrap();
        let taken = meetings.take_rest(&mut touches, place, 5).unwrap();
        let rest = taken.ranges;
        assert_eq!(rest, [piece.start + 4096..LEN]);
        let (met, _) = read(&mut meetings, &mut touches, LEN - 4096, LEN, 500);
        assert_eq!(met, u64::MAX);
        let place = (PLACE, taken.ticket);
        let read_of = meetings.settle(&mut touches, place, (5, ms(500)), LEN);
        assert_eq!(read_of, [LEN - 4096..LEN]);
        let late = read(&mut meetings, &mut touches, LEN - 8192, LEN, 505);
        assert_eq!(late, (0, false), "it was on its way");
        // Another worker noted something of it when it was not complete.
        let mut theirs = Touches::default();
        theirs.note(PLACE, 0, 4096, LEN);
        assert_eq!(meetings.take_rest(&mut theirs, PLACE, 5), None);
        assert!(theirs.is_empty());
        let again = read(&mut meetings, &mut touches, 0, 4096, 510);
        assert_eq!(again, (u64::MAX, false));
        assert!(!touches.is_empty());
    }

    /// A block that was touched changed, and is touched again: what was read of it before is not there any more.
    #[test]
    fn a_block_that_changed_begins_anew() {
        let (mut touches, mut meetings) = (Touches::default(), Meetings::default());
        let node = PLACE.0;
        let pages = |off, len| Drop::Pages { node, off, len };
        let read = |meetings: &mut Meetings, touches: &mut Touches, state, lo| {
            meetings.note(touches, PLACE, state, (lo, lo + 4096, LEN), || ms(100))
        };
        read(&mut meetings, &mut touches, 5, LEN - 4096);
        for (drop, is_gone) in [
            (Drop::Attributes(node), false),
            (pages(0, 3 * LEN), false),
            (pages(4 * LEN, 0), false),
            (pages(3 * LEN, LEN), true),
        ] {
            let gone = Gone::new(&[pages(9 * LEN, LEN), drop, pages(LEN, LEN)]);
            touches.let_go(|place, len| gone.has(place, len));
            meetings.let_go(|place, len| gone.has(place, len));
            assert_eq!(touches.has(PLACE), !is_gone);
        }
        assert!(Gone::new(&[pages(0, 0)]).has(PLACE, LEN));
        read(&mut meetings, &mut touches, 6, 0);
        let taken = meetings.take_rest(&mut touches, PLACE, 6).unwrap();
        assert_eq!(taken.ranges, [4096..LEN]);
        let place = (PLACE, taken.ticket);
        // It changes once more, and what was taken is of that state already.
        touches.let_go(|place, _| place == PLACE);
        meetings.settle(&mut touches, place, (7, ms(100)), LEN);
        let there = read(&mut meetings, &mut touches, 7, LEN - 4096);
        assert_eq!(there, (4096, false));
        let rest = meetings.take_rest(&mut touches, PLACE, 7).unwrap();
        assert_eq!(rest.ranges, [0..4096]);
    }
}
