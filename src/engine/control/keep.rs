//! Pages of blocks that are about to change: asked for, and kept.
//!
//! Control asks for all of them first, and finds out of which revisions they are, and puts away what came, while workers take the kernel's
//! further answers. What is kept is right whatever becomes of the advance: it was compared with what the kernel was given.

use super::super::notifier::Keep;
use super::super::retrieval::unretrieved;
use super::super::shared::{Published, Retrieved};
use super::{Control, Work};
use crate::base::{BlkNo, NodeId, Rev, limit};
use crate::fs::advance::Event as HeadEvent;
use crate::fs::pagecache;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Work {
    /// Asks the kernel for its pages of these blocks.
    pub(super) fn keep(&mut self, blocks: &[(NodeId, BlkNo)]) -> Option<HeadEvent<Published>> {
        if !self.control.shared.probe.is_trusted() {
            return Some(HeadEvent::Kept);
        }
        let (at, mut room) = (self.head.at(), limit::KEPT_BYTES_MAX as u64);
        let mut asked = Vec::new();
        for blocks in blocks.chunk_by(|(node, _), (next, _)| node == next) {
            let node = blocks[0].0;
            let blks: Vec<BlkNo> = blocks.iter().map(|&(_, blk)| blk).collect();
            let (blksize, mut given) = self.history.given(node, &blks);
            let pages = pagecache::pages(blksize);
            given.retain(|(_, seen)| seen.may_be_whole(pages)); // of others the kernel cannot have all
            // Of more nothing would be left when somebody looks for it.
            let most = room.checked_div(blksize).unwrap_or(0);
            given.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            room -= blksize * given.len() as u64;
            let Some(oid) = self.history.oid(node) else {
                continue;
            };
            asked.push((node, given.iter().map(|&(blk, _)| blk).collect::<Vec<_>>()));
            for (blk, seen) in given {
                self.retrieval.add(oid, (node, blk, blksize), seen);
            }
        }
        let Control {
            connection, shared, ..
        } = &self.control;
        self.retrieval.ask(connection, &shared.log);
        // While workers take the answers.
        for (node, blks) in asked {
            match self.history.revs_at(node, &blks, at) {
                Some(revs) => self.retrieval.are_of(revs.into_iter().map(Some)),
                None => self.retrieval.are_of(blks.iter().map(|_| None)),
            }
        }
        let patience = Duration::from_millis(limit::KEEP_DEADLINE_MS);
        let is_done = self.retrieval.begin(patience);
        is_done.then_some(HeadEvent::Kept)
    }

    /// Pages came.
    pub(super) fn retrieved(&mut self, pages: Retrieved) {
        let Control {
            connection,
            shared,
            keeper,
            ..
        } = &self.control;
        let Some(right) = self.retrieval.came(connection, pages, &shared.log) else {
            return;
        };
        let mut blocks = right.peekable();
        while let Some((place, pieces)) = blocks.next() {
            let mut kept = shared.kept.lock().expect("a panic aborts");
            kept.put(place, pieces);
            let mut count = 1;
            // Most that change together changed together the last time.
            while let Some((_, pieces)) = blocks.next_if(|(next, _)| *next == place) {
                kept.put(place, pieces);
                count += 1;
            }
            shared.kept_blocks.fetch_add(count, Ordering::Relaxed);
            // The kernel knows the file, somebody may have it open: no OPEN will come for it.
            let rev = Rev::At(place.1);
            let file = shared.tree().file(rev, place.0);
            let Some(file) = file.filter(|file| file.size() > 0) else {
                continue;
            };
            if shared.keeping.load(Ordering::Relaxed) > limit::KEPT_BYTES_MAX {
                continue; // they wait for a page of a READ: what is kept is bounded
            }
            let keep = Keep::new(shared, file, kept.take(place), None);
            let _ = keeper.send(keep);
        }
        drop(blocks);
        if self.retrieval.is_done() {
            self.kept();
        }
    }

    /// All pages came, or it took too long.
    pub(super) fn kept(&mut self) {
        let shared = &self.control.shared;
        self.retrieval.end(|oid, blk| {
            shared.kept_late.fetch_add(1, Ordering::Relaxed);
            let text = unretrieved(oid, blk, &"no answer in time");
            shared.log.error(text);
        });
        self.apply(HeadEvent::Kept);
    }
}
