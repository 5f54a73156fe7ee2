//! A record to a class and a state.
//!
//! What a record can tell by itself is checked here: the shape of the state, keys that fit and increase, numbers
//! that are positive. Keys and values of a node come out as plain arrays or less (`keys`), so that a walk touches
//! little memory and a cached node costs what it says (`cost`). Bytes of blocks and chunks stay slices of their record.
//!
//! ```text
//! ZBigFile   (blksize, Ref LOBTree)
//! ZBlk0      bytes                       ZData   bytes
//! ZBlk1      Ref IOBTree
//! bucket     ((k, v, k, v, ..),)         or with the next bucket:  ((k, v, ..), Ref)
//! tree       None                        no keys
//!            ((bucket,),)                one bucket that has no oid, within
//!            ((child, k, child, k, child ..), Ref first bucket)
//! ```
//!
//! The next and the first bucket serve ZODB's iteration; here they only have to be references.

mod keys;
mod state;

use self::keys::Keys;
use self::state::State;
use super::class::{Family, Hint, Kind, OtherClass};
use crate::base::limit::RECORD_BYTES_MAX;
use crate::base::{BlkSize, Oid};
use crate::wire::pickle::{
    Class, PickleError, RawBytes, ValueKind, plain, raw_bytes, read_class, read_record,
};
use bytes::{Buf, Bytes};
use std::fmt;
use std::ops::Range;

/// An object as of one revision.
#[derive(Clone, Debug)]
pub enum Object {
    /// A big file.
    BigFile(BigFile),
    /// A tree, inner node or root.
    Tree(Tree),
    /// A leaf of a tree.
    Bucket(Bucket),
    /// A block in one piece, without its trailing zeros.
    Blk0(Bytes),
    /// A block in chunks; the tree from offset to chunk.
    Blk1 {
        /// The IOBTree.
        chunktab: Oid,
    },
    /// A chunk, without its trailing zeros.
    Data(Bytes),
    /// Anything else.
    Other(OtherClass),
}

/// A big file: how wide its blocks are, and where they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BigFile {
    /// Bytes in a block.
    pub blksize: BlkSize,
    /// LOBTree from block number to block.
    pub blktab: Oid,
}

/// A node that has other nodes below it, or a tree so small that it has none.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What keys it has.
    pub family: Family,
    /// What it holds.
    pub node: Node,
}

/// What a tree holds.
#[derive(Clone, Debug)]
pub enum Node {
    /// Nothing.
    Empty,
    /// A single leaf that is no object of its own.
    Inline(Bucket),
    /// Children.
    Inner(Inner),
}

/// Children of a node, and the keys that separate them. Separators need not occur as keys.
#[derive(Clone, Debug)]
pub struct Inner {
    /// One less than children.
    separators: Keys,
    children: Box<[Oid]>,
}

/// A leaf: keys with what they lead to.
#[derive(Clone, Debug)]
pub struct Bucket {
    family: Family,
    keys: Keys,
    entries: Entries,
}

/// As many as there are keys.
#[derive(Clone, Debug)]
enum Entries {
    /// Oids of blocks of one class that came to be in order: each is one more than the one before.
    Run { first: Oid, hint: Hint },
    /// References that say the same of their class.
    Alike { oids: Box<[Oid]>, hint: Hint },
    /// Any.
    List(Box<[Entry]>),
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object.
    pub oid: Oid,
    /// What the reference says of its class.
    pub hint: Hint,
}

/// Why a record is not the object it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The record cannot be read.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// Part of the state has the wrong form.
    #[error("{kind}: expected {expected}, found {found}")]
    State {
        /// Class of the object.
        kind: Kind,
        /// What should have been there.
        expected: Expected,
        /// What was there.
        found: ValueKind,
    },
    /// A file whose blocks have no or a negative size.
    #[error("ZBigFile: block size {found} is not positive")]
    BlkSize {
        /// The size.
        found: i64,
    },
    /// Keys or separators that do not increase.
    #[error("{kind}: keys do not increase at {key}")]
    Unsorted {
        /// Class of the node.
        kind: Kind,
        /// The first key that is not greater than the one before.
        key: i64,
    },
    /// A key that no node of the family can have.
    #[error("{kind}: key {key} is out of range")]
    KeyRange {
        /// Class of the node.
        kind: Kind,
        /// The key.
        key: i64,
    },
    /// Children that are partly trees and partly buckets.
    #[error("{kind}: children are both trees and buckets")]
    Mixed {
        /// Class of the node.
        kind: Kind,
    },
}

/// A form that part of a state must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Bytes.
    Bytes,
    /// An integer of 64 bits.
    Int,
    /// A reference to an object of this database.
    Ref,
    /// `(blksize, blktab)`
    FileState,
    /// `(items,)` or `(items, next)`
    BucketState,
    /// Keys and values in turn.
    Pairs,
    /// `None`, `((bucket,),)` or `(children, first bucket)`
    TreeState,
    /// Children and separators in turn, a child first and last.
    Children,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Int => "an integer of 64 bits",
            Self::Ref => "a reference",
            Self::FileState => "a pair of block size and table",
            Self::BucketState => "a tuple of items and perhaps the next bucket",
            Self::Pairs => "a tuple of keys and values in turn",
            Self::TreeState => "None, a bucket within, or children and first bucket",
            Self::Children => "a tuple of children and separators in turn",
        })
    }
}

/// Reads an object from its record, of up to [`RECORD_BYTES_MAX`] bytes.
pub fn decode(record: Bytes) -> Result<Object, ObjectError> {
    decode_within(record, RECORD_BYTES_MAX)
}

/// Reads an object from its record, compressed or not, of up to `max` bytes.
pub fn decode_within(record: Bytes, max: usize) -> Result<Object, ObjectError> {
    let record = plain(record, max)?;
    if let Some((make, range)) = raw_object(&record) {
        // Shortened rather than sliced: no other hand on the record, no counting.
        let mut data = record;
        data.truncate(range.end);
        data.advance(range.start);
        return Ok(make(data));
    }
    let kind = match read_class(&record)? {
        Class::Unknown => return Ok(Object::Other(OtherClass { name: None })),
        Class::Named(class) => match Kind::of(class) {
            Some(kind) => kind,
            None => {
                let name = Some(class.to_string().into());
                return Ok(Object::Other(OtherClass { name }));
            }
        },
    };
    let record = read_record(&record)?;
    State::new(kind, &record).object()
}

type MakeObject = fn(Bytes) -> Object;

/// Blocks and chunks in their usual form, and where their bytes are: most of all objects, and the only ones that
/// are large.
fn raw_object(record: &[u8]) -> Option<(MakeObject, Range<usize>)> {
    let raw = raw_bytes(record, record.len())?;
    let make: MakeObject = match Kind::of(raw.class) {
        Some(Kind::Blk0) => Object::Blk0,
        Some(Kind::Data) => Object::Data,
        _ => return None,
    };
    let RawBytes {
        data_offset,
        data_len,
        ..
    } = raw;
    let end = data_offset + data_len;
    raw.tail_is_valid(&record[end..])
        .then_some((make, data_offset..end))
}

impl Object {
    /// Bytes of memory it holds, as far as a cache should count them.
    pub fn cost(&self) -> usize {
        // A slice holds its whole record: class, opcodes and the counter of the buffer.
        const RECORD_AROUND_DATA: usize = 160;
        let held = match self {
            Self::BigFile(_) | Self::Blk1 { .. } => 0,
            Self::Tree(tree) => match &tree.node {
                Node::Empty => 0,
                Node::Inline(bucket) => bucket.cost(),
                Node::Inner(inner) => inner.separators.cost() + size_of_val(&*inner.children),
            },
            Self::Bucket(bucket) => bucket.cost(),
            Self::Blk0(data) | Self::Data(data) => data.len() + RECORD_AROUND_DATA,
            Self::Other(class) => class.name.as_ref().map_or(0, |name| name.len()),
        };
        size_of::<Self>() + held
    }
}

impl Inner {
    /// From separators that increase strictly, and one child more.
    fn new(separators: Vec<i64>, children: Vec<Oid>) -> Self {
        debug_assert_eq!(separators.len() + 1, children.len());
        Self {
            separators: Keys::new(separators),
            children: children.into(),
        }
    }

    /// Keys between the children, in order.
    pub fn separators(&self) -> impl Iterator<Item = i64> {
        self.separators.iter()
    }

    /// Children, one more than separators.
    pub fn children(&self) -> &[Oid] {
        &self.children
    }

    /// The separators before and after child `i`; none before the first and after the last.
    pub fn around(&self, i: usize) -> (Option<i64>, Option<i64>) {
        let before = i.checked_sub(1).map(|before| self.separators.at(before));
        let after = (i < self.separators.len()).then(|| self.separators.at(i));
        (before, after)
    }

    /// The least and the greatest separator.
    pub fn ends(&self) -> Option<[i64; 2]> {
        self.separators.ends()
    }

    /// Number of the child that covers a key.
    pub fn child_of(&self, key: i64) -> usize {
        self.separators.not_above(key)
    }
}

impl Bucket {
    /// From keys that increase strictly, and as many entries.
    fn new(family: Family, keys: Vec<i64>, entries: Vec<Entry>) -> Self {
        debug_assert_eq!(keys.len(), entries.len());
        Self {
            family,
            keys: Keys::new(keys),
            entries: Entries::new(entries),
        }
    }

    /// What keys it has.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// The least and the greatest key.
    pub fn ends(&self) -> Option<[i64; 2]> {
        self.keys.ends()
    }

    /// What a key leads to.
    pub fn get(&self, key: i64) -> Option<Entry> {
        self.keys.find(key).map(|i| self.entries.at(i))
    }

    /// The greatest key that is not above `key`, and what it leads to.
    pub fn floor(&self, key: i64) -> Option<(i64, Entry)> {
        let i = self.keys.not_above(key).checked_sub(1)?;
        Some((self.keys.at(i), self.entries.at(i)))
    }

    /// Keys from `first` to `last`, both included, with what they lead to.
    pub fn range(&self, first: i64, last: i64) -> impl Iterator<Item = (i64, Entry)> {
        let places = self.keys.below(first)..self.keys.not_above(last);
        places.map(|i| (self.keys.at(i), self.entries.at(i)))
    }

    /// All keys with what they lead to.
    pub fn iter(&self) -> impl Iterator<Item = (i64, Entry)> {
        (0..self.keys.len()).map(|i| (self.keys.at(i), self.entries.at(i)))
    }

    fn cost(&self) -> usize {
        self.keys.cost() + self.entries.cost()
    }
}

impl Entries {
    fn new(entries: Vec<Entry>) -> Self {
        let Some(&Entry { oid: first, hint }) = entries.first() else {
            return Self::List(Box::default());
        };
        if entries.iter().any(|entry| entry.hint != hint) {
            return Self::List(entries.into());
        }
        let is_run =
            |(i, entry): (usize, &Entry)| first.0.checked_add(i as u64) == Some(entry.oid.0);
        if entries.iter().enumerate().all(is_run) {
            return Self::Run { first, hint };
        }
        let oids = entries.iter().map(|entry| entry.oid).collect();
        Self::Alike { oids, hint }
    }

    fn at(&self, i: usize) -> Entry {
        match self {
            Self::Run { first, hint } => Entry {
                oid: Oid(first.0 + i as u64),
                hint: *hint,
            },
            Self::Alike { oids, hint } => Entry {
                oid: oids[i],
                hint: *hint,
            },
            Self::List(entries) => entries[i],
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Run { .. } => 0,
            Self::Alike { oids, .. } => size_of_val(&**oids),
            Self::List(entries) => size_of_val(&**entries),
        }
    }
}
