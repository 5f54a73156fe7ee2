//! The history as control drives it: fed with the workers' notes, given what it asks for.
//!
//! Notes are as of the state that their worker had. A transaction is looked at twice: before its state is published, to keep old
//! pages, and again when every worker has it, with all that was noted meanwhile as of the state before (I1). Notes as of the new
//! state wait for that.
//!
//! A note that does not fit (its file was lost meanwhile) makes its file *astray*: the next transaction drops all of it, and
//! workers are told to note everything anew. So is a file that is found lost when workers have the state already: they may have
//! given its size away since, of which there is no note.
//!
//! Nothing here loads: where notes and objects come from is a [`Source`].

use super::advance::{Change, Changed, Shorter};
use super::cache::Kept;
use super::read;
use super::states::Known;
use super::track::Note;
use crate::base::blkmap::BlkMap;
use crate::base::limit;
use crate::base::{BlkNo, NodeId, Oid, Tid};
use crate::tail::state::ask;
use crate::tail::{FTail, FileChange, Need, Seen, States, What};
use crate::zodb::ZodbError;
use crate::zodb::need::{Lookup, Step};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// What the history looks into.
pub trait Source: States {
    /// Why an object cannot be brought.
    type Error;
    /// The next note of a worker, if there is one by now.
    fn next_note(&mut self, worker: usize) -> Option<Note>;
    /// What is at hand: `get` answers from it.
    fn known(&mut self) -> &mut Known;
    /// The newest state that can be asked for.
    fn head(&self) -> Tid;
    /// What an object is as of a state.
    ///
    /// # Errors
    /// The database fails.
    fn load(&mut self, at: Tid, oid: Oid) -> Result<Kept<()>, Self::Error>;

    /// Brings what is missing.
    ///
    /// # Errors
    /// The database fails.
    fn bring(&mut self, need: &[(Tid, Oid)]) -> Result<(), Self::Error> {
        for &(at, oid) in need {
            if matches!(self.get(at, oid), Lookup::Missing) {
                let at = self.known().state(at, oid);
                let kept = self.load(at, oid)?;
                self.known().put(at, oid, kept);
            }
        }
        Ok(())
    }
}

/// The database failed: nobody can tell what a transaction changes.
#[derive(Debug)]
pub struct Failed<E> {
    /// All of every file.
    pub effect: Effect,
    /// How.
    pub error: E,
}

/// A question cannot be answered.
#[derive(Debug)]
pub enum Unasked<E> {
    /// What the database has is damaged.
    Zodb(ZodbError),
    /// The database fails.
    Source(E),
    /// It would have to be asked, and that was not wanted.
    NotAtHand,
}

/// What is done about objects that a question lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacking {
    Loaded,
    /// Nothing: it is not answered.
    Left,
    /// That happened.
    Noted,
}

/// The transaction that is looked at.
#[derive(Clone, Debug)]
pub struct Passing {
    /// Number of its state.
    pub number: u64,
    /// The transaction.
    pub tid: Tid,
    /// What it changed; `None` when nobody can tell.
    pub oids: Option<Arc<[Oid]>>,
}

/// A file that the history lost: everything of it goes.
#[derive(Debug)]
pub struct Lost {
    /// The ZBigFile.
    pub oid: Oid,
    /// Its node, if the kernel has one. There may be a newer one that is of the new state already.
    pub node: Option<NodeId>,
    /// Why.
    pub why: Why,
}

impl Lost {
    fn file(&self) -> (Oid, Option<NodeId>) {
        (self.oid, self.node)
    }
}

/// Why.
#[derive(Debug)]
pub enum Why {
    /// Its ZBigFile is another one now.
    Epoch,
    /// The new state cannot be read.
    Damaged(ZodbError),
    /// Nobody can tell what changed.
    Astray,
}

/// What a transaction changes.
#[derive(Debug, Default)]
pub struct Effect {
    /// By file.
    pub changes: Vec<Change>,
    /// Files of which it leaves nothing.
    pub lost: Vec<Lost>,
    /// Files that it makes shorter, and those of which nobody can tell.
    pub shorter: Vec<Shorter>,
}

impl Effect {
    /// A file may end at or before this block: what it may have is told by [`History::measure`].
    fn may_end(&mut self, node: NodeId, oid: Oid, before: Option<BlkNo>) {
        self.shorter.extend(before.map(|blk| Shorter {
            node,
            oid,
            size: blk.0,
        }));
    }

    fn lose(&mut self, oid: Oid, node: Option<NodeId>, why: Why) {
        if let (Some(node), Why::Astray) = (node, &why) {
            self.may_end(node, oid, Some(BlkNo(u64::MAX))); // it may have had any length
        }
        let what = Changed::Whole;
        self.changes.extend(node.map(|node| Change { node, what }));
        self.lost.push(Lost { oid, node, why });
    }
}

/// See the module.
#[derive(Debug)]
pub struct History<S> {
    tail: FTail,
    source: S,
    /// The newest state each worker said it took.
    taken: Vec<u64>,
    /// The transaction that is looked at, and not every worker has.
    passing: Option<Passing>,
    nodes: FxHashMap<Oid, NodeId>,
    oids: FxHashMap<NodeId, Oid>,
    /// What the kernel was given of each block.
    seen: FxHashMap<Oid, BlkMap<Seen>>,
    astray: Vec<Oid>,
    /// Notes of blocks since these were last counted.
    uncounted: u64,
    /// Changed objects of each transaction that is remembered, and their sum.
    sizes: VecDeque<(Tid, usize)>,
    remembered: usize,
    /// How many blocks files had.
    blocks_at: FxHashMap<(Oid, Tid), u64>,
    /// Files that the transaction under way leaves nothing of.
    lost: Vec<(Oid, Option<NodeId>)>,
    /// Files that the kernel forgot while a transaction was passing.
    forgotten: Vec<NodeId>,
    /// Files that the kernel forgot, and when.
    gone: VecDeque<(Tid, Oid)>,
    need: Need,
    lacking: Lacking,
}

impl<S: Source> History<S> {
    /// Head is `at`.
    pub fn new(at: Tid, workers: usize, source: S) -> Self {
        Self {
            tail: FTail::new(at),
            taken: vec![0; workers],
            source,
            passing: None,
            nodes: FxHashMap::default(),
            oids: FxHashMap::default(),
            seen: FxHashMap::default(),
            astray: Vec::new(),
            uncounted: 0,
            sizes: VecDeque::new(),
            remembered: 0,
            blocks_at: FxHashMap::default(),
            lost: Vec::new(),
            forgotten: Vec::new(),
            gone: VecDeque::new(),
            need: Need::new(),
            lacking: Lacking::Loaded,
        }
    }

    /// What it looks into.
    pub fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// What is known of files.
    pub fn tail(&self) -> &FTail {
        &self.tail
    }

    /// The big file of a node.
    pub fn oid(&self, node: NodeId) -> Option<Oid> {
        self.oids.get(&node).copied()
    }

    /// Whether nobody can tell what changes of a file: the next transaction drops all of it.
    pub fn is_astray(&self, oid: Oid) -> bool {
        self.astray.contains(&oid)
    }

    /// The node of a big file.
    pub fn node(&self, oid: Oid) -> Option<NodeId> {
        self.nodes.get(&oid).copied()
    }

    /// What the kernel was given of these blocks of a node, as far as it was given any of them; blocks of how many bytes.
    pub fn given(&self, node: NodeId, blks: &[BlkNo]) -> (u64, Vec<(BlkNo, Seen)>) {
        let tracked = self.tail.tracked();
        let oid = self.oid(node);
        let file = oid.and_then(|oid| Some((oid, tracked.file(oid)?, self.seen.get(&oid)?)));
        let Some((oid, file, seen)) = file else {
            return (0, Vec::new());
        };
        let given = |&blk: &BlkNo| {
            let seen = seen.get(blk).filter(|seen| seen.pages > 0)?;
            tracked.is_explicit(oid, blk).then_some((blk, seen))
        };
        (file.blksize.0, blks.iter().filter_map(given).collect())
    }

    /// Takes what workers noted so far, unless a transaction is passing: what is of which state is told apart then.
    pub fn take_notes(&mut self) {
        if self.passing.is_some() {
            return;
        }
        for worker in 0..self.taken.len() {
            while let Some(note) = self.source.next_note(worker) {
                match note {
                    Note::Taken(number) => self.taken[worker] = number,
                    note => self.put(note),
                }
            }
        }
        self.bound();
    }

    /// The next transaction: what it changes of what is known by now.
    ///
    /// # Errors
    /// The database fails: no more can be told of it later either.
    pub fn look(&mut self, next: Passing) -> Result<Effect, Failed<S::Error>> {
        self.take_notes();
        self.source.known().begin();
        let found = match &next.oids {
            None => Ok(self.all()),
            Some(oids) => self.changes(next.tid, oids),
        };
        let found = found.and_then(|effect| self.measure(effect, next.tid));
        let failed = found.is_err();
        let effect = found.map_err(|error| Failed {
            effect: self.all(),
            error,
        });
        let lost = match &effect {
            Ok(effect) | Err(Failed { effect, .. }) => &effect.lost,
        };
        self.lost = lost.iter().map(Lost::file).collect();
        self.passing = Some(Passing {
            oids: next.oids.filter(|_| !failed),
            ..next
        });
        effect
    }

    fn changes(&mut self, tid: Tid, oids: &Arc<[Oid]>) -> Result<Effect, S::Error> {
        let changes = loop {
            if tid == self.tail.head() {
                break Vec::new(); // only to let go of what is astray
            }
            self.source.known().looks_at(tid, oids);
            self.need.clear();
            let (source, need) = (&self.source, &mut self.need);
            match self.tail.look(source, need, tid, oids) {
                Step::Done(changes) => break changes,
                Step::Need => self.source.bring(&self.need)?,
            }
        };
        let mut effect = self.effect(changes);
        for &oid in &self.astray {
            effect.lose(oid, self.node(oid), Why::Astray);
        }
        Ok(effect)
    }

    /// Files of which workers have to note everything again, from the state under way on.
    pub fn anew(&self) -> Vec<NodeId> {
        let lost = self.lost.iter();
        lost.filter_map(|&(oid, _)| self.node(oid)).collect()
    }

    /// Every worker has the state: what the transaction changed, all told; lost is what was not when it was looked at. Head
    /// is at it then.
    ///
    /// # Errors
    /// The database fails: the history starts anew.
    pub fn pass(&mut self) -> Result<Effect, Failed<S::Error>> {
        let passing = self.passing.take().expect("BUG: nothing is passing");
        let mut since = Vec::new();
        for worker in 0..self.taken.len() {
            while let Some(note) = self.source.next_note(worker) {
                match note {
                    Note::Taken(number) => self.taken[worker] = number,
                    note if self.taken[worker] < passing.number => self.put(note),
                    note => since.push(note),
                }
            }
        }
        let found = self.advance(&passing);
        let found = found.and_then(|effect| self.measure(effect, passing.tid));
        let mut found = found.map_err(|error| {
            let effect = self.all();
            self.start_anew(passing.tid);
            Failed { effect, error }
        });
        let (Ok(effect) | Err(Failed { effect, .. })) = &mut found;
        effect.lost.retain(|lost| !self.lost.contains(&lost.file()));
        // Workers have the state already and note nothing again: what they give goes with the next state, which tells them.
        for lost in &effect.lost {
            if !self.astray.contains(&lost.oid) {
                self.astray.push(lost.oid);
            }
        }
        since.into_iter().for_each(|note| self.put(note));
        let forgotten = std::mem::take(&mut self.forgotten);
        self.forgotten(&forgotten);
        found
    }

    /// How long files are from `tid` on that may be shorter; those that are not go. A file that cannot be read has no end.
    fn measure(&mut self, mut effect: Effect, tid: Tid) -> Result<Effect, S::Error> {
        let mut shorter = Vec::with_capacity(effect.shorter.len());
        for Shorter { node, oid, size } in effect.shorter {
            let info =
                self.ask(|_, states, need| ask(states, need, tid, |ask| read::info(ask, oid)));
            let info = match info {
                Ok(info) => info,
                Err(Unasked::Zodb(_) | Unasked::NotAtHand) => continue,
                Err(Unasked::Source(error)) => return Err(error),
            };
            if info.size / info.file.blksize.0 <= size {
                let size = info.size;
                shorter.push(Shorter { node, oid, size });
            }
        }
        effect.shorter = shorter;
        Ok(effect)
    }

    fn advance(&mut self, passing: &Passing) -> Result<Effect, S::Error> {
        let Some(oids) = &passing.oids else {
            let effect = self.all();
            self.start_anew(passing.tid);
            return Ok(effect);
        };
        let changes = loop {
            if passing.tid == self.tail.head() {
                break Vec::new();
            }
            self.need.clear();
            let (source, need) = (&self.source, &mut self.need);
            match self.tail.update(source, need, passing.tid, oids) {
                Step::Done(changes) => break changes,
                Step::Need => self.source.bring(&self.need)?,
            }
        };
        self.source.known().passed(passing.tid, oids);
        self.sizes.push_back((passing.tid, oids.len()));
        self.remembered += oids.len();
        let mut effect = self.effect(changes);
        self.given_anew(&effect);
        for oid in std::mem::take(&mut self.astray) {
            self.tail.tracked_mut().forget_file(oid);
            self.seen.remove(&oid);
            effect.lose(oid, self.node(oid), Why::Astray);
        }
        Ok(effect)
    }

    /// Asks until everything is at hand.
    pub(super) fn ask<T>(
        &mut self,
        mut question: impl FnMut(&mut FTail, &S, &mut Need) -> Result<Step<T>, ZodbError>,
    ) -> Result<T, Unasked<S::Error>> {
        self.source.known().begin();
        loop {
            self.need.clear();
            let step = question(&mut self.tail, &self.source, &mut self.need);
            match step.map_err(Unasked::Zodb)? {
                Step::Done(found) => return Ok(found),
                Step::Need if self.lacking != Lacking::Loaded => {
                    self.lacking = Lacking::Noted;
                    return Err(Unasked::NotAtHand);
                }
                Step::Need => self.source.bring(&self.need).map_err(Unasked::Source)?,
            }
        }
    }

    /// Whether questions find all that they need at hand: then they wait for nothing.
    pub(super) fn is_at_hand(&mut self, questions: impl FnOnce(&mut Self)) -> bool {
        self.lacking = Lacking::Left;
        questions(self);
        std::mem::replace(&mut self.lacking, Lacking::Loaded) == Lacking::Left
    }

    /// Whether a transaction is looked at that not every worker has.
    pub fn is_passing(&self) -> bool {
        self.passing.is_some()
    }

    /// How many blocks a file had, if that was asked lately.
    pub(super) fn blocks_known(&self, oid: Oid, at: Tid) -> Option<u64> {
        self.blocks_at.get(&(oid, at)).copied()
    }

    pub(super) fn know_blocks(&mut self, oid: Oid, at: Tid, blocks: u64) {
        if self.blocks_at.len() >= limit::SIZES_KNOWN_MAX {
            self.blocks_at.clear();
        }
        self.blocks_at.insert((oid, at), blocks);
    }

    /// Nobody can tell what changed: all of every file.
    fn all(&self) -> Effect {
        let mut effect = Effect::default();
        for (&oid, &node) in &self.nodes {
            effect.lose(oid, Some(node), Why::Astray);
        }
        effect
    }

    /// Forgets everything; head is `at`.
    fn start_anew(&mut self, at: Tid) {
        self.tail = FTail::new(at);
        self.seen.clear();
        self.gone.clear();
        self.astray.clear();
        self.sizes.clear();
        self.remembered = 0;
        self.blocks_at.clear();
        let head = self.source.head();
        self.source.known().clear(head);
    }

    /// The kernel forgot nodes, and their pages with them.
    pub fn forgotten(&mut self, nodes: &[NodeId]) {
        if self.passing.is_some() {
            return self.forgotten.extend(nodes);
        }
        self.take_notes();
        for node in nodes {
            let Some(oid) = self.oids.remove(node) else {
                continue;
            };
            if self.nodes.get(&oid) == Some(node) {
                self.nodes.remove(&oid);
                self.seen.remove(&oid);
                self.gone.push_back((self.tail.head(), oid));
            }
        }
    }

    /// Lets go of what nobody will ask for: what happened until `cut`.
    pub fn forget(&mut self, cut: Tid) {
        self.tail.forget(cut.min(self.tail.head()));
        while let Some(&(tid, count)) = self.sizes.front() {
            if tid > self.tail.tail() && self.remembered <= limit::HISTORY_CHANGES_MAX {
                break;
            }
            self.sizes.pop_front();
            self.remembered -= count;
            self.tail.forget(tid);
        }
        while let Some(&(since, oid)) = self.gone.front() {
            if since > self.tail.tail() {
                return;
            }
            self.gone.pop_front();
            if !self.nodes.contains_key(&oid) {
                self.tail.tracked_mut().forget_file(oid);
            }
        }
    }

    /// Whether files wait to be forgotten, for which no transaction need come.
    pub fn has_astray(&self) -> bool {
        !self.astray.is_empty()
    }

    /// Bounds what is tracked: what is uncached can be forgotten, and the largest file is made to be.
    fn bound(&mut self) {
        if self.uncounted < limit::TRACKED_BLOCKS_MAX / 16 {
            return;
        }
        self.uncounted = 0;
        let tracked = self.tail.tracked();
        if tracked.counts().blocks <= limit::TRACKED_BLOCKS_MAX {
            return;
        }
        let largest = tracked
            .files()
            .max_by_key(|&oid| tracked.explicit_count(oid));
        if let Some(oid) = largest.filter(|oid| !self.astray.contains(oid)) {
            self.astray.push(oid);
        }
    }

    /// Takes a note, as of the state that the history is at.
    fn put(&mut self, note: Note) {
        let tracked = self.tail.tracked_mut();
        let (oid, fits) = match note {
            Note::Taken(_) => return,
            Note::File { node, oid, file } => {
                // Workers are heard one after the other: a later one may speak of a node that was there before.
                let newest = self.nodes.entry(oid).or_insert(node);
                if *newest < node {
                    *newest = node;
                    self.seen.remove(&oid); // pages of the other
                }
                if *newest == node {
                    self.oids.insert(node, oid);
                }
                (oid, tracked.open(oid, file).is_ok())
            }
            Note::Leaf { oid, path } => (oid, tracked.track(oid, &path).is_ok()),
            Note::Beyond { oid, first, last } => {
                (oid, tracked.read_beyond(oid, first, last).is_ok())
            }
            Note::Block {
                oid,
                blk,
                value,
                seen,
            } => {
                self.uncounted += 1;
                if seen.pages > 0 {
                    let blocks = self.seen.entry(oid).or_default();
                    if !blocks.change(blk, |all| all.add(seen)) {
                        blocks.insert(blk, seen);
                    }
                }
                (oid, tracked.read(oid, blk, value).is_ok())
            }
        };
        if !fits && !self.astray.contains(&oid) {
            self.astray.push(oid);
        }
    }

    /// What changed will be given anew.
    fn given_anew(&mut self, effect: &Effect) {
        for Change { node, what } in &effect.changes {
            let Some(oid) = self.oids.get(node) else {
                continue;
            };
            match (what, self.seen.get_mut(oid)) {
                (Changed::Whole, _) => drop(self.seen.remove(oid)),
                (Changed::Blocks { blocks, .. }, Some(seen)) => {
                    // In place: most are read again.
                    for &blk in blocks {
                        seen.change(blk, |seen| *seen = Seen::default());
                    }
                }
                _ => {}
            }
        }
    }

    fn effect(&self, found: Vec<FileChange>) -> Effect {
        let mut effect = Effect::default();
        for FileChange { file, what } in found {
            let node = self.node(file);
            match what {
                What::Blocks {
                    blksize,
                    blocks,
                    table,
                    removed,
                } => {
                    let Some(node) = node else { continue };
                    effect.may_end(node, file, removed);
                    let what = Changed::Blocks {
                        blksize: blksize.0,
                        blocks,
                        size: table,
                    };
                    effect.changes.push(Change { node, what });
                }
                What::Epoch => effect.lose(file, node, Why::Epoch),
                What::Lost(error) => effect.lose(file, node, Why::Damaged(error)),
            }
        }
        effect
    }
}
