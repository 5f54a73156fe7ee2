//! Opening a file: from a path to an index and the end of the committed part.
//!
//! 1. The path must lead to a regular file that begins like a FileStorage, or to an empty one.
//! 2. The saved index is used if the file agrees with it.
//! 3. What it does not cover is scanned, from the beginning if need be; every transaction met is checked in full.
//! 4. The scan ends at the first thing that is no committed transaction. If committed transactions follow behind
//!    that, the file is damaged in the middle and is refused: serving the part before as if it were all would be
//!    a lie. Else it is a tail, and following goes on from there.
//!
//! Blocking, on whatever thread opens or reopens; the only state is what is returned.

use super::follow::Tail;
use super::index::{Builder, Index};
use super::recent::{Recent, walk_back};
use super::savedindex::{self, IndexFault};
use super::scan::{Backward, Ends, Look, look};
use super::window::{ReadAt, Window};
use crate::base::limit::{RECENT_RECORDS_AT_OPEN, RECENT_TXNS_MAX, RECORD_BYTES_MAX};
use crate::wire::fs1::{
    Fault, MAGIC_LEN, POS_END, TXN_HEADER_LEN, TxnHeader, WORD_LEN, magic_fits,
};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Told now and then how far a scan is: bytes done, bytes in all.
pub type Progress<'p> = dyn FnMut(u64, u64) + 'p;

/// How a FileStorage is opened.
#[derive(Clone, Copy, Debug)]
pub struct FileOpts {
    /// Largest record that is loaded.
    pub max_record: usize,
}

impl Default for FileOpts {
    fn default() -> Self {
        let max_record = RECORD_BYTES_MAX;
        Self { max_record }
    }
}

/// Why a file cannot be opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("{}: there is no such file; check the path, or let the application create the database first", path.display())]
    Missing {
        /// Path given.
        path: PathBuf,
    },
    /// Reading it is not allowed.
    #[error("{}: reading it is not permitted; run as a user who may, or change its mode", path.display())]
    Permission {
        /// Path given.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("{}: this is a directory; give the path of the file in it (often Data.fs)", path.display())]
    Directory {
        /// Path given.
        path: PathBuf,
    },
    /// It is a device, a pipe or a socket.
    #[error("{}: this is not a regular file", path.display())]
    NotRegular {
        /// Path given.
        path: PathBuf,
    },
    /// It begins otherwise.
    #[error("{}: this is not a FileStorage: it begins with neither FS30 nor FS21; check the path", path.display())]
    NotFileStorage {
        /// Path given.
        path: PathBuf,
    },
    /// It is larger than a FileStorage can be.
    #[error("{}: the file has 2^48 bytes or more, beyond what a FileStorage can address", path.display())]
    TooLarge {
        /// Path given.
        path: PathBuf,
    },
    /// It has records of versions.
    #[error("{}: the record at position {pos} belongs to a version, a feature that ZODB dropped in 2007; convert the database first", path.display())]
    Versions {
        /// Path given.
        path: PathBuf,
        /// Position of the record.
        pos: u64,
    },
    /// It is damaged, and goes on behind the damage.
    #[error("{}: the file is damaged at position {pos}: {what}; whole transactions follow, so nothing behind can be trusted: restore the file or repair it with fsrecover", path.display())]
    Damaged {
        /// Path given.
        path: PathBuf,
        /// Position of the damage.
        pos: u64,
        /// What is wrong there.
        what: Fault,
    },
    /// The system failed.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// Path given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    pub(super) fn of(meta: &Metadata) -> Self {
        let (dev, ino) = (meta.dev(), meta.ino());
        Self { dev, ino }
    }
}

/// An open file, as far as it is committed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    pub(super) id: FileId,
    pub(super) index: Index,
    pub(super) ends: Ends,
    pub(super) tail: Tail,
    /// Whether the magic was there yet.
    pub(super) begun: bool,
    /// Why the saved index was not used, if it was not.
    pub(super) index_fault: Option<IndexFault>,
}

/// `path` with something appended to its last name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Opens the file a path leads to.
pub(super) fn open(path: &Path, progress: &mut Progress<'_>) -> Result<Opened, OpenError> {
    let (file, meta) = open_file(path)?;
    let size = meta.len();
    let scanned = index(path, &file, size, progress)?;
    Ok(Opened {
        file: Arc::new(file),
        id: FileId::of(&meta),
        index: scanned.index,
        ends: scanned.ends,
        tail: scanned.tail,
        begun: size >= MAGIC_LEN,
        index_fault: scanned.index_fault,
    })
}

/// Step 1.
pub(super) fn open_file(path: &Path) -> Result<(File, Metadata), OpenError> {
    let fail = |e| OpenError::io(path, e);
    // Asked before opening: opening a pipe would wait for a writer.
    check_kind(path, &std::fs::metadata(path).map_err(fail)?)?;
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    check_kind(path, &meta)?;
    check_magic(path, &file)?;
    Ok((file, meta))
}

fn check_kind(path: &Path, meta: &Metadata) -> Result<(), OpenError> {
    let path = path.to_owned();
    if meta.is_dir() {
        Err(OpenError::Directory { path })
    } else if !meta.is_file() {
        Err(OpenError::NotRegular { path })
    } else if meta.len() >= POS_END {
        Err(OpenError::TooLarge { path })
    } else {
        Ok(())
    }
}

/// Checks that a file begins as it should; one that is just being created may be shorter.
pub(super) fn check_magic<R: ReadAt + ?Sized>(path: &Path, file: &R) -> Result<(), OpenError> {
    let mut start = [0; 4];
    let n = file.read_full(&mut start, 0);
    let n = n.map_err(|e| OpenError::io(path, e))?;
    match magic_fits(&start[..n]) {
        true => Ok(()),
        false => Err(OpenError::NotFileStorage {
            path: path.to_owned(),
        }),
    }
}

struct Scanned {
    index: Index,
    ends: Ends,
    tail: Tail,
    index_fault: Option<IndexFault>,
}

/// Steps 2 to 4.
fn index(
    path: &Path,
    file: &File,
    size: u64,
    progress: &mut Progress<'_>,
) -> Result<Scanned, OpenError> {
    let fail = |e| OpenError::io(path, e);
    let (index, ends, index_fault) = match saved(path, file, size).map_err(fail)? {
        Ok((index, ends)) => (index, ends, None),
        Err(fault) => (Index::default(), Ends::EMPTY, Some(fault)),
    };
    let mut builder = Builder::new(index);
    let (ends, seen) = scan(file, ends, size, &mut builder, progress).map_err(fail)?;
    if let Look::Fault(pos, what) = seen {
        let path = path.to_owned();
        if what == Fault::Version {
            return Err(OpenError::Versions { path, pos });
        }
        if goes_on_behind(file, &ends, size).map_err(fail)? {
            return Err(OpenError::Damaged { path, pos, what });
        }
    }
    Ok(Scanned {
        index: builder.finish(),
        ends,
        tail: Tail::of(seen),
        index_fault,
    })
}

/// The saved index, if there is one that the file agrees with.
fn saved(path: &Path, file: &File, size: u64) -> io::Result<Result<(Index, Ends), IndexFault>> {
    let saved = match savedindex::open(path) {
        Ok(saved) => saved,
        Err(fault) => return Ok(Err(fault)),
    };
    match savedindex::parse(&mut BufReader::with_capacity(1 << 20, saved), size) {
        Ok(saved) => savedindex::trust(file, saved),
        Err(fault) => Ok(Err(fault)),
    }
}

/// Scans forwards from `ends`; gives the new ends and what stands there.
pub(super) fn scan<R: ReadAt + ?Sized>(
    file: &R,
    mut ends: Ends,
    size: u64,
    builder: &mut Builder,
    progress: &mut Progress<'_>,
) -> io::Result<(Ends, Look)> {
    let (mut window, mut records) = (Window::new(file), Vec::new());
    let mut told = ends.end;
    loop {
        let seen = look(&mut window, ends.end, ends.last, size, &mut records)?;
        let (Look::Txn(span) | Look::Undone(span)) = seen else {
            progress(ends.end, size);
            return Ok((ends, seen));
        };
        builder.extend(&records);
        ends = Ends::after(&span);
        if ends.end - told >= PROGRESS_BYTES {
            told = ends.end;
            progress(told, size);
        }
    }
}

/// Progress is told this often.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Whether committed transactions follow behind what ended a scan.
pub(super) fn goes_on_behind<R: ReadAt + ?Sized>(
    file: &R,
    ends: &Ends,
    size: u64,
) -> io::Result<bool> {
    let mut records = Vec::new();
    // Seen from the end of the file, if it ends with a transaction;
    if size > ends.end
        && let Look::Txn(span) = Backward::new(file, size).next(&mut records)?
        && span.pos > ends.end
        && span.tid > ends.last
    {
        return Ok(true);
    }
    // or behind the damaged one, if its length is good.
    let mut header = [0; TXN_HEADER_LEN];
    file.read_full(&mut header, ends.end)?;
    let tlen = TxnHeader::view(&header).map_or(0, TxnHeader::tlen);
    if tlen == 0 || tlen >= size {
        return Ok(false);
    }
    let behind = ends.end + tlen + WORD_LEN as u64;
    let mut window = Window::new(file);
    let seen = look(&mut window, behind, ends.last, size, &mut records)?;
    Ok(matches!(seen, Look::Txn(_)))
}

/// The last transactions of a file just opened.
pub(super) fn recent<R: ReadAt + ?Sized>(file: &R, end: u64) -> io::Result<Recent> {
    let past = walk_back(file, end, |txns, oids, _| {
        txns < RECENT_TXNS_MAX && oids < RECENT_RECORDS_AT_OPEN
    })?;
    Ok(past.into_iter().rev().collect())
}
