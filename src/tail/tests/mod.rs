//! Tests of the room: random trees and commits against full enumeration.
#![allow(clippy::unwrap_used, reason = "tests")]

mod damage;
mod diff;
mod history;
mod model;
mod scenario;
mod size;
mod text;
mod twin;
mod world;
mod ztail;
