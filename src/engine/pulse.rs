//! Whether a thread goes on: how long it has been at one thing, or has owed a sign of life.
//!
//! ```text
//!          ask: wake it                    begin
//!   Idle ---------------> Asked since t ----------> Busy since t ---(dropped)---> Idle
//!     \------------------------- begin ------------->/
//! ```
//!
//! Who reads `.wcfs/stats` asks: so a thread that is stuck shows by the second look at the latest, wherever it is stuck.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Of one thread.
#[derive(Debug)]
pub struct Pulse {
    base: Instant,
    /// Since when it is at something, in ms after `base` and one more; 0 when it waits for something to do.
    busy: AtomicU64,
    /// Since when it was asked, in the same way; 0 when it owes nothing.
    asked: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        let base = Instant::now();
        let (busy, asked) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { base, busy, asked }
    }
}

/// It is at something.
#[derive(Debug)]
pub struct Beat<'a>(&'a Pulse);

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.0.busy.store(0, Ordering::SeqCst);
    }
}

impl Pulse {
    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// The thread begins with something.
    #[must_use]
    pub fn begin(&self) -> Beat<'_> {
        self.busy.store(self.now(), Ordering::SeqCst);
        self.asked.store(0, Ordering::SeqCst);
        Beat(self)
    }

    /// Whether it is at something.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) != 0
    }

    /// Somebody wants a sign of life. True when it has to be woken for that.
    #[must_use]
    pub fn ask(&self) -> bool {
        let order = Ordering::SeqCst;
        let now = self.now();
        self.busy.load(order) == 0 && self.asked.compare_exchange(0, now, order, order).is_ok()
    }

    /// For how many ms it has been at one thing, or has not answered.
    pub fn late_ms(&self) -> u64 {
        let now = self.now();
        let since = [&self.busy, &self.asked].map(|of| of.load(Ordering::SeqCst));
        let since = since.into_iter().filter(|&since| since > 0).min();
        since.map_or(0, |since| now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_is_stuck_shows_and_who_waits_for_work_does_not() {
        let wait = || std::thread::sleep(Duration::from_millis(20));
        let pulse = Pulse::default();
        wait();
        assert_eq!(pulse.late_ms(), 0);
        // Asked once, it is woken once, and owes an answer from then on.
        assert!(pulse.ask() && !pulse.ask());
        wait();
        assert!(pulse.late_ms() >= 20);
        assert!(!pulse.is_busy());
        let beat = pulse.begin();
        assert!(pulse.is_busy() && pulse.late_ms() < 20 && !pulse.ask());
        wait();
        assert!(pulse.late_ms() >= 20);
        drop(beat);
        assert_eq!(pulse.late_ms(), 0);
    }
}
