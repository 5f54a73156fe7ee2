//! Several names of one inode: hashed under the first, known under all.

use super::queue::Item;
use super::walk::locked;
use crate::base::Witness;
use crate::wire::catalog::Record;
use rustc_hash::FxHashMap;
use std::sync::Mutex;

/// Inodes of several names that are remembered, 200 bytes each; beyond it they are hashed under each name.
const INODES_MAX: usize = 64 << 10;

enum Inode {
    /// Somebody hashes it; these wait.
    Busy(Vec<Item>),
    /// It was hashed; and what it was before its attribute was written, which moves ctime.
    Done(Record, Witness),
}

/// Inodes of several names.
#[derive(Default)]
pub(super) struct Links(Mutex<FxHashMap<(u64, u64), Inode>>);

/// What to do about a name of an inode that has others.
pub(super) enum Share {
    /// Hash it.
    Hash(Box<Item>),
    /// It is known.
    Known(Box<Item>, Record),
    /// It waits for who hashes it.
    Waits,
}

fn place(item: &Item) -> (u64, u64) {
    (item.stat.dev, item.stat.witness.ino)
}

impl Links {
    /// Asks about a name that is about to be hashed.
    pub(super) fn ask(&self, item: Box<Item>) -> Share {
        if item.stat.nlink < 2 {
            return Share::Hash(item);
        }
        let mut inodes = locked(&self.0);
        let full = inodes.len() >= INODES_MAX;
        match inodes.get_mut(&place(&item)) {
            Some(Inode::Done(record, before))
                if [record.witness, *before].contains(&item.stat.witness) =>
            {
                Share::Known(item, *record)
            }
            Some(Inode::Done(..)) => Share::Hash(item),
            Some(Inode::Busy(waiting)) => {
                waiting.push(*item);
                Share::Waits
            }
            None => {
                if !full {
                    inodes.insert(place(&item), Inode::Busy(Vec::new()));
                }
                Share::Hash(item)
            }
        }
    }

    /// A name was hashed, or not: these have waited for it.
    pub(super) fn end(&self, item: &Item, known: Option<(Record, Witness)>) -> Vec<Item> {
        if item.stat.nlink < 2 {
            return Vec::new();
        }
        let mut inodes = locked(&self.0);
        let before = match known {
            Some((record, before)) => inodes.insert(place(item), Inode::Done(record, before)),
            None => inodes.remove(&place(item)),
        };
        match before {
            Some(Inode::Busy(waiting)) => waiting,
            _ => Vec::new(),
        }
    }
}
