//! How pure code asks for objects.
//!
//! Functions take an [`Ask`]: the objects at hand as of one state of the database, and a list to which they add
//! whatever else they turn out to need. They return `Step::Need` when the list grew; the caller brings those
//! objects in, all at once, and calls again from the start. Starting over is cheap (a walk touches a few
//! nodes), needs no memory between calls, and nothing can be half done.
//!
//! What was at hand in one call must be at hand in the next, or they may go on for ever.

use super::error::ZodbError;
use super::object::{Object, ObjectError};
use crate::base::Oid;
use crate::base::limit::NEED_MAX;

/// What a view of the database has at an oid.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    /// The object.
    Here(&'a Object),
    /// A record that is no sound object.
    Broken(&'a ObjectError),
    /// No object.
    Absent(Absent),
    /// Not at hand: to be loaded.
    Missing,
}

/// Why there is no object at an oid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Absent {
    /// There never was one; or the storage cannot tell.
    NoObject,
    /// It was created later than the view.
    NotYet,
    /// It was deleted, or its creation undone, as of the view.
    Deleted,
}

/// Objects at hand as of one state of the database.
pub trait Objects {
    /// What is at an oid, without waiting.
    fn get(&self, oid: Oid) -> Lookup<'_>;
}

/// How far a function came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step<T> {
    /// To be called again with the objects it asked for.
    Need,
    /// Done.
    Done(T),
}

impl<T> Step<T> {
    /// Changes what came out.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Need => Step::Need,
            Self::Done(value) => Step::Done(f(value)),
        }
    }
}

/// Objects at hand, and the list of those to bring.
#[derive(Debug)]
pub struct Ask<'a, O: ?Sized> {
    objects: &'a O,
    need: &'a mut Vec<Oid>,
}

impl<'a, O: Objects + ?Sized> Ask<'a, O> {
    /// Asks of `objects`; what is missing is added to `need`, up to [`NEED_MAX`] oids, the same one perhaps
    /// more than once.
    pub fn new(objects: &'a O, need: &'a mut Vec<Oid>) -> Self {
        Self { objects, need }
    }

    /// An object that another one refers to. `None` when it is not at hand: it is asked for now.
    pub(super) fn get(&mut self, oid: Oid) -> Result<Option<&'a Object>, ZodbError> {
        match self.objects.get(oid) {
            Lookup::Here(object) => Ok(Some(object)),
            Lookup::Broken(&source) => Err(ZodbError::Corrupt { oid, source }),
            Lookup::Absent(absent) => Err(ZodbError::Dangling { oid, absent }),
            Lookup::Missing => {
                if !self.is_full() && self.need.last() != Some(&oid) {
                    self.need.push(oid);
                }
                Ok(None)
            }
        }
    }

    /// Whether asking for more is idle in this step.
    pub(super) fn is_full(&self) -> bool {
        self.need.len() >= NEED_MAX
    }
}
