//! The stack machine: one pickle after the other, one memo for both.
//!
//! Marks split the stack: below the innermost one, the *fence*, nothing may be taken but by what closes the
//! mark. A call yields `Opaque`, its operands dropped, except the two by which Python 3 writes bytes where the
//! protocol has none: `_codecs.encode(text, 'latin1')` and `bytes()`.
//!
//! The loop is here; `operand` reads, `stack` keeps, `reference` makes what is more than its opcode.

mod operand;
mod reference;
mod stack;

use super::error::PickleError;
use super::opcode as op;
use super::value::{ClassSpan, Heap, Value};
use crate::base::limit::PICKLE_MEMO_MAX;

type Outcome<T> = Result<T, PickleError>;

/// Reads pickles from one record.
pub(super) struct Machine<'a> {
    buf: &'a [u8],
    /// Next byte to read.
    pos: usize,
    /// Position of the opcode under way.
    at: usize,
    /// The opcode under way.
    op: u8,
    stack: Vec<Value>,
    /// Outer fences, innermost last.
    marks: Vec<usize>,
    fence: usize,
    memo: Vec<Option<Value>>,
    /// Slots filled; MEMOIZE fills the slot of this number.
    memo_len: usize,
    /// Bytes of text that may still be encoded. Each text is encoded once in a sane record.
    encode_left: usize,
    /// Items put in lists and dicts.
    listed: usize,
    pub(super) heap: Heap,
}

/// Memo slots that a record of this length may use.
pub(super) fn memo_max(record_len: usize) -> usize {
    record_len.min(PICKLE_MEMO_MAX)
}

impl<'a> Machine<'a> {
    /// The record must not exceed `RECORD_BYTES_CEILING`: spans are 32 bits wide.
    pub(super) fn new(buf: &'a [u8]) -> Self {
        debug_assert!(u32::try_from(buf.len()).is_ok());
        // A bucket spends some 20 bytes on an entry, with 2 puts and 4 items.
        let guess = (buf.len() / 8).min(512);
        let heap = Heap {
            items: Vec::with_capacity(guess * 2),
            ..Heap::default()
        };
        Self {
            buf,
            pos: 0,
            at: 0,
            op: 0,
            stack: Vec::with_capacity(guess),
            marks: Vec::new(),
            fence: 0,
            memo: Vec::with_capacity(guess),
            memo_len: 0,
            encode_left: buf.len(),
            listed: 0,
            heap,
        }
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    /// Reads one pickle, up to its STOP.
    pub(super) fn run(&mut self) -> Outcome<Value> {
        self.stack.clear();
        self.marks.clear();
        self.fence = 0;
        loop {
            self.at = self.pos;
            self.op = self.byte()?;
            match self.op {
                op::STOP => return self.stop(),
                op::PROTO => {
                    let proto = self.byte()?;
                    if proto > op::PROTO_MAX {
                        return Err(PickleError::Protocol { proto, at: self.at });
                    }
                }
                op::BINPUT => {
                    let slot = usize::from(self.byte()?);
                    self.put(slot)?;
                }
                op::BINGET => {
                    let slot = usize::from(self.byte()?);
                    self.get(slot)?;
                }
                op::SHORT_BINBYTES | op::SHORT_BINSTRING => {
                    let len = usize::from(self.byte()?);
                    self.bytes(len)?;
                }
                op::BININT1 => {
                    let n = self.byte()?;
                    self.push(Value::Int(n.into()))?;
                }
                op::BININT2 => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                op::TUPLE2 => self.tuple(2)?,
                op::BINPERSID => self.reference()?,
                op::MARK => self.mark()?,
                op::TUPLE => {
                    let count = self.close()?;
                    self.tuple(count)?;
                }
                op::GLOBAL => self.class()?,
                _ => self.scalar()?,
            }
        }
    }

    /// Constants, numbers and strings less often seen.
    fn scalar(&mut self) -> Outcome<()> {
        match self.op {
            op::BININT => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))
            }
            op::NONE => self.push(Value::None),
            op::NEWTRUE => self.push(Value::Bool(true)),
            op::NEWFALSE => self.push(Value::Bool(false)),
            op::BINFLOAT => {
                let x = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(x))
            }
            op::INT | op::LONG => self.int_text(),
            op::LONG1 => {
                let len = usize::from(self.byte()?);
                self.int_bytes(len)
            }
            op::LONG4 => {
                let len = i32::from_le_bytes(self.array()?);
                self.int_bytes(self.size(len)?)
            }
            op::BINBYTES => {
                let len = u32::from_le_bytes(self.array()?);
                self.bytes(self.size(len)?)
            }
            op::BINSTRING => {
                let len = i32::from_le_bytes(self.array()?);
                self.bytes(self.size(len)?)
            }
            op::BINBYTES8 => {
                let len = u64::from_le_bytes(self.array()?);
                self.bytes(self.size(len)?)
            }
            op::SHORT_BINUNICODE => {
                let len = usize::from(self.byte()?);
                self.text(len)
            }
            op::BINUNICODE => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(self.size(len)?)
            }
            op::BINUNICODE8 => {
                let len = u64::from_le_bytes(self.array()?);
                self.text(self.size(len)?)
            }
            _ => self.container(),
        }
    }

    /// Containers, and the memo in its wide forms.
    fn container(&mut self) -> Outcome<()> {
        match self.op {
            op::EMPTY_TUPLE => self.tuple(0),
            op::TUPLE1 => self.tuple(1),
            op::TUPLE3 => self.tuple(3),
            op::EMPTY_LIST => {
                let list = self.list()?;
                self.push(Value::List(list))
            }
            op::EMPTY_DICT => {
                let list = self.list()?;
                self.push(Value::Dict(list))
            }
            op::APPEND => self.extend(1),
            op::SETITEM => self.extend(2),
            op::APPENDS | op::SETITEMS => {
                let count = self.close()?;
                self.extend(count)
            }
            op::LONG_BINPUT => {
                let slot = u32::from_le_bytes(self.array()?);
                self.put(slot as usize)
            }
            op::LONG_BINGET => {
                let slot = u32::from_le_bytes(self.array()?);
                self.get(slot as usize)
            }
            op::MEMOIZE => self.put(self.memo_len),
            op::DUP => {
                let value = self.top()?;
                self.push(value)
            }
            op::POP if !self.marks.is_empty() && self.stack.len() == self.fence => {
                self.close().map(drop)
            }
            op::POP => self.pop().map(drop),
            op::POP_MARK => {
                let count = self.close()?;
                self.drop_top(count)
            }
            op::FRAME => {
                let len = u64::from_le_bytes(self.array()?);
                // Frames only help who reads from a stream; a false length is a damaged record all the same.
                match self.buf.len() - self.pos {
                    left if left as u64 >= len => Ok(()),
                    _ => Err(self.truncated()),
                }
            }
            _ => self.call(),
        }
    }

    /// Classes, and whatever would run code.
    fn call(&mut self) -> Outcome<()> {
        match self.op {
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.operand());
                };
                let id = self.global(ClassSpan { module, name })?;
                self.push(Value::Global(id))
            }
            op::REDUCE => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let value = self.reduce(callable, args)?;
                self.push(value)
            }
            op::BUILD | op::NEWOBJ => self.opaque(2),
            op::NEWOBJ_EX => self.opaque(3),
            op::OBJ => {
                let count = self.close()?;
                self.opaque(count)
            }
            op::INST => {
                self.line()?;
                self.line()?;
                let count = self.close()?;
                self.opaque(count)
            }
            op => Err(PickleError::Opcode { op, at: self.at }),
        }
    }

    fn stop(&mut self) -> Outcome<Value> {
        match self.stack[..] {
            [value] if self.marks.is_empty() => Ok(value),
            [] => Err(self.underflow()),
            _ => Err(PickleError::Leftover { at: self.at }),
        }
    }
}

/// A position or count in a record, whose length fits 32 bits.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("records are shorter than 4 GiB")
}
