//! The scripted file system: parks, counts and changes what it answers, as told.
//!
//! `/data` is a file whose bytes tell their place and the generation they were made in; `/ctl` takes WRITEs and forgets
//! them; any other name that begins with `n` is an empty file, one that begins with `d` an empty directory. One
//! [`Actor`] per worker; what they share is the [`Script`], behind one lock, since nothing here has to be fast.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use zring::base::NodeId;
use zring::engine::start::Seat;
use zring::engine::worker::Service;
use zring::kernel::port::{Held, Port, ReadDone};
use zring::wire::fuse::abi::{self, Attr, AttrOut, EntryOut, fopen};
use zring::wire::fuse::notify::RetrieveId;
use zring::wire::fuse::reply;
use zring::wire::fuse::request::{Op, Request};

pub(crate) const DATA: NodeId = NodeId(2);
pub(crate) const CTL: NodeId = NodeId(3);
/// Nodes of other names: from here on, by name.
const NAMED: u64 = 100;
const PAGE: u64 = 4096;

/// The word at a byte offset of `/data`.
pub(crate) fn word(generation: u64, off: u64) -> u64 {
    (generation << 48) | (off / 8)
}

/// What the script answers, and what it saw.
#[derive(Debug)]
pub(crate) struct State {
    /// Kinds of requests to keep, with the bytes of `/data` they concern.
    parks: Vec<(String, u64, u64)>,
    /// Counted up to have everything parked answered.
    releases: u64,
    /// With this errno, if any.
    refusal: Option<i32>,
    /// Parked requests that were answered.
    answered: usize,
    pub(crate) parked: usize,
    /// Requests by channel and kind.
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// READs of `/data`: offset and size.
    reads: Vec<(u64, u32)>,
    /// Where each body buffer lay, for WRITEs.
    pub(crate) bodies: BTreeMap<usize, u64>,
    pub(crate) generation: u64,
    pub(crate) size: u64,
    pub(crate) mtime: u64,
    /// Flags of an OPEN reply.
    pub(crate) open: u32,
    /// Seconds for which names and attributes hold.
    pub(crate) valid: u64,
    /// For how long a READ keeps its worker.
    pub(crate) slow: Duration,
    /// Who waits for the answer to which RETRIEVE.
    retrieves: BTreeMap<u64, Sender<String>>,
    ports: BTreeMap<usize, String>,
    pub(crate) gone: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            parks: Vec::new(),
            releases: 0,
            refusal: None,
            answered: 0,
            parked: 0,
            counts: BTreeMap::new(),
            reads: Vec::new(),
            bodies: BTreeMap::new(),
            generation: 1,
            size: 64 << 20,
            mtime: 1_000_000,
            open: fopen::KEEP_CACHE | fopen::NOFLUSH,
            valid: 3600,
            slow: Duration::ZERO,
            retrieves: BTreeMap::new(),
            ports: BTreeMap::new(),
            gone: 0,
        }
    }
}

/// What the actors share.
#[derive(Debug, Default)]
pub(crate) struct Script {
    state: Mutex<State>,
    changed: Condvar,
    seats: Mutex<Vec<Seat>>,
}

impl Script {
    pub(crate) fn take_seats(&self, seats: &[Seat]) {
        *self.seats.lock().unwrap() = seats.to_vec();
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until `done`, for at most five seconds; whether it came.
    fn wait_until(&self, done: impl Fn(&State) -> bool) -> bool {
        let (_state, late) = self
            .changed
            .wait_timeout_while(self.state(), Duration::from_secs(5), |s| !done(s))
            .unwrap();
        !late.timed_out()
    }

    fn wake(&self) {
        for seat in self.seats.lock().unwrap().iter() {
            seat.waker.wake();
        }
    }

    pub(crate) fn park(&self, kind: &str, off: u64, len: u64) {
        self.state().parks.push((kind.to_owned(), off, len));
    }

    /// Lets everything go; how many requests that were, or that some did not.
    pub(crate) fn release(&self) -> String {
        let n = {
            let mut state = self.state();
            state.parks.clear();
            state.refusal = None;
            state.releases += 1;
            state.parked
        };
        self.wake();
        match self.wait_until(|s| s.parked == 0) {
            true => n.to_string(),
            false => format!("{} stay", self.state().parked),
        }
    }

    /// Answers what is parked, maybe with an errno, and goes on parking; how many requests that were.
    pub(crate) fn answer(&self, refusal: Option<i32>) -> String {
        let (n, answered) = {
            let mut state = self.state();
            state.refusal = refusal;
            state.releases += 1;
            (state.parked, state.answered + state.parked)
        };
        self.wake();
        match self.wait_until(|s| s.answered >= answered) {
            true => n.to_string(),
            false => format!("{} stay", self.state().parked),
        }
    }

    /// `channel:KIND=n` of all requests since the last `reset`.
    pub(crate) fn counts(&self) -> String {
        let mut out = String::new();
        for ((channel, kind), n) in &self.state().counts {
            let _ = write!(out, "{channel}:{kind}={n} ");
        }
        out.trim_end().to_owned()
    }

    pub(crate) fn reads(&self) -> String {
        let all = self.state().reads.clone();
        let all: Vec<_> = all.iter().map(|(o, s)| format!("{o}+{s}")).collect();
        all.join(" ")
    }

    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.counts.clear();
        state.reads.clear();
        state.bodies.clear();
    }

    /// What each worker's port says of itself, as of now.
    pub(crate) fn ports(&self) -> String {
        self.state().ports.clear();
        self.wake();
        let seats = self.seats.lock().unwrap().len();
        self.wait_until(|s| s.ports.len() == seats);
        let all: Vec<_> = self.state().ports.values().cloned().collect();
        all.join(" | ")
    }

    /// Will be told what the RETRIEVE brought.
    pub(crate) fn expect_retrieve(&self, id: RetrieveId) -> std::sync::mpsc::Receiver<String> {
        let (tell, told) = channel();
        self.state().retrieves.insert(id.unique(), tell);
        told
    }

    /// Waits until the connection has ended for every worker.
    pub(crate) fn wait_gone(&self) -> bool {
        let seats = self.seats.lock().unwrap().len();
        self.wait_until(|s| s.gone == seats)
    }
}

/// A request, taken out of its buffer.
#[derive(Debug)]
struct Ask {
    kind: &'static str,
    node: NodeId,
    off: u64,
    size: u32,
    name: Vec<u8>,
    flags: u32,
}

impl Ask {
    fn of(request: &Request<'_>) -> Self {
        let mut ask = Self {
            kind: kind(&request.op),
            node: request.node,
            off: 0,
            size: 0,
            name: Vec::new(),
            flags: 0,
        };
        match request.op {
            Op::Read { off, size, .. } | Op::Readdir { off, size } => {
                (ask.off, ask.size) = (off, size);
            }
            Op::Write { off, data, .. } | Op::NotifyReply { off, data } => {
                (ask.off, ask.size) = (off, u32::try_from(data.len()).unwrap());
                ask.name = data.to_vec();
            }
            Op::Lookup { name } => ask.name = name.to_vec(),
            Op::Open { flags, .. } => ask.flags = flags,
            _ => {}
        }
        ask
    }
}

fn kind(op: &Op<'_>) -> &'static str {
    match op {
        Op::Lookup { .. } => "LOOKUP",
        Op::Forget { .. } => "FORGET",
        Op::BatchForget { .. } => "BATCH_FORGET",
        Op::Getattr => "GETATTR",
        Op::Open { dir: false, .. } => "OPEN",
        Op::Open { .. } => "OPENDIR",
        Op::Release { dir: false, .. } => "RELEASE",
        Op::Release { .. } => "RELEASEDIR",
        Op::Read { .. } => "READ",
        Op::Readdir { .. } => "READDIR",
        Op::Write { .. } => "WRITE",
        Op::Statfs => "STATFS",
        Op::Interrupt { .. } => "INTERRUPT",
        Op::NotifyReply { .. } => "NOTIFY_REPLY",
        Op::Init { .. } => "INIT",
        Op::Destroy => "DESTROY",
        Op::Other { .. } => "OTHER",
    }
}

/// One worker's part.
#[derive(Debug)]
pub(crate) struct Actor {
    index: usize,
    script: std::sync::Arc<Script>,
    parked: Vec<(Held, Ask)>,
    releases: u64,
}

impl Actor {
    pub(crate) fn new(index: usize, script: std::sync::Arc<Script>) -> Self {
        Self {
            index,
            script,
            parked: Vec::new(),
            releases: 0,
        }
    }
}

impl State {
    fn parks(&self, ask: &Ask) -> bool {
        let overlaps = |off: u64, len: u64| {
            ask.off < off.saturating_add(len) && ask.off + u64::from(ask.size) > off
        };
        self.parks.iter().any(|(kind, off, len)| {
            kind == "ALL"
                || kind == ask.kind
                    && match ask.kind {
                        "READ" => ask.node == DATA && overlaps(*off, *len),
                        "LOOKUP" => ask.name.starts_with(b"nslow"),
                        _ => ask.node == DATA,
                    }
        })
    }

    fn attr(&self, node: NodeId) -> Attr {
        let (mode, size, nlink) = match node {
            NodeId::ROOT => (libc::S_IFDIR | 0o755, 0, 2),
            DATA => (libc::S_IFREG | 0o444, self.size, 1),
            _ => (libc::S_IFREG | 0o644, 0, 1),
        };
        Attr {
            ino: node.0,
            mode,
            size,
            nlink,
            mtime: self.mtime,
            blksize: 2 << 20,
            ..Attr::default()
        }
    }

    fn answer(&mut self, port: &mut Port, held: &Held, ask: &Ask) -> Result<usize, i32> {
        let body = port.body(held);
        match ask.kind {
            "LOOKUP" => {
                let node = match ask.name.as_slice() {
                    b"data" => DATA,
                    b"ctl" => CTL,
                    [b'n', rest @ ..] => NodeId(NAMED + named(rest)),
                    _ => return Err(libc::ENOENT),
                };
                let entry = EntryOut {
                    nodeid: node.0,
                    entry_valid: self.valid,
                    attr_valid: self.valid,
                    attr: self.attr(node),
                    ..EntryOut::default()
                };
                Ok(put(body, abi::bytes(&entry)))
            }
            "GETATTR" => {
                let out = AttrOut {
                    attr_valid: self.valid,
                    attr: self.attr(ask.node),
                    ..AttrOut::default()
                };
                Ok(put(body, abi::bytes(&out)))
            }
            "OPEN" if ask.node == CTL => {
                Ok(reply::open(body, 0, fopen::DIRECT_IO | fopen::NOFLUSH))
            }
            "OPEN" => Ok(reply::open(body, 0, self.open)),
            "OPENDIR" => Ok(reply::open(body, 0, 0)),
            "RELEASE" | "RELEASEDIR" | "READDIR" => Ok(0),
            "STATFS" => Ok(reply::statfs(body)),
            "READ" if ask.node == DATA => Ok(self.fill(body, ask.off, ask.size)),
            "READ" => Ok(0),
            "WRITE" => {
                let out = [ask.size.to_ne_bytes(), [0; 4]].concat();
                Ok(put(body, &out))
            }
            _ => Err(libc::ENOSYS),
        }
    }

    fn fill(&self, body: &mut [u8], off: u64, size: u32) -> usize {
        let end = self.size.min(off + u64::from(size)).max(off);
        let len = usize::try_from(end - off).unwrap();
        fill(&mut body[..len], self.generation, off);
        len
    }
}

/// Number of a name, the same for the same name.
fn named(name: &[u8]) -> u64 {
    name.iter().fold(0, |n, &c| n * 131 + u64::from(c)) % (1 << 40)
}

fn put(body: &mut [u8], bytes: &[u8]) -> usize {
    body[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// The bytes of `/data` at a multiple of 8.
pub(crate) fn fill(out: &mut [u8], generation: u64, off: u64) {
    for (chunk, at) in out.chunks_mut(8).zip((off..).step_by(8)) {
        chunk.copy_from_slice(&word(generation, at).to_le_bytes()[..chunk.len()]);
    }
}

/// Generations of the pages of `bytes`, run-length coded as `gen x pages`; a page that does not hold together is `bad`.
pub(crate) fn generations(bytes: &[u8], off: u64) -> String {
    let mut runs: Vec<(String, usize)> = Vec::new();
    for (i, page) in bytes.chunks(usize::try_from(PAGE).unwrap()).enumerate() {
        let at = off + PAGE * u64::try_from(i).unwrap();
        let mut first = [0; 8];
        first[..8.min(page.len())].copy_from_slice(&page[..8.min(page.len())]);
        let generation = u64::from_le_bytes(first) >> 48;
        let mut wanted = vec![0; page.len()];
        fill(&mut wanted, generation, at);
        let what = match wanted == page {
            true => generation.to_string(),
            false => "bad".to_owned(),
        };
        match runs.last_mut() {
            Some((last, n)) if *last == what => *n += 1,
            _ => runs.push((what, 1)),
        }
    }
    let all: Vec<_> = runs.iter().map(|(g, n)| format!("{g}x{n}")).collect();
    all.join(" ")
}

impl Service for Actor {
    fn request(&mut self, port: &mut Port, held: Held) {
        let Ok(request) = port.request(&held) else {
            return port.reply(held, Err(libc::EIO));
        };
        let ask = Ask::of(&request);
        let unique = request.unique.0;
        // An entry of a ring, or a message of /dev/fuse.
        let channel = match format!("{held:?}").contains("Entry") {
            true => "ring",
            false => "dev",
        };
        let script = std::sync::Arc::clone(&self.script);
        let mut state = script.state();
        *state.counts.entry((channel, ask.kind)).or_default() += 1;
        match ask.kind {
            "FORGET" | "BATCH_FORGET" | "INTERRUPT" => {
                script.changed.notify_all();
                return port.discard(held);
            }
            "NOTIFY_REPLY" => {
                let text = format!(
                    "{channel} {}+{} {}",
                    ask.off,
                    ask.size,
                    generations(&ask.name, ask.off)
                );
                if let Some(who) = state.retrieves.remove(&unique) {
                    let _ = who.send(text);
                }
                return match channel {
                    "ring" => port.reply(held, Ok(0)),
                    _ => port.discard(held),
                };
            }
            "READ" if ask.node == DATA => {
                state.reads.push((ask.off, ask.size));
                let slow = state.slow;
                drop(state);
                std::thread::sleep(slow);
                state = script.state();
            }
            "WRITE" => {
                let at = port.body(&held).as_ptr() as usize;
                *state.bodies.entry(at).or_default() += 1;
            }
            _ => {}
        }
        if state.parks(&ask) {
            state.parked += 1;
            script.changed.notify_all();
            self.parked.push((held, ask));
            return;
        }
        let outcome = state.answer(port, &held, &ask);
        port.reply(held, outcome);
    }

    fn read_done(&mut self, _: &mut Port, _: ReadDone) {}

    fn woken(&mut self, port: &mut Port) {
        let script = std::sync::Arc::clone(&self.script);
        let mut state = script.state();
        state.ports.insert(self.index, format!("{port:?}"));
        if self.releases != state.releases {
            self.releases = state.releases;
            for (held, ask) in self.parked.drain(..) {
                state.parked -= 1;
                state.answered += 1;
                let outcome = match state.refusal {
                    Some(errno) => Err(errno),
                    None => state.answer(port, &held, &ask),
                };
                port.reply(held, outcome);
            }
        }
        script.changed.notify_all();
    }

    fn before_wait(&mut self, _: &mut Port) -> Option<Duration> {
        None
    }

    fn gone(&mut self, port: &mut Port) {
        let mut state = self.script.state();
        for (held, _) in self.parked.drain(..) {
            state.parked -= 1;
            port.discard(held);
        }
        state.gone += 1;
        self.script.changed.notify_all();
    }
}

/// A duration as text.
pub(crate) fn ms(since: Instant) -> String {
    format!("{}ms", since.elapsed().as_millis())
}
