//! What an advance costs beside how much is tracked, in this process and on a mount: see `definitions/commit.md`.

use crate::bench::{Bench, LIMIT, System};
use crate::commit::Writer;
use crate::report::Report;
use crate::rig::{Figures, myself, output};
use crate::stat::{Sample, spread};
use anyhow::{Context, Result};

/// One part of the bench in a process of its own.
fn part(args: &[String]) -> Result<Figures> {
    Ok(Figures::parse(&output(myself()?.args(args), LIMIT, &[])?))
}

fn tail(files: u64, blocks: u64, history: u64) -> Result<Figures> {
    let args = [files, blocks, history].map(|n| n.to_string());
    part(&[&["tail".to_owned()][..], &args].concat())
}

/// In this process, without a mount.
pub fn inside(bench: &Bench, report: &mut Report) -> Result<()> {
    own_work(report)?;
    scale(bench, report)?;
    weight(report)
}

fn own_work(report: &mut Report) -> Result<()> {
    report.line("## A transaction that touches nothing tracked");
    report.line("");
    let us: Sample = (0..5)
        .map(|_| tail(1, 100_000, 0)?.get("nothing_us"))
        .collect::<Result<_>>()?;
    let bar = report.judge("own work for nothing", us.median() <= 20.0);
    report.table(
        ["history and head, us", "bar: <= 20"],
        &[[spread(&us, 2), bar]],
    );
    Ok(())
}

/// Cost of an advance beside how much is tracked.
fn scale(bench: &Bench, report: &mut Report) -> Result<()> {
    report.line("## An advance beside what is tracked");
    report.line("");
    let cases = [
        (1, 1_000, 0),
        (1, 10_000, 0),
        (1, 100_000, 0),
        (1, 1_000_000, 0),
        (10, 10_000, 0),
        (100, 1_000, 0),
        (1_000, 100, 0),
        (1, 100_000, 100_000),
    ];
    // In turns, and ratios within one: the machine is another one some seconds later.
    let mut all = cases.map(|case| (case, [(); 4].map(|()| Sample::default())));
    for _ in 0..bench.size.rounds {
        let mut turn = Vec::new();
        for ((files, blocks, history), [written, table, ..]) in &mut all {
            let figures = tail(*files, *blocks, *history)?;
            let found = (figures.get("blocks_us")?, figures.get("table_us")?);
            written.push(found.0);
            table.push(found.1);
            turn.push(found);
        }
        for (i, ((files, _, history), [.., of_written, of_table])) in all.iter_mut().enumerate() {
            // Against 10^3 blocks of one file, or 10^5 blocks of one file where the number of files counts.
            let base = turn[if *files == 1 && *history == 0 { 0 } else { 2 }];
            of_written.push(turn[i].0 / base.0);
            of_table.push(turn[i].1 / base.1);
        }
    }
    let mut rows = Vec::new();
    for ((files, blocks, history), [written, table, of_written, of_table]) in &all {
        let what = format!("an advance beside {files} files of {blocks} blocks after {history}");
        let flat = of_written.median() <= 1.5 && of_table.median() <= 1.5;
        rows.push([
            files.to_string(),
            blocks.to_string(),
            history.to_string(),
            spread(written, 2),
            spread(table, 2),
            format!("{}, {}", spread(of_written, 2), spread(of_table, 2)),
            report.judge(&what, flat),
        ]);
    }
    report.table(
        [
            "files",
            "blocks of each",
            "transactions before",
            "10 blocks written, us",
            "a bucket changes, us",
            "against the first of its kind",
            "bar: <= 1.5",
        ],
        &rows,
    );
    Ok(())
}

fn weight(report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    // Hash tables double: at worst just after that, at best just before.
    for (blocks, step) in [(1_000_000, 1), (900_000, 1), (100_000, 1), (100_000, 60)] {
        let mut command = myself()?;
        // What is freed goes back at once, so that memory is what is in use.
        command
            .arg("tail-bytes")
            .args([blocks, step].map(|n: u64| n.to_string()))
            .env("MIMALLOC_PURGE_DELAY", "0");
        let figures = Figures::parse(&output(&mut command, LIMIT, &[])?);
        let (tracked, seen) = (figures.get("tracked_bytes")?, figures.get("seen_bytes")?);
        // A block that is alone in its bucket has all of what the bucket takes.
        let bar = match step {
            1 => report.judge(
                &format!("bytes of {blocks} blocks"),
                tracked + seen <= 128.0,
            ),
            _ => "-".to_owned(),
        };
        rows.push([
            blocks.to_string(),
            step.to_string(),
            format!("{tracked:.0}"),
            format!("{seen:.0}"),
            bar,
        ]);
    }
    report.table(
        [
            "blocks read",
            "one of each",
            "bytes tracked, each",
            "bytes of sums, each",
            "bar: <= 128",
        ],
        &rows,
    );
    Ok(())
}

/// The same on a mount: ten cached blocks change, beside few that were read and beside many, in turn.
pub fn mounted(bench: &Bench, report: &mut Report) -> Result<()> {
    report.line("## From a commit to head/at, beside what was read");
    report.line("");
    let many = if bench.size.is_full() {
        1_000_000
    } else {
        100_000
    };
    let mut writer = Writer::start(bench, "wide", (4096, many, 64))?;
    let mut sides = [1_000, many].map(|blocks| (blocks, [(); 3].map(|()| Sample::default())));
    let mut ratio = Sample::default();
    for _ in 0..bench.size.rounds.min(3) {
        let mut medians = Vec::new();
        for (blocks, [p50, p99, memory]) in &mut sides {
            let mounted = bench.mount(System::Zring("uring"), writer.database())?;
            writer.warm(&mounted, *blocks)?;
            let figures = writer.lag(&mounted, (200, 10, ""))?;
            p50.push(figures.get("p50_us")?);
            medians.push(figures.get("p50_us")?);
            p99.push(figures.get("p99_us")?);
            memory.push(resident_mib(mounted.pid())?);
            mounted.stop()?;
        }
        ratio.push(medians[1] / medians[0]);
    }
    let bar = report.judge(
        "an advance of a mount beside many blocks",
        ratio.median() <= 1.5,
    );
    let rows = sides.map(|(blocks, [p50, p99, memory])| {
        let (ratio, bar) = match blocks {
            1_000 => ("-".to_owned(), "-"),
            _ => (spread(&ratio, 2), bar.as_str()),
        };
        [
            blocks.to_string(),
            spread(&p50, 0),
            spread(&p99, 0),
            ratio,
            spread(&memory, 0),
            bar.to_owned(),
        ]
    });
    report.table(
        [
            "blocks read before",
            "p50 us",
            "p99 us",
            "against the first",
            "the daemon's memory, MiB",
            "bar: <= 1.5",
        ],
        &rows,
    );
    Ok(())
}

/// Memory of a process.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<f64>()? / 1024.0)
}
