//! Objects for commands that look into a database: loaded one after the other, blocking. Nobody waits for them.

use super::{Failure, args, options};
use crate::base::{Oid, Rev, Tid};
use crate::fs::cache::{AtHand, Cache, Kept, Own};
use crate::store::any::{AnyStore, AnyView};
use crate::store::zurl::Zurl;
use crate::store::{LoadError, Loaded};
use crate::zodb::need::{Absent, Ask, Step};
use crate::zodb::object::decode_within;
use crate::zodb::{Object, ZodbError};
use lexopt::ValueExt;
use std::cell::RefCell;
use std::sync::Arc;

/// What an address names.
pub(super) fn parse(zurl: &str) -> Result<Zurl, Failure> {
    Zurl::parse(zurl).map_err(|e| Failure::new(2, e))
}

/// What `--max-record` is given.
pub(super) fn max_record(args: &mut args::Parser) -> Result<usize, lexopt::Error> {
    let value = args.value()?;
    value.parse_with(|text| options::max_record(text).ok_or(options::MAX_RECORD))
}

/// The database that an address names, as of its last transaction; records have up to `max` bytes.
pub(super) fn open(zurl: &Zurl, max: usize) -> Result<Database, Failure> {
    let (_, view) = AnyStore::open(zurl, max, None, &mut |_, _| {})?;
    Ok(Database { view, max })
}

/// A database, and how many bytes a record of it may have.
pub(super) struct Database {
    pub(super) view: AnyView,
    pub(super) max: usize,
}

impl Database {
    /// As of `at`, which must not be above the view.
    pub(super) fn reader(&self, at: Tid) -> Reader<'_> {
        Reader {
            base: self,
            at,
            own: Own::default(),
        }
    }
}

/// Answers questions about a database as of one transaction.
pub(super) struct Reader<'a> {
    base: &'a Database,
    at: Tid,
    own: Own<()>,
}

impl Reader<'_> {
    /// Loads until a question is answered.
    pub(super) fn run<T>(
        &mut self,
        mut step: impl FnMut(&mut Ask<'_, AtHand<'_, ()>>) -> Result<Step<T>, ZodbError>,
    ) -> Result<T, ZodbError> {
        let (cache, seen) = (Cache::new(self.at, 0, 0), RefCell::default());
        loop {
            let mut need = Vec::new();
            let hand = AtHand {
                rev: Rev::Head,
                own: &self.own,
                cache: &cache,
                seen: &seen,
            };
            if let Step::Done(value) = step(&mut Ask::new(&hand, &mut need))? {
                return Ok(value);
            }
            let at = self.at;
            let need = need.into_iter().map(|oid| (oid, at));
            for (oid, _, loaded) in self.base.view.load_many(need) {
                self.own.insert(oid, kept(oid, loaded, self.base.max));
            }
        }
    }

    /// The object of an oid; `None` when there is none, or none that can be read.
    pub(super) fn object(&mut self, oid: Oid) -> Option<Arc<Object>> {
        if !self.own.contains_key(&oid) {
            let kept = self.load(oid);
            self.own.insert(oid, kept);
        }
        match self.own.get(&oid) {
            Some(Kept::Object(object, _)) => Some(Arc::clone(object)),
            _ => None,
        }
    }

    /// Lets go of the bytes of blocks.
    pub(super) fn drop_data(&mut self) {
        self.own.retain(|_, kept| {
            !matches!(kept, Kept::Object(o, _) if matches!(**o, Object::Blk0(_) | Object::Data(_)))
        });
    }

    /// The transaction that made an object what it is; `None` when there is none, or none that can be read.
    pub(super) fn serial(&mut self, oid: Oid) -> Option<Tid> {
        self.object(oid)?;
        match self.own.get(&oid) {
            Some(Kept::Object(_, serial)) => Some(*serial),
            _ => None,
        }
    }

    fn load(&self, oid: Oid) -> Kept<()> {
        kept(oid, self.base.view.load(oid, self.at), self.base.max)
    }
}

fn kept(oid: Oid, loaded: Result<Loaded, LoadError>, max: usize) -> Kept<()> {
    match loaded {
        Ok(loaded) => match decode_within(loaded.data, max) {
            Ok(object) => Kept::Object(Arc::new(object), loaded.serial),
            Err(error) => Kept::Broken(error),
        },
        Err(LoadError::NotYet) => Kept::Absent(Absent::NotYet),
        Err(LoadError::Deleted { .. }) => Kept::Absent(Absent::Deleted),
        Err(error) => {
            // `zring check` tells what is wrong with a record that cannot be read, and where it lies; of a server nobody else does.
            if !matches!(error, LoadError::NoObject | LoadError::Corrupt { .. }) {
                eprintln!("zring: object {oid}: {error}");
            }
            Kept::Absent(Absent::NoObject)
        }
    }
}
