//! What the actors share, and what is checked whenever it changes.
//!
//! ```text
//!   Torn     I2: a READ's answer is what the file says at one transaction, that was head since it was made, or newer
//!   Stale    I1: once head/at shows T, no page and no attribute is older than T
//!   Order    transactions are shown one by one, none left out
//!   Waits    I3: no READ waits for a commit or a notification, however many others are in between; nor in a circle
//!   Stuck    when nobody can move any more, nothing is left to do
//!   Lost     a parked task is waited for by a load
//! ```

use crate::data::{Commit, Data, PAGE, PAGES};
use crate::kernel::{Kernel, Outcome, Page, Request};
use crate::mutant::Mutant;
use crate::rng::Rng;
use std::collections::VecDeque;
use std::rc::Rc;
use zring::base::{NodeId, Tid};
use zring::fs::tree::Tree;

/// Which check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Torn,
    Stale,
    Order,
    Waits,
    Stuck,
    Lost,
}

/// A check that failed.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) what: What,
    pub(crate) text: String,
}

/// To a worker.
#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Ask(Commit),
    View(Commit),
    Shown,
    Interrupt(u64),
    Forgotten(Rc<[NodeId]>),
}

/// To control.
#[derive(Clone, Debug)]
pub(crate) enum ToControl {
    Answered(Vec<NodeId>),
    Took(Vec<NodeId>),
    Dropped,
}

/// To the notifier.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Drop(NodeId),
    DropName(NodeId),
    Store {
        node: NodeId,
        off: u64,
        data: Vec<u8>,
    },
}

/// How a world is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) mutant: Option<Mutant>,
    /// Whether the graph of who waits for whom is looked at, beside what comes of it.
    pub(crate) graph: bool,
    /// The mistake of letting the attributes in a LOOKUP's answer be used: a drop may have overtaken it.
    pub(crate) crossed: bool,
    /// Say what happens.
    pub(crate) trace: bool,
}

impl Rules {
    pub(crate) const NORMAL: Self = Self {
        mutant: None,
        graph: true,
        crossed: false,
        trace: false,
    };

    pub(crate) fn with(mutant: Mutant) -> Self {
        Self {
            mutant: Some(mutant),
            ..Self::NORMAL
        }
    }
}

/// How often what was meant to happen did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) shown: u64,
    pub(crate) reads: u64,
    pub(crate) parked: u64,
    /// Tasks from which a view took objects.
    pub(crate) robbed: u64,
    /// Loads that came in for a view that was over.
    pub(crate) stale_loads: u64,
    pub(crate) stores: u64,
    pub(crate) stores_abandoned: u64,
    pub(crate) drops: u64,
    /// Pages that a notification had to wait for.
    pub(crate) lock_waits: u64,
    /// Times that control had to wait for the notifier.
    pub(crate) full: u64,
    pub(crate) interrupted: u64,
    pub(crate) forgotten: u64,
    /// Files whose own object changed.
    pub(crate) retired: u64,
    /// Answers of an older view than another worker's.
    pub(crate) behind: u64,
    /// LOOKUPs whose answer a drop overtook.
    pub(crate) crossed: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) rng: Rng,
    pub(crate) data: Data,
    pub(crate) tree: Tree,
    pub(crate) kernel: Kernel,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) notices_max: usize,
    pub(crate) to_control: VecDeque<ToControl>,
    /// To every worker.
    pub(crate) to_all: Vec<ToWorker>,
    /// One load in so many comes at once.
    pub(crate) quick: usize,
    /// One load in so many fails.
    pub(crate) failing: usize,
    /// What `head/at` shows.
    pub(crate) shown: Tid,
    /// The newest view that workers may hold.
    pub(crate) published: Tid,
    pub(crate) counts: Counts,
    pub(crate) broken: Option<Broken>,
}

impl Shared {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.rules.mutant == Some(mutant)
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.rules.trace {
            println!("{:6} {}", self.counts.steps, text());
        }
    }

    /// Notes the first check that fails.
    pub(crate) fn fail(&mut self, what: What, text: String) {
        self.say(|| format!("{what:?}: {text}"));
        self.broken.get_or_insert(Broken { what, text });
    }

    /// Gives an answer; it is taken later.
    pub(crate) fn answer(&mut self, request: Request, outcome: Outcome) {
        if let Outcome::Data(data) = &outcome {
            self.check_read(&request, data);
        }
        self.kernel.answers.push((request, outcome));
    }

    /// I2.
    fn check_read(&mut self, request: &Request, data: &[u8]) {
        let crate::kernel::Op::Read { first, count } = request.op else {
            return;
        };
        let part = |content: &[u8]| {
            let rest = content.get(first * PAGE..).unwrap_or_default();
            *data == rest[..rest.len().min(count * PAGE)]
        };
        let (lo, hi) = (request.issued_at, self.published);
        if !self.data.versions(request.file, lo, hi).any(part) {
            let Request { unique, file, .. } = request;
            let text = format!(
                "READ {unique} of file {file}, pages {first}+{count}: its answer is of no transaction from {lo} to {hi}"
            );
            self.fail(What::Torn, text);
        }
    }

    /// I1, for some pages of a file.
    pub(crate) fn check_pages(&mut self, node: NodeId, pages: std::ops::Range<usize>) {
        if let Some((file, at)) = self.stale_page(node, pages) {
            let (lo, hi) = (self.shown, self.published);
            let text = format!(
                "page {at} of file {file}: what is cached is of no transaction from {lo} to {hi}"
            );
            self.fail(What::Stale, text);
        }
    }

    fn stale_page(
        &self,
        node: NodeId,
        mut pages: std::ops::Range<usize>,
    ) -> Option<(usize, usize)> {
        let inode = self.kernel.inodes.get(&node)?;
        let versions = self.data.versions(inode.file, self.shown, self.published);
        let stale = pages.find(|&at| match &inode.pages[at] {
            Page::Cached(page) => !versions.clone().any(|content| is_page(content, at, page)),
            _ => false,
        });
        Some((inode.file, stale?))
    }

    /// I1, for all that is cached. Between two commits a file may be as long as at either.
    pub(crate) fn check_all(&mut self) {
        let nodes: Vec<_> = self.kernel.inodes.keys().copied().collect();
        for node in nodes {
            self.check_pages(node, 0..PAGES);
            let inode = &self.kernel.inodes[&node];
            if !inode.valid {
                continue;
            }
            let sizes = self.data.versions(inode.file, self.shown, self.published);
            let sizes = sizes.map(|content| content.len() as u64);
            let (min, max) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            if inode.size < min || inode.size > max {
                let text = format!(
                    "file {} is {} bytes long, not {min} to {max}, as of {}",
                    inode.file, inode.size, self.shown
                );
                self.fail(What::Stale, text);
            }
        }
    }

    /// `head/at` shows `tid` from now on.
    pub(crate) fn show(&mut self, tid: Tid) {
        let next = self.data.next(self.shown).map(|c| c.tid);
        if next != Some(tid) {
            let text = format!("{tid} is shown after {}, not {next:?}", self.shown);
            self.fail(What::Order, text);
        }
        self.shown = tid;
        self.published = self.published.max(tid);
        self.counts.shown += 1;
        self.check_all();
    }
}

/// Whether a page holds what a file says there.
fn is_page(content: &[u8], at: usize, page: &[u8; PAGE]) -> bool {
    let rest = content.get(at * PAGE..).unwrap_or_default();
    let rest = &rest[..rest.len().min(PAGE)];
    page[..rest.len()] == *rest && page[rest.len()..].iter().all(|&b| b == 0)
}
