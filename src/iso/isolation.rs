//! All links, and what READs wait for them.
//!
//! Events are methods, each followed by [`Isolation::drain`]: what is to be done, in order. What has to be known at once (the history, whether
//! a client lives) is asked of an [`Outside`]. A request that needs the history while that cannot tell waits in `asks` or with its
//! link, and goes on with [`Isolation::proceed`].

use super::death::LOOK_EVERY;
use super::link::{Link, State, Waiting};
use super::quota::{Rules, Uid, User, Users};
use super::watch::Waiter;
use crate::base::limit::{LINK_REQUESTS_BYTES_MAX, LINK_REQUESTS_MAX};
use crate::base::{BlkNo, Oid, Tid, Unique};
use crate::wire::quote::quoted;
use crate::wire::watch::{self, Message, Request, Stream};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::time::{Duration, Instant};

/// Number of a link, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A request that a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// Which worker.
    pub worker: usize,
    /// Its number.
    pub unique: Unique,
}

/// How a client is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It reads what it must not.
    Bus,
    /// It did not heed that.
    Kill,
}

/// Why nobody can tell what changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The file was never looked up.
    #[error("file not yet known to wcfs or is not a ZBigFile")]
    File,
    /// It was another one in between.
    #[error("file epoch detected @{0}")]
    Epoch(Tid),
    /// The database says so.
    #[error("{0}")]
    Database(String),
}

/// What isolation asks, and is told at once.
pub trait Outside {
    /// The oldest state that the history has.
    fn tail(&self) -> Tid;
    /// The newest state that a READ may be answered from, if nothing is being published.
    fn head(&self) -> Option<Tid>;
    /// READs of a file have to ask about what changed after this, from now on: `None` for nothing.
    fn watch(&mut self, oid: Oid, after: Option<Tid>);
    /// Whether a file was looked up.
    fn knows(&mut self, oid: Oid) -> bool;
    /// Whether the history knows of all that the kernel may hold of a file: not while its pages go because nobody could tell.
    fn is_complete(&mut self, oid: Oid) -> bool;
    /// Blocks read through head that changed in `(at, head]`, each with the revision that shows it as of `at`.
    ///
    /// # Errors
    /// See [`Unknown`].
    fn changes(&mut self, oid: Oid, at: Tid) -> Result<Vec<(BlkNo, Tid)>, Unknown>;
    /// The revision that shows a block as of `at`; `None` if head does.
    ///
    /// # Errors
    /// See [`Unknown`].
    fn revision(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<Option<Tid>, Unknown>;
    /// Bytes of a file as of `at`.
    ///
    /// # Errors
    /// See [`Unknown`].
    fn size(&mut self, oid: Oid, at: Tid) -> Result<u64, Unknown>;
    /// Whether the process of a link has ended: asked for each pin that a READ waits for.
    fn has_ended(&mut self, link: LinkId) -> bool;
    /// Whether the client of a link is there, and not a zombie.
    fn is_alive(&mut self, link: LinkId) -> bool;
    /// Signals it.
    ///
    /// # Errors
    /// Why that is not possible.
    fn signal(&mut self, link: LinkId, signal: Signal) -> Result<(), String>;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A read or write of `head/watch` returns: bytes, or an error number.
    Read(Caller, Result<Vec<u8>, Errno>),
    /// How many bytes were taken.
    Wrote(Caller, Result<usize, Errno>),
    /// A READ of head may be answered; or, if the history could not be asked, not.
    Granted(Caller, bool),
    /// Something an operator wants to know; the client's process is put before it.
    Log(LinkId, String),
    /// The link and its client are of no interest any more.
    Gone(LinkId),
    /// A client that fails cannot be stopped: nobody may read any more.
    Fail,
}

/// Why a request on `head/watch` fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// The caller was signalled.
    Interrupted,
    /// The link has ended.
    Reset,
    /// The link is another process's.
    Foreign,
    /// Too many writes wait already.
    Busy,
}

/// How a pin failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Timeout,
    Nonsense,
    /// The link ended while it was under way.
    Link,
    /// Messages lie unread.
    Unread,
}

#[derive(Debug)]
pub(super) struct Ask {
    pub(super) caller: Caller,
    pub(super) oid: Oid,
    /// Links of which it wants pins, or the end of their clients; some of them more than once.
    pub(super) links: Vec<LinkId>,
    pub(super) left: usize,
    pub(super) failed: bool,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open links.
    pub links: usize,
    /// Files watched, over all links.
    pub watches: usize,
    /// Blocks pinned or under way, over all watches.
    pub pinned: usize,
    /// Pins sent so far.
    pub pins: u64,
    /// Clients killed so far.
    pub kills: u64,
    /// Links used by a process that did not open them, so far.
    pub inherited: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Isolation {
    pub(super) rules: Rules,
    pub(super) users: Users,
    pub(super) links: BTreeMap<LinkId, Link>,
    /// Who watches a file.
    pub(super) files: FxHashMap<Oid, BTreeSet<(Tid, LinkId)>>,
    /// READs that wait for pins.
    pub(super) asks: FxHashMap<u64, Ask>,
    pub(super) asked: u64,
    /// READs that wait until the history can be asked.
    early: VecDeque<(Caller, Oid, Vec<BlkNo>)>,
    /// Links with requests that are not begun.
    pub(super) waiting: BTreeSet<LinkId>,
    /// Links whose client is dying, or that have something to say within a second.
    pub(super) ending: BTreeSet<LinkId>,
    /// Links of which writes wait.
    pub(super) pausing: BTreeSet<LinkId>,
    /// Of pins, the first to be over first: of the owner's clients, and of others.
    pub(super) deadlines: [VecDeque<(Instant, LinkId, Stream)>; 2],
    pub(super) shown: Tid,
    pub(super) actions: Vec<Action>,
    pub(super) counts: Counts,
}

impl Isolation {
    /// `head/at` is `shown`.
    pub fn new(shown: Tid, rules: Rules) -> Self {
        Self {
            rules,
            users: Users::default(),
            links: BTreeMap::new(),
            files: FxHashMap::default(),
            asks: FxHashMap::default(),
            asked: 0,
            early: VecDeque::new(),
            waiting: BTreeSet::new(),
            ending: BTreeSet::new(),
            pausing: BTreeSet::new(),
            deadlines: Default::default(),
            shown,
            actions: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What is to be done.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// Numbers for people.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The oldest state that a client sees: the history reaches back to there.
    pub fn oldest(&self) -> Option<Tid> {
        let oldest = |set: &BTreeSet<(Tid, LinkId)>| set.first().map(|&(at, _)| at);
        self.files.values().filter_map(oldest).min()
    }

    /// The links whose pins a READ waits for; none if it waits for the end of a client, too.
    pub fn waits_for(&self, caller: Caller) -> Vec<LinkId> {
        let mut asks = self.asks.iter().filter(|(_, ask)| ask.caller == caller);
        let Some((&number, ask)) = asks.next() else {
            return Vec::new();
        };
        let (mut found, mut left) = (Vec::new(), ask.left);
        let links: BTreeSet<LinkId> = ask.links.iter().copied().collect();
        for id in links {
            let watch = self
                .links
                .get(&id)
                .and_then(|link| link.watches.get(&ask.oid));
            let steps = watch.map_or(0, |watch| watch.waits(number));
            if steps > 0 {
                found.push(id);
                left -= steps;
            }
        }
        if left > 0 {
            found.clear();
        }
        found
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let first = |of: &VecDeque<(Instant, LinkId, Stream)>| of.front().map(|&(at, ..)| at);
        let pins = self.deadlines.iter().filter_map(first);
        let look = (!self.ending.is_empty()).then(|| now + LOOK_EVERY);
        pins.chain(look).chain(self.users.next(now)).min()
    }
}

/// Events.
impl Isolation {
    /// A client opened `head/watch`: the mount's owner, or another `user`.
    pub fn open(&mut self, id: LinkId, user: Option<Uid>, now: Instant) {
        self.links.insert(id, Link::of(user));
        if let Some(user) = user {
            self.users.opened(user, now);
        }
        self.counts.links += 1;
    }

    /// A client reads.
    pub fn read(&mut self, id: LinkId, caller: Caller, room: usize) {
        match self.links.get_mut(&id) {
            Some(link) => link.outbox.read(caller, room),
            None => self.actions.push(Action::Read(caller, Ok(Vec::new()))),
        }
        self.give(id);
    }

    /// The caller of a read was signalled.
    pub fn interrupt(&mut self, caller: Caller) {
        let mut links = self.links.values_mut();
        if links.any(|link| link.outbox.forget(caller)) {
            let read = Action::Read(caller, Err(Errno::Interrupted));
            self.actions.push(read);
        }
        self.interrupt_paused(caller);
    }

    /// A client writes.
    pub fn write(
        &mut self,
        id: LinkId,
        caller: Caller,
        bytes: &[u8],
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        if !self.links.get(&id).is_some_and(Link::is_up) {
            let wrote = Action::Wrote(caller, Err(Errno::Reset));
            return self.actions.push(wrote);
        }
        if self.is_in_debt(id, now) && !self.is_answer(id, bytes) {
            return self.pause(id, caller, bytes);
        }
        self.take(id, caller, bytes, outside, now);
    }

    /// What a client wrote is heard.
    pub(super) fn take(
        &mut self,
        id: LinkId,
        caller: Caller,
        bytes: &[u8],
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let mut lines = std::mem::take(&mut link.lines);
        let result = lines.add(bytes, |line| self.line(id, line, outside, now));
        if let Some(link) = self.links.get_mut(&id) {
            link.lines = lines;
        }
        if let Err(error) = result {
            self.broken(id, &error, outside, now);
        }
        self.proceed(outside, now);
        self.actions.push(Action::Wrote(caller, Ok(bytes.len())));
    }

    /// A client, or the kernel for it, closed the link.
    pub fn closed(&mut self, id: LinkId, outside: &mut dyn Outside, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.is_closed = true;
        self.counts.links -= 1;
        match link.state {
            State::Up if link.owes().is_some() => self.fail(id, Fault::Link, None, outside, now),
            State::Up => {
                let text = format!("wlink {}: serve rx: unexpected EOF", id.0);
                self.actions.push(Action::Log(id, text));
                self.end(id, outside);
            }
            State::Dying(_) | State::Ended => {}
        }
        self.forget_if_over(id);
    }

    /// `head/at` is `tid`, and what waits for the history may be begun if that can be asked.
    pub fn shown(&mut self, tid: Tid, outside: &mut dyn Outside, now: Instant) {
        self.shown = tid;
        self.proceed(outside, now);
    }

    /// A READ of head that was made ready has blocks of which some watch may see another state.
    pub fn ask(
        &mut self,
        caller: Caller,
        oid: Oid,
        blks: Vec<BlkNo>,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        if !self.files.contains_key(&oid) {
            // The watch that it asks for is over: it waits for nothing, not for the history either.
            return self.look(caller, oid, &blks, outside, now);
        }
        self.early.push_back((caller, oid, blks));
        self.proceed(outside, now);
    }

    /// The states that [`Self::ask`] has to know a file's blocks as of, the oldest first; `None` when it would begin more than that.
    pub fn asks_for(&self, oid: Oid) -> Option<impl Iterator<Item = Tid> + use<'_>> {
        let is_alone = self.early.is_empty() && self.waiting.is_empty();
        let watched = self.files.get(&oid).into_iter().flatten();
        is_alone.then(|| watched.map(|&(at, _)| at))
    }

    /// Whether something waits that [`Self::proceed`] may begin.
    pub fn has_waiting(&self) -> bool {
        !self.early.is_empty() || !self.waiting.is_empty()
    }

    /// READs that wait until the history can be asked, no longer.
    pub(super) fn take_early(&mut self) -> impl Iterator<Item = Caller> + use<> {
        std::mem::take(&mut self.early)
            .into_iter()
            .map(|(caller, ..)| caller)
    }

    /// Nobody watches a file any more: READs of it wait for nothing.
    pub(super) fn let_go(&mut self, oid: Oid) {
        let (free, early) = std::mem::take(&mut self.early)
            .into_iter()
            .partition(|(_, of, _)| *of == oid);
        self.early = early;
        let free: VecDeque<(Caller, Oid, Vec<BlkNo>)> = free;
        let granted = free.into_iter();
        self.actions
            .extend(granted.map(|(caller, ..)| Action::Granted(caller, true)));
    }

    /// Begins what waits for the history, if that can be asked now, and for head.
    pub fn proceed(&mut self, outside: &mut dyn Outside, now: Instant) {
        if outside.head().is_none() {
            return;
        }
        while let Some((caller, oid, blks)) = self.early.pop_front() {
            self.look(caller, oid, &blks, outside, now);
        }
        let waiting: Vec<LinkId> = self.waiting.iter().copied().collect();
        for id in waiting {
            while let Some(request) = self.next_request(id, outside, now) {
                self.begin(id, request, outside, now);
            }
        }
    }

    fn next_request(
        &mut self,
        id: LinkId,
        outside: &mut dyn Outside,
        now: Instant,
    ) -> Option<Waiting> {
        let link = self.links.get_mut(&id)?;
        let user = link.user.and_then(|user| self.users.get(user));
        let new = user.and_then(User::may_begin).is_none_or(|at| at <= now);
        let request = link.take_ready(self.shown, new, &mut |oid| outside.is_complete(oid));
        if link.requests.is_empty() {
            self.waiting.remove(&id);
        }
        request
    }

    /// Some time passed.
    pub fn tick(&mut self, outside: &mut dyn Outside, now: Instant) {
        for of in 0..self.deadlines.len() {
            let first = |of: &VecDeque<(Instant, LinkId, Stream)>| of.front().copied();
            while let Some((at, id, stream)) =
                first(&self.deadlines[of]).filter(|(at, ..)| *at <= now)
            {
                self.deadlines[of].pop_front();
                let open = self.links.get(&id).and_then(|link| link.open.get(&stream));
                // The number may have been given again.
                if let Some(open) = open.filter(|open| open.deadline == at).copied() {
                    self.late(id, stream, open, outside, now);
                }
            }
        }
        let ending: Vec<LinkId> = self.ending.iter().copied().collect();
        for id in ending {
            self.look_at(id, outside, now);
        }
        if !self.users.is_empty() {
            self.go_on(outside, now);
        }
    }
}

/// What clients say.
impl Isolation {
    /// One line; false when no more are heard.
    fn line(&mut self, id: LinkId, line: &[u8], outside: &mut dyn Outside, now: Instant) -> bool {
        match watch::frame(line) {
            Err(error) => self.broken(id, &error, outside, now),
            Ok((stream, message)) if stream.is_clients() => {
                self.request(id, stream, message, outside, now);
            }
            Ok((stream, message)) => self.answer(id, stream, message, outside, now),
        }
        self.links.get(&id).is_some_and(Link::is_up)
    }

    fn request(
        &mut self,
        id: LinkId,
        stream: Stream,
        message: &[u8],
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let user = self.links.get(&id).and_then(|link| link.user);
        if let Some(user) = user.and_then(|user| self.users.get_mut(user)) {
            user.asks(now);
        }
        let (oid, at, size) = match watch::request(message) {
            Ok(Request::Bye) => return self.end(id, outside),
            Ok(Request::Watch { oid, at, size }) => (oid, at, size),
            Err(error) => {
                let why = Message::Error(format!("bad watch: {error}"));
                return self.say(id, stream, &why, outside, now);
            }
        };
        let max = user.map_or(LINK_REQUESTS_BYTES_MAX / size_of::<Waiting>(), |_| {
            LINK_REQUESTS_MAX
        });
        let is_full = |link: &Link| link.requests.len() >= max;
        if self.links.get(&id).is_some_and(is_full) {
            self.proceed(outside, now); // what can be begun makes room
        }
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_up()) else {
            return;
        };
        if is_full(link) {
            return self.broken(id, &"too many requests at once", outside, now);
        }
        let request = Waiting {
            stream,
            oid,
            at,
            size,
        };
        link.requests.push_back(request);
        link.ahead = None;
        self.waiting.insert(id);
    }

    fn answer(
        &mut self,
        id: LinkId,
        stream: Stream,
        message: &[u8],
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let Some(open) = link.open.remove(&stream) else {
            if link.withdrawn.remove(&stream) {
                return;
            }
            let why = format!("{}: reply on unexpected stream", stream.0);
            return self.broken(id, &why, outside, now);
        };
        // Of a file that it does not watch a client may well say that it knows nothing.
        if open.is_moot {
            link.rest();
            // There is room for what waits for another file.
            return self.send_unsent(id, outside, now);
        }
        if message != b"ack" {
            let why = format!("expect \"ack\"; got {}", quoted(message));
            return self.fail(id, Fault::Nonsense, Some((open, why)), outside, now);
        }
        let Some(watch) = link.watches.get_mut(&open.oid) else {
            return self.send_unsent(id, outside, now);
        };
        let before = watch.count();
        let (waiters, more) = watch.answered(open.blk);
        self.counts.pinned -= before - watch.count();
        if more {
            self.send(id, open.oid, open.blk, outside, now);
        }
        self.send_unsent(id, outside, now);
        for waiter in waiters {
            match waiter {
                Waiter::Ask(ask) => self.settle(ask),
                Waiter::Setup => self.step_done(id, open.oid, outside, now),
            }
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.rest();
        }
    }

    /// The client broke the protocol.
    pub(super) fn broken(
        &mut self,
        id: LinkId,
        why: &dyn Display,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_up()) else {
            return;
        };
        let text = format!("wlink {}: serve rx: {why}", id.0);
        self.actions.push(Action::Log(id, text));
        if link.owes().is_some() {
            return self.fail(id, Fault::Link, None, outside, now);
        }
        let message = Message::Broken(why.to_string());
        let _ = link.outbox.push(Stream::CONTROL, &message); // it is the last
        link.flush = Some(now + Duration::from_secs(1));
        self.ending.insert(id);
        self.end_watches(id, outside);
        if let Some(link) = self.links.get_mut(&id) {
            link.outbox.close();
        }
        self.give(id);
    }

    /// The client said bye, or closed the link with nothing under way.
    pub(super) fn end(&mut self, id: LinkId, outside: &mut dyn Outside) {
        self.end_watches(id, outside);
        if let Some(link) = self.links.get_mut(&id) {
            link.outbox.clear();
        }
        self.give(id);
    }

    /// Nothing is watched, and who waited for the client goes on.
    pub(super) fn end_watches(&mut self, id: LinkId, outside: &mut dyn Outside) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.state = State::Ended;
        link.open.clear();
        link.unsent.clear();
        link.requests.clear();
        self.refuse_paused(id);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let watches = std::mem::take(&mut link.watches);
        let mut free = std::mem::take(&mut link.stuck);
        self.waiting.remove(&id);
        for (oid, mut watch) in watches {
            self.counts.watches -= 1;
            self.counts.pinned -= watch.count();
            self.unlist(oid, watch.at, id, outside);
            let asks = watch.clear().into_iter().filter_map(|waiter| match waiter {
                Waiter::Ask(ask) => Some(ask),
                Waiter::Setup => None,
            });
            free.extend(asks);
        }
        free.into_iter().for_each(|ask| self.settle(ask));
    }
}
