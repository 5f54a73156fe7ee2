//! Blocks that are about to change, and what the kernel gives back of them.
//!
//! It asks nobody: `next_ask` says what to ask for, until there is nothing more, and `came` takes the answers, in any order. Neighbours are
//! asked for together, as far as a run of them is short: one by one they take 1.2 to 2.7 times as long (kernel-note 0016). The
//! kernel gives consecutive pages only (kernel-note 0015): behind a page that it does not have, each block is asked for by itself.
//!
//! ```text
//!   add --> to be asked --next_ask--> open --came--> come --whole--> right or not
//!                                          --came--> torn: given up, and who is behind is to be asked
//!                                          --refused, end--> given up
//! ```
//!
//! What comes back is right only if the kernel had the whole block and its sum is that of what it was given. Of which revision it is
//! may be said after it was asked for, and before the first of it is looked at: finding out takes as long as the kernel's answers.

use super::kept::{Pieces, Place};
use super::pagecache;
use crate::base::{BlkNo, NodeId, Oid, Tid};
use crate::tail::Seen;
use crate::wire::fuse::notify::RetrieveId;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of a page.
    pub page: u64,
    /// Of blocks that are asked for together, at most.
    pub run: u64,
    /// Of a larger block that are asked for at once; a multiple of a page.
    pub piece: u64,
}

/// What to ask the kernel for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// A number, for the answer.
    pub id: RetrieveId,
    /// The file.
    pub node: NodeId,
    /// First byte, and bytes.
    pub span: (u64, u64),
}

/// A block that the kernel had all of.
#[derive(Debug)]
pub struct Whole {
    /// Where it is to be kept.
    pub place: Place,
    /// Its first byte.
    pub off: u64,
    /// Its pages, in any order.
    pub pieces: Pieces,
    /// It is what the kernel was given.
    pub is_right: bool,
}

#[derive(Debug)]
struct Block {
    oid: Oid,
    /// What it is a revision of: nothing is kept of one that has none.
    rev: Option<Tid>,
    off: u64,
    blksize: u64,
    /// What the kernel was given.
    seen: Seen,
    /// Sums of its pages, in `sums`.
    sums: Range<usize>,
    /// How many of them are there.
    come: usize,
    pieces: Pieces,
    /// Nobody waits for more of it.
    given_up: bool,
}

/// Whole blocks that follow each other, or a piece of one.
#[derive(Clone, Debug)]
struct Run {
    blocks: Range<usize>,
    node: NodeId,
    off: u64,
    len: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Retrieval {
    sizes: Sizes,
    blocks: Vec<Block>,
    /// How many of them have been told their revision.
    revs: usize,
    sums: Vec<u64>,
    to_ask: VecDeque<Run>,
    open: FxHashMap<RetrieveId, Run>,
    /// Blocks that have come, and nobody has looked at.
    whole: Vec<usize>,
    /// Numbers given; an answer that comes too late finds its number unknown.
    given: u32,
}

impl Retrieval {
    /// Nothing is asked for.
    pub fn new(sizes: Sizes) -> Self {
        assert!(sizes.piece.is_multiple_of(sizes.page), "BUG: {sizes:?}");
        Self {
            sizes,
            blocks: Vec::new(),
            revs: 0,
            sums: Vec::new(),
            to_ask: VecDeque::new(),
            open: FxHashMap::default(),
            whole: Vec::new(),
            given: 0,
        }
    }

    /// A block of whole pages is to be asked for, and kept if it is what the kernel was given.
    pub fn add(&mut self, oid: Oid, (node, blk, blksize): (NodeId, BlkNo, u64), seen: Seen) {
        let (at, off) = (self.blocks.len(), blk.0 * blksize);
        let first = self.sums.len();
        let pages = usize::try_from(blksize / self.sizes.page).expect("blocks fit memory");
        self.sums.resize(first + pages, 0);
        self.blocks.push(Block {
            oid,
            rev: None,
            off,
            blksize,
            seen,
            sums: first..first + pages,
            come: 0,
            pieces: Pieces::new(),
            given_up: false,
        });
        if blksize <= self.sizes.piece
            && let Some(run) = self.to_ask.back_mut()
            && (run.node, run.off + run.len) == (node, off)
            && self.blocks[run.blocks.start].blksize == blksize
            && run.len + blksize <= self.sizes.run
        {
            run.blocks.end += 1;
            run.len += blksize;
            return;
        }
        self.split(at, node);
    }

    /// Of which revisions blocks are, in the order they were added; of one that has none nothing is kept.
    pub fn are_of(&mut self, revs: impl IntoIterator<Item = Option<Tid>>) {
        for rev in revs {
            self.blocks[self.revs].rev = rev;
            self.revs += 1;
        }
    }

    /// Asks for a block by itself.
    fn split(&mut self, at: usize, node: NodeId) {
        let Block { off, blksize, .. } = self.blocks[at];
        let mut done = 0;
        while done < blksize {
            let len = self.sizes.piece.min(blksize - done);
            self.to_ask.push_back(Run {
                blocks: at..at + 1,
                node,
                off: off + done,
                len,
            });
            done += len;
        }
    }

    /// What to ask for next, if there is anything.
    pub fn next_ask(&mut self) -> Option<Ask> {
        loop {
            let run = self.to_ask.pop_front()?;
            if self.blocks[run.blocks.start].given_up {
                continue; // the rest of one that is given up
            }
            let id = RetrieveId(self.given);
            self.given = (self.given + 1) % RetrieveId::PROBE.0;
            let (node, span) = (run.node, (run.off, run.len));
            self.open.insert(id, run);
            return Some(Ask { id, node, span });
        }
    }

    /// The kernel does not take it: these blocks are given up.
    pub fn refused(&mut self, id: RetrieveId) -> Vec<(Oid, BlkNo)> {
        let run = self.open.remove(&id);
        let blocks = run.map_or(0..0, |run| run.blocks);
        let blocks = self.blocks[blocks].iter_mut();
        blocks.filter_map(Block::give_up).collect()
    }

    /// Pages came, from `off` on: in parts of a block each, or less where blocks are larger than what is asked for at once. `hashes` are of
    /// each page. There may be more to ask for then.
    pub fn came(
        &mut self,
        id: RetrieveId,
        off: u64,
        parts: impl Iterator<Item = Bytes>,
        hashes: &[u64],
    ) {
        let Some(run) = self.open.remove(&id) else {
            return; // too late
        };
        let share = run.len / run.blocks.len() as u64;
        let pages = usize::try_from(share / self.sizes.page).expect("blocks fit memory");
        let parts = parts.filter(|_| off == run.off);
        let parts = parts.take_while(|part| part.len() as u64 == share);
        let whole = parts.zip(hashes.chunks_exact(pages));
        let (mut at, mut torn) = (off, run.blocks.start);
        for (n, (part, hashes)) in run.blocks.clone().zip(whole) {
            let block = &mut self.blocks[n];
            let page = (at - block.off) / self.sizes.page;
            let first = block.sums.start + usize::try_from(page).expect("within the block");
            let sums = pagecache::sums(page, hashes.iter().copied());
            let places = &mut self.sums[first..first + pages];
            places.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum);
            block.come += pages;
            block.pieces.push((at, part));
            if block.come == block.sums.len() {
                self.whole.push(n);
            }
            (at, torn) = (at + share, torn + 1);
        }
        if torn < run.blocks.end {
            self.blocks[torn].given_up = true;
            (torn + 1..run.blocks.end).for_each(|at| self.split(at, run.node));
        }
    }

    /// Whether there is nothing more to ask for, by now.
    pub fn is_asked(&self) -> bool {
        self.to_ask.is_empty()
    }

    /// Whether nothing is asked for, nor to be.
    pub fn is_done(&self) -> bool {
        self.open.is_empty() && self.to_ask.is_empty()
    }

    /// Blocks that have come as a whole since this was asked, in that order.
    pub fn whole(&mut self) -> impl Iterator<Item = Whole> + '_ {
        let Self {
            blocks,
            sums,
            whole,
            revs,
            ..
        } = self;
        assert_eq!(*revs, blocks.len(), "BUG: asked for, and not told of what");
        whole.drain(..).filter_map(|n| {
            let block = &mut blocks[n];
            Some(Whole {
                place: (block.oid, block.rev?),
                off: block.off,
                pieces: std::mem::take(&mut block.pieces),
                is_right: block.seen.is_of(&sums[block.sums.clone()]),
            })
        })
    }

    /// Nothing more is waited for. Blocks of which the kernel has not told yet are named to `late`.
    pub fn end(&mut self, mut late: impl FnMut(Oid, BlkNo)) {
        debug_assert!(self.whole.is_empty(), "BUG: nobody looked at what came");
        let open = self.open.drain().map(|(_, run)| run);
        for run in open.chain(self.to_ask.drain(..)) {
            for block in &mut self.blocks[run.blocks] {
                if let Some((oid, blk)) = block.give_up() {
                    late(oid, blk);
                }
            }
        }
        self.blocks.clear();
        self.sums.clear();
        self.revs = 0;
    }
}

impl Block {
    /// Says which, the first time.
    fn give_up(&mut self) -> Option<(Oid, BlkNo)> {
        let blk = BlkNo(self.off / self.blksize);
        (!std::mem::replace(&mut self.given_up, true)).then_some((self.oid, blk))
    }
}

#[cfg(test)]
mod tests;
