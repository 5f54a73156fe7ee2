//! `zring etag` on real trees: what is printed, what is opened, what bad input comes to, and whether what it says is true.
//!
//! `scene` makes trees and runs the binary. `oracle` compares with digests of the bytes after random changes, `crash` kills scans and goes
//! on, `racy` bends what statx says, `opens` has a listener deny every open, `bound` measures memory and rate, `bad_input` has a
//! test for each thing that can be wrong with a tree, `command` is the command line.
//!
//! Longer runs: `ZRING_ETAG_ROUNDS` [12] rounds of 30 random changes per engine, `ZRING_ETAG_KILLS` [12] kills per engine, `ZRING_SEED` [1].
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod bound;
mod command;
mod crash;
mod opens;
mod oracle;
mod racy;
mod scene;
