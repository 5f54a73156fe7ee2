//! Clients of `head/watch`: each a process with its own view, and its own mapping of each file as its pins say.
//!
//! One thread reads the link, carries out pins and answers them; it may be slow, and may need an OPEN of what it maps. The other asks for
//! watches and reads through the mapping: where a page is not there the kernel sends a READ, and it stands in the fault. Good ones do as
//! the protocol says; others do so until they turn (`Manner`).

use crate::kernel::Op;
use crate::shared::{Shared, ToWorker, What};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use zring::base::{NodeId, Oid, Rev, Tid};
use zring::iso::{Errno, Signal};

/// What becomes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It does as the protocol says, to the end.
    Good,
    /// It says bye in the middle of whatever is under way.
    Leaving,
    /// It answers no pins.
    Silent,
    /// Nor does it read, nor heed SIGBUS.
    Stubborn,
    /// It answers pins with something else.
    Lying,
    /// It ends with the link open.
    Dying,
    /// So does it, but a child of it has the link, and does nothing with it for a while.
    Forking,
    /// It closes the link without bye, and lives.
    Closing,
    /// It writes what is no frame, or answers what nobody asked.
    Garbage,
}

/// How a file is seen.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// What is mapped.
    pub(crate) node: NodeId,
    /// What the last `ok` said.
    pub(crate) at: Option<Tid>,
    /// A request under way.
    pub(crate) asked: Option<(u64, Option<Tid>)>,
    /// Blocks that are mapped from elsewhere.
    pub(crate) map: BTreeMap<u64, Tid>,
    /// Tells pins of a watch that is over from those of the next.
    generation: u64,
}

/// A pin to be carried out.
#[derive(Clone, Copy, Debug)]
struct Pin {
    stream: u64,
    file: usize,
    blk: u64,
    rev: Rev,
    generation: u64,
    /// LOOKUP or OPEN of the revision, under way.
    request: Option<u64>,
    opened: bool,
}

/// What came back from the kernel.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Opened(u64),
    Read(Result<Vec<u8>, Errno>),
    Wrote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Runs,
    /// A signal, or its own end, is on its way.
    Doomed,
    /// None of its code runs; the kernel closes its files.
    Exits,
    Dead,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    manner: Manner,
    /// It has stopped doing as the protocol says.
    pub(crate) is_bad: bool,
    pub(crate) life: Life,
    pub(crate) link: Option<u64>,
    is_opening: bool,
    /// Said bye, or closed: nothing is promised any more.
    gave_up: bool,
    said_bye: bool,
    is_closing: bool,
    is_closed: bool,
    /// A child has the link.
    is_forked: bool,
    /// It read to the end.
    is_over: bool,
    /// The read and the write under way.
    reading: Option<u64>,
    writing: Option<u64>,
    /// The read waits with control for a message.
    pub(crate) is_heard: bool,
    told: VecDeque<Told>,
    out: VecDeque<Vec<u8>>,
    line: Vec<u8>,
    pins: Vec<Pin>,
    pub(crate) views: BTreeMap<usize, View>,
    streams: u64,
    generations: u64,
    /// When it had nothing to answer for the last time.
    pub(crate) quiet_at: Duration,
}

impl Client {
    pub(crate) fn new(id: u64, manner: Manner, now: Duration) -> Self {
        Self {
            id,
            manner,
            is_bad: false,
            life: Life::Runs,
            link: None,
            is_opening: false,
            gave_up: false,
            said_bye: false,
            is_closing: false,
            is_closed: false,
            is_forked: false,
            is_over: false,
            reading: None,
            writing: None,
            is_heard: false,
            told: VecDeque::new(),
            out: VecDeque::new(),
            line: Vec::new(),
            pins: Vec::new(),
            views: BTreeMap::new(),
            streams: 1,
            generations: 0,
            quiet_at: now,
        }
    }

    pub(crate) fn tell(&mut self, told: Told) {
        self.told.push_back(told);
    }

    /// Whether it may be told to end by nobody.
    pub(crate) fn is_good(&self) -> bool {
        !self.is_bad && self.life == Life::Runs
    }

    /// What is promised of a file now.
    pub(crate) fn promised(&self, view: &View) -> Option<Tid> {
        let reads = matches!(self.life, Life::Runs | Life::Doomed) && !self.gave_up;
        view.at.filter(|_| reads && view.asked.is_none())
    }

    /// The server says that it broke the protocol.
    pub(crate) fn is_broken(&mut self) {
        self.gave_up |= self.is_bad; // a good one does not: then what it sees counts
    }

    /// Whether it does not stand in the way of time.
    pub(crate) fn is_quiet(&self) -> bool {
        let listens = self.reading.is_some() && self.is_heard || self.is_over || self.is_closed;
        let said = self.out.is_empty() && self.writing.is_none();
        let unborn = self.link.is_none() && !self.is_opening;
        unborn || listens && said && self.told.is_empty() && (self.pins.is_empty() || self.said_bye)
    }

    /// A request for a revision that is being mapped.
    pub(crate) fn requests(&self) -> impl Iterator<Item = u64> + '_ {
        self.pins.iter().filter_map(|pin| pin.request)
    }

    /// The server, or somebody else, signals it.
    pub(crate) fn signal(&mut self, signal: Signal) {
        let heeds = self.manner != Manner::Stubborn || signal == Signal::Kill;
        if heeds && self.life == Life::Runs {
            self.life = Life::Doomed;
        }
    }

    /// Whether control knows of a pin that it did not carry out.
    fn owes(&self) -> bool {
        self.pins.iter().any(|pin| {
            let view = self.views.get(&pin.file);
            let view = view.filter(|view| view.generation == pin.generation);
            view.is_some_and(|view| view.asked.is_none_or(|(_, at)| at.is_some()))
        })
    }

    /// Whether there is nothing of it that anybody could hear of.
    pub(crate) fn is_nothing(&self) -> bool {
        self.life == Life::Dead && self.link.is_none() && !self.is_opening
    }

    fn is_served(&self) -> bool {
        self.link.is_some() && !self.is_closed
    }

    fn answers(&self) -> bool {
        !(self.is_bad && matches!(self.manner, Manner::Silent | Manner::Stubborn))
    }

    fn listens(&self) -> bool {
        !(self.is_bad && self.manner == Manner::Stubborn)
    }
}

/// The thread that serves the link.
impl Client {
    /// Whether that thread, or the kernel for a process that ends, can do something.
    pub(crate) fn can_serve(&self) -> bool {
        match self.life {
            Life::Dead => !self.told.is_empty() || self.is_forked || self.closes(),
            Life::Doomed | Life::Exits => true,
            Life::Runs => {
                let writes = !self.out.is_empty() && self.writing.is_none() && self.is_served();
                let pins = self.pins() && !self.pins.is_empty();
                let leaves = (self.is_over || self.is_closing) && self.closes();
                !self.told.is_empty() || self.reads() || writes || pins || leaves
            }
        }
    }

    fn reads(&self) -> bool {
        let is_open = self.is_served() && !self.is_over && !self.is_closing;
        is_open && self.reading.is_none() && self.listens()
    }

    fn pins(&self) -> bool {
        self.answers() && !self.said_bye && !self.is_closing && self.is_served()
    }

    fn closes(&self) -> bool {
        self.is_served() && self.reading.is_none() && self.writing.is_none()
    }

    /// Does one thing.
    pub(crate) fn serve(&mut self, shared: &mut Shared) {
        if let Some(told) = self.told.pop_front() {
            return self.hear(shared, told);
        }
        match self.life {
            Life::Doomed => {
                self.life = Life::Exits;
                return self.interrupt(shared);
            }
            Life::Exits if self.closes() && shared.rng.one_in(2) => return self.close(shared),
            Life::Exits if shared.rng.one_in(2) => return self.life = Life::Dead,
            Life::Exits => return,
            Life::Dead if self.is_forked => {
                if shared.rng.one_in(50) {
                    self.is_forked = false;
                    self.interrupt(shared);
                }
                return;
            }
            Life::Dead => return self.close(shared),
            Life::Runs => {}
        }
        if self.reads() && shared.rng.one_in(2) {
            let (link, room) = (self.link.unwrap(), shared.rng.pick(&[256, 256, 256, 7]));
            let op = Op::LinkRead { link, room };
            self.reading = Some(shared.kernel.ask_link(op, Vec::new()));
        } else if !self.out.is_empty() && self.writing.is_none() && self.is_served() {
            self.write(shared);
        } else if !self.pins.is_empty() && self.pins() {
            self.pin(shared);
        } else if (self.is_over || self.is_closing) && self.closes() {
            self.close(shared);
        }
    }

    /// The read under way returns: a file is closed when nobody uses it.
    fn interrupt(&mut self, shared: &mut Shared) {
        let Some(unique) = self.reading else { return };
        if shared.kernel.take_back(unique) {
            self.tell(Told::Read(Err(Errno::Interrupted)));
        } else {
            shared.to_all.push(ToWorker::Interrupt(unique));
        }
    }

    fn write(&mut self, shared: &mut Shared) {
        let mut bytes = self.out.pop_front().expect("there is a line");
        let whole = shared.is(crate::mutant::Mutant::UnpinBlind);
        match shared.rng.below(8) {
            0 if bytes.len() > 3 && !whole => {
                let rest = bytes.split_off(3);
                self.out.push_front(rest);
            }
            1 => bytes.extend(self.out.drain(..).flatten()),
            _ => {}
        }
        let op = Op::LinkWrite {
            link: self.link.unwrap(),
        };
        self.writing = Some(shared.kernel.ask_link(op, bytes));
    }

    fn close(&mut self, shared: &mut Shared) {
        if let Some(link) = self.link.filter(|_| !self.is_closed) {
            self.is_closed = true;
            shared.kernel.ask_link(Op::LinkClose { link }, Vec::new());
        }
    }

    fn hear(&mut self, shared: &mut Shared, told: Told) {
        match told {
            Told::Opened(link) => {
                (self.link, self.is_opening) = (Some(link), false);
            }
            Told::Read(Err(_)) => self.reading = None,
            Told::Read(Ok(bytes)) if bytes.is_empty() => {
                (self.reading, self.is_over) = (None, true);
                if self.is_good() && !self.said_bye {
                    shared.fail(What::Killed, format!("the link of {} ends", self.id));
                }
            }
            Told::Read(Ok(bytes)) => {
                self.reading = None;
                self.line.extend(bytes);
                if self.line.ends_with(b"\n") {
                    let line = std::mem::take(&mut self.line);
                    let line = String::from_utf8(line).unwrap();
                    self.line(shared, line.trim_end());
                }
            }
            Told::Wrote => self.writing = None,
        }
    }

    fn line(&mut self, shared: &mut Shared, line: &str) {
        shared.say(|| format!("  client {} hears {line}", self.id));
        let (stream, text) = line.split_once(' ').unwrap();
        let stream: u64 = stream.parse().unwrap();
        if stream == 0 {
            if self.is_good() {
                shared.fail(What::Killed, format!("client {}: {line}", self.id));
            }
            return;
        }
        if stream % 2 == 1 {
            return self.answered(shared, stream, text);
        }
        let words: Vec<&str> = text.split(' ').collect();
        let [_, oid, blk, rev] = words[..] else {
            panic!("{line}")
        };
        let file = shared
            .data
            .file(Oid::parse(oid.as_bytes()).unwrap())
            .unwrap();
        let blk = blk.strip_prefix('#').unwrap().parse().unwrap();
        let rev = match rev {
            "@head" => Rev::Head,
            rev => Rev::At(Tid::parse(&rev.as_bytes()[1..]).unwrap()),
        };
        let view = self.views.get(&file);
        let generation = view.map_or(0, |view| view.generation);
        // A READ may have asked for it before the request under way was begun.
        let asked = view.and_then(|view| view.asked?.1);
        let ats: Vec<Tid> = view.and_then(|v| v.at).into_iter().chain(asked).collect();
        // What is watched no longer may have moved on.
        let lives = view.is_some_and(|v| v.asked.is_none_or(|(_, at)| at.is_some()));
        if lives {
            shared.check_pin((file, blk), rev, &ats);
        }
        shared.counts.pins += 1;
        shared.counts.unpins += u64::from(rev == Rev::Head);
        let (request, opened) = (None, !shared.rng.one_in(2));
        self.pins.push(Pin {
            stream,
            file,
            blk,
            rev,
            generation,
            request,
            opened,
        });
    }

    /// A watch request is answered.
    fn answered(&mut self, shared: &mut Shared, stream: u64, text: &str) {
        let is = |view: &&mut View| view.asked.is_some_and(|(of, _)| of == stream);
        let Some(view) = self.views.values_mut().find(is) else {
            return shared.fail(What::Lost, format!("{stream} {text}: nobody asked"));
        };
        let (_, asked) = view.asked.take().expect("just looked");
        match (text.starts_with("ok"), asked) {
            (true, None) => {
                shared.counts.unwatched += 1;
                view.at = None;
            }
            (true, Some(at)) => {
                shared.counts.watched += 1;
                if at > shared.shown || view.at.is_some_and(|before| at < before) {
                    let text = format!("{text}: watched as of {at}, after {:?}", view.at);
                    shared.fail(What::Order, text);
                }
                view.at = Some(at);
            }
            (false, _) => shared.counts.refusals += 1,
        }
        self.views
            .retain(|_, view| view.at.is_some() || view.asked.is_some());
    }

    /// Goes on with one of the pins.
    fn pin(&mut self, shared: &mut Shared) {
        let at = shared.rng.below(self.pins.len());
        let mut pin = self.pins[at];
        if let (Rev::At(_), false) = (pin.rev, pin.opened) {
            if let Some(unique) = pin.request {
                if shared.kernel.is_open(unique) {
                    return;
                }
                pin.request = None;
            }
            let of = (pin.rev, pin.file);
            match shared.kernel.names.get(&of).copied() {
                Some(node) => {
                    let seen = shared.shown;
                    pin.request = Some(shared.kernel.ask(of, node, Op::Open, seen));
                    pin.opened = true;
                }
                None if shared.kernel.is_busy(of.0, of.1) => {}
                None => {
                    let seen = shared.shown;
                    pin.request = Some(shared.kernel.ask(of, NodeId(0), Op::Lookup, seen));
                    // One that fails is not tried for ever.
                    pin.opened = shared.rng.one_in(2);
                }
            }
            self.pins[at] = pin;
            return;
        }
        if pin
            .request
            .is_some_and(|unique| shared.kernel.is_open(unique))
        {
            return;
        }
        self.pins.swap_remove(at);
        if self.is_bad && self.manner == Manner::Lying {
            return self
                .out
                .push_back(format!("{} nak\n", pin.stream).into_bytes());
        }
        if !self.views.contains_key(&pin.file) {
            let line = format!("{} nak: not watched\n", pin.stream);
            return self.out.push_back(line.into_bytes());
        }
        self.remap(shared, &pin);
        self.out
            .push_back(format!("{} ack\n", pin.stream).into_bytes());
    }

    fn remap(&mut self, shared: &mut Shared, pin: &Pin) {
        let view = self.views.get_mut(&pin.file);
        let Some(view) = view.filter(|view| view.generation == pin.generation) else {
            return;
        };
        let now = view.map.get(&pin.blk).copied();
        if now.map_or(Rev::Head, Rev::At) == pin.rev {
            let text = format!("client {}: {pin:?} is there already", self.id);
            shared.fail(What::Twice, text);
        }
        match pin.rev {
            Rev::Head => view.map.remove(&pin.blk),
            Rev::At(tid) => view.map.insert(pin.blk, tid),
        };
    }
}

/// The other thread.
impl Client {
    /// Does something, or turns.
    pub(crate) fn act(&mut self, shared: &mut Shared) {
        if self.life != Life::Runs || self.is_closed || self.is_closing {
            return;
        }
        if self.link.is_none() {
            if !self.is_opening {
                self.is_opening = true;
                let op = Op::LinkOpen { client: self.id };
                shared.kernel.ask_link(op, Vec::new());
                shared.counts.links += 1;
            }
            return;
        }
        if !self.is_bad && !self.gave_up && shared.rng.one_in(60) {
            return self.turn(shared);
        }
        let file = shared.rng.below(shared.data.files());
        let half = shared.halves.first().copied();
        let half = half.filter(|file| !self.views.contains_key(file));
        match (shared.rng.below(8), half) {
            (0..=3, Some(half)) if !self.gave_up && !self.is_over => {
                let behind = shared.rng.pick(&[1, 4, 16, 1000]);
                self.watch(shared, half, behind);
            }
            (0..=1, _) if !self.gave_up && !self.is_over => {
                let behind = shared.rng.pick(&[0, 0, 0, 1, 1, 2, 4]);
                self.watch(shared, file, behind);
            }
            _ => self.fault(shared, file),
        }
    }

    fn turn(&mut self, shared: &mut Shared) {
        self.is_bad = !matches!(self.manner, Manner::Good | Manner::Leaving);
        match self.manner {
            Manner::Good => return,
            Manner::Leaving => {
                (self.gave_up, self.said_bye) = (true, true);
                let stream = self.stream();
                self.out.push_back(format!("{stream} bye\n").into_bytes());
                shared.counts.byes += 1;
            }
            Manner::Dying => self.life = Life::Doomed,
            Manner::Forking => {
                (self.life, self.is_forked) = (Life::Dead, true);
                shared.counts.forks += 1;
            }
            Manner::Closing => {
                self.is_closing = true;
                self.gave_up = !self.owes();
                self.interrupt(shared);
            }
            Manner::Garbage => {
                let line: &[u8] = shared
                    .rng
                    .pick(&[b"zzz hello\n", b"8888 ack\n", b"hello\n"]);
                self.out.push_back(line.to_vec());
                self.gave_up = !self.owes();
            }
            Manner::Silent | Manner::Stubborn | Manner::Lying => {}
        }
        shared.counts.turned += 1;
    }

    /// The process is killed by somebody else.
    pub(crate) fn die(&mut self) {
        if self.life == Life::Runs {
            self.life = Life::Doomed;
        }
    }

    fn stream(&mut self) -> u64 {
        let stream = self.streams;
        self.streams += 2;
        stream
    }

    fn watch(&mut self, shared: &mut Shared, file: usize, behind: u64) {
        // Whose blocks are no pages cannot be mapped.
        let fits = shared
            .data
            .blksize(file)
            .is_multiple_of(crate::data::PAGE as u64);
        let node = shared.kernel.names.get(&(Rev::Head, file)).copied();
        let (Some(node), true) = (node, fits) else {
            return;
        };
        let oid = shared.data.oid(file);
        let stream = self.stream();
        let at = Tid(shared.shown.0.saturating_sub(behind).max(1));
        let ahead = Tid(shared.shown.0 + shared.rng.pick(&[0, 0, 0, 0, 1, 2]));
        let at = if behind == 0 { ahead } else { at };
        let (at, what) = match self.views.get(&file) {
            Some(view) if view.asked.is_some() => return,
            Some(_) if shared.rng.one_in(8) => (None, "-".to_owned()),
            Some(view) if view.at > Some(at) && !shared.rng.one_in(8) => return,
            _ => (Some(at), format!("@{at}")),
        };
        let size = if at.is_some() && shared.rng.one_in(4) {
            " +size"
        } else {
            ""
        };
        self.generations += 1;
        let generation = self.generations;
        let view = self.views.entry(file).or_insert_with(|| View {
            node,
            at: None,
            asked: None,
            map: BTreeMap::new(),
            generation,
        });
        view.asked = Some((stream, at));
        let line = format!("{stream} watch {oid} {what}{size}\n");
        self.out.push_back(line.into_bytes());
    }

    /// Reads a page through the mapping.
    fn fault(&mut self, shared: &mut Shared, file: usize) {
        let Some(view) = self.views.get(&file) else {
            return;
        };
        let Some(at) = self.promised(view) else {
            return;
        };
        let (page, seen) = (crate::data::PAGE, shared.shown);
        let end = shared.data.content(file, at).len() / page;
        if end == 0 || shared.kernel.reads.len() >= crate::world::READS_MAX {
            return;
        }
        let first = shared.rng.below(end);
        let blk = (first * page) as u64 / shared.data.blksize(file);
        let node = match view.map.get(&blk) {
            None => Some(view.node),
            Some(&rev) => shared.kernel.names.get(&(Rev::At(rev), file)).copied(),
        };
        let Some(node) = node else {
            return;
        };
        let inode = shared.kernel.inodes.get(&node).expect("it is mapped");
        // Behind the end it is SIGBUS, and no READ.
        let there = usize::try_from(inode.size).unwrap().div_ceil(page);
        if first < there {
            let want = shared.rng.pick(&[1, 2, 4]).min(there - first);
            shared.counts.faults += 1;
            shared.kernel.read(node, first, want, seen);
        }
    }
}
