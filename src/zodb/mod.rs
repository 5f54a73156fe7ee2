//! Meaning of the objects that make up a big file; pure.

pub mod class;
pub mod object;
