//! What was read cannot stay: the database file was written over, or has another history now.
//!
//! ```text
//!   written over     `void`      at once all is EIO, and every page goes: what would be answered until the file is opened anew
//!                                comes from a view of what it was
//!   other history    `retire`    nodes below `@<tid>` are gone, with the state that begins it; names lead to new nodes
//! ```
//!
//! What was read between the first byte that was written over and the poll that noticed went to readers, right or wrong: nobody can tell.
//! It does not stay cached: a READ that was begun before holds its page, and the drop waits for it.

use super::super::notifier::{Store, ToNotifier};
use super::Work;
use crate::base::{NodeId, Rev};
use crate::fs::advance::{Change, Changed, Drop};

impl Work {
    /// Nothing is answered any more from the file as it was opened; what was is dropped.
    pub(super) fn void(&mut self) {
        let shared = &self.control.shared;
        if !shared.make_void(self.control.store.view().generation()) {
            return;
        }
        shared
            .log
            .error("the database file was written over: all files are EIO until it is opened anew");
        let files = shared.tree().all_files();
        let whole = files.iter().map(|file| Drop::Pages {
            node: file.id,
            off: 0,
            len: 0,
        });
        let _ = (self.control.notifier).send(ToNotifier::Void(whole.collect()));
    }

    /// The history is another one from this generation on: nothing below `@<tid>` is what it was. Before any worker looks into it.
    pub(super) fn retire(&self, generation: u64) -> Vec<NodeId> {
        let shared = &self.control.shared;
        shared.kept.lock().expect("a panic aborts").clear();
        let mut tree = shared.tree();
        let files = tree.retire_revisions(generation);
        let names = files.iter().filter_map(|file| match file.rev {
            Rev::At(tid) => Some((tree.rev_bigfile(tid)?, file.oid.to_string())),
            Rev::Head => None,
        });
        let names = Store::Names(names.collect());
        drop(tree);
        shared.stores.push(names);
        files.iter().map(|file| file.id).collect()
    }

    /// They go with what the transaction changes, once no worker answers from what was before.
    pub(super) fn take_retired(&mut self) -> Vec<Change> {
        let retired = std::mem::take(&mut self.retired).into_iter();
        let whole = |node| Change {
            node,
            what: Changed::Whole,
        };
        retired.map(whole).collect()
    }
}
