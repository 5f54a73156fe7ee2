//! History of changes over (tail, head]; pure. Not used by serving yet: a commit still drops whole files.
//!
//! `btreediff` is what one commit did to the tracked part of one tree.

pub mod btreediff;

#[cfg(test)]
mod tests;
