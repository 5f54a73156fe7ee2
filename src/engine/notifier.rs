//! The threads that write notifications that take locks, and do nothing else (I5).
//!
//! ```text
//!   zring-notify   drops of an advance    waits for READs of the pages it drops
//!                  sizes of files         waits for the process that asks for them, a second at most
//!                  buffers, when it is idle (`spare`)
//!   zring-store    stores for head        waits for READs of the pages it stores; names that go wait for LOOKUPs
//!   zring-keep     stores for @<tid>      waits for READs below @<tid>, which wait for nothing but the database
//! ```
//!
//! They are apart so that an advance waits for no READ but those of its own changed blocks, and an OPEN below `@<tid>` for none of
//! head's. What a worker stored from an old view must not come after the drop of that view's pages: before it drops anything, the
//! notifier takes back the stores of what it drops, and waits for the one under way if that is one of them.

use super::control::Place;
use super::shared::{Mailbox, Shared, ToControl, ToWorker};
use crate::base::limit::{SIZES_DEADLINE_MS, STORE_QUEUE_BYTES_MAX, STORES_MAX};
use crate::base::{NodeId, Unique};
use crate::fs::advance::{Drop, Shorter};
use crate::fs::kept::Piece;
use crate::fs::meeting::ReadOn;
use crate::fs::tree::{FileNode, Node, fixed};
use crate::kernel::asker::{AskError, Asker};
use crate::kernel::mount::Connection;
use crate::kernel::notify::{NotifyError, Told, tell};
use crate::kernel::proc;
use crate::wire::fuse::notify::Head;
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one STORE; a longer one holds its pages' locks for longer.
const STORE_BYTES: usize = 256 << 10;
/// The end of an advance is news to control, and to who waits for it: they are to find a CPU.
const QUIET: Duration = Duration::from_millis(2);

/// Something for the page cache of head.
#[derive(Clone, Debug)]
pub(super) enum Store {
    /// Pages.
    Pages {
        /// The file.
        node: NodeId,
        /// First byte.
        off: u64,
        /// Whole pages, or up to the end of the file.
        data: Bytes,
    },
    /// Let go of a name below a directory.
    Name(NodeId, String),
    /// Let go of many.
    Names(Vec<(NodeId, String)>),
    /// Let go of the names of nodes as far as nobody uses them.
    Prune(Vec<NodeId>),
    /// What was before this is in the page cache: tells a worker.
    Then(Mailbox<ToWorker>, ReadOn),
}

impl Store {
    fn bytes(&self) -> usize {
        match self {
            Self::Pages { data, .. } => data.len(),
            Self::Name(..) | Self::Names(_) | Self::Prune(_) | Self::Then(..) => 0,
        }
    }

    fn meets(&self, drop: &Drop) -> bool {
        match self {
            Self::Pages { node, off, data } => drop.meets(*node, &(*off..off + data.len() as u64)),
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Store>,
    under_way: Option<Store>,
    bytes: usize,
    ended: bool,
}

/// Stores on their way to the page cache of head.
#[derive(Debug, Default)]
pub struct Stores {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Stores {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("a panic aborts")
    }

    /// For who holds all locks.
    pub(super) fn hold(&self) -> impl Sized {
        self.lock()
    }

    /// Whether there is room for another block.
    pub(super) fn has_room(&self) -> bool {
        self.lock().bytes <= STORE_QUEUE_BYTES_MAX
    }

    /// Adds one; false when there is no room.
    pub(super) fn push(&self, store: Store) -> bool {
        let mut queue = self.lock();
        // Names of another history, once for each: nobody else would let go of them.
        let is_needed = matches!(store, Store::Names(_));
        if queue.waiting.len() >= STORES_MAX && !is_needed {
            return false;
        }
        queue.bytes += store.bytes();
        queue.waiting.push_back(store);
        self.changed.notify_all();
        true
    }

    /// Nothing is stored any more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Takes back what is to be dropped; waits for the one under way if it is of that kind.
    fn withdraw(&self, drops: &[Drop]) {
        let meets = |store: &Store| drops.iter().any(|drop| store.meets(drop));
        let mut queue = self.lock();
        let before: usize = queue.waiting.iter().map(Store::bytes).sum();
        queue.waiting.retain(|store| !meets(store));
        let after: usize = queue.waiting.iter().map(Store::bytes).sum();
        queue.bytes -= before - after;
        while queue.under_way.as_ref().is_some_and(meets) {
            queue = self.changed.wait(queue).expect("a panic aborts");
        }
    }

    fn next(&self) -> Option<Store> {
        let mut queue = self.lock();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(store) = queue.waiting.pop_front() {
                queue.under_way = Some(store.clone());
                return Some(store);
            }
            queue = self.changed.wait(queue).expect("a panic aborts");
        }
    }

    fn done(&self, store: &Store) {
        let mut queue = self.lock();
        queue.bytes -= store.bytes();
        queue.under_way = None;
        self.changed.notify_all();
    }
}

/// Pages for a file below `@<tid>`, and who waits for them.
#[derive(Debug)]
pub(super) struct Keep {
    file: Arc<FileNode>,
    /// Its pages; it may end before some of them.
    pieces: Vec<Piece>,
    opener: Option<(Mailbox<ToWorker>, Unique)>,
    bytes: usize,
}

impl Keep {
    /// Of a file; the opener is a worker, and the number of the OPEN it holds.
    pub(super) fn new(
        shared: &Shared,
        file: Arc<FileNode>,
        pieces: Vec<Piece>,
        opener: Option<(Mailbox<ToWorker>, Unique)>,
    ) -> Self {
        let bytes = pieces.iter().map(|(_, data)| data.len()).sum();
        shared.keeping.fetch_add(bytes, Ordering::Relaxed);
        Self {
            file,
            pieces,
            opener,
            bytes,
        }
    }

    fn store(self, connection: &Connection, shared: &Shared) {
        let Self {
            file,
            pieces,
            opener,
            bytes,
        } = self;
        for (off, data) in pieces {
            if shared.is_voided() || file.is_gone() {
                break;
            }
            // A STORE behind the end would make the file longer.
            let left = usize::try_from(file.size().saturating_sub(off));
            let len = data.len().min(left.unwrap_or(usize::MAX));
            if let Err(error) = put(connection, file.id, off, &data[..len]) {
                shared.log.error(unstored(&file, off, error));
            }
        }
        shared.keeping.fetch_sub(bytes, Ordering::Relaxed);
        if let Some((worker, unique)) = opener {
            worker.send(ToWorker::Stored(unique));
        }
    }
}

/// What zring-notify is told.
#[derive(Debug)]
pub enum ToNotifier {
    /// To be dropped, in this order; then the kernel is to know how long these files are.
    Drop(Vec<Drop>, Vec<NodeId>),
    /// To be dropped at once, whatever is under way.
    Void(Vec<Drop>),
    /// Files that are about to be shorter: control waits until the kernel knows.
    Shorten(Vec<Shorter>),
    /// Files that have become shorter already.
    Late(Vec<Shorter>),
}

/// What the threads are told.
#[derive(Debug)]
pub(super) struct Inboxes {
    /// Of an advance.
    pub(super) advance: Receiver<ToNotifier>,
    /// Stores below `@<tid>`.
    pub(super) keeps: Receiver<Keep>,
}

/// Starts the threads; they end with the last sender.
///
/// # Errors
/// A thread cannot be started.
pub(super) fn start(
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
    inboxes: Inboxes,
    (control, place): (Mailbox<ToControl>, Place),
) -> io::Result<Vec<JoinHandle<()>>> {
    let Inboxes { advance, keeps } = inboxes;
    let (dropping, storing, keeping) = (connection.clone(), connection.clone(), connection.clone());
    let (withdrawing, stores) = (Arc::clone(shared), Arc::clone(shared));
    let keeping_for = Arc::clone(shared);
    Ok(vec![
        proc::spawn("zring-notify", move || {
            let mut sizes = Sizes::new(&dropping);
            while let Some(told) = next_of(&advance, &withdrawing) {
                let _beat = withdrawing.notifier.begin();
                let outcome = match told {
                    ToNotifier::Drop(drops, resized) => {
                        withdrawing.let_notes_go(&drops);
                        withdrawing.stores.withdraw(&drops);
                        match drop_all(&dropping, &withdrawing, &drops) {
                            Ok(()) => {
                                sizes.tell(&withdrawing, &resized);
                                if place.dropped() {
                                    continue; // to wake control takes half as long as a hundred drops
                                }
                                ToControl::Dropped
                            }
                            Err(error) => ToControl::DropFailed(error),
                        }
                    }
                    ToNotifier::Void(drops) => {
                        withdrawing.let_notes_go(&drops);
                        withdrawing.stores.withdraw(&drops);
                        match drop_all(&dropping, &withdrawing, &drops) {
                            Ok(()) => continue,
                            Err(error) => ToControl::DropFailed(error),
                        }
                    }
                    ToNotifier::Shorten(files) => {
                        withdrawing.stores.withdraw(&behind(&files));
                        match sizes.shorten(&dropping, &withdrawing, &files, false) {
                            Ok(()) => ToControl::Shortened,
                            Err(error) => ToControl::DropFailed(error),
                        }
                    }
                    ToNotifier::Late(files) => {
                        match sizes.shorten(&dropping, &withdrawing, &files, true) {
                            Ok(()) => continue,
                            Err(error) => ToControl::DropFailed(error),
                        }
                    }
                };
                control.send(outcome);
            }
        })?,
        proc::spawn("zring-store", move || {
            while let Some(store) = stores.stores.next() {
                match &store {
                    // Its pages were dropped, or are about to be: nobody drops them again.
                    Store::Pages { node, off, data }
                        if stores.is_voided()
                            || is_gone(&stores, *node, off + data.len() as u64) => {}
                    Store::Pages { node, off, data } => {
                        if let Err(error) = put(&storing, *node, *off, data)
                            && let Some(Node::File(file)) = stores.tree().node(*node)
                        {
                            stores.log.error(unstored(&file, *off, error));
                        }
                    }
                    Store::Name(parent, name) => let_go(&storing, &stores, *parent, name),
                    Store::Names(names) => {
                        for (parent, name) in names {
                            let_go(&storing, &stores, *parent, name);
                        }
                    }
                    Store::Prune(nodes) => prune(&storing, &stores, nodes),
                    Store::Then(worker, on) => worker.send(ToWorker::ReadOn(*on)),
                }
                stores.stores.done(&store);
            }
        })?,
        proc::spawn("zring-keep", move || {
            for keep in keeps {
                keep.store(&keeping, &keeping_for);
            }
        })?,
    ])
}

/// What zring-notify is told next. Told nothing for a while it makes what the next advance may need, unless that is under way: then it would
/// take a CPU from it.
fn next_of(advance: &Receiver<ToNotifier>, shared: &Shared) -> Option<ToNotifier> {
    let mut is_short = shared.spare.turn();
    while is_short {
        match advance.recv_timeout(QUIET) {
            Ok(told) => return Some(told),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if shared.is_advancing() => {}
            Err(RecvTimeoutError::Timeout) => is_short = shared.spare.make(),
        }
    }
    advance.recv().ok()
}

/// Whether a file is another one now, or about to be shorter than so many bytes.
fn is_gone(shared: &Shared, node: NodeId, end: u64) -> bool {
    let Some(Node::File(file)) = shared.tree().node(node) else {
        return false;
    };
    file.is_gone() || !file.may_reach(end)
}

/// What lies behind the new ends of files.
fn behind(files: &[Shorter]) -> Vec<Drop> {
    let behind = files.iter().map(|&Shorter { node, size, .. }| Drop::Pages {
        node,
        off: size,
        len: 0,
    });
    behind.collect()
}

/// Makes the kernel know how long files are.
struct Sizes {
    asker: Option<Asker>,
    patience: Patience,
    has_failed: bool,
}

/// How long an answer about sizes is waited for: an advance waits with it. One that is late makes the next be waited for much less,
/// so that `head/at` lags behind once, and one in time makes all as before.
struct Patience(Duration);

impl Patience {
    const MOST: Duration = Duration::from_millis(SIZES_DEADLINE_MS);
    /// Many times what an answer takes.
    const LEAST: Duration = Duration::from_millis(15);

    fn learn(&mut self, is_late: bool) {
        self.0 = match is_late {
            true => (self.0 / 8).max(Self::LEAST),
            false => Self::MOST,
        };
    }
}

impl Sizes {
    fn new(connection: &Connection) -> Self {
        let device = connection.device;
        Self {
            asker: device.map(|device| Asker::new(connection.mountpoint(), device)),
            patience: Patience(Patience::MOST),
            has_failed: false,
        }
    }

    /// What the kernel knows of these files expires, and somebody asks for their sizes: what is answered before that counts no more. They
    /// may be longer again by now if it is `late`.
    fn shorten(
        &mut self,
        connection: &Connection,
        shared: &Shared,
        files: &[Shorter],
        late: bool,
    ) -> Result<(), NotifyError> {
        let attributes = files.iter().map(|file| Drop::Attributes(file.node));
        for attributes in attributes {
            carry_out(connection, &attributes)?;
        }
        let size = |size| if late { u64::MAX } else { size };
        let names = files
            .iter()
            .map(|file| (file.oid.to_string(), size(file.size)));
        self.ask(shared, &names.collect::<Vec<_>>());
        let count = files.len() as u64;
        shared.shortened.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Files may be longer, and their attributes expired. Whoever asks for the size while something expires is told of it, and the kernel
    /// does not take it: his next page fault would be SIGBUS (kernel-note 0020). Nothing expires now.
    fn tell(&mut self, shared: &Shared, nodes: &[NodeId]) {
        if nodes.is_empty() {
            return;
        }
        let name = |node| match shared.tree().node(node) {
            Some(Node::File(file)) if !file.is_gone() => Some((file.oid.to_string(), u64::MAX)),
            _ => None,
        };
        let names = nodes.iter().filter_map(|&node| name(node));
        self.ask(shared, &names.collect::<Vec<_>>());
    }

    fn ask(&mut self, shared: &Shared, names: &[(String, u64)]) {
        let Some(asker) = &mut self.asker else {
            return;
        };
        let answer = asker.ask(names, self.patience.0);
        self.patience.learn(matches!(answer, Err(AskError::Late)));
        let Err(error) = answer else {
            return;
        };
        let count = names.len() as u64;
        shared.sizes_untold.fetch_add(count, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_failed, true) {
            let text = "the kernel could not be made to know how long files are: who does not ask may see zeros behind the end of one that is \
                shorter, or SIGBUS in one that is longer";
            shared.log.warning(format!("{text}: {error}"));
        }
    }
}

/// Pages, then attributes: not before that is the kernel told that a file is longer, as of what lay behind its end it may have zeros.
fn drop_all(connection: &Connection, shared: &Shared, drops: &[Drop]) -> Result<(), NotifyError> {
    for drop in drops {
        if let Drop::Attributes(node) = drop
            && let Some(Node::File(file)) = shared.tree().node(*node)
        {
            file.let_size();
        }
        if let Err(error) = carry_out(connection, drop) {
            if let Drop::Pages { node, off, .. } = *drop
                && let Some(Node::File(file)) = shared.tree().node(node)
            {
                shared.log.error(undropped(&file, off, error));
            }
            return Err(error);
        }
    }
    Ok(())
}

/// What the log says of a block that the kernel does not drop. Nobody goes on after that.
fn undropped(file: &FileNode, off: u64, error: NotifyError) -> String {
    format!("{file}: invalidate blk {}: {error}", file.blk_at(off))
}

/// What it says of one that the kernel does not take.
fn unstored(file: &FileNode, off: u64, error: NotifyError) -> String {
    let (blk, harm) = (
        file.blk_at(off).0,
        "ignoring, but reading from bigfile will be very slow",
    );
    format!(
        "BUG: bigfile {}: blk {blk}: -> pagecache: {error}  ({harm})",
        file.oid
    )
}

fn carry_out(connection: &Connection, drop: &Drop) -> Result<Told, NotifyError> {
    let head = match *drop {
        Drop::Pages { node, off, len } => {
            debug_assert!(node.0 >= fixed::FIRST_FREE, "fixed nodes are not cached");
            Head::inval_inode(node, off, len)
        }
        Drop::Attributes(node) => Head::inval_attr(node),
    };
    tell(&connection.fuse, &head, &[])
}

/// Forgotten, gone, or refused: readers will ask for what they need.
fn put(connection: &Connection, node: NodeId, off: u64, data: &[u8]) -> Result<(), NotifyError> {
    for (i, part) in data.chunks(STORE_BYTES).enumerate() {
        let head = Head::store(node, off + (i * STORE_BYTES) as u64, part.len());
        if tell(&connection.fuse, &head, &[part])? != Told::Done {
            break;
        }
    }
    Ok(())
}

/// Nobody waits for that: it takes no lock of a directory (kernel-note 0022).
fn prune(connection: &Connection, shared: &Shared, nodes: &[NodeId]) {
    let numbers: Vec<u8> = nodes.iter().flat_map(|id| id.0.to_ne_bytes()).collect();
    let told = tell(&connection.fuse, &Head::prune(nodes.len()), &[&numbers]);
    if let Err(error) = told {
        let text = format!("{} nodes of revisions: {error}; they stay", nodes.len());
        shared.log.warning(text);
    }
}

fn let_go(connection: &Connection, shared: &Shared, parent: NodeId, name: &str) {
    let head = Head::inval_entry(parent, name.as_bytes());
    if let Err(error) = tell(&connection.fuse, &head, &[name.as_bytes(), b"\0"]) {
        let text = format!("name {name}: {error}; it expires by itself");
        shared.log.warning(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlkSize, Oid, Rev, Tid};
    use crate::fs::tree::Tree;
    use nix::errno::Errno;

    #[test]
    fn who_is_late_again_and_again_is_waited_for_once() {
        let mut patience = Patience(Patience::MOST);
        let mut waited = Duration::ZERO;
        for _ in 0..10 {
            waited += patience.0;
            patience.learn(true);
        }
        assert!(
            waited < Patience::MOST + Duration::from_millis(300),
            "{waited:?}"
        );
        patience.learn(false);
        assert_eq!(patience.0, Patience::MOST);
    }

    #[test]
    fn what_the_kernel_refuses_is_named_by_its_file_and_block() {
        let file = Tree::default().enter_file(Rev::Head, Oid(16), Tid(1));
        file.told_blksize(BlkSize(8192));
        let error = NotifyError {
            errno: Errno::ENOMEM,
        };
        let why = "the kernel refused a notification: ENOMEM: Out of memory";
        let text = format!("/head/bigfile/0000000000000010: invalidate blk #3: {why}");
        assert_eq!(undropped(&file, 3 * 8192 + 4096, error), text);
        let text = format!(
            "BUG: bigfile 0000000000000010: blk 3: -> pagecache: {why}  (ignoring, but reading from bigfile will be very slow)"
        );
        assert_eq!(unstored(&file, 3 * 8192, error), text);
    }
}
