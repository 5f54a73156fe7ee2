//! Reading a whole file and saying what is wrong with it.
//!
//! Everything that opening relies on is checked for every transaction from front to back, and what opening takes
//! for granted besides: that `prev` names the object's previous record, that back pointers lead to records of the
//! same object which have data in the end, and that the saved index names the newest record of each object. Damage
//! does not end it: behind it, it goes on where transactions can be recognised again.
//!
//! What is found has a position and a kind; a kind tells whether it is damage or only unusual. The number of
//! findings kept is bounded, the number met is counted.

use super::index::Index;
use super::open::{self, OpenError, Progress};
use super::savedindex::{self, IndexFault, Saved};
use super::scan::{Backward, Ends, Look, Records, look};
use super::window::{ReadAt, Window};
use super::{FileOpts, Tail};
use crate::base::limit::FINDINGS_MAX;
use crate::base::{Oid, Tid};
use crate::wire::fs1::{
    DATA_HEADER_LEN, DataHeader, Fault, MAGIC_LEN, Span, Status, TXN_HEADER_LEN, TxnHeader,
    WORD_LEN, word,
};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// Something that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Position in the file.
    pub pos: u64,
    /// What it is.
    pub what: Problem,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// What stands there is no whole transaction, and others follow.
    #[error("damaged: {0}")]
    Damaged(Fault),
    /// From there to the position given, nothing could be recognised.
    #[error("nothing can be recognised up to position {0}")]
    Lost(u64),
    /// A pointer to the previous record leads elsewhere.
    #[error("the pointer of object {oid} to its previous record leads to {prev}, which is none")]
    Prev {
        /// Object.
        oid: Oid,
        /// Where it leads.
        prev: u64,
    },
    /// A pointer to the previous record leads past it. Harmless, unless something between is needed.
    #[error("the pointer of object {oid} to its previous record leaves out the one at {previous}")]
    PrevSkips {
        /// Object.
        oid: Oid,
        /// The record left out.
        previous: u64,
    },
    /// A back pointer leads to no record of the object.
    #[error("the back pointer of object {oid} leads to {back}, which is no record of it")]
    Back {
        /// Object.
        oid: Oid,
        /// Where it leads.
        back: u64,
    },
    /// A record is larger than `max_record`: it will not be loaded.
    #[error("the record of object {oid} has {len} bytes, more than max_record allows")]
    TooBig {
        /// Object.
        oid: Oid,
        /// Its bytes.
        len: u64,
    },
    /// The saved index is unusable: opening scans the file instead.
    #[error("{0}; opening will scan the file")]
    Index(IndexFault),
    /// The saved index disagrees about an object.
    #[error("the saved index has object {oid} at {saved:?}, the file at {found:?}")]
    IndexEntry {
        /// Object.
        oid: Oid,
        /// What the index says.
        saved: Option<u64>,
        /// What the file says.
        found: Option<u64>,
    },
}

impl Problem {
    /// Whether this is damage; otherwise it is only unusual, and serving does not suffer.
    pub fn is_damage(self) -> bool {
        !matches!(
            self,
            Self::PrevSkips { .. } | Self::Index(_) | Self::TooBig { .. }
        )
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Transactions.
    pub txns: u64,
    /// Data records.
    pub records: u64,
    /// Records whose data is shared with an earlier one.
    pub shared: u64,
    /// Records that say the object is gone.
    pub deleted: u64,
    /// Bytes of data.
    pub data_bytes: u64,
    /// Objects.
    pub objects: u64,
    /// End of the last transaction.
    pub end: u64,
    /// Tid of the last transaction.
    pub last: Tid,
    /// What stands behind it.
    pub tail: Tail,
    /// What is wrong, in the order met; the first so many.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub findings_dropped: u64,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        let tail = !matches!(self.tail, Tail::Suspicious { .. });
        tail && self.findings_dropped == 0 && !self.findings.iter().any(|f| f.what.is_damage())
    }

    fn find(&mut self, pos: u64, what: Problem) {
        match self.findings.len() < FINDINGS_MAX {
            true => self.findings.push(Finding { pos, what }),
            false => self.findings_dropped += 1,
        }
    }
}

/// Takes the data of each record that has some: for whoever decodes objects.
pub type OnObject<'o> = dyn FnMut(Oid, Tid, Bytes) + 'o;

/// Checks a file from front to back, handing every record's data to `object` if there is one.
pub fn verify(
    path: &Path,
    opts: &FileOpts,
    object: Option<&mut OnObject<'_>>,
    progress: &mut Progress<'_>,
) -> Result<Report, OpenError> {
    let fail = |e| OpenError::io(path, e);
    let (file, meta) = open::open_file(path)?;
    let mut check = Check {
        file: &file,
        size: meta.len(),
        max_record: opts.max_record as u64,
        object,
        pointers: Window::new(&file),
        index: Index::default(),
        saved: None,
        resumed: 0,
        report: Report::default(),
    };
    check.read_saved(path);
    check.run(progress).map_err(fail)?;
    Ok(check.report)
}

struct Check<'c, 'o> {
    file: &'c File,
    size: u64,
    max_record: u64,
    object: Option<&'c mut OnObject<'o>>,
    /// Follows behind the scan, over the same records.
    pointers: Window<'c, File>,
    /// The newest record of each object so far.
    index: Index,
    /// The saved index, until the scan has come to its end.
    saved: Option<Saved>,
    /// How often damage was passed: searching behind it may cost a walk over the file each time.
    resumed: usize,
    report: Report,
}

impl Check<'_, '_> {
    fn read_saved(&mut self, path: &Path) {
        let saved = savedindex::open(path)
            .and_then(|f| savedindex::parse(&mut BufReader::new(f), self.size));
        match saved {
            Ok(saved) => self.saved = Some(saved),
            Err(fault) => self.report.find(0, Problem::Index(fault)),
        }
    }

    fn run(&mut self, progress: &mut Progress<'_>) -> io::Result<()> {
        let (mut window, mut records) = (Window::new(self.file), Records::new());
        let mut ends = Ends::EMPTY;
        self.compare_saved(&ends);
        loop {
            let seen = look(&mut window, ends.end, ends.last, self.size, &mut records)?;
            ends = match seen {
                Look::Txn(span) | Look::Undone(span) => {
                    self.transaction(&span, &mut records)?;
                    Ends::after(&span)
                }
                Look::Fault(pos, what) => match self.resume(&ends, what)? {
                    Some(behind) => {
                        self.report.find(pos, Problem::Damaged(what));
                        behind
                    }
                    None => break self.finish(&ends, seen),
                },
                Look::End | Look::Stub | Look::Voted => break self.finish(&ends, seen),
            };
            self.compare_saved(&ends);
            progress(ends.end, self.size);
        }
        Ok(())
    }

    fn finish(&mut self, ends: &Ends, seen: Look) {
        self.report.tail = Tail::of(seen);
        (self.report.end, self.report.last) = (ends.end, ends.last);
        self.report.objects = self.index.flat().len() as u64;
        if let Some(saved) = self.saved.take() {
            let fault = IndexFault::NotAnEnd(saved.pos);
            self.report.find(saved.pos, Problem::Index(fault));
        }
    }

    /// Everything about a transaction that `look` does not know.
    fn transaction(&mut self, span: &Span, records: &mut Records) -> io::Result<()> {
        self.report.txns += 1;
        for &(oid, pos) in records.iter() {
            self.record(span, oid, pos)?;
        }
        self.index = self.index.with(records);
        Ok(())
    }

    fn record(&mut self, span: &Span, oid: Oid, pos: u64) -> io::Result<()> {
        let Some((header, back)) = self.head(pos)? else {
            self.report.find(pos, Problem::Damaged(Fault::FileCut));
            return Ok(());
        };
        self.report.records += 1;
        self.prev(span, oid, pos, header.prev())?;
        match (header.plen(), back) {
            (0, 0) => self.report.deleted += 1,
            (0, back) => {
                self.report.shared += 1;
                self.back(oid, pos, back)?;
            }
            (len, _) if len > self.max_record => {
                self.report.data_bytes += len;
                self.report.find(pos, Problem::TooBig { oid, len });
            }
            (len, _) => {
                self.report.data_bytes += len;
                self.data(oid, span.tid, pos, len)?;
            }
        }
        Ok(())
    }

    fn data(&mut self, oid: Oid, tid: Tid, pos: u64, len: u64) -> io::Result<()> {
        let Some(object) = &mut self.object else {
            return Ok(());
        };
        let mut data = vec![0; usize::try_from(len).expect("not above max_record")];
        let n = self
            .file
            .read_full(&mut data, pos + DATA_HEADER_LEN as u64)?;
        if n < data.len() {
            self.report.find(pos, Problem::Damaged(Fault::FileCut));
            return Ok(());
        }
        object(oid, tid, data.into());
        Ok(())
    }

    fn prev(&mut self, span: &Span, oid: Oid, pos: u64, prev: u64) -> io::Result<()> {
        let previous = self.index.get(oid).unwrap_or(0);
        if prev == previous || prev == 0 && span.status == Status::Packed {
            return Ok(());
        }
        let own = prev == 0 || self.is_record_of(oid, prev, pos)?;
        self.report.find(
            pos,
            match own {
                true => Problem::PrevSkips { oid, previous },
                false => Problem::Prev { oid, prev },
            },
        );
        Ok(())
    }

    /// Follows back pointers until one leads to data, or says that there is none.
    fn back(&mut self, oid: Oid, pos: u64, mut back: u64) -> io::Result<()> {
        let mut from = pos;
        while back != 0 {
            if !self.is_record_of(oid, back, from)? {
                self.report.find(pos, Problem::Back { oid, back });
                return Ok(());
            }
            let Some((header, next)) = head_at(self.file, back)? else {
                return Ok(());
            };
            from = back;
            back = if header.plen() == 0 { next } else { 0 };
        }
        Ok(())
    }

    /// Whether an earlier record of an object stands at a position.
    fn is_record_of(&self, oid: Oid, pos: u64, below: u64) -> io::Result<bool> {
        if pos < MAGIC_LEN || pos >= below {
            return Ok(false);
        }
        let head = head_at(self.file, pos)?;
        Ok(head.is_some_and(|(header, _)| header.oid() == oid && header.check(pos).is_ok()))
    }

    fn head(&mut self, pos: u64) -> io::Result<Option<(DataHeader, u64)>> {
        let bytes = self.pointers.get(pos, DATA_HEADER_LEN + WORD_LEN)?;
        Ok(bytes.and_then(parse_head))
    }

    /// Compares the saved index once the scan has come to its end.
    fn compare_saved(&mut self, ends: &Ends) {
        let Some(saved) = self.saved.take_if(|saved| saved.pos == ends.end) else {
            return;
        };
        let found = self.index.flat();
        let (mut saved, mut found) = (saved.table.iter().peekable(), found.iter().peekable());
        loop {
            let oid = match (saved.peek(), found.peek()) {
                (Some(s), Some(f)) => s.0.min(f.0),
                (Some(one), None) | (None, Some(one)) => one.0,
                (None, None) => return,
            };
            let saved = saved.next_if(|s| s.0 == oid).map(|s| s.1);
            let found = found.next_if(|f| f.0 == oid).map(|f| f.1);
            if saved != found {
                let what = Problem::IndexEntry { oid, saved, found };
                self.report.find(found.or(saved).unwrap_or(0), what);
            }
        }
    }

    /// Where transactions can be recognised again behind damage.
    fn resume(&mut self, ends: &Ends, what: Fault) -> io::Result<Option<Ends>> {
        let mut records = Records::new();
        self.resumed += 1;
        if self.resumed > FINDINGS_MAX {
            return Ok(None);
        }
        // Out of order: take it as it is, and compare the next one with it.
        if let Fault::TidOrder { tid, .. } = what {
            let last = Tid(tid.0.saturating_sub(1));
            let seen = look(
                &mut Window::new(self.file),
                ends.end,
                last,
                self.size,
                &mut records,
            )?;
            if let Look::Txn(span) | Look::Undone(span) = seen
                && span.end < self.size
            {
                self.transaction(&span, &mut records)?;
                return Ok(Some(Ends::after(&span)));
            }
        }
        let mut header = [0; TXN_HEADER_LEN];
        self.file.read_full(&mut header, ends.end)?;
        let tlen = TxnHeader::view(&header).map_or(0, TxnHeader::tlen);
        let behind = Ends {
            end: ends
                .end
                .saturating_add(tlen)
                .saturating_add(WORD_LEN as u64),
            ..*ends
        };
        if tlen > 0 && behind.end < self.size {
            let mut window = Window::new(self.file);
            let seen = look(&mut window, behind.end, ends.last, self.size, &mut records)?;
            if matches!(seen, Look::Txn(_)) {
                return Ok(Some(behind));
            }
        }
        self.resume_from_end(ends)
    }

    /// The lowest transaction above `ends` that the end of the file leads back to.
    fn resume_from_end(&mut self, ends: &Ends) -> io::Result<Option<Ends>> {
        let (mut walk, mut records) = (Backward::new(self.file, self.size), Records::new());
        let mut lowest = None;
        while let Look::Txn(span) | Look::Undone(span) = walk.next(&mut records)? {
            if span.pos <= ends.end || span.tid <= ends.last {
                break;
            }
            lowest = Some(span.pos);
        }
        let Some(end) = lowest else { return Ok(None) };
        self.report.find(ends.end, Problem::Lost(end));
        Ok(Some(Ends { end, ..*ends }))
    }
}

fn head_at(file: &File, pos: u64) -> io::Result<Option<(DataHeader, u64)>> {
    let mut bytes = [0; DATA_HEADER_LEN + WORD_LEN];
    let n = file.read_full(&mut bytes, pos)?;
    Ok(parse_head(&bytes[..n]))
}

fn parse_head(bytes: &[u8]) -> Option<(DataHeader, u64)> {
    let (header, rest) = bytes.split_at_checked(DATA_HEADER_LEN)?;
    Some((*DataHeader::view(header)?, word(rest)?))
}
