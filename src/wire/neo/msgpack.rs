//! msgpack, read value by value by who knows what comes next; nothing is built that nobody wants.

use super::NeoError;
use crate::base::limit::NEO_LIST_MAX;
use crate::base::{Oid, Tid};

/// What follows a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// So many bytes.
    Body(u64),
    /// So many values.
    Items(u64),
    /// A number of so many bytes, and as many bytes as it says.
    LongBody(usize),
    /// The same, and an extension's type.
    LongExt(usize),
    /// A number of so many bytes, and as many values as it says, or twice as many.
    LongItems(usize, u64),
    /// No mark.
    Never,
}

pub(super) fn shape(mark: u8) -> Shape {
    let low = |mask: u8| u64::from(mark & mask);
    match mark {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Shape::Body(0),
        0x80..=0x8f => Shape::Items(2 * low(0x0f)),
        0x90..=0x9f => Shape::Items(low(0x0f)),
        0xa0..=0xbf => Shape::Body(low(0x1f)),
        0xc1 => Shape::Never,
        0xc4..=0xc6 => Shape::LongBody(1 << (mark - 0xc4)),
        0xc7..=0xc9 => Shape::LongExt(1 << (mark - 0xc7)),
        0xca => Shape::Body(4),
        0xcb => Shape::Body(8),
        0xcc..=0xcf => Shape::Body(1 << (mark - 0xcc)),
        0xd0..=0xd3 => Shape::Body(1 << (mark - 0xd0)),
        0xd4..=0xd8 => Shape::Body(1 + (1 << (mark - 0xd4))),
        0xd9..=0xdb => Shape::LongBody(1 << (mark - 0xd9)),
        0xdc | 0xdd => Shape::LongItems(2 << (mark - 0xdc), 1),
        0xde | 0xdf => Shape::LongItems(2 << (mark - 0xde), 2),
    }
}

type Outcome<T> = Result<T, NeoError>;

/// Reads values one after the other.
#[derive(Debug)]
pub(super) struct Reader<'b> {
    bytes: &'b [u8],
    pos: usize,
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, pos: 0 }
    }

    pub(super) fn is_over(&self) -> bool {
        self.pos == self.bytes.len()
    }

    pub(super) fn wrong(&self) -> NeoError {
        NeoError::Form { at: self.pos }
    }

    fn take(&mut self, len: u64) -> Outcome<&'b [u8]> {
        let len = usize::try_from(len).map_err(|_| self.wrong())?;
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        let taken = rest.get(..len).ok_or_else(|| self.wrong())?;
        self.pos += len;
        Ok(taken)
    }

    fn peek(&self) -> Outcome<u8> {
        self.bytes
            .get(self.pos)
            .copied()
            .ok_or_else(|| self.wrong())
    }

    fn mark(&mut self) -> Outcome<u8> {
        let mark = self.peek()?;
        self.pos += 1;
        Ok(mark)
    }

    fn number(&mut self, width: usize) -> Outcome<u64> {
        let bytes = self.take(width as u64)?;
        Ok(bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    /// How many values follow, which are an array: never more than there are bytes.
    pub(super) fn array(&mut self) -> Outcome<usize> {
        let mark = self.mark()?;
        let len = match shape(mark) {
            Shape::Items(len) if mark & 0xf0 == 0x90 => len,
            Shape::LongItems(width, 1) => self.number(width)?,
            _ => return Err(self.wrong()),
        };
        let left = (self.bytes.len() - self.pos) as u64;
        match usize::try_from(len) {
            Ok(count) if len <= left => Ok(count),
            _ => Err(self.wrong()),
        }
    }

    /// An array of just so many.
    pub(super) fn tuple(&mut self, len: usize) -> Outcome<()> {
        match self.array()? {
            n if n == len => Ok(()),
            _ => Err(self.wrong()),
        }
    }

    /// All values of an array.
    pub(super) fn list<T>(&mut self, one: impl Fn(&mut Self) -> Outcome<T>) -> Outcome<Vec<T>> {
        let len = self.array()?;
        (0..len).map(|_| one(self)).collect()
    }

    /// The same of an array that is never long.
    pub(super) fn short_list<T>(
        &mut self,
        one: impl Fn(&mut Self) -> Outcome<T>,
    ) -> Outcome<Vec<T>> {
        let start = self.pos;
        if self.array()? > NEO_LIST_MAX {
            return Err(self.wrong());
        }
        self.pos = start;
        self.list(one)
    }

    pub(super) fn int(&mut self) -> Outcome<i64> {
        let mark = self.mark()?;
        match mark {
            0x00..=0x7f => Ok(i64::from(mark)),
            0xe0..=0xff => Ok(i64::from(mark.cast_signed())),
            0xcc..=0xcf => {
                let n = self.number(1 << (mark - 0xcc))?;
                i64::try_from(n).map_err(|_| self.wrong())
            }
            0xd0..=0xd3 => {
                let width = 1 << (mark - 0xd0);
                let shift = 64 - 8 * width;
                Ok((self.number(width)? << shift).cast_signed() >> shift)
            }
            _ => Err(self.wrong()),
        }
    }

    /// A number of a smaller kind.
    pub(super) fn small<T: TryFrom<i64>>(&mut self) -> Outcome<T> {
        let n = self.int()?;
        T::try_from(n).map_err(|_| self.wrong())
    }

    /// Bytes or text: a peer of another Python writes one for the other.
    pub(super) fn slice(&mut self) -> Outcome<&'b [u8]> {
        let mark = self.mark()?;
        let len = match (mark, shape(mark)) {
            (0xa0..=0xbf, Shape::Body(len)) => len,
            (_, Shape::LongBody(width)) => self.number(width)?,
            _ => return Err(self.wrong()),
        };
        self.take(len)
    }

    /// Bytes, as where they lie.
    pub(super) fn span(&mut self) -> Outcome<std::ops::Range<usize>> {
        let len = self.slice()?.len();
        Ok(self.pos - len..self.pos)
    }

    fn id(&mut self) -> Outcome<u64> {
        let bytes = self.slice()?;
        let bytes = bytes.try_into().map_err(|_| self.wrong())?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(super) fn oid(&mut self) -> Outcome<Oid> {
        self.id().map(Oid)
    }

    pub(super) fn tid(&mut self) -> Outcome<Tid> {
        self.id().map(Tid)
    }

    /// Nil, or a value.
    pub(super) fn option<T>(
        &mut self,
        one: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<Option<T>> {
        if self.peek()? == 0xc0 {
            self.pos += 1;
            return Ok(None);
        }
        one(self).map(Some)
    }

    /// A number of an enumeration.
    pub(super) fn variant(&mut self, kind: u8) -> Outcome<u8> {
        if self.mark()? != 0xd4 || self.mark()? != kind {
            return Err(self.wrong());
        }
        self.mark()
    }

    /// The bits of a float, to be given back as they are.
    pub(super) fn float(&mut self) -> Outcome<u64> {
        match self.mark()? {
            0xcb => self.number(8),
            _ => Err(self.wrong()),
        }
    }

    /// Reads past one value, however deep: a packet was measured before.
    pub(super) fn skip(&mut self) -> Outcome<()> {
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            match shape(self.mark()?) {
                Shape::Body(len) => drop(self.take(len)?),
                Shape::Items(n) => left = left.saturating_add(n),
                Shape::LongBody(width) => {
                    let len = self.number(width)?;
                    self.take(len)?;
                }
                Shape::LongExt(width) => {
                    let len = self.number(width)?;
                    self.take(len + 1)?;
                }
                Shape::LongItems(width, times) => {
                    left = left.saturating_add(self.number(width)?.saturating_mul(times));
                }
                Shape::Never => return Err(self.wrong()),
            }
        }
        Ok(())
    }
}

/// Writes values.
#[derive(Debug)]
pub(super) struct Writer<'o>(pub(super) &'o mut Vec<u8>);

impl Writer<'_> {
    /// At most 15 values follow.
    pub(super) fn array(&mut self, len: u8) {
        assert!(len < 16, "BUG: a long array of {len}");
        self.0.push(0x90 | len);
    }

    pub(super) fn nil(&mut self) {
        self.0.push(0xc0);
    }

    /// As short as can be.
    pub(super) fn int(&mut self, n: i64) {
        let bytes = n.to_be_bytes();
        let [.., a, b, c, d] = bytes;
        match n {
            0..=0x7f => self.0.push(d),
            0x80..=0xff => self.0.extend([0xcc, d]),
            0x100..=0xffff => self.0.extend([0xcd, c, d]),
            0x1_0000..=0xffff_ffff => self.0.extend([0xce, a, b, c, d]),
            -0x8000_0000..=-1 => self.0.extend([0xd2, a, b, c, d]),
            _ => {
                self.0.push(0xd3);
                self.0.extend(bytes);
            }
        }
    }

    /// At most 255 bytes.
    pub(super) fn bin(&mut self, bytes: &[u8]) {
        let [.., len] = bytes.len().to_be_bytes();
        assert!(usize::from(len) == bytes.len(), "BUG: a long name");
        self.0.extend([0xc4, len]);
        self.0.extend(bytes);
    }

    pub(super) fn variant(&mut self, kind: u8, value: u8) {
        self.0.extend([0xd4, kind, value]);
    }

    pub(super) fn float(&mut self, bits: u64) {
        self.0.push(0xcb);
        self.0.extend(bits.to_be_bytes());
    }

    /// A map of one switch that is on, or of nothing.
    pub(super) fn switch(&mut self, name: Option<&str>) {
        match name {
            None => self.0.push(0x80),
            Some(name) => {
                self.0.push(0x81);
                self.bin(name.as_bytes());
                self.0.push(0xc3);
            }
        }
    }
}
