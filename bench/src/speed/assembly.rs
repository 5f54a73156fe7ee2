//! A cold ZBlk1 inside a process (see `inside`), against a loop of preads in C and against Python.

use super::Bar;
use crate::bench::{Bench, LIMIT};
use crate::report::Report;
use crate::rig::{Figures, myself, output};
use crate::stat::{Sample, spread};
use anyhow::Result;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Measures, in a few rounds, and reports.
pub(super) fn run(
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
    show(report, &all);
    Ok(())
}

fn show(report: &mut Report, all: &HashMap<&str, Sample>) {
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
