//! Tests of the room: random trees and commits against full enumeration.
#![allow(clippy::unwrap_used, reason = "tests")]

mod diff;
mod model;
