//! Checks and scans of trees of small files, against what others take for the same trees.

use crate::bench::Bench;
use crate::etag_load;
use crate::report::Report;
use crate::rig::myself;
use crate::stat::{Sample, spread};
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount, umount};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

const PER_DIR: usize = 1000;
const BY_RING: [&str; 2] = ["--meta-engine", "uring"];
/// Older than files have to be to be read without a sync.
pub(crate) const OLD: Duration = Duration::from_secs(120);

/// A tree, git's index of it, and zring's state.
pub(crate) struct Tree {
    top: PathBuf,
    files: usize,
}

fn zring() -> Result<Command> {
    let path = std::env::current_exe()?.with_file_name("zring");
    ensure!(path.exists(), "{} is not built", path.display());
    let mut command = Command::new(path);
    command.arg("etag");
    Ok(command)
}

/// Runs to its end in silence; seconds.
pub(crate) fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    let took = began.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took)
}

fn name(i: usize) -> String {
    format!("d{:04}/file-{i:07}.dat", i / PER_DIR)
}

fn content(i: usize, round: usize) -> Vec<u8> {
    let mut bytes = format!("{i} {round} ").repeat(200).into_bytes();
    bytes.truncate(1024);
    bytes
}

impl Tree {
    pub(crate) fn new(top: &Path, files: usize) -> Result<Self> {
        let tree = Self {
            top: top.to_owned(),
            files,
        };
        if top.join("made").exists() {
            return Ok(tree);
        }
        eprintln!("making {files} files in {}", top.display());
        for i in 0..files {
            if i % PER_DIR == 0 {
                std::fs::create_dir_all(tree.at(i).parent().context("in a directory")?)?;
            }
            tree.write(i, 0, OLD)?;
        }
        nix::unistd::sync();
        tree.index()?;
        let sums = tree.top.join("sums");
        let list = (0..files).map(|i| name(i) + "\n").collect::<String>();
        let mut sum = Command::new("xargs");
        sum.args(["-d", "\n", "sha256sum"]).current_dir(tree.root());
        let mut child = sum
            .stdin(Stdio::piped())
            .stdout(File::create(sums)?)
            .spawn()?;
        child
            .stdin
            .take()
            .context("piped")?
            .write_all(list.as_bytes())?;
        ensure!(child.wait()?.success(), "sha256sum failed");
        File::create(top.join("made"))?;
        Ok(tree)
    }

    fn root(&self) -> PathBuf {
        self.top.join("tree")
    }

    fn at(&self, i: usize) -> PathBuf {
        self.root().join(name(i))
    }

    pub(crate) fn write(&self, i: usize, round: usize, age: Duration) -> Result<()> {
        let mut file = File::create(self.at(i))?;
        file.write_all(&content(i, round))?;
        if !age.is_zero() {
            file.set_modified(SystemTime::now() - age)?;
        }
        Ok(())
    }

    fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.arg("--git-dir")
            .arg(self.top.join("git"))
            .arg("--work-tree")
            .arg(self.root());
        git.current_dir(self.root());
        git
    }

    /// An index of all files, without their objects.
    fn index(&self) -> Result<()> {
        timed(
            Command::new("git")
                .args(["init", "-q", "--bare"])
                .arg(self.top.join("git")),
        )?;
        timed(self.git().args(["config", "core.bare", "false"]))?;
        let names: Vec<String> = (0..self.files).map(name).collect();
        let list = self.top.join("names");
        std::fs::write(&list, names.join("\n") + "\n")?;
        let hashes = self
            .git()
            .args(["hash-object", "--no-filters", "--stdin-paths"])
            .stdin(File::open(&list)?)
            .output()?;
        let hashes = String::from_utf8(hashes.stdout)?;
        let entries: String = hashes
            .lines()
            .zip(&names)
            .map(|(hash, name)| format!("100644 {hash}\t{name}\n"))
            .collect();
        std::fs::write(&list, entries)?;
        let status = self
            .git()
            .args(["update-index", "--index-info"])
            .stdin(File::open(&list)?)
            .status()?;
        ensure!(status.success(), "git has no index");
        timed(self.git().args(["update-index", "-q", "--refresh"]))?;
        Ok(())
    }

    pub(crate) fn etag(&self, verb: &str, state: &str) -> Result<Command> {
        let mut command = zring()?;
        command.args([verb, "-q", "--format", "none", "--progress", "never"]);
        command
            .arg("--state")
            .arg(self.top.join(state))
            .arg(self.root());
        Ok(command)
    }

    fn walk(&self) -> Result<Command> {
        let mut command = myself()?;
        command.arg("walk").arg(self.root());
        Ok(command)
    }
}

/// Programs by turns; seconds of each, turn by turn.
fn turns(
    rounds: usize,
    names: &[&str],
    mut run: impl FnMut(usize) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut all = vec![Vec::new(); names.len()];
    for round in 0..rounds {
        for i in 0..names.len() {
            let which = (i + round) % names.len();
            all[which].push(run(which)?);
        }
    }
    Ok(all)
}

fn rows(report: &mut Report, what: &str, names: &[&str], all: &[Vec<f64>], bars: &[(usize, f64)]) {
    let mut rows = Vec::new();
    for (which, seconds) in all.iter().enumerate() {
        let sample: Sample = seconds.iter().copied().collect();
        let ratio: Sample = all[0]
            .iter()
            .zip(seconds)
            .map(|(own, other)| own / other)
            .collect();
        let bar = bars
            .iter()
            .find(|(of, _)| *of == which)
            .map(|(_, bar)| *bar);
        let said = bar.map(|bar| {
            let label = format!("{what}: {} / {}", names[0], names[which]);
            report.judge(&label, ratio.median() <= bar)
        });
        rows.push([
            names[which].to_owned(),
            spread(&sample, 3),
            spread(&ratio, 3),
            bar.map_or_else(|| "-".to_owned(), |bar| format!("<= {bar}")),
            said.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    report.line(&format!("### {what}"));
    report.line("");
    let own = format!("{} / it", names[0]);
    report.table(["program", "seconds", own.as_str(), "bar", ""], &rows);
}

/// The parts that can be measured alone.
pub const PARTS: [&str; 7] = [
    "etag-hot",
    "etag-million",
    "etag-changed",
    "etag-cold",
    "etag-large",
    "etag-throttle",
    "etag-watched",
];

/// Measures and reports: one of [`PARTS`], or all.
pub fn run(bench: &mut Bench, report: &mut Report, what: &str) -> Result<()> {
    report.line("## ETags");
    report.line("");
    let (rounds, full) = (bench.size.rounds, bench.size.is_full());
    let small = || Tree::new(&bench.path("etag-100000"), 100_000);
    let is = |part: &str| what == part || !PARTS.contains(&what);
    if is("etag-hot") {
        hot(&small()?, report, rounds * 2 + 1)?;
    }
    if is("etag-million") && full {
        let large = Tree::new(&bench.path("etag-1000000"), 1_000_000)?;
        hot(&large, report, rounds)?;
    }
    if is("etag-changed") {
        changed(&small()?, report, rounds)?;
    }
    if is("etag-cold") {
        cold(bench, report, if full { 9 } else { 3 })?;
    }
    if is("etag-watched") {
        watched(&small()?, report, rounds * 2 + 1)?;
    }
    if is("etag-large") && full {
        etag_load::large(bench, report, 3)?;
    }
    if is("etag-throttle") {
        etag_load::throttle(bench, report, 3)?;
    }
    Ok(())
}

fn hot(tree: &Tree, report: &mut Report, rounds: usize) -> Result<()> {
    timed(&mut tree.etag("scan", "state")?)?;
    let names = [
        "check",
        "git update-index --refresh",
        "bare walk",
        "scan",
        "git status",
        "find -printf",
        "sha256sum -c",
        "check, one thread",
        "check, statx by io_uring",
        "rclone hashsum",
    ];
    let cores = std::thread::available_parallelism()?.get() as f64;
    let has_rclone = Command::new("rclone").arg("version").output().is_ok();
    let names = &names[..if has_rclone { 10 } else { 9 }];
    let mut sums = None;
    let all = turns(rounds, names, |which| match which {
        0 => timed(&mut tree.etag("check", "state")?),
        1 => timed(tree.git().args(["update-index", "-q", "--refresh"])),
        2 => timed(&mut tree.walk()?),
        3 => timed(&mut tree.etag("scan", "state")?),
        4 => timed(
            tree.git()
                .args(["status", "--porcelain", "--untracked-files=all"]),
        ),
        5 => timed(
            Command::new("find")
                .arg(tree.root())
                .args(["-printf", "%i %s %T@ %C@ %p\n"]),
        ),
        // Of a large tree once: its bytes are not all in memory, and reading them takes minutes.
        6 if tree.files > 100_000 && sums.is_some() => Ok(sums.unwrap_or_default()),
        6 => {
            let took = timed(
                Command::new("sha256sum")
                    .args(["-c", "--quiet"])
                    .arg(tree.top.join("sums"))
                    .current_dir(tree.root()),
            )?;
            sums = Some(took);
            Ok(took)
        }
        7 => timed(tree.etag("check", "state")?.args(["--threads", "1"])),
        8 => timed(tree.etag("check", "state")?.args(BY_RING)),
        _ => timed(
            Command::new("rclone")
                .args(["hashsum", "sha256"])
                .arg(tree.root()),
        ),
    })?;
    let what = format!("{} files, hot, unchanged", tree.files);
    if !has_rclone {
        report.line("rclone is not installed here: its row is left out.");
        report.line("");
    }
    rows(
        report,
        &what,
        names,
        &all,
        &[
            (1, 1.1),
            (2, 1.15),
            (4, 1.0),
            (5, 1.0),
            (6, 1.0),
            (7, 1.0 / (0.9 * cores)),
            (9, 1.0),
        ],
    );
    Ok(())
}

/// One in a hundred changed, on the disk; with old times, or new ones.
fn touch(tree: &Tree, round: usize, age: Duration) -> Result<()> {
    for i in (round % 100..tree.files).step_by(100) {
        tree.write(i, round + 1, age)?;
    }
    if !age.is_zero() {
        nix::unistd::sync();
    }
    Ok(())
}

fn changed(tree: &Tree, report: &mut Report, rounds: usize) -> Result<()> {
    let names = [
        "scan, 1 % changed",
        "scan, unchanged",
        "scan, 1 % just written",
    ];
    let mut round = 0;
    let all = turns(rounds, &names, |which| {
        round += 1;
        match which {
            0 => touch(tree, round, OLD)?,
            2 => touch(tree, round, Duration::ZERO)?,
            _ => {}
        }
        timed(&mut tree.etag("scan", "state")?)
    })?;
    timed(&mut tree.etag("check", "state")?)?;
    rows(
        report,
        &format!("{} files, changes", tree.files),
        &names,
        &all,
        &[(1, 1.3)],
    );
    Ok(())
}

/// In a mount namespace of its own, which ends with the thread.
fn apart<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )?;
            body()
        });
        thread.join().expect("it does not panic")
    })
}

fn cold(bench: &Bench, report: &mut Report, rounds: usize) -> Result<()> {
    let at = bench.path("etag-cold");
    let image = bench.path("etag-cold.img");
    std::fs::create_dir_all(&at)?;
    let result = apart(|| {
        let fresh = !image.exists();
        if fresh {
            File::create(&image)?.set_len(2 << 30)?;
            timed(
                Command::new("mkfs.ext4")
                    .args(["-q", "-F", "-N", "200000"])
                    .arg(&image),
            )?;
        }
        let up = || -> Result<()> {
            let made = Command::new("losetup")
                .args(["--find", "--show", "--direct-io=on"])
                .arg(&image)
                .output()?;
            ensure!(
                made.status.success(),
                "losetup: {}",
                String::from_utf8_lossy(&made.stderr)
            );
            let device = String::from_utf8(made.stdout)?.trim().to_owned();
            mount(
                Some(device.as_str()),
                &at,
                Some("ext4"),
                MsFlags::MS_NOATIME,
                None::<&str>,
            )?;
            timed(Command::new("losetup").arg("-d").arg(&device))?; // goes with the mount
            Ok(())
        };
        let down = || umount(&at);
        up()?;
        let made = Tree::new(&at, 100_000).and_then(|tree| {
            timed(&mut tree.etag("scan", "state")?)?;
            Ok(tree)
        });
        down()?;
        let tree = made?;
        let around = |command: &mut Command| -> Result<f64> {
            up()?;
            let took = timed(command);
            down()?;
            took
        };
        let names = [
            "check",
            "git update-index --refresh",
            "bare walk",
            "check, statx by io_uring",
        ];
        let all = turns(rounds, &names, |which| match which {
            0 => around(&mut tree.etag("check", "state")?),
            1 => around(tree.git().args(["update-index", "-q", "--refresh"])),
            3 => around(tree.etag("check", "state")?.args(BY_RING)),
            _ => around(&mut tree.walk()?),
        })?;
        let new = ["scan, all new", "sha256sum", "xargs -P2 sha256sum"];
        let fresh = turns(rounds.div_ceil(3), &new, |which| match which {
            0 => {
                up()?;
                let _ = std::fs::remove_dir_all(tree.top.join("new"));
                down()?;
                around(&mut tree.etag("scan", "new")?)
            }
            1 => around(
                Command::new("sh")
                    .arg("-c")
                    .arg("find . -type f -print0 | xargs -0 sha256sum")
                    .current_dir(tree.root().parent().context("a parent")?),
            ),
            _ => around(
                Command::new("sh")
                    .arg("-c")
                    .arg("find . -type f -print0 | xargs -0 -P2 -n1000 sha256sum")
                    .current_dir(&tree.top),
            ),
        })?;
        Ok((names, all, new, fresh))
    });
    match result {
        Err(error) => report.line(&format!("Cold rows are left out: {error:#}\n")),
        Ok((names, all, new, fresh)) => {
            rows(report, "100000 files, cold", &names, &all, &[(1, 1.15)]);
            rows(
                report,
                "100000 files, cold, all new",
                &new,
                &fresh,
                &[(1, 0.333)],
            );
        }
    }
    Ok(())
}

/// Under a listener that takes its time for each open of a file.
fn watched(tree: &Tree, report: &mut Report, rounds: usize) -> Result<()> {
    use nix::sys::fanotify::{
        EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
    };
    timed(&mut tree.etag("scan", "state")?)?;
    let root = tree.root();
    let result = apart(|| {
        mount(
            Some(&root),
            &root,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let group = Arc::new(group);
        let marked = Arc::clone(&group);
        let listener = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let Ok(events) = group.read_events() else {
                    std::thread::sleep(Duration::from_micros(500));
                    continue;
                };
                for event in events {
                    std::thread::sleep(Duration::from_micros(200));
                    if let Some(fd) = event.fd() {
                        let _ =
                            group.write_response(FanotifyResponse::new(fd, Response::FAN_ALLOW));
                    }
                }
            }
        });
        let names = ["check, listener", "check, none"];
        let all = turns(rounds, &names, |which| {
            let how = match which {
                0 => MarkFlags::FAN_MARK_ADD,
                _ => MarkFlags::FAN_MARK_REMOVE,
            };
            let mark = how | MarkFlags::FAN_MARK_MOUNT;
            let _ = marked.mark(
                mark,
                MaskFlags::FAN_OPEN_PERM,
                nix::fcntl::AT_FDCWD,
                Some(&root),
            );
            timed(&mut tree.etag("check", "state")?)
        });
        over.store(true, Ordering::Relaxed);
        let _ = listener.join();
        Ok((names, all?))
    });
    match result {
        Err(error) => report.line(&format!("The row of the listener is left out: {error:#}\n")),
        Ok((names, all)) => rows(
            report,
            "100000 files, opens delayed by 200 us",
            &names,
            &all,
            &[(1, 1.1)],
        ),
    }
    Ok(())
}

/// Makes a tree, if it is not there.
pub fn make(top: &Path, files: usize) -> Result<()> {
    Tree::new(&std::path::absolute(top)?, files).map(drop)
}

/// Lists and asks, and compares nothing: `zring-bench walk DIR`.
pub fn walk(root: &Path) -> Result<()> {
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use zring::kernel::stat::{Freshness, Kind, Listing, Resolve, open_dir, stat_at};
    let path = std::ffi::CString::new(root.as_os_str().as_bytes())?;
    let top = open_dir(None, &path, Resolve::root())?;
    let mut listing = Listing::default();
    let mut dirs = Vec::new();
    while let Some(name) = listing.next(top.as_fd())? {
        if name.kind == Kind::Dir {
            dirs.push(name.name.to_owned());
        }
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism()?.get();
    let work = || -> std::io::Result<usize> {
        let mut listing = Listing::default();
        let mut files = 0;
        while let Some(name) = dirs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let dir = open_dir(Some(top.as_fd()), name, Resolve::below(false))?;
            listing.clear();
            while let Some(name) = listing.next(dir.as_fd())? {
                if name.kind == Kind::File {
                    stat_at(dir.as_fd(), name.name, Freshness::Usual)?;
                    files += 1;
                }
            }
        }
        Ok(files)
    };
    let files = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter()
            .map(|t| t.join().expect("it does not panic"))
            .sum::<std::io::Result<usize>>()
    })?;
    println!("{files} files");
    Ok(())
}
