//! What stat shows.

use super::tree::{FileNode, Node};
use crate::base::{NodeId, Rev, Tid, tidtime::UnixTime};
use crate::wire::fuse::abi::Attr;

/// Who owns every node: the user the daemon runs as.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

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
        self.attr(id, libc::S_IFDIR | mode, 0, time)
    }

    /// A small file of `len` bytes.
    pub fn small(self, id: NodeId, len: usize) -> Attr {
        self.attr(id, libc::S_IFREG | 0o644, len as u64, None)
    }

    /// A big file.
    pub fn file(self, file: &FileNode, size: u64, blksize: u64) -> Attr {
        let mut attr = self.attr(file.id, libc::S_IFREG | 0o444, size, file.mtime());
        attr.blksize = u32::try_from(blksize & 0xffff_ffff).expect("masked");
        attr
    }
}
