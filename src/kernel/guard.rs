//! A process beside the daemon that does what the daemon cannot do any more when it ends.
//!
//! ```text
//!   daemon                     guard: zring look guard MINOR
//!                    <---      (empty line: it is there)
//!     + <pid>        --->      holds the process by a pidfd
//!                    <---      (empty line)
//!     (stops it, lets it go on)
//!     - <pid>        --->      lets go of it
//!     ! <pid>        --->      notes that it must not go on: it would see what it must not
//!     (ends)                   SIGCONT to all it holds, SIGKILL to those; aborts the connection if the daemon does not get away
//! ```
//!
//! Two things must not outlive a daemon, however it ends. A client that it stopped for some milliseconds, to bring it out of waiting for itself
//! (kernel-note 0017), would stay stopped. And a thread that stores or drops a page whose READ is not answered would wait for that for ever, with it
//! the whole daemon, and whoever reads (kernel-note 0023).
//!
//! The guard is another run of the same program with nothing open but its two pipes and the control file of the connection, in a process
//! group of its own. It learns of the end by the signal that the kernel sends when the thread ends that started it: a daemon that hangs in its
//! end closes no pipe. That is the main thread, which waits for all others. Without a guard (no memory, no /proc) all goes on.

use super::mount::open_abort;
use super::pidfd::PidFd;
use super::{beside, process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the program is told to be it.
pub const WORDS: [&str; 2] = ["look", "guard"];
/// How long the daemon waits for it: a client that waits for itself has waited for longer.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it may take to start.
const START: Duration = Duration::from_secs(2);
/// How long a daemon may take to be gone.
const DEATH: Duration = Duration::from_secs(2);

/// The daemon's side. Without a process until it is started, and after that ended.
#[derive(Debug, Default)]
pub struct Guard(Mutex<Option<Talk>>);

#[derive(Debug)]
struct Talk {
    to: ChildStdin,
    from: ChildStdout,
}

impl Guard {
    /// Starts the process, for the connection with this number, if it has one. By the thread that ends last.
    ///
    /// # Errors
    /// There is none: what is said above can happen.
    pub fn start(&self, minor: Option<u32>) -> io::Result<()> {
        let mut child = beside::command(&WORDS)
            .args(minor.map(|minor| minor.to_string()))
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()?;
        let mut talk = Talk {
            to: child.stdin.take().expect("it is piped"),
            from: child.stdout.take().expect("it is piped"),
        };
        talk.answer(START)?;
        *self.talk() = Some(talk);
        Ok(())
    }

    /// A process is about to be stopped. False when nobody would let it go on in the daemon's place.
    pub fn begin(&self, pid: i32) -> bool {
        let mut talk = self.talk();
        let is_held = talk.as_mut().is_some_and(|talk| {
            let told = writeln!(talk.to, "+ {pid}");
            told.and_then(|()| talk.answer(PATIENCE)).is_ok()
        });
        if !is_held {
            *talk = None; // an answer that comes late would be taken for the next
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
        if let Some(talk) = self.talk().as_mut() {
            let _ = writeln!(talk.to, "{sign} {pid}"); // a guard that is gone holds nobody
        }
    }

    fn talk(&self) -> std::sync::MutexGuard<'_, Option<Talk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Talk {
    fn answer(&mut self, limit: Duration) -> io::Result<()> {
        if !beside::is_readable(&self.from, Instant::now() + limit)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.from.read_exact(&mut [0])
    }
}

/// Processes that are held, and the signal that is due to each.
#[derive(Default)]
struct Stopped(BTreeMap<i32, (PidFd, Signal)>);

impl Stopped {
    /// Takes a line; whether it wants an answer.
    fn hear(&mut self, line: &str) -> bool {
        let Some((sign, pid)) = line.split_once(' ') else {
            return false;
        };
        let Ok(pid) = pid.parse::<i32>() else {
            return false;
        };
        match sign {
            "+" => {
                if let Ok(process) = PidFd::open(pid) {
                    self.0.insert(pid, (process, Signal::SIGCONT));
                }
                return true;
            }
            "!" => {
                if let Some((_, signal)) = self.0.get_mut(&pid) {
                    *signal = Signal::SIGKILL;
                }
            }
            _ => drop(self.0.remove(&pid)),
        }
        false
    }
}

/// Whether a process that is said to end does: anybody may send a signal, and it comes a moment before its end is to be seen.
fn is_ending(pid: i32) -> bool {
    (0..20).any(|_| {
        let is_ending = process::is_ending(pid);
        if !is_ending {
            super::proc::pause(Duration::from_millis(5));
        }
        is_ending
    })
}

/// The other side: waits for the end of the process that started it, and does what is left to do.
///
/// # Errors
/// The system.
pub fn serve(minor: Option<u32>) -> io::Result<()> {
    // It outlives the daemon by its last duty, whatever ends that.
    SigSet::all().thread_block()?;
    let parent = nix::unistd::getppid().as_raw();
    let daemon = PidFd::open(parent)?;
    prctl::set_pdeathsig(Signal::SIGUSR2)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let ended = SignalFd::with_flags(&[Signal::SIGUSR2].into_iter().collect(), flags)?;
    let abort = minor.and_then(open_abort);
    let mut stopped = Stopped::default();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut answer = || output.write_all(b"\n").and_then(|()| output.flush());
    answer()?;
    let (stdin, mut text, mut hears) = (io::stdin(), Vec::new(), true);
    loop {
        let mut fds = [
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(daemon.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds[..2 + usize::from(hears)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [signalled, gone, said] = fds.map(|fd| fd.any().unwrap_or(false));
        if gone || signalled && matches!(ended.read_signal(), Ok(Some(_))) && is_ending(parent) {
            break;
        }
        if !said {
            continue;
        }
        let mut part = [0; 256];
        let len = input.read(&mut part)?;
        // The daemon has nothing more to say; its end is to come.
        hears = len > 0;
        text.extend_from_slice(&part[..len]);
        while let Some(end) = text.iter().position(|&c| c == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if stopped.hear(String::from_utf8_lossy(&line).trim_end()) {
                answer()?;
            }
        }
    }
    for (process, signal) in stopped.0.values() {
        let _ = process.signal(*signal); // one that is gone needs nothing
    }
    if !daemon.wait(DEATH)
        && let Some(mut abort) = abort
    {
        abort.write_all(b"1")?;
    }
    Ok(())
}
