//! A NEO cluster out of a FileStorage, as zodb.md 7.2-7.7 describes one: masters, one of which leads, and storage nodes with replicas. It
//! follows a writer of the file. Every node is a port of this process, so any can be killed and started.
//!
//! What it does on purpose: storage nodes do not know a client at first; announcements leave deleted objects out; what is listed of a
//! transaction has the root object too, which most did not touch; large records are compressed.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

mod tls;
mod value;

pub(crate) use tls::Tls;

use flate2::{Compression, write::ZlibEncoder};
use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use value::Value;
use zring::base::{Oid, Tid};
use zring::store::LoadError;
use zring::store::file::{Event, FileOpts, FileStore, FileView};

const NAME: &str = "c";
const PARTITIONS: usize = 4;
const CELL: u8 = 0;
const STATE: u8 = 3;
const KIND: u8 = 4;
/// What is announced of each client.
const STAMP: f64 = 1_700_000_000.25;
const FIRST_CLIENT: i64 = -0x2000_0000;

fn array(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

fn packet(id: i64, code: i64, args: impl IntoIterator<Item = Value>) -> Vec<u8> {
    let mut out = Vec::new();
    let packet = array([Value::Int(id), Value::Int(code), array(args)]);
    value::write(&packet, &mut out);
    out
}

/// A port that nobody is given who connects somewhere: a node that was killed finds it free when it comes back.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * 61;
    loop {
        let n = first + GIVEN.fetch_add(1, Ordering::SeqCst);
        let port = u16::try_from(20_000 + n % 12_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A node: where it listens, and who is connected.
struct Node {
    port: u16,
    /// Where clients come, if they do so by TLS.
    front: Option<TcpListener>,
    is_up: Arc<AtomicBool>,
    streams: Mutex<Vec<TcpStream>>,
    asked: AtomicUsize,
}

impl Node {
    fn new(has_front: bool) -> Self {
        let front = has_front.then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        Self {
            port: free_port(),
            front,
            is_up: Arc::default(),
            streams: Mutex::default(),
            asked: AtomicUsize::new(0),
        }
    }

    /// Where clients come.
    fn announced(&self) -> u16 {
        let front = self.front.as_ref();
        front.map_or(self.port, |front| front.local_addr().unwrap().port())
    }

    fn address(&self) -> Value {
        let port = Value::Int(i64::from(self.announced()));
        array([Value::text("127.0.0.1"), port])
    }

    fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Db {
    store: FileStore,
    view: FileView,
    txns: BTreeMap<Tid, Vec<Oid>>,
    /// What master connections are told.
    clients: Vec<TcpStream>,
}

struct Shared {
    masters: Vec<Node>,
    primary: AtomicUsize,
    storages: Vec<Node>,
    db: Mutex<Db>,
    /// The cells of a node that is down are said to be.
    tells: AtomicBool,
    clients: AtomicUsize,
    /// Storage nodes that have heard of a client.
    heard: Mutex<Vec<(usize, i64)>>,
    is_over: Arc<AtomicBool>,
    /// Added to every answer of a storage node.
    spoils: AtomicUsize,
}

/// A cluster that ends with this.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Cluster {
    /// Started, with what stands in a file.
    pub(crate) fn start(file: &Path, masters: usize, storages: usize) -> Self {
        Self::start_by(file, masters, storages, None)
    }

    /// The same by TLS.
    pub(crate) fn start_by(file: &Path, masters: usize, storages: usize, tls: Option<Tls>) -> Self {
        let opened = FileStore::open(file, &FileOpts::default(), &mut |_, _| {});
        let (store, view) = opened.unwrap();
        let mut txns = BTreeMap::new();
        for past in view.history(Tid::ZERO, view.at()) {
            let past = past.unwrap();
            txns.insert(past.tid, past.oids.to_vec());
        }
        let shared = Arc::new(Shared {
            masters: (0..masters).map(|_| Node::new(tls.is_some())).collect(),
            primary: AtomicUsize::new(masters - 1),
            storages: (0..storages).map(|_| Node::new(tls.is_some())).collect(),
            db: Mutex::new(Db {
                store,
                view,
                txns,
                clients: Vec::new(),
            }),
            tells: AtomicBool::new(true),
            clients: AtomicUsize::new(0),
            heard: Mutex::default(),
            is_over: Arc::default(),
            spoils: AtomicUsize::new(0),
        });
        let this = Self {
            shared,
            threads: Mutex::default(),
        };
        (0..masters).for_each(|n| this.start_master(n));
        (0..storages).for_each(|n| this.start_storage(n));
        let shared = Arc::clone(&this.shared);
        this.spawn(move || shared.follow());
        if let Some(tls) = tls.map(Arc::new) {
            for node in this.shared.masters.iter().chain(&this.shared.storages) {
                let listener = node.front.as_ref().unwrap().try_clone().unwrap();
                let (tls, port) = (Arc::clone(&tls), node.port);
                let is_over = Arc::clone(&this.shared.is_over);
                this.spawn(move || tls.serve(&listener, port, &is_over));
            }
        }
        this
    }

    fn spawn(&self, run: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(run);
        self.threads.lock().unwrap().push(thread);
    }

    pub(crate) fn zurl(&self) -> String {
        let masters = self.shared.masters.iter();
        let masters: Vec<_> = masters
            .map(|m| format!("127.0.0.1:{}", m.announced()))
            .collect();
        format!("neo://{NAME}@{}", masters.join(","))
    }

    pub(crate) fn primary(&self) -> usize {
        self.shared.primary.load(Ordering::SeqCst)
    }

    /// Questions that a storage node was asked.
    pub(crate) fn asked(&self, storage: usize) -> usize {
        self.shared.storages[storage].asked.load(Ordering::SeqCst)
    }

    /// Starts a master; it leads, if no other one lives.
    pub(crate) fn start_master(&self, n: usize) {
        let leads = &self.shared.masters[self.primary()];
        if !leads.is_up.load(Ordering::SeqCst) && !self.threads.lock().unwrap().is_empty() {
            self.shared.primary.store(n, Ordering::SeqCst);
        }
        let shared = Arc::clone(&self.shared);
        self.listen(&self.shared.masters[n], move |stream| {
            let _ = shared.master(n, stream);
        });
    }

    pub(crate) fn start_storage(&self, n: usize) {
        let shared = Arc::clone(&self.shared);
        self.listen(&self.shared.storages[n], move |stream| {
            let _ = shared.storage(n, stream);
        });
        self.shared
            .heard
            .lock()
            .unwrap()
            .retain(|(node, _)| *node != n);
        self.shared.tell_state(n, true);
    }

    /// Ends a master; another one leads, if there is one that lives.
    pub(crate) fn kill_master(&self, n: usize) {
        let masters = &self.shared.masters;
        masters[n].is_up.store(false, Ordering::SeqCst);
        let is_up = |n: &usize| masters[*n].is_up.load(Ordering::SeqCst);
        let next = (0..masters.len()).find(is_up).unwrap_or(n);
        self.shared.primary.store(next, Ordering::SeqCst);
        masters[n].cut();
    }

    /// Ends a storage node, and the master says so, if it says anything.
    pub(crate) fn kill_storage(&self, n: usize) {
        self.shared.storages[n].is_up.store(false, Ordering::SeqCst);
        self.shared.storages[n].cut();
        self.shared.tell_state(n, false);
    }

    /// Whether the master says when a storage node comes or goes.
    pub(crate) fn tells(&self, tells: bool) {
        self.shared.tells.store(tells, Ordering::SeqCst);
    }

    /// The next answers with objects have a byte that is not what it was: so many.
    pub(crate) fn spoil(&self, count: usize) {
        self.shared.spoils.store(count, Ordering::SeqCst);
    }

    fn listen(&self, node: &Node, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let is_up = Arc::clone(&node.is_up);
        // One that was killed a moment ago still has the port.
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, node.port)) {
                Ok(listener) => break listener,
                Err(error) if tries == 200 => panic!("{error}"),
                Err(_) => tries += 1,
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        listener.set_nonblocking(true).unwrap();
        is_up.store(true, Ordering::SeqCst);
        let serve = Arc::new(serve);
        self.spawn(move || {
            while is_up.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.set_nodelay(true).unwrap();
                        let serve = Arc::clone(&serve);
                        std::thread::spawn(move || serve(stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for node in self.shared.masters.iter().chain(&self.shared.storages) {
            node.is_up.store(false, Ordering::SeqCst);
            node.cut();
        }
        for thread in self.threads.lock().unwrap().drain(..) {
            let _ = thread.join();
        }
    }
}

/// One connection, as a node has it.
struct Link {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Link {
    fn greet(node: &Node, stream: TcpStream) -> io::Result<Self> {
        node.streams.lock().unwrap().push(stream.try_clone()?);
        if !node.is_up.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mut this = Self {
            to: stream.try_clone()?,
            from: BufReader::new(stream),
        };
        this.to.write_all(b"\x92\xa3NEO\x05")?;
        let greeting = value::read(&mut this.from)?;
        assert_eq!(greeting, array([Value::text("NEO"), Value::Int(5)]));
        Ok(this)
    }

    /// The next request: its number, what it is, and what it says.
    fn next(&mut self) -> io::Result<(i64, i64, Vec<Value>)> {
        let packet = value::read(&mut self.from)?;
        let [id, code, args] = packet.items() else {
            panic!("{packet:?}")
        };
        Ok((id.int(), code.int(), args.items().to_vec()))
    }

    fn answer(
        &mut self,
        (id, code): (i64, i64),
        args: impl IntoIterator<Item = Value>,
    ) -> io::Result<()> {
        self.to.write_all(&packet(id, code | 0x8000, args))
    }

    fn refuse(&mut self, id: i64, number: i64) -> io::Result<()> {
        self.answer((id, 0), [Value::Int(number), Value::text("scripted")])
    }
}

impl Shared {
    fn follow(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(3));
            let db = &mut *self.db.lock().unwrap();
            let Ok(poll) = db.store.poll_blocking() else {
                continue;
            };
            for event in poll.events {
                let commit = match event {
                    Event::Commit(commit) => commit,
                    Event::Switched(view) | Event::Reset(view) => {
                        db.view = view;
                        continue;
                    }
                };
                let (tid, view) = (commit.tid, commit.view);
                db.txns.insert(tid, commit.oids.to_vec());
                let is_there = |oid: &&Oid| view.load(**oid, tid).is_ok();
                let oids = commit.oids.iter().filter(is_there);
                let oids = array(oids.map(|oid| Value::id(oid.0)));
                let push = packet(7, 22, [Value::id(tid.0), oids]);
                db.clients
                    .retain_mut(|client| client.write_all(&push).is_ok());
                db.view = view;
            }
        }
    }

    fn tell(&self, told: &[u8]) {
        let clients = &mut self.db.lock().unwrap().clients;
        clients.retain_mut(|client| client.write_all(told).is_ok());
    }

    fn storage_row(&self, n: usize) -> Value {
        let node = &self.storages[n];
        let is_up = !self.tells.load(Ordering::SeqCst) || node.is_up.load(Ordering::SeqCst);
        let state = Value::Ext(STATE, if is_up { 2 } else { 1 });
        let id = Value::Int(i64::try_from(n).unwrap() + 1);
        array([Value::Ext(KIND, 1), node.address(), id, state, Value::Nil])
    }

    /// Each partition is on two nodes.
    fn nodes_of(&self, partition: usize) -> [usize; 2] {
        let count = self.storages.len();
        [partition % count, (partition + 1) % count]
    }

    fn tell_state(&self, n: usize, is_up: bool) {
        if !self.tells.load(Ordering::SeqCst) {
            return;
        }
        self.tell(&packet(
            8,
            6,
            [Value::Float(STAMP), array([self.storage_row(n)])],
        ));
        let mine = (0..PARTITIONS).filter(|p| self.nodes_of(*p).contains(&n));
        let cells = mine.map(|p| array([int(p), int(n + 1), Value::Ext(CELL, u8::from(is_up))]));
        self.tell(&packet(9, 11, [Value::Int(2), Value::Int(1), array(cells)]));
    }

    fn master(&self, n: usize, stream: TcpStream) -> io::Result<()> {
        let mut link = Link::greet(&self.masters[n], stream)?;
        let (id, code, args) = link.next()?;
        assert_eq!((code, args.len()), (1, 6));
        let primary = self.primary.load(Ordering::SeqCst);
        if n != primary {
            let all = array(self.masters.iter().map(Node::address));
            link.to.write_all(&packet(id, 5, [int(primary), all]))?;
            return Ok(());
        }
        if args[3] != Value::text(NAME) {
            return link.refuse(id, 6);
        }
        let number = self.clients.fetch_add(1, Ordering::SeqCst);
        let us = FIRST_CLIENT + i64::try_from(number).unwrap() + 1;
        self.take_in(&mut link, id, us)?;
        loop {
            let (id, code, _) = link.next()?;
            // Nobody else writes in between.
            let db = self.db.lock().unwrap();
            match code {
                2 => link.answer((id, code), [])?,
                46 => link.answer((id, code), [Value::Ext(1, 2)])?,
                60 => link.answer((id, code), [Value::id(db.view.at().0)])?,
                other => panic!("the master is asked {other}"),
            }
        }
    }

    /// What a client is told first; from then on it is told what commits.
    fn take_in(&self, link: &mut Link, id: i64, us: i64) -> io::Result<()> {
        let mut db = self.db.lock().unwrap();
        let peer = Value::Int(-0x1000_0000);
        link.answer((id, 1), [Value::Ext(KIND, 0), peer, Value::Int(us)])?;
        let row = [
            Value::Ext(KIND, 2),
            Value::Nil,
            Value::Int(us),
            Value::Ext(STATE, 2),
            Value::Float(STAMP),
        ];
        let nodes = (0..self.storages.len()).map(|n| self.storage_row(n));
        let nodes = array(nodes.chain([array(row)]));
        let told = packet(0, 6, [Value::Float(STAMP), nodes]);
        link.to.write_all(&told)?;
        let is_silent = !self.tells.load(Ordering::SeqCst);
        let cell = |node: usize| {
            let is_up = is_silent || self.storages[node].is_up.load(Ordering::SeqCst);
            array([int(node + 1), Value::Ext(CELL, u8::from(is_up))])
        };
        let rows = (0..PARTITIONS).map(|p| array(self.nodes_of(p).map(cell)));
        let told = packet(1, 10, [Value::Int(1), Value::Int(1), array(rows)]);
        link.to.write_all(&told)?;
        db.clients.push(link.to.try_clone()?);
        Ok(())
    }

    fn storage(&self, n: usize, stream: TcpStream) -> io::Result<()> {
        let mut link = Link::greet(&self.storages[n], stream)?;
        let (id, code, args) = link.next()?;
        assert_eq!((code, args.len()), (1, 6));
        let us = args[1].int();
        assert_eq!(
            args[4],
            Value::Float(STAMP),
            "the time that the master announced"
        );
        let mut heard = self.heard.lock().unwrap();
        if !heard.contains(&(n, us)) {
            heard.push((n, us));
            drop(heard);
            return link.refuse(id, 2);
        }
        drop(heard);
        link.answer((id, 1), [Value::Ext(KIND, 1), int(n + 1), Value::Int(us)])?;
        loop {
            let (id, code, args) = link.next()?;
            self.storages[n].asked.fetch_add(1, Ordering::SeqCst);
            let of = args.first().map_or(0, |of| of.as_id().unwrap());
            let partition = match code {
                48 => usize::try_from(args[3].int()).unwrap(),
                _ => usize::try_from(of % PARTITIONS as u64).unwrap(),
            };
            match code {
                2 => link.answer((id, code), [])?,
                _ if !self.nodes_of(partition).contains(&n) => link.refuse(id, 10)?,
                32 => self.object(&mut link, id, &args)?,
                34 => {
                    let oids = self.db.lock().unwrap().txns.get(&Tid(of)).cloned();
                    let Some(oids) = oids else {
                        link.refuse(id, 4)?;
                        continue;
                    };
                    let root = Oid(0); // looked at by all
                    let all = oids.iter().chain([&root]).map(|oid| Value::id(oid.0));
                    let empty = || Value::text("");
                    let told = [Value::id(of), empty(), empty(), empty()];
                    let oids = [Value::Bool(false), array(all)];
                    link.answer((id, code), told.into_iter().chain(oids))?;
                }
                48 => {
                    let (from, to) = (of, args[1].as_id().unwrap());
                    let db = self.db.lock().unwrap();
                    let tids = db.txns.range(Tid(from)..=Tid(to)).map(|(tid, _)| tid.0);
                    let mine = tids.filter(|tid| tid % PARTITIONS as u64 == partition as u64);
                    let most = usize::try_from(args[2].int()).unwrap();
                    let told: Vec<_> = mine.take(most).map(Value::id).collect();
                    drop(db);
                    link.answer((id, code), [Value::Array(told)])?;
                }
                other => panic!("a storage node is asked {other}"),
            }
        }
    }

    fn object(&self, link: &mut Link, id: i64, args: &[Value]) -> io::Result<()> {
        let oid = Oid(args[0].as_id().unwrap());
        let (exactly, before) = (args[1].as_id(), args[2].as_id());
        let (view, is_his) = {
            let db = self.db.lock().unwrap();
            let txn = exactly.and_then(|tid| db.txns.get(&Tid(tid)));
            let is_his = txn.is_some_and(|oids| oids.contains(&oid));
            (db.view.clone(), exactly.is_none() || is_his)
        };
        let at = exactly.or(before.map(|tid| tid - 1)).unwrap();
        let (serial, compression, data) = match view.load(oid, Tid(at).min(view.at())) {
            _ if !is_his => return link.refuse(id, 3),
            Ok(loaded) if loaded.data.len() > 500 => {
                let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
                packer.write_all(&loaded.data)?;
                (loaded.serial, Value::Int(1), packer.finish()?)
            }
            Ok(loaded) => (loaded.serial, Value::Nil, loaded.data.to_vec()),
            Err(LoadError::Deleted { at }) => (at, Value::Int(0), Vec::new()),
            Err(LoadError::NotYet) => return link.refuse(id, 3),
            Err(LoadError::NoObject) => return link.refuse(id, 5),
            Err(error) => panic!("{oid}: {error}"),
        };
        let mut checksum = vec![0; 20];
        if !data.is_empty() {
            checksum = sha1_smol::Sha1::from(&data).digest().bytes().to_vec();
            let spoils = |n: usize| n.checked_sub(1);
            let spoiled = self
                .spoils
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, spoils);
            checksum[0] ^= u8::from(spoiled.is_ok());
        }
        let told = [
            Value::id(oid.0),
            Value::id(serial.0),
            Value::Nil,
            compression,
        ];
        let data = [Value::Bin(checksum), Value::Bin(data), Value::Nil];
        link.answer((id, 32), told.into_iter().chain(data))
    }
}

fn int(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap())
}
