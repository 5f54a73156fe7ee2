//! Loading many objects of one view: decides what to read, and reads nothing.
//!
//! The sub-objects of a block usually lie next to each other in the file. So a batch looks all of them up,
//! sorts the positions, and asks for runs of the file rather than for records. The length of a record is known
//! only from its header: the first read takes what a small record needs, a larger one is asked for again, in full.
//!
//! ```text
//!           index                 tid > at: follow prev
//! oid ------------> Revision <-------------------------+     prev 0: NotYet
//!   | none              |  \---------------------------+
//!   v                   | tid <= at
//! NoObject              v
//!            has data? no: follow the back pointer -> Share(serial) -> ...      back 0: Deleted
//!                       | yes
//!                       v
//!                    all bytes here? no: ask -> Body -> done
//! ```
//!
//! Every record met must belong to the object, and every pointer must lead backwards: so each walk ends, and an
//! index that no longer belongs to the file is noticed. A walk goes on inside bytes already here without asking.
//!
//! Many revisions may lie above `at`: a walk begins at a mark of an earlier one, if there is one (`chains`), and where it
//! has become long it reads backwards.
//!
//! The driver's part: take every `next_read`, carry it out, `complete` it, and take what `next_done` gives; after
//! each `complete` there may be more of both. It is over when nothing is under way and both give `None`. A short answer
//! means that the file ended there: a driver whose read stopped early for another reason reads the rest itself.

use super::chains::{self, Chains, Mark};
use super::view::FileView;
use crate::base::limit::{
    CHAIN_WINDOW_BYTES, LOAD_GAP_BYTES_MAX, LOAD_RUN_BYTES_MAX, LOAD_SMALL_BYTES,
    LOCATE_PREFIX_BYTES,
};
use crate::base::{Oid, Tid};
use crate::store::{LoadError, Loaded};
use crate::wire::fs1::{DATA_HEADER_LEN, DataHeader, Fault, MAGIC_LEN, WORD_LEN, word};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;

/// A record's header and its back pointer, or the beginning of its data.
const HEAD_LEN: usize = DATA_HEADER_LEN + WORD_LEN;
/// Revisions passed from which on a chain counts as long.
const LONG_CHAIN: u32 = 4;

/// Names a read of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadId(pub u32);

/// A read the batch wants done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Name to complete it by.
    pub id: ReadId,
    /// Position in the view's file.
    pub pos: u64,
    /// Bytes wanted.
    pub len: usize,
}

/// Bytes of a view's file that are at hand: what was read through this very view a moment ago.
#[derive(Clone, Debug)]
pub struct Run {
    /// Position of the first in the view's file.
    pub pos: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// Where the data of a revision lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The transaction that made this revision.
    pub serial: Tid,
    /// Position of the data in the file of the view's generation.
    pub data_pos: u64,
    /// Bytes of data.
    pub data_len: usize,
    /// The first bytes of the data, up to 256.
    pub prefix: Bytes,
}

/// Loads of many objects.
#[derive(Debug)]
pub struct Batch(Walk);

impl Batch {
    pub(super) fn new(
        view: FileView,
        at: Tid,
        oids: impl Iterator<Item = Oid>,
        near: Option<&Run>,
        chains: &mut Chains,
    ) -> Self {
        Self(Walk::new(view, at, oids, usize::MAX, near, chains))
    }

    /// A read wanted now.
    pub fn next_read(&mut self) -> Option<Read> {
        self.0.next_read()
    }

    /// Takes what a read gave.
    pub fn complete(&mut self, id: ReadId, result: io::Result<Bytes>) {
        self.0.complete(id, result);
    }

    /// An object that is done; in no particular order.
    pub fn next_done(&mut self) -> Option<(Oid, Result<Loaded, LoadError>)> {
        let (oid, result) = self.0.done.pop_front()?;
        let loaded = result.map(|found| Loaded {
            serial: found.serial,
            data: found.prefix,
        });
        Some((oid, loaded))
    }

    /// The view loaded from.
    pub fn view(&self) -> &FileView {
        &self.0.view
    }

    /// What it has passed on long chains so far: for `Chains`.
    pub fn marks(&self) -> &[Mark] {
        &self.0.marks
    }
}

/// Locates many objects; driven as a `Batch` is.
#[derive(Debug)]
pub struct Locate(Walk);

impl Locate {
    pub(super) fn new(
        view: FileView,
        at: Tid,
        oids: impl Iterator<Item = Oid>,
        chains: &mut Chains,
    ) -> Self {
        Self(Walk::new(view, at, oids, LOCATE_PREFIX_BYTES, None, chains))
    }

    /// A read wanted now.
    pub fn next_read(&mut self) -> Option<Read> {
        self.0.next_read()
    }

    /// Takes what a read gave.
    pub fn complete(&mut self, id: ReadId, result: io::Result<Bytes>) {
        self.0.complete(id, result);
    }

    /// An object that is done; in no particular order.
    pub fn next_done(&mut self) -> Option<(Oid, Result<Located, LoadError>)> {
        self.0.done.pop_front()
    }

    /// The view that positions belong to.
    pub fn view(&self) -> &FileView {
        &self.0.view
    }

    /// What it has passed on long chains so far: for `Chains`.
    pub fn marks(&self) -> &[Mark] {
        &self.0.marks
    }
}

/// What both have in common.
#[derive(Debug)]
struct Walk {
    view: FileView,
    at: Tid,
    /// Bytes of data wanted of each object.
    keep: usize,
    objects: Vec<Object>,
    /// Bytes wanted, not asked for yet.
    wants: Vec<Want>,
    /// Reads planned, not taken yet; in order of position.
    planned: VecDeque<Read>,
    /// What each read is for, by its id.
    flights: Vec<Flight>,
    done: VecDeque<(Oid, Result<Located, LoadError>)>,
    /// What was passed on long chains.
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    oid: Oid,
    /// Position of the record looked at.
    pos: u64,
    step: Step,
    /// Revisions above `at` that were passed.
    steps: u32,
}

/// What an object looks for; drawn above.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A revision not above `at`. The record must not be above this tid.
    Revision { newest: Tid },
    /// The data that the revision `serial` shares.
    Share { serial: Tid },
    /// The bytes of the data, whose place is known.
    Body { serial: Tid, len: usize },
}

#[derive(Clone, Copy, Debug)]
struct Want {
    pos: u64,
    len: usize,
    object: usize,
}

#[derive(Debug, Default)]
struct Flight {
    pos: u64,
    objects: Vec<usize>,
}

impl Walk {
    fn new(
        view: FileView,
        at: Tid,
        oids: impl Iterator<Item = Oid>,
        keep: usize,
        near: Option<&Run>,
        chains: &mut Chains,
    ) -> Self {
        assert!(
            at <= view.at(),
            "BUG: load as of {at} on a view of {}",
            view.at()
        );
        let mut walk = Self {
            view,
            at,
            keep,
            objects: Vec::with_capacity(oids.size_hint().0),
            wants: Vec::with_capacity(oids.size_hint().0),
            planned: VecDeque::new(),
            flights: Vec::new(),
            done: VecDeque::new(),
            marks: Vec::new(),
        };
        for oid in oids {
            walk.start(oid, near, chains);
        }
        walk
    }

    fn start(&mut self, oid: Oid, near: Option<&Run>, chains: &mut Chains) {
        let inner = self.view.inner();
        let Some(pos) = inner.index.get(oid) else {
            return self.done.push_back((oid, Err(LoadError::NoObject)));
        };
        let mark = (self.at < inner.newest)
            .then(|| chains.near(&self.view, oid, self.at))
            .flatten()
            // Below the newest one that this view has: a mark may be of a later view.
            .filter(|&(_, mark)| mark < pos);
        let (newest, pos) = mark.unwrap_or((inner.newest, pos));
        self.objects.push(Object {
            oid,
            pos,
            step: Step::Revision { newest },
            steps: 0,
        });
        let object = self.objects.len() - 1;
        let outcome = match near {
            Some(Run { pos, bytes }) => self.go_on(object, &Here { bytes, pos: *pos }),
            None => self.want(object).map(|()| None),
        };
        self.note(oid, outcome);
    }

    fn note(&mut self, oid: Oid, outcome: Result<Option<Located>, LoadError>) {
        if let Some(done) = outcome.transpose() {
            self.done.push_back((oid, done));
        }
    }

    fn next_read(&mut self) -> Option<Read> {
        if self.planned.is_empty() {
            self.plan();
        }
        self.planned.pop_front()
    }

    /// Turns wants into reads: neighbours are read in one run.
    fn plan(&mut self) {
        self.wants.sort_unstable_by_key(|want| want.pos);
        for want in self.wants.drain(..) {
            let end = want.pos + want.len as u64;
            if let Some(run) = self.planned.back_mut() {
                let run_end = run.pos + run.len as u64;
                let joined = usize::try_from(end.max(run_end) - run.pos).unwrap_or(usize::MAX);
                if want.pos <= run_end + LOAD_GAP_BYTES_MAX && joined <= LOAD_RUN_BYTES_MAX {
                    run.len = joined;
                    let flight = self
                        .flights
                        .last_mut()
                        .expect("a planned read has a flight");
                    flight.objects.push(want.object);
                    continue;
                }
            }
            let id = ReadId(u32::try_from(self.flights.len()).expect("BUG: 2^32 reads in a batch"));
            let (pos, len) = (want.pos, want.len);
            self.planned.push_back(Read { id, pos, len });
            let objects = vec![want.object];
            self.flights.push(Flight { pos, objects });
        }
    }

    fn complete(&mut self, id: ReadId, result: io::Result<Bytes>) {
        let flight = self.flights.get_mut(id.0 as usize).map(std::mem::take);
        let flight = flight.expect("BUG: completion of a read that was never asked for");
        for object in flight.objects {
            let outcome = match &result {
                Ok(bytes) => self.advance(
                    object,
                    &Here {
                        bytes,
                        pos: flight.pos,
                    },
                ),
                Err(error) => Err(LoadError::Io {
                    pos: flight.pos,
                    source: again(error),
                }),
            };
            let oid = self.objects[object].oid;
            self.note(oid, outcome);
        }
    }

    /// Asks for the bytes that an object's step needs.
    fn want(&mut self, object: usize) -> Result<(), LoadError> {
        let Object {
            oid,
            pos,
            step,
            steps,
        } = self.objects[object];
        let (pos, len) = match step {
            Step::Body { len, .. } => (pos + DATA_HEADER_LEN as u64, len.min(self.keep)),
            Step::Revision { .. } | Step::Share { .. } => {
                let room = self.view.inner().end.checked_sub(pos);
                let room = room.filter(|&r| pos >= MAGIC_LEN && r >= HEAD_LEN as u64);
                let Some(room) = room else {
                    let what = Fault::Outside;
                    return Err(LoadError::Corrupt { oid, pos, what });
                };
                if steps >= LONG_CHAIN {
                    // Not likely the one: what lies before it is of more use than its data.
                    let from = pos.saturating_sub(CHAIN_WINDOW_BYTES).max(MAGIC_LEN);
                    let len = usize::try_from(pos - from).expect("a small window") + HEAD_LEN;
                    self.wants.push(Want {
                        pos: from,
                        len,
                        object,
                    });
                    return Ok(());
                }
                let small = DATA_HEADER_LEN + self.keep.min(LOAD_SMALL_BYTES);
                (pos, usize::try_from(room).unwrap_or(small).min(small))
            }
        };
        self.wants.push(Want { pos, len, object });
        Ok(())
    }

    /// Goes on with an object whose bytes have come.
    fn advance(&mut self, n: usize, here: &Here<'_>) -> Result<Option<Located>, LoadError> {
        let Object { oid, pos, step, .. } = self.objects[n];
        let came = match step {
            Step::Body { len, .. } => {
                let len = len.min(self.keep);
                here.range(pos + DATA_HEADER_LEN as u64, len).is_some()
            }
            Step::Revision { .. } | Step::Share { .. } => here.range(pos, HEAD_LEN).is_some(),
        };
        if came {
            self.go_on(n, here)
        } else {
            let what = Fault::FileCut;
            Err(LoadError::Corrupt { oid, pos, what })
        }
    }

    /// Goes on with an object as far as the bytes at hand reach, and asks for what it needs then.
    fn go_on(&mut self, n: usize, here: &Here<'_>) -> Result<Option<Located>, LoadError> {
        loop {
            let object = self.objects[n];
            let (oid, pos) = (object.oid, object.pos);
            let next = match object.step {
                Step::Body { serial, len } => here
                    .bytes(pos + DATA_HEADER_LEN as u64, len.min(self.keep))
                    .map(|prefix| Next::Done(located(serial, pos, len, prefix))),
                Step::Revision { .. } | Step::Share { .. } => here
                    .head(pos)
                    .map(|(header, back)| self.judge(&object, header, back))
                    .transpose()?,
            };
            match next {
                Some(Next::Done(found)) => return Ok(Some(found)),
                Some(Next::Go(next, step)) => {
                    let mut steps = object.steps;
                    if let Step::Revision { newest } = step {
                        if chains::is_marked(steps) {
                            let tid = newest;
                            self.marks.push(Mark { oid, tid, pos });
                        }
                        steps = steps.saturating_add(1);
                    }
                    self.objects[n] = Object {
                        oid,
                        pos: next,
                        step,
                        steps,
                    };
                }
                None => return self.want(n).map(|()| None),
            }
        }
    }

    /// Where the record at an object's position leads.
    fn judge(&self, object: &Object, header: &DataHeader, back: u64) -> Result<Next, LoadError> {
        let Object { oid, pos, step, .. } = *object;
        let corrupt = |what| LoadError::Corrupt { oid, pos, what };
        if header.oid() != oid {
            return Err(corrupt(Fault::OtherOid(header.oid())));
        }
        header.check(pos).map_err(corrupt)?;
        let tid = header.tid();
        let (above, serial) = match step {
            Step::Revision { newest } => (newest, tid),
            Step::Share { serial } | Step::Body { serial, .. } => (serial, serial),
        };
        if tid > above {
            return Err(corrupt(Fault::NewerTid { tid, above }));
        }
        if serial > self.at {
            let step = Step::Revision { newest: tid };
            return match header.prev() {
                0 => Err(LoadError::NotYet),
                prev => Ok(Next::Go(prev, step)),
            };
        }
        match (header.plen(), back) {
            (0, 0) => Err(LoadError::Deleted { at: serial }),
            (0, back) if back < pos => Ok(Next::Go(back, Step::Share { serial })),
            (0, back) => Err(corrupt(Fault::BackOrder(back))),
            (plen, _) => {
                let max = self.view.inner().max_record;
                let len = usize::try_from(plen).ok().filter(|&len| len <= max);
                let len = len.ok_or(LoadError::TooBig { len: plen, max })?;
                if pos + (HEAD_LEN + len) as u64 > self.view.inner().end {
                    return Err(corrupt(Fault::Outside));
                }
                Ok(Next::Go(pos, Step::Body { serial, len }))
            }
        }
    }
}

/// Where a step leads.
enum Next {
    /// To a record and what to look for there.
    Go(u64, Step),
    /// Nowhere: this is it.
    Done(Located),
}

fn located(serial: Tid, pos: u64, data_len: usize, prefix: Bytes) -> Located {
    let data_pos = pos + DATA_HEADER_LEN as u64;
    Located {
        serial,
        data_pos,
        data_len,
        prefix,
    }
}

/// Bytes of the file that have come.
struct Here<'b> {
    bytes: &'b Bytes,
    pos: u64,
}

impl Here<'_> {
    fn range(&self, pos: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(pos.checked_sub(self.pos)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.bytes.len()).then_some(from..to)
    }

    /// A slice of the buffer, sharing it.
    fn bytes(&self, pos: u64, len: usize) -> Option<Bytes> {
        self.range(pos, len).map(|range| self.bytes.slice(range))
    }

    /// The header of a record and the word behind it. There always is one: a record has at least one byte of
    /// data or a back pointer, and the length of its transaction follows the last.
    fn head(&self, pos: u64) -> Option<(&DataHeader, u64)> {
        let bytes = &self.bytes[self.range(pos, HEAD_LEN)?];
        Some((DataHeader::view(bytes)?, word(&bytes[DATA_HEADER_LEN..])?))
    }
}

/// The same error once more: one failed read fails all objects it was for.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{Dir, open};
    use super::super::{FileWriter, Note};
    use super::*;

    /// Objects of these lengths, one transaction each; gives the view.
    fn stored(dir: &Dir, lens: &[usize]) -> FileView {
        let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
        for (n, &len) in lens.iter().enumerate() {
            let mut txn = writer.begin(Tid(n as u64 + 1), Note::default()).unwrap();
            txn.store(Oid(n as u64), &vec![1; len]).unwrap();
            txn.commit().unwrap();
        }
        open(&dir.path()).unwrap().1
    }

    /// Drives a batch; gives the lengths of its reads, in rounds.
    fn reads(view: &FileView, oids: impl Iterator<Item = u64>) -> Vec<Vec<usize>> {
        let mut batch = view.batch(view.at(), oids.map(Oid));
        let mut rounds = Vec::new();
        loop {
            let round: Vec<_> = std::iter::from_fn(|| batch.next_read()).collect();
            assert!(round.is_sorted_by_key(|read| read.pos));
            if round.is_empty() {
                break;
            }
            rounds.push(round.iter().map(|read| read.len).collect());
            for read in round {
                batch.complete(read.id, view.read(read.pos, read.len));
            }
        }
        while let Some((_, loaded)) = batch.next_done() {
            loaded.unwrap();
        }
        rounds
    }

    #[test]
    fn neighbours_are_read_in_runs_and_strangers_alone() {
        let dir = Dir::new();
        let view = stored(&dir, &[4150; 600]);
        // Records of 4223 bytes with all that is around them: 248 of them fit into a run.
        let rounds = reads(&view, (0..512).rev());
        assert_eq!(rounds.len(), 1);
        assert_eq!(rounds[0].len(), 3);
        assert!(rounds[0].iter().all(|&len| len <= LOAD_RUN_BYTES_MAX));
        // Every fourth is near enough, every tenth is not.
        assert_eq!(reads(&view, (0..40).step_by(4)), [vec![36 * 4223 + 4394]]);
        assert_eq!(reads(&view, (0..40).step_by(10)), [vec![4394; 4]]);
        // The same object twice costs nothing more.
        assert_eq!(reads(&view, [7, 7].into_iter()), [vec![4394]]);
    }

    #[test]
    fn a_small_record_takes_one_read_and_a_large_one_two() {
        let dir = Dir::new();
        let view = stored(&dir, &[10, 4352, 4353, 3 << 20]);
        assert_eq!(reads(&view, 0..1), [[4394]]);
        assert_eq!(reads(&view, 1..2), [[4394]]);
        assert_eq!(reads(&view, 2..3), [[4394], [4353]]);
        assert_eq!(reads(&view, 3..4), [[4394], [3 << 20]]);
    }

    #[test]
    fn a_walk_goes_on_in_the_bytes_at_hand() {
        let dir = Dir::new();
        let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
        for n in 1..=50 {
            let mut txn = writer.begin(Tid(n), Note::default()).unwrap();
            txn.store(Oid(1), &n.to_be_bytes()).unwrap();
            txn.store(Oid(2), &[2; 5]).unwrap();
            txn.commit().unwrap();
        }
        let (_, view) = open(&dir.path()).unwrap();
        // The newest record says nothing of the third but where to look next; the whole file says it at once.
        let mut batch = view.batch(Tid(3), [Oid(1)].into_iter());
        let first = batch.next_read().unwrap();
        batch.complete(first.id, view.read(first.pos, first.len));
        let second = batch.next_read().unwrap();
        assert!(second.pos < first.pos);
        let whole = view
            .read(0, usize::try_from(view.inner().end).unwrap())
            .unwrap();
        let oids = [Oid(1)].into_iter();
        let chains = &mut Chains::default();
        let mut walk = Walk::new(view.clone(), Tid(3), oids, usize::MAX, None, chains);
        let here = Here {
            bytes: &whole,
            pos: 0,
        };
        let found = walk.advance(0, &here).unwrap().unwrap();
        assert_eq!(
            (found.serial, &found.prefix[..]),
            (Tid(3), &3u64.to_be_bytes()[..])
        );
    }

    #[test]
    fn what_is_at_hand_is_not_read_again_wherever_it_is_cut() {
        let dir = Dir::new();
        let view = stored(&dir, &[300, 300, 300]);
        let end = usize::try_from(view.inner().end).unwrap();
        for (from, to) in (0..end).step_by(7).flat_map(|from| {
            let to = (from..=end).step_by(11).chain([end]);
            to.map(move |to| (from, to))
        }) {
            let (pos, bytes) = (from as u64, view.read(from as u64, to - from).unwrap());
            let near = Run { pos, bytes };
            let mut batch = view.batch_near(
                view.at(),
                (0..3).map(Oid),
                Some(&near),
                &mut Chains::default(),
            );
            let mut asked = 0;
            while let Some(read) = batch.next_read() {
                asked += read.len;
                batch.complete(read.id, view.read(read.pos, read.len));
            }
            let mut done: Vec<_> = std::iter::from_fn(|| batch.next_done()).collect();
            done.sort_by_key(|done| done.0);
            assert_eq!(done.len(), 3);
            for (n, (oid, loaded)) in done.into_iter().enumerate() {
                let loaded = loaded.unwrap();
                assert_eq!((oid, loaded.serial), (Oid(n as u64), Tid(n as u64 + 1)));
                assert_eq!(loaded.data, [1; 300][..], "from {from} to {to}");
            }
            assert!(asked > 0 || from < 100 && to > end - 100);
            assert!(asked == 0 || from > 0 || to < end);
        }
    }

    #[test]
    fn a_failed_read_fails_all_it_was_for_and_nothing_else() {
        let dir = Dir::new();
        let view = stored(&dir, &[10, 10, 30_000, 10]);
        let mut batch = view.batch(view.at(), [0, 1, 3, 9].map(Oid).into_iter());
        let near = batch.next_read().unwrap();
        let far = batch.next_read().unwrap();
        assert_eq!(batch.next_read(), None);
        batch.complete(near.id, Err(io::Error::from_raw_os_error(5)));
        batch.complete(far.id, view.read(far.pos, far.len));
        let mut said: Vec<_> = std::iter::from_fn(|| batch.next_done()).collect();
        said.sort_by_key(|done| done.0);
        assert!(
            matches!(&said[0].1, Err(LoadError::Io { source, .. }) if source.raw_os_error() == Some(5))
        );
        assert!(matches!(said[1].1, Err(LoadError::Io { .. })));
        assert_eq!(said[2].1.as_ref().unwrap().data.len(), 10);
        assert!(matches!(said[3].1, Err(LoadError::NoObject)));
    }
}
