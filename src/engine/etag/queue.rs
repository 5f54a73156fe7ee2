//! What is to be hashed, in the order in which it should be: bounded, so that who adds waits for who takes.
//!
//! Asked for by somebody, then new, then stale by size, then large ones, then what is probably unchanged. Files that come to the same inode are
//! hashed once ([`super::links`]); files that change while they are read come back after a pause.

use super::walk::locked;
use crate::base::{Stamp, Witness};
use crate::etag::{Reason, State, Verdict};
use crate::kernel::stat::Stat;
use crate::wire::catalog::Record;
use std::collections::BinaryHeap;
use std::ffi::CStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Files from this size on are read in pieces, one at a time per thread.
pub(super) const LARGE_BYTES: u64 = 8 << 20;
/// Items that wait, 200 bytes each: 25 MiB.
const ITEMS_MAX: usize = 128 << 10;

/// Why, and so how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// There is no record.
    New,
    /// The record does not hold.
    Stale,
    /// Only its ctime moved.
    Ctime,
    /// Its digest is from elsewhere.
    Imported,
    /// It is fresh, and read again.
    Verify,
    /// Its times prove nothing.
    Racy,
}

impl Rank {
    /// Of a file that has a record and is not fresh.
    pub(super) fn of(verdict: Verdict) -> Self {
        match (verdict.state, verdict.reason) {
            (State::Racy, _) => Self::Racy,
            (State::Imported, _) => Self::Imported,
            (State::Corrupt, _) => Self::Verify,
            (_, Some(Reason::Ctime)) => Self::Ctime,
            _ => Self::Stale,
        }
    }
}

/// A file to be hashed.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) dir: Arc<[u8]>,
    pub(super) name: Box<CStr>,
    /// As the check saw it.
    pub(super) stat: Stat,
    /// A moment before that.
    pub(super) looked: Stamp,
    pub(super) rank: Rank,
    pub(super) old: Option<Record>,
    pub(super) tries: u8,
    /// It has to be looked at by its descriptor: not in a chain.
    pub(super) alone: bool,
}

/// An item and its place in a line: the lowest is the first.
struct Placed<K>(K, Item);

impl<K: Ord> PartialEq for Placed<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K: Ord> Eq for Placed<K> {}
impl<K: Ord> PartialOrd for Placed<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K: Ord> Ord for Placed<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

/// By size where that counts, then by inode number where a head moves, then as they came.
type Line = BinaryHeap<Placed<(u64, u64, u64)>>;

#[derive(Default)]
struct Waiting {
    new: Line,
    stale: Line,
    large: Line,
    rest: [Line; 4],
    later: BinaryHeap<Placed<(Instant, u64)>>,
    /// Items so far.
    came: u64,
    /// Taken and not ended: they may come back.
    taken: usize,
    closed: bool,
}

impl Waiting {
    fn len(&self) -> usize {
        let rest: usize = self.rest.iter().map(BinaryHeap::len).sum();
        self.new.len() + self.stale.len() + self.large.len() + rest
    }

    fn put(&mut self, item: Item, by_inode: bool) {
        let Witness { size, ino, .. } = item.stat.witness;
        self.came += 1;
        let ino = if by_inode { ino } else { 0 };
        let (line, size) = match item.rank {
            Rank::New | Rank::Stale if size >= LARGE_BYTES => (&mut self.large, 0),
            Rank::New => (&mut self.new, 0),
            Rank::Stale => (&mut self.stale, size),
            rank => (&mut self.rest[rank as usize - Rank::Ctime as usize], 0),
        };
        line.push(Placed((size, ino, self.came), item));
    }

    fn put_later(&mut self, due: Instant, item: Item) {
        self.came += 1;
        self.later.push(Placed((due, self.came), item));
    }

    fn take(&mut self, large: bool, by_inode: bool) -> Option<Item> {
        let now = Instant::now();
        if self.later.peek().is_some_and(|first| first.0.0 <= now)
            && let Some(Placed(_, item)) = self.later.pop()
        {
            self.put(item, by_inode);
        }
        let is_large = |item: &Item| item.stat.witness.size >= LARGE_BYTES;
        let first = self.new.pop();
        let first = first
            .or_else(|| self.stale.pop())
            .or_else(|| if large { self.large.pop() } else { None })
            .or_else(|| {
                let fits = |placed: &Placed<_>| large || !is_large(&placed.1);
                let first = self
                    .rest
                    .iter_mut()
                    .find(|line| line.peek().is_some_and(fits));
                first?.pop()
            });
        first.map(|Placed(_, item)| item)
    }
}

/// What waits to be hashed.
pub(super) struct Queue {
    /// Files lie where a head moves: it had better go one way.
    by_inode: bool,
    waiting: Mutex<Waiting>,
    bell: Condvar,
    room: Condvar,
}

/// What is to be taken.
pub(super) enum Taken {
    /// This one.
    Item(Box<Item>),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

impl Queue {
    pub(super) fn new(by_inode: bool) -> Self {
        Self {
            by_inode,
            waiting: Mutex::default(),
            bell: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// Adds an item, when there is room; false if the pass ended meanwhile.
    pub(super) fn push(&self, item: Item, ended: impl Fn() -> bool) -> bool {
        let mut waiting = locked(&self.waiting);
        while waiting.len() >= ITEMS_MAX {
            if ended() {
                return false;
            }
            let limit = Duration::from_millis(50);
            waiting = self
                .room
                .wait_timeout(waiting, limit)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        waiting.put(item, self.by_inode);
        drop(waiting);
        self.bell.notify_one();
        true
    }

    /// An item that was taken comes back after a pause.
    pub(super) fn again(&self, item: Item, pause: Duration) {
        let mut waiting = locked(&self.waiting);
        waiting.taken -= 1;
        waiting.put_later(Instant::now() + pause, item);
    }

    /// An item that was taken goes back.
    pub(super) fn back(&self, item: Item) {
        let mut waiting = locked(&self.waiting);
        waiting.taken -= 1;
        waiting.put(item, self.by_inode);
        drop(waiting);
        self.bell.notify_one();
    }

    /// An item that was taken is done.
    pub(super) fn done(&self) {
        let mut waiting = locked(&self.waiting);
        waiting.taken -= 1;
        let over = waiting.closed && waiting.taken == 0;
        drop(waiting);
        if over {
            self.bell.notify_all();
        }
    }

    /// Takes an item; waits up to `limit` if there is none. `large`: whether a large one will do.
    pub(super) fn take(&self, large: bool, limit: Duration) -> Taken {
        let mut waiting = locked(&self.waiting);
        let mut waited = false;
        loop {
            if let Some(item) = waiting.take(large, self.by_inode) {
                waiting.taken += 1;
                drop(waiting);
                self.room.notify_one();
                return Taken::Item(Box::new(item));
            }
            let empty = waiting.len() == 0 && waiting.later.is_empty();
            if waiting.closed && empty && waiting.taken == 0 {
                return Taken::End;
            }
            if waited || limit.is_zero() {
                return Taken::Nothing;
            }
            waiting = self
                .bell
                .wait_timeout(waiting, limit)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            waited = true;
        }
    }

    /// Nothing will be added any more but what comes back.
    pub(super) fn close(&self) {
        locked(&self.waiting).closed = true;
        self.bell.notify_all();
    }

    /// Forgets all that waits.
    pub(super) fn clear(&self) {
        let mut waiting = locked(&self.waiting);
        let taken = waiting.taken;
        *waiting = Waiting {
            taken,
            closed: true,
            ..Waiting::default()
        };
        drop(waiting);
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::stat::Kind;

    fn item(rank: Rank, ino: u64, size: u64) -> Item {
        let witness = Witness {
            ino,
            size,
            ..Witness::default()
        };
        Item {
            dir: Arc::from(&b""[..]),
            name: Box::from(c"f"),
            stat: Stat {
                kind: Kind::File,
                witness,
                nlink: 1,
                dev: 1,
                verity: false,
            },
            looked: Stamp::default(),
            rank,
            old: None,
            tries: 0,
            alone: false,
        }
    }

    fn order(by_inode: bool, large: bool) -> Vec<u64> {
        let queue = Queue::new(by_inode);
        let all = [
            (Rank::Racy, 1, 1),
            (Rank::Ctime, 3, 1),
            (Rank::Ctime, 2, 1),
            (Rank::Stale, 4, LARGE_BYTES),
            (Rank::Stale, 5, 9),
            (Rank::Stale, 6, 8),
            (Rank::New, 9, 7),
            (Rank::New, 8, 9),
            (Rank::New, 7, LARGE_BYTES),
        ];
        for (rank, ino, size) in all {
            assert!(queue.push(item(rank, ino, size), || true));
        }
        queue.again(item(Rank::New, 99, 1), Duration::from_secs(999));
        let mut out = Vec::new();
        while let Taken::Item(item) = queue.take(large, Duration::ZERO) {
            out.push(item.stat.witness.ino);
        }
        out
    }

    #[test]
    fn what_matters_most_comes_first_and_heads_go_one_way() {
        assert_eq!(order(false, true), [9, 8, 6, 5, 4, 7, 3, 2, 1]);
        assert_eq!(order(true, true), [8, 9, 6, 5, 4, 7, 2, 3, 1]);
        assert_eq!(order(false, false), [9, 8, 6, 5, 3, 2, 1]);
    }
}
