//! Pages of blocks that are about to change, asked of the kernel and given back by it.
//!
//! A RETRIEVE waits for no page and is answered to whatever worker the kernel likes, in any order, mostly within microseconds.
//! What is asked for, and what of it can be used, is decided in [`crate::fs::retrieval`].

use super::log::Log;
use super::shared::Retrieved;
use crate::base::{BlkNo, NodeId, Oid, Tid, limit};
use crate::fs::kept::{Pieces, Place};
use crate::fs::retrieval::{self, Ask, Sizes};
use crate::kernel::mount::Connection;
use crate::kernel::notify::{Told, tell};
use crate::tail::Seen;
use crate::wire::fuse::notify::{Head, RetrieveLen};
use std::fmt;
use std::time::{Duration, Instant};

const SIZES: Sizes = Sizes {
    page: 4096,
    // A worker that copies it answers nobody meanwhile: as long as one that copies two blocks of 64 KiB.
    run: 128 << 10,
    // Half a payload, so that two fit a block of 1 MiB less its page evenly.
    piece: 512 << 10,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Retrieval {
    blocks: retrieval::Retrieval,
    deadline: Option<Instant>,
}

impl Default for Retrieval {
    fn default() -> Self {
        Self {
            blocks: retrieval::Retrieval::new(SIZES),
            deadline: None,
        }
    }
}

impl Retrieval {
    /// A block is to be asked for.
    pub(super) fn add(&mut self, oid: Oid, block: (NodeId, BlkNo, u64), seen: Seen) {
        self.blocks.add(oid, block, seen);
    }

    /// Of which revisions they are, in this order.
    pub(super) fn are_of(&mut self, revs: impl IntoIterator<Item = Option<Tid>>) {
        self.blocks.are_of(revs);
    }

    /// All are asked for, and what they are is known: `true` if nothing is to be waited for.
    pub(super) fn begin(&mut self, patience: Duration) -> bool {
        if self.blocks.is_done() {
            self.end(|_, _| {});
            return true;
        }
        self.deadline = Some(Instant::now() + patience);
        false
    }

    /// Asks for what is to be asked for. Blocks that the kernel refuses are logged.
    pub(super) fn ask(&mut self, connection: &Connection, log: &Log) {
        while let Some(Ask { id, node, span }) = self.blocks.next_ask() {
            let len = RetrieveLen::clamp(span.1, 1 << 20);
            debug_assert_eq!(u64::from(len.bytes()), span.1, "half a payload at most");
            let told = tell(
                &connection.fuse,
                &Head::retrieve(id, node, span.0, len),
                &[],
            );
            if told == Ok(Told::Done) {
                continue;
            }
            for (oid, blk) in self.blocks.refused(id) {
                if let Err(error) = &told {
                    log.error(unretrieved(oid, blk, error));
                }
            }
        }
    }

    /// Pages came: what is whole and right now, if anybody waits for it.
    pub(super) fn came(
        &mut self,
        connection: &Connection,
        pages: Retrieved,
        log: &Log,
    ) -> Option<impl Iterator<Item = (Place, Pieces)> + '_> {
        self.deadline?;
        let Retrieved {
            answers,
            parts,
            hashes,
        } = pages;
        let (mut parts, mut hashes) = (parts.into_iter(), &hashes[..]);
        for answer in answers {
            let (own, rest) = hashes.split_at(answer.pages);
            let mut of = parts.by_ref().take(answer.parts);
            self.blocks.came(answer.id, answer.off, &mut of, own);
            of.for_each(drop); // of one that came too late
            hashes = rest;
        }
        self.ask(connection, log);
        let right = self.blocks.whole().filter(|whole| whole.is_right);
        Some(right.map(|whole| (whole.place, whole.pieces)))
    }

    /// Whether nothing more is waited for.
    pub(super) fn is_done(&self) -> bool {
        self.blocks.is_done()
    }

    /// Whether it takes too long.
    pub(super) fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// How long it may take still.
    pub(super) fn left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// The rest is given up. Blocks of which the kernel has not told in time are named to `late`.
    pub(super) fn end(&mut self, late: impl FnMut(Oid, BlkNo)) {
        self.deadline = None;
        self.blocks.end(late);
    }
}

/// When a worker tells control of the answers that came to it: of many at once, as each time control is woken.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// How many there were a turn ago.
    before: usize,
}

impl Telling {
    /// Whether it is time, when `come` are here and there are requests that the worker has not looked at. More answers mostly come at once;
    /// requests that come without end and bring none are not waited for.
    pub(super) fn is_time(&mut self, come: usize, has_more: bool) -> bool {
        let brought = come > std::mem::replace(&mut self.before, come);
        let is_time = come > 0 && (come >= limit::RETRIEVED_TOLD || !has_more || !brought);
        if is_time {
            self.before = 0;
        }
        is_time
    }
}

/// What the log says of a block that the kernel does not give back.
pub(super) fn unretrieved(oid: Oid, blk: BlkNo, why: &dyn fmt::Display) -> String {
    let harm = "ignoring, but reading @revX/bigfile will be slow";
    format!("/head/bigfile/{oid}: retrieve blk {blk} from cache: {why} ({harm})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_is_told_of_many_and_waits_for_no_request_that_brings_none() {
        let mut telling = Telling::default();
        assert!(!telling.is_time(0, false) && !telling.is_time(0, true));
        // All there are.
        assert!(telling.is_time(2, false));
        // More come with each turn: not before there are many.
        let turns = (1..).take_while(|&come| !telling.is_time(come, true));
        assert_eq!(turns.count(), limit::RETRIEVED_TOLD - 1);
        // Requests go on, and bring none.
        assert!(!telling.is_time(3, true));
        assert!(telling.is_time(3, true));
        assert!(!telling.is_time(1, true), "these are new");
    }

    #[test]
    fn a_block_that_does_not_come_back_is_named_with_what_that_costs() {
        let text = "/head/bigfile/0000000000000001: retrieve blk #1 from cache: no (ignoring, but reading @revX/bigfile will be slow)";
        assert_eq!(unretrieved(Oid(1), BlkNo(1), &"no"), text);
    }
}
