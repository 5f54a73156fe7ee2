//! `--against`: recorded digests compared with a list, without reading a file.
//!
//! A path of the list is good if it is fresh and its digest is the one listed. Paths that are not listed do not count.

use super::output::{Output, printed};
use crate::base::Digest;
use crate::engine::etag::{Found, Sink};
use crate::etag::{Reason, State, Verdict};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A list, and which of it were met.
pub(super) struct Listed {
    wanted: Mutex<HashMap<Vec<u8>, (Digest, bool)>>,
    out: Arc<Output>,
    differs: AtomicBool,
    unreadable: AtomicBool,
}

impl Listed {
    pub(super) fn new(list: Vec<(Vec<u8>, Digest)>, out: Arc<Output>) -> Self {
        let bare = |path: Vec<u8>| match path.strip_prefix(b"./") {
            Some(rest) => rest.to_vec(),
            None => path,
        };
        let wanted = list
            .into_iter()
            .map(|(path, digest)| (bare(path), (digest, false)));
        Self {
            wanted: Mutex::new(wanted.collect()),
            out,
            differs: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
        }
    }

    /// Prints what was not met; the exit code.
    pub(super) fn end(&self) -> u8 {
        let wanted =
            std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        let mut missing: Vec<_> = wanted.iter().filter(|(_, (_, met))| !met).collect();
        missing.sort_unstable_by_key(|(path, _)| *path);
        for (path, _) in missing {
            self.differs.store(true, Relaxed);
            self.out.file(
                path,
                &Found {
                    dir: b"",
                    name: path,
                    verdict: Verdict::new(State::Gone, Reason::Listed),
                    stat: None,
                    record: None,
                    errno: None,
                },
            );
        }
        match (self.unreadable.load(Relaxed), self.differs.load(Relaxed)) {
            (true, _) => 3,
            (_, true) => 1,
            _ => 0,
        }
    }
}

/// The part of a list that is below one root.
pub(super) struct ListedRoot {
    pub(super) list: Arc<Listed>,
    pub(super) prefix: Vec<u8>,
}

impl Sink for ListedRoot {
    fn found(&self, found: &Found<'_>) {
        let path = printed(&self.prefix, found);
        let list = &self.list;
        let digest = {
            let mut wanted = list.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            match wanted.get_mut(&path) {
                Some((digest, met)) => {
                    *met = true;
                    *digest
                }
                // A directory that cannot be read may hide what is listed.
                None if found.verdict.state == State::Unreadable => {
                    list.unreadable.store(true, Relaxed);
                    return list.out.file(&path, found);
                }
                None => return,
            }
        };
        let mut found = *found;
        let is_same = found.record.is_some_and(|record| record.digest == digest);
        if found.verdict.state == State::Fresh && !is_same {
            found.verdict = Verdict::new(State::Stale, Reason::Listed);
        }
        match found.verdict.state {
            State::Fresh => {}
            State::Unreadable => list.unreadable.store(true, Relaxed),
            _ => list.differs.store(true, Relaxed),
        }
        list.out.file(&path, &found);
    }

    fn wants_fresh(&self) -> bool {
        true
    }

    fn warn(&self, warning: &str) {
        eprintln!("zring: {warning}");
    }
}
