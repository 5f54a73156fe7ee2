//! Where a drop-in server mounts a database, and who may mount there.
//!
//! The place of a database is `/dev/shm/wcfs/<SHA-1 of its address>`, the address in its one spelling. Everybody may make
//! directories below `/dev/shm/wcfs`, so neither it nor what lies there is trusted: no link is followed, and owner and type are
//! looked at on the opened descriptor.
//!
//! A server *claims* its mountpoint: a lock on the very directory, which the mount then covers. It leaves nothing behind and is
//! gone with its process, however that ends. Claims are made one at a time, under a lock on the parent directory, so that who
//! removes a dead mount never hits the mount of another server.

use super::look::{self, Seen};
use super::{Failure, Outcome};
use crate::kernel::{mountinfo, proc};
use crate::store::normal;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What all places are below.
const ROOT: &str = "/dev/shm/wcfs";
/// Everybody may make directories there, and remove their own.
const ROOT_MODE: u32 = 0o1777;
/// How long another server's claim is waited for.
const CLAIM: Duration = Duration::from_secs(10);

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error(transparent)]
    Scheme(#[from] normal::UnknownScheme),
    #[error("{path} cannot be used")]
    Directory { path: PathBuf, source: io::Error },
    #[error("{path} belongs to user {owner}, not to the user this runs as: it is not used")]
    Owner { path: PathBuf, owner: u32 },
    #[error(
        "{0} is not a directory of mode 1777 that belongs to root or to this user: it is not used"
    )]
    Root(PathBuf),
    #[error("a server is running on {path} already: it serves {source_name}")]
    Running { path: PathBuf, source_name: String },
    #[error("a server is starting or running on {0} already")]
    Claimed(PathBuf),
    #[error(
        "a server is running on {0} already, but it does not answer; `zring status {0}` says why, `zring stop {0}` ends it"
    )]
    Hung(PathBuf),
    #[error("{path} is busy: {source_name} ({fstype}) is mounted there")]
    Busy {
        path: PathBuf,
        source_name: String,
        fstype: String,
    },
    #[error("the dead mount on {path} cannot be removed")]
    Dead { path: PathBuf, source: Errno },
}

/// The mountpoint of a database by its address alone.
pub(super) fn path_of(zurl: &str) -> Result<PathBuf, normal::UnknownScheme> {
    let digest = sha1_smol::Sha1::from(normal::normalise(zurl)?).digest();
    Ok(Path::new(ROOT).join(digest.to_string()))
}

/// The same, made if it is missing.
pub(super) fn derive(zurl: &str) -> Result<PathBuf, PlaceError> {
    let path = path_of(zurl)?;
    let root = open_root()?;
    let name = path.file_name().unwrap_or_default();
    match mkdirat(&root, name, Mode::from_bits_truncate(0o777)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(failed(&path)(errno.into())),
    }
    if let Some(dir) = open_bare(&root, &path).map_err(failed(&path))? {
        let owner = dir.metadata().map_err(failed(&path))?.uid();
        if owner != proc::ids().0 {
            return Err(PlaceError::Owner { path, owner });
        }
    }
    Ok(path)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> PlaceError {
    move |source| PlaceError::Directory {
        path: path.to_owned(),
        source,
    }
}

/// `/dev/shm/wcfs`, made if it is missing, its mode put right if it is ours.
fn open_root() -> Result<File, PlaceError> {
    let failed = || failed(Path::new(ROOT));
    match DirBuilder::new().mode(ROOT_MODE).create(ROOT) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed()(error)),
        _ => {}
    }
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(ROOT)
        .map_err(failed())?;
    let meta = root.metadata().map_err(failed())?;
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    let own = proc::ids().0;
    if owner == own && mode != ROOT_MODE {
        root.set_permissions(Permissions::from_mode(ROOT_MODE))
            .map_err(failed())?;
    } else if owner != own && owner != 0 && mode != ROOT_MODE {
        return Err(PlaceError::Root(ROOT.into()));
    }
    Ok(root)
}

/// The directory of `path`, whose parent is `parent`, unless something is mounted on it. Never enters a mount.
fn open_bare(parent: &File, path: &Path) -> io::Result<Option<File>> {
    let name = path.file_name().unwrap_or_default();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let place = openat(parent, name, flags, Mode::empty())?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", place.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.and_then(|id| id.trim().parse().ok());
    if mountinfo::mounts_at(path).iter().any(|m| Some(m.id) == id) {
        return Ok(None);
    }
    // By the descriptor: what is mounted there by now is not seen this way.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .map(Some)
}

/// A mountpoint that no other server takes for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: Option<Flock<File>>,
}

/// Claims `path` for `zurl`. A dead mount of the same database by the same user is removed first.
pub(super) fn claim(path: &Path, zurl: &str) -> Result<Claim, Failure> {
    let failed = failed(path);
    let parent = File::open(path.parent().unwrap_or(path)).map_err(&failed)?;
    let (parent, _turn) = match await_turn(parent) {
        Ok(turn) => (turn.try_clone().map_err(&failed)?, Some(turn)),
        Err(parent) => (parent, None), // somebody keeps it for no good reason
    };
    let dir = loop {
        clear(path, zurl)?;
        match open_bare(&parent, path).map_err(&failed)? {
            Some(dir) => break dir,
            None if mountinfo::topmost(path).is_some_and(|m| m.fstype == "autofs") => {
                return Ok(Claim { _lock: None });
            }
            None => {}
        }
    };
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Claim { _lock: Some(lock) }),
        Err((_, Errno::EWOULDBLOCK)) => Err(PlaceError::Claimed(path.to_owned()).into()),
        // A file system without such locks: the mount itself is looked at all the same.
        Err(_) => Ok(Claim { _lock: None }),
    }
}

/// The lock on the parent, or the parent alone when it takes too long.
fn await_turn(mut parent: File) -> Result<Flock<File>, File> {
    let began = Instant::now();
    loop {
        match Flock::lock(parent, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) if began.elapsed() < CLAIM => parent = file,
            Err((file, _)) => return Err(file),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing is mounted on `path` afterwards, but for an automount trigger.
fn clear(path: &Path, zurl: &str) -> Outcome {
    let began = Instant::now();
    while let Some(there) = mountinfo::topmost(path) {
        if there.fstype == "autofs" {
            return Ok(());
        }
        let busy = || PlaceError::Busy {
            path: path.to_owned(),
            source_name: there.source.clone(),
            fstype: there.fstype.clone(),
        };
        if !there.is_ours() {
            return Err(busy().into());
        }
        match look::statfs(path, look::PATIENCE)? {
            Seen::Refused(Errno::ENOTCONN | Errno::ECONNABORTED) => {
                let is_ours = there.owner == Some(proc::ids().0) && there.source == zurl;
                if !is_ours {
                    return Err(busy().into());
                }
                if let Seen::Refused(source) = look::unmount(path, true, look::PATIENCE)? {
                    let path = path.to_owned();
                    return Err(PlaceError::Dead { path, source }.into());
                }
            }
            Seen::Late(..) => return Err(PlaceError::Hung(path.to_owned()).into()),
            // A server that has just been killed: its rings are still being taken down (kernel-note 0004).
            Seen::Refused(Errno::ECANCELED) if began.elapsed() < CLAIM => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Seen::Said(_) | Seen::Refused(_) => {
                let path = path.to_owned();
                let source_name = there.source;
                return Err(PlaceError::Running { path, source_name }.into());
            }
        }
    }
    Ok(())
}

/// What `zring status` and `zring stop` are told: an address has a colon, anything else is a mountpoint.
#[derive(Debug)]
pub(super) struct Target {
    /// Where, as mountinfo has it.
    pub(super) path: PathBuf,
    /// The address, if that was given.
    pub(super) zurl: Option<String>,
}

impl Target {
    pub(super) fn of(given: &str) -> Result<Self, Failure> {
        if given.contains(':') {
            let path = match derive(given) {
                // Root looks at what others serve.
                Err(PlaceError::Owner { path, .. }) if proc::ids().0 == 0 => path,
                path => path?,
            };
            let zurl = Some(given.to_owned());
            return Ok(Self { path, zurl });
        }
        let path = look::mountpoint(Path::new(given))?;
        Ok(Self { path, zurl: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_has_one_place() {
        for (zurl, name) in [
            (
                "file:///var/lib/db/1.fs",
                "68f72e99b16753588c1aa83fbbbbd17f491497a6",
            ),
            (
                "FILE:///var/lib/db/1.fs",
                "68f72e99b16753588c1aa83fbbbbd17f491497a6",
            ),
            ("file://D/1.fs", "fccdb94842958d09c69261970b8037b0e5510fb8"),
            (
                "zeo://localhost:9001",
                "cc2e8fe011046f5fdeb805a897f6eda129619795",
            ),
            (
                "zeo://localhost:9001?storage=2",
                "ea8bba0528f8d70c37d3ea371db4230df9ade648",
            ),
            (
                "zeo:///run/zeo.sock",
                "242b049df33d998d70bc5afa96dc249b380f2578",
            ),
            (
                "demo:(file:///a/base.fs)/(file:///a/delta.fs)",
                "23debb1c7ff99523b6da7e1ed99cfad224518b75",
            ),
            (
                "neos://cluster@def:2,abc:1?ca=zzz&cert=c&key=k",
                "90cf09fc746cd413d4f8bb28f4f8932f6ce3fd34",
            ),
            (
                "neo://cluster@abc:1?ca=x",
                "9688310029998e0a8a1fa02afde706f0e7992927",
            ),
            (
                "neo://cluster@abc:1?ca=&cert=&key=",
                "01a9359f01dc6a1e64a16350bf374a5b36b5f527",
            ),
            (
                "neo://cl@b:2,a:1?read-only=1&compress=1&logfile=/x&cache-size=10MB&foo=2&bar=1&foo=1",
                "73bbb2c4dc25cbcd304ea5464f392ea51f0c2754",
            ),
        ] {
            let path = path_of(zurl).expect(zurl);
            assert_eq!(path, Path::new("/dev/shm/wcfs").join(name), "{zurl}");
        }
    }
}
