//! What the next transaction will change, before it is taken.
//!
//! Who wants to act on the old state first asks here. What `update` says later, of what is tracked then, is at least that.

use super::commit::{Commit, FileChange};
use super::ftail::FTail;
use super::state::{Need, States};
use crate::base::{Oid, Tid};
use crate::zodb::Step;

impl FTail {
    /// What the transaction `tid` changes of what is tracked now; nothing is taken.
    pub fn look<S: States + ?Sized>(
        &self,
        states: &S,
        need: &mut Need,
        tid: Tid,
        oids: &[Oid],
    ) -> Step<Vec<FileChange>> {
        let found = Commit::find(&self.tracked, states, need, (self.head(), tid), oids);
        found.map(|commit| commit.changes(&self.tracked, oids))
    }
}
