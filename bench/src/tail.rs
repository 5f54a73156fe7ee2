//! What the history costs by itself, in this process: one advance for a fixed change, with much tracked and with little, and bytes of a tracked
//! block. The daemon's own rooms (`tail`, `fs::advance`), objects at hand, no mount.

use crate::content::Random;
use crate::stat::Sample;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use zring::base::blkmap::BlkMap;
use zring::base::{BlkNo, BlkSize, NodeId, Oid, Tid};
use zring::fs::advance::{Change, Changed, Event, Head};
use zring::tail::{FTail, Seen, States, What};
use zring::zodb::btree::{Coverage, PathNode};
use zring::zodb::need::Absent;
use zring::zodb::write::{self, Child, Item, Leaf};
use zring::zodb::{BigFile, Family, Lookup, Object, Step, decode};

/// Keys of a bucket, children of a node.
const BUCKET: u64 = 60;
const NODE: usize = 250;
const FIRST: Tid = Tid(0x03d4_dc00_0000_0000);
const BLKSIZE: BlkSize = BlkSize(4096);
/// Transactions measured.
const MEASURED: usize = 400;
/// Blocks that each of them changes.
const CHANGED: u64 = 10;

/// Files of the same size, their tables, and the blocks as numbers that follow each other.
struct World {
    objects: HashMap<Oid, Object>,
    /// What the transaction at hand writes, and when.
    fresh: (Tid, HashMap<Oid, Object>),
    files: Vec<(Oid, BigFile)>,
    blocks: u64,
    next: u64,
    /// Buckets of each file: first key, oid.
    buckets: Vec<Vec<(u64, Oid)>>,
    /// Ways to them.
    paths: Vec<Vec<Vec<PathNode>>>,
    /// The object of each block.
    values: Vec<Vec<Oid>>,
}

impl States for World {
    fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
        let fresh = self.fresh.1.get(&oid).filter(|_| at >= self.fresh.0);
        match fresh.or_else(|| self.objects.get(&oid)) {
            Some(object) => Lookup::Here(object),
            None => Lookup::Absent(Absent::NoObject),
        }
    }
}

fn object(record: Vec<u8>) -> Object {
    decode(record.into()).expect("what is written reads back")
}

impl World {
    fn new(files: u64, blocks: u64) -> Self {
        let mut world = Self {
            objects: HashMap::new(),
            fresh: (Tid(u64::MAX), HashMap::new()),
            files: Vec::new(),
            blocks,
            next: 1,
            buckets: Vec::new(),
            paths: Vec::new(),
            values: Vec::new(),
        };
        (0..files).for_each(|_| world.file());
        world
    }

    fn oid(&mut self) -> Oid {
        self.next += 1;
        Oid(self.next)
    }

    fn items(values: &[Oid], first: u64) -> Vec<Item> {
        let from = usize::try_from(first).expect("fits");
        let to = values.len().min(from + BUCKET as usize);
        let keys = i64::try_from(first).expect("fits")..;
        keys.zip(&values[from..to])
            .map(|(key, &oid)| (key, oid, Leaf::Blk0))
            .collect()
    }

    fn file(&mut self) {
        let (file, table) = (self.oid(), self.oid());
        let values: Vec<Oid> = (0..self.blocks).map(|_| self.oid()).collect();
        let starts: Vec<u64> = (0..self.blocks).step_by(BUCKET as usize).collect();
        let buckets: Vec<(u64, Oid)> = starts.iter().map(|&first| (first, self.oid())).collect();
        for (i, &(first, oid)) in buckets.iter().enumerate() {
            let next = buckets.get(i + 1).map(|(_, oid)| *oid);
            let record = write::bucket(Family::Lo, &Self::items(&values, first), next);
            self.objects.insert(oid, object(record));
        }
        // Levels above, until one node is enough; each child with its first key and its leftmost bucket.
        let mut level: Vec<(u64, Oid, Oid)> =
            buckets.iter().map(|&(k, oid)| (k, oid, oid)).collect();
        let (mut kind, mut parents) = (Child::Bucket, Vec::new());
        while level.len() > NODE {
            let mut above = Vec::new();
            for part in level.chunks(NODE) {
                let oid = self.oid();
                self.put_node(oid, part, kind);
                above.push((part[0].0, oid, part[0].2));
            }
            parents.push(above.clone());
            (level, kind) = (above, Child::Tree);
        }
        self.put_node(table, &level, kind);
        parents.push(vec![(0, table, Oid(0))]);
        let bigfile = BigFile {
            blksize: BLKSIZE,
            blktab: table,
        };
        self.objects
            .insert(file, object(write::bigfile(BLKSIZE, table)));
        self.files.push((file, bigfile));
        self.paths.push(paths(&buckets, &parents));
        self.buckets.push(buckets);
        self.values.push(values);
    }

    fn put_node(&mut self, oid: Oid, part: &[(u64, Oid, Oid)], kind: Child) {
        let key = |key: u64| i64::try_from(key).expect("fits");
        let children: Vec<_> = part.iter().map(|&(k, oid, _)| (key(k), oid)).collect();
        let record = write::node(Family::Lo, &children, kind, part[0].2);
        self.objects.insert(oid, object(record));
    }

    /// Each `step`th block is read.
    fn track(&self, tail: &mut FTail, step: usize) -> Result<()> {
        let tracked = tail.tracked_mut();
        let unfit = |_| anyhow::anyhow!("does not fit");
        for (n, &(file, bigfile)) in self.files.iter().enumerate() {
            tracked.open(file, bigfile).map_err(unfit)?;
            for (&oid, blk) in self.values[n].iter().zip(0..).step_by(step) {
                let path = &self.paths[n][usize::try_from(blk / BUCKET)?];
                tracked.track(file, path).map_err(unfit)?;
                tracked.read(file, BlkNo(blk), Some(oid)).map_err(unfit)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        let fresh = std::mem::take(&mut self.fresh.1);
        self.objects.extend(fresh);
        self.fresh.0 = Tid(u64::MAX);
    }
}

/// Ways from the root to each bucket: `parents` from the lowest level up.
fn paths(buckets: &[(u64, Oid)], parents: &[Vec<(u64, Oid, Oid)>]) -> Vec<Vec<PathNode>> {
    let lo = |key: u64| match key {
        0 => i64::MIN,
        key => i64::try_from(key).expect("fits"),
    };
    let node = |oid, first, hi: Option<u64>| PathNode {
        oid,
        cover: Coverage {
            lo: lo(first),
            hi: hi.map(|hi| i64::try_from(hi).expect("fits")),
        },
    };
    let way = |(i, &(first, oid)): (usize, &(u64, Oid))| {
        let mut path = vec![node(oid, first, buckets.get(i + 1).map(|b| b.0))];
        for level in parents {
            let at = level.partition_point(|(k, ..)| *k <= first) - 1;
            let (k, oid, _) = level[at];
            path.push(node(oid, k, level.get(at + 1).map(|n| n.0)));
        }
        path.reverse();
        path
    };
    buckets.iter().enumerate().map(way).collect()
}

/// What a transaction does.
#[derive(Clone, Copy)]
enum Delta {
    /// Ten blocks are written.
    Blocks,
    /// One block becomes another object: its bucket changes.
    Table,
    /// Objects that nobody tracks.
    Nothing,
}

/// The history, the advance, and what drives them.
struct Run {
    world: World,
    tail: FTail,
    head: Head<()>,
    random: Random,
    tid: Tid,
}

impl Run {
    fn new(files: u64, blocks: u64) -> Result<Self> {
        let (world, mut tail) = (World::new(files, blocks), FTail::new(FIRST));
        world.track(&mut tail, 1)?;
        Ok(Self {
            world,
            tail,
            head: Head::new(FIRST),
            random: Random(1 << 32),
            tid: FIRST,
        })
    }

    /// The objects of a transaction.
    fn delta(&mut self, delta: Delta) -> Arc<[Oid]> {
        let world = &mut self.world;
        let file = usize::try_from(self.random.below(world.files.len() as u64)).expect("fits");
        let mut blk = || usize::try_from(self.random.below(world.blocks)).expect("fits");
        let mut oids: Vec<Oid> = match delta {
            Delta::Blocks => (0..CHANGED).map(|_| world.values[file][blk()]).collect(),
            Delta::Nothing => (0..CHANGED).map(|n| Oid((1 << 40) + n)).collect(),
            Delta::Table => {
                let blk = blk();
                let other = world.oid();
                world.values[file][blk] = other;
                let (first, oid) = world.buckets[file][blk / BUCKET as usize];
                let next = world.buckets[file].get(blk / BUCKET as usize + 1);
                let items = World::items(&world.values[file], first);
                let record = write::bucket(Family::Lo, &items, next.map(|n| n.1));
                world.fresh.1.insert(oid, object(record));
                vec![oid, other]
            }
        };
        oids.sort_unstable();
        oids.dedup();
        oids.into()
    }

    /// One transaction from commit to show; microseconds.
    fn advance(&mut self, delta: Delta) -> Result<f64> {
        let oids = self.delta(delta);
        self.tid = Tid(self.tid.0 + 715_828);
        self.world.fresh.0 = self.tid;
        let (mut need, mut actions) = (Vec::new(), Vec::with_capacity(8));
        let start = Instant::now();
        self.head.apply(Event::Commit(self.tid, ()), &mut actions);
        let found = self.tail.look(&self.world, &mut need, self.tid, &oids);
        self.head
            .apply(Event::Diffed(changes(found)?, Vec::new()), &mut actions);
        if actions
            .iter()
            .any(|a| matches!(a, zring::fs::advance::Action::Keep(_)))
        {
            self.head.apply(Event::Kept, &mut actions);
        }
        self.head.apply(Event::Passed, &mut actions);
        let found = self.tail.update(&self.world, &mut need, self.tid, &oids);
        self.head
            .apply(Event::Joined(changes(found)?), &mut actions);
        if !self.head.is_quiet() {
            self.head.apply(Event::Dropped, &mut actions);
        }
        let us = start.elapsed().as_secs_f64() * 1e6;
        ensure!(
            self.head.at() == self.tid && need.is_empty(),
            "it is not done"
        );
        self.world.settle();
        Ok(us)
    }

    fn median(&mut self, delta: Delta) -> Result<f64> {
        let all: Result<Sample> = (0..MEASURED).map(|_| self.advance(delta)).collect();
        Ok(all?.median())
    }
}

fn changes(found: Step<Vec<zring::tail::FileChange>>) -> Result<Vec<Change>> {
    let Step::Done(found) = found else {
        anyhow::bail!("something is missing");
    };
    let change = |change: zring::tail::FileChange| {
        let What::Blocks {
            blksize,
            blocks,
            table,
            ..
        } = change.what
        else {
            anyhow::bail!("a file is lost");
        };
        let what = Changed::Blocks {
            blksize: blksize.0,
            blocks,
            size: table,
        };
        let node = NodeId(100 + change.file.0);
        Ok(Change { node, what })
    };
    found.into_iter().map(change).collect()
}

/// `tail FILES BLOCKS HISTORY`: so many files of so many blocks, all of them tracked, and so many transactions before. Prints medians.
pub fn advance(files: u64, blocks: u64, history: u64) -> Result<()> {
    let mut run = Run::new(files, blocks)?;
    let began = Instant::now();
    for _ in 0..history {
        run.advance(Delta::Blocks)?;
    }
    if history > 0 {
        println!("history_s {:.2}", began.elapsed().as_secs_f64());
        println!("key_changes {}", run.tail.key_changes());
    }
    println!("blocks_us {:.2}", run.median(Delta::Blocks)?);
    println!("table_us {:.2}", run.median(Delta::Table)?);
    println!("nothing_us {:.2}", run.median(Delta::Nothing)?);
    let start = Instant::now();
    run.tail.forget(Tid(run.tid.0 - 715_828 * 10));
    println!("forget_us {:.2}", start.elapsed().as_secs_f64() * 1e6);
    Ok(())
}

/// `tail-bytes BLOCKS STEP`: bytes that tracking a block takes when so many are read, one of each STEP, by what the process has grown; and what the sums over given pages take. What was
/// freed counts unless the allocator gives it back at once: `MIMALLOC_PURGE_DELAY=0`.
pub fn weight(blocks: u64, step: u64) -> Result<()> {
    let world = World::new(1, blocks * step);
    let order = Random(1 << 32).order(blocks);
    let each = |before: u64| -> Result<f64> {
        Ok((resident()?.saturating_sub(before)) as f64 / blocks as f64)
    };
    let before = resident()?;
    let mut tail = FTail::new(FIRST);
    world.track(&mut tail, usize::try_from(step)?)?;
    println!("tracked_bytes {:.1}", each(before)?);
    let before = resident()?;
    let mut seen = BlkMap::default();
    // Blocks are given in the order in which readers come.
    for &blk in &order {
        seen.insert(BlkNo(blk * step), Seen { pages: 1, sum: blk });
    }
    println!("seen_bytes {:.1}", each(before)?);
    ensure!(
        seen.count() as u64 == blocks && tail.tracked().counts().blocks == blocks,
        "lost some"
    );
    Ok(())
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/statm")?;
    let pages = status.split(' ').nth(1).context("no second word")?;
    Ok(pages.parse::<u64>()? * 4096)
}
