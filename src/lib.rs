//! zring: big files out of ZODB, through one exact page cache.

pub mod base;
pub mod engine;
pub mod kernel;
pub mod store;
pub mod wire;
pub mod zodb;
