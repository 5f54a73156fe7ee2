//! What the page cache of head files depends on (I1).
//!
//! Each worker notes, for every answer it gives about a head file and before it gives it, the oids of all objects
//! the answer was made from. When a transaction changes one of them, the whole file is dropped: coarse,
//! never stale. A set belongs to one worker; that of the daemon is their union, and so is what they find touched.
//!
//! A set starts anew when its file is dropped: answers given from then on are noted from then on.

use crate::base::{NodeId, Oid};
use roaring::RoaringTreemap;
use rustc_hash::FxHashMap;

/// One worker's notes.
#[derive(Debug, Default)]
pub struct Tracked {
    /// Compressed sets: oids of one file are mostly neighbours, a few bits each.
    files: FxHashMap<NodeId, RoaringTreemap>,
}

impl Tracked {
    /// An answer about `file` depends on `oids`.
    pub fn note(&mut self, file: NodeId, oids: &[Oid]) {
        if oids.is_empty() {
            return;
        }
        let set = self.files.entry(file).or_default();
        for oid in oids {
            set.insert(oid.0);
        }
    }

    /// The files that depend on any of these objects; all of them when nobody can tell what changed.
    pub fn touched(&self, changed: Option<&[Oid]>) -> Vec<NodeId> {
        let touched = |set: &RoaringTreemap| match changed {
            Some(oids) => oids.iter().any(|oid| set.contains(oid.0)),
            None => true,
        };
        let files = self.files.iter().filter(|(_, set)| touched(set));
        files.map(|(&file, _)| file).collect()
    }

    /// These objects changed: the files that depend on them, whose sets start anew.
    pub fn take_touched(&mut self, changed: Option<&[Oid]>) -> Vec<NodeId> {
        let files = self.touched(changed);
        for file in &files {
            self.files.remove(file);
        }
        files
    }

    /// The kernel forgot the file, and its pages with it.
    pub fn forget(&mut self, file: NodeId) {
        self.files.remove(&file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_touched_by_what_it_was_read_through_and_starts_anew() {
        let mut tracked = Tracked::default();
        tracked.note(NodeId(70), &[Oid(1), Oid(2)]);
        tracked.note(NodeId(71), &[Oid(2), Oid(u64::MAX)]);
        assert_eq!(tracked.take_touched(Some(&[Oid(3)])), []);
        assert_eq!(
            tracked.take_touched(Some(&[Oid(9), Oid(u64::MAX)])),
            [NodeId(71)]
        );
        assert_eq!(tracked.take_touched(Some(&[Oid(2)])), [NodeId(70)]);
        assert_eq!(tracked.take_touched(Some(&[Oid(1), Oid(2)])), []);
    }
}
