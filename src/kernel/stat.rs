//! Trees and their attributes: directories opened and listed, statx, extended attributes, nothing else opened.
//!
//! Everything is relative to a directory's descriptor, so paths of any length work, and a name is handed to the kernel from where it
//! stands in the buffer of its listing: an unchanged file costs one call and no allocation. All calls are counted ([`calls`]).
//!
//! Symbolic links are never followed below a root. Links of the magic kind are never followed at all.

use super::calls::{self, Class, Count};
use crate::base::{Stamp, Witness};
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What kind of thing a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link, a device, a fifo, a socket.
    Other,
    /// The listing does not say.
    Unknown,
}

/// What statx says.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// What stands for its content.
    pub witness: Witness,
    /// Names it has.
    pub nlink: u32,
    /// Its device, as one number. It changes at every mount.
    pub dev: u64,
    /// Whether the kernel guarantees that the content never changes (fs-verity).
    pub verity: bool,
}

/// `struct statx` of the kernel: 256 bytes, the same on every architecture.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    spare0: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxStamp,
    btime: StatxStamp,
    ctime: StatxStamp,
    mtime: StatxStamp,
    rdev: [u32; 2],
    dev: [u32; 2],
    spare: [u64; 14],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct StatxStamp {
    s: i64,
    ns: u32,
    pad: i32,
}

const _: () = assert!(size_of::<Statx>() == 256);

const STATX_BASIC: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;
const ATTR_VERITY: u64 = 0x0010_0000;

impl Statx {
    pub(super) const EMPTY: Self = Self {
        mask: 0,
        blksize: 0,
        attributes: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        mode: 0,
        spare0: 0,
        ino: 0,
        size: 0,
        blocks: 0,
        attributes_mask: 0,
        atime: StatxStamp {
            s: 0,
            ns: 0,
            pad: 0,
        },
        btime: StatxStamp {
            s: 0,
            ns: 0,
            pad: 0,
        },
        ctime: StatxStamp {
            s: 0,
            ns: 0,
            pad: 0,
        },
        mtime: StatxStamp {
            s: 0,
            ns: 0,
            pad: 0,
        },
        rdev: [0; 2],
        dev: [0; 2],
        spare: [0; 14],
    };
    pub(super) const MASK: u32 = STATX_BASIC | STATX_BTIME;

    #[inline]
    pub(super) fn stat(&self) -> Stat {
        let stamp = |t: &StatxStamp| Stamp { s: t.s, ns: t.ns };
        let kind = match u32::from(self.mode) & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Dir,
            _ => Kind::Other,
        };
        let [major, minor] = self.dev;
        Stat {
            kind,
            witness: Witness {
                ino: self.ino,
                btime: (self.mask & STATX_BTIME != 0).then(|| stamp(&self.btime)),
                size: self.size,
                mtime: stamp(&self.mtime),
                ctime: stamp(&self.ctime),
            },
            nlink: self.nlink,
            dev: u64::from(major) << 32 | u64::from(minor),
            verity: self.attributes & ATTR_VERITY != 0,
        }
    }
}

fn path_of(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

fn last_error<T>() -> io::Result<T> {
    Err(io::Error::last_os_error())
}

/// How up to date attributes of a network's file have to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// As the file system thinks right.
    #[default]
    Usual,
    /// What is cached will do.
    Cached,
}

/// statx of `name` in `dir`; a link is not followed.
///
/// # Errors
/// What the system says.
#[inline]
pub fn stat_at(dir: BorrowedFd<'_>, name: &CStr, fresh: Freshness) -> io::Result<Stat> {
    const DONT_SYNC: i32 = 0x4000;
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if fresh == Freshness::Cached {
        flags |= DONT_SYNC;
    }
    statx(dir.as_raw_fd(), name, (flags, Statx::MASK))
}

/// fstat with all that statx says.
///
/// # Errors
/// What the system says.
pub fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd.as_raw_fd(), c"", (libc::AT_EMPTY_PATH, Statx::MASK))
}

/// What is open as `fd`: as its file system says it now (`ask`), or as the kernel has it, which asks nobody. No birth time.
///
/// # Errors
/// What the system says.
pub fn look_fd(fd: BorrowedFd<'_>, ask: bool) -> io::Result<Stat> {
    const FORCE_SYNC: i32 = 0x2000;
    const DONT_SYNC: i32 = 0x4000;
    let sync = if ask { FORCE_SYNC } else { DONT_SYNC };
    let how = (libc::AT_EMPTY_PATH | sync, STATX_BASIC);
    statx(fd.as_raw_fd(), c"", how)
}

#[inline]
fn statx(dir: i32, name: &CStr, (flags, mask): (i32, u32)) -> io::Result<Stat> {
    let mut out = Statx::EMPTY;
    let call = || {
        // SAFETY: `name` ends with a zero, and `out` is a live `struct statx` that the kernel fills.
        unsafe {
            libc::syscall(
                libc::SYS_statx,
                dir,
                name.as_ptr(),
                flags,
                mask,
                &raw mut out,
            )
        }
    };
    match calls::timed(Count::Stat, || path_of(name), call) {
        0 => Ok(out.stat()),
        _ => last_error(),
    }
}

/// Rules of an open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolve(u64);

impl Resolve {
    const NO_XDEV: u64 = 1;
    const NO_MAGICLINKS: u64 = 2;
    const NO_SYMLINKS: u64 = 4;
    const BENEATH: u64 = 8;

    /// For a root: links lead to it, but not those of `/proc`.
    pub fn root() -> Self {
        Self(Self::NO_MAGICLINKS)
    }

    /// For what is below: no link, no way up, and no other mount unless `cross` says so.
    pub fn below(cross: bool) -> Self {
        let mount = if cross { 0 } else { Self::NO_XDEV };
        Self(Self::NO_SYMLINKS | Self::NO_MAGICLINKS | Self::BENEATH | mount)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

/// `struct open_how` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenHow {
    pub(super) flags: u64,
    pub(super) mode: u64,
    pub(super) resolve: u64,
}

fn openat2(
    class: Class,
    dir: Option<BorrowedFd<'_>>,
    path: &CStr,
    flags: i32,
    resolve: Resolve,
) -> io::Result<OwnedFd> {
    let how = OpenHow {
        flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()),
        mode: 0,
        resolve: resolve.0,
    };
    let dir = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    let call = || {
        // SAFETY: `path` ends with a zero, `how` is a live `struct open_how` of the size named.
        unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir,
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        }
    };
    loop {
        let fd = calls::timed(class.into(), || path_of(path), call);
        if fd >= 0 {
            let fd = i32::try_from(fd).expect("descriptors are small");
            // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        // A path with `..` that somebody renames meanwhile; below roots there is none, but the kernel may say so for a mount too.
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
            return Err(error);
        }
    }
}

/// Opens a directory to list it: a root, or one below `parent`.
///
/// # Errors
/// What the system says; `EXDEV` if it is another mount and that was not wanted.
pub fn open_dir(
    parent: Option<BorrowedFd<'_>>,
    path: &CStr,
    resolve: Resolve,
) -> io::Result<OwnedFd> {
    let mut flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK;
    if parent.is_some() {
        flags |= libc::O_NOFOLLOW;
    }
    openat2(Class::Directory, parent, path, flags, resolve)
}

/// How a file is opened to be hashed: what turns out to be a fifo or a terminal neither blocks nor becomes ours.
pub(super) const DATA_FLAGS: i32 =
    libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Opens a file to read it; the caller looks at what it is before it reads.
///
/// # Errors
/// What the system says.
pub fn open_data(
    dir: Option<BorrowedFd<'_>>,
    path: &CStr,
    resolve: Resolve,
) -> io::Result<OwnedFd> {
    openat2(Class::Data, dir, path, DATA_FLAGS, resolve)
}

/// Bytes of a buffer for listings.
const LIST_BYTES: usize = 64 << 10;

/// A directory's names, in its own order.
#[derive(Debug)]
pub struct Listing {
    buf: Box<[u64; LIST_BYTES / 8]>,
    filled: usize,
    at: usize,
}

impl Default for Listing {
    fn default() -> Self {
        Self {
            buf: Box::new([0; LIST_BYTES / 8]),
            filled: 0,
            at: 0,
        }
    }
}

/// One name.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The name, as the kernel gave it.
    pub name: &'a CStr,
    /// What it is.
    pub kind: Kind,
    /// Its inode number.
    pub ino: u64,
}

impl Listing {
    /// Forgets what is left of the last directory.
    pub fn clear(&mut self) {
        (self.filled, self.at) = (0, 0);
    }

    /// The next name, itself and its parent left out. None at the end.
    ///
    /// # Errors
    /// What the system says: the rest of the directory is not known.
    #[inline]
    pub fn next(&mut self, dir: BorrowedFd<'_>) -> io::Result<Option<Name<'_>>> {
        loop {
            if self.at >= self.filled && !self.fill(dir)? {
                return Ok(None);
            }
            let start = self.at;
            let head = &self.bytes()[start..];
            let len = usize::from(u16::from_ne_bytes([head[16], head[17]]));
            self.at += len.max(24);
            let name = &self.bytes()[start + 19..start + len];
            if matches!(name, [b'.', 0, ..] | [b'.', b'.', 0, ..]) {
                continue;
            }
            return Ok(Some(self.name(start, len)));
        }
    }

    /// Names in the buffer are over: the next one costs a call.
    pub fn at_edge(&self) -> bool {
        self.at >= self.filled
    }

    fn name(&self, start: usize, len: usize) -> Name<'_> {
        let entry = &self.bytes()[start..start + len];
        let mut ino = [0; 8];
        ino.copy_from_slice(&entry[..8]);
        let kind = match entry[18] {
            libc::DT_REG => Kind::File,
            libc::DT_DIR => Kind::Dir,
            libc::DT_UNKNOWN => Kind::Unknown,
            _ => Kind::Other,
        };
        Name {
            name: CStr::from_bytes_until_nul(&entry[19..]).unwrap_or(c"?"),
            kind,
            ino: u64::from_ne_bytes(ino),
        }
    }

    fn bytes(&self) -> &[u8] {
        zerocopy::IntoBytes::as_bytes(self.buf.as_slice())
    }

    fn fill(&mut self, dir: BorrowedFd<'_>) -> io::Result<bool> {
        let buf = self.buf.as_mut_ptr();
        let call = || {
            // SAFETY: the kernel writes at most the length named, which is that of the buffer.
            unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf, LIST_BYTES) }
        };
        let filled = calls::timed(Count::List, || Path::new(""), call);
        self.at = 0;
        self.filled = usize::try_from(filled).or_else(|_| last_error())?;
        Ok(self.filled > 0)
    }
}

/// Value of the attribute `attr` of `name` in `dir`, at most `out.len()` bytes of it; nothing is opened.
///
/// # Errors
/// What the system says: `ENODATA` for none, `ERANGE` for a longer one.
pub fn getxattr_at(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attr: &CStr,
    out: &mut [u8],
) -> io::Result<usize> {
    #[repr(C)]
    struct XattrArgs {
        value: u64,
        size: u32,
        flags: u32,
    }
    const SYS_GETXATTRAT: libc::c_long = 464;
    let args = XattrArgs {
        value: out.as_mut_ptr() as u64,
        size: u32::try_from(out.len()).unwrap_or(u32::MAX),
        flags: 0,
    };
    let call = || {
        // SAFETY: names end with a zero; `args` is a live `struct xattr_args` whose value points to `size` bytes we may write.
        unsafe {
            libc::syscall(
                SYS_GETXATTRAT,
                dir.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                attr.as_ptr(),
                &raw const args,
                size_of::<XattrArgs>(),
            )
        }
    };
    let done = calls::timed(Count::GetXattr, || path_of(name), call);
    if let Ok(len) = usize::try_from(done) {
        return Ok(len);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Before 6.13: the same by a path that leads through our own descriptor, however long the real one is.
        Some(libc::ENOSYS) => lgetxattr(&through_proc(dir, name), attr, out),
        _ => Err(error),
    }
}

fn through_proc(dir: BorrowedFd<'_>, name: &CStr) -> std::ffi::CString {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    std::ffi::CString::new(path).expect("a name has no zero inside")
}

fn lgetxattr(path: &CStr, attr: &CStr, out: &mut [u8]) -> io::Result<usize> {
    let call = || {
        // SAFETY: names end with a zero; the kernel writes at most the length named, which is that of `out`.
        unsafe {
            libc::lgetxattr(
                path.as_ptr(),
                attr.as_ptr(),
                out.as_mut_ptr().cast(),
                out.len(),
            )
        }
    };
    let done = calls::timed(Count::GetXattr, || path_of(path), call);
    usize::try_from(done).or_else(|_| last_error())
}

/// Sets the attribute `attr` of `name` in `dir`, without opening it.
///
/// # Errors
/// What the system says.
pub fn setxattr_at(dir: BorrowedFd<'_>, name: &CStr, attr: &CStr, value: &[u8]) -> io::Result<()> {
    let path = through_proc(dir, name);
    let call = || {
        // SAFETY: names end with a zero; the kernel reads the length named, which is that of `value`.
        unsafe {
            libc::lsetxattr(
                path.as_ptr(),
                attr.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        }
    };
    match calls::timed(Count::SetXattr, || path_of(&path), call) {
        0 => Ok(()),
        _ => last_error(),
    }
}

/// UUID of the file system that `fd` is on, where the kernel says (6.9) and it has one.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    #[repr(C)]
    struct Uuid {
        len: u8,
        uuid: [u8; 16],
    }
    /// `_IOR(0x15, 0, struct fsuuid2)`.
    const GET_UUID: u32 = 2 << 30 | 17 << 16 | 0x15 << 8;
    let mut out = Uuid {
        len: 0,
        uuid: [0; 16],
    };
    let request = libc::c_long::from(GET_UUID);
    // SAFETY: `out` is a live `struct fsuuid2`, which is what this request fills.
    let done = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, &raw mut out) };
    (done == 0 && out.len == 16 && out.uuid != [0; 16]).then_some(out.uuid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_listing_and_stats_agree_with_the_standard_library() {
        let dir = std::env::temp_dir().join(format!("zring-stat-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        for i in 0..3000 {
            std::fs::write(dir.join(format!("a name that takes some room {i}")), "x").unwrap();
        }
        std::os::unix::fs::symlink("sub", dir.join("link")).unwrap();
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap();
        let fd = open_dir(None, &path, Resolve::root()).unwrap();
        let mut listing = Listing::default();
        let mut kinds = [0; 4];
        while let Some(name) = listing.next(fd.as_fd()).unwrap() {
            kinds[name.kind as usize] += 1;
            let stat = stat_at(fd.as_fd(), name.name, Freshness::Usual).unwrap();
            let meta = std::fs::symlink_metadata(dir.join(path_of(name.name))).unwrap();
            let w = stat.witness;
            assert_eq!(
                (w.ino, w.size, stat.kind),
                (meta.ino(), meta.len(), name.kind)
            );
            assert_eq!(
                (w.mtime.s, i64::from(w.mtime.ns)),
                (meta.mtime(), meta.mtime_nsec())
            );
            assert_eq!(
                (w.ctime.s, i64::from(w.ctime.ns)),
                (meta.ctime(), meta.ctime_nsec())
            );
        }
        assert_eq!(kinds, [3000, 1, 1, 0]);
        let below = Resolve::below(false);
        assert!(open_dir(Some(fd.as_fd()), c"sub", below).is_ok());
        assert!(open_dir(Some(fd.as_fd()), c"link", below).is_err());
        assert!(open_dir(Some(fd.as_fd()), c"..", below).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn attributes_come_by_both_ways() {
        let dir = std::env::temp_dir().join(format!("zring-xattr-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("f"), "x").unwrap();
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap();
        let fd = open_dir(None, &path, Resolve::root()).unwrap();
        let mut out = [0; 8];
        let none = getxattr_at(fd.as_fd(), c"f", c"user.zring", &mut out).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::ENODATA));
        setxattr_at(fd.as_fd(), c"f", c"user.zring", b"12345678").unwrap();
        assert_eq!(
            getxattr_at(fd.as_fd(), c"f", c"user.zring", &mut out).unwrap(),
            8
        );
        let proc = through_proc(fd.as_fd(), c"f");
        assert_eq!(lgetxattr(&proc, c"user.zring", &mut out).unwrap(), 8);
        let long = lgetxattr(&proc, c"user.zring", &mut out[..4]).unwrap_err();
        assert_eq!(long.raw_os_error(), Some(libc::ERANGE));
        assert_eq!(&out, b"12345678");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
