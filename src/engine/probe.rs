//! Whether the kernel can be asked for its pages.
//!
//! Kernels before the mend of 2026 answer a RETRIEVE with pages that nobody has filled yet. The first READ of a mount tells:
//! while it is not answered its pages are there, locked and not filled. A RETRIEVE of one of them is answered with nothing by
//! a kernel that can be trusted, and with a page by one that cannot (kernel-note 0015). The READ is answered when that is known.
//!
//! ```text
//!   Unknown --begin--> Asked --settle--> Trusted | Refused
//!                            --give_up--> Refused
//! ```

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How long the first READ waits for it. The answer takes microseconds; a kernel that has no memory for it stays silent.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

const UNKNOWN: u8 = 0;
const ASKED: u8 = 1;
const TRUSTED: u8 = 2;
const REFUSED: u8 = 3;

/// See the module.
#[derive(Debug, Default)]
pub struct Probe(AtomicU8);

impl Probe {
    /// Whether the caller is the one to ask.
    pub(super) fn begin(&self) -> bool {
        let (now, then) = (UNKNOWN, ASKED);
        let order = Ordering::Relaxed;
        self.0.load(order) == UNKNOWN && self.0.compare_exchange(now, then, order, order).is_ok()
    }

    /// The kernel gave back so many bytes of a page that nobody had filled.
    pub(super) fn settle(&self, bytes: usize) {
        let then = if bytes == 0 { TRUSTED } else { REFUSED };
        let order = Ordering::Relaxed;
        let _ = self.0.compare_exchange(ASKED, then, order, order);
    }

    /// It says nothing.
    pub(super) fn give_up(&self) {
        let order = Ordering::Relaxed;
        let _ = self.0.compare_exchange(ASKED, REFUSED, order, order);
    }

    /// Whether what it gives back can be used.
    pub(super) fn is_trusted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == TRUSTED
    }

    /// What `.wcfs/stats` says of it: 0 not known yet, 1 trusted, 2 refused.
    pub(super) fn shown(&self) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            TRUSTED => 1,
            REFUSED => 2,
            _ => 0,
        }
    }

    /// Whether it is worth while to remember what it is given.
    pub(super) fn is_refused(&self) -> bool {
        self.0.load(Ordering::Relaxed) == REFUSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D2: pages that nobody had filled were taken for what the block says.
    #[test]
    fn d02_a_kernel_that_gives_back_unfilled_pages_is_never_asked_again() {
        let probe = Probe::default();
        assert!(!probe.is_trusted() && !probe.is_refused());
        assert!(probe.begin() && !probe.begin(), "one READ tells");
        assert!(!probe.is_trusted(), "not before the answer");
        probe.settle(4096);
        assert!(probe.is_refused() && !probe.is_trusted());
        probe.settle(0);
        assert!(!probe.is_trusted() && !probe.begin(), "once and for all");
    }

    #[test]
    fn d02_silence_is_no_trust() {
        let probe = Probe::default();
        probe.settle(0);
        assert!(!probe.is_trusted(), "an answer to nothing that was asked");
        assert!(probe.begin());
        probe.give_up();
        probe.settle(0);
        assert!(probe.is_refused() && !probe.is_trusted());
        let probe = Probe::default();
        assert!(probe.begin());
        probe.settle(0);
        probe.give_up();
        assert!(probe.is_trusted());
    }
}
