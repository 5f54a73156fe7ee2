//! The time that clients are given to answer.
//!
//! Control hears nobody while it waits for the database: pins that it decides upon then leave only afterwards, and answers to others lie
//! in its inbox. So its clock stands still meanwhile: a client that is innocent of the wait has all of its time behind it.
//!
//! Invariant: it never goes faster than time does, and never back.
//!
//! What it does not do: time that control works counts, as does time in which nothing happens. What came before a deadline is heard
//! before it is looked at (`control`).

use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    stood: Duration,
}

impl Clock {
    /// What it shows when it is really `now`.
    pub(super) fn at(&self, now: Instant) -> Instant {
        now - self.stood
    }

    /// The database was waited for so long.
    pub(super) fn stood(&mut self, waited: Duration) {
        self.stood += waited;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any instant will do")]
    use super::*;
    use crate::base::{BlkNo, Oid, Tid, Unique};
    use crate::iso::{Caller, Isolation, LinkId, Outside, Rules, Signal, Unknown};

    const TIMEOUT: Duration = Duration::from_secs(30);
    const LINK: LinkId = LinkId(1);

    /// A database that takes longer to answer than a client may.
    struct Slow {
        now: Instant,
        clock: Clock,
        signals: usize,
    }

    impl Slow {
        fn wait(&mut self) {
            let waited = TIMEOUT + Duration::from_secs(5);
            self.now += waited;
            self.clock.stood(waited);
        }

        fn shows(&self) -> Instant {
            self.clock.at(self.now)
        }
    }

    impl Outside for Slow {
        fn tail(&self) -> Tid {
            Tid(1)
        }

        fn head(&self) -> Option<Tid> {
            Some(Tid(9))
        }

        fn watch(&mut self, _: Oid, _: Option<Tid>) {}

        fn knows(&mut self, _: Oid) -> bool {
            true
        }

        fn is_complete(&mut self, _: Oid) -> bool {
            true
        }

        fn changes(&mut self, _: Oid, at: Tid) -> Result<Vec<(BlkNo, Tid)>, Unknown> {
            self.wait();
            Ok(vec![(BlkNo(0), at)])
        }

        fn revision(&mut self, _: Oid, _: BlkNo, at: Tid) -> Result<Option<Tid>, Unknown> {
            self.wait();
            Ok(Some(at))
        }

        fn size(&mut self, _: Oid, _: Tid) -> Result<u64, Unknown> {
            Ok(0)
        }

        fn has_ended(&mut self, _: LinkId) -> bool {
            false
        }

        fn is_alive(&mut self, _: LinkId) -> bool {
            self.signals == 0
        }

        fn signal(&mut self, _: LinkId, _: Signal) -> Result<(), String> {
            self.signals += 1;
            Ok(())
        }
    }

    /// There the pin of the request had its deadline before the wait, and was late when it left; so was one that lay there before.
    #[test]
    fn a_wait_for_the_database_is_not_of_the_clients_time() {
        let (now, clock) = (Instant::now(), Clock::default());
        let mut slow = Slow {
            now,
            clock,
            signals: 0,
        };
        let mut isolation = Isolation::new(Tid(9), Rules::new(TIMEOUT));
        let caller = |n| Caller {
            worker: 0,
            unique: Unique(n),
        };
        let now = slow.shows();
        isolation.open(LINK, None, now);
        let line = format!("1 watch {} @{}\n", Oid(1), Tid(5));
        isolation.write(LINK, caller(1), line.as_bytes(), &mut slow, now);
        isolation.tick(&mut slow, now); // TIMEOUT + 5 s later, for everybody else
        let now = slow.shows();
        isolation.tick(&mut slow, now);
        let ask = |isolation: &mut Isolation, slow: &mut Slow, n| {
            let now = slow.shows();
            isolation.ask(caller(n), Oid(1), vec![BlkNo(n)], slow, now);
            let now = slow.shows();
            isolation.tick(slow, now);
        };
        ask(&mut isolation, &mut slow, 2);
        assert_eq!((slow.signals, isolation.counts().pins), (0, 2));
        // Time in which control only waits for the client counts.
        slow.now += TIMEOUT - Duration::from_millis(1);
        let now = slow.shows();
        isolation.tick(&mut slow, now);
        assert_eq!(slow.signals, 0);
        slow.now += Duration::from_millis(1);
        let now = slow.shows();
        isolation.tick(&mut slow, now);
        assert_eq!(slow.signals, 1);
    }
}
