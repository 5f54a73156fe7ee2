//! `zring demo`: the first thing a newcomer runs.
//!
//! Writes a small FileStorage by itself, mounts it, reads it through mmap, commits to it while it is mounted, shows what
//! the page cache did, and unmounts. Every byte read is compared with what was written.

use super::args::{Args, Usage};
use super::{Outcome, mount, umount};
use crate::base::tidtime::UnixTime;
use crate::base::{BlkSize, Oid, Tid};
use crate::kernel::map::FileMap;
use crate::store::file::{FileWriter, Note};
use crate::zodb::Family;
use crate::zodb::write::{self, Leaf};
use anyhow::{Context, Result, ensure};
use lexopt::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const HELP: &str = "zring demo [DIR]

Writes a small database, mounts it, reads it, commits to it while mounted, shows what the page cache did, unmounts.
In DIR, where the database stays; without it, in a temporary directory that is removed.
";

const BLKSIZE: usize = 2 << 20;
const CHUNK: usize = 4096;
/// Even blocks are in one piece, odd ones in chunks.
const BLOCKS: usize = 8;
const FILE: Oid = Oid(1);
const TABLE: Oid = Oid(2);

/// `zring demo [DIR]`
pub(super) fn command(args: Args) -> Outcome {
    let mut dir = None;
    let mut args = args.parser();
    let wrong = |error| Usage::Argument(error, "demo");
    while let Some(arg) = args.next().map_err(wrong)? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            Value(value) if dir.is_none() => dir = Some(PathBuf::from(value)),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let place = Place::new(dir)?;
    play(&place)?;
    umount::unmount(&place.mountpoint, Duration::from_secs(5), false)?;
    println!("unmounted");
    Ok(())
}

/// Where the demonstration happens; removed with it unless the user named it.
struct Place {
    dir: PathBuf,
    mountpoint: PathBuf,
    temporary: bool,
}

impl Place {
    fn new(dir: Option<PathBuf>) -> Result<Self> {
        let temporary = dir.is_none();
        let name = format!("zring-demo.{}", std::process::id());
        let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(name));
        let mountpoint = dir.join("mnt");
        std::fs::create_dir_all(&mountpoint).with_context(|| dir.display().to_string())?;
        let dir = dir.canonicalize()?;
        Ok(Self {
            mountpoint: dir.join("mnt"),
            dir,
            temporary,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also after a failure: no mount stays behind.
        let _ = umount::unmount(&self.mountpoint, Duration::from_secs(1), true);
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The database, and what its blocks hold.
struct Database {
    writer: FileWriter,
    next_oid: u64,
    items: Vec<write::Item>,
}

/// A tid of now, above the last one.
fn now(last: Tid) -> Result<Tid> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let time = UnixTime {
        sec: i64::try_from(since.as_secs())?,
        nsec: since.subsec_nanos(),
    };
    let tid = Tid::from_time(time).context("the clock is beyond what a tid can say")?;
    Ok(tid.max(Tid(last.0 + 1)))
}

/// What block `blk` holds in its version `version`: every word says where it is.
fn content(blk: usize, version: u64) -> Vec<u8> {
    let words = (0..BLKSIZE / 8).map(|i| (blk as u64) << 48 | version << 32 | i as u64 | 1 << 31);
    words.flat_map(u64::to_le_bytes).collect()
}

impl Database {
    fn create(path: &Path) -> Result<Self> {
        let writer = FileWriter::create(path)
            .with_context(|| format!("{} cannot be made anew", path.display()))?
            .synced(false);
        let mut this = Self {
            writer,
            next_oid: 3,
            items: Vec::new(),
        };
        let mut records = vec![
            (Oid(0), write::root()),
            (FILE, write::bigfile(BlkSize(BLKSIZE as u64), TABLE)),
        ];
        for blk in 0..BLOCKS {
            let leaf = if blk % 2 == 0 { Leaf::Blk0 } else { Leaf::Blk1 };
            let oid = this.block(leaf, &content(blk, 0), &mut records);
            this.items.push((i64::try_from(blk)?, oid, leaf));
        }
        records.push((TABLE, write::small_tree(Family::Lo, &this.items)));
        this.commit(b"first version", &records)?;
        Ok(this)
    }

    fn oid(&mut self) -> Oid {
        self.next_oid += 1;
        Oid(self.next_oid - 1)
    }

    /// The records of one block.
    fn block(&mut self, leaf: Leaf, data: &[u8], records: &mut Vec<(Oid, Vec<u8>)>) -> Oid {
        let oid = self.oid();
        if leaf == Leaf::Blk0 {
            records.push((oid, write::zblk0(data)));
            return oid;
        }
        let chunktab = self.oid();
        records.push((oid, write::zblk1(chunktab)));
        let mut buckets = Vec::new();
        for group in data.chunks(CHUNK * 60).enumerate() {
            let mut items = Vec::new();
            for (i, chunk) in group.1.chunks(CHUNK).enumerate() {
                let oid = self.oid();
                let at = (group.0 * 60 + i) * CHUNK;
                items.push((i64::try_from(at).expect("below 2 MiB"), oid, Leaf::Data));
                records.push((oid, write::zdata(chunk)));
            }
            buckets.push((items[0].0, self.oid(), items));
        }
        let mut next = None;
        for (_, oid, items) in buckets.iter().rev() {
            records.push((*oid, write::bucket(Family::Io, items, next)));
            next = Some(*oid);
        }
        let children: Vec<_> = buckets.iter().map(|(key, oid, _)| (*key, *oid)).collect();
        let first = children[0].1;
        let node = write::node(Family::Io, &children, write::Child::Bucket, first);
        records.push((chunktab, node));
        oid
    }

    fn commit(&mut self, description: &[u8], records: &[(Oid, Vec<u8>)]) -> Result<Tid> {
        let tid = now(self.writer.last())?;
        let mut txn = self.writer.begin(
            tid,
            Note {
                user: b"demo",
                description,
                ..Note::default()
            },
        )?;
        for (oid, record) in records {
            txn.store(*oid, record)?;
        }
        txn.commit()?;
        Ok(tid)
    }

    /// Changes a block that is in one piece.
    fn change(&mut self, blk: usize, version: u64) -> Result<Tid> {
        let (_, oid, leaf) = self.items[blk];
        ensure!(leaf == Leaf::Blk0, "only plain blocks are changed here");
        self.commit(b"a change", &[(oid, write::zblk0(&content(blk, version)))])
    }
}

fn play(place: &Place) -> Result<(), super::Failure> {
    let path = place.dir.join("Data.fs");
    let mut database = Database::create(&path)?;
    let first = database.writer.last();
    let mib = std::fs::metadata(&path)?.len() >> 20;
    println!(
        "wrote {} ({mib} MiB): one big file, {BLOCKS} blocks of 2 MiB, transaction {first}",
        path.display()
    );

    let zurl = format!("file://{}", path.display());
    let mnt = &place.mountpoint;
    mount::mount(&zurl, mnt)?;
    println!("mounted on {}", mnt.display());
    let head = mnt.join("head");
    let file = File::open(head.join("bigfile").join(FILE.to_string()))?;
    let len = usize::try_from(file.metadata()?.len()).context("a small file")?;
    let map = FileMap::new(&file, len)?;

    let began = Instant::now();
    compare(&map, |_| 0)?;
    let cold = began.elapsed();
    let reads = stat(mnt, "fuse_read")?;
    println!(
        "read {} MiB through mmap: {cold:.1?}, {reads} requests to the daemon, every byte right",
        len >> 20
    );
    let began = Instant::now();
    compare(&map, |_| 0)?;
    let warm = stat(mnt, "fuse_read")? - reads;
    println!(
        "read it again: {:.1?}, {warm} requests: it is in the page cache",
        began.elapsed()
    );

    let before = map.resident_pages()?;
    let tid = database.change(4, 1)?;
    let began = Instant::now();
    while std::fs::read_to_string(head.join("at"))? != tid.to_string() {
        if began.elapsed() > Duration::from_secs(10) {
            return Err(anyhow::anyhow!("head does not follow the commit {tid}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = map.resident_pages()?;
    println!(
        "committed a new block #4 as {tid}: head/at shows it after {:.1?}",
        began.elapsed()
    );
    println!(
        "  of the file's pages the cache had {before}, and kept {after}: no stale one is left"
    );
    compare(&map, |blk| u64::from(blk == 4))?;
    println!("  the same map shows the new block, every byte right");
    let old = File::open(mnt.join(format!("@{first}/bigfile/{FILE}")))?;
    compare(&FileMap::new(&old, len)?, |_| 0)?;
    println!("  @{first} still shows the old one, every byte right");
    Ok(())
}

/// Compares a map of the file with what was written.
fn compare(map: &FileMap, version: impl Fn(usize) -> u64) -> Result<()> {
    for blk in 0..BLOCKS {
        let data = map.copy(blk * BLKSIZE, BLKSIZE);
        ensure!(
            data == content(blk, version(blk)),
            "block #{blk} is not what was written"
        );
    }
    Ok(())
}

/// A figure of `.wcfs/stats`.
fn stat(mnt: &Path, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(mnt.join(".wcfs/stats"))?;
    let line = text
        .lines()
        .find_map(|l| l.split_once("\t: ").filter(|(n, _)| *n == name));
    Ok(line
        .context("a figure is missing in .wcfs/stats")?
        .1
        .parse()?)
}
