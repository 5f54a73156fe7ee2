//! Speed: what a reader waits, against the stub of the same transport, a loop of preads, Python and the `fuser` crate.
//!
//! Every step has a fresh mount, so nothing is cached in the daemon or in the kernel's cache of it; the database is in
//! the page cache throughout. Within a round the systems take turns on one row before the next row begins,
//! and ratios are those of one round: a slow minute of the machine hits both sides.

use crate::bench::{Bench, LIMIT, System, Target, ZBLK0, ZBLK1};
use crate::data::BLKSIZE;
use crate::report::Report;
use crate::rig::{Figures, myself, output};
use crate::stat::Sample;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const TRANSPORTS: [&str; 3] = ["uring", "dev", "plain"];

/// One workload.
struct Row {
    name: &'static str,
    target: Target,
    /// Program and arguments behind the file; `BLOCKS` and `BYTES` are the file's.
    program: &'static [&'static str],
    figure: &'static str,
    unit: &'static str,
    /// zring divided by the stub: at most, or at least.
    bar: Option<Bar>,
    /// zring is ahead of the peer when its figure is smaller.
    less: bool,
}

#[derive(Clone, Copy)]
enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bar) => ratio <= bar,
            Self::AtLeast(bar) => ratio >= bar,
        }
    }

    fn show(self) -> String {
        match self {
            Self::AtMost(bar) => format!("<= {bar}"),
            Self::AtLeast(bar) => format!(">= {bar}"),
        }
    }
}

const fn row(
    name: &'static str,
    target: Target,
    program: &'static [&'static str],
    (figure, unit, less): (&'static str, &'static str, bool),
    bar: Option<Bar>,
) -> Row {
    Row {
        name,
        target,
        program,
        figure,
        unit,
        bar,
        less,
    }
}

const P50: (&str, &str, bool) = ("p50_us", "us", true);
const P99: (&str, &str, bool) = ("p99_us", "us", true);
const FAULTS: (&str, &str, bool) = ("faults_s", "/s", false);
const GB: (&str, &str, bool) = ("gb_s", "GB/s", false);
const TOUCH: &[&str] = &["touch", "BLKSIZE", "BLOCKS"];
const FAULT: &[&str] = &["fault", "BLKSIZE", "BLOCKS", "8"];
const SEQ: &[&str] = &["seq", "BYTES"];
const DIRECT: &[&str] = &["direct", "BLKSIZE", "BLOCKS"];

const ROWS: [Row; 7] = [
    row(
        "first touch, ZBlk0, p50",
        ZBLK0,
        TOUCH,
        P50,
        Some(Bar::AtMost(3.0)),
    ),
    row(
        "first touch, ZBlk1, p50",
        ZBLK1,
        TOUCH,
        P50,
        Some(Bar::AtMost(4.0)),
    ),
    row(
        "mmap fault, 8 threads, ZBlk0",
        ZBLK0,
        FAULT,
        FAULTS,
        Some(Bar::AtLeast(0.5)),
    ),
    row("mmap fault, 8 threads, ZBlk1", ZBLK1, FAULT, FAULTS, None),
    row(
        "sequential cold read, ZBlk0",
        ZBLK0,
        SEQ,
        GB,
        Some(Bar::AtLeast(0.75)),
    ),
    row("sequential cold read, ZBlk1", ZBLK1, SEQ, GB, None),
    row("O_DIRECT 2 MiB, ZBlk1, p50", ZBLK1, DIRECT, P50, None),
];

/// Figures by row, figure and system, in order of rounds.
type Found = HashMap<(usize, &'static str, System), Vec<f64>>;

/// Measures and reports.
pub fn run(bench: &mut Bench, report: &mut Report, python: Option<&Path>) -> Result<()> {
    let database = bench.database("blocks")?;
    let mut found = Found::new();
    for round in 0..bench.size.rounds {
        for (n, row) in ROWS.iter().enumerate() {
            for system in systems(row, round) {
                let figures = step(bench, &database, system, row, round)?;
                for figure in [row.figure, "p99_us"] {
                    if let Ok(value) = figures.get(figure) {
                        found.entry((n, figure, system)).or_default().push(value);
                    }
                }
            }
        }
        eprintln!("speed: round {} of {} done", round + 1, bench.size.rounds);
    }
    show(report, &found);
    assembly(bench, report, &database, python)?;
    warm(bench, report, &database)?;
    let disk = bench.disk_bytes;
    report.line(&format!(
        "The daemons made the disk read {disk} bytes while they were measured."
    ));
    report.line("");
    Ok(())
}

/// Who takes a turn on a row, in which order: it changes from round to round.
fn systems(row: &Row, round: usize) -> Vec<System> {
    let mut all = Vec::new();
    for transport in TRANSPORTS {
        let mut pair = [System::Stub(transport), System::Zring(transport)];
        pair.rotate_left(round % 2);
        all.extend(pair);
        if transport == TRANSPORTS[0] {
            all.push(System::Fuser);
            if row.figure == GB.0 && row.target == ZBLK0 {
                all.push(System::Pread(transport));
            }
        }
    }
    all
}

fn step(
    bench: &mut Bench,
    database: &Path,
    system: System,
    row: &Row,
    round: usize,
) -> Result<Figures> {
    let blocks = bench.size.blocks;
    let words: Vec<String> = row
        .program
        .iter()
        .map(|&word| match word {
            "BLKSIZE" => BLKSIZE.to_string(),
            "BLOCKS" => blocks.to_string(),
            "BYTES" => (blocks * BLKSIZE).to_string(),
            word => word.to_owned(),
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mounted = bench.mount(system, database)?;
    let figures = bench.read(
        (system, database, &mounted),
        row.target,
        &words,
        round as u64 + 1,
    )?;
    mounted.stop()?;
    Ok(figures)
}

fn samples(found: &Found, n: usize, figure: &'static str, system: System) -> Sample {
    found
        .get(&(n, figure, system))
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

/// Ratios of two systems, round by round.
fn ratios(found: &Found, n: usize, figure: &'static str, (a, b): (System, System)) -> Sample {
    let of = |system| {
        found
            .get(&(n, figure, system))
            .into_iter()
            .flatten()
            .copied()
    };
    of(a).zip(of(b)).map(|(a, b)| a / b).collect()
}

/// Median and spread.
pub fn spread(sample: &Sample, digits: usize) -> String {
    if sample.len() == 0 {
        return "-".to_owned();
    }
    let (low, high) = sample.span();
    format!(
        "{:.digits$} ({low:.digits$} .. {high:.digits$})",
        sample.median()
    )
}

fn show(report: &mut Report, found: &Found) {
    report.line("## Against the stub, transport uring");
    report.line("");
    report.line("Medians over the rounds, smallest and largest in brackets.");
    report.line("");
    let (stub, zring) = (System::Stub("uring"), System::Zring("uring"));
    let mut rows = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        let ratio = ratios(found, n, row.figure, (zring, stub));
        let verdict = row.bar.map_or("-".to_owned(), |bar| {
            report.judge(row.name, bar.met(ratio.median()))
        });
        let digits = if row.unit == "/s" { 0 } else { 2 };
        rows.push([
            row.name.to_owned(),
            row.unit.to_owned(),
            spread(&samples(found, n, row.figure, stub), digits),
            spread(&samples(found, n, row.figure, zring), digits),
            spread(&ratio, 2),
            row.bar.map_or("-".to_owned(), Bar::show),
            verdict,
        ]);
        if row.figure == P50.0 {
            rows.push(p99(found, n, row, (stub, zring)));
        }
    }
    report.table(
        [
            "workload",
            "unit",
            "stub",
            "zring",
            "zring / stub",
            "bar",
            "",
        ],
        &rows,
    );
    floor(report, found);
    transports(report, found);
    peer(report, found);
}

fn p99(found: &Found, n: usize, row: &Row, (stub, zring): (System, System)) -> [String; 7] {
    [
        row.name.replace("p50", "p99"),
        row.unit.to_owned(),
        spread(&samples(found, n, P99.0, stub), 2),
        spread(&samples(found, n, P99.0, zring), 2),
        spread(&ratios(found, n, P99.0, (zring, stub)), 2),
        "-".to_owned(),
        "-".to_owned(),
    ]
}

/// The stub that does one pread per READ: what any database costs at least.
fn floor(report: &mut Report, found: &Found) {
    let Some(n) = ROWS
        .iter()
        .position(|row| row.figure == GB.0 && row.target == ZBLK0)
    else {
        return;
    };
    let (stub, pread, zring) = (
        System::Stub("uring"),
        System::Pread("uring"),
        System::Zring("uring"),
    );
    let value = spread(&samples(found, n, GB.0, pread), 2);
    let to_stub = spread(&ratios(found, n, GB.0, (pread, stub)), 2);
    let ours = spread(&ratios(found, n, GB.0, (zring, pread)), 2);
    report.line(&format!(
        "A stub that answers each READ by one pread of the database file reaches {value} GB/s sequentially: {to_stub} of the stub; zring is at {ours} of that."
    ));
    report.line("");
}

fn transports(report: &mut Report, found: &Found) {
    report.line("## Transports");
    report.line("");
    let mut rows = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        let digits = if row.unit == "/s" { 0 } else { 2 };
        let value = |system| spread(&samples(found, n, row.figure, system), digits);
        let ratio = |t| {
            spread(
                &ratios(found, n, row.figure, (System::Zring(t), System::Stub(t))),
                2,
            )
        };
        for (what, of) in [
            ("stub", System::Stub as fn(_) -> _),
            ("zring", System::Zring as fn(_) -> _),
        ] {
            let name = format!("{}, {what} ({})", row.name, row.unit);
            rows.push([
                name,
                value(of("uring")),
                value(of("dev")),
                value(of("plain")),
            ]);
        }
        rows.push([
            format!("{}, zring / stub", row.name),
            ratio("uring"),
            ratio("dev"),
            ratio("plain"),
        ]);
    }
    report.table(["workload", "uring", "dev", "plain"], &rows);
}

fn peer(report: &mut Report, found: &Found) {
    report.line("## The `fuser` crate before the same rooms, one READ at a time");
    report.line("");
    let mut rows = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        let pair = (System::Zring("uring"), System::Fuser);
        let pair = if row.less { (pair.1, pair.0) } else { pair };
        let ahead = ratios(found, n, row.figure, pair);
        let verdict = report.judge(&format!("{} against fuser", row.name), ahead.median() > 1.0);
        let digits = if row.unit == "/s" { 0 } else { 2 };
        rows.push([
            format!("{} ({})", row.name, row.unit),
            spread(&samples(found, n, row.figure, System::Fuser), digits),
            spread(
                &samples(found, n, row.figure, System::Zring("uring")),
                digits,
            ),
            spread(&ahead, 2),
            verdict,
        ]);
    }
    report.table(
        ["workload", "fuser", "zring uring", "zring is ahead by", ""],
        &rows,
    );
}

/// A cold ZBlk1 inside the process, against a loop of preads in C and against Python.
fn assembly(
    bench: &Bench,
    report: &mut Report,
    database: &Path,
    python: Option<&Path>,
) -> Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let c_loop = compile(bench, &top.join("peers/preads.c"));
    let positions = bench.path("positions");
    if c_loop.is_some() {
        let text = output(myself()?.arg("positions").arg(database), LIMIT, &[])?;
        std::fs::write(&positions, text)?;
    }
    let mut all: HashMap<&str, Sample> = HashMap::new();
    for round in 0..bench.size.rounds.min(5) {
        let mut inside = myself()?;
        inside
            .arg("inside")
            .arg(database)
            .arg((round + 1).to_string());
        let figures = Figures::parse(&output(&mut inside, LIMIT, &[])?);
        let (zring, preads) = (figures.get("zring_us")?, figures.get("preads_us")?);
        let mut note = |name, value| all.entry(name).or_default().push(value);
        note("zring", zring);
        note("zring p99", figures.get("zring_p99_us")?);
        note("preads", preads);
        note("zring / preads", zring / preads);
        note("first", figures.get("first_us")?);
        if let Some(program) = &c_loop {
            let text = output(
                Command::new(program).arg(database).arg(&positions),
                LIMIT,
                &[],
            )?;
            let (hot, apart) = (median(&text, "hot"), median(&text, "apart"));
            note("c hot", hot);
            note("c apart", apart);
            note("zring / c hot", zring / hot);
            note("zring / c apart", zring / apart);
        }
        if let Some(python) = python {
            let mut command = Command::new(python);
            let blocks = (0..25).map(|i| (i * 37 + round * 5) as u64 % bench.size.blocks);
            command
                .arg(top.join("peers/zodb_blocks.py"))
                .arg(database)
                .arg("zblk1");
            command.args(blocks.map(|blk| blk.to_string()));
            let one = median(&output(&mut command, LIMIT, &[])?, "python");
            note("python", one);
            note("python / zring", one / zring);
        }
    }
    show_assembly(report, &all);
    Ok(())
}

fn show_assembly(report: &mut Report, all: &HashMap<&str, Sample>) {
    report.line("## A cold ZBlk1 of 512 chunks inside the process: load, decode, assemble 2 MiB");
    report.line("");
    let mut rows = Vec::new();
    let mut add = |report: &mut Report, name: &str, unit: &str, key: &str, bar: Option<Bar>| {
        let Some(sample) = all.get(key) else {
            rows.push([
                name.to_owned(),
                "not measured".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]);
            return;
        };
        let verdict = bar.map_or("-".to_owned(), |bar| {
            report.judge(name, bar.met(sample.median()))
        });
        let digits = if unit == "us" { 0 } else { 2 };
        rows.push([
            format!("{name} {unit}"),
            spread(sample, digits),
            bar.map_or("-".to_owned(), Bar::show),
            verdict,
        ]);
    };
    add(report, "zring, the whole block, p50", "us", "zring", None);
    add(
        report,
        "zring, the whole block, p99",
        "us",
        "zring p99",
        None,
    );
    add(report, "zring, the first 4 KiB", "us", "first", None);
    add(
        report,
        "512 preads, Rust, into one buffer",
        "us",
        "preads",
        None,
    );
    add(
        report,
        "512 preads, C, into one buffer",
        "us",
        "c hot",
        None,
    );
    add(
        report,
        "512 preads, C, one behind the other",
        "us",
        "c apart",
        None,
    );
    add(report, "Python ZODB, activating them", "us", "python", None);
    add(
        report,
        "zring / preads in Rust",
        "",
        "zring / preads",
        Some(Bar::AtMost(2.0)),
    );
    add(
        report,
        "zring / preads in C, one buffer",
        "",
        "zring / c hot",
        Some(Bar::AtMost(2.0)),
    );
    add(
        report,
        "zring / preads in C, one behind the other",
        "",
        "zring / c apart",
        None,
    );
    add(
        report,
        "Python / zring",
        "",
        "python / zring",
        Some(Bar::AtLeast(10.0)),
    );
    report.table(["", "median", "bar", ""], &rows);
}

/// Median of the lines that begin with a word.
fn median(text: &str, word: &str) -> f64 {
    let value = |line: &str| line.strip_prefix(word)?.trim().parse().ok();
    text.lines().filter_map(value).collect::<Sample>().median()
}

/// The C loop, if there is a compiler.
fn compile(bench: &Bench, source: &Path) -> Option<PathBuf> {
    let program = bench.path("preads");
    let status = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    let made = status.is_ok_and(|status| status.success());
    made.then_some(program)
}

/// What is cached already: no request may reach the daemon.
fn warm(bench: &mut Bench, report: &mut Report, database: &Path) -> Result<()> {
    report.line("## Warm reads");
    report.line("");
    let bytes = (bench.size.blocks * BLKSIZE).min(1 << 30).to_string();
    let mut rows = Vec::new();
    for transport in TRANSPORTS {
        let system = System::Zring(transport);
        let mounted = bench.mount(system, database)?;
        let at = (system, database, &mounted);
        bench.read(at, ZBLK0, &["seq", &bytes], 1)?;
        // Reading ahead goes on for a moment, and so do stores.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let idle = [bench.stats(&mounted)?, bench.stats(&mounted)?];
        let figures = bench.read(at, ZBLK0, &["warm", &bytes, "200000"], 2)?;
        let after = bench.stats(&mounted)?;
        let of = |figures: &Figures, name: &str| figures.get(name).context("stats");
        let reads = of(&after, "fuse_read")? - of(&idle[1], "fuse_read")?;
        // Opening the file is a request, and so is asking for the figures: taken off as measured before.
        let asking = of(&idle[1], "fuse_request")? - of(&idle[0], "fuse_request")?;
        let requests = of(&after, "fuse_request")? - of(&idle[1], "fuse_request")? - asking;
        mounted.stop()?;
        let verdict = report.judge(&format!("warm reads, {transport}"), reads == 0.0);
        rows.push([
            transport.to_owned(),
            format!("{reads}"),
            format!("{requests}"),
            format!("{:.2}", figures.get("pread_us")?),
            format!("{:.3}", figures.get("mmap_us")?),
            verdict,
        ]);
    }
    let head = [
        "transport",
        "READs",
        "requests beside (open, release)",
        "pread 4 KiB us",
        "mapped us",
        "",
    ];
    report.table(head, &rows);
    Ok(())
}
