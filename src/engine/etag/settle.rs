//! What becomes of a file that was read: a record, another try, or a reason why not.

use super::check::Pass;
use super::config::{Counter, Found, XattrUse, wall_now};
use super::hash::{Outcome, Shared, Thread};
use super::queue::{Item, Rank};
use super::walk::locked;
use crate::base::{Algo, Digest, Stamp, Witness};
use crate::etag::{Grain, Reason, State, Verdict};
use crate::kernel::stat::{self, Freshness, Kind, Stat};
use crate::wire::catalog::{Batch, Op, Record, flag};
use crate::wire::etag::{self as attribute, Tag};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::time::Duration;

/// Tries of a file that changes while it is read, beside the first.
const TRIES: u8 = 1;
/// Before the second try.
const PAUSE: Duration = Duration::from_millis(50);

/// A file that was read whole.
#[derive(Clone, Copy)]
pub(super) struct Read {
    pub(super) digest: Digest,
    /// Attributes before.
    pub(super) a: Stat,
    /// A moment before that.
    pub(super) looked: Stamp,
    /// Not this name was read, but another of the same inode.
    pub(super) by_link: bool,
}

/// Attributes that were not written: how often, by device and by what the system said.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<BTreeMap<(u64, i32), u64>>);

impl Refused {
    fn note(&self, dev: u64, errno: i32) {
        *locked(&self.0).entry((dev, errno)).or_default() += 1;
    }

    /// Whether a device has none at all: it is not asked again.
    fn has_none(&self, dev: u64) -> bool {
        let refused = locked(&self.0);
        let is = |errno| refused.contains_key(&(dev, errno));
        is(libc::ENOTSUP) || is(libc::EROFS)
    }

    /// Says all of it.
    pub(super) fn tell(&self, pass: &Pass) {
        for (&(dev, errno), n) in locked(&self.0).iter() {
            let error = std::io::Error::from_raw_os_error(errno);
            let kind = pass.root.facts_of(dev).type_name();
            let (major, minor) = (dev >> 32, dev & 0xffff_ffff);
            pass.sink.warn(&format!(
                "{n} attributes not written on {kind} {major}:{minor}: {error}"
            ));
        }
    }
}

impl Thread {
    /// A job is over.
    pub(super) fn finish(&mut self, slot: usize, outcome: Outcome) {
        let mut job = self.jobs[slot].take().expect("it ends once");
        if let (Some(brought), Some(file)) = (job.brought.take(), self.ring.file(slot)) {
            brought.end(file);
        }
        let read = match outcome {
            Outcome::Digest(digest) => {
                let read = Read {
                    digest,
                    a: job.a,
                    looked: job.looked,
                    by_link: false,
                };
                self.verify(slot, job.chained, read, &job.item)
            }
            other => Err(other),
        };
        let dir = self.ring.dir(slot).cloned();
        self.free(slot);
        match read {
            Ok(read) => self.settle(
                job.item,
                Outcome::Digest(read.digest),
                dir.as_deref().map(|dir| (dir.as_fd(), read)),
            ),
            Err(outcome) => self.settle(job.item, outcome, None),
        }
    }

    /// Attributes once more: the same as before, or the digest is of nothing.
    fn verify(&self, slot: usize, chained: bool, read: Read, item: &Item) -> Result<Read, Outcome> {
        let b = match chained {
            true => {
                let dir = self.ring.dir(slot).expect("its directory is open");
                stat::stat_at(dir.as_fd(), &item.name, Freshness::Usual)
            }
            false => stat::stat_fd(self.ring.file(slot).expect("it is open")),
        };
        let mut b = b.map_err(|error| super::hash::failed(&error))?;
        if let Some(bend) = &self.shared.pass.config.bend {
            bend(&item.dir, item.name.to_bytes(), &mut b);
        }
        if b.kind != Kind::File {
            return Err(Outcome::Kind);
        }
        if b.witness != read.a.witness || b.dev != read.a.dev {
            return Err(Outcome::Changed);
        }
        Ok(read)
    }

    /// A name whose inode is known by another name.
    pub(super) fn known(&mut self, item: Item, record: &Record) {
        let now = self.dir(&item).and_then(|dir| {
            let b = stat::stat_at(dir.as_fd(), &item.name, Freshness::Usual)?;
            Ok((dir, b))
        });
        match now {
            Ok((dir, b)) if b.witness == record.witness && b.dev == item.stat.dev => {
                let read = Read {
                    digest: record.digest,
                    a: b,
                    looked: item.looked,
                    by_link: true,
                };
                let outcome = Outcome::Digest(record.digest);
                self.settle(item, outcome, Some((dir.as_fd(), read)));
            }
            Ok(_) => self.settle(item, Outcome::Changed, None),
            Err(error) => self.settle(item, super::hash::failed(&error), None),
        }
    }

    /// Notes what a file came to.
    pub(super) fn settle(
        &mut self,
        item: Item,
        outcome: Outcome,
        read: Option<(BorrowedFd<'_>, Read)>,
    ) {
        settle(&self.shared, &mut self.batch, item, outcome, read);
        if self.batch.bytes() > super::hash::BATCH_BYTES {
            self.flush();
        }
    }
}

/// Notes what a file came to: a record, or why there is none, or that it comes back.
pub(super) fn settle(
    shared: &Shared,
    batch: &mut Batch,
    mut item: Item,
    outcome: Outcome,
    read: Option<(BorrowedFd<'_>, Read)>,
) {
    let pass = &shared.pass;
    let may_try = item.tries < TRIES && !pass.pulse.is_cancelled();
    let (mut known, mut is_shared) = (None, false);
    match (outcome, read) {
        (Outcome::Digest(_), Some((dir, read))) => {
            let (a, grain) = (&read.a, pass.root.facts_of(read.a.dev).grain);
            let is_racy = |w: &Witness, looked| !a.verity && grain.is_racy(w, looked, false);
            // Ahead of now, not of the look: it may have been written between that moment and the look itself.
            let ahead = Grain::is_ahead(&a.witness, wall_now()) && !a.verity;
            let mut racy = is_racy(&a.witness, read.looked);
            let mut witness = a.witness;
            if !racy && !ahead {
                // What is not vouched for is not told to others either. Writing it moves ctime.
                let looked = wall_now();
                witness = attributed(shared, &item, dir, &read);
                racy = witness != a.witness && is_racy(&witness, looked);
            }
            // An own write makes one more try due.
            let wrote = witness != a.witness && item.tries <= TRIES;
            if racy && !ahead && (may_try || wrote && !pass.pulse.is_cancelled()) {
                // Another moment, and its times are old enough to say something.
                item.tries += 1;
                let pause = PAUSE + grain.of(witness.mtime, witness.ctime).wait();
                return again(shared, item, pause);
            }
            let record = record(shared, &read, witness, racy || ahead);
            if !read.by_link {
                pass.pulse.add(Counter::Hashed, 1);
                pass.pulse.add(Counter::HashedBytes, a.witness.size);
            }
            conclude(pass, batch, &item, a, &record, ahead);
            // The links have that one, with the witness that other names may still show.
            is_shared = read.by_link;
            known = Some((record, a.witness));
        }
        (Outcome::Changed, _) if may_try => {
            item.tries += 1;
            return again(shared, item, PAUSE);
        }
        (Outcome::Again, _) if !pass.pulse.is_cancelled() => {
            return again(shared, item, Duration::ZERO);
        }
        // Nothing is said of a file that was given up.
        (Outcome::Again, _) => {}
        (outcome, _) => refuse(pass, batch, &item, &outcome),
    }
    if !is_shared {
        for other in shared.links.end(&item, known) {
            shared.queue.back(other);
        }
    }
    pass.pulse.sub(Counter::Queued, 1);
    pass.pulse.sub(Counter::QueuedBytes, item.stat.witness.size);
    shared.queue.done();
}

/// A file comes back after a pause, looked at anew.
fn again(shared: &Shared, mut item: Item, pause: Duration) {
    for other in shared.links.end(&item, None) {
        shared.queue.back(other);
    }
    item.alone = true;
    shared.queue.again(item, pause);
}

/// The record of a file that was read.
fn record(shared: &Shared, read: &Read, witness: Witness, racy: bool) -> Record {
    let mut flags = if racy { flag::RACY } else { 0 };
    if shared.pass.config.algo == Algo::Blake3 {
        flags |= flag::BLAKE3;
    }
    Record {
        witness,
        digest: read.digest,
        hashed_at: i64::try_from(read.looked.nanos()).unwrap_or(i64::MAX),
        flags,
    }
}

/// Writes `user.drpetag`, if that is wanted; the witness afterwards, as the write moves ctime.
fn attributed(shared: &Shared, item: &Item, dir: BorrowedFd<'_>, read: &Read) -> Witness {
    let config = &shared.pass.config;
    let before = read.a.witness;
    if config.xattr != XattrUse::Write || config.algo != Algo::Sha256 {
        return before;
    }
    let tag = Tag {
        digest: read.digest,
        mtime: before.mtime,
    };
    let Some(value) = tag.value() else {
        return before;
    };
    if shared.refused.has_none(read.a.dev) {
        return before;
    }
    let mut old = [0; attribute::ASK_BYTES];
    let len = stat::getxattr_at(dir, &item.name, attribute::NAME, &mut old);
    if len.is_ok_and(|len| Tag::parse(&old[..len]) == Ok(tag)) {
        return before;
    }
    let pulse = &shared.pass.pulse;
    if let Err(error) = stat::setxattr_at(dir, &item.name, attribute::NAME, &value) {
        pulse.add(Counter::AttrsFailed, 1);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        shared.refused.note(read.a.dev, errno);
        return before;
    }
    pulse.add(Counter::AttrsWritten, 1);
    match stat::stat_at(dir, &item.name, Freshness::Usual) {
        Ok(c) => {
            let w = c.witness;
            let same = (w.ino, w.btime, w.size, w.mtime)
                == (before.ino, before.btime, before.size, before.mtime);
            if same { w } else { before }
        }
        Err(_) => before,
    }
}

/// The state an item was counted in.
fn counted(item: &Item) -> State {
    let was_corrupt = item.old.is_some_and(|old| old.flags & flag::CORRUPT != 0);
    match item.rank {
        Rank::Verify if was_corrupt => State::Corrupt,
        Rank::New => State::New,
        Rank::Stale | Rank::Ctime => State::Stale,
        Rank::Imported => State::Imported,
        Rank::Verify => State::Fresh,
        Rank::Racy => State::Racy,
    }
}

/// A file has a new record, or turns out to be corrupt.
fn conclude(pass: &Pass, batch: &mut Batch, item: &Item, a: &Stat, record: &Record, ahead: bool) {
    let old = item.old.as_ref();
    let is_verified = item.rank == Rank::Verify && old.is_some_and(|old| old.witness == a.witness);
    let corrupt = is_verified && old.is_some_and(|old| old.digest != record.digest);
    if let Some(old) = old.filter(|_| corrupt && !pass.config.accept_corrupt) {
        // It stays so until somebody takes it, or the bytes are there again.
        let flags = old.flags | flag::CORRUPT;
        batch.push(&Op::Put {
            dir: &item.dir,
            name: item.name.to_bytes(),
            record: Record { flags, ..*old },
        });
        let verdict = Verdict::new(State::Corrupt, Reason::Bytes);
        return end(pass, item, verdict, Some(a), Some(old), None);
    }
    let is_as_before =
        old.is_some_and(|old| (old.witness, old.flags & flag::CORRUPT) == (record.witness, 0));
    if !is_verified || corrupt || !is_as_before {
        batch.push(&Op::Put {
            dir: &item.dir,
            name: item.name.to_bytes(),
            record: *record,
        });
    }
    let verdict = match (record.flags & flag::RACY != 0, ahead) {
        (false, false) => Verdict::FRESH,
        (_, true) => Verdict::new(State::Racy, Reason::Future),
        (true, false) => Verdict::new(State::Racy, Reason::Grain),
    };
    end(pass, item, verdict, Some(a), Some(record), None);
}

/// A file has no new record.
fn refuse(pass: &Pass, batch: &mut Batch, item: &Item, outcome: &Outcome) {
    let (verdict, errno) = match outcome {
        Outcome::Lost => {
            batch.push(&Op::Remove {
                dir: &item.dir,
                name: item.name.to_bytes(),
            });
            (Verdict::new(State::Gone, None), None)
        }
        Outcome::Kind => (Verdict::new(State::Skipped, Reason::Kind), None),
        Outcome::Failed(errno) => {
            // What cannot be read is not vouched for by what it once was.
            if let Some(old) = item.old {
                let flags = old.flags | flag::RACY;
                batch.push(&Op::Put {
                    dir: &item.dir,
                    name: item.name.to_bytes(),
                    record: Record { flags, ..old },
                });
            }
            (Verdict::new(State::Unreadable, None), Some(*errno))
        }
        _ => (Verdict::new(State::Racy, Reason::Changing), None),
    };
    let old = item.old.as_ref();
    if verdict.state == State::Gone && old.is_none() {
        // It came and went.
        pass.pulse.leave(counted(item));
        return;
    }
    end(pass, item, verdict, Some(&item.stat), old, errno);
}

fn end(
    pass: &Pass,
    item: &Item,
    verdict: Verdict,
    stat: Option<&Stat>,
    record: Option<&Record>,
    errno: Option<i32>,
) {
    pass.pulse.leave(counted(item));
    pass.pulse.enter(verdict.state, 1);
    if verdict.state != State::Fresh || pass.sink.wants_hashed() {
        pass.sink.found(&Found {
            dir: &item.dir,
            name: item.name.to_bytes(),
            verdict,
            stat,
            record,
            errno,
        });
    }
}
