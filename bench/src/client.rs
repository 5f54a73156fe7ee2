//! The programs that read: each does one thing to one file, and prints figures as `name value` lines.
//!
//! ```text
//!   touch FILE BLKSIZE BLOCKS       pread 4 KiB in each block, or in `--max` of them, in random order: p50, p99, max in us; `--cpu N` binds the reader;
//!                                   `moves`: how often the scheduler put it on another CPU
//!   stride FILE BLKSIZE BLOCKS STEP pread the first page of each STEPth block from every CPU, then drop the file
//!   fault FILE BLKSIZE BLOCKS THREADS     the same through a mapping, MADV_RANDOM: faults a second
//!   seq FILE BYTES                  read from the start: GB a second
//!   direct FILE BLKSIZE BLOCKS      pread whole blocks with O_DIRECT, in random order: p50, p99 in us
//!   drop FILE                       drop its page cache
//!   warm FILE BYTES TOUCHES         read what is cached already, by pread and by mapping: ns per read
//!   cat FILE                        its text
//! ```
//!
//! Everything read is compared with what the file should hold (`TAG`, or zeros), after the clock has stopped.

use crate::content::{self, Random};
use crate::stat::Sample;
use anyhow::{Context, Result, bail, ensure};
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
/// Bytes of one read(2) of `seq`.
const PIECE: usize = 1 << 20;

/// Runs one program. `tag` says what the file holds: a tag of `content`, or `None` for zeros. Data ends after `data`
/// bytes of each block.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Tag of the content; zeros if there is none.
    pub tag: Option<u64>,
    /// Bytes of content at the start of each block.
    pub data: u64,
    /// Whatever comes is right.
    pub unchecked: bool,
}

impl Expect {
    fn check(&self, offset: u64, in_block: u64, word: u64) -> Result<()> {
        let want = match self.tag {
            Some(tag) if in_block < self.data => content::word(tag, offset),
            _ => 0,
        };
        ensure!(
            self.unchecked || word == want,
            "wrong bytes at {offset}: {word:016x}, not {want:016x}"
        );
        Ok(())
    }
}

/// See the module.
pub fn run(args: &[String]) -> Result<()> {
    let seed = number(option(args, "--seed").unwrap_or("1"))?;
    let tag = option(args, "--tag").map(number).transpose()?;
    let data = option(args, "--data").map(number).transpose()?;
    let unchecked = args.iter().any(|a| a == "--unchecked");
    let expect = Expect {
        tag,
        data: data.unwrap_or(u64::MAX),
        unchecked,
    };
    if let Some(cpu) = option(args, "--cpu") {
        let mut set = CpuSet::new();
        set.set(usize::try_from(number(cpu)?)?)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    let max = option(args, "--max")
        .map(number)
        .transpose()?
        .unwrap_or(u64::MAX);
    let words: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .take_while(|a| !a.starts_with("--"))
        .collect();
    match words[..] {
        ["touch", file, blksize, blocks] => {
            let pages = pages(number(blksize)?, number(blocks)?, expect.data, seed);
            let max = usize::try_from(max).unwrap_or(usize::MAX).min(pages.len());
            touch(file, number(blksize)?, &pages[..max], expect)
        }
        ["stride", file, blksize, blocks, step] => {
            let step = usize::try_from(number(step)?)?;
            let pages: Vec<_> = (0..number(blocks)?)
                .step_by(step)
                .map(|blk| (blk, 0))
                .collect();
            stride(file, number(blksize)?, &pages, expect)
        }
        ["fault", file, blksize, blocks, threads] => fault(
            file,
            number(blksize)?,
            number(blocks)?,
            number(threads)?,
            seed,
            expect,
        ),
        ["seq", file, bytes] => seq(file, number(bytes)?, expect),
        ["direct", file, blksize, blocks] => {
            direct(file, number(blksize)?, number(blocks)?, seed, expect)
        }
        ["cold", file, blksize, blocks, ms] => {
            cold(file, number(blksize)? * number(blocks)?, number(ms)?, seed)
        }
        ["hold", at] => crate::moves::hold(Path::new(at)),
        ["drop", file] => drop_cache(&File::open(file)?),
        ["warm", file, bytes, touches] => {
            warm(file, number(bytes)?, number(touches)?, seed, expect)
        }
        ["cat", file] => {
            print!("{}", std::fs::read_to_string(file)?);
            Ok(())
        }
        _ => bail!("unknown program: {words:?}"),
    }
}

fn option<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|a| a == name)?;
    args.get(at + 1).map(String::as_str)
}

fn number(text: &str) -> Result<u64> {
    text.parse()
        .with_context(|| format!("not a number: {text}"))
}

fn us(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn figures(times: &Sample) {
    println!("p50_us {:.3}", times.median());
    println!("p99_us {:.3}", times.quantile(0.99));
    println!("max_us {:.3}", times.span().1);
    println!("n {}", times.len());
}

fn first_word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// Opens a file whose reads should not be taken for a sequence.
pub fn open_random(file: &str) -> Result<File> {
    let file = File::open(file).with_context(|| file.to_owned())?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    Ok(file)
}

/// A page of each block, in random order: pairs of block and offset in it.
fn pages(blksize: u64, blocks: u64, data: u64, seed: u64) -> Vec<(u64, u64)> {
    let mut random = Random(seed << 32);
    let order = random.order(blocks);
    let room = (blksize.min(data).max(PAGE)) / PAGE;
    order
        .into_iter()
        .map(|blk| (blk, random.below(room) * PAGE))
        .collect()
}

fn touch(file: &str, blksize: u64, pages: &[(u64, u64)], expect: Expect) -> Result<()> {
    let file = open_random(file)?;
    let (mut times, mut words) = (
        Vec::with_capacity(pages.len()),
        Vec::with_capacity(pages.len()),
    );
    let mut page = [0; PAGE as usize];
    let moves = moves()?;
    for &(blk, at) in pages {
        let start = Instant::now();
        file.read_exact_at(&mut page, blk * blksize + at)?;
        times.push(us(start));
        words.push(first_word(&page));
    }
    let moves = self::moves()? - moves;
    for (&(blk, at), word) in pages.iter().zip(words) {
        expect.check(blk * blksize + at, at, word)?;
    }
    figures(&times.into_iter().collect());
    println!("moves {moves}");
    Ok(())
}

/// How often the scheduler put this process on another CPU; 0 where the kernel does not say.
fn moves() -> Result<u64> {
    let sched = std::fs::read_to_string("/proc/self/sched").unwrap_or_default();
    let line = sched.lines().find(|l| l.starts_with("se.nr_migrations"));
    line.and_then(|l| l.split(':').nth(1))
        .map_or(Ok(0), |word| number(word.trim()))
}

/// The same pages from every CPU, and then none of them is cached: what each worker keeps of the file is warm.
fn stride(file: &str, blksize: u64, pages: &[(u64, u64)], expect: Expect) -> Result<()> {
    let here = sched_getaffinity(Pid::from_raw(0))?;
    for cpu in (0..CpuSet::count()).filter(|&cpu| here.is_set(cpu).unwrap_or(false)) {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        touch(file, blksize, pages, expect)?;
        drop_cache(&File::open(file)?)?;
    }
    Ok(())
}

fn map(file: &File, len: u64) -> Result<Mmap> {
    let mut options = MmapOptions::new();
    options.len(usize::try_from(len)?);
    // SAFETY: the file is that of a read-only mount whose database nobody changes while the bench runs.
    Ok(unsafe { options.map(file) }?)
}

fn fault(
    file: &str,
    blksize: u64,
    blocks: u64,
    threads: u64,
    seed: u64,
    expect: Expect,
) -> Result<()> {
    let file = File::open(file).with_context(|| file.to_owned())?;
    let map = map(&file, blksize * blocks)?;
    map.advise(Advice::Random)?;
    let pages = pages(blksize, blocks, expect.data, seed);
    let share = pages.len().div_ceil(usize::try_from(threads)?);
    let barrier = Barrier::new(pages.chunks(share).count() + 1);
    let (map, barrier) = (&map[..], &barrier);
    let (seconds, words) = std::thread::scope(|scope| {
        let running: Vec<_> = pages
            .chunks(share)
            .map(|mine| {
                scope.spawn(move || {
                    let mut words = Vec::with_capacity(mine.len());
                    barrier.wait();
                    for &(blk, at) in mine {
                        let at = usize::try_from(blk * blksize + at).unwrap_or(usize::MAX);
                        words.push(black_box(first_word(&map[at..])));
                    }
                    words
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let words: Vec<u64> = running
            .into_iter()
            .flat_map(|thread| thread.join().expect("a reader does not panic"))
            .collect();
        (start.elapsed().as_secs_f64(), words)
    });
    for (&(blk, at), &word) in pages.iter().zip(&words) {
        expect.check(blk * blksize + at, at, word)?;
    }
    println!("faults_s {:.1}", words.len() as f64 / seconds);
    println!("n {}", words.len());
    Ok(())
}

fn seq(file: &str, bytes: u64, expect: Expect) -> Result<()> {
    let file = File::open(file).with_context(|| file.to_owned())?;
    let mut buf = vec![0; PIECE];
    let mut words = Vec::new();
    let start = Instant::now();
    for at in (0..bytes).step_by(PIECE) {
        let want = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        file.read_exact_at(&mut buf[..want], at)?;
        words.push((at, first_word(&buf)));
    }
    let seconds = start.elapsed().as_secs_f64();
    for (at, word) in words {
        expect.check(at, 0, word)?;
    }
    println!("gb_s {:.4}", bytes as f64 / 1e9 / seconds);
    println!("bytes {bytes}");
    Ok(())
}

fn direct(file: &str, blksize: u64, blocks: u64, seed: u64, expect: Expect) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)
        .with_context(|| file.to_owned())?;
    let mut buf = MmapMut::map_anon(usize::try_from(blksize)?)?;
    buf.fill(1); // so that its pages are there
    let mut times = Sample::default();
    for blk in Random(seed << 32).order(blocks) {
        let start = Instant::now();
        file.read_exact_at(&mut buf, blk * blksize)?;
        times.push(us(start));
        for at in [0, blksize / 2, blksize - PAGE] {
            let word = first_word(&buf[usize::try_from(at)?..]);
            expect.check(blk * blksize + at, at, word)?;
        }
    }
    figures(&times);
    Ok(())
}

/// Random pages for a while, each dropped when it was read: what comes is cold.
fn cold(file: &str, bytes: u64, ms: u64, seed: u64) -> Result<()> {
    let file = open_random(file)?;
    let (mut times, mut random) = (Vec::new(), Random(seed << 32));
    let (mut page, began) = ([0; PAGE as usize], Instant::now());
    while began.elapsed() < Duration::from_millis(ms) {
        let at = random.below(bytes / PAGE) * PAGE;
        let start = Instant::now();
        file.read_exact_at(&mut page, at)?;
        times.push(us(start));
        let (at, len) = (i64::try_from(at)?, i64::try_from(PAGE)?);
        posix_fadvise(&file, at, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    figures(&times.into_iter().collect());
    Ok(())
}

/// Drops what the page cache holds of a file.
fn drop_cache(file: &File) -> Result<()> {
    Ok(posix_fadvise(
        file,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

fn warm(file: &str, bytes: u64, touches: u64, seed: u64, expect: Expect) -> Result<()> {
    let file = open_random(file)?;
    let map = map(&file, bytes)?;
    map.advise(Advice::Random)?;
    let mut random = Random(seed << 32);
    let mut page = [0; PAGE as usize];
    let offsets: Vec<u64> = (0..touches)
        .map(|_| random.below(bytes / PAGE) * PAGE)
        .collect();
    let start = Instant::now();
    for &at in &offsets {
        file.read_exact_at(&mut page, at)?;
        black_box(first_word(&page));
    }
    println!("pread_us {:.3}", us(start) / touches as f64);
    let start = Instant::now();
    for &at in &offsets {
        black_box(first_word(&map[usize::try_from(at)?..]));
    }
    println!("mmap_us {:.3}", us(start) / touches as f64);
    for &at in offsets.iter().take(1000) {
        expect.check(at, 0, first_word(&map[usize::try_from(at)?..]))?;
    }
    Ok(())
}

/// Reads a file into the page cache by ordinary reads; gives the bytes this process made the disk read.
pub fn read_through(path: &Path) -> Result<u64> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let before = disk_bytes("self")?;
    let (mut buf, mut at) = (vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut buf, at)? {
            0 => return Ok(disk_bytes("self")? - before),
            n => at += n as u64,
        }
    }
}

/// Bytes that a process has made the disk read so far.
pub fn disk_bytes(pid: &str) -> Result<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|l| l.strip_prefix("read_bytes: "));
    Ok(line.context("no read_bytes")?.parse()?)
}
