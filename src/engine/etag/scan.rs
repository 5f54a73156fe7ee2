//! A scan: a check whose findings are hashed while it goes on.

use super::check::{Pass, ScanSide, Summary};
use super::config::{Config, Pulse, Sink, wall_now};
use super::facts::{Facts, is_rotational};
use super::hash::{self, Outcome, Shared};
use super::links::Links;
use super::owner::Owner;
use super::queue::Queue;
use super::root::{Root, kind_of};
use super::settle::Refused;
use super::single::{How, read_one};
use super::throttle::Throttle;
use crate::base::Digest;
use crate::etag::Grain;
use crate::kernel::delay::Delays;
use crate::kernel::direct::Aligned;
use crate::kernel::proc;
use crate::kernel::stat::{self, Kind, Resolve, Stat};
use crate::store::catalog::{Catalog, CatalogError};
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Why a scan failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// No room for a thread.
    #[error("a thread cannot be started")]
    Thread(#[from] io::Error),
    /// What waited to be hashed was lost, and would be taken for hashed.
    #[error(
        "files that wait to be hashed are listed beside the catalog, and that cannot be read back; scan again"
    )]
    Waiting(#[source] io::Error),
    /// What was found could not be written down. The tree was looked at all the same.
    #[error("what was found cannot be kept")]
    Catalog {
        /// Why.
        #[source]
        source: CatalogError,
        /// What was found.
        summary: Box<Summary>,
    },
}

/// Checks a tree, hashes what is not fresh, and keeps what it learns. Gives the catalog back.
///
/// # Errors
/// The catalog cannot be written: it is as it was, and what was found is in the error.
pub fn scan(
    root: Root,
    config: Config,
    catalog: Box<dyn Catalog>,
    sink: Arc<dyn Sink>,
    pulse: Arc<Pulse>,
) -> Result<(Summary, Box<dyn Catalog>), ScanError> {
    let began = Instant::now();
    let snapshot = catalog.runs();
    let rebound = catalog.manifest().rebound;
    let queue = Queue::new(is_rotational(root.place().0), catalog.place());
    let queue = Arc::new(queue);
    let owner = Owner::start(catalog)?;
    let side = ScanSide {
        queue: Arc::clone(&queue),
        owner: owner.handle(),
    };
    let bounds = config.hash;
    let pass = Pass::new(
        root,
        config,
        Some(snapshot),
        rebound,
        sink,
        Arc::clone(&pulse),
        Some(side),
    );
    let shared = Arc::new(Shared {
        pass: Arc::clone(&pass),
        queue: Arc::clone(&queue),
        owner: owner.handle(),
        throttle: Throttle::new(bounds.bps, bounds.files_per_sec, bounds.pressure),
        delays: match bounds.yields {
            true => Delays::of_mounts(),
            false => Delays::none(),
        },
        links: Links::default(),
        refused: Refused::default(),
        indirect: Mutex::default(),
    });
    let mut threads = Vec::new();
    for _ in 0..bounds.threads.max(1) {
        let shared = Arc::clone(&shared);
        threads.push(proc::spawn("zring-hash", move || hash::run(shared))?);
    }
    let ran = pass.run();
    let check = began.elapsed();
    queue.close();
    for thread in threads {
        thread.join().expect("a panic ends the process");
    }
    ran?;
    shared.refused.tell(&pass);
    // All handles but the owner's own go with these.
    drop(shared);
    drop(pass);
    let (catalog, outcome) = owner.end();
    if let Some(error) = queue.lost() {
        return Err(ScanError::Waiting(error));
    }
    let mut summary = Summary::of(&pulse, began, check);
    match outcome {
        Ok(()) => Ok((summary, catalog)),
        Err(source) => {
            summary.wall = began.elapsed();
            Err(ScanError::Catalog {
                source,
                summary: Box::new(summary),
            })
        }
    }
}

/// Hashes one file now, as a scan does: twice if it changes meanwhile, or if its times prove nothing at first. None: that did not help, or it
/// is no regular file.
///
/// # Errors
/// It cannot be read.
pub fn hash_one(path: &Path, config: &Config) -> io::Result<Option<(Digest, Stat)>> {
    if kind_of(path)? != Kind::File {
        return Ok(None);
    }
    let canonical = path.canonicalize()?;
    let dir = canonical.parent().unwrap_or(Path::new("/"));
    let name = CString::new(canonical.file_name().unwrap_or_default().as_bytes())?;
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let dir = stat::open_dir(None, &dir, Resolve::root())?;
    let grain = Facts::of(dir.as_fd(), true)?.grain;
    let how = How {
        resolve: Resolve::below(true),
        algo: config.algo,
        settle: config.hash.settle,
        direct: config.hash.direct,
    };
    let mut buf = Aligned::new(1 << 20);
    for _ in 0..2 {
        match read_one(dir.as_fd(), &name, how, &mut buf, |_| ()) {
            Ok(read) => {
                let w = &read.a.witness;
                if read.a.verity
                    || !Grain::is_ahead(w, wall_now()) && !grain.is_racy(w, read.looked, false)
                {
                    return Ok(Some((read.digest, read.a)));
                }
                proc::pause(grain.of(w.mtime, w.ctime).wait());
            }
            Err(Outcome::Failed(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Err(Outcome::Lost) => return Err(io::ErrorKind::NotFound.into()),
            Err(Outcome::Kind) => return Ok(None),
            Err(_) => {}
        }
    }
    Ok(None)
}
