//! What watches ask of the history: which blocks changed since a client's view, and where each is found as it was.
//!
//! The revision of a block is its last change, if the history has that; else the beginning of the history, so that all clients are sent to
//! the same. A file may have been shorter there: then it is the first revision at which it is not (protocol 7).
//!
//! What the history has at hand it walks through for each block anew: 0.3 us for a pin of a watch request, 0.6 us for one that a READ asks for
//! (`what_a_pin_asks_of_the_history`, 1000 blocks of 7500), of some 35 us that a pin takes. Remembering more would not be worth it.

use super::history::{History, Source, Unasked};
use super::read;
use crate::base::{BlkNo, NodeId, Oid, Tid};
use crate::iso::Unknown;
use crate::tail::state::ask;
use crate::tail::{BlkRev, FTail, Need, Which};
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

    /// Where a client of a view as of `at` is sent to for each of these blocks of a node, if that can be told.
    pub fn revs_at(&mut self, node: NodeId, blks: &[BlkNo], at: Tid) -> Option<Vec<Tid>> {
        let oid = self.oid(node)?;
        let revs = self.question(|tail, states, need| tail.revs_at(states, need, oid, blks, at));
        let blks = blks.iter().zip(revs.ok()?);
        let revs = blks.map(|(&blk, rev)| self.seen_at(oid, blk, rev, at));
        revs.collect::<Result<_, _>>().ok()
    }

    /// Whether [`Self::revision`] of these blocks as of these states does without the database.
    pub fn has_revisions(&mut self, oid: Oid, blks: &[BlkNo], ats: &[Tid]) -> bool {
        self.is_at_hand(|history| {
            for &blk in blks {
                for &at in ats {
                    let _ = history.revision(oid, blk, at); // an error is one that waits for nothing, too
                }
            }
        })
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
        self.seen_at(oid, blk, rev, at)
    }

    /// The revision that a block is seen at by who sees it as of `at`, when this was its last change.
    fn seen_at(&mut self, oid: Oid, blk: BlkNo, rev: BlkRev, at: Tid) -> Result<Tid, Unknown> {
        let is_there = match rev.is_there {
            _ if !rev.exact => false,
            Some(is_there) => is_there,
            None => !self.is_hole(oid, blk, at)?,
        };
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
        // Its table was let go of, and nothing says yet when it came in: it was a hole there too.
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
            Unasked::NotAtHand => Unknown::Database("not at hand".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    #![allow(clippy::disallowed_methods, reason = "a measurement")]
    use super::*;
    use crate::base::BlkSize;
    use crate::fs::cache::Kept;
    use crate::fs::history::Passing;
    use crate::fs::states::Known;
    use crate::fs::track::Note;
    use crate::tail::States;
    use crate::zodb::need::Lookup;
    use crate::zodb::object::BigFile;
    use crate::zodb::write::{self, Child, Leaf};
    use crate::zodb::{Family, decode};
    use bytes::Bytes;
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::Arc;
    use std::time::Instant;

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
    /// A database in memory: a file of a table of two levels.
    struct Memory {
        known: Known,
        head: Tid,
        notes: VecDeque<Note>,
        records: BTreeMap<(Oid, Tid), Bytes>,
        loads: usize,
    }

    const FILE: Oid = Oid(1);
    const TABLE: Oid = Oid(2);
    const LEAF: usize = 30;

    fn blk(i: usize) -> Oid {
        Oid(1 << 40 | i as u64)
    }

    fn leaf(n: usize) -> Oid {
        Oid(1 << 41 | n as u64)
    }

    fn bucket(blks: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let item = |i: usize| (i64::try_from(i).unwrap(), blk(i), Leaf::Blk0);
        let items: Vec<_> = blks.into_iter().map(item).collect();
        write::bucket(Family::Lo, &items, None)
    }

    impl Memory {
        fn new(leaves: usize) -> Self {
            let mut records = BTreeMap::new();
            let mut put = |oid, record: Vec<u8>| drop(records.insert((oid, Tid(1)), record.into()));
            for n in 0..leaves {
                put(leaf(n), bucket(n * LEAF..(n + 1) * LEAF));
            }
            let key = |n: usize| i64::try_from(n * LEAF).unwrap();
            let below: Vec<_> = (0..leaves).map(|n| (key(n), leaf(n))).collect();
            put(
                TABLE,
                write::node(Family::Lo, &below, Child::Bucket, leaf(0)),
            );
            put(FILE, write::bigfile(BlkSize(4096), TABLE));
            Self {
                known: Known::new(Tid(1), 64 << 20),
                head: Tid(1),
                notes: VecDeque::new(),
                records,
                loads: 0,
            }
        }
    }

    impl States for Memory {
        fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
            self.known.get(at, oid)
        }
    }

    impl Source for Memory {
        type Error = ZodbError;

        fn next_note(&mut self, _: usize) -> Option<Note> {
            self.notes.pop_front()
        }

        fn known(&mut self) -> &mut Known {
            &mut self.known
        }

        fn head(&self) -> Tid {
            self.head
        }

        fn load(&mut self, at: Tid, oid: Oid) -> Result<Kept<()>, ZodbError> {
            self.loads += 1;
            let mut revs = self.records.range((oid, Tid(0))..=(oid, at));
            let (&(_, serial), record) = revs.next_back().unwrap();
            let object = decode(record.clone()).unwrap();
            Ok(Kept::Object(Arc::new(object), serial))
        }
    }

    /// What the history knows nothing of, or not any more, nothing of is cached: asked about it, it says so.
    #[test]
    fn nothing_is_to_be_pinned_of_a_file_that_was_let_go_of() {
        let mut history = History::new(Tid(1), 1, Memory::new(2));
        assert!(!history.knows(FILE));
        assert_eq!(history.changed_since(FILE, Tid(1)), Ok(Vec::new()));
        let size = history.size(FILE, Tid(1));
        assert_eq!(size, Ok(4096 * 2 * LEAF as u64));
        assert_eq!(history.revision(FILE, BlkNo(1), Tid(1)), Ok(None));
    }

    impl History<Memory> {
        fn note_file(&mut self, node: NodeId) -> BigFile {
            let (blksize, blktab) = (BlkSize(4096), TABLE);
            let (oid, file) = (FILE, BigFile { blksize, blktab });
            let notes = &mut self.source().notes;
            notes.push_back(Note::File { node, oid, file });
            self.take_notes();
            file
        }

        fn note_blocks(&mut self, file: &BigFile, blks: &[usize]) {
            for &i in blks {
                let (oid, blk) = (FILE, BlkNo(i as u64));
                let mut path = Vec::new();
                let found = self.question(|_, states, need| {
                    ask(states, need, Tid(1), |ask| {
                        bigfile::locate_path(ask, file, blk, &mut path)
                    })
                });
                let value = found.unwrap().block.map(|entry| entry.oid);
                let (path, seen) = (path.into(), Default::default());
                let notes = &mut self.source().notes;
                notes.push_back(Note::Leaf { oid, path });
                notes.push_back(Note::Block {
                    oid,
                    blk,
                    value,
                    seen,
                });
            }
            self.take_notes();
        }

        fn commit(&mut self, tid: Tid, oids: Arc<[Oid]>) {
            self.source().head = tid;
            let (number, oids) = (tid.0, Some(oids));
            let effect = self.look(Passing { number, tid, oids });
            assert_eq!(effect.map_err(|_| ()).unwrap().changes.len(), 1);
            self.source().notes.push_back(Note::Taken(number));
            self.pass().map_err(|_| ()).unwrap();
        }
    }

    /// A block went with the end of its file, and the file grew beyond it again: who sees it as a hole sees it from then on.
    #[test]
    fn a_hole_is_as_old_as_the_file_reaches_it() {
        let mut history = History::new(Tid(1), 1, Memory::new(2));
        let node = NodeId(70);
        let file = history.note_file(node);
        history.note_blocks(&file, &[35, 36, 59]);
        let records = [(2, bucket(30..40)), (3, bucket((30..40).chain([70])))];
        for (tid, record) in records {
            let records = &mut history.source().records;
            records.insert((leaf(1), Tid(tid)), record.into());
        }
        history.commit(Tid(2), [leaf(1)].into());
        let rev = |history: &mut History<Memory>, i, at| {
            let revs = history.revs_at(node, &[BlkNo(35), BlkNo(i)], Tid(at))?;
            Some(revs[1])
        };
        assert_eq!(rev(&mut history, 59, 2), Some(Tid(2)), "it went");
        history.commit(Tid(3), [leaf(1), blk(36)].into());
        assert_eq!(rev(&mut history, 59, 3), Some(Tid(3)), "a hole");
        assert_eq!(rev(&mut history, 36, 3), Some(Tid(3)), "written");
        assert_eq!(rev(&mut history, 35, 3), Some(Tid(1)));
        assert_eq!(rev(&mut history, 36, 2), Some(Tid(1)));
    }

    /// To be run by hand: `cargo test --release --lib fs::past -- --ignored --nocapture`. Records of tables do not change here.
    #[test]
    #[ignore = "a measurement"]
    fn what_a_pin_asks_of_the_history() {
        let mut history = History::new(Tid(1), 1, Memory::new(250));
        let file = history.note_file(NodeId(70));
        let blks: Vec<usize> = (0..1000).map(|i| i * 7).collect();
        history.note_blocks(&file, &blks);
        let oids: Arc<[Oid]> = blks.iter().map(|&i| blk(i)).collect();
        for tid in [2, 3, 4].map(Tid) {
            history.commit(tid, Arc::clone(&oids));
        }
        for at in [1, 2, 3, 2, 3].map(Tid) {
            let began = Instant::now();
            let found = history.changed_since(FILE, at).unwrap();
            let took = began.elapsed();
            assert!(found.len() == 1000 && found.iter().all(|&(_, rev)| rev == at));
            let loads = history.source().loads;
            println!("1000 pins @{at}: {took:?}, {loads} loads so far");
        }
        let began = Instant::now();
        for &i in &blks {
            let rev = history.revision(FILE, BlkNo(i as u64), Tid(2)).unwrap();
            assert_eq!(rev, Some(Tid(2)));
        }
        println!("1000 READs that ask @2: {:?}", began.elapsed());
    }
}
