//! Makes a FUSE connection and ends it: mount(2) as root, `fusermount3` (or `fusermount`) as anybody else.
//!
//! Holds the descriptor of `/dev/fuse` and, opened while that is still safe, the control file that aborts the
//! connection. The daemon never looks at its own mount by path: what it needs is in mountinfo.
//!
//! `fuse-backend-rs` can mount too, but it forces `default_permissions` and a READ limit of its own, and asks
//! the mountpoint itself, which a dead mount does not answer.

use super::guard::Guard;
use super::mountinfo;
use crate::base::limit;
use crate::wire::fuse::abi::{self, init};
use crate::wire::fuse::reply::{self, Accept};
use crate::wire::fuse::request::{self, Offer, Op, Request};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What to mount.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// Shown as the source of the mount.
    pub source: String,
    /// An absolute path without symbolic links.
    pub mountpoint: PathBuf,
    /// Shown as the type, after `fuse.`.
    pub subtype: String,
    /// Whether other users may enter, as far as modes allow.
    pub allow_other: bool,
    /// As mount(8) means them.
    pub flags: MountFlags,
}

/// Flags of a mount beyond `nosuid` and `nodev`, which are always set.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountFlags {
    /// Nothing can be written through it, control files included.
    pub ro: bool,
    /// Program files on it may not be run.
    pub noexec: bool,
    /// Access times are not kept.
    pub noatime: bool,
}

impl MountFlags {
    fn bits(self) -> MsFlags {
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        flags.set(MsFlags::MS_RDONLY, self.ro);
        flags.set(MsFlags::MS_NOEXEC, self.noexec);
        flags.set(MsFlags::MS_NOATIME, self.noatime);
        flags
    }
}

/// Why a mount cannot be made. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No `/dev/fuse`.
    #[error(
        "there is no /dev/fuse: load the kernel's FUSE module (modprobe fuse), or pass the device into this container"
    )]
    NoDevice,
    /// `/dev/fuse` may not be opened.
    #[error(
        "/dev/fuse may not be opened by this user: ask the administrator for mode 0666 on it, or run as root"
    )]
    DevicePermission,
    /// The helper for ordinary users is missing.
    #[error(
        "only root can mount without a helper, and fusermount3 is not installed: install the fuse3 package, or run as root"
    )]
    NoHelper,
    /// The helper refused.
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    /// mount(2) refused.
    #[error("the kernel refused to mount on {path}: {errno}")]
    Refused {
        /// The mountpoint.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
    /// The connection ended before or during the handshake.
    #[error("the FUSE handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The kernel's protocol is too old.
    #[error("the kernel speaks FUSE 7.{0}; page-cache control needs at least 7.15 (Linux 2.6.36)")]
    OldKernel(u32),
}

/// A mounted connection that has not shaken hands yet.
#[derive(Debug)]
pub struct Connection {
    /// `/dev/fuse`, blocking.
    pub fuse: File,
    spec: MountSpec,
    abort: Option<File>,
    /// What must not outlive the daemon, in other hands; started by who serves.
    pub guard: Guard,
    /// Device number of the mount, as in `/sys/class/bdi/<major>:<minor>`.
    pub device: Option<(u32, u32)>,
}

impl Connection {
    /// Mounts.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn mount(spec: MountSpec) -> Result<Self, MountError> {
        let fuse = if nix::unistd::geteuid().is_root() {
            mount_root(&spec)?
        } else {
            mount_helper(&spec)?
        };
        let device = mountinfo::topmost(&spec.mountpoint).map(|m| m.device);
        let abort = device.and_then(|(_, minor)| open_abort(minor));
        Ok(Self {
            fuse,
            spec,
            abort,
            guard: Guard::default(),
            device,
        })
    }

    /// Ends the connection at once: every caller gets an error. Needs no answer from anybody.
    ///
    /// # Errors
    /// The control file could not be opened when the mount was made.
    pub fn abort(&self) -> io::Result<()> {
        let mut file = self.abort.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(b"1")
    }

    /// Unmounts; `lazy` detaches a busy mount.
    ///
    /// # Errors
    /// `EBUSY` when somebody uses the mount and `lazy` is not asked for.
    pub fn unmount(&self, lazy: bool) -> Result<(), Errno> {
        unmount(&self.spec.mountpoint, lazy)
    }

    /// Whether the path still shows this mount.
    pub fn is_mounted(&self) -> bool {
        mountinfo::mounts_at(&self.spec.mountpoint)
            .iter()
            .any(|m| Some(m.device) == self.device)
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.spec.mountpoint
    }

    /// Sets the readahead of the mount.
    ///
    /// # Errors
    /// Needs root and /sys.
    pub fn set_read_ahead_kb(&self, kb: u32) -> io::Result<()> {
        let (major, minor) = self.device.ok_or(io::ErrorKind::NotFound)?;
        std::fs::write(
            format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
            kb.to_string(),
        )
    }
}

/// Unmounts `path` without looking at what is mounted there.
///
/// # Errors
/// What the kernel or the helper said; a helper's refusal shows as `EPERM`.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), Errno> {
    let flags = if lazy {
        MntFlags::MNT_DETACH
    } else {
        MntFlags::empty()
    };
    if nix::unistd::geteuid().is_root() {
        return nix::mount::umount2(path, flags);
    }
    let status = with_helper(|helper| {
        helper.arg("-u").arg("-q");
        if lazy {
            helper.arg("-z");
        }
        helper.arg("--").arg(path).status()
    });
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Errno::EBUSY),
        Err(_) => Err(Errno::ENOENT),
    }
}

/// Runs `fusermount3`, or `fusermount` where there is none. Who starts us may have a bare PATH.
fn with_helper<T>(mut run: impl FnMut(&mut Command) -> io::Result<T>) -> io::Result<T> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).collect::<Vec<_>>();
    dirs.extend(["/bin".into(), "/usr/bin".into()]);
    let found = ["fusermount3", "fusermount"]
        .iter()
        .flat_map(|name| dirs.iter().map(move |dir| dir.join(name)))
        .find(|program| program.is_file());
    let program = found.ok_or(io::ErrorKind::NotFound)?;
    run(&mut Command::new(program))
}

/// Asks a mount for its figures, as any program would. Enters the mount: never in the daemon.
///
/// # Errors
/// The errno it answers; `ENOTCONN` from a mount whose daemon is gone.
pub fn statfs(path: &Path) -> Result<(), i32> {
    nix::sys::statfs::statfs(path)
        .map(drop)
        .map_err(|errno| errno as i32)
}

/// Aborts the connection of a mount that is not ours to serve, by the minor number of its device.
///
/// # Errors
/// No control file, or no permission.
pub fn abort_minor(minor: u32) -> io::Result<()> {
    open_abort(minor)
        .ok_or(io::ErrorKind::NotFound)?
        .write_all(b"1")
}

pub(super) fn open_abort(minor: u32) -> Option<File> {
    let control = Path::new("/sys/fs/fuse/connections");
    if nix::unistd::geteuid().is_root() && mountinfo::topmost(control).is_none() {
        // Without it a stuck mount could not be ended. Refused in containers: then it stays closed.
        let none: Option<&str> = None;
        let _ = nix::mount::mount(
            Some("fusectl"),
            control,
            Some("fusectl"),
            MsFlags::empty(),
            none,
        );
    }
    OpenOptions::new()
        .write(true)
        .open(control.join(minor.to_string()).join("abort"))
        .ok()
}

/// Without `default_permissions` modes would be for show, and everybody could read everything.
const OTHERS: &str = ",allow_other,default_permissions";

fn open_device() -> Result<File, MountError> {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/fuse");
    open.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => MountError::DevicePermission,
        _ => MountError::NoDevice,
    })
}

fn mount_root(spec: &MountSpec) -> Result<File, MountError> {
    let fuse = open_device()?;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},max_read={}",
        fuse.as_raw_fd(),
        limit::PAYLOAD_BYTES
    );
    if spec.allow_other {
        data.push_str(OTHERS);
    }
    let kind = format!("fuse.{}", spec.subtype);
    nix::mount::mount(
        Some(spec.source.as_str()),
        &spec.mountpoint,
        Some(kind.as_str()),
        spec.flags.bits(),
        Some(data.as_str()),
    )
    .map_err(|errno| match errno {
        Errno::ENODEV => MountError::NoDevice,
        _ => MountError::Refused {
            path: spec.mountpoint.clone(),
            errno,
        },
    })?;
    Ok(fuse)
}

/// `fusermount3` mounts and sends the descriptor through a socket whose number is in its environment.
fn mount_helper(spec: &MountSpec) -> Result<File, MountError> {
    open_device()?; // for its own error; the helper's are terse
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Handshake)?;
    let theirs = OwnedFd::from(theirs);
    nix::fcntl::fcntl(
        &theirs,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .map_err(|errno| MountError::Handshake(errno.into()))?;
    let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!(
        "fsname={},subtype={},max_read={}",
        escape(&spec.source),
        escape(&spec.subtype),
        limit::PAYLOAD_BYTES
    );
    for (wanted, name) in [
        (spec.allow_other, OTHERS),
        (spec.flags.ro, ",ro"),
        (spec.flags.noexec, ",noexec"),
        (spec.flags.noatime, ",noatime"),
    ] {
        if wanted {
            options.push_str(name);
        }
    }
    let child = with_helper(|helper| {
        helper
            .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
            .args(["-o", &options, "--"])
            .arg(&spec.mountpoint)
            .stderr(Stdio::piped())
            .spawn()
    });
    let child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::Handshake(error),
    })?;
    drop(theirs);
    let fuse = receive_fd(&ours);
    let output = child.wait_with_output().map_err(MountError::Handshake)?;
    match fuse {
        Ok(Some(fuse)) if output.status.success() => Ok(fuse),
        Err(error) if output.status.success() => Err(MountError::Handshake(error)),
        _ => Err(MountError::Helper(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

fn receive_fd(socket: &UnixStream) -> io::Result<Option<File>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just put this descriptor into our table; nobody else knows it.
            return Ok(Some(unsafe { File::from_raw_fd(fd) }));
        }
    }
    Ok(None)
}

/// What was agreed with the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Protocol minor.
    pub minor: u32,
    /// Flags both sides use.
    pub flags: u64,
    /// Whether requests will come by rings, once every queue has an entry.
    pub rings: bool,
    /// What the kernel offered.
    pub offer: Offer,
}

/// Flags taken when offered. AUTO_INVAL_DATA is not: a change of mtime would drop a whole file, and each cached
/// read(2) could cost a GETATTR (kernel-note 0007).
const WANTED: u64 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::PARALLEL_DIROPS
    | init::HANDLE_KILLPRIV_V2
    | init::ABORT_ERROR
    | init::MAX_PAGES
    | init::EXPLICIT_INVAL_DATA
    | init::INIT_EXT
    | init::NO_EXPORT_SUPPORT;

/// Reads INIT and answers it. Taking the rings is a promise to register entries for every queue.
///
/// # Errors
/// The connection ended, or the kernel is too old.
pub fn handshake(mut fuse: &File, rings: bool) -> Result<Session, MountError> {
    let mut message = vec![0; limit::PAYLOAD_BYTES + 4096];
    loop {
        let len = match fuse.read(&mut message) {
            Ok(len) => len,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => continue,
            Err(error) => return Err(MountError::Handshake(error)),
        };
        let request = request::split(&message[..len]).and_then(Request::parse);
        let Ok(Request {
            unique,
            op: Op::Init { offer },
            ..
        }) = request
        else {
            return Err(MountError::Handshake(io::ErrorKind::InvalidData.into()));
        };
        if offer.minor < 15 && offer.major == 7 {
            return Err(MountError::OldKernel(offer.minor));
        }
        let wanted = WANTED | if rings { init::OVER_IO_URING } else { 0 };
        let accept = Accept {
            minor: offer.minor.min(45),
            max_readahead: offer.max_readahead,
            flags: wanted & offer.flags,
            max_write: u32::try_from(limit::PAYLOAD_BYTES).expect("1 MiB"),
            max_pages: u16::try_from(limit::PAYLOAD_BYTES / 4096).expect("256"),
            max_background: limit::BACKGROUND_MAX,
        };
        let mut body = [0; abi::INIT_OUT_LEN];
        let len = reply::init(&mut body, &accept);
        let header = reply::header(unique, Ok(len));
        let parts = [
            IoSlice::new(abi::bytes(&header)),
            IoSlice::new(&body[..len]),
        ];
        fuse.write_vectored(&parts).map_err(MountError::Handshake)?;
        // A newer major is told ours and asks again.
        if offer.major == 7 {
            let rings = accept.flags & init::OVER_IO_URING != 0;
            return Ok(Session {
                minor: accept.minor,
                flags: accept.flags,
                rings,
                offer,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A kernel that offers all there is; what it is told.
    fn told(rings: bool) -> [u8; 16 + abi::INIT_OUT_LEN] {
        let (mut kernel, daemon) = UnixStream::pair().unwrap();
        let head = abi::InHeader {
            len: 104,
            opcode: 26,
            unique: 2,
            ..Default::default()
        };
        // Version, readahead, and 64 flags: every one.
        let mut body = [0xff; 64];
        for (at, word) in [(0, 7u32), (4, 45), (8, 12_345)] {
            body[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        kernel
            .write_all(&[abi::bytes(&head), &body].concat())
            .unwrap();
        let session = handshake(&File::from(OwnedFd::from(daemon)), rings).unwrap();
        assert_eq!(session.rings, rings);
        let mut reply = [0; 16 + abi::INIT_OUT_LEN];
        kernel.read_exact(&mut reply).unwrap();
        reply
    }

    #[test]
    fn e19_init_takes_what_clients_rely_on() {
        for rings in [false, true] {
            let reply = told(rings);
            let word = |at: usize| abi::read::<u32>(&reply[16 + at..]).unwrap();
            assert_eq!((word(0), word(4)), (7, 45));
            assert_eq!(word(8), 12_345, "readahead is the kernel's affair");
            let flags = u64::from(word(32)) << 32 | u64::from(word(12));
            let auto_inval_data = 1 << 12;
            assert_eq!(flags & auto_inval_data, 0);
            assert_ne!(flags & init::EXPLICIT_INVAL_DATA, 0);
            assert_eq!(flags & init::OVER_IO_URING != 0, rings);
        }
    }
}
