//! What was read once is in the page cache: reading it again asks the daemon for nothing.

use crate::data::database;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Mount, Rig};
use crate::tree::field;

on_each_transport!(asks_once);

/// READ requests that `work` caused. Looking at the counter costs READs itself; that price is measured first.
fn reads_of(mount: &Mount<'_>, work: impl FnOnce()) -> u64 {
    let reads = || mount.stat("fuse_read");
    let (a, b) = (reads(), reads());
    work();
    let c = reads();
    (c - b).checked_sub(b - a).expect("a counter went back")
}

fn asks_once(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("warm", 120);
    let args = "--seed 1 --files 2 --fmt mixed --blksize 128k --blocks 16 --txns 4 --w-epoch 0";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let mount = rig.up(&db.fs, transport);
    let tids = db.tids();
    let rev = format!("@{}", tids[tids.len() - 1]);
    for view in ["head", &rev] {
        let file = format!("{view}/bigfile/{}", db.oids()[0]);
        let line = mount.probe(&[&format!("stat {file}")]).remove(0);
        let size = field(&line, "size");
        let ask = |verb: &str| mount.probe(&[&format!("{verb} {file} 0 {size}")]).remove(0);
        let mut first = String::new();
        let cold = reads_of(&mount, || first = ask("sum"));
        assert!(cold > 0, "the counter does not count");
        for verb in ["sum", "map", "sum"] {
            let mut again = String::new();
            let warm = reads_of(&mount, || again = ask(verb));
            assert_eq!(again, first);
            assert_eq!(warm, 0, "{verb} of {view} asked again; cold it took {cold}");
        }
    }
    mount.stop();
}
