//! Bytes to messages and back: no state, no I/O.
//!
//! Every reader here is a function from bytes to a value or a typed error; none allocates before it has
//! checked a length, and none panics whatever the bytes are.

pub mod catalog;
pub mod etag;
pub mod fs1;
pub mod fsevent;
pub mod fuse;
pub mod neo;
pub mod pickle;
pub mod quote;
pub mod watch;
pub mod zeo;
