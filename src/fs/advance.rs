//! How head moves from one transaction to the next.
//!
//! ```text
//!         commit         every worker said     the pages there      every worker took it      every drop is done
//!   Quiet ------> Asking ----------------> Clearing --------> Publishing ------------> Dropping -----------> Quiet
//!          Ask            Drop each file            Publish               Drop each file          Show
//!     ^                                                                                             |
//!     +---------------------------------------------------------------------------------------------+
//! ```
//!
//! Clearing is not needed for correctness. Dropping a whole file takes as long as it has pages; between `Publish` and
//! `Show` readers may see the new state though `head/at` shows the old one, and clearing most pages before makes
//! that time short. What is read again meanwhile, from the old view, is dropped for good by the second drop.
//!
//! What may wait for what (commit path):
//! - a worker answers, and takes a view, between two requests; it waits for nothing;
//! - a drop waits, in the kernel, for READs that hold pages of the file locked;
//! - those READs are answered from whatever view their worker has; they never wait for a drop nor for head.
//!
//! So no circle closes (I3). The drops that count begin only when every worker has the new view: a READ answered
//! earlier is undone by the drop, a READ answered later is new already. `Show` comes last: who has read `head/at`
//! finds nothing older in the page cache.
//!
//! Transactions are taken one by one, in order, none skipped. One `Head` for the daemon, on the control thread.

use crate::base::{NodeId, Tid};
use std::collections::{BTreeSet, VecDeque};

/// What happened.
#[derive(Debug)]
pub enum Event<C> {
    /// The database has a new transaction.
    Commit(Tid, C),
    /// A worker says which head files it has read through objects that are about to change.
    Answered(Vec<NodeId>),
    /// A worker took the published view and says which head files it had read through changed objects.
    Took(Vec<NodeId>),
    /// The kernel dropped the pages of a file, or knows no such file.
    Dropped,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<C> {
    /// Ask every worker which head files depend on what this changes.
    Ask(C),
    /// Give every worker this view.
    Publish(Tid, C),
    /// Have the kernel drop every page of the file.
    Drop(NodeId, Tid),
    /// `head/at` is this from now on.
    Show(Tid),
}

#[derive(Debug)]
enum State<C> {
    Quiet,
    Asking {
        tid: Tid,
        commit: C,
        workers: usize,
        files: BTreeSet<NodeId>,
    },
    Clearing {
        tid: Tid,
        commit: C,
        files: usize,
    },
    Publishing {
        tid: Tid,
        workers: usize,
        files: BTreeSet<NodeId>,
    },
    Dropping {
        tid: Tid,
        files: usize,
    },
}

/// The advance, and the commits that wait for it.
#[derive(Debug)]
pub struct Head<C> {
    at: Tid,
    workers: usize,
    queue: VecDeque<(Tid, C)>,
    state: State<C>,
}

impl<C: Clone + std::fmt::Debug> Head<C> {
    /// Head is `at`; so many workers hold a view of it.
    pub fn new(at: Tid, workers: usize) -> Self {
        assert!(workers > 0, "somebody has to answer");
        Self {
            at,
            workers,
            queue: VecDeque::new(),
            state: State::Quiet,
        }
    }

    /// The transaction that `head/at` shows.
    pub fn at(&self) -> Tid {
        self.at
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        matches!(self.state, State::Quiet) && self.queue.is_empty()
    }

    /// Takes an event; `actions` are to be carried out in order.
    pub fn apply(&mut self, event: Event<C>, actions: &mut Vec<Action<C>>) {
        match (event, &mut self.state) {
            (Event::Commit(tid, commit), _) => {
                let last = self.queue.back().map_or(self.under_way(), |(tid, _)| *tid);
                assert!(
                    tid >= last,
                    "BUG: commits come in order: {tid} after {last}"
                );
                self.queue.push_back((tid, commit));
            }
            (Event::Answered(touched), State::Asking { workers, files, .. })
            | (Event::Took(touched), State::Publishing { workers, files, .. }) => {
                files.extend(touched);
                *workers -= 1;
            }
            (Event::Dropped, State::Clearing { files, .. } | State::Dropping { files, .. }) => {
                *files -= 1;
            }
            (Event::Answered(_) | Event::Took(_) | Event::Dropped, state) => {
                panic!("BUG: an answer that nobody waits for, in {state:?}")
            }
        }
        self.go_on(actions);
    }

    fn under_way(&self) -> Tid {
        match self.state {
            State::Quiet => self.at,
            State::Asking { tid, .. }
            | State::Clearing { tid, .. }
            | State::Publishing { tid, .. }
            | State::Dropping { tid, .. } => tid,
        }
    }

    fn go_on(&mut self, actions: &mut Vec<Action<C>>) {
        loop {
            match &mut self.state {
                State::Quiet => {
                    let Some((tid, commit)) = self.queue.pop_front() else {
                        return;
                    };
                    actions.push(Action::Ask(commit.clone()));
                    let (workers, files) = (self.workers, BTreeSet::new());
                    self.state = State::Asking {
                        tid,
                        commit,
                        workers,
                        files,
                    };
                }
                State::Asking {
                    workers: 0,
                    tid,
                    commit,
                    files,
                } => {
                    let (tid, commit) = (*tid, commit.clone());
                    actions.extend(files.iter().map(|&file| Action::Drop(file, tid)));
                    self.state = State::Clearing {
                        tid,
                        commit,
                        files: files.len(),
                    };
                }
                State::Clearing {
                    files: 0,
                    tid,
                    commit,
                } => {
                    let tid = *tid;
                    actions.push(Action::Publish(tid, commit.clone()));
                    let (workers, files) = (self.workers, BTreeSet::new());
                    self.state = State::Publishing {
                        tid,
                        workers,
                        files,
                    };
                }
                State::Publishing {
                    workers: 0,
                    tid,
                    files,
                } => {
                    let tid = *tid;
                    actions.extend(files.iter().map(|&file| Action::Drop(file, tid)));
                    self.state = State::Dropping {
                        tid,
                        files: files.len(),
                    };
                }
                State::Dropping { files: 0, tid } => {
                    self.at = *tid;
                    actions.push(Action::Show(self.at));
                    self.state = State::Quiet;
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(head: &mut Head<char>, event: Event<char>) -> Vec<Action<char>> {
        let mut actions = Vec::new();
        head.apply(event, &mut actions);
        actions
    }

    #[test]
    fn commits_go_through_all_states_one_after_the_other() {
        let mut head = Head::new(Tid(1), 2);
        let commit = |n, c| Event::Commit(Tid(n), c);
        let (a, b) = (NodeId(70), NodeId(71));
        assert_eq!(step(&mut head, commit(5, 'a')), [Action::Ask('a')]);
        assert_eq!(step(&mut head, commit(6, 'b')), []);
        assert_eq!(step(&mut head, Event::Answered(vec![])), []);
        assert_eq!(
            step(&mut head, Event::Answered(vec![a])),
            [Action::Drop(a, Tid(5))]
        );
        assert_eq!(
            step(&mut head, Event::Dropped),
            [Action::Publish(Tid(5), 'a')]
        );
        assert_eq!(step(&mut head, Event::Took(vec![a])), []);
        let drops = [Action::Drop(a, Tid(5)), Action::Drop(b, Tid(5))];
        assert_eq!(step(&mut head, Event::Took(vec![b, a])), drops);
        assert_eq!(step(&mut head, Event::Dropped), []);
        assert_eq!(head.at(), Tid(1));
        let shown = [Action::Show(Tid(5)), Action::Ask('b')];
        assert_eq!(step(&mut head, Event::Dropped), shown);
        step(&mut head, Event::Answered(vec![]));
        assert_eq!(
            step(&mut head, Event::Answered(vec![])),
            [Action::Publish(Tid(6), 'b')]
        );
        step(&mut head, Event::Took(vec![]));
        assert_eq!(step(&mut head, Event::Took(vec![])), [Action::Show(Tid(6))]);
        assert!(head.is_quiet());
    }
}
