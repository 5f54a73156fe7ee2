//! Mistakes that the daemon could make, each a switch of the driver: what shows that the checks see something.
//!
//! The last two are none: they show what correctness does not rest on.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A worker says that it took a view, and keeps the old one.
    KeepsView,
    /// A worker says that it took a view before it does, and answers requests in between.
    TookTooEarly,
    /// `head/at` moves before the files are dropped.
    ShowsTooEarly,
    /// What the old view put back while workers took the new one is not dropped.
    NoSecondDrop,
    /// A worker forgets a file's notes when it is asked, not when it takes the view.
    AskEndsNotes,
    /// A finished store is handed to the notifier later, across a change of view.
    LateStore,
    /// The notifier takes drops before stores.
    StoresOvertaken,
    /// READs wait while head is moving.
    ReadsWait,
    /// A parked READ goes on with the objects it has.
    ParkedKeeps,
    /// What is in flight when the view changes counts as new.
    InFlightKept,
    /// The worker's cache outlives the view.
    CacheKept,
    /// What a worker knows of a file outlives the view.
    InfoKept,
    /// READs are answered and what they depend on is not noted.
    NotTracked,
    /// What a READ depends on is noted some time after its answer.
    TrackedLate,
    /// The kernel drops what is there and does not wait for READs.
    InvalDoesNotWait,
    /// Nothing is dropped before the view is published. No mistake: that drop only makes the other one short.
    NoFirstDrop,
    /// A parked store goes on under the new view. No mistake either: it starts from the beginning, as a READ does.
    StoreGoesOn,
}
