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

/// Pickle: items held by the tuples of one record; as many again by its lists and dicts. A bucket entry needs
/// four (oid, class, key, reference), so a full stack (2^20 values, 2^19 entries) needs 2^21.
pub const PICKLE_ITEMS_MAX: usize = 4 << 20;
/// Pickle: lists and dicts of one record. The states that are decoded hold none; old weak references do.
pub const PICKLE_LISTS_MAX: usize = 64 << 10;
/// Pickle: class names of one record. Writers memoise them: a handful is usual.
pub const PICKLE_GLOBALS_MAX: usize = 64 << 10;

/// Leaves without keys that a walk to the left steps over; none stand in a tree that ZODB wrote.
pub const TREE_EMPTY_MAX: usize = 1000;
/// Objects a step asks for at once. A 64 MiB block in chunks of 4 KiB has 16384.
pub const NEED_MAX: usize = 16 << 10;
