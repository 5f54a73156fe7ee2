//! A root: opened once, and what its file system is worth.

use super::config::Config;
use super::facts::{Facts, Others};
use crate::base::{Algo, Digest};
use crate::etag::{Grain, racy};
use crate::kernel::mountinfo;
use crate::kernel::stat::{self, Kind, Resolve, Stat};
use crate::store::catalog::Identity;
use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It is not there, a link that leads in a circle, or may not be entered.
    #[error("{} cannot be opened as a root", .path.display())]
    Open {
        /// The root.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a file.
    #[error("{} is not a directory; `zring etag get` takes files", .0.display())]
    NotADirectory(PathBuf),
    /// It is served by this program.
    #[error("{} is a mount of zring: its files have tags of their own, and walking into it may wait for ourselves; --allow-fuse-self does it all the same", .0.display())]
    Ours(PathBuf),
}

/// A root.
#[derive(Debug)]
pub struct Root {
    /// As it was named.
    pub path: PathBuf,
    /// Without links.
    pub canonical: PathBuf,
    /// What it is.
    pub identity: Identity,
    /// What its file system is worth.
    pub facts: Facts,
    others: Others,
    strict: bool,
    /// Mounts of this program below it, by their paths from it: where other mounts are entered, these are not, and nothing of them is asked.
    pub(super) ours: Vec<Vec<u8>>,
    fd: OwnedFd,
    dev: u64,
    ino: u64,
}

/// The number of a root: of its path without links, so that all names of it are one.
pub fn root_id(canonical: &Path) -> String {
    use sha2::Digest as _;
    let hash: [u8; 32] = sha2::Sha256::digest(canonical.as_os_str().as_bytes()).into();
    Digest(hash).to_string()[..32].to_owned()
}

fn cstring(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

impl Root {
    /// Opens a directory as a root.
    ///
    /// # Errors
    /// It is none, or one that is not to be walked.
    pub fn open(path: &Path, config: &Config) -> Result<Self, RootError> {
        let failed = |source| RootError::Open {
            path: path.to_owned(),
            source,
        };
        let canonical = canonical(path, config)?.map_err(failed)?;
        let name = cstring(&canonical).map_err(failed)?;
        let fd =
            stat::open_dir(None, &name, Resolve::root()).map_err(|e| match e.raw_os_error() {
                Some(libc::ENOTDIR) => RootError::NotADirectory(path.to_owned()),
                _ => failed(e),
            })?;
        let own = stat::stat_fd(fd.as_fd()).map_err(failed)?;
        let strict = config.trust == crate::etag::Trust::Strict;
        let facts = Facts::of(fd.as_fd(), strict).map_err(failed)?;
        let uuid = stat::fs_uuid(fd.as_fd()).map(|uuid| {
            let mut text = String::new();
            for byte in uuid {
                let _ = write!(text, "{byte:02x}");
            }
            text
        });
        Ok(Self {
            path: path.to_owned(),
            identity: Identity {
                root_id: root_id(&canonical),
                root: canonical.to_string_lossy().into_owned(),
                fs_uuid: uuid,
                fs_type: facts.type_name(),
            },
            ours: match config.cross_device && !config.allow_ours {
                true => ours_below(&canonical),
                false => Vec::new(),
            },
            canonical,
            facts,
            others: Others::default(),
            strict,
            fd,
            dev: own.dev,
            ino: own.witness.ino,
        })
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A descriptor of its own for somebody else.
    pub(super) fn dup(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Its device and inode.
    pub fn place(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// What the file system of a device is worth.
    pub fn facts_of(&self, dev: u64) -> Facts {
        match dev == self.dev {
            true => self.facts,
            false => self.others.of(dev),
        }
    }

    /// Finds out about the file system of a directory below that is on another one; what it is worth, if it was not known before.
    pub(super) fn enter(&self, dir: BorrowedFd<'_>, dev: u64) -> Option<Facts> {
        let facts = Facts::of(dir, self.strict).ok()?;
        (dev != self.dev && self.others.note(dev, facts)).then_some(facts)
    }

    /// Finds out about a file system that is not known, by writing and looking in a state directory on it.
    pub fn probe_grain(&mut self, state: &Path) {
        if self.facts.grain != racy::TICK {
            return;
        }
        let dev_of = |path: &Path| {
            let fd = stat::open_dir(None, &cstring(path).ok()?, Resolve::root()).ok()?;
            Some(stat::stat_fd(fd.as_fd()).ok()?.dev)
        };
        if dev_of(state) == Some(self.dev) && probe(state).unwrap_or(false) {
            self.facts.grain = Grain::Multi;
        }
    }
}

/// Whether each of 64 writes after a look gets a stamp of its own.
fn probe(dir: &Path) -> io::Result<bool> {
    use crate::kernel::calls::{self, Class};
    use std::io::Write as _;
    let name = dir.join(format!(".grain-{}", std::process::id()));
    let mut options = std::fs::File::options();
    let mut file = calls::open(
        Class::State,
        &name,
        options.write(true).create(true).truncate(true),
    )?;
    let mut look = || -> io::Result<Stat> {
        file.write_all(b"x")?;
        stat::stat_fd(file.as_fd())
    };
    let mut all = || -> io::Result<bool> {
        let mut last = look()?.witness;
        for _ in 0..64 {
            let next = look()?.witness;
            if next.mtime == last.mtime || next.ctime == last.ctime {
                return Ok(false);
            }
            last = next;
        }
        Ok(true)
    };
    let found = all();
    let _ = std::fs::remove_file(&name);
    found
}

/// A path without links, or what the system says. A mount of our own is not touched, as it may be waiting for us.
///
/// # Errors
/// It leads into one.
pub fn canonical(path: &Path, config: &Config) -> Result<io::Result<PathBuf>, RootError> {
    let refuse = |at: &Path| {
        let ours = covering(at).is_some_and(|mount| mount.is_ours());
        match ours && !config.allow_ours {
            true => Err(RootError::Ours(path.to_owned())),
            false => Ok(()),
        }
    };
    if let Ok(named) = std::path::absolute(path) {
        refuse(&named)?;
    }
    match path.canonicalize() {
        Ok(canonical) => refuse(&canonical).map(|()| Ok(canonical)),
        Err(error) => Ok(Err(error)),
    }
}

/// The mount that a path is on.
fn covering(path: &Path) -> Option<mountinfo::Mounted> {
    let mounts = mountinfo::all().into_iter();
    let on = mounts.filter(|m| path.starts_with(&m.path));
    // Of mounts on one path the last is the one seen.
    on.max_by_key(|m| m.path.as_os_str().len())
}

fn ours_below(root: &Path) -> Vec<Vec<u8>> {
    let ours = mountinfo::all().into_iter().filter(|m| m.is_ours());
    ours.filter_map(|m| {
        Some(
            m.path
                .strip_prefix(root)
                .ok()?
                .as_os_str()
                .as_bytes()
                .to_vec(),
        )
    })
    .collect()
}

/// Whether a device is that of a mount of this program.
pub(super) fn is_ours(dev: u64) -> bool {
    let mounts = mountinfo::all();
    let mut ours = mounts.iter().filter(|m| m.is_ours());
    ours.any(|m| u64::from(m.device.0) << 32 | u64::from(m.device.1) == dev)
}

/// A digest as it grows.
#[derive(Clone, Debug)]
pub(super) enum Hasher {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub(super) fn new(algo: Algo) -> Self {
        match algo {
            Algo::Sha256 => Self::Sha256(sha2::Digest::new()),
            Algo::Blake3 => Self::Blake3(Box::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => sha2::Digest::update(hasher, bytes),
            Self::Blake3(hasher) => drop(hasher.update(bytes)),
        }
    }

    pub(super) fn end(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest(sha2::Digest::finalize(hasher).into()),
            Self::Blake3(hasher) => Digest(*hasher.finalize().as_bytes()),
        }
    }
}

/// Whether a path can be a root: a directory, links to it included.
pub(super) fn kind_of(path: &Path) -> io::Result<Kind> {
    let meta = std::fs::metadata(path)?;
    Ok(match meta {
        meta if meta.is_dir() => Kind::Dir,
        meta if meta.is_file() => Kind::File,
        _ => Kind::Other,
    })
}
