//! `zring stop` of servers that are well, hung, dead and absent, with and without clients: it ends, and nothing is left.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::child::Ended;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT, no_bug};
use crate::scene::{Scene, end, is_there};

on_each_transport!(
    a_server_that_is_well,
    clients_that_hold_it,
    a_server_that_hangs
);

/// Stops, in so much time, and nothing is left mounted.
fn stop(scene: &Scene<'_>, flags: &[&str], most: Duration) -> Ended {
    let began = Instant::now();
    let words = [&["stop"][..], flags, &[scene.mountpoint()]].concat();
    let ended = scene.zring(&words).good();
    assert!(
        began.elapsed() < most,
        "it took {:?}: {ended}",
        began.elapsed()
    );
    assert!(scene.rig.mount_lines(&scene.at).is_empty(), "{ended}");
    ended
}

fn a_server_that_is_well(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("well", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    stop(&scene, &[], Duration::from_secs(5));
    let ended = mount.ended();
    no_bug(&ended);
    assert!(ended.good().err.contains("] stop "));
    // A mountpoint that was given is not ours to remove.
    assert!(scene.at.exists());
}

fn clients_that_hold_it(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("held", 120);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    let polite = scene.client("exec 7<$M/.wcfs/zurl");
    let deaf = scene.client("trap '' TERM; cd $M/head");
    let ended = stop(&scene, &["--timeout", "5s"], Duration::from_secs(15));
    for (client, what) in [(&polite, "fd 7"), (&deaf, "cwd")] {
        let line = format!("held by process {} (sleep): {what}", client.pid());
        assert!(ended.out.contains(&line), "{line}: {ended}");
    }
    let killed = format!("SIGKILL to process {} (sleep)", deaf.pid());
    assert!(ended.out.contains(&killed), "{ended}");
    assert_eq!(polite.wait(SHORT).signal(), Some(15));
    assert_eq!(deaf.wait(SHORT).signal(), Some(9));
    no_bug_but_signal(&mount.ended());
}

/// A server may be ended by the signals that stop sends.
fn no_bug_but_signal(ended: &Ended) {
    assert!(
        !ended.err.contains("panicked") && !ended.err.contains("BUG:"),
        "{ended}"
    );
}

#[test]
fn lazily_clients_live_on() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("lazy", 120);
    let scene = Scene::new(&rig);
    let mount = scene.up(&[]);
    let mut client = scene.client("exec 7<$M/.wcfs/zurl");
    let ended = stop(&scene, &["--timeout=5s", "--lazy"], Duration::from_secs(15));
    assert!(ended.out.contains("detached"), "{ended}");
    assert!(client.is_running(), "the client was ended: {ended}");
    no_bug_but_signal(&mount.ended());
    end(client);
}

fn a_server_that_hangs(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("hung", 120);
    let scene = Scene::new(&rig);
    // Without clients the unmount itself goes well.
    let mount = scene.up_by(transport);
    kill(mount.pid(), Signal::SIGSTOP).unwrap();
    stop(&scene, &["--timeout=5s"], Duration::from_secs(15));
    assert_eq!(mount.ended().signal(), Some(9));

    // A client that waits for an answer can only be freed by an abort.
    let mount = scene.up_by(transport);
    kill(mount.pid(), Signal::SIGSTOP).unwrap();
    let client = scene.start_shell("exec cat $M/head/at");
    std::thread::sleep(Duration::from_millis(300));
    let ended = stop(&scene, &["--timeout=5s"], Duration::from_secs(20));
    assert!(ended.out.contains("aborted connection"), "{ended}");
    assert!(!client.wait(SHORT).is_good());
    assert_eq!(mount.ended().signal(), Some(9));
}

#[test]
fn a_server_that_is_dead_or_absent() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("dead", 60);
    let scene = Scene::new(&rig);
    scene.up(&[]).kill();
    stop(&scene, &[], Duration::from_secs(5));
    let ended = scene.zring(&["stop", scene.mountpoint()]);
    assert_eq!(ended.code(), Some(3), "{ended}");
    assert_eq!(scene.zring(&["stop"]).code(), Some(2));
    assert_eq!(scene.zring(&["stop", "/proc"]).code(), Some(3));
    assert_eq!(scene.zring(&["stop", &scene.zurl]).code(), Some(3));
}

#[test]
fn a_mount_of_zring_mount_is_stopped_too() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("other", 60);
    let scene = Scene::new(&rig);
    let mount = rig.mount("mnt", &scene.zurl, "transport=plain").unwrap();
    scene.zring(&["status", scene.mountpoint()]).good();
    stop(&scene, &[], Duration::from_secs(5));
    mount.ended().good();
}
