//! How head moves from one transaction to the next.
//!
//! ```text
//!            commit                  every worker took it            every drop is done
//!   Quiet ------------> Publishing ---------------------> Dropping ---------------------> Quiet
//!          Publish                   Drop each file                  Show
//!     ^                                                                                     |
//!     +-------------------------------------------------------------------------------------+
//! ```
//!
//! What may wait for what (commit path):
//! - a worker takes a view between two requests; it waits for nothing;
//! - a drop waits, in the kernel, for READs that hold pages of the file locked;
//! - those READs are answered from whatever view their worker has; they never wait for a drop nor for head.
//!
//! So no circle closes (I3). Drops begin only when every worker has the new view: a READ answered earlier is
//! undone by the drop, a READ answered later is new already. `Show` comes last: who has read `head/at` finds
//! nothing older in the page cache.
//!
//! Transactions are taken one by one, in order, none skipped. One `Head` for the daemon, on the control thread.

use crate::base::{NodeId, Tid};
use std::collections::{BTreeSet, VecDeque};

/// What happened.
#[derive(Debug)]
pub enum Event<C> {
    /// The database has a new transaction.
    Commit(Tid, C),
    /// A worker took the published view and says which head files it had read through changed objects.
    Took(Vec<NodeId>),
    /// The kernel dropped the pages of a file, or knows no such file.
    Dropped,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<C> {
    /// Give every worker this view.
    Publish(Tid, C),
    /// Have the kernel drop every page of the file.
    Drop(NodeId, Tid),
    /// `head/at` is this from now on.
    Show(Tid),
}

#[derive(Debug)]
enum State {
    Quiet,
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
    state: State,
}

impl<C> Head<C> {
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
            (Event::Took(touched), State::Publishing { workers, files, .. }) => {
                files.extend(touched);
                *workers -= 1;
            }
            (Event::Dropped, State::Dropping { files, .. }) => *files -= 1,
            (Event::Took(_) | Event::Dropped, state) => {
                panic!("BUG: an answer that nobody waits for, in {state:?}")
            }
        }
        self.go_on(actions);
    }

    fn under_way(&self) -> Tid {
        match self.state {
            State::Quiet => self.at,
            State::Publishing { tid, .. } | State::Dropping { tid, .. } => tid,
        }
    }

    fn go_on(&mut self, actions: &mut Vec<Action<C>>) {
        loop {
            match &mut self.state {
                State::Quiet => {
                    let Some((tid, commit)) = self.queue.pop_front() else {
                        return;
                    };
                    actions.push(Action::Publish(tid, commit));
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
        assert_eq!(
            step(&mut head, commit(5, 'a')),
            [Action::Publish(Tid(5), 'a')]
        );
        assert_eq!(step(&mut head, commit(6, 'b')), []);
        assert_eq!(step(&mut head, Event::Took(vec![NodeId(70)])), []);
        let drops = [
            Action::Drop(NodeId(70), Tid(5)),
            Action::Drop(NodeId(71), Tid(5)),
        ];
        assert_eq!(
            step(&mut head, Event::Took(vec![NodeId(71), NodeId(70)])),
            drops
        );
        assert_eq!(step(&mut head, Event::Dropped), []);
        assert_eq!(head.at(), Tid(1));
        let shown = [Action::Show(Tid(5)), Action::Publish(Tid(6), 'b')];
        assert_eq!(step(&mut head, Event::Dropped), shown);
        step(&mut head, Event::Took(vec![]));
        assert_eq!(step(&mut head, Event::Took(vec![])), [Action::Show(Tid(6))]);
        assert!(head.is_quiet());
    }
}
