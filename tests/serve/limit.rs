//! What the server that is replaced does not do, by the numbers of its list: 3 and 13 here, 1 in `mount` as `rev::l01_*`, 4 and 10 there as
//! `limit::l04_*` and `limit::l10_*`, 7 as `fault::d03_l07_*`.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::child::becomes_true;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT, no_bug};
use crate::scene::{Scene, end, is_there};

on_each_transport!(l03_without_clients_it_exits, l13_of_many_starts_one_serves);

fn l03_without_clients_it_exits(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("l03", 60);
    let scene = Scene::new(&rig);
    let by = format!("transport={}", transport.name());
    let flags = ["-autoexit", "-autoexit.after", "1500ms", "-o", &by];
    // Nobody ever comes.
    let began = Instant::now();
    let mount = scene.up(&flags);
    let ended = mount.ended();
    no_bug(&ended);
    let ended = ended.good();
    assert!(began.elapsed() >= Duration::from_millis(1500), "{ended}");
    assert!(ended.err.contains("] stop "), "{ended}");
    assert!(scene.is_clean());

    // As long as one client of two is there it stays, and for a while after the last.
    let mount = scene.up(&flags);
    let (a, b) = (
        scene.client("exec 3<$M/.wcfs/zurl"),
        scene.client("exec 3<$M/.wcfs/zurl"),
    );
    end(a);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(rig.mount_lines(&scene.at).len(), 1, "{}", mount.said());
    end(b);
    let left = Instant::now();
    let ended = mount.ended();
    no_bug(&ended);
    ended.good();
    assert!(
        left.elapsed() >= Duration::from_secs(1),
        "{:?}",
        left.elapsed()
    );
    assert!(scene.is_clean());
}

/// What is on its way counts as running, though nothing is mounted yet.
#[test]
fn l13_a_server_that_is_starting_counts() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("l13b", 60);
    let scene = Scene::new(&rig);
    let starting = scene.client("exec 9<$M; flock -n 9");
    let ended = scene.refused(&[]);
    assert!(ended.err.contains("starting or running"), "{ended}");
    end(starting);
    let mount = scene.up(&[]);
    mount.stop();
}

/// One that does not answer is one too, and is left alone.
#[test]
fn l13_a_server_that_hangs_counts() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("l13c", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up(&[]);
    kill(mount.pid(), Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    let ended = scene.refused(&[]);
    assert!(ended.err.contains("does not answer"), "{ended}");
    assert!(began.elapsed() < Duration::from_secs(10), "{ended}");
    kill(mount.pid(), Signal::SIGCONT).unwrap();
    mount.stop();
}

#[test]
fn l03_a_mount_that_is_used_otherwise_stays() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("l03b", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up(&["-autoexit", "-autoexit.after=300ms"]);
    let client = scene.client("cd $M/head");
    assert!(becomes_true(SHORT, || mount
        .said()
        .contains("the mount stays")));
    mount.head();
    end(client);
    mount.ended().good();
}

#[test]
fn without_autoexit_it_stays() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("stays", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up(&["-autoexit.after", "100ms"]);
    std::thread::sleep(Duration::from_secs(1));
    mount.head();
    mount.stop();
}

fn l13_of_many_starts_one_serves(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("l13", 120);
    let scene = Scene::new(&rig);
    let by = format!("transport={}", transport.name());
    // The second round starts on a dead mount.
    for _ in 0..2 {
        let mut racers: Vec<_> = (0..6)
            .map(|_| rig.start(&mut scene.command(&["-o", &by])))
            .collect();
        let one_left = || {
            racers
                .iter_mut()
                .filter_map(|r| r.is_running().then_some(()))
                .count()
                == 1
        };
        assert!(
            becomes_true(SHORT, one_left),
            "more than one, or none, goes on"
        );
        let answers = becomes_true(Duration::from_secs(10), || {
            scene.shell("cat $M/head/at").is_good()
        });
        let said = racers.iter().map(crate::child::Running::err_so_far);
        assert!(answers, "{:#?}", said.collect::<Vec<_>>());
        assert_eq!(rig.mount_lines(&scene.at).len(), 1);
        for mut racer in racers {
            if racer.is_running() {
                racer.signal(nix::sys::signal::Signal::SIGKILL);
                racer.wait(SHORT);
                continue;
            }
            let ended = racer.wait(SHORT);
            no_bug(&ended);
            assert_eq!(ended.code(), Some(2), "{ended}");
            assert!(ended.err.contains(" already"), "{ended}");
        }
    }
    scene.up(&[]).stop();
}
