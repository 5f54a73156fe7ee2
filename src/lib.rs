//! zring: big files out of ZODB, through one exact page cache.
//!
//! A ZODB database holds arrays far larger than memory as *big files*: B-trees of blocks. zring mounts such a
//! database so that every big file is a plain file that many processes map, sharing one kernel page cache, at its
//! newest state (`head/`) and at every older one (`@<tid>/`).
//!
//! # The rooms
//!
//! Two columns that meet in one place. The left one decides and is pure; the right one does and is thin; only
//! `engine` sees both. Dependencies point down, and a test (`tests/tidy.rs`) holds them there.
//!
//! ```text
//!                 cli            commands; the only place that prints for people
//!                  |
//!                engine          threads, channels, the loop
//!               /      \
//!   decides    fs      store     does: bringing objects in
//!             /          |  \
//!          zodb          |  kernel     every system call of serving, every unsafe block
//!             \          | /
//!               \       wire     bytes <-> messages
//!                        |
//!                       base     words of the domain
//! ```
//!
//! Beside `zodb` stands [`tail`], history of changes, pure like it and under way: nothing serves from it yet.
//!
//! Start reading at [`engine::serve`], which is what happens to a request, and [`fs::advance`], which is what
//! happens to a commit. [`kernel::port`] is how requests come in.
//!
//! # Invariants
//!
//! Numbers are kept stable; I4 belongs to the isolation protocol, which is not here yet.
//!
//! - **I1** Whatever the kernel may hold of a head file is tracked: every object an answer was made from is noted
//!   before the answer is given ([`fs::track`]).
//! - **I2** A head READ is answered as of exactly one transaction. A parked one whose objects change goes on under
//!   the new view, with everything that changed taken from it ([`engine::serve`]).
//! - **I3** No head READ waits for an advance: it is answered from the view its worker holds. What changed is dropped
//!   only once every worker holds the new view, so what the old one put back goes too ([`fs::advance`]).
//! - **I5** No thread that answers requests writes notifications that take page locks, or enters our own mount.
//!   Notifications have a thread of their own ([`engine::shared`]); kernel-note 0003.
//! - **I6** A request is in exactly one place: the kernel, its worker's hands, or a parked task. [`kernel::port::Held`]
//!   is neither copied nor dropped.
//! - **I7** Everything that can grow has a bound in [`base::limit`].
//! - **I8** The left column is deterministic: same events, same actions. No clock, thread or system call is in it.
//!
//! # What may wait for what
//!
//! ```text
//!   client in a page fault --> READ --> worker --> database file        (never: head, a commit, another client)
//!   LOOKUP of @tid beyond head --> head/at                              (the one request that waits for a commit;
//!                                                                        it holds no page and can be interrupted)
//!   commit --> workers take the view --> notifier drops pages --> READs of those pages --> database file
//! ```
//!
//! No arrow leads back from a READ to a commit, so no circle closes. `tests/sim` runs the commit path against a
//! model of the kernel's page locks and checks just that, and that what stays cached is never stale.
//!
//! # The two paths
//!
//! **READ** of `head/bigfile/<oid>`: (1) [`kernel::queue`] or [`kernel::dev`] reaps a request; it is now held.
//! (2) [`wire::fuse::request`] borrows it from its buffer. (3) [`fs::read`] clips it to the file and cuts it into
//! blocks. (4) [`zodb::bigfile`] walks the block table; everything it misses is loaded at once, each object once
//! ([`store::file`]); the task is parked only if the disk has to be waited for. (5) [`fs::track`] notes what the
//! answer depends on. (6) Bytes go into the reply: of a plain block in one pread from the database file, of a block
//! in chunks by one copy; one command answers and arms the entry again. (7) When nobody has asked for anything for
//! 2 ms, the rest of the block is loaded and stored behind the readers ([`fs::touch`]).
//!
//! **Commit**: (1) [`store::file`] sees a whole transaction. (2) Workers say which files they read through what changed,
//! and those files' pages are dropped, which only makes the rest quick. (3) The new view is published: every worker
//! takes it before its next request, or when its message comes, and starts those files' notes anew. (4) The files are dropped for good. (5) `head/at` shows the
//! transaction.
//!
//! Until changes are told apart by block, a commit drops every page of each file it touches: coarse, never stale.

pub mod base;
pub mod cli;
pub mod engine;
pub mod fs;
pub mod kernel;
pub mod store;
pub mod tail;
pub mod wire;
pub mod zodb;
