//! A test's own directory, its mounts, and the watchdog over both.
//!
//! A `Rig` is made first in a test and dropped last. Its children carry `ZRING_RIG=<directory>` in their environment,
//! so that every process that came of the test is found, also a daemon that forked away. A `Mount` is one daemon in
//! front (`-f`) on a directory of the rig; `stop` is the good end, dropping it the forced one.
//!
//! Invariants: nothing here touches a path inside a mount; every wait has a deadline; when the rig's time is over its
//! connections are aborted by number and its processes killed, which ends every reader with an error.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, panicking, spawn};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::child::{Ended, MountLine, Running, becomes_true, mounts, processes_with};
use crate::machine::{MachineLock, Transport, is_root, python, tool, zring};

/// Enough for any single command that does not loop.
pub(crate) const SHORT: Duration = Duration::from_secs(30);

const CONNECTIONS: &str = "/sys/fs/fuse/connections";

#[derive(Debug)]
pub(crate) struct Rig {
    dir: PathBuf,
    runs: AtomicUsize,
    watchdog: Watchdog,
    _lock: Option<MachineLock>,
}

impl Rig {
    /// A rig for tests that leave the machine as it is. `limit_s` is the whole test's time.
    pub(crate) fn new(name: &str, limit_s: u64) -> Self {
        let lock = MachineLock::shared();
        Self::make(name, limit_s, Some(lock))
    }

    /// A rig for a test that does something to every mount of the machine.
    pub(crate) fn sole(name: &str, limit_s: u64) -> Self {
        let lock = MachineLock::exclusive();
        Self::make(name, limit_s, Some(lock))
    }

    /// A rig for a test that holds a changed setting, and with it the lock.
    pub(crate) fn alone(name: &str, limit_s: u64) -> Self {
        Self::make(name, limit_s, None)
    }

    fn make(name: &str, limit_s: u64, lock: Option<MachineLock>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("zrt-{}-{n}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // As mountinfo will show it.
        let dir = dir.canonicalize().unwrap();
        let watchdog = Watchdog::start(name.to_owned(), dir.clone(), Duration::from_secs(limit_s));
        Self {
            dir,
            runs: AtomicUsize::new(0),
            watchdog,
            _lock: lock,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A command that belongs to this rig.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new(program);
        c.env("ZRING_RIG", &self.dir)
            .env("LC_ALL", "C")
            .current_dir(&self.dir);
        c
    }

    pub(crate) fn zring(&self) -> Command {
        self.command(zring())
    }

    /// A tool of `tests/tools`, which need nothing but Python's own library.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut c = self.command(python().unwrap_or(Path::new("python3")));
        c.arg(tool(name));
        c
    }

    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let n = self.runs.fetch_add(1, Ordering::Relaxed);
        Running::start(command, &self.dir.join(format!("run{n}")))
    }

    pub(crate) fn run(&self, command: &mut Command, limit: Duration) -> Ended {
        let ended = self.start(command).wait(limit);
        self.watchdog.check();
        ended
    }

    /// Mounts `db` with a transport; panics with what the daemon said when it does not come up.
    pub(crate) fn up(&self, db: &Path, transport: Transport) -> Mount<'_> {
        self.up_on("mnt", db, transport)
    }

    /// The same on a directory of the rig by name, which may carry a dead mount of before.
    pub(crate) fn up_on(&self, name: &str, db: &Path, transport: Transport) -> Mount<'_> {
        let opts = format!("transport={}", transport.name());
        self.mount(name, &zurl(db), &opts)
            .unwrap_or_else(|e| panic!("no mount: {e}"))
    }

    /// Starts a daemon in front and waits until its mount answers, or it has ended.
    pub(crate) fn mount(&self, name: &str, zurl: &str, opts: &str) -> Result<Mount<'_>, Ended> {
        let at = self.dir.join(name);
        if self.mount_lines(&at).is_empty() {
            fs::create_dir_all(&at).unwrap();
        }
        // By hand: all tests with so few workers that look at /dev/fuse, or more.
        let pollers = std::env::var("ZRING_POLLERS").map(|n| format!("{opts},pollers={n}"));
        let opts = pollers.as_deref().unwrap_or(opts);
        let mut command = self.zring();
        command.args(["mount", "-f", "-o", opts, zurl]).arg(&at);
        self.mount_by(&mut command, at, zurl)
    }

    /// The same for a command that was put together elsewhere and stays in front.
    pub(crate) fn mount_by(
        &self,
        command: &mut Command,
        at: PathBuf,
        zurl: &str,
    ) -> Result<Mount<'_>, Ended> {
        let mut daemon = self.start(command);
        let mut line = None;
        becomes_true(SHORT, || {
            // A dead mount may be there before; the new one may even get its number. Only an answer tells.
            line = self.mount_lines(&at).pop().filter(|_| self.answers(&at));
            line.is_some() || !daemon.is_running()
        });
        let Some(line) = line else {
            return Err(daemon.wait(Duration::from_secs(5)));
        };
        let kinds = ["fuse.zring", "fuse.wcfs"];
        assert!(kinds.contains(&line.kind.as_str()), "type of {line:?}");
        assert_eq!(line.source, zurl, "source of the mount");
        Ok(Mount {
            rig: self,
            at,
            minor: line.minor,
            daemon: Some(daemon),
        })
    }

    /// Whether a server is behind this mount; one that does not let us in is one too.
    fn answers(&self, at: &Path) -> bool {
        let mut c = self.command("cat");
        let ended = self.run(c.arg(at.join("head/at")), Duration::from_secs(10));
        ended.is_good() || ended.err.contains("Permission denied")
    }

    /// Mounts on this very path, oldest first.
    pub(crate) fn mount_lines(&self, at: &Path) -> Vec<MountLine> {
        mounts().into_iter().filter(|m| m.at == at).collect()
    }

    /// Ends a mount that a forked daemon serves.
    pub(crate) fn umount(&self, at: &Path) {
        self.run(self.zring().arg("umount").arg(at), SHORT).good();
        assert!(self.mount_lines(at).is_empty(), "umount left the mount");
    }

    /// Processes of this rig that live.
    pub(crate) fn processes(&self) -> Vec<nix::unistd::Pid> {
        processes_with("ZRING_RIG", self.dir.as_os_str())
    }
}

/// `file://` and the path.
pub(crate) fn zurl(db: &Path) -> String {
    format!("file://{}", db.display())
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A daemon may still be on its way out.
        becomes_true(Duration::from_secs(3), || self.processes().is_empty());
        let left = sweep(&self.dir);
        if mounts_below(&self.dir).is_empty() {
            let _ = fs::remove_dir_all(&self.dir);
        }
        if !panicking() {
            assert!(left.is_empty(), "left behind: {left:?}");
            self.watchdog.check();
        }
    }
}

fn mounts_below(dir: &Path) -> Vec<MountLine> {
    let mut all = mounts();
    all.retain(|m| m.at.starts_with(dir));
    all
}

/// Removes every mount and process of a rig, and names them.
fn sweep(dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for m in mounts_below(dir).into_iter().rev() {
        left.push(format!("mount {}", m.at.display()));
        abort(m.minor);
        detach(&m.at);
    }
    for pid in processes_with("ZRING_RIG", dir.as_os_str()) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        left.push(format!("process {pid} {line}"));
        let _ = kill(pid, Signal::SIGKILL);
    }
    left
}

/// Ends a connection through the kernel: every request gets an error. Never goes by the mount's path.
fn abort(minor: u32) {
    let _ = fs::write(format!("{CONNECTIONS}/{minor}/abort"), "1");
}

fn detach(at: &Path) {
    let mut c = if is_root() {
        let mut c = Command::new("umount");
        c.arg("-l");
        c
    } else {
        let mut c = Command::new("fusermount3");
        c.arg("-uz");
        c
    };
    let _ = c.arg("--").arg(at).output();
}

/// A mounted daemon in front.
#[derive(Debug)]
pub(crate) struct Mount<'r> {
    rig: &'r Rig,
    pub(crate) at: PathBuf,
    minor: u32,
    daemon: Option<Running>,
}

impl Mount<'_> {
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.at.join(inside)
    }

    /// A file of the tree, read by a child.
    pub(crate) fn cat(&self, inside: &str) -> String {
        let at = self.path(inside);
        self.rig
            .run(self.rig.command("cat").arg(at), SHORT)
            .good()
            .out
    }

    /// `head/at`.
    pub(crate) fn head(&self) -> String {
        let at = self.cat("head/at");
        let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        assert!(
            at.len() == 16 && at.bytes().all(is_hex),
            "head/at is {at:?}"
        );
        at
    }

    /// A value of `.wcfs/stats`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let all = self.cat(".wcfs/stats");
        let value = all
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find_map(|(n, v)| (n.trim() == name).then(|| v.trim().parse().unwrap()));
        value.unwrap_or_else(|| panic!("no {name} in .wcfs/stats:\n{all}"))
    }

    /// `probe.py` on paths inside: one line of result for each operation.
    pub(crate) fn probe(&self, operations: &[&str]) -> Vec<String> {
        let mut c = self.rig.tool("probe.py");
        c.arg(&self.at).args(operations);
        let out = self.rig.run(&mut c, SHORT).good().out;
        let lines: Vec<String> = out.lines().map(str::to_owned).collect();
        assert_eq!(
            lines.len(),
            operations.len(),
            "probe {operations:?}:\n{out}"
        );
        lines
    }

    /// Compares the tree with manifests and logs; returns how many blocks were compared, which is more than none.
    pub(crate) fn verify(&self, manifests: &[&Path], options: &[&str]) -> u64 {
        let mut c = self.rig.tool("verify_mount.py");
        c.arg(&self.at).args(manifests).args(options);
        let ended = self.rig.run(&mut c, Duration::from_secs(600));
        verdict(&ended)
    }

    /// Sends SIGKILL and waits for the end. The dead mount stays.
    pub(crate) fn kill(mut self) {
        let daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::SIGKILL);
        let ended = daemon.wait(SHORT);
        assert_eq!(ended.signal(), Some(9), "{ended}");
        self.rig.watchdog.check();
    }

    /// Aborts the connection as an administrator would, and expects the daemon to end by itself.
    pub(crate) fn abort(mut self) -> Ended {
        abort(self.minor);
        let ended = self.daemon.take().unwrap().wait(SHORT);
        self.rig.watchdog.check();
        no_bug(&ended);
        ended
    }

    /// The ordered end: `zring umount`, exit status 0, no mount, nothing about bugs on stderr. Returns stderr.
    pub(crate) fn stop(mut self) -> String {
        self.rig.umount(&self.at);
        let ended = self.daemon.take().unwrap().wait(SHORT);
        self.rig.watchdog.check();
        no_bug(&ended);
        ended.good().err
    }

    /// What became of a daemon that somebody else has unmounted.
    pub(crate) fn ended(mut self) -> Ended {
        let ended = self.daemon.take().unwrap().wait(SHORT);
        self.rig.watchdog.check();
        ended
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        self.daemon.as_ref().unwrap().pid()
    }

    /// What the daemon has said so far.
    pub(crate) fn said(&self) -> String {
        let said = self.daemon.as_ref().map(Running::err_so_far);
        last_lines(&said.unwrap_or_default())
    }
}

/// Reads the last line of `verify_mount.py`.
pub(crate) fn verdict(ended: &Ended) -> u64 {
    assert!(ended.is_good(), "{ended}");
    let last = ended.out.lines().last().unwrap_or_default();
    let blocks: u64 = last
        .split_once(" blocks at ")
        .and_then(|(n, _)| n.parse().ok())
        .unwrap_or_else(|| panic!("no verdict: {ended}"));
    assert!(blocks > 0 && last.ends_with(", 0 differences"), "{ended}");
    blocks
}

/// Programmer errors show as a panic, a `BUG:` line or a death by signal.
pub(crate) fn no_bug(ended: &Ended) {
    let bad = ended.err.contains("panicked") || ended.err.contains("BUG:");
    assert!(!bad && ended.signal().is_none(), "{ended}");
}

/// Enough of a log to see why.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let Some(daemon) = self.daemon.take() else {
            return;
        };
        println!(
            "daemon of {}:\n{}",
            self.at.display(),
            last_lines(&daemon.err_so_far())
        );
        // Asked first, so that a failing test does not hide what a stop would have said.
        let umount = self.rig.start(self.rig.zring().arg("umount").arg(&self.at));
        let _ = umount.wait(Duration::from_secs(8));
        if self
            .rig
            .mount_lines(&self.at)
            .iter()
            .any(|m| m.minor == self.minor)
        {
            abort(self.minor);
            detach(&self.at);
        }
        daemon.signal(Signal::SIGKILL);
        let _ = daemon.wait(Duration::from_secs(5));
    }
}

/// Ends what a test holds open in the kernel when its time is over.
#[derive(Debug)]
struct Watchdog {
    /// Dropped to call it off.
    off: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    fired: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(name: String, dir: PathBuf, limit: Duration) -> Self {
        let (off, ended) = channel::<()>();
        let fired = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&fired);
        let thread = spawn(move || {
            let mut wait = limit;
            // Again and again: the test may go on with its next mount before it notices.
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                let left = sweep(&dir);
                let note = format!("WATCHDOG: {name} not done in {limit:?}; ended {left:#?}\n");
                // Straight to stderr, whatever becomes of the test.
                let _ = std::io::stderr().write_all(note.as_bytes());
                wait = Duration::from_secs(2);
            }
        });
        Self {
            off: Some(off),
            thread: Some(thread),
            fired,
        }
    }

    fn check(&self) {
        assert!(!self.fired.load(Ordering::SeqCst), "the watchdog has fired");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.off.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
