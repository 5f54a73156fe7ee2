//! References, and the two calls that are made.

use super::{Machine, Outcome, PickleError, memo_max, narrow};
use crate::base::Oid;
use crate::base::limit::{PICKLE_ITEMS_MAX, PICKLE_STACK_MAX};
use crate::wire::pickle::opcode as op;
use crate::wire::pickle::value::{Blob, ClassSpan, InertRef, Items, ListId, Span, Value};

impl<'a> Machine<'a> {
    pub(super) fn reference(&mut self) -> Outcome<()> {
        let operand = self.pop()?;
        let value = match operand {
            Value::Tuple(items) => self.named_reference(items)?,
            Value::Bytes(_) | Value::Text(_) => Value::Ref(self.oid(operand)?, None),
            Value::List(id) => Value::Inert(self.listed_reference(id)),
            _ => Value::Inert(InertRef::Odd),
        };
        self.push(value)
    }

    /// The rest of a reference as nodes hold them by the hundred, in one go: after the oid
    ///
    /// ```text
    /// [BINPUT a] BINGET b TUPLE2 [BINPUT c] BINPERSID
    /// ```
    ///
    /// `None` leaves everything as it was, for the opcodes one by one, which come to the same.
    pub(super) fn usual_reference(&mut self, span: Span) -> Option<()> {
        let optional_put = |code: &'a [u8]| match code {
            [op::BINPUT, slot, rest @ ..] => (Some(usize::from(*slot)), rest),
            rest => (None, rest),
        };
        let (oid_slot, code) = optional_put(&self.buf[self.pos..]);
        let [op::BINGET, class_slot, op::TUPLE2, code @ ..] = code else {
            return None;
        };
        let (pair_slot, code) = optional_put(code);
        let [op::BINPERSID, code @ ..] = code else {
            return None;
        };
        let class_slot = usize::from(*class_slot);
        let &Some(class @ Value::Global(id)) = self.memo.get(class_slot)? else {
            return None;
        };
        let start = self.heap.items.len();
        let room = self.stack.len() + 2 <= PICKLE_STACK_MAX && start + 2 <= PICKLE_ITEMS_MAX;
        let slot_max = oid_slot.max(pair_slot).unwrap_or(0);
        if !room || oid_slot == Some(class_slot) || slot_max >= memo_max(self.buf.len()) {
            return None;
        }
        let oid = Oid::from_bytes(span.of(self.buf).try_into().ok()?);
        let bytes = Value::Bytes(Blob { span, made: false });
        if let Some(slot) = oid_slot {
            self.set(slot, bytes);
        }
        self.heap.items.extend_from_slice(&[bytes, class]);
        if let Some(slot) = pair_slot {
            self.set(
                slot,
                Value::Tuple(Items {
                    start: narrow(start),
                    len: 2,
                }),
            );
        }
        self.stack.push(Value::Ref(oid, Some(id)));
        self.pos = self.buf.len() - code.len();
        Some(())
    }

    /// `(oid, class)`, where the class may be a pair of strings.
    pub(super) fn named_reference(&mut self, items: Items) -> Outcome<Value> {
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

    pub(super) fn listed_reference(&self, list: ListId) -> InertRef {
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

    pub(super) fn oid(&self, value: Value) -> Outcome<Oid> {
        let wrong = PickleError::Oid { at: self.at };
        let bytes = self.string(value).ok_or(wrong)?;
        if matches!(value, Value::Text(_)) && !bytes.is_ascii() {
            return Err(wrong);
        }
        Ok(Oid::from_bytes(bytes.try_into().map_err(|_| wrong)?))
    }

    /// Bytes or text, whichever was written.
    pub(super) fn string(&self, value: Value) -> Option<&[u8]> {
        match value {
            Value::Bytes(Blob { span, made: false }) | Value::Text(span) => Some(span.of(self.buf)),
            Value::Bytes(Blob { span, made: true }) => Some(span.of(&self.heap.made)),
            _ => None,
        }
    }

    /// `(module, name)` as two strings of the record.
    pub(in crate::wire::pickle) fn class_pair(&self, items: Items) -> Option<ClassSpan> {
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

    pub(super) fn reduce(&mut self, callable: Value, args: Value) -> Outcome<Value> {
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
    pub(super) fn encode(&mut self, text: Span) -> Outcome<Value> {
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
