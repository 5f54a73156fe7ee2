//! A model of a ZEO server, the bytes between it and a session, and a clock that is moved by hand.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::session::{Event, Opts, Session};
use super::super::{Broken, Trouble, Why};
use crate::base::{Oid, Tid};
use crate::store::remote::Address;
use crate::wire::zeo::{Arg, Encoding, Frame, Frames, Request, Word, encode};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Objects of a transaction; `None` deletes.
pub(super) type Changes = BTreeMap<u64, Option<Vec<u8>>>;

/// The database of the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) txns: Vec<(u64, Changes)>,
    /// How many transactions back the server knows what changed.
    pub(super) remembers: usize,
    /// Whether it can walk.
    pub(super) walks: bool,
    /// Objects of a union that no transaction has any more.
    pub(super) packed: Vec<u64>,
}

impl Model {
    pub(super) fn last(&self) -> u64 {
        self.txns.last().map_or(0, |(tid, _)| *tid)
    }

    /// Data of an object as of a state, and its serial; `Err(true)` when it is not there yet.
    pub(super) fn at(&self, oid: u64, at: u64) -> Result<(Vec<u8>, u64), bool> {
        let found = self
            .txns
            .iter()
            .rev()
            .find(|(tid, c)| *tid <= at && c.contains_key(&oid));
        match found {
            Some((tid, changes)) => changes[&oid].clone().map(|data| (data, *tid)).ok_or(false),
            None => Err(self.txns.iter().any(|(_, c)| c.contains_key(&oid))),
        }
    }
}

/// Object and state that were asked for, and what came.
type Answered = (u64, u64, Result<(Vec<u8>, u64), Why>);

/// One connection, as the server has it.
#[derive(Debug)]
struct Connection {
    frames: Frames,
    greeted: bool,
    registered: bool,
    walks: HashMap<i64, Vec<usize>>,
    records: HashMap<i64, Vec<u64>>,
    current: HashMap<i64, usize>,
    next: i64,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) session: Session<u32>,
    pub(super) model: Model,
    pub(super) encoding: Encoding,
    connection: Option<Connection>,
    /// On the way to the client.
    pub(super) down: Vec<u8>,
    /// On the way to the server.
    pub(super) up: Vec<u8>,
    /// What the server was asked, and what came of it.
    pub(super) log: Vec<String>,
    pub(super) done: HashMap<u32, Answered>,
    pub(super) commits: Vec<(u64, Vec<u64>)>,
    pub(super) resets: usize,
    pub(super) fatal: bool,
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl World {
    pub(super) fn new(encoding: Encoding) -> Self {
        let now = Instant::now();
        let opts = Opts {
            address: Address::Tcp("db".to_owned(), 9991),
            storage: "main".to_owned(),
            max_record: 1000,
            seed: 7,
        };
        Self {
            now,
            session: Session::new(opts, now),
            model: Model {
                remembers: 100,
                walks: true,
                ..Model::default()
            },
            encoding,
            connection: None,
            down: Vec::new(),
            up: Vec::new(),
            log: Vec::new(),
            done: HashMap::new(),
            commits: Vec::new(),
            resets: 0,
            fatal: false,
        }
    }

    /// A transaction of the model; pushed to whoever is registered.
    pub(super) fn commit(&mut self, tid: u64, changes: &[(u64, Option<&[u8]>)]) {
        assert!(tid > self.model.last());
        let all = changes
            .iter()
            .map(|(oid, data)| (*oid, data.map(<[u8]>::to_vec)));
        self.model.txns.push((tid, all.collect()));
        if self.connection.as_ref().is_some_and(|c| c.registered) {
            let oids: Vec<u64> = changes.iter().map(|(oid, _)| *oid).collect();
            self.push(tid, &oids);
        }
    }

    pub(super) fn push(&mut self, tid: u64, oids: &[u64]) {
        let oids: Vec<_> = oids.iter().map(|oid| oid.to_be_bytes()).collect();
        let oids: Vec<_> = oids.iter().map(|oid| Arg::Bytes(oid)).collect();
        let args = [Arg::Bytes(&tid.to_be_bytes()), Arg::List(&oids)];
        let name = Arg::Text("invalidateTransaction");
        let message = [Arg::Int(0), Arg::Bool(true), name, Arg::Tuple(&args)];
        encode(self.encoding, &message, &mut self.down);
    }

    /// A server that takes the place of the one before; connections end.
    pub(super) fn restart(&mut self) {
        self.cut(Trouble::Broken(Broken::Closed));
    }

    pub(super) fn cut(&mut self, trouble: Trouble) {
        self.connection = None;
        self.down.clear();
        self.up.clear();
        self.session.lost(self.now, trouble);
        self.settle();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Makes a stream, if one is wanted now.
    pub(super) fn dial(&mut self) -> bool {
        if !self.session.dial(self.now) {
            return false;
        }
        self.session.dialed(self.now);
        self.connection = Some(Connection {
            frames: Frames::new(1 << 20),
            greeted: false,
            registered: false,
            walks: HashMap::new(),
            records: HashMap::new(),
            current: HashMap::new(),
            next: 1,
        });
        self.down = self.encoding.greeting();
        self.up.clear();
        true
    }

    pub(super) fn load(&mut self, oid: u64, at: u64, waiter: u32) {
        self.load_of(0, oid, at, waiter);
    }

    pub(super) fn load_of(&mut self, generation: u64, oid: u64, at: u64, waiter: u32) {
        let key = (Oid(oid), Tid(at));
        self.session.load(self.now, generation, key, waiter);
        self.settle();
    }

    /// Time passes.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.session.tick(self.now);
        self.settle();
    }

    /// Bytes reach the client, at most so many.
    pub(super) fn arrive(&mut self, max: usize) {
        let n = max.min(self.down.len());
        let bytes: Vec<u8> = self.down.drain(..n).collect();
        if n > 0 && self.is_connected() {
            self.session.received(self.now, &bytes);
            self.settle();
        }
    }

    /// Bytes leave the client and reach the server, at most so many.
    pub(super) fn depart(&mut self, max: usize) {
        if !self.is_connected() {
            return;
        }
        let out = self.session.outgoing();
        let n = max.min(out.len());
        self.up.extend(out.drain(..n));
        self.session.sent(self.now, n);
        let up = std::mem::take(&mut self.up);
        let mut bytes = &up[..];
        while let Some(connection) = &mut self.connection {
            let Some(Frame::Whole(payload)) = connection.frames.take(&mut bytes).unwrap() else {
                break;
            };
            if !connection.greeted {
                assert_eq!(payload, self.encoding.greeting()[4..]);
                connection.greeted = true;
                continue;
            }
            let request = Request::read(self.encoding, &payload).unwrap();
            self.serve(&request);
        }
    }

    /// Everything that is on its way arrives, and what that leads to.
    pub(super) fn flow(&mut self) {
        self.dial();
        while self.is_connected() && (!self.down.is_empty() || !self.session.outgoing().is_empty())
        {
            self.arrive(usize::MAX);
            self.depart(usize::MAX);
        }
    }

    /// Connects, however long that takes, and lets everything arrive.
    pub(super) fn reconnect(&mut self) {
        for _ in 0..20 {
            self.flow();
            if self.is_connected() {
                return;
            }
            let at = self.session.timeout().unwrap_or(self.now);
            self.wait(at.saturating_duration_since(self.now));
        }
        panic!("no connection");
    }

    /// Waits for the next attempt, and lets everything arrive.
    pub(super) fn reconnect_once(&mut self) {
        let at = self.session.timeout().unwrap();
        self.wait(at.saturating_duration_since(self.now));
        self.flow();
    }

    fn settle(&mut self) {
        while let Some(event) = self.session.next_event() {
            let line = match event {
                Event::Opened(tid) => format!("opened {}", tid.0),
                Event::Commit(tid, oids) => {
                    let oids: Vec<u64> = oids.iter().map(|oid| oid.0).collect();
                    self.commits.push((tid.0, oids.clone()));
                    format!("commit {} {oids:?}", tid.0)
                }
                Event::Reset(tid, gap) => {
                    self.resets += 1;
                    format!("reset {}: {gap}", tid.0)
                }
                Event::Serving(missed) => format!("serving, {missed} missed"),
                Event::CatchingUp => "catching up".to_owned(),
                Event::Lost(trouble) => {
                    self.connection = None;
                    self.down.clear();
                    self.up.clear();
                    format!("lost: {trouble}")
                }
                Event::Fatal(fatal) => {
                    self.connection = None;
                    self.fatal = true;
                    format!("fatal: {fatal}")
                }
                Event::Done((oid, at), waiter, loaded) => {
                    let loaded = loaded.map(|l| (l.data.to_vec(), l.serial.0));
                    let line = match &loaded {
                        Ok((data, serial)) => {
                            format!("{waiter}: {} of {serial}", data.escape_ascii())
                        }
                        Err(why) => format!("{waiter}: {why:?}"),
                    };
                    let before = self.done.insert(waiter, (oid.0, at.0, loaded));
                    assert!(before.is_none(), "{waiter} was answered twice");
                    line
                }
            };
            self.log.push(line);
        }
    }

    /// What happened since the last call.
    pub(super) fn told(&mut self) -> String {
        std::mem::take(&mut self.log).join("\n")
    }
}

/// What the server does.
impl World {
    fn reply(&mut self, number: i64, result: Arg<'_>) {
        let message = [Arg::Int(number), Arg::Int(0), Arg::Text(".reply"), result];
        encode(self.encoding, &message, &mut self.down);
    }

    pub(super) fn refuse(&mut self, number: i64, class: &str) {
        let args = [Arg::Text(class), Arg::Tuple(&[])];
        let name = Arg::Text(".reply");
        let message = [Arg::Int(number), Arg::Int(2), name, Arg::Tuple(&args)];
        encode(self.encoding, &message, &mut self.down);
    }

    fn serve(&mut self, request: &Request) {
        let args: Vec<String> = request
            .args
            .iter()
            .map(|word| match word {
                Word::Int(n) => n.to_string(),
                Word::Id(n) => format!("@{n}"),
                Word::Text(text) => text.clone(),
                Word::Other => "-".to_owned(),
            })
            .collect();
        self.log.push(
            format!("? {} {}", request.method, args.join(" "))
                .trim_end()
                .to_owned(),
        );
        let number = request.number;
        let ids: Vec<u64> = request
            .args
            .iter()
            .map(|word| match word {
                Word::Id(n) => *n,
                Word::Int(n) => n.cast_unsigned(),
                _ => 0,
            })
            .collect();
        let last = self.model.last().to_be_bytes();
        let connection = self.connection.as_mut().unwrap();
        match (request.method.as_str(), &ids[..]) {
            ("register", _) => {
                connection.registered = true;
                self.reply(number, Arg::Bytes(&last));
            }
            ("lastTransaction", _) => self.reply(number, Arg::Bytes(&last)),
            ("loadBefore", &[oid, before]) => match self.model.at(oid, before - 1) {
                Ok((data, serial)) => {
                    let serial = serial.to_be_bytes();
                    let result = [Arg::Bytes(&data), Arg::Bytes(&serial), Arg::None];
                    self.reply(number, Arg::Tuple(&result));
                }
                Err(true) => self.reply(number, Arg::None),
                Err(false) => self.refuse(number, "ZODB.POSException.POSKeyError"),
            },
            ("getInvalidations", &[since]) => self.union(number, since),
            ("iterator_start", &[first, last]) => {
                if !self.model.walks {
                    return self.refuse(number, "builtins.AttributeError");
                }
                let walk = connection.next;
                connection.next += 1;
                let all = 0..self.model.txns.len();
                let span = |n: &usize| (first..=last).contains(&self.model.txns[*n].0);
                connection
                    .walks
                    .insert(walk, all.filter(span).rev().collect());
                self.reply(number, Arg::Int(walk));
            }
            ("iterator_next", &[walk]) => {
                let walk = walk.cast_signed();
                let next = connection
                    .walks
                    .get_mut(&walk)
                    .expect("a walk that goes on")
                    .pop();
                match next {
                    None => {
                        connection.walks.remove(&walk);
                        self.reply(number, Arg::None);
                    }
                    Some(n) => {
                        connection.current.insert(walk, n);
                        let tid = self.model.txns[n].0.to_be_bytes();
                        let empty = Arg::Bytes(b"");
                        let info = [Arg::Bytes(&tid), Arg::Text(" "), empty, empty, Arg::None];
                        self.reply(number, Arg::Tuple(&info));
                    }
                }
            }
            ("iterator_record_start", &[walk, tid]) => {
                let n = connection.current[&walk.cast_signed()];
                assert_eq!(self.model.txns[n].0, tid);
                let records = connection.next;
                connection.next += 1;
                let oids = self.model.txns[n].1.keys().rev().copied().collect();
                connection.records.insert(records, oids);
                self.reply(number, Arg::Int(records));
            }
            ("iterator_record_next", &[records]) => {
                let records = records.cast_signed();
                let left = connection
                    .records
                    .get_mut(&records)
                    .expect("records are left");
                match left.pop() {
                    None => {
                        connection.records.remove(&records);
                        self.reply(number, Arg::None);
                    }
                    Some(oid) => {
                        let oid = oid.to_be_bytes();
                        let record = [Arg::Bytes(&oid), Arg::Bytes(&last), Arg::None, Arg::None];
                        self.reply(number, Arg::Tuple(&record));
                    }
                }
            }
            ("iterator_gc", _) => self.reply(number, Arg::None),
            other => panic!("{other:?}"),
        }
    }

    fn union(&mut self, number: i64, since: u64) {
        let known = self.model.txns.len().saturating_sub(self.model.remembers);
        let oldest = self.model.txns.get(known).map_or(0, |(tid, _)| *tid);
        if known > 0 && since < oldest {
            return self.reply(number, Arg::None);
        }
        let newer = self.model.txns.iter().filter(|(tid, _)| *tid > since);
        let mut oids: Vec<_> = newer
            .flat_map(|(_, changes)| changes.keys())
            .chain(&self.model.packed)
            .map(|oid| oid.to_be_bytes())
            .collect();
        oids.sort_unstable();
        oids.dedup();
        let oids: Vec<_> = oids.iter().map(|oid| Arg::Bytes(oid)).collect();
        let last = self.model.last().to_be_bytes();
        let result = [Arg::Bytes(&last), Arg::List(&oids)];
        self.reply(number, Arg::Tuple(&result));
    }
}
