//! The tables of what mounts did: against the stub, by transport, against the peer.

use super::{Bar, Found, GB, P50, P99, ROWS, Row};
use crate::bench::{System, ZBLK0};
use crate::report::Report;
use crate::stat::{Sample, spread};

/// All of them.
pub(super) fn show(report: &mut Report, found: &Found) {
    against_stub(report, found);
    floor(report, found);
    transports(report, found);
    peer(report, found);
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

fn against_stub(report: &mut Report, found: &Found) {
    report.line("## Against the stub, transport uring");
    report.line("");
    report.line("Medians over the turns, quartiles in brackets.");
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
