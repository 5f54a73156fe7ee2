//! A bounded reader of msgpack, as much of the format as there is: every kind is read past, few are looked into.

use super::ZeoError;
use super::tree::{Tree, Value};
use bytes::Bytes;

/// Nesting. Extension data of a transaction may hold what its application likes.
const DEPTH_MAX: usize = 64;

/// Reads one value, and nothing behind it.
pub(super) fn read(payload: &Bytes) -> Result<Tree, ZeoError> {
    let tree = Tree {
        values: Vec::new(),
        root: Value::None,
    };
    let mut reader = Reader {
        payload,
        pos: 0,
        tree,
    };
    let root = reader.value(DEPTH_MAX)?;
    if reader.pos != payload.len() {
        return Err(reader.wrong());
    }
    Ok(Tree {
        root,
        ..reader.tree
    })
}

struct Reader<'p> {
    payload: &'p Bytes,
    pos: usize,
    tree: Tree,
}

type Outcome<T> = Result<T, ZeoError>;

impl Reader<'_> {
    fn wrong(&self) -> ZeoError {
        ZeoError::Msgpack { at: self.pos }
    }

    /// The next bytes.
    fn bytes(&mut self, len: usize) -> Outcome<Bytes> {
        if len > self.payload.len() - self.pos {
            return Err(self.wrong());
        }
        let bytes = self.payload.slice(self.pos..self.pos + len);
        self.pos += len;
        Ok(bytes)
    }

    /// The next bytes as an unsigned number, at most 8.
    fn number(&mut self, len: usize) -> Outcome<u64> {
        let end = self.pos + len;
        let bytes = self
            .payload
            .get(self.pos..end)
            .ok_or_else(|| self.wrong())?;
        let number = bytes.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
        self.pos = end;
        Ok(number)
    }

    fn len(&mut self, bytes: usize) -> Outcome<usize> {
        let len = self.number(bytes)?;
        usize::try_from(len).map_err(|_| self.wrong())
    }

    fn value(&mut self, depth: usize) -> Outcome<Value> {
        let mark = self.number(1)?;
        Ok(match mark {
            0x00..=0x7f => Value::Int(mark.cast_signed()),
            0x80..=0x8f => self.map(low(mark, 0x0f), depth)?,
            0x90..=0x9f => self.seq(low(mark, 0x0f), depth)?,
            0xa0..=0xbf => Value::Text(self.bytes(low(mark, 0x1f))?),
            0xc0 => Value::None,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let len = self.len(1 << (mark - 0xc4))?;
                Value::Bytes(self.bytes(len)?)
            }
            0xc7..=0xc9 => {
                let len = self.len(1 << (mark - 0xc7))?;
                self.extension(len)?
            }
            0xca => self.past(4)?,
            0xcb => self.past(8)?,
            0xcc..=0xcf => {
                let n = self.number(1 << (mark - 0xcc))?;
                i64::try_from(n).map_or(Value::Other, Value::Int)
            }
            0xd0..=0xd3 => {
                let width = 1 << (mark - 0xd0);
                let n = self.number(width)?;
                let shift = 64 - 8 * width;
                Value::Int((n << shift).cast_signed() >> shift)
            }
            0xd4..=0xd8 => self.extension(1 << (mark - 0xd4))?,
            0xd9..=0xdb => {
                let len = self.len(1 << (mark - 0xd9))?;
                Value::Text(self.bytes(len)?)
            }
            0xdc | 0xdd => {
                let len = self.len(2 << (mark - 0xdc))?;
                self.seq(len, depth)?
            }
            0xde | 0xdf => {
                let len = self.len(2 << (mark - 0xde))?;
                self.map(len, depth)?
            }
            0xe0..=0xff => Value::Int(mark.cast_signed() - 256),
            _ => return Err(self.wrong()),
        })
    }

    fn past(&mut self, len: usize) -> Outcome<Value> {
        self.bytes(len).map(|_| Value::Other)
    }

    /// A kind of its own, and bytes.
    fn extension(&mut self, len: usize) -> Outcome<Value> {
        self.past(1)?;
        self.past(len)
    }

    fn seq(&mut self, len: usize, depth: usize) -> Outcome<Value> {
        // Each item has a byte at least.
        if depth == 0 || len > self.payload.len() - self.pos {
            return Err(self.wrong());
        }
        let start = self.tree.room(len)?;
        for n in start..start + len {
            self.tree.values[n] = self.value(depth - 1)?;
        }
        Ok(Value::Seq(start, len))
    }

    /// Nobody looks into a map.
    fn map(&mut self, len: usize, depth: usize) -> Outcome<Value> {
        if depth == 0 {
            return Err(self.wrong());
        }
        for _ in 0..len.saturating_mul(2) {
            self.value(depth - 1)?;
        }
        Ok(Value::Other)
    }
}

/// The length within a mark.
fn low(mark: u64, mask: u8) -> usize {
    let [.., low] = mark.to_be_bytes();
    usize::from(low & mask)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn shown(payload: &[u8]) -> String {
        match read(&Bytes::copy_from_slice(payload)) {
            Ok(tree) => show(&tree, &tree.root),
            Err(error) => error.to_string(),
        }
    }

    fn show(tree: &Tree, value: &Value) -> String {
        match value {
            Value::Seq(..) => {
                let items = tree.items(value).unwrap();
                let items: Vec<_> = items.iter().map(|item| show(tree, item)).collect();
                format!("[{}]", items.join(" "))
            }
            Value::Int(n) => n.to_string(),
            Value::Bytes(bytes) => format!("b{}", bytes.escape_ascii()),
            Value::Text(bytes) => format!("t{}", bytes.escape_ascii()),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_is_read() {
        for (payload, value) in [
            (&b"\x7f"[..], "127"),
            (b"\xe0", "-32"),
            (b"\xff", "-1"),
            (b"\xcc\xff", "255"),
            (b"\xcd\x01\x00", "256"),
            (b"\xce\xff\xff\xff\xff", "4294967295"),
            (
                b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff",
                "9223372036854775807",
            ),
            (b"\xcf\x80\x00\x00\x00\x00\x00\x00\x00", "Other"),
            (b"\xd0\x80", "-128"),
            (b"\xd1\x80\x00", "-32768"),
            (b"\xd2\xff\xff\xff\xfe", "-2"),
            (
                b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
                "-9223372036854775808",
            ),
            (b"\xc0", "None"),
            (b"\xc2", "Bool(false)"),
            (b"\xc4\x02ab", "bab"),
            (b"\xc5\x00\x01a", "ba"),
            (b"\xc6\x00\x00\x00\x01a", "ba"),
            (b"\xa2ab", "tab"),
            (b"\xd9\x01a", "ta"),
            (b"\xda\x00\x01a", "ta"),
            (b"\xdb\x00\x00\x00\x01a", "ta"),
            (b"\xca\x00\x00\x00\x00", "Other"),
            (b"\xcb\x00\x00\x00\x00\x00\x00\x00\x00", "Other"),
            (b"\xd4\x05a", "Other"),
            (b"\xd8\x05aaaaaaaaaaaaaaaa", "Other"),
            (b"\xc7\x03\x05aaa", "Other"),
            (b"\x92\x01\x91\x02", "[1 [2]]"),
            (b"\xdc\x00\x02\x01\x02", "[1 2]"),
            (b"\xdd\x00\x00\x00\x01\x01", "[1]"),
            (b"\x93\x82\x01\x02\x03\xa1a\x05\x06", "[Other 5 6]"),
            (b"\xde\x00\x01\x01\x02", "Other"),
        ] {
            assert_eq!(shown(payload), value, "{}", payload.escape_ascii());
            for len in 0..payload.len() {
                assert!(shown(&payload[..len]).contains("cannot be read"));
            }
            assert!(shown(&[payload, b"\x01"].concat()).contains("cannot be read"));
        }
        assert!(shown(b"\xc1").contains("cannot be read"));
    }

    #[test]
    fn lengths_and_depths_are_bounded() {
        assert!(shown(b"\xdd\xff\xff\xff\xff\x01").contains("byte 5"));
        assert!(shown(b"\xdf\xff\xff\xff\xff\x01\x01").contains("cannot"));
        let deep = |n: usize| [vec![0x91; n], vec![1]].concat();
        assert!(shown(&deep(DEPTH_MAX)).starts_with('['));
        assert!(shown(&deep(DEPTH_MAX + 1)).contains("cannot be read"));
    }
}
