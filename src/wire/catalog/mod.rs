//! Bytes of the catalog of ETags: entries, runs of a directory, batches of a journal.
//!
//! An **entry** is what is remembered of one name, little-endian:
//!
//! ```text
//!   0  2  bytes of the name          16  8  inode number        48  8  seconds of btime
//!   2  2  flags                      24  8  size                56  8  hashed at, ns since 1970
//!   4  4  ns of mtime                32  8  seconds of mtime    64 32  digest
//!   8  4  ns of ctime                40  8  seconds of ctime    96  n  name
//!  12  4  ns of btime
//! ```
//!
//! A **run** is one directory, its entries in the order in which the last pass met them:
//!
//! ```text
//!   0  4  "ZrR1"                      8  8  bytes of all that follows
//!   4  4  CRC-32C from byte 8        16  4  entries
//!  20  4  bytes of the path          24  8  inode of the directory
//!  32  8  seconds of its mtime       40  8  seconds of its ctime
//!  48  4  ns of its mtime            52  4  ns of its ctime
//!  56  p  path from the root         ...    entries
//! ```
//!
//! A **batch** of a journal is `bytes (4), CRC-32C of the rest (4), node (8), epoch (8), seq (8)` and operations, each with its kind
//! first; see [`Op`]. Whatever the bytes are, readers here end with an error or early, and never with a panic.

pub mod batch;
pub mod entry;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Op, Origin, Sealed, order_names, push_order};
pub use entry::{
    DirWitness, ENTRY_BYTES, Entries, Entry, RUN_BYTES, Record, Run, begin_run, dir_fixed, end_run,
    flag, run_len,
};

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogFault {
    /// They end early, or a length in them is wrong.
    #[error("bytes are missing")]
    Short,
    /// They are not what the program wrote.
    #[error("the checksum is wrong")]
    Checksum,
    /// They begin with something else.
    #[error("it is something else")]
    Magic,
    /// An operation nobody wrote yet.
    #[error("an operation of kind {0}")]
    Kind(u8),
}
