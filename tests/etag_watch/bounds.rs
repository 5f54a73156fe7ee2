//! The kernel's bounds: queues that run over, watches that run out.

use crate::machine::lack;
use crate::scene::{Dir, ENGINES, drain, flooded, told};
use nix::unistd::Uid;
use std::fs;
use std::path::Path;
use std::process::Command;
use zring::kernel::watch::{Engine, Watcher};
use zring::wire::fsevent::Mask;

fn number(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[test]
fn a_queue_that_ran_over_says_so_and_goes_on() {
    flooded(|parent| {
        for engine in ENGINES {
            run_over(parent, engine);
        }
    });
}

fn run_over(parent: &Path, engine: Engine) {
    let setting = match engine {
        Engine::Inotify => "/proc/sys/fs/inotify/max_queued_events",
        _ => "/proc/sys/fs/fanotify/max_queued_events",
    };
    let Some(room) = number(setting).filter(|&n| n <= 50_000) else {
        return lack(&format!(
            "{setting} is large or unknown: an overflow is not tested"
        ));
    };
    let dir = Dir::under(parent);
    let Ok(mut watcher) = Watcher::open(&dir.0, false, Some(engine)) else {
        return lack(&format!("{}: an overflow is not tested", engine.name()));
    };
    // Many files, as the events of one may be merged.
    for n in 0..room + 100 {
        fs::write(dir.0.join(n.to_string()), "").unwrap();
    }
    let lost =
        |events: &[zring::kernel::watch::Event]| events.iter().any(|e| e.mask.any(Mask::OVERFLOW));
    assert!(lost(&drain(&mut watcher)), "{engine:?}");
    fs::create_dir(dir.0.join("d")).unwrap();
    fs::write(dir.0.join("d/f"), "").unwrap();
    let events = drain(&mut watcher);
    assert!(told(&events, "d/f", Mask::CREATE) && !lost(&events));
}

#[test]
fn directories_made_while_events_were_lost_are_watched_afterwards() {
    let Some(room) = number("/proc/sys/fs/inotify/max_queued_events").filter(|&n| n <= 50_000)
    else {
        return lack(
            "inotify's queue is large: directories made during an overflow are not tested",
        );
    };
    flooded(move |parent| {
        let dir = Dir::under(parent);
        let mut watcher = Watcher::open(&dir.0, false, Some(Engine::Inotify)).unwrap();
        for n in 0..room / 2 {
            fs::write(dir.0.join(n.to_string()), "").unwrap();
        }
        fs::create_dir_all(dir.0.join("late/r")).unwrap();
        drain(&mut watcher);
        assert_eq!(watcher.watches(), 3);
        fs::write(dir.0.join("late/r/f"), "").unwrap();
        assert!(told(&drain(&mut watcher), "late/r/f", Mask::CREATE));
    });
}

/// In a user namespace of its own, which has a limit of its own.
#[test]
fn watches_that_run_out_leave_the_rest_unwatched_and_say_which() {
    let me = std::env::current_exe().unwrap();
    let script = "echo 4 >/proc/sys/user/max_inotify_watches && exec \"$0\" --exact bounds::inside --ignored --nocapture";
    let run = Command::new("unshare")
        .args(["-Ur", "sh", "-c", script])
        .arg(me)
        .output();
    match run {
        Ok(out) if String::from_utf8_lossy(&out.stdout).contains("inside it is right") => {}
        Ok(out) if String::from_utf8_lossy(&out.stdout).contains("running 1 test") => {
            panic!("{}", String::from_utf8_lossy(&out.stderr));
        }
        _ => lack("user namespaces with limits: running out of watches is not tested"),
    }
}

#[test]
#[ignore = "started by the test above, in a namespace"]
fn inside() {
    let dir = Dir::under(&std::env::temp_dir());
    for n in 0..3 {
        fs::create_dir_all(dir.0.join(format!("{n}/below"))).unwrap();
    }
    let mut watcher = Watcher::open(&dir.0, false, None).unwrap();
    assert_eq!(
        (watcher.engine(), watcher.limit()),
        (Engine::Inotify, Some(4))
    );
    assert_eq!(watcher.watches(), 4);
    let rest = watcher.unwatched();
    assert!(!rest.is_empty() && rest.iter().all(|path| !path.is_empty()));
    // Room again: what is left is watched, at the place where it is.
    for n in 0..3 {
        fs::remove_dir(dir.0.join(format!("{n}/below"))).unwrap();
    }
    drain(&mut watcher);
    assert!(watcher.watch_rest(), "{:?}", watcher.unwatched());
    for n in 0..3 {
        fs::write(dir.0.join(format!("{n}/f")), "").unwrap();
        assert!(told(&drain(&mut watcher), &format!("{n}/f"), Mask::CREATE));
    }
    println!("inside it is right");
}

/// Whoever is not root gets inotify without asking.
#[test]
fn without_privileges_there_is_inotify() {
    let dir = Dir::under(&std::env::temp_dir());
    let engine = Watcher::open(&dir.0, false, None).unwrap().engine();
    if Uid::effective().is_root() {
        assert_ne!(engine, Engine::Inotify);
    } else {
        assert_eq!(engine, Engine::Inotify);
    }
    // Roots with mounts below, if those belong to the tree, are more than one file system.
    let all = Watcher::open(Path::new("/sys/fs"), true, None);
    assert!(all.is_ok_and(|watcher| watcher.engine() == Engine::Inotify));
}
