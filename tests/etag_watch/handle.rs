//! The experiment of kernel-note 0018: what it takes to turn a directory's handle into a path, and who hears of it.

use crate::machine::lack;
use crate::scene::Dir;
use std::fs;
use std::time::{Duration, Instant};
use zring::kernel::watch::{Engine, Event, OpenLog, Watcher};

fn opens_of(log: &mut OpenLog, pid: u32) -> Vec<Event> {
    std::thread::sleep(Duration::from_millis(50));
    let mut out = Vec::new();
    while log.read(&mut out).unwrap() {}
    out.retain(|e| e.pid == Some(pid.cast_signed()));
    out
}

/// Looking up where directories are is no open that anybody hears of.
#[test]
fn a_look_up_opens_nothing() {
    let dir = Dir::under(&std::env::temp_dir());
    let Ok(mut log) = OpenLog::open(&dir.0) else {
        return lack("fanotify: who hears of look-ups is not tested");
    };
    let mut watcher = Watcher::open(&dir.0, false, Some(Engine::Fanotify)).unwrap();
    for n in 0..100 {
        fs::create_dir_all(dir.0.join(format!("{n}/x"))).unwrap();
        fs::File::create(dir.0.join(format!("{n}/x/f"))).unwrap();
    }
    let me = std::process::id();
    // The root, to hold it, and our own hundred files: the listener does hear.
    let before = opens_of(&mut log, me);
    assert_eq!(
        before.iter().filter(|e| e.path.ends_with(b"/f")).count(),
        100
    );
    let mut events = Vec::new();
    let began = Instant::now();
    while watcher.read(&mut events).unwrap() {}
    let took = began.elapsed();
    assert!(events.iter().filter(|e| e.path.ends_with(b"/x/f")).count() >= 100);
    assert_eq!(opens_of(&mut log, me), []);
    println!(
        "{} events of 201 directories, looked up in {took:?}",
        events.len()
    );
}
