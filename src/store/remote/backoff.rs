//! How long to wait between attempts to reach a server: longer each time, and by chance, so that many clients do not come at once.

use crate::base::limit::{RECONNECT_MAX_MS, RECONNECT_MIN_MS};
use std::time::Duration;

/// Doublings after which the longest pause is reached for certain.
const DOUBLINGS_MAX: u32 = 10;

/// See the module.
#[derive(Debug)]
pub(in crate::store) struct Backoff {
    /// Pauses since the last good connection.
    pauses: u32,
    chance: u64,
}

impl Backoff {
    /// `chance` is what pauses are made of.
    pub(in crate::store) fn new(chance: u64) -> Self {
        Self { pauses: 0, chance }
    }

    /// All is well: the next pause is a short one.
    pub(in crate::store) fn reset(&mut self) {
        self.pauses = 0;
    }

    /// Before the next attempt: at least half of what is due.
    pub(in crate::store) fn pause(&mut self) -> Duration {
        let most = (RECONNECT_MIN_MS << self.pauses).min(RECONNECT_MAX_MS);
        self.pauses = (self.pauses + 1).min(DOUBLINGS_MAX);
        Duration::from_millis(most / 2 + self.draw() % (most / 2 + 1))
    }

    /// A number by chance.
    pub(in crate::store) fn draw(&mut self) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        self.chance >> 33
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::new(7);
        let mut most = RECONNECT_MIN_MS;
        for _ in 0..30 {
            let pause = backoff.pause();
            let whole = Duration::from_millis(most);
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{pause:?} of {whole:?}"
            );
            most = (most * 2).min(RECONNECT_MAX_MS);
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(RECONNECT_MIN_MS));
    }
}
