//! Every way in which reading a big file can fail, by what went wrong.
//!
//! The first four of [`ZodbError`] mean that the name does not denote a big file in this view; all others that
//! the database is damaged, or holds a file larger than can be served.

use super::class::{Family, Kind, OtherClass};
use super::need::Absent;
use super::object::{Object, ObjectError};
use crate::base::{BlkSize, Oid};
use std::fmt;

/// Why a question about a big file has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZodbError {
    /// There is no object with this oid.
    #[error("no object {oid}")]
    NoObject {
        /// The oid asked for.
        oid: Oid,
    },
    /// The object does not exist yet in this view.
    #[error("object {oid} is not created yet")]
    NotYetCreated {
        /// The oid asked for.
        oid: Oid,
    },
    /// The object does not exist any more in this view.
    #[error("object {oid} is deleted")]
    Deleted {
        /// The oid asked for.
        oid: Oid,
    },
    /// The object is no ZBigFile.
    #[error("object {oid}: {found} is not a ZBigFile")]
    NotBigFile {
        /// The oid asked for.
        oid: Oid,
        /// What it is.
        found: Found,
    },
    /// The record of an object is damaged.
    #[error("object {oid}: {source}")]
    Corrupt {
        /// The object.
        oid: Oid,
        /// What is wrong with it.
        source: ObjectError,
    },
    /// A reference leads to no object.
    #[error("object {oid} is referred to, but is not there ({absent:?})")]
    Dangling {
        /// The oid referred to.
        oid: Oid,
        /// Why it is not there.
        absent: Absent,
    },
    /// A reference leads to an object of the wrong class.
    #[error("object {oid}: expected {expected}, found {found}")]
    WrongClass {
        /// The object.
        oid: Oid,
        /// What its place asks for.
        expected: Role,
        /// What it is.
        found: Found,
    },
    /// Nodes of a tree contradict each other.
    #[error("tree node {oid}: {fault}")]
    Tree {
        /// The node at which it shows.
        oid: Oid,
        /// What is wrong.
        fault: TreeFault,
    },
    /// A block is longer than its file allows.
    #[error("block {oid} has more than {blksize:?}")]
    LongBlock {
        /// The block.
        oid: Oid,
        /// The block size of the file.
        blksize: BlkSize,
    },
    /// Chunks of a block contradict each other.
    #[error("block {oid}: {fault}")]
    Chunk {
        /// The block.
        oid: Oid,
        /// What is wrong.
        fault: ChunkFault,
    },
    /// The greatest block number is negative.
    #[error("block table {oid} has only negative keys")]
    NegativeBlocks {
        /// The table.
        oid: Oid,
    },
    /// The size of the file does not fit 63 bits.
    #[error("file with block table {oid} is too large: last block {last}, {blksize:?}")]
    TooBig {
        /// The block table.
        oid: Oid,
        /// Number of the last block.
        last: u64,
        /// The block size of the file.
        blksize: BlkSize,
    },
}

/// What a tree walk can stumble over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// More levels than allowed.
    #[error("the tree is too high")]
    Height,
    /// The node is its own ancestor.
    #[error("the node is below itself")]
    Loop,
    /// A key or separator outside of what the parent grants.
    #[error("key {key} is outside of what the parents grant")]
    Coverage {
        /// The key.
        key: i64,
    },
    /// Too many leaves without keys.
    #[error("too many empty leaves")]
    EmptyLeaves,
}

/// How chunks can contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// A chunk before the block.
    #[error("chunk at negative offset {start}")]
    Negative {
        /// Its offset.
        start: i64,
    },
    /// A chunk that begins within the one before.
    #[error("chunk at {start} begins before the one before it ends, at {end}")]
    Overlap {
        /// Its offset.
        start: i64,
        /// End of the chunk before.
        end: i64,
    },
}

/// What a place in the structure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A tree.
    Tree(Family),
    /// A tree or bucket.
    Node(Family),
    /// A block.
    Blk,
    /// A chunk.
    Data,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tree(Family::Lo) => "LOBTree",
            Self::Tree(Family::Io) => "IOBTree",
            Self::Node(Family::Lo) => "LOBTree or LOBucket",
            Self::Node(Family::Io) => "IOBTree or IOBucket",
            Self::Blk => "ZBlk0 or ZBlk1",
            Self::Data => "ZData",
        })
    }
}

/// The class an object turned out to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A known one, in the wrong place.
    Known(Kind),
    /// One that zring does not read.
    Other(OtherClass),
}

impl From<&Object> for Found {
    fn from(object: &Object) -> Self {
        match object {
            Object::Other(class) => Self::Other(class.clone()),
            Object::BigFile(_) => Self::Known(Kind::BigFile),
            Object::Tree(tree) => Self::Known(Kind::Tree(tree.family)),
            Object::Bucket(bucket) => Self::Known(Kind::Bucket(bucket.family())),
            Object::Blk0(_) => Self::Known(Kind::Blk0),
            Object::Blk1 { .. } => Self::Known(Kind::Blk1),
            Object::Data(_) => Self::Known(Kind::Data),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(kind) => kind.fmt(f),
            Self::Other(class) => class.fmt(f),
        }
    }
}
