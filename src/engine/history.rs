//! What the history looks into: the workers' notes, and objects of the database.
//!
//! Loads block: control waits for the disk, no reader does.

use super::clock::Clock;
use super::log::Chain;
use super::notes::Noted;
use crate::base::limit;
use crate::base::tidtime::UnixTime;
use crate::base::{Oid, Tid};
use crate::fs::cache::Kept;
use crate::fs::history;
use crate::fs::states::Known;
use crate::fs::track::Note;
use crate::store::any::AnyView;
use crate::store::{LoadError, Loaded};
use crate::tail::States;
use crate::zodb::need::{Absent, Lookup};
use crate::zodb::object::decode_within;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// How long a change is remembered at least, if nobody needs it longer.
const REMEMBERED_S: i64 = 60;

/// The history of a mount.
pub(super) type History = history::History<Source>;

/// The database failed while the history asked for it.
#[derive(Debug, thiserror::Error)]
#[error("object {oid} @{at}: {}", Chain(.error))]
pub(super) struct Unloaded {
    oid: Oid,
    at: Tid,
    error: LoadError,
}

/// What need not be remembered when head is `head`.
pub(super) fn old_before(head: Tid) -> Option<Tid> {
    let time = head.time();
    Tid::from_time(UnixTime {
        sec: time.sec - REMEMBERED_S,
        nsec: time.nsec,
    })
}

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    notes: Vec<Noted>,
    known: Known,
    view: AnyView,
    max_record: usize,
    /// Stands still while the database is waited for.
    pub(super) clock: Clock,
}

impl Source {
    /// One inbox for each worker; objects as of `view` and what was before.
    pub(super) fn new(view: AnyView, notes: Vec<Noted>, max_record: usize) -> Self {
        Self {
            notes,
            known: Known::new(view.at(), limit::HISTORY_CACHE_BYTES),
            view,
            max_record,
            clock: Clock::default(),
        }
    }

    /// Notes that are not taken.
    pub(super) fn noted(&self) -> usize {
        self.notes.iter().map(Noted::len).sum()
    }

    /// The database goes on.
    pub(super) fn show(&mut self, view: &AnyView) {
        self.view = view.clone();
    }
}

impl States for Source {
    fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
        self.known.get(at, oid)
    }
}

impl history::Source for Source {
    type Error = Unloaded;

    fn next_note(&mut self, worker: usize) -> Option<Note> {
        self.notes[worker].next()
    }

    fn known(&mut self) -> &mut Known {
        &mut self.known
    }

    fn head(&self) -> Tid {
        self.view.at()
    }

    fn load(&mut self, at: Tid, oid: Oid) -> Result<Kept<()>, Unloaded> {
        let began = Instant::now();
        let loaded = self.view.load(oid, at);
        self.clock.stood(began.elapsed());
        self.kept(at, oid, loaded)
    }

    /// All at once: from a server it takes as long as one.
    fn bring(&mut self, need: &[(Tid, Oid)]) -> Result<(), Unloaded> {
        let mut wanted = BTreeSet::new();
        for &(at, oid) in need {
            if matches!(self.get(at, oid), Lookup::Missing) {
                wanted.insert((oid, self.known.state(at, oid)));
            }
        }
        let began = Instant::now();
        let all = self.view.load_many(wanted);
        self.clock.stood(began.elapsed());
        for (oid, at, loaded) in all {
            let kept = self.kept(at, oid, loaded)?;
            self.known.put(at, oid, kept);
        }
        Ok(())
    }
}

impl Source {
    fn kept(
        &self,
        at: Tid,
        oid: Oid,
        loaded: Result<Loaded, LoadError>,
    ) -> Result<Kept<()>, Unloaded> {
        Ok(match loaded {
            Ok(Loaded { serial, data }) => match decode_within(data, self.max_record) {
                Ok(object) => Kept::Object(Arc::new(object), serial),
                Err(error) => Kept::Broken(error),
            },
            Err(LoadError::NoObject) => Kept::Absent(Absent::NoObject),
            Err(LoadError::NotYet) => Kept::Absent(Absent::NotYet),
            Err(LoadError::Deleted { .. }) => Kept::Absent(Absent::Deleted),
            Err(error) => return Err(Unloaded { oid, at, error }),
        })
    }
}
