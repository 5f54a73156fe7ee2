//! What a file system is worth: how finely it stamps, what shows on it, whether its answers come from afar.
//!
//! Each device of a tree has its own: a disk of a camera may be mounted in the middle of a tree whose stamps tell each write apart.

use super::walk::locked;
use crate::etag::{Grain, racy};
use crate::kernel::calls;
use crate::kernel::stat::Freshness;
use nix::sys::statfs::fstatfs;
use rustc_hash::FxHashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

const EXT4: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683e;
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const FUSE: i64 = 0x6573_5546;
const NFS: i64 = 0x6969;
const SMB2: i64 = 0xfe53_4d42;
const CIFS: i64 = 0xff53_4d42;
const FAT: i64 = 0x4d44;
const EXFAT: i64 = 0x2011_bab0;
const OVERLAY: i64 = 0x794c_7630;

/// One file system.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How finely its stamps tell writes apart.
    pub grain: Grain,
    /// Whether a rename shows in ctime: then files may be opened and looked at by name.
    pub renames_show: bool,
    /// Whether stores through mappings may never show.
    pub mapped_hide: bool,
    /// Whether attributes may be taken from a cache.
    pub fresh: Freshness,
    /// Its number in `statfs`.
    magic: i64,
}

impl Facts {
    /// Of one that nothing is known of.
    const UNKNOWN: Self = Self {
        grain: racy::FAT,
        renames_show: false,
        mapped_hide: false,
        fresh: Freshness::Usual,
        magic: 0,
    };

    /// Of the one that a directory is on. `strict`: attributes are asked for anew wherever they come from.
    ///
    /// # Errors
    /// It does not say what it is.
    pub fn of(dir: BorrowedFd<'_>, strict: bool) -> io::Result<Self> {
        let facts = fstatfs(dir)?;
        #[allow(
            clippy::useless_conversion,
            reason = "it is unsigned with other C libraries"
        )]
        let magic = i64::try_from(facts.filesystem_type().0).unwrap_or(0);
        let local = matches!(magic, EXT4 | XFS | BTRFS | TMPFS);
        Ok(Self {
            grain: match magic {
                FAT | EXFAT => racy::FAT,
                _ if local && kernel_at_least(6, 13) => Grain::Multi,
                _ => racy::TICK,
            },
            renames_show: local,
            mapped_hide: matches!(magic, TMPFS | RAMFS),
            fresh: if !strict && matches!(magic, NFS | SMB2 | CIFS | FUSE) {
                Freshness::Cached
            } else {
                Freshness::Usual
            },
            magic,
        })
    }

    /// Name of its type, for people.
    pub fn type_name(&self) -> String {
        let known = [
            (EXT4, "ext4"),
            (XFS, "xfs"),
            (BTRFS, "btrfs"),
            (TMPFS, "tmpfs"),
            (RAMFS, "ramfs"),
            (FUSE, "fuse"),
            (NFS, "nfs"),
            (SMB2, "smb2"),
            (CIFS, "cifs"),
            (FAT, "vfat"),
            (EXFAT, "exfat"),
            (OVERLAY, "overlay"),
        ];
        let name = known.iter().find(|(magic, _)| *magic == self.magic);
        name.map_or_else(
            || format!("{:#x}", self.magic),
            |(_, name)| (*name).to_owned(),
        )
    }
}

/// File systems that were met below a root, by device.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<FxHashMap<u64, Facts>>);

impl Others {
    /// Notes one; whether it was not known before.
    pub(super) fn note(&self, dev: u64, facts: Facts) -> bool {
        locked(&self.0).insert(dev, facts).is_none()
    }

    /// Those of a device. Of one that was never noted nothing is taken for granted.
    pub(super) fn of(&self, dev: u64) -> Facts {
        locked(&self.0).get(&dev).copied().unwrap_or(Facts::UNKNOWN)
    }
}

/// Whether a device has to move a head from one place to the next.
pub(super) fn is_rotational(dev: u64) -> bool {
    let disk = format!("/sys/dev/block/{}:{}", dev >> 32, dev & 0xffff_ffff);
    let told = calls::proc_text(&format!("{disk}/queue/rotational"))
        // Of a part of a disk.
        .or_else(|| calls::proc_text(&format!("{disk}/../queue/rotational")));
    told.is_some_and(|told| told.trim() == "1")
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse::<u32>().ok());
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    found >= (major, minor)
}
