//! How head moves from one transaction to the next.
//!
//! ```text
//!        commit        what it changes     the old pages are   the kernel knows        nobody answers   what came in     every drop
//!                      is known            kept, or given up   which files are         from the old     late is known    is done
//!                                                              shorter, or time is up  view
//! Quiet ------> Diffing ----------> Keeping ---------> Shortening ----------> Passing ---------> Joining ---------> Dropping ----> Quiet
//!        Diff              Keep             Shorten              Publish               Join              Drop               Show
//!   ^                                                                                                                  |
//!   +------------------------------------------------------------------------------------------------------------------+
//! ```
//!
//! Nothing to keep, nothing shorter, nothing to drop: the state is passed through at once. A transaction that touches nothing tracked
//! goes from commit to `Show` in one call, if no worker is busy.
//!
//! What may wait for what (commit path):
//! - a worker answers, and takes a view, between two requests; it waits for nothing;
//! - keeping asks the kernel for pages, which waits for no page lock; and it has a deadline;
//! - shortening has somebody outside of the daemon ask for sizes, which waits for READs behind the new end; and it has a deadline;
//! - passing waits for workers that are in the middle of a request, which waits for nothing;
//! - a drop waits, in the kernel, for READs that hold pages of the changed blocks locked;
//! - those READs are answered from whatever view their worker has; they never wait for a drop nor for head.
//!
//! So no circle closes (I3). Drops begin only when no worker answers from the old view any more: a READ answered earlier
//! is undone by the drop, a READ answered later is new already. What was read through the old view after `Diff` is asked for
//! by `Join`: what changed of it is dropped as well (I1). `Show` comes last: who has read `head/at` finds nothing older in
//! the page cache.
//!
//! Pages are kept while no worker has the new view, so that they are of the old one. The kernel learns that a file has become shorter while
//! no worker has it either: a READ behind the new end, answered from the new view, could have it show zeros there (kernel-note 0019).
//!
//! Transactions are taken one by one, in order, none skipped. One `Head` for the daemon, on the control thread.

use crate::base::{BlkNo, NodeId, Oid, Tid};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Pages are dropped whole.
const PAGE: u64 = 4096;

/// What happened.
#[derive(Debug)]
pub enum Event<C> {
    /// The database has a new transaction.
    Commit(Tid, C),
    /// What it changes of what is tracked, and which files it makes shorter.
    Diffed(Vec<Change>, Vec<Shorter>),
    /// What the kernel had of the changed blocks is kept, or is not to be had.
    Kept,
    /// The kernel knows how long these files are, or could not be told.
    Shortened,
    /// No worker answers from the old view any more.
    Passed,
    /// What it changes of what was read while it was on its way.
    Joined(Vec<Change>),
    /// The kernel did every drop.
    Dropped,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<C> {
    /// Find out what this changes.
    Diff(Tid, C),
    /// Keep what the kernel has of these blocks, for those who look for them at an older state.
    Keep(Vec<(NodeId, BlkNo)>),
    /// Have the kernel know that these files are shorter.
    Shorten(Vec<Shorter>),
    /// Requests that begin from now on are answered as of this; `Passed` when no worker answers from what was before.
    Publish(Tid, C),
    /// Find out what it changed of what came in since `Diff`.
    Join,
    /// Have the kernel drop these.
    Drop(Tid, Vec<Drop>),
    /// `head/at` is this from now on.
    Show(Tid),
}

/// What a transaction changes of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub node: NodeId,
    /// What of it.
    pub what: Changed,
}

impl Change {
    /// Whether the file may have another size.
    pub fn is_resized(&self) -> bool {
        matches!(
            self.what,
            Changed::Whole | Changed::Blocks { size: true, .. }
        )
    }
}

/// Parts of a file that change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Some blocks.
    Blocks {
        /// Bytes of a block.
        blksize: u64,
        /// Which.
        blocks: Vec<BlkNo>,
        /// The file may have another size.
        size: bool,
    },
    /// Nobody can tell: all of it.
    Whole,
}

/// A file that a transaction makes shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shorter {
    /// The file.
    pub node: NodeId,
    /// Its ZBigFile.
    pub oid: Oid,
    /// Bytes that it has then.
    pub size: u64,
}

/// Something for the kernel to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// Pages of a file from `off` on, and its attributes.
    Pages {
        /// The file.
        node: NodeId,
        /// First byte, of a page.
        off: u64,
        /// Bytes; 0 for all to the end.
        len: u64,
    },
    /// Attributes of a file.
    Attributes(NodeId),
}

impl Drop {
    /// The bytes whose pages go, of which file.
    pub fn pages(&self) -> Option<(NodeId, Range<u64>)> {
        match *self {
            Self::Pages { node, off, len: 0 } => Some((node, off..u64::MAX)),
            Self::Pages { node, off, len } => Some((node, off..off + len)),
            Self::Attributes(_) => None,
        }
    }

    /// Whether some of these bytes of a file go.
    pub fn meets(&self, node: NodeId, bytes: &Range<u64>) -> bool {
        let is_met = |gone: Range<u64>| bytes.start < gone.end && gone.start < bytes.end;
        self.pages()
            .is_some_and(|(of, gone)| of == node && is_met(gone))
    }
}

#[derive(Debug)]
enum State<C> {
    Quiet,
    Diffing(Tid, C),
    Keeping(Tid, C),
    Shortening(Tid, C),
    Passing(Tid),
    Joining(Tid),
    Dropping(Tid),
}

/// The advance, and the commits that wait for it.
#[derive(Debug)]
pub struct Head<C> {
    at: Tid,
    queue: VecDeque<(Tid, C)>,
    state: State<C>,
    /// Of the transaction under way.
    changes: Vec<Change>,
    shorter: Vec<Shorter>,
}

impl<C: Clone + std::fmt::Debug> Head<C> {
    /// Head is `at`.
    pub fn new(at: Tid) -> Self {
        Self {
            at,
            queue: VecDeque::new(),
            state: State::Quiet,
            changes: Vec::new(),
            shorter: Vec::new(),
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

    /// Commits that wait for the one under way.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes an event; `actions` are to be carried out in order.
    pub fn apply(&mut self, event: Event<C>, actions: &mut Vec<Action<C>>) {
        let last = self.queue.back().map_or(self.under_way(), |(tid, _)| *tid);
        let state = std::mem::replace(&mut self.state, State::Quiet);
        self.state = match (event, state) {
            (Event::Commit(tid, commit), state) => {
                assert!(
                    tid >= last,
                    "BUG: commits come in order: {tid} after {last}"
                );
                self.queue.push_back((tid, commit));
                state
            }
            (Event::Diffed(changes, shorter), State::Diffing(tid, commit)) => {
                (self.changes, self.shorter) = (changes, shorter);
                let keep = kept(&self.changes);
                if keep.is_empty() {
                    self.shorten(tid, commit, actions)
                } else {
                    actions.push(Action::Keep(keep));
                    State::Keeping(tid, commit)
                }
            }
            (Event::Kept, State::Keeping(tid, commit)) => self.shorten(tid, commit, actions),
            (Event::Shortened, State::Shortening(tid, commit)) => {
                actions.push(Action::Publish(tid, commit));
                State::Passing(tid)
            }
            (Event::Passed, State::Passing(tid)) => {
                actions.push(Action::Join);
                State::Joining(tid)
            }
            (Event::Joined(more), State::Joining(tid)) => {
                let mut changes = std::mem::take(&mut self.changes);
                changes.extend(more);
                let drops = drops(&changes);
                if drops.is_empty() {
                    self.show(tid, actions)
                } else {
                    actions.push(Action::Drop(tid, drops));
                    State::Dropping(tid)
                }
            }
            (Event::Dropped, State::Dropping(tid)) => self.show(tid, actions),
            (event, state) => panic!("BUG: {event:?}, which nobody waits for, in {state:?}"),
        };
        if matches!(self.state, State::Quiet)
            && let Some((tid, commit)) = self.queue.pop_front()
        {
            actions.push(Action::Diff(tid, commit.clone()));
            self.state = State::Diffing(tid, commit);
        }
    }

    /// The transaction that head goes to, or is at.
    pub fn under_way(&self) -> Tid {
        match self.state {
            State::Quiet => self.at,
            State::Diffing(tid, _) | State::Keeping(tid, _) | State::Shortening(tid, _) => tid,
            State::Passing(tid) | State::Joining(tid) | State::Dropping(tid) => tid,
        }
    }

    fn shorten(&mut self, tid: Tid, commit: C, actions: &mut Vec<Action<C>>) -> State<C> {
        let shorter = std::mem::take(&mut self.shorter);
        if shorter.is_empty() {
            actions.push(Action::Publish(tid, commit));
            return State::Passing(tid);
        }
        actions.push(Action::Shorten(shorter));
        State::Shortening(tid, commit)
    }

    fn show(&mut self, tid: Tid, actions: &mut Vec<Action<C>>) -> State<C> {
        self.at = tid;
        actions.push(Action::Show(tid));
        State::Quiet
    }
}

/// Blocks whose old pages are of use to somebody. Those that share pages with their neighbours are not.
fn kept(changes: &[Change]) -> Vec<(NodeId, BlkNo)> {
    let blocks = changes.iter().filter_map(|change| match &change.what {
        Changed::Blocks {
            blksize, blocks, ..
        } if blksize.is_multiple_of(PAGE) => Some(blocks.iter().map(|&blk| (change.node, blk))),
        _ => None,
    });
    blocks.flatten().collect()
}

/// What has to be dropped: each page once, files whose size may have changed last.
fn drops(changes: &[Change]) -> Vec<Drop> {
    // Pages `[first, end)` by file; `None` for all of them.
    let mut files: BTreeMap<NodeId, Option<Vec<(u64, u64)>>> = BTreeMap::new();
    let mut sizes = Vec::new();
    for change in changes {
        let Change { node, what } = change;
        if change.is_resized() {
            sizes.push(*node);
        }
        let ranges = files.entry(*node).or_insert_with(|| Some(Vec::new()));
        match what {
            Changed::Whole => *ranges = None,
            Changed::Blocks {
                blksize, blocks, ..
            } => {
                let Some(ranges) = ranges else { continue };
                ranges.extend(blocks.iter().map(|blk| {
                    let off = blk.0 * blksize;
                    (off / PAGE, (off + blksize).div_ceil(PAGE))
                }));
            }
        }
    }
    let mut out = Vec::new();
    for (&node, ranges) in &mut files {
        let Some(ranges) = ranges else {
            out.push(Drop::Pages {
                node,
                off: 0,
                len: 0,
            });
            continue;
        };
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for &(first, end) in &*ranges {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        out.extend(merged.into_iter().map(|(first, end)| Drop::Pages {
            node,
            off: first * PAGE,
            len: (end - first) * PAGE,
        }));
    }
    sizes.sort_unstable();
    sizes.dedup();
    out.extend(sizes.into_iter().map(Drop::Attributes));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(70);
    const B: NodeId = NodeId(71);

    fn step(head: &mut Head<char>, event: Event<char>) -> Vec<Action<char>> {
        let mut actions = Vec::new();
        head.apply(event, &mut actions);
        actions
    }

    fn blocks(node: NodeId, blksize: u64, blocks: &[u64], size: bool) -> Change {
        let blocks = blocks.iter().copied().map(BlkNo).collect();
        Change {
            node,
            what: Changed::Blocks {
                blksize,
                blocks,
                size,
            },
        }
    }

    fn pages(node: NodeId, off: u64, len: u64) -> Drop {
        Drop::Pages { node, off, len }
    }

    #[test]
    fn a_drop_meets_what_it_takes_something_of() {
        let drop = pages(A, 8192, 4096);
        for (bytes, is_met) in [
            (0..8192, false),
            (0..8193, true),
            (9000..9001, true),
            (0..u64::MAX, true),
            (12287..99999, true),
            (12288..99999, false),
        ] {
            assert_eq!(drop.meets(A, &bytes), is_met, "{bytes:?}");
            assert!(!drop.meets(B, &bytes) && !Drop::Attributes(A).meets(A, &bytes));
        }
        let rest = pages(A, 8192, 0);
        assert!(rest.meets(A, &(1 << 60..1 << 61)) && !rest.meets(A, &(0..8192)));
    }

    #[test]
    fn commits_go_through_all_states_one_after_the_other() {
        let mut head = Head::new(Tid(1));
        let commit = |n, c| Event::Commit(Tid(n), c);
        assert_eq!(step(&mut head, commit(5, 'a')), [Action::Diff(Tid(5), 'a')]);
        assert_eq!(step(&mut head, commit(6, 'b')), []);
        assert_eq!(head.waiting(), 1);
        let changes = vec![blocks(A, 4096, &[3], false)];
        let keep = Action::Keep(vec![(A, BlkNo(3))]);
        let shorter = Shorter {
            node: A,
            oid: Oid(7),
            size: 8192,
        };
        assert_eq!(
            step(&mut head, Event::Diffed(changes, vec![shorter])),
            [keep]
        );
        assert_eq!(
            step(&mut head, Event::Kept),
            [Action::Shorten(vec![shorter])]
        );
        assert_eq!(head.under_way(), Tid(5));
        assert_eq!(
            step(&mut head, Event::Shortened),
            [Action::Publish(Tid(5), 'a')]
        );
        assert_eq!(step(&mut head, Event::Passed), [Action::Join]);
        let late = vec![blocks(B, 8192, &[1], true)];
        let drops = vec![
            pages(A, 12288, 4096),
            pages(B, 8192, 8192),
            Drop::Attributes(B),
        ];
        assert_eq!(
            step(&mut head, Event::Joined(late)),
            [Action::Drop(Tid(5), drops)]
        );
        assert_eq!(head.at(), Tid(1));
        let shown = [Action::Show(Tid(5)), Action::Diff(Tid(6), 'b')];
        assert_eq!(step(&mut head, Event::Dropped), shown);
        assert_eq!(
            step(&mut head, Event::Diffed(vec![], vec![])),
            [Action::Publish(Tid(6), 'b')]
        );
        assert_eq!(step(&mut head, Event::Passed), [Action::Join]);
        assert_eq!(
            step(&mut head, Event::Joined(vec![])),
            [Action::Show(Tid(6))]
        );
        assert!(head.is_quiet());
    }

    #[test]
    fn each_page_is_dropped_once_and_neighbours_together() {
        let whole = Change {
            node: B,
            what: Changed::Whole,
        };
        let changes = [
            blocks(A, 8192, &[4, 0], true),
            blocks(B, 4096, &[7], false),
            blocks(A, 8192, &[1, 4], true),
            whole,
        ];
        let want = [
            pages(A, 0, 16384),
            pages(A, 32768, 8192),
            pages(B, 0, 0),
            Drop::Attributes(A),
            Drop::Attributes(B),
        ];
        assert_eq!(drops(&changes), want);
        // A block that shares pages takes its neighbours' share along.
        assert_eq!(
            drops(&[blocks(A, 4, &[1023, 1024], false)]),
            [pages(A, 0, 8192)]
        );
        assert_eq!(kept(&[blocks(A, 4, &[1023], false)]), []);
    }
}
