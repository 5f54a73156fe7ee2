//! Whether a client is left: clients keep `.wcfs/zurl` open for as long as they need the server.
//!
//! A server that was started by a client (`-autoexit`) ends some time after its start or after the last close, whichever is
//! later. Its end is an ordinary unmount, so a mount that somebody still uses stays, and a client that comes at the last moment
//! either finds the mount or does not.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Opens of `.wcfs/zurl`.
#[derive(Debug)]
pub struct Presence(Mutex<Opens>);

#[derive(Debug)]
struct Opens {
    count: u64,
    /// The start, or the last close.
    since: Instant,
}

impl Default for Presence {
    fn default() -> Self {
        let (count, since) = (0, Instant::now());
        Self(Mutex::new(Opens { count, since }))
    }
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, Opens> {
        self.0.lock().expect("a panic aborts")
    }

    /// For who holds all locks.
    pub(super) fn hold(&self) -> impl Sized {
        self.lock()
    }

    /// It is opened once more.
    pub(super) fn open(&self) {
        self.lock().count += 1;
    }

    /// One open of it is closed. `ENOSYS` to an OPEN would have kept the kernel from telling.
    pub(super) fn close(&self) {
        let mut opens = self.lock();
        debug_assert!(opens.count > 0, "BUG: a close without an open");
        opens.count = opens.count.saturating_sub(1);
        opens.since = Instant::now();
    }

    /// How long nobody has been there; `None` while somebody is.
    pub(super) fn alone(&self) -> Option<Duration> {
        let opens = self.lock();
        (opens.count == 0).then(|| opens.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_alone_from_the_start_and_from_the_last_close_on() {
        let presence = Presence::default();
        assert!(presence.alone().is_some());
        presence.open();
        presence.open();
        presence.close();
        assert_eq!(presence.alone(), None);
        std::thread::sleep(Duration::from_millis(5));
        presence.close();
        assert!(
            presence
                .alone()
                .is_some_and(|d| d < Duration::from_millis(5))
        );
    }
}
