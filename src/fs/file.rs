//! A big file in one view, as all workers know it.
//!
//! Names lead to it through the [`super::tree`], which makes it and lets it go; each worker that has answered for it has it at hand. What
//! may change of it are single numbers, each told and looked at by itself.

use crate::base::{BlkNo, BlkSize, NodeId, Oid, Rev, Tid};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A big file in one view.
#[derive(Debug)]
pub struct FileNode {
    /// Its node.
    pub id: NodeId,
    /// The view.
    pub rev: Rev,
    /// The ZBigFile.
    pub oid: Oid,
    /// Approximate last change, as shown by stat: 0 until known.
    mtime: AtomicU64,
    /// Bytes of a block, as they were when it was looked up last; 0 before that.
    blksize: AtomicU64,
    /// Bytes, of a file below `@<tid>`: 0 until the kernel is told.
    size: AtomicU64,
    /// Bytes that the kernel is told of at most, of a file below head: see [`FileNode::limit`].
    size_max: AtomicU64,
    /// It became shorter since the kernel knows it: there may be pages of zeros behind its end.
    has_shrunk: AtomicBool,
    /// Somebody sees it as of this state, nobody as of an older one; [`UNWATCHED`] if nobody watches.
    watched: AtomicU64,
    /// The ZBigFile itself changed under head: this node answers EIO, the name leads to a new one. Or the kernel forgot it.
    gone: AtomicBool,
    /// Look-ups that the kernel has not forgotten. From 0 on it goes up by [`super::tree::Tree::enter_file`] alone, under its lock, and so
    /// it goes down: a node that is looked up again stays known.
    lookups: AtomicU64,
}

/// No bound.
const UNLIMITED: u64 = u64::MAX;
/// No tid.
const UNWATCHED: u64 = u64::MAX;

/// Look-ups that are left when so many are forgotten.
pub(super) fn left(lookups: u64, count: u64) -> u64 {
    debug_assert!(lookups >= count, "the kernel forgot more than it was told");
    lookups.saturating_sub(count)
}

impl FileNode {
    /// A node that nobody has looked up.
    pub(super) fn new(id: NodeId, (rev, oid): (Rev, Oid), mtime: Tid) -> Self {
        Self {
            id,
            rev,
            oid,
            mtime: mtime.0.into(),
            blksize: 0.into(),
            size: 0.into(),
            size_max: UNLIMITED.into(),
            has_shrunk: false.into(),
            watched: UNWATCHED.into(),
            gone: false.into(),
            lookups: 0.into(),
        }
    }

    /// The transaction that stat shows as last change, once known.
    pub fn mtime(&self) -> Option<Tid> {
        Some(Tid(self.mtime.load(Ordering::Relaxed))).filter(|&t| t != Tid::ZERO)
    }

    /// Notes a change; an older one than known is not news.
    pub fn changed_at(&self, tid: Tid) {
        self.mtime.fetch_max(tid.0, Ordering::Relaxed);
    }

    /// Its blocks have so many bytes.
    pub fn told_blksize(&self, blksize: BlkSize) {
        self.blksize.store(blksize.0, Ordering::Relaxed);
    }

    /// Bytes of a block; 0 while nobody has told.
    pub fn blksize(&self) -> u64 {
        self.blksize.load(Ordering::Relaxed)
    }

    /// The block that a byte is in; the first while nobody has told how long they are.
    pub fn blk_at(&self, off: u64) -> BlkNo {
        BlkNo(off.checked_div(self.blksize()).unwrap_or(0))
    }

    /// Bytes of a file below `@<tid>`, which never change; 0 until the kernel is told.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The kernel is being told how long this file below `@<tid>` is.
    pub fn told_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The bytes that the kernel is told of, of so many: see [`Self::limit`].
    pub fn tell_size(&self, size: u64) -> u64 {
        size.min(self.size_max.load(Ordering::SeqCst))
    }

    /// From now on the kernel is told of no more bytes than these, whatever view an answer is made of.
    pub fn limit(&self, size: u64) {
        self.size_max.store(size, Ordering::SeqCst);
    }

    /// The same, if it is told of more now.
    pub fn limit_more(&self, size: u64) {
        self.size_max.fetch_min(size, Ordering::SeqCst);
    }

    /// From now on it is told how long the file is.
    pub fn let_size(&self) {
        self.limit(UNLIMITED);
    }

    /// Whether the kernel may be told that the file reaches up to `end`.
    pub fn may_reach(&self, end: u64) -> bool {
        self.tell_size(end) == end
    }

    /// The file becomes shorter.
    pub fn shrinks(&self) {
        self.has_shrunk.store(true, Ordering::SeqCst);
    }

    /// Whether it did.
    pub fn has_shrunk(&self) -> bool {
        self.has_shrunk.load(Ordering::SeqCst)
    }

    /// What changed after this has to be asked for before it is shown, if there is such a state.
    pub fn watched(&self) -> Option<Tid> {
        Some(Tid(self.watched.load(Ordering::SeqCst))).filter(|&tid| tid != Tid(UNWATCHED))
    }

    /// Whether the node outlived its ZBigFile, or the kernel forgot it: then nothing that is read of it matters.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// It is gone.
    pub(super) fn go(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// READs have to ask about what changed after this: `None` for nothing.
    pub(super) fn watch(&self, after: Option<Tid>) {
        let at = after.map_or(UNWATCHED, |at| at.0);
        self.watched.store(at, Ordering::SeqCst);
    }

    /// Counts a look-up, for the tree.
    pub(super) fn count_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts one more, for anybody, unless the kernel may have forgotten all: then the tree is to be asked.
    pub(super) fn look_up_again(&self) -> bool {
        let more = |n: u64| (n > 0).then_some(n + 1);
        let order = Ordering::SeqCst;
        self.lookups.fetch_update(order, order, more).is_ok()
    }

    /// The kernel forgot so many, says the tree; how many are left.
    pub(super) fn forget(&self, count: u64) -> u64 {
        let (order, less) = (Ordering::SeqCst, |n| Some(left(n, count)));
        let before = self.lookups.fetch_update(order, order, less);
        before.map_or(0, |before| left(before, count))
    }
}

/// The path of a file in the mount, as the log names it.
impl fmt::Display for FileNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/bigfile/{}", self.rev, self.oid)
    }
}
