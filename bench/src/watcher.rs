//! Clients of `head/watch` and a reader beside them, told what to do line by line on stdin. Each line is answered with figures and a line
//! `done`.
//!
//! ```text
//!   crowd LINKS                  opens so many links, each of which watches every file at head, and keeps them
//!   begin                        a link of its own that watches the first file at head; its thread answers pins at once
//!   mute | answer                from now on pins are left lying; all that lie are answered
//!   pairs FIRST COUNT            reads of blocks 2i and 2i+1 by turns, the former again when it is pinned: see `definitions/watch.md`
//!   cold COUNT                   reads of blocks 2i+1
//!   setups TID LINKS KEEP        that many links, one after the other, watch the first file at TID; KEEP of them stay
//!   stats COUNT                  reads of `.wcfs/stats`
//!   block BLK                    a thread reads a block, and may wait for ever
//! ```

use crate::client::open_random;
use crate::content::Random;
use crate::stat::Sample;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;

/// One open of `head/watch`.
#[derive(Clone)]
struct Link {
    file: Arc<File>,
}

impl Link {
    fn open(at: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(at.join("head/watch"))?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    fn say(&self, text: &str) -> Result<()> {
        Ok((&*self.file).write_all(text.as_bytes())?)
    }

    /// It is about to be closed: without a word that is an error.
    fn bye(&self) -> Result<()> {
        self.say("1 bye\n")
    }

    /// A message, without its end.
    fn hear(&self) -> Result<String> {
        let mut buf = [0; 256];
        let len = (&*self.file).read(&mut buf)?;
        ensure!(len > 0, "the link ended");
        let text = std::str::from_utf8(&buf[..len])?;
        Ok(text.trim_end().to_owned())
    }
}

/// What the thread of the link and the reader share.
#[derive(Default)]
struct Shared {
    pins: AtomicU64,
    is_mute: AtomicBool,
}

struct Watcher {
    at: PathBuf,
    oids: Vec<String>,
    file: Arc<File>,
    crowd: Vec<Link>,
    link: Option<Link>,
    shared: Arc<Shared>,
}

/// `watcher MNT OID,OID,...`: see the module.
pub fn run(at: &Path, oids: &str) -> Result<()> {
    let oids: Vec<String> = oids.split(',').map(str::to_owned).collect();
    let path = at.join("head/bigfile").join(&oids[0]);
    let file = open_random(path.to_str().context("no UTF-8")?)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut watcher = Watcher {
        at: at.to_owned(),
        oids,
        file: Arc::new(file),
        crowd: Vec::new(),
        link: None,
        shared: Arc::default(),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let figures = match words[..] {
            ["crowd", links] => watcher.crowd(links.parse()?)?,
            ["begin"] => watcher.begin()?,
            ["mute"] => watcher.mute(true)?,
            ["answer"] => watcher.mute(false)?,
            ["pairs", first, count] => watcher.pairs(first.parse()?, count.parse()?)?,
            ["cold", count] => watcher.cold(count.parse()?)?,
            ["setups", tid, links, keep] => watcher.setups(tid, links.parse()?, keep.parse()?)?,
            ["stats", count] => watcher.stats(count.parse()?)?,
            ["block", blk] => watcher.block(blk.parse()?),
            ["bye"] => watcher.bye()?,
            _ => bail!("unknown command {line}"),
        };
        println!("{figures}\ndone");
        std::io::stdout().flush()?;
    }
    watcher
        .link
        .iter()
        .chain(&watcher.crowd)
        .try_for_each(Link::bye)
}

fn us(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn figures(name: &str, times: &Sample) -> String {
    format!(
        "{name}_p50_us {:.2}\n{name}_p99_us {:.2}\n{name}_max_us {:.1}\n",
        times.median(),
        times.quantile(0.99),
        times.span().1
    )
}

impl Watcher {
    fn head(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.at.join("head/at"))?)
    }

    fn crowd(&mut self, links: u64) -> Result<String> {
        // A file has to be known.
        for oid in &self.oids {
            File::open(self.at.join("head/bigfile").join(oid))?;
        }
        let (at, start) = (self.head()?, Instant::now());
        for _ in 0..links {
            let link = Link::open(&self.at)?;
            for (n, oid) in (1..).step_by(2).zip(&self.oids) {
                link.say(&format!("{n} watch {oid} @{at}\n"))?;
                let reply = link.hear()?;
                ensure!(reply == format!("{n} ok"), "{reply}");
            }
            self.crowd.push(link);
        }
        let watches = links as usize * self.oids.len();
        Ok(format!("watch_us {:.2}", us(start) / watches as f64))
    }

    fn begin(&mut self) -> Result<String> {
        let link = Link::open(&self.at)?;
        link.say(&format!("1 watch {} @{}\n", self.oids[0], self.head()?))?;
        let reply = link.hear()?;
        ensure!(reply == "1 ok", "{reply}");
        self.link = Some(link.clone());
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || serve(&link, &shared));
        Ok(String::new())
    }

    fn bye(&mut self) -> Result<String> {
        self.link
            .take()
            .into_iter()
            .chain(self.crowd.drain(..))
            .try_for_each(|link| link.bye())?;
        Ok(String::new())
    }

    fn mute(&mut self, is_mute: bool) -> Result<String> {
        self.shared.is_mute.store(is_mute, Ordering::SeqCst);
        Ok(format!("pins {}", self.shared.pins.load(Ordering::SeqCst)))
    }

    /// Microseconds of a pread of a block that is not cached; it is dropped then.
    fn read(&self, blk: u64) -> Result<f64> {
        let mut page = [0; PAGE as usize];
        let start = Instant::now();
        self.file.read_exact_at(&mut page, blk * PAGE)?;
        let took = us(start);
        let (at, len) = (i64::try_from(blk * PAGE)?, i64::try_from(PAGE)?);
        let drop = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(&*self.file, at, len, drop)?;
        Ok(took)
    }

    fn pairs(&mut self, first: u64, count: u64) -> Result<String> {
        let before = self.shared.pins.load(Ordering::SeqCst);
        let mut random = Random(first << 32 | 7);
        let [mut pin, mut none, mut again, mut over] = [(); 4].map(|()| Sample::default());
        for i in random.order(count) {
            let blk = 2 * (first + i);
            let (a, b) = match random.below(2) {
                0 => {
                    let a = self.read(blk)?;
                    (a, self.read(blk + 1)?)
                }
                _ => {
                    let b = self.read(blk + 1)?;
                    (self.read(blk)?, b)
                }
            };
            pin.push(a);
            none.push(b);
            over.push(a - b);
            again.push(self.read(blk)?);
        }
        let pins = self.shared.pins.load(Ordering::SeqCst) - before;
        let mut text = format!("pins {pins}\n");
        for (name, times) in [
            ("pin", pin),
            ("none", none),
            ("again", again),
            ("over", over),
        ] {
            text += &figures(name, &times);
        }
        Ok(text)
    }

    fn cold(&mut self, count: u64) -> Result<String> {
        let mut random = Random(11 << 32);
        let times: Result<Sample> = (0..count)
            .map(|_| self.read(2 * random.below(1000) + 1))
            .collect();
        Ok(figures("cold", &times?))
    }

    fn setups(&mut self, tid: &str, links: usize, keep: usize) -> Result<String> {
        let [mut all, mut written, mut waited] = [(); 3].map(|()| Sample::default());
        let mut pins = 0u64;
        for n in 0..links {
            let link = Link::open(&self.at)?;
            let (mut writes, mut reads) = (0.0, 0.0);
            let start = Instant::now();
            link.say(&format!("1 watch {} @{tid}\n", self.oids[0]))?;
            loop {
                let began = Instant::now();
                let line = link.hear()?;
                reads += us(began);
                let (stream, message) = line.split_once(' ').context("no blank")?;
                if stream == "1" {
                    ensure!(message == "ok", "{line}");
                    break;
                }
                pins += 1;
                let began = Instant::now();
                link.say(&format!("{stream} ack\n"))?;
                writes += us(began);
            }
            all.push(us(start));
            written.push(writes);
            waited.push(reads);
            if n < keep {
                self.crowd.push(link);
            } else {
                link.bye()?;
            }
        }
        let head = format!("pins {pins}\n");
        let parts = [("all", all), ("write", written), ("read", waited)];
        Ok(parts.iter().fold(head, |t, (n, s)| t + &figures(n, s)))
    }

    fn stats(&mut self, count: u64) -> Result<String> {
        let one = |_| -> Result<f64> {
            let start = Instant::now();
            std::fs::read_to_string(self.at.join(".wcfs/stats"))?;
            Ok(us(start))
        };
        let times: Result<Sample> = (0..count).map(one).collect();
        Ok(figures("stats", &times?))
    }

    fn block(&mut self, blk: u64) -> String {
        let file = Arc::clone(&self.file);
        std::thread::spawn(move || {
            let mut page = [0; PAGE as usize];
            file.read_exact_at(&mut page, blk * PAGE)
        });
        // It is on its way.
        std::thread::sleep(Duration::from_millis(50));
        String::new()
    }
}

/// Answers pins, or lets them lie.
fn serve(link: &Link, shared: &Shared) -> Result<()> {
    loop {
        let line = link.hear()?;
        let (stream, message) = line.split_once(' ').context("no blank")?;
        ensure!(message.starts_with("pin "), "{line}");
        while shared.is_mute.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        shared.pins.fetch_add(1, Ordering::SeqCst);
        link.say(&format!("{stream} ack\n"))?;
    }
}
