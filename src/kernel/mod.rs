//! The edge: every system call of the serving daemon, and every unsafe block.
//!
//! `mount` makes the connection and shakes hands; `port` is what a worker waits on, with the three transports
//! behind it: `queue` (FUSE over io_uring), `dev` (messages of `/dev/fuse`), on `ring` (one io_uring) or on
//! poll(2). `file` reads the database, `loads` does so where io_uring is forbidden. `notify` writes
//! notifications, `socket` makes streams to servers, `proc` pins threads and reads what the machine is. `client` is who opened something.
//! `asker` is a process beside the daemon that enters the mount in its place, `guard` one that lets clients go on in its place, `delay` processes
//! beside a scan that enter mounts (`beside`: how such are started and ended). `wakeup` measures what it costs to wake a thread.
//! `process` and `pidfd` are for who looks at a mount from outside: what serves it, who holds it, and how they are ended. `stat` and
//! `chain` are what the ETag engine asks of file systems, `calls` counts it; `pages` is what of a file is in memory, `direct` reads past that.
//! `watch` tells what changes in a tree, by fanotify or by `inotify`, and opens no file for it; `opens` who opens something there.
//!
//! Nothing here knows what a request means. A held request is a value ([`port::Held`]): it is answered once or
//! handed on, and dropping it is a bug.

pub mod asker;
mod beside;
pub mod calls;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod chain;
pub mod client;
pub mod delay;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod dev;
pub mod direct;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod file;
pub mod guard;
mod held;
mod inotify;
pub mod loads;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod map;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod mount;
pub mod mountinfo;
pub mod notify;
pub mod opens;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod pages;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod pidfd;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod port;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod proc;
pub mod process;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod queue;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod ring;
pub mod socket;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod stat;
pub mod wakeup;
#[allow(unsafe_code, reason = "see its SAFETY comments")]
pub mod watch;
