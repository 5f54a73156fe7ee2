//! One run: the actors, and a scheduler that picks whose turn it is.
//!
//! Which actors are quick and which are slow changes all the time, so that each of them is far behind the others now and then.

use crate::client::{Client, Manner};
use crate::control::Control;
use crate::counts::Counts;
use crate::data::{PAGE, PAGES};
use crate::graph::{self, Node, Wait};
use crate::kernel::{Op, Page};
use crate::notifier::Notifier;
use crate::rng::Rng;
use crate::shared::{Broken, Rules, Shared, ToWorker, What};
use crate::upload::Reader;
use crate::worker::{WaitsFor, Worker};
use std::collections::BTreeMap;
use std::time::Duration;
use zring::base::{NodeId, Rev, Tid};

/// READs unanswered at a time.
pub(crate) const READS_MAX: usize = 10;
/// Transactions that head may be behind.
const BEHIND_MAX: u64 = 8;
/// Files below `@<tid>` that the kernel knows.
const OLD_MAX: usize = 6;
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
    Dropper,
    Storer,
    Keeper,
    /// An answer is taken by who waits for it.
    Answer,
    /// Pages behind a file's new end go.
    Cut,
    Wake(usize),
    Sleep(usize),
    Message(usize),
    Request(usize),
    Load(usize),
    Store(usize),
    Late(usize),
    /// A worker goes on where it stopped.
    GoOn(usize),
    /// A client serves its link, or does something of its own.
    Serve(u64),
    Act(u64),
    Time,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) shared: Shared,
    workers: Vec<Worker>,
    control: Control,
    notifier: Notifier,
    weights: [usize; 16],
    /// One turn in so many the writer writes.
    pause: usize,
    waits: Vec<Wait>,
    /// Readers move on slowly through files: there is always something that nobody has read yet.
    moves_on: bool,
    /// Clients at a time, and all so far.
    clients_max: usize,
    given: u64,
    /// Who goes through a file in order; and how seldom anybody else reads, or pages go.
    reader: Option<Reader>,
    calm: usize,
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules) -> Self {
        let mut rng = Rng::new(seed);
        // Somebody goes through files in order, mostly alone.
        let is_orderly = rng.one_in(4);
        let workers = match is_orderly {
            true => rng.pick(&[2, 2, 3]),
            false => rng.pick(&[1, 2, 2, 3, 4]),
        };
        let cache_bytes = rng.pick(&[400, 2000, 100_000]);
        let mut shared = Shared::new(rules, rng, workers, is_orderly);
        let pause = shared.rng.pick(&[1, 1, 1, 40]);
        let clients_max = shared.rng.pick(&[0, 0, 0, 1, 2, 3, 3, 5]);
        let moves_on = shared.rng.one_in(2);
        let (calm, pause) = match is_orderly {
            true => (9, pause * shared.rng.pick(&[1, 20, 200])),
            false => (shared.rng.pick(&[0, 0, 0, 3]), pause),
        };
        let (at, control) = (shared.shown, Control::new(&mut shared, workers));
        let workers = 0..workers;
        Self {
            workers: workers.map(|i| Worker::new(i, at, cache_bytes)).collect(),
            control,
            notifier: Notifier::default(),
            weights: [1; 16],
            moves_on,
            clients_max,
            given: 0,
            reader: None,
            calm,
            pause,
            waits: Vec::new(),
            shared,
        }
    }

    /// Runs for about `steps`, and then until nobody has anything to do.
    pub(crate) fn run(&mut self, steps: u64) -> Result<Counts, Broken> {
        while self.shared.counts.steps < steps {
            match self.shared.rng.below(800) {
                0 => self.quiesce(|actor| {
                    // Whoever could make a request wait stands still; I3.
                    use Actor::{
                        Answer, Cut, GoOn, Keeper, Late, Load, Message, Request, Sleep, Wake,
                    };
                    let answers = matches!(actor, Answer | Cut | Keeper | Late(_) | GoOn(_));
                    let works = matches!(actor, Message(_) | Request(_) | Load(_));
                    answers || works || matches!(actor, Sleep(_) | Wake(_))
                })?,
                1 => self.drain()?,
                _ => self.step(|_| true).map(drop)?,
            }
        }
        self.drain()?;
        self.shared.clients.values_mut().for_each(Client::die);
        self.drain()?;
        self.control.links.check_gone(&mut self.shared);
        self.shared.broken.clone().map_or(Ok(()), Err)?;
        self.shared.counts.crossed = self.shared.kernel.crossed;
        self.shared.counts.cut_waits = self.shared.kernel.cut_waits;
        Ok(self.shared.counts)
    }

    /// Nothing new comes: all there is has to come to an end.
    fn drain(&mut self) -> Result<(), Broken> {
        self.quiesce(|actor| !matches!(actor, Actor::Client | Actor::Writer | Actor::Act(_)))?;
        let shared = &mut self.shared;
        let idle = self.workers.iter().all(|w| w.is_idle() && !w.is_late());
        let quiet = self.control.is_quiet(shared) && self.notifier.is_done();
        let queues = shared.stores.len() + shared.drops.len() + shared.keeps.len();
        if !(idle && quiet && queues == 0 && shared.kernel.is_done()) {
            let text = format!(
                "{queues} things wait; head is at {}",
                self.control.head.at()
            );
            shared.fail(What::Stuck, text);
        }
        let (at, last) = (shared.shown, shared.data.last());
        if (at, self.control.head.at()) != (last, last) {
            shared.fail(What::Stuck, format!("{last} was written, {at} is shown"));
        }
        shared.check_all();
        shared.check_finished();
        shared.meets.pass_time();
        self.check_tracked();
        self.shared.broken.clone().map_or(Ok(()), Err)
    }

    /// Goes on with some actors until none of them can; then no request may be left.
    fn quiesce(&mut self, who: impl Fn(Actor) -> bool) -> Result<(), Broken> {
        for _ in 0..TURNS_MAX {
            if !self.step(&who)? {
                // Those that wait for pins may wait for who stands still.
                let pinning = self.workers.iter().map(|w| w.watching.pinning.len());
                let (reads, pinning) = (self.shared.kernel.reads.len(), pinning.sum::<usize>());
                let (reads, opens) = (reads - pinning, self.shared.kernel.opens);
                if reads + opens > 0 {
                    let text = format!("{reads} READs, {opens} OPENs are left");
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
        self.tidy_clients();
        self.pass_late();
        for message in std::mem::take(&mut self.shared.to_all) {
            for worker in &mut self.workers {
                worker.inbox.push_back(message.clone());
            }
        }
        for (worker, message) in std::mem::take(&mut self.shared.to) {
            self.workers[worker].inbox.push_back(message);
        }
        self.check();
        if matches!(
            actor,
            Actor::Answer | Actor::Storer | Actor::Keeper | Actor::Serve(_)
        ) {
            self.shared.check_views();
        }
        self.shared.broken.clone().map_or(Ok(true), Err)
    }

    fn pick(&mut self, who: impl Fn(Actor) -> bool) -> Option<Actor> {
        if self.shared.counts.steps.is_multiple_of(64) {
            let rng = &mut self.shared.rng;
            self.weights = std::array::from_fn(|_| rng.pick(&[0, 1, 1, 4, 16]));
        }
        let (mut able, mut total) = ([(Actor::Client, 0); 96], 0);
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
        add(Actor::Control, w[2], self.control.can(shared));
        add(Actor::Dropper, w[3], self.notifier.can_drop(shared));
        add(Actor::Storer, w[4], self.notifier.can_store(shared));
        add(Actor::Keeper, w[5], self.notifier.can_keep(shared));
        add(Actor::Answer, w[6], !shared.kernel.answers.is_empty());
        let cut = if shared.rules.fills { w[6] / 16 } else { w[6] };
        add(Actor::Cut, cut, shared.kernel.can_cut());
        for (i, worker) in self.workers.iter().enumerate() {
            // One of them may be far behind the others.
            let w = |at: usize| w[(at + i) % 6 + 6];
            let messages = !worker.inbox.is_empty();
            let is_own = !shared.meets.has_rings || shared.meets.cpu == i || worker.awake;
            let requests = !shared.kernel.requests.is_empty() && is_own;
            let (loads, touches) = (!worker.loading.is_empty(), worker.has_touches(shared));
            if let Some(half) = &worker.watching.half {
                let weight = match half.is_slow {
                    true => usize::from(shared.counts.steps.is_multiple_of(8)),
                    false => w(1),
                };
                add(Actor::GoOn(i), weight, true);
            } else if worker.awake {
                add(Actor::Sleep(i), w(5), true);
                add(Actor::Message(i), w(0), messages);
                let strange = shared.meets.has_rings && shared.meets.cpu != i;
                add(
                    Actor::Request(i),
                    if strange { w(1) / 16 } else { w(1) },
                    requests,
                );
                add(Actor::Load(i), w(2).div_ceil(4), loads);
                let seldom = if self.calm > 3 { w(3) / 16 } else { w(3) };
                add(Actor::Store(i), seldom, touches);
            } else {
                // A disk is slow.
                let weight = w(0).max(w(1)).max(w(2).div_ceil(4));
                let stores = touches && who(Actor::Store(i));
                let yes = messages || requests || loads || stores;
                add(Actor::Wake(i), weight, yes);
            }
            add(Actor::Late(i), w(4), worker.is_late());
        }
        for (&id, client) in &shared.clients {
            let w = |at: u64| w[12 + usize::try_from((at + id) % 4).unwrap()];
            add(Actor::Serve(id), w(0), client.can_serve());
            add(Actor::Act(id), w(2).min(4), true);
        }
        let passes = self.control.links.deadline().is_some() && shared.time_limit() > shared.now;
        add(Actor::Time, w[12].min(1), passes);
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
        let (shared, workers) = (&mut self.shared, &mut self.workers);
        let waited = self.notifier.waits_for_page(shared);
        match actor {
            Actor::Client => self.client(),
            Actor::Writer if !shared.rng.one_in(self.pause) => {}
            Actor::Writer => shared.data.commit(&mut shared.rng),
            Actor::Control => self.control.turn(shared),
            Actor::Dropper => self.notifier.drop_one(shared),
            Actor::Storer => self.notifier.store_one(shared),
            Actor::Keeper => self.notifier.keep_one(shared),
            Actor::Answer => {
                let at = shared.rng.below(shared.kernel.answers.len());
                shared.say(|| format!("  {:?}", shared.kernel.answers[at]));
                if let Some((node, pages)) = shared.kernel.take(at) {
                    shared.check_pages(node, pages);
                }
            }
            Actor::Cut => shared.kernel.cut(),
            Actor::Wake(i) => workers[i].begin(shared),
            Actor::Sleep(i) => workers[i].before_wait(shared),
            Actor::Message(i) => {
                shared.say(|| format!("  {:?}", workers[i].inbox[0]));
                workers[i].woken(shared);
            }
            Actor::Request(i) => {
                let at = shared.rng.below(shared.kernel.requests.len());
                let request = shared.kernel.requests.swap_remove(at);
                shared.say(|| format!("  {request:?}"));
                workers[i].request(shared, request);
            }
            Actor::Load(i) => workers[i].read_done(shared),
            Actor::Store(i) => workers[i].store_one(shared),
            Actor::Late(i) => workers[i].late(shared),
            Actor::GoOn(i) => workers[i].go_on(shared),
            Actor::Serve(id) => self.with_client(id, Client::serve),
            Actor::Act(id) => self.with_client(id, Client::act),
            Actor::Time => self.pass_time(),
        }
        let waits = self.notifier.waits_for_page(&self.shared);
        self.shared.counts.lock_waits += u64::from(waits && !waited);
    }
}

/// Processes that watch.
impl World {
    fn with_client(&mut self, id: u64, act: impl FnOnce(&mut Client, &mut Shared)) {
        let shared = &mut self.shared;
        let mut client = shared.clients.remove(&id).expect("it has a turn");
        act(&mut client, shared);
        shared.clients.insert(id, client);
    }

    /// Whoever control wants to know nothing of any more goes.
    fn tidy_clients(&mut self) {
        let shared = &mut self.shared;
        for id in std::mem::take(&mut shared.gone_clients) {
            shared.clients.remove(&id);
        }
        shared.clients.retain(|_, client| !client.is_nothing());
        for client in shared.clients.values_mut() {
            if client.is_quiet() {
                client.quiet_at = shared.now;
            }
        }
    }

    fn enter_client(&mut self) {
        use Manner::{Closing, Dying, Forking, Garbage, Good, Leaving, Lying, Silent, Stubborn};
        if self.shared.clients.len() >= self.clients_max || !self.shared.rules.clients {
            return;
        }
        self.given += 1;
        let all = [
            Good, Good, Good, Good, Leaving, Leaving, Silent, Stubborn, Lying, Dying, Forking,
            Closing, Garbage,
        ];
        let (id, manner) = (self.given, self.shared.rng.pick(&all));
        let client = Client::new(id, manner, self.shared.now);
        self.shared.clients.insert(id, client);
    }

    fn pass_time(&mut self) {
        let shared = &mut self.shared;
        let (now, limit) = (shared.now, shared.time_limit());
        let due = self.control.links.deadline();
        let far = now + Duration::from_millis(shared.rng.pick(&[1, 20, 500, 2000]));
        let next = due.filter(|_| shared.rng.one_in(2)).unwrap_or(far);
        shared.now = next.clamp(now, limit.max(now));
    }
}

/// Clients.
impl World {
    fn client(&mut self) {
        if self.shared.rng.one_in(40) {
            self.enter_client();
        }
        let shared = &mut self.shared;
        let file = shared.rng.below(shared.data.files());
        if shared.rng.one_in(6) {
            return self.old_client(file);
        }
        if shared.rng.below(10) < self.calm {
            return self.read_in_order();
        }
        let (kernel, at, newest) = (&mut shared.kernel, shared.shown, shared.published);
        // Files are used by their name or, retired or not, because they are open.
        let named = kernel.names.get(&(Rev::Head, file)).copied();
        let heads = kernel.inodes.iter().filter(|(_, i)| i.rev == Rev::Head);
        let open = heads
            .map(|(node, _)| node)
            .nth(shared.rng.below(2 * READS_MAX))
            .copied();
        let Some(node) = open.or(named) else {
            if !kernel.is_busy(Rev::Head, file) {
                kernel.ask((Rev::Head, file), NodeId(0), Op::Lookup, at);
            }
            return;
        };
        let file = kernel.inodes[&node].file;
        let is_notified = self.notifier.holds(node) || is_mapped(&shared.clients, node);
        match shared.rng.below(40) {
            0..=21 if kernel.reads.len() < READS_MAX => {
                let end = usize::try_from(kernel.inodes[&node].size).unwrap();
                // Now and then it was longer when somebody looked.
                let past = shared.rng.pick(&[0, 0, 0, 0, 0, 0, 0, 2]);
                let end = (end.div_ceil(PAGE) + past).min(PAGES);
                let so_far = usize::try_from(shared.counts.steps).unwrap() * PAGES / 3000;
                let end = match self.moves_on {
                    true => end.min(so_far + 1),
                    false => end,
                };
                if end > 0 {
                    let first = shared.rng.below(end);
                    let want = shared.rng.pick(&[1, 1, 2, 4, 12]).min(end - first);
                    let how = shared.rng.below(30);
                    shared.counts.direct += u64::from(how < 2);
                    match how {
                        0 => kernel.read_direct(node, first, want, at, false),
                        1 => kernel.read_direct(node, first, want, at, true),
                        _ => kernel.read(node, first, want, at),
                    }
                }
            }
            22..=25 if !kernel.inodes[&node].valid => {
                kernel.ask((Rev::Head, file), node, Op::Getattr, at);
            }
            26 => {
                kernel.ask((Rev::Head, file), NodeId(0), Op::Lookup, at);
            }
            27 => kernel.inodes.get_mut(&node).unwrap().valid = false, // a second went by
            28..=34 => {
                let page = shared.rng.below(PAGES);
                kernel.evict(node, page);
            }
            37 => (0..PAGES).for_each(|page| kernel.evict(node, page)),
            35 if !kernel.is_busy(Rev::Head, file) && !is_notified => {
                kernel.forget(node, at, newest)
            }
            36 if !kernel.reads.is_empty() => {
                let unique = shared.rng.pick(&kernel.reads);
                shared.to_all.push(ToWorker::Interrupt(unique));
            }
            _ => {}
        }
    }

    /// Somebody goes through a file in order.
    fn read_in_order(&mut self) {
        let shared = &mut self.shared;
        if shared.kernel.reads.len() >= READS_MAX {
            return;
        }
        let goes_on = self.reader.as_mut().is_some_and(|r| r.read(shared));
        if !goes_on {
            let heads = shared.kernel.inodes.iter();
            let mut heads = heads.filter(|(_, inode)| inode.rev == Rev::Head);
            let node = heads.nth(shared.rng.below(3)).map(|(&node, _)| node);
            let is_quiet = self.is_quiet();
            let shared = &mut self.shared;
            self.reader = node.map(|node| Reader::begin(shared, node, is_quiet));
        }
        let shared = &mut self.shared;
        if shared.rng.one_in(64) {
            shared.meets.cpu = shared.rng.below(self.workers.len());
        }
    }

    /// Time goes by when nobody who asked waits any more, for what is stored either.
    fn pass_late(&mut self) {
        if self.is_quiet() && self.shared.kernel.reads.is_empty() && self.shared.rng.one_in(16) {
            self.shared.meets.pass_time();
        }
    }

    /// Whether no store for head is on its way.
    fn is_quiet(&self) -> bool {
        let holds = self.workers.iter().any(|w| w.watching.holds_stores());
        !holds && self.shared.stores.is_empty() && !self.notifier.is_storing()
    }

    /// Somebody looks at an older state, mostly where the daemon keeps something.
    fn old_client(&mut self, file: usize) {
        let shared = &mut self.shared;
        let (kernel, at, newest) = (&mut shared.kernel, shared.shown, shared.published);
        let old = kernel.inodes.iter().filter(|(_, i)| i.rev != Rev::Head);
        let old: Vec<NodeId> = old.map(|(node, _)| *node).collect();
        let tid = shared.rng.below(12) as u64;
        let rev = Rev::At(Tid(at.0.saturating_sub(tid).max(1)));
        let node = match kernel.names.get(&(rev, file)) {
            Some(node) => *node,
            None if old.len() < OLD_MAX => {
                if !kernel.is_busy(rev, file) {
                    kernel.ask((rev, file), NodeId(0), Op::Lookup, at);
                }
                return;
            }
            None => shared.rng.pick(&old),
        };
        let inode = &kernel.inodes[&node];
        let is_busy = kernel.is_busy(inode.rev, inode.file) || self.notifier.holds(node);
        let (of, size) = (
            (inode.rev, inode.file),
            usize::try_from(inode.size).unwrap(),
        );
        match shared.rng.below(8) {
            0..=1 => {
                kernel.ask(of, node, Op::Open, at);
            }
            2..=3 if size > 0 && kernel.reads.len() < READS_MAX => {
                let first = shared.rng.below(size.div_ceil(PAGE));
                let want = shared.rng.pick(&[1, 2, 4]).min(size.div_ceil(PAGE) - first);
                kernel.read(node, first, want, at);
            }
            4 => (0..PAGES).for_each(|page| kernel.evict(node, page)),
            5..=6 if !is_busy => kernel.forget(node, at, newest),
            _ => {}
        }
    }
}

/// Whether a client has a file mapped.
fn is_mapped(clients: &BTreeMap<u64, Client>, node: NodeId) -> bool {
    let mut views = clients.values().flat_map(|client| client.views.values());
    views.any(|view| view.node == node)
}

/// Checks.
impl World {
    fn check(&mut self) {
        if self.shared.counts.steps.is_multiple_of(64) {
            self.shared.check_all();
            self.shared.check_views();
        }
        let (at, shown) = (self.control.head.at(), self.shared.shown);
        if at < shown {
            let text = format!("head is at {at}, {shown} is shown");
            self.shared.fail(What::Order, text);
        }
        self.wait_graph();
        if self.shared.rules.graph {
            let (shared, notifier) = (&self.shared, &self.notifier);
            let is_own = |read| notifier.drops_of(shared, read);
            let is_head = |read| shared.kernel.rev_of(read) == Some(Rev::Head);
            if let Some(path) = graph::offence(&self.waits, is_head, is_own) {
                self.shared.fail(What::Waits, path);
            }
        }
    }

    /// Who waits for whom, now.
    fn wait_graph(&mut self) {
        let mut waits = std::mem::take(&mut self.waits);
        waits.clear();
        let mut requests = Vec::new();
        for worker in &self.workers {
            worker.reads(&mut requests);
            let opening = worker.opening.iter();
            waits.extend(opening.map(|r| (Node::Open(r.unique), Node::Keeper)));
        }
        for (unique, what) in requests {
            let request = Node::Request(unique);
            match what {
                WaitsFor::Load => waits.push((request, Node::Load)),
                WaitsFor::Advance => waits.push((request, Node::Advance)),
                WaitsFor::Nothing => {
                    let text = format!("no load is under way for {unique}");
                    self.shared.fail(What::Lost, text);
                }
            }
        }
        self.wait_for_pins(&mut waits);
        self.notifier.waits(&self.shared, &mut waits);
        self.waits = waits;
    }

    /// Who waits for clients, and what those wait for.
    fn wait_for_pins(&mut self, waits: &mut Vec<Wait>) {
        let passing = self.control.is_passing();
        for worker in &self.workers {
            for pinning in &worker.watching.pinning {
                let (unique, file) = (pinning.request.unique, pinning.request.file);
                let from = Node::Request(unique);
                let asked = self
                    .shared
                    .to_control
                    .iter()
                    .any(|message| message.asks(unique));
                let granted = worker.inbox.iter().any(|message| message.grants(unique));
                if passing || asked || granted {
                    waits.push((from, Node::Load));
                    continue;
                }
                let blks: Vec<u64> = pinning.blks.iter().map(|blk| blk.0).collect();
                let clients = self.shared.awaited(file, &blks);
                if clients.is_empty() {
                    let text = format!("READ {unique} waits for no client");
                    return self.shared.fail(What::Lost, text);
                }
                waits.extend(clients.into_iter().map(|id| (from, Node::Client(id))));
            }
        }
        for (&id, client) in &self.shared.clients {
            let opens = client.requests().map(Node::Open);
            waits.extend(opens.map(|open| (Node::Client(id), open)));
        }
    }

    /// When nothing is under way, the history knows of every page.
    fn check_tracked(&mut self) {
        let shared = &mut self.shared;
        let mut cached = Vec::new();
        for (node, inode) in &shared.kernel.inodes {
            if inode.rev != Rev::Head || shared.is_gone(*node) {
                continue;
            }
            let blksize = shared.data.blksize(inode.file);
            for page in 0..PAGES {
                if matches!(inode.pages[page], Page::Cached(_)) {
                    let (lo, hi) = ((page * PAGE) as u64, ((page + 1) * PAGE - 1) as u64);
                    cached.extend((lo / blksize..=hi / blksize).map(|blk| (inode.file, blk)));
                }
            }
        }
        for (file, blk) in cached {
            if !self.control.knows(shared.data.oid(file), blk) {
                let text = format!("block {blk} of file {file} is cached and not tracked");
                return shared.fail(What::Untracked, text);
            }
        }
    }
}
