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
/// When those that wait for something to happen are looked at, at the earliest; at the latest after twice as long. Most have gone by then,
/// and clients that are told of pins come to wait again 10 000 times a second: one timer for all of a moment.
const FRESH: Duration = Duration::from_millis(50);
/// How many of them at a time: 20 us each.
const AT_ONCE: usize = 4;

/// Whom to look at.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// The kernel told of a signal.
    signalled: Vec<Unique>,
    /// They waited already when this was last looked.
    waiting: Vec<Unique>,
    looked: Option<Instant>,
    /// They wait for something to happen, and were not looked at since they came: those of the last [`FRESH`], answered ones too, up to
    /// [`limit::FRESH_MAX`].
    fresh: VecDeque<(Unique, Instant)>,
    /// When they are looked at next.
    look: Option<Instant>,
}

impl FileService {
    /// Somebody waits for something to happen.
    pub(super) fn came_to_wait(&mut self, unique: Unique) {
        if self.suspects.fresh.len() >= limit::FRESH_MAX {
            let waiting = self.all_waiting();
            self.suspects.fresh.retain(|(u, _)| waiting.contains(u));
        }
        self.suspects.fresh.push_back((unique, Instant::now()));
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
        if self.suspects.fresh.is_empty() {
            self.suspects.look = None;
            return None;
        }
        let now = Instant::now();
        let look = *self.suspects.look.get_or_insert(now + FRESH);
        if look > now {
            return Some(look - now);
        }
        let mut looks = 0;
        while let Some(&(unique, since)) = self.suspects.fresh.front() {
            if looks == AT_ONCE {
                return Some(Duration::ZERO);
            }
            if now - since < FRESH {
                break;
            }
            self.suspects.fresh.pop_front();
            let Some(held) = self.waiting(unique) else {
                continue;
            };
            looks += 1;
            let tid = port.request(held).map_or(0, |request| request.pid);
            if proc::is_signalled(tid) {
                self.end_waiting(port, unique);
            }
        }
        self.suspects.look = (!self.suspects.fresh.is_empty()).then_some(now + FRESH);
        self.suspects.look.map(|_| FRESH)
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
