//! FileStorage, read beside a live Python writer.
//!
//! The file only grows at its end, with two exceptions: the writer truncates a transaction it gave up, and a pack
//! puts another file in its place. So what lies below the end of the last committed transaction can be read
//! by anybody at any time, and nothing beyond it is ever kept.
//!
//! * `FileStore` follows the file; it is owned by the control thread (`follow`, with `open` and `reopen`).
//! * `FileView` is what it gives out: the open file, a snapshot of the `index`, and a tid. A worker loads through
//!   a `Batch`, which decides what to read and lets its driver do the reading.
//! * `chains` remembers places on long chains of revisions, for whoever drives batches.
//! * `scan` decides what counts as a transaction, for opening, following and checking alike; the layout itself
//!   is in `wire::fs1`.
//! * `savedindex` uses what the writer saved beside the file, once the file agrees with it.
//! * `verify` reads everything and reports what is wrong.
//! * `writer` makes files, for the demonstration and for tests.
//!
//! The database is opened for reading alone: no lock, no truncation, no map, ever.

mod batch;
mod chains;
mod follow;
mod index;
mod open;
mod recent;
mod reopen;
mod savedindex;
mod scan;
#[cfg(test)]
mod speed;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verify;
mod view;
mod window;
mod writer;

pub use batch::{Batch, Locate, Located, Read, ReadId, Run};
pub use chains::{Chains, Mark};
pub use follow::{Commit, Event, FileStore, FollowError, Place, Poll, Tail, WatchPaths};
pub use open::{FileOpts, OpenError, Progress};
pub use recent::{History, HistoryError, Past};
pub use reopen::{Rebuilt, Reopen};
pub use savedindex::IndexFault;
pub use verify::{Finding, OnObject, Problem, Report, verify};
pub use view::FileView;
pub use writer::{FileWriter, Note, Txn, Voted, WriteError};
