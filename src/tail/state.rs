//! How history asks for objects: as in `zodb::need`, of many states of the database at once.

use crate::base::{Oid, Tid};
use crate::zodb::{Ask, Lookup, Objects, Step, ZodbError};

/// Objects at hand, as of any state from the tail on.
pub trait States {
    /// What was at an oid as of a state, without waiting.
    fn get(&self, at: Tid, oid: Oid) -> Lookup<'_>;
}

/// What to bring: objects, each as of a state.
pub type Need = Vec<(Tid, Oid)>;

/// One of the states.
#[derive(Debug)]
pub struct At<'a, S: ?Sized> {
    states: &'a S,
    at: Tid,
}

impl<S: States + ?Sized> Objects for At<'_, S> {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        self.states.get(self.at, oid)
    }
}

/// Asks something of one state.
///
/// # Errors
/// As the question.
pub fn ask<S: States + ?Sized, T>(
    states: &S,
    need: &mut Need,
    at: Tid,
    question: impl FnOnce(&mut Ask<'_, At<'_, S>>) -> Result<Step<T>, ZodbError>,
) -> Result<Step<T>, ZodbError> {
    let (objects, mut missing) = (At { states, at }, Vec::new());
    let step = question(&mut Ask::new(&objects, &mut missing))?;
    need.extend(missing.into_iter().map(|oid| (at, oid)));
    Ok(step)
}

/// Asks something of two states.
pub(super) fn ask_both<S: States + ?Sized, T>(
    states: &S,
    need: &mut Need,
    (old, new): (Tid, Tid),
    question: impl FnOnce(
        &mut Ask<'_, At<'_, S>>,
        &mut Ask<'_, At<'_, S>>,
    ) -> Result<Step<T>, ZodbError>,
) -> Result<Step<T>, ZodbError> {
    let (mut of_old, mut of_new) = (Vec::new(), Vec::new());
    let objects = (At { states, at: old }, At { states, at: new });
    let step = question(
        &mut Ask::new(&objects.0, &mut of_old),
        &mut Ask::new(&objects.1, &mut of_new),
    )?;
    need.extend(of_old.into_iter().map(|oid| (old, oid)));
    need.extend(of_new.into_iter().map(|oid| (new, oid)));
    Ok(step)
}
