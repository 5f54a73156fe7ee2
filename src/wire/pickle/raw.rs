//! Where the bytes of a record lie whose state is nothing but bytes.
//!
//! Blocks and chunks are such records: a name, two short frames, and the data. From the first bytes and the
//! length of the record this says where the data lies, so that it can be read from a file straight to where
//! it is wanted, and what must follow it.
//!
//! ```text
//! [PROTO p] GLOBAL module \n name \n [put] STOP [PROTO p] (C|U n | B|T n4 | BYTES8 n8) data [put] STOP
//! ```
//!
//! Records of any other form are left to the machine, which accepts all that is accepted here.

use super::machine::memo_max;
use super::opcode as op;
use super::value::ClassName;
use crate::base::limit::PICKLE_LINE_MAX;

/// Bytes at the start of a record that always hold the frame of a block or chunk.
pub const RAW_PREFIX_BYTES: usize = 256;

/// Place of the data in a record of the simple form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBytes<'a> {
    /// Class of the object.
    pub class: ClassName<'a>,
    /// First byte of the data in the record.
    pub data_offset: usize,
    /// Bytes of data.
    pub data_len: usize,
    record_len: usize,
}

impl RawBytes<'_> {
    /// Bytes of the record after the data: 1 to 6.
    pub fn tail_len(&self) -> usize {
        self.record_len - self.data_offset - self.data_len
    }

    /// Whether these, read from the end of the record, are what may follow the data.
    pub fn tail_is_valid(&self, tail: &[u8]) -> bool {
        let mut scan = Scan {
            buf: tail,
            pos: 0,
            record_len: self.record_len,
        };
        tail.len() == self.tail_len() && scan.end() == Some(()) && scan.pos == tail.len()
    }
}

/// Finds the data from `prefix`, the first bytes of a record of `record_len`.
///
/// `None` unless the record has the simple form as far as the prefix tells. The rest is told by
/// [`RawBytes::tail_is_valid`]; only both together say that the record is sound.
pub fn raw_bytes(prefix: &[u8], record_len: usize) -> Option<RawBytes<'_>> {
    let Header { class, len } = header(prefix, record_len)?;
    let mut scan = Scan {
        buf: prefix,
        pos: len,
        record_len,
    };
    scan.protocol()?;
    let data_len = match scan.byte()? {
        op::SHORT_BINBYTES | op::SHORT_BINSTRING => scan.byte()?.into(),
        op::BINBYTES => u32::from_le_bytes(scan.array()?).try_into().ok()?,
        op::BINSTRING => i32::from_le_bytes(scan.array()?).try_into().ok()?,
        op::BINBYTES8 => u64::from_le_bytes(scan.array()?).try_into().ok()?,
        _ => return None,
    };
    let tail_len = record_len.checked_sub(scan.pos)?.checked_sub(data_len)?;
    let raw = RawBytes {
        class,
        data_offset: scan.pos,
        data_len,
        record_len,
    };
    matches!(tail_len, 1..=3 | 6).then_some(raw)
}

/// Module of blocks and chunks: comparing is cheaper than looking for the line feed, a hundred times in a read.
const USUAL_MODULE: &[u8] = b"wendelin.bigfile.file_zodb\n";

/// The first pickle, when it is a class by name.
pub(super) struct Header<'a> {
    pub(super) class: ClassName<'a>,
    /// Its bytes.
    pub(super) len: usize,
}

/// Reads a first pickle of the usual form; `None` for any other.
pub(super) fn header(prefix: &[u8], record_len: usize) -> Option<Header<'_>> {
    let mut scan = Scan {
        buf: prefix,
        pos: 0,
        record_len,
    };
    scan.protocol()?;
    if scan.byte()? != op::GLOBAL {
        return None;
    }
    let class = ClassName {
        module: scan.module()?,
        name: scan.line()?,
    };
    scan.end()?;
    Some(Header {
        class,
        len: scan.pos,
    })
}

struct Scan<'a> {
    buf: &'a [u8],
    pos: usize,
    record_len: usize,
}

impl<'a> Scan<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.buf.get(self.pos)?;
        self.pos += 1;
        Some(byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.buf.get(self.pos..)?.first_chunk::<N>()?;
        self.pos += N;
        Some(array)
    }

    fn module(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buf[self.pos..];
        if rest.starts_with(USUAL_MODULE) {
            self.pos += USUAL_MODULE.len();
            return Some(&rest[..USUAL_MODULE.len() - 1]);
        }
        self.line()
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buf[self.pos..];
        let window = &rest[..rest.len().min(PICKLE_LINE_MAX + 1)];
        let len = window.iter().position(|&c| c == b'\n')?;
        self.pos += len + 1;
        Some(&rest[..len])
    }

    /// PROTO, if there is one.
    fn protocol(&mut self) -> Option<()> {
        if self.buf.get(self.pos) == Some(&op::PROTO) {
            self.pos += 1;
            return (self.byte()? <= op::PROTO_MAX).then_some(());
        }
        Some(())
    }

    /// A put, if there is one, and STOP.
    fn end(&mut self) -> Option<()> {
        let slot = match self.byte()? {
            op::STOP => return Some(()),
            op::MEMOIZE => 0,
            op::BINPUT => self.byte()?.into(),
            op::LONG_BINPUT => u32::from_le_bytes(self.array()?) as usize,
            _ => return None,
        };
        (slot < memo_max(self.record_len) && self.byte()? == op::STOP).then_some(())
    }
}
