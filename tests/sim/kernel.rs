//! A model of the kernel: page cache, attributes, names, requests.
//!
//! What it keeps of the real one, as measured and read there:
//! - a READ has its pages locked from before it is queued until its answer is taken; a failed one leaves them absent;
//! - dropping a file expires its attributes first and then goes page by page, waiting for each that is locked;
//! - a store waits for locked pages too, overwrites what is there, and makes a file longer if it has to;
//! - an answer about attributes counts only if nothing changed them since the request (`version`): answers are taken by
//!   the caller, in its own time;
//! - a short READ makes a file shorter;
//! - pages, attributes and whole nodes go at any time when nobody uses them.
//!
//! Simpler than the real one: a page that a file's new end cuts is dropped, not cut.

use crate::data::{PAGE, PAGES};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use zring::base::{NodeId, Tid};

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
    pub(crate) pages: [Page; PAGES],
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
    Read { first: usize, count: usize },
    Forget { count: u64 },
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) unique: u64,
    pub(crate) file: usize,
    /// Of a LOOKUP: none yet.
    pub(crate) node: NodeId,
    pub(crate) op: Op,
    /// What `head/at` said when it was made.
    pub(crate) issued_at: Tid,
    version: u64,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Entry { node: NodeId, size: u64 },
    Attr { size: u64 },
    Data(Vec<u8>),
    Failed,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) inodes: BTreeMap<NodeId, Inode>,
    /// Which node a file's name leads to.
    pub(crate) names: FxHashMap<usize, NodeId>,
    /// Made and not yet fetched by a worker.
    pub(crate) requests: Vec<Request>,
    /// Given by workers and not yet taken by who waits for them.
    pub(crate) answers: Vec<(Request, Outcome)>,
    /// LOOKUP, GETATTR and READ that are not answered, by file.
    open: FxHashMap<usize, usize>,
    /// READs that hold pages.
    pub(crate) reads: Vec<u64>,
    version: u64,
    last_unique: u64,
    /// Drops by node, at this version.
    drops: FxHashMap<NodeId, u64>,
    /// Nodes that were made crossed.
    pub(crate) crossed: u64,
    /// The mistake of letting the attributes in a LOOKUP's answer be used.
    pub(crate) entries_believed: bool,
}

impl Kernel {
    pub(crate) fn new(entries_believed: bool) -> Self {
        Self {
            entries_believed,
            ..Self::default()
        }
    }

    /// Whether anything about the file is unanswered.
    pub(crate) fn is_busy(&self, file: usize) -> bool {
        self.open.get(&file).is_some_and(|&n| n > 0)
    }

    /// Makes a request that does not involve pages.
    pub(crate) fn ask(&mut self, file: usize, node: NodeId, op: Op, at: Tid) -> u64 {
        self.last_unique += 1;
        if !matches!(op, Op::Forget { .. }) {
            *self.open.entry(file).or_default() += 1;
        }
        let (unique, version) = (self.last_unique, self.version);
        self.requests.push(Request {
            unique,
            file,
            node,
            op,
            issued_at: at,
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
        let unique = self.ask(inode.file, node, Op::Read { first, count }, at);
        self.reads.push(unique);
        let pages = &mut self.inodes.get_mut(&node).unwrap().pages;
        pages[first..first + count].fill(Page::Locked(unique));
    }

    /// Lets go of a node that nobody uses; the daemon is told.
    pub(crate) fn forget(&mut self, node: NodeId, at: Tid) {
        let inode = self.inodes.remove(&node).unwrap();
        self.names.retain(|_, named| *named != node);
        self.ask(
            inode.file,
            node,
            Op::Forget {
                count: inode.lookups,
            },
            at,
        );
    }

    /// Takes an answer; which pages came in with it.
    pub(crate) fn take(&mut self, at: usize) -> Option<(NodeId, std::ops::Range<usize>)> {
        let (request, outcome) = self.answers.swap_remove(at);
        *self.open.get_mut(&request.file).unwrap() -= 1;
        let version = request.version;
        match (request.op, outcome) {
            (Op::Lookup, Outcome::Entry { node, size }) => {
                let dropped = self.drops.get(&node).copied();
                let inode = self.inodes.entry(node).or_insert_with(|| Inode {
                    file: request.file,
                    pages: [Page::Absent; PAGES],
                    size,
                    valid: false,
                    version: 0,
                    lookups: 0,
                    // A drop found no node to expire, so nothing tells that this answer is older than it.
                    crossed: dropped.is_some_and(|v| v > version),
                });
                inode.lookups += 1;
                self.names.insert(request.file, node);
                self.crossed += u64::from(inode.crossed && inode.lookups == 1);
                self.set_size(node, size, version);
                if !self.entries_believed {
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
                self.take_pages(&request, (first, count), outcome)
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
    ) -> Option<(NodeId, std::ops::Range<usize>)> {
        let inode = self
            .inodes
            .get_mut(&request.node)
            .expect("a READ keeps its node");
        let pages = &mut inode.pages[first..first + count];
        assert!(pages.iter().all(|&p| p == Page::Locked(request.unique)));
        let Outcome::Data(data) = outcome else {
            pages.fill(Page::Absent);
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
        if size < inode.size {
            let kept = usize::try_from(size).unwrap() / PAGE;
            let cut = inode.pages.iter_mut().skip(kept);
            for page in cut.filter(|p| matches!(p, Page::Cached(_))) {
                *page = Page::Absent;
            }
        }
        inode.size = size;
    }
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

    /// Begins to store up to `end`; false when there is no such file.
    pub(crate) fn store_begins(&mut self, node: NodeId, end: u64) -> bool {
        let Some(inode) = self.inodes.get_mut(&node) else {
            return false;
        };
        self.version += 1;
        (inode.version, inode.valid) = (self.version, false);
        inode.size = inode.size.max(end);
        true
    }

    /// The first page from `from` on that a drop has something to do with.
    pub(crate) fn next_page(&self, node: NodeId, from: usize) -> Option<usize> {
        let pages = &self.inodes.get(&node)?.pages;
        (from..PAGES).find(|&at| pages[at] != Page::Absent)
    }

    /// Which READ holds a page.
    pub(crate) fn holder(&self, node: NodeId, page: usize) -> Option<u64> {
        match self.inodes.get(&node)?.pages[page] {
            Page::Locked(unique) => Some(unique),
            _ => None,
        }
    }

    /// Sets a page that no READ holds.
    pub(crate) fn set(&mut self, node: NodeId, page: usize, to: Page) {
        let page = &mut self.inodes.get_mut(&node).unwrap().pages[page];
        assert!(
            !matches!(page, Page::Locked(_)),
            "a locked page is left alone"
        );
        *page = to;
    }
}
