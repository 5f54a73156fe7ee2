//! Clients that fail (protocol 10).

use super::death::{Death, GRACE, Next};
use super::isolation::{Action, Fault, Isolation, LinkId, Outside, Signal};
use super::link::{Link, Open, State};
use super::text::duration;
use super::watch::{Waiter, Watch};
use crate::base::{Oid, Tid};
use crate::wire::watch::{At, Message};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

impl Isolation {
    /// A pin failed: the link ends, and so does its client (protocol 10). Without a reason it is that the link broke.
    pub(super) fn fail(
        &mut self,
        id: LinkId,
        fault: Fault,
        why: Option<(Open, String)>,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_up()) else {
            return;
        };
        let first = link.owes();
        let broke = || "sendReq: waiting for reply: context canceled".to_owned();
        let Some((open, why)) = why.or_else(|| first.map(|open| (open, broke()))) else {
            return;
        };
        link.is_late = fault == Fault::Timeout;
        let why = format!("pin {} {}: {why}", open.blk, At(open.rev));
        let until = match fault {
            Fault::Link => open.deadline.min(now + GRACE),
            Fault::Timeout | Fault::Nonsense | Fault::Unread => now,
        };
        self.condemn(id, until, why, outside, now);
    }

    /// Nobody can show clients any more what they see: these of a file's that see something older than `before`, or all of them.
    pub fn lose(
        &mut self,
        oid: Option<Oid>,
        before: Tid,
        why: &str,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let files = self
            .files
            .iter()
            .filter(|&(of, _)| oid.is_none_or(|oid| oid == *of));
        let sets = files.map(|(_, set)| set.range(..(before, LinkId(0))));
        let lost: BTreeSet<LinkId> = sets.flatten().map(|&(_, id)| id).collect();
        for id in lost {
            self.condemn(id, now, why.to_owned(), outside, now);
        }
    }

    /// Nothing can be told any more, and no client is to blame: links end, READs that wait are refused.
    pub fn end_all(&mut self, outside: &mut dyn Outside) {
        self.asks.values_mut().for_each(|ask| ask.failed = true);
        let early = self.take_early();
        self.actions
            .extend(early.map(|caller| Action::Granted(caller, false)));
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.end(id, outside);
            self.forget_if_over(id);
        }
    }

    /// A client is not to read on: its link ends, and it itself unless it does so by `until`.
    pub(super) fn condemn(
        &mut self,
        id: LinkId,
        until: Instant,
        why: String,
        outside: &mut dyn Outside,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_up()) else {
            return;
        };
        link.state = State::Dying(Death::Grace(until));
        link.why.clone_from(&why);
        link.outbox.clear();
        link.outbox.last(&Message::Fatal(why));
        link.flush = Some(now + Duration::from_secs(1));
        link.open.clear();
        link.unsent.clear();
        link.requests.clear();
        self.counts.pinned -= link.watches.values().map(Watch::count).sum::<usize>();
        // Whoever waits for a pin of it waits for its end now; so does whoever would need one (I4).
        let waiters = link.watches.values_mut().flat_map(Watch::clear);
        let asks = waiters.filter_map(|waiter| match waiter {
            Waiter::Ask(ask) => Some(ask),
            Waiter::Setup => None,
        });
        let asks: Vec<u64> = asks.collect();
        link.stuck.extend(asks);
        self.waiting.remove(&id);
        self.ending.insert(id);
        self.refuse_paused(id);
        self.give(id);
        self.look_at(id, outside, now);
    }

    /// Looks what became of a link that is about to end.
    pub(super) fn look_at(&mut self, id: LinkId, outside: &mut dyn Outside, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            self.ending.remove(&id);
            return;
        };
        if link.flush.is_some_and(|until| until <= now) {
            link.outbox.clear();
            link.flush = None;
            self.give(id);
        }
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let State::Dying(death) = &mut link.state else {
            if link.flush.is_none() {
                self.ending.remove(&id);
            }
            return self.forget_if_over(id);
        };
        let timeout = self.rules.timeout_of(link.user);
        let next = death.look(outside.is_alive(id), now, timeout);
        let (why, user, is_late) = (link.why.clone(), link.user, link.is_late);
        match next {
            Next::Wait => return,
            Next::Bus => {
                for text in accusation(&why, timeout) {
                    self.actions.push(Action::Log(id, text));
                }
                return self.kill(id, Signal::Bus, outside);
            }
            Next::Kill => {
                let text = "   is still alive after SIGBUS".to_owned();
                self.actions.push(Action::Log(id, text));
                return self.kill(id, Signal::Kill, outside);
            }
            Next::Alive => {
                let text = "   is still alive after SIGKILL".to_owned();
                self.actions.push(Action::Log(id, text));
                return self.give_up(id, "it does not end");
            }
            Next::Left => {}
            Next::Killed => {
                self.actions.push(Action::Log(id, "terminated".to_owned()));
                self.counts.kills += 1;
            }
        }
        // Who kept others waiting did so, whatever became of the process.
        let user = user.filter(|_| is_late || next == Next::Killed);
        if let Some(user) = user.and_then(|user| self.users.get_mut(user)) {
            user.killed(now);
        }
        self.end_watches(id, outside);
        self.forget_if_over(id);
    }

    fn kill(&mut self, id: LinkId, signal: Signal, outside: &mut dyn Outside) {
        let name = match signal {
            Signal::Bus => "<- SIGBUS",
            Signal::Kill => "<- SIGKILL",
        };
        self.actions.push(Action::Log(id, name.to_owned()));
        if let Err(error) = outside.signal(id, signal)
            && outside.is_alive(id)
        {
            self.give_up(id, &error);
        }
    }

    /// It reads on whatever is done: so nobody may.
    fn give_up(&mut self, id: LinkId, why: &str) {
        for text in [
            format!("failed to kill it: {why}"),
            "this is major unexpected event.".to_owned(),
        ] {
            self.actions.push(Action::Log(id, text));
        }
        self.ending.remove(&id);
        self.actions.push(Action::Fail);
    }

    /// Lets go of a link that its client closed, when nothing is left to be waited for.
    pub(super) fn forget_if_over(&mut self, id: LinkId) {
        let over = |link: &Link| link.is_closed && matches!(link.state, State::Ended);
        if self.links.get(&id).is_some_and(over) {
            let user = self.links.remove(&id).and_then(|link| link.user);
            if let Some(user) = user {
                self.users.closed(user);
            }
            self.ending.remove(&id);
            self.actions.push(Action::Gone(id));
        }
    }
}

fn accusation(why: &str, timeout: Duration) -> [String; 3] {
    let timeout = duration(timeout);
    [
        format!(
            "client failed to handle pin notification correctly and timely in {timeout}: {why}"
        ),
        "it is killed: it would read what it must not see, and others would wait for it for ever"
            .to_owned(),
        "see \"Failure\" in the protocol of head/watch".to_owned(),
    ]
}
