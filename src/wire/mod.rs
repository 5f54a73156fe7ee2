//! wire
pub mod pickle;
