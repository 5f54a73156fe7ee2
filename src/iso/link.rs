//! One open of `head/watch`.
//!
//! ```text
//!          bye, closed, broken                  closed
//!   Up -----------------------------> Ended --------------> (gone)
//!    \                                  ^                      ^
//!     \  a pin failed                   | its client is gone   | the same, after it was closed
//!      +---------------> Dying ---------+----------------------+
//! ```

use super::death::Death;
use super::isolation::Caller;
use super::outbox::Outbox;
use super::quota::Uid;
use super::watch::Watch;
use crate::base::limit::LINK_WITHDRAWN_MAX;
use crate::base::{BlkNo, Oid, Rev, Tid};
use crate::wire::watch::{Lines, Stream};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// What a link is.
#[derive(Debug)]
pub enum State {
    /// Open both ways.
    Up,
    /// The client failed: what it may see must not change until it is gone.
    Dying(Death),
    /// Nothing comes from it, and nothing is promised any more.
    Ended,
}

/// A watch request that is not begun.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Its exchange.
    pub stream: Stream,
    /// The file.
    pub oid: Oid,
    /// `None` to watch it no longer.
    pub at: Option<Tid>,
    /// Whether the answer names the size.
    pub size: bool,
}

/// A pin that the client has to answer.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// The file.
    pub oid: Oid,
    /// The block.
    pub blk: BlkNo,
    /// Where it is to be mapped from.
    pub rev: Rev,
    /// When it is too late.
    pub deadline: Instant,
    /// The file is not watched any more: nobody waits for the answer.
    pub is_moot: bool,
}

/// A write that is not taken yet.
#[derive(Debug)]
pub struct Paused {
    /// Whose.
    pub caller: Caller,
    /// What of it will be taken.
    pub bytes: Vec<u8>,
}

/// Pins under way that are not worth giving back.
const SMALL: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Link {
    /// Whose it is; `None` for the mount's owner.
    pub user: Option<Uid>,
    /// What it is.
    pub state: State,
    /// Bytes that came.
    pub lines: Lines,
    /// Bytes to go.
    pub outbox: Outbox,
    /// Files it watches.
    pub watches: BTreeMap<Oid, Watch>,
    /// Requests not begun, in order.
    pub requests: VecDeque<Waiting>,
    /// All of these lie ahead of head: the first of them is to be looked at then.
    pub ahead: Option<Tid>,
    /// Pins to be answered.
    pub open: FxHashMap<Stream, Open>,
    /// Pins that nobody waits for, and that were not answered in time: there is no hurry.
    pub withdrawn: BTreeSet<Stream>,
    /// Pins of watch requests that are told when others are answered.
    pub unsent: VecDeque<(Oid, BlkNo)>,
    /// READs that wait until the client is gone.
    pub stuck: Vec<u64>,
    /// Writes that wait until its user may ask for more.
    pub paused: VecDeque<Paused>,
    /// Somebody who did not open it used it.
    pub is_inherited: bool,
    /// It did not answer in time.
    pub is_late: bool,
    /// Why its client is dying.
    pub why: String,
    /// Whether its client closed it.
    pub is_closed: bool,
    /// What is left to read is read until then, or not at all.
    pub flush: Option<Instant>,
    last: Stream,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            user: None,
            state: State::Up,
            lines: Lines::default(),
            outbox: Outbox::default(),
            watches: BTreeMap::new(),
            requests: VecDeque::new(),
            ahead: None,
            open: FxHashMap::default(),
            withdrawn: BTreeSet::new(),
            unsent: VecDeque::new(),
            stuck: Vec::new(),
            paused: VecDeque::new(),
            is_inherited: false,
            is_late: false,
            why: String::new(),
            is_closed: false,
            flush: None,
            last: Stream::CONTROL,
        }
    }
}

impl Link {
    /// A new one; see [`Self::user`].
    pub fn of(user: Option<Uid>) -> Self {
        Self {
            user,
            ..Self::default()
        }
    }

    /// Whether requests are heard.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// The pin that its client has to answer first, if it has to.
    pub fn owes(&self) -> Option<Open> {
        let owed = self.open.values().filter(|open| !open.is_moot);
        owed.min_by_key(|open| open.deadline).copied()
    }

    /// A pin that nobody waits for is not answered in time: it may be later.
    pub fn withdraw(&mut self, stream: Stream) {
        self.open.remove(&stream);
        self.withdrawn.insert(stream);
        if self.withdrawn.len() > LINK_WITHDRAWN_MAX {
            self.withdrawn.pop_first();
        }
    }

    /// Gives back what many pins under way took, when they are answered: a link at rest weighs little.
    pub fn rest(&mut self) {
        if self.open.is_empty() && self.unsent.is_empty() && self.open.capacity() > SMALL {
            self.open = FxHashMap::default();
            self.unsent = VecDeque::new();
            self.outbox.rest();
        }
    }

    /// A number for an exchange that the server begins.
    pub fn next_stream(&mut self) -> Stream {
        loop {
            self.last = self.last.next();
            let is_open = self.open.contains_key(&self.last) || self.withdrawn.contains(&self.last);
            if self.last != Stream::CONTROL && !is_open {
                return self.last;
            }
        }
    }

    /// The requests that can begin now, each file's first: others of it wait for that, and what lies ahead of head waits too, and what
    /// is of a file that is not `complete`, and what is new unless something `new` may begin.
    pub fn take_ready(
        &mut self,
        shown: Tid,
        new: bool,
        complete: &mut dyn FnMut(Oid) -> bool,
    ) -> Option<Waiting> {
        if self.ahead.is_some_and(|at| at > shown) {
            return None;
        }
        let mut at = 0;
        let ready = loop {
            let Some(request) = self.requests.get(at) else {
                // Whatever else they wait for, before that nothing of it matters.
                let all = self.requests.iter().map(|request| request.at);
                self.ahead = all.min().flatten().filter(|&at| at > shown);
                return None;
            };
            let may_begin = new || self.watches.contains_key(&request.oid);
            let can_tell = |tid| tid <= shown && may_begin && complete(request.oid);
            let is_ready = request.at.is_none_or(can_tell);
            let is_first = |other: &Waiting| other.oid != request.oid;
            let running = self.watches.get(&request.oid);
            let running = running.is_some_and(|watch| watch.setup.is_some());
            if is_ready && !running && self.requests.iter().take(at).all(is_first) {
                break at;
            }
            at += 1;
        };
        self.requests.remove(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_link_at_rest_has_no_room_for_pins() {
        let mut link = Link::default();
        let open = Open {
            oid: Oid(1),
            blk: BlkNo(1),
            rev: Rev::Head,
            deadline: Instant::now(),
            is_moot: false,
        };
        for _ in 0..1000 {
            let stream = link.next_stream();
            link.open.insert(stream, open);
            link.unsent.push_back((Oid(1), BlkNo(1)));
        }
        link.unsent.clear();
        link.rest();
        assert_eq!(link.open.len(), 1000);
        link.open.clear();
        link.rest();
        assert_eq!((link.open.capacity(), link.unsent.capacity()), (0, 0));
    }
}
