//! Loads of one worker: many at once, each object once.
//!
//! A *flight* is one batch of loads. What the page cache of the database file has is taken at once; only what has
//! to be waited for becomes a read of the port, and the flight stays here until the last of them is done.
//! Whoever needs an object that is in flight joins it (READ 4). A flight belongs to nobody: a caller that goes
//! away takes nothing from the others.
//!
//! Objects of a server are asked for and come as messages: there is no flight, and nothing is at hand.
//!
//! Loads coalesce within a worker. Across workers the page cache of the database file does it, or the driver of the
//! server: two workers that miss the same bytes wait for the same pages, or the same reply.

use super::buffer;
use crate::base::limit::LOAD_READS_IN_A_ROW_MAX;
use crate::base::{Oid, Rev, Tid};
use crate::kernel::file::{Now, read_now};
use crate::kernel::port::{Port, ReadDone};
use crate::store::any::AnyView;
use crate::store::file::{Batch, Chains, FileView, Locate, Located, Mark, Read, ReadId, Run};
use crate::store::remote::{Came, Sink};
use crate::store::{LoadError, Loaded};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Number of a task of this worker.
pub(super) type TaskId = usize;

/// What was found at an oid.
#[derive(Debug)]
pub(super) enum Fetched {
    /// A record.
    Object(Result<Loaded, LoadError>),
    /// The place of a record, in this file.
    Place(Result<Located, LoadError>, Arc<File>),
}

/// An object that came in, and who waits for it.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) rev: Rev,
    pub(super) oid: Oid,
    pub(super) fetched: Fetched,
    /// It was loaded from a state that is no longer the view's: ask again.
    pub(super) stale: bool,
    pub(super) tasks: Vec<TaskId>,
}

/// A read of raw bytes that a task waits for.
#[derive(Clone, Debug)]
pub(super) struct RawRead {
    pub(super) task: TaskId,
    pub(super) file: Arc<File>,
    /// Position in the file.
    pub(super) pos: u64,
    /// The object they belong to, and the transaction that made this revision.
    pub(super) of: (Oid, Tid),
    /// Bytes wanted.
    pub(super) len: usize,
}

impl RawRead {
    /// What came, if it is all. Fewer bytes mean that the file ends before them: asking again would give the same, without end.
    pub(super) fn whole(&self, came: io::Result<Bytes>) -> io::Result<Bytes> {
        let came = came?;
        if came.len() < self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(came)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: Vec<TaskId>,
    stale: bool,
}

#[derive(Debug)]
enum Plan {
    Objects(Batch),
    Places(Locate),
}

impl Plan {
    fn next_read(&mut self) -> Option<Read> {
        match self {
            Self::Objects(batch) => batch.next_read(),
            Self::Places(locate) => locate.next_read(),
        }
    }

    fn complete(&mut self, id: ReadId, result: io::Result<Bytes>) {
        match self {
            Self::Objects(batch) => batch.complete(id, result),
            Self::Places(locate) => locate.complete(id, result),
        }
    }

    fn file(&self) -> &Arc<File> {
        match self {
            Self::Objects(batch) => batch.view().file(),
            Self::Places(locate) => locate.view().file(),
        }
    }

    /// What it passed on long chains, and through which view.
    fn marks(&self) -> (&FileView, &[Mark]) {
        match self {
            Self::Objects(batch) => (batch.view(), batch.marks()),
            Self::Places(locate) => (locate.view(), locate.marks()),
        }
    }

    /// Reads all of it, if it is at hand and not too much.
    fn run_now(
        mut self,
        chains: &mut Chains,
        near: &mut Option<Run>,
        out: &mut Vec<(Oid, Fetched)>,
    ) -> bool {
        let mut left = LOAD_READS_IN_A_ROW_MAX;
        while let Some(read) = self.next_read() {
            let Some(fewer) = left.checked_sub(1) else {
                return false;
            };
            left = fewer;
            let mut buf = buffer::take(read.len);
            match read_now(self.file(), read.pos, &mut buf) {
                Ok(Now::Done(len)) => {
                    let (pos, bytes) = (read.pos, buffer::freeze(buf, len));
                    *near = Some(Run {
                        pos,
                        bytes: bytes.clone(),
                    });
                    self.complete(read.id, Ok(bytes));
                }
                Err(error) => self.complete(read.id, Err(error)),
                Ok(Now::WouldWait) => return false,
            }
        }
        out.extend(std::iter::from_fn(|| self.next_done()));
        let (view, marks) = self.marks();
        chains.learn(view, marks);
        true
    }

    fn next_done(&mut self) -> Option<(Oid, Fetched)> {
        match self {
            Self::Objects(batch) => batch.next_done().map(|(oid, r)| (oid, Fetched::Object(r))),
            Self::Places(locate) => {
                let file = Arc::clone(locate.view().file());
                locate
                    .next_done()
                    .map(|(oid, r)| (oid, Fetched::Place(r, file)))
            }
        }
    }
}

#[derive(Debug)]
struct Flight {
    rev: Rev,
    plan: Plan,
    open_reads: usize,
}

/// What a read of the port is for.
#[derive(Clone, Debug)]
enum Purpose {
    Flight(usize, ReadId),
    Raw(RawRead),
}

/// All loads of one worker.
#[derive(Debug)]
pub(super) struct Loading {
    /// Where a server's objects go.
    sink: Arc<dyn Sink>,
    flights: Vec<Option<Flight>>,
    purposes: Vec<Option<Purpose>>,
    waiting: FxHashMap<(Rev, Oid), Waiting>,
    /// Reads that had to wait, or let others have their turn first, since that was asked last.
    waits: u64,
    /// Where long chains of revisions can be entered.
    chains: Chains,
}

/// The first free place of a table, which grows by one when there is none.
fn free_place<T>(table: &mut Vec<Option<T>>) -> usize {
    table.iter().position(Option::is_none).unwrap_or_else(|| {
        table.push(None);
        table.len() - 1
    })
}

impl Loading {
    /// None; a server's objects will go to `sink`.
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            flights: Vec::new(),
            purposes: Vec::new(),
            waiting: FxHashMap::default(),
            waits: 0,
            chains: Chains::default(),
        }
    }

    /// Loads records and finds places of records as of `at`, if the page cache of the database file has all of it; else false,
    /// and `out` means nothing. `near` is what was last read through this view: what a writer makes together lies together.
    pub(super) fn now(
        &mut self,
        view: &AnyView,
        at: Tid,
        (objects, places): (&[Oid], &[Oid]),
        near: &mut Option<Run>,
        out: &mut Vec<(Oid, Fetched)>,
    ) -> bool {
        let AnyView::File(view) = view else {
            return false;
        };
        let chains = &mut self.chains;
        if !objects.is_empty() {
            let objects = objects.iter().copied();
            let batch = view.batch_near(at, objects, near.as_ref(), chains);
            if !Plan::Objects(batch).run_now(chains, near, out) {
                return false;
            }
        }
        if places.is_empty() {
            return true;
        }
        let locate = view.locate_near(at, places.iter().copied(), chains);
        Plan::Places(locate).run_now(chains, near, out)
    }

    /// Reads that had to wait, since this was asked last.
    pub(super) fn take_waits(&mut self) -> u64 {
        std::mem::take(&mut self.waits)
    }

    /// Whether anybody waits for anything.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Notes that `task` waits for `oid`; true when nobody else does yet, so that it has to be loaded.
    pub(super) fn join(&mut self, rev: Rev, oid: Oid, task: TaskId) -> bool {
        let is_new = self.begin(rev, oid);
        let waiting = self.waiting.entry((rev, oid)).or_default();
        waiting.tasks.push(task);
        is_new
    }

    /// Notes that an object is asked for ahead; false when it has been asked for already.
    pub(super) fn begin(&mut self, rev: Rev, oid: Oid) -> bool {
        match self.waiting.entry((rev, oid)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Waiting::default());
                true
            }
        }
    }

    /// Asks a server for objects that nobody waits for yet.
    pub(super) fn ahead(&self, (rev, at, view): (Rev, Tid, &AnyView), oids: &[Oid]) {
        if let AnyView::Remote(view) = view {
            view.ask(rev, at, oids, &self.sink);
        }
    }

    /// Loads the records of `oids` as of `at`; what is at hand is delivered now.
    pub(super) fn objects(
        &mut self,
        port: &mut Port,
        (rev, at, view): (Rev, Tid, &AnyView),
        oids: &[Oid],
        out: &mut Vec<Delivery>,
    ) {
        let view = match view {
            AnyView::File(view) => view,
            AnyView::Remote(view) => return view.ask(rev, at, oids, &self.sink),
        };
        let oids = oids.iter().copied();
        let plan = Plan::Objects(view.batch_near(at, oids, None, &mut self.chains));
        self.start(
            port,
            Flight {
                rev,
                plan,
                open_reads: 0,
            },
            out,
        );
    }

    /// Finds where the records of `oids` lie.
    pub(super) fn places(
        &mut self,
        port: &mut Port,
        (rev, at, view): (Rev, Tid, &AnyView),
        oids: &[Oid],
        out: &mut Vec<Delivery>,
    ) {
        let AnyView::File(view) = view else {
            unreachable!("BUG: places of what lies in no file");
        };
        let oids = oids.iter().copied();
        let plan = Plan::Places(view.locate_near(at, oids, &mut self.chains));
        self.start(
            port,
            Flight {
                rev,
                plan,
                open_reads: 0,
            },
            out,
        );
    }

    fn start(&mut self, port: &mut Port, flight: Flight, out: &mut Vec<Delivery>) {
        let index = free_place(&mut self.flights);
        self.flights[index] = Some(flight);
        self.go_on(port, index, out);
    }

    /// Reads what is at hand, starts what is not, delivers what is done.
    fn go_on(&mut self, port: &mut Port, index: usize, out: &mut Vec<Delivery>) {
        let flight = self.flights[index]
            .as_mut()
            .expect("a flight with reads is kept");
        let mut left = LOAD_READS_IN_A_ROW_MAX;
        while let Some(read) = flight.plan.next_read() {
            let mut buf = buffer::take(read.len);
            let now = match left {
                0 => Ok(Now::WouldWait), // by the port, so that others have their turn
                _ => read_now(flight.plan.file(), read.pos, &mut buf),
            };
            left = left.saturating_sub(1);
            match now {
                Ok(Now::Done(len)) => flight.plan.complete(read.id, Ok(buffer::freeze(buf, len))),
                Err(error) => flight.plan.complete(read.id, Err(error)),
                Ok(Now::WouldWait) => {
                    flight.open_reads += 1;
                    self.waits += 1;
                    let token = free_place(&mut self.purposes);
                    self.purposes[token] = Some(Purpose::Flight(index, read.id));
                    let token = u32::try_from(token).expect("bounded by the requests in flight");
                    port.read_file(token, flight.plan.file(), read.pos, buf);
                }
            }
        }
        while let Some((oid, fetched)) = flight.plan.next_done() {
            let waiting = self.waiting.remove(&(flight.rev, oid)).unwrap_or_default();
            let Waiting { tasks, stale } = waiting;
            out.push(Delivery {
                rev: flight.rev,
                oid,
                fetched,
                stale,
                tasks,
            });
        }
        if flight.open_reads == 0 {
            let (view, marks) = flight.plan.marks();
            self.chains.learn(view, marks);
            self.flights[index] = None;
        }
    }

    /// Objects of a server came.
    pub(super) fn came(&mut self, came: Vec<Came>, out: &mut Vec<Delivery>) {
        for Came { rev, oid, loaded } in came {
            let Waiting { tasks, stale } = self.waiting.remove(&(rev, oid)).unwrap_or_default();
            out.push(Delivery {
                rev,
                oid,
                fetched: Fetched::Object(loaded),
                stale,
                tasks,
            });
        }
    }

    /// Reads raw bytes for a task that cannot have them at once.
    pub(super) fn raw(&mut self, port: &mut Port, read: RawRead) {
        self.waits += 1;
        let place = free_place(&mut self.purposes);
        let token = u32::try_from(place).expect("bounded by the requests in flight");
        port.read_file(token, &read.file, read.pos, buffer::take(read.len));
        self.purposes[place] = Some(Purpose::Raw(read));
    }

    /// A read ended. Gives back one that a task waits for.
    pub(super) fn read_done(
        &mut self,
        port: &mut Port,
        done: ReadDone,
        out: &mut Vec<Delivery>,
    ) -> Option<(RawRead, io::Result<Bytes>)> {
        let purpose = self.purposes[done.token as usize]
            .take()
            .expect("a read ends once");
        let result = done.result.map(|len| buffer::freeze(done.buf, len));
        match purpose {
            Purpose::Raw(read) => Some((read, result)),
            Purpose::Flight(index, id) => {
                let flight = self.flights[index]
                    .as_mut()
                    .expect("a flight with reads is kept");
                flight.open_reads -= 1;
                flight.plan.complete(id, result);
                self.go_on(port, index, out);
                None
            }
        }
    }

    /// Head moved on: what is in flight of these objects is old. When nobody can tell what changed, history may be
    /// another one, and all of it is.
    pub(super) fn head_changed(&mut self, oids: Option<&[Oid]>) {
        match oids {
            Some(oids) => {
                for &oid in oids {
                    if let Some(waiting) = self.waiting.get_mut(&(Rev::Head, oid)) {
                        waiting.stale = true;
                    }
                }
            }
            None => self.waiting.values_mut().for_each(|w| w.stale = true),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn raw_bytes_that_the_file_does_not_have_are_an_error() {
        let read = RawRead {
            task: 0,
            of: (Oid(7), Tid(1)),
            file: Arc::new(File::open("/dev/null").unwrap()),
            pos: 100,
            len: 8,
        };
        let came = |len| read.whole(Ok(Bytes::from(vec![1; len])));
        assert_eq!(came(8).unwrap().len(), 8);
        for short in [0, 7] {
            let kind = came(short).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        }
    }
}
