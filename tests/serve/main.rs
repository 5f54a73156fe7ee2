//! The drop-in server, as its clients and operators find it: `wcfs`, `zring serve`, `zring status`, `zring stop`, with the real binary
//! on real mounts.
//!
//! `dropin` holds what an unmodified client needs, `defect` and `limit` what the server that is replaced did wrong or not at
//! all: these tests are named by the number of the item in its list. `status` and `stop` are about servers that are well, hung,
//! dead or absent, `user` about who may do what. `scene` makes databases and servers.
//!
//! As in `tests/mount`, this process never enters a mount, every wait has a deadline, and a watchdog ends what a test leaves.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, watch the clock and start threads"
)]

#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/base.rs"]
mod base;
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

mod scene;

mod defect;
mod dropin;
mod limit;
mod status;
mod stop;
mod user;

pub(crate) use transport::on_each_transport;
