//! A test's own mount: the server process, directed by lines, and the processes sent into the mount.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::child::{Ended, Running, becomes_true};
use crate::client::DO;
use crate::machine::Transport;
use crate::rig::Rig;
use crate::server::SERVE;

/// Longest that anything takes which does not hang.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Long enough to say that something waits.
pub(crate) const WHILE: Duration = Duration::from_millis(400);

const CONNECTIONS: &str = "/sys/fs/fuse/connections";

type Waiting = Arc<Mutex<Vec<(u32, Sender<String>)>>>;

/// A mounted scripted file system.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) rig: Rig,
    cast: Cast,
    pub(crate) at: PathBuf,
    /// Device number of the mount.
    pub(crate) device: (u32, u32),
    server: Child,
    lines: Option<ChildStdin>,
    waiting: Waiting,
    next: u32,
}

/// An answer that is still to come.
#[derive(Debug)]
pub(crate) struct Pending {
    command: String,
    answer: Receiver<String>,
}

impl Pending {
    /// The answer, unless it takes longer than this.
    pub(crate) fn within(&self, limit: Duration) -> Option<String> {
        match self.answer.recv_timeout(limit) {
            Ok(text) => Some(text),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("{}: the server ended", self.command),
        }
    }

    pub(crate) fn soon(&self) -> String {
        self.within(SOON)
            .unwrap_or_else(|| panic!("{}: no answer in {SOON:?}", self.command))
    }
}

/// An ordinary user.
const NOBODY: u32 = 65534;

/// Which program the processes of a stage run, and as whom.
#[derive(Debug, Clone)]
struct Cast {
    program: PathBuf,
    nobody: bool,
}

impl Cast {
    /// The test binary itself, as the process `role`.
    fn command(&self, rig: &Rig, role: &str) -> Command {
        let mut c = if self.nobody {
            let mut c = rig.command("setpriv");
            c.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
            c.arg("--clear-groups").arg(&self.program);
            c
        } else {
            rig.command(&self.program)
        };
        c.args(["--exact", role, "--nocapture", "--test-threads=1"]);
        c
    }
}

impl Stage {
    /// Mounts; `None`, and said, when this machine has no such transport.
    pub(crate) fn up(name: &str, transport: Transport, bends: &str) -> Option<Self> {
        transport
            .is_there()
            .then(|| Self::make(Rig::new(name, 60), transport, bends, false))
    }

    /// The same for a user who mounts with the help of `fusermount3`. The rig keeps other tests away, as it has to
    /// where `/dev/fuse` is open to all for a while.
    pub(crate) fn up_as_nobody(rig: Rig, transport: Transport) -> Self {
        Self::make(rig, transport, "", true)
    }

    fn make(rig: Rig, transport: Transport, bends: &str, nobody: bool) -> Self {
        let at = rig.path("mnt");
        std::fs::create_dir(&at).unwrap();
        let mut cast = Cast {
            program: std::env::current_exe().unwrap(),
            nobody,
        };
        if nobody {
            // The build may lie where that user cannot go.
            let copy = rig.path("zring-kernel-test");
            std::fs::copy(&cast.program, &copy).unwrap();
            std::os::unix::fs::chown(&at, Some(NOBODY), Some(NOBODY)).unwrap();
            cast.program = copy;
        }
        let how = format!("{} {} {bends}", at.display(), transport.name());
        let err = std::fs::File::create(rig.path("server.err")).unwrap();
        let mut server = cast
            .command(&rig, "server::role")
            .env(SERVE, how.trim_end())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(err)
            .spawn()
            .unwrap();
        let waiting = Waiting::default();
        let (tell, first) = channel();
        waiting.lock().unwrap().push((0, tell));
        let out = BufReader::new(server.stdout.take().unwrap());
        let from = Arc::clone(&waiting);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                deliver(&from, &line);
            }
            from.lock().unwrap().clear(); // nobody waits for a dead server
        });
        let mut stage = Self {
            rig,
            cast,
            at,
            device: (0, 0),
            lines: server.stdin.take(),
            server,
            waiting,
            next: 1,
        };
        let first = Pending {
            command: "start".to_owned(),
            answer: first,
        }
        .soon();
        let device = first
            .strip_prefix("serving ")
            .and_then(|d| d.split_once(':'))
            .unwrap_or_else(|| panic!("{first}: {}", stage.err()));
        stage.device = (device.0.parse().unwrap(), device.1.parse().unwrap());
        stage
    }

    fn err(&self) -> String {
        std::fs::read_to_string(self.rig.path("server.err")).unwrap_or_default()
    }

    /// Gives a command and goes on.
    pub(crate) fn begin(&mut self, command: &str) -> Pending {
        let (tell, answer) = channel();
        self.waiting.lock().unwrap().push((self.next, tell));
        let line = format!("{} {command}\n", self.next);
        self.next += 1;
        let lines = self.lines.as_mut().unwrap();
        lines.write_all(line.as_bytes()).unwrap();
        Pending {
            command: command.to_owned(),
            answer,
        }
    }

    /// Gives a command and waits for its answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.begin(command).soon()
    }

    /// Requests of a kind since the last `reset`, by channel: `ring`, `dev`, or both with ``.
    pub(crate) fn count(&mut self, channel: &str, kind: &str) -> u64 {
        self.ask("counts")
            .split(' ')
            .filter_map(|one| one.split_once('='))
            .filter(|(what, _)| {
                what.split_once(':')
                    .is_some_and(|(c, k)| k == kind && c.starts_with(channel))
            })
            .map(|(_, n)| n.parse::<u64>().unwrap())
            .sum()
    }

    /// Waits until so many requests are parked.
    pub(crate) fn await_parked(&mut self, n: usize) {
        let mut seen = String::new();
        let there = becomes_true(SOON, || {
            seen = self.ask("parked");
            seen == n.to_string()
        });
        assert!(there, "{seen} parked instead of {n}");
    }

    /// Waits until the kernel counts so many requests without an answer, wherever they are.
    pub(crate) fn await_waiting(&self, n: usize) {
        let file = format!("{CONNECTIONS}/{}/waiting", self.device.1);
        let mut seen = String::new();
        let there = becomes_true(SOON, || {
            seen = std::fs::read_to_string(&file).unwrap().trim().to_owned();
            seen == n.to_string()
        });
        assert!(there, "{seen} waiting instead of {n}");
    }

    /// Waits until requests that nobody waits for, such as RELEASE, have been answered.
    pub(crate) fn settle(&mut self) {
        let mut last = String::new();
        let calm = becomes_true(SOON, || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.ask("counts");
            std::mem::replace(&mut last, now.clone()) == now
        });
        assert!(calm, "{last}");
    }

    fn bdi(&self) -> String {
        format!(
            "/sys/class/bdi/{}:{}/read_ahead_kb",
            self.device.0, self.device.1
        )
    }

    /// Readahead of the mount, KiB.
    pub(crate) fn read_ahead(&self) -> String {
        std::fs::read_to_string(self.bdi())
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Sets it.
    pub(crate) fn read_ahead_kb(&self, kb: u32) {
        std::fs::write(self.bdi(), kb.to_string()).unwrap();
    }

    /// Sends a process into the mount; `{}` stands for the mountpoint.
    pub(crate) fn send(&self, what: &str) -> Running {
        let what = what.replace("{}", &self.at.display().to_string());
        let mut c = self.cast.command(&self.rig, "client::role");
        self.rig.start(c.env(DO, what))
    }

    /// Sends a process into the mount and returns what it found there.
    pub(crate) fn visit(&self, what: &str) -> String {
        said(&self.send(what).wait(SOON))
    }

    /// Ends the connection by number, as an administrator would.
    pub(crate) fn abort(&self) {
        let control = format!("{CONNECTIONS}/{}/abort", self.device.1);
        std::fs::write(control, "1").unwrap();
    }

    /// How many rings the server has.
    pub(crate) fn rings(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.server.id())).unwrap();
        let is_ring = |path: &std::path::PathBuf| path.to_string_lossy().contains("[io_uring]");
        let links = fds
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(is_ring).count()
    }

    /// How often threads of the server that look for requests were waiting and are awake again, by name.
    pub(crate) fn woken(&self) -> BTreeMap<String, u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.server.id())).unwrap();
        let status = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
        let field = |status: &str, name| {
            let mut lines = status.lines();
            let text = lines.find_map(|line| line.strip_prefix(name));
            text.unwrap_or_default().trim().to_owned()
        };
        let all = status.map(|s| (field(&s, "Name:"), field(&s, "voluntary_ctxt_switches:")));
        let all = all.filter(|(name, _)| name.starts_with("zring-w"));
        all.map(|(name, n)| (name, n.parse().unwrap())).collect()
    }

    /// SIGKILL to the server, and its end.
    pub(crate) fn kill(&mut self) {
        assert!(self.dies_within(SOON), "the server does not die");
    }

    /// SIGKILL to the server; whether that is its end.
    pub(crate) fn dies_within(&mut self, limit: Duration) -> bool {
        self.server.kill().unwrap();
        becomes_true(limit, || self.server.try_wait().unwrap().is_some())
    }
}

fn deliver(waiting: &Waiting, line: &str) {
    let Some((id, text)) = line.strip_prefix("> ").and_then(|l| l.split_once(' ')) else {
        return;
    };
    let mut waiting = waiting.lock().unwrap();
    if let Ok(id) = id.parse::<u32>()
        && let Some(at) = waiting.iter().position(|(n, _)| *n == id)
    {
        let _ = waiting.swap_remove(at).1.send(text.to_owned());
    }
}

/// What a client found; panics unless it ended well.
pub(crate) fn said(ended: &Ended) -> String {
    let line = ended.out.lines().find_map(|l| l.strip_prefix("> "));
    match line {
        Some(text) if ended.is_good() => text.to_owned(),
        _ => panic!("{ended}"),
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let err = self.err();
        if !err.is_empty() {
            println!("server: {err}");
        }
        drop(self.lines.take()); // it aborts, detaches and ends
        let ended = becomes_true(Duration::from_secs(5), || {
            !matches!(self.server.try_wait(), Ok(None))
        });
        if !ended {
            let _ = self.server.kill();
        }
        let control = format!("{CONNECTIONS}/{}/abort", self.device.1);
        let mut lines = self.rig.mount_lines(&self.at);
        lines.retain(|m| m.minor == self.device.1);
        if !lines.is_empty() {
            let _ = std::fs::write(control, "1");
            let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        }
        let _ = self.server.wait();
    }
}
