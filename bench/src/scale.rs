//! Scale: the index of ten million objects, memory after reading much, blocks of large files.

use crate::bench::{Bench, LIMIT, System, Target, ZBLK0};
use crate::data::{BLKSIZE, SCALE, SMALL_BLKSIZE};
use crate::report::Report;
use crate::rig::{Figures, myself, output};
use crate::stat::{Sample, spread};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Instant;
use zring::store::file::{FileOpts, FileStore};

const MIB: f64 = (1 << 20) as f64;
/// Bytes read for the memory row.
const READ_BYTES: u64 = 10 << 30;
/// Blocks touched of each file of the scale row.
const TOUCHES: u64 = 1000;

/// Opens a database in a process of its own and prints what that took: `zring-bench open DATABASE`.
pub fn open(database: &Path) -> Result<()> {
    let start = Instant::now();
    let (store, view) = FileStore::open(database, &FileOpts::default(), &mut |_, _| {})?;
    println!("seconds {:.6}", start.elapsed().as_secs_f64());
    println!("scanned {}", u8::from(store.index_fault().is_some()));
    println!("objects {}", view.objects_max());
    println!("index_bytes {}", view.index_bytes());
    println!("peak_kb {}", memory("self", "VmHWM")?);
    Ok(())
}

/// A line of `/proc/<pid>/status`, in KiB.
fn memory(pid: &str, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|l| l.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name}"))?.parse()?)
}

fn opened(database: &Path) -> Result<Figures> {
    Ok(Figures::parse(&output(
        myself()?.arg("open").arg(database),
        LIMIT,
        &[],
    )?))
}

/// Measures and reports.
pub fn run(bench: &mut Bench, report: &mut Report) -> Result<()> {
    report.line("## Index");
    report.line("");
    index(bench, report)?;
    report.line("## Memory");
    report.line("");
    reading(bench, report)?;
    report.line("## Blocks per file");
    report.line("");
    scale(bench, report)
}

fn index(bench: &Bench, report: &mut Report) -> Result<()> {
    let database = bench.database("index")?;
    let bytes = std::fs::metadata(&database)?.len() as f64;
    // The same file under a name without a saved index beside it.
    let bare = bench.path("bare.fs");
    let _ = std::fs::remove_file(&bare);
    std::fs::hard_link(&database, &bare)?;
    let [mut rate, mut speed, mut each, mut peak, mut again] = [(); 5].map(|()| Sample::default());
    let mut objects = 0.0;
    for _ in 0..bench.size.rounds.clamp(2, 5) {
        let scan = opened(&bare)?;
        anyhow::ensure!(scan.get("scanned")? == 1.0, "the database was not scanned");
        objects = scan.get("objects")?;
        let seconds = scan.get("seconds")?;
        rate.push(objects / seconds / 1e6);
        speed.push(bytes / seconds / 1e6);
        each.push(scan.get("index_bytes")? / objects);
        peak.push(scan.get("peak_kb")? / 1024.0);
        let saved = opened(&database)?;
        anyhow::ensure!(saved.get("scanned")? == 0.0, "the saved index was not used");
        again.push(saved.get("seconds")?);
    }
    std::fs::remove_file(&bare)?;
    let scale = objects / 1e7; // the bar is one of 10^7 objects
    let rows = [
        [
            "objects".to_owned(),
            format!("{objects:.0}, {:.0} bytes of file each", bytes / objects),
            String::new(),
            String::new(),
        ],
        [
            "built by a scan, million objects/s".to_owned(),
            spread(&rate, 2),
            "-".to_owned(),
            "-".to_owned(),
        ],
        [
            "the same in MB/s of file".to_owned(),
            spread(&speed, 0),
            "-".to_owned(),
            "-".to_owned(),
        ],
        [
            "bytes of memory per object".to_owned(),
            spread(&each, 2),
            "<= 24".to_owned(),
            report.judge("index bytes", each.median() <= 24.0),
        ],
        [
            "peak memory of a scan, MiB".to_owned(),
            spread(&peak, 0),
            "-".to_owned(),
            "-".to_owned(),
        ],
        [
            "opened with the saved index, s".to_owned(),
            spread(&again, 3),
            "<= 0.5".to_owned(),
            report.judge("saved index", again.median() <= 0.5 * scale),
        ],
    ];
    report.table(["", "median", "bar", ""], &rows);
    Ok(())
}

fn reading(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let database = bench.database("blocks")?;
    let index = opened(&database)?.get("index_bytes")? / MIB;
    let bytes = bench.size.blocks * BLKSIZE;
    let times = READ_BYTES.div_ceil(bytes);
    let mut rows = Vec::new();
    for transport in ["uring", "dev", "plain"] {
        let system = System::Zring(transport);
        let mounted = bench.mount(system, &database)?;
        let pid = mounted.pid().to_string();
        let before = memory(&pid, "VmRSS")? as f64 / 1024.0;
        let of = (system, database.as_path(), &mounted);
        for turn in 0..times {
            bench.read(of, ZBLK0, &["seq", &bytes.to_string()], turn + 1)?;
            bench.read(of, ZBLK0, &["drop"], 0)?;
        }
        let (after, peak) = (
            memory(&pid, "VmRSS")? as f64 / 1024.0,
            memory(&pid, "VmHWM")? as f64 / 1024.0,
        );
        mounted.stop()?;
        let verdict = report.judge(&format!("memory, {transport}"), after <= index + 64.0);
        rows.push([
            transport.to_owned(),
            format!("{index:.1}"),
            format!("{before:.1}"),
            format!("{after:.1}"),
            format!("{peak:.1}"),
            format!("<= {:.1}", index + 64.0),
            verdict,
        ]);
    }
    report.line(&format!("A file of {:.1} GiB was read {times} times; the mount's cache of it was dropped in between.", bytes as f64 / (1u64 << 30) as f64));
    report.line("");
    report.table(
        [
            "transport",
            "index MiB",
            "at the start MiB",
            "after MiB",
            "peak MiB",
            "bar",
            "",
        ],
        &rows,
    );
    Ok(())
}

/// One file of the scale row, round by round; p50 of a touch in us.
#[derive(Clone, Debug, Default)]
struct Flat {
    stub: Sample,
    loaded: Sample,
    /// Before any node was loaded.
    cold: Sample,
    /// As the two above it, by a reader that the scheduler may move.
    stub_free: Sample,
    free: Sample,
    /// How often it was moved to another CPU, per touch.
    stub_moves: Sample,
    moves: Sample,
    /// Objects and places of blocks loaded per touch, once all nodes have been loaded.
    loads: Sample,
    places: Sample,
    /// To the smallest file in the same round: time, and time divided by the stub's.
    ratio: Sample,
    over_stub: Sample,
}

fn scale(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let database = bench.database("scale")?;
    let mut files: [Flat; SCALE.len()] = Default::default();
    for turn in 0..2 * bench.size.rounds {
        let mut times = [(0.0, 0.0); SCALE.len()];
        // Another one begins each time: whoever comes first finds the machine as the last one left it.
        for n in (0..SCALE.len()).map(|n| (n + turn) % SCALE.len()) {
            times[n] = scale_step(bench, &database, n, turn, &mut files[n])?;
        }
        let (stub0, loaded0) = times[0];
        for (file, (stub, loaded)) in files.iter_mut().zip(times) {
            file.ratio.push(loaded / loaded0);
            file.over_stub.push(loaded / stub / (loaded0 / stub0));
        }
    }
    let mut rows = Vec::new();
    for (file, (_, blocks)) in files.iter().zip(SCALE) {
        let ratio = file.ratio.median();
        rows.push([
            blocks.to_string(),
            spread(&file.stub, 2),
            spread(&file.loaded, 2),
            spread(&file.ratio, 2),
            report.judge(&format!("{blocks} blocks per file"), ratio <= 1.25),
            spread(&file.over_stub, 2),
            format!("{:.2}, {:.2}", file.loads.median(), file.places.median()),
            spread(&file.cold, 2),
            format!(
                "{}; {}",
                spread(&file.stub_free, 2),
                spread(&file.stub_moves, 2)
            ),
            format!("{}; {}", spread(&file.free, 2), spread(&file.moves, 2)),
        ]);
    }
    report.line(&format!("First touch of {TOUCHES} blocks of 4 KiB in random order, p50 in us, transport uring; bar: the time is at most 1.25 x that of 1000 blocks. All nodes were loaded before, by a touch of every 16th block; the other blocks were never read. The reader is bound to a CPU, another one each round. The last two columns are of one that is not bound, with how often per touch the scheduler moved it to the idle CPU: there it waits for that CPU to wake up (kernel-note 0021)."));
    report.line("");
    let head = [
        "blocks",
        "stub, same offsets",
        "zring",
        "to 1000 blocks",
        "",
        "the same of zring / stub",
        "objects, places loaded per touch",
        "zring, nodes not loaded",
        "stub, reader not bound; moves",
        "zring, reader not bound; moves",
    ];
    report.table(head, &rows);
    Ok(())
}

/// Measures one file once; gives the stub's time and that of zring with all nodes loaded before.
fn scale_step(
    bench: &mut Bench,
    database: &Path,
    n: usize,
    turn: usize,
    file: &mut Flat,
) -> Result<(f64, f64)> {
    let (name, blocks) = SCALE[n];
    let target = Target {
        name,
        tag: 10 + n as u64,
        data: 64,
    };
    let (blksize, blocks, touches) = (
        SMALL_BLKSIZE.to_string(),
        blocks.to_string(),
        TOUCHES.to_string(),
    );
    let cpu = (turn % std::thread::available_parallelism()?.get()).to_string();
    let touch = ["touch", &blksize, &blocks, "--max", &touches];
    let bound = [&touch[..], &["--cpu", &cpu]].concat();
    // From every CPU, so that every worker has loaded all nodes; then the file's pages are dropped.
    let load_nodes = ["stride", &blksize, &blocks, "16"];
    let seed = turn as u64 + 1;

    // Each in a mount of its own: what was touched once is known, and of a small file that is all of it.
    let mut p50 = |system, program: &[&str], warm: bool| -> Result<(f64, [f64; 3])> {
        let mounted = bench.mount(system, database)?;
        let of = (system, database, &mounted);
        if warm {
            bench.read(of, target, &load_nodes, seed)?;
        }
        let before = bench.stats(&mounted).ok();
        let figures = bench.read(of, target, program, seed)?;
        let mut loads = [0.0, 0.0, figures.get("moves")? / TOUCHES as f64];
        if let Some(before) = before {
            let after = bench.stats(&mounted)?;
            for (load, name) in loads.iter_mut().zip(["load", "load_place"]) {
                *load = (after.get(name)? - before.get(name)?) / TOUCHES as f64;
            }
        }
        mounted.stop()?;
        Ok((figures.get("p50_us")?, loads))
    };
    let (stub, zring) = (System::Stub("uring"), System::Zring("uring"));
    let (stub_time, _) = p50(stub, &bound, true)?;
    let (time, [loads, places, _]) = p50(zring, &bound, true)?;
    file.stub.push(stub_time);
    file.loaded.push(time);
    file.loads.push(loads);
    file.places.push(places);
    file.cold.push(p50(zring, &bound, false)?.0);
    for (system, times, moves) in [
        (stub, &mut file.stub_free, &mut file.stub_moves),
        (zring, &mut file.free, &mut file.moves),
    ] {
        let (time, [.., moved]) = p50(system, &touch, true)?;
        times.push(time);
        moves.push(moved);
    }
    Ok((stub_time, time))
}
