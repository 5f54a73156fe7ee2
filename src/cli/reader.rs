//! Objects for commands that look into a database: loaded one after the other, blocking. Nobody waits for them.

use super::Failure;
use crate::base::{Oid, Rev, Tid};
use crate::fs::cache::{AtHand, Cache, Kept, Own};
use crate::store::LoadError;
use crate::store::file::{FileOpts, FileStore, FileView};
use crate::store::zurl::Zurl;
use crate::zodb::need::{Absent, Ask, Step};
use crate::zodb::object::decode;
use crate::zodb::{Object, ZodbError};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

/// The database file that an address names.
pub(super) fn path_of(zurl: &str) -> Result<PathBuf, Failure> {
    let Zurl::File(path) = Zurl::parse(zurl).map_err(|e| Failure::new(2, e))?;
    Ok(path)
}

/// The database that an address names, as of its last transaction.
pub(super) fn open(zurl: &str) -> Result<FileView, Failure> {
    let path = path_of(zurl)?;
    let (_, view) = FileStore::open(&path, &FileOpts::default(), &mut |_, _| {})?;
    Ok(view)
}

/// Answers questions about a database as of one transaction.
pub(super) struct Reader<'a> {
    view: &'a FileView,
    at: Tid,
    own: Own<()>,
}

impl<'a> Reader<'a> {
    /// As of `at`, which must not be above the view.
    pub(super) fn new(view: &'a FileView, at: Tid) -> Self {
        let own = Own::default();
        Self { view, at, own }
    }

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
            for oid in need {
                let kept = self.load(oid);
                self.own.insert(oid, kept);
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

    fn load(&self, oid: Oid) -> Kept<()> {
        match self.view.load(oid, self.at) {
            Ok(loaded) => match decode(loaded.data) {
                Ok(object) => Kept::Object(Arc::new(object), loaded.serial),
                Err(error) => Kept::Broken(error),
            },
            Err(LoadError::NotYet) => Kept::Absent(Absent::NotYet),
            Err(LoadError::Deleted { .. }) => Kept::Absent(Absent::Deleted),
            // `zring check` tells what is wrong with a record that cannot be read, and where it lies.
            Err(_) => Kept::Absent(Absent::NoObject),
        }
    }
}
