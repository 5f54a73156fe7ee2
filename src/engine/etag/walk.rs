//! Workers that share a tree: each takes the newest of its own units, or the oldest of somebody else's.
//!
//! A unit is a directory to be read, or some names of a directory that is too large for one. A worker that has nothing and finds nothing waits
//! until somebody adds; all end when no unit is left and none is under way.

use super::node::Node;
use crate::base::Stamp;
use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A piece of work.
pub(super) enum Unit {
    /// The root, which is open.
    Root(Arc<Node>),
    /// A directory.
    Dir(Arc<Node>, CString),
    /// Names of a directory that is read by somebody else.
    Part(Box<Part>),
}

/// Regular files of a large directory.
pub(super) struct Part {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) path: Arc<[u8]>,
    pub(super) run: Arc<Vec<u8>>,
    /// Each with its zero.
    pub(super) names: Vec<u8>,
    /// Where in the run each name's entry is, if it has one.
    pub(super) entries: Vec<Option<usize>>,
    pub(super) now: Stamp,
}

/// The units of all workers.
pub(super) struct Pool {
    deques: Vec<Mutex<VecDeque<Unit>>>,
    /// Units that are not done, those under way included.
    left: AtomicUsize,
    idle: Mutex<usize>,
    bell: Condvar,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process, so nothing half-done is ever seen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            deques: (0..workers).map(|_| Mutex::default()).collect(),
            left: AtomicUsize::new(0),
            idle: Mutex::new(0),
            bell: Condvar::new(),
        }
    }

    /// Adds a unit for a worker.
    pub(super) fn push(&self, worker: usize, unit: Unit) {
        self.left.fetch_add(1, SeqCst);
        locked(&self.deques[worker]).push_back(unit);
        if *locked(&self.idle) > 0 {
            self.bell.notify_one();
        }
    }

    fn take(&self, worker: usize) -> Option<Unit> {
        if let Some(unit) = locked(&self.deques[worker]).pop_back() {
            return Some(unit);
        }
        let n = self.deques.len();
        (1..n).find_map(|i| locked(&self.deques[(worker + i) % n]).pop_front())
    }

    /// The next unit for a worker; None when all are done. Each is answered with [`Pool::done`].
    pub(super) fn next(&self, worker: usize) -> Option<Unit> {
        loop {
            if let Some(unit) = self.take(worker) {
                return Some(unit);
            }
            if self.left.load(SeqCst) == 0 {
                return None;
            }
            let mut idle = locked(&self.idle);
            *idle += 1;
            // A unit may have come since nothing was found: the wait is short whatever happens.
            let limit = Duration::from_millis(1);
            let (mut idle, _) = self
                .bell
                .wait_timeout(idle, limit)
                .unwrap_or_else(PoisonError::into_inner);
            *idle -= 1;
        }
    }

    /// A unit is done.
    pub(super) fn done(&self) {
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.bell.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_done_once_by_somebody() {
        let pool = Arc::new(Pool::new(4));
        let done = Arc::new(AtomicUsize::new(0));
        let fd = || std::fs::File::open("/").expect("there is a root").into();
        let node = Node::root(fd(), (0, 0));
        pool.push(0, Unit::Root(Arc::clone(&node)));
        let work = |worker: usize| {
            let (pool, done, node) = (Arc::clone(&pool), Arc::clone(&done), Arc::clone(&node));
            move || {
                while let Some(unit) = pool.next(worker) {
                    if let Unit::Root(_) = unit {
                        for _ in 0..1000 {
                            pool.push(worker, Unit::Dir(Arc::clone(&node), CString::default()));
                        }
                    }
                    done.fetch_add(1, SeqCst);
                    pool.done();
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|i| std::thread::spawn(work(i))).collect();
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_eq!(done.load(SeqCst), 1001);
    }
}
