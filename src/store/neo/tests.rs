//! A session against nodes that are played by hand: what it asks, and what it tells.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../../tests/neo/value.rs"]
mod value;

use super::session::{Event, Opts, Session, object, unpacked};
use super::{Gap, Trouble};
use crate::base::limit::{ANSWER_MS, HANDSHAKE_MS, NEO_LOOK_MS, NEO_UNTOLD_MS, STORAGE_WAIT_MS};
use crate::base::{Oid, Tid};
use crate::store::remote::driver::Conn;
use crate::store::remote::{Address, Broken, Why};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};
use value::Value;

const US: i64 = -0x1fff_ffff;
const OBJECT: i64 = 32;
const TRANSACTION: i64 = 34;
const TIDS: i64 = 48;

fn array(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

fn ids(ids: &[u64]) -> Value {
    array(ids.iter().map(|&id| Value::id(id)))
}

/// A request: its number, code and arguments.
type Asked = (i64, i64, Vec<Value>);

struct World {
    now: Instant,
    session: Session<u32>,
    /// Ports of connections.
    ports: BTreeMap<Conn, u16>,
    told: Vec<String>,
    /// Connections to storage nodes that are made as they are wanted.
    nodes: Vec<Conn>,
    /// State of the cluster.
    cluster: u8,
}

fn shown(event: Event<u32>) -> String {
    match event {
        Event::Opened(tid) => format!("opened {}", tid.0),
        Event::Commit(tid, oids) => {
            let oids: Vec<_> = oids.iter().map(|oid| oid.0).collect();
            format!("commit {} {oids:?}", tid.0)
        }
        Event::Reset(tid, gap) => format!("reset {}: {gap}", tid.0),
        Event::Serving(missed) => format!("serving, {missed} missed"),
        Event::CatchingUp => "catching up".to_owned(),
        Event::Lost(trouble) => format!("lost: {trouble}"),
        Event::Fatal(_) => "fatal".to_owned(),
        Event::Done(_, waiter, Ok(loaded)) => {
            let data = loaded.data.escape_ascii().to_string();
            format!("{waiter}: {data} of {}", loaded.serial.0)
        }
        Event::Done(_, waiter, Err(why)) => format!("{waiter}: {why:?}"),
    }
}

impl World {
    fn new(masters: &[u16]) -> Self {
        let now = Instant::now();
        let master = |&port: &u16| Address::Tcp("h".to_owned(), port);
        let opts = Opts {
            cluster: "c".to_owned(),
            masters: masters.iter().map(master).collect(),
            max_record: 1000,
            seed: 7,
        };
        Self {
            now,
            session: Session::new(opts, now),
            ports: BTreeMap::new(),
            told: Vec::new(),
            nodes: Vec::new(),
            cluster: 2,
        }
    }

    /// One that serves partitions 0 and 1, each on nodes 1 and 2, at this transaction.
    fn serving(last: u64) -> (Self, Conn) {
        let mut world = Self::new(&[1]);
        let master = world.join(1, last);
        assert_eq!(world.told(), format!("opened {last}\nserving, 0 missed"));
        (world, master)
    }

    fn settle(&mut self) {
        while let Some(event) = self.session.next_event() {
            self.told.push(shown(event));
        }
    }

    /// What was told since.
    fn told(&mut self) -> String {
        self.settle();
        std::mem::take(&mut self.told).join("\n")
    }

    /// The stream that is wanted now is made, and the other side greets.
    fn connect(&mut self) -> Option<(Conn, u16)> {
        let (conn, address) = self.session.dial(self.now)?;
        let Address::Tcp(_, port) = address else {
            panic!("{address}")
        };
        self.ports.insert(conn, port);
        self.session.dialed(self.now, conn);
        assert_eq!(self.session.outgoing(conn).split_off(0), b"\x92\xa3NEO\x05");
        self.bytes(conn, b"\x92\xa3NEO\x05");
        Some((conn, port))
    }

    fn bytes(&mut self, conn: Conn, bytes: &[u8]) {
        self.session.received(self.now, conn, bytes);
        self.settle();
    }

    fn say(&mut self, conn: Conn, id: i64, code: i64, args: impl IntoIterator<Item = Value>) {
        let mut out = Vec::new();
        value::write(
            &array([Value::Int(id), Value::Int(code), array(args)]),
            &mut out,
        );
        self.bytes(conn, &out);
    }

    fn answer(&mut self, conn: Conn, asked: &Asked, args: impl IntoIterator<Item = Value>) {
        self.say(conn, asked.0, asked.1 | 0x8000, args);
    }

    fn refuse(&mut self, conn: Conn, asked: &Asked, number: i64) {
        self.say(
            conn,
            asked.0,
            0x8000,
            [Value::Int(number), Value::text("no")],
        );
    }

    /// What was asked on a connection since.
    fn asked(&mut self, conn: Conn) -> Vec<Asked> {
        let sent = self.session.outgoing(conn).split_off(0);
        self.session.sent(self.now, conn, sent.len());
        let (mut left, mut out) = (&sent[..], Vec::new());
        while !left.is_empty() {
            let packet = value::read(&mut left).unwrap();
            let [id, code, args] = packet.items() else {
                panic!("{packet:?}")
            };
            out.push((id.int(), code.int(), args.items().to_vec()));
        }
        out
    }

    fn one(&mut self, conn: Conn) -> Asked {
        let mut asked = self.asked(conn);
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    fn node(kind: u8, port: Option<u16>, id: i64, state: u8) -> Value {
        let place = port.map(|port| array([Value::text("h"), Value::Int(i64::from(port))]));
        let state = Value::Ext(3, state);
        let id = Value::Int(id);
        array([
            Value::Ext(4, kind),
            place.unwrap_or(Value::Nil),
            id,
            state,
            Value::Float(1.5),
        ])
    }

    /// A master takes us in, and tells what it has to tell.
    fn join(&mut self, port: u16, last: u64) -> Conn {
        let (master, at) = self.connect().unwrap();
        assert_eq!(at, port);
        let identify = self.one(master);
        assert_eq!((identify.1, &identify.2[3]), (1, &Value::text("c")));
        let accepted = [Value::Ext(4, 0), Value::Int(-0x0fff_ffff), Value::Int(US)];
        self.answer(master, &identify, accepted);
        let mut asked = self.asked(master);
        let (newest, cluster) = (asked.pop().unwrap(), asked.pop().unwrap());
        let nodes = [
            Self::node(2, None, US, 2),
            Self::node(1, Some(11), 1, 2),
            Self::node(1, Some(12), 2, 2),
        ];
        self.say(master, 0, 6, [Value::Float(1.0), array(nodes)]);
        let cell = |node| array([Value::Int(node), Value::Ext(0, 1)]);
        let rows = [array([cell(1), cell(2)]), array([cell(1), cell(2)])];
        self.say(master, 1, 10, [Value::Int(1), Value::Int(1), array(rows)]);
        self.answer(master, &cluster, [Value::Ext(1, self.cluster)]);
        assert!(!self.told.iter().any(|told| told.contains("serving")));
        self.answer(master, &newest, [Value::id(last)]);
        master
    }

    /// The storage node that is wanted next is connected to, and takes us in.
    fn storage(&mut self) -> Conn {
        let (conn, _) = self.connect().expect("no node is wanted");
        let identify = self.one(conn);
        assert_eq!(identify.2[1], Value::Int(US));
        assert_eq!(
            identify.2[4],
            Value::Float(1.5),
            "what the master announced"
        );
        let accepted = [Value::Ext(4, 1), Value::Int(1), Value::Int(US)];
        self.answer(conn, &identify, accepted);
        conn
    }

    /// All that storage nodes are asked; those that are wanted are connected to.
    fn questions(&mut self) -> Vec<(Conn, Asked)> {
        while let Some((conn, _)) = self.connect() {
            let identify = self.one(conn);
            let accepted = [Value::Ext(4, 1), Value::Int(1), Value::Int(US)];
            self.answer(conn, &identify, accepted);
            self.nodes.push(conn);
        }
        let mut all = Vec::new();
        for conn in self.nodes.clone() {
            let asked = self.asked(conn);
            all.extend(asked.into_iter().map(|asked| (conn, asked)));
        }
        all.sort_by_key(|(_, asked)| asked.2[0].as_id());
        all
    }

    fn load(&mut self, oid: u64, at: u64, waiter: u32) {
        let key = (Oid(oid), Tid(at));
        self.session.load(self.now, 0, key, waiter);
        self.settle();
    }

    fn object(&mut self, conn: Conn, asked: &Asked, serial: u64, data: &[u8]) {
        let checksum = match data.is_empty() {
            true => vec![0; 20],
            false => sha1_smol::Sha1::from(data).digest().bytes().to_vec(),
        };
        let (oid, serial) = (asked.2[0].clone(), Value::id(serial));
        let (checksum, data) = (Value::Bin(checksum), Value::Bin(data.to_vec()));
        let nil = || Value::Nil;
        self.answer(
            conn,
            asked,
            [oid, serial, nil(), nil(), checksum, data, nil()],
        );
    }

    fn listed(&mut self, conn: Conn, asked: &Asked, oids: &[u64]) {
        let empty = || Value::text("");
        let tid = asked.2[0].clone();
        let told = [
            tid,
            empty(),
            empty(),
            empty(),
            Value::Bool(false),
            ids(oids),
        ];
        self.answer(conn, asked, told);
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.session.tick(self.now);
        self.settle();
    }
}

#[test]
fn another_master_leads() {
    let mut w = World::new(&[1, 2]);
    let (first, port) = w.connect().unwrap();
    assert_eq!(port, 1);
    let asked = w.one(first);
    let masters = [1, 3].map(|n| array([Value::text("h"), Value::Int(n)]));
    w.say(first, asked.0, 5, [Value::Int(1), array(masters)]);
    assert_eq!(w.told(), "", "there are others");
    w.join(3, 10);
    assert_eq!(w.told(), "opened 10\nserving, 0 missed");
}

#[test]
fn a_round_of_masters_is_tried_before_the_cluster_is_lost() {
    let mut w = World::new(&[1, 2]);
    for _ in 0..2 {
        let (conn, _) = w.session.dial(w.now).unwrap();
        assert_eq!(w.told(), "");
        w.session.lost(w.now, conn, Broken::Closed.into());
    }
    assert_eq!(w.told(), "lost: the server closed the connection");
    assert!(w.session.dial(w.now).is_none(), "a pause");
    w.wait(HANDSHAKE_MS);
    let (conn, port) = w.connect().unwrap();
    assert_eq!(port, 1);
    // Nobody says anything: one after the other.
    w.wait(HANDSHAKE_MS);
    assert!(!w.session.has_conn(conn));
    w.join(2, 10);
}

#[test]
fn loads_go_to_any_node_that_has_the_partition_and_then_to_the_other() {
    let (mut w, master) = World::serving(10);
    w.load(4, 10, 1);
    let one = w.storage();
    let asked = w.one(one);
    assert_eq!(
        (asked.1, &asked.2),
        (OBJECT, &vec![Value::id(4), Value::Nil, Value::id(11)])
    );
    w.refuse(one, &asked, 10);
    let two = w.storage();
    assert_ne!(w.ports[&one], w.ports[&two]);
    let asked = w.one(two);
    w.object(two, &asked, 9, b"abc");
    assert_eq!(w.told(), "1: abc of 9");
    // Gone, deleted, not yet.
    let expected = [
        "2: NoObject",
        "2: Deleted(Tid(0000000000000007))",
        "2: NotYet",
    ];
    for (n, right) in expected.into_iter().enumerate() {
        w.load(6, 10, 2);
        let (conn, asked) = match w.asked(one).pop() {
            Some(asked) => (one, asked),
            None => (two, w.one(two)),
        };
        match n {
            0 => w.refuse(conn, &asked, 5),
            1 => w.object(conn, &asked, 7, b""),
            _ => w.refuse(conn, &asked, 3),
        }
        assert_eq!(w.told(), right);
    }
    // Both are lost: the master is asked for news, and all begins anew.
    w.load(8, 10, 3);
    for conn in [one, two] {
        w.session.lost(w.now, conn, Broken::Closed.into());
    }
    let wanted = w.connect();
    if let Some((conn, _)) = wanted {
        w.session.lost(w.now, conn, Broken::Closed.into());
    }
    let ping = w.one(master);
    assert_eq!(ping.1, 2);
    w.wait(5000);
    assert!(w.connect().is_none(), "the master did not answer yet");
    w.answer(master, &ping, []);
    w.wait(1);
    let three = w.storage();
    let asked = w.one(three);
    w.object(three, &asked, 9, b"xyz");
    assert_eq!(w.told(), "3: xyz of 9");
}

#[test]
fn bytes_that_do_not_match_are_asked_of_the_other_node_and_nobody_waits_for_ever() {
    let (mut w, _) = World::serving(10);
    w.load(4, 10, 1);
    for n in 0..2 {
        let conn = w.storage();
        let asked = w.one(conn);
        let (checksum, data) = (Value::Bin(vec![1; 20]), Value::text("abc"));
        let nil = || Value::Nil;
        let object = [
            Value::id(4),
            Value::id(9),
            nil(),
            nil(),
            checksum,
            data,
            nil(),
        ];
        assert_eq!(w.told(), "", "{n}");
        w.answer(conn, &asked, object);
    }
    assert!(w.told().contains("checksums do not match"));
    w.load(6, 10, 2);
    w.wait(STORAGE_WAIT_MS);
    assert!(w.told().contains("2: Late"));
}

#[test]
fn what_is_not_announced_is_asked_for_and_told_in_order() {
    let (mut w, master) = World::serving(10);
    w.say(master, 2, 22, [Value::id(12), ids(&[4, 5])]);
    w.say(master, 3, 22, [Value::id(14), ids(&[6])]);
    assert_eq!(w.told(), "", "nobody knows yet what was deleted");
    let asked = w.questions();
    let [(a, first), (b, second)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((first.1, second.1), (TRANSACTION, TRANSACTION));
    w.listed(*b, second, &[6]);
    assert_eq!(w.told(), "", "an older one is not known");
    w.listed(*a, first, &[0, 4, 5, 7]);
    let asked = w.questions();
    let [(a, root), (b, deleted)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(root.2, [Value::id(0), Value::id(12), Value::Nil]);
    w.refuse(*a, root, 3);
    assert_eq!(w.told(), "");
    w.object(*b, deleted, 12, b"");
    assert_eq!(w.told(), "commit 12 [4, 5, 7]\ncommit 14 [6]");
    w.say(master, 4, 22, [Value::id(14), ids(&[6])]);
    assert_eq!(w.told(), "");
    w.say(master, 4, 22, [Value::id(13), ids(&[6])]);
    assert!(w.told().contains("announces transaction"));
}

/// Answers all that is asked by a model of two transactions beyond 10: 11 with object 3, 12 that deleted object 4.
fn catch_up(w: &mut World, has: &[u64]) {
    for _ in 0..40 {
        for (conn, asked) in w.questions() {
            let of = asked.2[0].as_id();
            match asked.1 {
                TIDS => {
                    let (from, partition) = (of.unwrap(), asked.2[3].int().cast_unsigned());
                    let is_mine = |tid: &&u64| **tid >= from && **tid % 2 == partition;
                    let mine: Vec<u64> = has.iter().filter(is_mine).copied().collect();
                    w.answer(conn, &asked, [ids(&mine)]);
                }
                TRANSACTION if of == Some(11) => w.listed(conn, &asked, &[0, 3]),
                TRANSACTION => w.listed(conn, &asked, &[0, 4]),
                OBJECT if of == Some(0) => w.refuse(conn, &asked, 3),
                OBJECT if of == Some(3) => w.object(conn, &asked, 11, b"new"),
                OBJECT => w.object(conn, &asked, 12, b""),
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn what_was_missed_is_told_exactly_or_nothing_of_it() {
    for (has, right) in [
        (
            &[10, 11, 12][..],
            "commit 11 [3]\ncommit 12 [4]\nserving, 2 missed",
        ),
        (
            &[11, 12],
            "reset 12: the cluster does not have transaction 000000000000000a\nserving, 0 missed",
        ),
    ] {
        let (mut w, master) = World::serving(10);
        w.say(master, 9, 13, []);
        assert_eq!(w.told(), "lost: the cluster stops");
        w.wait(HANDSHAKE_MS);
        // Announced before the newest one is known.
        let master = w.join(1, 12);
        assert_eq!(w.told(), "catching up");
        w.say(master, 9, 22, [Value::id(12), ids(&[])]);
        catch_up(&mut w, has);
        assert_eq!(w.told(), right);
    }
    let (mut w, master) = World::serving(10);
    w.session.lost(w.now, master, Broken::Closed.into());
    w.wait(HANDSHAKE_MS);
    w.join(1, 9);
    assert!(w.told().ends_with("fatal"));
    w.load(1, 10, 1);
    assert_eq!(w.told(), "1: Moved");
}

/// It announces nothing, so it is looked at.
#[test]
fn a_cluster_that_follows_another_one_is_looked_at() {
    let mut w = World::new(&[1]);
    w.cluster = 5;
    let master = w.join(1, 10);
    assert_eq!(w.told(), "opened 10\nserving, 0 missed");
    for (newest, right) in [(10, ""), (12, "commit 11 [3]\ncommit 12 [4]")] {
        w.wait(NEO_LOOK_MS);
        let asked = w.one(master);
        assert_eq!(asked.1, 60);
        w.answer(master, &asked, [Value::id(newest)]);
        catch_up(&mut w, &[10, 11, 12]);
        assert_eq!(w.told(), right);
    }
}

#[test]
fn a_transaction_that_no_node_knows_is_waited_for_and_then_everything_is_dropped() {
    let (mut w, master) = World::serving(10);
    w.say(master, 2, 22, [Value::id(12), ids(&[4])]);
    let mut waited = 0;
    while waited <= NEO_UNTOLD_MS + 10_000 {
        for (conn, asked) in w.questions() {
            w.refuse(conn, &asked, 4);
        }
        for asked in w.asked(master) {
            w.answer(master, &asked, []);
        }
        let told = w.told();
        if !told.is_empty() {
            let gap = Gap::Unknown(Tid(12));
            assert_eq!(told, format!("reset 12: {gap}"));
            assert!(waited >= NEO_UNTOLD_MS, "{waited}");
            return;
        }
        w.wait(100);
        waited += 100;
    }
    panic!("nothing is told");
}

#[test]
fn what_no_sound_node_sends_costs_a_connection() {
    for n in 0..4 {
        let (mut w, master) = World::serving(10);
        w.load(4, 10, 1);
        let conn = w.storage();
        let asked = w.one(conn);
        match n {
            0 => w.say(conn, 77, OBJECT | 0x8000, []),
            1 => w.object(conn, &asked, 11, b"of the future"),
            2 => w.bytes(conn, b"SSH-2.0"),
            _ => w.answer(conn, &asked, [Value::Nil]),
        }
        assert!(!w.session.has_conn(conn), "{n}");
        assert!(w.session.has_conn(master));
        let other = w.storage();
        let asked = w.one(other);
        w.object(other, &asked, 9, b"abc");
        assert_eq!(w.told(), "1: abc of 9");
    }
    // A node that falls silent, and one that is too talkative.
    let (mut w, _) = World::serving(10);
    w.load(4, 10, 1);
    let conn = w.storage();
    w.wait(ANSWER_MS);
    assert!(!w.session.has_conn(conn));
    let other = w.storage();
    let asked = w.one(other);
    w.object(other, &asked, 9, &[b'x'; 1001]);
    assert_eq!(w.told(), "1: TooBig(1001)");
}

#[test]
fn records_are_unpacked_within_bounds() {
    let packed = |data: &[u8]| {
        let level = flate2::Compression::default();
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), level);
        packer.write_all(data).unwrap();
        object(&packer.finish().unwrap(), true)
    };
    let zeros = vec![0; 1 << 20];
    assert_eq!(unpacked(&packed(b"abc"), 9).unwrap(), "abc");
    assert_eq!(unpacked(&packed(&zeros), 1 << 20).unwrap(), zeros);
    assert_eq!(
        unpacked(&packed(&zeros), 1000),
        Err(Some(Why::TooBig(1001)))
    );
    assert_eq!(unpacked(&object(b"no zlib", true), 9), Err(None));
    assert_eq!(
        unpacked(&object(b"abc", false), 2),
        Err(Some(Why::TooBig(3)))
    );
    let lost: Trouble = Broken::Closed.into();
    assert_eq!(lost.to_string(), "the server closed the connection");
}
