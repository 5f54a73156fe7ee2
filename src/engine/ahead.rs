//! Asking a server ahead: the rest of a block that somebody reads a piece of.
//!
//! A reader asks for a block in many pieces, the kernel one or two at a time. From a file that costs little; from a server each
//! piece would wait for a round trip of its own. So whenever a READ brings something in, what its blocks lack as a whole is asked
//! for behind it. Nobody waits for that, it goes to the worker's cache, and the READs that follow find it there or join it.

use super::serve::FileService;
use super::task::{self, Job, Task};
use crate::base::Oid;
use crate::base::limit::UPLOAD_BYTES_MAX;
use crate::fs::read;
use crate::zodb::need::{Ask, Step};
use crate::zodb::{bigfile, zblk};
use std::cell::RefCell;

impl FileService {
    /// What the blocks of a READ lack, as far as their trees are at hand.
    fn lacking(&self, task: &Task) -> Vec<Oid> {
        let mut lacking = Vec::new();
        let Job::Read { file, off, len, .. } = &task.job else {
            return lacking;
        };
        let Some(info) = self.infos.get(&file.id) else {
            return lacking;
        };
        let blksize = info.file.blksize;
        if blksize.0 > UPLOAD_BYTES_MAX {
            return lacking;
        }
        let seen = RefCell::default();
        let hand = task::at_hand(task, &self.cache, &seen);
        let len = read::clip(*off, *len, info.size);
        for piece in read::pieces(blksize.0, *off, len) {
            let mut ask = Ask::new(&hand, &mut lacking);
            let place = bigfile::locate(&mut ask, &info.file, piece.blk);
            if let Ok(Step::Done(place)) = place
                && let Some(entry) = place.block
            {
                // Damage is for the READ to find.
                let _ = zblk::parts(&mut ask, entry.oid);
            }
        }
        lacking.sort_unstable();
        lacking.dedup();
        lacking
    }

    /// Asks a server for what the blocks of a READ lack, if the READ brought something in or is about to.
    pub(super) fn ask_ahead(&mut self, task: &Task) {
        if !self.view.is_remote() || task.failed {
            return;
        }
        let mut lacking = self.lacking(task);
        lacking.retain(|&oid| self.loading.begin(task.rev, oid));
        if !lacking.is_empty() {
            let at = self.tid_of(task.rev);
            self.loading.ahead((task.rev, at, &self.view), &lacking);
        }
    }
}
