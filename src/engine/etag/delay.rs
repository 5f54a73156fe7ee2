//! How long requests wait in the mounts of this program on the same machine: hashing gives way to them.
//!
//! A server says so in `.zring/stats` at the top of its mount, in a line `service_delay_us N`; one without that file, or without
//! the line, is not heeded. Mounts may hang, so they are asked by a thread of its own, which is left alone when the scan ends, and an answer
//! counts for a short while only.

use crate::kernel::{mountinfo, proc};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a request may wait until hashing stops for it.
const OBJECTIVE_US: u64 = 1000;
/// How often servers are asked.
const ASK: Duration = Duration::from_millis(200);
/// How long an answer counts.
const VALID: Duration = Duration::from_secs(1);

/// What servers say.
#[derive(Debug)]
pub(super) struct Delay {
    began: Instant,
    /// Until when hashing pauses, in microseconds since `began`.
    until_us: AtomicU64,
    over: AtomicBool,
}

impl Delay {
    /// Asks until nobody holds it any more; without a mount of ours nobody is asked.
    pub(super) fn ask() -> Arc<Self> {
        let this = Self::silent();
        let mounts = mountinfo::all().into_iter().filter(|m| m.is_ours());
        let stats: Vec<PathBuf> = mounts.map(|m| m.path.join(".zring/stats")).collect();
        if !stats.is_empty() {
            let to = Arc::clone(&this);
            // Without a thread servers are not heeded.
            let _ = proc::spawn("zring-delay", move || to.run(stats));
        }
        this
    }

    fn silent() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            until_us: AtomicU64::new(0),
            over: AtomicBool::new(false),
        })
    }

    fn run(&self, mut stats: Vec<PathBuf>) {
        while !self.over.load(Relaxed) && !stats.is_empty() {
            stats.retain(|path| self.hear(path));
            proc::pause(ASK);
        }
    }

    /// Asks one; false if there is nothing to be asked.
    fn hear(&self, path: &Path) -> bool {
        let Ok(text) = std::fs::read_to_string(path) else {
            return false;
        };
        let Some(delay) = delay_us(&text) else {
            return false;
        };
        if delay > OBJECTIVE_US {
            let until = self.began.elapsed() + VALID;
            let until = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
            self.until_us.store(until, Relaxed);
        }
        true
    }

    /// Whether some server is behind.
    pub(super) fn is_behind(&self) -> bool {
        let until = self.until_us.load(Relaxed);
        until > 0 && self.began.elapsed() < Duration::from_micros(until)
    }

    /// Nobody is to be asked any more.
    pub(super) fn end(&self) {
        self.over.store(true, Relaxed);
    }
}

fn delay_us(stats: &str) -> Option<u64> {
    let mut lines = stats.lines();
    lines.find_map(|line| line.strip_prefix("service_delay_us")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_behind_is_given_way_to_and_silence_is_none() {
        let delay = Delay::silent();
        let path = std::env::temp_dir().join(format!("zring-delay-{}", std::process::id()));
        assert!(!delay.hear(&path), "there is no such file");
        let says = |text: &str| {
            std::fs::write(&path, text).expect("it can be written");
            (delay.hear(&path), delay.is_behind())
        };
        assert_eq!(says("pin 3\n"), (false, false));
        assert_eq!(says("pin 3\nservice_delay_us 1000\n"), (true, false));
        assert_eq!(says("service_delay_us\t1001\n"), (true, true));
        let _ = std::fs::remove_file(&path);
    }
}
