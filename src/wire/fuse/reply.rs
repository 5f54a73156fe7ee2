//! What the kernel is told: replies written in place.
//!
//! Each function writes a reply body to the front of a buffer and returns its length. The 16-byte header in
//! front of it belongs to the transport, which knows where it goes.

use super::abi::{self, Attr, AttrOut, EntryOut, Kstatfs, OpenOut, OutHeader, WriteOut};
use crate::base::{NodeId, Unique};

/// How long the kernel may use names and attributes without asking, in whole seconds.
pub const CACHE_S: u64 = 1;

fn put<T: vm_memory::ByteValued>(out: &mut [u8], value: &T) -> usize {
    let bytes = abi::bytes(value);
    out[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// The header of a reply whose body has `len` bytes, or of an error.
pub fn header(unique: Unique, outcome: Result<usize, i32>) -> OutHeader {
    let (len, error) = match outcome {
        Ok(len) => (len, 0),
        Err(errno) => (0, -errno),
    };
    let len = u32::try_from(abi::OUT_HEADER_LEN + len).expect("a reply is at most a few MiB");
    OutHeader {
        len,
        error,
        unique: unique.0,
    }
}

/// A found name, whose attributes may be used for so many seconds.
pub fn entry(out: &mut [u8], attr: Attr, attr_valid: u64) -> usize {
    let entry = EntryOut {
        nodeid: attr.ino,
        entry_valid: CACHE_S,
        attr_valid,
        attr,
        ..Default::default()
    };
    put(out, &entry)
}

/// Attributes.
pub fn attr(out: &mut [u8], attr: Attr) -> usize {
    put(
        out,
        &AttrOut {
            attr_valid: CACHE_S,
            attr,
            ..Default::default()
        },
    )
}

/// An opened file.
pub fn open(out: &mut [u8], fh: u64, flags: u32) -> usize {
    put(
        out,
        &OpenOut {
            fh,
            open_flags: flags,
            ..Default::default()
        },
    )
}

/// Bytes that a WRITE took.
pub fn write(out: &mut [u8], len: usize) -> usize {
    let size = u32::try_from(len).expect("a WRITE fits a payload");
    put(out, &WriteOut { size, padding: 0 })
}

/// Figures of the file system: nothing is counted, blocks are 2 MiB.
pub fn statfs(out: &mut [u8]) -> usize {
    let block = 2 << 20;
    put(
        out,
        &Kstatfs {
            bsize: block,
            frsize: block,
            namelen: 255,
            ..Default::default()
        },
    )
}

/// Appends one directory entry at `len`, if it fits into `out`; returns the new length.
pub fn dirent(
    out: &mut [u8],
    len: usize,
    ino: NodeId,
    cookie: u64,
    dir: bool,
    name: &[u8],
) -> Option<usize> {
    let head_len = size_of::<abi::Dirent>();
    let end = len + (head_len + name.len()).next_multiple_of(8);
    let slot = out.get_mut(len..end)?;
    let kind = if dir { libc::DT_DIR } else { libc::DT_REG };
    let namelen = u32::try_from(name.len()).expect("names have at most 255 bytes");
    let head = abi::Dirent {
        ino: ino.0,
        off: cookie,
        namelen,
        type_: u32::from(kind),
    };
    slot.fill(0);
    put(slot, &head);
    slot[head_len..head_len + name.len()].copy_from_slice(name);
    Some(end)
}

/// The answer to INIT.
pub fn init(out: &mut [u8], accept: &Accept) -> usize {
    out[..abi::INIT_OUT_LEN].fill(0);
    let low = |flags: u64| u32::try_from(flags & 0xffff_ffff).expect("masked");
    let words32 = [
        (0, 7),
        (4, accept.minor),
        (8, accept.max_readahead),
        (12, low(accept.flags)),
        (20, accept.max_write),
        (24, 1), // nanosecond time stamps
        (32, low(accept.flags >> 32)),
    ];
    for (at, word) in words32 {
        out[at..at + 4].copy_from_slice(&u32::to_ne_bytes(word));
    }
    for (at, word) in [
        (16, accept.max_background),
        (18, accept.max_background / 4 * 3),
        (28, accept.max_pages),
    ] {
        out[at..at + 2].copy_from_slice(&u16::to_ne_bytes(word));
    }
    // Kernels before 7.23 take the first 24 bytes only.
    if accept.minor < 23 {
        24
    } else {
        abi::INIT_OUT_LEN
    }
}

/// What the daemon takes of an INIT offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Protocol minor both sides use.
    pub minor: u32,
    /// Bytes of readahead; the kernel's own.
    pub max_readahead: u32,
    /// Flag bits, both words.
    pub flags: u64,
    /// Largest WRITE and RETRIEVE, bytes.
    pub max_write: u32,
    /// Largest READ, pages of 4 KiB.
    pub max_pages: u16,
    /// Asynchronous requests in flight.
    pub max_background: u16,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn directory_entries_are_padded_and_never_overrun() {
        let mut out = [0xff; 64];
        let len = dirent(&mut out, 0, NodeId(2), 7, true, b"head").unwrap();
        assert_eq!(len, 32);
        assert_eq!(&out[24..32], b"head\0\0\0\0");
        assert_eq!(
            dirent(&mut out, len, NodeId(3), 8, false, b"0123456789"),
            None
        );
        assert_eq!(
            dirent(&mut out, len, NodeId(3), 8, false, b"01234567"),
            Some(64)
        );
    }

    #[test]
    fn the_init_reply_has_its_fields_where_the_kernel_looks() {
        let mut out = [0; 64];
        let accept = Accept {
            minor: 45,
            max_readahead: 131_072,
            flags: abi::init::INIT_EXT | abi::init::OVER_IO_URING,
            max_write: 1 << 20,
            max_pages: 256,
            max_background: 64,
        };
        assert_eq!(init(&mut out, &accept), 64);
        let u32_at = |at: usize| u32::from_ne_bytes(out[at..at + 4].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(4), u32_at(20)), (7, 45, 1 << 20));
        assert_eq!((u32_at(12), u32_at(32)), (1 << 30, 1 << 9));
        assert_eq!(out[16..20], [64u16, 48].map(u16::to_ne_bytes).concat()[..]);
        assert_eq!(out[28..30], 256u16.to_ne_bytes());
    }
}
