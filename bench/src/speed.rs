//! Speed: what a reader waits, against the stub of the same transport, a loop of preads, Python and the `fuser` crate.
//!
//! Every step has a fresh mount, so nothing is cached in the daemon or in the kernel's cache of it; the database is in
//! the page cache throughout. Within a round the systems take turns on one row before the next row begins,
//! and ratios are those of one round: a slow minute of the machine hits both sides.

//!
//! `tables` shows it; `assembly` and `warm` are two more kinds of row.

mod assembly;
mod tables;
mod warm;

use crate::bench::{Bench, System, Target, ZBLK0, ZBLK1};
use crate::data::BLKSIZE;
use crate::report::Report;
use crate::rig::Figures;
use anyhow::Result;
use std::collections::HashMap;
use std::path::Path;

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

impl Row {
    /// Turns in one round: a step of 20 ms needs more of them than one of seconds.
    fn turns(&self) -> usize {
        if self.program[0] == "touch" || self.program[0] == "fault" {
            3
        } else {
            1
        }
    }
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
/// A reader that stays on its CPU: else the scheduler may move it with every answer, and every READ finds the caches of
/// another CPU, and another worker.
const TOUCH_PINNED: &[&str] = &["touch", "BLKSIZE", "BLOCKS", "--cpu", "0"];
const FAULT: &[&str] = &["fault", "BLKSIZE", "BLOCKS", "8"];
const SEQ: &[&str] = &["seq", "BYTES"];
const DIRECT: &[&str] = &["direct", "BLKSIZE", "BLOCKS"];

const ROWS: [Row; 9] = [
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
        "first touch, ZBlk0, pinned reader, p50",
        ZBLK0,
        TOUCH_PINNED,
        P50,
        None,
    ),
    row(
        "first touch, ZBlk1, pinned reader, p50",
        ZBLK1,
        TOUCH_PINNED,
        P50,
        None,
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
            let turns = (0..row.turns()).map(|turn| round * row.turns() + turn);
            turns
                .into_iter()
                .try_for_each(|turn| take_turns(bench, &database, (n, row), turn, &mut found))?;
        }
        eprintln!("speed: round {} of {} done", round + 1, bench.size.rounds);
    }
    tables::show(report, &found);
    assembly::run(bench, report, &database, python)?;
    warm::run(bench, report, &database)?;
    let disk = bench.disk_bytes;
    report.line(&format!(
        "The daemons made the disk read {disk} bytes while they were measured."
    ));
    report.line("");
    Ok(())
}

/// Every system once on one row.
fn take_turns(
    bench: &mut Bench,
    database: &Path,
    (n, row): (usize, &Row),
    turn: usize,
    found: &mut Found,
) -> Result<()> {
    for system in systems(row, turn) {
        let figures = step(bench, database, system, row, turn)?;
        for figure in [row.figure, "p99_us"] {
            if let Ok(value) = figures.get(figure) {
                found.entry((n, figure, system)).or_default().push(value);
            }
        }
    }
    Ok(())
}

/// Who takes a turn on a row, in which order: it changes from turn to turn.
fn systems(row: &Row, turn: usize) -> Vec<System> {
    let mut all = Vec::new();
    for transport in TRANSPORTS {
        let mut pair = [System::Stub(transport), System::Zring(transport)];
        pair.rotate_left(turn % 2);
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
