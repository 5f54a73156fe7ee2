//! History of files over (tail, head]: what each commit did to them.
//!
//! One owner, who brings the commits in order and what they ask for. Three parts: all changed objects (`ztail`), what is
//! tracked, as of head (`track`), and which keys of tracked trees changed (`btail`). Questions about the past are
//! answered from them (`query`).
//!
//! Invariants
//! - What is tracked is as of head, always: tracks made as of the state before head come in by `join`.
//! - `update` and `join` change nothing until all they need is there.
//! - An epoch ends all that was known of a file; the blocks that were explicit until then are kept with it, for slices.

use super::btail::BTail;
use super::commit::{Commit, FileChange, Over};
use super::state::{Need, States};
use super::track::Tracked;
use super::ztail::ZTail;
use crate::base::{Oid, Tid};
use crate::zodb::Step;
use roaring::RoaringTreemap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// History of files.
#[derive(Clone, Debug)]
pub struct FTail {
    pub(super) ztail: ZTail,
    pub(super) btail: BTail,
    pub(super) tracked: Tracked,
    /// Blocks that were explicit when a transaction ended a file.
    pub(super) ended: BTreeMap<(Tid, Oid), RoaringTreemap>,
    /// The last transaction, for those who come late: it stays when history is forgotten.
    last: Option<Last>,
}

#[derive(Clone, Debug)]
struct Last {
    before: Tid,
    tid: Tid,
    oids: Arc<[Oid]>,
}

impl FTail {
    /// Nothing is known but the state it starts with.
    pub fn new(at: Tid) -> Self {
        Self {
            ztail: ZTail::new(at),
            btail: BTail::default(),
            tracked: Tracked::default(),
            ended: BTreeMap::new(),
            last: None,
        }
    }

    /// What happened until then is not known.
    pub fn tail(&self) -> Tid {
        self.ztail.tail()
    }

    /// The last transaction.
    pub fn head(&self) -> Tid {
        self.ztail.head()
    }

    /// The changed objects.
    pub fn ztail(&self) -> &ZTail {
        &self.ztail
    }

    /// What is tracked, as of head.
    pub fn tracked(&self) -> &Tracked {
        &self.tracked
    }

    /// What is tracked, as of head.
    pub fn tracked_mut(&mut self) -> &mut Tracked {
        &mut self.tracked
    }

    /// Takes the next transaction: head becomes `tid`.
    pub fn update<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        tid: Tid,
        oids: &Arc<[Oid]>,
    ) -> Step<Vec<FileChange>> {
        let before = self.head();
        assert!(tid > before, "BUG: {tid} follows {before}");
        self.heed(before);
        let found = Commit::find(&self.tracked, states, need, (before, tid), oids);
        let Step::Done(commit) = found else {
            return Step::Need;
        };
        let oids = Arc::clone(oids);
        let (changes, over) = commit.apply(&mut self.tracked, &oids);
        self.ztail.append(tid, Arc::clone(&oids));
        self.heed(tid);
        for (root, diff) in commit.trees(&self.tracked) {
            // What changed in these keys is known of this transaction, too.
            self.btail.complete(root, &diff.gained, before);
        }
        self.note(&commit, over, tid);
        self.last = Some(Last { before, tid, oids });
        Step::Done(changes)
    }

    /// Takes in what was tracked as of the state before head, and says what the last transaction did to it.
    pub fn join<S: States + ?Sized>(
        &mut self,
        states: &S,
        need: &mut Need,
        late: &Tracked,
    ) -> Step<Vec<FileChange>> {
        self.heed(self.head());
        let Some(Last { before, tid, oids }) = self.last.clone() else {
            self.tracked.merge(late.clone());
            return Step::Done(Vec::new());
        };
        let Step::Done(commit) = Commit::find(late, states, need, (before, tid), &oids) else {
            return Step::Need;
        };
        let mut late = late.clone();
        let (changes, over) = commit.apply(&mut late, &oids);
        self.tracked.merge(late);
        self.heed(before);
        self.note(&commit, over, tid);
        Step::Done(changes)
    }

    /// Forgets what happened until `cut`.
    pub fn forget(&mut self, cut: Tid) {
        self.ztail.forget(cut);
        let tail = self.tail();
        self.btail.forget(tail);
        while let Some(entry) = self.ended.first_entry().filter(|e| e.key().0 <= tail) {
            entry.remove();
        }
    }

    /// Changes of keys that are kept.
    pub fn key_changes(&self) -> usize {
        self.btail.len()
    }

    /// Keys that became tracked since the last call became so as of this state.
    pub(super) fn heed(&mut self, at: Tid) {
        self.btail.heed(self.tracked.take_news(), at);
    }

    fn note(&mut self, commit: &Commit, over: Over, tid: Tid) {
        if tid <= self.tail() {
            return;
        }
        for (root, diff) in commit.trees(&self.tracked) {
            self.btail.note(root, tid, &diff.changes);
        }
        for (file, explicit) in over {
            *self.ended.entry((tid, file)).or_default() |= explicit;
        }
    }
}
