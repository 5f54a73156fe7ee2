//! `head/watch` and pins, as a worker has them in `engine::watching`.
//!
//! What lies between the notes of an answer and the look whether its file is watched is a step of its own, now and then: control may
//! begin a watch in between (`Half`).

use crate::client::Told;
use crate::kernel::{Op, Outcome, Request};
use crate::links::{OfLink, tell};
use crate::mutant::Mutant;
use crate::shared::{Shared, ToControl};
use crate::store::Store;
use crate::worker::{Job, Task, Worker};
use std::sync::Arc;
use zring::base::{BlkNo, Rev, Tid, Unique};
use zring::fs::cache::Kept;
use zring::fs::meeting::ReadOn;
use zring::fs::read::{self, Info};
use zring::fs::track::Note;
use zring::fs::tree::FileNode;
use zring::iso::{Caller, Errno, LinkId};
use zring::zodb::bigfile;
use zring::zodb::need::{Ask, Step};

/// A READ whose bytes are in place, until they may be shown.
#[derive(Debug)]
pub(crate) struct Pinning {
    pub(crate) request: Request,
    pub(crate) file: Arc<FileNode>,
    pub(crate) blks: Vec<BlkNo>,
    data: Vec<u8>,
    /// The state it is made of.
    at: Tid,
}

#[derive(Debug)]
struct Storing {
    number: u64,
    state: u64,
    stores: Vec<Store>,
}

/// An answer that is noted; whether its file is watched is not looked at yet.
#[derive(Debug)]
pub(crate) struct Half {
    task: Task,
    outcome: Outcome,
    stores: Vec<Store>,
    /// For a mutant: what was looked at already, and what is noted only now.
    blks: Option<Vec<BlkNo>>,
    notes: Vec<Note>,
    /// Much happens before it goes on.
    pub(crate) is_slow: bool,
}

impl Half {
    fn file(&self, shared: &Shared) -> Option<usize> {
        let (Job::Read { file, .. } | Job::Store { file, .. }) = &self.task.job else {
            return None;
        };
        shared.data.file(file.oid).filter(|_| file.rev == Rev::Head)
    }
}

const OWN: u64 = 1 << 63;

/// As in `engine::watching`.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    pub(crate) links: Vec<(u64, Request)>,
    pub(crate) pinning: Vec<Pinning>,
    storing: Vec<Storing>,
    numbers: u64,
    pub(crate) half: Option<Half>,
    /// Notes of the step under way, for a mutant.
    pub(crate) notes: Vec<Note>,
    /// Pages that the step under way made.
    pub(crate) made: Vec<Store>,
}

impl Pinning {
    /// What was noted is not given.
    fn fail(self, shared: &mut Shared) {
        let Op::Read { first, count } = self.request.op else {
            unreachable!("only READs are pinned")
        };
        let (node, pages) = (self.request.node, first..first + count);
        let others = shared.kernel.others.remove(&self.request.unique);
        let others = others.unwrap_or(0);
        shared.kernel.coming(node, pages.clone(), others);
        shared.kernel.lose(node, pages, self.at, others);
        shared.answer(self.request, Outcome::Failed, self.at);
    }
}

impl Watching {
    /// Whether pages are held back.
    pub(crate) fn holds_stores(&self) -> bool {
        !self.storing.is_empty() || self.half.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pinning.is_empty() && self.storing.is_empty() && self.half.is_none()
    }
}

/// Links.
impl Worker {
    fn caller(&self, unique: u64) -> Caller {
        let (worker, unique) = (self.index, Unique(unique));
        Caller { worker, unique }
    }

    fn tell_links(shared: &mut Shared, what: OfLink) {
        shared.to_control.push_back(ToControl::OfLink(what));
    }

    /// Takes a request on `head/watch`.
    pub(crate) fn link_request(&mut self, shared: &mut Shared, request: Request) {
        let caller = self.caller(request.unique);
        match request.op {
            Op::LinkOpen { client } => {
                shared.links += 1;
                let link = shared.links;
                Self::tell_links(shared, OfLink::Opened(LinkId(link), client));
                if let Some(client) = shared.clients.get_mut(&client) {
                    client.tell(Told::Opened(link));
                }
            }
            Op::LinkRead { link, room } => {
                self.watching.links.push((link, request));
                Self::tell_links(shared, OfLink::Read(LinkId(link), caller, room));
            }
            Op::LinkWrite { link } => {
                let bytes = request.data.clone();
                self.watching.links.push((link, request));
                Self::tell_links(shared, OfLink::Write(LinkId(link), caller, bytes));
            }
            Op::LinkClose { link } => {
                Self::tell_links(shared, OfLink::Closed(LinkId(link)));
            }
            op => unreachable!("{op:?} is not of a link"),
        }
    }

    fn take_link(&mut self, unique: u64) -> Option<u64> {
        let links = &mut self.watching.links;
        let at = links.iter().position(|(_, r)| r.unique == unique)?;
        Some(links.swap_remove(at).0)
    }

    pub(crate) fn link_read(
        &mut self,
        shared: &mut Shared,
        unique: u64,
        result: Result<Vec<u8>, Errno>,
    ) {
        if let Some(link) = self.take_link(unique) {
            tell(shared, link, Told::Read(result));
        }
    }

    pub(crate) fn link_wrote(&mut self, shared: &mut Shared, unique: u64) {
        if let Some(link) = self.take_link(unique) {
            tell(shared, link, Told::Wrote);
        }
    }

    /// The caller of a request was signalled: whether it is one of these.
    pub(crate) fn interrupt_link(&mut self, shared: &mut Shared, unique: u64) -> bool {
        if self.watching.links.iter().any(|(_, r)| r.unique == unique) {
            Self::tell_links(shared, OfLink::Interrupted(self.caller(unique)));
            return true;
        }
        let pinning = &mut self.watching.pinning;
        let Some(at) = pinning.iter().position(|p| p.request.unique == unique) else {
            return false;
        };
        let pinning = pinning.swap_remove(at);
        shared.counts.interrupted += 1;
        pinning.fail(shared);
        true
    }
}

/// Pins.
impl Worker {
    /// An answer is made and noted.
    pub(crate) fn made(&mut self, shared: &mut Shared, task: Task, outcome: Outcome) {
        let late = shared.is(Mutant::NotedAfterWatched);
        let mut half = Half {
            blks: None,
            notes: std::mem::take(&mut self.watching.notes),
            stores: std::mem::take(&mut self.watching.made),
            task,
            outcome,
            is_slow: shared.rng.one_in(2),
        };
        if late {
            half.blks = Some(self.unpinned(shared, &half));
        }
        if shared.rng.one_in(4) {
            shared.halves.extend(half.file(shared));
            self.watching.half = Some(half);
        } else {
            self.look(shared, half);
        }
    }

    /// Goes on where it stopped.
    pub(crate) fn go_on(&mut self, shared: &mut Shared) {
        let half = self.watching.half.take().expect("there is one");
        if let Some(file) = half.file(shared) {
            let at = shared.halves.iter().position(|&of| of == file);
            shared.halves.swap_remove(at.expect("it was put there"));
        }
        self.look(shared, half);
        self.run_ready(shared);
    }

    fn look(&mut self, shared: &mut Shared, mut half: Half) {
        for note in half.notes.drain(..) {
            shared.note(self.index, note);
        }
        let blks = half.blks.take();
        let blks = blks.unwrap_or_else(|| self.unpinned(shared, &half));
        let Half {
            task,
            outcome,
            stores,
            ..
        } = half;
        match (task.job, task.held, outcome) {
            (Job::Read { file, .. }, Some(request), Outcome::Data(data)) => {
                let at = self.at;
                let pinning = Pinning {
                    request,
                    file,
                    blks,
                    data,
                    at,
                };
                if pinning.blks.is_empty() {
                    self.read_ready(shared, pinning);
                } else {
                    self.pin_first(shared, pinning);
                }
            }
            (Job::Store { file, of, .. }, None, _) => {
                if blks.is_empty() || shared.is(Mutant::StoreNotHeld) {
                    self.store_pages(shared, stores, of.then);
                } else {
                    self.store_pinned(shared, &file, stores, blks);
                }
            }
            (job, ..) => unreachable!("{job:?}"),
        }
    }

    /// Blocks of an answer that somebody may see as something else.
    fn unpinned(&self, shared: &Shared, half: &Half) -> Vec<BlkNo> {
        let (file, off, len) = match &half.task.job {
            Job::Read { file, off, len, .. } => (file, *off, *len),
            Job::Store { file, ranges, .. } => {
                let (off, end) = (ranges[0].start, ranges[ranges.len() - 1].end);
                (file, off, usize::try_from(end - off).unwrap())
            }
            job => unreachable!("{job:?}"),
        };
        let Some(info) = self.infos.get(&file.id) else {
            return Vec::new();
        };
        let len = match shared.is(Mutant::BeyondNotAsked) {
            true => read::clip(off, len, info.size),
            false => len,
        };
        self.newer(&half.task, file, info, (off, len))
    }

    fn newer(
        &self,
        task: &Task,
        file: &FileNode,
        info: &Info,
        (off, len): (u64, usize),
    ) -> Vec<BlkNo> {
        let Some(after) = file.watched().filter(|_| file.rev == Rev::Head) else {
            return Vec::new();
        };
        let hand = self.at_hand(task);
        let serial = |oid| match hand.kept(oid) {
            Some(Kept::Object(_, serial) | Kept::Raw(_, serial)) => *serial,
            _ => Tid::MAX,
        };
        let (mut needs, mut path) = (Vec::new(), Vec::new());
        let mut found = Vec::new();
        for piece in read::pieces(info.file.blksize.0, off, len) {
            let mut ask = Ask::new(&hand, &mut needs);
            let place = bigfile::locate_path(&mut ask, &info.file, piece.blk, &mut path);
            let newest = match place {
                Ok(Step::Done(place)) => {
                    let nodes = path.iter().map(|node| node.oid);
                    let block = place.block.map(|entry| entry.oid);
                    nodes.chain(block).map(serial).max().unwrap_or(Tid::MAX)
                }
                _ => Tid::MAX,
            };
            if newest > after {
                found.push(piece.blk);
            }
        }
        found
    }

    /// A READ may be answered.
    fn read_ready(&mut self, shared: &mut Shared, pinning: Pinning) {
        let Pinning {
            request, data, at, ..
        } = pinning;
        shared.answer(request, Outcome::Data(data), at);
    }

    fn pin_first(&mut self, shared: &mut Shared, pinning: Pinning) {
        let (oid, blks) = (pinning.file.oid, pinning.blks.clone());
        let ask = OfLink::Ask(self.caller(pinning.request.unique), oid, blks);
        Self::tell_links(shared, ask);
        shared.counts.asks += 1;
        if shared.is(Mutant::PinsNotAwaited) {
            return self.read_ready(shared, pinning);
        }
        self.watching.pinning.push(pinning);
    }

    fn store_pinned(
        &mut self,
        shared: &mut Shared,
        file: &FileNode,
        stores: Vec<Store>,
        blks: Vec<BlkNo>,
    ) {
        self.watching.numbers += 1;
        let (number, state) = (OWN | self.watching.numbers, self.taken);
        self.watching.storing.push(Storing {
            number,
            state,
            stores,
        });
        shared.counts.held_back += 1;
        Self::tell_links(shared, OfLink::Ask(self.caller(number), file.oid, blks));
    }

    /// What was asked for is pinned; or it cannot be told.
    pub(crate) fn granted(&mut self, shared: &mut Shared, unique: u64, granted: bool) {
        let storing = &mut self.watching.storing;
        if let Some(at) = storing.iter().position(|s| s.number == unique) {
            let storing = storing.swap_remove(at);
            let lasts = storing.state == self.taken || shared.is(Mutant::HeldStoreGoesOn);
            if granted && lasts {
                self.store_pages(shared, storing.stores, None);
            } else {
                shared.counts.held_given_up += 1;
                storing
                    .stores
                    .iter()
                    .for_each(|store| shared.given_up(store));
            }
            return;
        }
        let pinning = &mut self.watching.pinning;
        let Some(at) = pinning.iter().position(|p| p.request.unique == unique) else {
            return;
        };
        let pinning = pinning.swap_remove(at);
        if granted {
            return self.read_ready(shared, pinning);
        }
        shared.check_refused();
        pinning.fail(shared);
    }

    fn store_pages(&mut self, shared: &mut Shared, stores: Vec<Store>, then: Option<ReadOn>) {
        for store in stores {
            if shared.is(Mutant::LateStore) {
                self.late_stores.push(store);
            } else {
                shared.push(store);
            }
        }
        shared.counts.stores += 1;
        if let Some(on) = then {
            let is_first = false;
            shared.push(Store::Then(self.index, ReadOn { is_first, ..on }));
        }
    }

    pub(crate) fn forget_storing(&mut self, ids: &[zring::base::NodeId]) {
        self.watching.storing.retain(|storing| {
            !storing.stores.iter().any(|store| match store {
                Store::Pages { node, .. } => ids.contains(node),
                Store::Name(_) | Store::Then(..) => false,
            })
        });
    }
}
