//! Control's place, which a worker takes for some microseconds.
//!
//! A worker that has something to tell of `head/watch` mostly finds control asleep. To wake another thread takes longer than what there
//! is to do; so the worker does it itself: pins that a READ needs, and answers to them. What may take longer, or needs the database, is
//! left to control, and everything behind it: messages are handled in the order in which they came, whoever does it.
//!
//! zring-notify does so too, when it dropped the last page of an advance and head only has to show it.
//!
//! Neither ever waits for the place: when somebody has it, control is woken. Control may wait for who has it.

use super::super::shared::{ToControl, ToWorker};
use super::{HeadEvent, Work};
use crate::base::limit;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// See the module. Empty before control begins and after it ended.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Option<Box<Work>>>>);

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl Place {
    /// Control begins.
    pub(super) fn fill(&self, work: Work) {
        *self.0.lock().expect("a panic aborts") = Some(Box::new(work));
    }

    /// Control ended.
    pub(super) fn clear(&self) {
        *self.0.lock().expect("a panic aborts") = None;
    }

    /// Control is in its place.
    pub(super) fn with<T>(&self, turn: impl FnOnce(&mut Work) -> T) -> Option<T> {
        self.0
            .lock()
            .expect("a panic aborts")
            .as_deref_mut()
            .map(turn)
    }

    /// A worker handles what lies there for control, if nobody is about to: what is for itself is put into `own`. False when control
    /// has to be woken.
    #[must_use]
    pub fn stand_in(&self, worker: usize, own: &mut Vec<ToWorker>) -> bool {
        let Ok(mut place) = self.0.try_lock() else {
            return false;
        };
        place
            .as_deref_mut()
            .is_some_and(|work| work.stand_in(worker, own))
    }
}

impl Place {
    /// Every drop of the advance is done: shows it, if that is all there is to do. False when control has to hear of it.
    #[must_use]
    pub(in crate::engine) fn dropped(&self) -> bool {
        let place = self.0.try_lock();
        place.is_ok_and(|mut place| place.as_deref_mut().is_some_and(Work::dropped_last))
    }
}

impl Work {
    fn dropped_last(&mut self) -> bool {
        // What came before, and what may take long, is control's.
        let is_last = self.head.waiting() == 0
            && self.put_off.is_empty()
            && self.control.inbox.is_empty()
            && self.unforced.is_empty()
            && !self.links.has_waiting()
            && !self.history.has_astray()
            && !self.has_failed();
        if !is_last {
            return false;
        }
        self.apply(HeadEvent::Dropped);
        self.show_advancing();
        if !self.is_awake() || self.must_end {
            self.control.waker.wake();
        }
        true
    }

    fn stand_in(&mut self, worker: usize, own: &mut Vec<ToWorker>) -> bool {
        if !self.put_off.is_empty() || !self.unforced.is_empty() || self.has_failed() {
            return false;
        }
        let now = self.now();
        for _ in 0..limit::STAND_IN_MESSAGES {
            let Ok(message) = self.control.inbox.try_recv() else {
                return !self.links.has_waiting() && self.is_awake();
            };
            match message {
                ToControl::OfLink(what) if self.links.is_brief(&what, &mut self.history) => {
                    let shared = &self.control.shared;
                    self.links.came_brief(what, &mut self.history, shared, now);
                    if !self.links.carry_out(shared, |caller, message| {
                        if caller.worker == worker {
                            own.push(message);
                        } else if let Some(worker) = self.control.workers.get(caller.worker) {
                            worker.send(message);
                        }
                    }) {
                        self.must_end = true;
                        return false;
                    }
                }
                other => {
                    self.put_off.push_back(other);
                    return false;
                }
            }
        }
        false
    }

    /// Whether control wakes by itself before the next deadline.
    fn is_awake(&mut self) -> bool {
        let now = Instant::now();
        let left = self.links.left(self.history.source().clock.at(now));
        left.is_none_or(|left| now + left >= self.sleeps_until)
    }
}
