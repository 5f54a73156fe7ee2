//! Links of users other than the mount's owner, and links in the hands of others than those who opened them (protocol 12, 13).

use super::isolation::{Action, Caller, Errno, Isolation, LinkId, Outside};
use super::link::{Link, Paused};
use super::quota::Uid;
use crate::base::limit::{LINK_PAUSED_MAX, WATCH_LINE_BYTES_MAX};
use crate::base::{BlkNo, Oid};
use crate::wire::watch;
use std::time::Instant;

/// What they have.
impl Isolation {
    fn links_of(&self, user: Uid) -> impl Iterator<Item = &Link> {
        let links = self.links.values();
        links.filter(move |link| link.user == Some(user))
    }

    pub(super) fn watches_of(&self, user: Uid) -> usize {
        self.links_of(user).map(|link| link.watches.len()).sum()
    }

    /// Whether so many more blocks may be pinned for a user. Its blocks are counted only when all there are would be too many for one.
    pub(super) fn may_pin(&self, user: Uid, more: usize) -> bool {
        let max = self.rules.others.pinned;
        let watches = || self.links_of(user).flat_map(|link| link.watches.values());
        self.counts.pinned + more <= max
            || watches().map(|watch| watch.count()).sum::<usize>() + more <= max
    }

    pub(super) fn is_pinned(&self, id: LinkId, oid: Oid, blk: BlkNo) -> bool {
        let watch = self.links.get(&id).and_then(|link| link.watches.get(&oid));
        watch.is_some_and(|watch| watch.knows(blk))
    }
}

/// What waits until they may ask for more.
impl Isolation {
    pub(super) fn is_in_debt(&self, id: LinkId, now: Instant) -> bool {
        let user = self.links.get(&id).and_then(|link| link.user);
        let until = user.and_then(|user| self.users.get(user)?.in_debt_until());
        until.is_some_and(|until| until > now)
    }

    /// Whether somebody waits for what a client writes here: answers to pins alone, and no part of a line before or behind them.
    pub(super) fn is_answer(&self, id: LinkId, bytes: &[u8]) -> bool {
        let is_answer = |line| {
            let stream = watch::frame(line).map(|(stream, _)| stream);
            stream.is_ok_and(|stream| !stream.is_clients())
        };
        let link = self.links.get(&id);
        link.is_some_and(|link| link.lines.is_empty())
            && bytes.ends_with(b"\n")
            && bytes.split_inclusive(|&c| c == b'\n').all(is_answer)
    }

    /// Whether a client writes answers to pins that it was told of, and nothing else: to hear them needs nothing from outside.
    pub fn is_acks(&self, id: LinkId, bytes: &[u8]) -> bool {
        let Some(link) = self.links.get(&id).filter(|link| link.is_up()) else {
            return false;
        };
        let is_ack = |line| {
            let framed = watch::frame(line);
            framed
                .is_ok_and(|(stream, message)| message == b"ack" && link.open.contains_key(&stream))
        };
        self.is_answer(id, bytes) && bytes.split_inclusive(|&c| c == b'\n').all(is_ack)
    }

    pub(super) fn pause(&mut self, id: LinkId, caller: Caller, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.paused.len() >= LINK_PAUSED_MAX {
            let wrote = Action::Wrote(caller, Err(Errno::Busy));
            return self.actions.push(wrote);
        }
        // The caller writes the rest when this was taken.
        let bytes = bytes[..bytes.len().min(WATCH_LINE_BYTES_MAX)].to_vec();
        link.paused.push_back(Paused { caller, bytes });
        self.pausing.insert(id);
    }

    /// Time passed: what may go on does.
    pub(super) fn go_on(&mut self, outside: &mut dyn Outside, now: Instant) {
        let pausing: Vec<LinkId> = self.pausing.iter().copied().collect();
        for id in pausing {
            while !self.is_in_debt(id, now) {
                let link = self.links.get_mut(&id);
                let Some(Paused { caller, bytes }) = link.and_then(|link| link.paused.pop_front())
                else {
                    self.pausing.remove(&id);
                    break;
                };
                self.take(id, caller, &bytes, outside, now);
            }
        }
        self.proceed(outside, now);
    }

    /// The caller of a write that waits was signalled.
    pub(super) fn interrupt_paused(&mut self, caller: Caller) {
        for id in &self.pausing {
            let Some(link) = self.links.get_mut(id) else {
                continue;
            };
            let before = link.paused.len();
            link.paused.retain(|paused| paused.caller != caller);
            if link.paused.len() < before {
                let wrote = Action::Wrote(caller, Err(Errno::Interrupted));
                return self.actions.push(wrote);
            }
        }
    }

    /// The link ends: nothing that waits is taken.
    pub(super) fn refuse_paused(&mut self, id: LinkId) {
        self.pausing.remove(&id);
        if let Some(link) = self.links.get_mut(&id) {
            let refused = link.paused.drain(..);
            let wrote = refused.map(|paused| Action::Wrote(paused.caller, Err(Errno::Reset)));
            self.actions.extend(wrote);
        }
    }
}

/// Links in other hands.
impl Isolation {
    /// A process that did not open a link uses it: what it sees is not kept as it was. Whether that is refused.
    pub fn inherited(
        &mut self,
        id: LinkId,
        process: u32,
        outside: &mut dyn Outside,
        now: Instant,
    ) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return false;
        };
        if !link.is_inherited {
            link.is_inherited = true;
            self.counts.inherited += 1;
            let text = format!(
                "its link is used by thread {process} of another process, for which nothing is pinned"
            );
            self.actions.push(Action::Log(id, text));
        }
        if self.rules.is_strict {
            let why = "used by a process that did not open it";
            self.broken(id, &why, outside, now);
        }
        self.rules.is_strict
    }

    /// A use of a link is refused.
    pub fn refuse_use(&mut self, caller: Caller, writes: bool) {
        let errno = Errno::Foreign;
        let refused = match writes {
            true => Action::Wrote(caller, Err(errno)),
            false => Action::Read(caller, Err(errno)),
        };
        self.actions.push(refused);
    }
}
