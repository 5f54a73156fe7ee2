//! What the actors share, and what is checked whenever it changes.
//!
//! ```text
//!   Torn       I2: a READ's answer is what the file says at one transaction, that was head since it was made, or newer;
//!              so is a size. None is older than an answer that was there when the request was made
//!   Stale      I1: once head/at shows T, no page and no attribute is older than T
//!   Hole       nor are there zeros where the file ends at T, for who has asked for its size
//!   Untracked  I1: when nothing is under way, the history knows every block of which the kernel has pages
//!   Vain       no page is dropped that has nothing to do with what the transaction changed, unless nobody can tell
//!   Kept       what is kept, and all that is cached below `@<tid>`, is what the database has there, no more
//!   NotKept    a changed block of which the kernel has each page as it was given once is kept
//!   Order      transactions are shown one by one, none left out
//!   Waits      I3: see `graph`
//!   Stuck      when nobody can move any more, nothing is left to do
//!   Lost       a parked task is waited for by a load; one that is pinned first, by control or a client
//!   View       I4: whatever a client can read through its mapping is as of its `at`, with a READ or without
//!   Pin        a pin is needed, and its revision is the one that the protocol says
//!   Twice      nothing is said twice
//!   Killed     no good client is killed, nor is its link ended
//!   Refused    no READ is refused unless the database failed
//!   Again      no page is stored twice of a block in one state, unless it went meanwhile
//!   Unfinished when nothing is under way, a block of which something was read is there, but for pages that went
//!   Left       when all clients are gone, nothing is left of them
//! ```

use crate::client::Client;
use crate::counts::Counts;
use crate::data::{Changes, Data, PAGE, PAGES};
use crate::kernel::{Answer, Inode, Kernel, Op, Outcome, Page, Request};
use crate::links::OfLink;
use crate::mutant::Mutant;
pub(crate) use crate::mutant::Rules;
use crate::rng::Rng;
use crate::store::Store;
use crate::upload::Meets;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use zring::base::{NodeId, Oid, Rev, Tid};
use zring::fs::advance::{Drop, Shorter};
use zring::fs::kept::{Kept, Piece};
use zring::fs::meeting::{Meetings, ReadOn};
use zring::fs::touch::Touches;
use zring::fs::track::Note;
use zring::fs::tree::{FileNode, Node, Tree};
use zring::iso::Errno;
use zring::wire::fuse::notify::RetrieveId;

/// Which check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Torn,
    Stale,
    Hole,
    Untracked,
    Vain,
    Kept,
    NotKept,
    Order,
    Waits,
    Stuck,
    Lost,
    View,
    Pin,
    Twice,
    Killed,
    Refused,
    Left,
    Short,
    Again,
    Unfinished,
}

/// A check that failed.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) what: What,
    pub(crate) text: String,
}

/// A new state of head, for every worker.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) number: u64,
    pub(crate) tid: Tid,
    pub(crate) oids: Option<Arc<[Oid]>>,
    pub(crate) anew: Vec<NodeId>,
}

/// To a worker.
#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Look,
    Shown,
    Interrupt(u64),
    Forgotten(Rc<[NodeId]>),
    Stored(u64),
    ReadOn(ReadOn),
    LinkRead(u64, Result<Vec<u8>, Errno>),
    LinkWrote(u64),
    Granted(u64, bool),
}

/// To control.
#[derive(Clone, Debug)]
pub(crate) enum ToControl {
    Look,
    Shortened,
    Dropped,
    Forgotten(Rc<[NodeId]>),
    Retrieved(RetrieveId, u64, Vec<Bytes>),
    OfLink(OfLink),
}

impl ToWorker {
    /// Whether a READ may be answered by this.
    pub(crate) fn grants(&self, unique: u64) -> bool {
        matches!(self, Self::Granted(of, _) if *of == unique)
    }
}

impl ToControl {
    /// Whether a READ asks by this.
    pub(crate) fn asks(&self, unique: u64) -> bool {
        matches!(self, Self::OfLink(OfLink::Ask(caller, ..)) if caller.unique.0 == unique)
    }
}

/// Pages for a file below `@<tid>`, and who waits for them.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    pub(crate) file: Arc<FileNode>,
    pub(crate) pieces: Vec<Piece>,
    /// A worker, and the number of the OPEN it holds.
    pub(crate) opener: Option<(usize, u64)>,
}

/// What each worker notes.
pub(crate) type Notes = Rc<RefCell<Vec<VecDeque<Note>>>>;

/// A worker that answers from no state.
const IDLE: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) rng: Rng,
    pub(crate) data: Data,
    pub(crate) tree: Tree,
    pub(crate) kernel: Kernel,
    pub(crate) notes: Notes,
    /// Of each worker.
    pub(crate) touches: Vec<Touches>,
    pub(crate) meetings: Meetings,
    pub(crate) meets: Meets,
    pub(crate) kept: Kept,
    /// Stores on their way to the page cache of head, and how many there may be.
    pub(crate) stores: VecDeque<Store>,
    pub(crate) stores_max: usize,
    /// Stores that were ever queued, and those of them that are done or taken back: for a mutant.
    pub(crate) stores_queued: u64,
    pub(crate) stores_done: u64,
    pub(crate) drops: VecDeque<(Tid, Vec<Drop>)>,
    /// Files of which the kernel is to know the size when these are done, and those of which it cannot be told.
    pub(crate) resized: Vec<NodeId>,
    pub(crate) untold: Vec<NodeId>,
    pub(crate) keeps: VecDeque<Keep>,
    /// Number of the newest state.
    pub(crate) newest: u64,
    /// The latest states, the newest last.
    states: VecDeque<Rc<Published>>,
    states_max: usize,
    /// What each worker answers from.
    busy: Vec<u64>,
    /// The state that control waits for every worker to have, or 0.
    awaited: u64,
    pub(crate) to_control: VecDeque<ToControl>,
    /// To every worker.
    pub(crate) to_all: Vec<ToWorker>,
    pub(crate) to: Vec<(usize, ToWorker)>,
    /// For a mutant: leaves that some worker noted.
    pub(crate) noted: Vec<(NodeId, zring::base::span::KeyRange)>,
    /// For a mutant: an advance is under way.
    pub(crate) moving: bool,
    /// Files that the kernel is to know to be shorter, and whether control waits for that.
    pub(crate) shorter: VecDeque<(Vec<Shorter>, bool)>,
    /// One load in so many comes at once.
    pub(crate) quick: usize,
    /// One load in so many fails.
    pub(crate) failing: usize,
    /// One note in so many is followed by one that does not fit; files of such.
    unfit: usize,
    /// So many notes of a worker wake control.
    notes_look: usize,
    pub(crate) unfit_files: Vec<usize>,
    /// Processes that watch, by number; links are counted.
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) links: u64,
    /// Clients of which control wants to know nothing any more.
    pub(crate) gone_clients: Vec<u64>,
    /// The clock, and how long a client may take for a pin.
    pub(crate) now: Duration,
    pub(crate) timeout: Duration,
    /// For a mutant: files that are watched, which READs do not know yet.
    pub(crate) late_watches: Vec<(Oid, Option<Tid>)>,
    /// Files of answers that are noted, and not looked at whether somebody watches: who begins to watch now is what matters.
    pub(crate) halves: Vec<usize>,
    /// Files of which all pages go.
    pub(crate) lost: Vec<Oid>,
    /// When the history began anew.
    pub(crate) anew_at: Tid,
    /// What `head/at` shows.
    pub(crate) shown: Tid,
    /// The newest view that workers may hold.
    pub(crate) published: Tid,
    pub(crate) counts: Counts,
    pub(crate) broken: Option<Broken>,
}

impl Shared {
    pub(crate) fn new(rules: Rules, mut rng: Rng, workers: usize, is_orderly: bool) -> Self {
        let files = 1 + rng.below(3);
        // 40 is no multiple of a page.
        let blksizes: &[u64] = match rules.fills {
            true => &[40],
            false if is_orderly => &[128, 160, 256],
            false => rng.pick(&[&[16, 16, 32, 32, 48, 64, 40], &[128, 160, 256]]),
        };
        let meets = Meets::new(&mut rng, workers, is_orderly);
        let data = Data::new(&mut rng, files, blksizes);
        let at = data.last();
        let old_kernel = rng.one_in(3);
        let notes = vec![VecDeque::new(); workers];
        Self {
            rules,
            data,
            tree: Tree::default(),
            kernel: Kernel::new((rules.crossed, rules.fills), old_kernel),
            notes: Rc::new(RefCell::new(notes)),
            touches: (0..workers).map(|_| Touches::new(meets.sizes)).collect(),
            meetings: Meetings::default(),
            meets,
            kept: Kept::default(),
            stores: VecDeque::new(),
            stores_max: rng.pick(&[1, 2, 1024]),
            stores_queued: 0,
            stores_done: 0,
            drops: VecDeque::new(),
            resized: Vec::new(),
            untold: Vec::new(),
            keeps: VecDeque::new(),
            newest: 0,
            states: VecDeque::new(),
            states_max: rng.pick(&[1, 3, 512]),
            busy: vec![IDLE; workers],
            awaited: 0,
            to_control: VecDeque::new(),
            to_all: Vec::new(),
            to: Vec::new(),
            noted: Vec::new(),
            moving: false,
            shorter: VecDeque::new(),
            quick: rng.pick(&[0, 1, 2, 2, 5]),
            failing: rng.pick(&[0, 0, 50]),
            unfit: rng.pick(&[0, 0, 0, 20]),
            notes_look: rng.pick(&[1, 1, 5, 1000]),
            unfit_files: Vec::new(),
            clients: BTreeMap::new(),
            links: 0,
            gone_clients: Vec::new(),
            now: Duration::ZERO,
            timeout: Duration::from_secs(6),
            late_watches: Vec::new(),
            halves: Vec::new(),
            lost: Vec::new(),
            anew_at: Tid::ZERO,
            shown: at,
            published: at,
            counts: Counts::default(),
            broken: None,
            rng,
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.rules.mutant == Some(mutant)
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.rules.trace {
            println!("{:6} {}", self.counts.steps, text());
        }
    }

    /// To the history, from a worker.
    pub(crate) fn note(&mut self, worker: usize, note: Note) {
        self.say(|| format!("  {worker} notes {note:?}"));
        let mut unfit = None;
        if let Note::Block { oid, .. } = note
            && self.rng.one_in(self.unfit)
        {
            let (file, path) = (self.data.file(oid).expect("it was read"), Box::default());
            self.unfit_files.push(file);
            unfit = Some(Note::Leaf { oid, path });
        }
        let inbox = &mut self.notes.borrow_mut()[worker];
        let before = inbox.len();
        inbox.extend([note].into_iter().chain(unfit));
        if (before + 1..=inbox.len()).contains(&self.notes_look) {
            self.to_control.push_back(ToControl::Look);
        }
    }

    /// Notes the first check that fails.
    pub(crate) fn fail(&mut self, what: What, text: String) {
        self.say(|| format!("{what:?}: {text}"));
        self.broken.get_or_insert(Broken { what, text });
    }
}

/// As `engine::shared`. What is one step here is taken apart in `handshake`.
impl Shared {
    pub(crate) fn publish(&mut self, published: Published) {
        self.published = published.tid;
        self.newest = published.number;
        self.states.push_back(Rc::new(published));
        while self.states.len() > self.states_max {
            self.states.pop_front();
        }
    }

    pub(crate) fn is_newer(&self, number: u64) -> bool {
        self.newest > number
    }

    pub(crate) fn since(&self, number: u64) -> (Vec<Rc<Published>>, bool) {
        let newer = self.states.iter().filter(|s| s.number > number);
        let newer: Vec<_> = newer.cloned().collect();
        let first = newer.first().map_or(number + 1, |s| s.number);
        (newer, first > number + 1)
    }

    pub(crate) fn enter(&mut self, worker: usize, number: u64) {
        self.busy[worker] = number;
    }

    pub(crate) fn leave(&mut self, worker: usize) -> bool {
        self.busy[worker] = IDLE;
        self.awaited != 0
    }

    pub(crate) fn idle_beside(&self, worker: usize) -> Option<usize> {
        let mut after = (worker + 1..self.busy.len()).chain(0..worker);
        after.find(|&other| self.busy[other] == IDLE)
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited != 0
    }

    pub(crate) fn passed(&mut self, number: u64) -> bool {
        let passed = self.busy.iter().all(|&busy| busy >= number);
        self.awaited = if passed { 0 } else { number };
        passed
    }
}

/// Checks.
impl Shared {
    /// From which to which transaction a file may be, and what it says then.
    fn span(&self, rev: Rev, lo: Tid) -> (Tid, Tid) {
        match rev {
            Rev::Head => (lo, self.published),
            Rev::At(tid) => (tid, tid),
        }
    }

    /// Of a transaction under way the kernel is told smaller sizes before it is there, and larger ones when pages are dropped.
    fn size_span(&self, rev: Rev, lo: Tid) -> (Tid, Tid) {
        let (lo, hi) = self.span(rev, lo);
        let next = self.data.next(self.shown).filter(|_| self.moving);
        match (rev, next) {
            (Rev::Head, Some(next)) => (lo.min(self.shown), hi.max(next.tid)),
            _ => (lo, hi),
        }
    }

    fn what(rev: Rev, of_head: What) -> What {
        if rev == Rev::Head {
            of_head
        } else {
            What::Kept
        }
    }

    /// Gives an answer, made of the state `at`; it is taken later.
    pub(crate) fn answer(&mut self, request: Request, outcome: Outcome, at: Tid) {
        match &outcome {
            Outcome::Data(data) => {
                self.check_read(&request, data);
                self.check_pinned(&request, data);
            }
            Outcome::Attr { size } | Outcome::Entry { size, .. } => {
                self.check_size(&request, *size);
            }
            Outcome::Opened | Outcome::Failed => {}
        }
        let answer = Answer {
            request,
            outcome,
            at,
        };
        self.kernel.answers.push(answer);
    }

    /// I2.
    fn check_read(&mut self, request: &Request, data: &[u8]) {
        let Op::Read { first, count } = request.op else {
            return;
        };
        let part = |content: &[u8]| {
            let rest = content.get(first * PAGE..).unwrap_or_default();
            *data == rest[..rest.len().min(count * PAGE)]
        };
        let (lo, hi) = self.span(request.rev, request.issued_at);
        if !self.data.versions(request.file, lo, hi).any(part) {
            let Request { unique, file, .. } = request;
            let text = format!(
                "READ {unique} of file {file}, pages {first}+{count}: its answer is of no transaction from {lo} to {hi}"
            );
            self.fail(What::Torn, text);
        }
    }

    /// I2, for attributes.
    fn check_size(&mut self, request: &Request, size: u64) {
        let (lo, hi) = self.size_span(request.rev, request.issued_at);
        let is = |content: &[u8]| content.len() as u64 == size;
        if !self.data.versions(request.file, lo, hi).any(is) {
            let Request { unique, file, .. } = request;
            let text = format!("{unique}: file {file} is not {size} bytes long from {lo} to {hi}");
            self.fail(What::Torn, text);
        }
    }

    /// I1, for some pages of a file.
    pub(crate) fn check_pages(&mut self, node: NodeId, pages: std::ops::Range<usize>) {
        if let Some((file, at)) = self.stale_page(node, pages) {
            let rev = self.kernel.inodes[&node].rev;
            let (lo, hi) = self.span(rev, self.shown);
            let text = format!(
                "page {at} of file {file} ({rev}): what is cached is of no transaction from {lo} to {hi}"
            );
            self.fail(Self::what(rev, What::Stale), text);
        }
    }

    /// I2, for what a client sees below the end that the kernel gives the file.
    fn check_holes(&mut self, node: NodeId) {
        let inode = &self.kernel.inodes[&node];
        // Between two commits a page may be of one and the end of the other.
        let settled = self.shown == self.published;
        if !settled || inode.rev != Rev::Head || !(inode.valid || self.rules.unasked) {
            return;
        }
        if let Some(at) = self.hole(inode) {
            let (file, size) = (inode.file, inode.size);
            let text = format!(
                "page {at} of file {file}, {size} bytes long: as of {} it ends before",
                self.shown
            );
            self.fail(What::Hole, text);
        }
    }

    /// A cached page below the end of a file, of a transaction at which the file does not reach that far.
    fn hole(&self, inode: &Inode) -> Option<usize> {
        let versions = self.data.versions(inode.file, self.shown, self.published);
        let size = usize::try_from(inode.size).unwrap();
        (0..size.div_ceil(PAGE)).find(|&at| {
            let Page::Cached(page) = &inode.pages[at] else {
                return false;
            };
            let seen = at * PAGE..size.min((at + 1) * PAGE);
            let is = |content: &[u8]| content.get(seen.clone()) == Some(&page[..seen.len()]);
            !versions.clone().any(is)
        })
    }

    fn stale_page(
        &self,
        node: NodeId,
        mut pages: std::ops::Range<usize>,
    ) -> Option<(usize, usize)> {
        let inode = self.kernel.inodes.get(&node)?;
        let (lo, hi) = self.span(inode.rev, self.shown);
        let versions = self.data.versions(inode.file, lo, hi);
        let end = usize::try_from(inode.size).unwrap();
        let stale = pages.find(|&at| match &inode.pages[at] {
            Page::Cached(page) => !versions
                .clone()
                .any(|content| is_page(content, at, page, end)),
            _ => false,
        });
        Some((inode.file, stale?))
    }

    /// I1, for all that is cached. Between two commits a file may be as long as at either.
    pub(crate) fn check_all(&mut self) {
        let nodes: Vec<_> = self.kernel.inodes.keys().copied().collect();
        for node in nodes {
            self.check_pages(node, 0..PAGES);
            self.check_holes(node);
            let inode = &self.kernel.inodes[&node];
            // Below `@<tid>` nothing ever changes the size.
            if (inode.rev == Rev::Head && !inode.valid) || self.is_gone(node) {
                continue;
            }
            let (rev, (lo, hi)) = (inode.rev, self.size_span(inode.rev, self.shown));
            let sizes = self.data.versions(inode.file, lo, hi);
            let sizes = sizes.map(|content| content.len() as u64);
            let (min, max) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            if inode.size < min || inode.size > max {
                let text = format!(
                    "file {} is {} bytes long, not {min} to {max}, as of {}",
                    inode.file, inode.size, self.shown
                );
                self.fail(Self::what(rev, What::Stale), text);
            }
        }
    }

    /// Whether a node outlived its file.
    pub(crate) fn is_gone(&self, node: NodeId) -> bool {
        matches!(self.tree.node(node), Some(Node::File(file)) if file.is_gone())
    }

    /// Changed blocks that the kernel has whole, as they were given once.
    pub(crate) fn whole_blocks(&self, tid: Tid) -> Vec<(NodeId, u64)> {
        let mut out = Vec::new();
        for (&node, inode) in &self.kernel.inodes {
            let (file, blksize) = (inode.file, self.data.blksize(inode.file));
            if inode.rev != Rev::Head || self.is_gone(node) || !blksize.is_multiple_of(PAGE as u64)
            {
                continue;
            }
            let is_kept = |blk: &&u64| {
                let first = usize::try_from(**blk * blksize).unwrap() / PAGE;
                let pages = first..first + usize::try_from(blksize).unwrap() / PAGE;
                self.data.is_there(file, **blk, tid) && self.kernel.has_all(node, pages)
            };
            let changes = self.data.changes(file, tid);
            let blocks = changes.blocks.iter().filter(is_kept);
            out.extend(blocks.filter(|_| !changes.epoch).map(|&blk| (node, blk)));
        }
        out
    }

    /// What is kept is what the file says at that revision; behind its end there, nothing.
    pub(crate) fn check_kept(&mut self, (oid, rev): (Oid, Tid), pieces: &[Piece]) {
        let file = self.data.file(oid).expect("it was read");
        let content = self.data.content(file, rev);
        let is_there = |(off, data): &Piece| {
            let from = usize::try_from(*off).unwrap().min(content.len());
            let there = &content[from..(from + data.len()).min(content.len())];
            data.starts_with(there) && data[there.len()..].iter().all(|&byte| byte == 0)
        };
        if !pieces.iter().all(is_there) {
            self.fail(What::Kept, format!("{pieces:?} is not file {file} @{rev}"));
        }
    }

    /// Nothing is dropped in vain. `excuse` says of which files nobody can tell.
    pub(crate) fn check_drops(
        &mut self,
        tid: Tid,
        drops: &[Drop],
        excuse: impl Fn(usize, &Changes) -> bool,
    ) {
        for drop in drops {
            let Drop::Pages { node, off, len } = *drop else {
                continue;
            };
            let Some(inode) = self.kernel.inodes.get(&node) else {
                continue;
            };
            let (file, page) = (inode.file, |at: u64| usize::try_from(at).unwrap() / PAGE);
            if len == 0 {
                self.counts.whole += 1;
                if !excuse(file, self.data.changes(file, tid)) {
                    self.fail(What::Vain, format!("all of file {file} is dropped @{tid}"));
                }
                continue;
            }
            self.counts.drops += 1;
            let mut pages = page(off)..page(off + len);
            if let Some(vain) = pages.find(|&page| !self.data.is_changed(file, page, tid)) {
                let text = format!("page {vain} of file {file} is dropped @{tid}");
                self.fail(What::Vain, text);
            }
        }
    }

    /// `head/at` shows `tid` from now on.
    pub(crate) fn show(&mut self, tid: Tid) {
        let next = self.data.next(self.shown).map(|c| c.tid);
        let is_same = tid == self.shown;
        self.counts.same += u64::from(is_same);
        if next != Some(tid) && !is_same {
            let text = format!("{tid} is shown after {}, not {next:?}", self.shown);
            self.fail(What::Order, text);
        }
        self.shown = tid;
        self.published = self.published.max(tid);
        self.counts.shown += 1;
        self.check_all();
        self.check_reach();
    }
}

/// Whether a page holds what a file says there. Behind `end`, where the file ends, the kernel may have put zeros.
fn is_page(content: &[u8], at: usize, page: &[u8; PAGE], end: usize) -> bool {
    let rest = content.get(at * PAGE..).unwrap_or_default();
    page.iter().enumerate().all(|(i, &byte)| {
        let cut = at * PAGE < end && at * PAGE + i >= end;
        byte == rest.get(i).copied().unwrap_or(0) || (byte == 0 && cut)
    })
}
