//! The daemon dies, or its connection is aborted, under readers: they all end with an error at once, and the next
//! mount on the same path works although the dead one is still there.
//!
//! `ZRING_KILLS` kills for each transport.

use std::thread::sleep;
use std::time::Duration;

use crate::child::{Ended, Running, becomes_true};
use crate::damage::scatter;
use crate::data::{Database, database};
use crate::machine::{Transport, number};
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT};

/// From the daemon's death to the end of the last reader.
const ALL_END: Duration = Duration::from_secs(10);

const LOAD: &str = "--fmt mixed --blksize 64k --blocks 40 --txns 4 --w-epoch 0 --seed 1";

/// Readers by pread and by mmap that ask the daemon all the time, once all of them have read something.
fn readers(rig: &Rig, mount: &Mount<'_>, db: &Database, seed: u64) -> Vec<Running> {
    let tids = db.tids();
    let rev = format!("@{}", tids[tids.len() - 1]);
    let files: Vec<_> = ["head", rev.as_str()]
        .iter()
        .flat_map(|view| {
            db.oids()
                .into_iter()
                .map(move |o| format!("{view}/bigfile/{o}"))
        })
        .map(|f| mount.path(&f))
        .collect();
    let mut all: Vec<Running> = ["pread", "mmap", "pread", "mmap"]
        .iter()
        .zip(seed..)
        .map(|(how, seed)| {
            let mut c = rig.tool("reader.py");
            rig.start(c.arg(how).arg(seed.to_string()).args(&files))
        })
        .collect();
    for r in &mut all {
        let begun = becomes_true(SHORT, || !r.out_so_far().is_empty() || !r.is_running());
        assert!(
            begun && r.is_running(),
            "a reader has not begun: {}",
            mount.said()
        );
    }
    all
}

/// Each has ended by itself, and by an error that says that the server is gone.
fn all_got_errors(readers: Vec<Running>, transport: Transport) {
    let mut gone = vec!["ENOTCONN", "ECONNABORTED"];
    if transport == Transport::Uring {
        // What Linux 6.18 gives a request that it was about to hand to a ring whose owner has just died.
        gone.push("ECANCELED");
    }
    let ended: Vec<Ended> = readers.into_iter().map(|r| r.wait(ALL_END)).collect();
    for e in &ended {
        println!(
            "{}: {} {:?}",
            e.what,
            e.out.trim().replace('\n', ", "),
            e.signal()
        );
        assert!(e.status.is_some(), "a reader hung: {e}");
        // A mapping gets its error as SIGBUS.
        let said = |errno: &&str| e.out.contains(&format!("then {errno} in"));
        let told = gone.iter().any(said) && e.is_good();
        assert!(told || e.signal() == Some(7), "{e}");
    }
}

on_each_transport!(survives_kills, survives_an_abort);

fn survives_kills(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let kills = number("ZRING_KILLS", 5);
    let rig = Rig::new("kills", 60 + 15 * kills);
    let Some(db) = database(&rig, LOAD) else {
        return;
    };
    let seed = number("ZRING_SEED", 1);
    for i in 0..kills {
        println!("seed {seed} kill {i}");
        // On the path of the dead mount of the round before.
        let mount = rig.up(&db.fs, transport);
        let readers = readers(&rig, &mount, &db, seed + 10 * i);
        sleep(Duration::from_millis(scatter(seed, i) % 200));
        mount.kill();
        all_got_errors(readers, transport);
    }
    let mount = rig.up(&db.fs, transport);
    let lines = rig.mount_lines(&mount.at);
    assert_eq!(
        lines.len(),
        1,
        "dead mounts below the living one: {lines:?}"
    );
    mount.verify(&[&db.manifest], &["--full"]);
    mount.stop();
}

fn survives_an_abort(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("abort", 120);
    let Some(db) = database(&rig, LOAD) else {
        return;
    };
    for i in 0..2 {
        let mount = rig.up(&db.fs, transport);
        let readers = readers(&rig, &mount, &db, i * 10);
        let ended = mount.abort();
        assert!(ended.status.is_some(), "the daemon did not end: {ended}");
        all_got_errors(readers, transport);
    }
    let mount = rig.up(&db.fs, transport);
    mount.verify(&[&db.manifest], &[]);
    mount.stop();
}
