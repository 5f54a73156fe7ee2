//! Transactions of two layers as those of one database: by tid, those of one tid as one. Pure.

use super::Gap;
use crate::base::{Oid, Tid};
use std::collections::VecDeque;

/// Which layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Changes,
    Base,
}

impl Layer {
    pub(super) const BOTH: [Self; 2] = [Self::Changes, Self::Base];

    /// As people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Base => "base",
        }
    }
}

/// What a layer told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Commit(Tid, Vec<Oid>),
    /// History is lost, for a reason; it is at this transaction now.
    Reset(Tid, String),
}

impl Told {
    fn tid(&self) -> Tid {
        match self {
            Self::Commit(tid, _) | Self::Reset(tid, _) => *tid,
        }
    }
}

/// What that is of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Commit(Tid, Vec<Oid>),
    Reset(Tid, Gap),
}

/// What was told and not given out yet.
#[derive(Debug)]
pub(super) struct Merge {
    head: Tid,
    told: [VecDeque<Told>; 2],
}

impl Merge {
    /// The newest transaction of either is `head`.
    pub(super) fn new(head: Tid) -> Self {
        Self {
            head,
            told: Default::default(),
        }
    }

    /// A layer told something, in its own order.
    pub(super) fn told(&mut self, layer: Layer, told: Told) {
        self.told[layer as usize].push_back(told);
    }

    /// All that was told, in the order of the whole: to be called when both layers are known to have told all they have. What
    /// cannot be told in order is one loss, behind which nothing is left.
    pub(super) fn drain(&mut self) -> Vec<Whole> {
        let mut out = Vec::new();
        while let Some(layer) = self.next() {
            let Some(told) = self.told[layer as usize].pop_front() else {
                break;
            };
            let (head, layer) = (self.head, layer.name());
            match told {
                Told::Commit(tid, oids) if tid > head => {
                    self.head = tid;
                    let oids = self.with_twin(tid, oids);
                    out.push(Whole::Commit(tid, oids));
                }
                Told::Commit(tid, _) => {
                    return self.lose(out, tid, Gap::Below { tid, layer, head });
                }
                Told::Reset(tid, why) => return self.lose(out, tid, Gap::Layer(layer, why)),
            }
        }
        out
    }

    /// Which layer comes next.
    fn next(&self) -> Option<Layer> {
        let first = |layer: Layer| self.told[layer as usize].front().map(Told::tid);
        match Layer::BOTH.map(first) {
            [None, None] => None,
            [Some(changes), Some(base)] if base < changes => Some(Layer::Base),
            [Some(_), _] => Some(Layer::Changes),
            [None, Some(_)] => Some(Layer::Base),
        }
    }

    /// Objects of both layers, if the base has a transaction of the same tid.
    fn with_twin(&mut self, tid: Tid, mut oids: Vec<Oid>) -> Vec<Oid> {
        let base = &mut self.told[Layer::Base as usize];
        if let Some(Told::Commit(twin, more)) = base.front()
            && *twin == tid
        {
            let new: Vec<_> = more.iter().filter(|oid| !oids.contains(oid)).collect();
            oids.extend(new.into_iter().copied());
            base.pop_front();
        }
        oids
    }

    fn lose(&mut self, mut out: Vec<Whole>, tid: Tid, gap: Gap) -> Vec<Whole> {
        let left = self.told.iter_mut().flat_map(|told| told.drain(..));
        let newest = left.map(|told| told.tid()).max();
        self.head = self.head.max(tid).max(newest.unwrap_or(tid));
        out.push(Whole::Reset(self.head, gap));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(base: &[u64], changes: &[u64]) -> Vec<Whole> {
        let mut merge = Merge::new(Tid(10));
        for (layer, tids) in [(Layer::Base, base), (Layer::Changes, changes)] {
            for &tid in tids {
                let oids = vec![Oid(tid), Oid(layer as u64)];
                merge.told(layer, Told::Commit(Tid(tid), oids));
            }
        }
        merge.drain()
    }

    fn commit(tid: u64, oids: &[u64]) -> Whole {
        Whole::Commit(Tid(tid), oids.iter().map(|&oid| Oid(oid)).collect())
    }

    #[test]
    fn transactions_of_both_come_by_tid_and_twins_as_one() {
        assert_eq!(
            drained(&[11, 14, 15], &[12, 14]),
            [
                commit(11, &[11, 1]),
                commit(12, &[12, 0]),
                commit(14, &[14, 0, 1]),
                commit(15, &[15, 1]),
            ]
        );
        assert_eq!(drained(&[], &[]), []);
    }

    #[test]
    fn what_comes_below_head_is_a_loss_and_head_never_goes_back() {
        for tid in [9, 10] {
            let below = |layer| Gap::Below {
                tid: Tid(tid),
                layer,
                head: Tid(10),
            };
            let reset = |head, layer| Whole::Reset(Tid(head), below(layer));
            assert_eq!(drained(&[tid], &[]), [reset(10, "base")]);
            assert_eq!(drained(&[], &[tid, 13]), [reset(13, "changes")]);
            assert_eq!(drained(&[tid, 12], &[13]), [reset(13, "base")]);
        }
    }

    #[test]
    fn a_layer_that_lost_its_history_is_a_loss_of_the_whole() {
        let mut merge = Merge::new(Tid(10));
        merge.told(Layer::Changes, Told::Commit(Tid(11), vec![]));
        merge.told(Layer::Changes, Told::Reset(Tid(14), "why".into()));
        merge.told(Layer::Base, Told::Commit(Tid(12), vec![]));
        let (first, second) = (commit(11, &[]), commit(12, &[]));
        let lost = Whole::Reset(Tid(14), Gap::Layer("changes", "why".into()));
        assert_eq!(merge.drain(), [first, second, lost]);
        merge.told(Layer::Base, Told::Reset(Tid(12), "why".into()));
        let lost = Whole::Reset(Tid(14), Gap::Layer("base", "why".into()));
        assert_eq!(merge.drain(), [lost]);
        merge.told(Layer::Changes, Told::Commit(Tid(15), vec![]));
        assert_eq!(merge.drain(), [commit(15, &[])]);
    }
}
