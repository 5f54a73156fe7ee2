//! Links of `head/watch`, as control keeps them in `engine::links`.
//!
//! Real: `iso`, and `fs::past` behind it. Processes are those of `client`. What the history says of revisions is held against the
//! database here.

use crate::client::{Life, Told};
use crate::control::Source;
use crate::mutant::Mutant;
use crate::shared::{Shared, ToWorker, What};
use rustc_hash::FxHashMap;
use std::time::{Duration, Instant};
use zring::base::{BlkNo, Oid, Tid};
use zring::fs::history::History;
use zring::iso::{Action, Caller, Isolation, LinkId, Outside, Rules, Signal, Uid, Unknown};

/// As in `engine::links`.
#[derive(Clone, Debug)]
pub(crate) enum OfLink {
    Opened(LinkId, u64),
    Read(LinkId, Caller, usize),
    Write(LinkId, Caller, Vec<u8>),
    Interrupted(Caller),
    Closed(LinkId),
    Ask(Caller, Oid, Vec<BlkNo>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LinkTable {
    isolation: Isolation,
    clients: FxHashMap<LinkId, u64>,
    /// Any instant: the clock of a world begins there.
    zero: Instant,
    /// When it looked at the time last.
    looked: Duration,
    /// Reads that wait for a message.
    reads: FxHashMap<Caller, LinkId>,
    /// For a mutant: pins that clients heard of and did not answer, and those that were answered for them.
    pins: FxHashMap<LinkId, Vec<u64>>,
    answered: Vec<(LinkId, u64)>,
}

/// What isolation asks.
struct Asked<'a> {
    history: &'a mut History<Source>,
    shared: &'a mut Shared,
    clients: &'a FxHashMap<LinkId, u64>,
}

impl Asked<'_> {
    fn is_lost(&self, oid: Oid) -> bool {
        self.shared.lost.contains(&oid) || self.history.is_astray(oid)
    }

    /// What the history says, or a mutant in its place.
    fn rev(&mut self, oid: Oid, blk: BlkNo, at: Tid, rev: Tid) -> Tid {
        let (file, tail) = (
            self.shared.data.file(oid).unwrap(),
            self.history.tail().tail(),
        );
        let is_old = !self.shared.may_differ(file, blk.0, (tail, at));
        let rev = match rev {
            _ if self.shared.is(Mutant::RevTooNew) => Tid(rev.0 + 1),
            _ if self.shared.is(Mutant::RevTooShort) && is_old => tail,
            rev => rev,
        };
        // A file that everything of was just lost is noted anew: when it grew is not known until then.
        if rev != at || !self.is_lost(oid) {
            self.shared.check_rev(file, blk.0, (tail, at), rev);
        }
        rev
    }
}

impl Outside for Asked<'_> {
    fn tail(&self) -> Tid {
        self.history.tail().tail()
    }

    fn head(&self) -> Option<Tid> {
        if self.shared.is(Mutant::SetupWhilePassing) {
            return Some(self.history.tail().head());
        }
        self.history.settled()
    }

    fn watch(&mut self, oid: Oid, after: Option<Tid>) {
        if self.shared.is(Mutant::WatchedLate) {
            return self.shared.late_watches.push((oid, after));
        }
        self.shared.tree.watch(oid, after);
    }

    fn knows(&mut self, oid: Oid) -> bool {
        // Nothing happens between this and `changes`, where a worker would go on: so the mistake is to hear nothing here, either.
        self.history.source().is_deaf = self.shared.is(Mutant::NotesNotTaken);
        let is_known = self.history.knows(oid);
        self.history.source().is_deaf = false;
        is_known
    }

    fn is_complete(&mut self, oid: Oid) -> bool {
        !self.is_lost(oid) || self.shared.is(Mutant::WatchedIncomplete)
    }

    fn changes(&mut self, oid: Oid, at: Tid) -> Result<Vec<(BlkNo, Tid)>, Unknown> {
        self.history.source().is_deaf = self.shared.is(Mutant::NotesNotTaken);
        let changes = self.history.changed_since(oid, at);
        self.history.source().is_deaf = false;
        let with_rev = |(blk, rev)| (blk, self.rev(oid, blk, at, rev));
        Ok(changes?.into_iter().map(with_rev).collect())
    }

    fn revision(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<Option<Tid>, Unknown> {
        let rev = self.history.revision(oid, blk, at)?;
        Ok(rev.map(|rev| self.rev(oid, blk, at, rev)))
    }

    fn size(&mut self, oid: Oid, at: Tid) -> Result<u64, Unknown> {
        let size = self.history.size(oid, at)?;
        let file = self.shared.data.file(oid).unwrap();
        let want = self.shared.data.content(file, at).len() as u64;
        if size != want {
            let text = format!("file {file} @{at}: {size} bytes, not {want}");
            self.shared.fail(What::Pin, text);
        }
        Ok(size)
    }

    fn has_ended(&mut self, link: LinkId) -> bool {
        let client = self.shared.clients.get(&self.clients[&link]);
        client.is_none_or(|client| client.life == Life::Dead)
    }

    fn is_alive(&mut self, link: LinkId) -> bool {
        !self.has_ended(link) && !self.shared.is(Mutant::DyingGoesOn)
    }

    fn signal(&mut self, link: LinkId, signal: Signal) -> Result<(), String> {
        let id = self.clients[&link];
        let Some(client) = self.shared.clients.get_mut(&id) else {
            return Ok(());
        };
        if client.is_good() {
            let text = format!("{signal:?} for a good client: {client:?}");
            self.shared.fail(What::Killed, text);
            return Ok(());
        }
        client.signal(signal);
        match signal {
            Signal::Bus => self.shared.counts.bus += 1,
            Signal::Kill => self.shared.counts.kills += 1,
        }
        Ok(())
    }
}

impl LinkTable {
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    pub(crate) fn new(shown: Tid, timeout: Duration) -> Self {
        Self {
            isolation: Isolation::new(shown, Rules::new(timeout)),
            clients: FxHashMap::default(),
            zero: Instant::now(),
            looked: Duration::ZERO,
            reads: FxHashMap::default(),
            pins: FxHashMap::default(),
            answered: Vec::new(),
        }
    }

    pub(crate) fn oldest(&self) -> Option<Tid> {
        self.isolation.oldest()
    }

    /// When it has something to do by itself.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let deadline = self.isolation.deadline(self.zero + self.looked)?;
        Some(deadline.saturating_duration_since(self.zero))
    }

    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }

    pub(crate) fn came(
        &mut self,
        what: OfLink,
        history: &mut History<Source>,
        shared: &mut Shared,
    ) {
        let now = self.zero + shared.now;
        let what = match what {
            OfLink::Write(link, caller, bytes) if shared.is(Mutant::UnpinBlind) => {
                let bytes = self.answer_for(link, &bytes);
                OfLink::Write(link, caller, bytes)
            }
            what => what,
        };
        let Self {
            isolation,
            clients,
            reads,
            ..
        } = self;
        if let OfLink::Opened(link, client) = what {
            clients.insert(link, client);
            // Every third is of one of two other users.
            let uid = Uid(1000 + u32::try_from(client % 2).expect("a bit"));
            let user = (client % 3 == 0).then_some(uid);
            return isolation.open(link, user, now);
        }
        let outside = &mut Asked {
            history,
            shared,
            clients,
        };
        match what {
            OfLink::Opened(..) => {}
            OfLink::Read(link, caller, room) => {
                let client = clients
                    .get(&link)
                    .and_then(|id| outside.shared.clients.get_mut(id));
                if let Some(client) = client {
                    client.is_heard = true;
                }
                reads.insert(caller, link);
                isolation.read(link, caller, room);
            }
            OfLink::Write(link, caller, bytes) => {
                isolation.write(link, caller, &bytes, outside, now);
            }
            OfLink::Interrupted(caller) => isolation.interrupt(caller),
            OfLink::Closed(link) => isolation.closed(link, outside, now),
            OfLink::Ask(caller, oid, blks) => isolation.ask(caller, oid, blks, outside, now),
        }
    }

    pub(crate) fn proceed(&mut self, history: &mut History<Source>, shared: &mut Shared) {
        let (now, shown) = (self.zero + shared.now, shared.shown);
        let Self {
            isolation, clients, ..
        } = self;
        let outside = &mut Asked {
            history,
            shared,
            clients,
        };
        isolation.shown(shown, outside, now);
    }

    pub(crate) fn tick(&mut self, history: &mut History<Source>, shared: &mut Shared) {
        self.looked = shared.now;
        let now = self.zero + shared.now;
        let Self {
            isolation, clients, ..
        } = self;
        let outside = &mut Asked {
            history,
            shared,
            clients,
        };
        isolation.tick(outside, now);
    }

    /// Carries out what was decided.
    pub(crate) fn carry_out(&mut self, shared: &mut Shared) {
        for action in self.isolation.drain() {
            shared.say(|| format!("  {action:?}"));
            match action {
                Action::Read(caller, result) => {
                    let link = self.reads.remove(&caller).expect("it was heard");
                    let id = self.clients.get(&link);
                    if let Some(client) = id.and_then(|id| shared.clients.get_mut(id)) {
                        client.is_heard = false;
                    }
                    if let Ok(bytes) = &result {
                        note_pin(&mut self.pins, link, bytes);
                    }
                    let message = ToWorker::LinkRead(caller.unique.0, result);
                    shared.to.push((caller.worker, message));
                }
                Action::Wrote(caller, _) => {
                    let message = ToWorker::LinkWrote(caller.unique.0);
                    shared.to.push((caller.worker, message));
                }
                Action::Granted(caller, granted) => {
                    let message = ToWorker::Granted(caller.unique.0, granted);
                    shared.to.push((caller.worker, message));
                }
                Action::Log(link, text) => {
                    // Who broke the protocol is told so, and is promised nothing from then on.
                    let client = self.clients.get(&link);
                    let client = client.and_then(|id| shared.clients.get_mut(id));
                    if let Some(client) = client.filter(|_| text.contains("serve rx")) {
                        client.is_broken();
                    }
                }
                Action::Gone(link) => {
                    if let Some(id) = self.clients.remove(&link) {
                        shared.gone_clients.push(id);
                    }
                }
                Action::Fail => shared.fail(What::Killed, "nobody may read any more".to_owned()),
            }
        }
    }

    /// Whether nothing is left of any client.
    pub(crate) fn check_gone(&self, shared: &mut Shared) {
        let counts = self.isolation.counts();
        let left = (counts.links, counts.watches, counts.pinned);
        let oldest = self.isolation.oldest();
        if left != (0, 0, 0) || oldest.is_some() || !self.clients.is_empty() {
            let text = format!(
                "all clients are gone: {counts:?}, {oldest:?}, {:?}",
                self.clients
            );
            shared.fail(What::Left, text);
        }
        let watched = shared.tree.head_files();
        if watched.iter().any(|file| file.watched().is_some()) {
            shared.fail(What::Left, format!("still watched: {watched:?}"));
        }
    }
}

/// For a mutant: a watch request finds nothing under way.
impl LinkTable {
    /// What a client writes, behind answers for all that it has not answered.
    fn answer_for(&mut self, link: LinkId, bytes: &[u8]) -> Vec<u8> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let mut out = String::new();
        for line in text.lines() {
            let (stream, text) = line.split_once(' ').unwrap_or_default();
            let stream: u64 = stream.parse().unwrap_or_default();
            if text.starts_with("watch") {
                for pin in self.pins.remove(&link).unwrap_or_default() {
                    self.answered.push((link, pin));
                    out += &format!("{pin} ack\n");
                }
            }
            let pins = self.pins.entry(link).or_default();
            pins.retain(|&pin| pin != stream);
            let before = self.answered.len();
            self.answered.retain(|&pin| pin != (link, stream));
            if self.answered.len() == before {
                out += &format!("{line}\n");
            }
        }
        out.into_bytes()
    }
}

/// A client is about to hear of a pin.
fn note_pin(pins: &mut FxHashMap<LinkId, Vec<u64>>, link: LinkId, bytes: &[u8]) {
    let line = std::str::from_utf8(bytes).unwrap_or_default();
    let (stream, text) = line.split_once(' ').unwrap_or_default();
    // A read may have room for a part of a line only.
    if let (true, Ok(stream)) = (text.starts_with("pin "), stream.parse()) {
        pins.entry(link).or_default().push(stream);
    }
}

/// A request on a link returns to its client.
pub(crate) fn tell(shared: &mut Shared, link: u64, told: Told) {
    let client = shared.clients.values_mut().find(|c| c.link == Some(link));
    if let Some(client) = client {
        client.tell(told);
    }
}
