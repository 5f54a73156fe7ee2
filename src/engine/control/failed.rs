//! What becomes of a mount whose database cannot be followed any more.
//!
//! Everything under head is EIO, and its pages go. No client is to blame: links end as if their clients had said bye, READs that wait
//! for pins are refused, and whoever was told of pins keeps what it has mapped below `@<tid>`.

use super::super::links::OfLink;
use super::super::notifier::ToNotifier;
use super::super::shared::ToWorker;
use super::Work;
use crate::fs::advance::Drop;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Work {
    /// Head can be trusted no more: EIO for it, and nothing of it stays cached.
    pub(super) fn fail(&mut self) {
        let shared = &self.control.shared;
        if shared.failed.swap(true, Ordering::SeqCst) {
            return;
        }
        if shared.is_drop_in {
            return self.end();
        }
        shared
            .log
            .error("everything under head is EIO from now on; unmount and mount again to go on");
        self.links.end_all(&mut self.history, shared);
        self.isolate();
        // First no READ holds a page for a client, then the pages go.
        let shared = &self.control.shared;
        let files = shared.tree().head_files();
        let whole = files.iter().map(|file| Drop::Pages {
            node: file.id,
            off: 0,
            len: 0,
        });
        let whole = ToNotifier::Drop(whole.collect(), Vec::new());
        let _ = self.control.notifier.send(whole);
    }

    /// Something came of a link, or a READ that would need pins.
    pub(super) fn refuse(&mut self, what: OfLink) {
        if let OfLink::Ask(caller, ..) = what {
            if let Some(worker) = self.control.workers.get(caller.worker) {
                worker.send(ToWorker::Granted(caller.unique, false));
            }
            return;
        }
        let is_new = matches!(what, OfLink::Opened(..));
        let shared = &self.control.shared;
        self.links
            .came(what, &mut self.history, shared, Instant::now());
        if is_new {
            self.links.end_all(&mut self.history, shared);
        }
        self.isolate();
    }
}
