//! Warm reads: what the kernel's page cache answers by itself.

use super::TRANSPORTS;
use crate::bench::{Bench, System, ZBLK0};
use crate::data::BLKSIZE;
use crate::report::Report;
use anyhow::Result;
use std::path::Path;

/// What is cached already: no request may reach the daemon, and a read costs what it costs on the stub.
pub(super) fn run(bench: &mut Bench, report: &mut Report, database: &Path) -> Result<()> {
    report.line("## Warm reads");
    report.line("");
    let bytes = (bench.size.blocks * BLKSIZE).min(1 << 30).to_string();
    let mut rows = Vec::new();
    for transport in TRANSPORTS {
        for system in [System::Stub(transport), System::Zring(transport)] {
            rows.push(warm_row(
                bench,
                report,
                database,
                (system, transport),
                &bytes,
            )?);
        }
    }
    let head = [
        "mount",
        "READs",
        "requests beside (open, release)",
        "pread 4 KiB, us",
        "mapped, us",
        "",
    ];
    report.table(head, &rows);
    Ok(())
}

fn warm_row(
    bench: &mut Bench,
    report: &mut Report,
    database: &Path,
    (system, transport): (System, &str),
    bytes: &str,
) -> Result<[String; 6]> {
    let mounted = bench.mount(system, database)?;
    let at = (system, database, &mounted);
    bench.read(at, ZBLK0, &["seq", bytes], 1)?;
    // Reading ahead goes on for a moment, and so do stores.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let ours = matches!(system, System::Zring(_));
    let idle = if ours {
        Some([bench.stats(&mounted)?, bench.stats(&mounted)?])
    } else {
        None
    };
    let figures = bench.read(at, ZBLK0, &["warm", bytes, "200000"], 2)?;
    let costs = [
        format!("{:.2}", figures.get("pread_us")?),
        format!("{:.3}", figures.get("mmap_us")?),
    ];
    let counted = match idle {
        None => None,
        Some([first, second]) => {
            let after = bench.stats(&mounted)?;
            // Opening the file is a request, and so is asking for the figures: taken off as measured before.
            let asking = second.get("fuse_request")? - first.get("fuse_request")?;
            let reads = after.get("fuse_read")? - second.get("fuse_read")?;
            Some((
                reads,
                after.get("fuse_request")? - second.get("fuse_request")? - asking,
            ))
        }
    };
    mounted.stop()?;
    let [pread, mapped] = costs;
    let dash = || "-".to_owned();
    Ok(match counted {
        None => [
            format!("stub, {transport}"),
            dash(),
            dash(),
            pread,
            mapped,
            dash(),
        ],
        Some((reads, requests)) => {
            let verdict = report.judge(&format!("warm reads, {transport}"), reads == 0.0);
            [
                format!("zring, {transport}"),
                reads.to_string(),
                requests.to_string(),
                pread,
                mapped,
                verdict,
            ]
        }
    })
}
