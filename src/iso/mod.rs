//! Isolation: what each client sees stays as of its own transaction, in one page cache.
//!
//! Holds, for each open of `head/watch` a [`link`], for each file it watches a [`watch`] with its pins, and what becomes of a client
//! that fails ([`death`]), and what users other than the mount's owner may take ([`quota`]). [`isolation::Isolation`] is all of them: events in, actions out. Time is an argument, and what it has to ask
//! (the history, whether a client lives) it asks [`isolation::Outside`].
//!
//! Owned by control, which owns the history too: a pin is decided upon where a commit is.
//!
//! Invariant: whatever the page cache shows of a block that changed after a watch's `at` is pinned on that watch (I4). A READ asks before it
//! is answered; a watch is told of what was given before it came.
//!
//! What it does not do: it holds no requests of the kernel and no process; it knows them by number.
//!
#![doc = include_str!("protocol.md")]

pub mod death;
mod fault;
pub mod isolation;
pub mod link;
mod others;
pub mod outbox;
mod pin;
pub mod quota;
mod setup;
pub mod text;
pub mod watch;

pub use isolation::{Action, Caller, Errno, Isolation, LinkId, Outside, Signal, Unknown};
pub use quota::{Quota, Rules, Uid};
