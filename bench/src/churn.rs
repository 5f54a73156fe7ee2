//! A writer: makes a database of one file and commits to it as it is told, line by line on stdin. It answers each line with figures and a
//! line `done`.
//!
//! Tids are of the clock, so that a daemon forgets as it would. Commits do not wait for the disk unless told to: the daemon sees a
//! commit when its last byte is in the file, and the time until the disk has it would hide part of what is measured.

use crate::content::{Random, fill};
use crate::data::Base;
use crate::pickle::{Record, class};
use crate::stat::Sample;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zring::base::Tid;

/// Name of its file.
pub const NAME: &str = "churned";
/// Files beside it, which never change.
pub const BESIDE: usize = 99;
/// Longest that head may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of one of them.
pub fn beside(n: usize) -> String {
    format!("beside-{n}")
}

struct Churn {
    base: Base,
    /// Objects of the blocks.
    blocks: Vec<u64>,
    blksize: u64,
    /// Bytes of content of each block.
    data: u64,
    /// An object that nobody reads.
    aside: u64,
    random: Random,
    version: u64,
}

/// `churn FILE BLKSIZE BLOCKS DATA`: see the module.
pub fn run(path: &Path, blksize: u64, blocks: u64, data: u64) -> Result<()> {
    let mut churn = Churn::create(path, blksize, blocks, data)?;
    answer("")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let figures = match words[..] {
            ["run", ms, rate, count] => churn.run(ms.parse()?, rate.parse()?, count.parse()?)?,
            ["lag", at, file, rounds, count, step, how] => {
                let mut seen = Seen::open(Path::new(at), file)?;
                if how == "heard" {
                    seen.hear()?;
                }
                let blocks = (count.parse()?, step.parse()?);
                churn.lag(&seen, rounds.parse()?, blocks, how == "sync")?
            }
            ["change", first, step, count, each] => {
                let step = (first.parse()?, step.parse()?);
                churn.change(step, count.parse()?, each.parse()?)?
            }
            ["kept", at, file, count, step] => {
                let seen = Seen::open(Path::new(at), file)?;
                churn.kept(&seen, (count.parse()?, step.parse()?))?
            }
            _ => bail!("unknown command {line}"),
        };
        answer(&figures)?;
    }
    Ok(())
}

fn answer(figures: &str) -> Result<()> {
    println!("{figures}\ndone");
    Ok(std::io::stdout().flush()?)
}

impl Churn {
    fn create(path: &Path, blksize: u64, blocks: u64, data: u64) -> Result<Self> {
        let mut base = Base::create(path)?;
        let aside = base.oid();
        let oids: Vec<u64> = (0..blocks).map(|_| base.oid()).collect();
        let mut churn = Self {
            base,
            blocks: oids,
            blksize,
            data,
            aside,
            random: Random(1 << 32),
            version: 1,
        };
        for blk in 0..blocks {
            churn.put(blk)?;
        }
        let oids = churn.blocks.clone();
        churn.base.file(NAME, blksize, &oids, class::BLK0)?;
        churn.put_aside()?;
        churn.files_beside()?;
        churn.base.finish()?;
        Ok(churn)
    }

    /// A block, with other bytes than it has.
    fn put(&mut self, blk: u64) -> Result<()> {
        let len = usize::try_from(self.data.min(self.blksize))?;
        let mut data = vec![0; len];
        fill(self.version, blk * self.blksize, &mut data);
        let mut record = Record::with_room(class::BLK0, len);
        record.bytes(&data);
        self.base
            .put(self.blocks[usize::try_from(blk)?], record.finish())
    }

    /// Files that never change, of blocks that all of them share.
    fn files_beside(&mut self) -> Result<()> {
        let oids: Vec<u64> = (0..64).map(|_| self.base.oid()).collect();
        for &oid in &oids {
            let mut record = Record::new(class::BLK0);
            record.bytes(&[1; 64]);
            self.base.put(oid, record.finish())?;
        }
        for n in 0..BESIDE {
            let name: &str = Box::leak(beside(n).into_boxed_str());
            self.base.file(name, self.blksize, &oids, class::BLK0)?;
        }
        Ok(())
    }

    fn put_aside(&mut self) -> Result<()> {
        let mut record = Record::new(class::DATA);
        record.bytes(&self.version.to_le_bytes());
        self.base.put(self.aside, record.finish())
    }

    /// Changes these blocks, or just an object that nobody reads.
    fn commit(&mut self, blks: &[u64], sync: bool) -> Result<Tid> {
        self.version = self.version % 200 + 1;
        blks.iter().try_for_each(|&blk| self.put(blk))?;
        if blks.is_empty() {
            self.put_aside()?;
        }
        self.base.commit_now(sync)
    }

    /// Changes so many blocks, every `step`th from `first` on, `each` to a commit.
    fn change(&mut self, (first, step): (u64, u64), count: u64, each: u64) -> Result<String> {
        for begin in (0..count).step_by(usize::try_from(each)?) {
            self.version = self.version % 200 + 1;
            for i in begin..count.min(begin + each) {
                self.put(first + i * step)?;
            }
            self.base.commit_now(false)?;
        }
        Ok(String::new())
    }

    /// Commits at a rate, of random blocks.
    fn run(&mut self, ms: u64, rate: u64, count: u64) -> Result<String> {
        let (began, every) = (
            Instant::now(),
            Duration::from_secs(1) / u32::try_from(rate)?,
        );
        let (mut commits, mut busy) = (0u32, Sample::default());
        while began.elapsed() < Duration::from_millis(ms) {
            let start = Instant::now();
            self.version = self.version % 200 + 1;
            for _ in 0..count {
                let blk = self.random.below(self.blocks.len() as u64);
                self.put(blk)?;
            }
            if count == 0 {
                self.put_aside()?;
            }
            self.base.commit_now(false)?;
            busy.push(start.elapsed().as_secs_f64() * 1e6);
            commits += 1;
            std::thread::sleep((every * commits).saturating_sub(began.elapsed()));
        }
        let rate = f64::from(commits) / began.elapsed().as_secs_f64();
        Ok(format!("rate {rate:.1}\ncommit_us {:.1}", busy.median()))
    }

    /// So many blocks, every `step`th, wherever they begin.
    fn some(&mut self, (count, step): (u64, u64)) -> Vec<u64> {
        let first = self.random.below(self.blocks.len() as u64 - count * step);
        (0..count).map(|i| first + i * step).collect()
    }

    /// From a commit to `head/at`, with so many cached blocks changed, every `step`th.
    fn lag(&mut self, seen: &Seen, rounds: u64, blocks: (u64, u64), sync: bool) -> Result<String> {
        let (mut lags, mut looks) = (Sample::default(), Sample::default());
        for _ in 0..rounds {
            let blks = self.some(blocks);
            seen.read(&seen.head, self.blksize, &blks)?;
            let tid = self.commit(&blks, sync)?;
            let (lag, look) = seen.wait(tid)?;
            lags.push(lag);
            looks.push(look);
        }
        Ok(format!(
            "p50_us {:.1}\np99_us {:.1}\nmax_us {:.1}\nlook_us {:.1}",
            lags.median(),
            lags.quantile(0.99),
            lags.span().1,
            looks.median()
        ))
    }

    /// Whether what was cached and changed is there for those who look for it: the time of their open, and READs of the daemon for
    /// all of it.
    fn kept(&mut self, seen: &Seen, blocks: (u64, u64)) -> Result<String> {
        let blks = self.some(blocks);
        let rev = self.commit(&blks, false)?;
        seen.wait(rev)?;
        seen.read(&seen.head, self.blksize, &blks)?;
        let tid = self.commit(&blks, false)?;
        seen.wait(tid)?;
        let start = Instant::now();
        let old = File::open(seen.at.join(format!("@{rev}/bigfile/{}", seen.oid)))?;
        let open = start.elapsed().as_secs_f64() * 1e6;
        let before = seen.reads()?;
        seen.read(&old, self.blksize, &blks)?;
        let reads = seen.reads()? - before;
        Ok(format!("open_us {open:.1}\nreads {reads}"))
    }
}

/// The writer's file as its readers see it.
struct Seen {
    at: PathBuf,
    oid: String,
    head: File,
    head_at: File,
    /// A listener, in place of one that looks at `head/at` again and again.
    zhead: Option<File>,
}

impl Seen {
    fn open(at: &Path, oid: &str) -> Result<Self> {
        Ok(Self {
            at: at.to_owned(),
            oid: oid.to_owned(),
            head: File::open(at.join("head/bigfile").join(oid))?,
            head_at: File::open(at.join("head/at"))?,
            zhead: None,
        })
    }

    /// Is told of commits from now on.
    fn hear(&mut self) -> Result<()> {
        self.zhead = Some(File::open(self.at.join(".wcfs/debug/zhead"))?);
        Ok(())
    }

    /// Waits until it is told of a transaction.
    fn heard(mut zhead: &File, tid: Tid) -> Result<()> {
        let mut text = [0; 17]; // of a line
        loop {
            zhead.read_exact(&mut text)?;
            let line = text.strip_suffix(b"\n").context("no line")?;
            if Tid::parse(line).context("zhead tells no tid")? >= tid {
                return Ok(());
            }
        }
    }

    /// Reads whole blocks, and leaves the daemon the time to note it.
    fn read(&self, file: &File, blksize: u64, blks: &[u64]) -> Result<()> {
        let mut block = vec![0; usize::try_from(blksize)?];
        for blk in blks {
            file.read_exact_at(&mut block, blk * blksize)?;
        }
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    /// How long until `head/at` shows a transaction, and how long the last look at it took; microseconds.
    fn wait(&self, tid: Tid) -> Result<(f64, f64)> {
        let (start, mut text) = (Instant::now(), [0; 16]);
        if let Some(zhead) = &self.zhead {
            Self::heard(zhead, tid)?;
            return Ok((start.elapsed().as_secs_f64() * 1e6, 0.0));
        }
        loop {
            let look = Instant::now();
            self.head_at.read_exact_at(&mut text, 0)?;
            let us = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
            if Tid::parse(&text).context("head/at is no tid")? >= tid {
                return Ok((us(start), us(look)));
            }
            ensure!(start.elapsed() < PATIENCE, "head does not move");
        }
    }

    /// READs of big files so far.
    fn reads(&self) -> Result<u64> {
        let stats = std::fs::read_to_string(self.at.join(".wcfs/stats"))?;
        let mut lines = stats.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| name.trim() == "fuse_read");
        Ok(found.context("no fuse_read")?.1.trim().parse()?)
    }
}
