//! Pins: what READs wait for, and what is told to clients (protocol 6).

use super::isolation::{Action, Ask, Caller, Fault, Isolation, LinkId, Outside, Unknown};
use super::link::{Open, State};
use super::watch::{Step, Waiter, Wanted};
use crate::base::limit::{LINK_REPLY_BYTES_MAX, PINS_UNDER_WAY};
use crate::base::{BlkNo, Oid, Rev, Tid};
use crate::wire::watch::{At, Message, Stream};
use std::time::Instant;

impl Isolation {
    /// Pins what a READ is about to show wherever that is not what is seen.
    pub(super) fn look(
        &mut self,
        caller: Caller,
        oid: Oid,
        blks: &[BlkNo],
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let number = self.asked;
        self.asked += 1;
        let ask = Ask {
            caller,
            oid,
            links: Vec::new(),
            // One for the look itself, so that it does not end before it.
            left: 1,
            failed: false,
        };
        self.asks.insert(number, ask);
        let watchers = self.files.get(&oid);
        let watchers: Vec<(Tid, LinkId)> = watchers.into_iter().flatten().copied().collect();
        for &blk in blks {
            for &(at, id) in &watchers {
                match outside.revision(oid, blk, at) {
                    // Nor will those that see something newer.
                    Ok(None) => break,
                    Ok(Some(rev)) => self.pin_for(number, id, (oid, blk, rev), outside, now),
                    Err(unknown) => {
                        self.refuse(number, id, oid, blk, &unknown);
                        break;
                    }
                }
            }
        }
        self.settle(number);
    }

    /// A READ waits for a pin, or for the end of a client that is dying.
    fn pin_for(
        &mut self,
        ask: u64,
        id: LinkId,
        (oid, blk, rev): (Oid, BlkNo, Tid),
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        self.condemn_if_full(id, (oid, blk, rev), outside, now);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match link.state {
            State::Up => {}
            State::Dying(_) => {
                link.stuck.push(ask);
                return self.wait(ask, id);
            }
            State::Ended => return,
        }
        let Some(watch) = link.watches.get_mut(&oid) else {
            return;
        };
        self.counts.pinned -= watch.count();
        let wanted = watch.want(blk, Rev::At(rev), Waiter::Ask(ask));
        self.counts.pinned += watch.count();
        if wanted == Wanted::Here {
            return;
        }
        watch.hurry(blk, now + self.rules.timeout_of(link.user));
        // First: a client that lets too much lie may be gone before it was told.
        self.wait(ask, id);
        if outside.has_ended(id) {
            // Somebody else has the link, who was promised nothing (protocol 10, 13).
            let why = format!("pin {blk} {}: its process has ended", At(Rev::At(rev)));
            return self.condemn(id, now, why, outside, now);
        }
        // What a watch request wants, too, may be far from its turn.
        self.send(id, oid, blk, outside, now);
    }

    /// A user that has as many blocks pinned as it may cannot see the next one as it should: its client is not to read on.
    fn condemn_if_full(
        &mut self,
        id: LinkId,
        (oid, blk, rev): (Oid, BlkNo, Tid),
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let user = self.links.get(&id).and_then(|link| link.user);
        let Some(user) = user.filter(|&user| !self.may_pin(user, 1)) else {
            return;
        };
        if !self.is_pinned(id, oid, blk) {
            let (rev, max) = (At(Rev::At(rev)), self.rules.others.pinned);
            let why = format!("pin {blk} {rev}: user {} has {max} blocks pinned", user.0);
            self.condemn(id, now, why, outside, now);
        }
    }

    fn wait(&mut self, ask: u64, id: LinkId) {
        if let Some(ask) = self.asks.get_mut(&ask) {
            ask.left += 1;
            if ask.links.last() != Some(&id) {
                ask.links.push(id);
            }
        }
    }

    fn refuse(&mut self, ask: u64, id: LinkId, oid: Oid, blk: BlkNo, unknown: &Unknown) {
        let text =
            format!("f<{oid}> {blk}: a READ is refused, nobody can tell what it shows: {unknown}");
        self.actions.push(Action::Log(id, text));
        if let Some(ask) = self.asks.get_mut(&ask) {
            ask.failed = true;
        }
    }

    /// One of the things that a READ waits for is there.
    pub(super) fn settle(&mut self, number: u64) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        ask.left -= 1;
        if ask.left > 0 {
            return;
        }
        let granted = Action::Granted(ask.caller, !ask.failed);
        self.asks.remove(&number);
        self.actions.push(granted);
    }

    /// Tells a client what comes next for a block.
    pub(super) fn send(
        &mut self,
        id: LinkId,
        oid: Oid,
        blk: BlkNo,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let watch = link.watches.get_mut(&oid);
        let flight = watch.and_then(|watch| watch.flight(blk));
        // It may have been sent already, when a READ wanted it.
        let Some(step) = flight.filter(|flight| flight.stream.is_none()) else {
            return;
        };
        let Step { rev, until, .. } = *step.step();
        let stream = link.next_stream();
        let watch = link.watches.get_mut(&oid);
        if let Some(flight) = watch.and_then(|watch| watch.flight(blk)) {
            flight.stream = Some(stream);
        }
        let deadline = until.unwrap_or_else(|| now + self.rules.timeout_of(link.user));
        let others = usize::from(link.user.is_some());
        let open = Open {
            oid,
            blk,
            rev,
            deadline,
            is_moot: false,
        };
        link.open.insert(stream, open);
        self.forget_deadlines(others);
        // The latest, but where a READ has waited for its turn.
        let queue = &mut self.deadlines[others];
        let at = queue.partition_point(|&(before, ..)| before <= deadline);
        queue.insert(at, (deadline, id, stream));
        self.counts.pins += 1;
        self.say(id, stream, &Message::Pin(oid, blk, rev), outside, now);
    }

    /// What was answered has no deadline: else all of the last half minute would lie here.
    fn forget_deadlines(&mut self, others: usize) {
        while let Some(&(at, id, stream)) = self.deadlines[others].front() {
            let open = self.links.get(&id).and_then(|link| link.open.get(&stream));
            if open.is_some_and(|open| open.deadline == at) {
                return;
            }
            self.deadlines[others].pop_front();
        }
    }

    /// Tells a client as many pins of watch requests as it may have to answer at a time.
    pub(super) fn send_unsent(&mut self, id: LinkId, outside: &mut dyn Outside, now: Instant) {
        while let Some(link) = self.links.get_mut(&id).filter(|link| link.is_up())
            && link.open.len() < PINS_UNDER_WAY
            && let Some((oid, blk)) = link.unsent.pop_front()
        {
            self.send(id, oid, blk, outside, now);
        }
    }

    /// Puts a message on its way.
    pub(super) fn say(
        &mut self,
        id: LinkId,
        stream: Stream,
        message: &Message,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let is_read = link.outbox.push(stream, message);
        self.give(id);
        if !is_read {
            let why = format!("{0}: send .{0}: replies are not read", stream.0);
            return self.broken(id, &why, outside, now);
        }
        let Some(link) = self.links.get(&id).filter(|link| link.user.is_some()) else {
            return;
        };
        let unread = link.outbox.unread();
        if unread <= LINK_REPLY_BYTES_MAX {
            return;
        }
        let why = format!("{unread} bytes are not read");
        match link.owes() {
            Some(open) => {
                let why = format!("sendReq: {why}");
                self.fail(id, Fault::Unread, Some((open, why)), outside, now);
            }
            None => {
                let why = format!("{0}: send .{0}: {why}", stream.0);
                self.broken(id, &why, outside, now);
            }
        }
    }

    /// Serves reads that wait for what there is now.
    pub(super) fn give(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        while let Some(given) = link.outbox.give() {
            let read = Action::Read(given.caller, Ok(given.bytes));
            self.actions.push(read);
        }
        if link.outbox.is_empty() {
            link.flush = None;
        }
    }

    /// A pin was not answered in time.
    pub(super) fn late(
        &mut self,
        id: LinkId,
        stream: Stream,
        open: Open,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if open.is_moot {
            link.withdraw(stream);
            // There is room for what waits for another file.
            return self.send_unsent(id, outside, now);
        }
        let why = if link.outbox.is_given(stream) {
            "sendReq: waiting for reply: context deadline exceeded".to_owned()
        } else {
            format!("sendReq: send .{}: context deadline exceeded", stream.0)
        };
        self.fail(id, Fault::Timeout, Some((open, why)), outside, now);
    }
}
