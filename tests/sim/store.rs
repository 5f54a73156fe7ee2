//! What is stored for head, from the worker that makes it to the thread that stores it.

use crate::data::PAGE;
use crate::shared::Shared;
use std::ops::Range;
use zring::base::{NodeId, Tid};
use zring::fs::advance::Drop;
use zring::fs::meeting::ReadOn;

/// Something for the page cache of head.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Pages {
        node: NodeId,
        off: u64,
        data: Vec<u8>,
        /// The state it is made of.
        at: Tid,
        /// Pages that READs counted, a bit each.
        others: u64,
    },
    /// Whatever name leads to this node.
    Name(NodeId),
    /// What was before this is in the page cache: tells a worker.
    Then(usize, ReadOn),
}

impl Store {
    /// Which pages of what file, the state they are made of, and those that are counted already.
    pub(crate) fn pages(&self) -> Option<(NodeId, Range<usize>, Tid, u64)> {
        let Self::Pages {
            node,
            off,
            data,
            at,
            others,
        } = self
        else {
            return None;
        };
        let first = usize::try_from(*off).unwrap() / PAGE;
        let pages = first..first + data.len().div_ceil(PAGE);
        Some((*node, pages, *at, *others))
    }

    pub(crate) fn meets(&self, drop: &Drop) -> bool {
        match self {
            Self::Pages {
                node, off, data, ..
            } => drop.meets(*node, &(*off..off + data.len() as u64)),
            _ => false,
        }
    }
}

impl Shared {
    /// Adds a store; false when there is no room.
    pub(crate) fn push(&mut self, store: Store) -> bool {
        if self.stores.len() >= self.stores_max {
            self.given_up(&store);
            return false;
        }
        self.stores_queued += 1;
        self.stores.push_back(store);
        true
    }

    /// Pages that were noted are on their way.
    pub(crate) fn coming(&mut self, store: &Store) {
        if let Some((node, pages, _, others)) = store.pages() {
            self.kernel.coming(node, pages, others);
        }
    }

    /// Pages that were noted and do not come.
    pub(crate) fn given_up(&mut self, store: &Store) {
        if let Some((node, pages, at, others)) = store.pages() {
            self.kernel.lose(node, pages, at, others);
        }
    }
}
