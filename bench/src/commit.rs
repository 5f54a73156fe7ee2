//! What commits cost readers, and what readers' caches cost commits: see `definitions/commit.md`.

use crate::bench::{Bench, LIMIT, System};
use crate::churn::NAME;
use crate::report::Report;
use crate::rig::{Directed, Figures, Mounted, myself, output};
use crate::stat::{Sample, spread};
use crate::{data, tracked};
use anyhow::{Context, Result, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::path::{Path, PathBuf};

const TRANSPORTS: &[&str] = &["uring", "dev", "plain"];
/// Milliseconds of one step of reads under commits.
const STEP_MS: u64 = 2500;

/// Those that are measured.
pub fn transports(bench: &Bench) -> &'static [&'static str] {
    if bench.size.is_full() {
        TRANSPORTS
    } else {
        &TRANSPORTS[..1]
    }
}

/// A writer (see `churn`) and its database.
pub struct Writer {
    process: Directed,
    database: PathBuf,
    blksize: u64,
    blocks: u64,
}

impl Writer {
    /// Makes a database of blocks with `data` bytes of content each.
    pub fn start(
        bench: &Bench,
        name: &str,
        (blksize, blocks, data): (u64, u64, u64),
    ) -> Result<Self> {
        let database = bench.path(&format!("{name}.fs"));
        let _ = std::fs::remove_file(data::names_path(&database));
        let mut command = myself()?;
        command.arg("churn").arg(&database);
        command.args([blksize, blocks, data].map(|n| n.to_string()));
        let mut this = Self {
            process: Directed::start(&mut command)?,
            database,
            blksize,
            blocks,
        };
        this.answer()?;
        Ok(this)
    }

    fn begin(&mut self, line: &str) -> Result<()> {
        self.process.begin(line)
    }

    fn answer(&mut self) -> Result<Figures> {
        self.process.answer(LIMIT).context("the writer")
    }

    /// Carries out a line that needs no mount.
    pub fn told(&mut self, line: &str) -> Result<Figures> {
        self.begin(line)?;
        self.answer()
    }

    fn oid(&self) -> Result<String> {
        data::oid_of(&self.database, NAME)
    }

    /// Its database.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Its file.
    pub fn file(&self, mounted: &Mounted) -> Result<PathBuf> {
        Ok(mounted.path().join("head/bigfile").join(self.oid()?))
    }

    /// Has a child read so many blocks from the start of its file.
    pub fn warm(&self, mounted: &Mounted, blocks: u64) -> Result<()> {
        let mut reader = myself()?;
        reader.args(["client", "seq"]).arg(self.file(mounted)?);
        let bytes = blocks.min(self.blocks) * self.blksize;
        reader.args([&bytes.to_string(), "--unchecked"]);
        output(&mut reader, LIMIT, &[mounted]).map(drop)
    }

    /// From commits to `head/at`, with so many cached neighbours changed by each.
    pub fn lag(
        &mut self,
        mounted: &Mounted,
        (rounds, count, sync): (u64, u64, &str),
    ) -> Result<Figures> {
        self.lag_of(mounted, rounds, (count, 1), sync)
    }

    /// The same with every `step`th block.
    fn lag_of(
        &mut self,
        mounted: &Mounted,
        rounds: u64,
        (count, step): (u64, u64),
        sync: &str,
    ) -> Result<Figures> {
        let (at, oid) = (mounted.path().display().to_string(), self.oid()?);
        self.begin(&format!("lag {at} {oid} {rounds} {count} {step} {sync}"))?;
        self.answer_of(mounted)
    }

    /// What opening cached blocks that changed takes, and that nothing of them is read again.
    fn kept(&mut self, mounted: &Mounted, (count, step): (u64, u64)) -> Result<f64> {
        let (at, oid) = (mounted.path().display().to_string(), self.oid()?);
        self.begin(&format!("kept {at} {oid} {count} {step}"))?;
        let figures = self.answer_of(mounted)?;
        ensure!(figures.get("reads")? == 0.0, "old pages were read again");
        figures.get("open_us")
    }

    /// It is in the mount, and may hang there: then the mount ends.
    fn answer_of(&mut self, mounted: &Mounted) -> Result<Figures> {
        let answer = self.answer();
        if answer.is_err() {
            mounted.abort();
        }
        answer
    }

    /// Microseconds that control is on a CPU for a transaction that touches nothing tracked.
    fn control(&mut self, mounted: &Mounted) -> Result<f64> {
        let before = on_cpu(mounted.pid(), "zring-control")?;
        self.begin("run 1000 200 0")?;
        let commits = self.answer()?.get("rate")?;
        Ok((on_cpu(mounted.pid(), "zring-control")? - before) / commits)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let database = self.database.display().to_string();
        for suffix in ["", ".index", ".names"] {
            let _ = std::fs::remove_file(format!("{database}{suffix}"));
        }
    }
}

/// Measures and reports.
pub fn run(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let place = bench.path("");
    ensure!(
        statfs(&place)?.filesystem_type() != TMPFS_MAGIC,
        "{} is no disk: commits cost less there than they do",
        place.display()
    );
    tracked::inside(bench, report)?;
    lags(bench, report)?;
    reads(bench, report)?;
    tracked::mounted(bench, report)
}

/// Microseconds that the threads of this name have been on a CPU.
pub fn on_cpu(pid: u32, name: &str) -> Result<f64> {
    let mut all = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let at = thread?.path();
        let text = |file| std::fs::read_to_string(Path::join(&at, file));
        if text("comm")?.trim() == name {
            let ns = text("schedstat")?;
            let ns = ns
                .split(' ')
                .next()
                .context("no first word")?
                .parse::<f64>()?;
            all += ns / 1000.0;
        }
    }
    Ok(all)
}

/// Cold reads of one page each for a while; p99 in microseconds.
fn cold(writer: &Writer, mounted: &Mounted) -> Result<Figures> {
    let mut reader = myself()?;
    reader.args(["client", "cold"]).arg(writer.file(mounted)?);
    reader.args([writer.blksize, writer.blocks, STEP_MS].map(|n| n.to_string()));
    reader.arg("--unchecked");
    Ok(Figures::parse(&output(&mut reader, LIMIT, &[mounted])?))
}

/// One step: reads beside a writer, of the same database or of another.
fn beside(
    bench: &Bench,
    transport: &'static str,
    load: (u64, u64),
    ours: &mut Writer,
    other: Option<&mut Writer>,
) -> Result<(Figures, f64)> {
    let mounted = bench.mount(System::Zring(transport), &ours.database)?;
    let line = format!("run {} {} {}", STEP_MS + 200, load.0, load.1);
    let figures = match other {
        Some(other) => {
            other.begin(&line)?;
            let read = cold(ours, &mounted)?;
            (read, other.answer()?.get("rate")?)
        }
        None => {
            ours.begin(&line)?;
            let read = cold(ours, &mounted)?;
            (read, ours.answer()?.get("rate")?)
        }
    };
    mounted.stop()?;
    Ok(figures)
}

fn reads(bench: &Bench, report: &mut Report) -> Result<()> {
    report.line("## Cold reads under commits");
    report.line("");
    let mut rows = Vec::new();
    let loads = [
        ("4 KiB", 4096, 8192, 200, 10),
        ("64 KiB", 65536, 1024, 100, 10),
    ];
    for (name, blksize, blocks, rate, count) in loads {
        let shape = (blksize, blocks, blksize);
        let mut ours = Writer::start(bench, "churn-a", shape)?;
        let mut other = Writer::start(bench, "churn-b", shape)?;
        for &transport in transports(bench) {
            let [
                mut with,
                mut without,
                mut ratio,
                mut p50,
                mut max,
                mut rates,
            ] = [(); 6].map(|()| Sample::default());
            for pair in 0..bench.size.rounds {
                let mut turn = |same: bool| {
                    let other = (!same).then_some(&mut other);
                    beside(bench, transport, (rate, count), &mut ours, other)
                };
                let (a, b) = match pair % 2 {
                    0 => {
                        let a = turn(true)?;
                        (a, turn(false)?)
                    }
                    _ => {
                        let b = turn(false)?;
                        (turn(true)?, b)
                    }
                };
                let (p, q) = (a.0.get("p99_us")?, b.0.get("p99_us")?);
                with.push(p);
                without.push(q);
                ratio.push(p / q);
                p50.push(a.0.get("p50_us")? / b.0.get("p50_us")?);
                max.push(a.0.get("max_us")?);
                rates.push(a.1);
            }
            let bar = report.judge(
                &format!("cold reads, {name}, {transport}"),
                ratio.median() <= 1.3,
            );
            rows.push([
                format!("{rate}/s x {count} x {name}"),
                transport.to_owned(),
                spread(&with, 1),
                spread(&without, 1),
                spread(&ratio, 2),
                spread(&p50, 2),
                format!("{:.0}", max.span().1),
                format!("{:.0}", rates.median()),
                bar,
            ]);
        }
    }
    report.table(
        [
            "commits",
            "transport",
            "p99 us",
            "p99 us beside another database",
            "ratio",
            "ratio of p50",
            "longest us",
            "commits/s",
            "bar: <= 1.3",
        ],
        &rows,
    );
    Ok(())
}

/// What moving the same bytes costs by itself.
fn raw(bench: &Bench, transport: &str, case: Case) -> Result<Figures> {
    let at = bench.path("moves");
    std::fs::create_dir_all(&at)?;
    let mut command = myself()?;
    command.arg("moves").arg(&at).arg(transport);
    command.args([case.blksize, case.count, case.step].map(|n| n.to_string()));
    let figures = Figures::parse(&output(&mut command, LIMIT, &[])?);
    std::fs::remove_dir(&at)?;
    Ok(figures)
}

/// A kind of commit.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    blksize: u64,
    blocks: u64,
    /// Cached blocks that each commit changes, every `step`th.
    count: u64,
    step: u64,
    commits: u64,
    /// Bar of the median, in microseconds.
    most: f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "nothing cached changed",
        blksize: 4096,
        blocks: 4096,
        count: 0,
        step: 1,
        commits: 300,
        most: 100.0,
    },
    Case {
        name: "100 cached blocks of 4 KiB, neighbours",
        blksize: 4096,
        blocks: 4096,
        count: 100,
        step: 1,
        commits: 150,
        most: 2000.0,
    },
    Case {
        name: "100 cached blocks of 4 KiB, apart",
        blksize: 4096,
        blocks: 4096,
        count: 100,
        step: 7,
        commits: 150,
        most: 2000.0,
    },
    Case {
        name: "2 cached blocks of 2 MiB",
        blksize: 2 << 20,
        blocks: 64,
        count: 2,
        step: 1,
        commits: 80,
        most: 3000.0,
    },
];

/// What was measured of a case on a transport.
#[derive(Default)]
struct Lags {
    p50: Sample,
    p99: Sample,
    unsynced: Sample,
    each_polled: Sample,
    each: Sample,
    of_raw: Sample,
    look: Sample,
    open: Sample,
    control: Sample,
    raw: Vec<Figures>,
}

impl Lags {
    fn round(
        &mut self,
        bench: &Bench,
        transport: &'static str,
        case: Case,
        writer: &mut Writer,
    ) -> Result<()> {
        let Case {
            count,
            step,
            commits,
            ..
        } = case;
        let blocks = (count, step);
        let mounted = bench.mount(System::Zring(transport), &writer.database)?;
        writer.warm(&mounted, case.blocks)?;
        let idle = writer.lag(&mounted, (commits, 0, ""))?;
        let busy = match count {
            0 => idle.clone(),
            _ => writer.lag_of(&mounted, commits, blocks, "")?,
        };
        let synced = writer.lag_of(&mounted, commits, blocks, "sync")?;
        let mut heard = |blocks| -> Result<f64> {
            writer
                .lag_of(&mounted, commits, blocks, "heard")?
                .get("p50_us")
        };
        let heard = match count {
            0 => (0.0, 0.0),
            _ => (heard((0, 1))?, heard(blocks)?),
        };
        self.p50.push(synced.get("p50_us")?);
        self.p99.push(synced.get("p99_us")?);
        self.unsynced.push(busy.get("p50_us")?);
        self.look.push(synced.get("look_us")?);
        if count == 0 {
            self.control.push(writer.control(&mounted)?);
            return mounted.stop();
        }
        self.open.push(writer.kept(&mounted, blocks)?);
        mounted.stop()?;
        let raw = raw(bench, transport, case)?;
        let polled = busy.get("p50_us")? - idle.get("p50_us")?;
        self.each_polled.push(polled / count as f64);
        let own = (heard.1 - heard.0) / count as f64;
        self.each.push(own);
        self.of_raw.push(own / raw.get("raw_us")?);
        self.raw.push(raw);
        Ok(())
    }

    fn row(&self, report: &mut Report, transport: &str, case: Case) -> [String; 11] {
        let name = case.name;
        let mut judge =
            |what: &str, met| report.judge(&format!("{name}, {transport}, {what}"), met);
        let mut bars = judge("p50", self.p50.median() <= case.most);
        bars = bars + ", " + &judge("p99", self.p99.median() <= 10_000.0);
        if case.count > 0 {
            bars = bars + ", " + &judge("of raw", self.of_raw.median() <= 1.5);
        }
        [
            name.to_owned(),
            transport.to_owned(),
            spread(&self.p50, 0),
            spread(&self.p99, 0),
            spread(&self.unsynced, 0),
            spread(&self.each_polled, 1),
            spread(&self.each, 1),
            spread(&self.of_raw, 2),
            spread(&self.open, 0),
            format!("{:.0}", self.look.median()),
            bars,
        ]
    }
}

fn lags(bench: &Bench, report: &mut Report) -> Result<()> {
    report.line("## From a commit to head/at");
    report.line("");
    let (mut rows, mut moves, mut control) = (Vec::new(), Vec::new(), Vec::new());
    for case in CASES {
        let shape = (case.blksize, case.blocks, case.blksize);
        let mut writer = Writer::start(bench, "lag", shape)?;
        for &transport in transports(bench) {
            let mut lags = Lags::default();
            for _ in 0..bench.size.rounds {
                lags.round(bench, transport, case, &mut writer)?;
            }
            rows.push(lags.row(report, transport, case));
            if case.count == 0 {
                control.push([transport.to_owned(), spread(&lags.control, 1)]);
            } else {
                moves.push(moving(case.name, transport, &lags.raw)?);
            }
        }
    }
    report.table(
        [
            "changed",
            "transport",
            "p50 us",
            "p99 us",
            "p50 us, not synced",
            "us per block, head/at polled",
            "us per block",
            "of raw",
            "open of the old ones, us",
            "a look at head/at",
            "bars: p50, p99 <= 10 ms, <= 1.5 x raw",
        ],
        &rows,
    );
    report.line(
        "Control on a CPU for a transaction that touches nothing tracked, noticing it included:",
    );
    report.line("");
    report.table(["transport", "us"], &control);
    report.line("## Moving a block by itself, us per block");
    report.line("");
    report.table(
        [
            "blocks",
            "transport",
            "RETRIEVE",
            "of 128 KiB at once",
            "STORE",
            "INVAL",
            "helper opens, STORE, helper closes",
            "STORE at OPEN",
            "look-ups left per round",
        ],
        &moves,
    );
    Ok(())
}

/// Two ways to bring old pages below `@<tid>`.
fn moving(name: &str, transport: &str, all: &[Figures]) -> Result<[String; 9]> {
    let figure = |column: &str| -> Result<String> {
        let sample: Result<Sample> = all.iter().map(|f| f.get(column)).collect();
        Ok(spread(&sample?, 1))
    };
    Ok([
        name.to_owned(),
        transport.to_owned(),
        figure("retrieve_us")?,
        figure("together_us")?,
        figure("store_us")?,
        figure("inval_us")?,
        figure("helper_us")?,
        figure("store_again_us")?,
        figure("nodes_left_each")?,
    ])
}
