//! The binary on real mounts, looked at from outside as its users would.
//!
//! Each test starts `zring mount` on a directory of its own and lets child processes read the tree; this process
//! never enters a mount, since a reader of a mount that hangs cannot be killed. A watchdog aborts the connection of a
//! test that takes too long, and a test fails when it leaves a mount or a process behind.
//!
//! Tests run over the three transports `uring`, `dev` and `plain`. What the machine lacks is said on stderr (and
//! collected by `tests/run`); nothing passes silently.
//!
//! Read next: `rig` (mounts and children), `machine` (what is there), `data` (databases), `base` (databases
//! that a test writes block by block) and `visitor` (who looks at pages); the others are tests.
//!
//! Environment, beside what `tests/run` documents: `ZRING_BIN` tests another binary, `ZRING_PYTHON` is a Python with
//! ZODB, `ZRING_TESTS_FULL=1` makes a missing Python an error.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, watch the clock and start threads"
)]

mod base;
mod child;
mod data;
mod machine;
mod rig;
mod transport;
mod visitor;

mod bad_input;
mod cluster;
mod cold;
mod command;
mod commit;
mod content;
mod crowd;
mod damage;
mod defect;
mod direct;
mod fault;
mod fstab;
mod health;
mod kernel_off;
mod layers;
mod limit;
mod live;
#[path = "../neo/mod.rs"]
mod neo;
mod others;
mod overwritten;
#[path = "../compat/postgres.rs"]
mod postgres;
mod queue;
mod record;
mod rel;
mod restart;
mod rev;
mod shorter;
mod soak;
mod start;
mod topology;
mod tree;
mod user;
mod warm;
mod watch;
mod zeo;

pub(crate) use transport::on_each_transport;
