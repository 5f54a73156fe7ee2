//! Control, as `engine::control` drives head and the history, and `engine::retrieval` keeps old pages.
//!
//! Real: `fs::advance::Head`, `fs::history` with all of `tail` behind it, `fs::kept`. One thing that it does is one step.

mod sizes;

use crate::answer::hashes;
use crate::data::{PAGE, Records, SCALE, load};
use crate::links::LinkTable;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::shared::{Keep, Notes, Published, Shared, ToControl, ToWorker, What};
use crate::store::Store;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use zring::base::{BlkNo, NodeId, Oid, Rev, Tid};
use zring::fs::advance::{Action, Change, Changed, Drop, Event, Head, Shorter};
use zring::fs::cache::Kept;
use zring::fs::history::{self, Effect, Failed, History, Lost, Passing, Why};
use zring::fs::kept::{Pieces, Place};
use zring::fs::retrieval::{self, Sizes, Whole};
use zring::fs::states::Known;
use zring::fs::track::Note;
use zring::tail::States;
use zring::wire::fuse::notify::RetrieveId;
use zring::zodb::need::{Absent, Lookup};

/// What is asked for at once.
const SIZES: Sizes = Sizes {
    page: PAGE as u64,
    run: 4 * PAGE as u64,
    piece: 2 * PAGE as u64,
};
/// Transactions after one that nobody could tell the changes of, in which a file may be astray still.
const ASTRAY_MAX: u64 = 3;

/// What the history looks into, as `engine::history`.
#[derive(Debug)]
pub(crate) struct Source {
    notes: Notes,
    taken: Vec<u64>,
    records: Records,
    known: Known,
    /// The newest state that there is.
    view: Tid,
    rng: Rng,
    /// One load in so many fails.
    failing: usize,
    /// For a mutant: it hears no notes.
    pub(crate) is_deaf: bool,
}

/// The database failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unloaded;

impl std::fmt::Display for Unloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it cannot be loaded")
    }
}

impl States for Source {
    fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
        self.known.get(at, oid)
    }
}

impl history::Source for Source {
    type Error = Unloaded;

    fn next_note(&mut self, worker: usize) -> Option<Note> {
        if self.is_deaf {
            return None;
        }
        let note = self.notes.borrow_mut()[worker].pop_front();
        if let Some(Note::Taken(number)) = note {
            self.taken[worker] = number;
        }
        note
    }

    fn known(&mut self) -> &mut Known {
        &mut self.known
    }

    fn head(&self) -> Tid {
        self.view
    }

    fn load(&mut self, at: Tid, oid: Oid) -> Result<Kept<()>, Unloaded> {
        if self.rng.one_in(self.failing) {
            return Err(Unloaded);
        }
        Ok(match load(&self.records, oid, at) {
            Some(record) => Kept::Object(record.object, record.serial),
            None => Kept::Absent(Absent::NotYet),
        })
    }
}

impl Source {
    /// For mutants: what becomes of notes as of the state before `number`.
    fn before_pass(&mut self, number: u64, is_lost: bool) {
        let mut notes = self.notes.borrow_mut();
        for (inbox, &taken) in notes.iter_mut().zip(&self.taken) {
            let is_new = |note: &Note| matches!(note, Note::Taken(n) if *n >= number);
            let new = inbox.iter().position(is_new).unwrap_or(inbox.len());
            if taken < number && is_lost {
                inbox.drain(..new);
            } else if taken < number {
                inbox.push_front(Note::Taken(number));
            }
        }
    }
}

/// What is to be done next.
#[derive(Debug)]
enum Todo {
    Tell(Event<Published>),
    Do(Action<Published>),
    /// Whether every worker has this state.
    Check(u64),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) head: Head<Published>,
    history: History<Source>,
    retrieval: Retrieval,
    pub(crate) links: LinkTable,
    lost: Vec<Lost>,
    passing: Option<u64>,
    published: u64,
    /// The newest transaction that it knows.
    known: Tid,
    todo: VecDeque<Todo>,
    /// The transaction under way, and why nobody could tell what one changed, by file.
    next: Option<Published>,
    excused: FxHashMap<usize, Tid>,
    /// Files whose size may change, those that get shorter, and those of which the kernel is told when nobody watches them any more.
    resized: Vec<NodeId>,
    shorter: Vec<Shorter>,
    unforced: Vec<(Shorter, Tid)>,
    /// What has to be asked for when this transaction is looked at, and what is.
    whole: Vec<(NodeId, u64)>,
    asked: Vec<(NodeId, u64)>,
}

impl Control {
    pub(crate) fn new(shared: &mut Shared, workers: usize) -> Self {
        let at = shared.data.last();
        let cache_bytes = shared.rng.pick(&[400, 100_000]);
        let source = Source {
            notes: Notes::clone(&shared.notes),
            taken: vec![0; workers],
            records: shared.data.records(),
            known: Known::new(at, cache_bytes),
            view: at,
            rng: Rng::new(shared.rng.word()),
            failing: shared.rng.pick(&[0, 0, 0, 100]),
            is_deaf: false,
        };
        if source.failing > 0 {
            shared.anew_at = at; // then anything may be refused
        }
        Self {
            head: Head::new(at),
            history: History::new(at, workers, source),
            retrieval: Retrieval::new(),
            links: LinkTable::new(at, shared.timeout),
            lost: Vec::new(),
            passing: None,
            published: 0,
            known: at,
            todo: VecDeque::new(),
            next: None,
            excused: FxHashMap::default(),
            resized: Vec::new(),
            shorter: Vec::new(),
            unforced: Vec::new(),
            whole: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// Whether nothing is under way, and all is known.
    pub(crate) fn is_quiet(&self, shared: &Shared) -> bool {
        let heard = self.todo.is_empty() && shared.to_control.is_empty();
        heard && self.head.is_quiet() && self.known == shared.data.last()
    }

    pub(crate) fn can(&self, shared: &Shared) -> bool {
        let hears = !shared.to_control.is_empty() || self.known < shared.data.last();
        let ticks = self.links.is_due(shared.now) || !shared.late_watches.is_empty();
        !self.todo.is_empty() || hears || self.retrieval.is_open || ticks || self.lets_go(shared)
    }

    /// Whether files are to be forgotten, for which no transaction comes.
    fn lets_go(&self, shared: &Shared) -> bool {
        let is_last = self.known == shared.data.last() && self.head.at() == self.known;
        self.history.has_astray() && self.head.is_quiet() && is_last
    }

    /// Does one thing, or takes one message, or learns of a transaction.
    pub(crate) fn turn(&mut self, shared: &mut Shared) {
        match self.todo.pop_front() {
            Some(Todo::Tell(event)) => return self.apply(shared, event),
            Some(Todo::Do(action)) => {
                shared.say(|| format!("  {action:?}"));
                let next = self.carry_out(shared, action);
                return self.todo.extend(next.map(Todo::Tell));
            }
            Some(Todo::Check(number)) => return self.check_passed(shared, number),
            None => {}
        }
        if shared.rng.one_in(20) || self.todo.is_empty() && shared.to_control.is_empty() {
            for (oid, after) in std::mem::take(&mut shared.late_watches) {
                shared.tree.watch(oid, after);
            }
        }
        if self.links.is_due(shared.now) {
            self.links.tick(&mut self.history, shared);
            return self.links.carry_out(shared);
        }
        if self.retrieval.is_open && shared.rng.one_in(30) {
            shared.counts.too_late += 1;
            return self.kept(shared);
        }
        match shared.to_control.pop_front() {
            Some(message) => {
                shared.say(|| format!("  {message:?}"));
                self.hear(shared, message);
            }
            None if self.lets_go(shared) => self.commit(shared, self.known, Some([].into())),
            None => self.poll(shared),
        }
    }

    fn hear(&mut self, shared: &mut Shared, message: ToControl) {
        match message {
            ToControl::Look => match self.passing {
                Some(number) if shared.passed(number) => {
                    self.passing = None;
                    self.apply(shared, Event::Passed);
                }
                Some(_) => {}
                None => self.history.take_notes(),
            },
            ToControl::Shortened => self.apply(shared, Event::Shortened),
            ToControl::Dropped => self.apply(shared, Event::Dropped),
            ToControl::Forgotten(nodes) => {
                self.history.take_notes();
                self.history.forgotten(&nodes);
            }
            ToControl::OfLink(what) => {
                self.links.came(what, &mut self.history, shared);
                self.links.carry_out(shared);
                self.catch_up_sizes(shared);
            }
            ToControl::Retrieved(id, off, parts) => {
                let Some(right) = self.retrieval.came(shared, id, off, parts) else {
                    return;
                };
                Self::put_away(shared, right);
                if self.retrieval.blocks.is_done() {
                    self.kept(shared);
                }
            }
        }
    }

    fn poll(&mut self, shared: &Shared) {
        let Some(commit) = shared.data.next(self.known).cloned() else {
            return;
        };
        self.known = commit.tid;
        self.commit(shared, commit.tid, commit.oids);
    }

    fn commit(&mut self, shared: &Shared, tid: Tid, oids: Option<Arc<[Oid]>>) {
        self.published += 1;
        let published = Published {
            number: self.published,
            tid,
            oids,
            anew: Vec::new(),
        };
        self.apply(shared, Event::Commit(tid, published));
    }

    fn apply(&mut self, shared: &Shared, event: Event<Published>) {
        shared.say(|| format!("  {event:?}"));
        let mut actions = Vec::new();
        self.head.apply(event, &mut actions);
        self.todo.extend(actions.into_iter().map(Todo::Do));
    }

    fn carry_out(
        &mut self,
        shared: &mut Shared,
        action: Action<Published>,
    ) -> Option<Event<Published>> {
        match action {
            Action::Diff(tid, published) => {
                shared.moving = true;
                self.next = Some(published.clone());
                self.history.source().view = tid;
                self.whole = shared.whole_blocks(tid);
                self.asked.clear();
                let Published { number, oids, .. } = published;
                let effect = self.history.look(Passing { number, tid, oids });
                let effect = self.found(shared, effect, tid);
                self.count_astray(shared, &effect.lost);
                shared.lost.extend(effect.lost.iter().map(|lost| lost.oid));
                self.lost = effect.lost;
                let resized = effect.changes.iter().filter(|change| change.is_resized());
                self.resized = resized.map(|change| change.node).collect();
                Some(Event::Diffed(scaled(effect.changes), effect.shorter))
            }
            Action::Keep(blocks) => self.keep(shared, blocks),
            Action::Shorten(files) => self.shorten(shared, files),
            Action::Publish(_, published) => {
                self.publish(shared, published);
                None
            }
            Action::Join => {
                let tid = self.head.under_way();
                if shared.is(Mutant::LateNotesLost) || shared.is(Mutant::LateNotesAfter) {
                    let is_lost = shared.is(Mutant::LateNotesLost);
                    let number = self.next.as_ref().unwrap().number;
                    self.history.source().before_pass(number, is_lost);
                }
                let effect = self.history.pass();
                let effect = self.found(shared, effect, tid);
                self.lose(shared, &effect.lost);
                shared.lost.extend(effect.lost.iter().map(|lost| lost.oid));
                self.excuse(shared, &effect.lost, tid);
                self.shorten_late(shared, &effect.shorter, tid);
                self.proceed(shared);
                shared.counts.late += u64::from(!effect.changes.is_empty());
                Some(Event::Joined(scaled(effect.changes)))
            }
            Action::Drop(tid, drops) => {
                let drops: Vec<Drop> = drops.into_iter().map(unscaled).collect();
                let excused = &self.excused;
                shared.check_drops(tid, &drops, |file, changes| {
                    let since = excused.get(&file);
                    changes.epoch || since.is_some_and(|since| tid.0 <= since.0 + ASTRAY_MAX)
                });
                self.resized_by(shared, &drops);
                shared.drops.push_back((tid, drops));
                shared
                    .is(Mutant::ShowBeforeDropped)
                    .then_some(Event::Dropped)
            }
            Action::Show(tid) => {
                shared.show(tid);
                shared.moving = false;
                shared.to_all.push(ToWorker::Shown);
                shared.lost.clear();
                self.proceed(shared);
                let cut = Tid(tid.0.saturating_sub(shared.rng.pick(&[1, 5, 1000])));
                let oldest = self.links.oldest();
                let oldest = oldest.filter(|_| !shared.is(Mutant::ForgetsWatched));
                self.history
                    .forget(oldest.map_or(cut, |oldest| oldest.min(cut)));
                None
            }
        }
    }

    fn found(
        &mut self,
        shared: &mut Shared,
        effect: Result<Effect, Failed<Unloaded>>,
        tid: Tid,
    ) -> Effect {
        let unfit = shared.unfit_files.drain(..).map(|file| (file, tid));
        self.excused.extend(unfit);
        let is_blind = effect.is_err();
        if is_blind || self.next.as_ref().is_some_and(|next| next.oids.is_none()) {
            shared.anew_at = tid;
        }
        shared.counts.blind += u64::from(is_blind);
        if is_blind || self.next.as_ref().is_some_and(|next| next.oids.is_none()) {
            self.excused
                .extend((0..shared.data.files()).map(|file| (file, tid)));
        }
        effect.unwrap_or_else(|Failed { effect, .. }| effect)
    }

    /// Notes who may be astray in the next transactions, and why.
    fn excuse(&mut self, shared: &mut Shared, lost: &[Lost], tid: Tid) {
        self.count_astray(shared, lost);
        for file in 0..shared.data.files() {
            if shared.data.changes(file, tid).epoch {
                self.excused.insert(file, tid);
            }
        }
    }

    fn count_astray(&self, shared: &mut Shared, lost: &[Lost]) {
        let astray = lost.iter().filter(|lost| matches!(lost.why, Why::Astray));
        shared.counts.astray += astray.count() as u64;
    }

    fn lose(&self, shared: &mut Shared, lost: &[Lost]) {
        for Lost { oid, node, why } in lost {
            match why {
                Why::Damaged(error) => shared.fail(What::Torn, error.to_string()),
                Why::Epoch => {
                    let file = node.and_then(|node| shared.tree.retire(*oid, node));
                    if let Some(file) = file {
                        shared.counts.retired += 1;
                        shared.push(Store::Name(file.id));
                    }
                }
                Why::Astray => {}
            }
        }
    }

    /// The history can be asked again, or head shows something else.
    fn proceed(&mut self, shared: &mut Shared) {
        self.links.proceed(&mut self.history, shared);
        self.links.carry_out(shared);
        self.catch_up_sizes(shared);
    }

    /// Whether a transaction is passing.
    pub(crate) fn is_passing(&self) -> bool {
        self.history.settled().is_none()
    }

    fn publish(&mut self, shared: &mut Shared, mut published: Published) {
        if !shared.is(Mutant::NotShortened) {
            self.hold_sizes(shared);
        }
        self.lose(shared, &self.lost);
        if !shared.is(Mutant::AnewUntold) {
            published.anew = self.history.anew();
        }
        let number = published.number;
        self.check_asked(shared, published.tid);
        if shared.newest < number {
            shared.publish(published);
        }
        if number.is_multiple_of(4) && shared.rng.one_in(2) {
            shared.to_all.push(ToWorker::Look);
        }
        self.todo.push_back(Todo::Check(number));
    }

    fn check_passed(&mut self, shared: &mut Shared, number: u64) {
        if shared.passed(number) || shared.is(Mutant::DropBeforePassed) {
            self.todo.push_back(Todo::Tell(Event::Passed));
        } else {
            shared.counts.awaited += 1;
            self.passing = Some(number);
        }
    }

    /// Whether the history knows a block, or that it does not know the file.
    pub(crate) fn knows(&mut self, oid: Oid, blk: u64) -> bool {
        self.history.take_notes();
        let tracked = self.history.tail().tracked();
        self.history.is_astray(oid) || tracked.is_explicit(oid, BlkNo(blk))
    }
}

/// Old pages.
impl Control {
    fn keep(
        &mut self,
        shared: &mut Shared,
        blocks: Vec<(NodeId, BlkNo)>,
    ) -> Option<Event<Published>> {
        let next = self.next.clone().expect("it is under way");
        if shared.is(Mutant::PublishBeforeKeep) && shared.newest < next.number {
            shared.publish(next);
            self.todo.push_back(Todo::Do(Action::Keep(blocks)));
            return None;
        }
        let (at, mut asked) = (self.head.at(), Vec::new());
        for blocks in blocks.chunk_by(|(node, _), (next, _)| node == next) {
            let node = blocks[0].0;
            let blks: Vec<BlkNo> = blocks.iter().map(|&(_, blk)| blk).collect();
            let (blksize, mut given) = self.history.given(node, &blks);
            let pages = usize::try_from(blksize / PAGE as u64).unwrap();
            given.retain(|(_, seen)| seen.may_be_whole(pages));
            let Some(oid) = self.history.oid(node) else {
                continue;
            };
            let blks: Vec<BlkNo> = given.iter().map(|&(blk, _)| blk).collect();
            self.asked.extend(blks.iter().map(|blk| (node, blk.0)));
            shared.counts.asked += blks.len() as u64;
            asked.push((oid, node, blks, blksize));
            for (blk, seen) in given {
                self.retrieval.blocks.add(oid, (node, blk, blksize), seen);
            }
        }
        self.retrieval.ask(shared);
        for (oid, node, blks, blksize) in asked {
            let Some(revs) = self.history.revs_at(node, &blks, at) else {
                // The database failed: nothing of them is kept.
                let promised = &mut self.retrieval.promised;
                promised.retain(|(of, blk), _| *of != oid || !blks.contains(blk));
                self.retrieval.blocks.are_of(blks.iter().map(|_| None));
                continue;
            };
            let tail = self.history.tail().tail();
            let file = shared.data.file(oid).expect("it has a node");
            let end = shared.data.content(file, tail).len() as u64;
            let revs = blks.iter().zip(revs).map(|(blk, rev)| match rev {
                _ if shared.is(Mutant::KeptUnderWrongRev) => next.tid,
                _ if shared.is(Mutant::KeptBehindEnd) && end <= blk.0 * blksize => tail,
                rev => rev,
            });
            self.retrieval.blocks.are_of(revs.map(Some));
        }
        self.retrieval.begin().then_some(Event::Kept)
    }

    /// What the kernel has whole was asked for, unless nobody can tell what is.
    fn check_asked(&mut self, shared: &mut Shared, tid: Tid) {
        let is_same = self.head.at() == tid;
        for (node, blk) in std::mem::take(&mut self.whole) {
            let file = shared.kernel.inodes.get(&node).map(|inode| inode.file);
            let excused = file.is_none_or(|file| {
                self.excused
                    .get(&file)
                    .is_some_and(|since| tid.0 <= since.0 + ASTRAY_MAX)
            });
            if is_same || excused || self.asked.contains(&(node, blk)) {
                continue;
            }
            let text = format!("block {blk} of {node:?} is whole and not asked for @{tid}");
            shared.fail(What::NotKept, text);
        }
    }

    fn put_away(shared: &mut Shared, right: Vec<(Place, Pieces)>) {
        for (place, pieces) in right {
            shared.counts.kept += 1;
            shared.check_kept(place, &pieces);
            shared.kept.put(place, pieces);
            let file = shared.tree.file(Rev::At(place.1), place.0);
            let Some(file) = file.filter(|file| file.size() > 0) else {
                continue;
            };
            shared.counts.kept_for_open += 1;
            let (pieces, opener) = (shared.kept.take(place), None);
            shared.keeps.push_back(Keep {
                file,
                pieces,
                opener,
            });
        }
    }

    fn kept(&mut self, shared: &mut Shared) {
        self.retrieval.end(shared);
        self.todo.push_back(Todo::Tell(Event::Kept));
    }
}

/// What `fs::advance` is told, in its pages.
fn scaled(mut changes: Vec<Change>) -> Vec<Change> {
    for change in &mut changes {
        if let Changed::Blocks { blksize, .. } = &mut change.what {
            *blksize *= SCALE;
        }
    }
    changes
}

fn unscaled(drop: Drop) -> Drop {
    match drop {
        Drop::Pages { node, off, len } => Drop::Pages {
            node,
            off: off / SCALE,
            len: len / SCALE,
        },
        attributes => attributes,
    }
}

/// As `engine::retrieval`.
#[derive(Debug)]
struct Retrieval {
    blocks: retrieval::Retrieval,
    is_open: bool,
    /// Blocks of which the kernel had all when they were asked for, as it was given.
    promised: FxHashMap<(Oid, BlkNo), bool>,
}

impl Retrieval {
    fn new() -> Self {
        Self {
            blocks: retrieval::Retrieval::new(SIZES),
            is_open: false,
            promised: FxHashMap::default(),
        }
    }

    /// True when there is nothing to wait for.
    fn begin(&mut self) -> bool {
        self.is_open = !self.blocks.is_done();
        if !self.is_open {
            self.blocks.end(|_, _| {});
            self.promised.clear();
        }
        !self.is_open
    }

    fn ask(&mut self, shared: &mut Shared) {
        let page = |at: u64| usize::try_from(at).unwrap() / PAGE;
        while let Some(ask) = self.blocks.next_ask() {
            let (node, (off, len)) = (ask.node, ask.span);
            if shared.kernel.newest(node, page(off)..page(off + len)) > shared.shown {
                let text = format!("{ask:?} is asked for when newer pages are there");
                shared.fail(What::Kept, text);
            }
            let file = shared.kernel.inodes.get(&node).map(|inode| inode.file);
            let blksize = file.map_or(len, |file| shared.data.blksize(file));
            for blk in off / blksize..(off + len).div_ceil(blksize) {
                let pages = page(blk * blksize)..page((blk + 1) * blksize);
                let has_all = shared.kernel.has_all(node, pages);
                let oid = file.map(|file| shared.data.oid(file));
                self.promised
                    .extend(oid.map(|oid| ((oid, BlkNo(blk)), has_all)));
            }
            let runs = u64::from(len > blksize);
            shared.counts.runs += runs;
            let is_again = self.is_open && shared.is(Mutant::TornGivenUp);
            let kernel = &mut shared.kernel;
            if is_again {
                self.blocks.refused(ask.id);
            } else if !kernel.retrieve(ask.id, node, page(off), page(len)) {
                // The node was forgotten meanwhile.
                for block in self.blocks.refused(ask.id) {
                    self.promised.remove(&block);
                }
            }
        }
    }

    /// What is kept now, if anybody waits for it.
    fn came(
        &mut self,
        shared: &mut Shared,
        id: RetrieveId,
        off: u64,
        parts: Vec<Bytes>,
    ) -> Option<Vec<(Place, Pieces)>> {
        if !self.is_open {
            return None;
        }
        let hashes: Vec<u64> = parts.iter().flat_map(|part| hashes(part)).collect();
        let was_asked = self.blocks.is_asked();
        self.blocks.came(id, off, parts.into_iter(), &hashes);
        shared.counts.torn += u64::from(was_asked && !self.blocks.is_asked());
        self.ask(shared);
        let mut out = Vec::new();
        for whole in self.blocks.whole() {
            let Whole { place, off, .. } = whole;
            shared.counts.refused += u64::from(!whole.is_right);
            if whole.is_right || shared.is(Mutant::SumNotChecked) {
                let file = shared.data.file(place.0).expect("it was asked for");
                let block = (place.0, BlkNo(off / shared.data.blksize(file)));
                let promised = self.promised.remove(&block);
                shared.counts.promised += u64::from(promised == Some(true));
                out.push((place, whole.pieces));
            }
        }
        Some(out)
    }

    /// What was promised was kept.
    fn end(&mut self, shared: &mut Shared) {
        self.is_open = false;
        let promised = &mut self.promised;
        self.blocks.end(|oid, blk| {
            promised.remove(&(oid, blk));
        });
        for ((oid, blk), _) in self.promised.drain().filter(|(_, promised)| *promised) {
            shared.fail(What::NotKept, format!("{blk} of {oid} is not kept"));
        }
    }
}
