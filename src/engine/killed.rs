//! Callers of parked requests that are being killed: they get their answer at once.
//!
//! One that was merely signalled gets what it asked for: no reader of a file expects EINTR, and for a page fault that is tried
//! again it would be SIGBUS. The kernel tells of a request's first signal only, and on a ring not always of that; so whoever waits
//! long is looked at, too (kernel-note 0017).

use super::serve::FileService;
use super::task::{Job, Task};
use crate::base::Unique;
use crate::kernel::port::Port;
use crate::kernel::proc;
use std::time::{Duration, Instant};

/// How often callers that were signalled are looked at.
const SIGNALLED: Duration = Duration::from_millis(50);
/// The same of those that wait long.
const LONG: Duration = Duration::from_millis(500);

/// Whom to look at.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// The kernel told of a signal.
    signalled: Vec<Unique>,
    /// They waited already when this was last looked.
    waiting: Vec<Unique>,
    looked: Option<Instant>,
}

impl FileService {
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
        let mut wait = None;
        if !self.suspects.signalled.is_empty() {
            self.end_signalled(port);
            wait = Some(SIGNALLED);
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
        Some(wait.unwrap_or(LONG))
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
