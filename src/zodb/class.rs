//! Classes that zring knows, by the names in records.
//!
//! The pure Python twins of the tree classes (`...Py`) are the same classes, and `ZBlk` is what `ZBlk0` was
//! called at first. Subclasses are other classes: their state may mean anything.

use crate::wire::pickle::ClassName;
use std::fmt;
use std::sync::Arc;

/// Kinds of tree: what its keys fit in, and so what it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Keys of 64 bits: block tables.
    Lo,
    /// Keys of 32 bits: chunk tables.
    Io,
}

impl Family {
    /// Whether a node of this family can have this key.
    pub fn fits(self, key: i64) -> bool {
        self == Self::Lo || i32::try_from(key).is_ok()
    }
}

/// A known class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `ZBigFile`
    BigFile,
    /// `ZBlk0`, or `ZBlk` as it was called once
    Blk0,
    /// `ZBlk1`
    Blk1,
    /// `ZData`
    Data,
    /// `LOBTree` or `IOBTree`
    Tree(Family),
    /// `LOBucket` or `IOBucket`
    Bucket(Family),
}

impl Kind {
    /// The class of this name; `None` for classes that zring does not read.
    pub fn of(class: ClassName<'_>) -> Option<Self> {
        Some(match (class.module, class.name) {
            (b"wendelin.bigfile.file_zodb", name) => match name {
                b"ZData" => Self::Data,
                b"ZBlk0" | b"ZBlk" => Self::Blk0,
                b"ZBlk1" => Self::Blk1,
                b"ZBigFile" => Self::BigFile,
                _ => return None,
            },
            (b"BTrees.LOBTree", b"LOBTree" | b"LOBTreePy") => Self::Tree(Family::Lo),
            (b"BTrees.LOBTree", b"LOBucket" | b"LOBucketPy") => Self::Bucket(Family::Lo),
            (b"BTrees.IOBTree", b"IOBTree" | b"IOBTreePy") => Self::Tree(Family::Io),
            (b"BTrees.IOBTree", b"IOBucket" | b"IOBucketPy") => Self::Bucket(Family::Io),
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::BigFile => "ZBigFile",
            Self::Blk0 => "ZBlk0",
            Self::Blk1 => "ZBlk1",
            Self::Data => "ZData",
            Self::Tree(Family::Lo) => "LOBTree",
            Self::Tree(Family::Io) => "IOBTree",
            Self::Bucket(Family::Lo) => "LOBucket",
            Self::Bucket(Family::Io) => "IOBucket",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A class that zring does not read; its state was not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherClass {
    /// Dotted name; `None` when the record does not name its class.
    pub name: Option<Arc<str>>,
}

impl fmt::Display for OtherClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or("a class without a name"))
    }
}

/// What a reference says about the class of a block. It can be out of date, and then the object decides;
/// it serves to choose how to load the block, never what the block means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// One object with all bytes.
    Blk0,
    /// A table of chunks.
    Blk1,
    /// Neither, or nothing said.
    Unknown,
}

impl Hint {
    /// From the class in a reference.
    pub fn of(kind: Option<Kind>) -> Self {
        match kind {
            Some(Kind::Blk0) => Self::Blk0,
            Some(Kind::Blk1) => Self::Blk1,
            _ => Self::Unknown,
        }
    }
}
