//! The catalog of one tree: what was known of each file when it was hashed. A cache: losing it costs work, never correctness.
//!
//! One directory of files per root, beside others of their kind and never inside the tree:
//!
//! ```text
//!   MANIFEST        JSON: which format, which root, which file system, which digest, which generation
//!   LOCK            held (flock) by the one writer
//!   seg-<n>         runs of generation n
//!   journal-<n>     batches since
//! ```
//!
//! Invariants: a generation that the manifest names is complete and on the disk; a reader holds the files of the generation it
//! began with, whatever the writer does meanwhile; a format that is not known is not touched; a damaged run costs that run.
//!
//! One writer ([`open`]) and any number of readers ([`open_read_only`]), each with a picture of its own ([`Snapshot`]). Engines keep the contract of
//! [`Catalog`]; which one a root has is said when it is made.

pub mod manifest;
pub mod overlay;
pub mod place;
pub mod runs;
pub mod seg;

pub use manifest::{Identity, Manifest};
pub use place::{exists, open, open_read_only};

use crate::wire::catalog::{Batch, CatalogFault, Op, Origin, Record};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A catalog and its one writer.
pub trait Catalog: Send {
    /// What it is of.
    fn manifest(&self) -> &Manifest;

    /// The directory it is kept in.
    fn place(&self) -> &Path;

    /// Its runs as they are now; later changes do not show.
    fn runs(&self) -> Arc<dyn Snapshot>;

    /// What is known of one file, by its path from the root.
    ///
    /// # Errors
    /// The state cannot be read.
    fn get(&self, path: &[u8]) -> Result<Option<Record>, CatalogError>;

    /// Makes changes, durably when it returns. One batch is applied whole or not at all.
    ///
    /// # Errors
    /// The state cannot be written; what was there before still is.
    fn apply(&mut self, batch: &mut Batch, from: Origin, seq: u64) -> Result<(), CatalogError>;

    /// Puts its files in order if that is due, or if `must`.
    ///
    /// # Errors
    /// The state cannot be written; what was there before still is.
    fn compact(&mut self, must: bool) -> Result<(), CatalogError>;

    /// The last batch of an origin that was applied.
    fn seq_of(&self, from: Origin) -> u64;
}

/// A picture of a catalog: immutable, for any number of threads.
pub trait Snapshot: Send + Sync {
    /// Number of runs.
    fn len(&self) -> usize;

    /// Whether nothing is known.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which run is of this directory.
    fn find(&self, dir: &[u8]) -> Option<usize>;

    /// The directory of a run.
    fn path(&self, run: usize) -> Vec<u8>;

    /// Bytes of a run, as `wire::catalog::Run` reads them.
    ///
    /// # Errors
    /// It is damaged, or cannot be read: to be taken for no run at all.
    fn load(&self, run: usize, out: &mut Vec<u8>) -> Result<(), CatalogError>;

    /// About how many bytes a run has.
    fn bytes(&self, run: usize) -> u64;

    /// Runs that were dropped when it was opened because they are damaged.
    fn damaged(&self) -> usize;
}

/// What is known of one file in a picture.
///
/// # Errors
/// The run cannot be read.
pub fn get(snapshot: &dyn Snapshot, path: &[u8]) -> Result<Option<Record>, CatalogError> {
    let (dir, name) = split(path);
    let Some(run) = snapshot.find(dir) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    snapshot.load(run, &mut bytes)?;
    let run = crate::wire::catalog::Run::parse(&bytes)?;
    let found = crate::wire::catalog::Entries(run.entries).find(|e| e.name == name && !e.is_dir());
    Ok(found.map(|entry| entry.record()))
}

/// A path from the root as directory and name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&c| c == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Whether `path` is `dir` or below it.
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A batch of one operation.
pub fn batch_of(op: &Op<'_>) -> Batch {
    let mut batch = Batch::new();
    batch.push(op);
    batch
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Somebody else writes it.
    #[error("the catalog in {} is being written by another process", .0.display())]
    Locked(PathBuf),
    /// A newer program made it.
    #[error("the catalog in {} has format {found}, and this program knows {known}: it is left as it is", .dir.display())]
    Format {
        /// Where.
        dir: PathBuf,
        /// Its format.
        found: u64,
        /// The one known here.
        known: u64,
    },
    /// It is of another root, or of another file system.
    #[error("the catalog in {} is of {what} {found}, not {wanted}; --rebind takes it over", .dir.display())]
    Other {
        /// Where.
        dir: PathBuf,
        /// Root or file system.
        what: &'static str,
        /// Of what it is.
        found: String,
        /// Of what it should be.
        wanted: String,
    },
    /// It was made with another digest than asked for.
    #[error("the catalog in {} has digests {found}, not {wanted}; remove it, or ask for {found}", .dir.display())]
    Made {
        /// Where.
        dir: PathBuf,
        /// As it was made.
        found: &'static str,
        /// As it should be.
        wanted: &'static str,
    },
    /// It is kept in a way that this program does not know.
    #[error("the catalog in {} is kept by {found}, which this program does not have: it is left as it is", .dir.display())]
    Engine {
        /// Where.
        dir: PathBuf,
        /// What keeps it.
        found: String,
    },
    /// The manifest says nothing.
    #[error("{} cannot be understood; remove {} to begin anew", .0.display(), .0.parent().unwrap_or(.0).display())]
    Manifest(PathBuf),
    /// A run is not what was written.
    #[error("a run of the catalog is damaged")]
    Damaged(#[from] CatalogFault),
    /// Reading or writing failed.
    #[error("{call} {} failed", .path.display())]
    Io {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl CatalogError {
    fn io<'a>(
        call: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            call,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk is full, or a quota is.
    pub fn is_full(&self) -> bool {
        let full = |e: &io::Error| {
            matches!(
                e.raw_os_error(),
                Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
            )
        };
        match self {
            Self::Io { source, .. } => full(source),
            _ => false,
        }
    }
}
