//! What is said of one file, and done about it.

use super::config::{Counter, Found, XattrUse, wall_now};
use super::dir::{Here, Worker};
use super::queue::{Item, Rank};
use crate::base::Algo;
use crate::etag::pick::in_share;
use crate::etag::{State, Trust, Verdict};
use crate::kernel::stat::{self, Stat};
use crate::wire::catalog::{Entry, Op, Record, flag};
use crate::wire::etag::{self as attribute, Tag};
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

impl Worker {
    /// Judges one file.
    #[inline]
    pub(super) fn file(
        &mut self,
        here: &mut Here<'_>,
        name: &CStr,
        found: &Stat,
        entry: Option<&Entry<'_>>,
    ) {
        self.tally.files += 1;
        let Some(entry) = entry.filter(|entry| !entry.is_dir()) else {
            return self.unknown(here, name, found);
        };
        let mut record = entry.record();
        if self.pass.rebound {
            record.flags |= flag::IMPORTED;
        }
        let trust = self.pass.config.trust;
        let verdict = Verdict::of(trust, &record, &found.witness, found.verity, here.now);
        if verdict.state == State::Fresh {
            let share = self.pass.config.verify;
            if in_share(share, self.pass.seed, here.path, name.to_bytes()) {
                self.tally.states[State::Fresh as usize] += 1;
                let item = here.item(name, found, Rank::Verify, Some(record));
                return self.pass.queue(item);
            }
        }
        self.conclude(here, name, found, verdict, Rank::of(verdict), &record);
    }

    /// Has a file with a record hashed if it is not fresh; a check says what it is.
    #[inline]
    fn conclude(
        &mut self,
        here: &mut Here<'_>,
        name: &CStr,
        found: &Stat,
        verdict: Verdict,
        rank: Rank,
        record: &Record,
    ) {
        self.tally.states[verdict.state as usize] += 1;
        let fresh = verdict.state == State::Fresh;
        if !fresh && self.pass.scan.is_some() {
            let item = here.item(name, found, rank, Some(*record));
            self.pass.queue(item);
        } else if !fresh || self.pass.sink.wants_fresh() {
            let name = name.to_bytes();
            self.say(here, name, verdict, Some(found), Some(record), None);
        }
    }

    /// A file without a record.
    fn unknown(&mut self, here: &mut Here<'_>, name: &CStr, found: &Stat) {
        if let Some(record) = self.attribute(here, name, found) {
            let trust = self.pass.config.trust;
            let verdict = Verdict::of(trust, &record, &found.witness, found.verity, here.now);
            self.note(&Op::Put {
                dir: here.path,
                name: name.to_bytes(),
                record,
            });
            return self.conclude(here, name, found, verdict, Rank::Imported, &record);
        }
        self.tally.states[State::New as usize] += 1;
        let item = here.item(name, found, Rank::New, None);
        if let Some(item) = self.pass.defer(item) {
            if self.pass.scan.is_some() {
                self.pass.queue(item);
            } else {
                let verdict = Verdict::new(State::New, None);
                self.say(here, name.to_bytes(), verdict, Some(found), None, None);
            }
        }
    }

    /// What the attribute of a new file says, if that is of the file as it is.
    fn attribute(&self, here: &Here<'_>, name: &CStr, found: &Stat) -> Option<Record> {
        let config = &self.pass.config;
        if config.xattr == XattrUse::Off || config.algo != Algo::Sha256 {
            return None;
        }
        imported(here.fd, name, found).unwrap_or_else(|Foreign| {
            self.pass.pulse.add(Counter::BadAttrs, 1);
            None
        })
    }

    pub(super) fn unreadable(
        &mut self,
        here: &Here<'_>,
        name: &CStr,
        entry: Option<&Entry<'_>>,
        error: &io::Error,
    ) {
        self.tally.files += 1;
        self.tally.states[State::Unreadable as usize] += 1;
        let errno = Some(error.raw_os_error().unwrap_or(libc::EIO));
        let record = entry.map(Entry::record);
        let verdict = Verdict::new(State::Unreadable, None);
        self.say(here, name.to_bytes(), verdict, None, record.as_ref(), errno);
    }

    /// A record without a file.
    pub(super) fn gone(&mut self, here: &Here<'_>, name: &[u8], record: &Record) {
        if self.pass.config.trust != Trust::Strict {
            return self.pass.defer_gone(here.path, name, record);
        }
        self.tally.states[State::Gone as usize] += 1;
        self.say(
            here,
            name,
            Verdict::new(State::Gone, None),
            None,
            Some(record),
            None,
        );
        self.note(&Op::Remove {
            dir: here.path,
            name,
        });
    }

    pub(super) fn say(
        &self,
        here: &Here<'_>,
        name: &[u8],
        verdict: Verdict,
        stat: Option<&Stat>,
        record: Option<&Record>,
        errno: Option<i32>,
    ) {
        self.pass.sink.found(&Found {
            dir: here.path,
            name,
            verdict,
            stat,
            record,
            errno,
        });
    }
}

/// An attribute means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// What `user.drpetag` of a file says, if that is of the file as it is; nobody compared it with the bytes.
///
/// # Errors
/// It is something else.
pub fn imported(dir: BorrowedFd<'_>, name: &CStr, found: &Stat) -> Result<Option<Record>, Foreign> {
    let mut value = [0; attribute::ASK_BYTES];
    let len = match stat::getxattr_at(dir, name, attribute::NAME, &mut value) {
        Ok(len) => len,
        Err(e) if e.raw_os_error() == Some(libc::ERANGE) => return Err(Foreign),
        Err(_) => return Ok(None),
    };
    let tag = Tag::parse(&value[..len]).map_err(|_| Foreign)?;
    Ok((tag.mtime == found.witness.mtime).then(|| Record {
        witness: found.witness,
        digest: tag.digest,
        hashed_at: i64::try_from(wall_now().nanos()).unwrap_or(i64::MAX),
        flags: flag::IMPORTED,
    }))
}

impl Here<'_> {
    fn item(&mut self, name: &CStr, found: &Stat, rank: Rank, old: Option<Record>) -> Item {
        Item {
            dir: self.shared(),
            name: name.into(),
            stat: *found,
            looked: self.now,
            rank,
            old,
            tries: 0,
            alone: false,
        }
    }
}
