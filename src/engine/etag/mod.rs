//! Checks and scans of whole trees: threads, queues, the ring that reads. What counts as a change is decided by `crate::etag`.
//!
//! A **check** ([`check()`]) walks the tree (`walk`: workers that steal directories from each other), lists each directory, asks statx of
//! each file and compares in place with the run of the directory (`dir`). Nothing is opened but directories. A **scan** ([`scan()`])
//! does the same, and what is not fresh goes to a queue (`queue`) that hash threads empty (`hash`), as fast as they may (`throttle`). Changes go
//! to the one thread that owns the catalog (`owner`).
//!
//! ```text
//!   workers --items--> queue --> hash threads --records--> owner --> catalog
//!      |                                                     ^
//!      '--------- orders of directories, what is gone -------'
//! ```
//!
//! Every arrow is bounded and leads one way: workers wait for the queue, hash threads and workers for the owner, the owner for nobody.
//!
//! Who calls gives a [`Config`], a [`Sink`] that is told of paths, and a [`Pulse`]: counters to look at and a token to cancel with. A
//! sink is called on the threads of the pass, many at a time.
//!
//! A tree may span file systems that are worth more and less (`facts`). What hashing brings into the page cache goes again, by reads past it or
//! by hand (`brought`).
//!
//! `watch` keeps what is known current: it hears what changes and has that looked at. `trace` keeps what a start did.

mod brought;
mod check;
mod config;
mod dir;
pub mod facts;
mod hash;
mod judge;
mod links;
mod node;
pub mod owner;
mod queue;
mod read;
pub mod root;
mod scan;
mod settle;
mod single;
mod throttle;
pub mod trace;
mod walk;
pub mod watch;

pub use check::{Summary, check};
pub use config::{Bend, Config, Counter, Found, HashConfig, MetaEngine, Pulse, Sink, XattrUse};
pub use hash::ring_of;
pub use judge::{Foreign, imported};
pub use root::{Root, RootError};
pub use scan::{ScanError, hash_one, scan};
