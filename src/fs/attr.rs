//! What stat shows.

use super::tree::{FileNode, Node, fixed};
use crate::base::{NodeId, Rev, Tid, tidtime::UnixTime};
use crate::wire::fuse::abi::Attr;

/// Who may enter the mount. Unless it is the owner alone, the kernel goes by the modes that are shown here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody but its owner; modes are for show.
    #[default]
    Owner,
    /// A group, too.
    Group,
    /// Everybody; who watches has to be of the group.
    All,
}

/// Who owns every node: the user the daemon runs as.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Who else may do what.
    pub access: Access,
}

/// Mode of `head/watch` where others may enter.
const WATCH: u32 = 0o660;

impl Owner {
    fn attr(self, id: NodeId, mode: u32, size: u64, time: Option<Tid>) -> Attr {
        let time = time.map_or(UnixTime { sec: 0, nsec: 0 }, Tid::time);
        // The wire carries seconds unsigned; the kernel reads them back as signed.
        let sec = time.sec.cast_unsigned();
        let nlink = if mode & libc::S_IFMT == libc::S_IFDIR {
            2
        } else {
            1
        };
        Attr {
            ino: id.0,
            size,
            mtime: sec,
            ctime: sec,
            mtimensec: time.nsec,
            ctimensec: time.nsec,
            mode,
            nlink,
            uid: self.uid,
            gid: self.gid,
            ..Attr::default()
        }
    }

    /// A directory. Those of a view show the time of their tid.
    pub fn dir(self, id: NodeId, node: &Node, head: Tid) -> Attr {
        let (mode, time) = match node {
            Node::View(Rev::Head) => (0o555, Some(head)),
            Node::View(Rev::At(tid)) => (0o555, Some(*tid)),
            _ => (0o755, None),
        };
        let mode = self.mode(mode, 0o111);
        self.attr(id, libc::S_IFDIR | mode, 0, time)
    }

    /// A small file of `len` bytes.
    pub fn small(self, id: NodeId, len: usize) -> Attr {
        let mode = match self.access {
            Access::Group | Access::All if id == fixed::WATCH => WATCH,
            _ => self.mode(0o644, 0),
        };
        self.attr(id, libc::S_IFREG | mode, len as u64, None)
    }

    /// The owner alone sees `mode`; else all may read who may enter, and whoever reads directories may enter them.
    fn mode(self, mode: u32, execute: u32) -> u32 {
        match self.access {
            Access::Owner => mode,
            Access::Group => (0o444 | execute) & 0o550,
            Access::All => 0o444 | execute,
        }
    }

    /// Whether somebody is the owner, or root: nothing is counted of what it watches.
    pub fn is_trusted(self, uid: u32) -> bool {
        uid == self.uid || uid == 0
    }

    /// Whether somebody may watch; `in_group` tells whether it is of a group.
    pub fn may_watch(self, uid: u32, in_group: impl FnOnce(u32) -> bool) -> bool {
        self.access == Access::Owner || self.is_trusted(uid) || in_group(self.gid)
    }

    /// A big file.
    pub fn file(self, file: &FileNode, size: u64, blksize: u64) -> Attr {
        let mode = self.mode(0o444, 0);
        let mut attr = self.attr(file.id, libc::S_IFREG | mode, size, file.mtime());
        attr.blksize = u32::try_from(blksize & 0xffff_ffff).expect("masked");
        attr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_what_the_owner_allows() {
        let (uid, gid) = (7, 8);
        let modes = |access| {
            let owner = Owner { uid, gid, access };
            let dir = |node| owner.dir(NodeId(3), &node, Tid(1)).mode & 0o7777;
            let small = |id| owner.small(id, 1).mode & 0o7777;
            [
                dir(Node::Root),
                dir(Node::View(Rev::Head)),
                small(fixed::ZURL),
                small(fixed::WATCH),
            ]
        };
        assert_eq!(modes(Access::Owner), [0o755, 0o555, 0o644, 0o644]);
        assert_eq!(modes(Access::Group), [0o550, 0o550, 0o440, 0o660]);
        assert_eq!(modes(Access::All), [0o555, 0o555, 0o444, 0o660]);
    }

    #[test]
    fn who_watches_is_the_owner_root_or_of_the_group() {
        for (access, others) in [
            (Access::Owner, true), // they do not come here
            (Access::Group, false),
            (Access::All, false),
        ] {
            let owner = Owner {
                uid: 7,
                gid: 8,
                access,
            };
            assert!(owner.may_watch(7, |_| false) && owner.may_watch(0, |_| false));
            assert!(owner.may_watch(9, |gid| gid == 8));
            assert_eq!(owner.may_watch(9, |gid| gid == 9), others);
        }
    }
}
