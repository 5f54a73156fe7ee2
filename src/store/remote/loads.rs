//! Loads of one database: each object as of a state is asked for once, whoever wants it.
//!
//! ```text
//!   want              next: its turn                answered
//!   ----> queued ---------------------> asked ----------------> every waiter has it
//!            ^                            |
//!            +----------------------------+  requeue: the connection was lost
//! ```
//!
//! Each waiter has a deadline of its own. One that is over leaves; what nobody waits for any more is not asked for, and if it was
//! asked already, its answer is nobody's.

use super::Why;
use crate::base::limit::{REMOTE_LOADS_MAX, STORAGE_WAIT_MS};
use crate::base::{Oid, Tid};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An object as of a state.
pub(in crate::store) type Key = (Oid, Tid);

#[derive(Debug)]
struct Entry<W> {
    waiters: Vec<(u64, W)>,
    is_asked: bool,
}

/// See the module.
#[derive(Debug)]
pub(in crate::store) struct Loads<W> {
    entries: FxHashMap<Key, Entry<W>>,
    queue: VecDeque<Key>,
    /// Of every waiter, oldest first; those that have gone are skipped.
    deadlines: VecDeque<(Instant, Key, u64)>,
    waiters: usize,
    next: u64,
}

impl<W> Loads<W> {
    pub(in crate::store) fn new() -> Self {
        Self {
            entries: FxHashMap::default(),
            queue: VecDeque::new(),
            deadlines: VecDeque::new(),
            waiters: 0,
            next: 0,
        }
    }

    /// Somebody wants an object.
    ///
    /// # Errors
    /// Too many do.
    pub(in crate::store) fn want(
        &mut self,
        now: Instant,
        key: Key,
        waiter: W,
    ) -> Result<(), (W, Why)> {
        if self.waiters >= REMOTE_LOADS_MAX {
            return Err((waiter, Why::Busy));
        }
        let number = self.next;
        self.next += 1;
        self.waiters += 1;
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.queue.push_back(key);
            Entry {
                waiters: Vec::with_capacity(1),
                is_asked: false,
            }
        });
        entry.waiters.push((number, waiter));
        let deadline = now + Duration::from_millis(STORAGE_WAIT_MS);
        self.deadlines.push_back((deadline, key, number));
        Ok(())
    }

    /// The next object to ask for; it counts as asked.
    pub(in crate::store) fn next(&mut self) -> Option<Key> {
        while let Some(key) = self.queue.pop_front() {
            if let Some(entry) = self.entries.get_mut(&key).filter(|entry| !entry.is_asked) {
                entry.is_asked = true;
                return Some(key);
            }
        }
        None
    }

    /// Whether somebody waits for it.
    pub(in crate::store) fn is_wanted(&self, key: Key) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| !entry.waiters.is_empty())
    }

    /// Who waits for what came.
    pub(in crate::store) fn answered(&mut self, key: Key) -> impl Iterator<Item = W> + use<W> {
        let entry = self.entries.remove(&key);
        let waiters = entry.map(|entry| entry.waiters).unwrap_or_default();
        self.waiters -= waiters.len();
        self.tidy();
        waiters.into_iter().map(|(_, waiter)| waiter)
    }

    /// These were asked for, in this order, and will not be answered.
    pub(in crate::store) fn requeue(&mut self, keys: Vec<Key>) {
        for key in keys.into_iter().rev() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if entry.waiters.is_empty() {
                self.entries.remove(&key);
            } else {
                entry.is_asked = false;
                self.queue.push_front(key);
            }
        }
    }

    /// A waiter whose time is over.
    pub(in crate::store) fn expired(&mut self, now: Instant) -> Option<(Key, W)> {
        while let Some(&(deadline, key, number)) = self.deadlines.front() {
            if now < deadline && self.has(key, number) {
                return None;
            }
            self.deadlines.pop_front();
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let Some(at) = entry.waiters.iter().position(|(n, _)| *n == number) else {
                continue;
            };
            let (_, waiter) = entry.waiters.swap_remove(at);
            self.waiters -= 1;
            // Asked: whoever comes now may have the answer that is on its way.
            if entry.waiters.is_empty() && !entry.is_asked {
                self.entries.remove(&key);
            }
            return Some((key, waiter));
        }
        None
    }

    /// Everybody.
    pub(in crate::store) fn drain(&mut self) -> Vec<(Key, W)> {
        self.queue.clear();
        self.deadlines.clear();
        self.waiters = 0;
        let all = self.entries.drain();
        all.flat_map(|(key, entry)| entry.waiters.into_iter().map(move |(_, w)| (key, w)))
            .collect()
    }

    /// When the first of those who wait has waited long enough.
    pub(in crate::store) fn timeout(&self) -> Option<Instant> {
        self.deadlines.front().map(|&(deadline, ..)| deadline)
    }

    fn has(&self, key: Key, number: u64) -> bool {
        let entry = self.entries.get(&key);
        entry.is_some_and(|entry| entry.waiters.iter().any(|(n, _)| *n == number))
    }

    /// Lets go of deadlines of those who have gone: mostly the oldest ones.
    fn tidy(&mut self) {
        while let Some(&(_, key, number)) = self.deadlines.front()
            && !self.has(key, number)
        {
            self.deadlines.pop_front();
        }
        if self.deadlines.len() > 2 * self.waiters + 1024 {
            let mut all = std::mem::take(&mut self.deadlines);
            all.retain(|&(_, key, number)| self.has(key, number));
            self.deadlines = all;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn key(n: u64) -> Key {
        (Oid(n), Tid(9))
    }

    #[test]
    fn each_object_is_asked_for_once_and_again_after_a_loss() {
        let t = Instant::now();
        let mut loads = Loads::new();
        for (n, waiter) in [(1, 'a'), (2, 'b'), (1, 'c'), (3, 'd')] {
            loads.want(t, key(n), waiter).unwrap();
        }
        let asked = [loads.next(), loads.next()];
        assert_eq!(asked, [Some(key(1)), Some(key(2))]);
        assert_eq!(loads.answered(key(1)).collect::<String>(), "ac");
        loads.want(t, key(2), 'e').unwrap();
        loads.requeue(vec![key(1), key(2)]);
        assert_eq!(loads.next(), Some(key(2)));
        assert_eq!(loads.next(), Some(key(3)));
        assert_eq!(loads.next(), None);
        assert_eq!(loads.answered(key(2)).collect::<String>(), "be");
        assert_eq!(loads.answered(key(2)).count(), 0);
        assert_eq!(loads.answered(key(3)).collect::<String>(), "d");
        assert_eq!((loads.timeout(), loads.waiters), (None, 0));
    }

    #[test]
    fn who_waited_long_enough_leaves_and_nobody_else() {
        let t = Instant::now();
        let (wait, s) = (Duration::from_millis(STORAGE_WAIT_MS), Duration::from_secs);
        let mut loads = Loads::new();
        loads.want(t, key(1), 'a').unwrap();
        loads.want(t + s(1), key(2), 'b').unwrap();
        loads.want(t + s(2), key(1), 'c').unwrap();
        assert_eq!(loads.next(), Some(key(1)));
        assert!(loads.expired(t + wait - s(1)).is_none());
        assert_eq!(loads.expired(t + wait), Some((key(1), 'a')));
        assert_eq!(loads.timeout(), Some(t + wait + s(1)));
        assert_eq!(loads.expired(t + wait + s(1)), Some((key(2), 'b')));
        assert_eq!(loads.next(), None, "nobody wants 2 any more");
        assert_eq!(loads.expired(t + wait + s(2)), Some((key(1), 'c')));
        // Its answer is on the way: who comes now gets it.
        loads.want(t + wait + s(3), key(1), 'd').unwrap();
        assert_eq!(loads.next(), None);
        assert_eq!(loads.answered(key(1)).collect::<String>(), "d");
        assert!(loads.expired(t + s(1000)).is_none() && loads.deadlines.is_empty());
    }

    #[test]
    fn deadlines_of_those_who_left_are_let_go_behind_one_who_stays() {
        let t = Instant::now();
        let mut loads = Loads::new();
        loads.want(t, key(0), 0).unwrap();
        for n in 1..100_000 {
            loads.want(t, key(n), n).unwrap();
            assert_eq!(loads.answered(key(n)).count(), 1);
            assert!(loads.deadlines.len() < 1100);
        }
        assert_eq!(loads.drain().len(), 1);
    }
}
