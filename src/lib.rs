//! zring: big files out of ZODB, through one exact page cache.

pub mod base;
pub mod cli;
pub mod engine;
pub mod fs;
pub mod kernel;
pub mod store;
pub mod wire;
pub mod zodb;
