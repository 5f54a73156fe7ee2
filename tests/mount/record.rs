//! Records that are whole as records go, and cannot be what they are there for: an error for what depends on them, a line that says where, and all
//! else goes on.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use zring::base::Oid;
use zring::zodb::Family;
use zring::zodb::write::{self, Leaf};

use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};

on_each_transport!(bad_records);

const BLOCKS: u64 = 8;

fn packed(record: &[u8]) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(b".z".to_vec(), Compression::fast());
    zlib.write_all(record).unwrap();
    zlib.finish().unwrap()
}

/// What is wrong with the record of a block.
fn table() -> Vec<(&'static str, Vec<u8>)> {
    let block = write::zblk0(&[7; 4096]);
    let mut damaged = packed(&block);
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    let mut cut = block.clone();
    cut.truncate(block.len() - 100);
    vec![
        ("no pickle", b"what is this".to_vec()),
        ("a pickle that ends early", cut),
        ("another class", write::root()),
        ("damaged while packed", damaged),
        ("no zlib", b".zwhat is this".to_vec()),
        ("larger than a block", packed(&write::zblk0(&[7; 64 << 10]))),
    ]
}

fn bad_records(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("records", 120);
    let mut scene = Scene::new(&rig, transport, |base| {
        for _ in 0..2 {
            let file = base.file(4096, Leaf::Blk0);
            (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
        }
    });
    let heads = [0, 1].map(|file| scene.base.files[file].head());
    for head in &heads {
        scene.inside.ask(&format!("hold {head}"));
        assert_eq!(scene.inside.ask(&page(head, 0)), "1x1");
    }
    let table = table();
    // Of one file blocks, of the other the leaf that they are in: its keys are not in order.
    let mut bad: Vec<Oid> = Vec::new();
    for (blk, (_, record)) in (1..).zip(&table) {
        let oid = scene.base.files[0].block(blk);
        scene.base.set(0, blk, 2);
        scene.base.put(oid, record.clone());
        bad.push(oid);
    }
    let leaf = scene.base.files[1].bucket(0);
    let items = [3, 1, 2].map(|key| (key, scene.base.files[1].block(0), Leaf::Blk0));
    scene
        .base
        .put(leaf, write::bucket(Family::Lo, &items, None));
    let at = scene.commit();
    for (blk, (what, _)) in (1..).zip(&table) {
        let answer = scene.inside.ask(&page(&heads[0], blk));
        assert_eq!(answer, "errno 5", "{what}: {}", scene.mount.said());
    }
    assert_eq!(
        scene.inside.ask(&page(&heads[1], 5)),
        "errno 5",
        "a leaf without order"
    );
    bad.push(leaf);
    for oid in bad {
        let says = [oid.to_string(), format!("@{at}")];
        let is_said = |line: &str| says.iter().all(|what| line.contains(what));
        let said = becomes_true(SHORT, || scene.mount.said().lines().any(is_said));
        assert!(said, "not said: {says:?}: {}", scene.mount.said());
    }
    // Others are what they were, at older states all are; and head goes on.
    for blk in [0, 7] {
        assert_eq!(scene.inside.ask(&page(&heads[0], blk)), "1x1");
    }
    for file in 0..2 {
        let old = scene.base.files[file].at(scene.start);
        let all = format!("stamps {old} 0 {}", BLOCKS * 4096);
        assert_eq!(scene.inside.ask(&all), format!("1x{BLOCKS}"));
    }
    scene.base.set(0, 1, 3);
    scene.commit();
    assert_eq!(scene.inside.ask(&page(&heads[0], 1)), "3x1");
    assert_eq!(scene.inside.ask(&page(&heads[0], 2)), "errno 5");
    scene.stop();
}

fn page(path: &str, blk: u64) -> String {
    format!("stamps {path} {} 4096", blk * 4096)
}
