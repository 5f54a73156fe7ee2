//! Looking at transactions, one after the other, forwards or backwards.
//!
//! `look` decides what stands at a position: a transaction that counts, the end of the database, one that is
//! voted but not finished, or damage. Opening, following, reopening and checking all rest on this one function,
//! so they agree on where a database ends. A transaction counts once everything about it holds together: its
//! length stands on both sides, its records fill it exactly and carry its tid and position, and all
//! pointers lead backwards. Its status alone says little: after a power cut a blank status may be on disk
//! before the data it speaks for.
//!
//! `Backward` walks over what is already known to be committed, newest first.

use super::window::{ReadAt, Window};
use crate::base::{Oid, Tid};
use crate::wire::fs1::{
    DATA_HEADER_LEN, DataHeader, Fault, MAGIC_LEN, Span, Status, TXN_HEADER_LEN, TxnHeader,
    WORD_LEN, word,
};
use std::io;

/// Data records as (oid, position), in the order of the file.
pub(super) type Records = Vec<(Oid, u64)>;

/// Where the committed part of a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// Position behind the last transaction.
    pub(super) end: u64,
    /// Tid of the last transaction.
    pub(super) last: Tid,
    /// Its position; `None` if there is none.
    pub(super) last_pos: Option<u64>,
}

impl Ends {
    pub(super) const EMPTY: Self = Self {
        end: MAGIC_LEN,
        last: Tid::ZERO,
        last_pos: None,
    };

    /// Where it ends behind a transaction.
    pub(super) fn after(span: &Span) -> Self {
        Self {
            end: span.end,
            last: span.tid,
            last_pos: Some(span.pos),
        }
    }
}

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A committed transaction; its records are in the list given to `look`.
    Txn(Span),
    /// A transaction undone in place: it counts, its records do not.
    Undone(Span),
    /// Nothing: the file ends here.
    End,
    /// Fewer bytes than a header.
    Stub,
    /// A transaction that is being written: look again soon.
    Voted,
    /// Something else, found at the position given.
    Fault(u64, Fault),
}

/// Looks at the transaction at `pos`, which follows `last` in a file of `size` bytes. Its records go to
/// `records` (emptied first) as (oid, position), in order.
pub(super) fn look<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    pos: u64,
    last: Tid,
    size: u64,
    records: &mut Records,
) -> io::Result<Look> {
    records.clear();
    if pos >= size {
        return Ok(Look::End);
    }
    let Some(bytes) = window.get(pos, TXN_HEADER_LEN)? else {
        return Ok(Look::Stub);
    };
    let header = *TxnHeader::view(bytes).expect("the window gave a whole header");
    let undone = match header.status() {
        Status::Voted => return Ok(Look::Voted),
        Status::Unknown(byte) => return Ok(Look::Fault(pos, Fault::Status(byte))),
        Status::Undone => true,
        Status::Committed | Status::Packed => false,
    };
    let span = match header.check(pos, last, size) {
        Ok(span) => span,
        Err(fault) => return Ok(Look::Fault(pos, fault)),
    };
    if !undone && let Err((at, fault)) = walk_records(window, &span, records)? {
        return Ok(Look::Fault(at, fault));
    }
    // Read last: it is nearest to the next transaction, so a window that only moves on serves all.
    match window.get(span.records_end, WORD_LEN)?.and_then(word) {
        Some(tail) if tail == header.tlen() && undone => Ok(Look::Undone(span)),
        Some(tail) if tail == header.tlen() => Ok(Look::Txn(span)),
        Some(tail) => {
            let head = header.tlen();
            Ok(Look::Fault(pos, Fault::TrailingLength { head, tail }))
        }
        None => Ok(Look::Fault(pos, Fault::FileCut)),
    }
}

/// A fault and the position it was found at.
type Found<T> = Result<T, (u64, Fault)>;

/// Checks all data records of a transaction and lists them.
fn walk_records<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    span: &Span,
    records: &mut Records,
) -> io::Result<Found<()>> {
    let mut pos = span.records;
    while pos < span.records_end {
        if pos + DATA_HEADER_LEN as u64 > span.records_end {
            return Ok(Err((pos, Fault::RecordLength)));
        }
        let Some(bytes) = window.get(pos, DATA_HEADER_LEN)? else {
            return Ok(Err((pos, Fault::FileCut)));
        };
        let header = *DataHeader::view(bytes).expect("the window gave a whole header");
        let next = match header.check_in(pos, span) {
            Ok(next) => next,
            Err(fault) => return Ok(Err((pos, fault))),
        };
        if header.plen() == 0 {
            match window
                .get(pos + DATA_HEADER_LEN as u64, WORD_LEN)?
                .and_then(word)
            {
                Some(back) if back < pos => {}
                Some(back) => return Ok(Err((pos, Fault::BackOrder(back)))),
                None => return Ok(Err((pos, Fault::FileCut))),
            }
        }
        records.push((header.oid(), pos));
        pos = next;
    }
    Ok(Ok(()))
}

/// A walk over committed transactions, newest first.
#[derive(Debug)]
pub(super) struct Backward<'f, R: ?Sized> {
    window: Window<'f, R>,
    /// End of the next transaction to give.
    end: u64,
}

impl<'f, R: ReadAt + ?Sized> Backward<'f, R> {
    /// From the end of a transaction, down to the beginning of the file.
    pub(super) fn new(file: &'f R, end: u64) -> Self {
        let window = Window::new(file);
        Self { window, end }
    }

    /// The transaction before; `End` at the beginning of the file. Anything but a whole transaction is a fault.
    pub(super) fn next(&mut self, records: &mut Records) -> io::Result<Look> {
        records.clear();
        let fault = |end, fault| Ok(Look::Fault(end, fault));
        if self.end <= MAGIC_LEN {
            return Ok(Look::End);
        }
        let Some(tail_pos) = self.end.checked_sub(WORD_LEN as u64) else {
            return fault(self.end, Fault::Outside);
        };
        let Some(tlen) = self.window.get(tail_pos, WORD_LEN)?.and_then(word) else {
            return fault(self.end, Fault::FileCut);
        };
        let Some(pos) = tail_pos.checked_sub(tlen).filter(|&p| p >= MAGIC_LEN) else {
            return fault(self.end, Fault::TxnLength(tlen));
        };
        let seen = look(&mut self.window, pos, Tid::ZERO, self.end, records)?;
        match seen {
            Look::Txn(span) | Look::Undone(span) if span.end == self.end => {
                self.end = pos;
                Ok(seen)
            }
            Look::Fault(..) => Ok(seen),
            _ => fault(pos, Fault::TxnLength(tlen)),
        }
    }
}
