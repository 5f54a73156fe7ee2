//! Whether files changed, without opening them: what counts, and what follows. Pure.
//!
//! `nominate` says when a path that somebody touched is to be looked at again.

pub mod nominate;
