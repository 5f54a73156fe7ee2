//! Watch requests (protocol 5).

use super::isolation::{Isolation, LinkId, Outside, Unknown};
use super::link::Waiting;
use super::text::Refused;
use super::watch::{Setup, Waiter, Wanted, Watch};
use crate::base::{BlkNo, Oid, Rev, Tid};
use crate::wire::watch::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Watch requests.
impl Isolation {
    pub(super) fn begin(
        &mut self,
        id: LinkId,
        request: Waiting,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Waiting {
            stream, oid, at, ..
        } = request;
        let done = match at {
            // One that is watched was known, whatever the history has lost since.
            None if !self.watches(id, oid) && !outside.knows(oid) => {
                Err(Refused::Unknown(Unknown::File))
            }
            None => {
                self.unwatch(id, oid, outside);
                Ok(())
            }
            Some(at) => self.move_to(id, request, at, outside, now),
        };
        if let Err(refused) = done {
            let at = at.unwrap_or(Tid(u64::MAX));
            let why = Message::Error(format!("setup watch f<{oid}> @{at}: {refused}"));
            return self.say(id, stream, &why, outside, now);
        }
        if at.is_none() {
            return self.say(id, stream, &Message::Ok(None), outside, now);
        }
        self.finish_if_done(id, oid, outside, now);
    }

    fn watches(&self, id: LinkId, oid: Oid) -> bool {
        let link = self.links.get(&id);
        link.is_some_and(|link| link.watches.contains_key(&oid))
    }

    /// Nobody watches the file through this link any more. No pin of it can be under way: the requests of a file come one by one, but
    /// one that a READ asked for may be. Its READ goes on.
    pub(super) fn unwatch(&mut self, id: LinkId, oid: Oid, outside: &mut dyn Outside) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let Some(mut watch) = link.watches.remove(&oid) else {
            return;
        };
        link.unsent.retain(|&(of, _)| of != oid);
        // Their answers come still.
        let of_it = link.open.values_mut().filter(|open| open.oid == oid);
        of_it.for_each(|open| open.is_moot = true);
        let at = watch.at;
        self.counts.watches -= 1;
        self.counts.pinned -= watch.count();
        let waiters = watch.clear();
        self.unlist(oid, at, id, outside);
        for waiter in waiters {
            if let Waiter::Ask(ask) = waiter {
                self.settle(ask);
            }
        }
    }

    /// Begins to watch a file as of `at` (protocol 5).
    pub(super) fn move_to(
        &mut self,
        id: LinkId,
        request: Waiting,
        at: Tid,
        outside: &mut dyn Outside,
        now: Instant,
    ) -> Result<(), Refused> {
        let oid = request.oid;
        let head = outside.head().unwrap_or(self.shown);
        if at < outside.tail() {
            return Err(Refused::TooFar {
                at,
                head: self.shown,
            });
        }
        let old = self.links.get(&id).and_then(|link| link.watches.get(&oid));
        let old = old.map(|watch| watch.at);
        // One that is watched was known: of what the history let go of since the kernel has nothing.
        if old.is_none() && !outside.knows(oid) {
            return Err(Refused::Unknown(Unknown::File));
        }
        if old.is_some_and(|old| old > at) {
            return Err(Refused::Back);
        }
        let user = self.links.get(&id).and_then(|link| link.user);
        if let Some(user) = user.filter(|_| old.is_none()) {
            let max = self.rules.others.watches;
            if self.watches_of(user) >= max {
                return Err(Refused::Watches { user, max });
            }
        }
        // First listed, then looked: what is read meanwhile either asks, or is in the history by then.
        self.list(oid, (old, Some(at)), id, outside);
        let told = outside.changes(oid, at).and_then(|changes| {
            let size = request.size.then(|| outside.size(oid, at)).transpose()?;
            Ok((changes, size))
        });
        let told = told.map_err(|unknown| match unknown {
            Unknown::Epoch(rev) => Refused::Epoch { rev, head },
            other => Refused::Unknown(other),
        });
        let told = told.and_then(|(changes, size)| {
            let new = |&(blk, _): &(BlkNo, Tid)| !self.is_pinned(id, oid, blk);
            match user {
                Some(user) if !self.may_pin(user, changes.iter().filter(|c| new(c)).count()) => {
                    let max = self.rules.others.pinned;
                    Err(Refused::Pinned { user, max })
                }
                _ => Ok((changes, size)),
            }
        });
        let (changes, size) = match told {
            Ok(told) => told,
            Err(refused) => {
                self.list(oid, (Some(at), old), id, outside);
                return Err(refused);
            }
        };
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        self.counts.watches += usize::from(old.is_none());
        let watch = link.watches.entry(oid).or_insert_with(|| Watch::new(at));
        self.counts.pinned -= watch.count();
        watch.at = at;
        let changed: BTreeMap<BlkNo, Tid> = changes.into_iter().collect();
        let back: Vec<BlkNo> = watch
            .pinned()
            .filter(|blk| !changed.contains_key(blk))
            .collect();
        let pins = changed.into_iter().map(|(blk, rev)| (blk, Rev::At(rev)));
        let mut setup = Setup {
            stream: request.stream,
            left: 0,
            size,
        };
        for (blk, rev) in pins.chain(back.into_iter().map(|blk| (blk, Rev::Head))) {
            let wanted = watch.want(blk, rev, Waiter::Setup);
            setup.left += usize::from(wanted != Wanted::Here);
            if wanted == Wanted::Now {
                link.unsent.push_back((oid, blk));
            }
        }
        watch.setup = Some(setup);
        self.counts.pinned += watch.count();
        self.send_unsent(id, outside, now);
        Ok(())
    }

    /// One of the answers that a watch request waits for came.
    pub(super) fn step_done(
        &mut self,
        id: LinkId,
        oid: Oid,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let link = self.links.get_mut(&id);
        let watch = link.and_then(|link| link.watches.get_mut(&oid));
        if let Some(setup) = watch.and_then(|watch| watch.setup.as_mut()) {
            setup.left -= 1;
            self.finish_if_done(id, oid, outside, now);
        }
    }

    pub(super) fn finish_if_done(
        &mut self,
        id: LinkId,
        oid: Oid,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let link = self.links.get_mut(&id);
        let watch = link.and_then(|link| link.watches.get_mut(&oid));
        let Some(setup) = watch.and_then(|watch| watch.setup.take_if(|setup| setup.left == 0))
        else {
            return;
        };
        self.say(id, setup.stream, &Message::Ok(setup.size), outside, now);
    }

    /// A watch moves from one state to another: nowhere is not there.
    pub(super) fn list(
        &mut self,
        oid: Oid,
        (from, to): (Option<Tid>, Option<Tid>),
        id: LinkId,
        outside: &mut dyn Outside,
    ) {
        let set = self.files.entry(oid).or_default();
        let first = |set: &BTreeSet<(Tid, LinkId)>| set.first().map(|&(at, _)| at);
        let before = first(set);
        if let Some(from) = from {
            set.remove(&(from, id));
        }
        if let Some(to) = to {
            set.insert((to, id));
        }
        let after = first(set);
        if set.is_empty() {
            self.files.remove(&oid);
            self.let_go(oid);
        }
        if before != after {
            outside.watch(oid, after);
        }
    }

    pub(super) fn unlist(&mut self, oid: Oid, at: Tid, id: LinkId, outside: &mut dyn Outside) {
        self.list(oid, (Some(at), None), id, outside);
    }
}
