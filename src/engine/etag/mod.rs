//! The bulk ETag engine: threads that look at trees and keep what is known of them.
//!
//! `watch` keeps it current: it hears what changes and has that looked at.

pub mod watch;
