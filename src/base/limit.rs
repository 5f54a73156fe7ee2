//! Every bound in the daemon, each with its arithmetic (I7: everything that can grow has a bound here).

/// Largest object record accepted unless configured otherwise (`max_record`).
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Largest object record that may be configured, and largest output of an inflated record.
pub const RECORD_BYTES_CEILING: usize = 1 << 30;

/// Pickle: values on the stack. A bucket of 60 entries needs 120; writers may build larger nodes.
pub const PICKLE_STACK_MAX: usize = 1 << 20;
/// Pickle: open MARKs.
pub const PICKLE_MARK_DEPTH_MAX: usize = 1000;
/// Pickle: memo slots; never more than the record has bytes either.
pub const PICKLE_MEMO_MAX: usize = 4 << 20;
/// Pickle: operand of a line-based opcode (GLOBAL, INT), in bytes without the line feed.
pub const PICKLE_LINE_MAX: usize = 1024;

/// Height of a BTree. 500 children a node reach 10^9 blocks at height 4; 64 stops a crafted chain.
pub const TREE_HEIGHT_MAX: usize = 64;

/// One line of `head/watch`.
pub const WATCH_LINE_BYTES_MAX: usize = 4 << 10;

/// Decoded tree nodes and chunk tables a worker keeps, in bytes (`block_cache` is shared among workers).
pub const BLOCK_CACHE_BYTES: usize = 16 << 20;

/// Ring entries of one worker. A parked request costs its entry: 8192 parked READs of 128 KiB are 1 GiB at
/// worst, and by then the kernel's own queue takes over without losing anything.
pub const QUEUE_ENTRIES_MAX: usize = 8192;
/// Messages of `/dev/fuse` a worker holds; it stops reading when so many are parked.
pub const MESSAGES_MAX: usize = 4096;
/// Bytes of one READ, WRITE, STORE or RETRIEVE: what 256 pages hold.
pub const PAYLOAD_BYTES: usize = 1 << 20;
/// Asynchronous requests (readahead) the kernel may have in flight.
pub const BACKGROUND_MAX: u16 = 256;
