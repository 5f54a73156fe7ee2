//! One ZEO server as its client sees it, across connections: no socket, no clock, no thread.
//!
//! ```text
//!          dial                 dialed             greeting            tid of register
//!   Down -------> Dialing ---------------> Greeting ------> Registering -------------> Running
//!    ^                                                        |                         ^
//!    |                                       newer than head  v      caught up, or lost |
//!    |                                                     Syncing ---------------------+
//!    +--- lost: after a while, longer each time <--- any of these
//!                                                     older than head: Ended (the database went back)
//! ```
//!
//! Invariants
//! - Head moves by what the server pushes, and by catching up ([`super::sync`]); never by what `lastTransaction` or a load says:
//!   either may be ahead of pushes that are on their way.
//! - Replies and pushes are taken in the order in which they came.
//! - A load is asked only of a server that is known to have what head shows, and only as of a state that was given out.
//! - Every reply answers a call of this connection; every load is answered once, by its deadline at the latest.
//!
//! A driver hands in what happens, with the time; after each it takes all [`Session::next_event`] and sends what
//! [`Session::outgoing`] holds.

use super::sync::{Gap, Next, Sync};
use super::{Fatal, Trouble, Why};
use crate::base::limit::{
    HANDSHAKE_MS, RECONNECT_GOOD_MS, ZEO_FRAME_AROUND_BYTES, ZEO_LOADS_UNDER_WAY, ZEO_REPLY_BYTES,
};
use crate::base::{Oid, Tid};
use crate::store::Loaded;
use crate::store::remote::backoff::Backoff;
use crate::store::remote::driver::{self, Conn};
use crate::store::remote::link::Waiter;
use crate::store::remote::loads::{Key, Loads};
use crate::store::remote::vigil::{Vigil, Watch};
use crate::store::remote::{Address, Broken};
use crate::wire::zeo::{
    Answer, Call, Encoding, Frame, Frames, Message, Push, Refusal, Revision, number_of,
};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Changed objects of pushes that wait for the end of catching up; beyond it the connection is made anew.
const PUSHED_OIDS_MAX: usize = 1 << 20;

/// What is to be known of a server.
#[derive(Clone, Debug)]
pub(super) struct Opts {
    /// Where it is.
    pub(super) address: Address,
    /// Name of the storage there.
    pub(super) storage: String,
    /// Largest record.
    pub(super) max_record: usize,
    /// What chance is made of.
    pub(super) seed: u64,
}

/// What a connection is at.
#[derive(Debug)]
enum Phase {
    Down { until: Instant },
    Dialing { deadline: Instant },
    Greeting { deadline: Instant },
    Registering { deadline: Instant },
    Syncing(Sync),
    Running { since: Instant },
    Ended(Why),
}

/// What a call is for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Load(Key),
    Register,
    Probe,
    Sync,
    /// Its answer says nothing.
    Nothing,
}

/// What came of it.
pub(super) type Event<W> = driver::Event<W, Trouble, Gap>;

/// See the module.
#[derive(Debug)]
pub(super) struct Session<W> {
    opts: Opts,
    phase: Phase,
    encoding: Encoding,
    frames: Frames,
    vigil: Vigil,
    calls: FxHashMap<i64, Asked>,
    next_number: i64,
    /// Calls whose silence says something: all but the probe.
    due: usize,
    loads: Loads<W>,
    loads_asked: usize,
    /// Bytes of a reply, of late.
    reply_bytes: usize,
    head: Option<Tid>,
    /// Counts how often what changed could not be told.
    generation: u64,
    /// Pushes that wait until head is known.
    pushed: Vec<(Tid, Vec<Oid>)>,
    pushed_oids: usize,
    out: Vec<u8>,
    events: VecDeque<Event<W>>,
    /// Counts streams: the one there is, or the last.
    conn: Conn,
    backoff: Backoff,
}

impl<W> Session<W> {
    /// Not connected yet; the first attempt is due now.
    pub(super) fn new(opts: Opts, now: Instant) -> Self {
        Self {
            phase: Phase::Down { until: now },
            encoding: Encoding::Pickle,
            frames: Frames::new(opts.max_record + ZEO_FRAME_AROUND_BYTES),
            vigil: Vigil::new(now),
            calls: FxHashMap::default(),
            next_number: 1,
            due: 0,
            loads: Loads::new(),
            loads_asked: 0,
            reply_bytes: 4096,
            head: None,
            generation: 0,
            pushed: Vec::new(),
            pushed_oids: 0,
            out: Vec::new(),
            events: VecDeque::new(),
            conn: 0,
            backoff: Backoff::new(opts.seed),
            opts,
        }
    }

    /// What happened, in order.
    pub(super) fn next_event(&mut self) -> Option<Event<W>> {
        self.events.pop_front()
    }

    /// Bytes to be sent; the driver takes from the front what it could.
    pub(super) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// When to call [`Self::tick`], whatever else happens.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Down { until } => Some(*until),
            Phase::Dialing { deadline } => Some(*deadline),
            Phase::Greeting { deadline } | Phase::Registering { deadline } => {
                Some(self.vigil.timeout().min(*deadline))
            }
            Phase::Syncing(_) | Phase::Running { .. } => Some(self.vigil.timeout()),
            Phase::Ended(_) => None,
        };
        [own, self.loads.timeout()].into_iter().flatten().min()
    }

    /// Whether a stream is wanted now.
    pub(super) fn dial(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Down { until } if until <= now => {
                self.conn = self.conn.wrapping_add(1);
                self.phase = Phase::Dialing {
                    deadline: now + Duration::from_millis(HANDSHAKE_MS),
                };
                true
            }
            _ => false,
        }
    }

    /// Whether it waits for a stream to be made.
    pub(super) fn is_dialing(&self) -> bool {
        matches!(self.phase, Phase::Dialing { .. })
    }

    /// The stream is there.
    pub(super) fn dialed(&mut self, now: Instant) {
        assert!(self.is_dialing(), "BUG: a stream that nobody wants");
        self.vigil = Vigil::new(now);
        self.frames = Frames::new(self.opts.max_record + ZEO_FRAME_AROUND_BYTES);
        self.phase = Phase::Greeting {
            deadline: now + Duration::from_millis(HANDSHAKE_MS),
        };
    }

    /// Somebody wants an object as of a state that was given out.
    /// `generation` is how often that history had been lost when the state was given out.
    pub(super) fn load(&mut self, now: Instant, generation: u64, key: Key, waiter: W) {
        let refused = match &self.phase {
            Phase::Ended(why) => Some(why.clone()),
            _ if generation != self.generation => Some(Why::Moved),
            _ => None,
        };
        if let Some(why) = refused {
            return self.events.push_back(Event::Done(key, waiter, Err(why)));
        }
        if let Err((waiter, why)) = self.loads.want(now, key, waiter) {
            return self.events.push_back(Event::Done(key, waiter, Err(why)));
        }
        self.pump(now);
    }

    /// So many bytes of [`Self::outgoing`] left.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        let is_open = !self.out.is_empty();
        self.vigil.sent(now, bytes, is_open);
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((key, waiter)) = self.loads.expired(now) {
            let late = Err(Why::Late);
            self.events.push_back(Event::Done(key, waiter, late));
        }
        match self.phase {
            Phase::Dialing { deadline }
            | Phase::Greeting { deadline }
            | Phase::Registering { deadline }
                if deadline <= now =>
            {
                self.lost(now, Broken::NoAnswer.into());
            }
            Phase::Down { .. } | Phase::Dialing { .. } | Phase::Ended(_) => {}
            _ => match self.vigil.look(now) {
                Watch::Wait => {}
                Watch::Probe => self.ask(now, Asked::Probe, &Call::LastTransaction),
                Watch::Dead(broken) => self.lost(now, broken.into()),
            },
        }
    }

    /// The stream could not be made, or ended.
    pub(super) fn lost(&mut self, now: Instant, trouble: Trouble) {
        match self.phase {
            Phase::Down { .. } | Phase::Ended(_) => return,
            Phase::Running { since } if now >= since + Duration::from_millis(RECONNECT_GOOD_MS) => {
                self.backoff.reset();
            }
            _ => {}
        }
        let mut asked: Vec<_> = self.calls.drain().collect();
        asked.sort_unstable_by_key(|(number, _)| *number);
        let keys = asked.into_iter().filter_map(|(_, asked)| match asked {
            Asked::Load(key) => Some(key),
            _ => None,
        });
        self.loads.requeue(keys.collect());
        (self.loads_asked, self.due) = (0, 0);
        self.out.clear();
        self.pushed.clear();
        self.pushed_oids = 0;
        let until = now + self.backoff.pause();
        self.phase = Phase::Down { until };
        self.events.push_back(Event::Lost(trouble));
    }

    /// Nobody wants anything any more.
    pub(super) fn end(&mut self, why: Why) {
        self.phase = Phase::Ended(why.clone());
        self.out.clear();
        self.fail(&why);
    }

    fn fail(&mut self, why: &Why) {
        for (key, waiter) in self.loads.drain() {
            let done = Event::Done(key, waiter, Err(why.clone()));
            self.events.push_back(done);
        }
        let loads = self.calls.values_mut();
        loads
            .filter(|asked| matches!(asked, Asked::Load(_)))
            .for_each(|asked| *asked = Asked::Nothing);
        self.loads_asked = 0;
    }
}

/// What comes in.
impl<W> Session<W> {
    /// Bytes came.
    pub(super) fn received(&mut self, now: Instant, mut bytes: &[u8]) {
        let total = bytes.len();
        while self.is_connected() {
            match self.frames.take(&mut bytes) {
                Ok(Some(frame)) => {
                    if let Err(trouble) = self.frame(now, frame) {
                        return self.lost(now, trouble);
                    }
                }
                Ok(None) => break,
                Err(error) => return self.lost(now, Trouble::Frame(error)),
            }
        }
        if self.is_connected() {
            self.vigil.received(now, total, self.frames.is_inside());
            self.vigil.expects(now, self.due > 0);
            self.pump(now);
        }
    }

    fn is_connected(&self) -> bool {
        matches!(
            self.phase,
            Phase::Greeting { .. }
                | Phase::Registering { .. }
                | Phase::Syncing(_)
                | Phase::Running { .. }
        )
    }

    fn frame(&mut self, now: Instant, frame: Frame) -> Result<(), Trouble> {
        let payload = match frame {
            Frame::Whole(payload) => payload,
            Frame::Skipped { len, head } => return self.skipped(now, len, &head),
        };
        if let Phase::Greeting { .. } = self.phase {
            self.encoding = Encoding::of_greeting(&payload)?;
            self.out.extend_from_slice(&self.encoding.greeting());
            let deadline = now + Duration::from_millis(HANDSHAKE_MS);
            self.phase = Phase::Registering { deadline };
            let storage = self.opts.storage.clone();
            self.ask(now, Asked::Register, &Call::Register(&storage));
            return Ok(());
        }
        match Message::read(self.encoding, &payload)? {
            Message::Push(Push::Invalidate(tid, oids)) => self.pushed(tid, oids),
            Message::Push(Push::Other) => Ok(()),
            Message::Reply(number, answer) => {
                let asked = self.asked(number)?;
                self.answered(now, asked, &answer, payload.len())
            }
            Message::Error(number, refusal) => {
                let asked = self.asked(number)?;
                self.refused(now, asked, refusal)
            }
        }
    }

    /// What a reply is to.
    fn asked(&mut self, number: i64) -> Result<Asked, Trouble> {
        let asked = self.calls.remove(&number);
        let asked = asked.ok_or(Trouble::Number(number))?;
        if !matches!(asked, Asked::Probe) {
            self.due -= 1;
        }
        if matches!(asked, Asked::Load(_)) {
            self.loads_asked -= 1;
        }
        Ok(asked)
    }

    /// A message was too long to be kept.
    fn skipped(&mut self, now: Instant, len: usize, head: &[u8]) -> Result<(), Trouble> {
        let number = number_of(self.encoding, head).ok_or(Trouble::TooLong(len))?;
        match self.asked(number)? {
            Asked::Load(key) => {
                self.done(key, Err(Why::TooBig(len)));
                Ok(())
            }
            Asked::Sync => self.caught_up(now, Next::Lost(Gap::TooBig)),
            Asked::Nothing => Ok(()),
            Asked::Register | Asked::Probe => Err(Trouble::TooLong(len)),
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        asked: Asked,
        answer: &Answer,
        bytes: usize,
    ) -> Result<(), Trouble> {
        match asked {
            Asked::Load(key) => {
                self.reply_bytes = (self.reply_bytes * 7 + bytes) / 8;
                match self.revision(key, answer) {
                    Ok(loaded) => self.done(key, loaded),
                    Err(trouble) => {
                        // To be asked again, of a server that is sound.
                        self.loads.requeue(vec![key]);
                        return Err(trouble);
                    }
                }
                Ok(())
            }
            Asked::Register => self.registered(now, answer.tid()?),
            Asked::Sync => {
                let Phase::Syncing(sync) = &mut self.phase else {
                    unreachable!("BUG: an answer of catching up, which is over");
                };
                let next = sync.answered(answer)?;
                self.caught_up(now, next)
            }
            Asked::Probe | Asked::Nothing => Ok(()),
        }
    }

    /// What a load gave.
    fn revision(&self, (oid, at): Key, answer: &Answer) -> Result<Result<Loaded, Why>, Trouble> {
        let Some(Revision { data, serial, .. }) = answer.revision()? else {
            return Ok(Err(Why::NotYet));
        };
        if serial > at {
            return Err(Trouble::Serial(oid, serial, at));
        }
        if data.len() > self.opts.max_record {
            return Ok(Err(Why::TooBig(data.len())));
        }
        Ok(Ok(Loaded { serial, data }))
    }

    fn refused(&mut self, now: Instant, asked: Asked, refusal: Refusal) -> Result<(), Trouble> {
        match asked {
            Asked::Load(key) if refusal.is_no_object() => self.done(key, Err(Why::NoObject)),
            Asked::Load(key) => self.done(key, Err(Why::Refused(refusal))),
            Asked::Register => return Err(Trouble::Refused(refusal)),
            Asked::Sync => {
                let Phase::Syncing(sync) = &self.phase else {
                    unreachable!("BUG: an answer of catching up, which is over");
                };
                let next = sync.refused(refusal);
                return self.caught_up(now, next);
            }
            Asked::Probe | Asked::Nothing => {}
        }
        Ok(())
    }

    fn done(&mut self, key: Key, loaded: Result<Loaded, Why>) {
        for waiter in self.loads.answered(key) {
            let done = Event::Done(key, waiter, loaded.clone());
            self.events.push_back(done);
        }
    }
}

/// Head.
impl<W> Session<W> {
    /// The server's newest transaction, when the connection begins.
    fn registered(&mut self, now: Instant, last: Tid) -> Result<(), Trouble> {
        match self.head {
            None => {
                self.head = Some(last);
                self.events.push_back(Event::Opened(last));
                self.run(now, 0)
            }
            Some(head) if last < head => {
                let fatal = Fatal::WentBack { head, now: last };
                self.end(Why::Moved);
                self.events.push_back(Event::Fatal(fatal));
                Ok(())
            }
            Some(head) if last == head => self.run(now, 0),
            Some(head) => {
                let (sync, call) = Sync::new(head, last);
                self.events.push_back(Event::CatchingUp);
                self.phase = Phase::Syncing(sync);
                self.ask(now, Asked::Sync, &call);
                Ok(())
            }
        }
    }

    fn caught_up(&mut self, now: Instant, next: Next) -> Result<(), Trouble> {
        let Phase::Syncing(sync) = &self.phase else {
            unreachable!("BUG: catching up is over");
        };
        match next {
            Next::Ask(call) => {
                self.ask(now, Asked::Sync, &call);
                Ok(())
            }
            Next::Done(found) => {
                let missed = found.len();
                for (tid, oids) in found {
                    self.commit(tid, oids);
                }
                self.run(now, missed)
            }
            Next::Lost(gap) => {
                let (to, walk) = (sync.to(), sync.walk());
                // What is waited for was asked for by whoever saw the other history.
                self.fail(&Why::Moved);
                self.head = Some(to);
                self.generation += 1;
                self.events.push_back(Event::Reset(to, gap));
                if let Some(walk) = walk {
                    self.ask(now, Asked::Nothing, &Call::WalkEnd(walk));
                }
                self.run(now, 0)
            }
        }
    }

    /// Head is known: what was pushed meanwhile follows.
    fn run(&mut self, now: Instant, missed: usize) -> Result<(), Trouble> {
        self.phase = Phase::Running { since: now };
        self.events.push_back(Event::Serving(missed));
        self.pushed_oids = 0;
        let head = self.head.expect("it is known");
        for (tid, oids) in std::mem::take(&mut self.pushed) {
            if tid > head {
                self.pushed(tid, oids)?;
            }
        }
        Ok(())
    }

    fn pushed(&mut self, tid: Tid, oids: Vec<Oid>) -> Result<(), Trouble> {
        match (&self.phase, self.head) {
            (Phase::Running { .. }, Some(head)) if tid > head => {
                self.commit(tid, oids);
                Ok(())
            }
            (Phase::Running { .. }, Some(head)) if tid < head => Err(Trouble::Order(tid, head)),
            (Phase::Running { .. }, _) => Ok(()),
            _ => {
                self.pushed_oids += oids.len() + 1;
                if self.pushed_oids > PUSHED_OIDS_MAX {
                    return Err(Trouble::Pushes);
                }
                self.pushed.push((tid, oids));
                Ok(())
            }
        }
    }

    fn commit(&mut self, tid: Tid, mut oids: Vec<Oid>) {
        oids.sort_unstable();
        oids.dedup();
        self.head = Some(tid);
        self.events.push_back(Event::Commit(tid, oids));
    }
}

/// What goes out.
impl<W> Session<W> {
    fn ask(&mut self, now: Instant, asked: Asked, call: &Call<'_>) {
        let number = self.next_number;
        self.next_number += 1;
        call.encode(self.encoding, number, &mut self.out);
        if !matches!(asked, Asked::Probe) {
            self.due += 1;
            self.vigil.expects(now, true);
        }
        self.calls.insert(number, asked);
        self.vigil.sent(now, 0, true);
    }

    /// Asks for what is wanted, as far as there is room.
    fn pump(&mut self, now: Instant) {
        let is_ready = match &self.phase {
            Phase::Running { .. } => true,
            Phase::Syncing(sync) => sync.is_known(),
            _ => false,
        };
        if !is_ready {
            return;
        }
        let room = (ZEO_REPLY_BYTES / self.reply_bytes.max(1)).clamp(4, ZEO_LOADS_UNDER_WAY);
        while self.loads_asked < room
            && let Some(key) = self.loads.next()
        {
            let (oid, at) = key;
            let before = Tid(at.0.saturating_add(1).min(i64::MAX.unsigned_abs()));
            self.loads_asked += 1;
            self.ask(now, Asked::Load(key), &Call::LoadBefore(oid, before));
        }
    }
}

impl driver::Session for Session<Waiter> {
    type Trouble = Trouble;
    type Gap = Gap;

    fn timeout(&self) -> Option<Instant> {
        self.timeout()
    }

    fn tick(&mut self, now: Instant) {
        self.tick(now);
    }

    fn dial(&mut self, now: Instant) -> Option<(Conn, Address)> {
        let is_wanted = self.dial(now);
        is_wanted.then(|| (self.conn, self.opts.address.clone()))
    }

    fn dialed(&mut self, now: Instant, _: Conn) {
        self.dialed(now);
    }

    fn has(&self, conn: Conn) -> bool {
        conn == self.conn && (self.is_dialing() || self.is_connected())
    }

    fn is_in(&self, _: Conn) -> bool {
        matches!(self.phase, Phase::Syncing(_) | Phase::Running { .. })
    }

    fn received(&mut self, now: Instant, _: Conn, bytes: &[u8]) {
        self.received(now, bytes);
    }

    fn outgoing(&mut self, _: Conn) -> &mut Vec<u8> {
        self.outgoing()
    }

    fn sent(&mut self, now: Instant, _: Conn, bytes: usize) {
        self.sent(now, bytes);
    }

    fn lost(&mut self, now: Instant, conn: Conn, broken: Broken) {
        if conn == self.conn {
            self.lost(now, broken.into());
        }
    }

    fn load(&mut self, now: Instant, generation: u64, key: Key, waiter: Waiter) {
        self.load(now, generation, key, waiter);
    }

    fn end(&mut self, why: Why) {
        self.end(why);
    }

    fn next_event(&mut self) -> Option<Event<Waiter>> {
        self.next_event()
    }
}
