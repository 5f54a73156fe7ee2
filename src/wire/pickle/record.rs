//! Records: the class alone, or class and state.
//!
//! The class is read first and without the state, so that the state of an object nobody knows is never decoded.

use super::error::PickleError;
use super::machine::Machine;
use super::raw::header;
use super::value::{ClassName, ClassSpan, Record, Value};
use crate::base::limit::RECORD_BYTES_CEILING;
use bytes::Bytes;

/// The class of an object, as its record tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class<'a> {
    /// By module and name.
    Named(ClassName<'a>),
    /// In another way: a class that is itself an object of the database, or the result of a call.
    Unknown,
}

/// Reads the class of an ordinary (not compressed) record and leaves the state alone.
pub fn read_class(record: &[u8]) -> Result<Class<'_>, PickleError> {
    check_len(record)?;
    if let Some(head) = header(record, record.len()) {
        return Ok(Class::Named(head.class));
    }
    let mut machine = Machine::new(record);
    let class = machine.run()?;
    Ok(match class_span(&machine, class) {
        Some(class) => Class::Named(class.of(record)),
        None => Class::Unknown,
    })
}

/// Reads an ordinary (not compressed) record whole: both pickles, and nothing after them.
pub fn read_record(record: &Bytes) -> Result<Record, PickleError> {
    check_len(record)?;
    let mut machine = Machine::new(record);
    let class = machine.run()?;
    let class = class_span(&machine, class);
    let state = machine.run()?;
    if machine.pos() != record.len() {
        return Err(PickleError::Trailing { at: machine.pos() });
    }
    let mut heap = machine.heap;
    let made = Bytes::from(std::mem::take(&mut heap.made));
    Ok(Record {
        bytes: record.clone(),
        made,
        heap,
        class,
        state,
    })
}

/// Reads a message that is one pickle, whole; it has no class.
pub fn read_value(message: &Bytes) -> Result<Record, PickleError> {
    check_len(message)?;
    let mut machine = Machine::new(message);
    let state = machine.run()?;
    if machine.pos() != message.len() {
        return Err(PickleError::Trailing { at: machine.pos() });
    }
    let mut heap = machine.heap;
    let made = Bytes::from(std::mem::take(&mut heap.made));
    Ok(Record {
        bytes: message.clone(),
        made,
        heap,
        class: None,
        state,
    })
}

/// A class stands alone or first of two, the second being arguments of its constructor; or its name does.
fn class_span(machine: &Machine<'_>, class: Value) -> Option<ClassSpan> {
    match class {
        Value::Global(id) => Some(machine.heap.global(id)),
        Value::Tuple(items) => match *machine.heap.tuple(items) {
            [Value::Global(id), _] => Some(machine.heap.global(id)),
            [Value::Tuple(pair), _] => machine.class_pair(pair),
            _ => None,
        },
        _ => None,
    }
}

fn check_len(record: &[u8]) -> Result<(), PickleError> {
    if record.len() > RECORD_BYTES_CEILING {
        return Err(PickleError::RecordTooLong {
            max: RECORD_BYTES_CEILING,
        });
    }
    Ok(())
}
