//! A process that is sent into a mount and asked one thing after the other: what is read, and which pages the page cache has.
//!
//! The test binary runs itself with `ZRING_VISIT` set to the mountpoint; questions come as lines on stdin, each is answered by a line
//! `> <answer>`. It keeps what it was told to hold open. It holds nothing of the server, so it dies when it is killed, unless it waits for
//! the server: then the rig's watchdog frees it.
//!
//! [`Visitor`] is the other end, in the test. Every answer has a deadline.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::Pid;
use zring::base::Tid;

use crate::base::{ordinal, word};
use crate::child::wait_until;
use crate::machine::number;
use crate::rig::Rig;
use crate::{crowd, shorter, soak};

/// Set to make the test binary a visitor of this mountpoint.
const VISIT: &str = "ZRING_VISIT";
pub(crate) const PAGE: usize = 4096;

/// Not a test: the visitor, when asked for.
#[test]
fn role() {
    let Some(at) = std::env::var_os(VISIT) else {
        return;
    };
    println!(); // the harness has begun a line
    let mut inside = Inside {
        at: at.into(),
        held: BTreeMap::new(),
        mapped: BTreeMap::new(),
    };
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = inside.answer(&words);
        let answer = answer.unwrap_or_else(|e| format!("errno {}", e.raw_os_error().unwrap_or(-1)));
        println!("> {answer}");
        let _ = io::stdout().flush();
    }
    std::process::exit(0);
}

/// The visitor itself.
#[derive(Debug)]
struct Inside {
    at: PathBuf,
    held: BTreeMap<String, File>,
    /// Files whose pages were looked for. What is mapped is what memory is reclaimed from last: some machines page out what is not even
    /// with most of their memory free (DAMON), and then a page that is missing would tell nothing about the server.
    mapped: BTreeMap<String, Mmap>,
}

impl Inside {
    fn answer(&mut self, words: &[&str]) -> io::Result<String> {
        let n = |i: usize| words[i].parse::<u64>().unwrap();
        let path = words.get(1).map(|p| self.at.join(p));
        let path = path.as_deref();
        Ok(match words[0] {
            "hold" => {
                let file = File::open(path.unwrap())?;
                // What is read is what is asked for: no readahead.
                posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
                self.held.insert(words[1].to_owned(), file);
                "held".to_owned()
            }
            "let" => {
                self.mapped.remove(words[1]);
                let held = self.held.remove(words[1]);
                held.map_or("unknown", |_| "let").to_owned()
            }
            "size" => std::fs::metadata(path.unwrap())?.len().to_string(),
            "text" => std::fs::read_to_string(path.unwrap())?.replace('\n', "|"),
            "await" => await_head(&self.at.join("head/at"), words[1])?,
            "stamps" => {
                let file = self.file(words[1])?;
                let mut buf = vec![0; usize::try_from(n(3)).unwrap()];
                let mut len = file.read_at(&mut buf, n(2))?;
                // One call reads 2 GiB less a page at most.
                while len >= 0x7fff_f000 {
                    match file.read_at(&mut buf[len..], n(2) + len as u64)? {
                        0 => break,
                        more => len += more,
                    }
                }
                runs(stamps(&buf[..len], n(2)))
            }
            "mapped" | "direct" => {
                let (from, len) = (
                    usize::try_from(n(2)).unwrap(),
                    usize::try_from(n(3)).unwrap(),
                );
                let file = match words[0] {
                    "direct" => {
                        let mut how = File::options();
                        how.read(true).custom_flags(libc::O_DIRECT);
                        how.open(path.unwrap())?
                    }
                    _ => self.file(words[1])?,
                };
                let map = map(&file)?;
                runs(stamps(&map[from..from + len], n(2)))
            }
            "hex" => {
                let mut buf = vec![0; usize::try_from(n(3)).unwrap()];
                let len = self.file(words[1])?.read_at(&mut buf, n(2))?;
                buf[..len].iter().map(|b| format!("{b:02x}")).collect()
            }
            "cached" => self.cached(words[1])?,
            "evict" => {
                self.mapped.remove(words[1]); // mapped pages stay
                let whole = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                let len = i64::try_from(n(3)).unwrap();
                posix_fadvise(
                    self.file(words[1])?.as_fd(),
                    i64::try_from(n(2)).unwrap(),
                    len,
                    whole,
                )?;
                "evicted".to_owned()
            }
            "cold" => cold(&self.file(words[1])?, Duration::from_millis(n(2)), n(3))?,
            "names" => names(path.unwrap(), (n(2), n(3), n(4))),
            "behind" => {
                let files = [self.file(words[1])?, self.file(words[1])?];
                shorter::behind(files, n(2)..n(3), Duration::from_millis(n(4)))?
            }
            "gather" => crowd::gather(&self.at, n(1), n(2))?,
            "ended" => crowd::ended(),
            "soak" => soak::read(&self.at, words)?,
            other => panic!("unknown question {other}"),
        })
    }

    /// Which pages the page cache has; those it has stay mapped, of head and of what is held.
    fn cached(&mut self, path: &str) -> io::Result<String> {
        let file = self.file(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(String::new());
        }
        let map = map(&file)?;
        let found = resident(&map)?;
        for (page, _) in (0..).zip(&found).filter(|(_, cached)| **cached) {
            std::hint::black_box(map[page * PAGE]);
        }
        if self.held.contains_key(path) || path.starts_with("head/") {
            self.mapped.insert(path.to_owned(), map);
        }
        Ok(runs(found.into_iter().map(u32::from)))
    }

    fn file(&self, path: &str) -> io::Result<File> {
        match self.held.get(path) {
            Some(file) => file.try_clone(),
            None => File::open(self.at.join(path)),
        }
    }
}

/// Waits until `head/at` says so, or more; what it says then.
fn await_head(at: &Path, tid: &str) -> io::Result<String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = std::fs::read_to_string(at)?;
        if now.as_str() >= tid || Instant::now() > end {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Cold pages one after the other, each let go of when it was read, for so long; how many, and the longest.
fn cold(file: &File, time: Duration, pages: u64) -> io::Result<String> {
    let (began, mut worst, mut n) = (Instant::now(), Duration::ZERO, 0u64);
    let mut buf = vec![0; PAGE];
    while began.elapsed() < time {
        let off = n.wrapping_mul(7919) % pages * PAGE as u64;
        let start = Instant::now();
        file.read_exact_at(&mut buf, off)?;
        worst = worst.max(start.elapsed());
        if stamps(&buf, off).next() == Some(u32::MAX) {
            return Ok(format!("torn {off}"));
        }
        let len = i64::try_from(PAGE).unwrap();
        let (off, drop) = (
            i64::try_from(off).unwrap(),
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
        posix_fadvise(file.as_fd(), off, len, drop)?;
        n += 1;
    }
    Ok(format!("{n} {}", worst.as_micros()))
}

/// Looks up so many names of files, from an oid on; how many are there.
fn names(dir: &Path, (first, count, step): (u64, u64, u64)) -> String {
    let name = |n: u64| dir.join(format!("{:016x}", first + n * step));
    (0..count).filter(|&n| name(n).exists()).count().to_string()
}

#[allow(unsafe_code, reason = "see its SAFETY comment")]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: who gets smaller is not touched beyond its end afterwards, and bytes that change are what the tests look for;
    // nothing is derived from them but text.
    unsafe { Mmap::map(file) }
}

/// Which pages are in the page cache. Brings none in.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
pub(crate) fn resident(map: &Mmap) -> io::Result<Vec<bool>> {
    let mut pages = vec![0u8; map.len().div_ceil(PAGE)];
    let at = map.as_ptr().cast_mut().cast();
    // SAFETY: the mapping begins at a page and lives through the call, `pages` has a byte for each of its pages.
    let rc = unsafe { libc::mincore(at, map.len(), pages.as_mut_ptr()) };
    match rc {
        0 => Ok(pages.iter().map(|p| p & 1 == 1).collect()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The stamp of each page; one that does not hold together has the largest.
pub(crate) fn stamps(bytes: &[u8], off: u64) -> impl Iterator<Item = u32> {
    bytes
        .chunks(PAGE)
        .zip((off..).step_by(PAGE))
        .map(|(page, at)| {
            let mut words = page
                .as_chunks::<8>()
                .0
                .iter()
                .map(|w| u64::from_le_bytes(*w));
            let stamp = u32::try_from(words.clone().next().unwrap_or(0) >> 40).unwrap_or(u32::MAX);
            let wanted = |n: u64| {
                if stamp == 0 {
                    0
                } else {
                    word(stamp, at + n * 8)
                }
            };
            match (0..).zip(&mut words).all(|(n, w)| w == wanted(n)) {
                true => stamp,
                false => u32::MAX,
            }
        })
}

/// `value x count`, one after the other.
fn runs(values: impl IntoIterator<Item = u32>) -> String {
    let mut out: Vec<(u32, usize)> = Vec::new();
    for value in values {
        match out.last_mut() {
            Some((last, n)) if *last == value => *n += 1,
            _ => out.push((value, 1)),
        }
    }
    let all: Vec<_> = out.iter().map(|(v, n)| format!("{v}x{n}")).collect();
    all.join(" ")
}

/// Counts what several threads saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) over: AtomicBool,
}

impl Tally {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The test's end of it.
#[derive(Debug)]
pub(crate) struct Visitor {
    child: Child,
    ask: ChildStdin,
    answers: Receiver<String>,
}

impl Visitor {
    /// Sends one into a mount.
    pub(crate) fn enter(rig: &Rig, at: &Path) -> Self {
        let mut c = rig.command(std::env::current_exe().unwrap());
        c.args([
            "--exact",
            "visitor::role",
            "--nocapture",
            "--test-threads=1",
        ]);
        Self::send(c.env(VISIT, at))
    }

    /// A client of `head/watch` in its place: `client.py`, which has questions of its own.
    pub(crate) fn client(rig: &Rig, at: &Path) -> Self {
        Self::send(rig.tool("client.py").arg(at))
    }

    fn send(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (tell, answers) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            for line in lines.filter_map(|l| Some(l.strip_prefix("> ")?.to_owned())) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            ask: child.stdin.take().unwrap(),
            child,
            answers,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// What ended it, waiting so long.
    pub(crate) fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_until(limit, || self.child.try_wait().unwrap())
    }

    /// The answer to the oldest question that has none, if it comes in time.
    pub(crate) fn early(&mut self, limit: Duration) -> Option<String> {
        self.answers.recv_timeout(limit).ok()
    }

    /// Gives a question and goes on.
    pub(crate) fn begin(&mut self, question: &str) {
        self.ask
            .write_all(format!("{question}\n").as_bytes())
            .unwrap();
    }

    /// The answer to the oldest question that has none.
    pub(crate) fn answer(&mut self, limit: Duration) -> String {
        let answer = self.answers.recv_timeout(limit);
        answer.unwrap_or_else(|e| panic!("no answer from inside the mount: {e}"))
    }

    /// Asks.
    pub(crate) fn ask(&mut self, question: &str) -> String {
        self.begin(question);
        self.answer(Duration::from_secs(number("ZRING_ANSWER_S", 30)))
    }

    /// The same for a number.
    pub(crate) fn number(&mut self, question: &str) -> u64 {
        let answer = self.ask(question);
        answer
            .parse()
            .unwrap_or_else(|_| panic!("{question}: {answer}"))
    }

    /// What each page holds, or whether it is cached.
    pub(crate) fn pages(&mut self, question: &str) -> Vec<u32> {
        let answer = self.ask(question);
        let run = |run: &str| -> Option<Vec<u32>> {
            let (value, n) = run.split_once('x')?;
            Some(vec![value.parse().ok()?; n.parse().ok()?])
        };
        let words = answer.split_ascii_whitespace();
        let all: Option<Vec<_>> = words.map(run).collect();
        all.unwrap_or_else(|| panic!("{question}: {answer}"))
            .concat()
    }

    /// Waits until head is there; and it is no further.
    pub(crate) fn await_head(&mut self, tid: Tid) {
        let at = self.ask(&format!("await {tid}"));
        let (at, want) = (Tid::parse(at.as_bytes()), Some(tid));
        assert_eq!(at, want, "transaction {}", ordinal(tid));
    }

    /// A value of `.wcfs/stats`.
    pub(crate) fn stat(&mut self, name: &str) -> u64 {
        let all = self.ask("text .wcfs/stats");
        let found = all.split('|').filter_map(|l| l.split_once(':'));
        let mut found = found.filter(|(n, _)| n.trim() == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} in {all}"));
        value.trim().parse().unwrap()
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
