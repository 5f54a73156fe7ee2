//! What a path means: names, attributes, views, and what a commit does to them. Pure.
//!
//! `name` reads names, `tree` holds nodes, `file` is that of a big file, `lookup` what a worker remembers of these, `attr` what stat shows, `errno` the one table from refusals to errno,
//! `cache` the objects at hand and `revision` which states they are right for, `track` what an answer was made from, `read` a
//! READ in terms of blocks, `touch` which blocks deserve a store, `meeting` what of
//! them is stored beside their readers, `advance` the order of things when head moves, `history` what
//! each transaction changes of all that is cached, `states` what it was told for that, `kept` the old pages, `retrieval`
//! which of them are asked for together, `pagecache` how they are known again.
//!
//! Nothing here waits, loads or reads a clock: it says what it needs and is asked again.

pub mod advance;
pub mod attr;
pub mod cache;
pub mod errno;
mod file;
pub mod history;
pub mod kept;
pub mod lookup;
pub mod meeting;
pub mod name;
pub mod pagecache;
pub mod past;
pub mod read;
pub mod retrieval;
pub mod revision;
pub mod states;
pub mod touch;
pub mod track;
pub mod tree;
