//! A worker that told a pin listens for the answer, for about as long as a prompt client takes, before it sleeps.
//!
//! An idle CPU of a virtual machine takes longer to wake than a client to answer (kernel-note 0021). Whoever else wants to run on this CPU
//! goes first; when somebody did, the CPU is not idle, nothing is to be gained, and the next pins are waited for asleep.

use std::time::{Duration, Instant};

/// A prompt client's answer comes in half of that.
const LISTEN: Duration = Duration::from_micros(100);
/// A yield that takes as long let somebody else run.
const OTHERS: Duration = Duration::from_micros(50);
/// Pins that are waited for asleep after that.
const ASLEEP: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listener {
    until: Option<Instant>,
    asleep: u32,
}

impl Listener {
    /// A pin was told.
    pub(super) fn begin(&mut self) {
        match self.asleep.checked_sub(1) {
            Some(left) => self.asleep = left,
            None => self.until = Some(Instant::now() + LISTEN),
        }
    }

    /// Nobody's answer is waited for.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// Whether to look again at once. Lets others run before.
    pub(super) fn goes_on(&mut self) -> bool {
        let Some(until) = self.until else {
            return false;
        };
        let before = Instant::now();
        std::thread::yield_now();
        let after = Instant::now();
        if after - before > OTHERS {
            self.asleep = ASLEEP;
        } else if after < until {
            return true;
        }
        self.until = None;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_for_ever_or_without_need() {
        let mut listener = Listener::default();
        assert!(!listener.goes_on());
        listener.begin();
        let began = Instant::now();
        while listener.goes_on() {}
        assert!(began.elapsed() < Duration::from_secs(1));
        listener.begin();
        listener.end();
        assert!(!listener.goes_on());
    }

    #[test]
    fn the_next_pins_are_waited_for_asleep_when_somebody_else_ran() {
        let mut listener = Listener {
            until: None,
            asleep: 2,
        };
        for _ in 0..2 {
            listener.begin();
            assert_eq!(listener.until, None);
        }
        listener.begin();
        assert!(listener.until.is_some());
    }
}
