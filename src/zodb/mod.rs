//! Meaning of the objects that make up a big file; pure.
//!
//! A file is a `ZBigFile`, which names a block table: an LOBTree from block number to block. A block is one
//! object holding its bytes (`ZBlk0`), or a table of chunks (`ZBlk1`: an IOBTree from offset to `ZData`).
//!
//! Nothing here loads. A function is given the objects at hand as of one state of the database, and either is
//! done or names what else it needs; then it is simply called again (`need`). When everything is at hand it
//! allocates nothing.
//!
//! Invariants
//! - All objects that one call sees are of one state of the database: the caller's view decides which.
//! - What an object says about itself is checked when it is decoded (`object`), what objects say about each
//!   other when they are walked (`btree`, `zblk`). Neither trusts the class in a reference.
//! - A damaged database costs an error that names the object, bounded time and bounded memory.
//!
//! Read `bigfile` (the questions), `zblk` (the bytes), `btree` (the walk), `object` (what a record means); `topology`
//! is for people who look at a tree.

pub mod bigfile;
pub mod btree;
pub mod class;
pub mod error;
pub mod need;
pub mod object;
pub mod topology;
pub mod write;
pub mod zblk;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use class::{Family, Hint, Kind, OtherClass};
pub use error::{ChunkFault, Found, Role, TreeFault, ZodbError};
pub use need::{Absent, Ask, Lookup, Objects, Step};
pub use object::{BigFile, Bucket, Entry, Inner, Node, Object, ObjectError, Tree, decode};
