//! Loads of one worker, each object once, as `engine::loading`; they come in when the scheduler says, in any order.

use crate::rng::Rng;
use crate::worker::Extent;
use rustc_hash::FxHashMap;
use zring::base::{Oid, Rev, Tid};
use zring::fs::cache::Kept;

/// What is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Object(Oid),
    Place(Oid),
    Raw(usize, Extent),
}

/// A load under way, and as of when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) purpose: Purpose,
    pub(crate) rev: Rev,
    pub(crate) at: Tid,
}

/// What came in, and who waits for it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) rev: Rev,
    pub(crate) oid: Oid,
    pub(crate) kept: Result<Kept<Extent>, ()>,
    pub(crate) stale: bool,
    pub(crate) tasks: Vec<usize>,
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: Vec<usize>,
    stale: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    loads: Vec<Load>,
    waiting: FxHashMap<(Rev, Oid), Waiting>,
}

impl Loading {
    pub(crate) fn is_empty(&self) -> bool {
        self.loads.is_empty()
    }

    /// Notes that `task` waits for `oid`; true when nobody else does yet.
    pub(crate) fn join(&mut self, rev: Rev, oid: Oid, task: usize) -> bool {
        let waiting = self.waiting.entry((rev, oid)).or_default();
        waiting.tasks.push(task);
        waiting.tasks.len() == 1
    }

    pub(crate) fn start(&mut self, load: Load) {
        self.loads.push(load);
    }

    /// One of the loads under way.
    pub(crate) fn any(&mut self, rng: &mut Rng) -> Load {
        let at = rng.below(self.loads.len());
        self.loads.swap_remove(at)
    }

    pub(crate) fn is_stale(&self, rev: Rev, oid: Oid) -> bool {
        self.waiting.get(&(rev, oid)).is_some_and(|w| w.stale)
    }

    pub(crate) fn done(&mut self, rev: Rev, oid: Oid, kept: Result<Kept<Extent>, ()>) -> Delivery {
        let Waiting { tasks, stale } = self.waiting.remove(&(rev, oid)).unwrap_or_default();
        Delivery {
            rev,
            oid,
            kept,
            stale,
            tasks,
        }
    }

    /// Head moved on: what is in flight of these objects is old.
    pub(crate) fn head_changed(&mut self, oids: Option<&[Oid]>) {
        for ((rev, oid), waiting) in &mut self.waiting {
            if *rev == Rev::Head && oids.is_none_or(|oids| oids.contains(oid)) {
                waiting.stale = true;
            }
        }
    }

    /// Whether a load is under way that `task` waits for.
    pub(crate) fn serves(&self, task: usize) -> bool {
        self.loads.iter().any(|load| match load.purpose {
            Purpose::Object(oid) | Purpose::Place(oid) => self
                .waiting
                .get(&(load.rev, oid))
                .is_some_and(|w| w.tasks.contains(&task)),
            Purpose::Raw(id, _) => id == task,
        })
    }
}
