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
//!   decides  fs etag   store     does: bringing objects in, from files and servers; catalogs
//!           / | \        |  \
//!       zodb tail iso    |  kernel     every system call of serving, every unsafe block
//!           \ | /        | /
//!               \ |     wire     bytes <-> messages
//!                        |
//!                       base     words of the domain
//! ```
//!
//! [`tail`] is the history of changes; it stands on `zodb` as `fs` does on both. [`iso`] is what clients are promised.
//! [`etag`] has nothing to do with mounts: it tells what changed in trees of ordinary files, and [`engine::etag`] looks at them without opening one.
//!
//! Start reading at [`engine::serve`], which is what happens to a request, and [`fs::advance`], which is what
//! happens to a commit. [`kernel::port`] is how requests come in.
//!
//! # Invariants
//!
//! - **I1** Whatever the kernel may hold of a head file is tracked: a worker notes what an answer was made from before it gives
//!   it ([`fs::track`]), pages behind the end of a file included; control puts the notes into the history ([`tail`]).
//! - **I2** A head READ is answered as of exactly one transaction. A parked one whose objects change goes on under
//!   the new view, with everything that changed taken from it ([`engine::serve`]).
//! - **I3** No head READ waits for an advance: it is answered from the view its worker holds. Changed blocks are dropped
//!   only once no worker answers from the old view, so what the old one put back goes too ([`fs::advance`]).
//! - **I4** A READ that shows a block which changed after what somebody sees is answered when that one has the block pinned, or is
//!   dead ([`iso`]). It asks after it noted what it was made from, and a watch looks at what was noted after it made READs ask: so
//!   either the READ asks, or the watch is told. No other request waits for a client, but those on `head/watch`.
//! - **I5** No thread that answers requests writes notifications that take page locks, or enters our own mount.
//!   Notifications have threads of their own ([`engine::notifier`]); kernel-note 0003.
//! - **I6** A request is in exactly one place: the kernel, its worker's hands, or a parked task. [`kernel::port::Held`]
//!   is neither copied nor dropped.
//! - **I7** Everything that can grow has a bound in [`base::limit`].
//! - **I8** The left column is deterministic: same events, same actions. No clock, thread or system call is in it.
//!
//! # What may wait for what
//!
//! ```text
//!   client in a page fault --> READ --> worker --> database file        (never: head, a commit)
//!                                              --> server of the database, 30 s at most ([`store::zeo`], [`store::neo`], [`store::rel`], [`store::demo`])
//!                              READ of a block that changed after what somebody sees
//!                                   --> control, until a transaction that is being published is: workers in the middle of a request
//!                                   --> answers to pins of that block --> clients --> OPEN, READ below @tid; GETATTR; READ of head/watch
//!                                   --> their deadline
//!   client in a fault tried again, whose READ waits for itself --> zring-wayout (kernel-note 0017)
//!   watch request --> head/at, and what such a READ waits for
//!   control --> a worker that does some of its work: microseconds, it waits for nothing ([`engine::control::Place`])
//!   LOOKUP of @tid beyond head, READ of zhead --> head/at               (the only requests that wait for a commit;
//!                                                                        they hold no page and can be interrupted)
//!   commit, watch request --> objects that the history compares --> database file, or its server, 30 s at most
//!   OPEN below @tid --> zring-keep --> READs below @tid --> database file
//!   commit that makes a file shorter, before it is published: 1 s at most, and not while somebody sees it as it was longer
//!          --> zring-notify --> the store under way, if it is of what lies behind the new end --> READs of that
//!                           --> the process that asks for the size --> GETATTR; READs behind the new end --> database file
//!   commit --> workers in the middle of a request
//!          --> zring-notify --> READs of the changed blocks --> database file
//!                           --> the store under way, if it is of a changed block --> READs of that block
//!   store of the rest of a block --> zring-store --> READs of its pages (nobody waits for it but a drop of its block)
//! ```
//!
//! No arrow leads back from a READ to a commit: what a READ waits for of one is over when every worker has moved on, which waits for
//! nothing. A READ of a file that nobody watches waits for no pin, nor for control: so the one who asks for its size waits for loads alone. So no circle closes. `tests/sim` runs the commit path against a
//! model of the kernel's page locks and checks just that, and that what stays cached is never stale.
//!
//! # What a warm request costs
//!
//! A worker is a thread of its own CPU, and owns what it answers from. For a READ, GETATTR or LOOKUP of what it has answered for before it
//! allocates nothing and waits for no lock; `tests/steady` counts and holds them. A READ of a part of a block tries the lock of its
//! worker's notes, which is free but when another stores the rest of that block; storing it takes four or five allocations, once. What else is
//! locked, and by whom, is listed in [`engine::shared`]. What a READ is noted by goes through room that was made before ([`engine::notes`]);
//! while control is at a commit there may be more than fits, which allocates once in 31 notes.
//!
//! # The three paths
//!
//! **READ** of `head/bigfile/<oid>`: (1) [`kernel::queue`] or [`kernel::dev`] reaps a request; it is now held.
//! (2) [`wire::fuse::request`] borrows it from its buffer. (3) [`fs::read`] clips it to the file and cuts it into
//! blocks. (4) [`zodb::bigfile`] walks the block table; everything it misses is loaded at once, each object once
//! ([`store::file`], [`store::remote`]); the task is parked only if the disk or a server has to be waited for. (5) [`fs::track`] notes what the
//! answer depends on. (6) Bytes go into the reply: of a plain block in one pread from the database file, of a block
//! in chunks by one copy; one command answers and arms the entry again. (7) When nobody has asked for anything for
//! 2 ms, the rest of the block is loaded and stored behind the readers ([`fs::touch`]); who reads a block in order by rings is met from its
//! end, by a worker that has nothing to do ([`engine::upload`]).
//!
//! **Commit**: (1) [`store::file`] sees a whole transaction, or a server pushes one, or a look finds it. (2) The history compares old and new state of what is tracked
//! ([`tail::btreediff`]) and says which blocks of which files change. (3) The kernel is asked for its pages of them; what it had
//! whole is kept, for those who will look for it under `@<tid>` ([`fs::kept`]). Of a file that gets shorter the kernel learns the new end, by
//! somebody outside who asks ([`kernel::asker`]): then no READ behind it is ever answered from the new view. (4) The new view is published: every worker
//! takes it before the next thing it does ([`engine::shared`]). (5) What was noted meanwhile is compared too; then the changed
//! blocks are dropped, and the attributes of files whose size may have changed, of which the kernel then learns the new one, and nothing else. (6) `head/at` shows the
//! transaction, and so does `zhead`.
//!
//! **Pin**: (1) a client writes `1 watch <oid> @<at>`; its worker hands the bytes to control, which answers all requests on `head/watch`
//! ([`engine::links`]); answers to pins, and READs that need some, the worker handles in control's place if that is free. (2) The history says what changed since, and where each block is found as it was ([`fs::past`]); the watch makes a pin
//! of each ([`iso`]), told through the client's own READ. (3) It answers; after the last one it is told `ok`. (4) From then on a worker
//! holds READs of blocks that changed later, their bytes in place ([`engine::watching`]); control lets each go when its pins are
//! answered, which the worker listens for instead of sleeping, if that comes soon. (5) A deadline ends the client.

pub mod base;
pub mod cli;
pub mod engine;
pub mod etag;
pub mod fs;
pub mod iso;
pub mod kernel;
pub mod store;
pub mod tail;
pub mod wire;
pub mod zodb;
