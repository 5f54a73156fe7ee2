//! The stack machine: one pickle after the other, one memo for both.
//!
//! Marks split the stack: below the innermost one, the *fence*, nothing may be taken but by what closes the
//! mark. A call yields `Opaque`, its operands dropped, except the two by which Python 3 writes bytes where the
//! protocol has none: `_codecs.encode(text, 'latin1')` and `bytes()`.

use super::error::PickleError;
use super::opcode as op;
use super::value::{Blob, ClassSpan, GlobalId, Heap, InertRef, Items, ListId, Span, Value};
use crate::base::Oid;
use crate::base::limit::{
    PICKLE_GLOBALS_MAX, PICKLE_ITEMS_MAX, PICKLE_LINE_MAX, PICKLE_LISTS_MAX, PICKLE_MARK_DEPTH_MAX,
    PICKLE_MEMO_MAX, PICKLE_STACK_MAX,
};
use std::num::NonZeroU32;

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

/// Operands that follow the opcode.
impl<'a> Machine<'a> {
    fn byte(&mut self) -> Outcome<u8> {
        let byte = *self
            .buf
            .get(self.pos)
            .ok_or(PickleError::Truncated { at: self.pos })?;
        self.pos += 1;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let found = self.buf[self.pos..].first_chunk::<N>();
        let array = *found.ok_or(PickleError::Truncated { at: self.pos })?;
        self.pos += N;
        Ok(array)
    }

    /// A length as read; negative ones are malformed.
    fn size<T: TryInto<usize>>(&self, len: T) -> Outcome<usize> {
        len.try_into().map_err(|_| self.operand())
    }

    fn span(&mut self, len: usize) -> Outcome<Span> {
        if len > self.buf.len() - self.pos {
            return Err(self.truncated());
        }
        let span = Span {
            start: narrow(self.pos),
            len: narrow(len),
        };
        self.pos += len;
        Ok(span)
    }

    /// An operand that ends with a line feed.
    fn line(&mut self) -> Outcome<Span> {
        let rest = &self.buf[self.pos..];
        let window = &rest[..rest.len().min(PICKLE_LINE_MAX + 1)];
        let Some(len) = window.iter().position(|&c| c == b'\n') else {
            let cut = window.len() <= PICKLE_LINE_MAX;
            return Err(if cut {
                self.truncated()
            } else {
                self.operand()
            });
        };
        let span = self.span(len)?;
        self.pos += 1;
        Ok(span)
    }

    fn bytes(&mut self, len: usize) -> Outcome<()> {
        let span = self.span(len)?;
        self.push(Value::Bytes(Blob { span, made: false }))
    }

    fn text(&mut self, len: usize) -> Outcome<()> {
        let span = self.span(len)?;
        self.push(Value::Text(span))
    }

    /// INT and LONG: decimal text.
    fn int_text(&mut self) -> Outcome<()> {
        let span = self.line()?;
        let mut text = span.of(self.buf);
        let value = match (self.op, text) {
            (op::INT, b"00") => Value::Bool(false),
            (op::INT, b"01") => Value::Bool(true),
            (op, _) => {
                if op == op::LONG {
                    text = text.strip_suffix(b"L").unwrap_or(text);
                }
                let digits = text.strip_prefix(b"-").unwrap_or(text);
                if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                    return Err(self.operand());
                }
                let text = std::str::from_utf8(text).map_err(|_| self.operand())?;
                text.parse().map_or(Value::BigInt(span), Value::Int)
            }
        };
        self.push(value)
    }

    /// LONG1 and LONG4: two's complement, least byte first, none for 0.
    fn int_bytes(&mut self, len: usize) -> Outcome<()> {
        let span = self.span(len)?;
        let bytes = span.of(self.buf);
        let (low, high) = bytes.split_at(len.min(8));
        let fill = if bytes.last().is_some_and(|&b| b >= 0x80) {
            0xff
        } else {
            0
        };
        let mut word = [fill; 8];
        word[..low.len()].copy_from_slice(low);
        let n = i64::from_le_bytes(word);
        let fits = high.iter().all(|&b| b == fill) && (n < 0) == (fill == 0xff);
        self.push(if fits {
            Value::Int(n)
        } else {
            Value::BigInt(span)
        })
    }

    fn class(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        let id = self.global(ClassSpan { module, name })?;
        self.push(Value::Global(id))
    }
}

/// Stack, marks, memo and arena.
impl Machine<'_> {
    fn push(&mut self, value: Value) -> Outcome<()> {
        if self.stack.len() >= PICKLE_STACK_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.stack.push(value);
        Ok(())
    }

    fn top(&self) -> Outcome<Value> {
        match self.stack[self.fence..].last() {
            Some(&value) => Ok(value),
            None => Err(self.underflow()),
        }
    }

    fn pop(&mut self) -> Outcome<Value> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn drop_top(&mut self, count: usize) -> Outcome<()> {
        let keep = self.below(count)?;
        self.stack.truncate(keep);
        Ok(())
    }

    /// Stack length without the top `count` values.
    fn below(&self, count: usize) -> Outcome<usize> {
        match self.stack.len().checked_sub(count) {
            Some(keep) if keep >= self.fence => Ok(keep),
            _ => Err(self.underflow()),
        }
    }

    fn mark(&mut self) -> Outcome<()> {
        if self.marks.len() >= PICKLE_MARK_DEPTH_MAX {
            return Err(PickleError::MarkDepth { at: self.at });
        }
        self.marks.push(self.fence);
        self.fence = self.stack.len();
        Ok(())
    }

    /// Closes the innermost mark and says how many values lie above it.
    fn close(&mut self) -> Outcome<usize> {
        let outer = self.marks.pop().ok_or(self.underflow())?;
        let count = self.stack.len() - self.fence;
        self.fence = outer;
        Ok(count)
    }

    fn put(&mut self, slot: usize) -> Outcome<()> {
        let value = self.top()?;
        if slot >= memo_max(self.buf.len()) {
            return Err(PickleError::MemoFull { slot, at: self.at });
        }
        if slot >= self.memo.len() {
            self.memo.resize(slot, None);
            self.memo.push(Some(value));
            self.memo_len += 1;
        } else if self.memo[slot].replace(value).is_none() {
            self.memo_len += 1;
        }
        Ok(())
    }

    fn get(&mut self, slot: usize) -> Outcome<()> {
        let value = self.memo.get(slot).copied().flatten();
        self.push(value.ok_or(PickleError::MemoEmpty { slot, at: self.at })?)
    }

    /// The top `count` values become a tuple.
    fn tuple(&mut self, count: usize) -> Outcome<()> {
        let keep = self.below(count)?;
        let start = self.heap.items.len();
        if start + count > PICKLE_ITEMS_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.heap.items.extend_from_slice(&self.stack[keep..]);
        self.stack.truncate(keep);
        self.push(Value::Tuple(Items {
            start: narrow(start),
            len: narrow(count),
        }))
    }

    fn list(&mut self) -> Outcome<ListId> {
        let id = self.heap.lists.len();
        if id >= PICKLE_LISTS_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.heap.lists.push(Vec::new());
        Ok(ListId(narrow(id)))
    }

    /// The top `count` values go into the list or dict below them.
    fn extend(&mut self, count: usize) -> Outcome<()> {
        let keep = self.below(count)?;
        let into_dict = matches!(self.op, op::SETITEM | op::SETITEMS);
        match self.stack[self.fence..keep].last() {
            Some(Value::List(id)) if !into_dict => {
                self.heap.lists[id.0 as usize].extend_from_slice(&self.stack[keep..]);
            }
            Some(Value::Dict(id)) if into_dict && count.is_multiple_of(2) => {
                self.heap.lists[id.0 as usize].extend_from_slice(&self.stack[keep..]);
            }
            Some(Value::Opaque) => {}
            Some(_) => return Err(self.operand()),
            None => return Err(self.underflow()),
        }
        self.stack.truncate(keep);
        Ok(())
    }

    fn opaque(&mut self, count: usize) -> Outcome<()> {
        self.drop_top(count)?;
        self.push(Value::Opaque)
    }

    fn global(&mut self, class: ClassSpan) -> Outcome<GlobalId> {
        if self.heap.globals.len() >= PICKLE_GLOBALS_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.heap.globals.push(class);
        let count = NonZeroU32::new(narrow(self.heap.globals.len()));
        Ok(GlobalId(count.expect("one was pushed just now")))
    }

    fn truncated(&self) -> PickleError {
        PickleError::Truncated { at: self.at }
    }

    fn operand(&self) -> PickleError {
        PickleError::Operand {
            op: self.op,
            at: self.at,
        }
    }

    fn underflow(&self) -> PickleError {
        PickleError::Underflow {
            op: self.op,
            at: self.at,
        }
    }
}

/// References and the two calls.
impl<'a> Machine<'a> {
    fn reference(&mut self) -> Outcome<()> {
        let operand = self.pop()?;
        let value = match operand {
            Value::Tuple(items) => self.named_reference(items)?,
            Value::Bytes(_) | Value::Text(_) => Value::Ref(self.oid(operand)?, None),
            Value::List(id) => Value::Inert(self.listed_reference(id)),
            _ => Value::Inert(InertRef::Odd),
        };
        self.push(value)
    }

    /// `(oid, class)`, where the class may be a pair of strings.
    fn named_reference(&mut self, items: Items) -> Outcome<Value> {
        let &[oid, class] = self.heap.tuple(items) else {
            return Ok(Value::Inert(InertRef::Odd));
        };
        let class = match class {
            Value::Global(id) => id,
            Value::Tuple(pair) => match self.class_pair(pair) {
                Some(class) => self.global(class)?,
                None => return Ok(Value::Inert(InertRef::Odd)),
            },
            _ => return Ok(Value::Inert(InertRef::Odd)),
        };
        Ok(Value::Ref(self.oid(oid)?, Some(class)))
    }

    fn listed_reference(&self, list: ListId) -> InertRef {
        let first = match self.heap.lists[list.0 as usize][..] {
            [] => return InertRef::Odd,
            [_] => return InertRef::Weak,
            [first, ..] => self.string(first),
        };
        match first {
            Some(b"w") => InertRef::Weak,
            Some(b"n" | b"m") => InertRef::OtherDatabase,
            _ => InertRef::Odd,
        }
    }

    fn oid(&self, value: Value) -> Outcome<Oid> {
        let wrong = PickleError::Oid { at: self.at };
        let bytes = self.string(value).ok_or(wrong)?;
        if matches!(value, Value::Text(_)) && !bytes.is_ascii() {
            return Err(wrong);
        }
        Ok(Oid::from_bytes(bytes.try_into().map_err(|_| wrong)?))
    }

    /// Bytes or text, whichever was written.
    fn string(&self, value: Value) -> Option<&[u8]> {
        match value {
            Value::Bytes(Blob { span, made: false }) | Value::Text(span) => Some(span.of(self.buf)),
            Value::Bytes(Blob { span, made: true }) => Some(span.of(&self.heap.made)),
            _ => None,
        }
    }

    /// `(module, name)` as two strings of the record.
    pub(super) fn class_pair(&self, items: Items) -> Option<ClassSpan> {
        let span = |value| match value {
            Value::Text(span) | Value::Bytes(Blob { span, made: false }) => Some(span),
            _ => None,
        };
        let &[module, name] = self.heap.tuple(items) else {
            return None;
        };
        Some(ClassSpan {
            module: span(module)?,
            name: span(name)?,
        })
    }

    fn reduce(&mut self, callable: Value, args: Value) -> Outcome<Value> {
        let (Value::Global(id), Value::Tuple(args)) = (callable, args) else {
            return Ok(Value::Opaque);
        };
        let class = self.heap.global(id).of(self.buf);
        match (class.module, class.name, self.heap.tuple(args)) {
            (b"_codecs", b"encode", &[Value::Text(text), charset]) => match self.string(charset) {
                Some(b"latin1" | b"latin-1" | b"iso-8859-1") => self.encode(text),
                _ => Ok(Value::Opaque),
            },
            (b"__builtin__" | b"builtins", b"bytes", []) => {
                let span = Span { start: 0, len: 0 };
                Ok(Value::Bytes(Blob { span, made: false }))
            }
            _ => Ok(Value::Opaque),
        }
    }

    /// Text to one byte per character; `Opaque` when one does not fit.
    fn encode(&mut self, text: Span) -> Outcome<Value> {
        let too_many = PickleError::TooMany { at: self.at };
        let text = text.of(self.buf);
        self.encode_left = self.encode_left.checked_sub(text.len()).ok_or(too_many)?;
        let made = &mut self.heap.made;
        let start = made.len();
        made.reserve(text.len());
        let mut rest = text;
        loop {
            let plain = rest
                .iter()
                .position(|b| !b.is_ascii())
                .unwrap_or(rest.len());
            made.extend_from_slice(&rest[..plain]);
            match rest[plain..] {
                [] => break,
                // U+0080..U+00FF are the two-byte sequences led by C2 and C3.
                [lead @ 0xc2..=0xc3, tail @ 0x80..=0xbf, ..] => made.push(lead << 6 | tail & 0x3f),
                _ => {
                    made.truncate(start);
                    return Ok(Value::Opaque);
                }
            }
            rest = &rest[plain + 2..];
        }
        let span = Span {
            start: narrow(start),
            len: narrow(made.len() - start),
        };
        Ok(Value::Bytes(Blob { span, made: true }))
    }
}

/// A position or count in a record, whose length fits 32 bits.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("records are shorter than 4 GiB")
}
