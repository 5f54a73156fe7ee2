//! Mounts and programs under a watchdog: whatever hangs, the bench ends and leaves nothing behind.
//!
//! The process that drives the bench never enters a mount. What does is a child with a deadline; when it passes, the
//! connection is aborted by its number (`/sys/fs/fuse/connections/<minor>/abort`), which frees every caller in the
//! kernel, and the child is killed. A mount ends the same way if unmounting does not.

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use zring::kernel::{mount, mountinfo};

/// How long a daemon may take until its mount is there.
const START: Duration = Duration::from_secs(60);
/// How long an unmount may take before the connection is aborted.
const STOP: Duration = Duration::from_secs(20);

/// A served mount.
#[derive(Debug)]
pub struct Mounted {
    daemon: Child,
    at: PathBuf,
    minor: u32,
    log: PathBuf,
    over: bool,
}

impl Mounted {
    /// Starts a daemon that stays in front and mounts `at`.
    pub fn start(command: &mut Command, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        ensure!(
            mountinfo::topmost(at).is_none(),
            "{} is mounted already",
            at.display()
        );
        let log = at.with_extension("log");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let mut daemon = command.spawn().with_context(|| format!("{command:?}"))?;
        let began = Instant::now();
        let minor = loop {
            if let Some(there) = mountinfo::topmost(at) {
                break there.device.1;
            }
            if let Some(status) = daemon.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{command:?} ended ({status}): {said}");
            }
            if began.elapsed() > START {
                let _ = daemon.kill();
                let _ = daemon.wait();
                bail!("{command:?} did not mount in time");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let at = at.to_owned();
        Ok(Self {
            daemon,
            at,
            minor,
            log,
            over: false,
        })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Its daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Ends the connection: whoever is in the mount comes back.
    pub fn abort(&self) {
        let _ = mount::abort_minor(self.minor);
    }

    /// Unmounts and waits for the daemon.
    pub fn stop(mut self) -> Result<()> {
        self.end(true)
    }

    fn end(&mut self, kindly: bool) -> Result<()> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let began = Instant::now();
        let mut aborted = !kindly;
        if aborted {
            let _ = mount::abort_minor(self.minor);
        }
        while mountinfo::topmost(&self.at).is_some() && mount::unmount(&self.at, aborted).is_err() {
            if began.elapsed() > STOP {
                ensure!(!aborted, "{} cannot be unmounted", self.at.display());
                let _ = mount::abort_minor(self.minor);
                aborted = true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let gone = wait(&mut self.daemon, STOP)?;
        if !gone {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        if said.contains("error") || said.contains("BUG") {
            bail!("the daemon said: {said}");
        }
        ensure!(
            gone && !(aborted && kindly),
            "the daemon had to be ended by force: {said}"
        );
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.end(false);
    }
}

/// Whether a process ended within `limit`.
fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}

/// Runs a program to its end, at most for `limit`; gives what it printed. `mounts` are aborted if it hangs.
pub fn output(command: &mut Command, limit: Duration, mounts: &[&Mounted]) -> Result<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("{command:?}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let minors: Vec<u32> = mounts.iter().map(|m| m.minor).collect();
    let (ended, watched) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            minors
                .iter()
                .for_each(|&minor| drop(mount::abort_minor(minor)));
            let _ = kill(pid, Signal::SIGKILL);
        }
        late
    });
    let output = child.wait_with_output();
    drop(ended);
    let late = watchdog.join().map_err(|_| anyhow!("the watchdog died"))?;
    let output = output?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!late, "{command:?} took longer than {limit:?}: {said}");
    ensure!(
        output.status.success(),
        "{command:?}: {}: {said}",
        output.status
    );
    Ok(text)
}

/// A program that is told what to do by lines, and answers each with figures and a line `done`.
#[derive(Debug)]
pub struct Directed {
    child: Child,
    ask: ChildStdin,
    lines: Receiver<String>,
}

impl Directed {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (tell, lines) = channel();
        let out = BufReader::new(child.stdout.take().context("no stdout")?);
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .for_each(|line| drop(tell.send(line)));
        });
        Ok(Self {
            ask: child.stdin.take().context("no stdin")?,
            child,
            lines,
        })
    }

    /// Tells it a line.
    pub fn begin(&mut self, line: &str) -> Result<()> {
        Ok(self.ask.write_all(format!("{line}\n").as_bytes())?)
    }

    /// What it answers, within `limit`.
    pub fn answer(&mut self, limit: Duration) -> Result<Figures> {
        let mut text = String::new();
        loop {
            let line = self.lines.recv_timeout(limit);
            match line.context("no answer")?.as_str() {
                "done" => return Ok(Figures::parse(&text)),
                line => text += &format!("{line}\n"),
            }
        }
    }
}

impl Drop for Directed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Figures, by name.
#[derive(Clone, Debug, Default)]
pub struct Figures(HashMap<String, f64>);

impl Figures {
    /// From lines of a name and a number, with or without a colon.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once([' ', '\t', ':'])?;
            let value = value.trim_matches([' ', '\t', ':']).parse().ok()?;
            Some((name.to_owned(), value))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Result<f64> {
        self.0
            .get(name)
            .copied()
            .with_context(|| format!("no figure {name}"))
    }
}

/// This program, to be run with other arguments.
pub fn myself() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}
