//! The thread of a server: carries bytes between its stream and [`Session`], and what comes of them to who waits for it.
//!
//! It waits in one place, poll(2), for the stream, for orders, and for the session's next deadline. Whatever happens in one turn
//! goes to each sink in one piece, so that a worker is woken once for many objects.

use super::dial::{self, DialError, Server};
use super::session::{Event, Opts, Session};
use super::tls::{TlsError, Wire};
use super::{Trouble, Why};
use crate::base::Rev;
use crate::kernel::proc::{self, Waker};
use crate::kernel::socket;
use crate::store::remote::link::{Given, Order, Ports, Wanted};
use crate::store::remote::store::Happened;
use crate::store::remote::{Came, Health, RemoteOpenError, RemoteStore, RemoteView, Sink};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Read at once.
const READ_BYTES: usize = 256 << 10;
/// Read in one turn, before what came is handed out and orders are looked at again.
const TURN_BYTES: usize = 1 << 20;

/// Who waits for an object.
struct Waiter {
    rev: Rev,
    sink: Arc<dyn Sink>,
}

/// Connects; blocks until the server serves, or the first attempt failed. `control` is woken whenever there is something to
/// be polled.
///
/// # Errors
/// The server is not to be had.
pub fn open(
    server: &Server,
    max_record: usize,
    control: Option<Waker>,
) -> Result<(RemoteStore, RemoteView), RemoteOpenError> {
    let address = server.address.to_string();
    RemoteStore::open(address, max_record, control, |ports| {
        start(server.clone(), max_record, ports)
    })
}

type Dialed = Result<Wire, DialError>;

struct Work {
    server: Server,
    ports: Ports,
    max_record: usize,
    session: Session<Waiter>,
    stream: Option<Wire>,
    /// There may be more to read without waiting.
    has_more: bool,
    /// Streams that were asked for; one thread at a time makes them.
    dialed: (Sender<Dialed>, Receiver<Dialed>),
    is_dialing: bool,
    /// What came in this turn, by whom it is for.
    came: Given,
    buf: Vec<u8>,
}

/// Starts the thread.
///
/// # Errors
/// The system has no room for one.
fn start(server: Server, max_record: usize, ports: Ports) -> io::Result<()> {
    let now = Instant::now();
    let opts = Opts {
        storage: server.storage.clone(),
        max_record,
        seed: seed(),
    };
    let mut work = Work {
        session: Session::new(opts, now),
        server,
        ports,
        max_record,
        stream: None,
        has_more: false,
        dialed: bounded(1),
        is_dialing: false,
        came: Given::default(),
        buf: vec![0; READ_BYTES],
    };
    proc::spawn("zring-zeo", move || while work.turn() {})?;
    Ok(())
}

/// A number that another client hardly has.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| u64::from(since.subsec_nanos()));
    nanos ^ u64::from(std::process::id()).rotate_left(32)
}

impl Work {
    /// Waits, and does what there is to be done; false to end.
    fn turn(&mut self) -> bool {
        let timeout = self.session.timeout();
        let timeout = match self.has_more {
            true => Some(Duration::ZERO),
            false => timeout.map(|at| at.saturating_duration_since(Instant::now())),
        };
        let has_out = !self.session.outgoing().is_empty();
        let stream = self.stream.as_ref();
        let stream = stream.map(|stream| (stream.as_fd(), has_out || stream.wants_write()));
        if socket::wait(&self.ports.waker, stream, timeout).is_err() {
            self.session.end(Why::Closed);
        }
        let goes_on = self.take_orders();
        let now = Instant::now();
        self.take_dialed(now);
        self.read();
        self.session.tick(Instant::now());
        if self.session.dial(now) {
            self.start_dialing();
        }
        self.write();
        self.tell();
        goes_on
    }

    fn take_orders(&mut self) -> bool {
        let now = Instant::now();
        while let Ok(order) = self.ports.orders.try_recv() {
            let Order::Load(wanted) = order else {
                self.session.end(Why::Closed);
                self.stream = None;
                // Orders that came meanwhile are answered; later ones are refused by the channel.
                while let Ok(order) = self.ports.orders.try_recv() {
                    if let Order::Load(wanted) = order {
                        self.want(now, wanted);
                    }
                }
                return false;
            };
            self.want(now, wanted);
        }
        true
    }

    fn want(&mut self, now: Instant, wanted: Wanted) {
        let Wanted {
            generation,
            rev,
            at,
            oids,
            sink,
        } = wanted;
        for oid in oids {
            let waiter = Waiter {
                rev,
                sink: Arc::clone(&sink),
            };
            self.session.load(now, generation, (oid, at), waiter);
        }
    }

    fn start_dialing(&mut self) {
        // One that hangs in the resolver is not helped by another.
        if self.is_dialing {
            return;
        }
        let (server, sender) = (self.server.clone(), self.dialed.0.clone());
        let waker = self.ports.waker.clone();
        let spawned = proc::spawn("zring-dial", move || {
            let _ = sender.send(dial::dial(&server));
            waker.wake();
        });
        match spawned {
            Ok(_) => self.is_dialing = true,
            Err(error) => self.session.lost(Instant::now(), Trouble::Stream(error)),
        }
    }

    fn take_dialed(&mut self, now: Instant) {
        let Ok(dialed) = self.dialed.1.try_recv() else {
            return;
        };
        self.is_dialing = false;
        if !self.session.is_dialing() {
            return; // it took too long
        }
        match dialed {
            Ok(stream) => {
                self.stream = Some(stream);
                self.session.dialed(now);
            }
            Err(error) => self.session.lost(now, Trouble::Dial(error)),
        }
    }

    fn read(&mut self) {
        let mut total = 0;
        self.has_more = false;
        while total < TURN_BYTES
            && let Some(stream) = &mut self.stream
        {
            let trouble = match stream.read(&mut self.buf) {
                Ok(0) if matches!(stream, Wire::Tls(..)) && !self.session.is_registered() => {
                    Trouble::Dial(TlsError::Rejected.into())
                }
                Ok(0) => Trouble::Closed,
                Ok(n) => {
                    total += n;
                    self.session.received(Instant::now(), &self.buf[..n]);
                    self.settle();
                    // Less than asked for: nothing more is there.
                    if n < self.buf.len() && matches!(self.stream, Some(Wire::Plain(_))) {
                        return;
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Trouble::Stream(error),
            };
            self.session.lost(Instant::now(), trouble);
            self.settle();
        }
        self.has_more = self.stream.is_some();
    }

    fn write(&mut self) {
        while let Some(stream) = &mut self.stream {
            let out = self.session.outgoing();
            let written = match out.is_empty() {
                true if stream.wants_write() => stream.flush().map(|()| 0),
                true => return,
                false => stream.write(out),
            };
            match written {
                Ok(n) => {
                    out.drain(..n);
                    self.session.sent(Instant::now(), n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.session.lost(Instant::now(), Trouble::Stream(error));
                    self.settle();
                }
            }
        }
    }

    /// Takes what the session has to say.
    fn settle(&mut self) {
        while let Some(event) = self.session.next_event() {
            let happened = match event {
                Event::Done((oid, _), Waiter { rev, sink }, loaded) => {
                    let loaded = loaded.map_err(|why| why.error(self.max_record));
                    self.came.give(sink, Came { rev, oid, loaded });
                    continue;
                }
                Event::Lost(trouble) => {
                    self.stream = None;
                    self.ports.status.set(Health::Frozen);
                    Happened::Lost(trouble.into())
                }
                Event::CatchingUp => {
                    self.ports.status.set(Health::CatchingUp);
                    Happened::CatchingUp
                }
                Event::Serving(missed) => {
                    self.ports.status.connected();
                    self.ports.status.set(Health::Serving);
                    Happened::Serving(missed)
                }
                Event::Opened(tid) => Happened::Opened(tid),
                Event::Commit(tid, oids) => Happened::Commit(tid, oids.into()),
                Event::Reset(tid, gap) => Happened::Reset(tid, gap.into()),
                Event::Fatal(fatal) => {
                    self.stream = None;
                    self.ports.status.set(Health::Frozen);
                    Happened::Fatal(fatal)
                }
            };
            self.ports.inbox.put(happened);
        }
    }

    /// Hands out what came in this turn.
    fn tell(&mut self) {
        self.settle();
        self.came.hand_out();
    }
}
