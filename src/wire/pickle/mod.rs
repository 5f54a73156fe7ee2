//! Bounded reader of object records.
//!
//! A record is two pickles back to back, the class of an object and its state, written with one memo that
//! the second goes on using. Data is hostile until proven otherwise: nothing is ever resolved or called, and
//! what comes out is an inert tree in which a class is two strings and a reference an oid.
//!
//! Invariants
//! - Memory is bounded by the record: at most one stack value, memo slot and item (16 bytes each) per byte,
//!   each under a bound of `base::limit`. A length in the record is compared with the bytes that are there
//!   before anything is reserved.
//! - The tree is flat. A tuple is a range of one shared arena, so deep nesting and sharing cost nothing to drop,
//!   and nothing here recurses.
//! - Bytes are slices of the record.
//! - The short cut for plain bytes (`raw`) accepts a subset of what the machine accepts and says the same.
//!
//! Does not hold the meaning of any class: that is `zodb::object`.
//!
//! Read `record` (what callers use), `value` (what they get), `machine` (how it is made), `raw` (short cut).

mod error;
mod machine;
mod opcode;
mod plain;
mod raw;
mod record;
mod value;

#[cfg(test)]
mod tests;

pub use error::PickleError;
pub use plain::plain;
pub use raw::{RAW_PREFIX_BYTES, RawBytes, raw_bytes};
pub use record::{Class, read_class, read_record, read_value};
pub use value::{
    Blob, ClassName, GlobalId, InertRef, Items, ListId, Record, Span, Value, ValueKind,
};
