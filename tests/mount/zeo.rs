//! A database behind a real ZEO server, started and stopped by the test: content, a live writer, servers that are killed, restarted,
//! stopped in the middle, or restored to an older copy.
//!
//! `ZRING_LIVE_S` seconds of the live writer, halved; `ZRING_KILLS` kills of the server under load.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use zring::base::limit;
use zring::zodb::write::{self, Leaf};

use crate::base::Base;
use crate::child::{Running, becomes_true};
use crate::data::{Database, database, values};
use crate::live::{Writer, followed};
use crate::machine::{Transport, number, python};
use crate::neo::free_port;
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, no_bug, verdict};
use crate::visitor::Visitor;

/// How a server listens, and what it speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// TCP, pickles.
    Tcp,
    /// A socket file, msgpack.
    Unix,
}

/// A server that is started, killed and started again on one address.
pub(crate) struct Server<'r> {
    rig: &'r Rig,
    fs: PathBuf,
    address: String,
    kind: Kind,
    running: Option<Running>,
}

impl<'r> Server<'r> {
    /// Started, and taking connections.
    pub(crate) fn start(rig: &'r Rig, fs: &Path, kind: Kind) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = match kind {
            Kind::Unix => rig.path(&format!("zeo{n}")).display().to_string(),
            Kind::Tcp => format!("127.0.0.1:{}", free_port()),
        };
        let mut this = Self {
            rig,
            fs: fs.to_owned(),
            address,
            kind,
            running: None,
        };
        this.again();
        this
    }

    /// Starts it on the address that it had.
    fn again(&mut self) {
        let msgpack = matches!(self.kind, Kind::Unix);
        let conf = format!(
            "<zeo>\n address {}\n msgpack {msgpack}\n invalidation-queue-size 10\n</zeo>\n<filestorage 1>\n path {}\n</filestorage>\n",
            self.address,
            self.fs.display()
        );
        let path = self.rig.path("zeo.conf");
        fs::write(&path, conf).unwrap();
        let mut c = self.rig.command(python().unwrap());
        c.args(["-m", "ZEO.runzeo", "-C"]).arg(path);
        let mut running = self.rig.start(&mut c);
        let up = becomes_true(SHORT, || self.is_up() || !running.is_running());
        assert!(up && running.is_running(), "{}", running.err_so_far());
        self.running = Some(running);
    }

    fn is_up(&self) -> bool {
        match self.kind {
            Kind::Tcp => TcpStream::connect(&self.address).is_ok(),
            Kind::Unix => UnixStream::connect(&self.address).is_ok(),
        }
    }

    fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.signal(Signal::SIGKILL);
        running.wait(SHORT);
        let _ = fs::remove_file(self.fs.with_extension("fs.lock"));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn zurl(&self) -> String {
        format!("zeo://{}", self.address)
    }

    pub(crate) fn mount(&self, transport: Transport) -> Mount<'r> {
        let opts = format!("transport={}", transport.name());
        let mount = self.rig.mount("mnt", &self.zurl(), &opts);
        mount.unwrap_or_else(|e| panic!("no mount: {e}"))
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGCONT);
            running.signal(Signal::SIGKILL);
            running.wait(Duration::from_secs(5));
        }
    }
}

/// A database of its own for a test; `None`, and said, without Python.
fn copied(rig: &Rig, args: &str) -> Option<Database> {
    Some(database(rig, args)?.copy(rig, "db"))
}

on_each_transport!(
    content,
    follows_a_writer,
    old_states_outlast_a_thread_that_was_lost,
);

/// Every block of every revision, by pread and by mmap.
fn content(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    for (kind, args) in [
        (
            Kind::Tcp,
            "--fmt mixed --blksize 32k --blocks 32 --txns 14 --undo .1 --delete-file",
        ),
        (
            Kind::Unix,
            "--fmt mixed --blksize 8k --blocks 40 --txns 10 --w-topology 10 --w-delrange 5",
        ),
        (
            Kind::Tcp,
            "--fmt auto --blksize 2M --files 1 --blocks 4 --changes 2 --txns 4 --w-grow 0 --w-epoch 0",
        ),
    ] {
        let rig = Rig::new("zeo content", 180);
        let Some(db) = copied(&rig, &format!("--seed 1 {args}")) else {
            return;
        };
        let server = Server::start(&rig, &db.fs, kind);
        let mut blocks = Vec::new();
        for how in [&["--full"][..], &["--full", "--mmap"]] {
            let mount = server.mount(transport);
            blocks.push(mount.verify(&[&db.manifest], how));
            assert_eq!((mount.stat("Upstream"), mount.stat("connect")), (2, 1));
            mount.stop();
        }
        assert_eq!(blocks[0], blocks[1], "both ways compare the same blocks");
    }
}

/// A writer commits through the server, which packs in between; readers follow.
fn follows_a_writer(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(2);
    let rig = Rig::new("zeo live", 120 + 4 * seconds);
    let server = Server::start(&rig, &rig.path("Data.fs"), Kind::Tcp);
    let seed = number("ZRING_SEED", 1);
    println!("seed {seed}");
    let zurl = PathBuf::from(server.zurl());
    // With deletions a reader over uring ended before its writer, twice, without a difference: why is not known yet.
    let steady = format!("--w-delete 0 --w-delrange 0 --interval 20 --seed {seed}");
    let options = format!("{steady} --create --blksize 4k --blocks 60");
    let writer = Writer::start(&rig, &zurl, "first.jsonl", &options);
    let mount = server.mount(transport);
    let log = followed(&rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "25"]);
    let mut pack = rig.command(python().unwrap());
    let (host, port) = server.address.split_once(':').unwrap();
    pack.args(["-c", PACK, host, port]);
    rig.run(&mut pack, SHORT).good();
    let writer = Writer::start(&rig, &zurl, "second.jsonl", &steady);
    let log = followed(&rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "50"]);
    mount.stop();
}

const PACK: &str = "\
import sys, time, ZEO
c = ZEO.client((sys.argv[1], int(sys.argv[2])))
c.pack(time.time(), wait=True)
c.close()";

/// The server is killed and started again while readers read old states: none of them sees an error or a wrong byte. What was
/// committed while it was away is there afterwards, also when it is more than the server's own list has.
#[test]
fn survives_kills_of_the_server() {
    let transport = Transport::Dev;
    if !transport.is_there() || python().is_none() {
        return;
    }
    let kills = number("ZRING_KILLS", 5);
    let rig = Rig::new("zeo kills", 120 + 20 * kills);
    let args = "--seed 3 --fmt mixed --blksize 16k --blocks 40 --txns 12";
    let Some(db) = copied(&rig, args) else { return };
    let mut server = Server::start(&rig, &db.fs, Kind::Tcp);
    let mount = server.mount(transport);
    let manifest = &db.manifest;
    let mut logs = Vec::new();
    let mut compared = 0;
    for n in 0..kills {
        let mut c = rig.tool("verify_mount.py");
        c.arg(&mount.at).arg(manifest).arg("--full");
        if n > 0 {
            c.args(["--only", "past"]); // head moves meanwhile
        }
        let reader = rig.start(&mut c);
        std::thread::sleep(Duration::from_millis(200 + 150 * n));
        server.kill();
        let head = mount.head();
        assert!(
            becomes_true(SHORT, || mount.stat("Upstream") == 0),
            "{}",
            mount.said()
        );
        // Some rounds nothing, some a little, some more than the server remembers.
        let count = [0, 3, 25][usize::try_from(n % 3).unwrap()];
        let mut last = head.clone();
        if count > 0 {
            let options = format!("--interval 1 --count {count} --seed {n}");
            let writer = Writer::start(&rig, &db.fs, &format!("log{n}.jsonl"), &options);
            last = writer.finish().pop().unwrap();
            logs.push(rig.path(&format!("log{n}.jsonl")));
            assert_eq!(mount.head(), head, "head moved without a server");
        }
        server.again();
        let caught_up = becomes_true(SHORT, || mount.head() == last);
        assert!(caught_up, "head is {}: {}", mount.head(), mount.said());
        assert!(becomes_true(SHORT, || mount.stat("Upstream") == 2));
        compared += verdict(&reader.wait(SHORT + SHORT));
        for log in &logs {
            mount.verify(&[log], &["--sample", "20"]);
        }
    }
    assert_eq!(mount.stat("connect"), 1 + kills);
    println!("{kills} kills, {compared} blocks compared meanwhile");
    let said = mount.stop();
    assert!(!said.contains("all cached pages of head go"), "{said}");
    assert!(!said.contains("zring: error"), "{said}");
}

/// A server that is restored to an older copy is the end of head, and everything below head is an error from then on; `head/at` stays.
#[test]
fn fails_when_the_database_went_back() {
    let transport = Transport::Dev;
    if !transport.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("zeo back", 120);
    let args = "--seed 4 --fmt ZBlk1 --blksize 16k --blocks 20 --txns 6";
    let Some(db) = copied(&rig, args) else { return };
    let txns = db.transactions();
    let mut server = Server::start(&rig, &db.fs, Kind::Tcp);
    let mount = server.mount(transport);
    let head = mount.head();
    assert_eq!(head, txns.last().unwrap().0);
    server.kill();
    let cut = txns[txns.len() - 2].1;
    fs::OpenOptions::new()
        .write(true)
        .open(&db.fs)
        .unwrap()
        .set_len(cut)
        .unwrap();
    let _ = fs::remove_file(db.fs.with_extension("fs.index"));
    server.again();
    let failed = becomes_true(SHORT, || mount.said().contains("went back in time"));
    assert!(failed, "{}", mount.said());
    assert_eq!(mount.head(), head);
    let mut c = rig.command("cat");
    c.arg(mount.path(&format!("head/bigfile/{}", db.oids()[0])));
    let read = rig.run(&mut c, SHORT);
    assert!(read.err.contains("Input/output error"), "{read}");
    mount.stop();
}

/// A server that stands still in the middle of it all: the daemon ends in time when it is told to, and whoever reads gets an error.
#[test]
fn ends_in_time_while_the_server_hangs() {
    let transport = Transport::Dev;
    if !transport.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("zeo hang", 120);
    let args = "--seed 5 --fmt mixed --blksize 64k --blocks 60 --txns 6";
    let Some(db) = copied(&rig, args) else { return };
    let server = Server::start(&rig, &db.fs, Kind::Unix);
    let mount = server.mount(transport);
    let files: Vec<_> = db
        .oids()
        .iter()
        .map(|oid| mount.path(&format!("head/bigfile/{oid}")))
        .collect();
    let mut readers: Vec<_> = (0..20)
        .map(|seed| {
            let mut c = rig.tool("reader.py");
            c.args(["pread", &seed.to_string()]).args(&files);
            rig.start(&mut c)
        })
        .collect();
    let reading = |r: &mut Running| r.out_so_far().contains("reading");
    assert!(becomes_true(SHORT, || readers.iter_mut().all(reading)));
    server.signal(Signal::SIGSTOP);
    // Blocks that nobody has read yet.
    let mut c = rig.tool("verify_mount.py");
    c.arg(&mount.at).arg(&db.manifest).arg("--full");
    let waits = rig.start(&mut c);
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    nix::sys::signal::kill(mount.pid(), Signal::SIGTERM).unwrap();
    let ended = mount.ended();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    no_bug(&ended);
    for reader in readers.into_iter().chain([waits]) {
        reader.wait(SHORT);
    }
    println!("ended after {took:?}");
}

/// A watch request asks the history, which waits for a server that stands still for longer than a client may: it has all of its time
/// for its pins when that goes on.
#[test]
fn who_waits_for_the_server_is_not_late() {
    let transport = Transport::Dev;
    if !transport.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("zeo stall", 120);
    let server = Server::start(&rig, &rig.path("Data.fs"), Kind::Unix);
    let zurl = PathBuf::from(server.zurl());
    let steady = "--w-delete 0 --w-delrange 0 --interval 5 --count 40";
    let options = format!("{steady} --create --blksize 4k --blocks 60");
    Writer::start(&rig, &zurl, "first.jsonl", &options).finish();
    let created = fs::read_to_string(rig.path("first.jsonl")).unwrap();
    let oid = values(&created, "oid").remove(0);
    let opts = format!("transport={},pintimeout=1.5s", transport.name());
    let mount = rig.mount("mnt", &server.zurl(), &opts);
    let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
    let at = mount.head();
    let tids = Writer::start(&rig, &zurl, "second.jsonl", steady).finish();
    let last = tids.last().unwrap();
    assert!(becomes_true(SHORT, || mount.head().trim() == last));
    // Read after all that: what it was before has to be asked of the server.
    let mut client = Visitor::client(&rig, &mount.at);
    client.ask(&format!("open {oid} 4096"));
    client.ask(&format!("looks {oid} 0 30"));
    client.ask("link G");
    client.ask("serve G");
    server.signal(Signal::SIGSTOP);
    client.begin(&format!("ask G 1 watch {oid} @{} +size", at.trim()));
    std::thread::sleep(Duration::from_secs(4));
    server.signal(Signal::SIGCONT);
    let reply = client.answer(SHORT);
    let (reply, us) = reply.rsplit_once(' ').unwrap();
    assert!(reply.starts_with("1 ok "), "{reply}: {}", mount.said());
    let us: u64 = us.parse().unwrap();
    assert!(us > 3_500_000, "nothing was waited for: {us} us");
    let counts = ["pin", "pinkill"].map(|name| mount.stat(name));
    assert!(counts[0] > 0 && counts[1] == 0, "pins, kills: {counts:?}");
    drop(client);
    mount.stop();
}

/// What cannot be mounted is said, with what to do.
#[test]
fn says_what_is_wrong_with_a_server() {
    if !Transport::Plain.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("zeo words", 120);
    let args = "--seed 4 --fmt ZBlk1 --blksize 16k --blocks 20 --txns 6";
    let Some(db) = copied(&rig, args) else { return };
    let server = Server::start(&rig, &db.fs, Kind::Tcp);
    let zurl = server.zurl();
    fs::create_dir(rig.path("mnt")).unwrap();
    let mount = |zurl: &str| {
        let mut c = rig.zring();
        c.args(["mount", zurl]).arg(rig.path("mnt"));
        rig.run(&mut c, SHORT)
    };
    let garbage = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = format!("zeo://{}", garbage.local_addr().unwrap());
    let speaks = std::thread::spawn(move || {
        let (mut stream, _) = garbage.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").unwrap();
        let _ = stream.read(&mut [0; 100]);
    });
    let refused = format!("zeo://127.0.0.1:{}", free_port());
    for (zurl, code, says) in [
        (format!("{zurl}?storage=two"), 1, "unknown storage: two"),
        (other, 1, "the server sends no sound messages"),
        (refused, 1, "Connection refused"),
        (
            rig.path("none")
                .display()
                .to_string()
                .replacen('/', "zeo:///", 1),
            1,
            "No such file",
        ),
        (
            format!("{zurl}?stor=1"),
            2,
            "\"stor\" is unknown for zeo://",
        ),
        (
            zurl.replace("zeo://", "zeo://me:secret@"),
            2,
            "a password in a database address",
        ),
    ] {
        let ended = mount(&zurl);
        assert_eq!(ended.code(), Some(code), "{zurl}: {ended}");
        assert!(ended.err.contains(says), "{zurl}: {ended}");
        assert!(rig.mount_lines(&rig.path("mnt")).is_empty());
    }
    speaks.join().unwrap();
    // The other commands.
    let last = db.tids().pop().unwrap();
    let check = rig.run(rig.zring().args(["check", &zurl]), SHORT).good();
    assert!(
        check.out.contains(&format!("last transaction {last}")),
        "{}",
        check.out
    );
    let (oid, tids) = (&db.oids()[0], db.tids());
    let file = format!("file://{}", db.fs.display());
    for args in [
        vec![],
        vec!["--diff", &tids[1], &last],
        vec!["--at", &tids[2], "--dot"],
    ] {
        let tree = |zurl: &str| {
            let mut c = rig.zring();
            c.args(["tree", zurl, oid]).args(&args);
            rig.run(&mut c, SHORT).good().out
        };
        assert_eq!(tree(&zurl), tree(&file), "{args:?}");
    }
    // And the drop-in server.
    let mut c = rig.zring();
    c.args(["serve", "-logtostderr", "-o", "transport=plain", &zurl])
        .arg(rig.path("mnt"));
    let served = rig.mount_by(&mut c, rig.path("mnt"), &zurl).unwrap();
    served.verify(&[&db.manifest], &["--every", "3"]);
    served.stop();
}

/// More happened meanwhile than a server is asked for: head starts anew, and old states are what they were for who has them open.
fn old_states_outlast_a_thread_that_was_lost(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("zeo lost", 180);
    let path = rig.path("Data.fs");
    let mut base = Base::create(&path);
    let file = base.file(4096, Leaf::Blk0);
    (0..8).for_each(|blk| base.set(file, blk, 1));
    let old = base.commit();
    base.set(file, 1, 2);
    base.commit();
    let mut server = Server::start(&rig, &path, Kind::Tcp);
    let mount = server.mount(transport);
    let mut inside = Visitor::enter(&rig, &mount.at);
    let then = base.files[file].at(old);
    inside.ask(&format!("hold {then}"));
    assert_eq!(inside.ask(&format!("stamps {then} 0 16384")), "1x4");
    server.kill();
    assert!(becomes_true(SHORT, || mount.stat("Upstream") == 0));
    for _ in 0..=limit::ZEO_CATCH_UP_OIDS_MAX {
        let oid = base.fresh();
        base.put(oid, write::zdata(b"x"));
    }
    base.set(file, 1, 3);
    let last = base.commit();
    server.again();
    assert!(becomes_true(SHORT, || mount.head() == last.to_string()));
    assert!(
        mount.said().contains("all cached pages of head go"),
        "{}",
        mount.said()
    );
    assert_eq!(inside.ask(&format!("stamps {then} 0 32768")), "1x8");
    let head = base.files[file].head();
    assert_eq!(inside.ask(&format!("stamps {head} 0 8192")), "1x1 3x1");
    drop(inside);
    mount.stop();
}
