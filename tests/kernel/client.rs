//! What is done inside a mount, by processes that hold nothing of it.
//!
//! The test binary runs itself with `ZRING_KERNEL_DO` set: steps with ` ; ` between, and one line `> <findings>` on
//! stdout. A failing system call is a finding: its errno.

use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::script::generations;

/// Set to make the test binary a client.
pub(crate) const DO: &str = "ZRING_KERNEL_DO";

const PAGE: usize = 4096;

/// Not a test: the client, when asked for.
#[test]
fn role() {
    let Ok(what) = std::env::var(DO) else {
        return;
    };
    println!(); // the harness has begun a line
    let mut found = Vec::new();
    let mut held = Vec::new();
    for step in what.split(" ; ") {
        let words: Vec<&str> = step.split(' ').collect();
        found.push(match perform(&words, &mut held) {
            Ok(text) => text,
            Err(e) => format!("errno {}", e.raw_os_error().unwrap_or(-1)),
        });
    }
    println!("> {}", found.join(" ; "));
    let _ = io::stdout().flush();
    std::process::exit(0);
}

fn perform(words: &[&str], held: &mut Vec<File>) -> io::Result<String> {
    let number = |i: usize| words[i].parse::<u64>().unwrap();
    let at = words.get(1).copied().unwrap_or_default();
    match words[0] {
        "stat" => {
            let meta = std::fs::metadata(at)?;
            Ok(format!("size {} mtime {}", meta.size(), meta.mtime()))
        }
        "statfs" => {
            nix::sys::statfs::statfs(at)?;
            Ok("answered".to_owned())
        }
        "open" => {
            held.push(File::open(at)?);
            Ok("open".to_owned())
        }
        "create" => {
            File::create(at)?;
            Ok("made".to_owned())
        }
        "ls" => Ok(std::fs::read_dir(at)?.count().to_string()),
        "write" => {
            let file = File::options().write(true).open(at)?;
            (&file).write_all(words[2].as_bytes())?;
            Ok("written".to_owned())
        }
        // writes PATH COUNT: so many WRITEs, each of other bytes
        "writes" => {
            let file = File::options().write(true).open(at)?;
            for i in 0..number(2) {
                (&file).write_all(&i.to_le_bytes())?;
            }
            Ok("written".to_owned())
        }
        // again PATH COUNT: reads the first page so many times
        "again" => {
            let file = File::open(at)?;
            let mut buf = vec![0; PAGE];
            for _ in 0..number(2) {
                file.read_at(&mut buf, 0)?;
            }
            Ok("read".to_owned())
        }
        // stats PATH COUNT: microseconds that one takes, the median
        "stats" => {
            let mut took = Vec::new();
            for _ in 0..number(2) {
                let began = Instant::now();
                std::fs::metadata(at)?;
                took.push(began.elapsed());
            }
            took.sort_unstable();
            Ok(took[took.len() / 2].as_micros().to_string())
        }
        // gens PATH OFF LEN ADVICE: one pread, and whose bytes it brought
        "gens" => {
            let file = open(at, words.get(4).copied())?;
            let mut room = Vec::new();
            let buf = aligned(&mut room, usize::try_from(number(3)).unwrap());
            let n = file.read_at(buf, number(2))?;
            Ok(generations(&buf[..n], number(2)))
        }
        // touch PATH OFF LEN ADVICE: the same through a mapping
        "touch" => {
            let (off, len) = (number(2), usize::try_from(number(3)).unwrap());
            let map = map(&File::open(at)?)?;
            match words.get(4) {
                Some(&"random") => map.advise(Advice::Random)?,
                Some(&"huge") => map.advise(Advice::HugePage)?,
                _ => {}
            }
            let off = usize::try_from(off).unwrap();
            Ok(generations(
                &map[off..off + len],
                u64::try_from(off).unwrap(),
            ))
        }
        // cached PATH PAGES: how many of the first pages the page cache has, and the first holes
        "cached" => {
            let map = map(&File::open(at)?)?;
            let len = map.len().min(usize::try_from(number(2)).unwrap() * PAGE);
            let cached = resident(&map[..len])?;
            let absent = cached.iter().enumerate().filter(|(_, c)| !**c);
            let holes: Vec<_> = absent.map(|(i, _)| i.to_string()).take(8).collect();
            let n = cached.iter().filter(|c| **c).count();
            Ok(format!("{n} without {}", holes.join(",")))
        }
        // grown PATH LEN OFF: how long the file is said to be, and how long the kernel takes it for; then a page of a mapping of LEN
        // bytes, which asks nothing
        "grown" => {
            let file = File::open(at)?;
            let size = file.metadata()?.size();
            println!("> size {size} believed {}", believed(&file)?);
            io::stdout().flush()?;
            let (len, off) = (number(2), usize::try_from(number(3)).unwrap());
            let map = map_to(&file, usize::try_from(len).unwrap())?;
            map.advise(Advice::Random)?;
            Ok(generations(&map[off..off + PAGE], number(3)))
        }
        // many PATH THREADS CPU ADVICE: each thread reads a page of its own
        "many" => {
            let threads = usize::try_from(number(2)).unwrap();
            many(at, threads, words[3].parse().ok(), words.get(4).copied())
        }
        // fault PATH DIR OFF HOW: see there
        "fault" => crate::retry::fault(&map(&File::open(at)?)?, words[2], number(3), words[4]),
        // fresh SIZES: touches fresh memory, page by page
        "fresh" => fresh(words[1] == "small"),
        "pin" => {
            pin(words[1].parse().unwrap());
            Ok("pinned".to_owned())
        }
        other => panic!("unknown step {other}"),
    }
}

/// Touches 64 MiB for the first time: microseconds that the slowest page took, and all, and KiB of it that are huge pages.
fn fresh(small: bool) -> io::Result<String> {
    const LEN: usize = 64 << 20;
    if small {
        zring::kernel::proc::small_pages();
    }
    let mut map = MmapMut::map_anon(LEN)?;
    map.advise(Advice::HugePage)?;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for at in (0..LEN).step_by(PAGE) {
        let began = Instant::now();
        map[at] = 1;
        slowest = slowest.max(began.elapsed());
    }
    let all = began.elapsed();
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let huge = smaps.lines().find_map(|l| l.strip_prefix("AnonHugePages:"));
    let huge = huge
        .unwrap_or_default()
        .trim()
        .trim_end_matches(" kB")
        .to_owned();
    Ok(format!(
        "{} {} {huge}",
        slowest.as_micros(),
        all.as_micros()
    ))
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn open(path: &str, advice: Option<&str>) -> io::Result<File> {
    let flags = if advice == Some("direct") {
        libc::O_DIRECT
    } else {
        0
    };
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if advice == Some("random") {
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    }
    Ok(file)
}

/// `len` bytes from a page boundary on, as O_DIRECT wants them.
fn aligned(room: &mut Vec<u8>, len: usize) -> &mut [u8] {
    room.resize(len + PAGE, 0);
    let skew = room.as_ptr().align_offset(PAGE);
    &mut room[skew..skew + len]
}

#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the script never makes a mapped file shorter than what a test then touches, and bytes that change
    // are what the tests look for; nothing is derived from them but text.
    unsafe { Mmap::map(file) }
}

/// Behind what the kernel takes for the end of the file a page is SIGBUS, which some tests look for.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn map_to(file: &File, len: usize) -> io::Result<Mmap> {
    // SAFETY: as in `map`, but that the process may end by SIGBUS.
    unsafe { MmapOptions::new().len(len).map(file) }
}

/// Size of a file as the kernel has it, which asks nobody.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn believed(file: &File) -> io::Result<u64> {
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    let (at, to) = (file.as_raw_fd(), out.as_mut_ptr());
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path ends with a zero, and `out` is a live `struct statx` that the kernel fills.
    let rc = unsafe { libc::statx(at, c"".as_ptr(), flags, libc::STATX_SIZE, to) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a `struct statx`, and so is what the kernel filled in.
    let out = unsafe { out.assume_init() };
    Ok(out.stx_size)
}

/// Which pages are in the page cache. Brings none in.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn resident(bytes: &[u8]) -> io::Result<Vec<bool>> {
    let mut pages = vec![0u8; bytes.len().div_ceil(PAGE)];
    let at = bytes.as_ptr().cast_mut().cast();
    // SAFETY: `bytes` is a page-aligned mapping that lives through the call, `pages` has a byte for each page.
    let rc = unsafe { libc::mincore(at, bytes.len(), pages.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pages.iter().map(|p| p & 1 == 1).collect())
}

fn many(
    path: &str,
    threads: usize,
    cpu: Option<usize>,
    advice: Option<&str>,
) -> io::Result<String> {
    // `names`: each thread looks up a name of its own in the directory.
    let names = advice == Some("names");
    let file = match names {
        true => None,
        false => Some(Arc::new(open(path, advice)?)),
    };
    if let Some(cpu) = cpu {
        pin(cpu); // threads inherit it
    }
    let all_here = Arc::new(Barrier::new(threads));
    let readers: Vec<_> = (0..threads)
        .map(|i| {
            let (file, all_here) = (file.clone(), Arc::clone(&all_here));
            let name = format!("{path}/nslow{i}");
            let body = move || {
                all_here.wait();
                let Some(file) = file else {
                    return format!("{:?}", std::fs::metadata(name).map(|m| m.len()).ok());
                };
                let mut room = Vec::new();
                let buf = aligned(&mut room, PAGE);
                let off = u64::try_from(i * PAGE).unwrap();
                match file.read_at(buf, off) {
                    Ok(PAGE) => generations(buf, off),
                    Ok(n) => format!("{n} bytes"),
                    Err(e) => format!("errno {}", e.raw_os_error().unwrap_or(-1)),
                }
            };
            std::thread::Builder::new().stack_size(64 << 10).spawn(body)
        })
        .collect::<io::Result<_>>()?;
    let mut found = std::collections::BTreeMap::<String, usize>::new();
    for reader in readers {
        *found.entry(reader.join().unwrap()).or_default() += 1;
    }
    let all: Vec<_> = found
        .iter()
        .map(|(what, n)| format!("{n} of {what}"))
        .collect();
    Ok(all.join(", "))
}
