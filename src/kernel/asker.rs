//! A process beside the daemon that asks our own mount how long files are, so that the kernel knows it (kernel-notes 0019 and 0020).
//!
//! ```text
//!   daemon                     asker: zring look sizes MAJOR:MINOR MOUNTPOINT
//!     <oid> <size> ...  --->   opens head/bigfile/<oid> by O_PATH, which the server is not told of; statx, answered by the server
//!     (empty line)             statx again, answered by the kernel: the same, and not more than <size>?
//!                       <---   how many of them the kernel has right
//! ```
//!
//! No thread of the daemon enters its own mount, nor a child that shares its descriptors: killed there it would wait for itself, for ever. So
//! this is another run of the same program, which has nothing open but its two pipes; it is started when it is needed first. It keeps
//! nothing of the mount open between two questions, so it does not keep it busy. It ends with the thread that started it, and when its
//! pipe does. What it finds at the mountpoint is looked at only if it is the mount that was made: it may be detached by now, lie under
//! another, or be somewhere else in the namespace of whoever looks.
//!
//! An asker that does not answer in time is left alone, and asked again when it has: meanwhile every question fails at once.

use super::{beside, stat};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// What the program is told to be it.
pub const WORDS: [&str; 2] = ["look", "sizes"];
/// How often a file is asked for whose answer something overtook.
const TRIES: usize = 8;

/// Files in one question, 40 bytes each at most: what nobody reads fits into the pipe, so that asking does not wait.
const QUESTION_MAX: usize = 512;

/// Why the kernel could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No process.
    #[error("no process can be started to ask for sizes (is /proc mounted?): {0}")]
    Start(#[source] io::Error),
    /// It ended.
    #[error("the process that asks for sizes ended")]
    Ended,
    /// It does not answer.
    #[error("the process that asks for sizes does not answer")]
    Late,
    /// The mount is not there, or not ours, or does not let it in; or the kernel takes no answer.
    #[error("{0} of the files are not seen at the mountpoint")]
    Unseen(usize),
}

/// The daemon's side.
#[derive(Debug)]
pub struct Asker {
    mountpoint: PathBuf,
    device: (u32, u32),
    talk: Option<Talk>,
}

#[derive(Debug)]
struct Talk {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// It owes an answer to a question before.
    owes: bool,
}

impl Asker {
    /// For a mount; nothing is started yet.
    pub fn new(mountpoint: &Path, device: (u32, u32)) -> Self {
        let mountpoint = mountpoint.to_owned();
        Self {
            mountpoint,
            device,
            talk: None,
        }
    }

    /// Has the kernel know of each of these files, by its name below `head/bigfile`, that it has no more than so many bytes. Waits `limit` at
    /// most.
    ///
    /// # Errors
    /// Some of them it may not know: nothing else comes of that.
    pub fn ask(&mut self, files: &[(String, u64)], limit: Duration) -> Result<(), AskError> {
        let end = Instant::now() + limit;
        let mut unseen = 0;
        for part in files.chunks(QUESTION_MAX) {
            let mut talk = match self.talk.take() {
                Some(talk) => talk,
                None => self.start().map_err(AskError::Start)?,
            };
            let answer = talk.ask(part, end);
            if matches!(answer, Ok(_) | Err(AskError::Late)) {
                self.talk = Some(talk); // else the next question starts another one
            }
            unseen += part.len() - answer?.min(part.len());
        }
        match unseen {
            0 => Ok(()),
            unseen => Err(AskError::Unseen(unseen)),
        }
    }

    fn start(&self) -> io::Result<Talk> {
        let (major, minor) = self.device;
        let mut child = beside::command(&WORDS)
            .arg(format!("{major}:{minor}"))
            .arg(&self.mountpoint)
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Talk {
            to: child.stdin.take().expect("it is piped"),
            from: child.stdout.take().expect("it is piped"),
            child,
            owes: false,
        })
    }
}

impl Talk {
    /// How many of these files the kernel has right.
    fn ask(&mut self, files: &[(String, u64)], end: Instant) -> Result<usize, AskError> {
        if self.owes {
            self.answer(Instant::now())?;
        }
        let lines = files.iter().map(|(name, size)| format!("{name} {size}\n"));
        let question: String = lines.chain(["\n".to_owned()]).collect();
        let told = self.to.write_all(question.as_bytes());
        told.map_err(|_| AskError::Ended)?;
        self.answer(end)
    }

    /// The next line it says: a number.
    fn answer(&mut self, end: Instant) -> Result<usize, AskError> {
        self.owes = true;
        let (mut line, mut byte) = (String::new(), [0]);
        loop {
            // A line comes whole: whoever has its beginning has its end at once.
            match beside::is_readable(&self.from, end) {
                Ok(false) if line.is_empty() => return Err(AskError::Late),
                Ok(_) => {}
                Err(_) => return Err(AskError::Ended),
            }
            match self.from.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break,
                Ok(1) => line.push(char::from(byte[0])),
                _ => return Err(AskError::Ended),
            }
        }
        self.owes = false;
        line.parse().map_err(|_| AskError::Ended)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        beside::end(&mut self.child);
    }
}

/// The other side: answers until its pipe ends.
///
/// # Errors
/// The pipes.
pub fn serve(device: (u32, u32), mountpoint: &Path) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut right = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let Some((name, size)) = line.split_once(' ') else {
            writeln!(io::stdout(), "{right}")?;
            io::stdout().flush()?;
            right = 0;
            continue;
        };
        let size = size.parse().unwrap_or(0);
        let path = Path::new("head/bigfile").join(name);
        right += usize::from(tell(device, mountpoint, &path, size).unwrap_or(false));
    }
    Ok(())
}

/// Whether the kernel knows how long a file is, after it was asked, and that it has no more than `size` bytes.
fn tell(device: (u32, u32), mountpoint: &Path, path: &Path, size: u64) -> io::Result<bool> {
    // Without O_DIRECTORY: what an automounter left there is not woken.
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let top = open(mountpoint, flags, Mode::empty())?;
    let (major, minor) = device;
    if stat::look_fd(top.as_fd(), false)?.dev != u64::from(major) << 32 | u64::from(minor) {
        return Ok(false);
    }
    let file = openat(&top, path, flags, Mode::empty())?;
    for _ in 0..TRIES {
        let told = stat::look_fd(file.as_fd(), true)?.witness.size;
        // The kernel gives what it was told, but does not take it if something else came meanwhile.
        if stat::look_fd(file.as_fd(), false)?.witness.size == told && told <= size {
            return Ok(true);
        }
    }
    Ok(false)
}
