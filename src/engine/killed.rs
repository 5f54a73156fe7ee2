//! Callers of parked requests that are being killed: they get their answer at once.
//!
//! One that was merely signalled gets what it asked for: no reader of a file expects EINTR, and for a page fault that is tried
//! again it would be SIGBUS. The kernel tells of a request's first signal only, and on a ring not of one that was there before the
//! request was; so whoever waits long is looked at, too (kernel-note 0017).
//!
//! Who waits for a message, for a transaction or for a name of the future may wait for ever, and is interrupted by any signal. It is looked
//! at once, a moment after it came: of later signals the kernel tells. A thousand clients that wait cost nothing.

use super::serve::FileService;
use super::task::{Job, Task};
use crate::base::{Unique, limit};
use crate::kernel::port::Port;
use crate::kernel::proc;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often callers that were signalled are looked at.
const SIGNALLED: Duration = Duration::from_millis(50);
/// The same of those that wait long.
const LONG: Duration = Duration::from_millis(500);
/// How long those that wait for something to happen have waited when they are looked at: so long, and at most twice as long. Most have
/// gone by then. Clients that are told of pins come to wait again thousands of times a second: one timer for many of them, as the kernel
/// takes longer to set one than to serve a request (kernel-note 0021).
const FRESH: Duration = Duration::from_millis(25);
/// How many of them are taken at a time, most of them gone.
const BATCH: usize = 64;
/// How many that are there are looked at of those: 20 us each.
const AT_ONCE: usize = 4;

/// Whom to look at.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// The kernel told of a signal.
    signalled: Vec<Unique>,
    /// They waited already when this was last looked.
    waiting: Vec<Unique>,
    looked: Option<Instant>,
    fresh: Fresh,
}

/// Those that wait for something to happen and were not looked at since they came, answered ones too: up to [`limit::FRESH_MAX`], oldest first.
#[derive(Debug, Default)]
struct Fresh(VecDeque<(Unique, Instant)>);

impl Fresh {
    /// How long until some are to be looked at.
    fn left(&self, now: Instant) -> Option<Duration> {
        let oldest = self.0.front();
        oldest.map(|&(_, since)| (2 * FRESH).saturating_sub(now - since))
    }

    /// The oldest, if it has waited long enough.
    fn take(&mut self, now: Instant) -> Option<Unique> {
        let &(unique, since) = self.0.front()?;
        if now - since < FRESH {
            return None;
        }
        self.0.pop_front();
        Some(unique)
    }
}

impl FileService {
    /// Somebody waits for something to happen.
    pub(super) fn came_to_wait(&mut self, unique: Unique) {
        if self.suspects.fresh.0.len() >= limit::FRESH_MAX {
            let waiting = self.all_waiting();
            self.suspects.fresh.0.retain(|(u, _)| waiting.contains(u));
        }
        self.suspects.fresh.0.push_back((unique, Instant::now()));
    }

    /// The caller of a parked request was signalled.
    pub(super) fn suspect(&mut self, port: &mut Port, unique: Unique) {
        self.suspects.signalled.push(unique);
        self.end_signalled(port);
    }

    pub(super) fn parked(&mut self, unique: Unique) -> Option<&mut Task> {
        let mut tasks = self.tasks.iter_mut().flatten();
        tasks.find(|task| task.unique == unique && task.held.is_some())
    }

    /// Looks at callers; tells when to look again.
    pub(super) fn end_killed(&mut self, port: &mut Port) -> Option<Duration> {
        let mut wait = self.look_at_fresh(port);
        if !self.suspects.signalled.is_empty() {
            self.end_signalled(port);
            wait = Some(wait.map_or(SIGNALLED, |wait| wait.min(SIGNALLED)));
        }
        let is_parked = self.tasks.len() > self.free.len() || !self.watching.is_pinning_none();
        if !is_parked {
            self.suspects.looked = None;
            return wait;
        }
        let now = Instant::now();
        let looked = *self.suspects.looked.get_or_insert(now);
        if now - looked >= LONG {
            self.suspects.looked = Some(now);
            let tasks = self.tasks.iter().flatten();
            let held = tasks.filter(|task| task.held.is_some());
            let mut waiting: Vec<Unique> = held.map(|task| task.unique).collect();
            waiting.extend(self.watching.pinning());
            for unique in std::mem::take(&mut self.suspects.waiting) {
                if waiting.contains(&unique) {
                    self.end_if_killed(port, unique);
                }
            }
            self.suspects.waiting = waiting;
        }
        Some(wait.map_or(LONG, |wait| wait.min(LONG)))
    }

    /// Those that came a moment ago; tells when they are to be looked at.
    fn look_at_fresh(&mut self, port: &mut Port) -> Option<Duration> {
        let now = Instant::now();
        let left = self.suspects.fresh.left(now)?;
        if !left.is_zero() {
            return Some(left);
        }
        let mut looks = 0;
        for _ in 0..BATCH {
            if looks == AT_ONCE {
                break;
            }
            let Some(unique) = self.suspects.fresh.take(now) else {
                break;
            };
            let Some(held) = self.waiting(unique) else {
                continue;
            };
            looks += 1;
            let tid = port.request(held).map_or(0, |request| request.pid);
            if proc::is_signalled(tid) {
                self.end_waiting(port, unique);
            }
        }
        self.suspects.fresh.left(now)
    }

    fn end_signalled(&mut self, port: &mut Port) {
        for unique in std::mem::take(&mut self.suspects.signalled) {
            if !self.end_if_killed(port, unique) {
                self.suspects.signalled.push(unique);
            }
        }
    }

    /// False when it waits on.
    fn end_if_killed(&mut self, port: &mut Port, unique: Unique) -> bool {
        if self.is_pinning(unique) {
            return self.end_pinning(port, unique);
        }
        let Some(task) = self.parked(unique) else {
            return true;
        };
        let held = task.held.as_ref().expect("just looked");
        let caller = port.request(held).map_or(0, |request| request.pid);
        if !proc::is_being_killed(caller) {
            return false;
        }
        // Its loads go on for others; its place is kept until they have come.
        task.job = Job::Abandoned;
        let held = task.held.take().expect("just looked");
        self.reply(port, held, Err(libc::EINTR));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_often_is_looked_at_in_time_and_sets_few_timers() {
        let (step, begin) = (Duration::from_micros(100), Instant::now());
        let (mut fresh, mut timers, mut looked) = (Fresh::default(), 0, 0);
        let mut due = begin;
        for n in 0..10_000 {
            let now = begin + n * step;
            fresh.0.push_back((Unique(n.into()), now));
            if fresh.left(now) == Some(Duration::ZERO) {
                for unique in (0..BATCH).map_while(|_| fresh.take(now)) {
                    assert_eq!(unique, Unique(looked.into()), "in order");
                    let waited = now - (begin + looked * step);
                    assert!((FRESH..=2 * FRESH).contains(&waited), "{waited:?}");
                    looked += 1;
                }
            }
            let next = now + fresh.left(now).expect("somebody came just now");
            timers += u32::from(next != due);
            due = next;
        }
        assert!(looked > 9_000, "{looked}");
        assert!(timers < 200, "{timers} in a second");
    }

    #[test]
    fn who_came_a_moment_ago_is_left_for_the_next_time() {
        let begin = Instant::now();
        let mut fresh = Fresh::default();
        let all = [Duration::ZERO, FRESH, FRESH + Duration::from_millis(1)];
        for (n, came) in (0..).zip(all) {
            fresh.0.push_back((Unique(n), begin + came));
        }
        let now = begin + 2 * FRESH;
        let taken: Vec<_> = std::iter::from_fn(|| fresh.take(now)).collect();
        assert_eq!(taken, [Unique(0), Unique(1)]);
        assert_eq!(fresh.left(now), Some(FRESH + Duration::from_millis(1)));
    }
}
