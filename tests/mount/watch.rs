//! `head/watch` with clients that do as they should: many beside a live writer, and the protocol step by step.
//!
//! Clients are processes of `tests/tools`: `watcher.py` compares what it sees with the manifest, `client.py` does one thing after the
//! other. Tests with a number after `e` are of what clients of the server that is replaced rely on (`tests/serve/dropin.rs` has the
//! table). What clients do wrong is in `fault`.
//!
//! `ZRING_LIVE_S` seconds and `ZRING_CLIENTS` clients for the live run.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use zring::base::Tid;
use zring::zodb::write::Leaf;

use crate::base::Base;
use crate::child::becomes_true;
use crate::commit::Scene;
use crate::live::Writer;
use crate::machine::{Transport, number, python};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::Visitor;

on_each_transport!(
    many_see_their_own_transaction,
    e10_a_link_is_read_written_and_closed,
    e10_a_signal_ends_a_read,
    e10_killed_in_a_read,
    e10_killed_as_it_begins_to_read,
    e10_a_thousand_links,
    e10_a_descriptor_goes_to_a_child,
    e11_replies_have_their_texts_and_no_order,
    e12_pins_are_exact_and_lazy,
    e12_a_read_waits_for_its_pins,
    e12_a_fault_goes_on_in_what_is_mapped_then,
    who_waits_for_itself_is_brought_out,
    pins_wake_no_other_thread_of_the_server,
    e14_bye_is_no_fault,
);

/// Blocks of the file that tests watch. Of each test's changes the first 100 are spared.
const BLOCKS: u64 = 120;
/// One of them that is not there.
const HOLE: u64 = 107;
/// Longer than anything here takes that does not wait.
const AWHILE: Duration = Duration::from_millis(300);

fn one_file(base: &mut Base) {
    let file = base.file(4096, Leaf::Blk0);
    (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
    base.remove(file, HOLE);
}

impl<'r> Scene<'r> {
    /// One file, of which somebody inside reads what it is told and no more.
    pub(crate) fn watched(rig: &'r Rig, transport: Transport, options: &str) -> Self {
        let mut scene = Self::with(rig, transport, options, one_file);
        let path = scene.base.files[0].head();
        scene.inside.ask(&format!("hold {path}"));
        scene
    }

    /// The oid of the file, as text.
    pub(crate) fn oid(&self) -> String {
        self.base.files[0].oid.to_string()
    }

    /// A client with the file open.
    pub(crate) fn client(&self, rig: &Rig) -> Visitor {
        let mut client = Visitor::client(rig, &self.mount.at);
        client.ask(&format!("open {} 4096", self.oid()));
        client
    }

    /// A client that watches the file and does as it should.
    pub(crate) fn good_client(&self, rig: &Rig, at: Tid) -> Visitor {
        let mut client = self.client(rig);
        client.ask("link G");
        client.ask("serve G");
        let reply = client.ask(&format!("ask G 1 watch {} @{at}", self.oid()));
        assert!(reply.starts_with("1 ok$ "), "{reply}");
        client
    }

    /// Somebody reads a block of head, and is not waited for.
    pub(crate) fn begin_read(&mut self, blk: u64) {
        let path = self.base.files[0].head();
        self.inside
            .begin(&format!("stamps {path} {} 4096", blk * 4096));
    }

    /// Commits a change of blocks.
    pub(crate) fn change(&mut self, blks: &[u64], stamp: u32) -> Tid {
        for &blk in blks {
            self.base.set(0, blk, stamp);
        }
        self.commit()
    }

    /// The ordered end, when a client has gone.
    pub(crate) fn stop_after(mut self, client: Visitor) -> String {
        drop(client);
        self.await_counts(0, 0, 0);
        self.stop()
    }

    /// Waits until the counts of links, watches and pinned blocks are these.
    pub(crate) fn await_counts(&mut self, links: u64, watches: u64, pinned: u64) {
        let mut found = [0; 3];
        let good = becomes_true(Duration::from_secs(5), || {
            found = ["WatchLink", "Watch", "PinnedBlk"].map(|name| self.inside.stat(name));
            found == [links, watches, pinned]
        });
        assert!(good, "links, watches, blocks: {found:?}");
    }
}

fn many_see_their_own_transaction(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(2);
    let (clients, seed) = (number("ZRING_CLIENTS", 4), number("ZRING_SEED", 1));
    println!("seed {seed}, {clients} clients");
    let rig = Rig::new("watchers", 120 + 3 * seconds);
    let db = rig.path("Data.fs");
    let options = format!(
        "--create --interval 20 --blksize 4k --blocks 60 --w-delete 0 --w-delrange 0 --seed {seed}"
    );
    let writer = Writer::start(&rig, &db, "log.jsonl", &options);
    let mount = rig.up(&db, transport);
    // What is there when they begin, which is not before the server: clients take the rest from the log as it grows.
    let (log, begun) = (rig.path("log.jsonl"), rig.path("begun.jsonl"));
    let start = mount.head();
    let told = becomes_true(SHORT, || {
        let text = std::fs::read_to_string(&log).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        std::fs::write(&begun, whole).unwrap();
        let last = whole.rsplit_once("\"tid\"").map(|(_, after)| after);
        let last = last.and_then(|after| after.split('"').nth(1));
        last >= Some(start.as_str())
    });
    assert!(told, "the writer does not say what it wrote, up to {start}");
    let mut c = rig.tool("watcher.py");
    c.arg(&mount.at).arg(&begun).arg(&log);
    c.args([
        "--clients",
        &clients.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    c.args(["--duration", &seconds.to_string(), "--stay", "0.3"]);
    let limit = Duration::from_secs(60 + 2 * seconds);
    let ended = rig.run(&mut c, limit);
    let said = mount.said();
    assert!(ended.is_good(), "{ended}{said}");
    println!("{}", ended.out.lines().last().unwrap_or_default());
    writer.stop();
    let mut left = Vec::new();
    let gone = becomes_true(SHORT, || {
        left = ["WatchLink", "Watch", "PinnedBlk"]
            .map(|name| mount.stat(name))
            .into();
        left == [0; 3]
    });
    assert!(gone, "links, watches, blocks: {left:?}");
    assert!(mount.stat("pin") > 0, "nothing was pinned: {ended}");
    assert_eq!(mount.stat("pinkill"), 0, "{said}");
    mount.stop();
}

/// Writing goes on while a read waits; what is read in pieces is one message after the other; closing is noticed.
fn e10_a_link_is_read_written_and_closed(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("link", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    client.ask("link A");
    client.ask("link R ro");
    scene.await_counts(2, 0, 0);
    client.ask("read A");
    client.ask("read R");
    let at = scene.start;
    let reply = client.ask(&format!("ask A 1 watch {} @{at}", scene.oid()));
    assert!(reply.starts_with("1 ok$ "), "{reply}");
    scene.await_counts(2, 1, 0);
    assert_eq!(client.ask("say R 1 bye"), "errno 9");
    // POLL is not answered by us: the kernel says that both would do (events 1 and 4), and says so at once.
    assert_eq!(client.ask("poll A"), "5");
    client.ask("link B");
    client.ask(&format!("say B 1 watch {} @{at} +size", scene.oid()));
    let parts: Vec<String> = (0..3).map(|_| client.ask("hear B 4")).collect();
    let size = scene.base.files[0].size();
    assert_eq!(parts.concat(), format!("1 ok {size}$"));
    client.ask("shut B");
    scene.await_counts(2, 1, 0);
    // The server ends it.
    client.ask("link C");
    client.ask("say C zzz hello");
    let text = r#"0 error: invalid frame: "zzz hello\n" (invalid stream)$"#;
    assert_eq!(client.ask("hear C"), text);
    assert_eq!(client.ask("hear C"), "EOF");
    assert_eq!(client.ask("say C 1 bye"), "errno 104");
    drop(client);
    scene.await_counts(0, 0, 0);
    scene.stop();
}

/// A read that waits ends with EINTR, and takes no message with it.
fn e10_a_signal_ends_a_read(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("signal", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    client.ask("link A");
    for n in [1, 3, 5] {
        assert_eq!(client.ask("alarmed A"), "errno 4");
        client.ask(&format!("say A {n} watch {} @{}", scene.oid(), scene.start));
        assert_eq!(client.ask("hear A"), format!("{n} ok$"));
    }
    client.ask("link R ro");
    assert_eq!(client.ask("alarmed R"), "errno 4");
    drop(client);
    scene.await_counts(0, 0, 0);
    scene.stop();
}

/// A process with a thread in a read, and one with a page fault that waits for a pin, die when they are killed.
fn e10_killed_in_a_read(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("killed", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    for name in ["A", "B", "C"] {
        client.ask(&format!("link {name}"));
        client.ask(&format!("read {name}"));
    }
    client.ask(&format!("ask A 1 watch {} @{}", scene.oid(), scene.start));
    scene.change(&[110], 2);
    client.begin(&format!("look {} 110", scene.oid()));
    assert_eq!(client.early(AWHILE), None);
    scene.await_counts(3, 1, 1);
    let began = Instant::now();
    kill(client.pid(), Signal::SIGKILL).unwrap();
    let ended = client.ended(SHORT);
    assert!(ended.is_some(), "a client that was killed lives");
    println!("it took {:?} to die", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2));
    scene.await_counts(0, 0, 0);
    scene.begin_read(110);
    assert_eq!(scene.inside.answer(SHORT), "2x1");
    assert_eq!(scene.inside.stat("pinkill"), 0);
    scene.stop();
}

/// A ring never tells of a signal that was there before the request was delivered (kernel-note 0017). Clients that have just answered a
/// pin, and are about to wait for the next, are killed one after the other.
fn e10_killed_as_it_begins_to_read(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("unheard", 90);
    let mut scene = Scene::watched(&rig, transport, "");
    for round in 0..number("ZRING_KILLS", 5) * 5 {
        let mut client = scene.good_client(&rig, scene.base.last());
        scene.change(&[110], u32::try_from(2 + round).unwrap());
        scene.begin_read(110);
        assert_eq!(
            scene.inside.answer(SHORT),
            format!("{}x1", 2 + round),
            "round {round}"
        );
        kill(client.pid(), Signal::SIGKILL).unwrap();
        let ended = client.ended(Duration::from_secs(3));
        assert!(
            ended.is_some(),
            "round {round}: a client that was killed lives"
        );
    }
    scene.await_counts(0, 0, 0);
    scene.stop();
}

fn e10_a_thousand_links(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("thousand", 120);
    let mut scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    let (oid, start) = (scene.oid(), scene.start);
    let began = Instant::now();
    let good = client.number(&format!("links 1000 {oid} {start}"));
    println!("1000 links in {:?}", began.elapsed());
    assert_eq!(good, 1000);
    scene.await_counts(1000, 1000, 0);
    scene.change(&[110], 2);
    assert_eq!(scene.inside.stat("pin"), 0);
    client.ask("shut many");
    scene.await_counts(0, 0, 0);
    scene.begin_read(110);
    assert_eq!(scene.inside.answer(SHORT), "2x1");
    scene.stop();
}

/// The link lives as long as somebody has it, and works for whoever has it.
fn e10_a_descriptor_goes_to_a_child(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("inherited", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    client.ask("link A");
    let (oid, start) = (scene.oid(), scene.start);
    assert_eq!(client.ask("fork"), client.pid().to_string());
    client.ask(&format!("say A 1 watch {oid} @{start}"));
    assert_eq!(client.ask("hear A"), "1 ok$");
    scene.change(&[110], 2);
    scene.begin_read(110);
    assert_eq!(client.ask("hear A"), format!("2 pin {oid} #110 @{start}$"));
    client.ask("say A 2 ack");
    assert_eq!(scene.inside.answer(SHORT), "2x1");
    client.ask("shut A");
    scene.await_counts(0, 0, 0);
    drop(client);
    scene.stop();
}

fn e11_replies_have_their_texts_and_no_order(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("replies", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    client.ask("link A");
    let (oid, start) = (scene.oid(), scene.start);
    let (before, next) = (Tid(start.0 - 1), Tid(start.0 + scene.base.step));
    let setup = |tid: &str| format!("setup watch f<{oid}> @{tid}: ");
    let unknown = "file not yet known to wcfs or is not a ZBigFile";
    let none = "000000000000ffff";
    let cases = [
        (
            "bla bla".to_owned(),
            "bad watch: not a watch request: \"bla bla\"$".to_owned(),
        ),
        (
            format!("watch {oid}"),
            "bad watch: expected 2 arguments, got 1$".to_owned(),
        ),
        (
            format!("watch 10 @{start}"),
            "bad watch: invalid oid$".to_owned(),
        ),
        (
            format!("watch {oid} {start}"),
            "bad watch: invalid at$".to_owned(),
        ),
        (
            format!("watch {none} @{start}"),
            format!("setup watch f<{none}> @{start}: {unknown}$"),
        ),
        (
            format!("watch {oid} @{before}"),
            setup(&before.to_string()) + &format!("too far away back from head/at (@{start}); "),
        ),
        (format!("watch {oid} @{start}"), String::new()),
        (format!("watch {oid} -"), String::new()),
    ];
    for (n, (says, text)) in (1..).step_by(2).zip(cases) {
        client.ask(&format!("say A {n} {says}"));
        let want = match text.as_str() {
            "" => format!("{n} ok$"),
            _ => format!("{n} error {text}"),
        };
        let heard = client.ask("hear A");
        assert!(
            heard.starts_with(&want) && heard.len() <= 240,
            "{heard}, not {want}"
        );
    }
    // One that waits for head lets another go by, and a third of its own file not.
    for (name, text) in [
        ("101", format!("watch {oid} @{next}")),
        ("103", format!("watch {oid} @{start}")),
        ("105", format!("watch {none} @{start}")),
    ] {
        client.ask(&format!("say A {name} {text}"));
    }
    assert!(client.ask("hear A").starts_with("105 error "));
    client.begin("hear A");
    assert_eq!(client.early(AWHILE), None);
    scene.change(&[110], 2);
    assert_eq!(client.answer(SHORT), "101 ok$");
    let back = format!(
        "103 error {}going back in history is forbidden$",
        setup(&start.to_string())
    );
    assert_eq!(client.ask("hear A"), back);
    drop(client);
    scene.stop();
}

/// Nothing is said of a commit, all of it when somebody reads, nothing twice; blocks that nobody read, and holes, are of no interest.
fn e12_pins_are_exact_and_lazy(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("pins", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let (oid, start) = (scene.oid(), scene.start);
    let mut client = scene.client(&rig);
    client.ask("link A");
    for blk in [104, HOLE, 110, 111, 112] {
        client.ask(&format!("pread {oid} {blk}"));
    }
    let first = scene.change(&[110, 111, 113], 2);
    for blk in [110, 111] {
        client.ask(&format!("pread {oid} {blk}"));
    }
    scene.change(&[111, 112, 114], 3);
    let heard = |client: &mut Visitor, n: usize| {
        let mut heard: Vec<String> = (0..n)
            .map(|_| {
                let line = client.ask("hear A");
                let stream = line.split(' ').next().unwrap().to_owned();
                client.ask(&format!("say A {stream} ack"));
                line[stream.len() + 1..].to_owned()
            })
            .collect();
        heard.sort();
        heard
    };
    let pin = |blk: u64, rev: &str| format!("pin {oid} #{blk} @{rev}$");
    let (start, first) = (start.to_string(), first.to_string());
    // Two are cached no more and changed after `first`; nobody ever read 113 and 114.
    client.ask(&format!("say A 1 watch {oid} @{first}"));
    assert_eq!(heard(&mut client, 2), [pin(111, &first), pin(112, &start)]);
    assert_eq!(client.ask("hear A"), "1 ok$");
    scene.await_counts(1, 1, 2);
    // Of blocks that changed before, that did not change, that are holes, and that are pinned already nothing is said.
    for blk in [110, 104, HOLE, 111, 112, 113] {
        scene.begin_read(blk);
        scene.inside.answer(SHORT);
    }
    client.ask("serve A");
    assert_eq!(client.ask(&format!("look {oid} 114")), "1");
    for blk in [111, 112, 114] {
        client.ask(&format!("evict {oid} {blk}"));
        client.ask(&format!("pread {oid} {blk}"));
    }
    let heard_since = client.ask("heard A");
    assert_eq!(heard_since.split_once(' ').unwrap().1, pin(114, &start));
    scene.await_counts(1, 1, 3);
    // Forward: all is at head again, and what changed since is not said before it is read.
    let last = scene.base.last();
    let moved = client.ask(&format!("ask A 3 watch {oid} @{last}"));
    assert!(moved.starts_with("3 ok$"), "{moved}");
    let moved = client.ask("heard A");
    assert_eq!(moved.matches("@head$").count(), 3, "{moved}");
    scene.await_counts(1, 1, 0);
    let pins = scene.inside.stat("pin");
    assert_eq!(pins, 6);
    scene.change(&[111], 4);
    assert_eq!(scene.inside.stat("pin"), pins);
    assert_eq!(client.ask(&format!("look {oid} 111")), "3");
    assert_eq!(
        client.ask("heard A").split_once(' ').unwrap().1,
        pin(111, &last.to_string())
    );
    let ended = client.ask(&format!("ask A 5 watch {oid} -"));
    assert!(ended.starts_with("5 ok$"), "{ended}");
    scene.await_counts(1, 0, 0);
    scene.stop_after(client);
}

/// Who reads the block waits until every client has said that it is pinned; who reads others does not, and all else is answered (D3).
fn e12_a_read_waits_for_its_pins(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("waits", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let (oid, start) = (scene.oid(), scene.start);
    let mut clients: Vec<Visitor> = (0..2).map(|_| scene.client(&rig)).collect();
    for client in &mut clients {
        client.ask("link A");
        client.ask(&format!("say A 1 watch {oid} @{start}"));
        assert_eq!(client.ask("hear A"), "1 ok$");
    }
    scene.change(&[110], 2);
    scene.begin_read(110);
    for client in &mut clients {
        let pin = format!("2 pin {oid} #110 @{start}$");
        assert_eq!(client.ask("hear A"), pin);
    }
    assert_eq!(scene.inside.early(AWHILE), None);
    clients[0].ask("say A 2 ack");
    assert_eq!(scene.inside.early(AWHILE), None);
    clients[1].ask("say A 2 ack");
    assert_eq!(scene.inside.answer(SHORT), "2x1");
    // It is cached: nobody is asked, and whoever evicts it asks no pin again.
    for evict in [false, true] {
        if evict {
            clients[0].ask(&format!("evict {oid} 110"));
        }
        scene.begin_read(110);
        assert_eq!(scene.inside.answer(SHORT), "2x1");
    }
    assert_eq!(scene.inside.stat("pin"), 2);
    clients.clear();
    scene.await_counts(0, 0, 0);
    scene.stop();
}

/// The client that reads is the one that is asked: its other thread maps the block, and the fault ends there.
fn e12_a_fault_goes_on_in_what_is_mapped_then(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("fault", 90);
    let mut scene = Scene::watched(&rig, transport, "");
    let (oid, start) = (scene.oid(), scene.start);
    let mut clients: Vec<(Visitor, u32)> = Vec::new();
    clients.push((scene.good_client(&rig, start), 1));
    for n in 2..12u32 {
        let blks: Vec<u64> = (110..BLOCKS)
            .filter(|blk| blk % u64::from(n) != 0)
            .collect();
        let at = scene.change(&blks, n);
        if n % 3 == 0 {
            let client = scene.good_client(&rig, at);
            clients.push((client, n));
        }
        for blk in 110..BLOCKS {
            for (client, at) in &mut clients {
                let found = client.number(&format!("look {oid} {blk}"));
                let last = (2..=*at).rev().find(|n| blk % u64::from(*n) != 0);
                assert_eq!(
                    found,
                    u64::from(last.unwrap_or(1)),
                    "block {blk} of {at} at {n}"
                );
            }
        }
    }
    clients.clear();
    scene.await_counts(0, 0, 0);
    assert_eq!(scene.inside.stat("pinkill"), 0);
    scene.stop();
}

/// A page is dropped between the answer to a fault and the fault's end, which wants the address space and does not get it at once: the
/// kernel tries the fault again, holding the address space (kernel-note 0017). The block has changed by now, and the client that has to map
/// it is the one that stands in the fault.
fn who_waits_for_itself_is_brought_out(transport: Transport) {
    const FIRST: u64 = 110;
    const AT_WORK: Duration = Duration::from_secs(1);
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("wayout", 90);
    let mut scene = Scene::watched(&rig, transport, ",pintimeout=4s");
    let oid = scene.oid();
    let mut client = scene.good_client(&rig, scene.start);
    client.ask("churn");
    let began = Instant::now();
    let (mut stamp, mut rounds) = (1, 0);
    while scene.inside.stat("wayout") < number("ZRING_WAYS", 3) {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{rounds} rounds, and no client waited for itself"
        );
        let at = scene.base.last();
        let reply = client.ask(&format!("ask G {} watch {oid} @{at}", 2 * rounds + 3));
        assert!(reply.contains(" ok$ "), "{reply}");
        let want = vec![stamp.to_string(); usize::try_from(BLOCKS - FIRST).unwrap()].join(" ");
        client.begin(&format!("looks {oid} {FIRST} {BLOCKS}"));
        let asked = Instant::now();
        let found = loop {
            let waited = asked.elapsed();
            assert!(waited < SHORT, "round {rounds}: it hangs");
            let ended = client.ended(Duration::ZERO);
            assert!(ended.is_none(), "round {rounds}: it was not brought out");
            // A fault whose page is dropped each time it ends would go on for as long as there are commits.
            if waited < AT_WORK {
                stamp += 1;
                (FIRST..BLOCKS).for_each(|blk| scene.base.set(0, blk, stamp));
                scene.base.commit();
            }
            if let Some(found) = client.early(Duration::from_millis(3)) {
                break found;
            }
        };
        assert_eq!(found, want, "round {rounds}");
        rounds += 1;
        let last = scene.base.last();
        scene.inside.await_head(last);
    }
    println!("{rounds} rounds, {:?}", began.elapsed());
    client.ask("still");
    assert_eq!(scene.inside.stat("pinkill"), 0);
    scene.stop_after(client);
}

/// Who says bye gave up its view: what waited for it goes on, and so does it.
fn e14_bye_is_no_fault(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("bye", 60);
    let mut scene = Scene::watched(&rig, transport, ",pintimeout=1.5s");
    let (oid, start) = (scene.oid(), scene.start);
    let mut client = scene.client(&rig);
    client.ask("link A");
    client.ask(&format!("say A 1 watch {oid} @{start}"));
    assert_eq!(client.ask("hear A"), "1 ok$");
    scene.change(&[110], 2);
    scene.begin_read(110);
    client.ask("hear A");
    // Even while a request waits.
    let far = Tid(scene.base.last().0 + (1 << 40));
    client.ask(&format!("say A 3 watch {oid} @{far}"));
    assert_eq!(scene.inside.early(AWHILE), None);
    client.ask("say A 5 bye");
    assert_eq!(scene.inside.answer(SHORT), "2x1");
    assert_eq!(client.ask("hear A"), "EOF");
    assert_eq!(client.ask("say A 2 ack"), "errno 104");
    client.ask("shut A");
    scene.await_counts(0, 0, 0);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(client.ask(&format!("pread {oid} 110")), "2");
    assert_eq!(scene.inside.stat("pinkill"), 0);
    scene.stop_after(client);
}

/// A pin is told, and its answer heard, by workers: control sleeps through it, but for looks at READs that wait long.
fn pins_wake_no_other_thread_of_the_server(transport: Transport) {
    const FIRST: u64 = 10;
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("control", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let client = scene.good_client(&rig, scene.start);
    scene.change(&(FIRST..FIRST + 90).collect::<Vec<_>>(), 2);
    let slept = |scene: &Scene<'_>| {
        let tasks = format!("/proc/{}/task", scene.mount.pid());
        let status = std::fs::read_dir(tasks).unwrap().flatten();
        let status = status.map(|task| std::fs::read_to_string(task.path().join("status")));
        let control = status
            .flatten()
            .find(|s| s.starts_with("Name:\tzring-control"));
        let control = control.unwrap();
        let line = control
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let (before, began) = (slept(&scene), Instant::now());
    for blk in FIRST..FIRST + 90 {
        scene.begin_read(blk);
        assert_eq!(scene.inside.answer(SHORT), "2x1");
    }
    let (woken, took) = (slept(&scene) - before, began.elapsed());
    assert_eq!(scene.inside.stat("pin"), 90);
    // It looks every 30 ms while READs wait, and now and then a worker finds another in its place.
    let looks = u64::try_from(took.as_millis()).unwrap() / 30 + 1;
    println!("{woken} times in {took:?}");
    assert!(
        woken <= looks + 30,
        "control woke {woken} times in {took:?}"
    );
    scene.stop_after(client);
}
