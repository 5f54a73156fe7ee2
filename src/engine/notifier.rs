//! The thread that writes notifications, and nothing else (I5).
//!
//! Stores and drops go through one queue, so that what a worker stored from an old view is in the page cache, or not,
//! before the drop of that view's pages. A notification waits in the kernel for READs of its pages; no READ waits
//! for a notification. So the queue always moves on, as fast as the slowest READ of a changed file.

use super::shared::{Mailbox, Notice, Shared, ToControl};
use crate::fs::tree::fixed;
use crate::kernel::mount::Connection;
use crate::kernel::notify::{NotifyError, Told, tell};
use crate::kernel::proc;
use crate::wire::fuse::notify::Head;
use crossbeam_channel::Receiver;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// Bytes of one STORE; a longer one holds its pages' locks for longer.
const STORE_BYTES: usize = 256 << 10;

/// Starts the thread; it ends with the last sender.
///
/// # Errors
/// A thread cannot be started.
pub(super) fn start(
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    notices: Receiver<Notice>,
    control: Mailbox<ToControl>,
) -> io::Result<JoinHandle<()>> {
    proc::spawn("zring-notify", move || {
        for notice in notices {
            match notice {
                Notice::Drop(node) => control.send(match drop_file(&connection, node.0) {
                    Ok(_) => ToControl::Dropped,
                    Err(error) => ToControl::DropFailed(error),
                }),
                Notice::DropName(parent, name) => {
                    let head = Head::inval_entry(parent, name.as_bytes());
                    if let Err(error) = tell(&connection.fuse, &head, &[name.as_bytes(), b"\0"]) {
                        shared
                            .log
                            .warning(format!("name {name}: {error}; it expires by itself"));
                    }
                }
                Notice::Store { node, off, data } => {
                    for (i, part) in data.chunks(STORE_BYTES).enumerate() {
                        let off = off + (i * STORE_BYTES) as u64;
                        let head = Head::store(node, off, part.len());
                        match tell(&connection.fuse, &head, &[part]) {
                            Ok(Told::Done) => {}
                            // Forgotten, gone, or no memory: readers will ask for what they need.
                            Ok(_) | Err(_) => break,
                        }
                    }
                    shared.store_bytes.fetch_sub(data.len(), Ordering::Relaxed);
                }
            }
        }
    })
}

fn drop_file(connection: &Connection, node: u64) -> Result<Told, NotifyError> {
    debug_assert!(node >= fixed::FIRST_FREE, "fixed nodes are not cached");
    tell(
        &connection.fuse,
        &Head::inval_inode(crate::base::NodeId(node), 0, 0),
        &[],
    )
}
