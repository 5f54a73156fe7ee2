//! What the kernel is told unasked: the heads of notifications.
//!
//! A notification is a reply header with `unique` 0 and its code in place of the error, then a structure,
//! then data. The functions build the head; data follows it in the same writev(2).

use super::abi::{self, NotifyInvalEntryOut, NotifyInvalInodeOut, NotifyStoreOut, OutHeader};
use crate::base::NodeId;

/// Code of each notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    InvalInode = 2,
    InvalEntry = 3,
    Store = 4,
    Retrieve = 5,
    Prune = 9,
}

/// Longest head: a header and the largest structure.
pub const HEAD_LEN_MAX: usize = 48;

/// The head of a notification, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD_LEN_MAX],
    len: usize,
}

impl Head {
    fn new(code: Code, body: &[u8], data_len: usize) -> Self {
        let len = abi::OUT_HEADER_LEN + body.len();
        let total = u32::try_from(len + data_len).expect("a notification is at most a few MiB");
        let header = OutHeader {
            len: total,
            error: code as i32,
            unique: 0,
        };
        let mut bytes = [0; HEAD_LEN_MAX];
        bytes[..abi::OUT_HEADER_LEN].copy_from_slice(abi::bytes(&header));
        bytes[abi::OUT_HEADER_LEN..len].copy_from_slice(body);
        Self { bytes, len }
    }

    /// What is to be written before the data.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Drop the pages of `[off, off + len)`; `len` 0 means to the end. Attributes expire too.
    pub fn inval_inode(node: NodeId, off: u64, len: u64) -> Self {
        let (off, len) = (signed(off), signed(len));
        Self::new(
            Code::InvalInode,
            abi::bytes(&NotifyInvalInodeOut {
                ino: node.0,
                off,
                len,
            }),
            0,
        )
    }

    /// Let the attributes expire and keep every page.
    pub fn inval_attr(node: NodeId) -> Self {
        let body = NotifyInvalInodeOut {
            ino: node.0,
            off: -1,
            len: -1,
        };
        Self::new(Code::InvalInode, abi::bytes(&body), 0)
    }

    /// Forget that `name` is in directory `parent`. The name and a NUL follow.
    pub fn inval_entry(parent: NodeId, name: &[u8]) -> Self {
        let namelen = u32::try_from(name.len()).expect("names have at most 255 bytes");
        let body = NotifyInvalEntryOut {
            parent: parent.0,
            namelen,
            padding: 0,
        };
        Self::new(Code::InvalEntry, abi::bytes(&body), name.len() + 1)
    }

    /// Let go of the names of `count` nodes, whose numbers follow, as far as nobody uses them (Linux 6.18).
    pub fn prune(count: usize) -> Self {
        let nodes = u32::try_from(count).expect("a few hundred nodes");
        let mut body = [0; 16];
        body[..4].copy_from_slice(&nodes.to_ne_bytes());
        Self::new(Code::Prune, &body, 8 * count)
    }

    /// Put `len` bytes that follow into the page cache at `off`.
    pub fn store(node: NodeId, off: u64, len: usize) -> Self {
        let size = u32::try_from(len).expect("a store is at most a few MiB");
        let body = NotifyStoreOut {
            nodeid: node.0,
            offset: off,
            size,
            padding: 0,
        };
        Self::new(Code::Store, abi::bytes(&body), len)
    }

    /// Ask for the cached pages at `off`; the answer is a NOTIFY_REPLY with unique `id`.
    pub fn retrieve(id: RetrieveId, node: NodeId, off: u64, len: RetrieveLen) -> Self {
        let mut body = [0; 32];
        for (at, word) in [
            (0, id.unique()),
            (8, node.0),
            (16, off),
            (24, u64::from(len.0)),
        ] {
            body[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
        Self::new(Code::Retrieve, &body, 0)
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).expect("file offsets are below 2^63")
}

/// Number of a RETRIEVE among the kernel's own requests: bit 62 keeps it apart from those, bit 0 is free for
/// an INTERRUPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetrieveId(pub u32);

impl RetrieveId {
    /// The RETRIEVE of no bytes that wakes a queue (kernel-note 0011); the others count from 0.
    pub const KICK: Self = Self(u32::MAX);

    /// The RETRIEVE that tells whether a kernel gives back pages that nobody filled.
    pub const PROBE: Self = Self(u32::MAX - 1);

    /// The `unique` its answer will carry.
    pub fn unique(self) -> u64 {
        1 << 62 | u64::from(self.0) << 1
    }

    /// From the `unique` of a NOTIFY_REPLY.
    pub fn from_unique(unique: u64) -> Option<Self> {
        let rest = unique ^ 1 << 62;
        (rest & 1 == 0).then(|| u32::try_from(rest >> 1).ok().map(Self))?
    }
}

/// Bytes of a RETRIEVE, never more than the ring's payload less a page.
///
/// The answer needs 40 bytes beside the pages in a buffer of exactly `payload` bytes; a kernel that finds
/// too little room there stops with a failed assertion inside its own lock, and only a reboot heals that.
// kernel-note 0001
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetrieveLen(u32);

impl RetrieveLen {
    const PAGE: u32 = 4096;

    /// The longest RETRIEVE for a ring whose payload has `payload` bytes.
    pub fn max(payload: u32) -> Self {
        Self(payload.saturating_sub(Self::PAGE) / Self::PAGE * Self::PAGE)
    }

    /// `want` bytes, or as many as are safe.
    pub fn clamp(want: u64, payload: u32) -> Self {
        Self(
            u32::try_from(want)
                .unwrap_or(u32::MAX)
                .min(Self::max(payload).0),
        )
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retrieve_never_reaches_the_payload_less_a_page() {
        for payload in [0, 4095, 4096, 8192, 131_072, 1 << 20, 2 << 20, u32::MAX] {
            for want in [
                0,
                1,
                4096,
                u64::from(payload),
                u64::from(payload) + 1,
                u64::MAX,
            ] {
                let len = RetrieveLen::clamp(want, payload).bytes();
                assert!(
                    u64::from(len) + 4096 <= u64::from(payload).max(4096),
                    "{payload} {want}"
                );
            }
        }
        assert_eq!(RetrieveLen::max(1 << 20).bytes(), 1020 << 10);
    }

    #[test]
    fn retrieve_numbers_are_even_and_far_from_the_kernels() {
        for n in [0, 1, u32::MAX] {
            let unique = RetrieveId(n).unique();
            assert_eq!((unique & 1, unique >> 62), (0, 1));
            assert_eq!(RetrieveId::from_unique(unique), Some(RetrieveId(n)));
        }
        assert_eq!(RetrieveId::from_unique(4), None);
    }

    #[test]
    fn heads_have_the_length_they_announce() {
        let head = Head::store(NodeId(5), 8192, 4096);
        assert_eq!(head.as_bytes().len(), 40);
        assert_eq!(
            head.as_bytes()[..8],
            [(40 + 4096u32).to_ne_bytes(), 4u32.to_ne_bytes()].concat()[..]
        );
        assert_eq!(
            Head::inval_attr(NodeId(5)).as_bytes()[24..32],
            (-1i64).to_ne_bytes()
        );
    }
}
