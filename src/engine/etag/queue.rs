//! What is to be hashed, in the order in which it should be: bounded, so that who adds waits for who takes.
//!
//! Asked for by somebody, then new, then stale by size, then large ones, then what is probably unchanged. Files that come to the same inode are
//! hashed once ([`super::links`]); files that change while they are read come back after a pause.

use super::walk::locked;
use crate::base::Stamp;
use crate::kernel::stat::Stat;
use crate::wire::catalog::Record;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
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
}

struct BySize(Item);

impl PartialEq for BySize {
    fn eq(&self, other: &Self) -> bool {
        self.0.stat.witness.size == other.0.stat.witness.size
    }
}
impl Eq for BySize {}
impl PartialOrd for BySize {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for BySize {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.stat.witness.size.cmp(&other.0.stat.witness.size)
    }
}

#[derive(Default)]
struct Waiting {
    new: VecDeque<Item>,
    stale: BinaryHeap<Reverse<BySize>>,
    large: VecDeque<Item>,
    rest: [VecDeque<Item>; 4],
    later: Vec<(Instant, Item)>,
    /// Taken and not ended: they may come back.
    taken: usize,
    closed: bool,
}

impl Waiting {
    fn len(&self) -> usize {
        let rest: usize = self.rest.iter().map(VecDeque::len).sum();
        self.new.len() + self.stale.len() + self.large.len() + rest
    }

    fn put(&mut self, item: Item) {
        match item.rank {
            Rank::New | Rank::Stale if item.stat.witness.size >= LARGE_BYTES => {
                self.large.push_back(item);
            }
            Rank::New => self.new.push_back(item),
            Rank::Stale => self.stale.push(Reverse(BySize(item))),
            rank => self.rest[rank as usize - Rank::Ctime as usize].push_back(item),
        }
    }

    fn take(&mut self, large: bool) -> Option<Item> {
        let now = Instant::now();
        if let Some(at) = self.later.iter().position(|(due, _)| *due <= now) {
            let (_, item) = self.later.swap_remove(at);
            self.put(item);
        }
        let is_large = |item: &Item| item.stat.witness.size >= LARGE_BYTES;
        let first = self.new.pop_front();
        first
            .or_else(|| self.stale.pop().map(|Reverse(BySize(item))| item))
            .or_else(|| if large { self.large.pop_front() } else { None })
            .or_else(|| {
                let fits = |item: &Item| large || !is_large(item);
                let first = self
                    .rest
                    .iter_mut()
                    .find(|items| items.front().is_some_and(fits));
                first?.pop_front()
            })
    }
}

/// What waits to be hashed.
pub(super) struct Queue {
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
    pub(super) fn new() -> Self {
        Self {
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
        waiting.put(item);
        drop(waiting);
        self.bell.notify_one();
        true
    }

    /// An item that was taken comes back after a pause.
    pub(super) fn again(&self, item: Item, pause: Duration) {
        let mut waiting = locked(&self.waiting);
        waiting.taken -= 1;
        waiting.later.push((Instant::now() + pause, item));
    }

    /// An item that was taken goes back.
    pub(super) fn back(&self, item: Item) {
        let mut waiting = locked(&self.waiting);
        waiting.taken -= 1;
        waiting.put(item);
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
            if let Some(item) = waiting.take(large) {
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
