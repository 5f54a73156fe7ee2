//! `zring etag` on real trees: what is printed, what is opened, what bad input comes to, and whether what it says is true.
//!
//! `scene` makes trees and runs the binary. `oracle` compares with digests of the bytes after random changes, `crash` kills scans and goes
//! on, `racy` bends what statx says, `opens` has a listener deny every open, `bound` measures memory and rate, `mounts` has other file systems, `owner` the thread that keeps
//! a catalog, `bad_input` a test for each thing that can be wrong with a tree, `command` is the command line.
//!
//! Longer runs: `ZRING_ETAG_ROUNDS` [12] rounds of 30 random changes, `ZRING_ETAG_KILLS` [12] kills, `ZRING_SEED` [1].
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod bound;
mod command;
mod crash;
mod mounts;
mod opens;
mod oracle;
mod owner;
mod racy;
mod scene;
