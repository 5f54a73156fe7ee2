//! Defects that the daemon which zring replaces has, or had: none of them is here. Each is named by its number in the list they were
//! collected in.
//!
//! D2 and D15 are shown beside the code (`engine::probe` and `engine::retrieval`; `tail::tests::model` has the largest key).

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zring::base::Tid;
use zring::zodb::write::Leaf;

use crate::base::{Base, STEP};
use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::{Transport, number, python, root_or_lack};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT, no_bug};
use crate::visitor::Visitor;
use crate::zeo::{Kind, Server};

on_each_transport!(
    d01_cold_reads_beside_commits_go_on,
    d04_forgets_and_lookups_beside_a_lookup_that_waits,
    d05_an_empty_chunk_table_has_the_revision_of_its_block,
    d11_an_interrupted_reader_takes_nothing_from_others,
    d14_history_is_forgotten_beside_readers,
    d19_mounted_over,
    d19_mounted_over_files_that_grow,
    d19_detached_while_it_is_used,
    d19_killed_between_commits,
    d20_names_that_were_looked_up_leave_nothing,
);

/// Enough 4 KiB blocks for a reader and a writer to meet all the time.
const BLOCKS: u64 = 512;

fn small_blocks(base: &mut Base) {
    let file = base.file(4096, Leaf::Blk0);
    (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
}

/// Commits of ten blocks, `every` so often, for a while.
fn churn(base: &mut Base, every: Duration, time: Duration) {
    let (began, mut n) = (Instant::now(), 0u32);
    while began.elapsed() < time {
        n += 1;
        for i in 0..10 {
            let blk = u64::from(n * 10 + i) * 7919 % BLOCKS;
            base.set(0, blk, n + 1);
        }
        base.commit();
        let next = every * n;
        std::thread::sleep(next.saturating_sub(began.elapsed()));
    }
}

/// D1: there the READ of a page waited for the advance, and the advance for the page.
fn d01_cold_reads_beside_commits_go_on(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d01", 90);
    let mut scene = Scene::new(&rig, transport, small_blocks);
    let path = scene.base.files[0].head();
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(4);
    scene.inside.ask(&format!("hold {path}"));
    let mut others: Vec<_> = (0..2)
        .map(|_| Visitor::enter(&rig, &scene.mount.at))
        .collect();
    for reader in others.iter_mut().chain([&mut scene.inside]) {
        reader.begin(&format!("cold {path} {} {BLOCKS}", seconds * 1000));
    }
    let time = Duration::from_secs(seconds);
    churn(&mut scene.base, Duration::from_millis(5), time);
    for reader in others.iter_mut().chain([&mut scene.inside]) {
        let found = reader.answer(SHORT);
        let (pages, worst_us) = found.split_once(' ').unwrap();
        println!("{pages} pages, the longest took {worst_us} us");
        let (pages, worst_us): (u64, u64) = (pages.parse().unwrap(), worst_us.parse().unwrap());
        assert!(pages > 100 * seconds && worst_us < 2_000_000, "{found}");
    }
    scene.inside.await_head(scene.base.last());
    scene.read_all(0);
    scene.stop();
}

/// D4: there a writer of the lock of names, waiting, stopped the look-ups that it waited for.
fn d04_forgets_and_lookups_beside_a_lookup_that_waits(transport: Transport) {
    if !transport.is_there() || !root_or_lack("FORGETs beside a LOOKUP that waits") {
        return;
    }
    let rig = Rig::sole("d04", 90);
    let mut scene = Scene::new(&rig, transport, small_blocks);
    let file = scene.base.files[0].oid;
    let far = Tid(scene.base.last().0 + 20 * STEP);
    let mut waiting = Visitor::enter(&rig, &scene.mount.at);
    waiting.begin(&format!("size @{far}/bigfile/{file}"));
    for n in 0..20 {
        let old = Tid(scene.base.last().0 - n);
        let there = scene.inside.ask(&format!("size @{old}/bigfile/{file}"));
        assert!(n > 0 || there == (BLOCKS * 4096).to_string(), "{there}");
        scene.inside.ask("names head/bigfile 1000 20 1");
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        scene.base.set(0, n, 2);
        scene.commit();
    }
    assert_eq!(waiting.answer(SHORT), (BLOCKS * 4096).to_string());
    scene.read_all(0);
    drop(waiting);
    scene.stop();
}

/// D5: there a block whose chunk table is empty had no revision of its own.
fn d05_an_empty_chunk_table_has_the_revision_of_its_block(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d05", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(64 << 10, Leaf::Blk1);
        (0..4).for_each(|blk| base.set(file, blk, 1));
        base.set_empty(file, 1);
    });
    let mut before = scene.start;
    for n in [2, 3, 4] {
        let was = scene.base.files[0].stamp(1);
        scene.read_all(0);
        match n % 2 {
            0 => scene.base.set(0, 1, n),
            _ => scene.base.set_empty(0, 1),
        }
        let tid = scene.commit();
        scene.only_dropped(0, &[1]);
        assert_eq!(scene.base.files[0].rev(1, scene.start, before), before);
        scene.moved(0, 1, before, was);
        before = tid;
    }
    scene.read_all(0);
    scene.stop();
}

/// D11: there who gave up reading a block took it from all who waited for the same.
fn d11_an_interrupted_reader_takes_nothing_from_others(transport: Transport) {
    if !transport.is_there() || python().is_none() {
        return;
    }
    const ROUNDS: u64 = 4;
    let rig = Rig::new("d11", 120);
    let path = rig.path("Data.fs");
    let mut base = Base::create(&path);
    for _ in 0..=ROUNDS {
        let file = base.file(1 << 20, Leaf::Blk0);
        (0..ROUNDS).for_each(|blk| base.set(file, blk, 1));
    }
    let at = base.commit();
    let server = Server::start(&rig, &path, Kind::Unix);
    let mount = server.mount(transport);
    let head = base.files[0].head();
    for round in 0..ROUNDS {
        // Two pages of a block: one object. Two names of a file, likewise. Who asks first has it loaded, for both.
        let n = usize::try_from(round).unwrap();
        let page = |n: u64| format!("stamps {head} {} 4096", (round << 20) + (n << 12));
        let file = &base.files[n + 1];
        let names = [file.head(), file.at(at)].map(|path| format!("size {path}"));
        let size = (ROUNDS << 20).to_string();
        let mut pairs =
            [([page(0), page(200)], "1x1"), (names, &*size)].map(|(mut asked, found)| {
                asked.rotate_left(n % 2);
                let both = asked.map(|question| {
                    let mut visitor = Visitor::enter(&rig, &mount.at);
                    visitor.ask(&format!("hold {head}"));
                    (visitor, question)
                });
                (both, found)
            });
        server.signal(Signal::SIGSTOP);
        for i in 0..2 {
            for (both, _) in &mut pairs {
                let (visitor, question) = &mut both[i];
                visitor.begin(question);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // They wait for the same, and who is killed is let go while that is not to be had.
        let (victim, other) = (n / 2, 1 - n / 2);
        std::thread::sleep(Duration::from_millis(1000));
        for (both, _) in &pairs {
            kill(both[victim].0.pid(), Signal::SIGKILL).unwrap();
        }
        for (both, _) in &mut pairs {
            let ended = both[victim].0.ended(Duration::from_secs(5));
            assert!(
                ended.is_some(),
                "who is killed waits on: {}",
                both[victim].1
            );
            assert_eq!(both[other].0.early(Duration::from_millis(100)), None);
        }
        server.signal(Signal::SIGCONT);
        for (both, found) in &mut pairs {
            let (visitor, question) = &mut both[other];
            assert_eq!(visitor.answer(SHORT), *found, "{question}");
        }
    }
    mount.stop();
}

/// D14: there history was cut while others read the table that says how much of it is needed.
fn d14_history_is_forgotten_beside_readers(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d14", 90);
    let mut scene = Scene::new(&rig, transport, small_blocks);
    let (oid, start) = (scene.oid(), scene.start);
    let path = scene.base.files[0].head();
    scene.read_all(0);
    // Two minutes from one transaction to the next: each makes the one before forgotten, unless somebody sees it.
    scene.base.step = 2 << 32;
    let mut stays = scene.good_client(&rig, start);
    let mut moves = [(); 3].map(|()| (scene.good_client(&rig, start), 1));
    let mut reader = Visitor::enter(&rig, &scene.mount.at);
    reader.ask(&format!("hold {path}"));
    reader.begin(&format!("cold {path} 3000 {BLOCKS}"));
    for n in 0..150u32 {
        for i in 0..10 {
            scene.base.set(0, u64::from(n + i) * 31 % BLOCKS, n + 2);
        }
        let at = scene.base.commit();
        if n % 10 == 0 {
            assert_eq!(scene.inside.ask(&format!("await {at}")), at.to_string());
            scene.read_all(0);
        }
        // One after the other moves on while transactions come, or leaves and comes back.
        let (client, stream) = &mut moves[n as usize / 5 % 3];
        match n % 5 {
            0 if n % 4 == 0 => {
                *client = scene.good_client(&rig, at);
                *stream = 1;
            }
            0 => *stream += 2,
            1 => client.begin(&format!("ask G {stream} watch {oid} @{at}")),
            4 => {
                let reply = client.answer(SHORT);
                assert!(reply.starts_with(&format!("{stream} ok$ ")), "{n}: {reply}");
            }
            _ => {}
        }
    }
    let found = reader.answer(SHORT);
    assert!(
        !found.contains("torn") && !found.contains("errno"),
        "{found}"
    );
    scene.read_all(0);
    // All of it since the oldest watch is there still: for who has it, and for who comes.
    let reply = stays.ask(&format!("ask G 3 watch {oid} @{start}"));
    assert!(reply.starts_with("3 ok$ "), "{reply}");
    let mut comes = scene.good_client(&rig, start);
    for client in [&mut stays, &mut comes] {
        for blk in (0..BLOCKS).step_by(7) {
            assert_eq!(
                client.number(&format!("look {oid} {blk}")),
                1,
                "block {blk}"
            );
        }
    }
    drop((stays, comes, moves, reader));
    scene.await_counts(0, 0, 0);
    // And when nobody sees it any more, it goes.
    scene.base.set(0, 0, 1000);
    scene.commit();
    let mut late = scene.client(&rig);
    late.ask("link A");
    late.ask(&format!("say A 1 watch {oid} @{start}"));
    let reply = late.ask("hear A");
    assert!(
        reply.contains(": too far away back from head/at"),
        "{reply}"
    );
    scene.read_all(0);
    scene.stop_after(late);
}

/// Something lies over the mount until it is taken off by what this gives.
fn lay_over(rig: &Rig, at: &Path) -> impl FnOnce() {
    let mut over = rig.command("mount");
    over.args(["-t", "tmpfs", "tmpfs"]).arg(at);
    rig.run(&mut over, SHORT).good();
    let mut off = rig.command("umount");
    off.arg(at);
    move || drop(rig.run(&mut off, SHORT).good())
}

/// D19: there the server looked up names through its own mount, whatever was mounted over it.
fn d19_mounted_over(transport: Transport) {
    if !transport.is_there() || !root_or_lack("a mount over the mount") {
        return;
    }
    let rig = Rig::new("d19-over", 90);
    let mut scene = Scene::new(&rig, transport, small_blocks);
    let path = scene.base.files[0].head();
    scene.read_all(0);
    scene.inside.ask(&format!("hold {path}"));
    let take_off = lay_over(&rig, &scene.mount.at);
    let (half, all) = (Duration::from_millis(5), Duration::from_millis(1000));
    churn(&mut scene.base, half, all);
    // The open file is the old mount's still, and up to date before long.
    let want: Vec<u32> = (0..BLOCKS)
        .map(|blk| scene.base.files[0].stamp(blk))
        .collect();
    let question = format!("stamps {path} 0 {}", BLOCKS * 4096);
    let follows = becomes_true(SHORT, || scene.inside.pages(&question) == want);
    take_off();
    assert!(follows, "commits are not followed below another mount");
    scene.inside.await_head(scene.base.last());
    scene.read_all(0);
    scene.stop();
}

/// D19: neither what lies over the mount, nor a process that asks for sizes and is late each time, keeps commits back.
fn d19_mounted_over_files_that_grow(transport: Transport) {
    if !transport.is_there() || !root_or_lack("a mount over the mount") {
        return;
    }
    let rig = Rig::new("d19-grow", 90);
    let mut scene = Scene::new(&rig, transport, small_blocks);
    let path = scene.base.files[0].head();
    scene.read_all(0);
    scene.inside.ask(&format!("hold {path}"));
    let take_off = lay_over(&rig, &scene.mount.at);
    // Each transaction is seen in the open file before long.
    let mut slowest = Duration::ZERO;
    let mut blocks = BLOCKS;
    for _ in 0..20 {
        scene.base.set(0, blocks, 2);
        blocks += 1;
        scene.base.commit();
        let began = Instant::now();
        let all = format!("stamps {path} 0 {}", 2 * BLOCKS * 4096);
        let grows = becomes_true(SHORT, || scene.inside.pages(&all).len() as u64 == blocks);
        assert!(grows, "the file does not grow");
        slowest = slowest.max(began.elapsed());
    }
    take_off();
    println!("below another mount: {slowest:?} at most");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    scene.inside.await_head(scene.base.last());
    // Now somebody asks, and never answers in time.
    scene.base.set(0, blocks, 2);
    scene.commit();
    let is_asker = |pid: &Pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.starts_with(b"zring\0look\0sizes\0")
    };
    let asker = rig.processes().into_iter().find(is_asker).unwrap();
    let began = Instant::now();
    for n in 1..=5 {
        kill(asker, Signal::SIGSTOP).unwrap();
        scene.base.set(0, blocks + n, 2);
        scene.commit();
        kill(asker, Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    let all = began.elapsed();
    println!("five transactions with one who is late each time: {all:?}");
    assert!(all < Duration::from_millis(2500), "{all:?}");
    scene.read_all(0);
    scene.stop();
}

fn d19_detached_while_it_is_used(transport: Transport) {
    if !transport.is_there() || !root_or_lack("a lazy unmount beside commits") {
        return;
    }
    let rig = Rig::new("d19-lazy", 90);
    let mut scene = Scene::new(&rig, transport, small_blocks);
    let path = scene.base.files[0].head();
    scene.read_all(0);
    scene.inside.ask(&format!("hold {path}"));
    let mut detach = Command::new("umount");
    rig.run(detach.arg("-l").arg(&scene.mount.at), SHORT).good();
    churn(
        &mut scene.base,
        Duration::from_millis(5),
        Duration::from_millis(500),
    );
    let question = format!("stamps {path} 0 {}", BLOCKS * 4096);
    let want: Vec<u32> = (0..BLOCKS)
        .map(|blk| scene.base.files[0].stamp(blk))
        .collect();
    let follows = becomes_true(SHORT, || scene.inside.pages(&question) == want);
    assert!(
        follows,
        "commits are not followed behind a lazy unmount: {}",
        scene.mount.said()
    );
    // It ends with the last who used it.
    let Scene { inside, mount, .. } = scene;
    drop(inside);
    let ended = mount.ended();
    no_bug(&ended);
    assert!(ended.is_good(), "{ended}");
}

fn d19_killed_between_commits(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("d19-kill", 120);
    for round in 0..3 {
        let path = rig.path("Data.fs");
        let _ = std::fs::remove_file(&path);
        let scene = Scene::new(&rig, transport, small_blocks);
        let Scene {
            mut base,
            mount,
            mut inside,
            ..
        } = scene;
        let file = base.files[0].head();
        inside.begin(&format!("cold {file} 60000 {BLOCKS}"));
        let time = Duration::from_millis(200 + 37 * round);
        churn(&mut base, Duration::from_millis(2), time);
        let at = mount.at.clone();
        mount.kill();
        // Whoever was inside gets an error, at once.
        let found = inside.answer(SHORT);
        assert!(found.starts_with("errno"), "{found}");
        drop(inside);
        rig.umount(&at);
    }
}

/// D20: there each file that was ever looked up stayed for ever.
fn d20_names_that_were_looked_up_leave_nothing(transport: Transport) {
    if !transport.is_there() || !root_or_lack("that names are forgotten") {
        return;
    }
    let rig = Rig::sole("d20", 180);
    let files = number("ZRING_NAMES", 20_000);
    let mut scene = Scene::new(&rig, transport, |base| {
        for _ in 0..files {
            base.file(4096, Leaf::Blk0);
        }
    });
    scene.base.step = 2 << 32;
    let first = scene.base.files[0].oid.0;
    let pid = scene.mount.pid();
    let resident_kb = || -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut sizes = Vec::new();
    for round in 0..6 {
        let there = scene
            .inside
            .number(&format!("names head/bigfile {first} {files} 2"));
        assert_eq!(there, files);
        let none = scene
            .inside
            .number(&format!("names head/bigfile {} {files} 1", 1u64 << 40));
        assert_eq!(none, 0);
        if round == 0 {
            assert!(scene.inside.stat("BigFile") > 0);
        }
        let forgotten = becomes_true(SHORT, || {
            std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            scene.inside.stat("BigFile") == 0
        });
        assert!(forgotten, "{} are left", scene.inside.stat("BigFile"));
        // What was changed is remembered for a minute, and what was looked up with it.
        for _ in 0..2 {
            let oid = scene.base.fresh();
            scene.base.put(oid, zring::zodb::write::zdata(b"x"));
            let tid = scene.base.commit();
            scene.inside.ask(&format!("await {tid}"));
        }
        sizes.push(resident_kb());
    }
    println!("KiB after each round of {files} names: {sizes:?}");
    let (second, last) = (sizes[1], sizes[sizes.len() - 1]);
    assert!(last < second + 20_000, "{sizes:?}");
    scene.stop();
}
