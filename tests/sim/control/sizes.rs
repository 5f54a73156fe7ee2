//! Files that become shorter or longer, as `engine::control::sizes`.

use super::Control;
use crate::kernel::Inode;
use crate::mutant::Mutant;
use crate::shared::{Published, Shared, What};
use std::sync::Arc;
use zring::base::{NodeId, Rev, Tid};
use zring::fs::advance::{Drop, Event, Shorter};
use zring::fs::tree::{FileNode, Node};

impl Control {
    pub(super) fn shorten(
        &mut self,
        shared: &mut Shared,
        files: Vec<Shorter>,
    ) -> Option<Event<Published>> {
        let tid = self.head.under_way();
        self.shorter.clear();
        for shorter in files {
            let Some(file) = shared.file(shorter.node) else {
                continue;
            };
            file.shrinks();
            if file.watched().is_some() {
                self.unforced.retain(|(of, _)| of.node != shorter.node);
                self.unforced.push((shorter, tid));
            } else {
                file.limit(shorter.size);
                self.shorter.push(shorter);
            }
        }
        if self.shorter.is_empty() || shared.is(Mutant::NotShortened) {
            return Some(Event::Shortened);
        }
        shared.counts.shorter += 1;
        shared.shorter.push_back((self.shorter.clone(), true));
        None
    }

    pub(super) fn shorten_late(&mut self, shared: &Shared, found: &[Shorter], tid: Tid) {
        let known = std::mem::take(&mut self.shorter);
        for file in found {
            let unforced = self.unforced.iter().map(|(of, _)| of.node);
            let mut known = known.iter().map(|of| of.node).chain(unforced);
            if !known.any(|node| node == file.node) {
                shared
                    .file(file.node)
                    .iter()
                    .for_each(|file| file.shrinks());
                self.unforced.push((*file, tid));
            }
        }
    }

    pub(super) fn resized_by(&self, shared: &mut Shared, drops: &[Drop]) {
        let nodes = drops.iter().filter_map(|drop| match *drop {
            Drop::Attributes(node) => Some(node),
            Drop::Pages { .. } => None,
        });
        let held: Vec<_> = self.unforced.iter().map(|(file, _)| file.node).collect();
        shared.resized = nodes.filter(|node| !held.contains(node)).collect();
        // One that was given up stays untold until somebody asks.
        let inodes = &shared.kernel.inodes;
        let is_unasked = |node: &NodeId| inodes.get(node).is_some_and(|inode| !inode.valid);
        shared.untold.retain(is_unasked);
        shared.untold.extend(held);
        shared.resized.sort_unstable();
        shared.resized.dedup();
    }

    pub(super) fn catch_up_sizes(&mut self, shared: &mut Shared) {
        let settled = self.history.settled().unwrap_or(Tid::ZERO);
        let (mut free, mut held) = (Vec::new(), Vec::new());
        for (shorter, tid) in self.unforced.drain(..) {
            let Some(file) = shared.file(shorter.node) else {
                continue;
            };
            match tid <= settled && file.watched().is_none_or(|at| at >= tid) {
                true => free.push(shorter),
                false => held.push((shorter, tid)),
            }
        }
        self.unforced = held;
        if !free.is_empty() && !shared.is(Mutant::NotShortened) {
            shared.shorter.push_back((free, false));
        }
    }

    pub(super) fn hold_sizes(&mut self, shared: &Shared) {
        let at = self.head.at();
        for node in std::mem::take(&mut self.resized) {
            let Some(file) = shared.file(node).filter(|file| file.has_shrunk()) else {
                continue;
            };
            if let Ok(size) = self.history.size(file.oid, at) {
                file.limit_more(size);
            }
        }
    }
}

impl Shared {
    /// The big file of a node.
    pub(crate) fn file(&self, node: NodeId) -> Option<Arc<FileNode>> {
        match self.tree.node(node) {
            Some(Node::File(file)) => Some(file),
            _ => None,
        }
    }

    /// Who has read `head/at` may map a file as far as it goes then: the kernel knows that it does (kernel-note 0020). Not of one that it
    /// learned of by an answer which a drop had overtaken: under head such a file is asked for again.
    pub(crate) fn check_reach(&mut self) {
        let inodes: Vec<_> = self.kernel.inodes.iter().collect();
        let is_short = |&(node, inode): &(&NodeId, &Inode)| {
            let is_told = inode.rev == Rev::Head
                && !inode.crossed
                && !self.is_gone(*node)
                && !self.untold.contains(node);
            let mut now = self.data.versions(inode.file, self.shown, self.shown);
            is_told && now.any(|content| (content.len() as u64) > inode.size)
        };
        let short = inodes.into_iter().find(is_short);
        if let Some((_, inode)) = short {
            let text = format!(
                "the kernel takes file {} for {} bytes, as {} is shown",
                inode.file, inode.size, self.shown
            );
            self.fail(What::Short, text);
        }
    }
}
