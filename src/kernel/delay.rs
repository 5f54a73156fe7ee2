//! How long requests wait in mounts of this program, so that work that has time gives way to them.
//!
//! A server says so in `.zring/stats` at the top of its mount: a line `service_delay_us N`. One without the file, or without the line, is not
//! heeded. A mount may hang, and who reads in one that hangs cannot be ended: so each is read by a process of its own, another run of this
//! program (`zring look delay MOUNTPOINT`), which is killed when nobody wants to know any more, and left alone if it does not die
//! of that. It ends with the mount, then. Nobody waits for its word, and the last one counts for a second.

use super::{beside, mountinfo, proc};
use nix::sys::signal::Signal;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What the program is told to be it.
pub const WORDS: [&str; 2] = ["look", "delay"];
/// What a request may wait.
const OBJECTIVE_US: u64 = 1000;
/// How often a server is asked.
const ASK: Duration = Duration::from_millis(200);
/// How long an answer counts.
const VALID: Duration = Duration::from_secs(1);
/// Mounts that are asked.
const MOUNTS_MAX: usize = 16;

/// What servers say.
#[derive(Debug)]
pub struct Delays(Mutex<Said>);

#[derive(Debug)]
struct Said {
    children: Vec<(Child, ChildStdout)>,
    heard: Instant,
    until: Instant,
}

impl Delays {
    /// Asks nobody.
    pub fn none() -> Self {
        Self::listen([])
    }

    /// Asks all mounts of this program that there are now.
    pub fn of_mounts() -> Self {
        let ours = mountinfo::all().into_iter().filter(|m| m.is_ours());
        Self::listen(ours.take(MOUNTS_MAX).map(|mount| {
            let mut look = beside::command(&WORDS);
            look.arg(&mount.path);
            look
        }))
    }

    fn listen(commands: impl IntoIterator<Item = Command>) -> Self {
        let start = |mut command: Command| {
            let mut child = command.spawn().ok()?;
            let pipe = child.stdout.take().expect("it is piped");
            Some((child, pipe))
        };
        let now = Instant::now();
        Self(Mutex::new(Said {
            children: commands.into_iter().filter_map(start).collect(),
            heard: now,
            until: now,
        }))
    }

    /// Whether some server has requests wait too long. Waits for nobody.
    pub fn is_behind(&self) -> bool {
        // Who finds it locked hears the same a moment later.
        self.0.try_lock().is_ok_and(|mut said| said.is_behind())
    }
}

impl Said {
    fn is_behind(&mut self) -> bool {
        let now = Instant::now();
        if !self.children.is_empty() && now.duration_since(self.heard) >= ASK / 4 {
            self.heard = now;
            let mut behind = false;
            self.children.retain_mut(|(child, pipe)| match hear(pipe) {
                Ok(delay) => {
                    behind |= delay.is_some_and(|us| us > OBJECTIVE_US);
                    true
                }
                Err(_) => {
                    beside::end(child);
                    false
                }
            });
            if behind {
                self.until = now + VALID;
            }
        }
        now < self.until
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            beside::end(child);
        }
    }
}

/// The last number that was said since, if there is one.
fn hear(pipe: &mut ChildStdout) -> io::Result<Option<u64>> {
    if !beside::is_readable(pipe, Instant::now())? {
        return Ok(None);
    }
    // A line comes whole, and is far shorter.
    let mut buf = [0; 4096];
    let len = pipe.read(&mut buf)?;
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&buf[..len]);
    Ok(text.lines().filter_map(|line| line.parse().ok()).max())
}

/// The other side: says what the server of a mount says, until it says nothing, or nobody hears.
///
/// # Errors
/// The pipe.
pub fn serve(mountpoint: &Path) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let path = mountpoint.join(".zring/stats");
    while let Some(delay) = std::fs::read_to_string(&path)
        .ok()
        .and_then(|stats| delay_us(&stats))
    {
        writeln!(io::stdout(), "{delay}")?;
        io::stdout().flush()?;
        proc::pause(ASK);
    }
    Ok(())
}

fn delay_us(stats: &str) -> Option<u64> {
    let mut lines = stats.lines();
    lines.find_map(|line| line.strip_prefix("service_delay_us")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn says(script: &str) -> Delays {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdout(Stdio::piped());
        Delays::listen([shell])
    }

    /// Whether it is behind within a second.
    fn is_behind(delays: &Delays) -> bool {
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            if delays.is_behind() {
                return true;
            }
            proc::pause(Duration::from_millis(5));
        }
        false
    }

    #[test]
    fn who_is_behind_is_given_way_to_and_silence_is_none() {
        assert!(!Delays::none().is_behind());
        assert!(!is_behind(&says("echo 1000; exec sleep 9")));
        assert!(!is_behind(&says("exec sleep 9")));
        let delays = says("echo 1; echo 1001; exec sleep 9");
        assert!(is_behind(&delays));
        // An answer that nothing follows does not count for ever.
        proc::pause(VALID);
        assert!(!delays.is_behind());
    }

    #[test]
    fn the_line_is_found_among_others() {
        assert_eq!(delay_us("pin 3\nservice_delay_us\t12\nx 1\n"), Some(12));
        assert_eq!(delay_us("pin 3\n"), None);
        assert_eq!(delay_us("service_delay_us much\n"), None);
    }
}
