//! Links of `head/watch`, as control keeps them: [`crate::iso`] with the history, the clients' processes and the workers around it.

use super::history::History;
use super::shared::{Mailbox, Shared, ToWorker};
use super::wayout::{self, Reader, Readers};
use crate::base::{BlkNo, Oid, Tid, limit};
use crate::fs::history::Lost;
use crate::iso::{Action, Caller, Errno, Isolation, LinkId, Outside, Rules, Signal, Uid, Unknown};
use crate::kernel::client::Client;
use crate::kernel::mount::Connection;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What workers tell of links and of READs that may need pins.
#[derive(Debug)]
pub enum OfLink {
    /// `head/watch` was opened.
    Opened(LinkId, Client, Option<Uid>),
    /// A thread reads; so many bytes at most.
    Read(LinkId, Caller, u32, usize),
    /// A thread writes.
    Write(LinkId, Caller, u32, Vec<u8>),
    /// The caller of a read was signalled.
    Interrupted(Caller),
    /// The kernel closed it.
    Closed(LinkId),
    /// A READ of head shows blocks that may have changed after what somebody sees.
    Ask(Caller, Oid, Vec<BlkNo>, Option<Reader>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct LinkTable {
    isolation: Isolation,
    clients: FxHashMap<LinkId, Arc<Client>>,
    /// Threads of these clients that read and wrote last.
    threads: FxHashMap<LinkId, [u32; 2]>,
    is_strict: bool,
    /// READs that wait for pins.
    readers: Readers,
    looked: Option<Instant>,
    /// Files of which all pages go.
    lost: FxHashSet<Oid>,
}

/// What isolation asks.
struct Asked<'a> {
    history: &'a mut History,
    shared: &'a Shared,
    clients: &'a FxHashMap<LinkId, Arc<Client>>,
    lost: &'a FxHashSet<Oid>,
    /// What may take long is not begun.
    is_brief: bool,
}

impl Outside for Asked<'_> {
    fn tail(&self) -> Tid {
        self.history.tail().tail()
    }

    fn head(&self) -> Option<Tid> {
        self.history.settled().filter(|_| !self.is_brief)
    }

    fn watch(&mut self, oid: Oid, after: Option<Tid>) {
        self.shared.tree().watch(oid, after);
    }

    fn knows(&mut self, oid: Oid) -> bool {
        self.history.knows(oid)
    }

    fn is_complete(&mut self, oid: Oid) -> bool {
        !self.lost.contains(&oid) && !self.history.is_astray(oid)
    }

    fn changes(&mut self, oid: Oid, at: Tid) -> Result<Vec<(BlkNo, Tid)>, Unknown> {
        self.history.changed_since(oid, at)
    }

    fn revision(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<Option<Tid>, Unknown> {
        self.history.revision(oid, blk, at)
    }

    fn size(&mut self, oid: Oid, at: Tid) -> Result<u64, Unknown> {
        self.history.size(oid, at)
    }

    /// A poll of a descriptor, some 0.3 us of the 35 us that a pin takes; who became root is not looked for here, which takes 20.
    fn has_ended(&mut self, link: LinkId) -> bool {
        let client = self.clients.get(&link);
        client.is_none_or(|client| !client.is_alive())
    }

    fn is_alive(&mut self, link: LinkId) -> bool {
        self.clients
            .get(&link)
            .is_some_and(|client| client.is_alive() && !client.became_root())
    }

    fn signal(&mut self, link: LinkId, signal: Signal) -> Result<(), String> {
        let client = self.clients.get(&link);
        let client = client.expect("BUG: a link without a client");
        let sent = match signal {
            Signal::Bus => client.bus(),
            Signal::Kill => client.kill(),
        };
        sent.map_err(|errno| errno.to_string())
    }
}

impl LinkTable {
    /// `head/at` is `shown`.
    pub(super) fn new(shown: Tid, rules: Rules) -> Self {
        Self {
            isolation: Isolation::new(shown, rules),
            clients: FxHashMap::default(),
            threads: FxHashMap::default(),
            is_strict: rules.is_strict,
            readers: Readers::default(),
            looked: None,
            lost: FxHashSet::default(),
        }
    }

    /// The oldest state that somebody sees.
    pub(super) fn oldest(&self) -> Option<Tid> {
        self.isolation.oldest()
    }

    /// All pages of these files go: what the kernel had of them is not known any more.
    pub(super) fn lose(&mut self, lost: &[Lost]) {
        self.lost.extend(lost.iter().map(|lost| lost.oid));
    }

    /// They are gone.
    pub(super) fn lost(&mut self) {
        self.lost.clear();
    }

    /// How long nothing happens by itself.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let deadline = self.isolation.deadline(now);
        let look = (!self.readers.is_empty()).then_some(wayout::SUSPICIOUS);
        let left = deadline.map(|at| at.saturating_duration_since(now));
        left.into_iter().chain(look).min()
    }

    /// Isolation, and what it asks.
    fn asking<'a>(
        &'a mut self,
        history: &'a mut History,
        shared: &'a Shared,
    ) -> (&'a mut Isolation, Asked<'a>) {
        let (clients, lost) = (&self.clients, &self.lost);
        let asked = Asked {
            history,
            shared,
            clients,
            lost,
            is_brief: false,
        };
        (&mut self.isolation, asked)
    }

    /// Whether what came waits for nobody and is done in microseconds: answers to pins, reads, and READs of which all is at hand.
    pub(super) fn is_brief(&self, what: &OfLink, history: &mut History) -> bool {
        let is_known = |link, tid: u32, writes: bool| {
            let last = self.threads.get(&link);
            !self.is_strict && last.is_some_and(|last| last[usize::from(writes)] == tid)
        };
        match what {
            OfLink::Read(link, _, tid, _) => is_known(*link, *tid, false),
            OfLink::Write(link, _, tid, bytes) => {
                is_known(*link, *tid, true) && self.isolation.is_acks(*link, bytes)
            }
            OfLink::Ask(_, oid, blks, _) => {
                let Some(ats) = self.isolation.asks_for(*oid) else {
                    return false;
                };
                let ats: Vec<Tid> = ats.take(limit::STAND_IN_WATCHES + 1).collect();
                ats.len() <= limit::STAND_IN_WATCHES
                    && blks.len() <= limit::STAND_IN_WATCHES
                    && history.settled().is_some()
                    && history.source().noted() <= limit::NOTES_FEW
                    && history.has_revisions(*oid, blks, &ats)
            }
            OfLink::Opened(..) | OfLink::Interrupted(_) | OfLink::Closed(_) => false,
        }
    }

    /// What [`Self::is_brief`] allowed came, and nothing else is begun for it.
    pub(super) fn came_brief(
        &mut self,
        what: OfLink,
        history: &mut History,
        shared: &Shared,
        now: Instant,
    ) {
        if let OfLink::Ask(..) = what {
            return self.came(what, history, shared, now); // nothing else waits
        }
        let (isolation, mut outside) = self.asking(history, shared);
        outside.is_brief = true;
        match what {
            OfLink::Read(link, caller, _, room) => isolation.read(link, caller, room),
            OfLink::Write(link, caller, _, bytes) => {
                isolation.write(link, caller, &bytes, &mut outside, now);
            }
            _ => {}
        }
    }

    /// Nobody can tell anything any more: all of them end, and READs that wait are refused.
    pub(super) fn end_all(&mut self, history: &mut History, shared: &Shared) {
        let (isolation, mut outside) = self.asking(history, shared);
        isolation.end_all(&mut outside);
    }

    /// Whether something waits that can be begun when the history is asked.
    pub(super) fn has_waiting(&self) -> bool {
        self.isolation.has_waiting()
    }

    /// Something came from a worker.
    pub(super) fn came(
        &mut self,
        what: OfLink,
        history: &mut History,
        shared: &Shared,
        now: Instant,
    ) {
        if let OfLink::Opened(link, client, user) = what {
            self.clients.insert(link, Arc::new(client));
            return self.isolation.open(link, user, now);
        }
        if self.is_refused(&what, history, shared, now) {
            return;
        }
        if let OfLink::Ask(caller, .., Some(reader)) = &what {
            self.readers.came(*caller, *reader, now);
        }
        let (isolation, outside) = &mut self.asking(history, shared);
        match what {
            OfLink::Opened(..) => {}
            OfLink::Read(link, caller, _, room) => isolation.read(link, caller, room),
            OfLink::Write(link, caller, _, bytes) => {
                isolation.write(link, caller, &bytes, outside, now);
            }
            OfLink::Interrupted(caller) => isolation.interrupt(caller),
            OfLink::Closed(link) => isolation.closed(link, outside, now),
            OfLink::Ask(caller, oid, blks, _) => isolation.ask(caller, oid, blks, outside, now),
        }
    }

    /// Whether somebody uses a link that is not his.
    fn is_refused(
        &mut self,
        what: &OfLink,
        history: &mut History,
        shared: &Shared,
        now: Instant,
    ) -> bool {
        let (link, caller, tid, writes) = match *what {
            OfLink::Read(link, caller, tid, _) => (link, caller, tid, false),
            OfLink::Write(link, caller, tid, _) => (link, caller, tid, true),
            _ => return false,
        };
        let Some(client) = self.clients.get(&link) else {
            return false;
        };
        // Of one that was seen last it is not asked again, but where it matters: its number may be another's by now.
        let last = &mut self.threads.entry(link).or_default()[usize::from(writes)];
        if *last == tid && !self.is_strict {
            return false;
        }
        if client.has_thread(tid) {
            *last = tid;
            return false;
        }
        let (isolation, outside) = &mut self.asking(history, shared);
        let is_refused = isolation.inherited(link, tid, outside, now);
        if is_refused {
            isolation.refuse_use(caller, writes);
        }
        is_refused
    }

    /// Time passed, or the history can be asked again; `shown` is what `head/at` shows.
    pub(super) fn proceed(
        &mut self,
        shown: Tid,
        history: &mut History,
        shared: &Shared,
        now: Instant,
    ) {
        let (isolation, outside) = &mut self.asking(history, shared);
        isolation.shown(shown, outside, now);
    }

    /// Nobody can show any more what clients see: of a file, or of any, and older than `before`.
    pub(super) fn lose_clients(
        &mut self,
        (oid, before): (Option<Oid>, Tid),
        why: &str,
        history: &mut History,
        shared: &Shared,
    ) {
        let now = history.source().clock.at(Instant::now());
        let (isolation, outside) = &mut self.asking(history, shared);
        isolation.lose(oid, before, why, outside, now);
    }

    /// Deadlines.
    pub(super) fn tick(&mut self, history: &mut History, shared: &Shared, now: Instant) {
        let (isolation, outside) = &mut self.asking(history, shared);
        isolation.tick(outside, now);
    }

    /// Brings clients out that wait for themselves; how many.
    pub(super) fn way_out(
        &mut self,
        workers: &[Mailbox<ToWorker>],
        connection: &Arc<Connection>,
        now: Instant,
    ) -> u64 {
        if self
            .looked
            .is_some_and(|looked| now - looked < wayout::SUSPICIOUS)
        {
            return 0;
        }
        self.looked = Some(now);
        let mut taken = 0;
        for (caller, reader) in self.readers.late(now) {
            let links = self.isolation.waits_for(caller);
            let mut clients = links.iter().filter_map(|link| self.clients.get(link));
            if !clients.clone().all(|client| client.has_thread(reader.tid)) {
                continue; // somebody else is to do something, too
            }
            let Some(client) = clients.next() else {
                continue;
            };
            if wayout::is_needed(client, reader)
                && let Some(worker) = workers.get(caller.worker)
            {
                let readers = &mut self.readers;
                let is_begun = readers.bring_out(caller, client, worker, connection, now);
                taken += u64::from(is_begun);
            }
        }
        taken
    }

    /// Carries out what was decided; false when a client cannot be stopped.
    #[must_use]
    pub(super) fn carry_out(
        &mut self,
        shared: &Shared,
        mut tell: impl FnMut(Caller, ToWorker),
    ) -> bool {
        let mut good = true;
        for action in self.isolation.drain() {
            match action {
                Action::Read(caller, result) => {
                    let result = result.map_err(errno);
                    tell(caller, ToWorker::LinkRead(caller.unique, result));
                }
                Action::Wrote(caller, result) => {
                    let result = result.map_err(errno);
                    tell(caller, ToWorker::LinkWrote(caller.unique, result));
                }
                Action::Granted(caller, granted) => {
                    self.readers.gone(caller);
                    tell(caller, ToWorker::Granted(caller.unique, granted));
                }
                Action::Log(link, text) => match self.clients.get(&link) {
                    Some(client) if !text.starts_with("wlink ") => {
                        shared.log.error(format!("pid{}: {text}", client.pid()));
                    }
                    _ => shared.log.error(text),
                },
                Action::Gone(link) => {
                    self.threads.remove(&link);
                    let client = self.clients.remove(&link);
                    if let Some(Client { uid, .. }) = client.as_deref() {
                        let is_other = !shared.owner.is_trusted(*uid);
                        shared.links.gone(is_other.then_some(Uid(*uid)));
                    }
                }
                Action::Fail => good = false,
            }
        }
        shared.isolation.show(self.isolation.counts());
        good
    }
}

fn errno(errno: Errno) -> i32 {
    match errno {
        Errno::Interrupted => libc::EINTR,
        Errno::Reset => libc::ECONNRESET,
        Errno::Foreign => libc::EPERM,
        Errno::Busy => libc::EAGAIN,
    }
}

/// What `.wcfs/stats` says of links.
#[derive(Debug, Default)]
pub struct LinkCounts([std::sync::atomic::AtomicU64; 6]);

impl LinkCounts {
    fn show(&self, counts: crate::iso::isolation::Counts) {
        let count = |n: usize| n as u64;
        let all = [
            count(counts.links),
            count(counts.watches),
            count(counts.pinned),
            counts.pins,
            counts.kills,
            counts.inherited,
        ];
        for (shown, now) in self.0.iter().zip(all) {
            shown.store(now, Ordering::Relaxed);
        }
    }

    /// Links, watches, pinned blocks, pins sent, clients killed, links in other hands.
    pub fn all(&self) -> [u64; 6] {
        std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed))
    }
}
