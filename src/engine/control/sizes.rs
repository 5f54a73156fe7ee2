//! What the kernel is told of files that become shorter, or longer (kernel-notes 0019 and 0020).
//!
//! ```text
//!   Shorten    the kernel learns the new end, while every answer is of the old view     not of a file that is watched
//!   Publish    of a file that was longer once it learns of no larger size
//!   Join       files that were looked up meanwhile: late
//!   Drop       what is behind the old end goes, then it learns of any size; and it is made to know it
//!   whenever a watch moves on: files of which it was not told
//! ```
//!
//! Owned by control. Nothing here waits: zring-notify does, and tells.

use super::Work;
use crate::base::{NodeId, Tid};
use crate::engine::notifier::ToNotifier;
use crate::engine::shared::Published;
use crate::fs::advance::{Drop, Event as HeadEvent, Shorter};
use crate::fs::tree::Node;

impl Work {
    /// Has the kernel know which files are shorter before any answer is of the new state: no READ behind their ends is made then. Until
    /// their pages are dropped nobody tells it of more bytes, nor stores any. Where somebody sees a file as it was longer, his mapping would end with
    /// it, and no READ would ask for pins: there the kernel is told when he has moved on (protocol 14).
    pub(super) fn shorten(&mut self, files: Vec<Shorter>) -> Option<HeadEvent<Published>> {
        let tid = self.head.under_way();
        self.shorter.clear();
        let tree = self.control.shared.tree();
        for shorter in files {
            let Some(Node::File(file)) = tree.node(shorter.node) else {
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
        drop(tree);
        if self.shorter.is_empty() {
            return Some(HeadEvent::Shortened);
        }
        let told = ToNotifier::Shorten(self.shorter.clone());
        let _ = self.control.notifier.send(told);
        None
    }

    /// The kernel may have pages of zeros behind the end of a file that was longer once: until those that change are dropped it is not told
    /// that the file is longer again.
    pub(super) fn hold_sizes(&mut self) {
        let at = self.head.at();
        for node in std::mem::take(&mut self.resized) {
            let Some(Node::File(file)) = self.control.shared.tree().node(node) else {
                continue;
            };
            if file.has_shrunk()
                && let Ok(size) = self.history.size(file.oid, at)
            {
                file.limit_more(size);
            }
        }
    }

    /// Files of which it was not known that they become shorter: they were looked up meanwhile.
    pub(super) fn shorten_late(&mut self, found: &[Shorter], tid: Tid) {
        let known = std::mem::take(&mut self.shorter);
        let is_known = |file: &Shorter| {
            let unforced = self.unforced.iter().map(|(of, _)| of.node);
            let mut known = known.iter().map(|of| of.node).chain(unforced);
            known.any(|node| node == file.node)
        };
        let late = found.iter().filter(|file| !is_known(file));
        let late: Vec<_> = late.map(|&file| (file, tid)).collect();
        for (shorter, _) in &late {
            if let Some(Node::File(file)) = self.control.shared.tree().node(shorter.node) {
                file.shrinks();
            }
        }
        self.unforced.extend(late);
    }

    /// Files that may be longer when these are dropped. Where somebody sees one as it was longer yet, the kernel is not told.
    pub(super) fn resized_by(&self, drops: &[Drop]) -> Vec<NodeId> {
        let nodes = drops.iter().filter_map(|drop| match *drop {
            Drop::Attributes(node) => Some(node),
            Drop::Pages { .. } => None,
        });
        let is_held = |node| self.unforced.iter().any(|(file, _)| file.node == node);
        let mut resized: Vec<NodeId> = nodes.filter(|&node| !is_held(node)).collect();
        resized.sort_unstable();
        resized.dedup();
        resized
    }

    /// Tells the kernel of files that nobody sees any more as they were when they were longer, once every worker says how long they are.
    pub(super) fn catch_up_sizes(&mut self) {
        let settled = self.history.settled().unwrap_or(Tid::ZERO);
        let tree = self.control.shared.tree();
        let (mut free, mut held) = (Vec::new(), Vec::new());
        for (shorter, tid) in self.unforced.drain(..) {
            let Some(Node::File(file)) = tree.node(shorter.node) else {
                continue;
            };
            match tid <= settled && file.watched().is_none_or(|at| at >= tid) {
                true => free.push(shorter),
                false => held.push((shorter, tid)),
            }
        }
        drop(tree);
        self.unforced = held;
        if !free.is_empty() {
            let _ = self.control.notifier.send(ToNotifier::Late(free));
        }
    }
}
