//! What a worker does for one request, in steps that never wait.
//!
//! ```text
//!             all at hand: answered                          all at hand: answered, place freed
//!   request -----------------------> done          Parked ------------------------------------> done
//!        \                                         ^    \ something missing: load what is not
//!         \  something missing: load it            |     \ in flight already, wait for the rest
//!          +---------------------------------------+<-----+
//! ```
//!
//! A step starts from the beginning each time and finds more at hand; objects that a task loaded stay with it,
//! so it ends. A parked task keeps its place until everything it waits for has come, also when its
//! caller has gone: nothing that is delivered can reach another task.

use super::loading::{RawRead, TaskId};
use super::upload::Of;
use crate::base::limit;
use crate::base::span::KeySet;
use crate::base::{BlkNo, NodeId, Oid, Rev, Tid, Unique};
use crate::fs::cache::{AtHand, Cache, Kept, Own};
use crate::fs::read::{self, Info};
use crate::fs::track::{Looked, Trail};
use crate::fs::tree::FileNode;
use crate::kernel::file::{Now, read_now};
use crate::kernel::port::Held;
use crate::zodb::need::{Ask, Step};
use crate::zodb::{Hint, ZodbError, bigfile, zblk};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Where the bytes of a plain block lie.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    pub(super) file: Arc<File>,
    pub(super) pos: u64,
    pub(super) len: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// A big file of this oid, if there is one.
    Lookup(Oid),
    /// Attributes.
    Getattr(Arc<FileNode>),
    /// Bytes, for a reader.
    Read {
        /// Which file.
        file: Arc<FileNode>,
        /// First byte.
        off: u64,
        /// Bytes wanted.
        len: usize,
        /// The file is open with O_DIRECT: they go past the page cache, or into it, where it is mapped or read ahead of.
        is_direct: bool,
    },
    /// Bytes, for the page cache.
    Store {
        /// Which file.
        file: Arc<FileNode>,
        /// Ranges of the file.
        ranges: Vec<Range<u64>>,
        /// What they are of.
        of: Of,
    },
    /// Nothing any more; only its place is still taken.
    Abandoned,
}

impl Job {
    /// The node it is about, for the log.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Getattr(file) | Self::Read { file, .. } | Self::Store { file, .. } => {
                Some(file.id)
            }
            _ => None,
        }
    }
}

/// One request, or one block to be stored.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) held: Option<Held>,
    pub(super) unique: Unique,
    pub(super) rev: Rev,
    pub(super) job: Job,
    /// What was loaded for it.
    pub(super) own: Own<Extent>,
    /// Raw bytes read for it.
    pub(super) raws: Vec<(RawKey, Bytes)>,
    /// Deliveries it waits for.
    pub(super) waiting: usize,
    /// A load failed: EIO.
    pub(super) failed: bool,
}

/// A range of a database file; two files never share one while a task holds them open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawKey {
    file: usize,
    pos: u64,
}

impl RawKey {
    pub(super) fn new(file: &Arc<File>, pos: u64) -> Self {
        Self {
            file: Arc::as_ptr(file).addr(),
            pos,
        }
    }
}

impl Task {
    pub(super) fn new(held: Option<Held>, unique: Unique, rev: Rev, job: Job) -> Self {
        let (own, raws) = (Own::default(), Vec::new());
        Self {
            held,
            unique,
            rev,
            job,
            own,
            raws,
            waiting: 0,
            failed: false,
        }
    }
}

/// Raw bytes that could not be had at once.
#[derive(Debug)]
pub(super) struct RawWant {
    pub(super) file: Arc<File>,
    pub(super) pos: u64,
    pub(super) len: usize,
    /// The object they belong to, and the transaction that made this revision.
    pub(super) of: (Oid, Tid),
}

impl RawWant {
    pub(super) fn read(&self, task: TaskId) -> RawRead {
        RawRead {
            task,
            pos: self.pos,
            len: self.len,
            file: Arc::clone(&self.file),
            of: self.of,
        }
    }
}

/// What a step found missing. Kept by the worker, so that steps allocate nothing.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Records.
    pub(super) objects: Vec<Oid>,
    /// Places of records.
    pub(super) places: Vec<Oid>,
    /// Raw bytes.
    pub(super) raws: Vec<RawWant>,
    /// The block that is looked at.
    pub(super) blk: Option<BlkNo>,
}

impl Wants {
    /// Each oid once.
    pub(super) fn tidy(&mut self) {
        for list in [&mut self.objects, &mut self.places] {
            list.sort_unstable();
            list.dedup();
        }
    }

    pub(super) fn clear(&mut self) {
        self.objects.clear();
        self.places.clear();
        self.raws.clear();
        self.blk = None;
    }
}

/// Why a step cannot succeed, whatever is loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The database.
    #[error(transparent)]
    Zodb(#[from] ZodbError),
    /// Its file.
    #[error("{}", unread(*.of, *.pos, .source))]
    Io {
        /// The object, and the transaction that made this revision.
        of: (Oid, Tid),
        /// Position read.
        pos: u64,
        /// What the system said.
        source: io::Error,
    },
    /// An object, or a part of the file, that could not be had: the log has said which.
    #[error("what it needs cannot be loaded")]
    NotLoaded,
}

/// Bytes of an object could not be read.
pub(super) fn unread((oid, serial): (Oid, Tid), pos: u64, error: &io::Error) -> String {
    format!(
        "object {oid} @{serial}: reading at position {pos} of the database file failed: {error}"
    )
}

/// What a task looks at, and where it says what it saw and what it lacks.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) hand: AtHand<'a, Extent>,
    /// Raw bytes that came in.
    pub(super) raws: &'a [(RawKey, Bytes)],
    pub(super) wants: &'a mut Wants,
    pub(super) trail: &'a mut Trail,
    /// Leaves that need not be noted.
    pub(super) noted: &'a KeySet,
}

/// Fills `out` with the bytes of a file at `off`, all of them inside it. False when something is missing
/// (READ 3, 4 and 6: the bytes of a plain block go from the database file to `out` in one read).
pub(super) fn fill(
    look: &mut Look<'_>,
    info: &Info,
    off: u64,
    out: &mut [u8],
) -> Result<bool, Failure> {
    let blksize = info.file.blksize;
    let Look {
        hand,
        raws,
        wants,
        trail,
        noted,
    } = look;
    let mut complete = true;
    for piece in read::pieces(blksize.0, off, out.len()) {
        let target = &mut out[piece.at..][..piece.len];
        wants.blk = Some(piece.blk);
        let mut ask = Ask::new(&*hand, &mut wants.objects);
        let found = bigfile::locate_path(&mut ask, &info.file, piece.blk, &mut trail.path)?;
        let Step::Done(place) = found else {
            complete = false;
            continue;
        };
        if hand.rev == Rev::Head {
            trail.leaf(noted);
            let (blk, value) = (piece.blk, place.block.map(|entry| entry.oid));
            trail.blocks.push(Looked { blk, value });
        }
        let Some(entry) = place.block else {
            target.fill(0);
            continue;
        };
        complete &= match hand.kept(entry.oid) {
            Some(Kept::Raw(extent, serial)) => {
                if extent.len > blksize.0 {
                    return Err(ZodbError::LongBlock {
                        oid: entry.oid,
                        blksize,
                    }
                    .into());
                }
                let of = (entry.oid, *serial);
                fill_raw((extent, of), raws, wants, piece.off, target)?
            }
            None if entry.hint == Hint::Blk0 => {
                wants.places.push(entry.oid);
                false
            }
            _ => {
                let mut ask = Ask::new(&*hand, &mut wants.objects);
                let step = zblk::fill(&mut ask, entry.oid, blksize, piece.off, target)?;
                matches!(step, Step::Done(()))
            }
        };
    }
    Ok(complete)
}

/// The part of a plain block from `off` on: bytes of the file, then zeros.
fn fill_raw(
    (extent, of): (&Extent, (Oid, Tid)),
    raws: &[(RawKey, Bytes)],
    wants: &mut Wants,
    off: u64,
    target: &mut [u8],
) -> Result<bool, Failure> {
    let len = read::clip(off, target.len(), extent.len);
    let (data, zeros) = target.split_at_mut(len);
    zeros.fill(0);
    if data.is_empty() {
        return Ok(true);
    }
    let pos = extent.pos + off;
    let key = RawKey::new(&extent.file, pos);
    if let Some((_, bytes)) = raws
        .iter()
        .find(|(k, b)| *k == key && b.len() >= data.len())
    {
        data.copy_from_slice(&bytes[..data.len()]);
        return Ok(true);
    }
    let now = read_now(&extent.file, pos, data);
    match now.map_err(|source| Failure::Io { of, pos, source })? {
        Now::Done(_) => Ok(true),
        Now::WouldWait => {
            wants.raws.push(RawWant {
                file: Arc::clone(&extent.file),
                pos,
                len: data.len(),
                of,
            });
            Ok(false)
        }
    }
}

/// Whether an object is worth keeping between requests: all but the bytes of blocks, which the page cache has. Of a server,
/// blocks up to `data_max` bytes are.
pub(super) fn worth_keeping(kept: &Kept<Extent>, data_max: usize) -> bool {
    use crate::zodb::Object;
    match kept {
        Kept::Object(object, _) => match **object {
            Object::Blk0(_) | Object::Data(_) => object.cost() < data_max,
            _ => object.cost() < limit::BLOCK_CACHE_BYTES / 8,
        },
        Kept::Raw(..) => true,
        Kept::Broken(_) | Kept::Absent(_) | Kept::Opaque => false,
    }
}

/// What is at hand for a task.
pub(super) fn at_hand<'a>(
    task: &'a Task,
    cache: &'a Cache<Extent>,
    seen: &'a std::cell::RefCell<Vec<Oid>>,
) -> AtHand<'a, Extent> {
    AtHand {
        rev: task.rev,
        own: &task.own,
        cache,
        seen,
    }
}
