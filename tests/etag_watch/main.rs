//! Watching trees: what the kernel tells of real file systems, by each engine.
//!
//! `engine` is one test per kind of change; `honest` makes random changes and holds that whatever differs afterwards was told
//! of; `keeper` is the loop on top, `command` is `zring etag watch`; `bounds` fills the kernel's queue and uses up its watches. Each runs on the file system of the temporary directory, on
//! tmpfs and, in a mount namespace of its own, on overlayfs. fanotify needs root.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and start threads")]

#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/machine.rs"]
mod machine;

mod bounds;
mod command;
mod engine;
mod handle;
mod honest;
mod keeper;
mod scene;
