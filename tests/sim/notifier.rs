//! The threads that write notifications, as `engine::notifier` has them: one that drops, one that stores for head, one that
//! stores below `@<tid>`. Each carries out one thing after the other, page by page.

use crate::data::{PAGE, PAGES};
use crate::graph::{Node, Wait};
use crate::kernel::Inode;
use crate::mutant::Mutant;
use crate::shared::{Keep, Shared, ToControl, ToWorker, What};
use crate::store::Store;
use std::collections::VecDeque;
use zring::base::{NodeId, Tid};
use zring::fs::advance::{Drop, Shorter};

/// Pages being stored.
#[derive(Debug)]
struct Storing {
    node: NodeId,
    first: usize,
    data: Vec<u8>,
    at: Tid,
    page: usize,
    /// Up to the end that the file had, or has got by it.
    to_end: bool,
    /// Pages that READs counted.
    others: u64,
}

/// Drops of one transaction.
#[derive(Debug)]
struct Dropping {
    tid: Tid,
    drops: Vec<Drop>,
    /// The drop under way, and the page it has come to; `None` before stores were taken back and the one under way waited for.
    place: Option<(usize, usize)>,
    /// For a mutant: stores that have to be done before.
    behind: u64,
}

/// Sizes being asked for, by somebody outside of the daemon.
#[derive(Debug)]
struct Asking {
    files: Vec<Shorter>,
    /// The file it has come to; `None` before the store under way was waited for.
    at: Option<usize>,
    /// The GETATTR.
    request: Option<u64>,
    is_awaited: bool,
    tries: usize,
    /// After the drops of a transaction, which may have made them longer.
    is_last: bool,
}

/// How often a file is asked for whose answer something overtook.
const TRIES: usize = 8;

/// The three threads.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    asking: Option<Asking>,
    dropping: Option<Dropping>,
    under_way: Option<Store>,
    storing: Option<Storing>,
    keeping: Option<Keep>,
    pieces: VecDeque<Storing>,
}

fn page_of(at: u64) -> usize {
    usize::try_from(at).unwrap() / PAGE
}

impl Storing {
    fn new(node: NodeId, off: u64, data: Vec<u8>, at: Tid) -> Self {
        let first = page_of(off);
        Self {
            node,
            first,
            data,
            at,
            page: first,
            to_end: false,
            others: 0,
        }
    }

    /// Begins; false when there is no such file.
    fn begin(&mut self, shared: &mut Shared) -> bool {
        let end = (self.first * PAGE + self.data.len()) as u64;
        let there = shared.kernel.store_begins(self.node, end);
        self.to_end = there == Some(true);
        there.is_some() && !self.data.is_empty()
    }

    fn waits_for(&self, shared: &Shared) -> Option<u64> {
        shared.kernel.holder(self.node, self.page)
    }

    /// Stores a page; false when it was the last.
    fn go_on(&mut self, shared: &mut Shared) -> bool {
        let part = &self.data[(self.page - self.first) * PAGE..];
        let part = &part[..part.len().min(PAGE)];
        let (node, page) = (self.node, self.page);
        let more = (page + 1 - self.first) * PAGE < self.data.len();
        let how = (self.to_end, self.at, self.others & 1 << page == 0);
        shared.kernel.store_page(node, page, part, how);
        shared.check_pages(node, page..page + 1);
        self.page += 1;
        more
    }
}

impl Notifier {
    /// Whether nothing is under way.
    pub(crate) fn is_done(&self) -> bool {
        self.dropping.is_none()
            && self.asking.is_none()
            && self.under_way.is_none()
            && self.keeping.is_none()
    }

    /// Whether a store for head is under way.
    pub(crate) fn is_storing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether a node is held by a notification.
    pub(crate) fn holds(&self, node: NodeId) -> bool {
        let is = |storing: &Storing| storing.node == node;
        let drops = self.dropping.iter().flat_map(|d| &d.drops);
        let mut asked = self.asking.iter().flat_map(|a| &a.files);
        asked.any(|file| file.node == node)
            || self.storing.as_ref().is_some_and(is)
            || self
                .keeping
                .as_ref()
                .is_some_and(|keep| keep.file.id == node)
            || drops.into_iter().any(|drop| node_of(drop) == node)
    }

    /// Whether the page that a READ brings in is dropped.
    pub(crate) fn drops_of(&self, shared: &Shared, read: u64) -> bool {
        let asked = self.asking.iter().flat_map(|a| &a.files);
        let mut behind = asked.flat_map(|f| (page_of(f.size)..PAGES).map(|page| (f.node, page)));
        let is_asked = self.asking.as_ref().and_then(|a| a.request) == Some(read);
        if is_asked || behind.any(|(node, page)| shared.kernel.holder(node, page) == Some(read)) {
            return true;
        }
        let queued = shared.drops.iter().flat_map(|(_, drops)| drops);
        let now = self.dropping.iter().flat_map(|d| &d.drops);
        now.chain(queued).any(|drop| {
            let Drop::Pages { node, off, len } = *drop else {
                return false;
            };
            let end = if len == 0 { PAGES } else { page_of(off + len) };
            (page_of(off)..end).any(|page| shared.kernel.holder(node, page) == Some(read))
        })
    }

    pub(crate) fn waits(&self, shared: &Shared, out: &mut Vec<Wait>) {
        let is_asked = self.asking.as_ref().is_some_and(|a| a.is_awaited);
        let to_ask = shared.shorter.iter().any(|(_, is_awaited)| *is_awaited);
        if self.dropping.is_some() || !shared.drops.is_empty() || is_asked || to_ask {
            out.push((Node::Advance, Node::Dropper));
        }
        if self.dropper_waits_for_store(shared) {
            out.push((Node::Dropper, Node::Storer));
        }
        if let Some(read) = self.dropper_waits_for(shared) {
            out.push((Node::Dropper, Node::Request(read)));
        }
        if let Some(Asking {
            files, at, request, ..
        }) = &self.asking
        {
            if self.asks_behind_store() {
                out.push((Node::Dropper, Node::Storer));
            }
            let file = at.and_then(|at| files.get(at));
            let read = file
                .and_then(|file| shared.kernel.is_cut(file.node, file.size))
                .flatten();
            let asked = request.filter(|&unique| shared.kernel.is_open(unique));
            out.extend(asked.or(read).map(|of| (Node::Dropper, Node::Request(of))));
        }
        if let Some(read) = self.storing.as_ref().and_then(|s| s.waits_for(shared)) {
            out.push((Node::Storer, Node::Request(read)));
        }
        let keeping = self.keeping.is_some() || !shared.keeps.is_empty();
        if shared.is(Mutant::KeptByStorer) && keeping && self.under_way.is_some() {
            out.push((Node::Keeper, Node::Storer));
        }
        if let Some(read) = self.pieces.front().and_then(|s| s.waits_for(shared)) {
            out.push((Node::Keeper, Node::Request(read)));
        }
    }

    /// Whether any of the threads waits for a page.
    pub(crate) fn waits_for_page(&self, shared: &Shared) -> bool {
        let stores = self.storing.iter().chain(self.pieces.front());
        let mut stores = stores.filter_map(|s| s.waits_for(shared));
        self.dropper_waits_for(shared).is_some() || stores.next().is_some()
    }
}

fn node_of(drop: &Drop) -> NodeId {
    let (Drop::Pages { node, .. } | Drop::Attributes(node)) = *drop;
    node
}

/// What lies behind the new ends of files.
fn behind(files: &[Shorter]) -> Vec<Drop> {
    let behind = |&Shorter {
                      node, size: off, ..
                  }: &Shorter| Drop::Pages { node, off, len: 0 };
    files.iter().map(behind).collect()
}

impl Asking {
    /// After the drops of a transaction.
    fn last(shared: &Shared, nodes: &[NodeId]) -> Self {
        let file = |&node: &NodeId| {
            let oid = shared.file(node)?.oid;
            let size = u64::MAX;
            Some(Shorter { node, oid, size })
        };
        Self {
            files: nodes.iter().filter_map(file).collect(),
            at: Some(0),
            request: None,
            is_awaited: true,
            tries: 0,
            is_last: true,
        }
    }
}

/// Sizes.
impl Notifier {
    fn asks_behind_store(&self) -> bool {
        let Some(Asking {
            files, at: None, ..
        }) = &self.asking
        else {
            return false;
        };
        let behind = behind(files);
        let meets = |store: &Store| behind.iter().any(|drop| store.meets(drop));
        self.under_way.as_ref().is_some_and(meets)
    }

    fn can_ask(&self, shared: &Shared) -> bool {
        let Some(Asking {
            files, at, request, ..
        }) = &self.asking
        else {
            return !shared.shorter.is_empty();
        };
        let file = at.and_then(|at| files.get(at));
        let is_open = request.is_some_and(|unique| shared.kernel.is_open(unique));
        let is_cut = file.is_some_and(|file| shared.kernel.is_cut(file.node, file.size).is_some());
        let waits = request.is_some() && (is_open || is_cut && !self.is_late(shared));
        !self.asks_behind_store() && !waits
    }

    /// The READ that a cut waits for may wait for a client: then its time is over at last.
    fn is_late(&self, shared: &Shared) -> bool {
        let asking = self.asking.as_ref();
        let file = asking.and_then(|asking| asking.files.get(asking.at?));
        let read = file.and_then(|file| shared.kernel.is_cut(file.node, file.size)?);
        shared.rules.clients && read.is_some()
    }

    /// Begins, or goes on with the next file.
    fn ask_one(&mut self, shared: &mut Shared) {
        let is_late = self.is_late(shared);
        let Some(asking) = &mut self.asking else {
            let (files, is_awaited) = shared.shorter.pop_front().expect("there is one");
            if is_awaited {
                self.withdraw(shared, &behind(&files));
            }
            let at = (!is_awaited).then_some(0);
            let request = None;
            self.asking = Some(Asking {
                files,
                at,
                request,
                is_awaited,
                tries: 0,
                is_last: false,
            });
            return;
        };
        let at = asking.at.map_or(0, |at| {
            let is_asked = asking.request.take().is_some();
            let file = asking.files.get(at);
            let inode = file.and_then(|file| shared.kernel.inodes.get(&file.node));
            let is_taken = |inode: &Inode| !asking.is_last || inode.valid;
            let is_known = inode
                .is_none_or(|inode| is_taken(inode) && file.is_none_or(|f| inode.size <= f.size));
            asking.tries = (asking.tries + 1) * usize::from(!is_known);
            let is_given_up = asking.tries > TRIES || (is_asked && is_late);
            if is_given_up {
                shared.untold.extend(file.map(|file| file.node));
            }
            at + usize::from(is_asked && (is_known || is_given_up))
        });
        asking.at = Some(at);
        let Some(file) = asking.files.get(at) else {
            if asking.is_last {
                shared.to_control.push_back(ToControl::Dropped);
            } else if asking.is_awaited {
                shared.to_control.push_back(ToControl::Shortened);
            }
            self.asking = None;
            return;
        };
        let node = file.node;
        if asking.tries == 0 && !asking.is_last {
            shared.kernel.drop_begins(node);
        }
        asking.request = shared.kernel.ask_size(node, shared.shown);
        if asking.request.is_none() {
            (asking.at, asking.tries) = (Some(at + 1), 0);
        }
    }
}

/// Drops.
impl Notifier {
    fn dropper_waits_for_store(&self, shared: &Shared) -> bool {
        let Some(Dropping {
            drops,
            place: None,
            behind,
            ..
        }) = &self.dropping
        else {
            return false;
        };
        if shared.is(Mutant::OneQueue) && shared.stores_done < *behind {
            return true;
        }
        let meets = |store: &Store| drops.iter().any(|drop| store.meets(drop));
        !shared.is(Mutant::UnderWayNotAwaited) && self.under_way.as_ref().is_some_and(meets)
    }

    fn dropper_waits_for(&self, shared: &Shared) -> Option<u64> {
        let dropping = self.dropping.as_ref()?;
        let (at, page) = dropping.place?;
        let Drop::Pages { node, .. } = *dropping.drops.get(at)? else {
            return None;
        };
        if page >= PAGES || shared.is(Mutant::InvalDoesNotWait) {
            return None;
        }
        shared.kernel.holder(node, page)
    }

    pub(crate) fn can_drop(&self, shared: &Shared) -> bool {
        match &self.dropping {
            None if self.asking.is_some() => self.can_ask(shared),
            None => !shared.drops.is_empty() || self.can_ask(shared),
            Some(_) => {
                !self.dropper_waits_for_store(shared) && self.dropper_waits_for(shared).is_none()
            }
        }
    }

    /// Begins with a transaction, or does the next page.
    pub(crate) fn drop_one(&mut self, shared: &mut Shared) {
        if self.asking.is_some() || self.dropping.is_none() && !shared.shorter.is_empty() {
            return self.ask_one(shared);
        }
        let Some(dropping) = &mut self.dropping else {
            let (tid, drops) = shared.drops.pop_front().expect("there is one");
            shared.let_notes_go(&drops);
            self.withdraw(shared, &drops);
            self.dropping = Some(Dropping {
                tid,
                drops,
                place: None,
                behind: shared.stores_queued,
            });
            shared.counts.under_way += u64::from(self.dropper_waits_for_store(shared));
            return;
        };
        let Some((mut at, mut page)) = dropping.place else {
            return dropping.begin(shared, 0);
        };
        let Some(drop) = dropping.drops.get(at) else {
            self.dropping = None;
            let nodes = std::mem::take(&mut shared.resized);
            if shared.is(Mutant::ShowBeforeDropped) {
                return;
            }
            let is_asked = !shared.is(Mutant::SizesNotAsked) && !shared.is(Mutant::NotShortened);
            if nodes.is_empty() || !is_asked {
                shared.to_control.push_back(ToControl::Dropped);
                return;
            }
            self.asking = Some(Asking::last(shared, &nodes));
            return;
        };
        let (node, pages) = (node_of(drop), dropping.pages(at));
        if pages.contains(&page) {
            shared.kernel.drop_page(node, page);
            page += 1;
        }
        match shared.kernel.next_page(node, page) {
            Some(next) if pages.contains(&next) => dropping.place = Some((at, next)),
            _ => {
                shared.kernel.count_anew(node, pages, dropping.tid);
                at += 1;
                dropping.begin(shared, at);
            }
        }
    }

    fn withdraw(&self, shared: &mut Shared, drops: &[Drop]) {
        if shared.is(Mutant::NotWithdrawn) {
            return;
        }
        let stores = std::mem::take(&mut shared.stores);
        for store in stores {
            if drops.iter().any(|drop| store.meets(drop)) {
                shared.counts.withdrawn += 1;
                shared.stores_done += 1;
                shared.given_up(&store);
            } else {
                shared.stores.push_back(store);
            }
        }
    }
}

impl Dropping {
    /// Pages of a drop.
    fn pages(&self, at: usize) -> std::ops::Range<usize> {
        match self.drops[at] {
            Drop::Pages { off, len: 0, .. } => page_of(off)..PAGES,
            Drop::Pages { off, len, .. } => page_of(off)..page_of(off + len),
            Drop::Attributes(_) => 0..0,
        }
    }

    /// Attributes first, then page by page.
    fn begin(&mut self, shared: &mut Shared, at: usize) {
        let mut first = PAGES;
        if let Some(drop) = self.drops.get(at) {
            let (node, pages) = (node_of(drop), self.pages(at));
            if let (Drop::Attributes(_), Some(file)) = (drop, shared.file(node)) {
                file.let_size();
            }
            shared.kernel.drop_begins(node);
            let next = shared.kernel.next_page(node, pages.start);
            first = next.unwrap_or(PAGES);
            shared.say(|| format!("  drops {drop:?}"));
        }
        self.place = Some((at, first));
        if self.drops.get(at).is_some() && !self.pages(at).contains(&first) {
            // Nothing of it is there; the next step goes on.
            self.place = Some((at, PAGES));
        }
    }
}

/// Stores.
impl Notifier {
    pub(crate) fn can_store(&self, shared: &Shared) -> bool {
        match &self.storing {
            None => !shared.stores.is_empty(),
            Some(storing) => storing.waits_for(shared).is_none(),
        }
    }

    /// Begins a store, or stores the next page.
    pub(crate) fn store_one(&mut self, shared: &mut Shared) {
        if let Some(storing) = &mut self.storing {
            if !storing.go_on(shared) {
                self.storing = None;
                self.under_way = None;
                shared.stores_done += 1;
            }
            return;
        }
        let store = shared.stores.pop_front().expect("there is one");
        shared.say(|| format!("  {store:?}"));
        match store.clone() {
            Store::Name(node) => {
                shared.kernel.names.retain(|_, named| *named != node);
                shared.stores_done += 1;
            }
            Store::Then(worker, on) => {
                shared.to.push((worker, ToWorker::ReadOn(on)));
                shared.stores_done += 1;
            }
            Store::Pages {
                node,
                off,
                data,
                at,
                others,
            } => {
                let mut storing = Storing::new(node, off, data, at);
                storing.others = others;
                let end = off + storing.data.len() as u64;
                let reaches = shared.file(node).is_none_or(|file| file.may_reach(end));
                if reaches && !shared.is_gone(node) && storing.begin(shared) {
                    (self.storing, self.under_way) = (Some(storing), Some(store));
                } else {
                    shared.stores_done += 1;
                    shared.given_up(&store);
                }
            }
        }
    }

    pub(crate) fn can_keep(&self, shared: &Shared) -> bool {
        let behind = shared.is(Mutant::KeptByStorer) && self.under_way.is_some();
        match self.pieces.front() {
            None => !behind && (self.keeping.is_some() || !shared.keeps.is_empty()),
            Some(storing) => storing.waits_for(shared).is_none(),
        }
    }

    /// Takes what is kept of a file, or stores the next page of it.
    pub(crate) fn keep_one(&mut self, shared: &mut Shared) {
        if let Some(storing) = self.pieces.front_mut() {
            if !storing.go_on(shared) {
                self.pieces.pop_front();
                self.begin_piece(shared);
            }
            return;
        }
        if let Some(keep) = self.keeping.take() {
            if let Some((worker, unique)) = keep.opener {
                shared.to.push((worker, ToWorker::Stored(unique)));
            }
            return;
        }
        let keep = shared.keeps.pop_front().expect("there is one");
        shared.say(|| format!("  {keep:?}"));
        // A STORE behind the end would make the file longer.
        let size = match shared.is(Mutant::KeptBehindEnd) {
            true => u64::MAX,
            false => keep.file.size(),
        };
        let pieces = keep.pieces.iter().map(|(off, data)| {
            let left = usize::try_from(size.saturating_sub(*off)).unwrap_or(usize::MAX);
            (*off, data[..data.len().min(left)].to_vec())
        });
        let pieces: Vec<_> = pieces.filter(|(_, data)| !data.is_empty()).collect();
        for (off, data) in &pieces {
            let pages = page_of(*off)..page_of(*off + data.len() as u64);
            shared.kernel.coming(keep.file.id, pages, 0);
            if off + data.len() as u64 > keep.file.size() {
                let text = format!("{keep:?} makes the file longer");
                shared.fail(What::Kept, text);
            }
        }
        let store = |(off, data)| Storing::new(keep.file.id, off, data, Tid::ZERO);
        self.pieces = pieces.into_iter().map(store).collect();
        self.keeping = Some(keep);
        self.begin_piece(shared);
    }

    fn begin_piece(&mut self, shared: &mut Shared) {
        while let Some(storing) = self.pieces.front_mut() {
            if storing.begin(shared) {
                return;
            }
            self.pieces.pop_front();
        }
    }
}
