//! The thread of a server: carries bytes between its streams and a [`Session`], and what comes of them to who waits for it.
//!
//! It waits in one place, poll(2), for the streams, for orders, and for the session's next deadline. Whatever happens in one turn
//! goes to each sink in one piece, so that a worker is woken once for many objects.

use super::dial::{self, Address, DialError};
use super::link::{Given, Ports, Waiter};
use super::loads::Key;
use super::store::Happened;
use super::tls::{TlsError, TlsFiles, Wire};
use super::{Broken, Fatal, Health, Why, Words};
use crate::base::{Oid, Tid};
use crate::kernel::proc;
use crate::kernel::socket;
use crate::store::Loaded;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Read at once.
const READ_BYTES: usize = 256 << 10;
/// Read from one stream in one turn, before what came is handed out and orders are looked at again.
const TURN_BYTES: usize = 1 << 20;

/// Names one connection of a session; never used twice.
pub(in crate::store) type Conn = u32;

/// What came of a turn, in order.
#[derive(Debug)]
pub(in crate::store) enum Event<W, T, G> {
    /// The first connection serves: head.
    Opened(Tid),
    /// One transaction.
    Commit(Tid, Vec<Oid>),
    /// What changed up to this transaction cannot be told.
    Reset(Tid, G),
    /// The server is there, and head up to date. So many transactions had been missed.
    Serving(usize),
    /// The server is there, and is ahead.
    CatchingUp,
    /// There is no server any more.
    Lost(T),
    /// The database went back in time; nothing works any more.
    Fatal(Fatal),
    /// A load.
    Done(Key, W, Result<Loaded, Why>),
}

/// What decides: pure, told by the driver what happens, with the time. After each it is asked for all events, and for what is to be
/// sent; streams of connections that it does not have any more are let go.
pub(in crate::store) trait Session {
    /// Why there is no server.
    type Trouble: Into<Words>;
    /// Why what was missed cannot be told.
    type Gap: Into<Words>;

    /// When to call [`Self::tick`], whatever else happens.
    fn timeout(&self) -> Option<Instant>;
    /// Time passes.
    fn tick(&mut self, now: Instant);
    /// A stream that is wanted now: the driver makes it, and says [`Self::dialed`] or [`Self::lost`].
    fn dial(&mut self, now: Instant) -> Option<(Conn, Address)>;
    /// The stream is there.
    fn dialed(&mut self, now: Instant, conn: Conn);
    /// Whether a connection is still wanted.
    fn has(&self, conn: Conn) -> bool;
    /// Whether the other side has taken us in.
    fn is_in(&self, conn: Conn) -> bool;
    /// Bytes came.
    fn received(&mut self, now: Instant, conn: Conn, bytes: &[u8]);
    /// Bytes to be sent; the driver takes from the front what it could.
    fn outgoing(&mut self, conn: Conn) -> &mut Vec<u8>;
    /// So many bytes of them left.
    fn sent(&mut self, now: Instant, conn: Conn, bytes: usize);
    /// A stream could not be made, or ended.
    fn lost(&mut self, now: Instant, conn: Conn, broken: Broken);
    /// Somebody wants an object as of a state that was given out. `generation` is how often the history had been lost then.
    fn load(&mut self, now: Instant, generation: u64, key: Key, waiter: Waiter);
    /// Nobody wants anything any more.
    fn end(&mut self, why: Why);
    /// What happened, in order.
    fn next_event(&mut self) -> Option<Event<Waiter, Self::Trouble, Self::Gap>>;
}

/// How a driver is set up.
#[derive(Debug)]
pub(in crate::store) struct Setup {
    /// Of its thread.
    pub(in crate::store) name: &'static str,
    /// How both sides show who they are.
    pub(in crate::store) tls: Option<TlsFiles>,
    /// Largest record.
    pub(in crate::store) max_record: usize,
}

/// A stream and what is known of it.
struct Pipe {
    wire: Wire,
    /// There may be more to read without waiting.
    has_more: bool,
}

type Dialed = (Conn, Result<Wire, DialError>);

struct Work<S> {
    setup: Setup,
    ports: Ports,
    session: S,
    pipes: BTreeMap<Conn, Pipe>,
    /// Streams that were asked for; each is made by a thread of its own.
    dialed: (Sender<Dialed>, Receiver<Dialed>),
    dialing: Vec<(Conn, Address)>,
    /// One that hangs in the resolver is not helped by another, so these wait.
    to_dial: Vec<(Conn, Address)>,
    /// What came in this turn, by whom it is for.
    came: Given,
    buf: Vec<u8>,
}

/// Starts the thread.
///
/// # Errors
/// The system has no room for one.
pub(in crate::store) fn start<S: Session + Send + 'static>(
    setup: Setup,
    ports: Ports,
    session: S,
) -> io::Result<()> {
    let name = setup.name;
    let mut work = Work {
        setup,
        ports,
        session,
        pipes: BTreeMap::new(),
        dialed: unbounded(),
        dialing: Vec::new(),
        to_dial: Vec::new(),
        came: Given::default(),
        buf: vec![0; READ_BYTES],
    };
    proc::spawn(name, move || while work.turn() {})?;
    Ok(())
}

/// A number that another client hardly has.
pub(in crate::store) fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| u64::from(since.subsec_nanos()));
    nanos ^ u64::from(std::process::id()).rotate_left(32)
}

impl<S: Session> Work<S> {
    /// Waits, and does what there is to be done; false to end.
    fn turn(&mut self) -> bool {
        if self.wait().is_err() {
            self.session.end(Why::Closed);
        }
        let goes_on = self.take_orders();
        let now = Instant::now();
        self.take_dialed(now);
        for conn in self.pipes.keys().copied().collect::<Vec<_>>() {
            self.read(conn);
        }
        self.session.tick(Instant::now());
        while let Some((conn, address)) = self.session.dial(now) {
            self.start_dialing(conn, address);
        }
        for conn in self.pipes.keys().copied().collect::<Vec<_>>() {
            self.write(conn);
        }
        self.settle();
        self.came.hand_out();
        goes_on
    }

    fn wait(&mut self) -> io::Result<()> {
        let timeout = self.session.timeout();
        let timeout = match self.pipes.values().any(|pipe| pipe.has_more) {
            true => Some(Duration::ZERO),
            false => timeout.map(|at| at.saturating_duration_since(Instant::now())),
        };
        let session = &mut self.session;
        let streams = self.pipes.iter().map(|(&conn, pipe)| {
            let has_out = !session.outgoing(conn).is_empty();
            (pipe.wire.as_fd(), has_out || pipe.wire.wants_write())
        });
        let streams: Vec<_> = streams.collect();
        socket::wait(&self.ports.waker, &streams, timeout)
    }

    fn take_orders(&mut self) -> bool {
        let now = Instant::now();
        let session = &mut self.session;
        let goes_on = self.ports.take_orders(|generation, key, waiter| {
            session.load(now, generation, key, waiter);
        });
        if !goes_on {
            self.session.end(Why::Closed);
            self.pipes.clear();
        }
        goes_on
    }

    fn start_dialing(&mut self, conn: Conn, address: Address) {
        if self.dialing.iter().any(|(_, known)| *known == address) {
            return self.to_dial.push((conn, address));
        }
        let (sender, waker) = (self.dialed.0.clone(), self.ports.waker.clone());
        let (tls, to) = (self.setup.tls.clone(), address.clone());
        let spawned = proc::spawn("zring-dial", move || {
            let _ = sender.send((conn, dial::dial(&to, tls.as_ref())));
            waker.wake();
        });
        match spawned {
            Ok(_) => self.dialing.push((conn, address)),
            Err(error) => {
                let broken = Broken::Stream(error);
                self.session.lost(Instant::now(), conn, broken);
            }
        }
    }

    fn take_dialed(&mut self, now: Instant) {
        while let Ok((conn, dialed)) = self.dialed.1.try_recv() {
            self.dialing.retain(|(known, _)| *known != conn);
            match dialed {
                _ if !self.session.has(conn) => {} // it took too long
                Ok(wire) => {
                    let has_more = false;
                    self.pipes.insert(conn, Pipe { wire, has_more });
                    self.session.dialed(now, conn);
                }
                Err(error) => self.session.lost(now, conn, Broken::Dial(error)),
            }
            for (conn, address) in std::mem::take(&mut self.to_dial) {
                if self.session.has(conn) {
                    self.start_dialing(conn, address);
                }
            }
        }
    }

    fn read(&mut self, conn: Conn) {
        let mut total = 0;
        while let Some(pipe) = self.pipes.get_mut(&conn) {
            pipe.has_more = total >= TURN_BYTES;
            if pipe.has_more {
                return;
            }
            let broken = match pipe.wire.read(&mut self.buf) {
                Ok(0) if matches!(pipe.wire, Wire::Tls(..)) && !self.session.is_in(conn) => {
                    Broken::Dial(TlsError::Rejected.into())
                }
                Ok(0) => Broken::Closed,
                Ok(n) => {
                    total += n;
                    // Less than asked for: nothing more is there.
                    let is_all = n < self.buf.len() && matches!(pipe.wire, Wire::Plain(_));
                    let came = &self.buf[..n];
                    self.session.received(Instant::now(), conn, came);
                    self.settle();
                    if is_all {
                        return;
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Broken::Stream(error),
            };
            self.session.lost(Instant::now(), conn, broken);
            self.settle();
        }
    }

    fn write(&mut self, conn: Conn) {
        while let Some(pipe) = self.pipes.get_mut(&conn) {
            let out = self.session.outgoing(conn);
            let written = match out.is_empty() {
                true if pipe.wire.wants_write() => pipe.wire.flush().map(|()| 0),
                true => return,
                false => pipe.wire.write(out),
            };
            match written {
                Ok(n) => {
                    out.drain(..n);
                    self.session.sent(Instant::now(), conn, n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.session
                        .lost(Instant::now(), conn, Broken::Stream(error));
                    self.settle();
                }
            }
        }
    }

    /// Takes what the session has to say, and lets go of streams that it does not want any more.
    fn settle(&mut self) {
        let status = &self.ports.status;
        while let Some(event) = self.session.next_event() {
            let happened = match event {
                Event::Done((oid, _), waiter, loaded) => {
                    let loaded = loaded.map_err(|why| why.error(self.setup.max_record));
                    self.came.give(oid, waiter, loaded);
                    continue;
                }
                Event::Lost(trouble) => {
                    status.set(Health::Frozen);
                    Happened::Lost(trouble.into())
                }
                Event::CatchingUp => {
                    status.set(Health::CatchingUp);
                    Happened::CatchingUp
                }
                Event::Serving(missed) => {
                    status.connected();
                    status.set(Health::Serving);
                    Happened::Serving(missed)
                }
                Event::Opened(tid) => Happened::Opened(tid),
                Event::Commit(tid, oids) => Happened::Commit(tid, oids.into()),
                Event::Reset(tid, gap) => Happened::Reset(tid, gap.into()),
                Event::Fatal(fatal) => {
                    status.set(Health::Frozen);
                    Happened::Fatal(fatal)
                }
            };
            self.ports.inbox.put(happened);
        }
        let session = &self.session;
        self.pipes.retain(|&conn, _| session.has(conn));
    }
}
