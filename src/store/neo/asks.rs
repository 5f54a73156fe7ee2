//! What is to be asked of storage nodes: each question waits for a node that has its partition. Pure.
//!
//! ```text
//!   place ----> waiting for a node ----> asked ----> answered
//!     ^  \                                  |
//!     |   +----> stuck: all were tried      |  the node fails, or does not have it: another one
//!     +------------+------------------------+
//!       the master told all it knew, and a while is over
//! ```

use super::topology::Topology;
use crate::base::{Oid, Tid};
use crate::store::remote::backoff::Backoff;
use crate::store::remote::loads::Key;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ask {
    /// An object as of a state.
    Load(Key),
    /// What a transaction stored.
    Transaction(Tid),
    /// Whether a transaction changed an object.
    Changed(Oid, Tid),
    /// Transactions of a partition, from one on.
    Tids(u32, Tid),
}

impl Ask {
    fn partition(self, topology: &Topology) -> u32 {
        match self {
            Self::Load((oid, _)) | Self::Changed(oid, _) => topology.partition(oid.0),
            Self::Transaction(tid) => topology.partition(tid.0),
            Self::Tids(partition, _) => partition,
        }
    }
}

/// Questions for which every node was tried.
#[derive(Debug)]
struct Stuck {
    asks: Vec<Ask>,
    until: Instant,
    /// The master has told what it knew.
    is_told: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Asks {
    waiting: BTreeMap<i32, VecDeque<Ask>>,
    tried: FxHashMap<Ask, Vec<i32>>,
    stuck: Option<Stuck>,
    backoff: Backoff,
}

/// Where a question went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It waits for this node.
    At(i32),
    /// It waits for nodes to come back; the master is to be asked for news.
    First,
    /// The same; it is asked already.
    Stuck,
}

impl Asks {
    pub(super) fn new(chance: u64) -> Self {
        Self {
            waiting: BTreeMap::new(),
            tried: FxHashMap::default(),
            stuck: None,
            backoff: Backoff::new(chance),
        }
    }

    /// Whether a node is left that was not tried.
    pub(super) fn has_more(&self, now: Instant, ask: Ask, topology: &Topology) -> bool {
        let tried = self.tried.get(&ask).map(Vec::as_slice).unwrap_or_default();
        let partition = ask.partition(topology);
        topology.choose(now, partition, tried, 0).is_some()
    }

    /// A question is to be asked.
    pub(super) fn place(&mut self, now: Instant, ask: Ask, topology: &Topology) -> Placed {
        let tried = self.tried.get(&ask).map(Vec::as_slice).unwrap_or_default();
        let chance = self.backoff.draw();
        let chosen = topology.choose(now, ask.partition(topology), tried, chance);
        if let Some(node) = chosen {
            self.waiting.entry(node).or_default().push_back(ask);
            return Placed::At(node);
        }
        if let Some(stuck) = &mut self.stuck {
            stuck.asks.push(ask);
            return Placed::Stuck;
        }
        self.stuck = Some(Stuck {
            asks: vec![ask],
            until: now + self.backoff.pause(),
            is_told: false,
        });
        Placed::First
    }

    /// A node did not answer it.
    pub(super) fn failed(&mut self, ask: Ask, node: i32) {
        let tried = self.tried.entry(ask).or_default();
        if !tried.contains(&node) {
            tried.push(node);
        }
    }

    /// A node answered it.
    pub(super) fn answered(&mut self, ask: Ask) {
        self.tried.remove(&ask);
        self.backoff.reset();
    }

    /// Nobody asks it any more.
    pub(super) fn forget(&mut self, ask: Ask) {
        self.tried.remove(&ask);
    }

    /// The next question for a node.
    pub(super) fn next(&mut self, node: i32) -> Option<Ask> {
        self.waiting.get_mut(&node)?.pop_front()
    }

    /// Questions for a node that failed.
    pub(super) fn left(&mut self, node: i32) -> Vec<Ask> {
        let left = self.waiting.remove(&node);
        left.map(Vec::from).unwrap_or_default()
    }

    /// Nodes for which something waits.
    pub(super) fn nodes(&self) -> Vec<i32> {
        let busy = self.waiting.iter().filter(|(_, asks)| !asks.is_empty());
        busy.map(|(node, _)| *node).collect()
    }

    /// The master has told what it knew.
    pub(super) fn told(&mut self) {
        if let Some(stuck) = &mut self.stuck {
            stuck.is_told = true;
        }
    }

    /// When [`Self::unstuck`] has something.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let stuck = self.stuck.as_ref().filter(|stuck| stuck.is_told);
        stuck.map(|stuck| stuck.until)
    }

    /// Questions that are to be placed again, of any node.
    pub(super) fn unstuck(&mut self, now: Instant) -> Vec<Ask> {
        match self.timeout() {
            Some(until) if until <= now => {}
            _ => return Vec::new(),
        }
        let asks = self.stuck.take().map(|stuck| stuck.asks);
        let asks = asks.unwrap_or_default();
        for ask in &asks {
            self.tried.remove(ask);
        }
        asks
    }

    /// Everything that waits, which is not asked any more.
    pub(super) fn drain(&mut self) -> Vec<Ask> {
        self.tried.clear();
        let mut all: Vec<Ask> = Vec::new();
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            all.extend(waiting);
        }
        all.extend(
            self.stuck
                .take()
                .map(|stuck| stuck.asks)
                .unwrap_or_default(),
        );
        all
    }
}
