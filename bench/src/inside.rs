//! A cold ZBlk1 in this process, with the daemon's own rooms: load all objects of the block, assemble its bytes.
//!
//! The same steps as in a worker (engine: `task` and `loading`), without a mount around them: ask what is missing,
//! load it in one batch with reads that do not wait, decode, ask again. Beside it the floor: one pread for each of
//! the 512 chunk records, in the order of the chunks. Blocks are taken in turns, so that no run finds bytes in the
//! processor's caches that the other left there.

use crate::content::{self, Random};
use crate::data::{BLKSIZE, CHUNK, TAG1, oid_of};
use crate::stat::Sample;
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use zring::base::{BlkNo, BlkSize, Oid, Rev};
use zring::engine::buffer;
use zring::fs::cache::{AtHand, Cache, Kept, Own};
use zring::kernel::file::{Now, read_now};
use zring::store::file::{FileOpts, FileStore, FileView};
use zring::zodb::btree::TreeRef;
use zring::zodb::object::decode_within;
use zring::zodb::{Ask, Family, Object, Step, ZodbError, bigfile, btree, zblk};

/// Largest record, as configured by default.
const MAX_RECORD: usize = zring::base::limit::RECORD_BYTES_MAX;

/// What one request has at hand, and how it gets more.
struct Loader<'v> {
    view: &'v FileView,
    own: Own<()>,
    cache: Cache<()>,
    seen: RefCell<Vec<Oid>>,
    need: Vec<Oid>,
}

type Hand<'a> = AtHand<'a, ()>;

impl<'v> Loader<'v> {
    fn new(view: &'v FileView) -> Self {
        Self {
            view,
            own: Own::default(),
            cache: Cache::new(view.at(), 0, 0),
            seen: RefCell::default(),
            need: Vec::new(),
        }
    }

    fn answer<T>(
        &mut self,
        mut question: impl FnMut(&mut Ask<'_, Hand<'_>>) -> Result<Step<T>, ZodbError>,
    ) -> Result<T> {
        loop {
            self.seen.get_mut().clear();
            let hand = AtHand {
                rev: Rev::Head,
                own: &self.own,
                cache: &self.cache,
                seen: &self.seen,
            };
            if let Step::Done(answer) = question(&mut Ask::new(&hand, &mut self.need))? {
                return Ok(answer);
            }
            self.need.sort_unstable();
            self.need.dedup();
            self.load()?;
        }
    }

    fn load(&mut self) -> Result<()> {
        let mut batch = self.view.batch(self.view.at(), self.need.drain(..));
        while let Some(read) = batch.next_read() {
            let mut buf = buffer::take(read.len);
            match read_now(self.view.file(), read.pos, &mut buf)? {
                Now::Done(len) => batch.complete(read.id, Ok(buffer::freeze(buf, len))),
                Now::WouldWait => bail!("the database is not in the page cache"),
            }
        }
        while let Some((oid, loaded)) = batch.next_done() {
            let loaded = loaded?;
            let object = decode_within(loaded.data, MAX_RECORD)
                .ok()
                .context("a record that does not decode")?;
            self.own
                .insert(oid, Kept::Object(Arc::new(object), loaded.serial));
        }
        Ok(())
    }
}

/// Records of one block's chunks: position and length, header included, in the order of the chunks.
type Records = Vec<(u64, usize)>;

/// The chunks of a block, in order.
fn chunks_of(view: &FileView, oid: Oid) -> Result<Vec<Oid>> {
    let mut of_block = Loader::new(view);
    let mut page = [0; 8];
    of_block.answer(|ask| zblk::fill(ask, oid, BlkSize(BLKSIZE), 0, &mut page))?;
    let root = match of_block.own.get(&oid) {
        Some(Kept::Object(object, _)) => match **object {
            Object::Blk1 { chunktab } => chunktab,
            _ => bail!("not a ZBlk1"),
        },
        _ => bail!("not loaded"),
    };
    let tree = TreeRef {
        root,
        family: Family::Io,
    };
    let mut chunks = Vec::new();
    of_block.answer(|ask| {
        chunks.clear();
        btree::range(ask, tree, i64::MIN, i64::MAX, &mut |_, _, entry| {
            chunks.push(entry.oid);
            Ok(Step::Done(()))
        })
    })?;
    ensure!(
        chunks.len() as u64 == BLKSIZE / CHUNK,
        "a block of {} chunks",
        chunks.len()
    );
    Ok(chunks)
}

/// The chunks of each block of `zblk1`.
pub fn chunks(database: &Path) -> Result<Vec<Vec<Oid>>> {
    let (_store, view) = FileStore::open(database, &FileOpts::default(), &mut |_, _| {})?;
    let file = u64::from_str_radix(&oid_of(database, "zblk1")?, 16)?;
    let mut loader = Loader::new(&view);
    let file = loader.answer(|ask| bigfile::open(ask, Oid(file)))?;
    let blocks = loader.answer(|ask| bigfile::size(ask, &file))? / BLKSIZE;
    let mut all = Vec::new();
    for blk in 0..blocks {
        let place = loader.answer(|ask| bigfile::locate(ask, &file, BlkNo(blk)))?;
        all.push(chunks_of(&view, place.block.context("a hole")?.oid)?);
    }
    Ok(all)
}

/// The blocks of `zblk1` and where their chunks lie.
fn survey(database: &Path, view: &FileView) -> Result<Vec<(Oid, Records)>> {
    let file = u64::from_str_radix(&oid_of(database, "zblk1")?, 16)?;
    let mut loader = Loader::new(view);
    let file = loader.answer(|ask| bigfile::open(ask, Oid(file)))?;
    let blocks = loader.answer(|ask| bigfile::size(ask, &file))? / BLKSIZE;
    let mut all = Vec::new();
    for blk in 0..blocks {
        let place = loader.answer(|ask| bigfile::locate(ask, &file, BlkNo(blk)))?;
        let oid = place.block.context("a hole")?.oid;
        let chunks = chunks_of(view, oid)?;
        let mut records: Records = Vec::new();
        for oid in chunks {
            let mut locate = view.locate(view.at(), std::iter::once(oid));
            while let Some(read) = locate.next_read() {
                locate.complete(read.id, view.read(read.pos, read.len));
            }
            let found = locate.next_done().context("no answer")?.1?;
            records.push((found.data_pos - 42, found.data_len + 42));
        }
        all.push((oid, records));
    }
    Ok(all)
}

/// Prints the positions of the chunk records of these blocks, one block a line.
pub fn positions(database: &Path) -> Result<()> {
    let (_store, view) = FileStore::open(database, &FileOpts::default(), &mut |_, _| {})?;
    for (_, records) in survey(database, &view)? {
        let words: Vec<String> = records
            .iter()
            .map(|(pos, len)| format!("{pos}:{len}"))
            .collect();
        println!("{}", words.join(" "));
    }
    Ok(())
}

/// Measures both on every block, the whole database twice with the turns changed.
pub fn measure(database: &Path, seed: u64) -> Result<()> {
    let (_store, view) = FileStore::open(database, &FileOpts::default(), &mut |_, _| {})?;
    let blocks = survey(database, &view)?;
    let mut out = vec![1; usize::try_from(BLKSIZE)?];
    let mut record = vec![1; 16 << 10];
    let (mut zring, mut preads, mut first) =
        (Sample::default(), Sample::default(), Sample::default());
    for turn in 0..2 {
        for n in Random(seed << 32).order(blocks.len() as u64) {
            let (oid, records) = &blocks[usize::try_from(n)?];
            let start = Instant::now();
            match (n + turn) % 3 {
                0 => {
                    assemble(&view, *oid, 0, &mut out)?;
                    zring.push(start.elapsed().as_secs_f64() * 1e6);
                    check(n, &out)?;
                }
                1 => {
                    for &(pos, len) in records {
                        view.file().read_exact_at(&mut record[..len], pos)?;
                    }
                    preads.push(start.elapsed().as_secs_f64() * 1e6);
                }
                _ => {
                    assemble(&view, *oid, 0, &mut out[..4096])?;
                    first.push(start.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
    }
    println!("zring_us {:.2}", zring.median());
    println!("zring_p99_us {:.2}", zring.quantile(0.99));
    println!("preads_us {:.2}", preads.median());
    println!("first_us {:.2}", first.median());
    println!("blocks {}", zring.len());
    Ok(())
}

/// Bytes of a block from `offset` on, nothing at hand before.
fn assemble(view: &FileView, oid: Oid, offset: u64, out: &mut [u8]) -> Result<()> {
    Loader::new(view).answer(|ask| zblk::fill(ask, oid, BlkSize(BLKSIZE), offset, out))
}

fn check(blk: u64, out: &[u8]) -> Result<()> {
    for at in (0..BLKSIZE).step_by(512) {
        let word = out[usize::try_from(at)?..]
            .first_chunk()
            .map_or(0, |w| u64::from_le_bytes(*w));
        ensure!(
            word == content::word(TAG1, blk * BLKSIZE + at),
            "wrong bytes in block {blk} at {at}"
        );
    }
    Ok(())
}

/// Measures one thing again and again, for a profiler to look at.
pub fn again(database: &Path, seconds: u64) -> Result<()> {
    let (_store, view) = FileStore::open(database, &FileOpts::default(), &mut |_, _| {})?;
    let blocks = survey(database, &view)?;
    let mut out = vec![1; usize::try_from(BLKSIZE)?];
    let start = Instant::now();
    while start.elapsed().as_secs() < seconds {
        for (oid, _) in &blocks {
            assemble(&view, *oid, 0, &mut out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::data;

    #[test]
    fn what_is_made_reads_back_word_for_word_and_its_records_are_found() {
        let path = std::env::temp_dir().join(format!("zring-bench-{}.fs", std::process::id()));
        data::blocks(&path, 1, 70).unwrap();
        let (store, view) = FileStore::open(&path, &FileOpts::default(), &mut |_, _| {}).unwrap();
        assert_eq!(store.index_fault(), None);
        let blocks = survey(&path, &view).unwrap();
        assert_eq!(blocks.len(), 70);
        let mut out = vec![1; usize::try_from(BLKSIZE).unwrap()];
        for (blk, (oid, records)) in [(0, &blocks[0]), (69, &blocks[69])] {
            assemble(&view, *oid, 0, &mut out).unwrap();
            check(blk, &out).unwrap();
            assert!(records.iter().all(|(_, len)| (4096..4300).contains(len)));
        }
        let beside = |suffix| format!("{}{suffix}", path.display());
        for file in [beside(""), beside(".index"), beside(".names")] {
            std::fs::remove_file(file).unwrap();
        }
    }
}
