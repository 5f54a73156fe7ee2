//! What a scan costs others: large files at the speed of disk and processors, and many changed ones beside a mount that serves.

use crate::bench::{Bench, System, ZBLK0};
use crate::etag::{OLD, Tree, timed};
use crate::report::Report;
use crate::stat::{Sample, spread};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::Digest as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
/// Files of a GiB.
const LARGE_FILES: u64 = 8;
/// What stands for the page cache of the host.
const RESIDENT_BYTES: u64 = 256 << 20;
/// The scan beside a mount may have so many bytes of buffers, and hash so many a second.
const MEM_BYTES: u64 = 64 << 20;
const BPS: u64 = 20 << 20;

fn large_file(dir: &Path, i: u64) -> PathBuf {
    dir.join(format!("large-{i}"))
}

fn fill(path: &Path, bytes: u64, mut word: u64) -> Result<()> {
    if path.metadata().is_ok_and(|meta| meta.len() == bytes) {
        return Ok(());
    }
    eprintln!("making {}", path.display());
    let mut file = File::create(path)?;
    let mut buf = vec![0u8; 1 << 20];
    for _ in 0..bytes >> 20 {
        for chunk in buf.chunks_exact_mut(8) {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            chunk.copy_from_slice(&(word ^ word >> 29).to_le_bytes());
        }
        file.write_all(&buf)?;
    }
    file.sync_all()?;
    file.set_modified(std::time::SystemTime::now() - OLD)?;
    Ok(())
}

fn forget(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    Ok(posix_fadvise(
        &file,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

/// Bytes of a file that are in memory.
fn resident(path: &Path) -> Result<u64> {
    let said = Command::new("fincore")
        .args(["-b", "-n", "-o", "RES"])
        .arg(path)
        .output()
        .context("fincore (of util-linux)")?;
    Ok(String::from_utf8(said.stdout)?.trim().parse()?)
}

/// Large files: `bench/run etag-large`.
pub fn large(bench: &Bench, report: &mut Report, rounds: usize) -> Result<()> {
    let top = bench.path("etag-large");
    let tree = top.join("tree");
    std::fs::create_dir_all(&tree)?;
    for i in 0..LARGE_FILES {
        fill(&large_file(&tree, i), GIB, i + 1)?;
    }
    let host = top.join("host");
    fill(&host, RESIDENT_BYTES, 77)?;
    let cold = || (0..LARGE_FILES).try_for_each(|i| forget(&large_file(&tree, i)));
    let gib = |seconds: f64| LARGE_FILES as f64 / seconds;
    let (mut scan, mut disk, mut left) = (Vec::new(), Vec::new(), Sample::default());
    let mut brought = Sample::default();
    for round in 0..rounds {
        for which in [round % 2, (round + 1) % 2] {
            cold()?;
            std::fs::read(&host)?;
            if which == 0 {
                let _ = std::fs::remove_dir_all(top.join("state"));
                let mut command = Command::new(bench.zring()?);
                command.args(["etag", "scan", "-q", "--format", "none"]);
                command.args(["--progress", "never", "--pressure", "100"]);
                command.arg("--state").arg(top.join("state")).arg(&tree);
                scan.push(gib(timed(&mut command)?));
                left.push(resident(&host)? as f64 / RESIDENT_BYTES as f64);
                let all = (0..LARGE_FILES).map(|i| resident(&large_file(&tree, i)));
                let all = all.sum::<Result<u64>>()?;
                brought.push(all as f64 / (LARGE_FILES * GIB) as f64);
            } else {
                // Past the page cache, two at a time: what the disk gives.
                let mut command = Command::new("sh");
                command.arg("-c").arg(
                    "ls large-* | xargs -P2 -I% dd if=% of=/dev/null bs=4M iflag=direct status=none",
                );
                disk.push(gib(timed(command.current_dir(&tree))?));
            }
        }
    }
    let cores = std::thread::available_parallelism()?.get();
    let sha = hashing(cores);
    let [scan, disk]: [Sample; 2] = [scan, disk].map(|all| all.into_iter().collect());
    let floor = disk.median().min(sha);
    let share = scan.median() / floor;
    let met = report.judge("8 GiB of large files: scan / floor", share >= 0.9);
    let kept = report.judge("8 GiB: the page cache is left alone", left.median() > 0.95);
    report.line("### 8 GiB of large files, cold");
    report.line("");
    let row = |what: &str, sample: &str, bar: &str, said: &str| {
        [what, sample, bar, said].map(str::to_owned)
    };
    report.table(
        ["", "", "bar", ""],
        &[
            row("scan, GiB/s", &spread(&scan, 3), "-", "-"),
            row("the disk (dd, direct), GiB/s", &spread(&disk, 3), "-", "-"),
            row(
                "SHA-256 on all cores, GiB/s",
                &format!("{sha:.3}"),
                "-",
                "-",
            ),
            row(
                "scan / the lower of these",
                &format!("{share:.3}"),
                ">= 0.9",
                &met,
            ),
            row(
                "left of 256 MiB in memory",
                &spread(&left, 3),
                "> 0.95",
                &kept,
            ),
            row(
                "of the 8 GiB, in memory afterwards",
                &spread(&brought, 3),
                "-",
                "-",
            ),
        ],
    );
    Ok(())
}

/// GiB a second that so many threads hash.
fn hashing(threads: usize) -> f64 {
    const ROUNDS: u64 = 1024;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let buf = vec![5u8; 1 << 20];
                let mut hasher = sha2::Sha256::new();
                (0..ROUNDS).for_each(|_| hasher.update(&buf));
                std::hint::black_box(hasher.finalize());
            });
        }
    });
    threads as f64 * (ROUNDS << 20) as f64 / GIB as f64 / began.elapsed().as_secs_f64()
}

fn rss_anon(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// A scan that is ended, whatever happens.
struct Scan(Child);

impl Drop for Scan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One file in ten changed beside a mount that serves: `bench/run etag-throttle`.
pub fn throttle(bench: &mut Bench, report: &mut Report, rounds: u64) -> Result<()> {
    let files = if bench.size.is_full() {
        1_000_000
    } else {
        100_000
    };
    let tree = Tree::new(&bench.path(&format!("etag-{files}")), files)?;
    timed(&mut tree.etag("scan", "state")?)?;
    let system = System::Zring("uring");
    let database = bench.database("blocks")?;
    let mounted = bench.mount(system, &database)?;
    let (mut calm, mut beside) = (Sample::default(), Sample::default());
    let (mut growth, mut rate) = (0u64, Sample::default());
    let program = ["cold", "2097152", "64", "3000"];
    let marks = ["p99_us"];
    for round in 0..rounds {
        let seed = 10 + round;
        let at = (system, database.as_path(), &mounted);
        calm.push(bench.read(at, ZBLK0, &program, seed)?.get(marks[0])?);
        for i in (usize::try_from(round)?..files).step_by(10) {
            tree.write(i, usize::try_from(round)? + 5000, OLD)?;
        }
        nix::unistd::sync();
        let bytes = (files / 10) as u64 * 1024;
        let mut command = tree.etag("scan", "state")?;
        command.args(["--mem", "64M", "--bps", "20M", "--pressure", "100"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let began = Instant::now();
        let mut scan = Scan(command.spawn()?);
        let pid = scan.0.id();
        let watch = std::thread::spawn(move || {
            let (mut first, mut most) = (0, 0);
            let began = Instant::now();
            loop {
                let now = rss_anon(pid);
                if now == 0 && began.elapsed() > Duration::from_millis(200) {
                    return most - first;
                }
                // By then the catalog is there.
                if began.elapsed() < Duration::from_millis(100) {
                    first = now;
                }
                most = most.max(now).max(first);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        beside.push(bench.read(at, ZBLK0, &program, seed + 100)?.get(marks[0])?);
        let status = scan.0.wait()?;
        let took = began.elapsed().as_secs_f64();
        ensure!(status.success(), "the scan ended with {status}");
        growth = growth.max(watch.join().expect("it does not panic"));
        rate.push(bytes as f64 / took);
    }
    mounted.stop()?;
    let slower = beside.median() / calm.median();
    let share = rate.median() / BPS as f64;
    let allowed = MEM_BYTES + (64 << 20);
    let verdicts = [
        report.judge("throttle: p99 of a mount's reads", slower <= 1.5),
        report.judge("throttle: memory", growth <= allowed),
        report.judge("throttle: rate", (0.9..=1.1).contains(&share)),
    ];
    report.line(&format!(
        "### {files} files, one in ten changed, beside a mount that serves 4 KiB reads"
    ));
    report.line("");
    let [p99, memory, pace] = verdicts;
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    report.table(
        ["", "", "bar", ""],
        &[
            [
                "p99 of reads, calm, us".into(),
                spread(&calm, 1),
                "-".into(),
                "-".into(),
            ],
            [
                "p99 of reads, beside a scan, us".into(),
                spread(&beside, 1),
                "-".into(),
                "-".into(),
            ],
            [
                "p99, beside / calm".into(),
                format!("{slower:.2}"),
                "<= 1.5".into(),
                p99,
            ],
            [
                "RssAnon of the scan, growth, MiB".into(),
                mib(growth),
                format!("<= {}", mib(allowed)),
                memory,
            ],
            [
                "bytes a second / --bps 20M, whole run".into(),
                format!("{share:.2}"),
                "0.9 .. 1.1".into(),
                pace,
            ],
        ],
    );
    Ok(())
}
