//! What transactions changed, exactly. Pure.
//!
//! An announcement leaves out what its transaction deleted. What the storage nodes list of a transaction holds that, and also
//! what it only looked at. So each transaction is asked for, and what is listed and was not announced is asked for one by one:
//!
//! ```text
//!   announced: oids ---> Transaction(tid): listed ---> Changed(oid, tid) for each of listed - oids ---> told, in order
//!
//!   catching up: Tids of each partition, from head on ---> head is among them: the same for all, with no oids known ---> told together
//! ```
//!
//! Transactions that were announced are told one by one; those of catching up are, when all is known.

use super::Gap;
use super::asks::Ask;
use crate::base::limit::{
    NEO_CHECKS_UNDER_WAY, NEO_TIDS_MAX, NEO_UNTOLD_MS, ZEO_CATCH_UP_OIDS_MAX,
};
use crate::base::{Oid, Tid};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// A transaction that was not told yet.
#[derive(Debug)]
struct Pending {
    tid: Tid,
    since: Instant,
    /// Known to be changed.
    oids: Vec<Oid>,
    is_listed: bool,
    /// Objects that may be changed.
    unsure: usize,
}

impl Pending {
    fn is_ready(&self) -> bool {
        self.is_listed && self.unsure == 0
    }
}

/// Transactions that were missed.
#[derive(Debug)]
struct Missed {
    head: Tid,
    to: Tid,
    /// Partitions that have not told all.
    left: u32,
    tids: BTreeSet<Tid>,
    is_known: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Follow {
    pending: VecDeque<Pending>,
    missed: Option<Missed>,
    todo: VecDeque<Ask>,
    under_way: usize,
    /// In all that is pending.
    oids: usize,
}

impl Follow {
    /// Objects of transactions that were not told yet.
    pub(super) fn len(&self) -> usize {
        self.oids
    }

    /// A transaction was announced.
    pub(super) fn announced(&mut self, now: Instant, tid: Tid, oids: Vec<Oid>) {
        self.oids += oids.len() + 1;
        self.push(now, tid, oids);
    }

    fn push(&mut self, since: Instant, tid: Tid, oids: Vec<Oid>) {
        self.todo.push_back(Ask::Transaction(tid));
        self.pending.push_back(Pending {
            tid,
            since,
            oids,
            is_listed: false,
            unsure: 0,
        });
    }

    /// From `head` to `to`, which is newer, in so many partitions.
    pub(super) fn catch_up(&mut self, head: Tid, to: Tid, partitions: u32) {
        assert!(head < to, "BUG: nothing was missed from {head} to {to}");
        *self = Self::default();
        self.todo
            .extend((0..partitions).map(|p| Ask::Tids(p, head)));
        self.missed = Some(Missed {
            head,
            to,
            left: partitions,
            tids: BTreeSet::new(),
            // An empty database has no first transaction to know it by.
            is_known: head == Tid::ZERO,
        });
    }

    /// The newest transaction that is looked for.
    pub(super) fn to(&self) -> Option<Tid> {
        self.missed.as_ref().map(|missed| missed.to)
    }

    /// Whether the cluster has what was given out before: loads can be asked of it.
    pub(super) fn is_known(&self) -> bool {
        self.missed.as_ref().is_none_or(|missed| missed.is_known)
    }

    /// What to ask next, as far as there is room.
    pub(super) fn next_ask(&mut self) -> Option<Ask> {
        if self.under_way >= NEO_CHECKS_UNDER_WAY {
            return None;
        }
        let ask = self.todo.pop_front()?;
        self.under_way += 1;
        Some(ask)
    }

    /// Transactions of a partition; `None` when they cannot be.
    pub(super) fn tids(
        &mut self,
        now: Instant,
        (partition, from): (u32, Tid),
        tids: &[Tid],
    ) -> Option<Result<(), Gap>> {
        self.under_way = self.under_way.saturating_sub(1);
        // Of a history that was given up.
        let Some(missed) = self.missed.as_mut() else {
            return Some(Ok(()));
        };
        let is_sound = tids.is_sorted_by(|a, b| a < b)
            && tids.iter().all(|&tid| tid >= from && tid <= missed.to);
        if !is_sound {
            return None;
        }
        missed.is_known |= tids.contains(&missed.head);
        missed.tids.extend(tids);
        match tids.last() {
            Some(&last) if tids.len() == NEO_TIDS_MAX as usize && last > from => {
                self.todo.push_front(Ask::Tids(partition, last));
            }
            _ => missed.left -= 1,
        }
        if missed.tids.len() > ZEO_CATCH_UP_OIDS_MAX {
            return Some(Err(Gap::TooMany));
        }
        if missed.left == 0 {
            for (known, tid) in [
                (missed.is_known, missed.head),
                (missed.tids.contains(&missed.to), missed.to),
            ] {
                if !known {
                    return Some(Err(Gap::Unknown(tid)));
                }
            }
            let newer = missed.tids.split_off(&Tid(missed.head.0 + 1));
            self.oids = newer.len();
            for tid in newer {
                self.push(now, tid, Vec::new());
            }
        }
        Some(Ok(()))
    }

    /// What a transaction stored or looked at.
    pub(super) fn listed(&mut self, tid: Tid, mut listed: Vec<Oid>) -> Result<(), Gap> {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.tid == tid) else {
            return Ok(());
        };
        listed.sort_unstable();
        listed.dedup();
        pending.oids.sort_unstable();
        listed.retain(|oid| pending.oids.binary_search(oid).is_err());
        pending.is_listed = true;
        pending.unsure = listed.len();
        self.oids += listed.len();
        if self.missed.is_some() && self.oids > ZEO_CATCH_UP_OIDS_MAX {
            return Err(Gap::TooMany);
        }
        // Those of older transactions first.
        for oid in listed.into_iter().rev() {
            self.todo.push_front(Ask::Changed(oid, tid));
        }
        Ok(())
    }

    /// A node does not know a transaction that should be there. It may hear of it in a moment.
    pub(super) fn unknown(&mut self, now: Instant, tid: Tid) -> Result<(), Gap> {
        let pending = self.pending.iter().find(|pending| pending.tid == tid);
        let limit = Duration::from_millis(NEO_UNTOLD_MS);
        match pending {
            Some(pending) if now >= pending.since + limit => Err(Gap::Unknown(tid)),
            _ => Ok(()),
        }
    }

    /// Whether a transaction changed an object.
    pub(super) fn changed(&mut self, oid: Oid, tid: Tid, is_changed: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.tid == tid) else {
            return;
        };
        pending.unsure -= 1;
        if is_changed {
            pending.oids.push(oid);
        }
    }

    /// The next transaction about which all is known.
    pub(super) fn next_told(&mut self) -> Option<(Tid, Vec<Oid>)> {
        let is_ready = self.missed.is_none() && self.pending.front()?.is_ready();
        let pending = is_ready.then(|| self.pending.pop_front()).flatten()?;
        self.oids = self.oids.saturating_sub(pending.oids.len() + 1);
        if self.pending.is_empty() {
            self.oids = 0;
        }
        Some((pending.tid, pending.oids))
    }

    /// Whether all that was missed is known: from then on it is told.
    pub(super) fn has_caught_up(&mut self) -> Option<usize> {
        let missed = self.missed.as_ref()?;
        let is_over = missed.left == 0 && self.pending.iter().all(Pending::is_ready);
        if is_over {
            self.missed = None;
        }
        is_over.then_some(self.pending.len())
    }
}
