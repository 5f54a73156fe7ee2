//! A progress bar: on a terminal, on stderr, and only for what takes a while.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shown after this long, then now and then.
const FIRST: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_millis(100);

/// A bar for `what`.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            what,
            began: Instant::now(),
            shown: None,
            terminal,
        }
    }

    /// So many bytes of so many are done.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        let elapsed = self.began.elapsed();
        let due = self
            .shown
            .map_or(elapsed > FIRST, |at| at.elapsed() > EVERY);
        if !self.terminal || !due || total == 0 {
            return;
        }
        self.shown = Some(Instant::now());
        let percent = (u128::from(done) * 100 / u128::from(total)).min(100);
        let bar = usize::try_from(percent).unwrap_or(100) * 30 / 100;
        let rate = u128::from(done >> 10) * 1000 / elapsed.as_millis().max(1) / 1024;
        let mut err = std::io::stderr();
        let _ = write!(
            err,
            "\r{} [{:<30}] {percent:3}%  {rate} MiB/s ",
            self.what,
            "=".repeat(bar)
        );
        let _ = err.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}
