//! Threads, bounded channels, the loop: the one room that sees both columns.
//!
//! `start` turns a mountpoint into a connection and pinned workers; `worker` is the loop of one of them, which
//! drives any [`worker::Service`].

pub mod start;
pub mod worker;
