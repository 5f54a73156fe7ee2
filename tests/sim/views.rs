//! What each client sees, held against the database as of its `at` (I4).

use crate::client::{Client, Life};
use crate::data::PAGE;
use crate::kernel::{Op, Page, Request};
use crate::shared::{Shared, What};
use std::time::Duration;
use zring::base::{Rev, Tid};

/// A page of a file as of a state; nothing behind its end.
fn page(content: &[u8], page: usize) -> Option<&[u8]> {
    content.get(page * PAGE..(page + 1) * PAGE)
}

impl Shared {
    /// Whatever a client can read without a READ being sent is as of its `at`.
    pub(crate) fn check_views(&mut self) {
        let wrong = self.clients.values().find_map(|c| self.wrong_view(c));
        if let Some(text) = wrong {
            self.fail(What::View, text);
        }
    }

    fn wrong_view(&self, client: &Client) -> Option<String> {
        for (&file, view) in &client.views {
            let Some(at) = client.promised(view) else {
                continue;
            };
            let (content, blksize) = (self.data.content(file, at), self.data.blksize(file));
            let pages_of = usize::try_from(blksize).unwrap() / PAGE;
            for blk in 0..content.len() / PAGE / pages_of {
                let node = match view.map.get(&(blk as u64)) {
                    None => Some(view.node),
                    Some(&rev) => self.kernel.names.get(&(Rev::At(rev), file)).copied(),
                };
                let inode = node.and_then(|node| self.kernel.inodes.get(&node));
                let Some(inode) = inode else { continue };
                for at_page in blk * pages_of..(blk + 1) * pages_of {
                    let Page::Cached(bytes) = &inode.pages[at_page] else {
                        continue;
                    };
                    let is_there = ((at_page + 1) * PAGE) as u64 <= inode.size;
                    if is_there && page(content, at_page) != Some(&bytes[..]) {
                        let rev = view.map.get(&(blk as u64));
                        return Some(format!(
                            "{client:?} sees file {file} @{at}, block {blk} from {rev:?}, page {at_page} otherwise"
                        ));
                    }
                }
            }
        }
        None
    }

    /// A READ is answered: what it shows is pinned wherever something else is seen.
    pub(crate) fn check_pinned(&mut self, request: &Request, data: &[u8]) {
        let Op::Read { first, .. } = request.op else {
            return;
        };
        // What goes past the page cache no mapping shows.
        let is_past = self.kernel.direct.get(&request.unique) == Some(&false);
        if request.rev != Rev::Head || is_past {
            return;
        }
        for client in self.clients.values() {
            let Some(view) = client.views.get(&request.file) else {
                continue;
            };
            let Some(at) = client.promised(view).filter(|_| view.node == request.node) else {
                continue;
            };
            let content = self.data.content(request.file, at);
            for (i, bytes) in data.chunks_exact(PAGE).enumerate() {
                let blk = ((first + i) * PAGE) as u64 / self.data.blksize(request.file);
                let differs = page(content, first + i).is_some_and(|seen| seen != bytes);
                if differs && !view.map.contains_key(&blk) {
                    let unique = request.unique;
                    let text = format!("READ {unique} shows block {blk} to {client:?}");
                    return self.fail(What::View, text);
                }
            }
        }
    }

    /// A pin is needed, and shows what is seen as of one of these.
    pub(crate) fn check_pin(&mut self, (file, blk): (usize, u64), rev: Rev, ats: &[Tid]) {
        let Rev::At(rev) = rev else { return };
        if !ats.iter().any(|&at| self.is_pin((file, blk), rev, at)) {
            let changes: Vec<u64> = (1..=self.published.0)
                .filter(|&tid| self.may_differ(file, blk, (Tid(tid - 1), Tid(tid))))
                .collect();
            let text = format!(
                "block {blk} of file {file} is pinned to {rev} for {ats:?}; it changed at {changes:?}"
            );
            self.fail(What::Pin, text);
        }
    }

    fn is_pin(&self, (file, blk): (usize, u64), rev: Tid, at: Tid) -> bool {
        let blksize = usize::try_from(self.data.blksize(file)).unwrap();
        let from = usize::try_from(blk).unwrap() * blksize;
        let block = |tid| self.data.content(file, tid).get(from..from + blksize);
        // Behind the end nobody looks.
        let is_same = rev <= at && (block(at).is_none() || block(rev) == block(at));
        is_same && self.may_differ(file, blk, (at, self.published))
    }

    /// Whether a block changed in `(lo, hi]`, or the file became another one.
    pub(crate) fn may_differ(&self, file: usize, blk: u64, (lo, hi): (Tid, Tid)) -> bool {
        (lo.0 + 1..=hi.0).any(|tid| {
            let changes = self.data.changes(file, Tid(tid));
            changes.epoch || changes.blocks.contains(&blk)
        })
    }

    /// The revision that the history gives for a block as of `at` is the one that the protocol names.
    pub(crate) fn check_rev(&mut self, file: usize, blk: u64, (tail, at): (Tid, Tid), rev: Tid) {
        let spans = |tid: &u64| self.data.changes(file, Tid(*tid)).epoch;
        if (tail.0 + 1..=self.published.0).any(|tid| spans(&tid)) {
            return;
        }
        let changed = |tid: &u64| self.data.changes(file, Tid(*tid)).blocks.contains(&blk);
        let end = usize::try_from(blk * self.data.blksize(file)).unwrap();
        let reaches = |tid: u64| self.data.content(file, Tid(tid)).len() > end;
        let last = (tail.0 + 1..=at.0).rev().find(changed);
        let is_seen = reaches(at.0);
        let first = || (tail.0..=at.0).find(|&tid| reaches(tid) || !is_seen);
        // One that fell behind the end and came back as a hole is seen where it came back.
        let back = last.and_then(|last| (last..=at.0).find(|&tid| reaches(tid) || !is_seen));
        let want = last.and(back).or_else(first).map(Tid);
        if want != Some(rev) {
            let text = format!(
                "block {blk} of file {file} @{at}: {rev}, not {want:?}; the history begins at {tail}"
            );
            self.fail(What::Pin, text);
        }
    }

    /// Clients that a READ of these blocks may wait for: some of them changed for one after what it sees, and it is not gone.
    pub(crate) fn awaited(&self, file: usize, blks: &[u64]) -> Vec<u64> {
        let waits = |client: &&Client| {
            let sees = client.views.get(&file).map(|view| {
                let asked = view.asked.and_then(|(_, at)| at);
                let ats = view.at.into_iter().chain(asked);
                let span = ats.min().map(|at| (at, self.published));
                span.is_some_and(|span| blks.iter().any(|&b| self.may_differ(file, b, span)))
            });
            sees == Some(true)
        };
        let clients = self.clients.iter().filter(|(_, client)| waits(client));
        clients.map(|(&id, _)| id).collect()
    }

    /// A READ is refused: only when the history began anew behind what somebody sees.
    pub(crate) fn check_refused(&mut self) {
        self.counts.unread += 1;
        if self.anew_at == Tid::ZERO {
            self.fail(What::Refused, "a READ is refused".to_owned());
        }
    }

    /// How far time may go: good clients answer in time, and what is killed is dead before long.
    pub(crate) fn time_limit(&self) -> Duration {
        let now = self.now;
        let mut limit = now + self.timeout * 10;
        for client in self.clients.values() {
            if client.is_good() {
                limit = limit.min(client.quiet_at + self.timeout / 2);
            } else if matches!(client.life, Life::Doomed | Life::Exits) {
                limit = limit.min(now);
            }
        }
        limit
    }
}
