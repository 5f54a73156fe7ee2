//! History of changes over (tail, head]; pure.
//!
//! - `ztail`: which objects each transaction changed, tracked or not
//! - `track`: what is tracked, as of one state: files, leaves of their tables, blocks that were read
//! - `btreediff`: what one commit did to the tracked part of one tree; `commit`: to all that is tracked
//! - `btail`: which keys of tracked trees changed when, and how that is found out later
//! - `ftail`: all of it together; `look`: what comes next; `query`: questions about the past of files
//! - `seen`: what the kernel was given of a block
//!
//! One owner, no locks. States of the database are asked for by value (`state`): nothing here loads.

mod btail;
pub mod btreediff;
pub mod commit;
mod few;
pub mod ftail;
pub mod look;
pub mod query;
mod seen;
pub mod state;
pub mod track;
pub mod ztail;

#[cfg(test)]
mod tests;

pub use commit::{FileChange, What};
pub use ftail::FTail;
pub use query::{BlkRev, Slice, Which};
pub use seen::Seen;
pub use state::{Need, States};
pub use track::{Counts, Tracked, Unfit};
pub use ztail::ZTail;
