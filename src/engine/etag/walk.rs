//! Workers that share a tree: each takes the newest of its own units, or the oldest of somebody else's.
//!
//! A unit is a directory to be read, or some names of a directory that is too large for one. A worker that has nothing and finds nothing waits
//! until somebody adds; all end when no unit is left and none is under way.
//!
//! A pool has room for more workers than begin: where disks or networks make them wait, others use the processors meanwhile ([`Load`]).

use super::facts::Facts;
use super::node::Node;
use crate::base::Stamp;
use crate::kernel::proc;
use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    pub(super) facts: Facts,
}

/// The units of all workers.
pub(super) struct Pool {
    deques: Vec<Mutex<VecDeque<Unit>>>,
    /// Units that are not done, those under way included.
    left: AtomicUsize,
    idle: Mutex<usize>,
    /// How often a worker found nothing to do.
    pauses: AtomicUsize,
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
            pauses: AtomicUsize::new(0),
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
            self.pauses.fetch_add(1, SeqCst);
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

    /// Whether there is more to do than workers who do it.
    fn has_more(&self) -> bool {
        self.deques.iter().any(|deque| !locked(deque).is_empty())
    }

    /// A unit is done.
    pub(super) fn done(&self) {
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.bell.notify_all();
        }
    }
}

/// Between two looks at how busy the processors are.
const LOOK: Duration = Duration::from_millis(2);
/// Share of the processors' time below which one more worker is worth it.
const BUSY: f64 = 0.9;

/// What workers use of the processors, and whether they wait for something else.
#[derive(Debug)]
pub(super) struct Load {
    processors: usize,
    last: Mutex<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    cpu: Duration,
    waits: u64,
    pauses: usize,
}

impl Load {
    pub(super) fn new(processors: usize) -> Self {
        let last = Mutex::new(Look {
            at: Instant::now(),
            cpu: proc::cpu_time(),
            waits: proc::waits(),
            pauses: 0,
        });
        Self { processors, last }
    }

    /// Whether one more worker would find processors at rest and something to do, because those there are wait for disk or network.
    /// Processors that others use are not at rest: nobody waits by himself then.
    pub(super) fn wants_more(&self, pool: &Pool) -> bool {
        let Ok(mut last) = self.last.try_lock() else {
            return false;
        };
        let wall = last.at.elapsed();
        if wall < LOOK {
            return false;
        }
        let now = Look {
            at: Instant::now(),
            cpu: proc::cpu_time(),
            waits: proc::waits(),
            pauses: pool.pauses.load(SeqCst),
        };
        let before = std::mem::replace(&mut *last, now);
        drop(last);
        let used = now.cpu.saturating_sub(before.cpu).as_secs_f64();
        let share = used / (wall.as_secs_f64() * self.processors as f64);
        let waits = now.waits.saturating_sub(before.waits);
        // A wait for work is none for a disk.
        now.pauses == before.pauses && waits > 1 && share < BUSY && pool.has_more()
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
