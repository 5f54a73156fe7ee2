//! One NEO cluster as its client sees it, across connections: no socket, no clock, no thread.
//!
//! ```text
//!          dial               accepted              nodes, table, newest transaction
//!   Down -------> Connecting ------------> Learning ----------------------------------> Running
//!    ^             | another master leads     |                                          ^   |
//!    |             +--> Down, at once         |  newer than head            caught up,   |   | newer than head: of a cluster
//!    |                                        v                             or lost      |   v that follows another one
//!    |                                     Syncing --------------------------------------+ Syncing
//!    +--- lost: the next master, and after all of them a while <--- any of these
//!                                             older than head: Ended (the database went back)
//! ```
//!
//! These are states of the way to the master. Storage nodes are connected to when something is to be asked of them ([`storage`]), and
//! all are let go with the master: who does not know what commits cannot know what a node should have.
//!
//! Invariants
//! - Head moves by what the master announces, and by catching up ([`super::follow`]); when it shows a transaction, every object that
//!   the transaction deleted is among those that are told.
//! - A load is asked only of a cluster that is known to have what head shows, and only as of a state that was given out.
//! - Every answer is to a question of its connection; every load is answered once, by its deadline at the latest.

mod storage;
#[cfg(test)]
pub(super) use storage::{object, unpacked};

use super::asks::{Ask, Asks, Placed};
use super::follow::Follow;
use super::peer::{Asked, Came, Peer};
use super::topology::Topology;
use super::{Gap, Trouble};
use crate::base::limit::{HANDSHAKE_MS, NEO_LOOK_MS, RECONNECT_GOOD_MS};
use crate::base::{Oid, Tid};
use crate::store::remote::backoff::Backoff;
use crate::store::remote::driver::{self, Conn};
use crate::store::remote::link::Waiter;
use crate::store::remote::loads::{Key, Loads};
use crate::store::remote::{Address, Broken, Fatal, Why};
use crate::wire::neo::{Cluster, Kind, Node, Packet, Request, State};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Changed objects of announcements that wait for something; beyond it the connection is made anew.
const PUSHED_OIDS_MAX: usize = 1 << 20;
/// Masters that are remembered.
const MASTERS_MAX: usize = 100;

/// What is to be known of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Opts {
    /// Its name.
    pub(super) cluster: String,
    /// Where masters are.
    pub(super) masters: Vec<Address>,
    /// Largest record.
    pub(super) max_record: usize,
    /// What chance is made of.
    pub(super) seed: u64,
}

/// What the way to the master is at.
#[derive(Debug)]
enum Phase {
    Down {
        until: Instant,
    },
    Connecting,
    Learning {
        deadline: Instant,
        last: Option<Tid>,
    },
    Syncing {
        is_quiet: bool,
    },
    Running {
        since: Instant,
    },
    Ended(Why),
}

/// What came of it.
pub(super) type Event<W> = driver::Event<W, Trouble, Gap>;

/// See the module.
#[derive(Debug)]
pub(super) struct Session<W> {
    opts: Opts,
    phase: Phase,
    /// Whose turn it is.
    turn: usize,
    /// Masters that were tried since the last one that served.
    tried: usize,
    conns: Conn,
    master: Conn,
    peers: BTreeMap<Conn, Peer>,
    /// Connections to storage nodes, by the numbers of those.
    nodes: BTreeMap<i32, Conn>,
    to_dial: VecDeque<(Conn, Address)>,
    /// Our number, and the time that stands with it.
    us: Option<i32>,
    stamp: Option<u64>,
    /// The master told others of us.
    is_announced: bool,
    cluster: Cluster,
    look_at: Option<Instant>,
    topology: Topology,
    loads: Loads<W>,
    asks: Asks,
    follow: Follow,
    head: Option<Tid>,
    /// Counts how often what changed could not be told.
    generation: u64,
    /// Announcements that wait until head is known.
    pushed: Vec<(Tid, Vec<Oid>)>,
    pushed_oids: usize,
    /// The newest transaction that was announced.
    announced: Tid,
    events: VecDeque<Event<W>>,
    backoff: Backoff,
    /// Of connections that are gone.
    nothing: Vec<u8>,
}

impl<W> Session<W> {
    /// Not connected yet; the first attempt is due now.
    pub(super) fn new(opts: Opts, now: Instant) -> Self {
        assert!(!opts.masters.is_empty(), "BUG: a cluster without masters");
        Self {
            phase: Phase::Down { until: now },
            turn: 0,
            tried: 0,
            conns: 0,
            master: 0,
            peers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            to_dial: VecDeque::new(),
            us: None,
            stamp: None,
            is_announced: false,
            cluster: Cluster::Other,
            look_at: None,
            topology: Topology::default(),
            loads: Loads::new(),
            asks: Asks::new(opts.seed),
            follow: Follow::default(),
            head: None,
            generation: 0,
            pushed: Vec::new(),
            pushed_oids: 0,
            announced: Tid::ZERO,
            events: VecDeque::new(),
            backoff: Backoff::new(opts.seed),
            nothing: Vec::new(),
            opts,
        }
    }

    /// When to call [`Self::tick`], whatever else happens.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Down { until } => Some(*until),
            Phase::Learning { deadline, .. } => Some(*deadline),
            Phase::Running { .. } => self.look_at,
            _ => None,
        };
        let peers = self.peers.values().map(Peer::timeout);
        let others = [own, self.loads.timeout(), self.asks.timeout()];
        others.into_iter().flatten().chain(peers).min()
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((key, waiter)) = self.loads.expired(now) {
            let late = Err(Why::Late);
            self.events.push_back(Event::Done(key, waiter, late));
        }
        for conn in self.peers.keys().copied().collect::<Vec<_>>() {
            let peer = self.peers.get_mut(&conn);
            if let Some(Err(trouble)) = peer.map(|peer| peer.tick(now)) {
                self.lost(now, conn, trouble);
            }
        }
        match self.phase {
            Phase::Learning { deadline, last } if deadline <= now => {
                let trouble = match last {
                    Some(_) => Trouble::NotOperational,
                    None => Broken::NoAnswer.into(),
                };
                self.master_lost(now, trouble);
            }
            Phase::Running { .. } if self.look_at.is_some_and(|at| at <= now) => {
                self.look_at = None;
                self.ask_master(now, Asked::LastTid, &Request::LastTid);
            }
            _ => {}
        }
        for ask in self.asks.unstuck(now) {
            self.place(now, ask);
        }
        self.pump(now);
    }

    /// A stream that is wanted now.
    pub(super) fn dial(&mut self, now: Instant) -> Option<(Conn, Address)> {
        if let Phase::Down { until } = self.phase
            && until <= now
        {
            self.phase = Phase::Connecting;
            self.tried += 1;
            let address = self.opts.masters[self.turn].clone();
            self.master = self.connect(now, address);
        }
        while let Some((conn, address)) = self.to_dial.pop_front() {
            if self.peers.contains_key(&conn) {
                return Some((conn, address));
            }
        }
        None
    }

    /// A stream is asked for.
    fn connect(&mut self, now: Instant, address: Address) -> Conn {
        self.conns = self.conns.wrapping_add(1);
        let peer = Peer::new(now, self.opts.max_record);
        self.peers.insert(self.conns, peer);
        self.to_dial.push_back((self.conns, address));
        self.conns
    }

    /// Whether a connection is still wanted.
    pub(super) fn has_conn(&self, conn: Conn) -> bool {
        self.peers.contains_key(&conn)
    }

    /// The stream is there.
    pub(super) fn dialed(&mut self, now: Instant, conn: Conn) {
        let peer = self.peers.get_mut(&conn);
        peer.expect("a stream that nobody wants").dialed(now);
    }

    /// Bytes to be sent.
    pub(super) fn outgoing(&mut self, conn: Conn) -> &mut Vec<u8> {
        match self.peers.get_mut(&conn) {
            Some(peer) => &mut peer.out,
            None => &mut self.nothing,
        }
    }

    /// So many bytes of them left.
    pub(super) fn sent(&mut self, now: Instant, conn: Conn, bytes: usize) {
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.sent(now, bytes);
        }
    }

    /// What happened, in order.
    pub(super) fn next_event(&mut self) -> Option<Event<W>> {
        self.events.pop_front()
    }

    /// Bytes came.
    pub(super) fn received(&mut self, now: Instant, conn: Conn, mut bytes: &[u8]) {
        let total = bytes.len();
        while let Some(peer) = self.peers.get_mut(&conn) {
            let took = match peer.take(now, &mut bytes) {
                Ok(None) => break,
                Ok(Some(came)) if conn == self.master => self.of_master(now, came),
                Ok(Some(came)) => self.of_storage(now, conn, came),
                Err(trouble) => Err(trouble),
            };
            if let Err(trouble) = took {
                self.lost(now, conn, trouble);
            }
        }
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.received(now, total);
        }
        self.pump(now);
    }

    /// A stream could not be made, or is of no use any more.
    pub(super) fn lost(&mut self, now: Instant, conn: Conn, trouble: Trouble) {
        match self.phase {
            Phase::Ended(_) | Phase::Down { .. } => {}
            _ if conn == self.master => self.master_lost(now, trouble),
            _ => {
                self.storage_lost(now, conn);
                self.pump(now);
            }
        }
    }

    /// There is no master any more, so there is no cluster.
    fn master_lost(&mut self, now: Instant, trouble: Trouble) {
        if let Phase::Running { since } = self.phase
            && now >= since + Duration::from_millis(RECONNECT_GOOD_MS)
        {
            self.backoff.reset();
        }
        let had = matches!(self.phase, Phase::Running { .. } | Phase::Syncing { .. });
        self.let_go();
        self.turn = (self.turn + 1) % self.opts.masters.len();
        let is_round = self.tried >= self.opts.masters.len();
        let pause = match is_round || had {
            true => self.backoff.pause(),
            false => Duration::ZERO,
        };
        if is_round || had {
            self.tried = 0;
            self.events.push_back(Event::Lost(trouble));
        }
        self.phase = Phase::Down { until: now + pause };
    }

    /// Lets go of all connections; loads wait for the next ones.
    fn let_go(&mut self) {
        let mut left = Vec::new();
        for peer in self.peers.values_mut() {
            left.extend(peer.left());
        }
        left.extend(self.asks.drain());
        let keys = left.into_iter().filter_map(|ask| match ask {
            Ask::Load(key) => Some(key),
            _ => None,
        });
        self.loads.requeue(keys.collect());
        self.peers.clear();
        self.nodes.clear();
        self.to_dial.clear();
        self.topology = Topology::default();
        self.follow = Follow::default();
        self.pushed.clear();
        (self.pushed_oids, self.look_at) = (0, None);
        (self.us, self.stamp, self.is_announced) = (None, None, false);
    }

    /// Nobody wants anything any more.
    pub(super) fn end(&mut self, why: Why) {
        self.fail(&why);
        self.let_go();
        self.phase = Phase::Ended(why);
    }

    fn fail(&mut self, why: &Why) {
        for (key, waiter) in self.loads.drain() {
            let done = Event::Done(key, waiter, Err(why.clone()));
            self.events.push_back(done);
        }
    }

    fn ask_master(&mut self, now: Instant, asked: Asked, request: &Request<'_>) {
        if let Some(peer) = self.peers.get_mut(&self.master) {
            peer.ask(now, asked, request);
        }
    }

    fn master_at(&mut self, (host, port): (String, u16)) -> usize {
        let address = Address::Tcp(host, port);
        let known = self.opts.masters.iter().position(|m| *m == address);
        known.unwrap_or_else(|| {
            if self.opts.masters.len() < MASTERS_MAX {
                self.opts.masters.push(address);
            }
            self.opts.masters.len() - 1
        })
    }
}

/// What the master says.
impl<W> Session<W> {
    fn of_master(&mut self, now: Instant, came: Came) -> Result<(), Trouble> {
        match came {
            Came::Greeted => {
                let cluster = self.opts.cluster.clone();
                let cluster = cluster.as_str();
                self.ask_master(now, Asked::Identify, &Request::IdentifyToMaster { cluster });
                Ok(())
            }
            Came::Skipped(_, len) => Err(Trouble::TooLong(len)),
            Came::News(news) => self.news(now, news),
            Came::Answer(asked, answer, _) => self.answer(now, asked, answer),
        }
    }

    fn answer(&mut self, now: Instant, asked: Asked, answer: Packet) -> Result<(), Trouble> {
        match (asked, answer) {
            (Asked::Identify, Packet::Accepted(_, us)) => {
                self.us = Some(us);
                if let Some(peer) = self.peers.get_mut(&self.master) {
                    peer.accepted(now);
                }
                let deadline = now + Duration::from_millis(HANDSHAKE_MS);
                self.phase = Phase::Learning {
                    deadline,
                    last: None,
                };
                self.ask_master(now, Asked::Cluster, &Request::Cluster);
                self.ask_master(now, Asked::LastTid, &Request::LastTid);
                Ok(())
            }
            (Asked::Identify | Asked::LastTid, Packet::Refused(number, text)) => {
                Err(Trouble::Refused(number, text))
            }
            (Asked::Cluster, Packet::Cluster(cluster)) => {
                self.cluster = cluster;
                Ok(())
            }
            // It can be lived without.
            (Asked::Cluster, Packet::Refused(..)) => Ok(()),
            (Asked::LastTid, Packet::LastTid(tid)) => self.newest(now, tid),
            (Asked::Probe, _) => Ok(()),
            (Asked::Flush, _) => {
                self.asks.told();
                Ok(())
            }
            _ => Err(Trouble::Answer),
        }
    }

    fn news(&mut self, now: Instant, news: Packet) -> Result<(), Trouble> {
        match news {
            Packet::NotPrimary(primary, masters) => {
                let places: Vec<_> = masters.into_iter().map(|at| self.master_at(at)).collect();
                // The next one, if nobody leads.
                let Some(&place) = primary.and_then(|n| places.get(n)) else {
                    return Err(Trouble::NoPrimary);
                };
                self.master_lost(now, Trouble::NoPrimary);
                self.turn = place;
                Ok(())
            }
            Packet::Nodes(nodes) => self.announced_nodes(now, nodes),
            Packet::Table(rows) => {
                self.topology.table(rows);
                self.learnt(now)
            }
            Packet::Cells(cells) => {
                self.topology.cells(cells);
                self.learnt(now)
            }
            Packet::Invalidate(tid, oids) => self.pushed(now, tid, oids),
            Packet::Cluster(cluster) => {
                self.cluster = cluster;
                match cluster {
                    Cluster::Other if !matches!(self.phase, Phase::Connecting) => {
                        Err(Trouble::Stopped)
                    }
                    _ => {
                        self.plan_look(now);
                        Ok(())
                    }
                }
            }
            Packet::Stop | Packet::CloseClient => Err(Trouble::Stopped),
            _ => Ok(()),
        }
    }

    fn announced_nodes(&mut self, now: Instant, nodes: Vec<Node>) -> Result<(), Trouble> {
        for node in nodes {
            match node.kind {
                Kind::Master => {
                    if let Some(address) = node.address {
                        self.master_at(address);
                    }
                }
                Kind::Storage => {
                    self.topology.node(&node);
                    let conn = node.id.and_then(|id| self.nodes.get(&id).copied());
                    if let Some(conn) = conn
                        && node.state != State::Running
                    {
                        self.storage_lost(now, conn);
                    }
                }
                Kind::Other if node.id.is_some() && node.id == self.us => {
                    if node.state != State::Running {
                        return Err(Trouble::Dropped);
                    }
                    (self.stamp, self.is_announced) = (node.stamp, true);
                }
                Kind::Other => {}
            }
        }
        self.learnt(now)
    }
}

/// Head.
impl<W> Session<W> {
    /// The cluster's newest transaction.
    fn newest(&mut self, now: Instant, tid: Tid) -> Result<(), Trouble> {
        match &mut self.phase {
            Phase::Learning { last, .. } => {
                *last = Some(tid);
                self.learnt(now)
            }
            Phase::Running { .. } => {
                self.plan_look(now);
                // Only a cluster that follows another one announces nothing.
                match self.head {
                    Some(head) if tid > head && self.follow.len() == 0 => {
                        self.catch_up(head, tid, true);
                    }
                    _ => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn plan_look(&mut self, now: Instant) {
        let is_due = self.cluster == Cluster::BackingUp;
        self.look_at = is_due.then(|| now + Duration::from_millis(NEO_LOOK_MS));
    }

    fn catch_up(&mut self, head: Tid, to: Tid, is_quiet: bool) {
        self.follow.catch_up(head, to, self.topology.partitions());
        self.phase = Phase::Syncing { is_quiet };
    }

    /// Something is known that was not: perhaps all that is needed.
    fn learnt(&mut self, now: Instant) -> Result<(), Trouble> {
        let Phase::Learning {
            last: Some(last), ..
        } = self.phase
        else {
            return Ok(());
        };
        if !self.topology.is_operational() || !self.is_announced {
            return Ok(());
        }
        match self.head {
            None => {
                self.head = Some(last);
                self.events.push_back(Event::Opened(last));
                self.run(now, 0, false)
            }
            Some(head) if last < head => {
                let fatal = Fatal::WentBack { head, now: last };
                self.end(Why::Moved);
                self.events.push_back(Event::Fatal(fatal));
                Ok(())
            }
            Some(head) if last == head => self.run(now, 0, false),
            Some(head) => {
                self.events.push_back(Event::CatchingUp);
                self.catch_up(head, last, false);
                Ok(())
            }
        }
    }

    /// Head is known: what was announced meanwhile follows.
    fn run(&mut self, now: Instant, missed: usize, is_quiet: bool) -> Result<(), Trouble> {
        self.phase = Phase::Running { since: now };
        self.tried = 0;
        if !is_quiet {
            self.events.push_back(Event::Serving(missed));
        }
        self.plan_look(now);
        self.pushed_oids = 0;
        self.announced = self.head.expect("it is known");
        for (tid, oids) in std::mem::take(&mut self.pushed) {
            if tid > self.announced {
                self.pushed(now, tid, oids)?;
            }
        }
        Ok(())
    }

    fn pushed(&mut self, now: Instant, tid: Tid, oids: Vec<Oid>) -> Result<(), Trouble> {
        if !matches!(self.phase, Phase::Running { .. }) {
            self.pushed_oids += oids.len() + 1;
            if self.pushed_oids > PUSHED_OIDS_MAX {
                return Err(Trouble::Pushes);
            }
            self.pushed.push((tid, oids));
            return Ok(());
        }
        if tid < self.announced {
            return Err(Trouble::Order(tid, self.announced));
        }
        if tid > self.announced {
            self.announced = tid;
            self.follow.announced(now, tid, oids);
            if self.follow.len() > PUSHED_OIDS_MAX {
                return Err(Trouble::Pushes);
            }
        }
        Ok(())
    }

    /// Tells what is known of transactions by now.
    fn tell(&mut self, now: Instant) {
        let Phase::Syncing { is_quiet } = self.phase else {
            return self.commit();
        };
        if let Some(missed) = self.follow.has_caught_up() {
            self.commit();
            self.rerun(now, missed, is_quiet);
        }
    }

    fn commit(&mut self) {
        while let Some((tid, mut oids)) = self.follow.next_told() {
            oids.sort_unstable();
            oids.dedup();
            self.head = Some(tid);
            self.events.push_back(Event::Commit(tid, oids));
        }
    }

    fn rerun(&mut self, now: Instant, missed: usize, is_quiet: bool) {
        if let Err(trouble) = self.run(now, missed, is_quiet) {
            self.master_lost(now, trouble);
        }
    }

    /// What happened cannot be told, up to the newest transaction that is known.
    fn reset(&mut self, now: Instant, gap: Gap) {
        let is_quiet = matches!(
            self.phase,
            Phase::Running { .. } | Phase::Syncing { is_quiet: true }
        );
        let to = self.follow.to().unwrap_or(self.announced);
        // What is waited for was asked for by whoever saw the other history.
        self.fail(&Why::Moved);
        self.follow = Follow::default();
        self.head = Some(to);
        self.generation += 1;
        self.events.push_back(Event::Reset(to, gap));
        self.rerun(now, 0, is_quiet);
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
        self.dial(now)
    }

    fn dialed(&mut self, now: Instant, conn: Conn) {
        self.dialed(now, conn);
    }

    fn has(&self, conn: Conn) -> bool {
        self.has_conn(conn)
    }

    fn is_in(&self, conn: Conn) -> bool {
        self.peers.get(&conn).is_some_and(Peer::is_in)
    }

    fn received(&mut self, now: Instant, conn: Conn, bytes: &[u8]) {
        self.received(now, conn, bytes);
    }

    fn outgoing(&mut self, conn: Conn) -> &mut Vec<u8> {
        self.outgoing(conn)
    }

    fn sent(&mut self, now: Instant, conn: Conn, bytes: usize) {
        self.sent(now, conn, bytes);
    }

    fn lost(&mut self, now: Instant, conn: Conn, broken: Broken) {
        self.lost(now, conn, broken.into());
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
