//! Pages of blocks that are about to change, asked of the kernel and given back by it.
//!
//! A RETRIEVE waits for no page and is answered to whatever worker the kernel likes, in any order, mostly within microseconds.
//! What comes back is used only if the kernel had the whole block and its sum is that of what it was given.

use super::shared::Retrieved;
use crate::base::{BlkNo, NodeId, Oid};
use crate::fs::kept::{Piece, Place};
use crate::fs::pagecache;
use crate::kernel::mount::Connection;
use crate::kernel::notify::{NotifyError, Told, tell};
use crate::tail::Seen;
use crate::wire::fuse::notify::{Head, RetrieveId, RetrieveLen};
use rustc_hash::FxHashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Bytes of one RETRIEVE: half a payload, so that two fit a block of 1 MiB less its page evenly.
const PIECE_BYTES: u64 = 512 << 10;

#[derive(Debug)]
struct Block {
    place: Place,
    off: u64,
    blksize: u64,
    /// What the kernel was given.
    seen: Seen,
    pieces: Vec<Retrieved>,
    whole: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retrieval {
    blocks: Vec<Block>,
    /// What is not answered: block, first byte, bytes.
    open: FxHashMap<RetrieveId, (usize, u64, usize)>,
    /// Numbers given; an answer that comes too late finds its number unknown.
    given: u32,
    deadline: Option<Instant>,
}

impl Retrieval {
    /// Asks for one block.
    ///
    /// # Errors
    /// The kernel refused: the block is given up.
    pub(super) fn ask(
        &mut self,
        connection: &Connection,
        place: Place,
        (node, blk, blksize): (NodeId, BlkNo, u64),
        seen: Seen,
    ) -> Result<(), NotifyError> {
        let (at, off) = (self.blocks.len(), blk.0 * blksize);
        let (mut done, mut pieces) = (0, 0);
        let (mut whole, mut refused) = (true, Ok(()));
        while done < blksize && whole {
            let len = RetrieveLen::clamp(PIECE_BYTES.min(blksize - done), 1 << 20);
            let id = RetrieveId(self.given);
            self.given = (self.given + 1) % RetrieveId::PROBE.0;
            let bytes = len.bytes() as usize;
            self.open.insert(id, (at, off + done, bytes));
            let head = Head::retrieve(id, node, off + done, len);
            let told = tell(&connection.fuse, &head, &[]);
            if told != Ok(Told::Done) {
                self.open.remove(&id);
                whole = false;
                refused = told.map(|_| ());
            }
            done += u64::from(len.bytes());
            pieces += 1;
        }
        self.blocks.push(Block {
            place,
            off,
            blksize,
            seen,
            // No more: what is kept of a block stays in this memory.
            pieces: Vec::with_capacity(pieces),
            whole,
        });
        refused
    }

    /// All is asked: `true` if nothing is to be waited for.
    pub(super) fn begin(&mut self, patience: Duration) -> bool {
        if self.open.is_empty() {
            self.blocks.clear();
            return true;
        }
        self.deadline = Some(Instant::now() + patience);
        false
    }

    /// Pages came; true when they were the last.
    pub(super) fn came(&mut self, pages: Retrieved) -> bool {
        let Some((at, first, bytes)) = self.open.remove(&pages.id) else {
            return false; // too late
        };
        let block = &mut self.blocks[at];
        block.whole &= pages.off == first && pages.data.len() == bytes;
        block.pieces.push(pages);
        self.open.is_empty()
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

    /// What is whole and right; the rest is given up. Blocks of which the kernel has not told in time are named to `late`.
    pub(super) fn end(&mut self, mut late: impl FnMut(Oid, BlkNo)) -> Vec<(Place, Vec<Piece>)> {
        self.deadline = None;
        for (_, (at, ..)) in self.open.drain() {
            let block = &mut self.blocks[at];
            if std::mem::take(&mut block.whole) {
                late(block.place.0, BlkNo(block.off / block.blksize));
            }
        }
        let blocks = self
            .blocks
            .drain(..)
            .filter_map(|mut block| (block.whole && block.is_right()).then_some(block));
        let piece = |pages: Retrieved| (pages.off, pages.data);
        let whole =
            blocks.map(|block| (block.place, block.pieces.into_iter().map(piece).collect()));
        whole.collect()
    }
}

/// What the log says of a block that the kernel does not give back.
pub(super) fn unretrieved(oid: Oid, blk: BlkNo, why: &dyn fmt::Display) -> String {
    let harm = "ignoring, but reading @revX/bigfile will be slow";
    format!("/head/bigfile/{oid}: retrieve blk {blk} from cache: {why} ({harm})")
}

impl Block {
    fn is_right(&mut self) -> bool {
        self.pieces.sort_unstable_by_key(|pages| pages.off);
        let hashes = self.pieces.iter().flat_map(|pages| &pages.hashes);
        // They begin where the block does, as all of it is here.
        let sums: Vec<u64> = pagecache::sums(0, hashes.copied()).collect();
        sums.len() == pagecache::pages(self.blksize) && self.seen.is_of(&sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Tid;
    use bytes::Bytes;

    const BLKSIZE: u64 = 8192;

    /// A block of which the kernel was given `given`, asked for in pieces of a page.
    fn asked(given: &[u8]) -> Retrieval {
        let mut retrieval = Retrieval::default();
        for (id, off) in [(0, BLKSIZE), (1, BLKSIZE + 4096)] {
            retrieval.open.insert(RetrieveId(id), (0, off, 4096));
        }
        retrieval.blocks.push(Block {
            place: (Oid(1), Tid(2)),
            off: BLKSIZE,
            blksize: BLKSIZE,
            seen: pagecache::seen(0, given),
            pieces: Vec::new(),
            whole: true,
        });
        assert!(!retrieval.begin(Duration::from_secs(9)));
        retrieval
    }

    fn page(byte: u8) -> Bytes {
        vec![byte; 4096].into()
    }

    fn answered(given: &[u8], answers: &[(u32, u64, Bytes)]) -> usize {
        let mut retrieval = asked(given);
        for (id, off, data) in answers {
            retrieval.came(Retrieved {
                id: RetrieveId(*id),
                off: *off,
                data: data.clone(),
                hashes: pagecache::hashes(data).collect(),
            });
        }
        retrieval.end(|_, _| {}).len()
    }

    #[test]
    fn a_block_that_the_kernel_does_not_tell_of_in_time_is_named_once() {
        let mut retrieval = asked(&[page(7), page(8)].concat());
        let mut late = Vec::new();
        assert!(retrieval.end(|oid, blk| late.push((oid, blk))).is_empty());
        assert_eq!(late, [(Oid(1), BlkNo(1))]);
        let text = "/head/bigfile/0000000000000001: retrieve blk #1 from cache: no (ignoring, but reading @revX/bigfile will be slow)";
        assert_eq!(unretrieved(Oid(1), BlkNo(1), &"no"), text);
    }

    /// D2: whatever the kernel gives back, only what it was given is kept.
    #[test]
    fn d02_pages_that_are_not_what_was_given_are_not_kept() {
        let given = [page(7), page(8)].concat();
        let (first, second) = (BLKSIZE, BLKSIZE + 4096);
        let kept = |answers: &[(u32, u64, Bytes)]| answered(&given, answers);
        // In either order.
        assert_eq!(kept(&[(0, first, page(7)), (1, second, page(8))]), 1);
        assert_eq!(kept(&[(1, second, page(8)), (0, first, page(7))]), 1);
        // A page nobody filled, pages in each other's place, less than a page, nothing, no answer.
        assert_eq!(kept(&[(0, first, page(7)), (1, second, page(0))]), 0);
        assert_eq!(kept(&[(0, first, page(8)), (1, second, page(7))]), 0);
        let part = page(8).slice(..100);
        assert_eq!(kept(&[(0, first, page(7)), (1, second, part)]), 0);
        assert_eq!(kept(&[(0, first, page(7)), (1, second, Bytes::new())]), 0);
        assert_eq!(kept(&[(0, first, page(7))]), 0);
        // An answer from elsewhere, or to another question.
        assert_eq!(kept(&[(0, first, page(7)), (1, first, page(8))]), 0);
        assert_eq!(kept(&[(0, first, page(7)), (9, second, page(8))]), 0);
    }
}
