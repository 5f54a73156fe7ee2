//! What is to be hashed, in the order in which it should be. What has no room in memory goes to a file for each line (`spool`): a check is
//! done as soon as it can be, however long hashing takes. Where nothing can be written, who adds waits for who takes.
//!
//! Asked for by somebody, then new, then stale by size, then large ones, then what is probably unchanged. Files that come to the same inode are
//! hashed once ([`super::links`]); files that change while they are read come back after a pause.

mod spool;

use self::spool::Spool;
use super::walk::locked;
use crate::base::{Stamp, Witness};
use crate::etag::{Reason, State, Verdict};
use crate::kernel::stat::Stat;
use crate::wire::catalog::Record;
use std::collections::BinaryHeap;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Files from this size on are read in pieces, one at a time per thread.
pub(super) const LARGE_BYTES: u64 = 8 << 20;
/// Items that wait in memory, 200 bytes each: 25 MiB.
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

/// Lines, in the order in which they are served: new, stale, large ones of both, and the other ranks.
const LINES: usize = 7;
const LARGE: usize = 2;

impl Rank {
    /// In their order.
    const ALL: [Self; 6] = [
        Self::New,
        Self::Stale,
        Self::Ctime,
        Self::Imported,
        Self::Verify,
        Self::Racy,
    ];

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

/// A line, and what of it is not in memory.
struct Own {
    line: Line,
    spool: Spool,
}

struct Waiting {
    lines: [Own; LINES],
    later: BinaryHeap<Placed<(Instant, u64)>>,
    /// Items so far.
    came: u64,
    /// Taken and not ended: they may come back.
    taken: usize,
    closed: bool,
    /// Why some are gone.
    lost: Option<io::Error>,
}

fn is_large(item: &Item) -> bool {
    item.stat.witness.size >= LARGE_BYTES
}

impl Waiting {
    fn new(dir: &Path) -> Self {
        let own = |n| Own {
            line: Line::new(),
            spool: Spool::new(dir, n),
        };
        Self {
            lines: std::array::from_fn(own),
            later: BinaryHeap::new(),
            came: 0,
            taken: 0,
            closed: false,
            lost: None,
        }
    }

    /// Items in memory.
    fn len(&self) -> usize {
        self.lines.iter().map(|own| own.line.len()).sum()
    }

    fn is_empty(&self) -> bool {
        let is_empty = |own: &Own| own.line.is_empty() && own.spool.len() == 0;
        self.lines.iter().all(is_empty) && self.later.is_empty()
    }

    fn line_of(item: &Item) -> usize {
        match item.rank {
            Rank::New | Rank::Stale if is_large(item) => LARGE,
            Rank::New | Rank::Stale => item.rank as usize,
            rank => rank as usize + 1,
        }
    }

    fn put(&mut self, item: Item, by_inode: bool) {
        let Witness { size, ino, .. } = item.stat.witness;
        self.came += 1;
        let ino = if by_inode { ino } else { 0 };
        let line = Self::line_of(&item);
        let size = if line == Rank::Stale as usize {
            size
        } else {
            0
        };
        self.lines[line]
            .line
            .push(Placed((size, ino, self.came), item));
    }

    fn put_later(&mut self, due: Instant, item: Item) {
        self.came += 1;
        self.later.push(Placed((due, self.came), item));
    }

    /// Puts an item behind those of its line that are not in memory; false if there are none and there is room, or nothing can be written.
    fn put_away(&mut self, item: &Item, most: usize) -> bool {
        let has_room = self.len() < most;
        let spool = &mut self.lines[Self::line_of(item)].spool;
        (spool.len() > 0 || !has_room) && spool.push(item).is_ok()
    }

    fn take(&mut self, large: bool, by_inode: bool) -> Option<Item> {
        let now = Instant::now();
        if self.later.peek().is_some_and(|first| first.0.0 <= now)
            && let Some(Placed(_, item)) = self.later.pop()
        {
            self.put(item, by_inode);
        }
        for at in 0..LINES {
            if at == LARGE && !large {
                continue;
            }
            if self.lines[at].line.is_empty() && self.lines[at].spool.len() > 0 {
                match self.lines[at].spool.take() {
                    Ok(items) => items.into_iter().for_each(|item| self.put(item, by_inode)),
                    Err(error) => self.lost = Some(error),
                }
            }
            let line = &mut self.lines[at].line;
            let fits = |placed: &Placed<_>| large || !is_large(&placed.1);
            if line.peek().is_some_and(fits) {
                return line.pop().map(|Placed(_, item)| item);
            }
        }
        None
    }
}

/// What waits to be hashed.
pub(super) struct Queue {
    /// Files lie where a head moves: it had better go one way.
    by_inode: bool,
    /// Items in memory.
    most: usize,
    /// Where the rest goes.
    dir: PathBuf,
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
    /// With files in this directory where it needs them.
    pub(super) fn new(by_inode: bool, dir: &Path) -> Self {
        Self::of(by_inode, dir, ITEMS_MAX)
    }

    fn of(by_inode: bool, dir: &Path, most: usize) -> Self {
        Self {
            by_inode,
            most,
            dir: dir.to_owned(),
            waiting: Mutex::new(Waiting::new(dir)),
            bell: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// Adds an item; false if there is no room for it and the pass ended meanwhile.
    pub(super) fn push(&self, item: Item, ended: impl Fn() -> bool) -> bool {
        let mut waiting = locked(&self.waiting);
        loop {
            if waiting.put_away(&item, self.most) {
                drop(waiting);
                self.bell.notify_one();
                return true;
            }
            if waiting.len() < self.most {
                break;
            }
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
            if waiting.closed && waiting.is_empty() && waiting.taken == 0 {
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

    /// Why items were lost, if any were.
    pub(super) fn lost(&self) -> Option<io::Error> {
        locked(&self.waiting).lost.take()
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
            ..Waiting::new(&self.dir)
        };
        drop(waiting);
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
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
        let queue = Queue::new(by_inode, Path::new("/nowhere"));
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

    /// Lines keep their order, and each item comes out once, however few are in memory.
    #[test]
    fn what_has_no_room_in_memory_comes_in_its_turn() {
        let dir = std::env::temp_dir().join(format!("zring-queue-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let queue = Queue::of(false, &dir, 100);
        for i in 0..3000u64 {
            let (rank, size) = match i % 3 {
                0 => (Rank::Racy, 1),
                1 => (Rank::New, 1 + (i & 1) * LARGE_BYTES),
                _ => (Rank::Stale, 1),
            };
            assert!(queue.push(item(rank, i, size), || panic!("it waits for room")));
        }
        assert!(locked(&queue.waiting).len() <= 100);
        let mut out = Vec::new();
        while let Taken::Item(item) = queue.take(true, Duration::ZERO) {
            out.push((Waiting::line_of(&item), item.stat.witness.ino));
            queue.done();
        }
        assert!(out.is_sorted_by_key(|&(line, _)| line));
        let mut all: Vec<u64> = out.iter().map(|&(_, ino)| ino).collect();
        all.sort_unstable();
        assert_eq!(all, (0..3000).collect::<Vec<_>>());
        queue.close();
        assert!(matches!(queue.take(true, Duration::ZERO), Taken::End));
        std::fs::remove_dir(&dir).unwrap();
    }

    /// Where nothing can be written, who adds waits, and not for ever.
    #[test]
    fn who_adds_waits_where_nothing_can_be_written() {
        let queue = Queue::of(false, Path::new("/nowhere/at/all"), 100);
        let all = (0..5000).take_while(|&i| queue.push(item(Rank::New, i, 1), || true));
        let count = all.count();
        assert!((100..5000).contains(&count));
        let mut out = 0;
        while let Taken::Item(_) = queue.take(true, Duration::ZERO) {
            out += 1;
        }
        assert_eq!(out, count);
        assert!(queue.lost().is_none());
    }
}
