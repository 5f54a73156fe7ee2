//! Clients of `head/watch` that do not answer pins as they should, each in its own way, beside a good one and somebody who reads.
//!
//! The server gives them 1.5 s. Whatever they do, the READ that waits for them is answered within twice that, the good client is
//! served at once, other blocks are read as ever, and a transaction is published meanwhile. Defects of the server that is replaced are
//! named by their numbers in the list they were collected in.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use zring::base::Tid;

use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::Visitor;

on_each_transport!(
    e14_silent,
    e14_refuses,
    e14_nonsense_with_a_pin_under_way,
    e14_closes_and_lives,
    e14_closes_and_dies,
    e14_ignores_sigbus,
    e14_stopped,
    e14_a_zombie,
    e14_a_child_answers_wrongly,
    nobody_waits_for_a_database_that_failed,
    nobody_waits_for_a_server_that_stops,
    nobody_waits_for_a_server_that_is_killed,
    d03_l07_e13_nothing_else_waits_for_a_pin,
    d10_opened_by_a_thread_that_ended,
    d12_a_refused_request_leaves_nothing_behind,
    d17_a_line_without_end,
    d21_never_reads,
    d22_texts_with_line_feeds_and_failed_unpins,
);

/// What clients are given to answer.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// The block that everybody watches.
const BLK: u64 = 110;

/// What is to become of the client, and how soon the READ is answered.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// The signal that ends it; none, and it lives or had ended by itself.
    signal: Option<i32>,
    /// Whether it counts as killed.
    kills: u64,
    /// The READ is answered then.
    after: Duration,
    before: Duration,
    /// In the log.
    says: &'static str,
}

/// Killed when its time was over.
const TIMED_OUT: Fate = Fate {
    signal: Some(libc::SIGBUS),
    kills: 1,
    after: TIMEOUT,
    before: Duration::from_millis(3000),
    says: "#110 @",
};

const AT_ONCE: Fate = Fate {
    after: Duration::ZERO,
    before: Duration::from_millis(1000),
    ..TIMED_OUT
};

/// A mount with a bad client, a good one, and one that reads other blocks; of the block both see what it was.
struct Stage<'r> {
    scene: Scene<'r>,
    bad: Visitor,
    good: Visitor,
    other: Visitor,
    at: Tid,
}

impl<'r> Stage<'r> {
    fn new(rig: &'r Rig, transport: Transport) -> Self {
        let scene = Scene::watched(rig, transport, ",pintimeout=1.5s");
        let at = scene.start;
        let (bad, good) = (scene.client(rig), scene.good_client(rig, at));
        let mut other = Visitor::enter(rig, &scene.mount.at);
        other.ask(&format!("hold {}", scene.base.files[0].head()));
        Self {
            scene,
            bad,
            good,
            other,
            at,
        }
    }

    /// The bad client watches the file, by a link that it opens so.
    fn watch(&mut self, how: &str) {
        self.bad.ask(&format!("link A{how}"));
        let text = format!("say A 1 watch {} @{}", self.scene.oid(), self.at);
        self.bad.ask(&text);
        assert_eq!(self.bad.ask("hear A"), "1 ok$");
    }

    /// The block changes, and a READ of it asks for a pin.
    fn touch(&mut self) -> Instant {
        self.scene.change(&[BLK], 2);
        // Before the READ: a machine that stops for a second here must not shorten what the client was given.
        let began = Instant::now();
        self.scene.begin_read(BLK);
        began
    }

    /// The bad client is told of it.
    fn told(&mut self) {
        let pin = format!("pin {} #{BLK} @{}$", self.scene.oid(), self.at);
        let heard = self.bad.ask("hear A");
        assert_eq!(heard.split_once(' ').unwrap().1, pin);
    }

    /// Others are served meanwhile, the READ is answered in time, and the client had its fate.
    fn ends(mut self, fate: Fate, began: Instant) {
        let (oid, path) = (self.scene.oid(), self.scene.base.files[0].head());
        let next = self.scene.base.last();
        self.other.begin(&format!("cold {path} 500 100"));
        let reply = self.good.ask(&format!("ask G 3 watch {oid} @{next}"));
        let (said, us) = reply.rsplit_once(' ').unwrap();
        assert_eq!(said, "3 ok$", "the good client");
        let us: u64 = us.parse().unwrap();
        // Two processes and a busy machine are in it, but no deadline of a pin.
        assert!(us < 1_000_000, "the good client waited {us} us");
        let found = self.other.answer(SHORT);
        let (pages, worst_us) = found.split_once(' ').unwrap();
        println!(
            "the good client waited {us} us; {pages} other pages were read, the longest took {worst_us} us"
        );
        assert!(worst_us.parse::<u64>().unwrap() < 1_000_000, "{found}");
        let answer = self.scene.inside.answer(SHORT);
        let took = began.elapsed();
        println!("the READ took {took:?}");
        assert_eq!(answer, "2x1", "{}", self.scene.mount.said());
        assert!(
            took >= fate.after && took < fate.before,
            "{took:?}: {fate:?}: {}",
            self.scene.mount.said()
        );
        self.leaves_nothing(fate);
    }

    fn leaves_nothing(mut self, fate: Fate) {
        let oid = self.scene.oid();
        let mut said = String::new();
        let told = becomes_true(Duration::from_secs(2), || {
            said = self.scene.mount.said();
            self.scene.inside.stat("pinkill") == fate.kills && said.contains(fate.says)
        });
        assert!(told, "{said}");
        if let Some(signal) = fate.signal {
            let ended = self.bad.ended(SHORT).and_then(|end| end.signal());
            assert_eq!(ended, Some(signal), "{said}");
        }
        self.scene.await_counts(1, 1, 0);
        // Nothing is left of it: the block changes and is read, and the good client is asked alone.
        let (at, was) = (self.scene.base.last(), self.scene.base.files[0].stamp(BLK));
        self.scene.change(&[BLK], 3);
        self.scene.begin_read(BLK);
        assert_eq!(self.scene.inside.answer(SHORT), "3x1");
        assert_eq!(
            self.good.number(&format!("look {oid} {BLK}")),
            u64::from(was)
        );
        let heard = self.good.ask("heard G");
        assert!(
            heard.ends_with(&format!("pin {oid} #{BLK} @{at}$")),
            "{heard}"
        );
        let Self {
            bad,
            good,
            other,
            scene,
            ..
        } = self;
        drop((bad, good, other));
        scene.stop();
    }
}

/// Reads its pin, and does nothing.
fn e14_silent(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("silent", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    let began = stage.touch();
    stage.told();
    stage.ends(TIMED_OUT, began);
}

fn e14_refuses(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("refuses", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    let began = stage.touch();
    stage.told();
    // It may be dead before the write returns.
    stage.bad.begin("say A 2 nak: no room");
    let says = "expect \"ack\"; got \"nak: no room\"";
    stage.ends(Fate { says, ..AT_ONCE }, began);
}

/// It has until its deadline to be gone by itself.
fn e14_nonsense_with_a_pin_under_way(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("nonsense", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    let began = stage.touch();
    stage.told();
    stage.bad.ask("say A zzz hello");
    let heard = stage.bad.ask("hear A");
    let why = "sendReq: waiting for reply: context canceled";
    assert_eq!(heard, format!("0 fatal: pin #{BLK} @{}: {why}$", stage.at));
    stage.ends(TIMED_OUT, began);
}

fn e14_closes_and_lives(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("closes", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    let began = stage.touch();
    stage.told();
    stage.bad.ask("shut A");
    stage.ends(TIMED_OUT, began);
}

/// Neither killed nor counted, and nobody waits for its time to be over.
fn e14_closes_and_dies(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("dies", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    let began = stage.touch();
    stage.told();
    kill(stage.bad.pid(), Signal::SIGKILL).unwrap();
    let fate = Fate {
        signal: Some(libc::SIGKILL),
        kills: 0,
        says: "",
        ..AT_ONCE
    };
    stage.ends(fate, began);
}

fn e14_ignores_sigbus(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("deaf", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.bad.ask("ignore");
    stage.watch("");
    let began = stage.touch();
    stage.told();
    let fate = Fate {
        signal: Some(libc::SIGKILL),
        says: "is still alive after SIGBUS",
        ..TIMED_OUT
    };
    stage.ends(fate, began);
}

/// Stopped by a debugger, say: it does not even take SIGBUS.
fn e14_stopped(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("stopped", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    stage.bad.ask("serve A");
    kill(stage.bad.pid(), Signal::SIGSTOP).unwrap();
    // Until the signal has reached its thread that answers pins, it answers them.
    let tasks = format!("/proc/{}/task", stage.bad.pid());
    let is_stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    };
    let all = || std::fs::read_dir(&tasks).unwrap().flatten().all(is_stopped);
    assert!(becomes_true(SHORT, all));
    let began = stage.touch();
    let fate = Fate {
        signal: Some(libc::SIGKILL),
        says: "terminated",
        ..TIMED_OUT
    };
    stage.ends(fate, began);
}

/// It has ended, a child has its descriptors still, and its parent has not asked what became of it.
fn e14_a_zombie(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("zombie", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    let pid = stage.bad.pid();
    assert_eq!(stage.bad.ask("leave"), pid.to_string());
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    };
    assert!(becomes_true(SHORT, is_zombie));
    let began = stage.touch();
    let answer = stage.scene.inside.answer(SHORT);
    println!("the READ took {:?}", began.elapsed());
    assert_eq!(answer, "2x1");
    assert!(began.elapsed() < AT_ONCE.before); // there is nobody to wait for
    assert_eq!(stage.bad.ask("hear A").split(':').next(), Some("0 fatal"));
    stage.bad.ask("shut A");
    let last = stage.scene.base.last();
    let oid = stage.scene.oid();
    let moved = stage.good.ask(&format!("ask G 3 watch {oid} @{last}"));
    assert!(moved.starts_with("3 ok$"), "{moved}");
    let fate = Fate {
        signal: None,
        kills: 0,
        says: "",
        ..AT_ONCE
    };
    stage.leaves_nothing(fate);
}

/// Who opened the link answers for it, whoever has it now.
fn e14_a_child_answers_wrongly(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("child", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    stage.bad.ask("fork");
    let began = stage.touch();
    stage.told();
    stage.bad.ask("say A 2 done");
    let says = "got \"done\"";
    // The child lives: it is what answers here, and closes the link.
    assert_eq!(stage.bad.ask("hear A").split(':').next(), Some("0 fatal"));
    stage.bad.ask("shut A");
    stage.ends(Fate { says, ..AT_ONCE }, began);
}

/// D10: there the thread was signalled, which is nobody any more.
/// The database goes back in time: everything that waits is let go, with an error, and nobody is killed for it.
fn nobody_waits_for_a_database_that_failed(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("failed", 60);
    let mut stage = Stage::new(&rig, transport);
    let (oid, at) = (stage.scene.oid(), stage.at);
    stage.watch("");
    let mut idle = stage.scene.client(&rig);
    idle.ask("link I");
    idle.ask(&format!("say I 1 watch {oid} @{at}"));
    assert_eq!(idle.ask("hear I"), "1 ok$");
    idle.begin("hear I");
    let db = std::fs::OpenOptions::new()
        .write(true)
        .open(rig.path("Data.fs"))
        .unwrap();
    let before = db.metadata().unwrap().len();
    stage.touch();
    stage.told();
    assert!(idle.answer(SHORT).contains(" pin "));
    idle.begin("hear I");
    db.set_len(before).unwrap();
    // One who reads a block that is not pinned, one who reads messages, one who answers, one who comes.
    assert_eq!(stage.scene.inside.answer(SHORT), "errno 5");
    assert_eq!(idle.answer(SHORT), "EOF");
    assert_eq!(stage.bad.ask("say A 2 ack"), "errno 104");
    assert_eq!(stage.bad.ask("hear A"), "EOF");
    assert_eq!(stage.bad.ask("link B"), "linked");
    assert_eq!(stage.bad.ask("say B 1 bye"), "errno 104");
    assert_eq!(stage.bad.ask("hear B"), "EOF");
    stage.scene.begin_read(3);
    assert_eq!(stage.scene.inside.answer(SHORT), "errno 5");
    assert_eq!(stage.scene.inside.stat("pinkill"), 0);
    let said = || stage.scene.mount.said();
    let is_said = becomes_true(SHORT, || said().contains("went back in time"));
    assert!(is_said, "{}", said());
    drop((idle, stage.bad, stage.good, stage.other));
    stage.scene.await_counts(0, 0, 0);
    stage.scene.stop();
}

/// SIGQUIT has the server tell where it stands; SIGTERM ends it, also beside a client that answers nothing.
fn nobody_waits_for_a_server_that_stops(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("stops", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    stage.touch();
    stage.told();
    kill(stage.scene.mount.pid(), Signal::SIGQUIT).unwrap();
    let said = || stage.scene.mount.said();
    assert!(
        becomes_true(SHORT, || said().contains("PinnedBlk")),
        "{}",
        said()
    );
    assert!(said().contains("zring-quit: R"), "{}", said());
    kill(stage.scene.mount.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(stage.scene.inside.answer(SHORT), "errno 5");
    drop((stage.bad, stage.good, stage.other, stage.scene.inside));
    let ended = stage.scene.mount.ended();
    assert!(ended.status.is_some_and(|s| s.success()), "{ended}");
}

/// The server is killed while a drop of its waits for a READ that waits for a client: without help from outside neither would ever end
/// (kernel-note 0023).
fn nobody_waits_for_a_server_that_is_killed(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("killed", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    stage.touch();
    stage.told();
    let head = stage.scene.mount.head();
    stage.scene.base.set(0, BLK, 3);
    stage.scene.base.commit();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(stage.scene.mount.head(), head, "the drop waits");
    let Stage {
        mut scene,
        bad,
        good,
        other,
        ..
    } = stage;
    let (at, began) = (scene.mount.at.clone(), Instant::now());
    scene.mount.kill();
    let took = began.elapsed();
    println!("gone after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let found = scene.inside.answer(SHORT);
    assert!(found.starts_with("errno "), "{found}");
    drop((bad, good, other, scene.inside));
    rig.umount(&at);
}

fn d10_opened_by_a_thread_that_ended(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d10", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch(" thread");
    let began = stage.touch();
    stage.told();
    stage.ends(TIMED_OUT, began);
}

/// D21: there a reply that nobody reads kept everything else from being sent, without a deadline.
fn d21_never_reads(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d21", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.bad.ask("link A");
    let (oid, at) = (stage.scene.oid(), stage.at);
    for n in 0..50 {
        stage
            .bad
            .ask(&format!("say A {} watch {oid} @{at}", 2 * n + 1));
    }
    let began = stage.touch();
    let says = "send .2: context deadline exceeded";
    stage.ends(Fate { says, ..TIMED_OUT }, began);
}

/// D3, L7: there a GETATTR waited for a transaction, that for a READ, and that for a pin. Here a transaction over that very block waits
/// (the kernel has the page locked), others do not, and whatever is no READ of it is answered at once.
fn d03_l07_e13_nothing_else_waits_for_a_pin(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d03", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let (oid, at) = (scene.oid(), scene.start);
    let mut client = scene.client(&rig);
    client.ask("link A");
    client.ask(&format!("say A 1 watch {oid} @{at}"));
    client.ask("hear A");
    scene.change(&[BLK], 2);
    scene.begin_read(BLK);
    assert_eq!(client.ask("hear A"), format!("2 pin {oid} #{BLK} @{at}$"));
    let mut other = Visitor::enter(&rig, &scene.mount.at);
    let path = scene.base.files[0].head();
    other.ask(&format!("hold {path}"));
    let mut worst = (Duration::ZERO, String::new());
    for n in 3..13u32 {
        // The last goes over the block.
        let (blk, is_last) = (u64::from(n), n == 12);
        scene.base.set(0, blk, n);
        if is_last {
            scene.base.set(0, BLK, n);
        }
        let mut head = scene.base.last();
        let tid = scene.base.commit();
        if !is_last {
            head = tid;
            other.await_head(tid);
        }
        answers_at_once(&mut other, &oid, (at, head), &mut worst);
        // Nobody sees another state of this one.
        let cold = format!("stamps {path} {} 4096", (blk + 20) * 4096);
        assert_eq!(other.pages(&cold), [1]);
        assert!(scene.inside.early(Duration::ZERO).is_none());
    }
    println!("the longest of them: {worst:?}");
    client.ask("say A 2 ack");
    assert!(["2x1", "12x1"].contains(&scene.inside.answer(SHORT).as_str()));
    // It goes on, and the cache has nothing old.
    let last = scene.base.last();
    scene.inside.await_head(last);
    scene.begin_read(BLK);
    assert_eq!(scene.inside.answer(SHORT), "12x1");
    assert_eq!(scene.inside.stat("pinkill"), 0);
    drop(other);
    scene.stop_after(client);
}

/// What clients need in order to answer a pin, and what operators look at.
fn answers_at_once(
    other: &mut Visitor,
    oid: &str,
    (at, head): (Tid, Tid),
    worst: &mut (Duration, String),
) {
    let size = (120 * 4096).to_string();
    for (question, want) in [
        (format!("size head/bigfile/{oid}"), size.as_str()),
        (format!("hold head/bigfile/{oid}"), "held"),
        (format!("size @{at}/bigfile/{oid}"), &size),
        (format!("size @{head}/bigfile/{oid}"), &size),
        (format!("hex @{at}/bigfile/{oid} {} 1", BLK * 4096), "00"),
        ("text head/at".to_owned(), &head.to_string()),
        ("text .wcfs/pintimeout".to_owned(), "30.0"),
    ] {
        let began = Instant::now();
        assert_eq!(other.ask(&question), want, "{question}");
        *worst = (began.elapsed(), question).max(worst.clone());
    }
    let began = Instant::now();
    assert_eq!(other.stat("WatchLink"), 1);
    *worst = (began.elapsed(), "stats".to_owned()).max(worst.clone());
    assert!(worst.0 < Duration::from_secs(1), "{worst:?}");
}

/// D12: there a watch whose request had failed kept a lock, and the next READ of the file froze the server.
fn d12_a_refused_request_leaves_nothing_behind(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d12", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let before = scene.start;
    let new = scene.base.file(4096, zring::zodb::write::Leaf::Blk0);
    (0..4).for_each(|blk| scene.base.set(new, blk, 1));
    scene.commit();
    let oid = scene.base.files[new].oid.to_string();
    let path = scene.base.files[new].head();
    let mut client = scene.client(&rig);
    client.ask(&format!("open {oid} 4096"));
    client.ask("link A");
    client.ask(&format!("say A 1 watch {oid} @{before}"));
    let reply = client.ask("hear A");
    assert!(
        reply.starts_with("1 error ") && reply.contains("file epoch detected"),
        "{reply}"
    );
    scene.await_counts(1, 0, 0);
    for n in 2..5u32 {
        let found = scene
            .inside
            .ask(&format!("stamps {path} {} 4096", 4096 * (n - 2)));
        assert!(found.ends_with("x1"), "{found}");
        scene.base.set(new, 0, n);
        scene.commit();
        assert_eq!(
            scene.inside.ask(&format!("stamps {path} 0 4096")),
            format!("{n}x1")
        );
    }
    // The link is as good as new.
    let last = scene.base.last();
    client.ask(&format!("say A 3 watch {oid} @{last}"));
    assert_eq!(client.ask("hear A"), "3 ok$");
    scene.await_counts(1, 1, 0);
    scene.stop_after(client);
}

/// D17: there a client could make the server remember a line of any length.
fn d17_a_line_without_end(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d17", 60);
    let scene = Scene::watched(&rig, transport, "");
    let mut client = scene.client(&rig);
    client.ask("link A");
    let long = "x".repeat(100_000);
    let taken = client.ask(&format!("say A 1 watch {long}"));
    // All of it, or the beginning, or nothing was taken; the link ends.
    let heard = client.ask("hear A");
    assert!(
        heard.starts_with("0 error: invalid frame") && heard.len() <= 242,
        "{taken}: {heard}"
    );
    assert_eq!(client.ask("hear A"), "EOF");
    assert_eq!(client.ask("say A 3 bye"), "errno 104");
    scene.stop_after(client);
}

/// D22: there a line feed in a text, or an unpin that failed while something else waited for it, crashed the server.
fn d22_texts_with_line_feeds_and_failed_unpins(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d22", 60);
    let mut stage = Stage::new(&rig, transport);
    stage.watch("");
    stage.bad.ask("say A 3 watch a\tb\rc\x01 \\n\"");
    let heard = stage.bad.ask("hear A");
    assert!(
        heard.starts_with("3 error bad watch: ") && heard.ends_with('$'),
        "{heard}"
    );
    assert_eq!(heard.matches('$').count(), 1, "{heard}");
    stage.touch();
    stage.told();
    stage.bad.ask("say A 2 ack");
    assert_eq!(stage.scene.inside.answer(SHORT), "2x1");
    // On to head: the block is mapped from there again. A READ of it after a change waits for that, and it fails.
    let (oid, last) = (stage.scene.oid(), stage.scene.base.last());
    stage.bad.ask(&format!("say A 5 watch {oid} @{last}"));
    assert_eq!(
        stage.bad.ask("hear A"),
        format!("4 pin {oid} #{BLK} @head$")
    );
    stage.scene.change(&[BLK], 4);
    stage.scene.begin_read(BLK);
    let began = Instant::now();
    assert_eq!(stage.scene.inside.early(Duration::from_millis(300)), None);
    stage.bad.begin("say A 4 nak");
    assert_eq!(stage.scene.inside.answer(SHORT), "4x1");
    println!("the READ took {:?}", began.elapsed());
    let moved = stage
        .good
        .ask(&format!("ask G 3 watch {oid} @{}", stage.scene.base.last()));
    assert!(moved.starts_with("3 ok$"), "{moved}");
    let says = "pin #110 @head: expect \"ack\"; got \"nak\"";
    stage.leaves_nothing(Fate { says, ..AT_ONCE });
}
