//! Writes notifications to the kernel. They take page locks, so a thread that answers requests never calls
//! this (I5; kernel-note 0003).

use crate::wire::fuse::notify::Head;
use nix::errno::Errno;
use nix::sys::uio;
use std::fs::File;
use std::io::IoSlice;

/// How the kernel took a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Done.
    Done,
    /// It does not know the node, or has no such name: there is nothing to do.
    Unknown,
    /// The connection is gone.
    Gone,
}

/// The kernel refused a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel refused a notification: {errno}")]
pub struct NotifyError {
    /// What it said.
    pub errno: Errno,
}

/// Writes one notification and waits until the kernel has done it.
///
/// # Errors
/// An errno other than those of [`Told`].
pub fn tell(dev: &File, head: &Head, data: &[&[u8]]) -> Result<Told, NotifyError> {
    let mut parts = vec![IoSlice::new(head.as_bytes())];
    parts.extend(
        data.iter()
            .filter(|d| !d.is_empty())
            .map(|d| IoSlice::new(d)),
    );
    loop {
        match uio::writev(dev, &parts) {
            Ok(_) => return Ok(Told::Done),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Told::Unknown),
            Err(Errno::ENODEV | Errno::ENOTCONN | Errno::ECONNABORTED) => return Ok(Told::Gone),
            Err(errno) => return Err(NotifyError { errno }),
        }
    }
}
