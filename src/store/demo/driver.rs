//! The thread of a database in two layers: follows both, and loads from one and then from the other.
//!
//! A file is looked at every 20 ms and read by this thread itself; a server wakes it. Objects of servers are asked for together.

use super::Demo;
use super::merge::{Layer, Merge, Told, Whole};
use crate::base::{Oid, Rev, Tid};
use crate::kernel::proc::{self, Waker};
use crate::kernel::socket;
use crate::store::any::{AnyOpenError, AnyStore, AnyView, Event, FollowError, Poll};
use crate::store::file::{self, OpenError, Progress, Rebuilt};
use crate::store::remote::link::{Given, Ports, Waiter};
use crate::store::remote::loads::{Key, Loads};
use crate::store::remote::store::Happened;
use crate::store::remote::{Came, Fatal, Health, Notice, RemoteStore, RemoteView, Sink, Why};
use crate::store::{LoadError, Loaded};
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks at a file; each costs some reads of what the kernel has at hand.
const LOOK: Duration = Duration::from_millis(20);
/// Between looks at a layer that cannot be followed for now.
const TROUBLED: Duration = Duration::from_secs(1);
/// Loads from a file before orders and looks have their turn again.
const TURN_LOADS: usize = 256;

/// Opens both layers; blocks. `control` is woken whenever there is something to be polled.
///
/// # Errors
/// One of them is not to be had.
pub fn open(
    demo: &Demo,
    max_record: usize,
    control: Option<Waker>,
    progress: &mut Progress<'_>,
) -> Result<(RemoteStore, RemoteView), AnyOpenError> {
    let mut failed = None;
    let opened = RemoteStore::open("demo:".to_owned(), max_record, control, |ports| {
        let mut side = |zurl| {
            let (store, view) =
                AnyStore::open(zurl, max_record, Some(ports.waker.clone()), progress)?;
            Ok(Side::new(store, view))
        };
        match side(&demo.changes).and_then(|changes| Ok([changes, side(&demo.base)?])) {
            Ok(sides) => start(sides, ports),
            Err(error) => {
                failed = Some(error);
                Err(io::ErrorKind::NotFound.into())
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(opened?),
    }
}

fn start(sides: [Side; 2], ports: Ports) -> io::Result<()> {
    let [changes, base] = &sides;
    let head = changes.view.at().max(base.view.at());
    ports.status.connected();
    ports.status.set(Health::Serving);
    ports.inbox.put(Happened::Opened(head));
    let mut work = Work {
        ports,
        sides,
        merge: Merge::new(head),
        loads: Loads::new(),
        not_yet: FxHashSet::default(),
        given: Given::default(),
        answers: unbounded(),
        generation: 0,
        is_frozen: false,
        missed: 0,
        ended: None,
    };
    proc::spawn("zring-demo", move || while work.turn() {})?;
    Ok(())
}

/// One layer.
struct Side {
    store: AnyStore,
    view: AnyView,
    /// Objects to be loaded from it.
    todo: VecDeque<Key>,
    /// What was asked of a server, as of what state, and for whom.
    asked: FxHashMap<Key, Vec<Key>>,
    /// There is more to be told.
    has_more: bool,
    is_troubled: bool,
}

impl Side {
    fn new(store: AnyStore, view: AnyView) -> Self {
        Self {
            store,
            view,
            todo: VecDeque::new(),
            asked: FxHashMap::default(),
            has_more: false,
            is_troubled: false,
        }
    }

    /// Whether it has told all that it had, when it is polled next.
    fn is_up(&self) -> bool {
        let link = self.store.link();
        !self.is_troubled && link.is_none_or(|link| link.health() == Health::Serving)
    }

    fn pause(&self) -> Option<Duration> {
        match self.store.link() {
            _ if self.has_more => Some(Duration::ZERO),
            _ if self.is_troubled => Some(TROUBLED),
            Some(_) => None,
            None if self.todo.is_empty() => Some(LOOK),
            None => Some(Duration::ZERO),
        }
    }

    /// A layer knows nothing behind its own newest state.
    fn key(&self, (oid, at): Key) -> Key {
        (oid, at.min(self.view.at()))
    }

    fn load(&mut self, key: Key) -> Result<Loaded, LoadError> {
        let (oid, at) = self.key(key);
        match self.view.load(oid, at) {
            Err(error) if error.may_be_stale() => {
                self.view = self.store.view();
                self.view.load(oid, at)
            }
            Err(LoadError::NotYet) => Err(self.not_yet(oid)),
            loaded => loaded,
        }
    }
}

impl Side {
    /// What it means that a file has no revision that old: a pack may have taken it.
    fn not_yet(&self, oid: Oid) -> LoadError {
        let AnyView::File(view) = &self.view else {
            return LoadError::NotYet;
        };
        match view.oldest_after_pack(oid) {
            Ok(None) => LoadError::NotYet,
            Ok(Some(at)) => LoadError::Gone { at },
            Err(source) => LoadError::Io { pos: 0, source },
        }
    }
}

/// To the thread, from those who help it.
enum Answer {
    Came(Layer, u64, Vec<Came>),
    Rebuilt(Layer, Box<Result<Rebuilt, OpenError>>),
}

#[derive(Debug)]
struct ToDriver {
    layer: Layer,
    generation: u64,
    sender: Sender<Answer>,
    waker: Waker,
}

impl Sink for ToDriver {
    fn came(&self, loads: Vec<Came>) {
        // Who asked may have ended.
        let _ = self
            .sender
            .send(Answer::Came(self.layer, self.generation, loads));
        self.waker.wake();
    }
}

struct Work {
    ports: Ports,
    /// By [`Layer`].
    sides: [Side; 2],
    merge: Merge,
    loads: Loads<Waiter>,
    /// Loads of which the changes said that their object is of later.
    not_yet: FxHashSet<Key>,
    given: Given,
    answers: (Sender<Answer>, Receiver<Answer>),
    generation: u64,
    is_frozen: bool,
    /// Transactions that layers had missed.
    missed: usize,
    ended: Option<Why>,
}

impl Work {
    /// Waits, and does what there is to be done; false to end.
    fn turn(&mut self) -> bool {
        let until = self.loads.timeout();
        let until = until.map(|at| at.saturating_duration_since(Instant::now()));
        let pauses = self.sides.each_ref().map(Side::pause);
        let pauses = pauses
            .into_iter()
            .filter(|_| self.ended.is_none())
            .flatten();
        let timeout = pauses.chain(until).min();
        let waited = socket::wait(&self.ports.waker, &[], timeout);
        let goes_on = self.take_orders() && waited.is_ok();
        if goes_on && self.ended.is_none() {
            self.follow();
        }
        self.take_answers();
        while let Some(((oid, _), waiter)) = self.loads.expired(Instant::now()) {
            self.given.give(oid, waiter, Err(LoadError::Late));
        }
        self.ask();
        if !goes_on {
            self.fail(&Why::Closed);
        }
        self.given.hand_out();
        goes_on
    }

    fn take_orders(&mut self) -> bool {
        let (now, given, loads) = (Instant::now(), &mut self.given, &mut self.loads);
        self.ports.take_orders(|generation, key, waiter| {
            let refused = match &self.ended {
                Some(why) => Some((waiter, why.clone())),
                None if generation != self.generation => Some((waiter, Why::Moved)),
                None => loads.want(now, key, waiter).err(),
            };
            if let Some((waiter, why)) = refused {
                given.give(key.0, waiter, Err(why.error(0)));
            }
        })
    }

    fn fail(&mut self, why: &Why) {
        for ((oid, _), waiter) in self.loads.drain() {
            self.given.give(oid, waiter, Err(why.clone().error(0)));
        }
        self.not_yet.clear();
        for side in &mut self.sides {
            side.todo.clear();
            side.asked.clear();
        }
    }
}

/// Head.
impl Work {
    fn follow(&mut self) {
        let up = self.sides.each_ref().map(Side::is_up);
        let all_up = up == [true, true];
        for (layer, is_up) in Layer::BOTH.into_iter().zip(up) {
            // One that is up waits for the other, which may have something older to tell.
            if all_up || !is_up {
                let poll = self.sides[layer as usize].store.poll();
                self.polled(layer, poll);
            }
        }
        if self.ended.is_some() {
            return;
        }
        if !all_up {
            self.freeze(None);
            return;
        }
        for whole in self.merge.drain() {
            let happened = match whole {
                Whole::Commit(tid, oids) => Happened::Commit(tid, oids.into()),
                Whole::Reset(tid, gap) => {
                    self.fail(&Why::Moved);
                    self.generation += 1;
                    Happened::Reset(tid, gap.into())
                }
            };
            self.ports.inbox.put(happened);
        }
        let troubled = self.sides.iter().any(|side| side.is_troubled);
        if self.is_frozen && !troubled {
            self.is_frozen = false;
            self.ports.status.connected();
            self.ports.status.set(Health::Serving);
            let missed = std::mem::take(&mut self.missed);
            self.ports.inbox.put(Happened::Serving(missed));
        }
    }

    /// Head stands still.
    fn freeze(&mut self, why: Option<String>) {
        self.is_frozen = true;
        self.ports.status.set(Health::Frozen);
        if let Some(why) = why {
            self.ports.inbox.put(Happened::Lost(why.into()));
        }
    }

    fn polled(&mut self, layer: Layer, poll: Result<Poll, FollowError>) {
        let name = layer.name();
        let side = &mut self.sides[layer as usize];
        let poll = match poll {
            Ok(poll) => poll,
            Err(error) if error.is_final() => {
                let why = format!("{name}: {error}");
                self.ended = Some(Why::Moved);
                self.fail(&Why::Moved);
                self.ports.status.set(Health::Frozen);
                self.ports
                    .inbox
                    .put(Happened::Fatal(Fatal::Part(why.into())));
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut side.is_troubled, true) {
                    self.freeze(Some(format!("{name}: {error}")));
                }
                return;
            }
        };
        side.is_troubled = false;
        side.has_more = poll.more;
        side.view = side.store.view();
        let mut gap = None;
        for notice in poll.notices {
            match notice {
                Notice::Lost(words) => self.freeze(Some(format!("{name}: {words}"))),
                Notice::Back(missed) => self.missed += missed,
                notice => gap = Some(notice.to_string()),
            }
        }
        for event in poll.events {
            let told = match event {
                Event::Commit(commit) => Told::Commit(commit.tid, commit.oids.to_vec()),
                Event::Reset(view) => {
                    let replaced =
                        || "its file was replaced by one with another history".to_owned();
                    Told::Reset(view.at(), gap.take().unwrap_or_else(replaced))
                }
                Event::Switched(_) => continue,
            };
            self.merge.told(layer, told);
        }
        if let Some(reopen) = poll.reopen {
            let (sender, waker) = (self.answers.0.clone(), self.ports.waker.clone());
            let spawned = proc::spawn("zring-reopen", move || {
                let rebuilt = Box::new(reopen.build(&mut |_, _| {}));
                let _ = sender.send(Answer::Rebuilt(layer, rebuilt));
                waker.wake();
            });
            if let Err(error) = spawned {
                let error = file::FollowError::Io(error);
                self.polled(layer, Err(error.into()));
            }
        }
    }
}

/// Loads.
impl Work {
    fn take_answers(&mut self) {
        while let Ok(answer) = self.answers.1.try_recv() {
            match answer {
                Answer::Rebuilt(layer, rebuilt) => {
                    let poll = self.sides[layer as usize].store.adopt(*rebuilt);
                    self.polled(layer, poll);
                }
                Answer::Came(layer, generation, loads) if generation == self.generation => {
                    for Came { rev, oid, loaded } in loads {
                        let Rev::At(at) = rev else { continue };
                        let asked = self.sides[layer as usize].asked.remove(&(oid, at));
                        for key in asked.unwrap_or_default() {
                            self.landed(layer, key, again(&loaded));
                        }
                    }
                }
                Answer::Came(..) => {}
            }
        }
    }

    /// Loads what is wanted: of the changes first.
    fn ask(&mut self) {
        while let Some(key) = self.loads.next() {
            self.sides[Layer::Changes as usize].todo.push_back(key);
        }
        for layer in Layer::BOTH {
            match self.sides[layer as usize].view.clone() {
                AnyView::File(_) => {
                    for _ in 0..TURN_LOADS {
                        let side = &mut self.sides[layer as usize];
                        let Some(key) = side.todo.pop_front() else {
                            break;
                        };
                        let loaded = side.load(key);
                        self.landed(layer, key, loaded);
                    }
                }
                AnyView::Remote(view) => self.ask_server(layer, &view),
            }
        }
    }

    fn ask_server(&mut self, layer: Layer, view: &RemoteView) {
        let side = &mut self.sides[layer as usize];
        let mut states: FxHashMap<Tid, Vec<Oid>> = FxHashMap::default();
        while let Some(key) = side.todo.pop_front() {
            let (oid, at) = side.key(key);
            let waiting = side.asked.entry((oid, at)).or_default();
            if waiting.is_empty() {
                states.entry(at).or_default().push(oid);
            }
            waiting.push(key);
        }
        let sink: Arc<dyn Sink> = Arc::new(ToDriver {
            layer,
            generation: self.generation,
            sender: self.answers.0.clone(),
            waker: self.ports.waker.clone(),
        });
        for (at, oids) in states {
            view.ask(Rev::At(at), at, &oids, &sink);
        }
    }

    /// What a layer has of an object.
    fn landed(&mut self, layer: Layer, key: Key, loaded: Result<Loaded, LoadError>) {
        let loaded = match (layer, loaded) {
            (Layer::Changes, Err(LoadError::NoObject)) => {
                return self.sides[Layer::Base as usize].todo.push_back(key);
            }
            (Layer::Changes, Err(LoadError::NotYet)) => {
                self.not_yet.insert(key);
                return self.sides[Layer::Base as usize].todo.push_back(key);
            }
            (Layer::Base, Err(LoadError::NoObject)) if self.not_yet.remove(&key) => {
                Err(LoadError::NotYet)
            }
            (_, loaded) => loaded,
        };
        self.not_yet.remove(&key);
        for waiter in self.loads.answered(key) {
            self.given.give(key.0, waiter, again(&loaded));
        }
    }
}

/// The same for somebody else.
fn again(loaded: &Result<Loaded, LoadError>) -> Result<Loaded, LoadError> {
    Err(match loaded {
        Ok(loaded) => return Ok(loaded.clone()),
        Err(LoadError::NoObject) => LoadError::NoObject,
        Err(LoadError::NotYet) => LoadError::NotYet,
        Err(LoadError::Deleted { at }) => LoadError::Deleted { at: *at },
        Err(LoadError::Gone { at }) => LoadError::Gone { at: *at },
        Err(LoadError::Corrupt { oid, pos, what }) => LoadError::Corrupt {
            oid: *oid,
            pos: *pos,
            what: *what,
        },
        Err(LoadError::TooBig { len, max }) => LoadError::TooBig {
            len: *len,
            max: *max,
        },
        Err(LoadError::Refused(refusal)) => LoadError::Refused(refusal.clone()),
        Err(LoadError::Late) => LoadError::Late,
        Err(LoadError::Busy) => LoadError::Busy,
        Err(LoadError::Moved) => LoadError::Moved,
        Err(LoadError::Closed) => LoadError::Closed,
        Err(LoadError::Io { pos, source }) => LoadError::Io {
            pos: *pos,
            source: source
                .raw_os_error()
                .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error),
        },
    })
}
