//! A process beside the daemon that lets clients go on which the daemon stopped, if it ends before it can.
//!
//! ```text
//!   daemon                     guard: zring look stopped
//!     + <pid>        --->      holds the process by a pidfd
//!                    <---      (empty line)
//!     (stops it, lets it go on)
//!     - <pid>        --->      lets go of it
//!     ! <pid>        --->      notes that it must not go on: it would see what it must not
//!     (ends)                   SIGCONT to all it holds, SIGKILL to those
//! ```
//!
//! A client that is brought out of waiting for itself (kernel-note 0017) is stopped for some milliseconds. A daemon that is killed just then
//! would leave it stopped for ever. The guard is another run of the same program with nothing open but its two pipes, in a process
//! group of its own; it is started when it is needed first, and ends when its pipe does, which is when the daemon ends, however that
//! comes. Without one (no memory, no /proc) clients are brought out all the same.

use super::pidfd::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the program is told to be it.
pub const WORDS: [&str; 2] = ["look", "stopped"];
/// How long the daemon waits for it: a client that waits for itself has waited for longer.
const PATIENCE: Duration = Duration::from_millis(200);

/// The daemon's side.
#[derive(Debug, Default)]
pub struct Guard(Mutex<Option<Talk>>);

#[derive(Debug)]
struct Talk {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Guard {
    /// A process is about to be stopped. False when nobody would let it go on in the daemon's place.
    pub fn begin(&self, pid: i32) -> bool {
        let mut talk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if talk.is_none() {
            *talk = start().ok();
        }
        let is_held = talk.as_mut().is_some_and(|talk| talk.hold(pid).is_ok());
        if !is_held && let Some(Talk { mut child, .. }) = talk.take() {
            let _ = child.kill(); // another one is started when it is needed again
            let _ = child.wait();
        }
        is_held
    }

    /// It goes on.
    pub fn end(&self, pid: i32) {
        self.tell('-', pid);
    }

    /// It must not go on.
    pub fn condemn(&self, pid: i32) {
        self.tell('!', pid);
    }

    fn tell(&self, sign: char, pid: i32) {
        let mut talk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(talk) = talk.as_mut() {
            let _ = writeln!(talk.to, "{sign} {pid}"); // a guard that is gone holds nobody
        }
    }
}

fn start() -> io::Result<Talk> {
    // By this name even if the binary was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .arg0("zring")
        .args(WORDS)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Talk {
        to: child.stdin.take().expect("it is piped"),
        from: child.stdout.take().expect("it is piped"),
        child,
    })
}

impl Talk {
    fn hold(&mut self, pid: i32) -> io::Result<()> {
        writeln!(self.to, "+ {pid}")?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            return self.from.read_exact(&mut [0]);
        }
    }
}

/// The other side: holds processes until the pipe ends, and lets them go on then.
///
/// # Errors
/// The pipes.
pub fn serve() -> io::Result<()> {
    // It outlives the daemon by its last duty, whatever ends that.
    SigSet::all().thread_block()?;
    let mut held: BTreeMap<i32, (PidFd, Signal)> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Some((sign, pid)) = line.split_once(' ') else {
            continue;
        };
        let Ok(pid) = pid.parse::<i32>() else {
            continue;
        };
        match sign {
            "+" => {
                if let Ok(process) = PidFd::open(pid) {
                    held.insert(pid, (process, Signal::SIGCONT));
                }
            }
            "!" => {
                if let Some((_, signal)) = held.get_mut(&pid) {
                    *signal = Signal::SIGKILL;
                }
                continue;
            }
            _ => {
                held.remove(&pid);
                continue;
            }
        }
        // A daemon that is gone asks for nothing, and the pipe says so.
        let mut out = io::stdout();
        let _ = out.write_all(b"\n").and_then(|()| out.flush());
    }
    for (process, signal) in held.values() {
        let _ = process.signal(*signal); // one that is gone needs nothing
    }
    Ok(())
}
