//! What a payload decodes to, from either encoding: a flat arena of small values.
//!
//! Tuples, lists and arrays are one kind here, as are bytes and strings where a server of Python 2 writes one for the other.
//! What nobody looks into (floats, classes, deep nesting) is `Other`.

use super::ZeoError;
use super::msgpack;
use crate::base::limit::ZEO_VALUES_MAX;
use crate::wire::pickle::{self, Value as Pickled};
use bytes::Bytes;

/// How deep a pickle is looked into: message, result, list of oids, oid. What lies deeper is `Other`.
const DEPTH_MAX: usize = 6;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// None.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Bytes: a slice of the payload.
    Bytes(Bytes),
    /// Text, which may be no UTF-8: a slice of the payload.
    Text(Bytes),
    /// Items of a tuple or list: where they lie.
    Seq(usize, usize),
    /// Anything else.
    Other,
}

/// A payload.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) values: Vec<Value>,
    pub(super) root: Value,
}

impl Tree {
    /// Items of a tuple or list.
    pub(super) fn items(&self, value: &Value) -> Option<&[Value]> {
        match *value {
            Value::Seq(start, len) => self.values.get(start..)?.get(..len),
            _ => None,
        }
    }

    pub(super) fn of_msgpack(payload: &Bytes) -> Result<Self, ZeoError> {
        msgpack::read(payload)
    }

    pub(super) fn of_pickle(payload: &Bytes) -> Result<Self, ZeoError> {
        let record = pickle::read_value(payload)?;
        let mut tree = Self {
            values: Vec::new(),
            root: Value::None,
        };
        tree.root = tree.take(&record, record.state(), DEPTH_MAX)?;
        Ok(tree)
    }

    /// A value of a pickle; at most so deep. What a memo shares is taken each time it occurs: the bound is on all of it.
    fn take(
        &mut self,
        record: &pickle::Record,
        value: Pickled,
        depth: usize,
    ) -> Result<Value, ZeoError> {
        let items = match value {
            Pickled::None => return Ok(Value::None),
            Pickled::Bool(yes) => return Ok(Value::Bool(yes)),
            Pickled::Int(n) => return Ok(Value::Int(n)),
            Pickled::Bytes(blob) => return Ok(Value::Bytes(record.bytes(blob))),
            Pickled::Text(span) => return Ok(Value::Text(record.text_bytes(span))),
            Pickled::Tuple(items) if depth > 0 => record.tuple(items),
            Pickled::List(list) if depth > 0 => record.list(list),
            _ => return Ok(Value::Other),
        };
        let start = self.room(items.len())?;
        for (n, &item) in items.iter().enumerate() {
            self.values[start + n] = self.take(record, item, depth - 1)?;
        }
        Ok(Value::Seq(start, items.len()))
    }

    /// Places for so many values.
    pub(super) fn room(&mut self, len: usize) -> Result<usize, ZeoError> {
        let start = self.values.len();
        if len > ZEO_VALUES_MAX - start.min(ZEO_VALUES_MAX) {
            return Err(ZeoError::TooMany);
        }
        self.values.resize(start + len, Value::None);
        Ok(start)
    }
}
