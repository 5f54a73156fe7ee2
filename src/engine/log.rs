//! One line per event, never at a worker's expense.
//!
//! Lines go through a bounded queue to a thread of their own; when the queue is full or one kind of line comes
//! too often they are counted instead of written. They go to stderr, or where [`Glog`] puts them.

use super::glog::Glog;
use crate::kernel::proc;
use crossbeam_channel::{Sender, TrySendError, bounded};
use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// A request was refused, or something is slower than it should be.
    Warning,
    /// Something is damaged or lost.
    Error,
    /// The last thing that is said.
    Fatal,
}

/// How lines look and where they go.
#[derive(Debug)]
pub enum Style {
    /// `zring: <level>: <text>` on stderr.
    Plain,
    /// As the drop-in server writes them.
    Glog(Glog),
}

/// An error and what caused it, to the last: what the system said stands there. A cause that is told already is not told again.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        let causes = std::iter::successors(self.0.source(), |error| error.source());
        for cause in causes.map(ToString::to_string) {
            if !told.contains(&cause) {
                told = format!("{told}: {cause}");
            }
        }
        f.write_str(&told)
    }
}

/// Lines waiting to be written.
const QUEUE: usize = 1024;
/// Lines of one level written in a burst, and then per second.
const BURST: u32 = 50;
const PER_SECOND: u32 = 10;

/// A line and where it comes from.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: String,
    pub(super) at: SystemTime,
    pub(super) thread: i32,
    pub(super) place: &'static Location<'static>,
    /// One of many that are wanted, all of them.
    trace: bool,
}

/// Where lines go; cheap to clone.
#[derive(Clone)]
pub struct Log {
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
    /// Lines given to the thread, and lines it is done with.
    put: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} queued)", self.lines.len())
    }
}

impl Log {
    /// Starts the thread; it ends when the last handle is gone.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(mut style: Style) -> std::io::Result<Self> {
        let (lines, taken) = bounded::<Line>(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let written = Arc::new(AtomicU64::new(0));
        let done = Arc::clone(&written);
        proc::spawn("zring-log", move || {
            let mut allowances = [(); 4].map(|()| Allowance::full());
            for mut line in taken {
                let allowance = &mut allowances[line.level as usize];
                if let Some(suppressed) = if line.trace {
                    Some(0)
                } else {
                    allowance.take()
                } {
                    let suppressed = suppressed + counted.swap(0, Ordering::Relaxed);
                    if suppressed > 0 {
                        line.text += &format!(" (suppressed={suppressed})");
                    }
                    match &mut style {
                        Style::Plain => write_line(&line),
                        Style::Glog(glog) => glog.write(&line),
                    }
                }
                done.fetch_add(1, Ordering::Release);
            }
        })?;
        Ok(Self {
            lines,
            dropped,
            put: Arc::default(),
            written,
        })
    }

    #[track_caller]
    fn put(&self, level: Level, text: String, trace: bool) {
        let line = Line {
            level,
            text,
            at: SystemTime::now(),
            thread: proc::thread_id(),
            place: Location::caller(),
            trace,
        };
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            self.put.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was put so far is written, a moment at most: a stderr that blocks must not keep a daemon.
    pub fn flush(&self) {
        let began = Instant::now();
        while self.written.load(Ordering::Acquire) < self.put.load(Ordering::Relaxed)
            && began.elapsed() < Duration::from_millis(200)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Worth knowing.
    #[track_caller]
    pub fn info(&self, text: impl fmt::Display) {
        self.put(Level::Info, text.to_string(), false);
    }

    /// Worth knowing to who asked for all of it.
    #[track_caller]
    pub fn trace(&self, text: impl fmt::Display) {
        self.put(Level::Info, text.to_string(), true);
    }

    /// Refused, or slow.
    #[track_caller]
    pub fn warning(&self, text: impl fmt::Display) {
        self.put(Level::Warning, text.to_string(), false);
    }

    /// Damaged, or lost.
    #[track_caller]
    pub fn error(&self, text: impl fmt::Display) {
        self.put(Level::Error, text.to_string(), false);
    }

    /// The end.
    #[track_caller]
    pub fn fatal(&self, text: impl fmt::Display) {
        self.put(Level::Fatal, text.to_string(), false);
    }
}

fn write_line(line: &Line) {
    let level = match line.level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error | Level::Fatal => "error",
    };
    // A stderr that nobody reads is no reason to stop serving.
    let _ = writeln!(std::io::stderr(), "zring: {level}: {}", line.text);
}

/// What one level may still write.
struct Allowance {
    left: u32,
    since: Instant,
    suppressed: u64,
}

impl Allowance {
    fn full() -> Self {
        Self {
            left: BURST,
            since: Instant::now(),
            suppressed: 0,
        }
    }

    /// Lines suppressed since the last one written, or `None` when this one is too.
    fn take(&mut self) -> Option<u64> {
        let seconds = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.left = self
                .left
                .saturating_add(seconds.saturating_mul(PER_SECOND))
                .min(BURST);
            self.since += Duration::from_secs(seconds.into());
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_each_once() {
        use crate::store::LoadError;
        use crate::store::file::{FollowError, OpenError};
        let denied = || std::io::Error::from_raw_os_error(libc::EACCES);
        let (pos, path) = (7, "/db".into());
        let load = LoadError::Io {
            pos,
            source: denied(),
        };
        let (text, why) = (Chain(&load).to_string(), denied().to_string());
        assert_eq!(text, format!("reading at position 7 failed: {why}"));
        let source = denied();
        let reopen = FollowError::from(OpenError::Io { path, source });
        let text = Chain(&reopen).to_string();
        assert!(text.ends_with(&format!("cannot be opened: /db: cannot be read: {why}")));
        let twice = crate::engine::daemon::DaemonError::Resources(denied());
        assert_eq!(Chain(&twice).to_string(), twice.to_string());
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut allowance = Allowance::full();
        let written = (0..1000).filter(|_| allowance.take().is_some()).count();
        assert!((50..70).contains(&written), "{written}");
        assert!(allowance.suppressed >= 930);
    }
}
