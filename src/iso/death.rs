//! What becomes of a client that failed (protocol 10).
//!
//! ```text
//!              link ended                   out of time, or it never was given any
//!   failed ---------------> Grace(until) --------------------------> Bus(since) --- T/6 ---> Kill(since) --- T/3 ---> Alive
//!      \                        |                                       ^ |                      |
//!       \-----------------------+--------- out of time, nonsense -------+ |                      |
//!                               v                                         v                      v
//!                             Left                                     Killed                 Killed
//! ```

use std::time::{Duration, Instant};

/// A process that dies closes its files before it is seen to be dead.
pub const GRACE: Duration = Duration::from_secs(3);
/// How often a dying client is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It may go by itself until then.
    Grace(Instant),
    /// It was sent SIGBUS.
    Bus(Instant),
    /// SIGKILL, too; SIGBUS was then.
    Kill(Instant),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look again soon.
    Wait,
    /// Send SIGBUS.
    Bus,
    /// Send SIGKILL.
    Kill,
    /// It went by itself.
    Left,
    /// It was killed.
    Killed,
    /// It cannot be killed.
    Alive,
}

impl Death {
    /// What follows, and the state it is in then.
    pub fn look(&mut self, is_alive: bool, now: Instant, timeout: Duration) -> Next {
        match *self {
            Self::Grace(_) if !is_alive => Next::Left,
            Self::Grace(until) if now < until => Next::Wait,
            Self::Grace(_) => {
                *self = Self::Bus(now);
                Next::Bus
            }
            Self::Bus(_) | Self::Kill(_) if !is_alive => Next::Killed,
            Self::Bus(since) if now >= since + timeout / 6 => {
                *self = Self::Kill(since);
                Next::Kill
            }
            Self::Kill(since) if now >= since + timeout / 3 => Next::Alive,
            Self::Bus(_) | Self::Kill(_) => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Next::{Alive, Bus, Kill, Killed, Left, Wait};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn every_way_to_die() {
        let zero = Instant::now();
        let timeout = Duration::from_secs(6);
        let at = |tenths: u64| zero + Duration::from_millis(100 * tenths);
        let run = |steps: &[(u64, bool)]| {
            let mut death = Death::Grace(at(10));
            let mut look = |&(t, alive)| death.look(alive, at(t), timeout);
            steps.iter().map(&mut look).collect::<Vec<_>>()
        };
        assert_eq!(run(&[(0, true), (9, true), (9, false)]), [Wait, Wait, Left]);
        assert_eq!(
            run(&[(10, true), (19, true), (19, false)]),
            [Bus, Wait, Killed]
        );
        let long = [(10, true), (20, true), (29, true), (30, true)];
        assert_eq!(run(&long), [Bus, Kill, Wait, Alive]);
        assert_eq!(
            run(&[(10, true), (20, true), (30, false)]),
            [Bus, Kill, Killed]
        );
    }
}
