//! What the kernel does, shown by experiment: the programs behind `kernel-notes/`.
//!
//! A scripted file system ([`script`]) runs on the daemon's own transports in a process of its own ([`server`]): it
//! parks requests until told, counts what comes by which channel and writes notifications on command. Tests direct it
//! from a [`stage`]; what is done inside a mount is done by further processes ([`client`]). So neither this process nor
//! any that enters a mount ever holds `/dev/fuse` or a ring: killed there, it could not go away.
//!
//! Never executed: a RETRIEVE beyond the ring's payload less a page. A kernel that meets one stops inside its own lock
//! until the next boot (kernel-note 0001).
//!
//! Each test has the watchdog of a rig, as in `tests/mount`, whose machine, children and rigs are used here too.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, watch the clock and start threads"
)]

#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/child.rs"]
mod child;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/machine.rs"]
mod machine;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/rig.rs"]
mod rig;
#[path = "../mount/transport.rs"]
mod transport;

mod bent;
mod client;
mod script;
mod server;
mod stage;
mod starved;

mod attribute;
mod channel;
mod folio;
mod fresh;
mod grown;
mod herd;
mod killed;
mod lock;
mod open;
mod parked;
mod raw;
mod readahead;
mod retrieve;
mod retry;
mod reuse;
mod rings;
mod shrink;
mod unmount;
mod wakeup;
mod withdrawn;

pub(crate) use transport::on_each_transport;
