//! Looks at a mount that may hang, from a process that may be left alone.
//!
//! Whoever enters a mount whose server does not answer waits, and once the server has taken the request not even SIGKILL ends
//! that wait. So this program asks another run of itself, `zring look`, and gives it a deadline. A look that does not end is
//! killed, and left behind when it does not die of that either: it ends with the mount.

use super::args::Args;
use super::{Failure, Outcome};
use crate::kernel::{asker, delay, guard, mount as kmount, mountinfo, process};
use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one look may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a look that was killed may take to die.
const DEATH: Duration = Duration::from_millis(300);

/// What a look came to.
#[derive(Debug)]
pub(super) enum Seen {
    /// What it said.
    Said(Vec<u8>),
    /// It was refused.
    Refused(Errno),
    /// It did not end in time; what it had said by then, and its number if it cannot even be killed.
    Late(Vec<u8>, Option<u32>),
}

impl Seen {
    /// What was said, in time or not.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Said(said) | Self::Late(said, _) => String::from_utf8_lossy(said).into_owned(),
            Self::Refused(_) => String::new(),
        }
    }
}

/// `stat`: device number of what is at `path`, as `major:minor`.
pub(super) fn stat(path: &Path, limit: Duration) -> Result<Seen, Failure> {
    ask(&["stat".as_ref(), path.as_os_str()], limit)
}

/// Whether the server answers at all: of what `stat` shows the kernel may remember what a dead server said.
pub(super) fn statfs(path: &Path, limit: Duration) -> Result<Seen, Failure> {
    ask(&["statfs".as_ref(), path.as_os_str()], limit)
}

/// The content of a file.
pub(super) fn read(path: &Path, limit: Duration) -> Result<Seen, Failure> {
    ask(&["read".as_ref(), path.as_os_str()], limit)
}

/// The path without symbolic links.
fn real(path: &Path, limit: Duration) -> Result<Seen, Failure> {
    ask(&["real".as_ref(), path.as_os_str()], limit)
}

/// Unmounts; a busy mount is refused unless `lazy`.
pub(super) fn unmount(path: &Path, lazy: bool, limit: Duration) -> Result<Seen, Failure> {
    let how = if lazy { "detach" } else { "unmount" };
    ask(&[how.as_ref(), path.as_os_str()], limit)
}

/// Who holds a mount: lines of number, name and by what, separated by tabs.
pub(super) fn holders(path: &Path, limit: Duration) -> Result<Seen, Failure> {
    ask(&["holders".as_ref(), path.as_os_str()], limit)
}

/// Who serves a mount: lines of number, name, count of descriptors.
pub(super) fn servers(path: &Path, limit: Duration) -> Result<Seen, Failure> {
    ask(&["servers".as_ref(), path.as_os_str()], limit)
}

/// Kernel stacks of all threads of these processes.
pub(super) fn stacks(pids: &[i32], limit: Duration) -> Result<Seen, Failure> {
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    let words = pids.iter().map(OsStr::new);
    let words: Vec<&OsStr> = std::iter::once("stacks".as_ref()).chain(words).collect();
    ask(&words, limit)
}

fn ask(words: &[&OsStr], limit: Duration) -> Result<Seen, Failure> {
    // By this name even if the binary was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .arg0("zring")
        .arg("look")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("no process can be started to look at the mount (is /proc mounted?)")?;
    let mut pipe = child.stdout.take().expect("it is piped");
    let (end, mut said) = (Instant::now() + limit, Vec::new());
    let mut buf = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) | Err(_) => return Ok(Seen::Late(said, kill(&mut child))),
            Ok(_) => {}
        }
        match pipe.read(&mut buf)? {
            0 => break,
            len => said.extend_from_slice(&buf[..len]),
        }
    }
    let stuck = kill(&mut child); // it has nothing more to say
    if stuck.is_some() {
        return Ok(Seen::Late(said, stuck));
    }
    Ok(match said.strip_prefix(b"errno ") {
        Some(number) => {
            let number = String::from_utf8_lossy(number).trim().parse();
            Seen::Refused(Errno::from_raw(number.unwrap_or(libc::EIO)))
        }
        None => Seen::Said(said.strip_prefix(b"ok\n").unwrap_or(&said).to_vec()),
    })
}

/// Waits for a child's end, kills it if it takes long; its number when that is of no use.
fn kill(child: &mut Child) -> Option<u32> {
    let began = Instant::now();
    let mut killed = false;
    while began.elapsed() < 2 * DEATH {
        if !matches!(child.try_wait(), Ok(None)) {
            return None;
        }
        if !killed && began.elapsed() >= DEATH {
            let _ = child.kill();
            killed = true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(child.id())
}

/// `zring look WHAT ...`: what the functions above ask for. The answer begins with `ok` or is `errno N`.
pub(super) fn command(args: Args) -> Outcome {
    let mut words = args.words().into_iter();
    let what = words.next().unwrap_or_default();
    let rest: Vec<OsString> = words.collect();
    let path = PathBuf::from(rest.first().cloned().unwrap_or_default());
    if what == asker::WORDS[1] {
        return tell_sizes(&rest);
    }
    if what == guard::WORDS[1] {
        let minor = rest.first().and_then(|minor| minor.to_str()?.parse().ok());
        return Ok(guard::serve(minor)?);
    }
    if what == delay::WORDS[1] {
        return Ok(delay::serve(&path)?);
    }
    let out = &mut io::stdout().lock();
    let done = match what.to_str() {
        Some("stat") => std::fs::metadata(&path).map(|meta| {
            let device = meta.dev();
            let (major, minor) = (libc::major(device), libc::minor(device));
            format!("{major}:{minor}").into_bytes()
        }),
        Some("statfs") => kmount::statfs(&path)
            .map(|()| Vec::new())
            .map_err(io::Error::from_raw_os_error),
        Some("read") => std::fs::read(&path),
        Some("real") => std::fs::canonicalize(&path).map(|path| path.into_os_string().into_vec()),
        Some("unmount") => {
            kmount::unmount(&path, false).map_or_else(|e| Err(e.into()), |()| Ok(Vec::new()))
        }
        Some("detach") => {
            kmount::unmount(&path, true).map_or_else(|e| Err(e.into()), |()| Ok(Vec::new()))
        }
        Some("holders") => return tell_holders(&path, out),
        Some("servers") => Ok(told_servers(&path).into_bytes()),
        Some("stacks") => return tell_stacks(&rest, out),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    match done {
        Ok(said) => {
            out.write_all(b"ok\n")?;
            out.write_all(&said)?;
        }
        Err(error) => write!(out, "errno {}", error.raw_os_error().unwrap_or(libc::EIO))?,
    }
    Ok(out.flush()?)
}

fn tell_holders(path: &Path, out: &mut impl Write) -> Outcome {
    out.write_all(b"ok\n")?;
    process::holders(&mountinfo::mounts_at(path), |pid, comm, what| {
        // Each at once: the next process may be the one that hangs.
        let _ = writeln!(out, "{pid}\t{comm}\t{what}").and_then(|()| out.flush());
    });
    // A thread that waits for the memory of a stuck process would keep an ordinary end waiting.
    std::process::exit(0)
}

fn told_servers(path: &Path) -> String {
    let Some(mount) = mountinfo::topmost(path) else {
        return String::new();
    };
    let tail = [mount.source.as_str(), &path.to_string_lossy()];
    process::servers(mount.device.1, &tail)
        .iter()
        .map(|server| format!("{}\t{}\t{}\n", server.pid, server.comm, server.fds))
        .collect()
}

/// Sizes of files, for the daemon: see [`asker`].
fn tell_sizes(rest: &[OsString]) -> Outcome {
    let [device, mountpoint] = rest else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    };
    let device = device.to_str().and_then(|device| device.split_once(':'));
    let device = device.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let device = device
        .ok_or(io::ErrorKind::InvalidInput)
        .map_err(io::Error::from)?;
    Ok(asker::serve(device, Path::new(mountpoint))?)
}

fn tell_stacks(pids: &[OsString], out: &mut impl Write) -> Outcome {
    out.write_all(b"ok\n")?;
    for pid in pids {
        let Some(pid) = pid.to_str().and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        write!(
            out,
            "process {pid} {}\n{}",
            process::comm(pid),
            process::stacks(pid)
        )?;
        out.flush()?;
    }
    Ok(())
}

/// A mountpoint as mountinfo has it, without entering it; what cannot be resolved is taken as it stands.
pub(super) fn mountpoint(given: &Path) -> Result<PathBuf, Failure> {
    let plain = std::path::absolute(given)?;
    if mountinfo::topmost(&plain).is_some() {
        return Ok(plain);
    }
    Ok(match real(&plain, PATIENCE)? {
        Seen::Said(path) => OsStr::from_bytes(&path).into(),
        Seen::Refused(_) | Seen::Late(..) => plain,
    })
}
