//! A model of the kernel: page cache, attributes, names, requests.
//!
//! What it keeps of the real one, as measured and read there:
//! - a READ has its pages locked from before it is queued until its answer is taken; a failed one leaves them absent;
//! - dropping a file expires its attributes first and then goes page by page, waiting for each that is locked;
//! - a store waits for locked pages too, and overwrites what is there;
//! - an answer about attributes counts only if nothing changed them since the request (`version`): answers are taken by
//!   the caller, in its own time;
//! - a short READ fills its pages up with zeros; it makes the file shorter, but takes no pages from it, and only if nothing
//!   changed the attributes since it was made: then zeros stay below the end of the file;
//! - another size, larger or smaller, cuts off what is cached behind it, after the size is there: each page that is
//!   locked is waited for, and the one with the end in it is filled up with zeros (`fills`; else it goes);
//! - a store that makes a file longer changes its attributes, others do not;
//! - nobody asks for pages behind the end of a file, but it may have become shorter when they do;
//! - pages, attributes and whole nodes go at any time when nobody uses them;
//! - a RETRIEVE waits for nothing: it gives the pages that are there, up to the first that is not, none behind the end of
//!   the file. A page that a READ is bringing in is not there; an old kernel gives it all the same, with whatever is in it;
//! - an OPEN keeps what is cached.
//!
//! For the check that pages are kept it notes beside each page of which state it is, and since which state one was lost that
//! the daemon counts.

use crate::data::{PAGE, PAGES};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use zring::base::{NodeId, Rev, Tid};
use zring::wire::fuse::notify::RetrieveId;

/// One page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Absent,
    /// A READ of this number brings it in.
    Locked(u64),
    Cached([u8; PAGE]),
}

/// A file that the kernel knows.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) file: usize,
    pub(crate) rev: Rev,
    pub(crate) pages: [Page; PAGES],
    /// The state each page was made of.
    pub(crate) of: [Tid; PAGES],
    /// The state of a page that was given, counted, and is not there, or there once only.
    pub(crate) lost: [Tid; PAGES],
    /// Stores on their way to each page, counted already.
    pub(crate) coming: [u8; PAGES],
    /// Pages that are there and count by who stores them, a bit each.
    pub(crate) uncounted: u64,
    /// Pages that went, or were given up: nobody has to bring them back.
    pub(crate) excused: u64,
    /// Those that are not back yet.
    pub(crate) went: u64,
    /// Pages that came since the daemon began anew with their block.
    pub(crate) known: u64,
    /// Pages that nobody notes a block for: they were behind the end of the file, or are there in spite of O_DIRECT.
    pub(crate) aside: u64,
    /// The state in which each page was stored, and one; 0 if it was not, or one of its block went, of which there are so many.
    pub(crate) stored: [u64; PAGES],
    pub(crate) per_block: usize,
    pub(crate) size: u64,
    /// Attributes may be used without asking.
    pub(crate) valid: bool,
    version: u64,
    lookups: u64,
    /// Made by the answer of a LOOKUP that a drop overtook: see `Kernel::take`.
    pub(crate) crossed: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Lookup,
    Getattr,
    Read {
        first: usize,
        count: usize,
    },
    Open,
    Forget {
        count: u64,
    },
    /// What a RETRIEVE gives back.
    Retrieved {
        id: RetrieveId,
        off: u64,
    },
    /// `head/watch` is opened by a client.
    LinkOpen {
        client: u64,
    },
    LinkRead {
        link: u64,
        room: usize,
    },
    LinkWrite {
        link: u64,
    },
    LinkClose {
        link: u64,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) unique: u64,
    pub(crate) file: usize,
    pub(crate) rev: Rev,
    /// Of a LOOKUP: none yet.
    pub(crate) node: NodeId,
    pub(crate) op: Op,
    /// Of a RETRIEVE.
    pub(crate) data: Vec<u8>,
    /// What clients knew of when it was made: what `head/at` said, or a state that an answer was made of.
    pub(crate) issued_at: Tid,
    version: u64,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Entry { node: NodeId, size: u64 },
    Attr { size: u64 },
    Data(Vec<u8>),
    Opened,
    Failed,
}

/// An outcome, and who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) request: Request,
    pub(crate) outcome: Outcome,
    /// The state it is made of.
    pub(crate) at: Tid,
}

/// A file got another size; what is cached behind it goes, page by page.
#[derive(Clone, Copy, Debug)]
struct Cut {
    node: NodeId,
    size: u64,
    page: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) inodes: BTreeMap<NodeId, Inode>,
    /// Which node a file's name leads to.
    pub(crate) names: FxHashMap<(Rev, usize), NodeId>,
    /// Made and not yet fetched by a worker.
    pub(crate) requests: Vec<Request>,
    /// Given by workers and not yet taken by who waits for them.
    pub(crate) answers: Vec<Answer>,
    cuts: Vec<Cut>,
    /// The newest state that an answer was made of, of those that were taken.
    seen: Tid,
    pub(crate) cut_waits: u64,
    /// LOOKUP, GETATTR and READ that are not answered, by file.
    open: FxHashMap<(Rev, usize), usize>,
    /// LOOKUPs and OPENs whose callers wait.
    waiting: FxHashSet<u64>,
    /// READs that hold pages.
    pub(crate) reads: Vec<u64>,
    /// Pages of READs that are not counted, a bit each.
    pub(crate) others: FxHashMap<u64, u64>,
    /// READs with O_DIRECT, and whether they hold pages all the same.
    pub(crate) direct: FxHashMap<u64, bool>,
    /// OPENs that are not answered.
    pub(crate) opens: usize,
    version: u64,
    last_unique: u64,
    /// Drops by node, at this version.
    drops: FxHashMap<NodeId, u64>,
    /// Nodes that were made crossed.
    pub(crate) crossed: u64,
    /// The mistake of letting the attributes in a LOOKUP's answer be used.
    pub(crate) entries_believed: bool,
    /// A cut fills up the page with the end in it; else it goes.
    fills: bool,
    /// RETRIEVE gives pages that nobody has filled.
    old: bool,
    /// What files had lost whose nodes went: the daemon may know of a look-up still, or count of workers that it hears later.
    gone: FxHashMap<(Rev, usize), [Tid; PAGES]>,
    /// Nodes that were let go of. The daemon may know one on, with what was read of it, if it was looked up meanwhile.
    forgotten: FxHashSet<NodeId>,
}

impl Kernel {
    pub(crate) fn new((entries_believed, fills): (bool, bool), old: bool) -> Self {
        Self {
            entries_believed,
            fills,
            old,
            ..Self::default()
        }
    }

    /// Whether anything about the file is unanswered.
    pub(crate) fn is_busy(&self, rev: Rev, file: usize) -> bool {
        self.open.get(&(rev, file)).is_some_and(|&n| n > 0)
    }

    /// Makes a request that does not involve pages.
    pub(crate) fn ask(&mut self, (rev, file): (Rev, usize), node: NodeId, op: Op, at: Tid) -> u64 {
        if !matches!(op, Op::Forget { .. }) {
            *self.open.entry((rev, file)).or_default() += 1;
        }
        self.opens += usize::from(op == Op::Open);
        let unique = self.make((rev, file), node, op, Vec::new(), at);
        if matches!(op, Op::Lookup | Op::Open) {
            self.waiting.insert(unique);
        }
        unique
    }

    /// Asks for the size of a file, and waits for it.
    pub(crate) fn ask_size(&mut self, node: NodeId, at: Tid) -> Option<u64> {
        let inode = self.inodes.get(&node)?;
        let unique = self.ask((inode.rev, inode.file), node, Op::Getattr, at);
        self.waiting.insert(unique);
        Some(unique)
    }

    /// Whether somebody cuts a file off there, and the READ that he waits for.
    pub(crate) fn is_cut(&self, node: NodeId, size: u64) -> Option<Option<u64>> {
        let is = |cut: &&Cut| cut.node == node && cut.size == size;
        let cut = self.cuts.iter().find(is)?;
        let page = self.next_page(node, cut.page);
        Some(page.and_then(|page| self.holder(node, page)))
    }

    /// Whether the caller of a LOOKUP or an OPEN waits still.
    pub(crate) fn is_open(&self, unique: u64) -> bool {
        self.waiting.contains(&unique)
    }

    /// Takes a request back that no worker has fetched; false when one has.
    pub(crate) fn take_back(&mut self, unique: u64) -> bool {
        let at = self.requests.iter().position(|r| r.unique == unique);
        at.map(|at| self.requests.swap_remove(at)).is_some()
    }

    /// Something is done with `head/watch`.
    pub(crate) fn ask_link(&mut self, op: Op, bytes: Vec<u8>) -> u64 {
        self.make((Rev::Head, 0), NodeId(0), op, bytes, Tid::ZERO)
    }

    fn make(
        &mut self,
        (rev, file): (Rev, usize),
        node: NodeId,
        op: Op,
        data: Vec<u8>,
        at: Tid,
    ) -> u64 {
        self.last_unique += 1;
        let (unique, version) = (self.last_unique, self.version);
        self.requests.push(Request {
            unique,
            file,
            rev,
            node,
            op,
            data,
            issued_at: at.max(self.seen),
            version,
        });
        unique
    }

    /// Reads up to `want` pages from `first` on, those of them in one go that are not there.
    pub(crate) fn read(&mut self, node: NodeId, first: usize, want: usize, at: Tid) {
        let inode = &self.inodes[&node];
        let wanted = &inode.pages[first..PAGES.min(first + want)];
        let count = wanted.iter().take_while(|&&p| p == Page::Absent).count();
        if count == 0 {
            return;
        }
        let file = (inode.rev, inode.file);
        let unique = self.ask(file, node, Op::Read { first, count }, at);
        self.reads.push(unique);
        let pages = &mut self.inodes.get_mut(&node).unwrap().pages;
        pages[first..first + count].fill(Page::Locked(unique));
    }

    /// Reads with O_DIRECT: past the page cache, or into it, where that is mapped or read ahead of.
    pub(crate) fn read_direct(
        &mut self,
        node: NodeId,
        first: usize,
        want: usize,
        at: Tid,
        into: bool,
    ) {
        if into {
            let before = self.last_unique;
            self.read(node, first, want, at);
            if self.last_unique > before {
                self.direct.insert(self.last_unique, true);
            }
            return;
        }
        let inode = &self.inodes[&node];
        let count = want.min(PAGES - first);
        let unique = self.ask((inode.rev, inode.file), node, Op::Read { first, count }, at);
        self.reads.push(unique);
        self.direct.insert(unique, false);
    }

    /// Lets go of a node that nobody uses; the daemon is told.
    pub(crate) fn forget(&mut self, node: NodeId, at: Tid, newest: Tid) {
        let mut inode = self.inodes.remove(&node).unwrap();
        for page in 0..PAGES {
            if inode.coming[page] > 0 || inode.pages[page] != Page::Absent {
                inode.lose(page, newest); // or was made of an older state
            }
        }
        self.gone.insert((inode.rev, inode.file), inode.lost);
        self.forgotten.insert(node);
        self.names.retain(|_, named| *named != node);
        let count = inode.lookups;
        self.ask((inode.rev, inode.file), node, Op::Forget { count }, at);
    }

    /// Gives `count` pages back, in a message of its own; false when there is no such file.
    pub(crate) fn retrieve(
        &mut self,
        id: RetrieveId,
        node: NodeId,
        first: usize,
        count: usize,
    ) -> bool {
        let Some(inode) = self.inodes.get(&node) else {
            return false;
        };
        let end = usize::try_from(inode.size).unwrap();
        let mut data = Vec::new();
        for page in &inode.pages[first..first + count] {
            match page {
                Page::Cached(bytes) => data.extend_from_slice(bytes),
                Page::Locked(_) if self.old => data.extend_from_slice(&[0; PAGE]),
                _ => break,
            }
        }
        data.truncate(end.saturating_sub(first * PAGE));
        let off = (first * PAGE) as u64;
        let file = (inode.rev, inode.file);
        self.make(file, node, Op::Retrieved { id, off }, data, Tid::ZERO);
        true
    }

    /// Takes an answer; which pages came in with it.
    pub(crate) fn take(&mut self, at: usize) -> Option<(NodeId, std::ops::Range<usize>)> {
        let Answer {
            request,
            outcome,
            at,
        } = self.answers.swap_remove(at);
        if !matches!(outcome, Outcome::Failed) {
            self.seen = self.seen.max(at);
        }
        *self.open.get_mut(&(request.rev, request.file)).unwrap() -= 1;
        let version = request.version;
        self.waiting.remove(&request.unique);
        match (request.op, outcome) {
            (Op::Lookup, Outcome::Entry { node, size }) => {
                let dropped = self.drops.get(&node).copied();
                let lost = self.gone.get(&(request.rev, request.file)).copied();
                // What notes the daemon has of it are of pages that went with the inode before.
                let went = match self.forgotten.contains(&node) {
                    true => u64::MAX,
                    false => 0,
                };
                let inode = self.inodes.entry(node).or_insert_with(|| Inode {
                    file: request.file,
                    rev: request.rev,
                    pages: [Page::Absent; PAGES],
                    of: [Tid::ZERO; PAGES],
                    lost: lost.unwrap_or([Tid::ZERO; PAGES]),
                    coming: [0; PAGES],
                    uncounted: 0,
                    excused: went,
                    went,
                    known: 0,
                    aside: 0,
                    stored: [0; PAGES],
                    per_block: 1,
                    size,
                    valid: false,
                    version: 0,
                    lookups: 0,
                    // A drop found no node to expire, so nothing tells that this answer is older than it.
                    crossed: dropped.is_some_and(|v| v > version),
                });
                inode.lookups += 1;
                self.names.insert((request.rev, request.file), node);
                self.crossed += u64::from(inode.crossed && inode.lookups == 1);
                self.set_size(node, size, version);
                if !self.entries_believed && request.rev == Rev::Head {
                    self.inodes.get_mut(&node).expect("just made").valid = false;
                }
                None
            }
            (Op::Getattr, Outcome::Attr { size }) => {
                self.set_size(request.node, size, version);
                None
            }
            (Op::Read { first, count }, outcome) => {
                self.reads.retain(|&r| r != request.unique);
                if self.direct.get(&request.unique) == Some(&false) {
                    self.direct.remove(&request.unique);
                    return None;
                }
                self.take_pages(&request, (first, count), outcome, at)
            }
            (Op::Open, _) => {
                self.opens -= 1;
                None
            }
            (_, Outcome::Failed) => None,
            (op, outcome) => unreachable!("{op:?} answered by {outcome:?}"),
        }
    }

    fn take_pages(
        &mut self,
        request: &Request,
        (first, count): (usize, usize),
        outcome: Outcome,
        at: Tid,
    ) -> Option<(NodeId, std::ops::Range<usize>)> {
        let inode = self
            .inodes
            .get_mut(&request.node)
            .expect("a READ keeps its node");
        let others = self.others.remove(&request.unique).unwrap_or(0);
        let direct = self.direct.remove(&request.unique);
        let pages = &mut inode.pages[first..first + count];
        assert!(pages.iter().all(|&p| p == Page::Locked(request.unique)));
        let Outcome::Data(data) = outcome else {
            pages.fill(Page::Absent);
            (first..first + count).for_each(|page| inode.excuse(page));
            return None;
        };
        assert!(data.len() <= count * PAGE);
        for (i, page) in pages.iter_mut().enumerate() {
            let part = data.get(i * PAGE..).unwrap_or_default();
            let part = &part[..part.len().min(PAGE)];
            let mut bytes = [0; PAGE];
            bytes[..part.len()].copy_from_slice(part);
            *page = Page::Cached(bytes);
        }
        inode.of[first..first + count].fill(at);
        for page in first..first + count {
            inode.uncounted &= !(1 << page);
            inode.went &= !(1 << page);
            inode.known |= 1 << page;
            inode.uncounted |= others & 1 << page;
            let is_aside = (page - first) * PAGE >= data.len() || direct.is_some();
            inode.aside = inode.aside & !(1 << page) | u64::from(is_aside) << page;
            if direct.is_some() {
                inode.lose(page, at); // nobody counts what it may have gone past
            }
        }
        let end = (first * PAGE + data.len()) as u64;
        let short = data.len() < count * PAGE;
        if short && request.version >= inode.version && end < inode.size {
            self.version += 1;
            (inode.version, inode.size) = (self.version, end);
        }
        Some((request.node, first..first + count))
    }

    fn set_size(&mut self, node: NodeId, size: u64, version: u64) {
        let inode = self
            .inodes
            .get_mut(&node)
            .expect("a request keeps its node");
        if inode.version > version {
            return;
        }
        if inode.version > 0 {
            inode.crossed = false;
        }
        self.version += 1;
        (inode.version, inode.valid) = (self.version, true);
        if size != inode.size {
            inode.size = size;
            self.begin_cut(node, size);
        }
    }
}

/// Cutting. Who brought the new size does it, after the size: a longer one may have come by then.
impl Kernel {
    /// What nobody has locked goes at once.
    fn begin_cut(&mut self, node: NodeId, size: u64) {
        let inode = self.inodes.get_mut(&node).expect("just looked");
        for page in end_page(size)..PAGES {
            if matches!(inode.pages[page], Page::Cached(_)) {
                inode.evict(page);
            }
        }
        // Its caller is not done.
        *self.open.entry((inode.rev, inode.file)).or_default() += 1;
        let page = usize::try_from(size).unwrap() / PAGE;
        self.cuts.push(Cut { node, size, page });
        self.cut_waits += u64::from(self.waits(&Cut { node, size, page }));
    }

    fn waits(&self, cut: &Cut) -> bool {
        let page = self.next_page(cut.node, cut.page);
        page.is_some_and(|page| self.holder(cut.node, page).is_some())
    }

    /// The first cut that does not wait for a locked page.
    fn next_cut(&self) -> Option<usize> {
        self.cuts.iter().position(|cut| !self.waits(cut))
    }

    /// Whether some cut can go on.
    pub(crate) fn can_cut(&self) -> bool {
        self.next_cut().is_some()
    }

    /// Does one page of a cut.
    pub(crate) fn cut(&mut self) {
        let at = self.next_cut().expect("one can go on");
        let Cut { node, size, page } = self.cuts[at];
        let Some(page) = self.next_page(node, page) else {
            self.cuts.swap_remove(at);
            let inode = &self.inodes[&node];
            let file = (inode.rev, inode.file);
            *self.open.get_mut(&file).unwrap() -= 1;
            return;
        };
        self.cuts[at].page = page + 1;
        let inode = self.inodes.get_mut(&node).expect("it is held");
        match &mut inode.pages[page] {
            Page::Cached(bytes) if page < end_page(size) && self.fills => {
                bytes[usize::try_from(size).unwrap() % PAGE..].fill(0);
            }
            _ => inode.evict(page),
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty() && self.cuts.is_empty()
    }
}

/// The first page that lies behind a file's end as a whole.
fn end_page(size: u64) -> usize {
    usize::try_from(size).unwrap().div_ceil(PAGE)
}

/// Notifications.
impl Kernel {
    /// Begins to drop a file; false when there is no such file.
    pub(crate) fn drop_begins(&mut self, node: NodeId) -> bool {
        self.version += 1;
        self.drops.insert(node, self.version);
        match self.inodes.get_mut(&node) {
            Some(inode) => {
                (inode.version, inode.valid) = (self.version, false);
                true
            }
            None => false,
        }
    }

    /// Begins to store up to `end`; whether the file ends there. `None` when there is no such file.
    pub(crate) fn store_begins(&mut self, node: NodeId, end: u64) -> Option<bool> {
        let inode = self.inodes.get_mut(&node)?;
        if end > inode.size {
            self.version += 1;
            (inode.version, inode.valid) = (self.version, false);
            inode.size = end;
        }
        Some(inode.size == end)
    }

    /// Stores a page or the beginning of one, which is kept if it is there already, or the file ends with it.
    pub(crate) fn store_page(
        &mut self,
        node: NodeId,
        page: usize,
        part: &[u8],
        (to_end, at, is_counted): (bool, Tid, bool),
    ) {
        let Some(inode) = self.inodes.get_mut(&node) else {
            return;
        };
        let was_counted = inode.uncounted & 1 << page == 0;
        if is_counted {
            inode.coming[page] = inode.coming[page].saturating_sub(1);
            inode.uncounted &= !(1 << page);
        }
        let mut bytes = match inode.pages[page] {
            Page::Locked(_) => panic!("a locked page is left alone"),
            Page::Cached(bytes) => bytes,
            Page::Absent if part.len() == PAGE || to_end => [0; PAGE],
            Page::Absent => return inode.give_up(page, at),
        };
        if inode.pages[page] == Page::Absent {
            inode.uncounted |= u64::from(!is_counted) << page;
        } else if is_counted && was_counted {
            inode.lose(page, at.max(inode.of[page])); // it was given twice
        }
        bytes[..part.len()].copy_from_slice(part);
        inode.pages[page] = Page::Cached(bytes);
        inode.of[page] = at;
        inode.known |= 1 << page;
        // Others of its block went since it was given: nobody brings more of it.
        let is_aside = inode.stored[page] == 0;
        inode.aside = inode.aside & !(1 << page) | u64::from(is_aside) << page;
        inode.went &= !(1 << page);
    }

    /// The first page from `from` on that a drop has something to do with.
    pub(crate) fn next_page(&self, node: NodeId, from: usize) -> Option<usize> {
        let pages = &self.inodes.get(&node)?.pages;
        (from..PAGES).find(|&at| pages[at] != Page::Absent)
    }

    /// Which view the pages are of that a READ holds.
    pub(crate) fn rev_of(&self, read: u64) -> Option<Rev> {
        let mut inodes = self.inodes.values();
        let holds = |inode: &&Inode| inode.pages.contains(&Page::Locked(read));
        inodes.find(holds).map(|inode| inode.rev)
    }

    /// Which READ holds a page.
    pub(crate) fn holder(&self, node: NodeId, page: usize) -> Option<u64> {
        match self.inodes.get(&node)?.pages[page] {
            Page::Locked(unique) => Some(unique),
            _ => None,
        }
    }

    /// Lets go of a page, unless a READ holds it.
    pub(crate) fn evict(&mut self, node: NodeId, page: usize) {
        let inode = self.inodes.get_mut(&node).unwrap();
        if matches!(inode.pages[page], Page::Cached(_)) {
            inode.evict(page);
        }
    }

    /// Drops a page because of `tid`, unless a READ holds it.
    pub(crate) fn drop_page(&mut self, node: NodeId, page: usize) {
        if let Some(inode) = self.inodes.get_mut(&node)
            && matches!(inode.pages[page], Page::Cached(_))
        {
            inode.drop(page);
        }
    }
}
