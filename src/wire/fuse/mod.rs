//! The kernel's FUSE messages.
//!
//! `abi` is the layout, `request` what the kernel asks, `reply` what it is told, `notify` what it is told
//! unasked, `show` one line per message for people.
//! Numbers are in host byte order, as the kernel's are.

pub mod abi;
pub mod notify;
pub mod reply;
pub mod request;
pub mod show;
