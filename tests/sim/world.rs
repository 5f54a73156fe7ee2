//! One run: the actors, and a scheduler that picks whose turn it is.
//!
//! Control drives the real `fs::advance::Head` as `engine::control` does, the notifier takes one notice after the other
//! as `engine::notifier` does, and carries it out page by page. Which actors are quick and which are slow changes
//! all the time, so that each of them is far behind the others now and then.

use crate::data::{Commit, Data, PAGE, PAGES};
use crate::graph::{self, Wait};
use crate::kernel::{Kernel, Op, Page};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::shared::{Broken, Counts, Notice, Rules, Shared, ToControl, ToWorker, What};
use crate::worker::{WaitsFor, Worker};
use std::collections::VecDeque;
use zring::base::{NodeId, Tid};
use zring::fs::advance::{Action, Event, Head};
use zring::fs::tree::Tree;

/// READs unanswered at a time.
const READS_MAX: usize = 10;
/// Transactions that head may be behind.
const BEHIND_MAX: u64 = 8;
/// Turns in which nothing new comes; far above what is ever left to do.
const TURNS_MAX: usize = 200_000;

/// Who may have a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    /// Somebody reads, looks up, asks for attributes, is interrupted; or memory is short.
    Client,
    /// A transaction is written.
    Writer,
    Control,
    Notifier,
    /// An answer is taken by who waits for it.
    Answer,
    Message(usize),
    Request(usize),
    Load(usize),
    Store(usize),
    Late(usize),
}

/// A notification on its way through the pages.
#[derive(Debug)]
struct Running {
    notice: Notice,
    page: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) shared: Shared,
    workers: Vec<Worker>,
    head: Head<Commit>,
    /// The newest transaction that control knows.
    known: Tid,
    /// What head wants done and is not.
    todo: VecDeque<Action<Commit>>,
    /// Whether the view of the transaction under way was published.
    is_second: bool,
    running: Option<Running>,
    weights: [usize; 10],
    waits: Vec<Wait>,
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules) -> Self {
        let mut rng = Rng::new(seed);
        let files = 1 + rng.below(3);
        let data = Data::new(&mut rng, files);
        let at = data.last();
        let workers = rng.pick(&[1, 2, 2, 3, 4]);
        let cache_bytes = rng.pick(&[400, 2000, 100_000]);
        let shared = Shared {
            rules,
            data,
            tree: Tree::default(),
            kernel: Kernel::new(rules.crossed),
            notices: VecDeque::new(),
            notices_max: rng.pick(&[1, 2, 1024]),
            to_control: VecDeque::new(),
            to_all: Vec::new(),
            quick: rng.pick(&[0, 1, 2, 2, 5]),
            failing: rng.pick(&[0, 0, 50]),
            shown: at,
            published: at,
            counts: Counts::default(),
            broken: None,
            rng,
        };
        Self {
            workers: (0..workers).map(|_| Worker::new(at, cache_bytes)).collect(),
            head: Head::new(at, workers),
            known: at,
            todo: VecDeque::new(),
            is_second: false,
            running: None,
            weights: [1; 10],
            waits: Vec::new(),
            shared,
        }
    }

    /// Runs for about `steps`, and then until nobody has anything to do.
    pub(crate) fn run(&mut self, steps: u64) -> Result<Counts, Broken> {
        while self.shared.counts.steps < steps {
            match self.shared.rng.below(800) {
                0 => self.quiesce(|actor| {
                    // Whoever could make a READ wait stands still; I3.
                    use Actor::{Answer, Late, Load, Message, Request};
                    matches!(actor, Answer | Message(_) | Request(_) | Load(_) | Late(_))
                })?,
                1 => self.drain()?,
                _ => self.step(|_| true).map(drop)?,
            }
        }
        self.drain()?;
        self.shared.counts.crossed = self.shared.kernel.crossed;
        Ok(self.shared.counts)
    }

    /// Nothing new comes: all there is has to come to an end.
    fn drain(&mut self) -> Result<(), Broken> {
        self.quiesce(|actor| !matches!(actor, Actor::Client | Actor::Writer))?;
        let shared = &mut self.shared;
        let idle = self.workers.iter().all(|w| w.is_idle() && !w.is_late());
        let quiet = self.head.is_quiet() && self.running.is_none() && shared.notices.is_empty();
        if !(idle && quiet && shared.kernel.requests.is_empty()) {
            let text = format!(
                "{} notices wait, the first is {:?}; head is at {}",
                shared.notices.len(),
                self.running,
                self.head.at()
            );
            shared.fail(What::Stuck, text);
        }
        let (at, last) = (shared.shown, shared.data.last());
        if (at, self.head.at()) != (last, last) {
            shared.fail(What::Stuck, format!("{last} was written, {at} is shown"));
        }
        shared.check_all();
        shared.broken.clone().map_or(Ok(()), Err)
    }

    /// Goes on with some actors until none of them can; then no READ may be left.
    fn quiesce(&mut self, who: impl Fn(Actor) -> bool) -> Result<(), Broken> {
        for _ in 0..TURNS_MAX {
            if !self.step(&who)? {
                let left = self.shared.kernel.reads.len();
                if left > 0 {
                    let text = format!("{left} READs are left when nobody can move");
                    self.shared.fail(What::Stuck, text);
                }
                return self.shared.broken.clone().map_or(Ok(()), Err);
            }
        }
        let text = format!("still going on after {TURNS_MAX} turns");
        self.shared.fail(What::Stuck, text);
        self.shared.broken.clone().map_or(Ok(()), Err)
    }

    /// Gives one actor a turn; false when nobody can take it.
    fn step(&mut self, who: impl Fn(Actor) -> bool) -> Result<bool, Broken> {
        let Some(actor) = self.pick(who) else {
            return Ok(false);
        };
        self.shared.counts.steps += 1;
        self.shared.say(|| format!("{actor:?}"));
        self.turn(actor);
        for message in std::mem::take(&mut self.shared.to_all) {
            self.tell_all(&message);
        }
        self.check();
        self.shared.broken.clone().map_or(Ok(true), Err)
    }

    fn tell_all(&mut self, message: &ToWorker) {
        for worker in &mut self.workers {
            worker.inbox.push_back(message.clone());
        }
    }

    fn pick(&mut self, who: impl Fn(Actor) -> bool) -> Option<Actor> {
        if self.shared.counts.steps.is_multiple_of(64) {
            let rng = &mut self.shared.rng;
            self.weights = std::array::from_fn(|_| rng.pick(&[0, 1, 1, 4, 16]));
        }
        let (mut able, mut total) = ([(Actor::Client, 0); 32], 0);
        let mut count = 0;
        let mut add = |actor, weight: usize, yes: bool| {
            if yes && who(actor) {
                total += weight;
                able[count] = (actor, weight);
                count += 1;
            }
        };
        let (w, shared) = (&self.weights, &self.shared);
        add(Actor::Client, w[0], true);
        let behind = shared.data.last().0 - shared.shown.0;
        add(Actor::Writer, w[1].min(4), behind < BEHIND_MAX);
        add(Actor::Control, w[2], self.control_can());
        add(Actor::Notifier, w[3], self.notifier_can());
        add(Actor::Answer, w[4], !shared.kernel.answers.is_empty());
        for (i, worker) in self.workers.iter().enumerate() {
            // One of them may be far behind the others.
            let w = |at: usize| w[(at + i) % 6 + 4];
            add(Actor::Message(i), w(0), !worker.inbox.is_empty());
            add(Actor::Request(i), w(1), !shared.kernel.requests.is_empty());
            // A disk is slow.
            add(Actor::Load(i), w(2).div_ceil(4), !worker.loading.is_empty());
            add(Actor::Store(i), w(3), worker.has_touches());
            add(Actor::Late(i), w(4), worker.is_late());
        }
        let able = &able[..count];
        if total == 0 {
            return (count > 0).then(|| able[self.shared.rng.below(count)].0);
        }
        let mut left = self.shared.rng.below(total);
        let found = able.iter().find(|(_, weight)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        });
        found.map(|(actor, _)| *actor)
    }

    fn turn(&mut self, actor: Actor) {
        let shared = &mut self.shared;
        match actor {
            Actor::Client => self.client(),
            Actor::Writer => shared.data.commit(&mut shared.rng),
            Actor::Control => self.control(),
            Actor::Notifier => self.notifier(),
            Actor::Answer => {
                let at = shared.rng.below(shared.kernel.answers.len());
                shared.say(|| format!("  {:?}", shared.kernel.answers[at]));
                if let Some((node, pages)) = shared.kernel.take(at) {
                    shared.check_pages(node, pages);
                }
            }
            Actor::Message(i) => {
                shared.say(|| format!("  {:?}", self.workers[i].inbox[0]));
                self.workers[i].woken(shared);
            }
            Actor::Request(i) => {
                let at = shared.rng.below(shared.kernel.requests.len());
                let request = shared.kernel.requests.swap_remove(at);
                shared.say(|| format!("  {request:?}"));
                self.workers[i].request(shared, request);
            }
            Actor::Load(i) => self.workers[i].read_done(shared),
            Actor::Store(i) => self.workers[i].store_one(shared),
            Actor::Late(i) => self.workers[i].catch_up(shared),
        }
    }
}

/// Clients.
impl World {
    fn client(&mut self) {
        let shared = &mut self.shared;
        let file = shared.rng.below(shared.data.files());
        let (kernel, at) = (&mut shared.kernel, shared.shown);
        // Files are used by their name or, retired or not, because they are open.
        let named = kernel.names.get(&file).copied();
        let open = kernel
            .inodes
            .keys()
            .nth(shared.rng.below(2 * READS_MAX))
            .copied();
        let Some(node) = open.or(named) else {
            if !kernel.is_busy(file) {
                kernel.ask(file, NodeId(0), Op::Lookup, at);
            }
            return;
        };
        let file = kernel.inodes[&node].file;
        let is_notified = self.running.as_ref().is_some_and(|r| r.node() == node);
        match shared.rng.below(40) {
            0..=21 if kernel.reads.len() < READS_MAX => {
                let end = usize::try_from(kernel.inodes[&node].size).unwrap() / PAGE;
                let first = shared.rng.below((end + 2).min(PAGES));
                let want = shared.rng.pick(&[1, 1, 2, 4, 12]);
                kernel.read(node, first, want, at);
            }
            22..=25 if !kernel.inodes[&node].valid => {
                kernel.ask(file, node, Op::Getattr, at);
            }
            26 => {
                kernel.ask(file, NodeId(0), Op::Lookup, at);
            }
            27 => kernel.inodes.get_mut(&node).unwrap().valid = false, // a second went by
            28..=34 => {
                let page = shared.rng.below(PAGES);
                if kernel.holder(node, page).is_none() {
                    kernel.set(node, page, Page::Absent);
                }
            }
            37 => (0..PAGES).for_each(|page| {
                if kernel.holder(node, page).is_none() {
                    kernel.set(node, page, Page::Absent);
                }
            }),
            35 if !kernel.is_busy(file) && !is_notified => kernel.forget(node, at),
            36 if !kernel.reads.is_empty() => {
                let unique = shared.rng.pick(&kernel.reads);
                shared.to_all.push(ToWorker::Interrupt(unique));
            }
            _ => {}
        }
    }
}

/// Control.
impl World {
    fn control_can(&self) -> bool {
        match self.todo.front() {
            Some(Action::Drop(..)) => self.shared.notices.len() < self.shared.notices_max,
            Some(_) => true,
            None => !self.shared.to_control.is_empty() || self.known < self.shared.data.last(),
        }
    }

    /// Carries one thing out, or takes one message, or learns of a transaction.
    fn control(&mut self) {
        if let Some(action) = self.todo.pop_front() {
            return self.carry_out(action);
        }
        let event = match self.shared.to_control.pop_front() {
            Some(ToControl::Answered(files)) => Event::Answered(files),
            Some(ToControl::Took(files)) => Event::Took(files),
            Some(ToControl::Dropped) => Event::Dropped,
            None => {
                let commit = self.shared.data.next(self.known).expect("there is one");
                let commit = commit.clone();
                self.known = commit.tid;
                self.retire(&commit);
                Event::Commit(commit.tid, commit)
            }
        };
        self.shared.say(|| format!("  {event:?}"));
        let mut actions = Vec::new();
        self.head.apply(event, &mut actions);
        self.todo.extend(actions);
    }

    /// Names of files whose own object changed lead to new nodes.
    fn retire(&mut self, commit: &Commit) {
        let shared = &mut self.shared;
        for &oid in commit.oids.iter().flat_map(|oids| oids.iter()) {
            if let Some(file) = shared.tree.retire(oid) {
                shared.counts.retired += 1;
                if shared.notices.len() < shared.notices_max {
                    shared.notices.push_back(Notice::DropName(file.id));
                }
            }
        }
    }

    fn carry_out(&mut self, action: Action<Commit>) {
        self.shared.say(|| format!("  {action:?}"));
        match action {
            Action::Ask(commit) => {
                self.is_second = false;
                self.tell_all(&ToWorker::Ask(commit));
            }
            Action::Publish(tid, commit) => {
                self.is_second = true;
                self.shared.published = tid;
                self.tell_all(&ToWorker::View(commit));
            }
            Action::Drop(node, _) => {
                let none = self.shared.is(match self.is_second {
                    true => Mutant::NoSecondDrop,
                    false => Mutant::NoFirstDrop,
                });
                if !none {
                    self.shared.notices.push_back(Notice::Drop(node));
                    let full = self.shared.notices.len() == self.shared.notices_max;
                    self.shared.counts.full += u64::from(full);
                }
                if none || self.shared.is(Mutant::ShowsTooEarly) {
                    self.shared.to_control.push_back(ToControl::Dropped);
                }
            }
            Action::Show(tid) => {
                self.shared.show(tid);
                self.tell_all(&ToWorker::Shown);
            }
        }
    }
}

impl Running {
    fn node(&self) -> NodeId {
        match &self.notice {
            Notice::Drop(node) | Notice::DropName(node) | Notice::Store { node, .. } => *node,
        }
    }
}

/// The notifier.
impl World {
    /// Whether it does not wait for a page.
    fn notifier_can(&self) -> bool {
        match &self.running {
            None => !self.shared.notices.is_empty(),
            Some(_) => self.waits_for_read().is_none(),
        }
    }

    /// Which READ the notification under way waits for.
    fn waits_for_read(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        let kernel = &self.shared.kernel;
        let page = match &running.notice {
            Notice::Drop(_) if self.shared.is(Mutant::InvalDoesNotWait) => return None,
            Notice::Drop(node) => kernel.next_page(*node, running.page)?,
            Notice::DropName(_) => return None,
            Notice::Store { .. } => running.page,
        };
        kernel.holder(running.node(), page)
    }

    /// Begins a notice, or does the next page.
    fn notifier(&mut self) {
        let Some(mut running) = self.running.take() else {
            self.begin();
            if self.waits_for_read().is_some() {
                self.shared.counts.lock_waits += 1;
            }
            return;
        };
        let kernel = &mut self.shared.kernel;
        match &running.notice {
            Notice::Drop(node) => match kernel.next_page(*node, running.page) {
                Some(page) => {
                    if kernel.holder(*node, page).is_none() {
                        kernel.set(*node, page, Page::Absent);
                    }
                    running.page = page + 1;
                    self.running = Some(running);
                }
                None => self.dropped(),
            },
            Notice::DropName(_) => unreachable!("it is done at once"),
            Notice::Store { node, off, data } => {
                let first = usize::try_from(*off).unwrap() / PAGE;
                let part = &data[(running.page - first) * PAGE..];
                let part = &part[..part.len().min(PAGE)];
                let mut bytes = [0; PAGE];
                bytes[..part.len()].copy_from_slice(part);
                let (node, page, len) = (*node, running.page, part.len());
                let more = (page + 1 - first) * PAGE < data.len();
                // A page that ends early is valid when the file ends with it.
                if len == PAGE || kernel.inodes[&node].size == *off + data.len() as u64 {
                    kernel.set(node, page, Page::Cached(bytes));
                    self.shared.check_pages(node, page..page + 1);
                }
                running.page += 1;
                self.running = more.then_some(running);
            }
        }
        if self.waits_for_read().is_some() {
            self.shared.counts.lock_waits += 1;
        }
    }

    fn begin(&mut self) {
        let shared = &mut self.shared;
        let at = shared.is(Mutant::StoresOvertaken).then(|| {
            let is_drop = |n: &Notice| matches!(n, Notice::Drop(_));
            shared.notices.iter().position(is_drop).unwrap_or(0)
        });
        let notice = shared
            .notices
            .remove(at.unwrap_or(0))
            .expect("there is one");
        shared.say(|| format!("  {notice:?}"));
        let (there, page) = match &notice {
            Notice::Drop(node) => (shared.kernel.drop_begins(*node), 0),
            Notice::DropName(node) => {
                shared.kernel.names.retain(|_, named| named != node);
                (false, 0)
            }
            Notice::Store { node, off, data } => {
                let end = off + data.len() as u64;
                let there = !data.is_empty() && shared.kernel.store_begins(*node, end);
                (there, usize::try_from(*off).unwrap() / PAGE)
            }
        };
        match (there, &notice) {
            (true, _) => self.running = Some(Running { notice, page }),
            (false, Notice::Drop(_)) => self.dropped(),
            (false, Notice::DropName(_) | Notice::Store { .. }) => {}
        }
    }

    fn dropped(&mut self) {
        self.shared.counts.drops += 1;
        if !self.shared.is(Mutant::ShowsTooEarly) {
            self.shared.to_control.push_back(ToControl::Dropped);
        }
    }
}

/// Checks.
impl World {
    fn check(&mut self) {
        if self.shared.counts.steps.is_multiple_of(64) {
            self.shared.check_all();
        }
        if self.head.at() < self.shared.shown {
            let text = format!(
                "head is at {}, {} is shown",
                self.head.at(),
                self.shared.shown
            );
            self.shared.fail(What::Order, text);
        }
        self.wait_graph();
        if let Some(read) = graph::read_without_load(&self.waits) {
            self.shared
                .fail(What::Lost, format!("no load is under way for READ {read}"));
        }
        if self.shared.rules.graph
            && let Some(path) = graph::offence(&self.waits)
        {
            self.shared.fail(What::Waits, path);
        }
    }

    /// Who waits for whom, now.
    fn wait_graph(&mut self) {
        let mut waits = std::mem::take(&mut self.waits);
        waits.clear();
        let mut reads = Vec::new();
        for worker in &self.workers {
            worker.reads(&mut reads);
        }
        waits.extend(reads.into_iter().map(|(read, what)| match what {
            WaitsFor::Load => Wait::ReadForLoad(read),
            WaitsFor::Advance => Wait::ReadForAdvance(read),
            WaitsFor::Nothing => Wait::ReadForNothing(read),
        }));
        if !self.head.is_quiet() {
            let first = self.running.iter().map(|r| &r.notice);
            for (i, notice) in first.chain(&self.shared.notices).enumerate() {
                if i > 0 {
                    waits.push(Wait::NoticeForNotice(i));
                }
                if matches!(notice, Notice::Drop(_)) {
                    waits.push(Wait::AdvanceForNotice(i));
                }
            }
        }
        if let Some(read) = self.waits_for_read() {
            waits.push(Wait::NoticeForRead(read));
        }
        self.waits = waits;
    }
}
