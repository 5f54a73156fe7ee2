//! Other runs of this program, beside it: what may hang, or must outlive it, is not done by itself.
//!
//! Such a process has nothing open but what it is given: no descriptor of `/dev/fuse`, no ring.

use super::proc;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one that was killed may take to be collected.
const DEATH: Duration = Duration::from_millis(20);

/// This program with these words, a pipe of its output, and no other stream.
pub(super) fn command(words: &[&str]) -> Command {
    // By this name even if the binary was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("zring").args(words).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    command
}

/// Kills one. If it hangs in a mount it dies when that ends, and is collected when we have.
pub(super) fn end(child: &mut Child) {
    let _ = child.kill();
    let end = Instant::now() + DEATH;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
        proc::pause(Duration::from_millis(1));
    }
}

/// Waits until there is something to read, or an end of it; false when there was none by `end`.
///
/// # Errors
/// What poll(2) says.
pub(super) fn is_readable(pipe: &impl AsFd, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}
