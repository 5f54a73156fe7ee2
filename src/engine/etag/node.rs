//! Directories on the way from the root to what is read: their paths, who is whose ancestor, and how few of them are open.
//!
//! A directory stays open for its subdirectories while descriptors are left; below one that is closed, the way leads from the nearest
//! ancestor that is open. So descriptors are bounded whatever the depth, and paths may have any length: a way is walked in pieces.

use super::config::join;
use crate::kernel::stat::{Resolve, open_dir};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Descriptors of directories that are kept open for their subdirectories.
const KEPT_OPEN_MAX: usize = 80;
/// Longest way walked at once; the kernel takes 4096 bytes with the zero.
const WAY_BYTES_MAX: usize = 4000;

/// One directory.
#[derive(Debug)]
pub(super) struct Node {
    parent: Option<Arc<Self>>,
    name: Box<[u8]>,
    pub(super) depth: usize,
    pub(super) dev: u64,
    ino: u64,
    fd: Option<Arc<OwnedFd>>,
    open: Arc<AtomicUsize>,
}

impl Node {
    /// The root: it stays open.
    pub(super) fn root(fd: OwnedFd, (dev, ino): (u64, u64)) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            name: Box::default(),
            depth: 0,
            dev,
            ino,
            fd: Some(Arc::new(fd)),
            open: Arc::new(AtomicUsize::new(1)),
        })
    }

    /// A directory below; it stays open if there is room.
    pub(super) fn child(
        parent: &Arc<Self>,
        name: &[u8],
        (dev, ino): (u64, u64),
        fd: Arc<OwnedFd>,
    ) -> Arc<Self> {
        let open = Arc::clone(&parent.open);
        let keeps = open.fetch_add(1, Relaxed) < KEPT_OPEN_MAX;
        if !keeps {
            open.fetch_sub(1, Relaxed);
        }
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name: name.into(),
            depth: parent.depth + 1,
            dev,
            ino,
            fd: keeps.then_some(fd),
            open,
        })
    }

    /// Whether this directory is one of its ancestors, or itself.
    pub(super) fn has_ancestor(&self, place: (u64, u64)) -> bool {
        let mut at = Some(self);
        while let Some(node) = at {
            if (node.dev, node.ino) == place {
                return true;
            }
            at = node.parent.as_deref();
        }
        false
    }

    /// Its path from the root, into `out`.
    pub(super) fn path(&self, out: &mut Vec<u8>) {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(parent) = at.parent.as_deref() {
            names.push(&at.name);
            at = parent;
        }
        out.clear();
        for name in names.into_iter().rev() {
            if !out.is_empty() {
                out.push(b'/');
            }
            out.extend_from_slice(name);
        }
    }

    /// Opens a directory in it.
    pub(super) fn open_child(&self, name: &CStr, resolve: Resolve) -> io::Result<OwnedFd> {
        if let Some(fd) = &self.fd {
            return open_dir(Some(fd.as_fd()), name, resolve);
        }
        let mut names = vec![name.to_bytes()];
        let mut at = self;
        let from = loop {
            if let Some(fd) = &at.fd {
                break fd;
            }
            names.push(&at.name);
            at = at.parent.as_deref().expect("the root is open");
        };
        names.reverse();
        open_way(from.as_fd(), &names, resolve)
    }
}

/// Long chains are let go one by one: a thread's stack is small.
impl Drop for Node {
    fn drop(&mut self) {
        if self.fd.is_some() {
            self.open.fetch_sub(1, Relaxed);
        }
        let mut parent = self.parent.take();
        while let Some(node) = parent {
            parent = match Arc::try_unwrap(node) {
                Ok(mut node) => node.parent.take(),
                Err(_) => None,
            };
        }
    }
}

/// Opens the directory that these names lead to.
fn open_way(from: BorrowedFd<'_>, names: &[&[u8]], resolve: Resolve) -> io::Result<OwnedFd> {
    let mut reached: Option<OwnedFd> = None;
    let mut rest = names;
    while !rest.is_empty() {
        let mut way = Vec::new();
        while let Some((name, after)) = rest.split_first() {
            if !way.is_empty() && way.len() + 1 + name.len() > WAY_BYTES_MAX {
                break;
            }
            way = join(&way, name);
            rest = after;
        }
        let way = CString::new(way)?;
        let at = reached.as_ref().map_or(from, AsFd::as_fd);
        reached = Some(open_dir(Some(at), &way, resolve)?);
    }
    reached.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Opens a directory by its path from the root; the root itself for an empty one.
pub(super) fn open_path(
    root: BorrowedFd<'_>,
    path: &[u8],
    resolve: Resolve,
) -> io::Result<OwnedFd> {
    if path.is_empty() {
        return root.try_clone_to_owned();
    }
    let names: Vec<&[u8]> = path.split(|&c| c == b'/').collect();
    open_way(root, &names, resolve)
}
