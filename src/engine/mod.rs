//! Threads, bounded channels, the loop: the one room that sees both columns.
//!
//! `daemon` is one mount from start to end. `start` turns a mountpoint into a connection and pinned workers;
//! `worker` is the loop of one of them, which drives any [`worker::Service`], `pollers` which of them look at `/dev/fuse`; `serve` is the file system as such a
//! service, with `names`, `hear`, `answer`, `task`, `loading`, `ahead`, `upload`, `listen` and `buffer` behind it. `control` moves head, `follow` is how it waits, `clock` what it gives clients of time,
//! `notifier` writes notifications, `log` lines (`glog`: as the drop-in server does). `pulse` tells whether these two go on, `presence` whether a client is left,
//! `quit` says what every thread does before it ends the daemon. `shared` is what they share and tell each other, `stats` what it comes to, `notes` the way of what workers tell most. `etag` is the
//! bulk ETag engine, which has nothing to do with any of these.

mod ahead;
mod answer;
pub mod buffer;
mod clock;
pub mod control;
pub mod daemon;
pub mod etag;
mod follow;
pub mod glog;
mod hear;
mod history;
mod killed;
pub mod links;
mod listen;
mod loading;
pub mod log;
mod names;
pub mod notes;
pub mod notifier;
pub mod opens;
pub mod pollers;
pub mod presence;
pub mod probe;
pub mod pulse;
mod quit;
mod retrieval;
pub mod serve;
pub mod shared;
mod spare;
pub mod start;
mod stats;
mod task;
pub mod upload;
mod watching;
pub mod wayout;
pub mod worker;
pub mod zhead;
