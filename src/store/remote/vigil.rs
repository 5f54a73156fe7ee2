//! Whether a connection is alive: silence, probes, slow transmitters.
//!
//! | what | then |
//! |---|---|
//! | nothing came for `IDLE_MS`, and nothing is due | a probe is due |
//! | nothing came for `PROBE_MS` after it | dead |
//! | nothing came for `ANSWER_MS`, and answers are due | dead |
//! | a message is under way, and fewer than `RATE_BYTES_MIN` came in `RATE_MS` | dead |
//! | something is to be sent, and fewer left in that time | dead |
//!
//! Time is an argument. Deadlines of single loads are elsewhere: one that is over does not end a connection.

use super::Broken;
use crate::base::limit::{ANSWER_MS, IDLE_MS, PROBE_MS, RATE_BYTES_MIN, RATE_MS};
use std::time::{Duration, Instant};

/// Bytes in one direction while a message is under way.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    /// Since when, and how many.
    window: Option<(Instant, usize)>,
}

impl Meter {
    /// So many bytes passed; whether a message is under way now.
    fn pass(&mut self, now: Instant, bytes: usize, is_open: bool) {
        self.window = match self.window {
            _ if !is_open => None,
            // A message that began with these very bytes has its whole time.
            None => Some((now, 0)),
            Some((_, had)) if had + bytes >= RATE_BYTES_MIN => Some((now, 0)),
            Some((since, had)) => Some((since, had + bytes)),
        };
    }

    fn due(&self) -> Option<Instant> {
        self.window
            .map(|(since, _)| since + Duration::from_millis(RATE_MS))
    }
}

/// Watches one connection.
#[derive(Debug)]
pub(in crate::store) struct Vigil {
    /// When something came last.
    heard: Instant,
    /// Since when answers are due.
    due_since: Option<Instant>,
    probed: Option<Instant>,
    incoming: Meter,
    outgoing: Meter,
}

/// What is to be done now.
#[derive(Debug)]
pub(in crate::store) enum Watch {
    /// Nothing.
    Wait,
    /// Ask something that costs nothing.
    Probe,
    /// Give the connection up.
    Dead(Broken),
}

impl Vigil {
    /// A connection that is just made.
    pub(in crate::store) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            due_since: None,
            probed: None,
            incoming: Meter::default(),
            outgoing: Meter::default(),
        }
    }

    /// Bytes came; whether a message is under way.
    pub(in crate::store) fn received(&mut self, now: Instant, bytes: usize, is_open: bool) {
        self.heard = now;
        self.probed = None;
        self.incoming.pass(now, bytes, is_open);
    }

    /// Bytes left; whether there are more to be sent.
    pub(in crate::store) fn sent(&mut self, now: Instant, bytes: usize, is_open: bool) {
        self.outgoing.pass(now, bytes, is_open);
    }

    /// Whether answers are due, the probe's aside.
    pub(in crate::store) fn expects(&mut self, now: Instant, is_due: bool) {
        self.due_since = match self.due_since {
            _ if !is_due => None,
            None => Some(now),
            since => since,
        };
    }

    /// When to look again, and what for.
    fn next(&self) -> (Instant, Watch) {
        let ms = Duration::from_millis;
        let silence = match (self.due_since, self.probed) {
            (Some(since), _) => {
                let last = since.max(self.heard);
                (last + ms(ANSWER_MS), Watch::Dead(Broken::Silent))
            }
            (None, Some(probed)) => (probed + ms(PROBE_MS), Watch::Dead(Broken::Silent)),
            (None, None) => (self.heard + ms(IDLE_MS), Watch::Probe),
        };
        let slow = [self.incoming.due(), self.outgoing.due()];
        let slow = slow.into_iter().flatten().min();
        match slow {
            Some(due) if due < silence.0 => (due, Watch::Dead(Broken::Slow)),
            _ => silence,
        }
    }

    /// When to look again.
    pub(in crate::store) fn timeout(&self) -> Instant {
        self.next().0
    }

    /// What is to be done now.
    pub(in crate::store) fn look(&mut self, now: Instant) -> Watch {
        let (due, what) = self.next();
        if now < due {
            return Watch::Wait;
        }
        if matches!(what, Watch::Probe) {
            self.probed = Some(now);
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_idle_connection_is_probed_and_one_that_stays_silent_given_up() {
        let t = Instant::now();
        let mut vigil = Vigil::new(t);
        assert_eq!(vigil.timeout(), t + s(60));
        assert!(matches!(vigil.look(t + s(59)), Watch::Wait));
        assert!(matches!(vigil.look(t + s(60)), Watch::Probe));
        assert_eq!(vigil.timeout(), t + s(65));
        vigil.received(t + s(61), 10, false);
        assert!(matches!(vigil.look(t + s(120)), Watch::Wait));
        assert!(matches!(vigil.look(t + s(121)), Watch::Probe));
        assert!(matches!(vigil.look(t + s(125)), Watch::Wait));
        assert!(matches!(
            vigil.look(t + s(126)),
            Watch::Dead(Broken::Silent)
        ));
    }

    #[test]
    fn answers_that_are_due_are_waited_for_as_long_as_something_comes() {
        let t = Instant::now();
        let mut vigil = Vigil::new(t);
        vigil.expects(t + s(50), true);
        vigil.expects(t + s(60), true);
        assert!(matches!(vigil.look(t + s(64)), Watch::Wait));
        vigil.received(t + s(64), 100, false);
        assert!(matches!(vigil.look(t + s(78)), Watch::Wait));
        assert!(matches!(vigil.look(t + s(79)), Watch::Dead(Broken::Silent)));
        vigil.expects(t + s(79), false);
        assert!(matches!(vigil.look(t + s(79)), Watch::Wait));
    }

    #[test]
    fn a_message_that_dribbles_is_given_up_and_a_slow_one_is_not() {
        let t = Instant::now();
        let mut vigil = Vigil::new(t);
        vigil.expects(t, true);
        for second in 0..10 {
            vigil.received(t + s(second), 1, true);
            assert!(matches!(vigil.look(t + s(second)), Watch::Wait));
        }
        assert!(matches!(vigil.look(t + s(10)), Watch::Dead(Broken::Slow)));
        let mut vigil = Vigil::new(t);
        vigil.expects(t, true);
        for second in 0..100 {
            vigil.received(t + s(second), 70_000, true);
            assert!(matches!(vigil.look(t + s(second)), Watch::Wait));
        }
        vigil.received(t + s(100), 1, false);
        assert!(matches!(vigil.look(t + s(111)), Watch::Wait));
        // The other direction.
        vigil.sent(t + s(111), 0, true);
        vigil.received(t + s(120), 1, false);
        assert!(matches!(vigil.look(t + s(121)), Watch::Dead(Broken::Slow)));
    }
}
