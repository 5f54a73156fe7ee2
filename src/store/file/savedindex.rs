//! Reading the index that a writer saved beside the file (`Data.fs.index`).
//!
//! It is a sequence of small pickles: a number (the end of the last transaction it covers), one pair of
//! (6-byte oid prefix, table) per bucket, and None. A table of n entries is n 2-byte suffixes in increasing
//! order, then n 6-byte positions. Python 2 wrote the same with other string opcodes. Older layouts hold
//! an object tree; those are not read, and the caller scans instead.
//!
//! Saved indexes are written only when a writer closes, packs or had to scan, so mostly they are old, and now
//! and then they belong to another file. `parse` only refuses what cannot be an index; `trust` compares
//! it with the file. Nothing here is ever written.

use super::index::Index;
use super::open::beside;
use super::scan::{Backward, Ends, Look};
use super::table::{BUCKET_MAX, Packer, Table};
use super::window::ReadAt;
use crate::base::Oid;
use crate::base::limit::{INDEX_SAMPLE, INDEX_TRUST_RECORDS_MIN};
use crate::wire::fs1::{DATA_HEADER_LEN, DataHeader, MAGIC_LEN, POS_END, WORD_LEN};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead};
use std::path::Path;

/// Smallest data record: a header and a back pointer.
const RECORD_LEN_MIN: u64 = (DATA_HEADER_LEN + WORD_LEN) as u64;

/// A saved index as read, not yet compared with the file.
#[derive(Debug)]
pub(super) struct Saved {
    /// End of the last transaction it covers.
    pub(super) pos: u64,
    /// Its entries.
    pub(super) table: Table,
}

/// Why a saved index is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// There is none.
    #[error("there is no saved index")]
    Absent,
    /// It could not be read, or ends too early.
    #[error("the saved index cannot be read")]
    Unreadable,
    /// It does not have the layout of the last fifteen years.
    #[error("the saved index has an unknown layout")]
    Layout,
    /// It covers more than the file holds.
    #[error("the saved index covers {0} bytes, more than the file has")]
    Beyond(u64),
    /// It ends where no transaction ends.
    #[error("the saved index ends at {0}, where no transaction ends")]
    NotAnEnd(u64),
    /// It disagrees with the file about an object.
    #[error("the saved index has object {0} elsewhere than the file")]
    Object(Oid),
}

/// Opens the index saved beside a file.
pub(super) fn open(path: &Path) -> Result<File, IndexFault> {
    File::open(beside(path, ".index")).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => IndexFault::Absent,
        _ => IndexFault::Unreadable,
    })
}

/// Reads a saved index from bytes of a file that is `size` long.
pub(super) fn parse(input: &mut impl BufRead, size: u64) -> Result<Saved, IndexFault> {
    let mut p = Pickle { input };
    let pos = p.number()?;
    if pos < MAGIC_LEN || pos > size.min(POS_END) {
        return Err(IndexFault::Beyond(pos));
    }
    let mut out = Packer::default();
    let mut bytes = Vec::new();
    while let Some(prefix) = p.bucket(&mut bytes)? {
        // No more objects than records fit into the file: bounds what a strange index makes us keep.
        let room = size / RECORD_LEN_MIN;
        let fits = !bytes.is_empty() && bytes.len() % 8 == 0 && out.len() as u64 <= room;
        if !fits || !out.push_bucket(prefix, &bytes, MAGIC_LEN, pos) {
            return Err(IndexFault::Layout);
        }
    }
    let table = out.finish();
    Ok(Saved { pos, table })
}

/// Compares a saved index with the file: walks the last transactions it covers, and looks up a sample.
pub(super) fn trust<R: ReadAt + ?Sized>(
    file: &R,
    saved: Saved,
) -> io::Result<Result<(Index, Ends), IndexFault>> {
    let index = Index::from_table(saved.table);
    let ends = match trust_tail(file, &index, saved.pos)? {
        Ok(ends) => ends,
        Err(fault) => return Ok(Err(fault)),
    };
    Ok(trust_sample(file, &index, &ends)?.map(|()| (index, ends)))
}

/// Walks backwards from where the index ends; gives what it covers.
fn trust_tail<R: ReadAt + ?Sized>(
    file: &R,
    index: &Index,
    pos: u64,
) -> io::Result<Result<Ends, IndexFault>> {
    let mut walk = Backward::new(file, pos);
    let (mut last, mut seen, mut records) = (None, HashSet::new(), Vec::new());
    let mut count = 0;
    while count < INDEX_TRUST_RECORDS_MIN {
        let span = match walk.next(&mut records)? {
            Look::Txn(span) | Look::Undone(span) => span,
            Look::End => break,
            _ => return Ok(Err(IndexFault::NotAnEnd(pos))),
        };
        last.get_or_insert(Ends::after(&span));
        count += records.len();
        // Newest first, so the first record met of an object is the one the index must name.
        for &(oid, at) in records.iter().rev() {
            if seen.insert(oid) && index.get(oid) != Some(at) {
                return Ok(Err(IndexFault::Object(oid)));
            }
        }
    }
    Ok(match last {
        None if index.len() > 0 => Err(IndexFault::NotAnEnd(pos)),
        last => Ok(last.unwrap_or(Ends::EMPTY)),
    })
}

/// Looks up entries all over the index.
fn trust_sample<R: ReadAt + ?Sized>(
    file: &R,
    index: &Index,
    ends: &Ends,
) -> io::Result<Result<(), IndexFault>> {
    let table = index.flat();
    let mut sample: Vec<_> = sample(table.len(), ends.end)
        .map(|n| table.nth(n))
        .collect();
    sample.sort_unstable_by_key(|&(_, at)| at);
    for (oid, at) in sample {
        let mut buf = [0; DATA_HEADER_LEN];
        let whole = file.read_full(&mut buf, at)? == buf.len();
        let agrees = whole
            && DataHeader::view(&buf)
                .is_some_and(|h| h.oid() == oid && h.tid() <= ends.last && h.check(at).is_ok());
        if !agrees {
            return Ok(Err(IndexFault::Object(oid)));
        }
    }
    Ok(Ok(()))
}

/// Numbers below `len`: all if there are few, else one at an arbitrary place in each of equal stretches.
fn sample(len: usize, seed: u64) -> impl Iterator<Item = usize> {
    let count = len.min(INDEX_SAMPLE);
    (0..count).map(move |i| {
        let (from, to) = (i * len / count, (i + 1) * len / count);
        let arbitrary = (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        from + usize::try_from(arbitrary).unwrap_or(0) % (to - from)
    })
}

/// Just enough of pickle for this file.
struct Pickle<'i, I> {
    input: &'i mut I,
}

impl<I: BufRead> Pickle<'_, I> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], IndexFault> {
        let mut buf = [0; N];
        let read = self.input.read_exact(&mut buf);
        read.map_err(|_| IndexFault::Unreadable)?;
        Ok(buf)
    }

    /// The next opcode that carries meaning: protocol marks and memo entries are passed over.
    fn op(&mut self) -> Result<u8, IndexFault> {
        loop {
            match self.bytes::<1>()?[0] {
                0x80 | b'q' => self.bytes::<1>().map(|_| ())?,
                b'r' => self.bytes::<4>().map(|_| ())?,
                op => return Ok(op),
            }
        }
    }

    fn stop(&mut self) -> Result<(), IndexFault> {
        match self.op()? {
            b'.' => Ok(()),
            _ => Err(IndexFault::Layout),
        }
    }

    /// A pickle of one number.
    fn number(&mut self) -> Result<u64, IndexFault> {
        let number = match self.op()? {
            b'K' => u64::from(self.bytes::<1>()?[0]),
            b'M' => u64::from(u16::from_le_bytes(self.bytes()?)),
            b'J' => u64::from(u32::from_le_bytes(self.bytes()?)),
            0x8a => self.long1()?,
            b'I' | b'L' => self.line()?,
            _ => return Err(IndexFault::Layout),
        };
        self.stop()?;
        Ok(number)
    }

    fn long1(&mut self) -> Result<u64, IndexFault> {
        let len = usize::from(self.bytes::<1>()?[0]);
        let mut number = [0; 8];
        let digits = number.get_mut(..len).ok_or(IndexFault::Layout)?;
        let read = self.input.read_exact(digits);
        read.map_err(|_| IndexFault::Unreadable)?;
        Ok(u64::from_le_bytes(number))
    }

    fn line(&mut self) -> Result<u64, IndexFault> {
        let mut number = 0u64;
        for _ in 0..21 {
            match self.bytes::<1>()?[0] {
                digit @ b'0'..=b'9' => {
                    let more = number.checked_mul(10);
                    number = more
                        .and_then(|n| n.checked_add(u64::from(digit - b'0')))
                        .ok_or(IndexFault::Layout)?;
                }
                b'L' => {}
                b'\n' => return Ok(number),
                _ => break,
            }
        }
        Err(IndexFault::Layout)
    }

    /// A pickle of (prefix, table), the table going to `table`; `None` for the one that ends the file.
    fn bucket(&mut self, table: &mut Vec<u8>) -> Result<Option<u64>, IndexFault> {
        let mut op = self.op()?;
        if op == b'N' {
            self.stop()?;
            let rest = self.input.fill_buf().map_err(|_| IndexFault::Unreadable)?;
            return if rest.is_empty() {
                Ok(None)
            } else {
                Err(IndexFault::Layout)
            };
        }
        let marked = op == b'(';
        if marked {
            op = self.op()?;
        }
        self.string(op, table)?;
        let [a, b, c, d, e, f] = *table.as_slice() else {
            return Err(IndexFault::Layout);
        };
        let op = self.op()?;
        self.string(op, table)?;
        match (self.op()?, marked) {
            (0x86, false) | (b't', true) => self.stop()?,
            _ => return Err(IndexFault::Layout),
        }
        Ok(Some(u64::from_be_bytes([0, 0, a, b, c, d, e, f])))
    }

    fn string(&mut self, op: u8, out: &mut Vec<u8>) -> Result<(), IndexFault> {
        let len = match op {
            b'C' | b'U' => u32::from(self.bytes::<1>()?[0]),
            b'B' | b'T' => u32::from_le_bytes(self.bytes()?),
            _ => return Err(IndexFault::Layout),
        };
        let len = usize::try_from(len).map_err(|_| IndexFault::Layout)?;
        if len > BUCKET_MAX * 8 {
            return Err(IndexFault::Layout);
        }
        out.resize(len, 0);
        self.input
            .read_exact(out)
            .map_err(|_| IndexFault::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], size: u64) -> Result<(u64, Vec<(Oid, u64)>), IndexFault> {
        let mut input = bytes;
        parse(&mut input, size).map(|saved| (saved.pos, saved.table.iter().collect()))
    }

    /// One bucket with oids 0 and 1, at 200 and 679.
    const TABLE: &[u8] = b"\0\0\0\x01\0\0\0\0\0\xc8\0\0\0\0\x02\xa7";

    fn saved(parts: [&[u8]; 5]) -> Vec<u8> {
        let [number, before, between, after, end] = parts;
        [number, before, b"\0\0\0\0\0\0", between, TABLE, after, end].concat()
    }

    #[test]
    fn the_layouts_of_both_pythons_are_read() {
        let wanted = (737, vec![(Oid(0), 200), (Oid(1), 679)]);
        let numbers: [&[u8]; 6] = [
            b"\x80\x03M\xe1\x02.",
            b"\x80\x03J\xe1\x02\0\0.",
            b"\x80\x02\x8a\x02\xe1\x02.",
            b"I737\n.",
            b"L737L\n.",
            b"M\xe1\x02.",
        ];
        let pairs: [[&[u8]; 4]; 3] = [
            [b"\x80\x03C\x06", b"C\x10", b"\x86.", b"\x80\x03N."],
            [b"(U\x06", b"U\x10", b"t.", b"N."],
            [
                b"\x80\x02U\x06",
                b"q\x01T\x10\0\0\0",
                b"q\x02\x86q\x03.",
                b"\x80\x02N.",
            ],
        ];
        for number in numbers {
            for [before, between, after, end] in pairs {
                let bytes = saved([number, before, between, after, end]);
                assert_eq!(read(&bytes, 737).as_ref(), Ok(&wanted));
                // Cut anywhere it is refused.
                for len in 0..bytes.len() {
                    assert!(read(&bytes[..len], 737).is_err());
                }
            }
        }
    }

    #[test]
    fn what_is_out_of_order_or_out_of_the_file_is_refused() {
        let good: [&[u8]; 5] = [b"M\xe1\x02.", b"C\x06", b"C\x10", b"\x86.", b"N."];
        assert!(read(&saved(good), 737).is_ok());
        assert_eq!(read(&saved(good), 736), Err(IndexFault::Beyond(737)));
        // Positions are below the end that the index states.
        let [_, rest @ ..] = good;
        let early = [b"M\xa7\x02.", rest[0], rest[1], rest[2], rest[3]];
        assert_eq!(read(&saved(early), 737), Err(IndexFault::Layout));
        let bytes = saved(good);
        let table = bytes.windows(TABLE.len()).position(|w| w == TABLE);
        let table = table.unwrap_or_default();
        for (at, byte) in [(1, 1), (1, 9), (9, 3), (4, 1)] {
            let mut bytes = bytes.clone();
            bytes[table + at] = byte;
            assert_eq!(read(&bytes, 737), Err(IndexFault::Layout), "{at}");
        }
        for tail in [&b"N.x"[..], b"N", b"K\0.", b"(U\x06"] {
            let bytes = saved([good[0], good[1], good[2], good[3], tail]);
            assert!(read(&bytes, 737).is_err());
        }
        // The layout before: one pickle of a dictionary.
        assert_eq!(
            read(b"\x80\x02}q\x01(U\x05indexq\x02", 737),
            Err(IndexFault::Layout)
        );
    }

    #[test]
    fn a_sample_is_everything_or_spread_over_it() {
        assert_eq!(sample(5, 9).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(sample(0, 9).count(), 0);
        let spread: Vec<_> = sample(1_000_000, 9).collect();
        assert_eq!(spread.len(), INDEX_SAMPLE);
        for (i, &n) in spread.iter().enumerate() {
            assert_eq!(n / 1000, i);
        }
    }
}
