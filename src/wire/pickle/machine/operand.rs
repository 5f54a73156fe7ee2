//! Operands that follow an opcode in the record.

use super::{Machine, Outcome, PickleError, narrow};
use crate::base::Oid;
use crate::base::limit::PICKLE_LINE_MAX;
use crate::wire::pickle::opcode as op;
use crate::wire::pickle::value::{Blob, ClassSpan, Span, Value};

impl<'a> Machine<'a> {
    pub(super) fn byte(&mut self) -> Outcome<u8> {
        let byte = *self
            .buf
            .get(self.pos)
            .ok_or(PickleError::Truncated { at: self.pos })?;
        self.pos += 1;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let found = self.buf[self.pos..].first_chunk::<N>();
        let array = *found.ok_or(PickleError::Truncated { at: self.pos })?;
        self.pos += N;
        Ok(array)
    }

    /// A length as read; negative ones are malformed.
    pub(super) fn size<T: TryInto<usize>>(&self, len: T) -> Outcome<usize> {
        len.try_into().map_err(|_| self.operand())
    }

    pub(super) fn span(&mut self, len: usize) -> Outcome<Span> {
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
    pub(super) fn line(&mut self) -> Outcome<Span> {
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

    pub(super) fn bytes(&mut self, len: usize) -> Outcome<()> {
        let span = self.span(len)?;
        if len == size_of::<Oid>() && self.usual_reference(span).is_some() {
            return Ok(());
        }
        self.push(Value::Bytes(Blob { span, made: false }))
    }

    pub(super) fn text(&mut self, len: usize) -> Outcome<()> {
        let span = self.span(len)?;
        self.push(Value::Text(span))
    }

    /// INT and LONG: decimal text.
    pub(super) fn int_text(&mut self) -> Outcome<()> {
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
    pub(super) fn int_bytes(&mut self, len: usize) -> Outcome<()> {
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

    pub(super) fn class(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        let id = self.global(ClassSpan { module, name })?;
        self.push(Value::Global(id))
    }
}
