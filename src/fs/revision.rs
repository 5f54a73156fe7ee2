//! Revisions of objects, and the states of the database that each is right for.
//!
//! What a transaction made of an object is a revision; the transaction is its *serial*. It is what the object is from
//! there on, until the object changes again. Nobody tells when that was, so each revision has a span of states
//! that it is *known* to be right for, and that grows with what is learnt (`extend`, `Generation::close`):
//!
//! ```text
//!      found at head                          head moves on and changes it
//!   ------------------> open: [serial, head] ------------------------------+
//!                          ^                                               v
//!      found at @tid       | found at head too               closed: [serial, the head before]
//!   ------------------> closed: [serial, tid]
//!                          \ found at a later @tid: grows
//! ```
//!
//! An open revision is right for every state from its serial up to the worker's head, wherever that is. Spans of one
//! object's revisions never overlap, and an open one is the newest; so each state finds one revision at most.

use crate::base::{Oid, Rev, Tid};
use rustc_hash::FxHashMap;
use std::cell::Cell;
use std::collections::hash_map::Entry;

/// The end of an open revision's span. No transaction has this tid.
const OPEN: Tid = Tid(u64::MAX);

/// An object as a transaction made it.
#[derive(Debug)]
pub(super) struct Revision<T> {
    pub(super) serial: Tid,
    /// The last state it is known to be right for; [`OPEN`] if it is right for head.
    until: Tid,
    /// Somebody asked for it since it was put where it is.
    pub(super) used: Cell<bool>,
    pub(super) kept: T,
}

impl<T> Revision<T> {
    /// As it was found at `rev`.
    pub(super) fn new(serial: Tid, rev: Rev, kept: T) -> Self {
        Self {
            serial,
            until: match rev {
                Rev::Head => OPEN,
                Rev::At(tid) => tid,
            },
            used: Cell::new(false),
            kept,
        }
    }

    /// Whether it is known to be right for a state that is not before its serial, nor beyond head.
    fn reaches(&self, rev: Rev) -> bool {
        match rev {
            Rev::Head => self.until == OPEN,
            Rev::At(tid) => tid <= self.until,
        }
    }

    /// It is right for all that `same`, the same revision found elsewhere, is right for.
    pub(super) fn extend(&mut self, same: &Self) {
        self.until = self.until.max(same.until);
    }
}

/// Revisions of one object. Mostly there is one, which is found without another look elsewhere; so a place in the table is
/// kept small.
#[derive(Debug)]
struct Revisions<T> {
    newest: Revision<T>,
    /// By serial, oldest first.
    #[expect(clippy::box_collection, reason = "one word where there is none")]
    older: Option<Box<Vec<Revision<T>>>>,
}

impl<T> Revisions<T> {
    fn older(&self) -> &[Revision<T>] {
        self.older.as_deref().map_or(&[], Vec::as_slice)
    }

    fn at(&self, rev: Rev) -> Option<&Revision<T>> {
        let last = match rev {
            Rev::At(tid) if tid < self.newest.serial => {
                let newer = self.older().partition_point(|r| r.serial <= tid);
                self.older()[..newer].last()?
            }
            _ => &self.newest,
        };
        last.reaches(rev).then_some(last)
    }

    fn put(&mut self, mut revision: Revision<T>) {
        debug_assert_ne!(revision.serial, self.newest.serial);
        if revision.serial > self.newest.serial {
            std::mem::swap(&mut self.newest, &mut revision);
        }
        let older = self.older.get_or_insert_default();
        let newer = older.partition_point(|r| r.serial < revision.serial);
        older.insert(newer, revision);
    }
}

/// Revisions of many objects.
#[derive(Debug)]
pub(super) struct Generation<T>(FxHashMap<Oid, Revisions<T>>);

impl<T> Default for Generation<T> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

impl<T> Generation<T> {
    /// What an object's place takes in the table.
    pub(super) const PLACE_BYTES: usize = size_of::<(Oid, Revisions<T>)>();

    /// The revision that is known to be right for a state, which must not be beyond head.
    pub(super) fn get(&self, rev: Rev, oid: Oid) -> Option<&Revision<T>> {
        self.0.get(&oid)?.at(rev)
    }

    /// Puts in a revision that is not here.
    pub(super) fn put(&mut self, oid: Oid, revision: Revision<T>) {
        match self.0.entry(oid) {
            Entry::Occupied(entry) => entry.into_mut().put(revision),
            Entry::Vacant(entry) => {
                entry.insert(Revisions {
                    newest: revision,
                    older: None,
                });
            }
        }
    }

    /// Takes out a revision.
    pub(super) fn take(&mut self, oid: Oid, serial: Tid) -> Option<Revision<T>> {
        let Entry::Occupied(mut entry) = self.0.entry(oid) else {
            return None;
        };
        let revisions = entry.get_mut();
        if revisions.newest.serial != serial {
            let older = revisions.older.as_mut()?;
            let found = older.binary_search_by_key(&serial, |r| r.serial);
            return found.ok().map(|at| older.remove(at));
        }
        match revisions.older.as_mut().and_then(|older| older.pop()) {
            Some(before) => Some(std::mem::replace(&mut revisions.newest, before)),
            None => Some(entry.remove().newest),
        }
    }

    /// Lets go of revisions of a kind; how many there were.
    pub(super) fn forget(&mut self, mut is_gone: impl FnMut(&T) -> bool) -> usize {
        let mut gone = 0;
        self.0.retain(|_, revisions| {
            if let Some(older) = &mut revisions.older {
                let before = older.len();
                older.retain(|r| !is_gone(&r.kept));
                gone += before - older.len();
            }
            if !is_gone(&revisions.newest.kept) {
                return true;
            }
            gone += 1;
            match revisions.older.as_mut().and_then(|older| older.pop()) {
                Some(last) => {
                    revisions.newest = last;
                    true
                }
                None => false,
            }
        });
        gone
    }

    /// Head's revision of an object is known up to `last`, and no longer head's.
    pub(super) fn close(&mut self, oid: Oid, last: Tid) {
        if let Some(Revisions { newest, .. }) = self.0.get_mut(&oid)
            && newest.until == OPEN
        {
            debug_assert!(newest.serial <= last, "made after the state it was head's");
            newest.until = last;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|r| 1 + r.older().len()).sum()
    }
}
