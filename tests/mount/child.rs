//! Child processes with a deadline, and what `/proc` knows about processes and mounts.
//!
//! Everything a test does inside a mount is done by a child. Its output goes to files, so that no full pipe and no
//! inherited pipe end can make the test wait.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A started child and its output files.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

/// What became of a child.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) what: String,
    /// None when it had to be killed at its deadline.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Running {
    /// Starts a command with output to `<base>.out` and `<base>.err`, and nothing on stdin.
    pub(crate) fn start(command: &mut Command, base: &Path) -> Self {
        let (out, err) = (base.with_extension("out"), base.with_extension("err"));
        let what = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {what}: {e}"));
        Self {
            what,
            child,
            out,
            err,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill(self.pid(), signal);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written to stdout so far.
    pub(crate) fn out_so_far(&self) -> String {
        text(&self.out)
    }

    /// What it has written to stderr so far.
    pub(crate) fn err_so_far(&self) -> String {
        text(&self.err)
    }

    /// Waits for its end, kills it when `limit` is over. A child stuck in a mount does not even die of that: then the
    /// rig's watchdog has to abort the connection, and this waits for it.
    pub(crate) fn wait(mut self, limit: Duration) -> Ended {
        let mut status = wait_until(limit, || self.child.try_wait().unwrap());
        if status.is_none() {
            let seen = |name: &str| {
                let path = format!("/proc/{}/{name}", self.child.id());
                fs::read_to_string(path).unwrap_or_default()
            };
            let state = seen("status").lines().nth(2).unwrap_or_default().to_owned();
            self.what += &format!(" [{state}, {}, {}]", seen("wchan"), seen("stack"));
            let _ = self.child.kill();
            // Its end is awaited, its status is not taken: it did not end by itself.
            let _ = self.child.wait();
            status = None;
        }
        Ended {
            status,
            out: text(&self.out),
            err: text(&self.err),
            what: self.what,
        }
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Ended {
    pub(crate) fn is_good(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// Panics with everything known unless it ended well.
    pub(crate) fn good(self) -> Self {
        assert!(self.is_good(), "{self}");
        self
    }

    /// The signal that ended it, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.and_then(|s| s.signal())
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.status.and_then(|s| s.code())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = self
            .status
            .map_or_else(|| "killed at its deadline".to_owned(), |s| s.to_string());
        write!(f, "{}: {end}\n{}{}", self.what, self.out, self.err)
    }
}

/// Asks `done` until it has an answer or `limit` is over.
pub(crate) fn wait_until<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = done() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// `wait_until` for a condition.
pub(crate) fn becomes_true(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    wait_until(limit, || done().then_some(())).is_some()
}

/// Processes that carry `name=value` in the environment they were started with.
pub(crate) fn processes_with(name: &str, value: &OsStr) -> Vec<Pid> {
    let mut wanted = format!("{name}=").into_bytes();
    wanted.extend_from_slice(value.as_encoded_bytes());
    let has = |pid: &i32| {
        let env = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        env.split(|&c| c == 0).any(|v| v == wanted)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(has)
        .map(Pid::from_raw)
        .collect()
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone)]
pub(crate) struct MountLine {
    pub(crate) minor: u32,
    pub(crate) at: PathBuf,
    pub(crate) options: String,
    pub(crate) kind: String,
    pub(crate) source: String,
}

/// All mounts, oldest first.
pub(crate) fn mounts() -> Vec<MountLine> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let mut right = right.split(' ');
    Some(MountLine {
        minor: left.get(2)?.split_once(':')?.1.parse().ok()?,
        at: unescape(left.get(4)?).into(),
        options: (*left.get(5)?).to_owned(),
        kind: right.next()?.to_owned(),
        source: unescape(right.next()?),
    })
}

/// Undoes `\040` and its like.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(c) => {
                out.push(char::from(c));
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

#[test]
fn a_line_of_mountinfo_is_taken_apart() {
    let line = r"97 29 0:45 / /tmp/a\040b rw,nosuid,nodev shared:7 - fuse.zring file:///x\040y rw,user_id=0";
    let m = parse_mount(line).unwrap();
    assert_eq!((m.minor, m.kind.as_str()), (45, "fuse.zring"));
    assert_eq!(
        (m.at, m.source),
        ("/tmp/a b".into(), "file:///x y".to_owned())
    );
    assert_eq!(m.options, "rw,nosuid,nodev");
    assert_eq!(unescape(r"\134x\9"), r"\x\9");
}

#[test]
fn a_child_is_killed_at_its_deadline() {
    let base = std::env::temp_dir().join(format!("zrt-deadline-{}", std::process::id()));
    let run = |line: &str, ms| {
        Running::start(Command::new("sh").args(["-c", line]), &base).wait(Duration::from_millis(ms))
    };
    let slow = run("echo begun; exec sleep 30", 2_000);
    assert_eq!((slow.status, slow.out.as_str()), (None, "begun\n"));
    let quick = run("echo no >&2; exit 3", 10_000);
    assert_eq!((quick.code(), quick.err.as_str()), (Some(3), "no\n"));
    for end in ["out", "err"] {
        fs::remove_file(base.with_extension(end)).unwrap();
    }
}
