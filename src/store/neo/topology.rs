//! Which nodes there are, and which of them have which partition. Pure.

use crate::base::limit::NEO_NODES_MAX;
use crate::store::remote::Address;
use crate::wire::neo::{Cell, Kind, Node, State};
use std::collections::BTreeMap;
use std::time::Instant;

/// A storage node.
#[derive(Debug)]
struct Storage {
    address: Address,
    is_running: bool,
    /// It failed: others are asked until then.
    aside_until: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Topology {
    storages: BTreeMap<i32, Storage>,
    /// Cells by partition.
    rows: Vec<Vec<(i32, Cell)>>,
}

impl Topology {
    /// A storage node was announced.
    pub(super) fn node(&mut self, node: &Node) {
        let (Kind::Storage, Some(id)) = (node.kind, node.id) else {
            return;
        };
        if self.storages.len() >= NEO_NODES_MAX && !self.storages.contains_key(&id) {
            return;
        }
        let is_running = node.state == State::Running;
        let Some((host, port)) = &node.address else {
            self.storages.remove(&id);
            return;
        };
        let address = Address::Tcp(host.clone(), *port);
        // One that comes back has what it had; one that is only told of again has failed all the same.
        let was = self.storages.get(&id);
        let aside_until = was.filter(|was| was.is_running && was.address == address);
        let aside_until = aside_until.and_then(|was| was.aside_until);
        let storage = Storage {
            address,
            is_running,
            aside_until,
        };
        self.storages.insert(id, storage);
    }

    /// Cells of all partitions.
    pub(super) fn table(&mut self, rows: Vec<Vec<(i32, Cell)>>) {
        self.rows = rows;
    }

    /// Cells that changed.
    pub(super) fn cells(&mut self, cells: Vec<(u32, i32, Cell)>) {
        for (partition, node, cell) in cells {
            let row = usize::try_from(partition).ok();
            let Some(row) = row.and_then(|row| self.rows.get_mut(row)) else {
                continue;
            };
            row.retain(|(known, _)| *known != node);
            if cell != Cell::Discarded {
                row.push((node, cell));
            }
        }
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// The partition of an oid or a tid.
    pub(super) fn partition(&self, of: u64) -> u32 {
        let partitions = u64::from(self.partitions().max(1));
        u32::try_from(of % partitions).unwrap_or_default()
    }

    /// Where a node listens.
    pub(super) fn address(&self, node: i32) -> Option<&Address> {
        let storage = self.storages.get(&node);
        storage
            .filter(|storage| storage.is_running)
            .map(|storage| &storage.address)
    }

    /// Nodes that have a partition, and work.
    fn readable(&self, partition: u32) -> impl Iterator<Item = (i32, &Storage)> {
        let row = usize::try_from(partition).ok();
        let row = row.and_then(|row| self.rows.get(row));
        let cells = row.map(Vec::as_slice).unwrap_or_default().iter();
        let readable = cells.filter(|(_, cell)| *cell == Cell::Readable);
        readable.filter_map(|(node, _)| {
            let storage = self.storages.get(node)?;
            storage.is_running.then_some((*node, storage))
        })
    }

    /// Whether each partition can be read.
    pub(super) fn is_operational(&self) -> bool {
        let all = 0..self.partitions();
        !self.rows.is_empty() && all.into_iter().all(|p| self.readable(p).next().is_some())
    }

    /// A node to ask for a partition, but none of `tried`; one that failed if there is no other. `chance` picks one of several.
    pub(super) fn choose(
        &self,
        now: Instant,
        partition: u32,
        tried: &[i32],
        chance: u64,
    ) -> Option<i32> {
        let left = self
            .readable(partition)
            .filter(|(node, _)| !tried.contains(node));
        let (aside, good): (Vec<_>, Vec<_>) =
            left.partition(|(_, storage)| storage.aside_until.is_some_and(|until| now < until));
        let from = if good.is_empty() { aside } else { good };
        let nth = chance.checked_rem(from.len() as u64)?;
        from.get(usize::try_from(nth).ok()?).map(|(node, _)| *node)
    }

    /// A node failed.
    pub(super) fn aside(&mut self, node: i32, until: Instant) {
        if let Some(storage) = self.storages.get_mut(&node) {
            storage.aside_until = Some(until);
        }
    }

    /// A node took us in.
    pub(super) fn good(&mut self, node: i32) {
        if let Some(storage) = self.storages.get_mut(&node) {
            storage.aside_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn node(id: i32, state: State) -> Node {
        Node {
            kind: Kind::Storage,
            address: Some(("h".to_owned(), 1)),
            id: Some(id),
            state,
            stamp: None,
        }
    }

    #[test]
    fn nodes_that_work_and_have_it_are_chosen_and_failed_ones_last() {
        let (now, s) = (Instant::now(), Duration::from_secs);
        let mut topology = Topology::default();
        assert!(!topology.is_operational());
        topology.table(vec![
            vec![(1, Cell::Readable), (2, Cell::Readable)],
            vec![(1, Cell::Unreadable), (2, Cell::Readable)],
        ]);
        topology.node(&node(1, State::Running));
        assert!(!topology.is_operational(), "nobody has partition 1");
        topology.node(&node(2, State::Running));
        assert!(topology.is_operational());
        assert_eq!(topology.partition(7), 1);
        let chosen = |t: &Topology, p, tried: &[i32], now| {
            let all = (0..4).map(|chance| t.choose(now, p, tried, chance));
            let mut all: Vec<_> = all.collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        assert_eq!(chosen(&topology, 0, &[], now), [Some(1), Some(2)]);
        assert_eq!(chosen(&topology, 0, &[1], now), [Some(2)]);
        assert_eq!(chosen(&topology, 1, &[], now), [Some(2)]);
        assert_eq!(chosen(&topology, 1, &[2], now), [None]);
        topology.aside(2, now + s(10));
        assert_eq!(chosen(&topology, 0, &[], now), [Some(1)]);
        assert_eq!(chosen(&topology, 1, &[], now), [Some(2)]);
        assert_eq!(chosen(&topology, 0, &[], now + s(10)), [Some(1), Some(2)]);
        topology.aside(2, now + s(10));
        topology.node(&node(2, State::Other));
        assert_eq!(chosen(&topology, 1, &[], now), [None]);
        assert!(topology.address(2).is_none());
        topology.node(&node(2, State::Running));
        assert_eq!(chosen(&topology, 0, &[], now), [Some(1), Some(2)]);
        topology.cells(vec![(0, 1, Cell::Discarded), (9, 1, Cell::Readable)]);
        assert_eq!(chosen(&topology, 0, &[], now), [Some(2)]);
    }
}
