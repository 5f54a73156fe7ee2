//! Catching up: what happened between the last transaction that was given out and the newest one, exactly.
//!
//! The server's own list of what a client missed is a union over several transactions, and short. A client may be shown any state
//! between, so each change has to be known under its true tid. So the transactions are walked, from the last one known:
//!
//! ```text
//!   union --> start --> next --(the one known: it is the same database)--> next --> records --> record* --> next ... --> end
//!                         \                                                                                  |
//!                          +-- another one, or none: nobody can tell                    the union is all in it?
//! ```
//!
//! One question at a time: a walk asked beyond its end fails at the server, which logs that. What is found is given out only when
//! the walk is over: if it fails on the way, all that was derived from the history so far is dropped instead.

use crate::base::limit::ZEO_CATCH_UP_OIDS_MAX;
use crate::base::{Oid, Tid};
use crate::wire::zeo::{Answer, Call, Refusal, ZeoError};

/// What was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Union,
    Start,
    Next,
    Records,
    Record,
}

/// Why what was missed cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// The transaction that head shows is not there.
    #[error("the server's database does not have transaction {0}, which head shows")]
    Unknown(Tid),
    /// The server cannot walk, or failed to.
    #[error("the server cannot list its transactions: {0}")]
    NoWalk(Refusal),
    /// Transactions were packed away meanwhile.
    #[error("a pack removed transactions that were missed")]
    Packed,
    /// Too much happened.
    #[error("more than {ZEO_CATCH_UP_OIDS_MAX} objects changed meanwhile")]
    TooMany,
    /// A record in one of them is larger than allowed.
    #[error("a transaction that was missed holds a record larger than max_record")]
    TooBig,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask this.
    Ask(Call<'static>),
    /// These are all transactions up to the newest.
    Done(Vec<(Tid, Vec<Oid>)>),
    /// Give up.
    Lost(Gap),
}

/// One catching up.
#[derive(Debug)]
pub(super) struct Sync {
    /// The last transaction given out.
    head: Tid,
    /// The newest one.
    to: Tid,
    asked: Asked,
    /// Objects that changed in all of them, sorted, if the server knows.
    union: Option<Vec<Oid>>,
    walk: i64,
    records: i64,
    /// The database has the transaction of `head`.
    is_known: bool,
    found: Vec<(Tid, Vec<Oid>)>,
    oids: usize,
}

impl Sync {
    /// From `head` to `to`, which is newer. Gives what to ask first.
    pub(super) fn new(head: Tid, to: Tid) -> (Self, Call<'static>) {
        assert!(head < to, "BUG: nothing was missed from {head} to {to}");
        let this = Self {
            head,
            to,
            asked: Asked::Union,
            union: None,
            walk: 0,
            records: 0,
            // An empty database has no first transaction to know it by.
            is_known: head == Tid::ZERO,
            found: Vec::new(),
            oids: 0,
        };
        (this, Call::Invalidations(head))
    }

    /// The newest transaction that is looked for.
    pub(super) fn to(&self) -> Tid {
        self.to
    }

    /// Whether the server has what was given out before: loads can be asked of it.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// A walk that is left unfinished.
    pub(super) fn walk(&self) -> Option<i64> {
        (self.asked != Asked::Union && self.asked != Asked::Start).then_some(self.walk)
    }

    /// The server refused what was asked.
    pub(super) fn refused(&self, refusal: Refusal) -> Next {
        Next::Lost(Gap::NoWalk(refusal))
    }

    /// What was asked last came.
    pub(super) fn answered(&mut self, answer: &Answer) -> Result<Next, ZeoError> {
        Ok(match self.asked {
            Asked::Union => {
                if let Some((to, mut oids)) = answer.invalidations()?
                    && to >= self.to
                {
                    self.to = to;
                    oids.sort_unstable();
                    oids.dedup();
                    self.union = Some(oids);
                }
                self.ask(Asked::Start, Call::WalkStart(self.head, self.to))
            }
            Asked::Start => {
                self.walk = answer.walk()?;
                self.ask(Asked::Next, Call::WalkNext(self.walk))
            }
            Asked::Next => self.transaction(answer.transaction()?),
            Asked::Records => {
                self.records = answer.walk()?;
                self.ask(Asked::Record, Call::RecordsNext(self.records))
            }
            Asked::Record => {
                let Some(stored) = answer.stored()? else {
                    return Ok(self.ask(Asked::Next, Call::WalkNext(self.walk)));
                };
                let (_, oids) = self.found.last_mut().expect("records are of a transaction");
                oids.push(stored.oid);
                self.oids += 1;
                if self.oids > ZEO_CATCH_UP_OIDS_MAX {
                    return Ok(Next::Lost(Gap::TooMany));
                }
                self.ask(Asked::Record, Call::RecordsNext(self.records))
            }
        })
    }

    fn ask(&mut self, asked: Asked, call: Call<'static>) -> Next {
        self.asked = asked;
        Next::Ask(call)
    }

    fn transaction(&mut self, tid: Option<Tid>) -> Next {
        let Some(tid) = tid else {
            return self.end();
        };
        if !self.is_known {
            if tid != self.head {
                return Next::Lost(Gap::Unknown(self.head));
            }
            self.is_known = true;
            return self.ask(Asked::Next, Call::WalkNext(self.walk));
        }
        let last = self.found.last().map_or(self.head, |(tid, _)| *tid);
        if tid <= last || tid > self.to {
            return Next::Lost(Gap::Unknown(self.to));
        }
        // A walk of nothing but empty transactions is bounded too.
        self.oids += 1;
        if self.oids > ZEO_CATCH_UP_OIDS_MAX {
            return Next::Lost(Gap::TooMany);
        }
        self.found.push((tid, Vec::new()));
        self.ask(Asked::Records, Call::RecordsStart(self.walk, tid))
    }

    fn end(&mut self) -> Next {
        if !self.is_known {
            return Next::Lost(Gap::Unknown(self.head));
        }
        let mut found = std::mem::take(&mut self.found);
        if let Some(union) = &self.union {
            let mut all: Vec<Oid> = found.iter().flat_map(|(_, oids)| oids).copied().collect();
            all.sort_unstable();
            if !union.iter().all(|oid| all.binary_search(oid).is_ok()) {
                return Next::Lost(Gap::Packed);
            }
        }
        // The newest one stored nothing that is still there, or nothing at all.
        if found.last().is_none_or(|(tid, _)| *tid < self.to) {
            found.push((self.to, Vec::new()));
        }
        Next::Done(found)
    }
}
