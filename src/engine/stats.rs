//! Looks at all that is shared: what `.wcfs/stats` says, and every lock at once.

use super::shared::Shared;
use crate::store::remote::Health;
use std::sync::atomic::Ordering;

impl Shared {
    /// `.wcfs/stats`: the names its readers know first, ours behind; capitals are gauges. Who reads it wants to know that nothing
    /// hangs: it takes every lock once, each for a moment.
    pub fn stats(&self) -> String {
        drop(self.states.lock());
        drop(self.kept.lock());
        let (files, revs) = self.tree().counts();
        let count = |n: usize| n as u64;
        let [links, watches, pinned, pins, kills, inherited] = self.isolation.all();
        let lines = [
            ("BigFile", count(files)),
            ("RevHead", count(revs)),
            ("ZHeadLink", count(self.zhead.count())),
            ("WatchLink", links),
            ("Watch", watches),
            ("PinnedBlk", pinned),
            ("pin", pins),
            ("pinkill", kills),
            ("fuse_request", self.sum(|c| &c.requests)),
            ("fuse_read", self.sum(|c| &c.reads)),
            ("fuse_read_bytes", self.sum(|c| &c.read_bytes)),
            ("fuse_error", self.sum(|c| &c.errors)),
            ("load", self.sum(|c| &c.loads)),
            ("load_place", self.sum(|c| &c.places)),
            ("load_wait", self.sum(|c| &c.waits)),
            ("store", self.sum(|c| &c.stores)),
            ("inherited", inherited),
            ("wayout", self.ways_out.load(Ordering::Relaxed)),
            ("shorter", self.shortened.load(Ordering::Relaxed)),
            ("size_untold", self.sizes_untold.load(Ordering::Relaxed)),
            ("decode_rejected", self.sum(|c| &c.rejected)),
            ("keep", self.kept_blocks.load(Ordering::Relaxed)),
            ("keep_late", self.kept_late.load(Ordering::Relaxed)),
            (
                "CommitsWaiting",
                count(self.commits_waiting.load(Ordering::Relaxed)),
            ),
            // 1 plain, 2 dev, 3 uring.
            ("Transport", self.transport.load(Ordering::Relaxed)),
            // Whether the kernel gives pages back that can be used: 0 not known yet, 1 yes, 2 no.
            ("Retrieve", self.probe.shown()),
            // 1 when all of head is EIO; 1 while the database cannot be followed; where its file goes on with no transaction, or 0.
            ("Failed", self.failed.load(Ordering::Relaxed).into()),
            (
                "Troubled",
                self.standstill.troubled.load(Ordering::Relaxed).into(),
            ),
            (
                "TailFault",
                self.standstill.tail_fault.load(Ordering::Relaxed),
            ),
            // For how many ms these threads have been at one thing, or have not answered.
            ("ControlBusy", self.control.late_ms()),
            ("NotifyBusy", self.notifier.late_ms()),
        ];
        // Of a server alone: 0 frozen, 1 catching up, 2 serving; and how often it was connected to.
        let upstream = self.upstream.iter().flat_map(|link| {
            let health = match link.health() {
                Health::Frozen => 0,
                Health::CatchingUp => 1,
                Health::Serving => 2,
            };
            [("Upstream", health), ("connect", link.connections())]
        });
        lines
            .into_iter()
            .chain(upstream)
            .map(|(name, value)| format!("{name}\t: {value}\n"))
            .collect()
    }

    /// Every lock that a request may come to, until what this gives goes: who does it sees whether requests wait for one.
    pub fn hold(&self) -> impl Sized {
        let workers = 0..self.counters.len();
        let meetings = std::iter::repeat_with(|| self.meetings()).find(Option::is_some);
        let touches = workers.map(|worker| {
            let tries = std::iter::repeat_with(move || self.touches(worker));
            tries.flatten().next()
        });
        let touches: Vec<_> = touches.collect();
        let rare = (self.zhead.hold(), self.presence.hold(), self.links.hold());
        let (states, kept) = (self.states.lock(), self.kept.lock());
        let stores = self.stores.hold();
        (meetings, touches, rare, states, kept, stores, self.tree())
    }
}
