//! Whether files changed, without opening them: what counts, and what follows. Pure.
//!
//! A *record* is what was known of a file when it was hashed: its witness ([`crate::base::Witness`]) and its digest. A check compares the
//! record with what statx says now and gives each path a *state*.
//!
//! 1. `trust` says which parts of a witness count; `racy` when equal parts prove nothing. Together they are [`verdict`].
//! 2. `merge` finds the record of each name of a directory, in the order in which the kernel gives names, mostly without a look-up.
//! 3. `member` says which batches of changes count. `rename` lets a digest move with a file where the trust level allows it.
//! 4. `tag`, `sum`, `json` are the texts that go out and come in; `pick` is which files are looked at.
//! 5. `nominate` says when a path that somebody touched is looked at again, `scope` which part of a tree that takes.
//!
//! The invariant of the whole: **a file is `fresh` only if nothing could have changed its bytes since they were hashed that would not
//! have shown in what is compared** — as far as the trust level promises. When in doubt a file is hashed again, which costs time and
//! nothing else.
//!
//! It does not read, stat, or know a clock: the time is an argument.

pub mod json;
pub mod member;
pub mod merge;
pub mod nominate;
pub mod pick;
pub mod racy;
pub mod rename;
pub mod scope;
pub mod sum;
pub mod tag;
pub mod trust;
pub mod verdict;

pub use racy::Grain;
pub use trust::Trust;
pub use verdict::{Reason, State, Verdict};
