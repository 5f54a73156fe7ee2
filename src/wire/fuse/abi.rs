//! Layout of FUSE messages: structures, numbers, sizes.
//!
//! The classic structures come from `fuse-backend-rs`, which speaks protocol 7.33; what is newer (the
//! blocks of FUSE over io_uring, flags beyond bit 31) is declared here. Sizes are asserted at compile
//! time: they are the specification.

pub use fuse_backend_rs::abi::fuse_abi::{
    Attr, AttrOut, Dirent, EntryOut, ForgetOne, GetattrIn, InHeader, InitIn, InitIn2, InterruptIn,
    Kstatfs, NotifyInvalEntryOut, NotifyInvalInodeOut, NotifyRetrieveIn, NotifyStoreOut, OpenIn,
    OpenOut, OutHeader, ReadIn, ReleaseIn, WriteIn, WriteOut,
};
use vm_memory::ByteValued;

/// Reads a structure from the front of `bytes`; `None` when there are too few.
pub fn read<T: ByteValued + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    value
        .as_mut_slice()
        .copy_from_slice(bytes.get(..size_of::<T>())?);
    Some(value)
}

/// The bytes of a structure.
pub fn bytes<T: ByteValued>(value: &T) -> &[u8] {
    value.as_slice()
}

/// Bytes of a request header.
pub const IN_HEADER_LEN: usize = 40;
/// Bytes of a reply header.
pub const OUT_HEADER_LEN: usize = 16;
/// Bytes of the INIT reply this daemon writes.
pub const INIT_OUT_LEN: usize = 64;

const _: () = {
    assert!(size_of::<InHeader>() == IN_HEADER_LEN);
    assert!(size_of::<OutHeader>() == OUT_HEADER_LEN);
    assert!(size_of::<Attr>() == 88);
    assert!(size_of::<EntryOut>() == 128);
    assert!(size_of::<AttrOut>() == 104);
    assert!(size_of::<ReadIn>() == 40);
    assert!(size_of::<WriteIn>() == 40);
    assert!(size_of::<WriteOut>() == 8);
    assert!(size_of::<OpenOut>() == 16);
    assert!(size_of::<ReleaseIn>() == 24);
    assert!(size_of::<Kstatfs>() == 80);
    assert!(size_of::<Dirent>() == 24);
    assert!(size_of::<NotifyInvalInodeOut>() == 24);
    assert!(size_of::<NotifyStoreOut>() == 24);
    assert!(size_of::<NotifyRetrieveIn>() == 40);
    assert!(size_of::<RingBlock>() == 288);
};

/// Operation numbers the daemon knows by name; all others are answered ENOSYS.
#[allow(missing_docs, reason = "the names are the kernel's")]
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const ACCESS: u32 = 34;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const POLL: u32 = 40;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const LSEEK: u32 = 46;
    pub const STATX: u32 = 52;
}

/// Bytes of the fixed structure an operation starts with, which a ring delivers apart from the rest.
///
/// Operations that carry only names have none; what a ring holds there is left over from before.
pub fn fixed_len(opcode: u32) -> usize {
    match opcode {
        op::FORGET | op::OPEN | op::OPENDIR | op::SETXATTR | op::GETXATTR | op::LISTXATTR => 8,
        op::ACCESS | op::INTERRUPT | op::BATCH_FORGET => 8,
        9 | 12 | 13 => 8,            // MKDIR, RENAME, LINK
        op::GETATTR | 20 | 30 => 16, // FSYNC, FSYNCDIR
        8 | 35 | 45 | 51 => 16,      // MKNOD, CREATE, RENAME2, TMPFILE
        op::RELEASE | op::RELEASEDIR | op::FLUSH | op::POLL | op::LSEEK | op::STATX => 24,
        op::IOCTL | 43 => 32, // FALLOCATE
        op::READ | op::READDIR | 44 | op::WRITE | op::NOTIFY_REPLY => 40,
        op::INIT => 64,
        4 => 88, // SETATTR
        _ => 0,
    }
}

/// INIT flags, bits as numbered by the protocol; 32 and up travel in `flags2`.
#[allow(missing_docs, reason = "the names are the kernel's")]
pub mod init {
    pub const ASYNC_READ: u64 = 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// Flags of an OPEN reply.
#[allow(missing_docs, reason = "the names are the kernel's")]
pub mod fopen {
    pub const DIRECT_IO: u32 = 1;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NONSEEKABLE: u32 = 1 << 2;
    pub const STREAM: u32 = 1 << 4;
    pub const NOFLUSH: u32 = 1 << 5;
}

/// URING_CMD operations.
#[allow(missing_docs, reason = "the names are the kernel's")]
pub mod ring_cmd {
    pub const REGISTER: u32 = 1;
    pub const COMMIT_AND_FETCH: u32 = 2;
}

/// The header block of one ring entry: request header in, reply header out, the operation's fixed
/// structure, and the sizes that go with the payload buffer.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct RingBlock {
    /// Request header on fetch (40 bytes); the daemon puts the reply header (16 bytes) here.
    pub in_out: [u8; 128],
    /// Fixed structure of the operation.
    pub op_in: [u8; 128],
    /// Always 0.
    pub flags: u64,
    /// Names the request in the commit; read it at fetch, the kernel does not keep it here.
    pub commit_id: u64,
    /// Bytes in the payload buffer, both ways.
    pub payload_sz: u32,
    /// Unused.
    pub padding: u32,
    /// Unused.
    pub reserved: u64,
}

impl Default for RingBlock {
    fn default() -> Self {
        Self {
            in_out: [0; 128],
            op_in: [0; 128],
            flags: 0,
            commit_id: 0,
            payload_sz: 0,
            padding: 0,
            reserved: 0,
        }
    }
}
