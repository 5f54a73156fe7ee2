//! What it costs that many see the same file at different states: see `definitions/watch.md`.

use crate::bench::{Bench, LIMIT, System};
use crate::churn::{BESIDE, NAME, beside};
use crate::commit::{Writer, on_cpu, transports};
use crate::data;
use crate::report::Report;
use crate::rig::{Directed, Figures, Mounted, myself, output};
use crate::stat::{Sample, spread};
use crate::tracked::resident_mib;
use anyhow::Result;

/// Blocks of the file, of one page each.
const BLOCKS: u64 = 8192;
const LINKS: u64 = 1000;
/// Changed blocks that a watch request finds.
const CHANGED: u64 = 1000;

/// Measures and reports.
pub fn run(bench: &mut Bench, report: &mut Report) -> Result<()> {
    report.line("## Clients of head/watch");
    report.line("");
    pins(bench, report)?;
    crowd(bench, report)?;
    setups(bench, report)?;
    stuck(bench, report)
}

/// A program in a mount (see `watcher`).
struct Inside<'m> {
    process: Directed,
    mounted: &'m Mounted,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let _ = self.told("bye");
    }
}

impl<'m> Inside<'m> {
    /// It knows the writer's file, and so many of those beside.
    fn enter(writer: &Writer, mounted: &'m Mounted, files: usize) -> Result<Self> {
        let mut oids = vec![data::oid_of(writer.database(), NAME)?];
        for n in 0..files {
            oids.push(data::oid_of(writer.database(), &beside(n))?);
        }
        let mut command = myself()?;
        command
            .arg("watcher")
            .arg(mounted.path())
            .arg(oids.join(","));
        Ok(Self {
            process: Directed::start(&mut command)?,
            mounted,
        })
    }

    /// It may hang there: then the mount ends.
    fn told(&mut self, line: &str) -> Result<Figures> {
        self.process.begin(line)?;
        let answer = self.process.answer(LIMIT);
        if answer.is_err() {
            self.mounted.abort();
        }
        answer
    }
}

fn writer(bench: &Bench) -> Result<Writer> {
    Writer::start(bench, "watched", (4096, BLOCKS, 4096))
}

/// All of the file was read once, none of it is cached.
fn warm(writer: &Writer, mounted: &Mounted) -> Result<()> {
    writer.warm(mounted, BLOCKS)?;
    let mut drop = myself()?;
    drop.args(["client", "drop"]).arg(writer.file(mounted)?);
    output(&mut drop, LIMIT, &[mounted]).map(std::mem::drop)
}

/// Changes blocks, and waits until head shows it.
fn change(writer: &mut Writer, mounted: &Mounted, step: u64, count: u64) -> Result<()> {
    writer.told(&format!("change 0 {step} {count} 100"))?;
    writer.lag(mounted, (1, 0, "")).map(drop)
}

fn pins(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut writer = writer(bench)?;
    let mut rows = Vec::new();
    for &transport in transports(bench) {
        let names = [
            "pin_p50",
            "pin_p99",
            "none_p50",
            "none_p99",
            "again_p50",
            "over_p50",
        ];
        let mut all = names.map(|_| Sample::default());
        for _ in 0..bench.size.rounds {
            let mounted = bench.mount(System::Zring(transport), writer.database())?;
            warm(&writer, &mounted)?;
            let mut inside = Inside::enter(&writer, &mounted, 0)?;
            inside.told("begin")?;
            change(&mut writer, &mounted, 2, 1500)?;
            let found = inside.told("pairs 0 1500")?;
            anyhow::ensure!(found.get("pins")? == 1500.0, "a READ came without a pin");
            for (name, sample) in names.iter().zip(&mut all) {
                sample.push(found.get(&format!("{name}_us"))?);
            }
            drop(inside);
            mounted.stop()?;
        }
        let what = format!("one pin, {transport}");
        let bar = report.judge(&what, all[5].median() <= 35.0);
        let [pin, pin99, none, none99, again, over] = all.map(|sample| spread(&sample, 1));
        rows.push([
            transport.to_owned(),
            pin,
            pin99,
            none,
            none99,
            again,
            over,
            bar,
        ]);
    }
    report.table(
        [
            "transport",
            "one pin, p50 us",
            "p99",
            "none, p50 us",
            "p99",
            "pinned already, p50 us",
            "one pin over none, p50 of pairs",
            "bar: <= 35",
        ],
        &rows,
    );
    Ok(())
}

/// Two mounts of one database, one of them with a crowd.
fn crowd(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut writer = writer(bench)?;
    let mut rows = Vec::new();
    for &transport in transports(bench) {
        let (a, b) = (
            bench.mount_on("mnt", System::Zring(transport), writer.database())?,
            bench.mount_on("mnt2", System::Zring(transport), writer.database())?,
        );
        let [mut ratio, mut with, mut without] = [(); 3].map(|()| Sample::default());
        warm(&writer, &a)?;
        warm(&writer, &b)?;
        let mut inside = Inside::enter(&writer, &a, BESIDE)?;
        let mut other = Inside::enter(&writer, &b, BESIDE)?;
        let before = resident_mib(a.pid())?;
        let each_us = inside.told(&format!("crowd {LINKS}"))?.get("watch_us")?;
        let watches = (LINKS * (BESIDE as u64 + 1)) as f64;
        let bytes = (resident_mib(a.pid())? - before) * 1_048_576.0 / watches;
        for turn in 0..4 * bench.size.rounds {
            let mut cold = |first: bool| -> Result<f64> {
                let inside = if first { &mut inside } else { &mut other };
                inside.told("cold 1000")?.get("cold_p50_us")
            };
            let first = turn % 2 == 0;
            let (x, y) = (cold(first)?, cold(!first)?);
            let (p, q) = if first { (x, y) } else { (y, x) };
            with.push(p);
            without.push(q);
            ratio.push(p / q);
        }
        let [mut lag, mut lag_without] = [(); 2].map(|()| Sample::default());
        for _ in 0..bench.size.rounds {
            lag.push(writer.lag(&a, (100, 0, ""))?.get("p50_us")?);
            lag_without.push(writer.lag(&b, (100, 0, ""))?.get("p50_us")?);
        }
        let cpu = |mounted: &Mounted| on_cpu(mounted.pid(), "zring-control");
        let (x, y) = (cpu(&a)?, cpu(&b)?);
        let commits = writer.told("run 1000 200 10")?.get("rate")?;
        let (x, y) = ((cpu(&a)? - x) / commits, (cpu(&b)? - y) / commits);
        let read = report.judge(&format!("a crowd, {transport}"), ratio.median() <= 1.1);
        let weight = report.judge(&format!("bytes of a watch, {transport}"), bytes <= 512.0);
        rows.push([
            transport.to_owned(),
            format!("{} / {}", spread(&with, 1), spread(&without, 1)),
            format!("{} {read}", spread(&ratio, 3)),
            format!("{bytes:.0} {weight}"),
            format!("{each_us:.1}"),
            format!("{:.0} / {:.0}", lag.median(), lag_without.median()),
            format!("{x:.0} / {y:.0}"),
        ]);
        drop((inside, other));
        a.stop()?;
        b.stop()?;
    }
    report.line(&format!(
        "{LINKS} links with {} watches each, against none.",
        BESIDE + 1
    ));
    report.line("");
    report.table(
        [
            "transport",
            "READ that needs no pin, p50 us",
            "ratio (bar: <= 1.1)",
            "bytes a watch (bar: <= 512)",
            "us a watch request",
            "commit to head/at, p50 us",
            "control on a CPU for a commit of 10 blocks, us",
        ],
        &rows,
    );
    Ok(())
}

fn setups(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut writer = writer(bench)?;
    let mut rows = Vec::new();
    let calls = if bench.size.is_full() { 10 } else { 1 };
    for &transport in transports(bench) {
        let mounted = bench.mount(System::Zring(transport), writer.database())?;
        warm(&writer, &mounted)?;
        // The state of now, which is not forgotten: what the database begins with is old.
        writer.lag(&mounted, (1, 0, ""))?;
        let mut cat = myself()?;
        cat.args(["client", "cat"])
            .arg(mounted.path().join("head/at"));
        let at = output(&mut cat, LIMIT, &[&mounted])?;
        change(&mut writer, &mounted, 1, CHANGED)?;
        let mut inside = Inside::enter(&writer, &mounted, 0)?;
        // What a first request makes the daemon remember is not of the pins.
        inside.told(&format!("setups {} 1 0", at.trim()))?;
        let before = resident_mib(mounted.pid())?;
        let [mut all, mut write, mut read, mut last] = [(); 4].map(|()| Sample::default());
        let mut pins = 0.0;
        for _ in 0..calls {
            let found = inside.told(&format!("setups {} 100 100", at.trim()))?;
            all.push(found.get("all_p50_us")? / 1000.0);
            write.push(found.get("write_p50_us")? / 1000.0);
            read.push(found.get("read_p50_us")? / 1000.0);
            last.push(found.get("all_max_us")? / 1000.0);
            pins += found.get("pins")?;
        }
        let bytes = (resident_mib(mounted.pid())? - before) * 1_048_576.0 / pins;
        let over = all.median() - write.median();
        let time = report.judge(&format!("watch request, {transport}"), over <= 50.0);
        let weight = report.judge(&format!("bytes of a pin, {transport}"), bytes <= 64.0);
        rows.push([
            transport.to_owned(),
            spread(&all, 1),
            spread(&write, 1),
            spread(&read, 1),
            format!("{over:.1} {time}"),
            format!("{:.0}", last.span().1),
            format!("{pins:.0}"),
            format!("{bytes:.1} {weight}"),
        ]);
        drop(inside);
        mounted.stop()?;
    }
    report.line(&format!(
        "Watch requests that find {CHANGED} changed blocks."
    ));
    report.line("");
    report.table(
        [
            "transport",
            "p50 ms",
            "of it writing acks",
            "of it in reads",
            "beyond the acks (bar: <= 50)",
            "longest ms",
            "blocks pinned",
            "bytes each (bar: <= 64)",
        ],
        &rows,
    );
    Ok(())
}

/// What was measured with a client that is stuck, or with none.
#[derive(Default)]
struct Beside {
    p99: Sample,
    lag: Sample,
    stats: Sample,
}

impl Beside {
    fn measure(&mut self, inside: &mut Inside<'_>, writer: &mut Writer) -> Result<f64> {
        let p99 = inside.told("cold 4000")?.get("cold_p99_us")?;
        self.p99.push(p99);
        self.lag
            .push(writer.lag(inside.mounted, (50, 0, ""))?.get("p50_us")?);
        self.stats
            .push(inside.told("stats 50")?.get("stats_p50_us")?);
        Ok(p99)
    }
}

fn stuck(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut writer = writer(bench)?;
    let mut rows = Vec::new();
    for &transport in transports(bench) {
        let mounted = bench.mount(System::Zring(transport), writer.database())?;
        warm(&writer, &mounted)?;
        let mut inside = Inside::enter(&writer, &mounted, 0)?;
        inside.told("begin")?;
        change(&mut writer, &mounted, 2, 100)?;
        let (mut free, mut stuck, mut ratio) =
            (Beside::default(), Beside::default(), Sample::default());
        for round in 0..bench.size.rounds {
            let normal = free.measure(&mut inside, &mut writer)?;
            inside.told("mute")?;
            inside.told(&format!("block {}", 2 * round))?;
            ratio.push(stuck.measure(&mut inside, &mut writer)? / normal);
            inside.told("answer")?;
        }
        let bar = report.judge(
            &format!("a stuck client, {transport}"),
            ratio.median() <= 1.2,
        );
        let pair = |a: &Sample, b: &Sample| format!("{} / {}", spread(a, 0), spread(b, 0));
        rows.push([
            transport.to_owned(),
            pair(&stuck.p99, &free.p99),
            format!("{} {bar}", spread(&ratio, 2)),
            pair(&stuck.lag, &free.lag),
            pair(&stuck.stats, &free.stats),
        ]);
        drop(inside);
        mounted.stop()?;
    }
    report.line("A client that does not answer a pin, against one that does.");
    report.line("");
    report.table(
        [
            "transport",
            "other READs, p99 us",
            "ratio (bar: <= 1.2)",
            "commit to head/at, p50 us",
            "stats, p50 us",
        ],
        &rows,
    );
    Ok(())
}
