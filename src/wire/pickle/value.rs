//! What a record decodes to: small inert values, and the arena that they index.
//!
//! A [`Value`] is 16 bytes and `Copy`. What does not fit in it lies in the [`Record`] that made it: tuples are
//! ranges of one arena of items, bytes and text are spans of the record. So a value that occurs a million
//! times is shared by being small, and dropping a record frees a few vectors whatever its nesting.
//!
//! Values compare by content nowhere: a tree of shared tuples can be exponentially larger than its record.
//! Callers look as deep as the state they expect.

use crate::base::Oid;
use bytes::Bytes;
use std::fmt;
use std::num::NonZeroU32;

/// A range of bytes in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    pub(super) fn of(self, buf: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &buf[start..start + self.len as usize]
    }
}

/// Where the bytes of a value lie: in the record, or among those a reduction made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    pub(super) span: Span,
    pub(super) made: bool,
}

/// A range of the arena of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// Number of a list or dict in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListId(pub(super) u32);

/// Number of a class name in its record, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalId(pub(super) NonZeroU32);

/// References that lead nowhere zring goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InertRef {
    /// `['w', ..]` or the old `[oid]`.
    Weak,
    /// `['n', ..]` or `['m', ..]`: an object of another database.
    OtherDatabase,
    /// Anything else.
    Odd,
}

/// One value of a record.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`; never an integer here.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A longer integer, as it stands in the record.
    BigInt(Span),
    /// A float.
    Float(f64),
    /// `bytes`, or `str` of Python 2.
    Bytes(Blob),
    /// `str` of Python 3, `unicode` of Python 2; UTF-8 unless damaged.
    Text(Span),
    /// A tuple.
    Tuple(Items),
    /// A list.
    List(ListId),
    /// A dict, keys and values in turn.
    Dict(ListId),
    /// A class or function: two strings, never resolved.
    Global(GlobalId),
    /// A reference to an object of this database, with the class its writer thought it had.
    Ref(Oid, Option<GlobalId>),
    /// Any other persistent reference.
    Inert(InertRef),
    /// The result of a call that is not made.
    Opaque,
}

const _: () = assert!(size_of::<Value>() == 16 && size_of::<Option<Value>>() == 16);

/// Sort of a value, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// `None`.
    None,
    /// A boolean.
    Bool,
    /// An integer that fits 64 bits.
    Int,
    /// A longer integer.
    BigInt,
    /// A float.
    Float,
    /// Bytes.
    Bytes,
    /// Text.
    Text,
    /// A tuple, and its length.
    Tuple(u32),
    /// A list.
    List,
    /// A dict.
    Dict,
    /// A class.
    Global,
    /// A reference.
    Ref,
    /// A weak, foreign or malformed reference.
    Inert,
    /// A call that is not made.
    Opaque,
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bool => "a boolean",
            Self::Int => "an integer",
            Self::BigInt => "an integer beyond 64 bits",
            Self::Float => "a float",
            Self::Bytes => "bytes",
            Self::Text => "text",
            Self::Tuple(len) => return write!(f, "a tuple of {len}"),
            Self::List => "a list",
            Self::Dict => "a dict",
            Self::Global => "a class",
            Self::Ref => "a reference",
            Self::Inert => "a weak or foreign reference",
            Self::Opaque => "the result of a call",
        })
    }
}

impl Value {
    /// Sort of this value.
    pub fn kind(self) -> ValueKind {
        match self {
            Self::None => ValueKind::None,
            Self::Bool(_) => ValueKind::Bool,
            Self::Int(_) => ValueKind::Int,
            Self::BigInt(_) => ValueKind::BigInt,
            Self::Float(_) => ValueKind::Float,
            Self::Bytes(_) => ValueKind::Bytes,
            Self::Text(_) => ValueKind::Text,
            Self::Tuple(items) => ValueKind::Tuple(items.len),
            Self::List(_) => ValueKind::List,
            Self::Dict(_) => ValueKind::Dict,
            Self::Global(_) => ValueKind::Global,
            Self::Ref(..) => ValueKind::Ref,
            Self::Inert(_) => ValueKind::Inert,
            Self::Opaque => ValueKind::Opaque,
        }
    }
}

/// Module and name of a class, as written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClassName<'a> {
    /// Dotted module.
    pub module: &'a [u8],
    /// Name in it.
    pub name: &'a [u8],
}

impl fmt::Display for ClassName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (module, name) = (self.module.escape_ascii(), self.name.escape_ascii());
        write!(f, "{module}.{name}")
    }
}

impl fmt::Debug for ClassName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClassName({self})")
    }
}

/// Where the two strings of a class name lie in the record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ClassSpan {
    pub(super) module: Span,
    pub(super) name: Span,
}

impl ClassSpan {
    pub(super) fn of(self, buf: &[u8]) -> ClassName<'_> {
        ClassName {
            module: self.module.of(buf),
            name: self.name.of(buf),
        }
    }
}

/// What values of one record index. Grows while the machine runs.
#[derive(Default)]
pub(super) struct Heap {
    pub(super) items: Vec<Value>,
    pub(super) lists: Vec<Vec<Value>>,
    pub(super) globals: Vec<ClassSpan>,
    pub(super) made: Vec<u8>,
}

impl Heap {
    pub(super) fn tuple(&self, items: Items) -> &[Value] {
        let start = items.start as usize;
        &self.items[start..start + items.len as usize]
    }

    pub(super) fn global(&self, id: GlobalId) -> ClassSpan {
        self.globals[id.0.get() as usize - 1]
    }
}

/// A record that was read: the class, the state, and all that the state's values refer to.
///
/// Values of one record mean nothing in another; a foreign one may panic, never more.
pub struct Record {
    pub(super) bytes: Bytes,
    pub(super) made: Bytes,
    pub(super) heap: Heap,
    pub(super) class: Option<ClassSpan>,
    pub(super) state: Value,
}

impl Record {
    /// The class of the object; `None` when the record does not tell it by name.
    pub fn class(&self) -> Option<ClassName<'_>> {
        self.class.map(|class| class.of(&self.bytes))
    }

    /// The state of the object.
    pub fn state(&self) -> Value {
        self.state
    }

    /// Items of a tuple.
    pub fn tuple(&self, items: Items) -> &[Value] {
        self.heap.tuple(items)
    }

    /// Items of a list; keys and values of a dict in turn.
    pub fn list(&self, list: ListId) -> &[Value] {
        &self.heap.lists[list.0 as usize]
    }

    /// Bytes of a value, not copied.
    pub fn bytes(&self, blob: Blob) -> Bytes {
        let home = if blob.made { &self.made } else { &self.bytes };
        let start = blob.span.start as usize;
        home.slice(start..start + blob.span.len as usize)
    }

    /// Text of a value; `None` when it is not UTF-8.
    pub fn text(&self, span: Span) -> Option<&str> {
        std::str::from_utf8(span.of(&self.bytes)).ok()
    }

    /// The same as it stands, not copied.
    pub fn text_bytes(&self, span: Span) -> Bytes {
        let start = span.start as usize;
        self.bytes.slice(start..start + span.len as usize)
    }

    /// Name of a class.
    pub fn global(&self, id: GlobalId) -> ClassName<'_> {
        self.heap.global(id).of(&self.bytes)
    }
}

impl fmt::Debug for Record {
    /// One line whatever the record holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("bytes", &self.bytes.len())
            .field("class", &self.class())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
