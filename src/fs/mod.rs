//! What a path means: names, attributes, views, and what a commit does to them. Pure.
//!
//! `tree` holds names and nodes, `attr` what stat shows, `errno` the one table from refusals to errno,
//! `cache` the objects at hand, `track` what a file was read through, `read` a READ in terms of blocks, `touch` which
//! blocks deserve a store, `advance` the order of things when head moves.
//!
//! Nothing here waits, loads or reads a clock: it says what it needs and is asked again.

pub mod advance;
pub mod attr;
pub mod cache;
pub mod errno;
pub mod read;
pub mod touch;
pub mod track;
pub mod tree;
