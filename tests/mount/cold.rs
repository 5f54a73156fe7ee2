//! Reads that wait for the disk: nothing of the database is in memory. Several readers want the same block at once, one of them is killed while it
//! waits, and what they get is what was written.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use zring::zodb::write::Leaf;

use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::{PAGE, Visitor, map, resident};

on_each_transport!(from_the_disk);

const BLKSIZE: u64 = 1 << 20;
const BLOCKS: u64 = 4;

/// Whether nothing of a file is in memory now; a file system that is nothing but memory keeps it.
fn cool(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    becomes_true(SHORT / 6, || {
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        let pages = resident(&map(&file).unwrap()).unwrap();
        !pages.contains(&true)
    })
}

fn from_the_disk(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("cold", 240);
    let path = rig.path("Data.fs");
    let mut scene = Scene::new(&rig, transport, |base| {
        for leaf in [Leaf::Blk0, Leaf::Blk1] {
            let file = base.file(BLKSIZE, leaf);
            (0..BLOCKS).for_each(|blk| base.set(file, blk, 10 + u32::try_from(blk).unwrap()));
        }
    });
    let mut readers: Vec<_> = (0..3)
        .map(|_| Visitor::enter(&rig, &scene.mount.at))
        .collect();
    let pages = usize::try_from(BLKSIZE).unwrap() / PAGE;
    for round in 0..2 {
        for file in 0..2 {
            let (head, old) = {
                let file = &scene.base.files[file];
                (file.head(), file.at(scene.start))
            };
            let before = scene.inside.stat("load_wait");
            for blk in 0..BLOCKS {
                let mut killed = Visitor::enter(&rig, &scene.mount.at);
                let question = |path: &str| format!("stamps {path} {} {BLKSIZE}", blk * BLKSIZE);
                for path in [&head, &old] {
                    killed.ask(&format!("hold {path}"));
                    killed.ask(&format!("evict {path} 0 {}", BLOCKS * BLKSIZE));
                }
                if !cool(&path) {
                    println!("not tested: {} stays in memory", path.display());
                    scene.stop();
                    return;
                }
                killed.begin(&question(&head));
                // One of them by another view: it is another page of the mount, and the same bytes.
                for (n, reader) in readers.iter_mut().enumerate() {
                    reader.begin(&question(if n == 2 { &old } else { &head }));
                }
                drop(killed);
                let want = format!("{}x{pages}", 10 + blk);
                for reader in &mut readers {
                    assert_eq!(
                        reader.answer(SHORT),
                        want,
                        "round {round} block {blk} of {head}"
                    );
                }
            }
            // Not of each block: the disk may have it before the read that must not wait looks.
            let after = scene.inside.stat("load_wait");
            assert!(after > before, "nobody waited for {head}");
        }
    }
    drop(readers);
    scene.stop();
}
