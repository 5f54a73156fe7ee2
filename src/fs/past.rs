//! What watches ask of the history: which blocks changed since a client's view, and where each is found as it was.
//!
//! The revision of a block is its last change, if the history has that; else the beginning of the history, so that all clients are sent to
//! the same. A file may have been shorter there: then it is the first revision at which it is not (protocol 7).

use super::history::{History, Source, Unasked};
use super::read;
use crate::base::{BlkNo, Oid, Tid};
use crate::iso::Unknown;
use crate::tail::state::ask;
use crate::tail::{FTail, Need, Which};
use crate::zodb::need::Step;
use crate::zodb::{ZodbError, bigfile};
use std::collections::BTreeSet;

impl<S: Source> History<S>
where
    S::Error: std::fmt::Display,
{
    /// The newest state, unless a transaction is passing.
    pub fn settled(&self) -> Option<Tid> {
        (!self.is_passing()).then(|| self.tail().head())
    }

    /// Whether a file was looked up.
    pub fn knows(&mut self, oid: Oid) -> bool {
        self.take_notes();
        self.tail().tracked().file(oid).is_some()
    }

    /// Explicit blocks that changed in `(at, head]`, each with its revision as of `at`.
    ///
    /// # Errors
    /// The file was another one in between; or the database fails.
    pub fn changed_since(&mut self, oid: Oid, at: Tid) -> Result<Vec<(BlkNo, Tid)>, Unknown> {
        self.take_notes();
        self.is_covered(at)?;
        let ends = (at, self.tail().head());
        let slices = self
            .question(|tail, states, need| tail.slice(states, need, oid, ends, Which::Explicit))?;
        if let Some(epoch) = slices.iter().rev().find(|slice| slice.epoch) {
            return Err(Unknown::Epoch(epoch.tid));
        }
        let blks = slices.into_iter().flat_map(|slice| slice.blocks);
        let blks: BTreeSet<BlkNo> = blks.collect();
        let with_rev = |blk| Ok((blk, self.rev_for(oid, blk, at)?));
        blks.into_iter().map(with_rev).collect()
    }

    /// The revision that shows a block as of `at`; `None` if head does.
    ///
    /// # Errors
    /// The database fails.
    pub fn revision(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<Option<Tid>, Unknown> {
        self.take_notes();
        self.is_covered(at)?;
        let head = self.tail().head();
        let last = self.question(|tail, states, need| tail.rev_at(states, need, oid, blk, head))?;
        if last.tid <= at {
            return Ok(None);
        }
        self.rev_for(oid, blk, at).map(Some)
    }

    /// Bytes of a file as of `at`.
    ///
    /// # Errors
    /// The database fails.
    pub fn size(&mut self, oid: Oid, at: Tid) -> Result<u64, Unknown> {
        Ok(self.info(oid, at)?.size)
    }

    /// Nothing can be told of what was before the history.
    fn is_covered(&self, at: Tid) -> Result<(), Unknown> {
        let tail = self.tail().tail();
        if at >= tail {
            return Ok(());
        }
        let text = format!("the history begins @{tid}, after @{at}", tid = tail);
        Err(Unknown::Database(text))
    }

    fn rev_for(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<Tid, Unknown> {
        let rev = self.question(|tail, states, need| tail.rev_at(states, need, oid, blk, at))?;
        let is_there = rev.exact && !self.is_hole(oid, blk, at)?;
        if is_there || self.reaches(oid, blk, rev.tid)? || !self.reaches(oid, blk, at)? {
            return Ok(rev.tid);
        }
        // A hole since it was first within the file, or once more: the table changed when it came in.
        let ends = (rev.tid, at);
        let which = Which::Tracked;
        let slices =
            self.question(|tail, states, need| tail.slice(states, need, oid, ends, which))?;
        let tables = slices.into_iter().filter(|slice| slice.table);
        let grown: Vec<Tid> = tables.map(|slice| slice.tid).collect();
        for tid in grown {
            if self.reaches(oid, blk, tid)? {
                return Ok(tid);
            }
        }
        Ok(at)
    }

    /// Whether nothing is in the table for a block. What is there was there since its last change.
    fn is_hole(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<bool, Unknown> {
        let found = self.question(|_, states, need| {
            ask(states, need, at, |ask| {
                let Step::Done(file) = bigfile::open(ask, oid)? else {
                    return Ok(Step::Need);
                };
                let place = bigfile::locate_path(ask, &file, blk, &mut Vec::new())?;
                Ok(place.map(|place| place.block.is_none()))
            })
        });
        match found {
            Err(Unknown::File) => Ok(true),
            found => found,
        }
    }

    /// Whether a file goes on behind the beginning of a block.
    fn reaches(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<bool, Unknown> {
        let blocks = match self.blocks_known(oid, at) {
            Some(blocks) => blocks,
            None => {
                // What the history knows of the file may be lost, or be of another one by now.
                let blocks = match self.info(oid, at) {
                    Ok(info) => info.size / info.file.blksize.0,
                    Err(Unknown::File) => 0,
                    Err(unknown) => return Err(unknown),
                };
                self.know_blocks(oid, at, blocks);
                blocks
            }
        };
        Ok(blk.0 < blocks)
    }

    fn info(&mut self, oid: Oid, at: Tid) -> Result<read::Info, Unknown> {
        self.question(|_, states, need| ask(states, need, at, |ask| read::info(ask, oid)))
    }

    /// Asks until everything is at hand.
    fn question<T>(
        &mut self,
        mut question: impl FnMut(&mut FTail, &S, &mut Need) -> Result<Step<T>, ZodbError>,
    ) -> Result<T, Unknown> {
        self.ask(&mut question).map_err(|error| match error {
            Unasked::Zodb(
                ZodbError::NoObject { .. }
                | ZodbError::NotYetCreated { .. }
                | ZodbError::Deleted { .. }
                | ZodbError::NotBigFile { .. },
            ) => Unknown::File,
            Unasked::Zodb(error) => Unknown::Database(error.to_string()),
            Unasked::Source(error) => Unknown::Database(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::cache::Kept;
    use crate::fs::states::Known;
    use crate::fs::track::Note;
    use crate::tail::States;
    use crate::zodb::need::Lookup;

    /// A database that fails.
    struct Failing(Known);

    impl States for Failing {
        fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
            self.0.get(at, oid)
        }
    }

    impl Source for Failing {
        type Error = &'static str;

        fn next_note(&mut self, _: usize) -> Option<Note> {
            None
        }

        fn known(&mut self) -> &mut Known {
            &mut self.0
        }

        fn head(&self) -> Tid {
            Tid(1)
        }

        fn load(&mut self, _: Tid, _: Oid) -> Result<Kept<()>, Self::Error> {
            Err("sector 7 of the disk cannot be read")
        }
    }

    /// There the error was printed in a way that lost it.
    #[test]
    fn d18_what_the_history_cannot_tell_has_its_cause_told() {
        let source = Failing(Known::new(Tid(1), 9999));
        let mut history = History::new(Tid(1), 1, source);
        let cause = Unknown::Database("sector 7 of the disk cannot be read".to_owned());
        assert_eq!(history.size(Oid(1), Tid(1)), Err(cause.clone()));
        let refused = crate::iso::text::Refused::Unknown(cause);
        assert_eq!(refused.to_string(), "sector 7 of the disk cannot be read");
    }
}
