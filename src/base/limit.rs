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

/// Watch requests of one link that wait: of users other than the mount's owner, 40 bytes each.
pub const LINK_REQUESTS_MAX: usize = 1024;
/// Those of the owner: some 26 thousand.
pub const LINK_REQUESTS_BYTES_MAX: usize = 1 << 20;
/// Replies that one link has not read; of users other than the mount's owner, everything.
pub const LINK_REPLY_BYTES_MAX: usize = 1 << 20;
/// Pins of one link that nobody waits for any more, and that may be answered still: some 16 bytes each. Of what was before these no
/// answer comes: a client carries out its pins in order.
pub const LINK_WITHDRAWN_MAX: usize = 1 << 16;
/// Pins of watch requests that one client has to answer at a time, 300 bytes each; those that a READ waits for are told at once, on top.
pub const PINS_UNDER_WAY: usize = 4096;
/// Opens of `head/watch` of one user other than the mount's owner, unless configured otherwise (`watch_per_uid`).
pub const USER_LINKS: usize = 64;
/// Files that one such user watches, unless configured otherwise: 300 bytes each.
pub const USER_WATCHES: usize = 4096;
/// Blocks that are pinned for one such user, 40 bytes each: 42 MiB.
pub const USER_PINNED: usize = 1 << 20;
/// Requests of one such user that are taken at once: all its files.
pub const USER_REQUESTS_AT_ONCE: u32 = 4096;
/// Requests of one such user after that. Each asks the history, some 10 us: a hundredth of a CPU.
pub const USER_REQUESTS_PER_SECOND: u32 = 1000;
/// Writes of a link that wait until its user may ask for more, each cut to a line.
pub const LINK_PAUSED_MAX: usize = 16;
/// Such users that are remembered, 100 bytes each.
pub const USERS_MAX: usize = 4096;
/// Requests that wait for something to happen and were not looked at yet, of one worker, 24 bytes each; beyond it those that were answered
/// are taken out. What is left is held, so it is within [`QUEUE_ENTRIES_MAX`] or [`MESSAGES_MAX`].
pub const FRESH_MAX: usize = 2 * QUEUE_ENTRIES_MAX;
/// One line of `head/watch`.
pub const WATCH_LINE_BYTES_MAX: usize = 4 << 10;

/// Decoded nodes of block tables that all workers keep, in bytes. A bucket of 60 blocks takes about 1.3 KiB: 10^6
/// blocks take 22 to 44 MiB in each worker that reads them.
pub const TABLE_CACHE_BYTES: usize = 256 << 20;
/// Heads of blocks, chunk tables and places of raw bytes that all workers keep, in bytes.
pub const BLOCK_CACHE_BYTES: usize = 16 << 20;

/// Workers that look at `/dev/fuse` at any time, unless told otherwise: each request wakes those of them that sleep, which its caller pays for
/// with 2 to 20 us each (kernel-note 0024), and what comes while all are at work waits until one more is awake.
pub const POLLERS: usize = 4;

/// Ring entries of one worker. A parked request costs its entry: 8192 parked READs of 128 KiB are 1 GiB at
/// worst. A worker that holds so many hears nothing more, not even the answers that they wait for: what is parked for long has bounds
/// below, all of which may come to one worker.
pub const QUEUE_ENTRIES_MAX: usize = 8192;
/// Messages of `/dev/fuse` a worker holds; it stops reading when so many are parked.
pub const MESSAGES_MAX: usize = 8192;
/// Opens of `head/watch`, and requests on it that a worker holds: each has a READ waiting for the next message. Users other than the
/// mount's owner have half of it together.
pub const LINKS_MAX: usize = 3584;
/// Requests on `head/watch` of one such user that a worker holds, if its links are not configured to be more than half of that.
pub const USER_WAITING: usize = 512;
/// LOOKUPs of states to come, and reads of zhead, that a worker holds; such users have half of it together.
pub const WAITING_MAX: usize = 256;
/// Room of a worker that nothing parked takes: for answers to pins, INTERRUPT and FORGET.
pub const RESERVED: usize = 256;
/// Descriptors of the daemon that are not for clients of `head/watch`, of which each takes one.
pub const FILES_RESERVED: usize = 192;
/// Bytes of one READ, WRITE, STORE or RETRIEVE: what 256 pages hold.
pub const PAYLOAD_BYTES: usize = 1 << 20;
/// Asynchronous requests the kernel may have in flight: every buffered READ is one. Parked READs beyond it would keep
/// all others in the kernel, so it is far above what a mount parks, and below [`MESSAGES_MAX`] and
/// [`QUEUE_ENTRIES_MAX`], so that READs never use up a worker's room.
pub const BACKGROUND_MAX: u16 = 4000;

const _: () = {
    let parked = BACKGROUND_MAX as usize + LINKS_MAX + WAITING_MAX + RESERVED;
    assert!(parked <= QUEUE_ENTRIES_MAX && parked <= MESSAGES_MAX);
};

/// Pickle: items held by tuples, lists and dicts of one record. A bucket entry needs four (oid, class, key,
/// reference), so a full stack (2^20 values, 2^19 entries) needs 2^21.
pub const PICKLE_ITEMS_MAX: usize = 4 << 20;
/// Pickle: lists and dicts of one record. The states that are decoded hold none; old weak references do.
pub const PICKLE_LISTS_MAX: usize = 64 << 10;
/// Pickle: class names of one record. Writers memoise them: a handful is usual.
pub const PICKLE_GLOBALS_MAX: usize = 64 << 10;

/// Leaves without keys that a walk to the left steps over; none stand in a tree that ZODB wrote.
pub const TREE_EMPTY_MAX: usize = 1000;
/// Objects a step asks for at once. A 64 MiB block in chunks of 4 KiB has 16384.
pub const NEED_MAX: usize = 16 << 10;

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
/// FileStorage: marks on long chains of revisions, of one worker: 16 bytes each, 1 MiB.
pub const CHAIN_MARKS_MAX: usize = 1 << 16;
/// FileStorage: of these, marks on the chain of one object.
pub const CHAIN_MARKS_OF_OBJECT_MAX: usize = 1 << 12;
/// FileStorage: bytes read at once where a walk along a chain has become long, for revisions that lie next to each other.
pub const CHAIN_WINDOW_BYTES: u64 = 4096;
/// FileStorage: reads of one batch that a worker does in a row, if all are in the page cache: of a block of 512
/// sub-objects that lie apart, and more. Then others have their turn.
pub const LOAD_READS_IN_A_ROW_MAX: usize = 640;
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

/// Largest block that is stored whole after a first touch; beyond it readers get what they ask for.
pub const UPLOAD_BYTES_MAX: u64 = 16 << 20;
/// Bytes of stores that wait for their turn before another one is made.
pub const STORE_QUEUE_BYTES_MAX: usize = 4 << 20;
/// Blocks of one worker that are held back until they are pinned: as many bytes as [`STORE_QUEUE_BYTES_MAX`] of the usual size.
pub const STORES_PINNED_MAX: usize = 2;
/// Stores that wait for their turn.
pub const STORES_MAX: usize = 1024;

/// Commits that wait for an advance, each 100 bytes and a view of the index: beyond it the database is not looked at until there are fewer. One
/// look may bring [`POLL_COMMITS_MAX`] more, a file that takes the place of the one followed [`REOPEN_COMMITS_MAX`], once.
pub const COMMITS_WAITING_MAX: usize = 1000;
/// States of head that a worker may be behind before it starts with an empty cache; it is woken long before.
pub const STATES_MAX: usize = 512;
/// Changed objects in those states, 8 bytes each.
pub const STATES_OIDS_MAX: usize = 1 << 20;
/// Notes of a worker that are not taken before control is woken for them.
pub const NOTES_LOOK: usize = NOTES_ROOM / 2;
/// Notes of a worker that there is always room for, 64 bytes each: half a MiB. While control is at a commit there may be more, which it
/// takes when that is published: no READ waits for it.
pub const NOTES_ROOM: usize = 8192;
/// Notes of all workers that one of them takes in control's place, a microsecond each at most.
pub const NOTES_FEW: usize = 128;
/// Messages that a worker handles in control's place before it goes on with its own.
pub const STAND_IN_MESSAGES: usize = 64;
/// Watches that a worker looks at in control's place for one block, a microsecond each.
pub const STAND_IN_WATCHES: usize = 8;
/// Messages that control handles before it looks at deadlines and at the database; all that lie there when it begins, if these are more.
pub const TURN_MESSAGES: usize = 1024;
/// Bytes of old pages kept for those who will look for them under `@<tid>`, oldest given up first. A commit of 10 blocks of
/// 64 KiB, 100 times a second, fills it in a second; who looks later reads them from the database.
pub const KEPT_BYTES_MAX: usize = 64 << 20;
/// Pieces that came back of which a worker tells control at once, more to come or not.
pub const RETRIEVED_TOLD: usize = 32;
/// Bytes of buffers made for the old pages of the next commit: 128 blocks of 64 KiB, 4 of 2 MiB. What is more
/// goes to memory that nobody has touched (kernel-note 0025).
pub const SPARE_BYTES_MAX: usize = 8 << 20;
/// Objects that the history keeps to compare states of block tables: what commits change, twice. Beside it, tens of bytes for
/// each block that was read.
pub const HISTORY_CACHE_BYTES: usize = 32 << 20;
/// Blocks that are tracked, 70 to 100 bytes each: 0.8 GiB; up to 360 where each is alone in its bucket. Beyond it the file with the
/// most of them is dropped from the page cache and forgotten.
pub const TRACKED_BLOCKS_MAX: u64 = 8 << 20;
/// Lengths of files at older states that are remembered, 32 bytes each.
pub const SIZES_KNOWN_MAX: usize = 4096;
/// Changed objects that the history remembers, 16 to 60 bytes each; beyond it the oldest transactions are forgotten early.
pub const HISTORY_CHANGES_MAX: usize = 8 << 20;
/// Transactions that a reader of `.wcfs/debug/zhead` may be behind, 8 bytes each; beyond it is detached.
pub const ZHEAD_LINES_MAX: usize = 100_000;
/// `@<tid>` directories that are left to the kernel's memory pressure; of more, those that were looked up longest ago are pruned. Each is two
/// nodes and its files, some 200 bytes a node here, and 1 KiB in the kernel.
pub const REVISIONS_MAX: usize = 256;
/// So many more are needed before any is pruned, and as many are pruned at once.
pub const REVISIONS_PRUNED: usize = 16;
/// How long an advance waits for the kernel's pages, which it gives without waiting for anything: a worker that has to copy them may be kept
/// from its CPU for as long.
pub const KEEP_DEADLINE_MS: u64 = 250;
/// How long an advance waits until the kernel knows how long files are.
pub const SIZES_DEADLINE_MS: u64 = 1000;

/// ZEO: bytes of a message around the record it carries. Lists of changed objects have as much room as a record.
pub const ZEO_FRAME_AROUND_BYTES: usize = 64 << 10;
/// ZEO: values of one message, 40 bytes each: 80 MiB. A transaction of a million objects has as many.
pub const ZEO_VALUES_MAX: usize = 2 << 20;
/// ZEO: loads in flight on a connection. A round trip of 5 ms then carries 400 MB/s of chunks of 4 KiB.
pub const ZEO_LOADS_UNDER_WAY: usize = 1024;
/// ZEO: bytes of replies in flight, by what replies had of late: a server keeps what its client has not read yet.
pub const ZEO_REPLY_BYTES: usize = 16 << 20;
/// ZEO: loads that wait, 100 bytes each. A hundred blocks of 64 MiB in chunks of 4 KiB are as many.
pub const REMOTE_LOADS_MAX: usize = 2 << 20;
/// ZEO: changed objects of transactions that were missed; beyond it all that was derived from the history is dropped instead.
pub const ZEO_CATCH_UP_OIDS_MAX: usize = 100_000;
/// ZEO: changed objects of commits that control has not taken yet, 8 bytes each; beyond it the same.
pub const REMOTE_EVENT_OIDS_MAX: usize = 1 << 20;
/// NEO: nesting of a packet; none that means anything has more than five.
pub const NEO_DEPTH_MAX: usize = 8;
/// NEO: partitions, cells, or nodes that one packet tells of: 80 bytes each.
pub const NEO_LIST_MAX: usize = 1 << 18;
/// NEO: storage nodes that are known.
pub const NEO_NODES_MAX: usize = 10_000;
/// NEO: transactions asked for in one question.
pub const NEO_TIDS_MAX: u32 = 1000;
/// NEO: questions about what transactions changed that are under way together, while catching up.
pub const NEO_CHECKS_UNDER_WAY: usize = 64;
/// NEO: a node that failed is asked only when no other has the object, for so long or until the master says that it works.
pub const NEO_ASIDE_MS: u64 = 600_000;
/// NEO: how long storage nodes may not know a transaction that the master announced.
pub const NEO_UNTOLD_MS: u64 = 10_000;
/// NEO: between looks at a cluster that follows another one: it announces nothing.
pub const NEO_LOOK_MS: u64 = 1000;
/// RelStorage: loads in flight.
pub const REL_LOADS_UNDER_WAY: usize = 2048;
/// RelStorage: bytes of records in flight, by what they had of late.
pub const REL_ROW_BYTES: usize = 32 << 20;
/// RelStorage: objects that one look at new transactions may bring, 8 bytes each. A transaction that has more is not told, and all
/// that was derived from the history is dropped instead.
pub const REL_LOOK_OIDS_MAX: usize = 1 << 20;
/// RelStorage: transactions that one look may bring.
pub const REL_LOOK_TXNS_MAX: usize = 256;
/// RelStorage: between looks at a server while something happens.
pub const REL_LOOK_MIN_MS: u64 = 50;
/// RelStorage: between looks at a server when nothing happens, unless its address says otherwise.
pub const REL_LOOK_MAX_MS: u64 = 1000;
/// RelStorage: how long a database may be behind head before it is said to have gone back: a server that took over may lag.
pub const REL_GRACE_MS: u64 = 10_000;
/// RelStorage: how long who asked for a revision that is over waits for workers to hear of the newer one, and to ask for that.
pub const REL_HOLD_MS: u64 = 150;
/// Decoded objects of a remote database that all workers keep, block data included, in bytes.
pub const REMOTE_CACHE_BYTES: usize = 256 << 20;

/// How long a load may wait for a database that is not to be reached.
pub const STORAGE_WAIT_MS: u64 = 30_000;
/// Before the first further attempt to reach it; doubled with each one, up to the longest.
pub const RECONNECT_MIN_MS: u64 = 50;
/// The longest.
pub const RECONNECT_MAX_MS: u64 = 5_000;
/// A connection that lasted so long was a good one: the next attempt does not wait longer than the first.
pub const RECONNECT_GOOD_MS: u64 = 10_000;
/// For each step until a connection serves.
pub const HANDSHAKE_MS: u64 = 10_000;
/// A connection on which nothing came for so long is probed.
pub const IDLE_MS: u64 = 60_000;
/// Silence after the probe before the connection is given up.
pub const PROBE_MS: u64 = 5_000;
/// Silence while answers are due before the connection is given up: half of what a load waits, so that it can be asked again.
pub const ANSWER_MS: u64 = 15_000;
/// Slow transmitters are told over this time.
pub const RATE_MS: u64 = 10_000;
/// What has to come, or to leave, in that time while a message is under way: 64 KiB a second.
pub const RATE_BYTES_MIN: usize = 640 << 10;

/// Watching: bytes of events read at once; an event with two names of 255 bytes takes 700.
pub const WATCH_EVENT_BYTES: usize = 256 << 10;
/// Watching: directories whose place is remembered, some 200 bytes each. A look-up takes 6 us, so being forgotten costs little.
pub const WATCH_HANDLES_MAX: usize = 64 << 10;
/// Watching: directories above one another. A chain of parents that is longer is a circle.
pub const TREE_DEPTH_WATCHED_MAX: usize = 4096;
/// Watching: paths that wait to be looked at. Beyond it the whole tree is looked at instead, which is a second for a million files.
pub const NOMINEES_MAX: usize = 100_000;
/// Watching: bytes of those paths.
pub const NOMINEE_BYTES_MAX: usize = 32 << 20;
/// Trace of a start: calls kept one by one, some 150 bytes each; further ones are counted.
pub const TRACE_CALLS_MAX: usize = 1 << 20;
