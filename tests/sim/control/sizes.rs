//! Files that become shorter, as `engine::control::sizes`.

use super::Control;
use crate::mutant::Mutant;
use crate::shared::{Published, Shared};
use zring::base::Tid;
use zring::fs::advance::{Event, Shorter};

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
