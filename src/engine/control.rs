//! The control thread: follows the database and moves head.
//!
//! It waits for the database, the workers and the notifier, one message at a time, and lets
//! [`crate::fs::advance::Head`] decide what follows. Workers never wait for it.
//!
//! A database that cannot be followed any more (it went back in time, it is damaged in the middle) makes the mount
//! *failed*: everything under head is EIO and `head/at` stays, until an operator starts anew. Serving on would be
//! serving the past as the present.

mod failed;
mod keep;
mod place;
mod sizes;
mod trouble;
mod void;

pub use place::Place;

use super::follow::{self, LOOK_EVERY, Watch};
use super::history::{self, History, Source, Unloaded};
use super::links::LinkTable;
use super::log::Chain;
use super::notes::Noted;
use super::notifier::{Keep, Store, ToNotifier};
use super::retrieval::Retrieval;
use super::shared::{Mailbox, Published, Shared, State, ToControl, ToWorker};
use crate::base::{NodeId, Oid, Tid, limit};
use crate::fs::advance::{Action, Drop, Event as HeadEvent, Head, Shorter};
use crate::fs::history::{Effect, Failed, Lost, Passing, Why};
use crate::fs::tree::{Node, fixed};
use crate::iso::{Caller, Rules};
use crate::kernel::mount::Connection;
use crate::kernel::proc::{self, Waker};
use crate::store::any::{AnyStore, AnyView, Event, FollowError, Poll};
use crate::store::file::Tail;
use crate::store::remote::Notice;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Exit status of a drop-in server that cannot go on.
const GAVE_UP: i32 = 2;
/// A voted transaction is about to end: looked at again after these, then by time.
const VOTED_MS: [u64; 6] = [1, 2, 5, 10, 20, 50];
/// A tail that no writer leaves is reported when it has lasted this long.
const SUSPICIOUS: Duration = Duration::from_secs(5);

/// What control works with.
#[derive(Debug)]
pub struct Control {
    /// The database, which it owns.
    pub store: AnyStore,
    /// Shared with all.
    pub shared: Arc<Shared>,
    /// The mount.
    pub connection: Arc<Connection>,
    /// Every worker.
    pub workers: Vec<Mailbox<ToWorker>>,
    /// The thread that drops, and tells the kernel of sizes.
    pub notifier: Sender<ToNotifier>,
    /// The thread that stores below `@<tid>`.
    pub(super) keeper: Sender<Keep>,
    /// What each worker notes.
    pub notes: Vec<Noted>,
    /// What it is told.
    pub inbox: Receiver<ToControl>,
    /// How to tell it something.
    pub mailbox: Mailbox<ToControl>,
    /// Where workers do some of its work.
    pub place: Place,
    /// Wakes it.
    pub waker: Waker,
    /// Whether it may use io_uring.
    pub rings: bool,
    /// What is done about a big file that is another one now.
    pub on_epoch: OnEpoch,
    /// What is asked of clients.
    pub rules: Rules,
}

/// What is done when a ZBigFile that is served was deleted, or got another block size or table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEpoch {
    /// Its node answers EIO, its name leads to a new one; everything else goes on.
    #[default]
    File,
    /// The mount ends.
    Server,
}

/// The state of its work.
struct Work {
    control: Control,
    head: Head<Published>,
    history: History,
    retrieval: Retrieval,
    links: LinkTable,
    /// Files that the transaction under way leaves nothing of.
    lost: Vec<Lost>,
    /// Files whose size the transaction under way may change.
    resized: Vec<NodeId>,
    /// Those that it makes shorter, as the kernel was told.
    shorter: Vec<Shorter>,
    /// Files that became shorter while somebody sees them as they were before this, who is not to lose pages by it.
    unforced: Vec<(Shorter, Tid)>,
    /// Files below `@<tid>` that the transaction under way leaves nothing of: it is another history.
    retired: Vec<NodeId>,
    /// The state that not every worker has yet.
    passing: Option<u64>,
    /// When the database is looked at even if nothing tells that it changed.
    look_at: Instant,
    voted: usize,
    suspicious: Option<(Instant, bool)>,
    troubled: Option<Instant>,
    /// States of head published so far.
    published: u64,
    /// The generation of the last of them.
    generation: u64,
    /// Messages that a worker left to control.
    put_off: VecDeque<ToControl>,
    /// Until when control sleeps if nobody wakes it.
    sleeps_until: Instant,
    /// A client cannot be stopped.
    must_end: bool,
}

impl Control {
    /// Starts the thread; it ends when told to stop.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self, at: Tid) -> io::Result<JoinHandle<()>> {
        proc::spawn("zring-control", move || {
            let (rings, waker) = (self.rings, self.waker.clone());
            let watch = Watch::new(self.store.watch_paths());
            let log = self.shared.log.clone();
            let (view, notes) = (self.store.view(), self.notes.clone());
            let (workers, max_record) = (notes.len(), self.shared.max_record);
            let source = Source::new(view, notes, max_record);
            let links = LinkTable::new(at, self.rules);
            let place = self.place.clone();
            place.fill(Work {
                history: History::new(at, workers, source),
                control: self,
                head: Head::new(at),
                retrieval: Retrieval::default(),
                links,
                lost: Vec::new(),
                resized: Vec::new(),
                shorter: Vec::new(),
                unforced: Vec::new(),
                retired: Vec::new(),
                passing: None,
                look_at: Instant::now(),
                voted: 0,
                suspicious: None,
                troubled: None,
                published: 0,
                generation: 0,
                put_off: VecDeque::new(),
                sleeps_until: Instant::now(),
                must_end: false,
            });
            let turn = |changed| place.with(|work| work.turn(changed)).flatten();
            if let Err(error) = follow::run(rings, &watch, &waker, turn) {
                log.error(format!(
                    "the database can no longer be followed: {}",
                    Chain(&error)
                ));
                place.with(Work::fail);
            }
            place.clear();
        })
    }
}

impl Work {
    /// Takes all messages and, if the database may have changed or it is time, all transactions there are; `None` to stop.
    fn turn(&mut self, changed: bool) -> Option<Duration> {
        let shared = Arc::clone(&self.control.shared);
        let _beat = shared.control.begin();
        // What came before a deadline is heard before it is looked at.
        let (as_of, come) = (self.now(), self.put_off.len() + self.control.inbox.len());
        for _ in 0..come.max(limit::TURN_MESSAGES) {
            let Some(message) = self.next_message() else {
                break;
            };
            match message {
                ToControl::Stop => {
                    self.control.shared.stores.end();
                    return None;
                }
                ToControl::OfLink(what) if self.has_failed() => self.refuse(what),
                // What was under way when the database failed comes to nothing.
                _ if self.has_failed() => {}
                ToControl::Look => self.look(),
                ToControl::Doubt => self.look_at = Instant::now(),
                ToControl::Shortened => self.apply(HeadEvent::Shortened),
                ToControl::Dropped => self.apply(HeadEvent::Dropped),
                ToControl::DropFailed(error) => {
                    self.control.shared.log.error(Chain(&error));
                    self.abandon();
                }
                ToControl::Forgotten(nodes) => {
                    self.history.take_notes();
                    self.history.forgotten(&nodes);
                }
                ToControl::OfLink(what) => {
                    let (now, shared) = (self.now(), &self.control.shared);
                    self.links.came(what, &mut self.history, shared, now);
                    self.isolate();
                }
                ToControl::Retrieved(pages) => self.retrieved(pages),
                ToControl::Rebuilt(rebuilt) => {
                    let poll = self.ask_store(|store| store.adopt(*rebuilt));
                    self.polled(poll);
                    self.look_at = Instant::now();
                }
            }
        }
        if self.has_failed() {
            let is_idle = self.control.inbox.is_empty();
            return Some(Duration::from_secs(if is_idle { 3600 } else { 0 }));
        }
        if self.links.has_waiting() {
            self.proceed(); // what a worker left
        }
        self.tick(as_of);
        if self.retrieval.is_late() {
            self.kept();
        }
        if self.history.has_astray() && self.head.is_quiet() {
            self.let_go();
        }
        let mut wait = self.look_if_due(changed);
        if !self.control.inbox.is_empty() {
            wait = Duration::ZERO;
        }
        self.show_advancing();
        let now = Instant::now();
        let of_links = self.links.left(self.history.source().clock.at(now));
        let lefts = [self.retrieval.left(), of_links];
        let wait = lefts.into_iter().flatten().fold(wait, Duration::min);
        self.sleeps_until = now + wait;
        Some(wait)
    }

    /// Whether a transaction is under way.
    fn show_advancing(&self) {
        let is_quiet = self.head.is_quiet();
        let advancing = &self.control.shared.advancing;
        advancing.store(!is_quiet, Ordering::Relaxed);
    }

    /// Takes what transactions there are if there may be any; tells when to look again. Not while many wait for an advance: it is looked at
    /// when there are fewer, of which a message tells, and finds then what it would have found now.
    fn look_if_due(&mut self, changed: bool) -> Duration {
        // What a server tells came with the messages.
        if changed || self.control.store.link().is_some() {
            self.look_at = Instant::now();
        }
        let has_room = |head: &Head<Published>| head.waiting() < limit::COMMITS_WAITING_MAX;
        if has_room(&self.head) && self.look_at <= Instant::now() {
            let poll = self.ask_store(AnyStore::poll);
            let wait = self.polled(poll);
            self.look_at = Instant::now() + wait;
        }
        let waiting = &self.control.shared.commits_waiting;
        waiting.store(self.head.waiting(), Ordering::Relaxed);
        match has_room(&self.head) {
            true => self.look_at.saturating_duration_since(Instant::now()),
            false => LOOK_EVERY,
        }
    }

    fn next_message(&mut self) -> Option<ToControl> {
        let put_off = self.put_off.pop_front();
        put_off.or_else(|| self.control.inbox.try_recv().ok())
    }

    fn has_failed(&self) -> bool {
        self.control.shared.failed.load(Ordering::Relaxed)
    }

    /// The time that clients are given.
    fn now(&mut self) -> Instant {
        self.history.source().clock.at(Instant::now())
    }

    /// Asks the database, which may take as long as it likes: not of the clients' time.
    fn ask_store<T>(&mut self, ask: impl FnOnce(&mut AnyStore) -> T) -> T {
        let began = Instant::now();
        let told = ask(&mut self.control.store);
        self.history.source().clock.stood(began.elapsed());
        told
    }

    /// Deadlines of clients, and clients that wait for themselves.
    fn tick(&mut self, now: Instant) {
        let control = &self.control;
        self.links.tick(&mut self.history, &control.shared, now);
        let taken = self
            .links
            .way_out(&control.workers, &control.connection, now);
        control.shared.ways_out.fetch_add(taken, Ordering::Relaxed);
        self.isolate();
    }

    /// Carries out what isolation decided.
    fn isolate(&mut self) {
        let Control {
            shared, workers, ..
        } = &self.control;
        let tell = |caller: Caller, message| {
            if let Some(worker) = workers.get(caller.worker) {
                worker.send(message);
            }
        };
        if !self.links.carry_out(shared, tell) || self.must_end {
            self.abandon();
        }
        if !self.unforced.is_empty() {
            self.catch_up_sizes();
        }
    }

    /// The history can be asked again, or head shows something else.
    fn proceed(&mut self) {
        let (now, shared) = (self.now(), &self.control.shared);
        let shown = shared.head();
        self.links.proceed(shown, &mut self.history, shared, now);
        self.isolate();
    }

    /// Notes have piled up, or a worker moved on.
    fn look(&mut self) {
        match self.passing {
            // Notes that come in now may be of either state: `join` tells them apart.
            Some(number) if self.control.shared.passed(number) => {
                self.passing = None;
                self.apply(HeadEvent::Passed);
            }
            Some(_) => {}
            None => self.history.take_notes(),
        }
    }

    /// Acts on what a poll found; tells when to look again.
    fn polled(&mut self, poll: Result<Poll, FollowError>) -> Duration {
        let poll = match poll {
            Ok(poll) => poll,
            Err(error) => return self.trouble(&error),
        };
        // A file that is to be opened has not been yet, and the last one may have failed.
        if poll.reopen.is_none() && self.troubled.take().is_some() {
            self.show_trouble(false);
        }
        if poll.rewritten {
            self.void();
        }
        for notice in &poll.notices {
            self.notice(notice);
        }
        for event in poll.events {
            match event {
                Event::Commit(commit) => {
                    let oids = Some(commit.oids);
                    self.commit(commit.tid, oids, commit.view);
                }
                Event::Reset(view) => {
                    let of = if view.is_remote() { " of head" } else { "" };
                    self.control.shared.log.warning(format!(
                        "the database was replaced by one with another history; all cached pages{of} go"
                    ));
                    self.commit(view.at(), None, view);
                }
                // A state that is the same, in its turn: views of the file before are taken ahead of it.
                Event::Switched(view) => self.commit(view.at(), Some([].into()), view),
            }
        }
        if let Some(reopen) = poll.reopen {
            // Building the index of a large file takes long; the old file serves meanwhile.
            let mailbox = self.control.mailbox.clone();
            let spawned = proc::spawn("zring-reopen", move || {
                let rebuilt = reopen.build(&mut |_, _| {});
                mailbox.send(ToControl::Rebuilt(Box::new(rebuilt)));
            });
            if let Err(error) = spawned {
                self.control
                    .shared
                    .log
                    .error(format!("no thread to open the new database file: {error}"));
                self.fail();
            }
        }
        self.watch_tail(poll.tail);
        if poll.tail == Tail::Voted {
            self.history.take_notes(); // the next transaction would, and there is time now
        }
        if poll.more {
            Duration::ZERO
        } else {
            self.next_look(poll.tail)
        }
    }

    /// Says how the server is.
    fn notice(&self, notice: &Notice) {
        let log = &self.control.shared.log;
        match notice {
            Notice::Back(_) => log.info(notice),
            Notice::Lost(_) | Notice::Gap(_) | Notice::Flooded => log.warning(notice),
        }
    }

    fn next_look(&mut self, tail: Tail) -> Duration {
        if tail != Tail::Voted {
            self.voted = 0;
            return LOOK_EVERY;
        }
        let wait = VOTED_MS
            .get(self.voted)
            .map_or(LOOK_EVERY, |&ms| Duration::from_millis(ms));
        self.voted += 1;
        wait
    }

    /// Nothing changed, but files are to be forgotten: a state that is the same.
    fn let_go(&mut self) {
        let view = self.control.store.view();
        if view.at() == self.head.at() {
            self.commit(view.at(), Some([].into()), view);
        }
    }

    /// Head moves on; `None` for what changed when nobody can tell.
    fn commit(&mut self, tid: Tid, oids: Option<Arc<[Oid]>>, view: AnyView) {
        self.published += 1;
        let state = State {
            number: self.published,
            tid,
            oids,
            anew: Vec::new(),
        };
        self.apply(HeadEvent::Commit(tid, Published { state, view }));
    }

    /// Lets head decide, and carries out what it decides, until it waits for somebody else.
    fn apply(&mut self, event: HeadEvent<Published>) {
        let (mut events, mut actions) = (vec![event], Vec::new());
        while let Some(event) = events.pop() {
            self.head.apply(event, &mut actions);
            for action in actions.drain(..) {
                let next = self.carry_out(action);
                debug_assert!(events.is_empty() || next.is_none(), "one answer at a time");
                events.extend(next);
            }
            if self.has_failed() {
                return;
            }
        }
    }

    /// Does one thing; the answer, if it is known at once.
    fn carry_out(&mut self, action: Action<Published>) -> Option<HeadEvent<Published>> {
        match action {
            Action::Diff(tid, published) => {
                self.history.source().show(&published.view);
                let State { number, oids, .. } = published.state;
                let effect = self.history.look(Passing { number, tid, oids });
                let effect = self.found(effect, tid);
                self.links.lose(&effect.lost);
                self.lost = effect.lost;
                let resized = effect.changes.iter().filter(|change| change.is_resized());
                self.resized = resized.map(|change| change.node).collect();
                Some(HeadEvent::Diffed(effect.changes, effect.shorter))
            }
            Action::Keep(blocks) => self.keep(&blocks),
            Action::Shorten(files) => self.shorten(files),
            Action::Publish(_, published) => self.publish(published),
            Action::Join => {
                let tid = self.head.under_way();
                let effect = self.history.pass();
                let effect = self.found(effect, tid);
                self.lose(&effect.lost, tid);
                self.lose_clients(&effect.lost, tid);
                self.links.lose(&effect.lost);
                self.shorten_late(&effect.shorter, tid);
                self.proceed();
                let mut changes = effect.changes;
                changes.extend(self.take_retired());
                Some(HeadEvent::Joined(changes))
            }
            Action::Drop(tid, drops) => {
                self.changed_at(tid, &drops);
                let resized = self.resized_by(&drops);
                let _ = (self.control.notifier).send(ToNotifier::Drop(drops, resized));
                None
            }
            Action::Show(tid) => {
                self.show(tid);
                None
            }
        }
    }

    /// Clients of a file that is another one now, and those that see what the history does not reach back to any more.
    fn lose_clients(&mut self, lost: &[Lost], tid: Tid) {
        let shared = &self.control.shared;
        let late = self.lost.iter().chain(lost);
        let others = late.filter(|lost| matches!(lost.why, Why::Epoch));
        let others: Vec<_> = others.map(|lost| lost.oid).collect();
        for oid in others {
            let why = format!("file epoch detected @{tid}");
            self.links
                .lose_clients((Some(oid), tid), &why, &mut self.history, shared);
        }
        let tail = self.history.tail().tail();
        let why = format!("the history begins @{tail}: nobody can tell what changed before");
        self.links
            .lose_clients((None, tail), &why, &mut self.history, shared);
        self.isolate();
    }

    /// The database failing here is no reason to say something wrong: everything is dropped.
    fn found(&self, effect: Result<Effect, Failed<Unloaded>>, tid: Tid) -> Effect {
        effect.unwrap_or_else(|Failed { effect, error }| {
            let log = &self.control.shared.log;
            log.error(format!(
                "what @{tid} changed cannot be told, all cached pages of head go: {}",
                Chain(&error)
            ));
            effect
        })
    }

    /// Files that are not what they were: said once, and names of those that are others now let go.
    fn lose(&self, lost: &[Lost], tid: Tid) {
        let shared = &self.control.shared;
        for Lost { oid, node, why } in lost {
            match why {
                Why::Damaged(error) => {
                    shared.log.error(format!("big file {oid} @{tid}: {error}"));
                }
                Why::Epoch => {
                    let text = format!("big file {oid} changed @{tid}: open it anew");
                    shared.log.warning(text);
                    if node.is_some_and(|node| shared.tree().retire(*oid, node).is_some()) {
                        let name = Store::Name(fixed::HEAD_BIGFILE, oid.to_string());
                        shared.stores.push(name);
                    }
                    if self.control.on_epoch == OnEpoch::Server {
                        self.give_up(*oid, tid);
                    }
                }
                Why::Astray => {}
            }
        }
    }

    /// Everything that begins from now on is answered as of this.
    fn publish(&mut self, mut published: Published) -> Option<HeadEvent<Published>> {
        self.hold_sizes();
        self.lose(&self.lost, published.state.tid);
        published.state.anew = self.history.anew();
        // What a server lost the thread of has the same states as before.
        if published.state.oids.is_none() && !published.view.is_remote() {
            self.retired = self.retire(published.view.generation());
        }
        let shared = &self.control.shared;
        let (number, generation) = (published.state.number, published.view.generation());
        shared.publish(published);
        // Workers that sleep long would have much to catch up with, or hold on to a file that is no longer read.
        let is_other_file = std::mem::replace(&mut self.generation, generation) != generation;
        if is_other_file || number.is_multiple_of(limit::STATES_MAX as u64 / 8) {
            self.control
                .workers
                .iter()
                .for_each(|worker| worker.send(ToWorker::Look));
        }
        if shared.passed(number) {
            return Some(HeadEvent::Passed);
        }
        self.passing = Some(number);
        // One that is in the middle of something looks before the next thing it does, or tells when it goes to sleep.
        None
    }

    /// What stat shows as time of change.
    fn changed_at(&self, tid: Tid, drops: &[Drop]) {
        let tree = self.control.shared.tree();
        for drop in drops {
            let (Drop::Pages { node, .. } | Drop::Attributes(node)) = *drop;
            if let Some(Node::File(file)) = tree.node(node) {
                file.changed_at(tid);
            }
        }
    }

    fn show(&mut self, tid: Tid) {
        let shared = &self.control.shared;
        if shared.show_head(tid) || shared.future_lookups.load(Ordering::SeqCst) > 0 {
            self.control
                .workers
                .iter()
                .for_each(|w| w.send(ToWorker::Shown));
        }
        self.links.lost();
        self.proceed();
        if let Some(cut) = history::old_before(tid) {
            let cut = self.links.oldest().map_or(cut, |oldest| oldest.min(cut));
            self.history.forget(cut);
        }
    }
}
