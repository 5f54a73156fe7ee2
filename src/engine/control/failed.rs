//! What becomes of a mount whose database cannot be followed any more.
//!
//! Everything under head is EIO, and its pages go. No client is to blame: links end as if their clients had said bye, READs that wait
//! for pins are refused, and whoever was told of pins keeps what it has mapped below `@<tid>`.

use super::super::links::OfLink;
use super::super::notifier::ToNotifier;
use super::super::shared::ToWorker;
use super::{GAVE_UP, Work};
use crate::base::{Oid, Tid};
use crate::fs::advance::Drop;
use std::sync::atomic::Ordering;

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
        let (now, shared) = (self.now(), &self.control.shared);
        self.links.came(what, &mut self.history, shared, now);
        if is_new {
            self.links.end_all(&mut self.history, shared);
        }
        self.isolate();
    }

    /// `on_epoch=server`: nobody may go on with what is another file now.
    pub(super) fn give_up(&self, oid: Oid, tid: Tid) {
        let shared = &self.control.shared;
        let zurl = &shared.zurl;
        shared.failed.store(true, Ordering::SeqCst);
        let cause = format!("zwatch {zurl}: handle\u{3b4}Z @{tid}: ZBigFile<{oid}> changed @{tid}");
        shared.log.error(cause);
        self.end();
    }

    /// The mount ends; who watches for that looks for these lines. Clients of a drop-in server expect ENOTCONN, which is what
    /// the end of the process gives; after an abort it would be ECONNABORTED.
    pub(super) fn end(&self) {
        let shared = &self.control.shared;
        shared.log.error("zwatcher failed");
        shared.log.fatal("switching filesystem to EIO mode");
        if shared.is_drop_in {
            shared.log.flush();
            std::process::exit(GAVE_UP);
        }
        if self.control.connection.abort().is_err() {
            std::process::abort();
        }
    }

    /// The kernel keeps pages that are wrong: nobody may read them.
    pub(super) fn abandon(&mut self) {
        self.control.shared.failed.store(true, Ordering::SeqCst);
        self.control
            .shared
            .log
            .error("the page cache can no longer be kept exact: the mount is aborted");
        if self.control.shared.is_drop_in {
            return self.end();
        }
        if self.control.connection.abort().is_err() {
            std::process::abort();
        }
    }
}
