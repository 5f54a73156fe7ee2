//! Storage nodes: connected to when there is something to ask, and what they answer.

use super::{Asked, Came, Event, Phase, Placed, Session};
use crate::base::Tid;
use crate::base::limit::{NEO_ASIDE_MS, NEO_TIDS_MAX, ZEO_LOADS_UNDER_WAY, ZEO_REPLY_BYTES};
use crate::store::Loaded;
use crate::store::neo::Trouble;
use crate::store::neo::asks::Ask;
use crate::store::remote::Why;
use crate::store::remote::driver::Conn;
use crate::store::remote::loads::Key;
use crate::wire::neo::{Object, Packet, Request, refusal};
use crate::wire::zeo::Refusal;
use bytes::Bytes;
use flate2::read::ZlibDecoder;
use std::io::Read;
use std::time::{Duration, Instant};

/// A node that has not heard of us yet is asked again so soon.
const UNKNOWN_MS: u64 = 100;

/// Asking.
impl<W> Session<W> {
    /// Somebody wants an object as of a state that was given out.
    pub(in crate::store::neo) fn load(
        &mut self,
        now: Instant,
        generation: u64,
        key: Key,
        waiter: W,
    ) {
        let refused = match &self.phase {
            Phase::Ended(why) => Err((waiter, why.clone())),
            _ if generation != self.generation => Err((waiter, Why::Moved)),
            _ => self.loads.want(now, key, waiter),
        };
        match refused {
            Err((waiter, why)) => self.events.push_back(Event::Done(key, waiter, Err(why))),
            Ok(()) => self.pump(now),
        }
    }

    /// Asks for what is wanted and what is to be found out, as far as there is room.
    pub(super) fn pump(&mut self, now: Instant) {
        self.tell(now);
        let (is_ready, follows) = match &self.phase {
            Phase::Running { .. } => (true, true),
            Phase::Syncing { .. } => (self.follow.is_known(), true),
            _ => (false, false),
        };
        while follows && let Some(ask) = self.follow.next_ask() {
            self.place(now, ask);
        }
        while is_ready && let Some(key) = self.loads.next() {
            self.place(now, Ask::Load(key));
        }
        for node in self.asks.nodes() {
            self.pump_node(now, node);
        }
    }

    pub(super) fn place(&mut self, now: Instant, ask: Ask) {
        if self.asks.place(now, ask, &self.topology) == Placed::First {
            self.ask_master(now, Asked::Flush, &Request::Ping);
        }
    }

    fn pump_node(&mut self, now: Instant, node: i32) {
        let conn = match (self.nodes.get(&node), self.topology.address(node)) {
            (Some(conn), _) => *conn,
            (None, Some(address)) => {
                let address = address.clone();
                let conn = self.connect(now, address);
                self.nodes.insert(node, conn);
                return;
            }
            (None, None) => return self.replace(now, node),
        };
        let Some(peer) = self.peers.get_mut(&conn) else {
            return;
        };
        if peer.is_closing {
            return self.replace(now, node);
        }
        let room = (ZEO_REPLY_BYTES / peer.answer_bytes.max(1)).clamp(4, ZEO_LOADS_UNDER_WAY);
        while peer.is_in()
            && peer.under_way < room
            && let Some(ask) = self.asks.next(node)
        {
            let request = match ask {
                Ask::Load(key) if !self.loads.is_wanted(key) => {
                    self.asks.forget(ask);
                    self.loads.requeue(vec![key]);
                    continue;
                }
                Ask::Load((oid, at)) => {
                    let before = at.0.saturating_add(1).min(i64::MAX.unsigned_abs());
                    Request::Before(oid, Tid(before))
                }
                Ask::Transaction(tid) => Request::Transaction(tid),
                Ask::Changed(oid, tid) => Request::Exactly(oid, tid),
                Ask::Tids(partition, from) => {
                    let to = self.follow.to().unwrap_or(from);
                    Request::TidsFrom(from, to, NEO_TIDS_MAX, partition)
                }
            };
            peer.ask(now, Asked::Of(ask), &request);
        }
    }

    /// What waits for a node is to be asked of others.
    fn replace(&mut self, now: Instant, node: i32) {
        for ask in self.asks.left(node) {
            self.asks.failed(ask, node);
            self.place(now, ask);
        }
    }

    /// The connection to a node is over.
    pub(super) fn storage_lost(&mut self, now: Instant, conn: Conn) {
        let until = now + Duration::from_millis(NEO_ASIDE_MS);
        self.storage_left(now, conn, until);
    }

    fn storage_left(&mut self, now: Instant, conn: Conn, aside_until: Instant) {
        let Some(mut peer) = self.peers.remove(&conn) else {
            return;
        };
        let node = self.nodes.iter().find(|(_, known)| **known == conn);
        let Some(node) = node.map(|(node, _)| *node) else {
            return;
        };
        self.nodes.remove(&node);
        if !peer.is_closing {
            self.topology.aside(node, aside_until);
        }
        for ask in peer.left() {
            self.asks.failed(ask, node);
            self.place(now, ask);
        }
        self.replace(now, node);
    }
}

/// Answers.
impl<W> Session<W> {
    pub(super) fn of_storage(
        &mut self,
        now: Instant,
        conn: Conn,
        came: Came,
    ) -> Result<(), Trouble> {
        let node = self.nodes.iter().find(|(_, known)| **known == conn);
        let node = node.map(|(node, _)| *node).ok_or(Trouble::Answer)?;
        match came {
            Came::Greeted => {
                let cluster = self.opts.cluster.clone();
                let request = Request::IdentifyToStorage {
                    cluster: &cluster,
                    node: self.us.unwrap_or_default(),
                    stamp: self.stamp,
                };
                if let Some(peer) = self.peers.get_mut(&conn) {
                    peer.ask(now, Asked::Identify, &request);
                }
                Ok(())
            }
            Came::News(Packet::CloseClient) => {
                if let Some(peer) = self.peers.get_mut(&conn) {
                    peer.is_closing = true;
                }
                self.close_if_idle(now, conn);
                Ok(())
            }
            Came::News(_) | Came::Answer(Asked::Probe, ..) => Ok(()),
            Came::Skipped(Asked::Of(ask @ Ask::Load(key)), len) => {
                self.asks.answered(ask);
                self.done(key, Err(Why::TooBig(len)));
                Ok(())
            }
            Came::Skipped(Asked::Of(ask @ Ask::Changed(oid, tid)), _) => {
                self.asks.answered(ask);
                self.follow.changed(oid, tid, true);
                Ok(())
            }
            Came::Skipped(_, len) => Err(Trouble::TooLong(len)),
            Came::Answer(Asked::Identify, Packet::Accepted(..), _) => {
                self.topology.good(node);
                if let Some(peer) = self.peers.get_mut(&conn) {
                    peer.accepted(now);
                }
                Ok(())
            }
            Came::Answer(Asked::Identify, Packet::Refused(refusal::NOT_READY, _), _) => {
                let until = now + Duration::from_millis(UNKNOWN_MS);
                self.storage_left(now, conn, until);
                Ok(())
            }
            Came::Answer(Asked::Identify, Packet::Refused(number, text), _) => {
                Err(Trouble::Refused(number, text))
            }
            Came::Answer(Asked::Of(ask), answer, bytes) => {
                if let Some(peer) = self.peers.get_mut(&conn) {
                    peer.answer_bytes = (peer.answer_bytes * 7 + bytes) / 8;
                }
                let taken = self.answered(now, node, ask, answer);
                if taken.is_err() {
                    // To be asked of another one.
                    self.asks.failed(ask, node);
                    self.place(now, ask);
                }
                self.close_if_idle(now, conn);
                taken
            }
            Came::Answer(..) => Err(Trouble::Answer),
        }
    }

    fn close_if_idle(&mut self, now: Instant, conn: Conn) {
        let peer = self.peers.get(&conn);
        if peer.is_some_and(|peer| peer.is_closing && peer.under_way == 0) {
            self.storage_left(now, conn, now);
        }
    }

    /// What a node says to a question.
    fn answered(
        &mut self,
        now: Instant,
        node: i32,
        ask: Ask,
        answer: Packet,
    ) -> Result<(), Trouble> {
        let known = match (ask, answer) {
            (_, Packet::Refused(refusal::NON_READABLE_CELL | refusal::NOT_READY, _)) => {
                self.asks.failed(ask, node);
                self.place(now, ask);
                return Ok(());
            }
            (Ask::Load(key), Packet::Object(object)) => {
                return self.object(now, node, key, &object);
            }
            (Ask::Load(key), Packet::Refused(number, text)) => {
                self.asks.answered(ask);
                self.done(key, Err(why(number, text)));
                return Ok(());
            }
            (Ask::Transaction(tid), Packet::Transaction(of, oids)) if of == tid => {
                self.asks.answered(ask);
                self.follow.listed(tid, oids)
            }
            (Ask::Transaction(tid), Packet::Refused(..)) => {
                self.asks.failed(ask, node);
                let known = self.follow.unknown(now, tid);
                if known.is_ok() {
                    self.place(now, ask);
                }
                known
            }
            (Ask::Changed(oid, tid), Packet::Object(object)) if object.oid == oid => {
                self.asks.answered(ask);
                self.follow.changed(oid, tid, object.serial == tid);
                Ok(())
            }
            (Ask::Changed(oid, tid), Packet::Refused(number, _)) => {
                // Whatever else it is, it may have changed.
                let is_not = [refusal::OID_NOT_FOUND, refusal::OID_DOES_NOT_EXIST];
                self.asks.answered(ask);
                self.follow.changed(oid, tid, !is_not.contains(&number));
                Ok(())
            }
            (Ask::Tids(partition, from), Packet::Tids(tids)) => {
                self.asks.answered(ask);
                let listed = self.follow.tids(now, (partition, from), &tids);
                listed.ok_or(Trouble::Answer)?
            }
            _ => return Err(Trouble::Answer),
        };
        if let Err(gap) = known {
            self.reset(now, gap);
        }
        Ok(())
    }

    /// A revision, if it is sound.
    fn object(
        &mut self,
        now: Instant,
        node: i32,
        key: Key,
        object: &Object,
    ) -> Result<(), Trouble> {
        let ((oid, at), ask) = (key, Ask::Load(key));
        if object.oid != oid {
            return Err(Trouble::Answer);
        }
        if object.serial > at {
            return Err(Trouble::Serial(oid, object.serial, at));
        }
        let loaded = match record(object, self.opts.max_record) {
            Ok(data) => Ok(Loaded {
                serial: object.serial,
                data,
            }),
            Err(Unsound::Why(why)) => Err(why),
            Err(Unsound::Damaged) => {
                self.asks.failed(ask, node);
                if self.asks.has_more(now, ask, &self.topology) {
                    self.place(now, ask);
                    return Ok(());
                }
                Err(Why::Refused(Refusal {
                    class: "no node that has it has it whole".into(),
                    text: "checksums do not match".into(),
                }))
            }
        };
        self.asks.answered(ask);
        self.done(key, loaded);
        Ok(())
    }

    fn done(&mut self, key: Key, loaded: Result<Loaded, Why>) {
        for waiter in self.loads.answered(key) {
            let done = Event::Done(key, waiter, loaded.clone());
            self.events.push_back(done);
        }
    }
}

fn why(number: i64, text: Box<str>) -> Why {
    match number {
        refusal::OID_NOT_FOUND => Why::NotYet,
        refusal::OID_DOES_NOT_EXIST => Why::NoObject,
        _ => Why::Refused(Refusal {
            class: format!("NEO error {number}").into(),
            text,
        }),
    }
}

/// Why there is no record.
enum Unsound {
    Why(Why),
    /// Another node may have it whole.
    Damaged,
}

/// The record of an object, as it was stored.
fn record(object: &Object, max: usize) -> Result<Bytes, Unsound> {
    if object.data.is_empty() && object.checksum == [0; 20] {
        return Err(Unsound::Why(Why::Deleted(object.serial)));
    }
    if sha1_smol::Sha1::from(&object.data).digest().bytes() != object.checksum {
        return Err(Unsound::Damaged);
    }
    let data = match object.is_compressed {
        false => object.data.clone(),
        true => {
            let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
            let mut data = Vec::with_capacity(object.data.len().saturating_mul(2).min(max));
            let unpacked = ZlibDecoder::new(&object.data[..])
                .take(most)
                .read_to_end(&mut data);
            unpacked.map_err(|_| Unsound::Damaged)?;
            data.into()
        }
    };
    match data.len() > max {
        true => Err(Unsound::Why(Why::TooBig(data.len()))),
        false => Ok(data),
    }
}

/// For the tests of records.
#[cfg(test)]
pub(in crate::store::neo) fn unpacked(object: &Object, max: usize) -> Result<Bytes, Option<Why>> {
    record(object, max).map_err(|unsound| match unsound {
        Unsound::Why(why) => Some(why),
        Unsound::Damaged => None,
    })
}

/// An object of no interest but its number.
#[cfg(test)]
pub(in crate::store::neo) fn object(data: &[u8], is_compressed: bool) -> Object {
    Object {
        oid: crate::base::Oid(1),
        serial: Tid(1),
        is_compressed,
        checksum: sha1_smol::Sha1::from(data).digest().bytes(),
        data: Bytes::copy_from_slice(data),
    }
}
