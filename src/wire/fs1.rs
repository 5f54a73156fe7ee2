//! FileStorage records: bytes as they lie in a `Data.fs`.
//!
//! A file is four bytes of magic, then transactions back to back. A transaction is a header, three texts,
//! its data records, and its length once more:
//!
//! ```text
//! tpos                 tid 8 | tlen 8 | status 1 | user 2 | description 2 | extension 2
//! tpos+23              the three texts
//! ...                  data records, ending exactly at tpos+tlen
//! tpos+tlen            tlen 8                             the next transaction begins at tpos+tlen+8
//!
//! pos                  oid 8 | tid 8 | prev 8 | tloc 8 | version length 2 | plen 8
//! pos+42               plen bytes of pickles; or, if plen is 0, a back pointer 8
//! ```
//!
//! All numbers are big-endian. `prev` is the position of the object's previous record, 0 for none; `tloc` is
//! the position of the enclosing transaction. A back pointer names an earlier record of the same object whose
//! data this revision shares; 0 says that the object does not exist at this revision.
//!
//! `TxnHeader` and `DataHeader` are views: laid over bytes by a checked conversion, no accessor can panic. Their
//! `check` functions give the meaning, and refuse what cannot be: lengths that leave their container, tids
//! out of order, and pointers that do not lead strictly backwards (which is why every walk ends).
//!
//! Holds no position of its own and reads nothing. Read `store::file::scan` next.

use crate::base::{Oid, Tid};
use std::mem::size_of;
use zerocopy::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of magic before the first transaction.
pub const MAGIC_LEN: u64 = 4;
/// Magic written by Python 3; what we write.
pub const MAGIC: [u8; 4] = *b"FS30";
/// Magic written by Python 2: the same layout.
pub const MAGIC_PY2: [u8; 4] = *b"FS21";
/// Bytes of a transaction header without its texts.
pub const TXN_HEADER_LEN: usize = 23;
/// Bytes of a data record's header.
pub const DATA_HEADER_LEN: usize = 42;
/// Bytes of a trailing length or a back pointer.
pub const WORD_LEN: usize = 8;
/// Positions take 48 bits in saved indexes, so no file may be larger.
pub const POS_END: u64 = 1 << 48;

const _: () = assert!(size_of::<TxnHeader>() == TXN_HEADER_LEN);
const _: () = assert!(size_of::<DataHeader>() == DATA_HEADER_LEN);
// Wide enough for positions: file offsets, header lengths and sizes are added without overflow checks.
const _: () = assert!(size_of::<usize>() == 8);

/// Whether a file that starts so can be a FileStorage; a file being created may hold only a part of it.
pub fn magic_fits(start: &[u8]) -> bool {
    let n = start.len().min(MAGIC.len());
    start[..n] == MAGIC[..n] || start[..n] == MAGIC_PY2[..n]
}

/// Reads one big-endian word; `None` unless there are 8 bytes.
pub fn word(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}

/// What the status byte of a transaction says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Committed.
    Committed,
    /// Committed, and survived a pack.
    Packed,
    /// Undone in place by an ancient writer: its records do not count.
    Undone,
    /// Voted but not finished: the database ends before it.
    Voted,
    /// Nothing a writer writes.
    Unknown(u8),
}

impl Status {
    /// From the byte in the file.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            b' ' => Self::Committed,
            b'p' => Self::Packed,
            b'u' => Self::Undone,
            b'c' => Self::Voted,
            other => Self::Unknown(other),
        }
    }
}

/// Why bytes cannot be what stands at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The status byte is none of the known ones.
    #[error("transaction status is byte {0:#04x}")]
    Status(u8),
    /// `tlen` leaves no room for the header and its texts.
    #[error("transaction length {0} is smaller than its own header")]
    TxnLength(u64),
    /// The tid is not above that of the transaction before.
    #[error("transaction {tid} does not come after {last}")]
    TidOrder {
        /// Tid found.
        tid: Tid,
        /// Tid of the transaction before it.
        last: Tid,
    },
    /// The transaction runs past the end of the file.
    #[error("transaction of {0} bytes runs past the end of the file")]
    TxnCut(u64),
    /// The length after the transaction differs from the one in its header.
    #[error("the length after the transaction says {tail}, its header {head}")]
    TrailingLength {
        /// Length in the header.
        head: u64,
        /// Length behind the records.
        tail: u64,
    },
    /// A data record runs past its transaction.
    #[error("a data record runs past its transaction")]
    RecordLength,
    /// A data record has a tid other than its transaction's.
    #[error("a data record carries tid {0}, not its transaction's")]
    RecordTid(Tid),
    /// A data record points to another transaction as its own.
    #[error("a data record says it belongs to the transaction at {0}")]
    RecordTloc(u64),
    /// The record belongs to a version, a feature that ZODB dropped in 2007.
    #[error("the record belongs to a version; such databases must be converted first")]
    Version,
    /// The record's `prev` does not lead backwards.
    #[error("the pointer to the previous record ({0}) does not lead backwards")]
    PrevOrder(u64),
    /// The record's back pointer does not lead backwards.
    #[error("the back pointer ({0}) does not lead backwards")]
    BackOrder(u64),
    /// The record belongs to another object.
    #[error("the record belongs to object {0}")]
    OtherOid(Oid),
    /// A revision is newer than the one that led to it, or than the whole index.
    #[error("the record has tid {tid}, above {above}")]
    NewerTid {
        /// Tid found.
        tid: Tid,
        /// What it must not exceed.
        above: Tid,
    },
    /// The position lies outside the part of the file that holds committed transactions.
    #[error("the position lies outside the committed part of the file")]
    Outside,
    /// The file ended inside something that was committed.
    #[error("the file ends before the record does")]
    FileCut,
}

impl Fault {
    /// Whether an index that no longer belongs to the file explains this: worth one retry on a fresh view.
    pub fn may_be_stale(self) -> bool {
        !matches!(self, Self::Version)
    }
}

/// Head of a transaction, laid over its 23 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TxnHeader {
    tid: U64,
    tlen: U64,
    status: u8,
    user_len: U16,
    description_len: U16,
    extension_len: U16,
}

impl TxnHeader {
    /// A header to be written; texts are cut to what their 16-bit lengths can say by the caller.
    pub fn new(tid: Tid, tlen: u64, status: u8, texts: [u16; 3]) -> Self {
        Self {
            tid: tid.0.into(),
            tlen: tlen.into(),
            status,
            user_len: texts[0].into(),
            description_len: texts[1].into(),
            extension_len: texts[2].into(),
        }
    }

    /// Laid over the first 23 bytes; `None` if there are fewer.
    pub fn view(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Tid of the transaction.
    pub fn tid(&self) -> Tid {
        Tid(self.tid.get())
    }

    /// Length of everything but the trailing copy of itself.
    pub fn tlen(&self) -> u64 {
        self.tlen.get()
    }

    /// Status.
    pub fn status(&self) -> Status {
        Status::from_byte(self.status)
    }

    /// Header and texts: the distance to the first data record.
    pub fn head_len(&self) -> u64 {
        TXN_HEADER_LEN as u64
            + u64::from(self.user_len.get())
            + u64::from(self.description_len.get())
            + u64::from(self.extension_len.get())
    }

    /// Where the parts of a transaction at `pos` lie, if it can follow one with tid `last` in a file of
    /// `size` bytes. Says nothing about status, trailing length and records.
    pub fn check(&self, pos: u64, last: Tid, size: u64) -> Result<Span, Fault> {
        let tlen = self.tlen();
        if tlen < self.head_len() {
            return Err(Fault::TxnLength(tlen));
        }
        if self.tid() <= last {
            return Err(Fault::TidOrder {
                tid: self.tid(),
                last,
            });
        }
        if tlen > POS_END || pos + tlen + WORD_LEN as u64 > size {
            return Err(Fault::TxnCut(tlen));
        }
        Ok(Span {
            tid: self.tid(),
            status: self.status(),
            pos,
            records: pos + self.head_len(),
            records_end: pos + tlen,
            end: pos + tlen + WORD_LEN as u64,
        })
    }
}

/// Where a transaction lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Tid of the transaction.
    pub tid: Tid,
    /// Its status when it was looked at.
    pub status: Status,
    /// Position of its header.
    pub pos: u64,
    /// Position of its first data record.
    pub records: u64,
    /// Position behind its last data record, where the trailing length stands.
    pub records_end: u64,
    /// Position of the next transaction.
    pub end: u64,
}

/// Head of a data record, laid over its 42 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataHeader {
    oid: U64,
    tid: U64,
    prev: U64,
    tloc: U64,
    version_len: U16,
    plen: U64,
}

impl DataHeader {
    /// A header to be written.
    pub fn new(oid: Oid, tid: Tid, prev: u64, tloc: u64, plen: u64) -> Self {
        Self {
            oid: oid.0.into(),
            tid: tid.0.into(),
            prev: prev.into(),
            tloc: tloc.into(),
            version_len: 0.into(),
            plen: plen.into(),
        }
    }

    /// Laid over the first 42 bytes; `None` if there are fewer.
    pub fn view(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Object the record belongs to.
    pub fn oid(&self) -> Oid {
        Oid(self.oid.get())
    }

    /// Tid of the transaction that wrote it.
    pub fn tid(&self) -> Tid {
        Tid(self.tid.get())
    }

    /// Position of the object's previous record, 0 for none (always 0 in what a pack copied).
    pub fn prev(&self) -> u64 {
        self.prev.get()
    }

    /// Position of the enclosing transaction.
    pub fn tloc(&self) -> u64 {
        self.tloc.get()
    }

    /// Length of the data; 0 if a back pointer stands in its place.
    pub fn plen(&self) -> u64 {
        self.plen.get()
    }

    /// Length of what follows the header.
    pub fn body_len(&self) -> u64 {
        match self.plen() {
            0 => WORD_LEN as u64,
            plen => plen,
        }
    }

    /// Checks what holds wherever the record is met, given its position.
    pub fn check(&self, pos: u64) -> Result<(), Fault> {
        if self.version_len.get() != 0 {
            return Err(Fault::Version);
        }
        if self.prev() >= pos {
            return Err(Fault::PrevOrder(self.prev()));
        }
        if self.tloc() >= pos {
            return Err(Fault::RecordTloc(self.tloc()));
        }
        Ok(())
    }

    /// Checks a record met while walking the transaction it is in; gives the position of the next one.
    pub fn check_in(&self, pos: u64, txn: &Span) -> Result<u64, Fault> {
        if self.tid() != txn.tid {
            return Err(Fault::RecordTid(self.tid()));
        }
        if self.tloc() != txn.pos {
            return Err(Fault::RecordTloc(self.tloc()));
        }
        self.check(pos)?;
        let body = pos + DATA_HEADER_LEN as u64;
        match txn.records_end.checked_sub(body) {
            Some(room) if self.body_len() <= room => Ok(body + self.body_len()),
            _ => Err(Fault::RecordLength),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn headers_keep_their_fields_at_their_offsets() {
        let txn = TxnHeader::new(Tid(1), 0x9a, b'p', [2, 3, 4]);
        let bytes = txn.as_bytes();
        assert_eq!(
            bytes,
            [
                0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x9a, b'p', 0, 2, 0, 3, 0, 4
            ]
        );
        assert!(TxnHeader::view(&bytes[..22]).is_none());
        let rec = DataHeader::new(Oid(5), Tid(6), 7, 8, 9);
        let bytes = rec.as_bytes();
        for (at, byte) in [(7, 5), (15, 6), (23, 7), (31, 8), (41, 9)] {
            assert_eq!(bytes[at], byte);
        }
        let back = DataHeader::view(bytes).unwrap();
        assert_eq!((back.oid(), back.plen()), (Oid(5), 9));
        assert!(DataHeader::view(&bytes[..41]).is_none());
    }

    #[test]
    fn impossible_lengths_and_pointers_are_refused() {
        let txn = |tid, tlen| TxnHeader::new(Tid(tid), tlen, b' ', [1, 0, 0]);
        assert_eq!(txn(2, 23).check(4, Tid(1), 100), Err(Fault::TxnLength(23)));
        assert_eq!(
            txn(1, 24).check(4, Tid(1), 100),
            Err(Fault::TidOrder {
                tid: Tid(1),
                last: Tid(1)
            })
        );
        assert_eq!(txn(2, 90).check(4, Tid(1), 100), Err(Fault::TxnCut(90)));
        assert!(matches!(
            txn(2, u64::MAX).check(4, Tid(1), 100),
            Err(Fault::TxnCut(_))
        ));
        let span = txn(2, 88).check(4, Tid(1), 100).unwrap();
        assert_eq!((span.records, span.records_end, span.end), (28, 92, 100));

        let rec = |prev, tloc, plen| DataHeader::new(Oid(1), Tid(2), prev, tloc, plen);
        assert_eq!(rec(0, 4, 22).check_in(28, &span), Ok(92));
        assert_eq!(rec(0, 4, 0).check_in(28, &span), Ok(78));
        assert_eq!(rec(0, 4, 23).check_in(28, &span), Err(Fault::RecordLength));
        assert_eq!(
            rec(0, 4, u64::MAX).check_in(28, &span),
            Err(Fault::RecordLength)
        );
        assert_eq!(rec(28, 4, 1).check_in(28, &span), Err(Fault::PrevOrder(28)));
        assert_eq!(rec(0, 5, 1).check_in(28, &span), Err(Fault::RecordTloc(5)));
    }

    #[test]
    fn both_magics_and_their_beginnings_fit() {
        for good in [&b""[..], b"F", b"FS2", b"FS30", b"FS21", b"FS30more"] {
            assert!(magic_fits(good), "{good:?}");
        }
        for bad in [&b"x"[..], b"FS22", b"FS31", b"SQLite format 3"] {
            assert!(!magic_fits(bad), "{bad:?}");
        }
    }
}
