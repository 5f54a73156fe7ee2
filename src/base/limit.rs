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

/// FileStorage: entries of a scan kept unsorted, 16 bytes each: 16 MiB. A single larger transaction adds its own.
pub const INDEX_PENDING_MAX: usize = 1 << 20;
/// FileStorage: largest piece a scan reads at once.
pub const SCAN_WINDOW_BYTES_MAX: usize = 4 << 20;
/// FileStorage: records at the end of a saved index that are compared with the file before it is used.
pub const INDEX_TRUST_RECORDS_MIN: usize = 100;
/// FileStorage: entries all over a saved index that are compared with the file: a tenth of a second on a disk.
pub const INDEX_SAMPLE: usize = 1000;

/// FileStorage: bytes of data read with a record's header, before its length is known. A chunk of 4 KiB with its
/// pickle around it fits.
pub const LOAD_SMALL_BYTES: usize = 4096 + 256;
/// FileStorage: two records this near to each other are read in one go: 16 KiB cost less than a second read.
pub const LOAD_GAP_BYTES_MAX: u64 = 16 << 10;
/// FileStorage: bytes read in one go, unless a single record is larger.
pub const LOAD_RUN_BYTES_MAX: usize = 1 << 20;
/// FileStorage: bytes of data shown of a located record: what tells its class and where raw bytes begin.
pub const LOCATE_PREFIX_BYTES: usize = 256;
/// FileStorage: transactions remembered to recognise a file that takes the place of the one followed.
pub const RECENT_TXNS_MAX: usize = 1000;
/// FileStorage: oids in those transactions, 8 bytes each: 8 MiB.
pub const RECENT_OIDS_MAX: usize = 1 << 20;
/// FileStorage: commits given out by one poll; the rest follows in the next.
pub const POLL_COMMITS_MAX: usize = 1000;
/// FileStorage: transactions of a new file that continue the old one; beyond, continuity is given up.
pub const REOPEN_COMMITS_MAX: usize = 100_000;
/// FileStorage: records visited when a file is opened, to remember its last transactions: a second on a cold disk.
pub const RECENT_RECORDS_AT_OPEN: usize = 10_000;
/// Check of a database: findings kept; further ones are counted.
pub const FINDINGS_MAX: usize = 1000;
