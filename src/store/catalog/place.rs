//! Where a catalog is, who may write it, and whether it is the right one.

use super::manifest::{Identity, Manifest};
use super::runs::Runs;
use super::{Catalog, CatalogError, Snapshot};
use crate::base::Algo;
use crate::kernel::calls::{self, Class};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a catalog is made, should there be none, and what is asked of one that is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The digest; None takes what is there, or SHA-256.
    pub algo: Option<Algo>,
    /// One of another root is taken over.
    pub rebind: bool,
}

/// A writer that is about to end, or one that only looks, is waited for so long.
const PATIENCE: Duration = Duration::from_millis(200);

/// Whether there is a catalog in `dir`.
///
/// # Errors
/// There is something that cannot be read.
pub fn exists(dir: &Path) -> Result<bool, CatalogError> {
    Manifest::read(dir).map(|m| m.is_some())
}

fn lock(dir: &Path, how: FlockArg, make: bool) -> Result<Option<Flock<File>>, CatalogError> {
    let path = dir.join("LOCK");
    let mut options = File::options();
    let options = options.read(true).write(make).create(make);
    let mut waited = Duration::ZERO;
    loop {
        let file = match calls::open(Class::State, &path, options) {
            Ok(file) => file,
            Err(e) if !make && e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(CatalogError::io("opening", &path)(e)),
        };
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) if waited < PATIENCE => {
                let step = Duration::from_millis(10);
                crate::kernel::proc::pause(step);
                waited += step;
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(CatalogError::Locked(dir.to_owned()));
            }
            Err((_, e)) => return Err(CatalogError::io("locking", &path)(e.into())),
        }
    }
}

/// Opens the catalog in `dir` for writing, and makes one if there is none.
///
/// # Errors
/// It is locked, of something else, of another format, or cannot be read or written.
pub fn open(dir: &Path, own: &Identity, wanted: Wanted) -> Result<Box<dyn Catalog>, CatalogError> {
    // What is not understood is not touched, not even by a lock.
    Manifest::read(dir)?;
    std::fs::create_dir_all(dir).map_err(CatalogError::io("making", dir))?;
    let lock = lock(dir, FlockArg::LockExclusiveNonblock, true)?.expect("made if missing");
    let manifest = match Manifest::read(dir)? {
        Some(found) => agree(dir, found, own, wanted)?,
        None => {
            let new = Manifest {
                identity: own.clone(),
                algo: wanted.algo.unwrap_or_default(),
                generation: 0,
                rebound: false,
            };
            new.write(dir)?;
            new
        }
    };
    Ok(Box::new(Runs::open(dir, manifest, lock)?))
}

/// A manifest and a picture of what it is of.
pub type Opened = (Manifest, Arc<dyn Snapshot>);

/// A picture of the catalog in `dir` and its manifest; None if there is none. `snapshot`: also while somebody writes it.
///
/// # Errors
/// It is of something else, of another format, or cannot be read; locked, unless `snapshot`.
pub fn open_read_only(
    dir: &Path,
    own: &Identity,
    wanted: Wanted,
    snapshot: bool,
) -> Result<Option<Opened>, CatalogError> {
    // A writer may put a generation in place of the one just read about: then it is read about again.
    for attempt in 0.. {
        let Some(found) = Manifest::read(dir)? else {
            return Ok(None);
        };
        let held = match snapshot {
            false => lock(dir, FlockArg::LockSharedNonblock, false)?,
            true => None,
        };
        let manifest = agree_read_only(dir, found, own, wanted)?;
        let opened = Runs::picture(dir, &manifest);
        drop(held);
        match opened {
            Err(CatalogError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && attempt < 10 => {}
            Err(error) => return Err(error),
            Ok(picture) => return Ok(Some((manifest, picture))),
        }
    }
    unreachable!("the loop ends by returning")
}

fn agree_read_only(
    dir: &Path,
    mut found: Manifest,
    own: &Identity,
    wanted: Wanted,
) -> Result<Manifest, CatalogError> {
    let differs = |what, a: &str, b: &str| CatalogError::Other {
        dir: dir.to_owned(),
        what,
        found: a.to_owned(),
        wanted: b.to_owned(),
    };
    let theirs = &found.identity;
    let other = if theirs.root_id != own.root_id {
        Some(differs("root", &theirs.root_id, &own.root_id))
    } else {
        match (&theirs.fs_uuid, &own.fs_uuid) {
            (Some(a), Some(b)) if a != b => Some(differs("file system", a, b)),
            _ => None,
        }
    };
    match other {
        Some(error) if !wanted.rebind => return Err(error),
        Some(_) => {
            found.identity = own.clone();
            found.rebound = true;
        }
        None => {}
    }
    match wanted.algo {
        Some(algo) if algo != found.algo => Err(CatalogError::Made {
            dir: dir.to_owned(),
            found: found.algo.name(),
            wanted: algo.name(),
        }),
        _ => Ok(found),
    }
}

fn agree(
    dir: &Path,
    found: Manifest,
    own: &Identity,
    wanted: Wanted,
) -> Result<Manifest, CatalogError> {
    let before = found.clone();
    let mut agreed = agree_read_only(dir, found, own, wanted)?;
    if agreed.identity.fs_uuid.is_none() {
        agreed.identity.fs_uuid.clone_from(&own.fs_uuid);
    }
    if agreed != before {
        agreed.write(dir)?;
    }
    Ok(agreed)
}
