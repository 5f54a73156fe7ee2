//! One file watched at a transaction, and its pins.
//!
//! ```text
//!             want(@rev): sent           ack                 want(@head): sent          ack
//!   (at head) -----------------> under way ------> pinned @rev -----------------> under way ------> (at head)
//!                                    |  what is wanted meanwhile waits
//! ```
//!
//! A block at rest costs what a map entry does. One at head that nothing is under way for is not known here at all.

use crate::base::{BlkNo, Rev, Tid};
use crate::wire::watch::Stream;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Who waits for a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A READ.
    Ask(u64),
    /// The watch request under way.
    Setup,
}

/// Something that a client is or will be told about a block.
#[derive(Debug)]
pub struct Step {
    /// Where it is to be mapped from.
    pub rev: Rev,
    waiters: Vec<Waiter>,
    /// It is to be answered by then, if a READ waits for it.
    pub until: Option<Instant>,
}

/// What is under way for a block: the first, once it has a stream; the others wait for it.
#[derive(Debug)]
pub struct Flight {
    /// The exchange, once begun.
    pub stream: Option<Stream>,
    steps: VecDeque<Step>,
}

impl Flight {
    /// What is told now.
    pub fn step(&self) -> &Step {
        self.steps.front().expect("BUG: a flight without a step")
    }
}

/// What it takes to have a block where it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is there.
    Here,
    /// Something that was begun brings it there.
    Comes,
    /// It is to be told to the client, when what is under way for the block is answered.
    Later,
    /// It is to be told to the client now.
    Now,
}

/// A watch request under way.
#[derive(Debug)]
pub struct Setup {
    /// Its exchange.
    pub stream: Stream,
    /// Answers it waits for.
    pub left: usize,
    /// The client wants to know the size.
    pub size: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    /// What the client sees.
    pub at: Tid,
    /// The request under way.
    pub setup: Option<Setup>,
    held: FxHashMap<BlkNo, Tid>,
    flights: BTreeMap<BlkNo, Flight>,
    /// Blocks in either.
    count: usize,
}

impl Watch {
    /// A new one, without pins.
    pub fn new(at: Tid) -> Self {
        Self {
            at,
            setup: None,
            held: FxHashMap::default(),
            flights: BTreeMap::new(),
            count: 0,
        }
    }

    /// Where a block will be mapped from when everything is answered.
    fn last(&self, blk: BlkNo) -> Rev {
        let flight = self.flights.get(&blk).and_then(|f| f.steps.back());
        let held = || self.held.get(&blk).map_or(Rev::Head, |&tid| Rev::At(tid));
        flight.map_or_else(held, |step| step.rev)
    }

    /// Blocks that are pinned, or will be.
    pub fn pinned(&self) -> impl Iterator<Item = BlkNo> + '_ {
        let held = self
            .held
            .keys()
            .filter(|blk| !self.flights.contains_key(blk));
        let known = held.chain(self.flights.keys()).copied();
        known.filter(|&blk| self.last(blk) != Rev::Head)
    }

    /// Whether a block is pinned, or something is under way for it.
    pub fn knows(&self, blk: BlkNo) -> bool {
        self.held.contains_key(&blk) || self.flights.contains_key(&blk)
    }

    /// Blocks that are pinned, and those something is under way for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Wants a block somewhere; `waiter` waits for it unless it is there. A READ wants it pinned, wherever that is to: what was right as of
    /// `at` shows the same for as long as that stays, though the history may begin later by now.
    pub fn want(&mut self, blk: BlkNo, rev: Rev, waiter: Waiter) -> Wanted {
        let last = self.last(blk);
        let is_last = match waiter {
            Waiter::Ask(_) => last != Rev::Head,
            Waiter::Setup => last == rev,
        };
        let step = Step {
            rev,
            waiters: vec![waiter],
            until: None,
        };
        match self.flights.get_mut(&blk) {
            None if is_last => Wanted::Here,
            None => {
                let flight = Flight {
                    stream: None,
                    steps: [step].into(),
                };
                self.flights.insert(blk, flight);
                self.count += usize::from(!self.held.contains_key(&blk));
                Wanted::Now
            }
            Some(flight) if is_last => {
                let last = flight
                    .steps
                    .back_mut()
                    .expect("BUG: a flight without a step");
                last.waiters.push(waiter);
                Wanted::Comes
            }
            Some(flight) => {
                flight.steps.push_back(step);
                Wanted::Later
            }
        }
    }

    /// A READ waits for all that a block was wanted for so far, until then at most. Those before it waited for less.
    pub fn hurry(&mut self, blk: BlkNo, until: Instant) {
        let flight = self.flights.get_mut(&blk);
        for step in flight.into_iter().flat_map(|flight| &mut flight.steps) {
            step.until.get_or_insert(until);
        }
    }

    /// What is under way for a block.
    pub fn flight(&mut self, blk: BlkNo) -> Option<&mut Flight> {
        self.flights.get_mut(&blk)
    }

    /// What is under way.
    pub fn flights(&self) -> impl Iterator<Item = (BlkNo, &Flight)> {
        self.flights.iter().map(|(&blk, flight)| (blk, flight))
    }

    /// How many steps a READ waits for.
    pub fn waits(&self, ask: u64) -> usize {
        let steps = self.flights.values().flat_map(|flight| &flight.steps);
        let waiters = steps.flat_map(|step| &step.waiters);
        waiters
            .filter(|waiter| **waiter == Waiter::Ask(ask))
            .count()
    }

    /// The client did what it was told: who waited for that, and whether the next step is to be told.
    pub fn answered(&mut self, blk: BlkNo) -> (Vec<Waiter>, bool) {
        let flight = self
            .flights
            .get_mut(&blk)
            .expect("BUG: answered, and nothing is under way");
        let step = flight
            .steps
            .pop_front()
            .expect("BUG: a flight without a step");
        flight.stream = None;
        let more = !flight.steps.is_empty();
        if !more {
            self.flights.remove(&blk);
        }
        match step.rev {
            Rev::At(tid) => self.held.insert(blk, tid),
            Rev::Head => self.held.remove(&blk),
        };
        if !more && step.rev == Rev::Head {
            self.count -= 1;
        }
        (step.waiters, more)
    }

    /// Nothing is pinned any more: who waits.
    pub fn clear(&mut self) -> Vec<Waiter> {
        self.held = FxHashMap::default();
        self.setup = None;
        self.count = 0;
        let flights = std::mem::take(&mut self.flights);
        let steps = flights.into_values().flat_map(|flight| flight.steps);
        steps.flat_map(|step| step.waiters).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLK: BlkNo = BlkNo(7);
    const OLD: Rev = Rev::At(Tid(10));
    const NEW: Rev = Rev::At(Tid(20));

    #[test]
    fn one_pin_of_a_block_is_under_way() {
        let mut watch = Watch::new(Tid(30));
        assert_eq!(watch.want(BLK, Rev::Head, Waiter::Setup), Wanted::Here);
        assert_eq!(watch.want(BLK, OLD, Waiter::Ask(1)), Wanted::Now);
        assert_eq!(watch.want(BLK, OLD, Waiter::Ask(2)), Wanted::Comes);
        assert_eq!(watch.want(BLK, Rev::Head, Waiter::Setup), Wanted::Later);
        assert_eq!(watch.pinned().count(), 0);
        assert_eq!(watch.want(BLK, NEW, Waiter::Ask(3)), Wanted::Later);
        assert_eq!(watch.want(BLK, OLD, Waiter::Ask(5)), Wanted::Comes);
        assert_eq!((watch.pinned().count(), watch.count()), (1, 1));
        let asks = |n: &[u64]| n.iter().map(|&n| Waiter::Ask(n)).collect::<Vec<_>>();
        assert_eq!(watch.answered(BLK), (asks(&[1, 2]), true));
        assert_eq!(watch.count(), 1);
        assert_eq!(watch.answered(BLK), (vec![Waiter::Setup], true));
        assert_eq!(watch.answered(BLK), (asks(&[3, 5]), false));
        assert_eq!(watch.want(BLK, NEW, Waiter::Ask(4)), Wanted::Here);
        assert_eq!(watch.want(BLK, OLD, Waiter::Ask(6)), Wanted::Here);
        assert_eq!(watch.count(), 1);
        assert_eq!(watch.want(BLK, Rev::Head, Waiter::Setup), Wanted::Now);
        assert_eq!(watch.answered(BLK), (vec![Waiter::Setup], false));
        assert_eq!(watch.count(), 0);
    }

    #[test]
    fn who_waits_is_told_when_it_all_ends() {
        let mut watch = Watch::new(Tid(30));
        watch.want(BLK, OLD, Waiter::Ask(1));
        watch.want(BLK, NEW, Waiter::Setup);
        watch.want(BlkNo(8), NEW, Waiter::Setup);
        assert_eq!(watch.clear().len(), 3);
        assert_eq!((watch.count(), watch.flights().count()), (0, 0));
    }
}
