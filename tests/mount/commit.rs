//! What a commit does to the page cache, page by page: old pages of changed blocks are moved to the revision that a client of an
//! older view looks for, those blocks are no longer cached at head, every other block is.
//!
//! The database is written by the test itself ([`crate::base`]); who looks is a process of its own ([`crate::visitor`]).

use std::time::Duration;

use zring::base::Tid;
use zring::zodb::write::{self, Leaf};

use crate::base::Base;
use crate::child::becomes_true;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, zurl};
use crate::visitor::Visitor;

const PAGE: u64 = 4096;

on_each_transport!(
    moved_not_lost,
    kept_where_it_is_open,
    a_burst_is_taken_one_by_one,
    a_file_grows,
    a_file_shrinks_and_grows,
    a_hole_fills_and_opens,
    opening_again_keeps_pages,
    blocks_smaller_than_a_page,
    partly_cached,
    neighbours_with_gaps,
    read_in_order,
    a_million_objects_at_once,
);

/// A mount of a database that the test writes, and somebody inside.
#[derive(Debug)]
pub(crate) struct Scene<'r> {
    pub(crate) base: Base,
    pub(crate) mount: Mount<'r>,
    pub(crate) inside: Visitor,
    /// Head when the server started.
    pub(crate) start: Tid,
}

impl<'r> Scene<'r> {
    /// Mounts what `make` has committed.
    pub(crate) fn new(rig: &'r Rig, transport: Transport, make: impl FnOnce(&mut Base)) -> Self {
        Self::with(rig, transport, "", make)
    }

    /// The same with more options, each after a comma.
    pub(crate) fn with(
        rig: &'r Rig,
        transport: Transport,
        options: &str,
        make: impl FnOnce(&mut Base),
    ) -> Self {
        let path = rig.path("Data.fs");
        let mut base = Base::create(&path);
        make(&mut base);
        let start = base.commit();
        let options = format!("transport={}{options}", transport.name());
        let mount = rig
            .mount("mnt", &zurl(&path), &options)
            .unwrap_or_else(|e| panic!("no mount: {e}"));
        let inside = Visitor::enter(rig, &mount.at);
        Self {
            base,
            mount,
            inside,
            start,
        }
    }

    /// Commits, and waits until head shows it.
    pub(crate) fn commit(&mut self) -> Tid {
        let tid = self.base.commit();
        self.inside.await_head(tid);
        tid
    }

    /// Reads all of a file, and compares it with what was written.
    pub(crate) fn read_all(&mut self, file: usize) {
        let (path, size) = (self.base.files[file].head(), self.base.files[file].size());
        assert_eq!(self.inside.number(&format!("size {path}")), size);
        let found = self.inside.pages(&format!("stamps {path} 0 {}", size + 1));
        assert_eq!(found, self.wanted(file), "{path} @{}", self.base.last());
    }

    /// The stamp of each page of a file.
    fn wanted(&self, file: usize) -> Vec<u32> {
        let file = &self.base.files[file];
        let pages = file.blksize / PAGE;
        (0..file.size() / PAGE)
            .map(|page| file.stamp(page / pages))
            .collect()
    }

    /// Which blocks are cached: all of it, none of it, or `None` for part of it.
    pub(crate) fn cached(&mut self, file: usize, path: &str) -> Vec<Option<bool>> {
        let pages = usize::try_from(self.base.files[file].blksize / PAGE).unwrap();
        let found = self.inside.pages(&format!("cached {path}"));
        let whole = |block: &[u32]| match block.iter().sum::<u32>() {
            0 => Some(false),
            n if n as usize == block.len() => Some(true),
            _ => None,
        };
        found.chunks(pages).map(whole).collect()
    }

    /// Reads a file until all of it is cached: the machine may take pages back by itself that nobody has mapped yet, and says so here.
    pub(crate) fn cache_all(&mut self, file: usize) {
        let path = self.base.files[file].head();
        let mut found = Vec::new();
        let good = (0..5).any(|_| {
            self.read_all(file);
            let all = becomes_true(Duration::from_secs(1), || {
                found = self.cached(file, &path);
                found.iter().all(|&cached| cached == Some(true))
            });
            if !all {
                println!("read again, as not all is cached: {path}: {found:?}");
            }
            all
        });
        assert!(good, "{path}: {found:?}");
    }

    /// Waits until nothing is stored behind the readers any more.
    fn settle(&mut self) {
        let mut last = u64::MAX;
        let calm = becomes_true(SHORT, || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.inside.stat("store");
            std::mem::replace(&mut last, now) == now
        });
        assert!(calm, "blocks are stored without end");
    }

    /// At head exactly these blocks are not cached. Said at once: nothing else may have been dropped.
    pub(crate) fn only_dropped(&mut self, file: usize, dropped: &[u64]) {
        let path = self.base.files[file].head();
        let found = self.cached(file, &path);
        for (blk, cached) in (0..).zip(&found) {
            let want = Some(!dropped.contains(&blk));
            assert_eq!(*cached, want, "block {blk} of {path}: {found:?}");
        }
    }

    /// A block is cached under the revision of it that a client as of `at` is sent to, and reading it there costs nothing.
    pub(crate) fn moved(&mut self, file: usize, blk: u64, at: Tid, stamp: u32) {
        let rev = self.base.files[file].rev(blk, self.start, at);
        let (path, blksize) = (self.base.files[file].at(rev), self.base.files[file].blksize);
        self.inside.ask(&format!("hold {path}"));
        let found = self.cached(file, &path);
        let place = usize::try_from(blk).unwrap();
        let late = self.inside.stat("keep_late");
        assert_eq!(
            found[place],
            Some(true),
            "block {blk} of {path}: {found:?}; {late} blocks came too late"
        );
        let spent = |inside: &mut Visitor| (inside.stat("load"), inside.stat("fuse_read"));
        let (a, b) = (spent(&mut self.inside), spent(&mut self.inside));
        let question = format!("stamps {path} {} {blksize}", blk * blksize);
        let found = self.inside.pages(&question);
        assert!(found.iter().all(|&s| s == stamp), "{path}: {found:?}");
        let c = spent(&mut self.inside);
        // Looking at the counters costs READs itself, each time the same.
        assert_eq!((c.0, c.1 - b.1), (b.0, b.1 - a.1), "{path} was read anew");
    }

    /// The ordered end.
    pub(crate) fn stop(self) -> String {
        drop(self.inside);
        self.mount.stop()
    }
}

const SIZES: [(u64, u64, Leaf); 6] = [
    (4 << 10, 40, Leaf::Blk0),
    (4 << 10, 40, Leaf::Blk1),
    (64 << 10, 12, Leaf::Blk0),
    (64 << 10, 12, Leaf::Blk1),
    (2 << 20, 6, Leaf::Blk0),
    (2 << 20, 6, Leaf::Blk1),
];

/// One file for each of `SIZES`, every block with stamp 1.
fn all_sizes(base: &mut Base) {
    for (blksize, blocks, leaf) in SIZES {
        let file = base.file(blksize, leaf);
        (0..blocks).for_each(|blk| base.set(file, blk, 1));
    }
}

fn moved_not_lost(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("moved", 120);
    let mut scene = Scene::new(&rig, transport, all_sizes);
    let files = 0..SIZES.len();
    for file in files.clone() {
        scene.cache_all(file);
        for blk in [1, 4] {
            scene.base.set(file, blk, 2);
        }
    }
    let (start, first) = (scene.start, scene.commit());
    for file in files.clone() {
        scene.only_dropped(file, &[1, 4]);
        for blk in [1, 4] {
            scene.moved(file, blk, start, 1);
        }
        scene.cache_all(file);
        // Of these two only one changes again: its old pages have a name of their own now.
        for blk in [4, 5] {
            scene.base.set(file, blk, 3);
        }
    }
    scene.commit();
    for file in files {
        scene.only_dropped(file, &[4, 5]);
        assert_eq!(scene.base.files[file].rev(4, start, first), first);
        scene.moved(file, 4, first, 2);
        scene.read_all(file);
    }
    scene.stop();
}

/// Who has a revision open already finds the block there too: no OPEN comes for it.
fn kept_where_it_is_open(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("open", 60);
    let mut scene = Scene::new(&rig, transport, all_sizes);
    for file in 0..SIZES.len() {
        scene.cache_all(file);
        let old = scene.base.files[file].at(scene.start);
        scene.inside.ask(&format!("hold {old}"));
        scene.base.set(file, 2, 2);
    }
    let start = scene.start;
    scene.commit();
    for file in 0..SIZES.len() {
        let old = scene.base.files[file].at(start);
        let mut found = Vec::new();
        let there = becomes_true(Duration::from_secs(5), || {
            found = scene.cached(file, &old);
            found[2] == Some(true)
        });
        assert!(there, "{old}: {found:?}");
        scene.moved(file, 2, start, 1);
    }
    scene.stop();
}

/// Commits that come faster than they are carried out are all seen, in order, and each one's old pages are found.
fn a_burst_is_taken_one_by_one(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("burst", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(64 << 10, Leaf::Blk0);
        (0..40).for_each(|blk| base.set(file, blk, 1));
    });
    scene.cache_all(0);
    let start = scene.start;
    for blk in 0..30 {
        scene.base.set(0, blk, 2 + u32::try_from(blk).unwrap());
        scene.base.commit();
    }
    scene.inside.await_head(scene.base.last());
    let gone: Vec<u64> = (0..30).collect();
    scene.only_dropped(0, &gone);
    for blk in gone {
        scene.moved(0, blk, start, 1);
    }
    scene.read_all(0);
    scene.stop();
}

fn a_file_grows(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("grows", 60);
    let mut scene = Scene::new(&rig, transport, all_sizes);
    for (file, (_, blocks, _)) in SIZES.into_iter().enumerate() {
        scene.cache_all(file);
        let path = scene.base.files[file].head();
        scene.inside.ask(&format!("hold {path}"));
        scene.base.set(file, blocks, 2);
    }
    scene.commit();
    for (file, (_, blocks, _)) in SIZES.into_iter().enumerate() {
        // What is new was not cached, all else is.
        scene.only_dropped(file, &[blocks]);
        scene.cache_all(file);
        scene.base.set(file, blocks + 2, 3); // a hole before it
    }
    let grown = scene.commit();
    for (file, (_, blocks, _)) in SIZES.into_iter().enumerate() {
        scene.only_dropped(file, &[blocks + 1, blocks + 2]);
        scene.cache_all(file);
        scene.base.set(file, blocks + 1, 4); // the hole
    }
    scene.commit();
    for (file, (blksize, blocks, _)) in SIZES.into_iter().enumerate() {
        scene.only_dropped(file, &[blocks + 1]);
        // A hole is found where it came into the file: a client is sent there.
        let then = scene.base.files[file].at(grown);
        scene.inside.ask(&format!("hold {then}"));
        let place = usize::try_from(blocks + 1).unwrap();
        assert_eq!(scene.cached(file, &then)[place], Some(true), "{then}");
        // What a hole was before belongs to a revision that ends before it, and does so still.
        let old = scene.base.files[file].at(scene.start);
        scene.inside.ask(&format!("hold {old}"));
        let size = scene.inside.ask(&format!("size {old}"));
        assert_eq!(size, (blocks * blksize).to_string());
        assert_eq!(scene.cached(file, &old).len() as u64, blocks);
        scene.read_all(file);
    }
    scene.stop();
}

/// Pages that a READ up to the old end left beyond it must not show as zeros when the file is longer again.
fn a_file_shrinks_and_grows(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("shrinks", 90);
    let mut scene = Scene::new(&rig, transport, |base| {
        for (blksize, leaf) in [(4 << 10, Leaf::Blk0), (64 << 10, Leaf::Blk1)] {
            let file = base.file(blksize, leaf);
            (0..8).for_each(|blk| base.set(file, blk, 1));
        }
    });
    for round in 0..12u32 {
        for file in 0..2 {
            scene.read_all(file);
            for blk in 4..8 {
                if scene.base.files[file].stamp(blk) > 0 {
                    scene.base.remove(file, blk);
                }
            }
        }
        scene.commit();
        for file in 0..2 {
            scene.read_all(file);
            let last = 5 + u64::from(round % 3);
            scene.base.set(file, last, 10 + round);
        }
        // Readers go on while it comes.
        let path = scene.base.files[round as usize % 2].head();
        scene.inside.begin(&format!("stamps {path} 0 1048576"));
        scene.base.commit();
        scene.inside.answer(SHORT);
        scene.inside.await_head(scene.base.last());
        for file in 0..2 {
            scene.read_all(file);
        }
    }
    scene.stop();
}

fn a_hole_fills_and_opens(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("holes", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        for (blksize, leaf) in [(4 << 10, Leaf::Blk0), (64 << 10, Leaf::Blk1)] {
            let file = base.file(blksize, leaf);
            for blk in [0, 2, 3, 70, 99] {
                base.set(file, blk, 1);
            }
        }
    });
    let start = scene.start;
    for file in 0..2 {
        scene.cache_all(file);
        for blk in [1, 35, 71] {
            scene.base.set(file, blk, 2);
        }
    }
    let filled = scene.commit();
    for file in 0..2 {
        scene.only_dropped(file, &[1, 35, 71]);
        for blk in [1, 35, 71] {
            scene.moved(file, blk, start, 0);
        }
        scene.cache_all(file);
        for blk in [1, 3, 70] {
            scene.base.remove(file, blk);
        }
    }
    scene.commit();
    for file in 0..2 {
        scene.only_dropped(file, &[1, 3, 70]);
        scene.moved(file, 1, filled, 2);
        scene.moved(file, 70, filled, 1);
        scene.read_all(file);
    }
    scene.stop();
}

fn opening_again_keeps_pages(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("again", 60);
    let mut scene = Scene::new(&rig, transport, all_sizes);
    for file in 0..SIZES.len() {
        scene.cache_all(file);
        let path = scene.base.files[file].head();
        for _ in 0..3 {
            scene.inside.ask(&format!("hold {path}"));
            scene.only_dropped(file, &[]);
            scene.inside.ask(&format!("let {path}"));
        }
        scene.base.set(file, 0, 2);
    }
    scene.commit();
    for file in 0..SIZES.len() {
        let path = scene.base.files[file].head();
        scene.inside.ask(&format!("hold {path}"));
        scene.only_dropped(file, &[0]);
    }
    scene.stop();
}

/// A thousand blocks share a page: it goes whole, and no other does.
fn blocks_smaller_than_a_page(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("small", 60);
    let data = |blk: u64, n: u8| [1, n, blk.to_le_bytes()[1], blk.to_le_bytes()[0] | 1];
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(4, Leaf::Blk0);
        for blk in 0..3000 {
            base.set_bytes(file, blk, 1, &data(blk, 1));
        }
    });
    let path = scene.base.files[0].head();
    scene.inside.ask(&format!("hold {path}"));
    let hex = |scene: &mut Scene<'_>| scene.inside.ask(&format!("hex {path} 0 12000"));
    let mut want: Vec<u8> = (0..3000).flat_map(|blk| data(blk, 1)).collect();
    let text = |want: &[u8]| want.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&mut scene), text(&want));
    for (n, blks) in [
        (2u8, &[1500, 1501][..]),
        (3, &[0, 2999]),
        (4, &[1023, 1024]),
    ] {
        let cached = |scene: &mut Scene<'_>| scene.inside.pages(&format!("cached {path}"));
        assert_eq!(cached(&mut scene), [1, 1, 1]);
        let mut pages = vec![1, 1, 1];
        for &blk in blks {
            let bytes = data(blk, n);
            scene.base.set_bytes(0, blk, n.into(), &bytes);
            let at = usize::try_from(blk).unwrap() * 4;
            want[at..at + 4].copy_from_slice(&bytes);
            pages[at / 4096] = 0;
        }
        scene.commit();
        assert_eq!(cached(&mut scene), pages, "change {n}");
        assert_eq!(hex(&mut scene), text(&want));
    }
    scene.stop();
}

/// A block of which the kernel has let go of some pages is not whole: what is left of it is dropped, nothing is wrong.
fn partly_cached(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("partly", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(64 << 10, Leaf::Blk0);
        (0..6).for_each(|blk| base.set(file, blk, 1));
    });
    let path = scene.base.files[0].head();
    scene.cache_all(0);
    scene.inside.ask(&format!("hold {path}"));
    // Of block 1 a page is gone, of block 2 one was read again, block 3 was dropped and read again whole.
    scene
        .inside
        .ask(&format!("evict {path} {} 4096", 65536 + 8192));
    scene
        .inside
        .ask(&format!("evict {path} {} 4096", 2 * 65536 + 8192));
    scene
        .inside
        .ask(&format!("stamps {path} {} 4096", 2 * 65536 + 8192));
    scene
        .inside
        .ask(&format!("evict {path} {} 65536", 3 * 65536));
    scene
        .inside
        .ask(&format!("stamps {path} {} 65536", 3 * 65536));
    // The page of block 2 that was read has the rest of it stored, which must not happen after the drop.
    scene.settle();
    (1..4).for_each(|blk| scene.base.set(0, blk, 2));
    let start = scene.start;
    scene.commit();
    scene.only_dropped(0, &[1, 2, 3]);
    let old = scene.base.files[0].at(start);
    scene.inside.ask(&format!("hold {old}"));
    let found = scene.cached(0, &old);
    assert_eq!(found[1], Some(false), "{found:?}");
    scene.moved(0, 3, start, 1);
    scene.read_all(0);
    let all = scene.inside.pages(&format!("stamps {old} 0 {}", 6 * 65536));
    assert!(all.iter().all(|&s| s == 1), "{all:?}");
    scene.stop();
}

/// Neighbours are asked for together, and the kernel gives nothing behind a page that it does not have: all others are kept the same.
fn neighbours_with_gaps(transport: Transport) {
    const BLOCKS: u64 = 80;
    const GONE: [u64; 5] = [0, 5, 31, 32, 60];
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("gaps", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(PAGE, Leaf::Blk0);
        (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
    });
    let path = scene.base.files[0].head();
    scene.cache_all(0);
    scene.inside.ask(&format!("hold {path}"));
    for blk in GONE {
        scene
            .inside
            .ask(&format!("evict {path} {} {PAGE}", blk * PAGE));
    }
    let (start, kept) = (scene.start, scene.inside.stat("keep"));
    (0..BLOCKS).for_each(|blk| scene.base.set(0, blk, 2));
    scene.commit();
    assert_eq!(scene.inside.stat("keep") - kept, BLOCKS - GONE.len() as u64);
    let old = scene.base.files[0].at(start);
    scene.inside.ask(&format!("hold {old}"));
    for (blk, cached) in (0..).zip(scene.cached(0, &old)) {
        assert_eq!(cached, Some(!GONE.contains(&blk)), "block {blk} of {old}");
    }
    for blk in [1, 30, 33, 79] {
        scene.moved(0, blk, start, 1);
    }
    scene.read_all(0);
    let all = scene
        .inside
        .pages(&format!("stamps {old} 0 {}", BLOCKS * PAGE));
    assert!(all.iter().all(|&s| s == 1), "{all:?}");
    scene.stop();
}

/// Two fill large blocks that are read in order, from both sides, and what is on its way when they meet is counted once: the old pages of
/// all of them are known.
fn read_in_order(transport: Transport) {
    const BLOCKS: u64 = 16;
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("inorder", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(2 << 20, Leaf::Blk0);
        (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
    });
    for stamp in 1..6 {
        scene.cache_all(0);
        scene.settle();
        let (before, kept) = (scene.base.last(), scene.inside.stat("keep"));
        (0..BLOCKS).for_each(|blk| scene.base.set(0, blk, stamp + 1));
        scene.commit();
        assert_eq!(scene.inside.stat("keep") - kept, BLOCKS, "round {stamp}");
        for blk in [0, BLOCKS / 2, BLOCKS - 1] {
            scene.moved(0, blk, before, stamp);
        }
    }
    scene.stop();
}

/// More changed objects than all the states are remembered with: workers go on to it all the same, and to the next one.
fn a_million_objects_at_once(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("million", 120);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(4096, Leaf::Blk0);
        (0..4).for_each(|blk| base.set(file, blk, 1));
    });
    scene.read_all(0);
    for stamp in 2..4 {
        for _ in 0..(1 << 20) + 2 {
            let oid = scene.base.fresh();
            scene.base.put(oid, write::zdata(b"x"));
        }
        scene.base.set(0, 1, stamp);
        scene.commit();
        scene.read_all(0);
    }
    scene.base.set(0, 2, 9);
    scene.commit();
    scene.read_all(0);
    scene.stop();
}
