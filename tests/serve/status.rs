//! `zring status` of servers that are well, hung, dead, absent, and others than expected: it answers in bounded time.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::child::{Ended, becomes_true, wait_until};
use crate::machine::{Transport, is_root, root_or_lack};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::scene::{Scene, end, is_there, names};

on_each_transport!(a_server_that_is_well, a_server_that_hangs);

/// The verdict, and how long it took.
fn status(scene: &Scene<'_>, target: &str, code: i32, most: Duration) -> Ended {
    let began = Instant::now();
    let ended = scene.zring(&["status", target]);
    assert_eq!(ended.code(), Some(code), "{ended}");
    assert!(began.elapsed() < most, "it took {:?}", began.elapsed());
    let fails = ended
        .out
        .lines()
        .filter(|l| l.starts_with("fail - "))
        .count();
    assert_eq!(fails, usize::from(code != 0), "{ended}");
    ended
}

fn a_server_that_is_well(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("well", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    let ended = status(&scene, scene.mountpoint(), 0, Duration::from_secs(5));
    let checks: Vec<&str> = ended
        .out
        .lines()
        .map(|l| l.split(':').next().unwrap())
        .collect();
    let all = [
        "ok - mount entry",
        "ok - server process",
        "ok - stat of the mountpoint",
        "ok - read of .wcfs/zurl",
        "ok - read of .wcfs/stats",
        "ok - control and notifier",
        "ok - head",
    ];
    assert_eq!(checks, all, "{ended}");
    let process = format!("server process: {} (wcfs)", mount.pid());
    assert!(ended.out.contains(&process), "{ended}");
    mount.stop();
}

fn a_server_that_hangs(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("hung", 120);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    let clients = [
        scene.client("exec 7<$M/.wcfs/zurl"),
        scene.client("cd $M/head"),
    ];
    kill(mount.pid(), Signal::SIGSTOP).unwrap();
    let ended = status(&scene, scene.mountpoint(), 6, Duration::from_secs(25));
    let pid = |n: usize| clients[n].pid();
    for text in [
        "T (stopped by a signal)".to_owned(),
        format!("held by process {} (sleep): fd 7", pid(0)),
        format!("held by process {} (sleep): cwd", pid(1)),
        "zring-w0: T".to_owned(),
        "no answer within 5 s".to_owned(),
    ] {
        assert!(ended.out.contains(&text), "{text}: {ended}");
    }
    assert!(
        !is_root() || ended.out.contains("[<0>] "),
        "no kernel stacks: {ended}"
    );
    kill(mount.pid(), Signal::SIGCONT).unwrap();
    status(&scene, scene.mountpoint(), 0, Duration::from_secs(5));
    clients.into_iter().for_each(end);
    mount.stop();
}

/// Stops one thread until it ends itself: what a hung disk does to control, wherever it is.
const STOP_THREAD: &str = "
import ctypes, os, signal, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes, ptrace.restype = [ctypes.c_long] * 4, ctypes.c_long
tid, SEIZE, INTERRUPT, WALL = int(sys.argv[1]), 0x4206, 0x4207, 0x40000000
for what in SEIZE, INTERRUPT:
    if ptrace(what, tid, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(tid, WALL)
print('stopped', flush=True)
signal.pause()
";

#[test]
fn a_control_thread_that_stands_still() {
    if !is_there(Transport::Plain) || !root_or_lack("a thread that stands still") {
        return;
    }
    let rig = Rig::new("still", 120);
    let scene = Scene::new(&rig);
    let mount = scene.up(&[]);
    let tasks = format!("/proc/{}/task", mount.pid());
    let name = |tid: &String| std::fs::read_to_string(format!("{tasks}/{tid}/comm"));
    let control = |tid: &String| name(tid).is_ok_and(|name| name == "zring-control\n");
    // Workers answer before it is there.
    let find = || names(Path::new(&tasks)).into_iter().find(control);
    let tid = wait_until(SHORT, find).expect("control has a thread");
    let mut command = rig.command("python3");
    command.args(["-c", STOP_THREAD, &tid]);
    let stopped = rig.start(&mut command);
    let is_stopped = || stopped.out_so_far().contains("stopped");
    assert!(becomes_true(SHORT, is_stopped), "{}", stopped.err_so_far());
    // Readers are served, and who looks is told.
    assert_eq!(mount.head(), scene.base.last().to_string());
    let ended = status(&scene, scene.mountpoint(), 6, Duration::from_secs(25));
    assert!(
        ended
            .out
            .contains("fail - control thread: no answer within 5 s"),
        "{ended}"
    );
    assert!(ended.out.contains("ok - read of .wcfs/stats"), "{ended}");
    assert!(mount.stat("ControlBusy") >= 5000);
    assert_eq!(mount.stat("NotifyBusy"), 0);
    end(stopped);
    status(&scene, scene.mountpoint(), 0, Duration::from_secs(5));
    mount.stop();
}

#[test]
fn a_client_that_maps_is_named() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("maps", 120);
    let scene = Scene::new(&rig);
    let mount = scene.up(&[]);
    let oid = scene.base.files[0].oid;
    let script = format!(
        "import mmap,time,os\nf=os.open('{}/head/bigfile/{oid}',0)\nm=mmap.mmap(f,4096,prot=1)\nm[0]\nos.close(f)\nprint('in',flush=True)\ntime.sleep(1000)",
        scene.mountpoint()
    );
    let client = rig.start(rig.command("python3").args(["-c", &script]));
    becomes_true(SHORT, || client.out_so_far().contains("in"));
    kill(mount.pid(), Signal::SIGSTOP).unwrap();
    let ended = status(&scene, scene.mountpoint(), 6, Duration::from_secs(25));
    let line = ended
        .out
        .lines()
        .find(|l| l.contains(&format!("held by process {} ", client.pid())));
    assert!(line.is_some_and(|l| l.contains("mapping")), "{ended}");
    kill(mount.pid(), Signal::SIGCONT).unwrap();
    end(client);
    mount.stop();
}

#[test]
fn a_server_that_is_dead() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("dead", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up(&[]);
    let client = scene.client("exec 7<$M/.wcfs/zurl");
    mount.kill();
    let ended = status(&scene, scene.mountpoint(), 3, Duration::from_secs(10));
    assert!(ended.out.contains("is dead"), "{ended}");
    let held = format!("held by process {} (sleep): fd 7", client.pid());
    assert!(ended.out.contains(&held), "{ended}");
    end(client);
    scene.zring(&["stop", scene.mountpoint()]).good();
}

#[test]
fn a_server_that_is_absent_or_another() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("absent", 60);
    let scene = Scene::new(&rig);
    let limit = Duration::from_secs(5);
    let ended = status(&scene, scene.mountpoint(), 3, limit);
    assert!(ended.out.contains("nothing is mounted"), "{ended}");
    status(&scene, &scene.zurl, 3, limit);
    status(&scene, "/proc", 3, limit);
    let ended = scene.zring(&["status", "http://x"]);
    assert!(
        !ended.is_good() && ended.err.contains("can't normalize"),
        "{ended}"
    );
    assert_eq!(scene.zring(&["status"]).code(), Some(2));
    // Spelled in another way it has the same place, but that is not what is served there.
    let mut c = rig.zring();
    c.args(["serve", "-logtostderr", &scene.zurl]);
    let at = scene.zring(&["status", &scene.zurl]).out;
    let at = at.rsplit_once(" on ").unwrap().1.trim().to_owned();
    let server = rig.mount_by(&mut c, at.into(), &scene.zurl).unwrap();
    status(&scene, &scene.zurl, 0, limit);
    let other = scene.zurl.replace("file:", "FILE:");
    let ended = status(&scene, &other, 1, limit);
    assert!(ended.out.contains("serves file:"), "{ended}");
    scene.zring(&["stop", &scene.zurl]).good();
    server.ended().good();
}
