//! Many readers beside a writer, for as long as wanted: nothing read is older than `head/at` before it, and blocks that never change
//! stay cached. `ZRING_LIVE_S` seconds; from 60 on with a file of 2 GiB.
//!
//! Which blocks a transaction changes follows from its number alone, so the readers know as much as the writer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use zring::base::Tid;
use zring::zodb::write::Leaf;

use crate::base::{Base, ordinal, word};
use crate::commit::Scene;
use crate::machine::{Transport, number};
use crate::on_each_transport;
use crate::rig::Rig;
use crate::visitor::{PAGE, Tally, map, stamps};

on_each_transport!(readers_beside_a_writer);

const BLKSIZE: u64 = 64 << 10;
const CHANGES: u64 = 10;
const READERS: u64 = 8;

/// A number that looks random.
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The blocks that transaction `n` changes: every fourth block of the file never does.
fn changes(n: u64, blocks: u64) -> impl Iterator<Item = u64> {
    let drawn = (0..CHANGES).map(move |i| random(n * CHANGES + i) % blocks);
    drawn.filter(|blk| !blk.is_multiple_of(4))
}

/// `soak PATH SECONDS BLOCKS`: reads and compares; says how much, and how much of it was stale.
pub(crate) fn read(at: &Path, words: &[&str]) -> io::Result<String> {
    let [_, path, seconds, blocks] = words else {
        panic!("{words:?}");
    };
    let (seconds, blocks) = (seconds.parse().unwrap(), blocks.parse().unwrap());
    let tally = Tally::default();
    let results: Vec<io::Result<()>> = std::thread::scope(|scope| {
        let reader = |seed| {
            let tally = &tally;
            scope.spawn(move || {
                let done = reader(at, path, (seed, seconds, blocks), tally);
                tally.over.store(done.is_err(), Ordering::Relaxed);
                done
            })
        };
        let running: Vec<_> = (0..READERS).map(reader).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    results.into_iter().collect::<io::Result<Vec<()>>>()?;
    let (reads, stale) = (tally.reads.into_inner(), tally.stale.into_inner());
    Ok(format!("{reads} {stale}"))
}

/// The stamps of a page's words, one after the other; 0 for what is none.
fn parts(page: &[u8], at: u64) -> Vec<u32> {
    let words = page.as_chunks::<8>().0.iter().zip((at..).step_by(8));
    let stamp = |(bytes, at): (&[u8; 8], u64)| {
        let found = u64::from_le_bytes(*bytes);
        let stamp = u32::try_from(found >> 40).unwrap_or(0);
        if found == word(stamp, at) { stamp } else { 0 }
    };
    let mut parts: Vec<u32> = words.map(stamp).collect();
    parts.dedup();
    parts
}

/// One of the readers: every second one through a mapping.
fn reader(
    at: &Path,
    path: &str,
    (seed, seconds, blocks): (u64, u64, u64),
    tally: &Tally,
) -> io::Result<()> {
    let file = File::open(at.join(path))?;
    let mapped = map(&file)?;
    let head = File::open(at.join("head/at"))?;
    let head = || -> io::Result<u64> {
        let mut text = [0; 16];
        head.read_exact_at(&mut text, 0)?;
        Ok(ordinal(Tid::parse(&text).unwrap()))
    };
    let (began, mut n) = (Instant::now(), seed << 32);
    // The last change of each block as of `known`.
    let (mut last, mut known) = (vec![1u32; usize::try_from(blocks).unwrap()], 1);
    let mut buf = vec![0; usize::try_from(BLKSIZE).unwrap()];
    let is_mapped = !seed.is_multiple_of(2);
    while began.elapsed().as_secs() < seconds && !tally.over.load(Ordering::Relaxed) {
        let before = head()?;
        for n in known + 1..=before {
            for blk in changes(n, blocks) {
                last[usize::try_from(blk).unwrap()] = u32::try_from(n).unwrap();
            }
        }
        known = known.max(before);
        n += 1;
        // Mostly what changes often, so that reads and commits meet.
        let blk = match n % 3 {
            0 => random(n) % blocks,
            _ => changes(before + n % 3, blocks).next().unwrap_or(0),
        };
        let off = blk * BLKSIZE;
        if !is_mapped {
            file.read_exact_at(&mut buf, off)?;
        } else {
            let (from, len) = (usize::try_from(off).unwrap(), buf.len());
            buf.copy_from_slice(&mapped[from..from + len]);
        }
        let oldest = last[usize::try_from(blk).unwrap()];
        let is_good = |stamp: u32, oldest: u32| {
            let known = stamp == 1 || changes(stamp.into(), blocks).any(|b| b == blk);
            stamp >= oldest && known
        };
        for ((stamp, page), at) in stamps(&buf, off)
            .zip(buf.chunks(PAGE))
            .zip((off..).step_by(PAGE))
        {
            Tally::add(&tally.reads);
            let good = match stamp {
                // A page may be dropped while it is copied out of a mapping: what is copied then is newer.
                u32::MAX if is_mapped => {
                    let parts = parts(page, at);
                    parts.is_sorted() && parts.iter().all(|&part| is_good(part, oldest))
                }
                _ => is_good(stamp, oldest),
            };
            if !good {
                Tally::add(&tally.stale);
                eprintln!(
                    "block {blk} byte {at}: {:?}, but {oldest} @{before}",
                    parts(page, at)
                );
            }
        }
    }
    Ok(())
}

fn readers_beside_a_writer(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(2);
    let blocks = if seconds < 30 {
        1024
    } else {
        (2 << 30) / BLKSIZE
    };
    let rig = Rig::new("soak", 300 + 2 * seconds);
    let fresh = |base: &mut Base| {
        let file = base.file(BLKSIZE, Leaf::Blk0);
        (0..blocks).for_each(|blk| base.set(file, blk, 1));
    };
    let mut scene = Scene::new(&rig, transport, fresh);
    let path = scene.base.files[0].head();
    scene.inside.ask(&format!("hold {path}"));
    // All of it is read before, and stays mapped: what memory is reclaimed of before that is read again.
    let all: Vec<u64> = (0..blocks).collect();
    let mut missing = all.clone();
    for _ in 0..9 {
        for part in missing.chunk_by(|a, b| a + 1 == *b && b % 64 != 0) {
            let len = part.len() as u64 * BLKSIZE;
            let question = format!("stamps {path} {} {len}", part[0] * BLKSIZE);
            let found = scene.inside.pages(&question);
            assert!(found.iter().all(|&s| s == 1));
        }
        std::thread::sleep(Duration::from_millis(300));
        let cached = scene.cached(0, &path);
        let is_missing = |blk: &u64| cached[usize::try_from(*blk).unwrap()] != Some(true);
        missing = all.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            break;
        }
    }
    assert_eq!(missing, [0u64; 0], "not cached");
    scene
        .inside
        .begin(&format!("soak {path} {seconds} {blocks}"));
    let began = Instant::now();
    let database = File::open(rig.path("Data.fs")).unwrap();
    while began.elapsed() < Duration::from_secs(seconds) {
        let n = ordinal(scene.base.last()) + 1;
        if n.is_multiple_of(512) {
            // In ten minutes it outgrows memory, and then the kernel takes of what is read here, too.
            database.sync_data().unwrap();
            posix_fadvise(&database, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        }
        for blk in changes(n, blocks) {
            scene.base.set(0, blk, u32::try_from(n).unwrap());
        }
        scene.base.commit();
        std::thread::sleep(Duration::from_millis(8));
    }
    let found = scene.inside.answer(Duration::from_secs(60));
    let (reads, stale) = found.split_once(' ').unwrap_or_else(|| panic!("{found}"));
    let commits = ordinal(scene.base.last()) - 1;
    println!("{commits} commits, {reads} pages read, {stale} stale");
    assert_eq!(stale, "0");
    assert!(
        reads.parse::<u64>().unwrap() > 1000 && commits > 5,
        "hardly anything happened"
    );
    scene.inside.await_head(scene.base.last());
    // What never changed is cached still.
    let cached = scene.cached(0, &path);
    let gone: Vec<u64> = (0..blocks)
        .step_by(4)
        .filter(|&blk| cached[usize::try_from(blk).unwrap()] != Some(true))
        .collect();
    assert_eq!(gone, [0u64; 0], "dropped without need");
    scene.read_all(0);
    scene.stop();
}
