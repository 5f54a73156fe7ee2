//! More requests that wait for something to happen than a worker could hold. However many there are, answers to pins come through.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use zring::base::limit::{LINKS_MAX, WAITING_MAX};

use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::Visitor;

on_each_transport!(a_crowd_that_waits_keeps_no_answer_from_coming);

/// Reads of the crowd that ended, and look-ups.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// In a visitor: on CPU 0, opens `head/watch` so many times if it may, and reads each, in threads that stay; then looks up so many
/// names of a state that is far. How many opens there were, and why no more.
pub(crate) fn gather(at: &Path, links: u64, names: u64) -> io::Result<String> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    on_first_cpu(Pid::from_raw(0));
    let mut why = 0;
    let mut opened = 0;
    while opened < links && why == 0 {
        let link = OpenOptions::new()
            .read(true)
            .write(true)
            .open(at.join("head/watch"));
        match link {
            Ok(file) => {
                opened += 1;
                stay(move || drop((&file).read(&mut [0; 256])))?;
            }
            Err(error) => why = error.raw_os_error().unwrap_or(-1),
        }
    }
    for n in 0..names {
        let far = at.join(format!("@{:016x}", u64::MAX / 2 - n));
        stay(move || drop(File::open(far)))?;
    }
    Ok(format!("{opened} {why}"))
}

/// In a visitor: how many of them wait no more.
pub(crate) fn ended() -> String {
    ENDED.load(Ordering::Relaxed).to_string()
}

fn stay(wait: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().stack_size(32 << 10);
    let body = move || {
        wait();
        ENDED.fetch_add(1, Ordering::Relaxed);
    };
    thread.spawn(body).map(drop)
}

fn on_first_cpu(thread: Pid) {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(thread, &cpus).unwrap();
}

/// Has all threads of a process where the crowd is: its requests come to the same queue.
fn join_crowd(visitor: &Visitor) {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", visitor.pid())).unwrap();
    for task in tasks {
        let name = task.unwrap().file_name();
        let tid: i32 = name.to_str().unwrap().parse().unwrap();
        on_first_cpu(Pid::from_raw(tid));
    }
}

fn a_crowd_that_waits_keeps_no_answer_from_coming(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("crowd", 120);
    let mut scene = Scene::watched(&rig, transport, ",pintimeout=10s");
    let (oid, path) = (scene.oid(), scene.base.files[0].head());
    let mut good = scene.good_client(&rig, scene.start);
    let mut crowd = Visitor::enter(&rig, &scene.mount.at);
    let names = 2 * WAITING_MAX;
    crowd.begin(&format!("gather {} {names}", LINKS_MAX + 500));
    let emfile = libc::EMFILE;
    assert_eq!(crowd.answer(SHORT), format!("{} {emfile}", LINKS_MAX - 1));
    scene.await_counts(LINKS_MAX as u64, 1, 0);
    // Of the look-ups some are refused, of the links none.
    std::thread::sleep(Duration::from_millis(300));
    let refused = crowd.number("ended");
    let workers = std::thread::available_parallelism().unwrap().get();
    let room = WAITING_MAX * workers;
    let fewest = u64::try_from(names.saturating_sub(room)).unwrap();
    let most = u64::try_from(names - WAITING_MAX).unwrap();
    assert!((fewest..=most).contains(&refused), "{refused} are refused");

    // Pins are asked for and answered, where the crowd is.
    join_crowd(&good);
    join_crowd(&scene.inside);
    for n in 0..20 {
        scene.change(&[n], 2);
        let began = Instant::now();
        let page = format!("stamps {path} {} 4096", n * 4096);
        assert_eq!(scene.inside.ask(&page), "2x1");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(good.number(&format!("look {oid} {n}")), 1);
    }
    assert_eq!(crowd.number("ended"), refused);
    // Who is killed is gone, and its links with it: there is room for others.
    let began = Instant::now();
    drop(crowd);
    scene.await_counts(1, 1, 20);
    println!("the crowd was gone after {:?}", began.elapsed());
    let mut late = scene.client(&rig);
    late.ask("link A");
    drop(late);
    assert_eq!(scene.inside.stat("pinkill"), 0);
    scene.stop_after(good);
}
